"""Rows to means and intervals, and the report that holds both: JSON for programs, Markdown for people.

    report.json = {"protocol": {...}, "methods": {NAME: {METRIC: {"mean", "ci95": [lo, hi] | null, "n",
                   "unit", "higher_is_better"}}}, "rows": [{"method", "object", "view", "metric", "value"}],
                   "digests": {...}, "not_computed": {METRIC OR METHOD: reason}}

`ci95` is null when n is 1: one number has no spread. All methods of a report have the same objects and
views for a metric; a hole is an error, never a smaller n.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from svd3d.errors import InputError
from svd3d.metrics.catalog import METRICS
from svd3d.metrics.protocols import Protocol


@dataclass(frozen=True)
class Row:
    """One measured number."""

    method: str
    object: str
    view: int | None
    """Index of the view; None for what belongs to the whole object."""
    metric: str
    value: float


@dataclass(frozen=True)
class Score:
    """One metric of one method over all objects."""

    mean: float
    ci95: tuple[float, float] | None
    n: int
    """What the interval is over: objects, or views when there is one object."""
    unit: str
    higher_is_better: bool


@dataclass(frozen=True)
class MetricReport:
    """Scores of methods under one protocol, with every number they were made from."""

    protocol: dict[str, Any]
    """The protocol's fields, its `digest`, the metrics' `definitions`, and `measured`: counts, notes."""
    methods: dict[str, dict[str, Score]]
    rows: tuple[Row, ...]
    digests: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each input, by role and object."""
    not_computed: dict[str, str] = field(default_factory=dict)
    """Metrics and methods that are missing, and why."""
    strips: dict[str, bytes] = field(default_factory=dict, repr=False)
    """A PNG per object for the HTML page; not part of the JSON."""

    def to_json(self) -> dict[str, Any]:
        """The report as JSON types."""
        return {
            "protocol": self.protocol,
            "methods": {
                name: {metric: dataclasses.asdict(score) | {"ci95": score.ci95 and list(score.ci95)}
                       for metric, score in scores.items()}
                for name, scores in self.methods.items()
            },
            "rows": [dataclasses.asdict(row) for row in self.rows],
            "digests": self.digests,
            "not_computed": self.not_computed,
        }  # fmt: skip


def summarize(
    rows: Iterable[Row],
    protocol: Protocol,
    *,
    measured: Mapping[str, Any] | None = None,
    digests: Mapping[str, str] | None = None,
    not_computed: Mapping[str, str] | None = None,
    strips: Mapping[str, bytes] | None = None,
) -> MetricReport:
    """Means and intervals of rows under a protocol.

    Raises `InputError` naming method, metric and object when a method lacks rows that another one has.
    """
    rows = tuple(rows)
    if not rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in (not_computed or {}).items())
        raise InputError(f"nothing could be measured ({reasons or 'no objects'})")
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    places: dict[str, dict[str, list[tuple[str, int]]]] = {}
    for row in rows:
        by_object = values.setdefault(row.method, {}).setdefault(row.metric, {})
        by_object.setdefault(row.object, []).append(row.value)
        place = (row.object, -1 if row.view is None else row.view)
        places.setdefault(row.metric, {}).setdefault(row.method, []).append(place)
    for metric, by_method in places.items():
        _check_complete(metric, by_method)
    count = len({row.object for row in rows})
    one = "views" if protocol.kind == "views" else "nothing"
    methods = {
        method: {metric: _score(metric, by_object, protocol) for metric, by_object in by_metric.items()}
        for method, by_metric in values.items()
    }
    computed = {row.metric: METRICS[row.metric].definition for row in rows}
    facts = {
        **protocol.plain(),
        "digest": protocol.digest,
        "definitions": computed,
        "measured": {
            "objects": count,
            "interval_over": "objects" if count > 1 else one,
            **(measured or {}),
        },
    }
    return MetricReport(
        facts, methods, rows, dict(digests or {}), dict(not_computed or {}), dict(strips or {})
    )


def interval(values: Float[np.ndarray, "n"], *, resamples: int, seed: int) -> tuple[float, float] | None:
    """95 % bootstrap interval of the mean (percentiles of resampled means); None for fewer than two values.

    The same seed and count resample the same objects, whatever the metric or method.
    """
    if len(values) < 2:
        return None
    generator = np.random.default_rng(seed)
    chunk = max(1, 4_000_000 // len(values))  # bounds the memory for many objects
    means = []
    for start in range(0, resamples, chunk):
        chosen = generator.integers(len(values), size=(min(chunk, resamples - start), len(values)))
        means.append(values[chosen].mean(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)


def to_markdown(report: MetricReport) -> str:
    """The figures of the report as Markdown tables."""
    measured = report.protocol["measured"]
    lines = [
        f"# Scores under protocol `{report.protocol['name']}`",
        "",
        f"{report.protocol['about']}",
        "",
        f"{interval_text(report)} Protocol digest `{report.protocol['digest'][:16]}`.",
        "",
    ]
    header, *body = table(report)
    cells = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    lines += ["| " + " | ".join(_cell(text) for text in row) + " |" for row in cells]
    if report.not_computed:
        lines += ["", "Not computed:", ""]
        lines += [f"- {_cell(name)}: {reason}" for name, reason in report.not_computed.items()]
    lines += ["", "How each number is made:", ""]
    lines += [f"- {name}: {text}" for name, text in report.protocol["definitions"].items()]
    for note in measured.get("notes", []):
        lines.append(f"- note: {_cell(note)}")
    return "\n".join(lines) + "\n"


def table(report: MetricReport) -> list[list[str]]:
    """The scores as text, header first: one row per method, one column per metric."""
    names = list(dict.fromkeys(metric for scores in report.methods.values() for metric in scores))
    header = ["method"]
    header += [
        f"{name} ({METRICS[name].unit}) {'↑' if METRICS[name].higher_is_better else '↓'}" for name in names
    ]
    body = [
        [method, *(figure(name, scores[name]) if name in scores else "–" for name in names)]
        for method, scores in report.methods.items()
    ]
    return [header, *body]


def figure(metric: str, score: Score) -> str:
    """A score as it stands in a table: mean [low, high].

    >>> figure("psnr", Score(20.126, (19.0, 21.25), 30, "dB", True))
    '20.13 [19.00, 21.25]'
    """
    digits = METRICS[metric].digits
    spread = f" [{score.ci95[0]:.{digits}f}, {score.ci95[1]:.{digits}f}]" if score.ci95 else ""
    return f"{score.mean:.{digits}f}{spread}"


def interval_text(report: MetricReport) -> str:
    """How many objects, and what the brackets are."""
    measured = report.protocol["measured"]
    count, over = measured["objects"], measured["interval_over"]
    if over == "nothing":
        return "One object, so there is no interval."
    n = ", ".join(
        map(str, sorted({score.n for scores in report.methods.values() for score in scores.values()}))
    )
    objects = "1 object" if count == 1 else f"{count} objects"
    return f"{objects}. Brackets: 95 % bootstrap interval of the mean over {over} (n = {n})."


def _score(metric: str, by_object: Mapping[str, Sequence[float]], protocol: Protocol) -> Score:
    means = [float(np.mean(values)) for values in by_object.values()]
    units = means if len(means) > 1 else next(iter(by_object.values()))
    spread = interval(np.asarray(units, np.float64), resamples=protocol.bootstrap_samples, seed=protocol.seed)
    facts = METRICS[metric]
    return Score(float(np.mean(means)), spread, len(units), facts.unit, facts.higher_is_better)


def _check_complete(metric: str, by_method: Mapping[str, Sequence[tuple[str, int]]]) -> None:
    everything = {place for places in by_method.values() for place in places}
    for method, places in by_method.items():
        missing = sorted(everything - set(places))
        if missing:
            name, view = missing[0]
            which = f"object {name}" + (f" view {view}" if view >= 0 else "")
            raise InputError(
                f"{method}: no {metric} for {which}, which another method has; score the same objects"
            )
        if len(places) != len(everything):
            raise InputError(
                f"{method}: {metric} was measured twice for the same object; give each object once"
            )


def _cell(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")
