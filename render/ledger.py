"""What became of every object: an append-only file of JSON lines, one row per attempt.

`OUT/ledger.jsonl`, or `OUT/ledger-<i>-of-<n>.jsonl` for part i of a job array: no two processes write one
file. An object's state is its last row; where several files know it, that of the later `at`. Readers
stream, so a million rows cost seconds, and memory for one small state per object.
"""

import json
import platform
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from sys import intern
from typing import Any, Literal, NamedTuple

from svd3d import runs
from svd3d.errors import InputError

Status = Literal["done", "failed", "requeued", "retry"]
State = Literal["done", "failed", "open"]
MAX_CELL = 120
NUMBERS = (1, 2)
"""Columns of a table that are aligned to the right."""


@dataclass(frozen=True)
class Row:
    """One attempt at one object, or its reopening."""

    uid: str
    status: Status
    """done; failed: left out for good; requeued: to be tried again; retry: reopened by the user."""
    kind: str
    """done, the class of the refusal (no_mesh, degenerate, …), or crash, timeout, memory, protocol."""
    message: str = ""
    """Why it failed, or what is noteworthy."""
    stage: str = ""
    """What Blender was asked when the attempt ended."""
    signal: str | None = None
    """What killed Blender, such as SIGSEGV."""
    attempt: int = 1
    """From 1, since the last reopening."""
    source: str = ""
    """The file, as the user would say it."""
    licence: str | None = None
    faces: int | None = None
    """Triangles."""
    quality: dict[str, Any] | None = None
    """Scores of the pictures."""
    seconds: float = 0.0
    """Wall clock."""
    cpu_s: float | None = None
    device: str | None = None
    """What Blender really computed on."""
    host: str = ""
    at: str = ""
    """UTC, ISO 8601; the end of the attempt."""
    log: tuple[str, ...] = ()
    """Blender's last lines."""

    @property
    def final(self) -> bool:
        """Whether no run will try the object again by itself."""
        return self.status in ("done", "failed")


class Known(NamedTuple):
    """The gist of an object's last row, which a run needs before it starts; small, a million are held."""

    status: str
    kind: str
    attempts: int
    """Since the last reopening."""
    at: str
    message: str
    """Empty for finished objects."""
    file: str
    """Name of the ledger that holds the last row."""

    @property
    def state(self) -> State:
        """done, failed (final), or open: a run will try it."""
        return self.status if self.status in ("done", "failed") else "open"  # type: ignore[return-value]


class Book(dict[str, Known]):
    """The last word on every object, by uid."""

    def settled(self, uid: str) -> State:
        """done, failed (final), or open: a run will try it; also of objects that nobody has tried."""
        return self[uid].state if uid in self else "open"

    def attempts(self, uid: str) -> int:
        """How often the object was tried since it was last reopened."""
        return self[uid].attempts if uid in self else 0


@dataclass(frozen=True)
class Line:
    """One line of a table: how many objects share a state or a class of failure."""

    name: str
    objects: int
    share: float
    """Of all objects in the ledger, 0 to 1."""
    example: str = ""
    """The uid of one of them."""
    message: str = ""


def name(shard: tuple[int, int] = (0, 1)) -> str:
    """Name of the ledger of part i of n."""
    part, parts = shard
    return "ledger.jsonl" if parts == 1 else f"ledger-{part}-of-{parts}.jsonl"


def append(out: Path, row: Row, *, shard: tuple[int, int] = (0, 1)) -> None:
    """Add one row, flushed to disk; `host` and `at` are filled in. Raises `OutputError` on a full disk."""
    _append(out / name(shard), row)


def read(out: Path) -> Book:
    """The state of all objects of a folder; empty where nothing was rendered yet.

    Raises `InputError` for a missing folder and for a broken line that is not the last of its file.
    """
    book, names = Book(), {}
    for file, number, row in _rows(out):
        uid, status, at = row.get("uid"), row.get("status"), str(row.get("at", ""))
        if not (isinstance(uid, str) and isinstance(status, str)):
            raise InputError(f"{file}: line {number} is not a row of a ledger; remove the line")
        known = book.get(uid)
        if known is not None and known.file != file.name and known.at > at:
            continue
        book[uid] = Known(
            status=intern(status),
            kind=intern(str(row.get("kind", ""))),
            attempts=0 if status == "retry" else row.get("attempt") or row.get("attempts") or 1,
            at=at,
            message="" if status == "done" else str(row.get("message", "")),
            file=names.setdefault(file.name, file.name),
        )
    return book


def why(out: Path, uid: str, *, stage: str = "render") -> list[Row]:
    """All rows of one object, oldest first. Raises `InputError` for a uid that no ledger knows.

    `stage` is the command that writes the folder; here and below messages name it.
    """
    found = _rows(out, holding=json.dumps(uid).encode())
    rows = [_row(row) for _, _, row in found if row.get("uid") == uid]
    if not rows:
        raise InputError(f"{out}: its ledger knows nothing of {uid!r}; see: svd3d {stage} status {out}")
    return sorted(rows, key=lambda row: row.at)


def status(out: Path, *, stage: str = "render") -> list[Line]:
    """How many objects are done, failed or open, of those that were tried. Raises `InputError` if none."""
    book = _written(out, stage=stage)
    kinds = ", ".join(f"{line.name} {line.objects}" for line in _failures(book))
    counts = defaultdict(int)
    for known in book.values():
        counts[known.state] += 1
    told = {"failed": kinds, "open": f"the next svd3d {stage} tries them"}
    return [
        Line(
            state, counts[state], counts[state] / len(book), message=told.get(state, "") * (counts[state] > 0)
        )
        for state in ("done", "failed", "open")
    ]


def failures(out: Path, *, stage: str = "render") -> list[Line]:
    """Failed objects by class, most frequent first, with one example each."""
    return _failures(_written(out, stage=stage))


def retry(
    out: Path, *, uids: Iterable[str] = (), kinds: Iterable[str] = (), stage: str = "render"
) -> list[str]:
    """Reopen failed objects for the next run, with all attempts again; returns their uids.

    Without `uids` and `kinds` all that failed. May be called while a run goes on, which has no more
    business with them. Raises `InputError` for a uid that has not failed and for a class that nothing
    failed by.
    """
    book = read(out)
    failed = {uid: known for uid, known in book.items() if known.state == "failed"}
    asked, classes = list(dict.fromkeys(uids)), set(kinds)
    for uid in asked:
        if uid not in failed:
            state = f"is {book[uid].state}, not failed" if uid in book else "is unknown"
            raise InputError(f"{out}: {uid!r} {state}; see: svd3d {stage} failures {out}")
    if absent := classes - {known.kind for known in failed.values()}:
        raise InputError(
            f"{out}: nothing failed by {', '.join(sorted(absent))}; see: svd3d {stage} failures {out}"
        )
    chosen = [uid for uid in asked or failed if not classes or failed[uid].kind in classes]
    for uid in chosen:
        _append(out / failed[uid].file, Row(uid, "retry", "retry", f"after {failed[uid].kind}", attempt=0))
    return chosen


def as_text(lines: Iterable[Line]) -> str:
    """A table for a terminal."""
    table = _cells(lines)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


def as_markdown(lines: Iterable[Line]) -> str:
    """A Markdown table."""
    head, *rows = [[cell.replace("|", "\\|") for cell in row] for row in _cells(lines)]
    rule = ["---:" if column in NUMBERS else "---" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def as_story(rows: Iterable[Row]) -> str:
    """What happened to one object, attempt by attempt, with the last words of Blender."""
    paragraphs = []
    for row in rows:
        where = f" at {row.stage}" if row.stage else ""
        facts = [f"attempt {row.attempt}{where}", f"{row.seconds:.1f} s", row.device, row.host]
        head = f"{row.at}  {row.status} ({row.kind})  {', '.join(fact for fact in facts if fact)}"
        paragraphs += [
            head,
            *([f"  {row.message}"] if row.message else []),
            *(f"  | {said}" for said in row.log),
        ]
    return "\n".join(map(_printable, paragraphs))


def _append(file: Path, row: Row) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    whole = replace(row, host=platform.node(), at=now, seconds=round(row.seconds, 3))
    runs.append_line(file, {**asdict(whole), "final": row.final})


def _rows(out: Path, *, holding: bytes = b"") -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """Rows of all ledgers with their file and line; of lines without `holding` nothing is parsed.

    A torn last line (power cut, or just being written) counts as absent.
    """
    for file in sorted(runs.input_path(out, what="folder of rendered objects").glob("ledger*.jsonl")):
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if holding not in line or not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if isinstance(row, dict):
                    yield file, number, row
                elif line.endswith(b"\n"):
                    raise InputError(
                        f"{file}: line {number} is not a record ({line[:60]!r}); remove the line"
                    )


def _row(record: dict[str, Any]) -> Row:
    """A row as it was written; also one of the first format, which knew fewer facts."""
    known = {field.name: record[field.name] for field in fields(Row) if field.name in record}
    return Row(**{"kind": "", **known, "log": tuple(record.get("log", ()))})


def _written(out: Path, *, stage: str) -> Book:
    book = read(out)
    if not book:
        raise InputError(f"{out}: has no ledger with a row; is it a folder that svd3d {stage} has written?")
    return book


def _failures(book: Book) -> list[Line]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for uid, known in book.items():
        if known.state == "failed":
            groups[known.kind].append(uid)
    return [
        Line(kind, len(uids), len(uids) / len(book), uids[0], book[uids[0]].message)
        for kind, uids in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    ]


def _cells(lines: Iterable[Line]) -> list[list[str]]:
    """Head and rows as short printable texts; messages quote foreign files, so they may hold anything."""
    rows = [[line.name, str(line.objects), f"{line.share:.1%}", line.example, line.message] for line in lines]
    table = [[_printable(cell)[:MAX_CELL] for cell in row] for row in rows]
    return [["class", "objects", "share", "example", "message"], *table]


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
