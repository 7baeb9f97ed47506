"""The arithmetic between passes and a picture, in numpy: filter, demodulate, compose, compare.

A picture is C = E + sum over lobes (diffuse, glossy, transmission) of colour x light. Colour and emission
have sharp edges and textures but no noise: one camera ray tells them. Light is noisy but smooth. So
colour is rendered with k x k rays on a regular grid in every pixel and reduced by the filter that Cycles
would have sampled at random, which is worth many times as many random rays; light needs few paths, and
what noise is left is removed by the denoiser, guided by colour and normals without noise.
"""

from collections.abc import Mapping

import numpy as np

FILTER_WIDTH = 1.5
"""Cycles' pixel filter, as Blender states it; the Blackman-Harris window it means is twice as wide."""
Lobes = Mapping[str, np.ndarray]


def reduce(grid: np.ndarray, k: int) -> np.ndarray:
    """Pixels from a grid of k x k point samples each, by Cycles' Blackman-Harris filter.

    float32 [h k, w k, c] to [h, w, c]. What lies outside of the grid counts as empty.
    """
    reach = int(np.ceil(FILTER_WIDTH * k))
    offsets = np.arange(-reach, k + reach)
    weights = _blackman_harris((offsets + 0.5) / k - 0.5)
    offsets, weights = offsets[weights > 1e-6], weights[weights > 1e-6]
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (0, 1):
        padding = [(0, 0)] * grid.ndim
        padding[axis] = (reach, reach)
        padded, end = np.pad(grid, padding), grid.shape[axis]
        rows = [padded[_along(axis, int(o) + reach, int(o) + reach + end, k)] for o in offsets]
        grid = weights[0] * rows[0]
        for weight, row in zip(weights[1:], rows[1:], strict=True):
            grid += weight * row
    return grid


def _blackman_harris(x: np.ndarray) -> np.ndarray:
    """The four-term Blackman-Harris window over |x| < FILTER_WIDTH pixels."""
    turn = np.pi * (x / FILTER_WIDTH + 1)
    window = 0.35875 - 0.48829 * np.cos(turn) + 0.14128 * np.cos(2 * turn) - 0.01168 * np.cos(3 * turn)
    return np.where(np.abs(x) < FILTER_WIDTH, window, 0)


def _along(axis: int, start: int, stop: int, step: int) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, slice(start, stop, step))


def centres(grid: np.ndarray, k: int) -> np.ndarray:
    """The sample at the centre of every pixel, for odd k: [h k, w k, …] to [h, w, …]."""
    return grid[k // 2 :: k, k // 2 :: k]


def lit(colour: Lobes, light_colour: Lobes, light: Lobes, emission: np.ndarray) -> np.ndarray:
    """Noise-free colour under noisy light: emission + sum of colour x light, float32 [h, w, 3].

    `light_colour` is the colour that the few paths of `light` met. Where they missed the surface, at
    edges, the light of the neighbours is taken.
    """
    picture = emission.copy()
    for lobe, clean in colour.items():
        if not clean.any():
            continue
        weight = light_colour[lobe].sum(axis=-1, keepdims=True)
        around = _smooth(light[lobe] * weight) / np.maximum(_smooth(weight), 1e-6)
        picture += clean * np.where(weight > 1e-4, light[lobe], around)
    return picture


def _smooth(image: np.ndarray) -> np.ndarray:
    """Binomial average of 3 x 3 pixels; what lies outside counts as zero."""
    height, width = image.shape[:2]
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    rows = (padded[:height] + 2 * padded[1 : height + 1] + padded[2:]) / 4
    return (rows[:, :width] + 2 * rows[:, 1 : width + 1] + rows[:, 2:]) / 4


def to_display(linear: np.ndarray) -> np.ndarray:
    """Premultiplied linear RGBA to straight sRGB RGBA in [0, 1] (Blender's view transform Standard)."""
    alpha = np.clip(linear[..., 3:], 0, 1)
    colour = np.clip(linear[..., :3] / np.maximum(alpha, 1e-6), 0, 1)
    curve = np.where(colour <= 0.0031308, 12.92 * colour, 1.055 * colour ** (1 / 2.4) - 0.055)
    return np.concatenate([np.where(alpha > 0, curve, 0), alpha], axis=-1).astype(np.float32)


def to_bytes(linear: np.ndarray) -> np.ndarray:
    """Premultiplied linear RGBA to straight sRGB RGBA, uint8."""
    return np.rint(to_display(linear) * 255).astype(np.uint8)


def foreground_error(picture: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared error of a picture over white, without the noise of its two independent references.

    All are premultiplied linear RGBA of the same pixels; those that both references leave empty do
    not count. E (p - (a + b) / 2)^2 = error + E (a - b)^2 / 4, so the second term is taken away.
    """
    seen = (first[..., 3] + second[..., 3]) > 0.01
    if not seen.any():
        return 0.0
    ours, a, b = (_over_white(image[seen]) for image in (picture, first, second))
    return max(float(((ours - (a + b) / 2) ** 2).mean() - ((a - b) ** 2).mean() / 4), 1e-9)


def _over_white(linear: np.ndarray) -> np.ndarray:
    straight = to_display(linear).astype(np.float64)
    return straight[..., :3] * straight[..., 3:] + 1 - straight[..., 3:]
