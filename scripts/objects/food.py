"""Food: burgers, cakes, ice cream, fruit, doughnuts, lollipops, rolls and skewers, in the colours of food."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from objects import textures
from objects.base import Colour, Material, Object, Solid, moved, revolve, turned
from objects.colours import paint
from objects.dress import finish
from objects.shapes import ball, lathe, superquadric, torus, tube

BREAD: tuple[Colour, ...] = ((214, 150, 78), (190, 118, 56), (232, 190, 122))
CREAM: tuple[Colour, ...] = (
    (250, 240, 214),
    (245, 170, 190),
    (110, 66, 42),
    (190, 225, 170),
    (250, 214, 110),
)
FRUIT: tuple[Colour, ...] = ((214, 40, 44), (120, 180, 50), (244, 200, 50), (240, 130, 40), (120, 60, 130))
LEAF, BROWN, WHITE = (70, 150, 50), (104, 66, 38), (250, 248, 240)


def layer(radius: float, low: float, high: float, bulge: float = 0.0) -> Solid:
    """A round slab with soft edges."""
    soft = 0.3 * (high - low)
    rows = [
        (0.01, low),
        (radius - soft, low),
        (radius + bulge, (low + high) / 2),
        (radius - soft, high),
        (0.01, high),
    ]
    return revolve(lathe(rows), (0, 0, 0), "y", 32)


def waved(radius: float, y: float, depth: float, waves: int) -> Solid:
    """A thin slab whose rim goes up and down: a leaf of salad or an icing that runs."""
    vertices, faces = revolve(
        [
            (0.01, -0.02),
            (0.5 * radius, -0.02),
            (radius, -0.02),
            (radius, 0.03),
            (0.5 * radius, 0.03),
            (0.01, 0.03),
        ],
        (0, y, 0),
        "y",
        48,
    )
    far = np.hypot(vertices[:, 0], vertices[:, 2]) / radius
    swing = np.cos(waves * np.arctan2(vertices[:, 0], vertices[:, 2]))
    return vertices + np.outer(depth * swing * far**2, [0, 1, 0]), faces


def sprinkle(rng: np.random.Generator, made: Object, count: int, place: Callable[[], np.ndarray]) -> None:
    """Small grains in bright colours at places on a surface."""
    for k in range(count):
        at, lean = place(), rng.normal(size=3)
        lean *= 0.03 / np.linalg.norm(lean)
        made.add(tube([at - lean, at + lean], 0.017, 8), "grain" if k % 2 else "other grain")


def burger(rng: np.random.Generator, made: Object) -> None:
    """Two halves of a bun and three to seven layers."""
    radius, y = rng.uniform(0.4, 0.5), 0.16
    made.add(layer(radius, 0.0, y, 0.02), "bread")
    for _ in range(rng.integers(3, 8)):
        kind = rng.choice(["salad", "meat", "cheese", "tomato"])
        if kind == "salad":
            made.add(waved(radius + 0.05, y + 0.04, 0.035, int(rng.integers(6, 12))), "leaf")
            y += 0.06
        elif kind == "cheese":
            slice_ = superquadric(
                (0, y + 0.015, 0), (0.95 * radius, 0.025, 0.95 * radius), upright=0.3, around=0.2
            )
            made.add(turned(slice_, rng.uniform(0, 90), "y"), "cheese")
            y += 0.035
        else:
            high = {"meat": rng.uniform(0.09, 0.15), "tomato": 0.06}[str(kind)]
            made.add(layer(radius * rng.uniform(0.93, 1.04), y, y + high), str(kind))
            y += high
    dome = [(0.01, y), (radius, y), (radius * 1.02, y + 0.08), (0.7 * radius, y + 0.24), (0.01, y + 0.3)]
    made.add(revolve(lathe(dome), (0, 0, 0), "y", 32), "bread")
    for _ in range(24):
        turn, out = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.65) * radius
        made.add(
            ball((out * np.sin(turn), y + 0.3 - 0.35 * out**2 / radius, out * np.cos(turn)), 0.022), "white"
        )


def cake(rng: np.random.Generator, made: Object) -> None:
    """A cake of one to three tiers with icing, candles or cherries."""
    radius, y = rng.uniform(0.4, 0.55), 0.0
    square = rng.random() < 0.25
    for _ in range(rng.integers(1, 4)):
        high = rng.uniform(0.16, 0.3)
        if square:
            tier = superquadric((0, y + high / 2, 0), (radius, high / 2, radius), upright=0.15, around=0.15)
        else:
            tier = revolve([(0.01, y), (radius, y), (radius, y + high), (0.01, y + high)], (0, 0, 0), "y", 40)
        made.add(tier, "sponge", mapping="round")
        y += high
        if not square:
            made.add(waved(radius + 0.025, y + 0.01, 0.04, int(rng.integers(8, 16))), "icing")
            made.add(torus((0, y - high + 0.02, 0), radius, 0.03), "cream")
        radius *= rng.uniform(0.6, 0.8)
    radius *= 0.95
    for turn in np.arange(count := int(rng.integers(3, 9))) * 2 * np.pi / count:
        at = np.array([radius * np.sin(turn), y + 0.02, radius * np.cos(turn)])
        if count % 2:
            made.add(tube([at, at + np.array([0, 0.16, 0])], 0.025), "white")
            made.add(ball(at + np.array([0, 0.22, 0]), (0.025, 0.05, 0.025)), "cheese")
        else:
            made.add(ball(at + np.array([0, 0.04, 0]), 0.06), "fruit")


def ice_cream(rng: np.random.Generator, made: Object) -> None:
    """One to three scoops in a cone or a cup, or a swirl."""
    wide = rng.uniform(0.2, 0.26)
    if rng.random() < 0.65:
        foot = -rng.uniform(0.55, 0.75)
        rows = [(0.01, foot), (0.06, foot + 0.02), (wide, 0.0), (wide + 0.02, 0.05), (0.01, 0.05)]
    else:
        rows = [(0.01, -0.3), (0.7 * wide, -0.3), (1.25 * wide, 0.03), (1.2 * wide, 0.05), (0.01, 0.02)]
    made.add(revolve(rows, (0, 0, 0), "y", 32), "waffle", mapping="round")
    if rng.random() < 0.4:
        turn = np.linspace(0, 2 * np.pi * rng.uniform(2.5, 4), 22)
        shrink = np.linspace(1.0, 0.0, len(turn))
        height = 0.1 + 0.55 * (1 - shrink)
        path = np.stack(
            [0.6 * wide * shrink * np.sin(turn), height, 0.6 * wide * shrink * np.cos(turn)], axis=1
        )
        made.add(tube(path, 0.03 + 0.52 * wide * shrink), "cream")
        return
    scoops, y = int(rng.integers(1, 4)), 0.1
    for k in range(scoops):
        made.add(ball((0, y, 0), wide * 1.02), ("icing", "cream", "fruit")[k], mapping="part")
        made.add(torus((0, y - 0.4 * wide, 0), 0.9 * wide, 0.035), ("icing", "cream", "fruit")[k])
        y += 1.25 * wide
    top = y - 0.25 * wide
    made.add(ball((0, top + 0.05, 0), 0.07), "tomato")
    made.add(tube([(0.1, top - 0.1, -0.05), (0.25, top + 0.3, -0.1)], 0.035), "bread")


def fruit(rng: np.random.Generator, made: Object) -> None:
    """An apple, pear, pumpkin, aubergine, banana or pineapple of a kind."""
    kind = rng.choice(["round", "ribbed", "long", "bent"])
    if kind == "bent":
        turn = np.linspace(-1.0, 1.0, 5) * rng.uniform(0.6, 1.0)
        path = np.stack([0.6 * np.sin(turn), 0.6 - 0.6 * np.cos(turn), 0 * turn], axis=1)
        for lean in np.arange(rng.integers(1, 4)) * 0.17:
            made.add(tube(path + np.array([0, 0, lean]), [0.03, 0.1, 0.12, 0.1, 0.04]), "fruit")
            made.add(ball(path[-1] + [0, 0, lean], 0.05), "stalk")
        return
    wide, tall = rng.uniform(0.32, 0.45), rng.uniform(0.55, 0.85) * (1.4 if kind == "long" else 1.0)
    neck = wide * rng.uniform(0.35, 0.95)
    rows = [
        (0.01, 0.06),
        (0.45 * wide, 0.0),
        (wide, 0.38 * tall),
        (neck, 0.75 * tall),
        (0.3 * neck, tall),
        (0.01, 0.92 * tall),
    ]
    vertices, faces = revolve(lathe(rows, 6), (0, 0, 0), "y", 48)
    if kind == "ribbed":
        ribs = np.abs(np.cos(0.5 * rng.integers(6, 12) * np.arctan2(vertices[:, 0], vertices[:, 2])))
        vertices = vertices * (0.82 + 0.18 * ribs[:, None] ** 0.6) * [1, 0, 1] + vertices * [0, 1, 0]
    made.add((vertices, faces), "fruit", mapping="round")
    made.add(tube([(0, 0.88 * tall, 0), (0.05, tall + rng.uniform(0.08, 0.2), 0.03)], [0.03, 0.045]), "stalk")
    for turn in np.arange(rng.integers(0, 6)) * 70.0:
        leaf = turned(ball((0.2, 0, 0), (0.19, 0.02, 0.08)), rng.uniform(10, 60), "z")
        made.add(moved(turned(leaf, turn, "y"), (0, 0.97 * tall, 0)), "leaf")


def doughnut(rng: np.random.Generator, made: Object) -> None:
    """One to four iced rings in a stack."""
    radius, thick, y = rng.uniform(0.3, 0.38), rng.uniform(0.13, 0.18), 0.0
    shift = np.zeros(3)
    for _ in range(rng.integers(1, 5)):
        shift = np.array([*rng.uniform(-0.06, 0.06, 2), 0])[[0, 2, 1]] + [0, y, 0]
        made.add(torus(shift, radius, thick), "bread")
        vertices, faces = torus(shift + np.array([0, 0.025, 0]), radius, 1.02 * thick)
        floor = shift[1] + 0.03 + 0.03 * np.cos(6 * np.arctan2(vertices[:, 0], vertices[:, 2]))
        vertices[:, 1] = np.maximum(vertices[:, 1], floor)
        made.add((vertices, faces), "icing")
        y += 1.5 * thick
    y -= 1.5 * thick

    def on_top() -> np.ndarray:
        turn = rng.uniform(0, 2 * np.pi)
        return np.array([radius * np.sin(turn), y + 1.02 * thick + 0.025, radius * np.cos(turn)]) + shift * [
            1,
            0,
            1,
        ]

    sprinkle(rng, made, int(rng.integers(0, 30)), on_top)


def lollipop(rng: np.random.Generator, made: Object) -> None:
    """A disc, ball or heart-like sweet on a stick, or an ice lolly."""
    size, stick = rng.uniform(0.28, 0.4), rng.uniform(0.4, 0.65)
    made.add(tube([(0, 0.0, 0), (0, stick + 0.1, 0)], 0.03), "white")
    half = (size, size * rng.uniform(0.8, 1.4), rng.choice([0.1, 0.14, size]))
    sweet = superquadric(
        (0, stick + half[1], 0), half, upright=rng.uniform(0.4, 1.0), around=rng.uniform(0.4, 1.0)
    )
    made.add(sweet, "candy", mapping="part")


def roll(rng: np.random.Generator, made: Object) -> None:
    """Sushi, a hot dog or a skewer."""
    if rng.random() < 0.5:
        length, wide = rng.uniform(0.4, 0.55), rng.uniform(0.13, 0.18)
        made.add(tube([(-length, 0, 0), (length, 0, 0)], 1.25 * wide), "bread")
        made.add(tube([(-1.15 * length, 0.7 * wide, 0), (1.15 * length, 0.7 * wide, 0)], 0.9 * wide), "meat")
        steps = np.linspace(-1, 1, 12)
        path = np.stack([steps * length, np.full(12, 1.55 * wide), 0.4 * wide * np.sin(9 * steps)], axis=1)
        made.add(tube(path, 0.045), str(rng.choice(["cheese", "tomato"])))
        return
    count, x = int(rng.integers(2, 6)), 0.0
    for k in range(count):
        size = rng.uniform(0.11, 0.17)
        x += size
        name = ("meat", "tomato", "cheese", "leaf", "fruit")[(k + count) % 5]
        made.add(superquadric((x, 0, 0), (size, 0.16, 0.16), upright=0.5, around=rng.uniform(0.3, 1)), name)
        x += size
    made.add(tube([(-0.2, 0, 0), (x + 0.2, 0, 0)], 0.025), "stalk")


KINDS: tuple[Callable[[np.random.Generator, Object], None], ...] = (
    burger,
    cake,
    ice_cream,
    fruit,
    fruit,
    doughnut,
    lollipop,
    roll,
)


def make(rng: np.random.Generator) -> Object:
    """One thing to eat."""

    def one(colours: tuple[Colour, ...]) -> Colour:
        return colours[rng.integers(len(colours))]

    skin = one(FRUIT)
    icing, cream = (CREAM[k] for k in rng.choice(len(CREAM), 2, replace=False))
    materials = {"bread": Material(one(BREAD)), "leaf": Material(LEAF), "stalk": Material(BROWN)}
    materials |= {"meat": Material(one(((110, 60, 36), (168, 72, 52)))), "tomato": Material(FRUIT[0], 0.3)}
    materials |= {"cheese": Material((250, 190, 60)), "white": Material(WHITE)}
    materials |= {"icing": Material(icing, *finish(rng)), "cream": Material(cream)}
    materials |= {"grain": Material(paint(rng)), "other grain": Material(paint(rng))}
    materials["fruit"] = Material(
        textures.clouds(rng, [skin, one(FRUIT)]) if rng.random() < 0.5 else skin, 0.4
    )
    materials["sponge"] = Material(
        textures.stripes(rng, [one(BREAD), cream], int(rng.integers(2, 5)), upright=False)
    )
    materials["waffle"] = Material(textures.plaid(rng, [BREAD[0], BREAD[2], BREAD[1]]))
    materials["candy"] = Material(textures.pattern(rng, [paint(rng), WHITE, paint(rng)]), 0.25)
    made = Object(materials, scale=0.12)
    KINDS[rng.integers(len(KINDS))](rng, made)
    return made.stand()
