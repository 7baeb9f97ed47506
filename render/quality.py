"""What a finished sample is worth, in a few numbers: a training list is a query, no picture is opened again.

| score | range | meaning |
|---|---|---|
| `coverage`, `coverage_min` | 0 to 1 | alpha, averaged over the pictures, and in the emptiest of them |
| `blank_views` | 0 to v | pictures with an alpha coverage below 1e-4 |
| `touches_border` | true, false | an opaque pixel lies on the border of a picture: it may be cut off |
| `luminance`, `contrast` | 0 to 1, 0 to 0.5 | mean and standard deviation of the luma (Rec. 709) |
| `colourfulness` | 0 to about 1.4 | Hasler and Süsstrunk 2003, for colours from 0 to 1; 0 is grey |
| `magenta` | 0 to 1 | part of the object in the colour that Blender gives to missing textures |
| `transparency` | 0 to 1 | part of the object, off its outline, that lets something through |
| `diversity` | 0 to 0.5 | standard deviation of a pixel over the views; 0: the same from all sides |
| `flatness` | 0 to 1 | smallest over largest extent of what is seen; 0: a card or a needle, 1: a ball |
| `missing_textures`, `faces` | counts | as Blender's importer reported them |
| `hash` | 16 hex digits | 64-bit fingerprint of coloured shape; see `fingerprint` |

Colours are sRGB as stored, weighted by alpha. They are measured on pictures reduced to at most 64 pixels, so
that scores of different sizes compare. `flatness` and `hash` need depth and are None without it. A sample
without any foreground has 0 everywhere, and no hash.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from svd3d.cameras import Cameras

SIDE = 64
BLANK = 1e-4
LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)
CELLS = 12
HALF = 0.3
"""A cell with this part of the median cell's points counts as half full."""


def scores(
    images: UInt8[np.ndarray, "v h w 4"],
    *,
    cameras: Cameras,
    depth: Float[np.ndarray, "v h w"] | None,
    missing_textures: Sequence[str],
    faces: int,
) -> dict[str, Any]:
    """The scores of a sample, ready for JSON; floats have four digits.

    `depth` is along the optical axis in world units, 0 where nothing is; `missing_textures` are their names.
    """
    alpha = np.ascontiguousarray(images[..., 3])
    coverage = alpha.mean(axis=(1, 2)) / 255
    border = (alpha[:, 0], alpha[:, -1], alpha[:, :, 0], alpha[:, :, -1])
    found: dict[str, Any] = {
        "coverage": float(coverage.mean()),
        "coverage_min": float(coverage.min()),
        "blank_views": int((coverage < BLANK).sum()),
        "touches_border": any(bool((edge > 127).any()) for edge in border),
        **_colours(_reduced(images)),
        "flatness": None,
        "hash": None,
        "missing_textures": len(missing_textures),
        "faces": faces,
    }
    if depth is not None:
        points, colours = surface(images, cameras=cameras, depth=depth)
        found["flatness"] = flatness(points)
        found["hash"] = fingerprint(points, colours)
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}


def surface(
    images: UInt8[np.ndarray, "v h w 4"], *, cameras: Cameras, depth: Float[np.ndarray, "v h w"]
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """Points of the object in the world that are seen, on a grid of at most 64 pixels, and their colours."""
    step = -(-max(depth.shape[1:]) // SIDE)
    grid = slice(step // 2, None, step)
    seen = (images[:, grid, grid, 3] > 0) & (depth[:, grid, grid] > 0)
    view, row, column = np.nonzero(seen)
    row, column = row * step + step // 2, column * step + step // 2
    focal, centre = cameras.intrinsics[view][:, [0, 1], [0, 1]], cameras.intrinsics[view][:, :2, 2]
    rays = np.ones((len(view), 3))
    rays[:, :2] = (np.stack([column, row], axis=1) + 0.5 - centre) / focal
    points = rays * [1, -1, -1] * depth[view, row, column][:, None]
    to_world = cameras.camera_to_world[view]
    world = np.einsum("nij,nj->ni", to_world[:, :3, :3], points) + to_world[:, :3, 3]
    return world, images[view, row, column, :3] / 255


def flatness(points: Float[np.ndarray, "n 3"]) -> float:
    """Smallest over largest extent along the principal axes, from 0 (a card, a needle) to 1 (a ball).

    Extents leave out the outermost hundredth of the points on either side. A cube is above 0.5.
    """
    if len(points) < 3:
        return 0.0
    _, axes = np.linalg.eigh(np.cov(points.T))
    low, high = np.percentile(points @ axes, [1, 99], axis=0)
    extents = high - low
    return float(extents.min() / max(extents.max(), 1e-9))


def fingerprint(points: Float[np.ndarray, "n 3"], colours: Float[np.ndarray, "n 3"]) -> str | None:
    """64 bits in which like objects are alike, whatever their elevations, views and size: 16 hex digits.

    The unit box around the object is cut into 12 x 12 x 12 cells. Each holds how full it is and its mean
    colour. These numbers, less their mean over the cells, are projected on 64 fixed random directions; the
    signs are the bits (SimHash: Charikar 2002). Two objects differ in about 64 θ / π bits, θ being the angle
    between their numbers. Of 57 real objects, rendered twice at different elevations, the same ones differ in
    3 bits (median; 9 of 10 in at most 9), different ones in 31 (median; at least 12).
    A turned or recoloured object is another one; thin grey rods are alike.
    """
    if not len(points):
        return None
    index = ((points + 0.5) * CELLS).astype(int).clip(0, CELLS - 1) @ [CELLS**2, CELLS, 1]
    count = np.bincount(index, minlength=CELLS**3).astype(np.float64)
    full = count / (count + HALF * np.median(count[count > 0]))
    sums = [np.bincount(index, weights=channel, minlength=CELLS**3) for channel in colours.T]
    colour = np.stack(sums, axis=1) / np.maximum(count, 1)[:, None]
    cells = np.concatenate([full[:, None], full[:, None] * (2 * colour - 1)], axis=1)
    bits = (cells - cells.mean(axis=0)).ravel() @ _directions() > 0
    return np.packbits(bits).tobytes().hex()


@functools.cache
def _directions() -> Float[np.ndarray, "n 64"]:
    """Random directions that stay the same for ever: numpy promises the stream of RandomState."""
    return np.random.RandomState(0).standard_normal((CELLS**3 * 4, 64))


def _reduced(images: UInt8[np.ndarray, "v h w 4"]) -> Float[np.ndarray, "v h2 w2 4"]:
    """The pictures with premultiplied alpha in [0, 1], averaged to at most 64 pixels a side."""
    height, width = (min(SIDE, side) for side in images.shape[1:3])
    pictures = (Image.fromarray(image).convert("RGBa") for image in images)
    reduced = [np.asarray(p.resize((width, height), Image.Resampling.BOX), np.float32) for p in pictures]
    return np.stack(reduced) / 255


def _colours(views: Float[np.ndarray, "v h w 4"]) -> dict[str, float]:
    """Scores of colour and transparency of premultiplied views."""
    alpha = views[..., 3]
    weight = alpha / max(float(alpha.sum()), 1e-9)
    colour = views[..., :3] / np.maximum(alpha, 1e-6)[..., None]

    def mean(values: np.ndarray) -> float:
        return float((values * weight).sum())

    def deviation(values: np.ndarray) -> float:
        return mean((values - mean(values)) ** 2) ** 0.5

    luma = colour @ LUMA
    red, green, blue = np.moveaxis(colour, -1, 0)
    opponents = red - green, (red + green) / 2 - blue
    spread, offset = (math.hypot(*map(measure, opponents)) for measure in (deviation, mean))
    magenta = (np.minimum(red, blue) - green > 0.3) & (abs(red - blue) < 0.15)
    inside = sliding_window_view(sliding_window_view(alpha, 5, axis=1).min(-1), 5, axis=2).min(-1) > 0
    over_grey = views[..., :3] + 0.5 * (1 - alpha)[..., None]
    ever = alpha.max(axis=0) > 0
    return {
        "luminance": mean(luma),
        "contrast": deviation(luma),
        "colourfulness": spread + 0.3 * offset,
        "magenta": mean(magenta),
        "transparency": float((alpha[:, 2:-2, 2:-2][inside] < 0.98).mean()) if inside.any() else 0.0,
        "diversity": float(over_grey.std(axis=0)[ever].mean()) if ever.any() else 0.0,
    }
