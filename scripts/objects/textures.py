"""Procedural textures: uint8 [TEXTURE_PIXELS, TEXTURE_PIXELS, 3], sRGB, bold enough for 64 pixels.

Each takes two or more colours, of which the first covers the most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from objects.base import TEXTURE_PIXELS, Colour

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def grid() -> tuple[np.ndarray, np.ndarray]:
    """Across and up [TEXTURE_PIXELS, TEXTURE_PIXELS] at the centres of the pixels, 0..1."""
    ticks = (np.arange(TEXTURE_PIXELS) + 0.5) / TEXTURE_PIXELS
    across, down = np.meshgrid(ticks, ticks)
    return across, 1 - down


def flat(colours: Sequence[Colour], index: np.ndarray) -> np.ndarray:
    """A picture of the colour with each index, modulo their number."""
    return np.asarray(colours, np.uint8)[index.astype(int) % len(colours)]


def ramp(values: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """A picture of values [h, w] in 0..1 that run evenly through the colours."""
    stops = np.linspace(0, 1, len(colours))
    channels = [np.interp(values, stops, channel) for channel in np.asarray(colours, float).T]
    return np.round(np.stack(channels, axis=-1)).astype(np.uint8)


def waves(rng: np.random.Generator, across: float, up: float) -> np.ndarray:
    """Smooth noise [h, w] in 0..1; its features are about `across` and `up` of the width in size."""
    white = rng.standard_normal((TEXTURE_PIXELS, TEXTURE_PIXELS))
    noise = ndimage.gaussian_filter(
        white, (up * TEXTURE_PIXELS / 2, across * TEXTURE_PIXELS / 2), mode="wrap"
    )
    return (noise - noise.min()) / (noise.max() - noise.min())


def stripes(rng: np.random.Generator, colours: Sequence[Colour], count: int, *, upright: bool) -> np.ndarray:
    """`count` stripes of each colour in turn, across or up, at a random offset."""
    across, up = grid()
    place = (across if upright else up) * count + rng.random()
    return np.asarray(colours, np.uint8)[(place * len(colours)).astype(int) % len(colours)]


def checks(rng: np.random.Generator, colours: tuple[Colour, Colour], count: int) -> np.ndarray:
    """A chessboard with `count` fields of each colour along a side."""
    across, up = (
        np.floor(2 * count * each + offset) for each, offset in zip(grid(), rng.random(2), strict=True)
    )
    return np.asarray(colours, np.uint8)[((across + up) % 2).astype(int)]


def wood(rng: np.random.Generator, colour: Colour) -> np.ndarray:
    """Grain that runs up, in a darker and a lighter tone of a colour."""
    across, _ = grid()
    rings = (across * rng.uniform(5, 9) + 1.6 * waves(rng, 0.2, 0.9) + 0.25 * waves(rng, 0.02, 0.3)) % 1
    tone = np.asarray(colour, float)
    return ramp(np.abs(2 * rings - 1), [tuple(0.62 * tone), tuple(np.minimum(1.12 * tone, 255))])


def plaid(rng: np.random.Generator, colours: Sequence[Colour]) -> np.ndarray:
    """Two woven sets of bands, with thin lines of the last colour between them."""
    count, width = rng.integers(2, 5), rng.uniform(0.3, 0.5)
    places = [each * count % 1 for each in grid()]
    cover = np.mean([place < width for place in places], axis=0)[..., None]
    lines = np.any([np.abs(place - (1 + width) / 2) < 0.07 for place in places], axis=0)
    first, second, last = np.asarray([*colours[:2], colours[-1]], float)
    return np.where(lines[..., None], last, first * (1 - cover) + second * cover).round().astype(np.uint8)


def dots(rng: np.random.Generator, colours: Sequence[Colour]) -> np.ndarray:
    """Staggered dots of the other colours on the first."""
    across, up = grid()
    count, radius = rng.integers(3, 7), rng.uniform(0.24, 0.42)
    row = np.floor(up * count)
    shifted = across * count + row % 2 / 2
    inside = np.hypot(shifted % 1 - 0.5, up * count % 1 - 0.5) < radius
    return flat(colours, np.where(inside, 1 + (np.floor(shifted) + row) % (len(colours) - 1), 0))


def clouds(rng: np.random.Generator, colours: Sequence[Colour]) -> np.ndarray:
    """Noise that runs through the colours."""
    return ramp(waves(rng, *rng.uniform(0.05, 0.25, 2)), colours)


def islands(rng: np.random.Generator, colours: Sequence[Colour]) -> np.ndarray:
    """Camouflage: noise cut into as much of each colour."""
    field = waves(rng, *rng.uniform(0.1, 0.22, 2))
    return flat(
        colours, np.searchsorted(np.quantile(field, np.arange(1, len(colours)) / len(colours)), field)
    )


def marble(rng: np.random.Generator, colours: Sequence[Colour]) -> np.ndarray:
    """Veins of the second colour through the first."""
    across, up = grid()
    bent = rng.integers(1, 4) * across + rng.integers(1, 4) * up + 2 * waves(rng, 0.15, 0.15)
    return ramp(np.abs(np.cos(np.pi * bent)) ** rng.uniform(4, 10), colours[:2])


def patches(rng: np.random.Generator, colours: Sequence[Colour]) -> np.ndarray:
    """Cells around scattered points, as of a cow or a football."""
    across, up = grid()
    points = rng.random((rng.integers(8, 24), 2))
    aside = np.abs(across[..., None] - points[:, 0])
    nearest = np.hypot(np.minimum(aside, 1 - aside), up[..., None] - points[:, 1]).argmin(axis=-1)
    return flat(colours, rng.permutation(np.arange(len(points)))[nearest])


def bricks(rng: np.random.Generator, colours: Sequence[Colour]) -> np.ndarray:
    """Bricks of the first colour, no two of one tone, in joints of the last."""
    across, up = grid()
    along = int(rng.integers(3, 6))
    row = np.floor(up * 2 * along)
    shifted = across * along + row % 2 / 2
    joint = (up * 2 * along % 1 < 0.18) | (shifted % 1 < 0.09)
    tone = rng.uniform(0.7, 1.05, (2 * along, along))[row.astype(int), np.floor(shifted).astype(int) % along]
    wall = np.minimum(tone[..., None] * np.asarray(colours[0]), 255)
    return np.where(joint[..., None], colours[-1], wall).round().astype(np.uint8)


def zigzag(rng: np.random.Generator, colours: Sequence[Colour]) -> np.ndarray:
    """Chevrons."""
    across, up = grid()
    teeth = rng.uniform(0.6, 1.6) * np.abs(2 * (across * rng.integers(2, 5) % 1) - 1)
    return flat(colours, np.floor(up * len(colours) * rng.integers(1, 4) + teeth))


def targets(rng: np.random.Generator, colours: Sequence[Colour]) -> np.ndarray:
    """Rings of the colours, one to nine times."""
    across, up = grid()
    count = rng.integers(1, 4)
    distance = np.hypot(across * count % 1 - 0.5, up * count % 1 - 0.5)
    return flat(colours, np.floor(2 * len(colours) * distance))


def word(rng: np.random.Generator, colours: Sequence[Colour], letters: str) -> np.ndarray:
    """Letters in the middle of the texture, on the first colour or on a band of the last."""
    image = Image.new("RGB", (TEXTURE_PIXELS, TEXTURE_PIXELS), colours[0])
    draw = ImageDraw.Draw(image)
    if len(colours) > 2 and rng.random() < 0.5:
        draw.rectangle((0, 0.25 * TEXTURE_PIXELS, TEXTURE_PIXELS, 0.75 * TEXTURE_PIXELS), fill=colours[-1])
    font = ImageFont.load_default(TEXTURE_PIXELS * min(0.6, 1.1 / len(letters)))
    middle = (TEXTURE_PIXELS / 2, TEXTURE_PIXELS / 2)
    draw.text(middle, letters, fill=colours[1], font=font, anchor="mm", stroke_width=2)
    return np.asarray(image)


def emblem(rng: np.random.Generator, colours: Sequence[Colour]) -> np.ndarray:
    """A star, flower, disc, cross or heart in the middle, perhaps within a ring."""
    across, up = (2 * each - 1 for each in grid())
    turn, radius = np.arctan2(up, across), np.hypot(across, up)
    points = rng.integers(4, 9)
    cos, sin = np.cos(turn), np.sin(turn)
    edges = {
        "star": 0.3 + 0.4 * np.abs(2 * ((turn / (2 * np.pi) - 0.25) * points % 1) - 1),
        "flower": 0.5 + 0.18 * np.cos(points * turn),
        "disc": np.full_like(turn, 0.55),
        "cross": np.minimum(0.65, 0.22 / np.minimum(np.abs(cos), np.abs(sin)).clip(0.1)),
        "heart": 0.4 - 0.25 * sin + 0.3 * sin * np.sqrt(np.abs(cos)) / (sin + 1.6) + 0.15 * np.abs(cos),
    }
    inside = radius < edges[str(rng.choice(list(edges)))]
    ring = (radius > 0.78) & (radius < 0.94) & (rng.random() < 0.4)
    return flat(colours, np.where(inside, 1, np.where(ring, len(colours) - 1, 0)))


def pattern(rng: np.random.Generator, colours: Sequence[Colour]) -> np.ndarray:
    """Any texture that can cover any surface."""
    draw: tuple[Callable[[], np.ndarray], ...] = (
        lambda: stripes(rng, colours, int(rng.integers(2, 6)), upright=bool(rng.random() < 0.5)),
        lambda: checks(rng, (colours[0], colours[1]), int(rng.integers(2, 5))),
        lambda: wood(rng, colours[0]),
        lambda: ramp(grid()[1], colours),
        *(partial(each, rng, colours) for each in (plaid, dots, clouds, islands, marble)),
        *(partial(each, rng, colours) for each in (patches, bricks, zigzag, targets)),
    )
    return draw[rng.integers(len(draw))]()


def decal(rng: np.random.Generator, colours: Sequence[Colour]) -> np.ndarray:
    """An emblem, or one to three letters or digits."""
    if rng.random() < 0.5:
        return emblem(rng, colours)
    return word(rng, colours, "".join(rng.choice(list(LETTERS), rng.integers(1, 4))))
