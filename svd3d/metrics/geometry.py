"""Surfaces: reading meshes into the +Z-up world, distances between them, overlap of what they enclose.

GLB and glTF are +Y up and are turned on reading; OBJ, PLY and STL are taken as +Z up, as stored. Distances
are in units of the reference's longest side, because `svd3d.metrics.alignment` scales the reference to 1.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from svd3d import runs
from svd3d.cameras import GLTF_TO_WORLD
from svd3d.errors import MeshError, ObjectError, require
from svd3d.metrics.crossings import occupancy

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
            raise MeshError("no faces (a point cloud or an empty mesh), so there is no surface to measure")
        if self.faces.min() < 0 or self.faces.max() >= len(self.vertices):
            raise MeshError(f"the mesh has faces that name vertices beyond its {len(self.vertices)}")
        finite = np.isfinite(self.vertices).all(axis=1)
        if not finite.all():
            raise MeshError(f"the mesh has {(~finite).sum()} vertices that are not finite")

    @property
    def bounds(self) -> Float[np.ndarray, "2 3"]:
        """Lowest and highest corner of what the faces use; loose vertices do not count."""
        corners = self.vertices[np.unique(self.faces)].astype(np.float64)
        return np.stack([corners.min(axis=0), corners.max(axis=0)])


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


@dataclass(frozen=True, eq=False)
class Samples:
    """Points on a surface and the unit normals of the faces they lie on."""

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]


def sample_surface(surface: Surface, count: int, *, generator: np.random.Generator) -> Samples:
    """Points spread evenly over the area of a surface (inner walls included), with normals.

    Raises `MeshError` for a surface without area.
    """
    corners = surface.vertices[surface.faces].astype(np.float64)
    edge_u, edge_v = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normals = np.cross(edge_u, edge_v)
    area = np.linalg.norm(normals, axis=1)
    if not area.sum() > 0:
        raise MeshError("the mesh has no area, so there is no surface to measure")
    face = generator.choice(len(area), size=count, p=area / area.sum())
    u, v = generator.random((2, count, 1))
    outside = u + v > 1  # the other half of the parallelogram folds back onto the triangle
    u, v = np.where(outside, 1 - u, u), np.where(outside, 1 - v, v)
    return Samples(corners[face, 0] + u * edge_u[face] + v * edge_v[face], normals[face] / area[face, None])


def sample_points(
    surface: Surface, count: int, *, generator: np.random.Generator
) -> Float[np.ndarray, "{count} 3"]:
    """The points of `sample_surface`."""
    return sample_surface(surface, count, generator=generator).points


@dataclass(frozen=True, eq=False)
class Neighbours:
    """From each point to the nearest of the others (`there`), and from each of the others back."""

    there: Float[np.ndarray, "n"]
    back: Float[np.ndarray, "m"]
    there_index: Int[np.ndarray, "n"]
    back_index: Int[np.ndarray, "m"]


def neighbours(points: Float[np.ndarray, "n 3"], others: Float[np.ndarray, "m 3"]) -> Neighbours:
    """Distances between two sets of points, each point to its nearest of the other set."""
    spatial = require("scipy.spatial", extra="metrics", reason="measuring a mesh")
    quick = {"compact_nodes": False, "balanced_tree": False}  # halves the time when shapes differ much
    there, there_index = spatial.cKDTree(others, **quick).query(points)
    back, back_index = spatial.cKDTree(points, **quick).query(others)
    return Neighbours(there, back, there_index, back_index)


def nearest_distances(
    points: Float[np.ndarray, "n 3"], others: Float[np.ndarray, "m 3"]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "m"]]:
    """Distance from each point to the nearest of the others, and from each of the others back."""
    found = neighbours(points, others)
    return found.there, found.back


def chamfer(there: Float[np.ndarray, "n"], back: Float[np.ndarray, "m"]) -> float:
    """Mean of the two mean nearest distances, not squared. Longest sides, [0, inf), lower is better.

    Takes the result of `nearest_distances`. Random samples of one surface never reach 0: compare with the
    reference sampled twice.
    """
    return float((there.mean() + back.mean()) / 2)


def chamfer_squared(there: Float[np.ndarray, "n"], back: Float[np.ndarray, "m"]) -> float:
    """Mean of the two mean squared nearest distances. Squared longest sides, [0, inf), lower is better.

    Takes the result of `nearest_distances`. Papers that print the sum of the two print twice this number.
    """
    return float(((there**2).mean() + (back**2).mean()) / 2)


def fscore(there: Float[np.ndarray, "n"], back: Float[np.ndarray, "m"], *, threshold: float) -> float:
    """Harmonic mean of precision and recall of distances below `threshold`. [0, 1], higher is better.

    Takes the result of `nearest_distances(prediction, reference)` (Knapitsch et al. 2017, equations 8 to 10).
    """
    precision, recall = float((there < threshold).mean()), float((back < threshold).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def normal_consistency(
    normals: Float[np.ndarray, "n 3"], others: Float[np.ndarray, "m 3"], nearest: Neighbours
) -> float:
    """Mean |cosine| between the normal at a sample and that at its nearest, over both directions.

    Fraction, [0, 1], higher is better; 0.5 is what unrelated directions give. Takes unit normals and the
    `neighbours` of their samples (Mescheder et al. 2019, supplement, where it is called normal consistency).
    """
    there = np.abs((normals * others[nearest.there_index]).sum(axis=1))
    back = np.abs((others * normals[nearest.back_index]).sum(axis=1))
    return float((there.mean() + back.mean()) / 2)


def is_watertight(surface: Surface) -> bool:
    """Whether the surface encloses a volume, seams of texture coordinates closed first."""
    return bool(_solid(surface).is_watertight)


def volume_iou(prediction: Surface, reference: Surface, *, resolution: int) -> float:
    """Volume of the intersection over that of the union. Fraction, [0, 1], higher is better.

    Counted at the cell centres of a cubic grid of `resolution` cells per side around both surfaces; a
    surface holds what it winds around, so parts that overlap count once. Raises `MeshError` when a surface
    is not watertight, has faces that turn different ways, or when both are so thin that no cell centre
    lies inside either.
    """
    for surface, name in ((prediction, "prediction"), (reference, "reference")):
        solid = _solid(surface)
        if not solid.is_watertight:
            raise MeshError(
                f"the {name} is not watertight, so it has no volume; close its holes or leave iou out"
            )
        if not solid.is_winding_consistent:
            raise MeshError(f"the {name} has faces that turn different ways; repair it or leave iou out")
    bounds = np.stack([prediction.bounds, reference.bounds])
    low, high = bounds[:, 0].min(axis=0), bounds[:, 1].max(axis=0)
    step = float((high - low).max()) / resolution
    origin = (low + high) / 2 - step * (resolution - 1) / 2
    one, other = (
        occupancy(
            surface.vertices[surface.faces], origin=origin, step=step, resolution=resolution, rule="winding"
        )
        for surface in (prediction, reference)
    )
    either = int((one | other).sum())
    if either == 0:
        raise MeshError(f"both meshes are too thin for a grid of {resolution} cells per side")
    return int((one & other).sum()) / either


def _solid(surface: Surface) -> Any:
    """The surface as a trimesh with vertices of equal position merged (files split them at seams)."""
    trimesh = require("trimesh", extra="metrics", reason="measuring a mesh")
    return trimesh.Trimesh(surface.vertices, surface.faces, process=True)
