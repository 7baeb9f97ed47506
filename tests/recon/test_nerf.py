"""Fitting a field to small views: what it shows, what faults it finds, and that a killed fit goes on."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from recon import fast, nerf
from recon.alignment import Alignment
from recon.volume import Volume
from svd3d import images
from svd3d.errors import MeshError


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Small pictures need few rays."""
    monkeypatch.setattr(nerf, "RAYS", 1024)
    monkeypatch.setattr(nerf, "ITERATIONS", 80)


@pytest.fixture(scope="module")
def views(make_sample):
    """Ten views of a striped ball with soft outlines."""
    return make_sample(num_views=10, size=120).resized(40)


@pytest.fixture(scope="module")
def bound(views):
    return fast.carve(images.to_float(views.images[..., 3]), views.cameras, resolution=24).volume


def whole_psnr(ours, theirs):
    error = (images.composite(ours) - images.composite(theirs)) ** 2
    return float(-10 * np.log10(error.mean()))


@pytest.fixture(scope="module")
def fitted(views, bound):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nerf, "RAYS", 1024)
        patch.setattr(nerf, "ITERATIONS", 80)
        return nerf.fit(views, bound=bound, resolution=40)


def test_the_field_repeats_its_views_and_predicts_others(fitted, views, make_sample):
    exact = make_sample(num_views=10, size=40).depth
    rgba, depth = fitted.field.render(views.cameras)
    assert whole_psnr(rgba, views.images) > 30
    inner = (views.images[..., 3] == 255) & (depth > 0)
    assert inner.mean() > 0.1
    assert np.median(np.abs(depth - exact)[inner]) < 2.5 * fitted.field.grid.voxel_size
    between = make_sample(num_views=10, size=120, elevation_deg=30.0, azimuth_deg=18.0).resized(40)
    assert whole_psnr(fitted.field.render(between.cameras)[0], between.images) > 26
    assert fitted.psnr_db > 28
    assert fitted.residuals.shape == (10,)


def test_the_volume_is_full_inside_and_empty_outside(fitted):
    volume = fitted.field.volume()
    index = np.stack(np.meshgrid(*map(np.arange, volume.values.shape), indexing="ij"), axis=-1)
    points = volume.points(index)
    distance = np.linalg.norm(points, axis=-1)
    seen = points[..., 2] > -0.3  # no view sees the underside
    assert (volume.values[seen & (distance < 0.44)] > 0.5).mean() > 0.98
    assert (volume.values[seen & (distance > 0.56)] < 0.5).mean() > 0.98


def test_views_without_fault_show_nearly_none(fitted):
    assert np.sqrt((fitted.shifts_px**2).mean()) < 0.25
    np.testing.assert_allclose(fitted.gains, 1, atol=0.05)


def test_shifts_and_gains_of_disturbed_views_are_found_and_undone(make_sample, monkeypatch):
    monkeypatch.setattr(nerf, "ITERATIONS", 100)
    sharp = make_sample(num_views=16, size=96, solid="boxes")
    views = sharp.resized(32)
    alpha = images.to_float(views.images[..., 3])
    carved = fast.carve(alpha, views.cameras, resolution=20).volume
    wide = dataclasses.replace(carved, values=ndimage.maximum_filter(carved.values, 5))
    moves = np.random.default_rng(1).integers(-4, 5, (16, 2))  # of the sharp pictures: thirds of a pixel
    dark = np.where(np.arange(16) == 4, 0.8, 1.0)
    moved = np.stack(
        [np.roll(image, (y, x), (0, 1)) for image, (x, y) in zip(sharp.images, moves.tolist(), strict=True)]
    )
    moved[..., :3] = (moved[..., :3] * dark[:, None, None, None]).round()
    faulty = dataclasses.replace(sharp, images=moved).resized(32)

    fitted = nerf.fit(faulty, bound=wide, resolution=32)

    expected = Alignment.none(views.cameras, np.zeros(3))
    expected.shifts_px.copy_(torch.from_numpy(moves / 3))
    expected.project_()
    truth = expected.shifts_px.numpy()
    assert np.sqrt(((fitted.shifts_px - truth) ** 2).mean()) < 0.4 * np.sqrt((truth**2).mean())
    assert fitted.gains.argmin() == 4
    assert whole_psnr(fitted.images, views.images) > whole_psnr(faulty.images, views.images) + 3


def test_a_killed_fit_goes_on_to_the_same_result(views, bound, tmp_path, monkeypatch):
    monkeypatch.setattr(nerf, "ITERATIONS", 12)
    straight = nerf.fit(views, bound=bound, resolution=20)
    state = tmp_path / "fit.safetensors"

    for survive in (2, 5):  # reports before the kill: within the first level, then within the second
        reports = []

        def tell(message, reports=reports, survive=survive):
            reports.append(message)
            if len(reports) > survive:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            nerf.fit(views, bound=bound, resolution=20, tell=tell, state=state)
        assert state.exists()
    heard = []
    resumed = nerf.fit(views, bound=bound, resolution=20, tell=heard.append, state=state)

    assert 0 < len(heard) < 2 * nerf.REPORTS
    heard.clear()
    ended = nerf.fit(views, bound=bound, resolution=20, tell=heard.append, state=state)
    assert not heard
    for found in (resumed, ended):
        for name in ("density", "colour", "light"):
            assert torch.equal(getattr(found.field, name), getattr(straight.field, name))
        np.testing.assert_array_equal(found.shifts_px, straight.shifts_px)
        np.testing.assert_array_equal(found.residuals, straight.residuals)


@pytest.mark.parametrize("content", ["damaged", "other seed"])
def test_a_state_of_no_use_is_not_used(views, bound, tmp_path, monkeypatch, content):
    monkeypatch.setattr(nerf, "ITERATIONS", 4)
    state = tmp_path / "fit.safetensors"

    def stop(message):
        if state.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nerf.fit(views, bound=bound, resolution=16, seed=7, state=state, tell=stop)
    if content == "damaged":
        state.write_bytes(b"cut off")
    heard = []
    nerf.fit(views, bound=bound, resolution=16, tell=heard.append, state=state)
    assert len(heard) == 2 * nerf.REPORTS


def test_an_empty_bound_is_refused(views, bound):
    nothing = Volume(np.zeros_like(bound.values), bound.origin, bound.voxel_size)
    with pytest.raises(MeshError, match="nothing is left"):
        nerf.fit(views, bound=nothing, resolution=16)


def test_a_fine_field_comes_after_ever_coarser_ones():
    assert nerf._sides(128) == [64, 128]
    assert nerf._sides(300) == [38, 75, 150, 300]
    assert nerf._sides(24) == [12, 24]
