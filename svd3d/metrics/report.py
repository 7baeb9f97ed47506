"""Rows to means and intervals, and the report that holds both; `tables` and `page` show it to people.

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
from svd3d.metrics.baselines import BASELINES, NEED_TRAINING
from svd3d.metrics.catalog import METRICS
from svd3d.metrics.protocols import Protocol

REFERENCE = "reference"
"""The method of what the reference has without being compared."""
RESAMPLED = "reference-resampled"
"""The reference against itself with other surface samples: the best score that sampling allows."""
RESERVED = (*BASELINES, *NEED_TRAINING, REFERENCE, RESAMPLED)
"""Methods that a report adds by itself."""


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
    """A PNG per object, from the worst to the best, for the HTML page; not part of the JSON."""
    strip_rows: tuple[str, ...] = ()
    """What each row of such a picture shows."""
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    """Time and memory by method; not part of the JSON, which is the same whenever the inputs are."""

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
    strip_rows: Iterable[str] = (),
    costs: Mapping[str, Mapping[str, float]] | None = None,
) -> MetricReport:
    """Means and intervals of rows under a protocol.

    Raises `InputError` naming method, metric and object when a method lacks rows that another one has.
    """
    rows = tuple(rows)
    if not rows:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in (not_computed or {}).items())
        raise InputError(f"nothing could be measured ({reasons or 'no objects'})")
    places: dict[str, dict[str, list[tuple[str, int]]]] = {}
    for row in rows:
        place = (row.object, -1 if row.view is None else row.view)
        places.setdefault(row.metric, {}).setdefault(row.method, []).append(place)
    for metric, by_method in places.items():
        _check_complete(metric, by_method)
    count = len({row.object for row in rows})
    one = "views" if protocol.kind == "views" else "nothing"
    methods = {
        method: {metric: _score(metric, values, protocol) for metric, values in by_metric.items()}
        for method, by_metric in by_object(rows).items()
    }
    computed = {metric: protocol.definition(metric) for metric in places}
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
        facts,
        methods,
        rows,
        dict(digests or {}),
        dict(not_computed or {}),
        dict(strips or {}),
        tuple(strip_rows),
        {name: dict(cost) for name, cost in (costs or {}).items()},
    )


def by_object(rows: Iterable[Row]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """The values of rows, by method, metric and object."""
    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        of_metric = values.setdefault(row.method, {}).setdefault(row.metric, {})
        of_metric.setdefault(row.object, []).append(row.value)
    return values


@dataclass(frozen=True)
class Difference:
    """How much a method's score lies above another's, on the same objects."""

    mean: float
    ci95: tuple[float, float] | None
    """None when there is one value only."""

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.ci95 is not None and not self.ci95[0] <= 0 <= self.ci95[1]


def differences(report: MetricReport, method: str, other: str) -> dict[str, Difference]:
    """Paired differences, `method` minus `other`, by metric: of each object (or each view of the only one).

    Objects differ more than methods do, so this interval is far smaller than those of the two means.
    """
    values = by_object(report.rows)
    found = {}
    for metric, ours in values[method].items():
        if metric in values[other]:
            theirs = values[other][metric]
            units = [float(np.mean(ours[name]) - np.mean(theirs[name])) for name in ours]
            if len(units) == 1:
                units = [a - b for name in ours for a, b in zip(ours[name], theirs[name], strict=True)]
            settings = {"resamples": report.protocol["bootstrap_samples"], "seed": report.protocol["seed"]}
            found[metric] = Difference(float(np.mean(units)), interval(np.asarray(units), **settings))
    return found


def predictions(report: MetricReport) -> list[str]:
    """The methods that are compared, the first one first: all but baselines and the reference itself."""
    return [method for method in report.methods if method not in RESERVED]


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
