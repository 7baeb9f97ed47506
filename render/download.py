"""The download stage: objects of public collections, into a folder with a list that `svd3d render` takes.

Every object that ends, well or not, is one line of `downloads.jsonl`, flushed at once. From it follow
`objects.jsonl` (what is there) and `missing.jsonl` (what is not, and why), written when the command ends,
also by Ctrl-C; after a kill the next call writes them.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any, Literal, TypeVar

from render.config import GsoConfig, ObjaverseConfig
from render.remote import Remote, Selection
from svd3d import runs
from svd3d.errors import InputError, ObjectError, require

require("requests", extra="render", reason="downloading objects")

from render import fetch, gso, licences, objaverse, objaverse_xl, objects  # noqa: E402

T = TypeVar("T")
R = TypeVar("R")
LEDGER, LIST, MISSING = "downloads.jsonl", "objects.jsonl", "missing.jsonl"
NAMED = 10
"""Missing objects that a summary names."""


@dataclass(frozen=True)
class Downloaded:
    """What became of one object."""

    uid: str
    path: Path | None
    """Its 3-D file, unless it failed."""
    status: Literal["done", "skipped", "failed"]
    message: str
    """Why it failed, or why nothing was done; empty if it was fetched."""
    seconds: float


class Download:
    """One command: which objects it is about is known from the start, `run` fetches them."""

    def __init__(self, config: ObjaverseConfig | GsoConfig) -> None:
        """Find out which objects the settings ask for, from lists that are fetched where they are lacking.

        Raises `OutputError` for a folder that cannot be written, `InputError` when nothing fits, and what
        `select` of the source raises.
        """
        self.config = config
        self.source = _source(config)
        runs.output_folder(config.out)
        with _client(config) as client:
            self.selection: Selection = self.source.select(config, client)
        self.lines: dict[str, dict[str, Any]] = {}
        """The objects that are there: uid to line of `objects.jsonl`."""
        self.missing: dict[str, dict[str, Any]] = {}
        """Those that are not: uid to line of `missing.jsonl`."""
        for remote in self.selection.remotes:
            self._miss(remote.uid, "not_tried", "the command ended before its turn")
        for uid, reason in self.selection.missing.items():
            self._miss(uid, "not_found", reason)
        if not self.missing:
            raise InputError(f"{config.out}: no object fits; ask for other licences, categories or uids")

    @property
    def total(self) -> int:
        """How many objects `run` reports, and the M of "N of M"."""
        return len(self.selection.remotes) + len(self.selection.missing)

    def run(self) -> Iterator[Downloaded]:
        """Fetch what is not there yet; yields one result per object, first those that need nothing.

        Failures are results, and the next call tries them again; `OutputError` (disk full, folder in use)
        ends the run.
        """
        out, start = self.config.out, monotonic()
        with runs.lock(out), _client(self.config) as client:
            try:
                for uid, reason in self.selection.missing.items():
                    yield Downloaded(uid, None, "failed", reason, 0.0)
                done = {row["uid"]: row for row in runs.read_lines(out / LEDGER) if row["status"] == "done"}
                todo = []
                for remote in self.selection.remotes:
                    line = done.get(remote.uid, {}).get("object")
                    if line and _is_there(out / line["path"], line["bytes"]):
                        self._have(line)
                        yield Downloaded(remote.uid, out / line["path"], "skipped", "already there", 0.0)
                    else:
                        todo.append(remote)
                rows = _concurrently(
                    lambda remote: self._fetch(remote, client),
                    todo,
                    workers=self.config.workers,
                    stop=client.close,
                )
                for row in rows:
                    result = self._result(row)  # first, or an interruption could leave it out of the list
                    runs.append_line(out / LEDGER, row)
                    yield result
            finally:
                self._write_lists(seconds=monotonic() - start)

    def summary(self) -> str:
        """One line for the user: N of M, and which are missing."""
        text = f"{len(self.lines)} of {self.total} objects are in {self.config.out / LIST}"
        if not self.missing:
            return text
        names = ", ".join([*islice(self.missing, NAMED), *(["…"] if len(self.missing) > NAMED else [])])
        kinds = Counter(line["kind"] for line in self.missing.values())
        why = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        these = "this one is" if len(self.missing) == 1 else f"these {len(self.missing)} are"
        return f"{text}; {these} missing: {names} ({why}; see {MISSING})"

    def _fetch(self, remote: Remote, client: fetch.Client) -> dict[str, Any]:
        """One object; returns its row of the ledger. Runs in a thread."""
        start = monotonic()
        row: dict[str, Any] = {"uid": remote.uid, "source": self.source.SOURCE}
        try:
            path = self.source.obtain(remote, client, out=self.config.out, max_bytes=self.config.max_mb * 1e6)
            row |= {"status": "done", "object": self._line(remote, path)}
        except ObjectError as error:
            row |= {"status": "failed", "kind": error.kind, "message": str(error)}
        return {**row, "seconds": round(monotonic() - start, 3)}

    def _line(self, remote: Remote, path: Path) -> dict[str, Any]:
        out = self.config.out
        return {
            "uid": remote.uid,
            "path": path.relative_to(out).as_posix() if path.is_relative_to(out) else str(path.absolute()),
            "sha256": objects.digest(path) if path.suffix == ".obj" else runs.sha256(path),
            "bytes": path.stat().st_size,
            "licence": licences.normalise(remote.licence) or remote.licence,
            "licence_name": remote.licence,
            "source": self.source.SOURCE,
            **{key: value for key, value in remote.about.items() if value is not None},
        }

    def _result(self, row: dict[str, Any]) -> Downloaded:
        uid, seconds = row["uid"], row["seconds"]
        if row["status"] == "failed":
            self._miss(uid, row["kind"], row["message"])
            return Downloaded(uid, None, "failed", row["message"], seconds)
        self._have(row["object"])
        return Downloaded(uid, self.config.out / row["object"]["path"], "done", "", seconds)

    def _have(self, line: dict[str, Any]) -> None:
        self.lines[line["uid"]] = line
        self.missing.pop(line["uid"], None)

    def _miss(self, uid: str, kind: str, reason: str) -> None:
        self.missing[uid] = {"uid": uid, "kind": kind, "reason": reason}

    def _write_lists(self, *, seconds: float) -> None:
        out = self.config.out
        found = [self.lines[r.uid] for r in self.selection.remotes if r.uid in self.lines]
        for name, lines in ((LIST, found), (MISSING, self.missing.values())):
            runs.write_file(out / name, "".join(f"{json.dumps(line)}\n" for line in lines))
        runs.write_manifest(
            out,
            stage="download",
            config=self.config,
            inputs={} if self.config.uids is None else {"uids": self.config.uids},
            licences=[line["licence"] for line in found if line["licence"]],
            seconds={"download": seconds},
        )


def _source(config: ObjaverseConfig | GsoConfig) -> ModuleType:
    """The module that knows this collection: SOURCE, `select` and `obtain`."""
    if isinstance(config, GsoConfig):
        return gso
    return objaverse_xl if config.xl else objaverse


def _client(config: ObjaverseConfig | GsoConfig) -> fetch.Client:
    return fetch.Client(workers=config.workers, timeout_s=config.timeout_s)


def _is_there(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _concurrently(
    work: Callable[[T], R], items: Iterable[T], *, workers: int, stop: Callable[[], None]
) -> Iterator[R]:
    """Results in the order in which they end. Few items are in flight, however many there are.

    When the caller leaves, `stop` must make running work end.
    """
    queue = iter(items)
    pool = ThreadPoolExecutor(workers)
    running: set[Future[R]] = {pool.submit(work, item) for item in islice(queue, 2 * workers)}
    try:
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(work, item) for item in islice(queue, len(ended))}
            yield from [future.result() for future in ended]
    finally:
        stop()
        pool.shutdown(cancel_futures=True)
