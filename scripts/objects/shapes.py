"""Closed solids that several families share, beside the primitives of `base`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import shapely
from scipy.interpolate import PchipInterpolator
from skimage.measure import marching_cubes

from objects.base import Point, Solid, loft

Distance = Callable[[np.ndarray], np.ndarray]  # points [..., 3] -> signed distance [...], negative inside


def superquadric(
    centre: Point, half: Point, *, upright: float = 1.0, around: float = 1.0, segments: int = 24
) -> Solid:
    """A superellipsoid of half sizes (x, y, z); exponents 1 are round, towards 0 boxy, 2 a diamond.

    Barr, Superquadrics and Angle-Preserving Transformations (1981), with y as the axis.
    """

    def power(wave: np.ndarray, exponent: float) -> np.ndarray:
        return np.sign(wave) * np.abs(wave) ** exponent

    latitude = np.linspace(-np.pi / 2, np.pi / 2, segments // 2 + 1)[1:-1, None]
    longitude = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    wide = power(np.cos(latitude), upright)
    rings = np.stack(
        np.broadcast_arrays(
            wide * power(np.sin(longitude), around),
            power(np.sin(latitude), upright),
            wide * power(np.cos(longitude), around),
        ),
        axis=-1,
    )
    vertices, faces = loft(rings)
    vertices[-2:] = [0, -1, 0], [0, 1, 0]
    return vertices * np.asarray(half) + np.asarray(centre), faces


def ball(centre: Point, radius: float | Point) -> Solid:
    """A sphere, or an ellipsoid of three radii."""
    return superquadric(centre, np.broadcast_to(radius, 3))


def tube(
    points: Sequence[Point] | np.ndarray, radii: Sequence[float] | np.ndarray | float, segments: int = 14
) -> Solid:
    """A round tube along two or more points, with a smoothed path and rounded ends."""
    corners = np.asarray(points, np.float64)
    stops = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(corners, axis=0), axis=1))])
    inner = np.linspace(0, stops[-1], 2 if len(corners) == 2 else 4 * len(corners))
    path = PchipInterpolator(stops, corners)(inner)
    radius = np.interp(inner, stops, np.broadcast_to(radii, len(corners)))
    forward = np.gradient(path, axis=0)
    forward /= np.linalg.norm(forward, axis=1, keepdims=True)
    side = np.cross(forward[0], np.eye(3)[np.abs(forward[0]).argmin()])
    turn = np.linspace(0, 2 * np.pi, segments, endpoint=False)[:, None]
    cap = np.linspace(np.pi / 2 - 0.1, np.pi / 8, 4)
    rows = [(0, -np.sin(a), np.cos(a)) for a in cap] + [(k, 0.0, 1.0) for k in range(len(path))]
    rows += [(len(path) - 1, np.sin(a), np.cos(a)) for a in cap[::-1]]
    rings = []
    for k, out, wide in rows:
        side = side - (side @ forward[k]) * forward[k]
        side /= np.linalg.norm(side)
        across = np.cross(forward[k], side)
        middle = path[k] + out * radius[k] * forward[k]
        rings.append(middle + wide * radius[k] * (np.cos(turn) * side + np.sin(turn) * across))
    return loft(np.array(rings))


def cuboid(centre: Point, size: Point) -> Solid:
    """A box with sharp edges; give it to `add` with `flat`."""
    corner = np.indices((2, 2, 2)).reshape(3, -1).T - 0.5
    faces = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]]
    faces += [[2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
    return corner * np.asarray(size) + np.asarray(centre), np.array(faces)


def torus(centre: Point, radius: float, thickness: float, axis: str = "y", segments: int = 28) -> Solid:
    """A ring of the given radius to the middle of its round section."""
    around = np.linspace(0, 2 * np.pi, segments, endpoint=False)[:, None]
    section = np.linspace(0, 2 * np.pi, segments // 2, endpoint=False)
    wide, high = radius + thickness * np.cos(section), thickness * np.sin(section) + 0 * around
    parts = {"u": wide * np.sin(around), "v": wide * np.cos(around), "w": high}
    order = {"x": "wuv", "y": "vwu", "z": "uvw"}[axis]
    vertices = np.stack([parts[k] for k in order], axis=-1).reshape(-1, 3)
    row, column = np.divmod(np.arange(len(vertices)), section.size)
    next_row, next_column = (row + 1) % segments * section.size, (column + 1) % section.size
    here, aside = row * section.size + column, row * section.size + next_column
    ahead, across = next_row + column, next_row + next_column
    faces = np.concatenate(
        [np.stack(each, axis=1) for each in ((here, across, ahead), (here, aside, across))]
    )
    return vertices + np.asarray(centre), faces


def lathe(profile: Sequence[tuple[float, float]], steps: int = 5) -> list[tuple[float, float]]:
    """A profile of (radius, height) for `base.revolve`, smoothed by `steps` rows for each of its own."""
    rows = np.asarray(profile, np.float64)
    stops = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(rows, axis=0), axis=1))])
    smooth = PchipInterpolator(stops, rows)(np.linspace(0, stops[-1], steps * (len(rows) - 1) + 1))
    return [(max(float(radius), 1e-3), float(height)) for radius, height in smooth]


def extruded(outline: shapely.Geometry, low: float, high: float) -> Solid:
    """Polygons in (x, y), holes and all, between z = low and z = high; give it to `add` with `flat`."""
    polygons = shapely.orient_polygons(outline)
    loops = [
        np.asarray(ring.coords)[:-1]
        for polygon in shapely.get_parts(polygons)
        for ring in (polygon.exterior, *polygon.interiors)
    ]
    flat = np.concatenate(loops)
    number = {(x, y): k for k, (x, y) in enumerate(flat)}
    triangles = shapely.get_parts(shapely.constrained_delaunay_triangles(polygons))
    corners = shapely.get_coordinates(shapely.orient_polygons(triangles)).reshape(-1, 4, 2)[:, :3]
    caps = np.array([[number[x, y] for x, y in corner] for corner in corners])
    following = np.concatenate([np.roll(np.arange(len(ring)), -1) for ring in loops])
    starts = np.repeat(np.cumsum([0, *(len(ring) for ring in loops[:-1])]), [len(ring) for ring in loops])
    here, after, top = np.arange(len(flat)), starts + following, len(flat)
    faces = [caps[:, ::-1], caps + top]
    faces += [np.stack([here, after, after + top], axis=1), np.stack([here, after + top, here + top], axis=1)]
    vertices = [np.column_stack([flat, np.full(len(flat), z)]) for z in (low, high)]
    return np.concatenate(vertices), np.concatenate(faces)


def carved(distance: Distance, half: float, cells: int = 34) -> Solid:
    """The surface where a signed distance is zero, inside a cube of half side `half` around the origin."""
    ticks = np.linspace(-half, half, cells)
    points = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), axis=-1)
    vertices, faces, _, _ = marching_cubes(distance(points), 0.0)
    return vertices.astype(np.float64) * (2 * half / (cells - 1)) - half, faces.astype(np.int64)
