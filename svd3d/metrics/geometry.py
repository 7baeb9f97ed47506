"""Surfaces: reading meshes into the +Z-up world, bringing two into one frame, distances and overlap.

GLB and glTF are +Y up and are turned on reading; OBJ, PLY and STL are taken as +Z up, as stored. Distances
are in units of the reference's longest side, because every alignment scales the reference to 1.
"""

import importlib.util
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from svd3d import runs
from svd3d.cameras import GLTF_TO_WORLD
from svd3d.errors import DependencyError, MeshError, ObjectError, require

Alignment = Literal["none", "world", "bbox"]
"""How a prediction meets its reference; see `align`."""
SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")
"""Mesh files that can be read."""
_LOADER_ERRORS = (ValueError, LookupError, TypeError, AttributeError, OSError, RuntimeError, AssertionError,
                  struct.error)  # fmt: skip
"""What trimesh's loaders raise on broken files."""


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangle mesh in the +Z-up world. Raises `MeshError` when it is empty or not finite."""

    vertices: Float[np.ndarray, "n 3"]
    faces: Int[np.ndarray, "f 3"]

    def __post_init__(self) -> None:
        if len(self.faces) == 0:
            raise MeshError("the mesh has no faces, so there is no surface to measure")
        if self.faces.min() < 0 or self.faces.max() >= len(self.vertices):
            raise MeshError(f"the mesh has faces that name vertices beyond its {len(self.vertices)}")
        if not np.isfinite(self.vertices).all():
            raise MeshError("the mesh has vertices that are not finite")

    @property
    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Lowest and highest corner of what the faces use; loose vertices do not count."""
        corners = self.vertices[np.unique(self.faces)].astype(np.float64)
        return np.stack([corners.min(axis=0), corners.max(axis=0)])

    def moved(self, *, centre: Float[np.ndarray, "3"], scale: float) -> "Surface":
        """The surface with `centre` brought to the origin, then scaled."""
        return Surface((self.vertices.astype(np.float64) - centre) * scale, self.faces)


def is_mesh_file(path: Path) -> bool:
    """Whether a path is a file with the suffix of a mesh."""
    return path.suffix.lower() in SUFFIXES and path.is_file()


def read(path: Path) -> Surface:
    """Read a mesh file into the +Z-up world: all its parts, placed by their scene.

    Raises `ObjectError` when the file is missing, of another kind than its name says, broken or without
    triangles.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ObjectError(f"{path}: not a mesh file; use one of {', '.join(SUFFIXES)}")
    runs.input_path(path, what="mesh file")
    with open(path, "rb") as file:
        start = file.read(12)
    if not start:
        raise ObjectError(f"{path}: the file is empty; make or download it again")
    if path.suffix.lower() == ".glb" and start[:4] != b"glTF":
        raise ObjectError(f"{path}: not a GLB (it starts with {start!r}); was another file renamed?")
    trimesh = require("trimesh", extra="metrics", reason="measuring a mesh")
    try:
        mesh = trimesh.load_scene(path).to_mesh()
        vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
    except _LOADER_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ObjectError(f"{path}: not a readable mesh ({reason}); make or download it again") from error
    if path.suffix.lower() in (".glb", ".gltf"):
        vertices = vertices @ GLTF_TO_WORLD[:3, :3].T
    try:
        return Surface(vertices, faces)
    except MeshError as error:
        raise ObjectError(f"{path}: {error}; make or download it again") from error


def align(prediction: Surface, reference: Surface, alignment: Alignment) -> tuple[Surface, Surface]:
    """Both surfaces in the frame where the reference is centred on its bounding box with longest side 1.

    - `none`: the prediction is moved exactly as the reference (both files share one frame);
    - `world`: the prediction stays (it already stands in svd3d's world, as `reconstruct` leaves it);
    - `bbox`: the prediction is centred and scaled by its own bounding box. Never turned.

    Raises `MeshError` for a surface without extent.
    """
    reference_move = _to_unit_box(reference)
    aligned = reference.moved(**reference_move)
    if alignment == "none":
        return prediction.moved(**reference_move), aligned
    if alignment == "world":
        return prediction, aligned
    return prediction.moved(**_to_unit_box(prediction)), aligned


def _to_unit_box(surface: Surface) -> dict[str, Any]:
    low, high = surface.bounds
    longest = float((high - low).max())
    if not 1e-12 < longest < 1e12:
        raise MeshError(f"the mesh has a longest side of {longest:g}; it cannot be scaled to 1")
    return {"centre": (low + high) / 2, "scale": 1 / longest}


def sample_points(
    surface: Surface, count: int, *, generator: np.random.Generator
) -> Float[np.ndarray, "{count} 3"]:
    """Points spread evenly over the area of a surface (inner walls included).

    Raises `MeshError` for a surface without area.
    """
    corners = surface.vertices[surface.faces].astype(np.float64)
    edge_u, edge_v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = np.linalg.norm(np.cross(edge_u, edge_v), axis=1)
    if not area.sum() > 0:
        raise MeshError("the mesh has no area, so there is no surface to measure")
    face = generator.choice(len(area), size=count, p=area / area.sum())
    u, v = generator.random((2, count, 1))
    outside = u + v > 1  # the other half of the parallelogram folds back onto the triangle
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    return corners[face, 0] + u * edge_u[face] + v * edge_v[face]


def nearest_distances(
    points: Float[np.ndarray, "n 3"], others: Float[np.ndarray, "m 3"]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "m"]]:
    """Distance from each point to the nearest of the others, and from each of the others back."""
    spatial = require("scipy.spatial", extra="metrics", reason="measuring a mesh")
    there, _ = spatial.cKDTree(others).query(points)
    back, _ = spatial.cKDTree(points).query(others)
    return there, back


def chamfer(there: Float[np.ndarray, "n"], back: Float[np.ndarray, "m"]) -> float:
    """Mean of the two mean nearest distances, not squared. Longest sides, [0, inf), lower is better.

    Takes the result of `nearest_distances`. Random samples of one surface never reach 0: compare with the
    reference sampled twice.
    """
    return float((there.mean() + back.mean()) / 2)


def fscore(there: Float[np.ndarray, "n"], back: Float[np.ndarray, "m"], *, threshold: float) -> float:
    """Harmonic mean of precision and recall of distances below `threshold`. [0, 1], higher is better.

    Takes the result of `nearest_distances(prediction, reference)` (Knapitsch et al. 2017, equations 8 to 10).
    """
    precision, recall = float((there < threshold).mean()), float((back < threshold).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def is_watertight(surface: Surface) -> bool:
    """Whether the surface encloses a volume, seams of texture coordinates closed first."""
    return bool(_solid(surface).is_watertight)


def volume_iou(prediction: Surface, reference: Surface, *, resolution: int) -> float:
    """Volume of the intersection over that of the union. Fraction, [0, 1], higher is better.

    Counted at the cell centres of a cubic grid of `resolution` cells per side around both surfaces. Raises
    `MeshError` when a surface is not watertight or so thin that no cell centre lies inside either, and
    `DependencyError` when no ray caster is installed.
    """
    if not any(importlib.util.find_spec(name) for name in ("embreex", "rtree")):
        raise DependencyError("volume IoU needs embreex or rtree to cast rays: pip install 'svd3d[metrics]'")
    bounds = np.stack([prediction.bounds, reference.bounds])
    low, high = bounds[:, 0].min(axis=0), bounds[:, 1].max(axis=0)
    side = float((high - low).max())
    ticks = (np.arange(resolution) + 0.5) / resolution - 0.5
    cells = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 3) * side
    cells += (low + high) / 2
    inside = [_inside(surface, cells, name) for surface, name in
              ((prediction, "prediction"), (reference, "reference"))]  # fmt: skip
    either = int((inside[0] | inside[1]).sum())
    if either == 0:
        raise MeshError(f"both meshes are too thin for a grid of {resolution} cells per side")
    return int((inside[0] & inside[1]).sum()) / either


def _inside(surface: Surface, points: Float[np.ndarray, "n 3"], name: str) -> Bool[np.ndarray, "n"]:
    mesh = _solid(surface)
    if not mesh.is_watertight:
        raise MeshError(f"the {name} is not watertight, so it has no volume")
    return np.asarray(mesh.contains(points))


def _solid(surface: Surface) -> Any:
    """The surface as a trimesh with vertices of equal position merged (files split them at seams)."""
    trimesh = require("trimesh", extra="metrics", reason="measuring a mesh")
    return trimesh.Trimesh(surface.vertices, surface.faces, process=True)
