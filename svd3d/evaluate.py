"""Scores of predictions against references, from files or in memory, as reports that name their protocol.

    svd3d evaluate --pred generated/ --ref views/ --protocol svd-mv --out scores/
    svd3d evaluate --pred ours=generated/ --pred peer=theirs/ --ref views/ --out scores/
    svd3d evaluate verify scores/

Reads sample folders, folders of them, plain folders of images and mesh files, so it can score anybody's
outputs. Objects meet by folder name or uid; a missing one is an error, never a smaller n. What cannot be
computed is named in the report with its reason, and is an error when it was asked for.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from svd3d import config as configs
from svd3d import runs, sample
from svd3d.errors import ConfigError, InputError, Svd3dError
from svd3d.metrics import catalog, geometry, inputs, page, protocols, report, tables
from svd3d.metrics.baselines import TrainingViews
from svd3d.metrics.inputs import Match
from svd3d.metrics.pairing import Views
from svd3d.metrics.protocols import Protocol
from svd3d.metrics.report import MetricReport, Row
from svd3d.metrics.scoring import (
    MeshPair,
    ViewPair,
    check_methods,
    evaluate_views,
    in_order,
    score_meshes,
    score_views,
)
from svd3d.metrics.semantic import Networks
from svd3d.sample import Sample
from svd3d.settings import EvaluateConfig, EvaluateVerifyConfig

__all__ = ["MeshPair", "ViewPair", "evaluate_views", "run", "score_meshes", "score_views", "verify", "write"]

Watch = Callable[[Iterable[Any], int], Iterable[Any]]
"""Passes objects on while showing progress; gets their number."""


def run(
    config: EvaluateConfig,
    *,
    watch: Watch = lambda pairs, total: pairs,
    only: Collection[str] | None = None,
    notes: Iterable[str] = (),
    rows: Iterable[Row] = (),
    costs: Mapping[str, Mapping[str, float]] | None = None,
) -> MetricReport:
    """Score `config.pred` against `config.ref` and write the report to `config.out`.

    `only` (names or uids) leaves out the other objects on all sides. `notes`, `rows` (measured elsewhere) and
    `costs` (per method, instead of what manifests state) are added to the report.

    Raises `ConfigError` for an unknown protocol or metric, `InputError` (and its kinds) for inputs that
    cannot be compared or do not allow a demanded metric, `DependencyError` for a demanded metric that needs
    what is not there. Nothing is written then.
    """
    start = time.monotonic()
    protocol = protocols.get(config.protocol)
    catalog.expand(config.metrics, kind=protocol.kind, protocol=protocol.name)
    named = _predictions(config)
    check_methods(named)
    find = inputs.find_views if protocol.kind == "views" else inputs.find_meshes
    matches = inputs.match(
        {method: find(path, what="prediction") for method, path in named.items()},
        find(config.ref, what="reference"),
        only=only,
    )
    if config.out.resolve() in {path.resolve() for path in (config.ref, *named.values())}:
        raise InputError(f"{config.out}: is itself an input; choose another --out")
    runs.output_folder(config.out)

    seen = _Seen(notes=dict.fromkeys(notes))
    common: dict[str, Any] = {
        "protocol": protocol, "metrics": config.metrics, "digests": seen.digests, "notes": seen.notes,
        "rows": rows, "costs": seen.costs if costs is None else costs,
    }  # fmt: skip
    if protocol.kind == "views":
        networks = Networks(config.lpips_weights, config.clip_b32, config.clip_l14, config.device)
        training = _training_views(config.training_views, protocol)
        pairs = watch(seen.pass_on(in_order(_read_views, matches)), len(matches))
        scores = score_views(pairs, networks=networks, training=training, **common)
    else:
        pairs = watch(seen.pass_on(in_order(_read_meshes, matches)), len(matches))
        scores = score_meshes(pairs, **common)

    paths = {key: path for match in matches for key, path in match.paths().items()}
    digests = {paths[key]: digest for key, digest in seen.digests.items()}
    runs.write_manifest(
        config.out,
        stage="evaluate",
        config=config,
        inputs=paths,
        licences=seen.licences,
        seconds={"total": time.monotonic() - start},
        digest=digests.__getitem__,
    )
    write(scores, config.out)
    return scores


def write(scores: MetricReport, folder: Path) -> None:
    """Write report.md, report.tex, report.html and, last, report.json into an existing folder.

    `verify` looks for the paths of the inputs in the folder's manifest.json, under the keys of the digests.
    """
    runs.write_file(folder / "report.md", tables.to_markdown(scores))
    runs.write_file(folder / "report.tex", tables.to_latex(scores))
    runs.write_file(folder / "report.html", page.to_html(scores))
    runs.write_json(folder / "report.json", scores.to_json())


@dataclass(frozen=True)
class Verified:
    """One fact of a report, looked at again."""

    uid: str
    """The key of an input's digest, or `protocol` or `figures`."""
    status: Literal["done", "failed"]
    path: Path
    message: str
    seconds: float


def verify(config: EvaluateVerifyConfig) -> list[Verified]:
    """Look at a report again: its inputs by their digests, its protocol, and its figures by their rows.

    Paths come from manifest.json beside the report. Raises `InputError` when one of the two cannot be read.
    """
    path = config.report / "report.json" if config.report.is_dir() else config.report
    content, manifest = (_read_json(each) for each in (path, path.with_name("manifest.json")))
    try:
        known = {key: Path(entry["path"]) for key, entry in manifest["inputs"].items()}
        checks = [
            ("protocol", path, lambda: _check_protocol(content)),
            ("figures", path, lambda: _check_figures(content)),
            *(
                (key, known.get(key, path), lambda k=key, d=digest: _check_input(known.get(k), d))
                for key, digest in content["digests"].items()
            ),
        ]
        return [_verified(*check) for check in checks]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path}: not a report of svd3d evaluate ({error!r}); evaluate again") from error


def _verified(uid: str, path: Path, check: Callable[[], str]) -> Verified:
    start = time.monotonic()
    fault = check()
    status = "failed" if fault else "done"
    return Verified(uid, status, path, fault or "as it was", time.monotonic() - start)


def _check_input(path: Path | None, digest: str) -> str:
    if path is None:
        return "the manifest names no path for it"
    if not path.exists():
        return f"{path}: no longer there; relative paths are taken from the folder of the command"
    return "" if runs.sha256(path) == digest else f"{path}: changed since it was scored"


def _check_protocol(content: Mapping[str, Any]) -> str:
    try:
        digest = _protocol(content).digest
    except Svd3dError as error:
        return f"not one of this version ({error})"
    return "" if digest == content["protocol"]["digest"] else "its fields or definitions give another digest"


def _check_figures(content: Mapping[str, Any]) -> str:
    """Whether means and intervals follow from the rows."""
    try:
        again = report.summarize([Row(**row) for row in content["rows"]], _protocol(content)).to_json()
    except Svd3dError as error:
        return f"cannot be computed from the rows ({error})"
    for method, scores in content["methods"].items():
        for metric, score in scores.items():
            now = again["methods"].get(method, {}).get(metric)
            if now is None or not np.allclose(_numbers(now), _numbers(score), rtol=1e-9, atol=1e-12):
                return f"{metric} of {method} does not follow from the rows"
    return ""


def _numbers(score: Mapping[str, Any]) -> list[float]:
    return [score["mean"], score["n"], *(score["ci95"] or (np.inf, np.inf))]


def _protocol(content: Mapping[str, Any]) -> Protocol:
    names = {each.name for each in dataclasses.fields(Protocol)}
    told = {name: value for name, value in content["protocol"].items() if name in names}
    return configs.build(Protocol, told, where="protocol")


def _read_json(path: Path) -> dict[str, Any]:
    runs.input_path(path, what="part of a report")
    try:
        return sample.as_dict(json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable JSON ({error}); evaluate again") from error


def _predictions(config: EvaluateConfig) -> dict[str, Path]:
    """Paths by method, from PATH or NAME=PATH."""
    named: dict[str, Path] = {}
    for given in config.pred:
        name, equals, path = given.partition("=")
        if not equals or Path(given).exists():
            name, path = config.method, given
        if name in named:
            raise ConfigError(f"pred: two predictions are called {name!r}; name each with --pred NAME=PATH")
        named[name] = Path(path).expanduser()
    return named


def _training_views(path: Path | None, protocol: Protocol) -> TrainingViews | None:
    if path is None or not protocol.baselines:
        return None
    found = inputs.find_views(path, what="training views")
    readers = [lambda each=each: Views.of(inputs.read_views(each)) for each in found.objects.values()]
    return TrainingViews.of(readers, protocol)


@dataclass
class _Read:
    """One object in memory, and what a report says about its files."""

    pair: ViewPair | MeshPair
    digests: dict[str, str]
    notes: list[str]
    licences: list[str]
    costs: dict[str, dict[str, float]]


@dataclass
class _Seen:
    """What was said about the files of all objects so far."""

    digests: dict[str, str] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    """In order, each once."""
    licences: set[str] = field(default_factory=set)
    costs: dict[str, dict[str, float]] = field(default_factory=dict)
    """Means over objects; a cost that one object does not state is none."""
    _objects: int = 0

    def pass_on(self, objects: Iterable[_Read]) -> Iterator[Any]:
        """The pairs, one at a time."""
        for each in objects:
            self.digests |= each.digests
            self.notes |= dict.fromkeys(each.notes)
            self.licences |= set(each.licences)
            self._add(each.costs)
            yield each.pair

    def _add(self, costs: Mapping[str, Mapping[str, float]]) -> None:
        before, self._objects = self._objects, self._objects + 1
        if before == 0:
            self.costs |= {method: dict(cost) for method, cost in costs.items()}
        for method, cost in self.costs.items():
            for name in [*cost]:
                if name in costs[method]:
                    cost[name] += (costs[method][name] - cost[name]) / self._objects
                else:
                    del cost[name]


def _read_views(match: Match) -> _Read:
    """Views of one object."""
    read = {key: inputs.read_views(path) for key, path in match.paths().items()}
    reference, *predictions = read.values()
    notes, licences = [], []
    for views in read.values():
        role = "reference" if views is reference else "prediction"
        if not isinstance(views, Sample):
            notes.append(f"{role}: plain folders of images, so cameras are not checked")
        elif isinstance(licence := views.about.get("licence"), str):
            licences.append(licence)
    if not isinstance(reference, Sample):
        notes.append("reference: view 0 is taken as the condition view where the protocol asks for one")
        notes += [
            note for path in match.predictions.values() if (note := _names_differ(path, match.reference))
        ]
    if any(each.images.shape[1:3] != reference.images.shape[1:3] for each in predictions):
        notes.append("predictions of another size were resized")
    pair = ViewPair(match.object, dict(zip(match.predictions, predictions, strict=True)), reference)
    return _read(match, pair, notes, licences)


def _read_meshes(match: Match) -> _Read:
    """Meshes of one object."""
    read = {key: geometry.read(path) for key, path in match.paths().items()}
    reference, *predictions = read.values()
    notes = []
    for path in match.paths().values():
        up = "+Y up, turned" if path.suffix.lower() in (".glb", ".gltf") else "+Z up, as stored"
        notes.append(f"{path.suffix.lower()} read as {up}")
    pair = MeshPair(match.object, dict(zip(match.predictions, predictions, strict=True)), reference)
    return _read(match, pair, notes, [])


def _read(match: Match, pair: ViewPair | MeshPair, notes: list[str], licences: list[str]) -> _Read:
    digests = {key: runs.sha256(path) for key, path in match.paths().items()}
    costs = {method: _stated_costs(path) for method, path in match.predictions.items()}
    return _Read(pair, digests, notes, licences, costs)


def _stated_costs(path: Path) -> dict[str, float]:
    """Seconds per part that the manifest of a prediction states; a mesh and renders share one manifest."""
    beside = path.parent if path.is_file() or path.name.startswith("renders") else path
    try:
        content = json.loads((beside / "manifest.json").read_text(encoding="utf-8"))
        return {f"{part} (s)": float(seconds) for part, seconds in content["seconds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _names_differ(prediction: Path, reference: Path) -> str:
    """A note when plain folders name their pictures differently and only the order pairs them."""
    ours, theirs = (
        [file.stem for file in inputs.picture_files(folder)] for folder in (prediction, reference)
    )
    if ours == theirs:
        return ""
    return "file names differ between prediction and reference; views are paired by their order"
