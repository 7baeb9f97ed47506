"""Carving against closed forms: spheres, an upright L, views that disagree."""

import numpy as np
import pytest

from recon import fast, hull, surface
from recon.raster import render
from recon.volume import Volume
from svd3d import Cameras, Orbit
from svd3d.errors import MeshError


def sphere_alpha(cameras: Cameras, radius: float, side: int = 4) -> np.ndarray:
    """Coverage of a sphere at the origin, by side x side samples per pixel."""
    fine = cameras.resized(height=cameras.height * side, width=cameras.width * side)
    origins, directions = fine.rays()
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    along = np.einsum("vhwk,vk->vhw", unit, origins)
    nearest = (origins**2).sum(-1)[:, None, None] - along**2
    hit = (nearest < radius**2).reshape(len(cameras), cameras.height, side, cameras.width, side)
    return hit.mean(axis=(2, 4)).astype(np.float32)


def all_around(size=64, distance=2.2) -> Cameras:
    """21 cameras in six rings, from -75 to 85 degrees."""
    rings = [(-75, 2), (-40, 4), (-10, 4), (20, 4), (50, 4), (85, 3)]
    azimuths = tuple(360.0 * (k + 0.5 * i) / n for i, (_, n) in enumerate(rings) for k in range(n))
    elevations = tuple(float(e) for e, n in rings for _ in range(n))
    return Orbit(azimuths, elevations, distance).cameras(height=size, width=size)


def test_sphere_seen_from_all_around_has_its_volume():
    orbit = Orbit(
        tuple(360 * 0.618034 * k for k in range(40)),
        tuple(np.degrees(np.arcsin((2 * np.arange(40) + 1) / 40 - 1)).tolist()),
        2.2,
    )
    cameras = orbit.cameras(height=80, width=80)
    carved = fast.carve(sphere_alpha(cameras, 0.4), cameras, resolution=64)
    mesh = fast.mesh(carved.volume, faces=20_000)
    assert carved.k == 1
    assert mesh.is_volume
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.02)
    assert mesh.bounds.mean(axis=0) == pytest.approx(np.zeros(3), abs=0.003)


def test_whole_cells_change_nothing():
    cameras = all_around(size=48)
    silhouettes = hull.Silhouettes.of(sphere_alpha(cameras, 0.4), cameras)
    low, high = np.full(3, -0.5), np.full(3, 0.5)
    for k in (1, 3):
        volume = hull.carve(silhouettes, cameras, low, high, resolution=30, k=k)
        index = np.stack(np.meshgrid(*map(np.arange, volume.values.shape), indexing="ij"), -1).reshape(-1, 3)
        direct = silhouettes.kth_smallest(volume.points(index), k).reshape(volume.values.shape)
        np.testing.assert_allclose(volume.values, direct, atol=2e-3)


def test_points_outside_a_frame_or_behind_a_camera_are_outside(cameras):
    silhouettes = hull.Silhouettes.of(np.ones((len(cameras), 32, 32), np.float32), cameras)
    far = np.array([[0, 0, 0], [0, 0, 3.0], [5, 0, 0], [-5, 0, 0]], dtype=float)
    np.testing.assert_allclose(silhouettes.kth_smallest(far, 1), [1, 0, 0, 0], atol=1e-6)


def test_an_orbit_of_a_standing_ell_keeps_it_upright_unmirrored_and_flat(ell):
    cameras = Orbit.static(elevation_deg=12, distance=2.2).cameras(height=96, width=96)
    rgba, _ = render(ell, cameras, samples_per_side=3)
    carved = fast.carve(rgba[..., 3].astype(np.float32) / 255, cameras, resolution=80)
    mesh = fast.mesh(carved.volume, faces=8000)
    assert mesh.is_volume
    assert mesh.volume == pytest.approx(ell.volume, rel=0.2)  # the top is a flat roof of tan(12 degrees)
    assert np.abs(mesh.bounds[:, :2] - ell.bounds[:, :2]).max() < 0.02
    assert mesh.bounds[0, 2] == pytest.approx(-0.5, abs=0.03)  # without the flat base: -0.55
    inside = np.array([[0.3, 0.05, -0.4], [-0.3, -0.05, 0.3], [-0.3, 0.2, -0.4]])
    outside = np.array([[0.3, 0.0, 0.3], [0.3, -0.2, -0.4], [-0.3, 0.2, 0.3]])
    assert mesh.contains(inside).all()
    assert not mesh.contains(outside).any()


def test_views_that_disagree_are_carved_with_a_larger_k():
    cameras = Orbit.static(elevation_deg=10, distance=2.2).cameras(height=64, width=64)
    alpha = sphere_alpha(cameras, 0.4)
    assert fast.carve(alpha, cameras, resolution=32).k == 1
    alpha[5] = np.roll(alpha[5], 16, axis=1)  # one view looks a quarter of the picture aside
    carved = fast.carve(alpha, cameras, resolution=48)
    assert carved.k > 1
    mesh = fast.mesh(carved.volume, faces=4000)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.1)


def test_cutting_gives_a_flat_base_between_samples():
    volume = Volume(np.ones((10, 10, 10), np.float32), np.zeros(3), 0.1)
    mesh = surface.extract(fast.cut_below(volume, 0.337))
    assert mesh.bounds[0, 2] == pytest.approx(0.337, abs=1e-4)


@pytest.mark.parametrize(
    ("alpha", "words"),
    [
        (np.zeros((4, 16, 16)), "4 of 4 views is empty"),
        (np.ones((4, 16, 16)), "no transparent background"),
        (np.eye(16)[None], "one view alone"),
        (np.stack([np.eye(16), np.zeros((16, 16))]), r"1 of 2 views is empty \(view 1\)"),
    ],
)
def test_silhouettes_that_cannot_be_carved_with_are_refused(alpha, words):
    with pytest.raises(MeshError, match=words):
        hull.check_silhouettes(alpha)


def test_silhouettes_without_a_common_object_are_refused():
    cameras = Orbit.static(num_views=8, distance=2.2).cameras(height=32, width=32)
    alpha = np.zeros((8, 32, 32), np.float32)
    alpha[::2, 2:8], alpha[1::2, 24:30] = 1, 1
    with pytest.raises(MeshError, match="no common object"):
        fast.carve(alpha, cameras, resolution=32)


def test_a_camera_that_looks_away_is_named():
    cameras = Orbit.static(num_views=8, elevation_deg=30, distance=2.2).cameras(height=32, width=32)
    matrices = cameras.camera_to_world.copy()
    matrices[3, :3, [0, 2]] *= -1
    with pytest.raises(MeshError, match="view 3 looks away"):
        hull.frustum_box(Cameras(matrices, cameras.intrinsics, 32, 32))
