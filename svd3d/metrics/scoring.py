"""Pairs of prediction and reference in memory to a report: one arithmetic for files, demo and benchmark."""

import bisect
import dataclasses
import functools
import os
import resource
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, UInt8

from svd3d import images as pictures
from svd3d.errors import (
    ConfigError,
    DependencyError,
    InputError,
    MeshError,
    SampleError,
    Svd3dError,
)
from svd3d.metrics import (
    alignment,
    catalog,
    consistency,
    geometry,
    page,
    pairing,
    peer_meshes,
    report,
    semantic,
)
from svd3d.metrics import images as measures
from svd3d.metrics.baselines import BASELINES, NEED_TRAINING, TrainingViews
from svd3d.metrics.geometry import Surface
from svd3d.metrics.pairing import Views
from svd3d.metrics.protocols import Protocol
from svd3d.metrics.report import REFERENCE, RESAMPLED, MetricReport, Row
from svd3d.metrics.semantic import Measure, Networks
from svd3d.metrics.tables import SHOWN_EACH
from svd3d.sample import Sample

T = TypeVar("T")
U = TypeVar("U")
CONSISTENCY = "reprojection-psnr"
"""The metric of a set of views by itself."""
MAX_WORKERS = 8
"""Objects scored at once, at most: each holds its views in memory."""
_DEFAULT_NETWORKS = Networks()
_ONE_AT_A_TIME = threading.Lock()
"""For networks, which use all processors by themselves and share one GPU."""


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
    """Metrics were asked for by name, so what hinders one is an error."""
    rows: list[Row] = field(default_factory=list)
    problems: dict[str, Svd3dError] = field(default_factory=dict)

    def miss(self, name: str, error: Svd3dError) -> None:
        """Note that `name` cannot be computed; raise when metrics were asked for by name."""
        if self.demanded:
            raise error
        self.problems.setdefault(name, error)

    def take(self, other: "_Gathered") -> None:
        """Add what was gathered elsewhere."""
        self.rows += other.rows
        self.problems = {**other.problems, **self.problems}

    def report(self, protocol: Protocol, **facts: Any) -> MetricReport:
        """The report of what could be computed for every object; the rest is named with its reason."""
        rows = [row for row in self.rows if not {row.metric, row.method} & set(self.problems)]
        reasons = {name: str(error).removeprefix(f"{name}: ") for name, error in self.problems.items()}
        return report.summarize(rows, protocol, not_computed=reasons, **facts)


@dataclass
class _Scored(_Gathered):
    """What one object gave."""

    object: str = ""
    size: tuple[int, int] = (0, 0)
    pictures: dict[str, UInt8[np.ndarray, "h _w 3"]] = field(default_factory=dict)
    """A row of small views per method."""
    moves: dict[str, list[list[float]]] = field(default_factory=dict)
    """How each predicted surface was moved: x_new = move @ (x, 1)."""


def score_views(
    pairs: Iterable[ViewPair],
    *,
    protocol: Protocol,
    metrics: Sequence[str] = (),
    digests: Mapping[str, str] | None = None,
    notes: Iterable[str] = (),
    networks: Networks = _DEFAULT_NETWORKS,
    training: TrainingViews | None = None,
    rows: Iterable[Row] = (),
    costs: Mapping[str, Mapping[str, float]] | None = None,
) -> MetricReport:
    """Scores of views, several objects at a time; baselines are added where the protocol has them.

    `metrics` given by name are demanded: what hinders one is raised (`InputError` or `DependencyError`)
    instead of noted in the report. `training` allows the baselines that need training views. `digests`,
    `notes`, `rows` (measured elsewhere) and `costs` (per method, for the table of time and memory) are read
    when all pairs are done.
    """
    start = time.monotonic()
    names = _names(metrics, protocol, kind="views")
    gathered = _Gathered(demanded=bool(metrics))
    loaded = _load(names, networks, gathered)
    if protocol.baselines and training is None:
        missing = InputError("no training views were given (--training-views DIR)")
        gathered.problems |= dict.fromkeys(NEED_TRAINING, missing)
    sizes: dict[str, None] = {}
    shown = _Extremes()

    def score(pair: ViewPair) -> _Scored:
        return _score_views(pair, protocol, names, loaded, training, demanded=gathered.demanded)

    for scored in in_order(score, pairs):
        gathered.take(scored)
        sizes[f"{scored.size[1]} x {scored.size[0]}"] = None
        shown.offer(scored)
    measured: dict[str, Any] = {"sizes": list(sizes), "notes": [*notes, *_identical(gathered.rows)]}
    if loaded:
        measured["networks"] = {name: dict(measure.facts) for name, measure in loaded.items()}
    gathered.rows += rows
    return gathered.report(
        protocol, measured=measured, digests=digests, strips=shown.strips(), strip_rows=shown.methods(),
        costs=_costs(costs, start),
    )  # fmt: skip


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
    rows = score_views([pair], protocol=dataclasses.replace(protocol, baselines=False), metrics=metrics).rows
    return [row for row in rows if row.method == method]


def score_meshes(
    pairs: Iterable[MeshPair],
    *,
    protocol: Protocol,
    metrics: Sequence[str] = (),
    digests: Mapping[str, str] | None = None,
    notes: Iterable[str] = (),
    rows: Iterable[Row] = (),
    costs: Mapping[str, Mapping[str, float]] | None = None,
) -> MetricReport:
    """Scores of surfaces; where they are sampled, also of each reference against itself sampled again.

    `metrics`, `digests`, `notes`, `rows` and `costs` as in `score_views`. Raises `MeshError` naming the
    object for a surface that cannot be measured at all. The report holds how each prediction was moved.
    """
    start = time.monotonic()
    names = _names(metrics, protocol, kind="meshes")
    gathered = _Gathered(demanded=bool(metrics))
    moves: dict[str, Any] = {}

    def score(pair: MeshPair) -> _Scored:
        return _score_meshes(pair, protocol, names, demanded=gathered.demanded)

    for scored in in_order(score, pairs):
        gathered.take(scored)
        moves |= {f"{method}/{scored.object}": move for method, move in scored.moves.items()}
    gathered.rows += rows
    measured = {"notes": list(notes), "moves": moves}
    return gathered.report(protocol, measured=measured, digests=digests, costs=_costs(costs, start))


def check_methods(methods: Iterable[str]) -> None:
    """Refuse names that would collide with the methods that every report adds."""
    for method in methods:
        if not method.strip() or method in (*report.RESERVED, *catalog.METRICS):
            raise ConfigError(f"method: {method!r} is no name for a prediction; choose another --method")


def in_order(function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """Results in the order of the items, a few of which are worked on at once by threads.

    Decoding and array arithmetic let other threads run. Only as many items are taken ahead as are worked on.
    """
    workers = min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[U]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Extremes:
    """The objects with the lowest and the highest score so far, and their pictures."""

    def __init__(self) -> None:
        self._shown: list[tuple[float, str, dict[str, Any]]] = []

    def offer(self, scored: _Scored) -> None:
        """Keep the object when it is among the worst or best by the first metric of the first method."""
        if not scored.rows:
            return
        first = scored.rows[0]
        alike = [row for row in scored.rows if (row.method, row.metric) == (first.method, first.metric)]
        score = float(np.mean([row.value for row in alike]))
        sign = 1 if catalog.METRICS[first.metric].higher_is_better else -1
        bisect.insort(self._shown, (sign * score, scored.object, scored.pictures))
        if len(self._shown) > 2 * SHOWN_EACH:
            del self._shown[SHOWN_EACH]

    def methods(self) -> list[str]:
        """What the rows of every picture show, from top to bottom."""
        return list(self._shown[0][2]) if self._shown else []

    def strips(self) -> dict[str, bytes]:
        """A PNG per object, from the worst to the best."""
        return {name: page.stacked(list(rows.values())) for _, name, rows in self._shown}


def _names(metrics: Sequence[str], protocol: Protocol, *, kind: catalog.Kind) -> tuple[str, ...]:
    if protocol.kind != kind:
        raise ConfigError(f"protocol {protocol.name} compares {protocol.kind}, not {kind}")
    names = catalog.expand(metrics or protocol.metrics, kind=kind, protocol=protocol.name)
    if "normal-consistency" in names and protocol.points != "surface":
        raise ConfigError(
            f"metrics: normal-consistency: the {protocol.points} points of protocol "
            f"{protocol.name} have no normals; use --protocol mesh"
        )
    return names


def _load(names: Sequence[str], networks: Networks, gathered: _Gathered) -> dict[str, Measure]:
    """The networks that the metrics need; one that cannot be had is a metric that cannot be computed."""
    loaded = {}
    for name in names:
        try:
            if name in semantic.METRICS:
                loaded[name] = semantic.load(name, networks)
            elif name == "camera-fit":
                raise DependencyError("camera-fit: known to reconstructions only; use svd3d benchmark")
        except DependencyError as error:
            gathered.miss(name, error)
    return loaded


def _costs(costs: Mapping[str, Mapping[str, float]] | None, start: float) -> dict[str, dict[str, float]]:
    """What others cost, and what scoring did."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    own = {"all objects (s)": time.monotonic() - start, "peak memory (GB)": peak}
    return {**{method: dict(cost) for method, cost in (costs or {}).items() if cost}, "scoring": own}


def _identical(rows: Iterable[Row]) -> list[str]:
    """Notes on views that lift a mean of decibels without being good."""
    best = [row.method for row in rows if row.metric == "psnr" and row.value == measures.MAX_PSNR_DB]
    fact = f"views identical to the reference, which count as {measures.MAX_PSNR_DB:g} dB"
    return [f"{method}: {fact}: {best.count(method)}" for method in dict.fromkeys(best)]


def _score_views(
    pair: ViewPair,
    protocol: Protocol,
    names: Sequence[str],
    loaded: Mapping[str, Measure],
    training: TrainingViews | None,
    *,
    demanded: bool,
) -> _Scored:
    """Everything about one object."""
    check_methods(pair.predictions)
    reference = Views.of(pair.reference)
    predictions = {method: Views.of(views) for method, views in pair.predictions.items()}
    for prediction in predictions.values():
        pairing.check_pair(prediction, reference, protocol, where=pair.object)
    views = pairing.scored_views(reference, protocol)
    size = reference.size if protocol.size is None else (protocol.size, protocol.size)
    scored = _Scored(demanded, object=pair.object, size=size)
    made = _baselines(reference, protocol, training, scored)
    theirs = _Drawn.of(reference, views, protocol, size, where=pair.object)
    scored.pictures[REFERENCE] = theirs.thumbnails()
    for method, prediction in {**predictions, **made}.items():
        shown = views if len(prediction) == len(reference) else _places(views, protocol)
        ours = _Drawn.of(prediction, shown, protocol, size, where=pair.object)
        scored.pictures[method] = ours.thumbnails()
        for place, view in enumerate(views):
            pixels = _pixel_comparisons(ours, theirs, place, view=view)
            _measure(pixels, names, scored, views=[view], method=method)
        compute = _network_comparisons(ours, theirs, loaded)
        if method in predictions:
            compute[CONSISTENCY] = lambda each=prediction: _consistency(each, reference)[views]
        _measure(compute, names, scored, views=views, method=method)
    if CONSISTENCY in names and CONSISTENCY not in scored.problems:
        if reference.depth is None:  # every prediction came with its own
            scored.problems[REFERENCE] = SampleError(f"{pair.object}: the reference has no depth")
        else:
            own = {CONSISTENCY: lambda: _consistency(reference, reference)[views]}
            _measure(own, names, scored, views=views, method=REFERENCE)
    methods = [*predictions, *made, REFERENCE]
    scored.rows.sort(key=lambda row: (methods.index(row.method), names.index(row.metric)))
    return scored


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Views that count, at the size that counts."""

    images: UInt8[np.ndarray, "v h w 4"]
    protocol: Protocol

    @classmethod
    def of(
        cls, shown: Views, views: list[int], protocol: Protocol, size: tuple[int, int], *, where: str
    ) -> "_Drawn":
        try:
            chosen = shown.images if views == list(range(len(shown))) else shown.images[views]
            images = pairing.at_size(chosen, protocol, height=size[0], width=size[1])
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        return cls(images, protocol)

    @functools.cached_property
    def colours(self) -> Float[np.ndarray, "v h w 3"]:
        """Over the background, in [0, 1]."""
        return pairing.colours(self.images, self.protocol)

    @functools.cached_property
    def opaque(self) -> bool:
        return Views(self.images).opaque

    def thumbnails(self) -> UInt8[np.ndarray, "t _w 3"]:
        """A few of the views, for the page."""
        return page.thumbnails(self.images, background=self.protocol.background)

    def outline(self, role: str, place: int, part: tuple[slice, slice]) -> Float[np.ndarray, "1 h w"]:
        """The alpha of part of a view, in [0, 1]."""
        if self.opaque:
            raise InputError(f"{role} has no transparency in the views, so no outline")
        return pictures.to_float(self.images[place][None, *part, 3])


def _pixel_comparisons(
    ours: _Drawn, theirs: _Drawn, place: int, *, view: int
) -> dict[str, Callable[[], Float[np.ndarray, "1"]]]:
    """How each metric of the pixels of one view is computed, by name.

    View by view, and only where either picture shows anything: arithmetic on what fits into the processor's
    cache is several times faster.
    """
    protocol, images = theirs.protocol, (ours.images[place], theirs.images[place])
    height, width = images[0].shape[:2]
    whole = (height, width)
    part = pairing.part_that_shows(*images, margin=measures.MARGIN)
    x, y = (pairing.colours(image[None, *part], protocol) for image in images)
    window = "uniform" if protocol.ssim == "uniform" else "gaussian"
    data_range = None if protocol.ssim == "gaussian-observed-range" else 1.0
    return {
        "psnr": lambda: measures.psnr(x, y, whole=whole),
        "ssim": lambda: measures.ssim(x, y, window=window, data_range=data_range, whole=whole),
        "ssim-with-border": lambda: measures.ssim(x, y, data_range=None, border=True, whole=whole),
        "mse": lambda: measures.mse(x, y, whole=whole),
        "foreground-psnr": lambda: measures.foreground_psnr(
            x, y, theirs.outline("the reference", place, part), first_view=view
        ),
        "mask-iou": lambda: measures.mask_iou(
            ours.outline("the prediction", place, part), theirs.outline("the reference", place, part)
        ),
    }


def _network_comparisons(
    ours: _Drawn, theirs: _Drawn, loaded: Mapping[str, Measure]
) -> dict[str, Callable[[], Float[np.ndarray, "v"]]]:
    """How each metric of networks is computed for all views, by name."""

    def compute(measure: Measure) -> Float[np.ndarray, "v"]:
        with _ONE_AT_A_TIME:
            return measure(ours.colours, theirs.colours)

    return {name: lambda each=measure: compute(each) for name, measure in loaded.items()}


def _consistency(views: Views, reference: Views) -> Float[np.ndarray, "v"]:
    """How well views agree with each other, by their own depth or else by the reference's."""
    source = views if views.depth is not None and views.cameras is not None else reference
    if source.cameras is None:
        raise InputError("cameras are not known")
    if len(views) != len(source):
        raise InputError(f"{len(views)} views and depth for {len(source)}")
    height, width = source.size
    if views.size != source.size:
        images = np.stack([pictures.resize(image, height=height, width=width) for image in views.images])
    else:
        images = views.images
    return consistency.reprojection_psnr(images, source.depth, source.cameras)


def _measure(
    compute: Mapping[str, Callable[[], Iterable[float]]],
    names: Sequence[str],
    scored: _Scored,
    *,
    views: Sequence[int | None],
    method: str,
) -> None:
    """Add the rows of a method, and note what cannot be computed."""
    for name in names:
        if name not in compute:
            continue
        try:
            values = compute[name]()
        except (InputError, MeshError, DependencyError) as error:
            scored.miss(name, type(error)(f"{scored.object}: {method}: {error}"))
            continue
        measured = zip(views, values, strict=True)
        scored.rows += [Row(method, scored.object, view, name, float(value)) for view, value in measured]


def _places(views: list[int], protocol: Protocol) -> list[int]:
    """Where the views that count lie in a prediction that holds nothing else."""
    return [list(protocol.views or ()).index(view) for view in views]


def _baselines(
    reference: Views, protocol: Protocol, training: TrainingViews | None, scored: _Scored
) -> dict[str, Views]:
    if not protocol.baselines:
        return {}
    makers = dict(BASELINES)
    if training is not None:
        makers |= training.baselines()
    made = {}
    for name, make in makers.items():
        try:
            made[name] = make(reference, protocol)
        except SampleError as error:
            scored.problems[name] = SampleError(f"{scored.object}: {error}")
    return made


def _score_meshes(pair: MeshPair, protocol: Protocol, names: Sequence[str], *, demanded: bool) -> _Scored:
    """Everything about one object."""
    check_methods(pair.predictions)
    scored = _Scored(demanded, object=pair.object)
    surfaces = dict(pair.predictions)
    if protocol.points == "surface":
        surfaces[RESAMPLED] = pair.reference
    for method, surface in surfaces.items():
        again = method == RESAMPLED
        try:
            aligned = alignment.align(surface, pair.reference, "none" if again else protocol.alignment)
            ours = _points(aligned.prediction, protocol, stream=2 if again else 1)
            theirs = _points(aligned.reference, protocol, stream=0)  # never the samples that another gets
        except MeshError as error:
            raise MeshError(f"{pair.object}: {method}: {error}") from error
        if not again:
            scored.moves[method] = aligned.prediction_move.round(6).tolist()
        _measure(
            _surface_comparisons(aligned, ours, theirs, protocol), names, scored, views=[None], method=method
        )
    return scored


def _surface_comparisons(
    aligned: alignment.Aligned, ours: geometry.Samples, theirs: geometry.Samples, protocol: Protocol
) -> dict[str, Callable[[], list[float]]]:
    """How each metric of a surface is computed, by name."""
    near = geometry.neighbours(ours.points, theirs.points)
    surfaces = (aligned.prediction, aligned.reference)
    volume_iou = peer_meshes.mesh2sdf_iou if protocol.volume == "mesh2sdf" else geometry.volume_iou

    def fscore(threshold: float) -> list[float]:
        return [geometry.fscore(near.there, near.back, threshold=threshold)]

    return {
        "chamfer": lambda: [geometry.chamfer(near.there, near.back)],
        "chamfer-squared": lambda: [geometry.chamfer_squared(near.there, near.back)],
        "fscore-0.01": lambda: fscore(0.01),
        "fscore-0.02": lambda: fscore(0.02),
        "normal-consistency": lambda: [geometry.normal_consistency(ours.normals, theirs.normals, near)],
        "iou": lambda: [volume_iou(*surfaces, resolution=protocol.iou_resolution)],
    }


def _points(surface: Surface, protocol: Protocol, *, stream: int) -> geometry.Samples:
    """The points of a surface between which the protocol takes distances."""
    if protocol.points == "surface":
        generator = np.random.default_rng((protocol.seed, stream))
        return geometry.sample_surface(surface, protocol.surface_samples, generator=generator)
    visible = protocol.points == "visible"
    points = peer_meshes.visible_points(surface) if visible else surface.vertices.astype(np.float64)
    return geometry.Samples(points, np.zeros_like(points))
