"""One object to one sample: the conversation with a worker, and the checks on what it says.

It has two steps, because the orbit's distance follows from the vertices: load answers with them, render with
pictures. The mathematics of cameras stays on this side; nothing that comes back is believed unseen.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from render import light, objects, plan, pool, quality
from render.config import RenderConfig
from render.objects import Source3D
from svd3d import runs, sample
from svd3d.cameras import GLTF_TO_WORLD, Cameras
from svd3d.errors import ObjectError, RenderError, SampleError

MIN_COVERAGE = 1e-4
"""Mean part of a picture that an object must cover; below it nothing is to be seen."""
UNIT_LENGTH = 0.02
"""How far the length of a normal may be from 1."""


@dataclass(frozen=True)
class Made:
    """What a finished object adds to its row in the ledger."""

    message: str
    """What is noteworthy, or nothing."""
    faces: int
    quality: dict[str, Any]
    device: str
    cpu_s: float | None = None
    """Of Blender; None when an earlier run made the sample."""


def render(
    worker: pool.Worker,
    source: Source3D,
    config: RenderConfig,
    *,
    lights: list[Path],
    on_view: Any = None,
) -> Made:
    """Render one object in one child and write its sample to `config.out`.

    `on_view(uid, done, total)` is called after every view. Raises `ObjectError` for a bad file,
    `RenderError` when Blender refuses it or nothing is to be seen, and `WorkerFault` when the child fails or
    its files are not what it says.
    """
    objects.check_header(
        source.path,
        max_faces=config.max_faces,
        max_mb=config.max_mb,
        max_texture_mpx=config.max_texture_mpx,
    )
    digest = objects.digest(source.path)
    if source.sha256 is not None and source.sha256 != digest:
        raise ObjectError(
            f"{source.path}: sha256 is {digest[:12]}…, the list says {source.sha256[:12]}…; "
            "download it again",
            kind="bad_download",
        )
    planned = plan.plan(config, source.uid, lights=[path.name for path in lights])
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
        "light": light.request(lights, planned.light, turn_deg=planned.light_turn_deg),
        "seed": planned.seed,
        **{name: getattr(config, name) for name in ("fov_deg", "size", "samples", "min_psnr", "threads")},
        **{name: getattr(config, name) for name in ("depth", "normal", "device", "allow_cpu")},
    }
    rendered = worker.ask(
        request,
        lambda answer: on_view(source.uid, int(answer["view"]) + 1, config.views) if on_view else None,
    )
    views = _read_views(folder, config)
    made = sample.Sample(
        uid=source.uid,
        cameras=cameras,
        origin="rendered",
        orbit=orbit,
        object_to_world=_object_to_world(source.path, loaded),
        images=views["images"],
        depth=views.get("depth"),
        normal=views.get("normal"),
    )
    scores = _scores(made, source, cameras, loaded)
    about = {
        **source.about,
        "source": source.name,
        "sha256": digest,
        "licence": source.licence,
        "light": light.about(planned.light, turn_deg=planned.light_turn_deg),
        "method": rendered["method"],
        "seed": planned.seed,
        "vertices": loaded["vertices"],
        "extent": loaded["extent"],
        "missing_textures": loaded["missing_textures"],
        "quality": scores,
        "renderer": f"Blender {loaded['blender']}, Cycles",
        "device": rendered["device"],
    }
    made.about.update(about)
    with runs.atomic_folder(config.out / source.uid) as place:
        sample.write(made, place)
    shutil.rmtree(folder, ignore_errors=True)
    return Made(
        _noteworthy(loaded, rendered, config),
        faces=loaded["faces"],
        quality=scores,
        device=rendered["device"],
        cpu_s=loaded["cpu_s"] + rendered["cpu_s"],
    )


def made_before(folder: Path) -> Made:
    """What a finished sample remembers of its making, for a row that a run was cut off before writing.

    Raises `SampleError` for one that this stage has not written.
    """
    try:
        about = json.loads((folder / "transforms.json").read_bytes())["svd3d"]["about"]
        return Made(
            "finished by a run that was cut off before it could write this row",
            faces=about["quality"]["faces"],
            quality=about["quality"],
            device=about["device"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SampleError(
            f"{folder}: not a sample that svd3d render has written ({error!r}); remove it"
        ) from error


def _load(
    worker: pool.Worker, source: Source3D, folder: Path, config: RenderConfig
) -> tuple[dict[str, Any], np.ndarray]:
    """Import the object; returns Blender's answer and the vertices in the world, float64 [n, 3]."""
    request = {
        "do": "load",
        "path": os.fspath(source.path.resolve()),
        "folder": str(folder),
        "max_faces": config.max_faces,
    }
    try:
        answer = worker.ask(request)
    except RenderError as error:
        raise RenderError(f"{source.path}: Blender cannot use it: {error}", kind=error.kind) from error
    try:
        points = np.load(folder / "points.npy", allow_pickle=False).astype(np.float64)
        matrix = np.array(answer["imported_to_world"], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise pool.WorkerFault("protocol", f"Blender's worker left no vertices ({error})") from error
    inside = points.ndim == 2 and points.shape[1] == 3 and len(points) and np.abs(points).max() < 0.51
    if not inside or matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise pool.WorkerFault("protocol", "Blender's worker left vertices outside of the unit box")
    return answer, points


def _read_views(folder: Path, config: RenderConfig) -> dict[str, np.ndarray]:
    """What the child rendered, checked: images uint8 [v h w 4], and depth and normal if asked for."""
    square = (config.size, config.size)
    wanted: dict[str, tuple[str, np.dtype, tuple[int, ...]]] = {
        "images": ("rgba", np.dtype(np.uint8), (*square, 4))
    }
    if config.depth:
        wanted["depth"] = ("depth", np.dtype(np.float32), square)
    if config.normal:
        wanted["normal"] = ("normal", np.dtype(np.float32), (*square, 3))
    found: dict[str, np.ndarray] = {}
    for field, (name, dtype, shape) in wanted.items():
        found[field] = np.empty((config.views, *shape), dtype)
        for view in range(config.views):
            try:
                part = np.load(folder / f"{view:03d}.{name}.npy", allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                raise pool.WorkerFault(
                    "protocol", f"Blender's worker left no {name} of view {view} ({error})"
                ) from error
            if part.shape != shape or part.dtype != dtype or not np.isfinite(part).all():
                raise pool.WorkerFault("protocol", f"Blender's worker left a strange {name} of view {view}")
            found[field][view] = part
    seen = found["images"][..., 3] > 0
    if config.depth:
        if found["depth"].min() < 0:
            raise pool.WorkerFault("protocol", "Blender's worker left depth below 0")
        found["depth"] *= seen
    if config.normal:
        length = np.linalg.norm(found["normal"], axis=-1)
        if not ((length == 0) | (np.abs(length - 1) < UNIT_LENGTH)).all():
            raise pool.WorkerFault("protocol", "Blender's worker left normals that are not of length 1")
        found["normal"] *= seen[..., None]
    return found


def _scores(
    made: sample.Sample, source: Source3D, cameras: Cameras, loaded: dict[str, Any]
) -> dict[str, Any]:
    """The scores that `svd3d render select` asks for; refuses an object that shows nothing."""
    scores = quality.scores(
        made.images,
        cameras=cameras,
        depth=made.depth,
        missing_textures=loaded["missing_textures"],
        faces=loaded["faces"],
    )
    if scores["coverage"] < MIN_COVERAGE:
        raise RenderError(
            f"{source.path}: nothing is to be seen in any view; is it transparent or broken?", kind="blank"
        )
    return scores


def _object_to_world(path: Path, loaded: dict[str, Any]) -> np.ndarray:
    """The matrix from coordinates as stored in the file to the world.

    Exact for glTF (whose +Y up becomes +Z up) and for OBJ, PLY and STL (stored Z is world Z). FBX files
    carry their own axes and units: there it starts from what Blender's importer makes of them.
    """
    stored_to_imported = GLTF_TO_WORLD if path.suffix.lower() in (".glb", ".gltf") else np.eye(4)
    return np.array(loaded["imported_to_world"], dtype=np.float64) @ stored_to_imported


def _noteworthy(loaded: dict[str, Any], rendered: dict[str, Any], config: RenderConfig) -> str:
    """What a person should know about a finished object."""
    notes, missing = [], loaded["missing_textures"]
    if missing:
        notes.append(f"{len(missing)} textures are missing: {', '.join(map(str, missing))[:80]}")
    if not rendered["method"]["denoised"]:
        notes.append("noisy: this Blender was built without a denoiser")
    psnr = rendered["method"]["psnr_db"]
    if config.min_psnr is not None and psnr < config.min_psnr:
        notes.append(f"reached {psnr:.1f} dB of {config.min_psnr:g}")
    return "; ".join(notes)
