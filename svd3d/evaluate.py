"""Scores of predictions against references, from files or in memory, as reports that name their protocol.

    svd3d evaluate --pred generated/ --ref views/ --protocol svd-mv --out scores/

Reads sample folders, folders of them, plain folders of images and mesh files, so it can score anybody's
outputs. Objects meet by folder name or uid; a missing one is an error, never a smaller n. What cannot be
computed is named in the report with its reason, and is an error when it was asked for.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from svd3d import runs
from svd3d.errors import InputError
from svd3d.metrics import catalog, geometry, inputs, page, protocols, report
from svd3d.metrics.inputs import Match
from svd3d.metrics.report import MetricReport
from svd3d.metrics.scoring import (
    MeshPair,
    ViewPair,
    check_methods,
    evaluate_views,
    score_meshes,
    score_views,
)
from svd3d.sample import Sample
from svd3d.settings import EvaluateConfig

__all__ = ["MeshPair", "ViewPair", "evaluate_views", "run", "score_meshes", "score_views", "write"]

Watch = Callable[[Iterable[Any], int], Iterable[Any]]
"""Passes objects on while showing progress; gets their number."""


def run(config: EvaluateConfig, *, watch: Watch = lambda pairs, total: pairs) -> MetricReport:
    """Score `config.pred` against `config.ref` and write the report to `config.out`.

    Raises `ConfigError` for an unknown protocol or metric, `InputError` (and its kinds) for inputs that
    cannot be compared or do not allow a demanded metric, `DependencyError` for a demanded metric that needs
    what is not there. Nothing is written then.
    """
    start = time.monotonic()
    protocol = protocols.get(config.protocol)
    catalog.expand(config.metrics, kind=protocol.kind, protocol=protocol.name)
    check_methods([config.method])
    find = inputs.find_views if protocol.kind == "views" else inputs.find_meshes
    matches = inputs.match(find(config.pred, what="prediction"), find(config.ref, what="reference"))
    if config.out.resolve() in (config.pred.resolve(), config.ref.resolve()):
        raise InputError(f"{config.out}: is itself an input; choose another --out")
    runs.output_folder(config.out)

    digests: dict[str, str] = {}
    notes: dict[str, None] = {}  # in order, each once
    licences: set[str] = set()
    read = _view_pairs if protocol.kind == "views" else _mesh_pairs
    score = score_views if protocol.kind == "views" else score_meshes
    pairs = watch(read(matches, config.method, digests, notes, licences), len(matches))
    scores = score(pairs, protocol=protocol, metrics=config.metrics, digests=digests, notes=notes)

    runs.write_manifest(
        config.out,
        stage="evaluate",
        config=config,
        inputs={"pred": config.pred, "ref": config.ref},
        licences=licences,
        seconds={"total": time.monotonic() - start},
    )
    write(scores, config.out)
    return scores


def write(scores: MetricReport, folder: Path) -> None:
    """Write report.md, report.html and, last, report.json into an existing folder."""
    runs.write_file(folder / "report.md", report.to_markdown(scores))
    runs.write_file(folder / "report.html", page.to_html(scores))
    runs.write_json(folder / "report.json", scores.to_json())


def _view_pairs(
    matches: Sequence[Match], method: str, digests: dict[str, str], notes: dict[str, None], licences: set[str]
) -> Iterator[ViewPair]:
    """Views read one object at a time, so that memory does not grow with their number."""
    for match in matches:
        prediction, reference = inputs.read_views(match.prediction), inputs.read_views(match.reference)
        _digest(match, digests)
        for role, views in (("prediction", prediction), ("reference", reference)):
            if not isinstance(views, Sample):
                notes[f"{role}: plain folders of images, so cameras are not checked"] = None
            elif isinstance(licence := views.about.get("licence"), str):
                licences.add(licence)
        if not isinstance(reference, Sample):
            notes["reference: view 0 is taken as the condition view where the protocol asks for one"] = None
            _note_names(match, notes)
        if prediction.images.shape[1:3] != reference.images.shape[1:3]:
            notes["predictions of another size were resized (Lanczos on premultiplied colour)"] = None
        yield ViewPair(match.object, {method: prediction}, reference)


def _mesh_pairs(
    matches: Sequence[Match], method: str, digests: dict[str, str], notes: dict[str, None], licences: set[str]
) -> Iterator[MeshPair]:
    for match in matches:
        prediction, reference = geometry.read(match.prediction), geometry.read(match.reference)
        _digest(match, digests)
        for path in (match.prediction, match.reference):
            up = "+Y up, turned" if path.suffix.lower() in (".glb", ".gltf") else "+Z up, as stored"
            notes[f"{path.suffix.lower()} read as {up}"] = None
        yield MeshPair(match.object, {method: prediction}, reference)


def _digest(match: Match, digests: dict[str, str]) -> None:
    digests[f"prediction/{match.object}"] = runs.sha256(match.prediction)
    digests[f"reference/{match.object}"] = runs.sha256(match.reference)


def _note_names(match: Match, notes: dict[str, None]) -> None:
    """Say so when plain folders name their pictures differently and only the order pairs them."""
    ours, theirs = (
        [file.stem for file in inputs.picture_files(folder)] for folder in (match.prediction, match.reference)
    )
    if ours != theirs:
        notes["file names differ between prediction and reference; views are paired by their order"] = None
