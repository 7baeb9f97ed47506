"""Volumes, marching, parts and decimation against closed forms."""

import numpy as np
import pytest
import trimesh

from recon import surface
from recon.volume import Volume
from svd3d.errors import MeshError


def sphere_field(radius=0.4, resolution=48, centre=(0.0, 0.0, 0.0), half=0.5):
    """A field that falls linearly with the distance: 0.5 on the sphere."""
    volume = Volume.covering(np.full(3, -half), np.full(3, half), resolution=resolution)
    index = np.stack(np.meshgrid(*map(np.arange, volume.values.shape), indexing="ij"), -1).reshape(-1, 3)
    distance = np.linalg.norm(volume.points(index) - np.array(centre), axis=1)
    values = (0.5 + (radius - distance)).astype(np.float32).reshape(volume.values.shape)
    return Volume(values, volume.origin, volume.voxel_size)


def test_volume_spans_its_box():
    volume = Volume.covering(np.array([-1.0, -0.5, 0.0]), np.array([1.0, 0.5, 0.25]), resolution=41)
    assert volume.values.shape == (41, 21, 6)
    np.testing.assert_allclose(
        volume.points(np.array([[0, 0, 0], [40, 20, 5]])), [[-1, -0.5, 0], [1, 0.5, 0.25]]
    )


def test_padding_moves_nothing():
    volume = sphere_field(resolution=16)
    padded = volume.padded(3)
    np.testing.assert_allclose(padded.points(np.array([[3, 3, 3]])), volume.points(np.array([[0, 0, 0]])))


@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (0.013, -0.007, 0.021)])
def test_marching_a_sphere_has_no_half_voxel_error(centre):
    field = sphere_field(centre=centre)
    mesh = surface.extract(field)
    distance = np.linalg.norm(mesh.vertices - np.array(centre), axis=1)
    assert np.abs(distance - 0.4).mean() < 0.1 * field.voxel_size
    np.testing.assert_allclose(mesh.bounds.mean(axis=0), centre, atol=0.02 * field.voxel_size)
    assert mesh.is_volume
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.02)


def test_a_surface_that_meets_the_border_is_closed():
    mesh = surface.extract(sphere_field(radius=0.7))
    assert mesh.is_volume
    assert mesh.extents == pytest.approx(np.ones(3), abs=0.05)


def test_a_field_on_the_level_gives_no_torn_surface():
    values = np.zeros((8, 8, 8), np.float32)
    values[2:6, 2:6, 2:6] = 0.5
    assert surface.extract(Volume(values, np.zeros(3), 1.0)).is_volume


def test_an_empty_field_is_refused():
    with pytest.raises(MeshError, match="left nothing"):
        surface.extract(Volume(np.zeros((4, 4, 4), np.float32), np.zeros(3), 1.0))


def test_small_parts_and_hollows_go():
    large, small = trimesh.creation.icosphere(2, radius=0.4), trimesh.creation.icosphere(1, radius=0.03)
    hollow = trimesh.creation.icosphere(1, radius=0.3)
    hollow.invert()
    second = trimesh.creation.icosphere(2, radius=0.2)
    small.apply_translation([1, 0, 0])
    second.apply_translation([0, 1, 0])
    kept = surface.main_parts(trimesh.util.concatenate([large, small, hollow, second]))
    assert kept.volume == pytest.approx(large.volume + second.volume, rel=1e-6)
    assert kept.is_volume


def test_decimation_keeps_the_surface_closed_and_in_place():
    mesh = surface.extract(sphere_field(resolution=64))
    simple = surface.decimate(mesh, faces=2000)
    assert len(simple.faces) <= 2000 < len(mesh.faces)
    assert simple.is_volume
    assert simple.volume == pytest.approx(mesh.volume, rel=0.01)
    assert surface.decimate(simple, faces=5000) is simple


def test_fairing_takes_bumps_and_leaves_the_ball():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    noise = np.random.default_rng(0).normal(0, 0.01, len(ball.vertices))
    bumpy = trimesh.Trimesh(ball.vertices * (1 + noise[:, None]), ball.faces, process=False)
    fair = surface.faired(bumpy, rounds=10)
    before, after = (np.linalg.norm(each.vertices, axis=1).std() for each in (bumpy, fair))
    assert after < 0.4 * before
    assert fair.volume == pytest.approx(ball.volume, rel=0.01)
    assert fair.is_volume
