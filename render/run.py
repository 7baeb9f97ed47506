"""The render stage: 3-D files to sample folders.

Blender runs in child processes (`render.pool`); this side owns the mathematics of cameras, checks what
comes back, and writes the samples. The conversation about one object has two steps: load answers with
the vertices, from which the orbit's distance follows; render answers with pictures.
"""

import contextlib
import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import numpy as np

from render import ledger, objects, plan, pool
from render.config import MAY_CHANGE, RenderConfig
from render.objects import Source3D
from svd3d import images, runs, sample
from svd3d.cameras import GLTF_TO_WORLD
from svd3d.errors import DependencyError, ImageError, ObjectError, RenderError

log = logging.getLogger(__name__)
WORKER = (sys.executable, "-P", "-m", "render.blender.worker")
"""The child program; -P keeps a user's own render.py in the working folder from taking its place."""
MIN_COVERAGE = 1e-4
"""Mean part of a picture that an object must cover; below it nothing is to be seen."""
LIBRARIES = "libsm6 libxrender1 libxfixes3 libxi6 libxkbcommon0 libgl1"
OnView = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Rendered:
    """What became of one object."""

    uid: str
    folder: Path | None
    """The sample folder, unless it failed."""
    status: Literal["done", "skipped", "failed"]
    message: str
    """Why it failed, or what is noteworthy; empty if nothing is."""
    seconds: float


def count(config: RenderConfig) -> int:
    """How many objects `run` will report."""
    return len(objects.find(config.source))


def run(
    config: RenderConfig, *, on_view: OnView | None = None, command: tuple[str, ...] = WORKER
) -> Iterator[Rendered]:
    """Render all objects of a source; running it again resumes.

    Yields one result per object, in the order in which they end: first those already there. Bad objects in
    a folder or list are failed results and the others go on; a single file that is bad raises
    `ObjectError` or `RenderError`, and nothing is written. `on_view(uid, done, total)` is called after every
    view, from another thread. What is wrong with the input is raised here, before any output exists.
    """
    sources = objects.find(config.source)
    alone = config.source.is_file() and config.source.suffix.lower() != ".jsonl"
    if alone:
        objects.check_header(sources[0].path, max_faces=config.max_faces)
    if config.hdri is not None:
        _check_hdri(config.hdri)
    if command is WORKER and importlib.util.find_spec("bpy") is None:
        raise DependencyError(
            "rendering needs the package bpy, which is not installed; "
            "install it with: pip install 'svd3d[render]'"
        )
    return _run(config, sources, alone=alone, on_view=on_view, command=command)


def _run(
    config: RenderConfig,
    sources: list[Source3D],
    *,
    alone: bool,
    on_view: OnView | None,
    command: tuple[str, ...],
) -> Iterator[Rendered]:
    existed = runs.nearest_parent(config.out)
    out = runs.output_folder(config.out)
    start = monotonic()
    with runs.lock(out):
        runs.same_settings(out, config, ignore=MAY_CHANGE)
        _sweep(out)
        try:
            present, todo = [], []
            for source in sources:
                (present if sample.is_sample(out / source.uid) else todo).append(source)
            ledger.catch_up(out, ((source.uid, source.name) for source in present))
            for source in present:
                yield Rendered(source.uid, out / source.uid, "skipped", "already rendered", 0.0)
            if todo:
                outcomes = _outcomes(config, todo, on_view=on_view, command=command)
                with contextlib.closing(outcomes):
                    for outcome in outcomes:
                        yield _record(out, outcome, alone=alone)
        except (DependencyError, ObjectError, RenderError):
            if alone and existed != out:
                _withdraw(out, existed)
            raise
        finally:
            if out.exists():
                inputs = {"source": config.source} if config.source.is_file() else {}
                runs.write_manifest(
                    out,
                    stage="render",
                    config=config,
                    inputs={**inputs, **({"hdri": config.hdri} if config.hdri else {})},
                    licences=[source.licence for source in sources if source.licence],
                    seconds={"render": monotonic() - start},
                )


def _outcomes(
    config: RenderConfig, todo: list[Source3D], *, on_view: OnView | None, command: tuple[str, ...]
) -> Generator[pool.Outcome[Source3D, str], None, None]:
    limits = pool.Limits(timeout_s=config.timeout_s, attempts=config.attempts)
    try:
        yield from pool.run(
            command,
            todo,
            lambda worker, source: _render(worker, source, config, on_view),
            workers=min(config.workers, len(todo)),
            limits=limits,
            describe=lambda source: source.name,
        )
    except pool.StartError as error:
        last = error.log[-1] if error.log else str(error)
        if "cannot open shared object file" in last:
            raise DependencyError(
                f"Blender lacks a system library ({last}); on Debian or Ubuntu: apt-get install {LIBRARIES}"
            ) from error
        raise RenderError(f"Blender does not start: {last}; see: svd3d doctor") from error


def _record(out: Path, outcome: pool.Outcome[Source3D, str], *, alone: bool) -> Rendered:
    source, error = outcome.job, outcome.error
    status: Literal["done", "failed"] = "failed" if error else "done"
    message = str(error) if error else outcome.value or ""
    ledger.append(
        out,
        uid=source.uid,
        status=status,
        kind=outcome.kind,
        message=message,
        source=source.name,
        attempts=outcome.attempts,
        seconds=outcome.seconds,
        log=outcome.log,
    )
    if error and alone:
        raise error
    return Rendered(source.uid, None if error else out / source.uid, status, message, outcome.seconds)


def _render(worker: pool.Worker, source: Source3D, config: RenderConfig, on_view: OnView | None) -> str:
    """Render one object in one child and write its sample. Returns what is noteworthy, or nothing.

    Raises `ObjectError` for a bad file, `RenderError` when Blender refuses it or nothing is to be seen, and
    `WorkerFault` when the child fails or its files are not what it says.
    """
    objects.check_header(source.path, max_faces=config.max_faces)
    digest = runs.sha256(source.path)
    if source.sha256 is not None and source.sha256.lower() != digest:
        raise ObjectError(
            f"{source.path}: sha256 is {digest[:12]}…, the list says {source.sha256[:12]}…; download it again"
        )
    planned = plan.plan(config, source.uid)
    folder = worker.folder / "object"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    loaded, points = _load(worker, source, folder, config)
    orbit = plan.framed(planned.orbit, points, fill=config.fill)
    cameras = orbit.cameras(height=config.size, width=config.size)
    request = {
        "do": "render",
        "folder": str(folder),
        "camera_to_world": cameras.camera_to_world.tolist(),
        "borders": plan.borders(cameras, points).tolist(),
        "fov_deg": config.fov_deg,
        "size": config.size,
        "samples": config.samples,
        "threads": config.threads,
        "seed": planned.seed,
        "depth": config.depth,
        "light": _light(config, planned, path=True),
    }
    rendered = worker.ask(
        request,
        lambda answer: on_view(source.uid, int(answer["view"]) + 1, config.views) if on_view else None,
    )
    pictures, depth = _read_pictures(folder, config)
    coverage = (pictures[..., 3] > 127).mean(axis=(1, 2))
    if coverage.mean() < MIN_COVERAGE:
        raise RenderError(f"{source.path}: nothing is to be seen in any view; is it transparent or broken?")
    made = sample.Sample(
        uid=source.uid,
        cameras=cameras,
        images=pictures,
        origin="rendered",
        orbit=orbit,
        object_to_world=_object_to_world(source.path, loaded),
        depth=depth,
        about={
            **source.about,
            "source": source.name,
            "sha256": digest,
            "licence": source.licence,
            "light": _light(config, planned, path=False),
            "samples": config.samples,
            "seed": planned.seed,
            "faces": loaded["faces"],
            "vertices": loaded["vertices"],
            "extent": loaded["extent"],
            "missing_textures": loaded["missing_textures"],
            "coverage": [round(float(part), 4) for part in coverage],
            "renderer": f"Blender {loaded['blender']}, Cycles, {rendered['device']}",
        },
    )
    with runs.atomic_folder(config.out / source.uid) as place:
        sample.write(made, place)
    shutil.rmtree(folder, ignore_errors=True)
    missing = loaded["missing_textures"]
    return f"{len(missing)} textures are missing: {', '.join(map(str, missing))[:80]}" if missing else ""


def _load(
    worker: pool.Worker, source: Source3D, folder: Path, config: RenderConfig
) -> tuple[dict[str, Any], np.ndarray]:
    """Import the object; returns Blender's answer and the vertices in the world, float64 [n, 3]."""
    request = {
        "do": "load",
        "path": str(source.path.resolve()),
        "folder": str(folder),
        "max_faces": config.max_faces,
    }
    try:
        answer = worker.ask(request)
    except RenderError as error:
        raise RenderError(f"{source.path}: Blender cannot use it: {error}") from error
    try:
        points = np.load(folder / "points.npy", allow_pickle=False).astype(np.float64)
        matrix = np.array(answer["imported_to_world"], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise pool.WorkerFault("protocol", f"Blender's worker left no vertices ({error})") from error
    inside = points.ndim == 2 and points.shape[1] == 3 and len(points) and np.abs(points).max() < 0.51
    if not inside or matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise pool.WorkerFault("protocol", "Blender's worker left vertices outside of the unit box")
    return answer, points


def _read_pictures(folder: Path, config: RenderConfig) -> tuple[np.ndarray, np.ndarray | None]:
    """The pictures and depths that the child wrote, checked; RGBA uint8 [v h w 4], float32 [v h w]."""
    shape = (config.size, config.size)
    pictures = np.empty((config.views, *shape, 4), np.uint8)
    depth = np.zeros((config.views, *shape), np.float32) if config.depth else None
    for view in range(config.views):
        try:
            picture = images.read(folder / f"{view:03d}.png")
            depths = (
                np.load(folder / f"{view:03d}.npy", allow_pickle=False) if config.depth else np.zeros(shape)
            )
        except (ImageError, runs.InputError, OSError, ValueError) as error:
            raise pool.WorkerFault(
                "protocol", f"Blender's worker left no picture of view {view} ({error})"
            ) from error
        if picture.shape[:2] != shape or depths.shape != shape or not np.isfinite(depths).all():
            raise pool.WorkerFault(
                "protocol", f"Blender's worker left a picture of another size as view {view}"
            )
        pictures[view] = picture
        if depth is not None:
            depth[view] = np.where(picture[..., 3] > 0, depths, 0)
    return pictures, depth


def _object_to_world(path: Path, loaded: dict[str, Any]) -> np.ndarray:
    """The matrix from coordinates as stored in the file to the world.

    Exact for glTF (whose +Y up becomes +Z up) and for OBJ, PLY and STL (stored Z is world Z). FBX files
    carry their own axes and units: there it starts from what Blender's importer makes of them.
    """
    stored_to_imported = GLTF_TO_WORLD if path.suffix.lower() in (".glb", ".gltf") else np.eye(4)
    return np.array(loaded["imported_to_world"], dtype=np.float64) @ stored_to_imported


def _light(config: RenderConfig, planned: plan.Plan, *, path: bool) -> dict[str, Any]:
    """The light as Blender's worker wants it, or as the sample remembers it (a name, not a path)."""
    if config.hdri is None:
        return plan.sky()
    if path:
        return {"kind": "hdri", "path": str(config.hdri.resolve()), "turn_deg": planned.light_turn_deg}
    return {"kind": "hdri", "file": config.hdri.name, "turn_deg": planned.light_turn_deg}


def _check_hdri(path: Path) -> None:
    with open(runs.input_path(path, what="environment picture"), "rb") as file:
        start = file.read(10)
    if not start.startswith((b"#?RADIANCE", b"#?RGBE", b"\x76\x2f\x31\x01")):
        raise ImageError(
            f"{path}: neither Radiance HDR nor OpenEXR (it starts with {start!r}); pass another --hdri"
        )


def _sweep(out: Path) -> None:
    """Remove what a killed run left half-written; the lock is held, so nobody is still writing it."""
    for name in os.listdir(out):
        if name.startswith(".") and name.endswith((".tmp", ".old")) and (out / name).is_dir():
            shutil.rmtree(out / name, ignore_errors=True)


def _withdraw(out: Path, existed: Path) -> None:
    """Remove an output folder that this call made, and the empty folders above it."""
    shutil.rmtree(out, ignore_errors=True)
    for parent in out.absolute().parents:
        if parent == existed.absolute():
            break
        with contextlib.suppress(OSError):
            parent.rmdir()
