"""Image metrics as pure functions: two stacks of views in, one value per view out.

Colours are floats in [0, 1], already over a background; masks are alphas in [0, 1]. All functions raise
`ImageError` when the two stacks differ in shape or hold values that are not finite; nothing is clipped,
resized or masked in silence.

Two pictures that show one object on the same background agree in most pixels. Where the parts are known
outside which they agree, these suffice: `whole` is then the height and width of the pictures.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float

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
MARGIN = max(len(weights) for weights, _ in _WINDOWS.values()) - 1
"""Pixels around all differences that parts of pictures must hold for `ssim`, where the pictures have them."""
_BAND = 24
"""Windows that are computed at once along an axis: few enough that they stay in the processor's cache."""


def mse(
    prediction: Float[np.ndarray, "v h w 3"],
    reference: Float[np.ndarray, "v h w 3"],
    *,
    whole: tuple[int, int] | None = None,
) -> Float[np.ndarray, "v"]:
    """Mean squared error of each view, over pixels and channels. Squared colour, [0, 1], lower is better."""
    _check(prediction, reference)
    height, width = whole or reference.shape[1:3]
    sums = []
    for one, other in zip(prediction, reference, strict=True):
        difference = one - other
        sums.append(np.square(difference, out=difference).sum(dtype=np.float64))
    return np.array(sums) / (3 * height * width)


def psnr(
    prediction: Float[np.ndarray, "v h w 3"],
    reference: Float[np.ndarray, "v h w 3"],
    *,
    whole: tuple[int, int] | None = None,
) -> Float[np.ndarray, "v"]:
    """Peak signal-to-noise ratio of each view: 10 log10(1 / MSE). dB, [0, 100], higher is better.

    Identical views give 100 dB. The mean of these values is not the PSNR of the mean error.
    """
    return _decibels(mse(prediction, reference, whole=whole))


def foreground_psnr(
    prediction: Float[np.ndarray, "v h w 3"],
    reference: Float[np.ndarray, "v h w 3"],
    mask: Float[np.ndarray, "v h w"],
    *,
    first_view: int = 0,
) -> Float[np.ndarray, "v"]:
    """PSNR over the pixels where `mask` is above 0.5. dB, [0, 100], higher is better.

    Unlike `psnr` it does not grow when the same object covers less of the picture. Raises `ImageError`
    naming the view, counted from `first_view`, when a mask is empty.
    """
    _check(prediction, reference)
    if mask.shape != reference.shape[:3]:
        raise ImageError(f"masks of shape {mask.shape} do not fit views of shape {reference.shape}")
    errors = []
    views = zip(prediction, reference, mask > 0.5, strict=True)
    for view, (one, other, inside) in enumerate(views, first_view):
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
    both = np.array([np.count_nonzero(view) for view in one & other])
    either = np.array([np.count_nonzero(view) for view in one | other])
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def ssim(
    prediction: Float[np.ndarray, "v h w 3"],
    reference: Float[np.ndarray, "v h w 3"],
    *,
    window: Window = "gaussian",
    data_range: float | None = 1.0,
    border: bool = False,
    whole: tuple[int, int] | None = None,
) -> Float[np.ndarray, "v"]:
    """Structural similarity of each view (Wang et al. 2004, equation 13). [-1, 1], higher is better.

    Mean over channels and over the positions where the whole window lies inside the picture; with `border`
    also over the others, the picture continued by reflection. Windows: `gaussian` of 11 pixels with sigma 1.5
    and population covariance (scikit-image with `gaussian_weights=True, use_sample_covariance=False`), or
    `uniform` of 7 pixels with sample covariance (scikit-image's default). `data_range` None: of each view,
    the larger of the two pictures' maximum minus minimum (torchmetrics' default). torchmetrics leaves out the
    border up to 1.4.1 and counts it since. Parts of pictures need `MARGIN`. Raises `ImageError` for pictures
    smaller than the window.
    """
    _check(prediction, reference)
    weights, unbiased = _WINDOWS[window]
    reach = len(weights) - 1
    height, width = whole or reference.shape[1:3]
    if min(height, width) <= reach:
        raise ImageError(
            f"SSIM needs at least {len(weights)} x {len(weights)} pixels, these views have {width} x "
            f"{height}; leave ssim out or use larger pictures"
        )
    positions = height * width if border else (height - reach) * (width - reach)
    values = []
    for pair in zip(prediction, reference, strict=True):
        x, y = (one.transpose(2, 0, 1) for one in pair)
        spread = max(float(np.ptp(one)) for one in pair) if data_range is None else data_range
        c1, c2 = (0.01 * spread) ** 2, (0.03 * spread) ** 2 / unbiased
        if border:
            x, y = (_reflected(one, reach // 2) for one in (x, y))
        values.append(1 - _dissimilarity(x, y, weights, c1, c2) / (3 * positions))
    return np.array(values)


def _dissimilarity(
    x: Float[np.ndarray, "3 h w"], y: Float[np.ndarray, "3 h w"], weights: Float[np.ndarray, "k"],
    c1: float, c2: float,
) -> float:  # fmt: skip
    """Sum of 1 - SSIM over all whole windows; those that see no difference add nothing and are not computed.

    With s = x + y and d = x - y, whose means are S and D, equation 13 needs no covariance:
    SSIM = (S² - D² + 2 c1) (var s - var d + 2 c2) / ((S² + D² + 2 c1) (var s + var d + 2 c2)).
    """
    reach = len(weights) - 1
    band = np.zeros((_BAND, _BAND + reach), x.dtype)
    for row in range(_BAND):
        band[row, row : row + reach + 1] = weights
    # Variances are taken relative to the corner, which is background: there, rounding would drown them.
    corner = 2 * y[:, :1, :1]
    lost = 0.0
    for top in range(0, x.shape[1] - reach, _BAND):
        one, other = (image[:, top : top + _BAND + reach] for image in (x, y))
        differs = np.flatnonzero((one != other).any(axis=(0, 1)))
        if len(differs):
            seen = slice(max(differs[0] - reach, 0), differs[-1] + reach + 1)
            one, other = one[..., seen], other[..., seen]
            planes = np.empty((2, 2, *one.shape), x.dtype)
            np.add(one, other, out=planes[0, 0])
            np.subtract(one, other, out=planes[0, 1])
            planes[0, 0] -= corner
            np.square(planes[0], out=planes[1])
            means, variances = _window_means(planes, band)
            variances -= np.square(means)
            means[0] += corner
            (s, d), (var_s, var_d) = np.square(means, out=means), variances
            s += 2 * c1
            var_s += 2 * c2
            similarity = s - d
            similarity *= var_s - var_d
            s += d
            s *= var_s + var_d
            similarity /= s
            lost += similarity.size - float(similarity.sum(dtype=np.float64))
    return lost


def _reflected(image: Float[np.ndarray, "3 h w"], reach: int) -> Float[np.ndarray, "3 hh ww"]:
    return np.pad(image, ((0, 0), (reach, reach), (reach, reach)), mode="reflect")


def _window_means(
    planes: Float[np.ndarray, "*planes h w"], band: Float[np.ndarray, "n m"]
) -> Float[np.ndarray, "*planes hh ww"]:
    """Weighted mean of every whole window, along columns and then along rows.

    As products with a small band matrix, because matrix products are what the processor does fastest.
    """
    *outer, height, width = planes.shape
    size = band.shape[1] - band.shape[0]
    down = (band[: height - size, :height] @ planes).reshape(-1, width)
    means = np.empty((len(down), width - size), planes.dtype)
    for left in range(0, width - size, len(band)):
        part = down[:, left : left + band.shape[1]]
        across = band[: part.shape[1] - size, : part.shape[1]].T
        np.matmul(part, across, out=means[:, left : left + len(band)])
    return means.reshape(*outer, height - size, width - size)


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
