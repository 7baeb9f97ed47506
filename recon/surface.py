"""From a field on a grid to a closed, outward-facing triangle mesh of bounded size."""

import fast_simplification
import numpy as np
import trimesh
from jaxtyping import Int
from scipy import sparse
from scipy.sparse import csgraph
from skimage import measure

from recon.volume import Volume
from svd3d.errors import MeshError

SMALL_PART = 0.01
"""Parts below this share of the largest part's volume are dropped."""


def extract(volume: Volume, *, level: float = 0.5) -> trimesh.Trimesh:
    """The level surface of a volume, closed also where the object touches the border of the grid.

    World frame, outward normals. A vertex lies on a grid edge at the linearly interpolated level, so
    there is no half-voxel offset. Raises `MeshError` when no sample is above the level.
    """
    padded = volume.padded()
    values = padded.values.astype(np.float32)
    # a sample exactly on the level would give triangles without area
    values = np.where(np.abs(values - level) < 1e-5, np.float32(level + 1e-5), values)
    if not (values > level).any():
        raise MeshError(
            "carving left nothing large enough for a voxel; raise --resolution or look at the views"
        )
    vertices, faces, _, _ = measure.marching_cubes(values, level, gradient_direction="ascent")
    return _mesh(padded.origin + padded.voxel_size * vertices.astype(np.float64), faces)


def main_parts(mesh: trimesh.Trimesh, *, smallest: float = SMALL_PART) -> trimesh.Trimesh:
    """The connected parts whose volume is at least `smallest` times the largest; hollows are filled."""
    labels = _part_of_face(mesh.faces, len(mesh.vertices))
    corners = mesh.vertices[mesh.faces]
    signed = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    volumes = np.bincount(labels, weights=signed)
    keep = volumes >= smallest * volumes.max()
    kept = mesh.faces[keep[labels]]
    used, faces = np.unique(kept, return_inverse=True)
    return _mesh(mesh.vertices[used], faces.reshape(-1, 3))


def faired(mesh: trimesh.Trimesh, *, rounds: int) -> trimesh.Trimesh:
    """The mesh without bumps as small as its triangles, and of nearly the same volume (Taubin 1995)."""
    smooth = mesh.copy()
    trimesh.smoothing.filter_taubin(smooth, iterations=2 * rounds)
    return smooth


def decimate(mesh: trimesh.Trimesh, *, faces: int) -> trimesh.Trimesh:
    """At most `faces` triangles by edge collapses; more when only a milder cut keeps the surface closed."""
    for target in (faces, 2 * faces, 4 * faces):
        if len(mesh.faces) <= target:
            break
        cut = fast_simplification.simplify(
            np.asarray(mesh.vertices), np.asarray(mesh.faces), target_count=target, agg=5
        )
        simpler = _mesh(cut[0], cut[1])
        if simpler.is_volume:
            return simpler
    return mesh


def _mesh(vertices: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh:
    return trimesh.Trimesh(vertices, faces, process=False, validate=False)


def _part_of_face(faces: Int[np.ndarray, "f 3"], num_vertices: int) -> Int[np.ndarray, "f"]:
    """A label per face: which connected part it belongs to."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=(num_vertices, num_vertices))
    _, labels = csgraph.connected_components(graph, directed=False)
    return labels[faces[:, 0]].astype(np.int64)
