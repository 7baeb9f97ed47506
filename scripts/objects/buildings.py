"""Buildings: houses, towers, castles, churches, windmills, temples and blocks, their doors to +Z."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from objects import textures
from objects.base import Material, Object, Point, Solid, box, disc, loft, moved, prism, revolve, turned
from objects.colours import paint
from objects.dress import dressed, palette
from objects.shapes import ball, cuboid, lathe, superquadric

GLASS = (92, 134, 172)


def gable(centre: Point, size: Point, over: float) -> Solid:
    """A roof whose ridge runs along z; centre of its foot, and width, height and length."""
    x, height, z = (np.asarray(size) + np.array([2 * over, 0, 2 * over])) / [2, 1, 2]
    roof = prism(np.array([(-x, 0), (x, 0), (0.04 * x, height), (-0.04 * x, height)]), -z, z, 0.01)
    return moved(roof, centre)


def hip(centre: Point, size: Point, over: float) -> Solid:
    """A roof that slopes to all four sides."""
    x, height, z = (np.asarray(size) + np.array([2 * over, 0, 2 * over])) / [2, 1, 2]
    corners = np.array([(x, z), (x, -z), (-x, -z), (-x, z)])
    rows = [(0.0, corners), (0.03, corners), (height, corners * [0.08, 0.45])]
    return moved(loft(np.array([[(a, level, b) for a, b in row] for level, row in rows])), centre)


def cone(centre: Point, radius: float, height: float, sides: int = 28) -> Solid:
    """A pointed roof."""
    return revolve([(0.01, 0.0), (radius, 0.0), (0.01, height)], centre, "y", sides)


def door(made: Object, z: float, width: float, height: float, x: float = 0.0) -> None:
    """A framed door in a wall at z."""
    made.add(box((x, height / 2, z), (1.3 * width, 1.08 * height, 0.035), 0.01), "trim")
    made.add(box((x, height / 2, z), (width, height, 0.06), 0.01), "door")


def windows(made: Object, rng: np.random.Generator, size: Point, low: float, *, ahead: bool = True) -> None:
    """Rows of windows on all sides of a block (width, height, depth) that starts at `low`."""
    width, height, depth = size
    floors = max(1, round(height / rng.uniform(0.2, 0.3)))
    for floor in range(floors):
        y, tall = low + (floor + 0.55) * height / floors, 0.5 * height / floors
        for span, side in ((width, "z"), (depth, "x")):
            count = max(1, round(span / 0.22))
            for place in (np.arange(count) + 0.5) / count * span - span / 2:
                wide = 0.5 * span / count
                if side == "x":
                    pane = cuboid((width / 2, y, place), (0.03, tall, wide))
                    made.add(pane, "window", mirror=True, flat=True)
                    continue
                for z in (-depth / 2, depth / 2):
                    if z < 0 or floor or ahead:
                        made.add(cuboid((place, y, z), (wide, tall, 0.03)), "window", flat=True)


def house(rng: np.random.Generator, made: Object) -> None:
    """A house with a gabled or hipped roof and a chimney, perhaps an annex or a porch."""
    size = rng.uniform([0.55, 0.3, 0.5], [0.9, 0.65, 0.85])
    width, height, depth = size
    made.add(box((0, height / 2, 0), tuple(size), 0.012), "wall", mapping="object")
    windows(made, rng, size, 0.0, ahead=False)
    door(made, depth / 2, rng.uniform(0.12, 0.18), min(0.3, 0.7 * height))
    roof = size * [1, rng.uniform(0.6, 1.1), 1] * [1, 0.5 / height, 1]
    shape = gable if rng.random() < 0.6 else hip
    solid = shape((0, height, 0), roof, 0.06)
    if rng.random() < 0.4 and shape is gable:
        solid = turned(gable((0, height, 0), roof[[2, 1, 0]], 0.06), 90, "y")
    made.add(solid, "roof", flat=True)
    x = rng.uniform(0.15, 0.3) * width
    made.add(box((x, height + 0.5 * roof[1], -0.2 * depth), (0.1, 0.9 * roof[1], 0.1), 0.01), "trim")
    if rng.random() < 0.5:
        annex = size * [rng.uniform(0.4, 0.6), rng.uniform(0.5, 0.8), rng.uniform(0.5, 0.8)]
        side = rng.choice([-1, 1]) * (width + annex[0]) / 2
        made.add(box((side, annex[1] / 2, 0), tuple(annex), 0.012), "wall")
        made.add(gable((side, annex[1], 0), annex * [1, 0.5, 1], 0.04), "roof", flat=True)


def tower(rng: np.random.Generator, made: Object) -> None:
    """A lighthouse or a watch tower."""
    height, wide = rng.uniform(0.8, 1.2), rng.uniform(0.18, 0.26)
    top = wide * rng.uniform(0.55, 0.9)
    sides = int(rng.choice([4, 6, 8, 28]))
    made.add(
        revolve([(0.01, 0), (wide, 0), (top, height), (0.01, height)], (0, 0, 0), "y", sides),
        "wall",
        mapping="round",
    )
    made.add(
        revolve([(0.01, 0), (1.4 * top, 0), (1.4 * top, 0.05), (0.01, 0.05)], (0, height, 0), "y", sides),
        "trim",
    )
    room = rng.uniform(0.14, 0.22)
    made.add(
        revolve([(0.01, 0), (0.75 * top, 0), (0.75 * top, room), (0.01, room)], (0, height + 0.05, 0), "y"),
        "window",
    )
    made.add(cone((0, height + 0.05 + room, 0), 1.1 * top, rng.uniform(0.12, 0.35), sides), "roof")
    door(made, 0.96 * wide, 0.12, 0.22)
    for y in np.linspace(0.4, 0.8, 3) * height:
        made.add(box((0, y, wide + (top - wide) * y / height), (0.07, 0.1, 0.06), 0.01), "window")


def battlements(made: Object, x: float, z: float, size: float, y: float) -> None:
    """A square ring of teeth around (x, z) and its twin at -x."""
    for across in (-1, 0, 1):
        for along in (-1, 0, 1):
            if across or along:
                tooth = (x + across * 0.42 * size, y + 0.03, z + along * 0.42 * size)
                block = cuboid(tooth, (0.2 * size, 0.09, 0.2 * size))
                made.add(block, "trim", mirror=bool(x), flat=True)


def castle(rng: np.random.Generator, made: Object) -> None:
    """Four towers, walls between them, a gate, and perhaps a keep."""
    half, height, thick = rng.uniform(0.35, 0.5), rng.uniform(0.25, 0.4), rng.uniform(0.11, 0.16)
    tall = height * rng.uniform(1.2, 1.9)
    pointed = rng.random() < 0.6
    for z in (-half, half):
        made.add(box((0, height / 2, z), (2 * half, height, 0.1), 0.01), "wall")
        if pointed:
            rows = [
                (0.01, 0.0),
                (1.05 * thick, 0.0),
                (thick, tall),
                (1.15 * thick, tall + 0.03),
                (0.01, tall + 0.05),
            ]
            made.add(revolve(rows, (half, 0, z), "y", 24), "wall", mirror=True, mapping="part")
            made.add(cone((half, tall + 0.03, z), 1.3 * thick, rng.uniform(0.25, 0.4)), "roof", mirror=True)
        else:
            made.add(box((half, tall / 2, z), (2 * thick, tall, 2 * thick), 0.012), "wall", mirror=True)
            battlements(made, half, z, 2.1 * thick, tall)
        for x in np.linspace(-0.6, 0.6, 5) * half:
            made.add(box((x, height + 0.025, z), (0.12 * half, 0.07, 0.11), 0.006), "trim")
    made.add(box((half, height / 2, 0), (0.1, height, 2 * half), 0.01), "wall", mirror=True)
    made.add(box((0, 0.02, 0), (2 * half, 0.04, 2 * half), 0.01), "trim")
    door(made, half + 0.04, 0.2, 0.75 * height)
    if rng.random() < 0.7:
        keep, high = rng.uniform(0.25, 0.4), tall * rng.uniform(1.1, 1.5)
        made.add(box((0, high / 2, -0.1), (keep, high, keep), 0.012), "wall", mapping="part")
        battlements(made, 0.0, -0.1, 1.1 * keep, high)


def church(rng: np.random.Generator, made: Object) -> None:
    """A nave with a tower in front, its roof pointed or an onion."""
    width, height, long = rng.uniform(0.3, 0.45), rng.uniform(0.28, 0.4), rng.uniform(0.55, 0.8)
    made.add(box((0, height / 2, -0.1), (width, height, long), 0.012), "wall")
    windows(made, rng, (width, height, 0.8 * long), 0.0, ahead=False)
    made.add(gable((0, height, -0.1), (width, rng.uniform(0.15, 0.3), long), 0.04), "roof", flat=True)
    tall, wide, z = rng.uniform(0.65, 0.95), rng.uniform(0.2, 0.26), long / 2 - 0.05
    made.add(box((0, tall / 2, z), (wide, tall, wide), 0.012), "wall")
    made.add(disc((0, 0.8 * tall, z + wide / 2), "z", 0.07, 0.02), "door")
    door(made, z + wide / 2, 0.12, 0.22)
    if rng.random() < 0.5:
        made.add(cone((0, tall, z), 0.75 * wide, rng.uniform(0.3, 0.5), 4), "roof", flat=True)
    else:
        onion = [(0.01, 0.0), (0.4 * wide, 0.0), (0.6 * wide, 0.12), (0.25 * wide, 0.25), (0.01, 0.38)]
        made.add(revolve(lathe(onion), (0, tall, z), "y", 28), "roof")


def windmill(rng: np.random.Generator, made: Object) -> None:
    """A tapered mill with four sails in front."""
    height, wide = rng.uniform(0.7, 0.95), rng.uniform(0.24, 0.34)
    top = wide * rng.uniform(0.5, 0.75)
    sides = int(rng.choice([6, 8, 28]))
    made.add(
        revolve([(0.01, 0), (wide, 0), (top, height), (0.01, height)], (0, 0, 0), "y", sides),
        "wall",
        mapping="round",
    )
    made.add(superquadric((0, height, 0), (1.15 * top, rng.uniform(0.14, 0.24), 1.15 * top)), "roof")
    door(made, 0.95 * wide, 0.14, 0.24)
    z, reach, tilt = 1.35 * top, rng.uniform(0.42, 0.55), rng.uniform(0, 90)
    made.add(disc((0, height, z - 0.06), "z", 0.06, 0.1), "trim")
    for k in range(4):
        pole = box((0, height + reach / 2, z), (0.035, reach, 0.035), 0.01)
        cloth = box((0.07, height + 0.58 * reach, z), (0.13, 0.75 * reach, 0.03), 0.008)
        made.add(turned(pole, tilt + 90 * k, "z", (0, height, z)), "trim")
        made.add(turned(cloth, tilt + 90 * k, "z", (0, height, z)), "sail")


def temple(rng: np.random.Generator, made: Object) -> None:
    """Columns on steps under a gable, or a pagoda of roofs."""
    if rng.random() < 0.5:
        y, half, floors = 0.0, rng.uniform(0.25, 0.35), int(rng.integers(2, 6))
        for _ in range(floors):
            tall = rng.uniform(0.14, 0.2)
            made.add(box((0, y + tall / 2, 0), (1.3 * half, tall, 1.3 * half), 0.01), "wall")
            windows(made, rng, (1.3 * half, 0.8 * tall, 1.3 * half), y + 0.1 * tall)
            made.add(hip((0, y + tall, 0), (2 * half, 0.13, 2 * half), 0.05), "roof", flat=True)
            y, half = y + tall + 0.09, 0.85 * half
        made.add(cone((0, y - 0.03, 0), 0.06, 0.25), "trim")
        return
    width, depth, tall = rng.uniform(0.3, 0.45), rng.uniform(0.25, 0.55), rng.uniform(0.35, 0.5)
    for step in range(3):
        grow = 0.14 - 0.04 * step
        made.add(box((0, 0.05 * step, 0), (2 * (width + grow), 0.06, 2 * (depth + grow)), 0.01), "trim")
    column = [
        (0.01, 0.1),
        (0.075, 0.1),
        (0.05, 0.17),
        (0.045, tall),
        (0.075, tall + 0.05),
        (0.01, tall + 0.05),
    ]
    for z in np.linspace(-depth, depth, int(rng.integers(3, 6))):
        made.add(revolve(column, (width, 0, z), "y"), "wall", mirror=True)
    for x in np.linspace(-width, width, int(rng.integers(2, 4)) * 2)[1:-1]:
        for z in (-depth, depth):
            made.add(revolve(column, (x, 0, z), "y"), "wall")
    made.add(box((0, 0.1 + tall / 2, 0), (1.2 * width, tall, 1.4 * depth), 0.01), "door")
    made.add(box((0, tall + 0.09, 0), (2 * width + 0.2, 0.09, 2 * depth + 0.2), 0.01), "trim")
    made.add(
        gable((0, tall + 0.13, 0), (2 * width + 0.2, rng.uniform(0.15, 0.25), 2 * depth + 0.2), 0.02),
        "roof",
        flat=True,
    )


def flats(rng: np.random.Generator, made: Object) -> None:
    """Flats, offices or a shop with its name, in one to three blocks."""
    low, size = 0.0, rng.uniform([0.4, 0.3, 0.35], [0.75, 0.8, 0.6])
    front = size[2] / 2
    for _ in range(rng.integers(1, 4)):
        made.add(box((0, low + size[1] / 2, 0), tuple(size), 0.012), "wall")
        windows(made, rng, size, low, ahead=low > 0)
        made.add(box((0, low + size[1], 0), tuple(size * [1.05, 0, 1.05] + [0, 0.05, 0]), 0.01), "trim")
        low += size[1]
        size = size * rng.uniform([0.5, 0.4, 0.5], [0.85, 0.9, 0.85])
    door(made, front, 0.2, 0.22)
    made.add(box((0, 0.32, front), (0.42, 0.13, 0.07), 0.01), "sign", mapping="part")
    if rng.random() < 0.4:
        made.add(ball((0, low, 0), 0.4 * float(size.min())), "roof")


KINDS: tuple[Callable[[np.random.Generator, Object], None], ...] = (
    house,
    house,
    tower,
    castle,
    church,
    windmill,
    temple,
    flats,
)


def make(rng: np.random.Generator) -> Object:
    """One building."""
    materials = dressed(rng, "roof", "trim", "wall", plain=0.5)
    if rng.random() < 0.3:
        materials["wall"] = Material(textures.bricks(rng, [paint(rng), (226, 220, 208)]))
    materials |= {"window": Material(GLASS, 0.25, 0.0), "door": Material(paint(rng))}
    materials |= {
        "sail": Material((244, 238, 224)),
        "sign": Material(textures.word(rng, palette(rng), "SHOP")),
    }
    made = Object(materials, scale=10.0)
    KINDS[rng.integers(len(KINDS))](rng, made)
    return made.stand()
