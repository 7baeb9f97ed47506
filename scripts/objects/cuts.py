"""Cuts: bodies with holes, slots and bites taken out of them, whose cut faces may have another colour.

Bodies are signed distances (negative inside); a cut is the greater of one distance and another's negative.
"""

from __future__ import annotations

import numpy as np

from objects import textures
from objects.base import Material, Object
from objects.dress import finish, palette, surface
from objects.shapes import Distance, carved

AXES = np.eye(3)


def ellipsoid(half: np.ndarray) -> Distance:
    return lambda p: (np.linalg.norm(p / half, axis=-1) - 1) * half.min()


def block(half: np.ndarray, rounding: float) -> Distance:
    """A box, or with much rounding a pillow."""

    def distance(p: np.ndarray) -> np.ndarray:
        outside = np.abs(p) - (half - rounding)
        return (
            np.linalg.norm(np.maximum(outside, 0), axis=-1) + np.minimum(outside.max(axis=-1), 0) - rounding
        )

    return distance


def cylinder(
    axis: int, radius: float, half: float, centre: tuple[float, ...] | np.ndarray = (0, 0, 0)
) -> Distance:
    """A cylinder along x, y or z."""

    def distance(p: np.ndarray) -> np.ndarray:
        p = p - np.asarray(centre)
        return np.maximum(
            np.linalg.norm(np.delete(p, axis, -1), axis=-1) - radius, np.abs(p[..., axis]) - half
        )

    return distance


def shifted(shape: Distance, centre: np.ndarray) -> Distance:
    return lambda p: shape(p - centre)


def onto_both(points: np.ndarray, first: Distance, second: Distance, step: float = 1e-3) -> np.ndarray:
    """Points moved to where both distances are zero, by Newton's method."""
    for _ in range(3):
        values = np.stack([shape(points) for shape in (first, second)], axis=-1)
        slopes = [
            [(shape(points + step * axis) - shape(points - step * axis)) / (2 * step) for axis in AXES]
            for shape in (first, second)
        ]
        inverse = np.linalg.pinv(np.moveaxis(np.array(slopes), -1, 0), rcond=0.3)
        points = points - np.einsum("nij,nj->ni", inverse, values).clip(-0.02, 0.02)
    return points


def body(rng: np.random.Generator) -> Distance:
    """What is cut: a block, ball, cylinder, or a ball within a block."""
    half = rng.uniform(0.3, 0.5, 3)
    kind = rng.choice(["block", "ball", "cylinder", "dice"])
    if kind == "block":
        return block(half, rng.uniform(0.02, 0.15))
    if kind == "ball":
        return ellipsoid(half)
    if kind == "cylinder":
        return cylinder(int(rng.integers(3)), half[0], half[1])
    inner, outer = ellipsoid(1.3 * half), block(half, 0.02)
    return lambda p: np.maximum(inner(p), outer(p))


def cut(rng: np.random.Generator) -> list[Distance]:
    """What is taken out: through holes, a bite of a ball, a corner, slots, or a hollow."""
    kind = rng.choice(["holes", "cross", "bite", "corner", "slots", "hollow"])
    if kind == "holes":
        axis, radius = int(rng.integers(3)), rng.uniform(0.07, 0.13)
        places = [sign * 0.2 * np.roll([0.0, 1.0, other], axis) for sign in (-1, 1) for other in (-1, 1)]
        return [cylinder(axis, radius, 1.0, place) for place in places[: rng.choice([2, 4])]]
    if kind == "cross":
        radius = rng.uniform(0.12, 0.25)
        return [cylinder(axis, radius, 1.0) for axis in range(int(rng.integers(1, 4)))]
    if kind == "bite":
        direction = rng.normal(size=3)
        centre = 0.42 * direction / np.linalg.norm(direction) * [1, np.sign(direction[1]), 1]
        return [shifted(ellipsoid(np.full(3, rng.uniform(0.22, 0.35))), centre)]
    if kind == "corner":
        return [shifted(block(np.full(3, 0.5), 0.01), 0.5 * np.array([rng.choice([-1, 1]), 1, 1]) + 0.05)]
    if kind == "slots":
        axis = rng.integers(3)
        half = np.where(AXES[axis] > 0, rng.uniform(0.035, 0.06), 0.5)
        lift = np.roll(AXES[axis], 1) * 0.3
        return [shifted(block(half, 0.01), lift + AXES[axis] * place) for place in (-0.2, 0.0, 0.2)]
    return [shifted(block(rng.uniform(0.2, 0.27, 3), 0.03), np.array([0, 0.35, 0.1]))]


def make(rng: np.random.Generator) -> Object:
    """One body with one to three cuts; the left half of its texture is its skin, the right the cut."""
    whole = body(rng)
    taken = [each for _ in range(rng.integers(1, 4)) for each in cut(rng)]

    def removed(p: np.ndarray) -> np.ndarray:
        return np.min([each(p) for each in taken], axis=0)

    vertices, faces = carved(lambda p: np.maximum(whole(p), -removed(p)), 0.54)
    colours = palette(rng)
    skin = np.broadcast_to(surface(rng, colours).colour, (*textures.grid()[0].shape, 3))
    inside = np.broadcast_to(surface(rng, colours[1:] + colours[:1]).colour, skin.shape)
    halves = np.concatenate([skin[:, ::2], inside[:, ::2]], axis=1).astype(np.uint8)
    middles = vertices[faces].mean(axis=1)
    is_cut = np.abs(whole(middles)) > np.abs(removed(middles))
    edge = np.intersect1d(faces[is_cut], faces[~is_cut])
    vertices[edge] += 0.97 * (onto_both(vertices[edge], whole, removed) - vertices[edge])  # no two alike
    places, faces = np.unique(faces + len(vertices) * is_cut[:, None], return_inverse=True)
    is_cut, index = np.divmod(places, len(vertices))  # skin and cut share no vertex: their edge is crisp
    vertices, faces = vertices[index], faces.reshape(-1, 3)
    turn = np.arctan2(vertices[:, 0], vertices[:, 2]) / np.pi
    across = 0.02 + 0.46 * np.abs(turn)
    made = Object({"halves": Material(halves, *finish(rng))}, scale=0.3)
    made.add(
        (vertices, faces), "halves", mapping=np.stack([across + 0.5 * is_cut, vertices[:, 1] + 0.5], axis=1)
    )
    return made.stand()
