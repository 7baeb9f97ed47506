"""The families by name, and which of them no model of ours is ever trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from objects import (
    assemblies,
    base,
    buildings,
    cars,
    creatures,
    cuts,
    extrusions,
    food,
    furniture,
    vehicles,
    vessels,
)

FAMILIES: dict[str, Callable[[np.random.Generator], base.Object]] = {
    "car": cars.make,
    "furniture": furniture.make,
    "vessel": vessels.make,
    "vehicle": vehicles.make,
    "creature": creatures.make,
    "assembly": assemblies.make,
    "cut": cuts.make,
    "building": buildings.make,
    "extrusion": extrusions.make,
    "food": food.make,
}
HELD_OUT = frozenset(
    {"extrusion", "food"}
)  # a hard one, whose side tells nothing of its front, and an easy one
TRAINED = tuple(name for name in FAMILIES if name not in HELD_OUT)
STREAM = 20240401  # keeps these draws apart from others of the same seed


def make(family: str, seed: int, attempt: int = 0) -> base.Object:
    """The object of a family and a seed; another attempt is another object."""
    return FAMILIES[family](np.random.default_rng([seed, STREAM, attempt] if attempt else [seed, STREAM]))
