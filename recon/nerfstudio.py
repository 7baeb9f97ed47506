"""Method `nerfstudio`: a field fitted and cut by an installed nerfstudio, which runs as programs of its own.

    FOLDER/data/           the views as a nerfstudio dataset; the object centred, its longest side 1
    FOLDER/train/…/run/    what `ns-train` writes: config.yml and nerfstudio_models/step-*.ckpt
    FOLDER/export/         the mesh that `ns-export` cuts
    FOLDER/ns-train.log, FOLDER/ns-export.log

nerfstudio centres, turns and scales every dataset unless it is told not to; all three are off, so that the
mesh comes back by the inverse of the one placement made here. Running again resumes: a training goes on from
its last checkpoint.
"""

import contextlib
import dataclasses
import logging
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float
from scipy import ndimage

from recon import fast, hull
from recon.result import Shape, Stopwatch
from recon.volume import Volume
from svd3d import runs, sample
from svd3d.cameras import Cameras
from svd3d.errors import ConfigError, DependencyError, MeshError, OutputError
from svd3d.images import to_float
from svd3d.sample import Sample

log = logging.getLogger(__name__)

INSTALL = "python -m venv nerfstudio && nerfstudio/bin/pip install nerfstudio==1.1.5 'torch<2.6'"
"""Its pins need an environment of their own; it reads no checkpoint of torch 2.6 (its issue 3683)."""
HALF_BOX = 0.55
"""Half the side of the box that is exported; half the longest side of the object is 0.5 at most."""
RADIUS = HALF_BOX * 3**0.5
NERFACTO = ("nerfacto", "nerfacto-big", "nerfacto-huge")
"""Methods that know the settings of a single object in front of nothing."""
SIGNED_DISTANCE = ("neus", "neus-facto")
EXPORTED = {"tsdf": "tsdf_mesh.ply", "marching-cubes": "sdf_marching_cubes_mesh.ply"}
WITHOUT_SURFACE = ("splatfacto", "splatfacto-big")
SURFACE_POINTS = 200_000
"""Points on the mesh that its solid is made of."""


@dataclass(frozen=True)
class Programs:
    """The two programs of one nerfstudio."""

    train: str
    export: str

    @classmethod
    def find(cls, place: Path | None = None) -> "Programs":
        """The programs in the folder `place` (the bin of an environment) or beside the file, or on PATH.

        Raises `DependencyError` with the line that installs them.
        """
        folder = place if place is None or place.is_dir() else place.parent
        found = [shutil.which(name, path=folder and str(folder)) for name in ("ns-train", "ns-export")]
        if found[0] is None or found[1] is None:
            missing = "ns-train and ns-export are not " + (f"in {folder}" if folder else "on PATH")
            raise DependencyError(
                f"method nerfstudio needs an installed nerfstudio, but {missing}; give it an environment of "
                f"its own: {INSTALL}; then pass --nerfstudio nerfstudio/bin"
            )
        return cls(found[0], found[1])


def shape(
    views: Sample,
    *,
    method: str,
    place: Path | None,
    steps: int,
    resolution: int,
    faces: int,
    device: str,
    work: Path | None,
    watch: Stopwatch,
) -> Shape:
    """The closed surface of what `fit` gives, kept in `work`/nerfstudio, or nowhere."""
    if device == "auto":
        device = "cuda" if shutil.which("nvidia-smi") else "cpu"
    with contextlib.ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with watch("nerfstudio"):
            volume = fit(
                views,
                folder / "nerfstudio",
                method=method,
                place=place,
                steps=steps,
                resolution=resolution,
                device=device,
            )
    with watch("surface"):
        surface = fast.mesh(volume, faces=faces)
    details = {
        "nerfstudio": {"method": method, "steps": steps, "device": device},
        "resolution": max(volume.values.shape),
        "voxel_size": volume.voxel_size,
    }
    return Shape(surface, views.images, details)


def fit(
    views: Sample,
    folder: Path,
    *,
    method: str = "nerfacto",
    place: Path | None = None,
    steps: int = 30_000,
    resolution: int = 256,
    device: str = "cuda",
    tell: Callable[[str], Any] = log.info,
) -> Volume:
    """The solid, level 0.5, of the mesh that nerfstudio makes of the views, in the frame of the views.

    `method` is one of `ns-train`; `steps` are its iterations, `resolution` the voxels along the box for the
    export and the solid. All that nerfstudio writes stays in `folder`. Raises `DependencyError` when it is
    not installed, `MeshError` with its last words when it fails.
    """
    programs = Programs.find(place)
    if method in WITHOUT_SURFACE:
        raise ConfigError(f"nerfstudio: {method} has no surface to export; choose nerfacto or neus-facto")
    folder = runs.output_folder(folder).resolve()
    centre, scale = placement(views)
    placed = _placed(views, centre, scale)
    _write_dataset(placed, folder / "data")
    done = _steps_done(folder)
    if done < steps:
        tell(f"ns-train {method}: {steps - done} of {steps} steps on {device}, see {folder}/ns-train.log")
        arguments = train_arguments(folder, method, placed.cameras, done=done, steps=steps, device=device)
        run_program([programs.train, *arguments], folder / "ns-train.log")
    kind = "marching-cubes" if method in SIGNED_DISTANCE else "tsdf"
    tell(f"ns-export {kind}: see {folder}/ns-export.log")
    run_program([programs.export, *_export_arguments(folder, kind, resolution)], folder / "ns-export.log")
    mesh = _read_mesh(folder / "export" / EXPORTED[kind])
    mesh.apply_transform(trimesh.transformations.scale_and_translate(1 / scale, centre))
    half = HALF_BOX / scale
    return solid(mesh, centre - half, centre + half, resolution=resolution)


def solid(
    mesh: trimesh.Trimesh, low: Float[np.ndarray, "3"], high: Float[np.ndarray, "3"], *, resolution: int
) -> Volume:
    """What a mesh encloses in a box, as a field with level 0.5; an open mesh is closed as its normals ask.

    Each voxel that the surface crosses holds the mean plane of the surface there. The field at a point falls
    from 1 to 0 over four voxels across the plane of the nearest such voxel.
    """
    if mesh.volume < 0:
        mesh = mesh.copy()
        mesh.invert()
    volume = Volume.covering(low, high, resolution=resolution)
    points, faces = trimesh.sample.sample_surface(mesh, SURFACE_POINTS, seed=0)[:2]
    index = ((points - volume.origin) / volume.voxel_size).round().astype(int)
    within = ((index >= 0) & (index < volume.values.shape)).all(axis=1)
    planes = np.concatenate([points, mesh.face_normals[faces]], axis=1)[within]
    crossed, plane_of = np.unique(index[within], axis=0, return_inverse=True)
    count = np.bincount(plane_of.ravel())
    planes = np.stack([np.bincount(plane_of.ravel(), column) / count for column in planes.T], axis=1)
    planes[:, 3:] /= np.maximum(np.linalg.norm(planes[:, 3:], axis=1, keepdims=True), 1e-9)

    number = np.full(volume.values.shape, -1)
    number[tuple(crossed.T)] = np.arange(len(crossed))
    nearest = np.asarray(
        ndimage.distance_transform_edt(number < 0, return_distances=False, return_indices=True)
    )
    for x, slab in enumerate(volume.values):
        here = planes[number[tuple(nearest[:, x])]]
        grid = volume.points(np.stack(np.meshgrid([x], *map(np.arange, slab.shape), indexing="ij"), -1))[0]
        outside = np.einsum("yzc,yzc->yz", here[..., 3:], grid - here[..., :3])
        slab[:] = (0.5 - outside / (4 * volume.voxel_size)).clip(0, 1)
    return volume


def placement(views: Sample) -> tuple[Float[np.ndarray, "3"], float]:
    """Centre of the object in the frame of the views and the scale that makes its longest side 1 at most."""
    alpha = to_float(views.images[..., 3])
    silhouettes = hull.Silhouettes.of(alpha, views.cameras)
    low, high = hull.object_box(silhouettes, views.cameras, k=min(3, len(views) - 1), resolution=96)
    return (low + high) / 2, 1 / float((high - low).max())


def _placed(views: Sample, centre: Float[np.ndarray, "3"], scale: float) -> Sample:
    matrices = views.cameras.camera_to_world.copy()
    matrices[:, :3, 3] = scale * (matrices[:, :3, 3] - centre)
    cameras = dataclasses.replace(views.cameras, camera_to_world=matrices)
    return dataclasses.replace(views, cameras=cameras, orbit=None, depth=None, normal=None)


def _write_dataset(views: Sample, folder: Path) -> None:
    """A sample folder is a nerfstudio dataset; one that is there already must hold the same views."""
    if not sample.is_sample(folder):
        sample.write(views, folder)
        return
    found = sample.read(folder)
    same = found.images.shape == views.images.shape and np.array_equal(found.images, views.images)
    if not (same and np.allclose(found.cameras.camera_to_world, views.cameras.camera_to_world)):
        raise OutputError(f"{folder}: holds other views; choose another --out")


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("train/views/*/run/nerfstudio_models/step-*.ckpt"))


def _steps_done(folder: Path) -> int:
    """Steps behind the last checkpoint: nerfstudio numbers them from 0."""
    checkpoints = _checkpoints(folder)
    return int(checkpoints[-1].stem.removeprefix("step-")) + 1 if checkpoints else 0


def train_arguments(
    folder: Path, method: str, cameras: Cameras, *, done: int, steps: int, device: str
) -> list[str]:
    """Arguments of `ns-train` for the dataset `folder`/data, that leave the frame of the views alone."""
    arguments = [
        method,
        "--output-dir",
        f"{folder}/train",
        "--experiment-name",
        "views",
        "--timestamp",
        "run",
    ]
    arguments += ["--vis", "tensorboard", "--machine.device-type", device]
    # with a checkpoint loaded, nerfstudio 1.1.5 does so many steps more
    arguments += ["--max-num-iterations", str(steps - done)]
    if done:
        arguments += ["--load-dir", str(_checkpoints(folder)[-1].parent)]
    if method in NERFACTO:
        distance = np.linalg.norm(cameras.positions, axis=1)
        near, far = max(float(distance.min()) - RADIUS, 0.05), float(distance.max()) + RADIUS
        arguments += [
            "--pipeline.model.near-plane",
            f"{near:.4f}",
            "--pipeline.model.far-plane",
            f"{far:.4f}",
        ]
        arguments += [
            "--pipeline.model.background-color",
            "random",
        ]  # transparent is transparent on any colour
        arguments += ["--pipeline.model.disable-scene-contraction", "True"]
        arguments += ["--pipeline.model.camera-optimizer.mode", "off"]
    arguments += ["nerfstudio-data", "--data", f"{folder}/data", "--eval-mode", "all"]
    return [
        *arguments,
        "--orientation-method",
        "none",
        "--center-method",
        "none",
        "--auto-scale-poses",
        "False",
    ]


def _export_arguments(folder: Path, kind: str, resolution: int) -> list[str]:
    configs = sorted(folder.glob("train/views/*/run/config.yml"))
    if not configs:
        raise MeshError(
            f"{folder}/ns-train.log: ns-train ended without writing a config.yml; look at its output"
        )
    arguments = [kind, "--load-config", str(configs[-1]), "--output-dir", f"{folder}/export"]
    for side, corner in (("min", -HALF_BOX), ("max", HALF_BOX)):
        arguments += [f"--bounding-box-{side}", *[str(corner)] * 3]
    if kind == "marching-cubes":
        return [*arguments, "--resolution", str(-(-resolution // 512) * 512)]  # it wants multiples of 512
    return [
        *arguments,
        "--resolution",
        str(resolution),
        "--downscale-factor",
        "1",
        "--texture-method",
        "tsdf",
    ]


def run_program(command: list[str], output: Path) -> None:
    """Run a program to its end; what it says goes to a file, and its last words into the error."""
    with open(output, "ab") as file:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=output.parent,
            check=False,
        )
    if ended.returncode:
        words = re.sub(r"[^\x20-\x7e]+", " ", output.read_text(errors="replace")[-2000:]).split()
        raise MeshError(
            f"{Path(command[0]).name} ended with exit code {ended.returncode} ({' '.join(words)[-300:]}); "
            f"its whole output is in {output}"
        )


def _read_mesh(path: Path) -> trimesh.Trimesh:
    if not path.is_file():
        raise MeshError(
            f"{path}: ns-export ended without writing it; look at {path.parents[1]}/ns-export.log"
        )
    mesh = trimesh.load_mesh(path, process=False)
    if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
        raise MeshError(f"{path}: ns-export found no surface; train for more steps or look at the views")
    return mesh
