"""What people are asked to compare, and what they answered.

As in the SVD paper (App. E.1), the items compared are what is left after dropping different shares of the
clips; every task shows one clip of each of two such groups, in an order drawn anew, and asks on two axes. The
paper let people see films of models trained on each group; clips of the groups themselves, which are nested,
differ less.
"""

import hashlib
import itertools
import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from svd3d import runs
from svd3d.curation import elo, selection, table
from svd3d.errors import ConfigError, InputError

SCORES = tuple(selection.SHARES.values())
"""What groups may be made by."""


@dataclass(frozen=True)
class Shown:
    """A clip as the page plays it."""

    id: str
    file: Path
    span_s: tuple[float, float] | None
    """Start and end in the file; None plays all of it."""
    caption: str


@dataclass(frozen=True)
class Task:
    """Two clips to compare: a is shown on the left."""

    id: str
    a: str
    b: str
    """The groups compared."""
    clip_a: Shown
    clip_b: Shown

    @property
    def axes(self) -> tuple[str, ...]:
        """What is asked: agreement with the caption only where both clips have one."""
        return elo.AXES if self.clip_a.caption and self.clip_b.caption else (elo.QUALITY,)


@dataclass(frozen=True)
class Contest:
    """The tasks in the order asked, and where their votes go."""

    tasks: Sequence[Task]
    votes: Path
    votes_per_task: int


def draw(
    folder: Path,
    *,
    by: str = "motion",
    thresholds: Sequence[float] = (0.0, 0.125, 0.25, 0.5),
    tasks: int = 64,
    votes_per_task: int = 3,
    seed: int = 0,
) -> Contest:
    """Draw the tasks of a curated folder: `tasks` for every two thresholds; the same for the same seed.

    `by` is one of `SCORES`, `thresholds` are the shares of the clips that a group drops (0 to below 1), as
    `selection.select` drops them. Votes go to `folder/votes-<by>.jsonl`.

    Raises `ConfigError` for thresholds that make no two groups, `InputError` where the score was not computed
    or a film is not there.
    """
    clips = folder / table.NAME
    groups = _groups(clips, by, thresholds)
    rng = np.random.default_rng(seed)
    drawn: dict[tuple[str, str, int, int], None] = {}
    for first, second in itertools.combinations(groups, 2):
        wanted = len(drawn) + tasks
        for _ in range(20 * tasks):  # few clips may not give as many different pairs
            a, b = (first, second) if rng.random() < 0.5 else (second, first)
            row_a, row_b = (int(groups[name][rng.integers(len(groups[name]))]) for name in (a, b))
            if row_a != row_b and (b, a, row_b, row_a) not in drawn and len(drawn) < wanted:
                drawn[a, b, row_a, row_b] = None
    shown = _shown(folder, {row for _, _, *rows in drawn for row in rows})
    found = [_task(by, a, b, shown[row_a], shown[row_b]) for a, b, row_a, row_b in drawn]
    return Contest([found[i] for i in rng.permutation(len(found))], votes_file(folder, by), votes_per_task)


def votes_file(folder: Path, by: str) -> Path:
    """Where the votes of a contest by a score are."""
    return folder / f"votes-{by}.jsonl"


def _groups(clips: Path, by: str, thresholds: Sequence[float]) -> dict[str, Int[np.ndarray, "_"]]:
    """Rows of the table that are left after dropping each share, by the name of the group."""
    if by not in SCORES:
        raise ConfigError(f"by: {by!r} is no score to vote on; choose one of {', '.join(SCORES)}")
    shares = sorted(set(thresholds))
    if len(shares) < 2 or not all(0 <= share < 1 for share in shares):
        raise ConfigError(
            f"thresholds: {list(thresholds)} are not two or more different shares from 0 to below 1; "
            "give for example 0 0.125 0.25 0.5"
        )
    parts = [batch[by].to_numpy(zero_copy_only=False) for batch in table.batches(clips, columns=[by])]
    scores = np.concatenate([np.empty(0), *parts]) * (-1 if by in selection.LARGEST else 1)
    ordered = np.sort(scores[~np.isnan(scores)])  # a null is NaN here
    if len(ordered) < 2:
        reason = table.facts(clips).get("not_computed", {}).get(by, "it takes two")
        raise InputError(f"{clips}: {len(ordered)} clips have a {by} ({reason}); vote by another score")
    groups = {
        f"{by}: drop {100 * share:g} %": np.flatnonzero(scores >= ordered[int(share * len(ordered))])
        for share in shares
    }
    if len(sizes := {len(rows) for rows in groups.values()}) < len(groups):
        raise ConfigError(
            f"thresholds: {list(thresholds)} make {len(sizes)} different groups of {len(ordered)} clips; "
            "give fewer thresholds or curate more videos"
        )
    return groups


def _shown(folder: Path, rows: set[int]) -> dict[int, Shown]:
    clips, shown = folder / table.NAME, {}
    source = Path(table.facts(clips).get("videos", ""))
    columns = ["id", "video", "file", "start_s", "end_s", *table.CAPTIONS]
    for number, row in enumerate(table.rows(clips, columns=columns)):
        if number in rows:
            captions = [row[name] for name in reversed(table.CAPTIONS) if row[name]]
            root, name = (folder, row["file"]) if row["file"] else (source, row["video"])
            span = None if row["file"] else (row["start_s"], row["end_s"])
            file = _inside(root, name, clip=row["id"])
            shown[number] = Shown(row["id"], file, span, captions[0] if captions else "")
    return shown


def _inside(root: Path, name: str, *, clip: str) -> Path:
    """A file below `root`; links in it may lead elsewhere, names from the table may not."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"clip {clip!r}: its file {name!r} lies outside {root}; curate the videos again")
    return runs.input_path(root / name, what=f"film of clip {clip!r}")


def _task(by: str, a: str, b: str, clip_a: Shown, clip_b: Shown) -> Task:
    told = json.dumps([by, a, b, clip_a.id, clip_b.id])
    return Task(hashlib.sha256(told.encode()).hexdigest()[:16], a, b, clip_a, clip_b)


class Box:
    """The votes of a contest, on disk and counted; for one voter, safe for threads.

    A vote is on disk before it is counted. Who votes on a task and axis again is not heard.
    """

    def __init__(self, contest: Contest, voter: str) -> None:
        if not (voter.isprintable() and 0 < len(voter) <= 64):
            raise ConfigError(f"voter: {voter!r} is not 1 to 64 printable letters; give --voter NAME")
        self.contest = contest
        self.voter = voter
        self._lock = threading.Lock()
        self._tasks = {task.id: task for task in contest.tasks}
        self._skipped: set[str] = set()
        cast = {(vote.task, vote.axis, vote.voter) for vote in self._read()}
        self._counts = Counter((task, axis) for task, axis, _ in cast)
        self._mine = {(task, axis) for task, axis, by in cast if by == voter}

    def _read(self) -> list[elo.Vote]:
        return elo.read(self.contest.votes) if self.contest.votes.exists() else []

    def next(self) -> dict[str, Any]:
        """The next task, with the axes still open on it, and how far the voter is; task None: all done."""
        with self._lock:
            open_axes = {id: axes for id, task in self._tasks.items() if (axes := self._open(task))}
            mine = sum((task.id, axis) in self._mine for task in self._tasks.values() for axis in task.axes)
            progress = {"done": mine, "total": mine + sum(map(len, open_axes.values())), "voter": self.voter}
            found = next((id for id in open_axes if id not in self._skipped), None)
            return {"task": found, "axes": open_axes.get(found or "", []), **progress}

    def _open(self, task: Task) -> list[str]:
        """Axes that this voter has not judged and that want more votes."""
        wanted = self.contest.votes_per_task
        return [
            axis
            for axis in task.axes
            if (task.id, axis) not in self._mine and self._counts[task.id, axis] < wanted
        ]

    def vote(self, task: str, winners: Mapping[str, str]) -> int:
        """Record the winner (`a` or `b`) on each axis; returns how many were new.

        Raises `InputError` for what is not a vote on a task of this contest, `OutputError` on a full disk.
        """
        shown = self._tasks.get(task)
        if shown is None or not winners or not set(winners) <= set(shown.axes):
            raise InputError(f"vote: {task[:40]!r} on {sorted(winners)} is not asked here; reload the page")
        if not set(winners.values()) <= {"a", "b"}:
            raise InputError(f"vote: winner is {sorted(winners.values())}, expected a or b; reload the page")
        with self._lock:
            new = [(axis, winner) for axis, winner in winners.items() if (task, axis) not in self._mine]
            for axis, winner in new:
                runs.append_line(
                    self.contest.votes,
                    {
                        **{"a": shown.a, "b": shown.b, "winner": winner, "axis": axis, "task": task},
                        **{"voter": self.voter, "clip_a": shown.clip_a.id, "clip_b": shown.clip_b.id},
                        "at": datetime.now(UTC).isoformat(timespec="seconds"),
                    },
                )
                self._mine.add((task, axis))
                self._counts[task, axis] += 1
            return len(new)

    def skip(self, task: str) -> None:
        """Ask this task no more until the server starts again."""
        with self._lock:
            self._skipped.add(task)
