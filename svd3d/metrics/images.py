"""Image metrics as pure functions: two stacks of views in, one value per view out.

Colours are floats in [0, 1], already over a background; masks are alphas in [0, 1]. All functions raise
`ImageError` when the two stacks differ in shape or hold values that are not finite; nothing is clipped,
resized or masked in silence.
"""

import numpy as np
from jaxtyping import Float

from svd3d.errors import ImageError, require

MAX_PSNR_DB = 100.0
"""PSNR of identical views: JSON has no infinity. Reached at a mean squared error of 1e-10."""
SSIM_WINDOW = 11
"""Pixels across the Gaussian window of SSIM; smaller pictures cannot be measured."""


def mse(
    prediction: Float[np.ndarray, "v h w 3"], reference: Float[np.ndarray, "v h w 3"]
) -> Float[np.ndarray, "v"]:
    """Mean squared error of each view, over pixels and channels. Squared colour, [0, 1], lower is better."""
    _check(prediction, reference)
    pairs = zip(prediction, reference, strict=True)
    return np.array([np.mean((one.astype(np.float64) - other) ** 2) for one, other in pairs])


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
    both = (one & other).sum(axis=(1, 2))
    either = (one | other).sum(axis=(1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def ssim(
    prediction: Float[np.ndarray, "v h w 3"], reference: Float[np.ndarray, "v h w 3"]
) -> Float[np.ndarray, "v"]:
    """Structural similarity of each view (Wang et al. 2004, equation 13). [-1, 1], higher is better.

    Gaussian window of 11 pixels with sigma 1.5, data range 1, population covariance, mean over channels
    and over the positions where the whole window lies inside the picture: the numbers of scikit-image with
    `gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1`. (torchmetrics also counts
    the border, filled by reflection.) Raises `ImageError` for pictures smaller than the window.
    """
    _check(prediction, reference)
    height, width = reference.shape[1:3]
    if min(height, width) < SSIM_WINDOW:
        raise ImageError(
            f"SSIM needs at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, these views have {width} x {height}; "
            "leave ssim out or use larger pictures"
        )
    pairs = zip(prediction, reference, strict=True)
    return np.array([_ssim(one.astype(np.float64), other.astype(np.float64)) for one, other in pairs])


def _ssim(x: Float[np.ndarray, "h w 3"], y: Float[np.ndarray, "h w 3"]) -> float:
    c1, c2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 with L = 1
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = _window_mean(x * x) - mean_x**2
    variance_y = _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return float(similarity.mean())


def _window_mean(image: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "hh ww 3"]:
    """Gaussian-weighted mean around each pixel whose window fits into the picture."""
    ndimage = require("scipy.ndimage", extra="metrics", reason="SSIM")
    reach = SSIM_WINDOW // 2
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / 1.5) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        image = ndimage.correlate1d(image, weights, axis=axis)
    return image[reach:-reach, reach:-reach]


def _decibels(errors: Float[np.ndarray, "v"]) -> Float[np.ndarray, "v"]:
    return -10 * np.log10(np.maximum(errors, 10 ** (-MAX_PSNR_DB / 10)))


def _check(prediction: np.ndarray, reference: np.ndarray) -> None:
    if prediction.shape != reference.shape:
        raise ImageError(
            f"views of shape {prediction.shape} cannot be compared with views of shape {reference.shape}; "
            "resize them or choose as many"
        )
    for name, stack in (("prediction", prediction), ("reference", reference)):
        bad = [view for view, image in enumerate(stack) if not np.isfinite(image).all()]
        if bad:
            raise ImageError(f"{name}: view {bad[0]} holds values that are not finite; make it again")
