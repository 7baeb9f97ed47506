"""Shifts, gains and offsets of views: what can be observed of them, and undoing them."""

import dataclasses

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from recon import alignment
from recon.alignment import Alignment
from svd3d import Orbit


def random_cameras(seed):
    generator = np.random.default_rng(seed)
    orbit = Orbit.random(generator, elevation_range_deg=(-60, 80), num_views=7, distance=2.5)
    cameras = orbit.cameras(height=40, width=56)
    off_centre = cameras.intrinsics + np.array([[0, 0, 3.0], [0, 0, -5.0], [0, 0, 0]])
    return dataclasses.replace(cameras, intrinsics=off_centre)


@hypothesis.given(seed=st.integers(0, 1000))
@hypothesis.settings(max_examples=10)
def test_pixel_moves_is_the_derivative_of_projection(seed):
    cameras = random_cameras(seed)
    centre, step = np.array([0.1, -0.2, 0.05]), 1e-5
    for axis, move in enumerate(np.eye(3) * step):
        ahead, behind = (cameras.project((centre + sign * move)[None])[0][:, 0] for sign in (1, -1))
        expected = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(alignment.pixel_moves(cameras, centre)[..., axis], expected, atol=1e-4)


@hypothesis.given(seed=st.integers(0, 1000))
@hypothesis.settings(max_examples=10)
def test_exactly_the_moves_of_the_object_are_projected_out(seed):
    cameras, centre = random_cameras(seed), np.array([0.1, 0.0, -0.1])
    moves = alignment.pixel_moves(cameras, centre)
    generator = np.random.default_rng(seed)
    free = generator.normal(size=(7, 2))
    basis = np.linalg.qr(moves.reshape(-1, 3))[0]
    observable = (free.ravel() - basis @ (basis.T @ free.ravel())).reshape(7, 2)
    made = Alignment.none(cameras, centre)
    made.shifts_px.copy_(torch.from_numpy(observable + moves @ generator.normal(size=3) * 0.1))
    made.project_()
    np.testing.assert_allclose(made.shifts_px, observable, atol=1e-4)


def test_on_a_level_orbit_the_unobservable_shifts_are_known_in_closed_form():
    cameras = Orbit.static(num_views=12, elevation_deg=0, distance=2.0).cameras(height=32, width=32)
    azimuth = np.radians(np.arange(12) * 30.0)
    made = Alignment.none(cameras, np.zeros(3))
    made.shifts_px.copy_(
        torch.from_numpy(np.stack([np.sin(azimuth) - 2 * np.cos(azimuth), np.full(12, 0.7)], 1))
    )
    made.project_()
    np.testing.assert_allclose(made.shifts_px, 0, atol=1e-5)
    kept = np.stack([np.cos(2 * azimuth), np.sin(azimuth)], 1)
    made.shifts_px.copy_(torch.from_numpy(kept))
    made.project_()
    np.testing.assert_allclose(made.shifts_px, kept, atol=1e-5)


def test_gains_and_offsets_that_all_views_share_are_projected_out(cameras):
    made = Alignment.none(cameras, np.zeros(3))
    made.log_gains.copy_(torch.linspace(0, 0.7, 8))
    made.offsets.fill_(0.2)
    made.project_()
    assert made.log_gains.mean() == pytest.approx(0, abs=1e-6)
    assert made.log_gains[7] - made.log_gains[0] == pytest.approx(0.7, abs=1e-6)
    assert made.offsets.abs().max() < 1e-6


def smooth_views(shifts, gains=(1.0, 1.0), offsets=(0.0, 0.0)):
    """A soft blob in two views, moved right and down by shifts, with gain and offset on its colour."""
    y, x = np.mgrid[:48, :64] + 0.0
    images = []
    for (right, down), gain, offset in zip(shifts, gains, offsets, strict=True):
        distance = np.hypot(x - 30 - right, y - 22 - down)
        alpha = 1 / (1 + np.exp(distance - 12))
        colour = 0.4 + 0.2 * np.sin((x - right) / 5)[..., None] * np.array([1.0, 0.5, -1.0])
        images.append(np.concatenate([gain * colour + offset, alpha[..., None]], -1))
    return (np.stack(images) * 255).round().astype(np.uint8)


@pytest.fixture
def faulty():
    cameras = Orbit.static(num_views=2, distance=2.0).cameras(height=48, width=64)
    made = Alignment.none(cameras, np.zeros(3))
    made.shifts_px.copy_(torch.tensor([[1.4, -0.6], [-0.5, 1.8]]))
    made.log_gains.copy_(torch.tensor([1.1, 0.9]).log())
    made.offsets.copy_(torch.tensor([0.05, -0.05]))
    return made, smooth_views([(1.4, -0.6), (-0.5, 1.8)], (1.1, 0.9), (0.05, -0.05))


def test_targets_and_corrected_views_show_what_a_faultless_view_would(faulty):
    made, images = faulty
    truth = smooth_views([(0, 0), (0, 0)])
    expected = alignment.premultiplied(truth)[:, 4:-4, 4:-4]
    assert np.abs(alignment.premultiplied(images)[:, 4:-4, 4:-4] - expected).max() > 0.08

    corrected = alignment.premultiplied(made.corrected(images))[:, 4:-4, 4:-4]
    assert np.abs(corrected - expected).max() < 0.012

    view, y, x = (torch.from_numpy(each.ravel()) for each in np.mgrid[:2, 4:44, 4:60])
    pictures = torch.from_numpy(alignment.premultiplied(images))
    targets = made.targets(pictures, view, x, y).reshape(2, 40, 56, 4).numpy()
    assert np.abs(targets - expected).max() < 0.02


def test_the_gradient_of_a_target_is_that_of_the_picture(faulty):
    made, images = faulty
    pictures = torch.from_numpy(alignment.premultiplied(images)).double()
    view, y, x = torch.tensor([0, 1]), torch.tensor([20, 30]), torch.tensor([33, 20])

    def targets(*fitted):
        names = ("shifts_px", "log_gains", "offsets")
        return dataclasses.replace(made, **dict(zip(names, fitted, strict=True))).targets(
            pictures, view, x, y
        )

    fitted = [each.detach().double().requires_grad_() for each in made.parameters().values()]
    assert torch.autograd.gradcheck(targets, fitted)


def test_views_with_small_faults_keep_their_bytes(faulty):
    made, images = faulty
    for tensor in made.parameters().values():
        tensor.fill_(0.01)
    assert made.corrected(images) is images
