"""Image metrics against closed forms, two libraries, and laws that hold for all pictures."""

import functools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from skimage.metrics import structural_similarity

from svd3d import images as pictures
from svd3d.errors import ImageError
from svd3d.metrics import images as metrics


def views(seed: int, *, count: int = 2, size: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).random((count, size, size, 3)).astype(np.float32)


def scikit_ssim(one: np.ndarray, other: np.ndarray) -> float:
    return structural_similarity(
        one.astype(np.float64), other.astype(np.float64), channel_axis=2, data_range=1.0,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip


seeds = st.integers(0, 2**32 - 1)
fast = settings(max_examples=20, deadline=None)


@pytest.mark.parametrize("error", [0.001, 0.01, 0.1, 0.5])
def test_a_constant_error_gives_the_psnr_of_its_square(error):
    reference = np.full((3, 5, 7, 3), 0.25)
    assert metrics.mse(reference + error, reference) == pytest.approx([error**2] * 3)
    assert metrics.psnr(reference + error, reference) == pytest.approx([-20 * np.log10(error)] * 3)


def test_each_view_has_its_own_value():
    reference = np.zeros((3, 4, 4, 3))
    prediction = reference + np.array([0.1, 0.01, 0.0])[:, None, None, None]
    assert metrics.psnr(prediction, reference) == pytest.approx([20, 40, metrics.MAX_PSNR_DB])


def test_foreground_psnr_sees_the_mask_only():
    reference = np.zeros((1, 4, 4, 3))
    mask = np.zeros((1, 4, 4))
    mask[:, :2, :2] = 1
    prediction = np.where(mask[..., None] > 0, 0.1, np.full(3, 0.9))
    assert metrics.foreground_psnr(prediction, reference, mask) == pytest.approx([20])
    # A quarter of the picture is wrong by 0.1 and the rest right: the whole picture flatters by 10 log10(4).
    prediction = np.where(mask[..., None] > 0, 0.1, np.zeros(3))
    assert metrics.psnr(prediction, reference) == pytest.approx([20 + 10 * np.log10(4)])


def test_mask_iou_of_two_rectangles():
    one, other = np.zeros((2, 10, 10)), np.zeros((2, 10, 10))
    one[0, 0:4, 0:10] = 1
    other[0, 2:6, 0:10] = 0.8  # 2 of 6 rows shared
    assert metrics.mask_iou(one, other) == pytest.approx([2 / 6, 1.0])  # two empty masks agree


@pytest.mark.parametrize("size", [(11, 11), (16, 23), (64, 48)])
def test_ssim_equals_scikit_image_and_torchmetrics(size):
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = pytest.importorskip("torchmetrics.functional.image")
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    reference = rng.random((3, *size, 3))
    prediction = (
        reference + np.array([0.02, 0.1, 0.4])[:, None, None, None] * rng.normal(size=reference.shape)
    ).clip(0, 1)
    ours = metrics.ssim(prediction, reference)
    tensors = [torch.from_numpy(stack).permute(0, 3, 1, 2) for stack in (prediction, reference)]
    _, everywhere = image.structural_similarity_index_measure(
        *tensors, data_range=1.0, reduction="none", return_full_image=True
    )
    # torchmetrics also counts the border, filled by reflection; inside it the numbers are the same
    theirs = everywhere[:, :, 5:-5, 5:-5].mean(dim=(1, 2, 3))
    assert ours == pytest.approx(theirs.numpy(), abs=1e-6)
    assert ours == pytest.approx(
        [scikit_ssim(p, r) for p, r in zip(prediction, reference, strict=True)], abs=1e-9
    )


@fast
@given(seeds, seeds)
def test_metrics_are_symmetric_and_in_range(a, b):
    one, other = views(a), views(b)
    for metric, low, high in ((metrics.psnr, 0, 100), (metrics.ssim, -1, 1), (metrics.mse, 0, 1)):
        value = metric(one, other)
        assert value == pytest.approx(metric(other, one), abs=1e-6)
        assert ((value >= low) & (value <= high)).all()
    alphas = one[..., 0], other[..., 0]
    assert metrics.mask_iou(*alphas) == pytest.approx(metrics.mask_iou(*alphas[::-1]))


@fast
@given(seeds, seeds)
def test_metrics_do_not_change_when_both_views_are_mirrored_or_channels_swapped(a, b):
    one, other = views(a), views(b)
    for metric in (metrics.psnr, metrics.ssim, metrics.mse):
        for change in (lambda x: x[:, :, ::-1], lambda x: x[..., ::-1], lambda x: x.transpose(0, 2, 1, 3)):
            assert metric(change(one), change(other)) == pytest.approx(metric(one, other), abs=1e-6)


@fast
@given(seeds)
def test_identical_views_have_the_best_score(seed):
    one = views(seed)
    assert (metrics.psnr(one, one) == metrics.MAX_PSNR_DB).all()
    assert metrics.ssim(one, one) == pytest.approx([1, 1], abs=1e-12)
    assert (metrics.mask_iou(one[..., 0], one[..., 0]) == 1).all()
    assert (metrics.mse(one, one) == 0).all()


@fast
@given(seeds, st.floats(0.01, 0.3), st.floats(1.1, 3.0))
def test_more_noise_is_never_better(seed, noise, factor):
    reference = views(seed, count=1) * 0.5 + 0.25
    direction = views(seed + 1, count=1) - 0.5
    small, large = (
        metrics.psnr(reference + direction * each, reference)[0] for each in (noise, noise * factor)
    )
    assert large < small
    assert small - large == pytest.approx(20 * np.log10(factor), abs=1e-3)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(
        (ImageError, TypeCheckError), match=r"24, 24, 3.*24, 23, 3|w=24"
    ):  # the hook is faster
        metrics.psnr(views(0), views(0)[:, :, 1:])
    with pytest.raises(ImageError, match="at least 11 x 11 pixels, these views have 10 x 24"):
        metrics.ssim(views(0)[:, :, :10], views(0)[:, :, :10])
    broken = views(0)
    broken[1, 3, 3] = np.nan
    with pytest.raises(ImageError, match="prediction: view 1"):
        metrics.ssim(broken, views(0))
    with pytest.raises(ImageError, match="view 7: the mask is empty"):
        metrics.foreground_psnr(views(0), views(0), np.zeros((2, 24, 24)), first_view=7)


def by_torchmetrics(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSIM as the library gives it without a data range, one view at a time: border left out, and counted."""
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = pytest.importorskip("torchmetrics.functional.image")
    inside, everywhere = [], []
    for pair in zip(prediction, reference, strict=True):
        value, full = image.structural_similarity_index_measure(
            *(torch.from_numpy(one.astype(np.float64)).permute(2, 0, 1)[None] for one in pair),
            return_full_image=True,
        )
        inside.append(float(full[..., 5:-5, 5:-5].mean()))
        everywhere.append(float(value))
    return np.array(inside), np.array(everywhere)


def test_ssim_without_a_data_range_is_that_of_torchmetrics_before_and_after_it_counted_the_border():
    reference = views(3, count=3, size=40) * np.array([0.3, 0.6, 1.0])[:, None, None, None] + 0.1
    prediction = (reference + 0.2 * (views(4, count=3, size=40) - 0.5)).clip(0, 1)
    inside, everywhere = by_torchmetrics(prediction, reference)
    assert metrics.ssim(prediction, reference, data_range=None) == pytest.approx(inside, abs=1e-6)
    assert metrics.ssim(prediction, reference, data_range=None, border=True) == pytest.approx(
        everywhere, abs=1e-6
    )
    assert abs(metrics.ssim(prediction, reference)[0] - inside[0]) > 0.005  # the range matters


def test_ssim_with_a_uniform_window_is_scikit_images_default_on_eight_bits():
    reference = pictures.to_uint8(views(5, size=33))
    prediction = pictures.to_uint8((views(6, size=33) * 0.2 + reference / 255 * 0.8).astype(np.float32))
    expected = [
        structural_similarity(r, p, channel_axis=2) for p, r in zip(prediction, reference, strict=True)
    ]
    ours = metrics.ssim(pictures.to_float(prediction), pictures.to_float(reference), window="uniform")
    assert ours == pytest.approx(expected, abs=1e-6)


@fast
@given(seeds, st.integers(0, 39), st.integers(0, 39), st.integers(1, 12), st.booleans())
def test_ssim_of_a_difference_anywhere_counts_every_window(seed, top, left, side, border):
    """Windows that see no difference are not computed; one in a corner or a single pixel must not be lost."""
    reference = views(seed, count=1, size=40)
    prediction = reference.copy()
    prediction[:, top : top + side, left : left + side] = 0.5
    inside, everywhere = by_torchmetrics(prediction, reference)
    expected = everywhere if border else inside
    assert metrics.ssim(prediction, reference, data_range=None, border=border) == pytest.approx(
        expected, abs=1e-7
    )


@fast
@given(seeds, st.integers(0, 39), st.integers(0, 39), st.integers(1, 12))
def test_parts_that_hold_all_differences_give_the_values_of_the_whole(seed, top, left, side):
    """Wherever the object lies: in a corner, at an edge, away from both."""
    reference, prediction = np.ones((2, 1, 40, 48, 3), np.float32)
    place = np.s_[:, top : top + side, left : left + side]
    shape = reference[place].shape
    rng = np.random.default_rng(seed)
    reference[place], prediction[place] = rng.random(shape), rng.random(shape)
    margin = metrics.MARGIN
    part = np.s_[:, max(top - margin, 0) : top + side + margin, max(left - margin, 0) : left + side + margin]
    for measure in (
        metrics.mse,
        metrics.psnr,
        metrics.ssim,
        functools.partial(metrics.ssim, window="uniform"),
        functools.partial(metrics.ssim, data_range=None),
        functools.partial(metrics.ssim, data_range=None, border=True),
    ):
        whole = measure(prediction, reference)
        assert measure(prediction[part], reference[part], whole=(40, 48)) == pytest.approx(whole, abs=1e-7)
