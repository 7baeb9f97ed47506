"""What SyncDreamer and EscherNet measure on meshes, restated from their public evaluation scripts.

Both give Chamfer distance as `svd3d.metrics.geometry.chamfer` does, but between other points than samples of
the whole surface: SyncDreamer between those that 16 cameras see (`visible_points`), EscherNet between the
vertices of the files. Both give volume IoU by mesh2sdf (`mesh2sdf_iou`).
"""

import math

import numpy as np
from jaxtyping import Float

from svd3d.cameras import Orbit
from svd3d.errors import MeshError
from svd3d.metrics.crossings import depth_maps, occupancy
from svd3d.metrics.geometry import Surface

PICTURE = 256
"""Height and width of SyncDreamer's depth maps, in pixels."""
FOCAL = 280.0
"""Of SyncDreamer's cameras, in pixels."""
ORBIT = Orbit.static(
    num_views=16,
    elevation_deg=30,
    distance=1.5,
    fov_deg=2 * math.degrees(math.atan(PICTURE / 2 / FOCAL)),
)
"""SyncDreamer's 16 views."""
VOXEL = 0.01
"""Side of the voxels in which points are averaged."""


def visible_points(surface: Surface) -> Float[np.ndarray, "n 3"]:
    """What SyncDreamer's cameras see of a surface that stands in the world: one point per voxel of 0.01.

    Depth maps are unprojected at pixel indices instead of pixel centres, as the authors do: half a pixel off,
    the same in prediction and reference. Theirs differ from these in that the rasterizer of the prediction
    is linear in depth across a triangle, and in that the reference's come from Blender in 16 bits. Raises
    `MeshError` when the surface reaches behind a camera or none sees it.
    """
    cameras = ORBIT.cameras(height=PICTURE, width=PICTURE)
    depth = depth_maps(surface.vertices[surface.faces].astype(np.float64), cameras)
    if not depth.any():
        raise MeshError(
            "none of SyncDreamer's cameras sees the mesh; it must stand in the world, around the origin"
        )
    points = []
    for view in range(len(cameras)):
        rows, columns = np.nonzero(depth[view])
        pixels = np.column_stack([columns, rows]).astype(np.float64)
        points.append(cameras.view(view).unproject(pixels[None], depth[view, rows, columns][None])[0])
    return voxel_means(np.concatenate(points), VOXEL)


def voxel_means(points: Float[np.ndarray, "n 3"], side: float) -> Float[np.ndarray, "m 3"]:
    """The mean of the points in each voxel of a grid that starts half a side below the lowest corner.

    What Open3D's `voxel_down_sample` gives.
    """
    cell = np.floor((points - (points.min(axis=0) - side / 2)) / side).astype(np.int64)
    _, voxel, count = np.unique(
        np.ravel_multi_index(tuple(cell.T), tuple(cell.max(axis=0) + 1)),
        return_inverse=True,
        return_counts=True,
    )
    sums = [np.bincount(voxel, weights=axis) for axis in points.T]
    return np.stack(sums, axis=1) / count[:, None]


def mesh2sdf_iou(prediction: Surface, reference: Surface, *, resolution: int) -> float:
    """Volume IoU as mesh2sdf gives it, where its distance is below 0. Fraction, [0, 1], higher is better.

    Grid points at -1 + 2 i / resolution in [-1, 1], inside after an odd number of crossings along x: a mesh
    that leaks gives an answer too, and where parts overlap they are hollow. The one difference: grid points
    exactly on a surface are inside at its lower sides and outside at its upper ones; to mesh2sdf they are
    all outside. Raises `MeshError` when neither surface holds a grid point.
    """
    one, other = (
        occupancy(
            surface.vertices[surface.faces].astype(np.float64),
            origin=np.full(3, -1.0),
            step=2 / resolution,
            resolution=resolution,
            rule="parity",
        )
        for surface in (prediction, reference)
    )
    either = int((one | other).sum())
    if either == 0:
        raise MeshError(f"neither mesh holds a point of a grid of {resolution} per side in [-1, 1]")
    return int((one & other).sum()) / either
