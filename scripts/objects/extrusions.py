"""Extrusions: letters, digits, stars, gears, flowers and arrows cut out of a plate, some on a foot."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import shapely
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from shapely import affinity

from objects import textures
from objects.base import Object, box
from objects.dress import dressed
from objects.shapes import extruded

FONTS = tuple(  # shipped with matplotlib
    FontProperties(family=f"DejaVu {family}", weight="bold") for family in ("Sans", "Serif", "Sans Mono")
)


def polygon(turn: np.ndarray, radius: np.ndarray) -> shapely.Geometry:
    """The polygon of polar coordinates, its first corner up."""
    return shapely.Polygon(np.stack([radius * np.sin(turn), radius * np.cos(turn)], axis=1))


def letters(rng: np.random.Generator) -> shapely.Geometry:
    """One to three letters or digits, side by side, their holes open."""
    text = "".join(rng.choice(list(textures.LETTERS), rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2])))
    path = TextPath((0, 0), text, size=1, prop=FONTS[rng.integers(len(FONTS))])
    outline = shapely.Polygon()
    for ring in path.to_polygons():
        outline = outline.symmetric_difference(shapely.Polygon(np.asarray(ring)))
    return outline.simplify(0.002)


def star(rng: np.random.Generator) -> shapely.Geometry:
    """A star of 4 to 9 points."""
    points = int(rng.integers(4, 10))
    turn = np.arange(2 * points) * np.pi / points
    return polygon(turn, np.where(np.arange(2 * points) % 2, rng.uniform(0.35, 0.7), 1.0))


def gear(rng: np.random.Generator) -> shapely.Geometry:
    """A gear wheel with a bore and perhaps holes around it."""
    teeth, deep = int(rng.integers(6, 17)), rng.uniform(0.12, 0.25)
    turn = (np.arange(4 * teeth) - 0.5 + np.tile([0.0, 0.25, -0.25, 0.0], teeth)) * np.pi / (2 * teeth)
    rim = polygon(turn, np.tile([1 - deep, 1.0, 1.0, 1 - deep], teeth)[np.arange(4 * teeth) - 1])
    outline = shapely.difference(rim, shapely.Point(0, 0).buffer(rng.uniform(0.15, 0.35)))
    if rng.random() < 0.5:
        for angle in np.arange(5) * 0.4 * np.pi:
            hole = shapely.Point(0.55 * np.sin(angle), 0.55 * np.cos(angle)).buffer(0.13)
            outline = shapely.difference(outline, hole)
    return outline


def flower(rng: np.random.Generator) -> shapely.Geometry:
    """A waved disc, or a ring of it."""
    turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    outline = polygon(turn, 0.8 + rng.uniform(0.08, 0.22) * np.cos(rng.integers(3, 9) * turn))
    bore = shapely.Point(0, 0).buffer(rng.uniform(0.15, 0.45))
    return shapely.difference(outline, bore) if rng.random() < 0.6 else outline


def heart(rng: np.random.Generator) -> shapely.Geometry:
    """A heart."""
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x = np.sin(turn) ** 3
    y = 0.81 * np.cos(turn) - 0.31 * np.cos(2 * turn) - 0.12 * np.cos(3 * turn) - 0.06 * np.cos(4 * turn)
    return affinity.scale(
        shapely.Polygon(np.stack([x, y], axis=1)), rng.uniform(0.8, 1.2), rng.uniform(0.8, 1.1)
    )


def arrow(rng: np.random.Generator) -> shapely.Geometry:
    """An arrow in any of eight directions."""
    head, stem = rng.uniform(0.2, 0.6), rng.uniform(0.15, 0.35)
    right = [(0, 1), (0.75, 1 - head - 0.2), (stem, 1 - head - 0.2), (stem, -0.9)]
    outline = shapely.Polygon(right + [(-x, y) for x, y in right[:0:-1]])
    return affinity.rotate(outline, 45 * rng.integers(8), origin=(0, 0))


def girder(rng: np.random.Generator) -> shapely.Geometry:
    """A cross, an L, an H, a U or a frame of bars."""
    bar = rng.uniform(0.2, 0.4)
    whole, left = shapely.box(-1, -1, 1, 1), shapely.box(-1, -1, -1 + bar, 1)
    low, across = shapely.box(-1, -1, 1, -1 + bar), shapely.box(-1, -bar / 2, 1, bar / 2)
    right = affinity.scale(left, -1, origin=(0, 0))
    shapes = (
        across.union(affinity.rotate(across, 90, origin=(0, 0))),
        left.union(low),
        left.union(right).union(across),
        left.union(right).union(low),
        whole.difference(affinity.scale(whole, 1 - bar, 1 - bar)),
    )
    return affinity.scale(shapes[rng.integers(len(shapes))], 1, rng.uniform(0.7, 1.4))


KINDS: tuple[Callable[[np.random.Generator], shapely.Geometry], ...] = (
    star,
    gear,
    flower,
    heart,
    arrow,
    girder,
)
LETTERS = 0.45  # share of letters and digits


def make(rng: np.random.Generator) -> Object:
    """One extrusion, its outline seen from the front; one in four has a second, smaller layer on top."""
    outline = letters(rng) if rng.random() < LETTERS else KINDS[rng.integers(len(KINDS))](rng)
    low_x, low_y, high_x, high_y = shapely.bounds(outline)
    size = 1 / max(high_x - low_x, high_y - low_y)
    outline = affinity.translate(outline, -(low_x + high_x) / 2, -low_y)
    outline = affinity.scale(outline, size, size, origin=(0, 0))
    deep = rng.uniform(0.12, 0.45)
    made = Object(dressed(rng, "front", "layer", "foot"), scale=0.3)
    made.add(extruded(outline, -deep / 2, deep / 2), "front", flat=True)
    inner = shapely.buffer(outline, -rng.uniform(0.02, 0.05), join_style="mitre")
    if rng.random() < 0.5 and not inner.is_empty:
        made.add(extruded(inner, -deep / 2 - 0.04, deep / 2 + 0.04), "layer", flat=True)
    if rng.random() < 0.4:
        width = size * (high_x - low_x) * rng.uniform(0.8, 1.2)
        made.add(box((0, -0.03, 0), (max(width, 0.3), 0.1, deep + rng.uniform(0.15, 0.3)), 0.03), "foot")
    return made.stand()
