"""Where a regular grid of parallel lines crosses a triangle mesh: what lies inside it and how far away it is.

A line that runs exactly through an edge or a corner crosses one of the triangles there, never none or two,
so closed surfaces are crossed an even number of times.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from svd3d.cameras import Cameras
from svd3d.errors import MeshError

CANDIDATES = 1 << 20
"""Pairs of line and triangle that are looked at together; bounds the memory."""


@dataclass(frozen=True, eq=False)
class Crossings:
    """Lines by two indices, and where along the third axis each meets the surface."""

    first: Int[np.ndarray, "n"]
    second: Int[np.ndarray, "n"]
    third: Float[np.ndarray, "n"]
    direction: Int[np.ndarray, "n"]
    """1 or -1: whether the corners turn left or right as seen against the third axis."""


def crossings(triangles: Float[np.ndarray, "f 3 3"], shape: tuple[int, int]) -> Iterator[Crossings]:
    """Crossings of the lines (i, j, *) with integers 0 <= i < shape[0], 0 <= j < shape[1], in batches."""
    last = np.array(shape) - 1
    low = np.ceil(triangles[..., :2].min(axis=1)).clip(0, last + 1).astype(np.int64)
    high = np.floor(triangles[..., :2].max(axis=1)).clip(-1, last).astype(np.int64)
    extent = (high - low + 1).clip(0)
    number = extent.prod(axis=1)
    occupied = np.flatnonzero(number)
    batches = np.cumsum(number[occupied]) // CANDIDATES
    for chosen in np.split(occupied, np.flatnonzero(np.diff(batches)) + 1):
        face = np.repeat(chosen, number[chosen])
        place = np.arange(len(face)) - np.repeat(np.cumsum(number[chosen]) - number[chosen], number[chosen])
        line = low[face] + np.stack(np.divmod(place, extent[face, 1]), axis=1)
        inside = _inside(triangles[face, :, :2], line)
        yield _heights(triangles[face[inside]], line[inside])


def _inside(corners: Float[np.ndarray, "n 3 2"], line: Int[np.ndarray, "n 2"]) -> Bool[np.ndarray, "n"]:
    """Whether an odd number of the edges lies to the right of the line: a seam has one owner."""
    inside = np.zeros(len(line), bool)
    for one, other in ((0, 1), (1, 2), (2, 0)):
        start, end = corners[:, one], corners[:, other]
        swap = (start[:, 1] > end[:, 1]) | ((start[:, 1] == end[:, 1]) & (start[:, 0] > end[:, 0]))
        start, end = np.where(swap[:, None], end, start), np.where(swap[:, None], start, end)
        spans = (start[:, 1] <= line[:, 1]) & (line[:, 1] < end[:, 1])
        rise = np.where(spans, end[:, 1] - start[:, 1], 1)
        inside ^= spans & (
            line[:, 0] < start[:, 0] + (line[:, 1] - start[:, 1]) / rise * (end[:, 0] - start[:, 0])
        )
    return inside


def _heights(triangles: Float[np.ndarray, "n 3 3"], line: Int[np.ndarray, "n 2"]) -> Crossings:
    corner, u, v = triangles[:, 0], triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    away = line - corner[:, :2]
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    safe = np.where(area == 0, 1, area)
    along_u = (away[:, 0] * v[:, 1] - away[:, 1] * v[:, 0]) / safe
    along_v = (u[:, 0] * away[:, 1] - u[:, 1] * away[:, 0]) / safe
    third = corner[:, 2] + along_u * u[:, 2] + along_v * v[:, 2]
    low, high = triangles[..., 2].min(axis=1), triangles[..., 2].max(axis=1)  # slivers amplify rounding
    return Crossings(line[:, 0], line[:, 1], third.clip(low, high), np.sign(area).astype(np.int64))


def occupancy(
    triangles: Float[np.ndarray, "f 3 3"],
    *,
    origin: Float[np.ndarray, "3"],
    step: float,
    resolution: int,
    rule: Literal["winding", "parity"],
) -> Bool[np.ndarray, "{resolution} {resolution} {resolution}"]:
    """Which of the points origin + step * (i, j, k) lie inside a surface, counted along the first axis.

    `winding`: where the surface winds around the point at all, so parts that overlap count once; needs
    faces that all turn the same way. `parity`: after an odd number of crossings, whichever way faces turn.
    Leaky surfaces give an answer too, wrong behind the leaks.
    """
    grid = ((triangles - origin) / step)[..., [1, 2, 0]]
    changes = np.zeros((resolution + 1, resolution, resolution), np.int64)
    for found in crossings(grid, (resolution, resolution)):
        first = np.ceil(found.third).clip(0, resolution).astype(np.int64)
        np.add.at(changes, (first, found.first, found.second), found.direction if rule == "winding" else 1)
    passed = changes[:-1].cumsum(axis=0)
    return passed != 0 if rule == "winding" else passed % 2 == 1


def depth_maps(triangles: Float[np.ndarray, "f 3 3"], cameras: Cameras) -> Float[np.ndarray, "v h w"]:
    """Depth of the nearest surface behind each pixel centre, along the optical axis; 0 where there is none.

    World units; both sides of a face count. Raises `MeshError` for a mesh that reaches behind a camera.
    """
    depth = np.zeros((len(cameras), cameras.height, cameras.width))
    pixels, distance = cameras.project(triangles.reshape(-1, 3))
    for view in range(len(cameras)):
        if distance[view].min() <= 0:
            raise MeshError(
                f"the mesh reaches behind the camera of view {view}; it must stand in the world, where the "
                "longest side is about 1"
            )
        # Over the picture plane it is the inverse of depth that is linear on a triangle.
        seen = np.column_stack([pixels[view] - 0.5, 1 / distance[view]]).reshape(-1, 3, 3)
        nearness = np.zeros((cameras.height, cameras.width))
        for found in crossings(seen, (cameras.width, cameras.height)):
            np.maximum.at(nearness, (found.second, found.first), found.third)
        np.divide(1, nearness, out=depth[view], where=nearness > 0)
    return depth
