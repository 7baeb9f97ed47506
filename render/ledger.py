"""What became of every object: `OUT/ledger.jsonl`, append-only, one row per finished or failed object."""

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from svd3d import runs
from svd3d.errors import InputError

NAME = "ledger.jsonl"


def append(
    out: Path,
    *,
    uid: str,
    status: str,
    kind: str,
    message: str,
    source: str,
    attempts: int,
    seconds: float,
    log: Iterable[str] = (),
) -> None:
    """Add one row. `status` is done or failed; `kind` says how: done, refused, crash, timeout, protocol."""
    row = {
        "uid": uid,
        "status": status,
        "kind": kind,
        "message": message,
        "source": source,
        "attempts": attempts,
        "seconds": round(seconds, 3),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "log": list(log),
    }
    runs.append_line(out / NAME, row)


def catch_up(out: Path, finished: Iterable[tuple[str, str]]) -> None:
    """Add rows for finished objects (uid, source) that a run completed but was cut off before recording."""
    rows = _last_rows(out)
    for uid, source in finished:
        if rows.get(uid, {}).get("status") != "done":
            message = "finished by a run that was cut off before it could write this row"
            append(
                out,
                uid=uid,
                status="done",
                kind="done",
                message=message,
                source=source,
                attempts=1,
                seconds=0,
            )


def status(out: Path) -> dict[str, int]:
    """How many objects ended how, by their last row: done, and the kinds of failure."""
    return dict(Counter(row["kind"] for row in _last_rows(out).values()))


def why(out: Path, uid: str) -> dict[str, Any]:
    """The last row of one object. Raises `InputError` for a uid that the ledger does not know."""
    rows = _last_rows(out)
    if uid not in rows:
        raise InputError(f"{out / NAME}: knows nothing of {uid!r}; it knows {len(rows)} objects")
    return rows[uid]


def _last_rows(out: Path) -> dict[str, dict[str, Any]]:
    path = runs.input_path(out, what="folder of rendered objects") / NAME
    return {row["uid"]: row for row in runs.read_lines(path)}
