"""Elo ratings of whatever people compared in pairs, as the SVD paper rates its thresholds (App. E.1).

Every vote is a game: expected score E_a = 1 / (1 + 10^((R_b - R_a) / 400)), update R_a += K (S_a - E_a), and
R_b gives what R_a takes. With K = 1 ratings move slowly: of an item that is truly 50 above the start, 200
votes show about 15, 750 votes 37, and 2500 votes all. The order of items does not wait for that.

A file of votes is CSV with a header, or JSON lines, with these columns (others are ignored):
    a, b      names of the two items
    winner    `a`, `b` or `tie`
    axis      what was asked, such as `visual_quality` (the default) or `prompt_following`
    task      what was shown, the same for all who saw the same two clips; may be absent
    voter     who voted; may be absent
Of several votes by one voter on one task and axis the first counts.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from svd3d import runs
from svd3d.errors import InputError

QUALITY, PROMPT = "visual_quality", "prompt_following"
AXES = (QUALITY, PROMPT)
SCORES = {"a": 1.0, "b": 0.0, "tie": 0.5}
"""Score of item a by the winner."""
RATINGS = "-ratings.json"
"""End of the name of what `report` writes."""


@dataclass(frozen=True)
class Vote:
    """One judgement of two items."""

    a: str
    b: str
    score: float
    """Of a: 1 it is better, 0 b is better, 0.5 neither."""
    axis: str = QUALITY
    task: str = ""
    voter: str = ""


@dataclass(frozen=True)
class Rating:
    """How an item fares on one axis."""

    axis: str
    item: str
    rating: float
    """Mean over orders of the votes."""
    ci95: tuple[float, float]
    """From the votes of tasks drawn anew, so also what other tasks would have said."""
    votes: int
    won: float
    """Share of its votes that it won, 0 to 1; a tie counts half."""


def read(path: Path) -> list[Vote]:
    """The votes of a file, in its order. Raises `InputError` naming the first bad line.

    A torn last line of JSON (power cut) counts as absent.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: votes cannot be read ({error}); expected CSV or JSON lines") from error
    rows = _json_rows(path, text) if text.lstrip().startswith("{") else _csv_rows(path, text)
    votes: dict[Any, Vote] = {}
    for line, row in rows:
        vote = _vote(path, line, row)
        votes.setdefault((vote.axis, vote.task, vote.voter) if vote.task and vote.voter else line, vote)
    return list(votes.values())


def ratings(
    votes: Sequence[Vote], *, k: float = 1.0, start: float = 1000.0, bootstraps: int = 1000, seed: int = 0
) -> list[Rating]:
    """Ratings of all items, by axis and then from best to worst; the same for the same votes and seed.

    A rating is the mean over `bootstraps` orders of all votes. Its interval spans 95 % of as many runs in
    which tasks are drawn with replacement; votes on one task stay together, for they are not independent.
    """
    found = []
    asked = {vote.axis for vote in votes}
    for axis in [*(axis for axis in AXES if axis in asked), *sorted(asked - {*AXES})]:
        rated = _rate([v for v in votes if v.axis == axis], axis, k, start, bootstraps, seed)
        found += sorted(rated, key=lambda each: (-each.rating, each.item))
    return found


def report(
    votes: Path, out: Path, *, k: float = 1.0, start: float = 1000.0, bootstraps: int = 1000, seed: int = 0
) -> list[Rating]:
    """Rate the votes of a file and write OUT/<stem of the file>-ratings.json and .md.

    Raises `InputError` for a bad line and where there are no votes.
    """
    settings = {"k": k, "start": start, "bootstraps": bootstraps, "seed": seed}
    if not (votes.exists() and (cast := read(votes))):
        raise InputError(f"{votes}: holds no votes; cast some with: svd3d curate vote DIR")
    rated = ratings(cast, k=k, start=start, bootstraps=bootstraps, seed=seed)
    source = {"path": str(votes), "sha256": runs.sha256(votes)}
    written = out / f"{votes.stem}{RATINGS}"
    runs.write_json(written, {"votes": source, **settings, "ratings": as_json(rated)})
    runs.write_file(written.with_suffix(".md"), as_markdown(rated))
    return rated


def read_ratings(path: Path) -> list[Rating]:
    """The ratings that `report` has written. Raises `InputError` for another file."""
    try:
        found = json.loads(path.read_bytes())["ratings"]
        return [Rating(**{**each, "ci95": tuple(each["ci95"])}) for each in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not the ratings of svd3d curate vote ({error!r:.80}); write them again with --report"
        ) from error


def as_markdown(ratings: Iterable[Rating]) -> str:
    """One table per axis."""
    lines, axis = [], None
    for each in ratings:
        if each.axis != axis:
            axis = each.axis
            lines += ["", f"## {axis.replace('_', ' ').capitalize()}", ""]
            lines += ["| item | rating | 95 % interval | votes | won |", "|---|---:|---:|---:|---:|"]
        low, high = each.ci95
        item = " ".join(each.item.replace("|", "\\|").split())
        lines.append(
            f"| {item} | {each.rating:.1f} | {low:.1f} to {high:.1f} | {each.votes} | {each.won:.1%} |"
        )
    return "\n".join(["# Elo ratings", *lines]) + "\n"


def as_json(ratings: Iterable[Rating]) -> list[dict[str, Any]]:
    """One record per item and axis."""
    return [asdict(each) | {"ci95": list(each.ci95)} for each in ratings]


def _rate(
    votes: Sequence[Vote], axis: str, k: float, start: float, bootstraps: int, seed: int
) -> Iterator[Rating]:
    items = sorted({item for vote in votes for item in (vote.a, vote.b)})
    number = {item: index for index, item in enumerate(items)}
    pairs = np.array([(number[vote.a], number[vote.b]) for vote in votes])
    scores = np.array([vote.score for vote in votes])
    unnamed = count()
    groups: dict[Any, list[int]] = {}
    for index, vote in enumerate(votes):
        groups.setdefault(vote.task or next(unnamed), []).append(index)
    tasks = [np.array(group) for group in groups.values()]
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(votes)) for _ in range(bootstraps)]
    drawn = [
        rng.permutation(np.concatenate([tasks[i] for i in rng.integers(len(tasks), size=len(tasks))]))
        for _ in range(bootstraps)
    ]
    mean = _play(pairs, scores, orders, items=len(items), k=k, start=start).mean(axis=0)
    spread = _play(pairs, scores, drawn, items=len(items), k=k, start=start)
    low, high = np.percentile(spread, [2.5, 97.5], axis=0)
    for index, item in enumerate(items):
        played = (pairs == index).any(axis=1)
        won = np.where(pairs[played, 0] == index, scores[played], 1 - scores[played])
        yield Rating(
            axis,
            item,
            float(mean[index]),
            (float(low[index]), float(high[index])),
            len(won),
            float(won.mean()),
        )


def _play(
    pairs: Int[np.ndarray, "votes 2"],
    scores: Float[np.ndarray, "votes"],
    orders: Sequence[Int[np.ndarray, "_"]],
    *,
    items: int,
    k: float,
    start: float,
) -> Float[np.ndarray, "orders items"]:
    """Final ratings after the votes in each of the orders, all orders a vote at a time."""
    games = np.full((max(map(len, orders)), len(orders)), -1)
    for column, order in enumerate(orders):
        games[: len(order), column] = order
    rating = np.full((len(orders), items), start)
    run = np.arange(len(orders))
    for game in games:
        a, b = pairs[game].T
        expected = 1 / (1 + 10 ** ((rating[run, b] - rating[run, a]) / 400))
        change = np.where(game < 0, 0, k * (scores[game] - expected))
        rating[run, a] += change
        rating[run, b] -= change
    return rating


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), restkey="")
    if missing := {"a", "b", "winner"} - set(reader.fieldnames or ()):
        raise InputError(
            f"{path}: line 1: no column {', '.join(sorted(missing))}; the first line must name the columns "
            "a, b, winner and may name axis, task, voter"
        )
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: is not CSV ({error}); remove the line") from error


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    lines = text.split("\n")
    for line, content in enumerate(lines, start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except ValueError as error:
            if line == len(lines):
                return
            raise InputError(
                f"{path}: line {line}: is not JSON ({content[:60]!r}); remove the line"
            ) from error
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {line}: is not a record ({content[:60]!r}); remove the line")
        yield line, row


def _vote(path: Path, line: int, row: Mapping[str, Any]) -> Vote:
    def refuse(why: str) -> InputError:
        return InputError(f"{path}: line {line}: {why}; correct the line or remove it")

    words = {key: row.get(key) or "" for key in ("a", "b", "winner", "axis", "task", "voter")}
    for key, word in words.items():
        if not isinstance(word, str):
            raise refuse(f"{key} is {word!r}, expected text")
    a, b, winner = words["a"], words["b"], words["winner"]
    if not (a and b) or a == b:
        raise refuse(f"a is {a!r} and b is {b!r}, expected two different items")
    if winner not in SCORES:
        raise refuse(f"winner is {winner!r}, expected a, b or tie")
    return Vote(a, b, SCORES[winner], words["axis"] or QUALITY, words["task"], words["voter"])
