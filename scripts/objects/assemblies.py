"""Assemblies: primitives and superquadrics in clusters, stacks, mirrored pairs and rings, in any surface."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from objects.base import Object, Solid, box, moved, revolve, turned
from objects.dress import dressed
from objects.shapes import superquadric, torus, tube

NAMES = ("first", "second", "third", "fourth")


def solid(rng: np.random.Generator, half: np.ndarray) -> Solid:
    """A primitive around the origin that fills about half sizes (x, y, z)."""
    small = float(half.min())
    kind = rng.choice(["superquadric", "box", "cylinder", "cone", "torus", "capsule", "tapered"])
    if kind == "superquadric":
        return superquadric((0, 0, 0), half, upright=rng.uniform(0.15, 1.8), around=rng.uniform(0.15, 1.8))
    if kind == "box":
        return box((0, 0, 0), tuple(2 * half), rng.uniform(0.05, 0.4) * small)
    if kind == "torus":
        return torus((0, 0, 0), 0.7 * float(half.max()), 0.3 * small, str(rng.choice(["x", "y", "z"])))
    if kind == "capsule":
        return tube([(0, -half[1], 0), (0, half[1], 0)], [0.8 * small, rng.uniform(0.3, 0.8) * small])
    wide, top = 1.0, {"cylinder": 1.0, "cone": 0.02, "tapered": rng.uniform(0.4, 0.8)}[str(kind)]
    rows = [(0.01, -1.0), (0.96 * wide, -1.0), (wide, -0.95), (top, 0.95), (0.96 * top, 1.0), (0.005, 1.0)]
    sides = int(rng.choice([4, 6, 28]))
    vertices, faces = revolve(rows, (0, 0, 0), "y", sides)
    return vertices * half, faces


def tilted(rng: np.random.Generator, part: Solid) -> Solid:
    """Half of them turned by any angles."""
    if rng.random() < 0.5:
        return part
    return turned(turned(part, rng.uniform(0, 360), "x"), rng.uniform(0, 360), "y")


def put(made: Object, rng: np.random.Generator, part: Solid, *, mirror: bool = False) -> None:
    """Add a part in any of the materials; faceted where few triangles ask for it."""
    mapping = "object" if rng.random() < 0.5 else "part"
    name = NAMES[rng.integers(len(NAMES))]
    made.add(part, name, mirror=mirror, flat=len(part[1]) < 130 and not mirror, mapping=mapping)


def cluster(rng: np.random.Generator, made: Object) -> None:
    """A big part with smaller ones stuck to it."""
    half = rng.uniform(0.3, 0.55, 3)
    put(made, rng, solid(rng, half))
    for _ in range(rng.integers(2, 7)):
        direction = rng.normal(size=3)
        place = direction / np.linalg.norm(direction) * half * rng.uniform(0.8, 1.1)
        put(made, rng, moved(tilted(rng, solid(rng, rng.uniform(0.1, 0.3, 3))), place))


def stack(rng: np.random.Generator, made: Object) -> None:
    """Parts on top of each other, the lower ones mostly wider."""
    top = 0.0
    count = int(rng.integers(2, 6))
    for k in range(count):
        half = rng.uniform(0.15, 0.5, 3) * [1 - 0.1 * k, 0.7, 1 - 0.1 * k]
        part = solid(rng, half)
        lowest = part[0][:, 1].min()
        sideways = rng.uniform(-0.08, 0.08, 2)
        part = moved(part, (sideways[0], top - lowest - 0.01, sideways[1]))
        top = part[0][:, 1].max()
        put(made, rng, part)


def mirrored(rng: np.random.Generator, made: Object) -> None:
    """A body in the middle with pairs at both sides."""
    half = rng.uniform(0.2, 0.5, 3)
    put(made, rng, solid(rng, half))
    for _ in range(rng.integers(1, 4)):
        small = rng.uniform(0.08, 0.3, 3)
        place = rng.uniform(-1, 1, 3) * half
        place[0] = half[0] * rng.uniform(0.7, 1.1)
        put(made, rng, moved(tilted(rng, solid(rng, small)), place), mirror=True)
    if rng.random() < 0.6:
        put(
            made,
            rng,
            moved(solid(rng, rng.uniform(0.15, 0.3, 3)), (0, half[1], rng.uniform(-0.5, 1) * half[2])),
        )


def circle(rng: np.random.Generator, made: Object) -> None:
    """Equal parts around the vertical, on a plate or around a middle."""
    count, radius = int(rng.integers(3, 9)), rng.uniform(0.35, 0.5)
    half = rng.uniform(0.08, 0.2, 3) * [1, rng.uniform(1, 2.5), 1]
    part = moved(tilted(rng, solid(rng, half)), (0, 0, radius))
    name, mapping = NAMES[rng.integers(len(NAMES))], "part"
    for k in range(count):
        made.add(turned(part, 360 * k / count, "y"), name, mapping=mapping)
    put(
        made, rng, solid(rng, np.array([rng.uniform(0.2, 0.4), rng.uniform(0.1, 0.5), rng.uniform(0.2, 0.4)]))
    )
    lowest = made.bounds()[0, 1]
    plate = revolve([(0.01, -0.1), (0.6, -0.1), (0.6, 0.02), (0.01, 0.02)], (0, lowest, 0), "y", 32)
    made.add(plate, NAMES[rng.integers(len(NAMES))])


def table(rng: np.random.Generator, made: Object) -> None:
    """Uprights under a slab, with something on it."""
    width, depth, height = rng.uniform(0.3, 0.55), rng.uniform(0.2, 0.45), rng.uniform(0.3, 0.8)
    upright = solid(rng, np.array([0.09, height / 2 + 0.03, 0.09]))
    for z in (-depth, depth):
        made.add(moved(upright, (0.9 * width, height / 2, z)), "first", mirror=True)
    slab = box((0, height, 0), (2.2 * width, rng.uniform(0.08, 0.2), 2.4 * depth), 0.03)
    made.add(slab, "second", mapping="part")
    part = solid(rng, rng.uniform(0.15, 0.3, 3))
    put(made, rng, moved(part, (0, height + 0.06 - part[0][:, 1].min(), 0)))


KINDS: tuple[Callable[[np.random.Generator, Object], None], ...] = (cluster, stack, mirrored, circle, table)


def make(rng: np.random.Generator) -> Object:
    """One assembly."""
    made = Object(dressed(rng, *NAMES, plain=0.25), scale=0.3)
    KINDS[rng.integers(len(KINDS))](rng, made)
    return made.stand()
