"""Pairs of prediction and reference in memory to a report: one arithmetic for files, demo and benchmark."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from svd3d import images as pictures
from svd3d.errors import (
    ConfigError,
    DependencyError,
    ImageError,
    InputError,
    MeshError,
    SampleError,
    Svd3dError,
)
from svd3d.metrics import catalog, geometry, page, pairing, report
from svd3d.metrics import images as measures
from svd3d.metrics.geometry import Surface
from svd3d.metrics.pairing import Views
from svd3d.metrics.protocols import Protocol
from svd3d.metrics.report import MetricReport, Row
from svd3d.sample import Sample

BASELINES = {
    "input-copied": pairing.input_copied,
    "input-copied-mirrored": pairing.input_copied_mirrored,
}
"""Methods that need no model: what a prediction must beat."""
RESAMPLED = "reference-resampled"
"""The reference against itself with other surface samples: the best score that sampling allows."""
SHOWN_OBJECTS = 12
"""Objects with pictures on the HTML page."""
_NOT_BUILT = {
    "lpips-alex": "LPIPS is not part of this version (it needs the package lpips and AlexNet weights)",
    "lpips-vgg": "LPIPS is not part of this version (it needs the package lpips and VGG-16 weights)",
    "clip-s-b32": "CLIP-S is not part of this version (it needs the weights of CLIP ViT-B/32)",
    "clip-s-l14": "CLIP-S is not part of this version (it needs the weights of CLIP ViT-L/14)",
}


@dataclass(frozen=True, eq=False)
class ViewPair:
    """One object: its reference views and what each method made of them."""

    object: str
    predictions: Mapping[str, Sample | Views]
    """By method."""
    reference: Sample | Views


@dataclass(frozen=True, eq=False)
class MeshPair:
    """One object: its reference surface and what each method made of it."""

    object: str
    predictions: Mapping[str, Surface]
    """By method."""
    reference: Surface


@dataclass
class _Gathered:
    """Rows so far, and the metrics or methods that fell out, with the error that explains each."""

    demanded: bool
    rows: list[Row] = field(default_factory=list)
    problems: dict[str, Svd3dError] = field(default_factory=dict)

    def miss(self, name: str, error: Svd3dError) -> None:
        """Note that `name` cannot be computed; raise when metrics were asked for by name."""
        if self.demanded:
            raise error
        self.problems.setdefault(name, error)

    def report(
        self,
        protocol: Protocol,
        measured: Mapping[str, Any],
        digests: Mapping[str, str] | None,
        strips: Mapping[str, bytes] | None = None,
    ) -> MetricReport:
        """The report of what could be computed for every object; the rest is named with its reason."""
        rows = [row for row in self.rows if not {row.metric, row.method} & set(self.problems)]
        reasons = {name: str(error) for name, error in self.problems.items()}
        return report.summarize(
            rows, protocol, measured=measured, digests=digests, not_computed=reasons, strips=strips
        )


def score_views(
    pairs: Iterable[ViewPair],
    *,
    protocol: Protocol,
    metrics: Sequence[str] = (),
    digests: Mapping[str, str] | None = None,
    notes: Iterable[str] = (),
) -> MetricReport:
    """Scores of views, one object at a time; baselines are added where the protocol has them.

    `metrics` given by name are demanded: what hinders one is raised (`InputError` or `DependencyError`)
    instead of noted in the report. `notes` is read when all pairs are done.
    """
    names = _names(metrics, protocol, kind="views")
    gathered = _Gathered(demanded=bool(metrics))
    sizes: dict[str, None] = {}
    strips: dict[str, bytes] = {}
    shown: list[str] = []
    for pair in pairs:
        check_methods(pair.predictions)
        reference = Views.of(pair.reference)
        predictions = {method: Views.of(views) for method, views in pair.predictions.items()}
        for prediction in predictions.values():
            pairing.check_pair(prediction, reference, protocol, where=pair.object)
        predictions |= _baselines(reference, protocol, gathered, where=pair.object)
        reference = _at_size(reference, protocol, where=pair.object)
        sizes[f"{reference.size[1]} x {reference.size[0]}"] = None
        drawn = {"reference": _colours(reference, protocol)}
        for method, views in predictions.items():
            prediction = _resized(views, reference.size, where=pair.object)
            drawn[method] = _colours(prediction, protocol)
            gathered.rows += _measure_views(
                prediction, reference, drawn[method], drawn["reference"], protocol, names, gathered,
                where=pair.object, method=method,
            )  # fmt: skip
        if len(strips) < SHOWN_OBJECTS:
            shown = list(drawn)
            strips[pair.object] = page.strip(list(drawn.values()))
    measured = {"sizes": list(sizes), "strip_rows": shown, "notes": list(notes)}
    return gathered.report(protocol, measured, digests, strips)


def evaluate_views(
    pred: Sample | Views,
    ref: Sample | Views,
    protocol: Protocol,
    metrics: Sequence[str] = (),
    *,
    object: str = "object",
    method: str = "prediction",
) -> list[Row]:
    """One row per view that counts and metric, without baselines.

    Metrics given by name are demanded; by default, those of the protocol that can be computed are.
    """
    pair = ViewPair(object, {method: pred}, ref)
    rows = score_views([pair], protocol=protocol, metrics=metrics).rows
    return [row for row in rows if row.method == method]


def score_meshes(
    pairs: Iterable[MeshPair],
    *,
    protocol: Protocol,
    metrics: Sequence[str] = (),
    digests: Mapping[str, str] | None = None,
    notes: Iterable[str] = (),
) -> MetricReport:
    """Scores of surfaces, and of each reference against itself sampled again (`reference-resampled`).

    `metrics` given by name are demanded, as in `score_views`. Raises `MeshError` naming the object for a
    surface that cannot be measured at all.
    """
    names = _names(metrics, protocol, kind="meshes")
    gathered = _Gathered(demanded=bool(metrics))
    for pair in pairs:
        check_methods(pair.predictions)
        for method, surface in {**pair.predictions, RESAMPLED: pair.reference}.items():
            alignment = protocol.alignment if method != RESAMPLED else "none"
            try:
                prediction, reference = geometry.align(surface, pair.reference, alignment)
                gathered.rows += _measure_meshes(
                    prediction, reference, protocol, names, gathered, where=pair.object, method=method
                )
            except MeshError as error:
                raise MeshError(f"{pair.object}: {method}: {error}") from error
    return gathered.report(protocol, {"notes": list(notes)}, digests)


def check_methods(methods: Iterable[str]) -> None:
    """Refuse names that would collide with the methods that every report adds."""
    for method in methods:
        if not method.strip() or method in (*BASELINES, RESAMPLED, *catalog.METRICS, "reference"):
            raise ConfigError(f"method: {method!r} is no name for a prediction; choose another --method")


def _names(metrics: Sequence[str], protocol: Protocol, *, kind: catalog.Kind) -> tuple[str, ...]:
    if protocol.kind != kind:
        raise ConfigError(f"protocol {protocol.name} compares {protocol.kind}, not {kind}")
    return catalog.expand(metrics or protocol.metrics, kind=kind, protocol=protocol.name)


def _baselines(reference: Views, protocol: Protocol, gathered: _Gathered, *, where: str) -> dict[str, Views]:
    if not protocol.baselines:
        return {}
    if reference.condition_view is None:
        reason = SampleError(f"{where}: the reference names no condition view to copy")
        for name in BASELINES:
            gathered.problems.setdefault(name, reason)
        return {}
    return {name: make(reference) for name, make in BASELINES.items()}


def _at_size(reference: Views, protocol: Protocol, *, where: str) -> Views:
    size = reference.size if protocol.size is None else (protocol.size, protocol.size)
    return _resized(reference, size, where=where)


def _resized(views: Views, size: tuple[int, int], *, where: str) -> Views:
    try:
        return views.resized(height=size[0], width=size[1])
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _colours(views: Views, protocol: Protocol) -> Float[np.ndarray, "v h w 3"]:
    return pictures.composite(views.images, background=protocol.background)


def _measure_views(
    prediction: Views,
    reference: Views,
    ours: Float[np.ndarray, "v h w 3"],
    theirs: Float[np.ndarray, "v h w 3"],
    protocol: Protocol,
    names: Sequence[str],
    gathered: _Gathered,
    *,
    where: str,
    method: str,
) -> list[Row]:
    views = pairing.scored_views(reference, protocol)
    ours, theirs = ours[views], theirs[views]
    our_alpha, their_alpha = (
        pictures.to_float(each.images[views, ..., 3:])[..., 0] for each in (prediction, reference)
    )
    compute = {
        "psnr": lambda: measures.psnr(ours, theirs),
        "ssim": lambda: measures.ssim(ours, theirs),
        "mse": lambda: measures.mse(ours, theirs),
        "foreground-psnr": lambda: measures.foreground_psnr(ours, theirs, their_alpha),
        "mask-iou": lambda: measures.mask_iou(our_alpha, their_alpha),
    }
    needs_outline = {"foreground-psnr": {"reference": reference},
                     "mask-iou": {"reference": reference, method: prediction}}  # fmt: skip
    rows = []
    for name in names:
        if name in _NOT_BUILT:
            gathered.miss(name, DependencyError(_NOT_BUILT[name]))
            continue
        opaque = [role for role, each in needs_outline.get(name, {}).items() if each.opaque]
        if opaque:
            gathered.miss(
                name, InputError(f"{where}: {opaque[0]}: no transparency in the views, so no outline")
            )
            continue
        try:
            values = compute[name]()
        except ImageError as error:
            gathered.miss(name, ImageError(f"{where}: {method}: {error}"))
            continue
        measured = zip(views, values, strict=True)
        rows += [Row(method, where, view, name, float(value)) for view, value in measured]
    return rows


def _measure_meshes(
    prediction: Surface,
    reference: Surface,
    protocol: Protocol,
    names: Sequence[str],
    gathered: _Gathered,
    *,
    where: str,
    method: str,
) -> list[Row]:
    stream = 2 if method == RESAMPLED else 1  # never the samples that the reference gets
    points, others = (
        geometry.sample_points(
            surface, protocol.surface_samples, generator=np.random.default_rng((protocol.seed, which))
        )
        for surface, which in ((prediction, stream), (reference, 0))
    )
    there, back = geometry.nearest_distances(points, others)
    rows = []
    for name in names:
        if name == "chamfer":
            value = geometry.chamfer(there, back)
        elif name.startswith("fscore-"):
            value = geometry.fscore(there, back, threshold=float(name.removeprefix("fscore-")))
        else:
            try:
                value = geometry.volume_iou(prediction, reference, resolution=protocol.iou_resolution)
            except (MeshError, DependencyError) as error:
                gathered.miss(name, type(error)(f"{where}: {method}: {error}"))
                continue
        rows.append(Row(method, where, None, name, value))
    return rows
