"""Bringing a predicted surface into the frame of its reference, in ways that a report names.

Every alignment centres the reference on its bounding box and scales its longest side to 1. The prediction
follows by one similarity (turn, scale, shift; never a mirror), a 4 x 4 matrix that belongs into the report:
the more an alignment may do, the better the numbers, so numbers compare within one alignment only.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from svd3d.errors import MeshError, require
from svd3d.metrics.geometry import (
    Neighbours,
    Samples,
    Surface,
    chamfer,
    nearest_distances,
    neighbours,
    sample_surface,
)

Alignment = Literal["none", "world", "bounding-box", "icp", "yaw"]
"""How a prediction meets its reference; see `align`."""
AZIMUTH_STEP_DEG = 15.0
"""Between the turns that a yaw search tries."""
CANDIDATES = 3
"""Turns of a yaw search that are refined."""
SEARCH_SAMPLES, REFINE_SAMPLES = 1500, 4000
"""Points per surface to compare turns, and to refine."""
ITERATIONS = 40
"""At most, of a refinement."""
PATIENCE = 4
"""A refinement ends after so many steps without a smaller Chamfer distance (by more than 0.01 %)."""


@dataclass(frozen=True, eq=False)
class Aligned:
    """Two surfaces in one frame, and how they came there: x_new = move @ (x, 1)."""

    prediction: Surface
    reference: Surface
    prediction_move: Float[np.ndarray, "4 4"]
    reference_move: Float[np.ndarray, "4 4"]


def align(prediction: Surface, reference: Surface, alignment: Alignment) -> Aligned:
    """Both surfaces in the frame where the reference is centred on its bounding box with longest side 1.

    - `none`: the prediction is moved exactly as the reference (both files share one frame);
    - `world`: the prediction stays (it already stands in svd3d's world, as `reconstruct` leaves it);
    - `bounding-box`: the prediction is centred and scaled by its own bounding box, never turned;
    - `icp`: from there on turned, scaled and shifted to the nearest fit of the surfaces;
    - `yaw`: as `icp`, from the best of all azimuths, so a prediction may stand turned about +Z.

    The same surfaces give the same result. Raises `MeshError` for a surface without extent or area.
    """
    reference_move = to_unit_box(reference)
    aligned = transformed(reference, reference_move)
    if alignment == "none":
        move = reference_move
    elif alignment == "world":
        move = np.eye(4)
    elif alignment == "bounding-box":
        move = to_unit_box(prediction)
    else:
        azimuths_deg = np.arange(0, 360, AZIMUTH_STEP_DEG) if alignment == "yaw" else np.zeros(1)
        move = _fitted(prediction, aligned, azimuths_deg)
    return Aligned(transformed(prediction, move), aligned, move, reference_move)


def to_unit_box(surface: Surface) -> Float[np.ndarray, "4 4"]:
    """The move that centres a surface on its bounding box and scales its longest side to 1."""
    low, high = surface.bounds
    longest = float((high - low).max())
    if not 1e-12 < longest < 1e12:
        raise MeshError(f"the mesh has a longest side of {longest:g}; it cannot be scaled to 1")
    return _move(np.eye(3) / longest, -(low + high) / 2 / longest)


def turn(azimuth_deg: float) -> Float[np.ndarray, "4 4"]:
    """The turn about +Z, counter-clockwise seen from above."""
    cosine, sine = np.cos(np.radians(azimuth_deg)), np.sin(np.radians(azimuth_deg))
    return _move(np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]), np.zeros(3))


def transformed(surface: Surface, move: Float[np.ndarray, "4 4"]) -> Surface:
    """The surface moved by a similarity."""
    return Surface(_moved(surface.vertices.astype(np.float64), move), surface.faces)


def _fitted(
    prediction: Surface, reference: Surface, azimuths_deg: Float[np.ndarray, "a"]
) -> Float[np.ndarray, "4 4"]:
    """The move with the smallest Chamfer distance that a refinement reaches from one of the azimuths."""
    points, others = (
        sample_surface(surface, REFINE_SAMPLES, generator=np.random.default_rng(stream))
        for stream, surface in enumerate((prediction, reference))
    )
    turns = [turn(float(azimuth)) for azimuth in azimuths_deg]
    starts = [to_unit_box(transformed(prediction, turned)) @ turned for turned in turns]
    if len(starts) > CANDIDATES:
        few, other_few = points.points[:SEARCH_SAMPLES], others.points[:SEARCH_SAMPLES]
        scores = [chamfer(*nearest_distances(_moved(few, start), other_few)) for start in starts]
        starts = [starts[best] for best in np.argsort(scores, kind="stable")[:CANDIDATES]]
    refined = [_refined(points, others, start) for start in starts]
    return min(refined, key=lambda found: found[0])[1]


def _refined(
    samples: Samples, others: Samples, move: Float[np.ndarray, "4 4"]
) -> tuple[float, Float[np.ndarray, "4 4"]]:
    """Iterative closest points from a first move: the smallest Chamfer distance on the way, and its move."""
    best, idle = (np.inf, move), 0
    for _ in range(ITERATIONS):
        turned = samples.normals @ move[:3, :3].T
        placed = Samples(_moved(samples.points, move), turned / np.linalg.norm(turned, axis=1, keepdims=True))
        near = neighbours(placed.points, others.points)
        score = chamfer(near.there, near.back)
        idle = 0 if score < 0.9999 * best[0] else idle + 1
        best = min(best, (score, move), key=lambda found: found[0])
        if idle == PATIENCE:
            break
        move = _step(placed, others, near) @ move
    return best


def _step(placed: Samples, others: Samples, near: Neighbours) -> Float[np.ndarray, "4 4"]:
    """The small similarity that best brings points p and their nearest q, in both directions, together.

    Linear least squares of (n_p + n_q) . (p + turn x p + shift + growth p - q): the symmetric objective of
    Rusinkiewicz 2019, with growth. It is 0 for any two points of one sphere, so surfaces slide along each
    other and curved ones do not grow. Of what it leaves open, such as a turn of a sphere, the least is done.
    """
    transform = require("scipy.spatial.transform", extra="metrics", reason="aligning meshes")
    moved, normals = (
        np.concatenate([each, each[near.back_index]]) for each in (placed.points, placed.normals)
    )
    fixed, other_normals = (
        np.concatenate([each[near.there_index], each]) for each in (others.points, others.normals)
    )
    alike = np.sign((normals * other_normals).sum(axis=1, keepdims=True))  # faces may turn either way
    normals = other_normals + alike * normals
    rows = np.column_stack([np.cross(moved, normals), normals, (moved * normals).sum(axis=1)])
    found = np.linalg.lstsq(rows, ((fixed - moved) * normals).sum(axis=1), rcond=1e-6)[0]
    rotation = transform.Rotation.from_rotvec(found[:3]).as_matrix()
    return _move(rotation * (1 + found[6].clip(-0.5, 0.5)), found[3:6])


def _move(linear: Float[np.ndarray, "3 3"], shift: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 4"]:
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = linear, shift
    return move


def _moved(points: Float[np.ndarray, "n 3"], move: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "n 3"]:
    return points @ move[:3, :3].T + move[:3, 3]
