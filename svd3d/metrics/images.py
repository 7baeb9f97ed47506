"""Image metrics as pure functions: two stacks of views in, one value per view out.

Colours are floats in [0, 1], already over a background; masks are alphas in [0, 1]. All functions raise
`ImageError` when the two stacks differ in shape or hold values that are not finite; nothing is clipped,
resized or masked in silence.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from svd3d.errors import ImageError

MAX_PSNR_DB = 100.0
"""PSNR of identical views: JSON has no infinity. Reached at a mean squared error of 1e-10."""
Window = Literal["gaussian", "uniform"]
"""Of SSIM: `gaussian` of 11 pixels with sigma 1.5, or `uniform` of 7."""
_GAUSSIAN = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
_WINDOWS: dict[Window, tuple[np.ndarray, float]] = {
    "gaussian": (_GAUSSIAN / _GAUSSIAN.sum(), 1.0),
    "uniform": (np.full(7, 1 / 7), 49 / 48),
}
"""Weights along one axis, and what makes the covariance of the window unbiased."""
_BAND = 32
"""Rows of a band matrix: few enough that it is mostly full, enough that products pay."""


def mse(
    prediction: Float[np.ndarray, "v h w 3"], reference: Float[np.ndarray, "v h w 3"]
) -> Float[np.ndarray, "v"]:
    """Mean squared error of each view, over pixels and channels. Squared colour, [0, 1], lower is better."""
    _check(prediction, reference)
    pairs = zip(prediction, reference, strict=True)
    return np.array([np.mean(np.square(one - other), dtype=np.float64) for one, other in pairs])


def psnr(
    prediction: Float[np.ndarray, "v h w 3"], reference: Float[np.ndarray, "v h w 3"]
) -> Float[np.ndarray, "v"]:
    """Peak signal-to-noise ratio of each view: 10 log10(1 / MSE). dB, [0, 100], higher is better.

    Identical views give 100 dB. The mean of these values is not the PSNR of the mean error.
    """
    return _decibels(mse(prediction, reference))


def foreground_psnr(
    prediction: Float[np.ndarray, "v h w 3"],
    reference: Float[np.ndarray, "v h w 3"],
    mask: Float[np.ndarray, "v h w"],
) -> Float[np.ndarray, "v"]:
    """PSNR over the pixels where `mask` is above 0.5. dB, [0, 100], higher is better.

    Unlike `psnr` it does not grow when the same object covers less of the picture. Raises `ImageError`
    naming the view when a mask is empty.
    """
    _check(prediction, reference)
    if mask.shape != reference.shape[:3]:
        raise ImageError(f"masks of shape {mask.shape} do not fit views of shape {reference.shape}")
    errors = []
    for view, (one, other, inside) in enumerate(zip(prediction, reference, mask > 0.5, strict=True)):
        if not inside.any():
            raise ImageError(f"view {view}: the mask is empty, so foreground PSNR has no pixel to measure")
        errors.append(np.mean((one[inside].astype(np.float64) - other[inside]) ** 2))
    return _decibels(np.array(errors))


def mask_iou(
    prediction: Float[np.ndarray, "v h w"], reference: Float[np.ndarray, "v h w"]
) -> Float[np.ndarray, "v"]:
    """Intersection over union of the alphas above 0.5, of each view. Fraction, [0, 1], higher is better.

    Two empty masks agree: 1.
    """
    _check(prediction, reference)
    one, other = prediction > 0.5, reference > 0.5
    both = np.count_nonzero(one & other, axis=(1, 2))
    either = np.count_nonzero(one | other, axis=(1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def ssim(
    prediction: Float[np.ndarray, "v h w 3"],
    reference: Float[np.ndarray, "v h w 3"],
    *,
    window: Window = "gaussian",
    data_range: float | None = 1.0,
    border: bool = False,
) -> Float[np.ndarray, "v"]:
    """Structural similarity of each view (Wang et al. 2004, equation 13). [-1, 1], higher is better.

    Mean over channels and over the positions where the whole window lies inside the picture; with `border`
    also over the others, the picture continued by reflection. Windows: `gaussian` of 11 pixels with sigma 1.5
    and population covariance (scikit-image with `gaussian_weights=True, use_sample_covariance=False`), or
    `uniform` of 7 pixels with sample covariance (scikit-image's default). `data_range` None: of each view,
    the larger of the two pictures' maximum minus minimum (torchmetrics' default). torchmetrics leaves out the
    border up to 1.4.1 and counts it since. Raises `ImageError` for pictures smaller than the window.
    """
    _check(prediction, reference)
    weights, unbiased = _WINDOWS[window]
    height, width = reference.shape[1:3]
    if min(height, width) < len(weights):
        raise ImageError(
            f"SSIM needs at least {len(weights)} x {len(weights)} pixels, these views have {width} x "
            f"{height}; leave ssim out or use larger pictures"
        )
    values = []
    for pair in zip(prediction, reference, strict=True):
        spread = max(float(np.ptp(one)) for one in pair) if data_range is None else data_range
        x, y = (_reflected(one, len(weights) // 2) for one in pair) if border else pair
        values.append(_ssim(x, y, weights=weights, unbiased=unbiased, data_range=spread))
    return np.array(values)


def _ssim(
    x: Float[np.ndarray, "h w 3"],
    y: Float[np.ndarray, "h w 3"],
    *,
    weights: Float[np.ndarray, "k"],
    unbiased: float,
    data_range: float,
) -> float:
    """Mean similarity over all whole windows; those that see no difference are 1 and not computed."""
    positions = (x.shape[0] - len(weights) + 1) * (x.shape[1] - len(weights) + 1)
    differs = (x != y).any(axis=2)
    if not differs.any():
        return 1.0
    region = tuple(_reached(differs.any(axis=axis), margin=len(weights) - 1) for axis in (1, 0))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    lost = 0.0
    for channel in range(3):
        # Relative to the corner, which is background: there, rounding would drown the variance.
        corner = y[0, 0, channel]
        one, other = (np.ascontiguousarray(image[region][..., channel]) - corner for image in (x, y))
        planes = np.stack([one, other, one * one + other * other, one * other])
        mean_x, mean_y, mean_squares, mean_product = _window_means(planes, weights)
        covariance = unbiased * (mean_product - mean_x * mean_y)
        variances = unbiased * (mean_squares - (mean_x**2 + mean_y**2))
        mean_x += corner
        mean_y += corner
        similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
        similarity /= (mean_x**2 + mean_y**2 + c1) * (variances + c2)
        lost += float((1 - similarity).sum(dtype=np.float64))
    return 1 - lost / (3 * positions)


def _reflected(image: Float[np.ndarray, "h w 3"], reach: int) -> Float[np.ndarray, "hh ww 3"]:
    return np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")


def _reached(differs: Bool[np.ndarray, "n"], *, margin: int) -> slice:
    """The part of an axis that whole windows over any difference see."""
    first, last = np.flatnonzero(differs)[[0, -1]]
    return slice(max(int(first) - margin, 0), int(last) + margin + 1)


def _window_means(
    planes: Float[np.ndarray, "*planes h w"], weights: Float[np.ndarray, "k"]
) -> Float[np.ndarray, "*planes hh ww"]:
    """Weighted mean of every whole window, along one axis and then the other.

    As products with small band matrices, because matrix products are what the processor does fastest.
    """
    size = len(weights) - 1
    band = np.zeros((_BAND, _BAND + size), planes.dtype)
    for row in range(_BAND):
        band[row, row : row + size + 1] = weights
    for _ in range(2):
        count = planes.shape[-2] - size
        means = np.empty((*planes.shape[:-2], count, planes.shape[-1]), planes.dtype)
        for top in range(0, count, _BAND):
            rows = min(_BAND, count - top)
            part = planes[..., top : top + rows + size, :]
            np.matmul(band[:rows, : rows + size], part, out=means[..., top : top + rows, :])
        planes = np.ascontiguousarray(means.swapaxes(-1, -2))
    return planes


def _decibels(errors: Float[np.ndarray, "v"]) -> Float[np.ndarray, "v"]:
    return -10 * np.log10(np.maximum(errors, 10 ** (-MAX_PSNR_DB / 10)))


def _check(prediction: np.ndarray, reference: np.ndarray) -> None:
    if prediction.shape != reference.shape:
        raise ImageError(
            f"views of shape {prediction.shape} cannot be compared with views of shape {reference.shape}; "
            "resize them or choose as many"
        )
    for name, stack in (("prediction", prediction), ("reference", reference)):
        with np.errstate(invalid="ignore", over="ignore"):
            bad = np.flatnonzero(~np.isfinite(stack.sum(axis=(1, 2, 3) if stack.ndim == 4 else (1, 2))))
        if len(bad):
            raise ImageError(f"{name}: view {bad[0]} holds values that are not finite; make it again")
