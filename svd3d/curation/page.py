"""The report of a curated folder, `report.html`: what there is, what each score looks like, what was dropped.

One file that opens without a network. Everything is read from the table of clips (and of a selection), one
column at a time; of the videos only the thumbnails that the table names are shown.
"""

import base64
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from svd3d import console, runs
from svd3d.curation import elo, histogram, table
from svd3d.curation import selection as selections
from svd3d.errors import InputError

NAME = "report.html"
SCORES = ("motion", "aesthetic", "clip_score", "text_area", "seconds", "object_motion", "camera_confidence")
"""Of which there are histograms, where they were computed."""
EXAMPLES = 2
"""Clips shown of every bin."""
STRIP_HEIGHT = 72
"""Of a shown strip in pixels."""
PAPER = {
    "LVD, as published": ("577M", "11.58", "212.09 years", "325", "11.09", "–", "577M (100%)", "–"),
    "LVD-F, as published": ("152M", "10.53", "50.64 years", "301", "4.76", "–", "152M (100%)", "–"),
}
"""Table 1 of the SVD paper, in the order of `_FACTS`; it does not give cuts per minute."""
_NEEDLESS = (
    "file",
    "duplicate_of",
    "keyframe_start_frame",
    "keyframe_end_frame",
    "motion_method",
    "caption_probabilities",
)
"""Columns that may well be null, or whose nulls follow from others."""
_FACTS = (
    "clips",
    "mean length of a clip in s",
    "duration",
    "mean frames of a clip",
    "clips per video",
    "cuts per minute",
    "clips with a caption",
    "near-duplicates of an earlier clip",
)
_OPTIONAL = [each.name for each in fields(table.Clip) if each.default is None and each.name not in _NEEDLESS]
_HOURS_PER_YEAR = 24 * 365.25
_STYLE = """
:root { color-scheme: light dark; --all: #8a8f98; --chosen: #3b82d6; --mark: #d55e00; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1040px; margin: 2em auto; padding: 0 1em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .3em .8em; border-bottom: 1px solid #8886; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.bar { text-align: left; min-width: 16em; }
td.bar span { display: block; background: var(--chosen); height: 1em; }
.scores { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(460px, 100%), 1fr)); gap: 1.5em; }
.bins { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: .5em 1em; }
.score:has(details[open]) { grid-column: 1 / -1; }
h4 { margin: .6em 0 .2em; } figure { margin: 0 0 .5em; }
figcaption, .note { opacity: .75; font-size: .88em; overflow-wrap: anywhere; }
img { max-width: 100%; border-radius: 3px; display: block; } svg { max-width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
summary { cursor: pointer; } code { font-size: 90%; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Measured:
    """A table of clips in numbers, as the paper's Table 1."""

    clips: int
    videos: int
    """That gave at least one clip."""
    seconds: float
    frames: int
    captioned: int
    """Clips with a caption."""
    duplicates: int
    """Clips that show the same as an earlier one."""

    @property
    def cuts_per_minute(self) -> float:
        """Borders between clips of one video, by the time of the clips; of a table of all clips."""
        return 60 * (self.clips - self.videos) / self.seconds if self.seconds else 0.0


def measure(clips: Path) -> Measured:
    """Read a table, whose clips of one video follow each other, into numbers."""
    count = videos = frames = captioned = duplicates = 0
    seconds, last = 0.0, None
    columns = ["video_id", "start_frame", "end_frame", "start_s", "end_s"]
    for batch in table.batches(clips, columns=[*columns, "duplicate_of", *table.CAPTIONS]):
        names = batch["video_id"].to_pylist()
        videos += sum(name != before for before, name in itertools.pairwise([last, *names]))
        last = names[-1] if names else last
        count += len(names)
        seconds += float((batch["end_s"].to_numpy() - batch["start_s"].to_numpy()).sum())
        frames += int((batch["end_frame"].to_numpy() - batch["start_frame"].to_numpy()).sum())
        captions = zip(*(batch[name].to_pylist() for name in table.CAPTIONS), strict=True)
        captioned += sum(any(each) for each in captions)
        duplicates += batch.num_rows - batch["duplicate_of"].null_count
    return Measured(count, videos, seconds, frames, captioned, duplicates)


def write(folder: Path, *, selection: Path | None = None, failures: Mapping[str, int] | None = None) -> Path:
    """Write FOLDER/report.html from its clips.parquet, and a selection of it; returns the page.

    `failures` counts the videos that gave nothing, by class. Raises `InputError` without a table.
    """
    clips = folder / table.NAME
    facts = table.facts(clips)
    made = None if selection is None else selections.read(selection)
    name = folder.resolve().name
    parts = [
        f"<h1>Curated clips: {escape(name)}</h1>",
        _table_1(clips, selection),
        "<h2>What each rule removed</h2>",
        _funnel(made),
        "<h2>Scores</h2>",
        _scores(folder, selection, made),
        _camera(folder),
        "<h2>Not computed</h2>",
        _missing(clips, facts),
        "<h2>Videos that failed</h2>",
        _failures(failures or {}),
        _ratings(folder),
        "<h2>Origin</h2>",
        _origin(clips, selection, facts),
    ]
    whole = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>svd3d curate: {escape(name)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )
    runs.write_file(folder / NAME, whole.encode("utf-8", "backslashreplace"))  # names may not be UTF-8
    return folder / NAME


def _table_1(clips: Path, selection: Path | None) -> str:
    columns = {"all clips": _facts(measure(clips), cuts=True)}
    if selection is not None:
        columns[f"chosen: {selection.name}"] = _facts(measure(selection), cuts=False)
    columns |= PAPER
    rows = list(zip(_FACTS, *columns.values(), strict=True))
    return _table([("", *columns), *rows])


def _facts(found: Measured, *, cuts: bool) -> tuple[str, ...]:
    each = max(found.clips, 1)
    hours = found.seconds / 3600
    years = f" ({hours / _HOURS_PER_YEAR:.2f} years)" if hours > _HOURS_PER_YEAR / 20 else ""
    duration = f"{hours:,.0f} h{years}" if hours >= 100 else console.duration(found.seconds)
    return (
        f"{found.clips:,}",
        f"{found.seconds / each:.2f}",
        duration,
        f"{found.frames / each:,.0f}",
        f"{found.clips / max(found.videos, 1):.2f}",
        f"{found.cuts_per_minute:.2f}" if cuts else "–",
        f"{found.captioned:,} ({found.captioned / each:.0%})",
        f"{found.duplicates:,} ({found.duplicates / each:.0%})",
    )


def _funnel(made: selections.Selection | None) -> str:
    """Rule by rule what went and what stayed, with a bar of what stayed."""
    if made is None:
        return (
            "<p>Nothing is selected yet: <code>svd3d curate select DIR --preset lvd-f --out FILE</code></p>"
        )
    rows = [(("all clips", "", "", ""), made.total)]
    for step in made.funnel:
        bound = "" if step.threshold is None else f"{step.threshold:.4g}"
        without = f"{step.without_score:,}" if step.without_score else ""
        rows.append(((step.rule, bound, f"{step.removed:,}", without), step.left))
    lines = [
        "<tr>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in (*cells, f"{left:,}"))
        + f'<td class="bar"><span style="width: {100 * left / max(made.total, 1):.2f}%"></span></td></tr>'
        for cells, left in rows
    ]
    head = "".join(f"<th>{name}</th>" for name in ("rule", "threshold", "removed", "without score", "left"))
    return (
        f'<div class="wide"><table><thead><tr>{head}<th></th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _scores(folder: Path, selection: Path | None, made: selections.Selection | None) -> str:
    """A histogram of every score with examples of its bins."""
    clips = folder / table.NAME
    chosen = None if selection is None else _chosen(clips, selection)
    found = []
    for name in SCORES:
        values = _values(clips, name)
        if not np.isfinite(values).any():
            continue
        spread = histogram.Histogram.of(values)
        bounds, cut = _bounds(name, values, selection, made)
        drawn = histogram.svg(spread, name=name, chosen=chosen, bounds=bounds)
        told = f"<b>{escape(name)}</b>: {escape(_about(name))}{escape(cut)}"
        found.append(
            f'<div class="score"><figure>{drawn}<figcaption>{told}</figcaption></figure>'
            f"{_examples(folder, spread.bins, spread.labels())}</div>"
        )
    key = "Grey: all clips." if chosen is None else "Grey: all clips; blue: the chosen ones."
    return f'<p class="note">{key} Line: threshold.</p><div class="scores">{"".join(found)}</div>'


def _values(clips: Path, name: str) -> Float[np.ndarray, "clips"]:
    """A score of all clips, NaN where there is none."""
    wanted = ["start_s", "end_s"] if name == "seconds" else [name]
    parts = [np.empty(0, np.float32)]
    for batch in table.batches(clips, columns=wanted):
        columns = [batch[column].to_numpy(zero_copy_only=False) for column in wanted]
        parts.append((columns[1] - columns[0] if name == "seconds" else columns[0]).astype(np.float32))
    return np.concatenate(parts)


def _chosen(clips: Path, selection: Path) -> Bool[np.ndarray, "clips"]:
    """Which clips a selection holds; both tables are in one order. Raises `InputError` if they do not fit."""
    kept = (row["id"] for row in table.rows(selection, columns=["id"]))
    following, mask = next(kept, None), []
    for row in table.rows(clips, columns=["id"]):
        mask.append(row["id"] == following)
        if mask[-1]:
            following = next(kept, None)
    if following is not None:
        raise InputError(f"{selection}: its clip {following!r} is not in {clips}; select again")
    return np.array(mask, bool)


def _about(name: str) -> str:
    if name == "seconds":
        return "length of the clip (s)"
    column = next(each for each in fields(table.Clip) if each.name == name)
    about, unit = column.metadata["about"], column.metadata["unit"]
    return f"{about} ({unit})" if unit else about


def _bounds(
    name: str, values: Float[np.ndarray, "clips"], selection: Path | None, made: selections.Selection | None
) -> tuple[list[float], str]:
    """Where a score is cut, in numbers and words: by the selection, or as the paper's shares would."""
    if selection is not None and made is not None:
        rules = table.facts(selection)["rules"]
        named = {**selections.LOWEST, **selections.HIGHEST}
        bounds = [
            float(rules[rule]) for rule, column in named.items() if column == name and rules[rule] is not None
        ]
        bounds += [made.thresholds[name]] if name in made.thresholds else []
        return bounds, f"; cut at {_numbers(bounds)}" if bounds else ""
    shares = {
        column: getattr(selections.PRESETS["lvd-f"], rule) for rule, column in selections.SHARES.items()
    }
    if name not in shares:
        return [], ""
    ordered = np.sort(values[np.isfinite(values)])[:: -1 if name in selections.LARGEST else 1]
    bounds = [float(ordered[int(shares[name] * len(ordered))])]
    return bounds, f"; preset lvd-f drops {shares[name]:.0%}, which would cut at {_numbers(bounds)}"


def _numbers(values: Iterable[float]) -> str:
    return " and ".join(f"{value:.4g}" for value in values)


def _examples(folder: Path, bins: Int[np.ndarray, "clips"], labels: Sequence[str]) -> str:
    """A few clips of every bin that has some, drawn with a fixed seed, folded away."""
    rng = np.random.default_rng(0)
    drawn: dict[int, list[int]] = {}
    for number in range(len(labels)):
        rows = np.flatnonzero(bins == number)
        if rows.size:
            few = rng.choice(rows, size=min(EXAMPLES, rows.size), replace=False)
            drawn[number] = sorted(int(row) for row in few)
    clips = _rows(folder / table.NAME, {row for rows in drawn.values() for row in rows})
    parts = [
        f"<div><h4>{escape(labels[number])} (clips: {(bins == number).sum():,})</h4>"
        + "".join(_example(folder, clips[row]) for row in rows)
        + "</div>"
        for number, rows in drawn.items()
    ]
    return f'<details><summary>Examples</summary><div class="bins">{"".join(parts)}</div></details>'


def _rows(clips: Path, wanted: set[int]) -> dict[int, dict[str, Any]]:
    """Some rows of a table by their number."""
    columns = ["id", "video", "start_s", "end_s", "thumbnails", *table.CAPTIONS]
    found, first = {}, 0
    for batch in table.batches(clips, columns=columns):
        here = sorted(row for row in wanted if first <= row < first + batch.num_rows)
        picked = batch.take([row - first for row in here]).to_pylist() if here else []
        found |= dict(zip(here, picked, strict=True))
        first += batch.num_rows
    return found


def _example(folder: Path, clip: Mapping[str, Any]) -> str:
    """First, middle and last frame of a clip, and what is said of it."""
    where = f"{clip['id']}: {clip['video']}, {clip['start_s']:.2f} to {clip['end_s']:.2f} s"
    caption = next((clip[name] for name in reversed(table.CAPTIONS) if clip[name]), "")
    data = _thumbnail(folder, clip["thumbnails"])
    picture = f'<img alt="{escape(where)}" src="data:image/webp;base64,{data}">' if data else ""
    told = f"<figcaption>{escape(caption or where)}</figcaption>"
    return f'<figure title="{escape(where)}">{picture}{told}</figure>'


def _thumbnail(folder: Path, name: str | None) -> str:
    """A strip of the folder, small and encoded anew as base64; empty where it cannot be had."""
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        return ""
    try:
        with Image.open(folder / name, formats=["JPEG"]) as opened:
            opened.thumbnail((12 * STRIP_HEIGHT, STRIP_HEIGHT))
            file = io.BytesIO()
            opened.convert("RGB").save(file, format="WEBP", quality=80)
    except (OSError, Image.DecompressionBombError):
        return ""
    return base64.b64encode(file.getvalue()).decode("ascii")


def _camera(folder: Path) -> str:
    """How the camera moves: clips of each kind, with examples."""
    codes: dict[str, int] = {}
    parts = [np.empty(0, np.int16)]
    for batch in table.batches(folder / table.NAME, columns=["camera_motion"]):
        kinds = batch["camera_motion"].to_pylist()
        parts.append(np.array([-1 if kind is None else codes.setdefault(kind, len(codes)) for kind in kinds]))
    kind_of = np.concatenate(parts)
    if not codes:
        return ""
    counts = np.bincount(kind_of[kind_of >= 0]).tolist()
    rows = [(kind, f"{counts[code]:,}", f"{counts[code] / len(kind_of):.1%}") for kind, code in codes.items()]
    return (
        "<h2>Motion of the camera</h2>"
        + _table([("kind", "clips", "of all"), *rows])
        + _examples(folder, kind_of, list(codes))
    )


def _missing(clips: Path, facts: Mapping[str, Any]) -> str:
    """What no clip has, and why; what some lack."""
    total, nulls = table.count(clips), Counter()
    for batch in table.batches(clips, columns=_OPTIONAL):
        nulls.update({name: batch[name].null_count for name in _OPTIONAL})
    reasons: dict[str, str] = facts.get("not_computed", {})
    absent = [
        (", ".join(name for name in reasons if reasons[name] == reason), f"not computed, because {reason}")
        for reason in dict.fromkeys(reasons.values())
    ]
    partly = [
        (name, f"{nulls[name]:,} of {total:,} clips have none")
        for name in _OPTIONAL
        if nulls[name] and name not in reasons
    ]
    if not absent and not partly:
        return "<p>Every score was computed for every clip.</p>"
    return _list([*absent, *partly])


def _failures(failures: Mapping[str, int]) -> str:
    if not failures:
        return "<p>None.</p>"
    rows = sorted(failures.items(), key=lambda each: (-each[1], each[0]))
    return _table([("class", "videos"), *((kind, f"{count:,}") for kind, count in rows)])


def _ratings(folder: Path) -> str:
    """What people's votes say, where they were counted."""
    rows = [
        (each.item, each.axis.replace("_", " "), f"{each.rating:.1f}", "{:.1f} to {:.1f}".format(*each.ci95),
         f"{each.votes:,}")
        for path in sorted(folder.glob(f"*{elo.RATINGS}"))
        for each in elo.read_ratings(path)
    ]  # fmt: skip
    head = ("item", "axis", "Elo rating", "95 % interval", "votes")
    return f"<h2>Votes</h2>{_table([head, *rows])}" if rows else ""


def _origin(clips: Path, selection: Path | None, facts: Mapping[str, Any]) -> str:
    files = [clips, *([] if selection is None else [selection])]
    digests = [(f"SHA-256 of {path.name}", runs.sha256(path)) for path in files]
    told = [(name, _text(fact)) for name, fact in facts.items() if name != "not_computed"]
    rules = {} if selection is None else table.facts(selection)["rules"]
    asked = [
        (name, _text(rule)) for name, rule in rules.items() if rule not in (None, []) and rule is not False
    ]
    return _list([*told, *asked, *digests])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    lines = "".join(f"<tr>{cells}</tr>" for cells in body)
    return (
        f'<div class="wide"><table><thead><tr>{head.replace("td>", "th>")}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _list(items: Iterable[tuple[str, str]]) -> str:
    entries = (f"<li><code>{escape(name)}</code>: {escape(text)}</li>" for name, text in items)
    return "<ul>" + "".join(entries) + "</ul>"
