"""Which clips train: rules over the stored scores. No video is opened: a threshold costs seconds to change.

The paper (SVD, section 3 and appendix E) drops the clips of least motion, least aesthetic score, lowest CLIP
score and largest text area, by shares that people's votes chose; `svd3d curate vote` makes such votes.
A share is of the clips that have the score, whatever the other rules drop; clips of equal score share their
fate, so that never more than the share is dropped.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from svd3d.curation import table
from svd3d.errors import ConfigError, InputError

SHARES = {
    "drop_motion": "motion",
    "drop_aesthetic": "aesthetic",
    "drop_clip": "clip_score",
    "drop_text": "text_area",
}
"""Rules that drop a share of the clips, and the score that they go by."""
LARGEST = ("text_area",)
"""Scores of which the largest go; of the others the lowest."""
LOWEST = {
    "min_seconds": "seconds",
    "min_short_side": "short_side",
    "min_motion": "motion",
    "min_aesthetic": "aesthetic",
    "min_clip": "clip_score",
    "min_camera_confidence": "camera_confidence",
}
HIGHEST = {"max_text": "text_area"}
"""Rules that name the bound itself."""


@dataclass(frozen=True)
class Rules:
    """What a clip must be to be chosen; None and empty ask nothing. Clips without a score fail its rules."""

    drop_motion: float | None = None
    """Share of the clips with the least motion that is dropped, 0 to 1."""
    drop_aesthetic: float | None = None
    """Share of the clips with the lowest aesthetic score that is dropped."""
    drop_clip: float | None = None
    """Share of the clips with the lowest CLIP score that is dropped."""
    drop_text: float | None = None
    """Share of the clips with the largest text area that is dropped."""
    min_motion: float | None = None
    """Lowest motion score, in pixels of a short side of 16 per half second."""
    min_aesthetic: float | None = None
    """Lowest aesthetic score, 1 to 10."""
    min_clip: float | None = None
    """Lowest CLIP score, a cosine."""
    max_text: float | None = None
    """Largest part of the picture in boxes around text; the paper's is 0.07."""
    camera: tuple[str, ...] = ()
    """Kinds of camera motion."""
    min_camera_confidence: float | None = None
    """Lowest confidence in the kind of camera motion, 0 to 1."""
    min_seconds: float | None = None
    """Shortest clip."""
    min_short_side: int | None = None
    """Least pixels of the shorter side."""
    drop_duplicates: bool = False
    """Whether clips that show the same as an earlier one are dropped."""


_CAMERA = Rules(min_camera_confidence=0.7, max_text=0.07, drop_duplicates=True)
PRESETS = {
    "lvd-f": Rules(drop_motion=0.25, drop_aesthetic=0.25, drop_clip=0.5, drop_text=0.25),
    "high-quality": Rules(
        drop_motion=0.25,
        drop_aesthetic=0.75,
        drop_clip=0.5,
        max_text=0.0,
        min_short_side=576,
        drop_duplicates=True,
    ),
    "camera-pan": replace(_CAMERA, camera=("pan",)),
    "camera-zoom": replace(_CAMERA, camera=("zoom",)),
    "camera-static": replace(_CAMERA, camera=("static",)),
}
"""lvd-f is the paper's choice. Of the others it gives no figures (about a million clips for high quality,
three kinds of camera motion for the LoRAs): these are ours."""


@dataclass(frozen=True)
class Step:
    """What one rule did, after those before it."""

    rule: str
    """As the user says it: `drop_motion 0.25`."""
    column: str
    threshold: float | None
    """What a score is compared with, where the rule has one."""
    removed: int
    without_score: int
    """Of those removed, clips that have no such score."""
    left: int


@dataclass(frozen=True)
class Selection:
    """What became of a table's clips."""

    total: int
    chosen: int
    thresholds: dict[str, float]
    """Of drop rules, by column: lower scores go; of text_area, larger ones."""
    funnel: tuple[Step, ...]

    def as_text(self) -> str:
        """The funnel as a table for a terminal."""
        lines = [
            ("rule", "threshold", "removed", "without score", "left"),
            ("all clips", "", "", "", self.total),
        ]
        lines += [
            (
                step.rule,
                "" if step.threshold is None else f"{step.threshold:.4g}",
                step.removed,
                step.without_score or "",
                step.left,
            )
            for step in self.funnel
        ]
        widths = [max(len(str(line[column])) for line in lines) for column in range(5)]
        return "\n".join(
            "  ".join(
                str(cell).rjust(width) if column else str(cell).ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )


@dataclass(frozen=True)
class _Rule:
    """A rule at work: which values of its column pass."""

    name: str
    column: str
    low: float = -math.inf
    high: float = math.inf
    among: tuple[str, ...] = ()
    threshold: float | None = None

    def passes(self, values: list[Any]) -> np.ndarray:
        """Whether each value passes, bool [n]; what is None does not, unless that is asked for."""
        if self.column == "duplicate_of":
            return np.array([value is None for value in values], bool)
        if self.among:
            return np.array([value in self.among for value in values], bool)
        numbers = np.array([math.nan if value is None else value for value in values], np.float64)
        return (numbers >= self.low) & (numbers <= self.high)

    def lacks(self, values: list[Any]) -> np.ndarray:
        """Which values the rule asks for and are not there, bool [n]."""
        return np.array([value is None and self.column != "duplicate_of" for value in values], bool)


def select(source: Path, rules: Rules, out: Path) -> Selection:
    """Write the clips of a table that pass all rules to another one of the same columns, in their order.

    Streams, except for the scores of which a share is dropped: four bytes a clip are held. The new table's
    facts keep the rules and the selection. Raises `ConfigError` for a share outside 0 to 1 and for a rule on
    a score that no clip has, and `InputError` as `table.batches`.
    """
    known = table.facts(source)
    steps = _rules(source, rules, not_computed=known.get("not_computed", {}))
    total, removed, lacking = 0, np.zeros(len(steps), int), np.zeros(len(steps), int)

    def chosen() -> Iterator[Any]:
        nonlocal total
        for batch in table.batches(source):
            total += batch.num_rows
            mask = np.ones(batch.num_rows, bool)
            for number, rule in enumerate(steps):
                values = _values(batch, rule.column)
                drops = mask & ~rule.passes(values)
                removed[number] += drops.sum()
                lacking[number] += (drops & rule.lacks(values)).sum()
                mask &= ~drops
            yield batch.filter(mask.tolist())

    def found() -> Selection:
        left = [int(each) for each in total - np.cumsum(removed)]
        return Selection(
            total=total,
            chosen=left[-1] if left else total,
            thresholds={rule.column: rule.threshold for rule in steps if rule.threshold is not None},
            funnel=tuple(
                Step(rule.name, rule.column, rule.threshold, int(gone), int(lack), rest)
                for rule, gone, lack, rest in zip(steps, removed, lacking, left, strict=True)
            ),
        )

    def facts() -> dict[str, Any]:
        return {**known, "rules": asdict(rules), "selection": asdict(found())}

    table.write_batches(out, chosen(), facts=facts)
    return found()


def read(path: Path) -> Selection:
    """What `select` found, from the table that it wrote. Raises `InputError` for another table."""
    made = table.facts(path).get("selection")
    if made is None:
        raise InputError(f"{path}: a table of all clips; make a selection of it with svd3d curate select")
    return Selection(**{**made, "funnel": tuple(Step(**step) for step in made["funnel"])})


def _rules(source: Path, rules: Rules, *, not_computed: Mapping[str, str]) -> list[_Rule]:
    """The rules that ask for something, in the order in which they are told, with thresholds for shares."""
    found = [_Rule("drop_duplicates", "duplicate_of")] if rules.drop_duplicates else []
    for name, column in {**LOWEST, **HIGHEST}.items():
        if (bound := getattr(rules, name)) is not None:
            low, high = (bound, math.inf) if name in LOWEST else (-math.inf, bound)
            found.append(_Rule(f"{name} {bound:g}", column, low=low, high=high))
    if rules.camera:
        found.append(_Rule(f"camera {' '.join(rules.camera)}", "camera_motion", among=rules.camera))
    shares = {column: (name, getattr(rules, name)) for name, column in SHARES.items() if getattr(rules, name)}
    for name, share in shares.values():
        if not 0 < share < 1:
            raise ConfigError(f"{name} is a share, from 0 to below 1; got {share}")
    asked = [rule.column for rule in found if rule.column in table.COLUMNS and rule.column != "duplicate_of"]
    scores = _scores(source, sorted({*asked, *shares}))
    if absent := [column for column, values in scores.items() if not values.size]:
        reasons = {column: not_computed.get(column, "not computed") for column in absent}
        told = ", ".join(
            f"{', '.join(column for column in absent if reasons[column] == reason)} ({reason})"
            for reason in dict.fromkeys(reasons.values())
        )
        raise ConfigError(f"{source}: no clip has {told}; leave the rules on it out, as with --drop-clip 0")
    for column, (name, share) in shares.items():
        ordered = np.sort(scores[column])[:: -1 if column in LARGEST else 1]
        threshold = float(ordered[int(share * len(ordered))])
        low, high = (-math.inf, threshold) if column in LARGEST else (threshold, math.inf)
        found.append(_Rule(f"{name} {share:g}", column, low=low, high=high, threshold=threshold))
    return found


def _scores(source: Path, columns: Collection[str]) -> dict[str, np.ndarray]:
    """All values of some columns that are not null."""
    parts: dict[str, list[np.ndarray]] = {column: [] for column in columns}
    for batch in table.batches(source, columns=list(columns)) if columns else ():
        for column in columns:
            parts[column].append(batch[column].drop_null().to_numpy(zero_copy_only=False))
    return {column: np.concatenate([np.empty(0), *each]) for column, each in parts.items()}


def _values(batch: Any, column: str) -> list[Any]:
    """A column of the table, or `seconds` and `short_side`, which follow from others."""
    if column == "seconds":
        return list(batch["end_s"].to_numpy() - batch["start_s"].to_numpy())
    if column == "short_side":
        return list(np.minimum(batch["width"].to_numpy(), batch["height"].to_numpy()))
    return batch[column].to_pylist()
