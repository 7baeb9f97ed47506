"""White and the mean training view against closed forms; training orbits are streamed."""

import dataclasses
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svd3d import images as pictures
from svd3d.errors import InputError, SampleError
from svd3d.metrics import baselines, images, protocols
from svd3d.metrics.baselines import TrainingViews
from svd3d.metrics.pairing import Views
from svd3d.metrics.scoring import ViewPair, score_views

SVD_MV = dataclasses.replace(protocols.get("svd-mv"), metrics=("psnr", "mask-iou"))
SIZE = 16


def squares(colour: tuple[int, int, int], *, count: int = 21, size: int = SIZE, alpha: int = 255) -> Views:
    """Views of a square of one colour that covers a quarter of the picture."""
    views = np.zeros((count, size, size, 4), np.uint8)
    views[:, size // 4 : -size // 4, size // 4 : -size // 4] = (*colour, alpha)
    return Views(views)


def psnr_of(reference: Views, *trained: Views) -> dict[str, float]:
    training = TrainingViews.of([lambda v=v: v for v in trained], SVD_MV) if trained else None
    pair = ViewPair("square", {"ours": reference}, reference)
    methods = score_views([pair], protocol=SVD_MV, training=training).methods
    assert methods["white"]["mask-iou"].mean == 0
    return {name: scores["psnr"].mean for name, scores in methods.items()}


def test_white_is_as_far_off_as_the_object_is_dark():
    found = psnr_of(squares((51, 102, 255)))  # 0.2, 0.4, 1 on a quarter of the picture
    assert found["white"] == pytest.approx(-10 * np.log10((0.8**2 + 0.6**2 + 0) / 3 / 4))
    assert psnr_of(squares((255, 255, 255)))["white"] == images.MAX_PSNR_DB


def test_white_is_refused_where_the_background_is_not():
    grey = dataclasses.replace(SVD_MV, background=(0.5, 0.5, 0.5))
    with pytest.raises(
        SampleError, match=r"background of protocol svd-mv is \(0\.5, 0\.5, 0\.5\), not white"
    ):
        baselines.white(squares((0, 0, 0)), grey)


def test_the_mean_of_a_constant_training_set_is_that_constant():
    found = psnr_of(squares((200, 30, 60)), *[squares((200, 30, 60))] * 3)
    assert found["mean-training-view"] == images.MAX_PSNR_DB


def test_the_mean_weighs_views_and_not_orbits():
    dark, light = squares((0, 0, 0), count=21), squares((240, 240, 240), count=7)
    mean = TrainingViews.of([lambda: dark, lambda: light], SVD_MV).mean(dark, SVD_MV)
    assert mean.images.shape == dark.images.shape
    assert (mean.images[:, 8, 8] == (60, 60, 60, 255)).all()
    assert not mean.images[:, 0, 0].any()
    found = psnr_of(dark, dark, light)
    assert found["mean-training-view"] == pytest.approx(-10 * np.log10((60 / 255) ** 2 / 4))


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.floats(0, 1)] * 3))
def test_over_any_background_the_mean_is_the_mean_of_the_views_over_it(seed, background):
    rng = np.random.default_rng(seed)
    orbits = [Views(rng.integers(0, 256, (count, 8, 8, 4)).astype(np.uint8)) for count in (3, 5)]
    protocol = dataclasses.replace(SVD_MV, background=background)
    mean = TrainingViews.of([lambda v=v: v for v in orbits], protocol).mean(orbits[0], protocol)
    everything = np.concatenate([each.images for each in orbits])
    expected = pictures.composite(everything, background=background).mean(axis=0)
    for shown in pictures.composite(mean.images, background=background):
        np.testing.assert_allclose(shown, expected, atol=1.01 / 255)


def test_the_mean_comes_at_the_size_of_the_reference():
    training = TrainingViews.of([lambda: squares((90, 90, 90), size=32)], SVD_MV)
    mean = training.mean(squares((0, 0, 0), size=16), SVD_MV)
    assert (mean.images[:, 8, 8] == (90, 90, 90, 255)).all()
    assert mean.size == (16, 16)


def test_a_mean_is_refused_where_soft_edges_are_kept_and_without_comparable_orbits():
    training = TrainingViews.of([lambda: squares((0, 0, 0))], SVD_MV)
    with pytest.raises(SampleError, match="protocol eschernet keeps soft edges"):
        training.mean(squares((0, 0, 0)), protocols.get("eschernet"))
    wide = Views(np.zeros((21, 8, 16, 4), np.uint8))
    with pytest.raises(
        InputError, match="training views: views of 16 x 8 pixels cannot be resized to 16 x 16"
    ):
        TrainingViews.of([lambda: squares((0, 0, 0)), lambda: wide], SVD_MV)
    with pytest.raises(InputError, match="training views: there are none"):
        TrainingViews.of([], SVD_MV)


def test_of_many_training_orbits_only_thumbnails_stay_in_memory():
    alive, most = weakref.WeakSet(), []

    def read() -> Views:
        most.append(len(alive))
        views = squares((9, 9, 9), size=64)
        alive.add(views)
        return views

    training = TrainingViews.of([read] * 20, SVD_MV)
    assert (max(most), len(alive)) == (1, 0)
    assert sum(stack.nbytes for stack in training.thumbnails) == 20 * 21 * 32 * 32 * 3
