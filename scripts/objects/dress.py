"""What the general families wear: a few matching colours, any texture, any finish."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from objects import textures
from objects.base import MATTE, Colour, Material
from objects.colours import paint, second_paint

NEUTRALS: tuple[Colour, ...] = ((246, 242, 230), (44, 46, 54), (250, 212, 72), (168, 172, 180), (150, 98, 60))
PLAIN = 0.35  # share of the materials without a texture
DARK: Colour = (34, 34, 40)


def palette(rng: np.random.Generator) -> list[Colour]:
    """Three colours that stand out against each other: two paints and a neutral one."""
    first = paint(rng)
    second = second_paint(rng, first)
    gaps = [np.abs(np.subtract([first, second], other)).sum(axis=1).min() for other in NEUTRALS]
    return [first, second, NEUTRALS[int(np.argmax(rng.uniform(0.5, 1.0, len(gaps)) * gaps))]]


def finish(rng: np.random.Generator) -> tuple[float, float]:
    """Roughness 0.2 to 1 and metallic 0 to 1; half are matte, one in six is some metal."""
    kind = rng.random()
    if kind < 0.5:
        return MATTE
    return float(rng.uniform(0.2, 1.0)), float(rng.uniform(0.4, 1.0)) if kind > 5 / 6 else 0.0


def surface(rng: np.random.Generator, colours: Sequence[Colour], plain: float = PLAIN) -> Material:
    """The first colour alone or any pattern of them, in any finish."""
    colour = colours[0] if rng.random() < plain else textures.pattern(rng, colours)
    return Material(colour, *finish(rng))


def dressed(rng: np.random.Generator, *names: str, plain: float = PLAIN) -> dict[str, Material]:
    """A material for each name, out of one palette whose colours they lead in turn."""
    colours = palette(rng)
    materials = {}
    for turn, name in enumerate(names):
        turn %= len(colours)
        materials[name] = surface(rng, colours[turn:] + colours[:turn], plain)
    return materials
