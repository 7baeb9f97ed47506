"""Saturated paints that stay apart from each other in small pictures."""

from __future__ import annotations

import colorsys

import numpy as np

from objects.base import Colour

PAINTS = (
    (0.000, 0.85, 0.85),
    (0.040, 0.88, 0.95),
    (0.085, 0.90, 0.97),
    (0.135, 0.85, 0.97),
    (0.250, 0.70, 0.75),
    (0.350, 0.75, 0.62),
    (0.480, 0.75, 0.72),
    (0.550, 0.75, 0.90),
    (0.610, 0.82, 0.82),
    (0.740, 0.60, 0.75),
    (0.920, 0.55, 0.93),
)  # hue, saturation, value


def paint(rng: np.random.Generator) -> Colour:
    """A saturated paint near one of the named ones, sRGB 0..255."""
    hue, saturation, value = PAINTS[rng.integers(len(PAINTS))]
    hue = (hue + rng.uniform(-0.02, 0.02)) % 1.0
    saturation = np.clip(saturation + rng.uniform(-0.08, 0.08), 0, 1)
    value = np.clip(value + rng.uniform(-0.08, 0.05), 0, 1)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def second_paint(rng: np.random.Generator, first: Colour) -> Colour:
    """A paint that stands out against the first: cream, charcoal, or another hue."""
    choice = rng.random()
    if choice < 0.55:
        return (245, 240, 225)
    if choice < 0.7:
        return (58, 60, 68)
    others = [paint(rng) for _ in range(4)]
    return max(others, key=lambda colour: sum(abs(p - q) for p, q in zip(colour, first, strict=True)))
