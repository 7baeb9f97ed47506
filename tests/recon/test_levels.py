"""The level of a field that is its surface, against closed forms."""

import numpy as np
import pytest

from recon import levels
from recon.volume import Volume
from svd3d import Orbit

RADIUS = 0.4


@pytest.fixture(scope="module")
def cameras():
    """Seven views of 64 pixels."""
    return Orbit.static(num_views=7, elevation_deg=10, distance=2.2).cameras(height=64, width=64)


@pytest.fixture(scope="module")
def silhouettes(cameras):
    """255 where a pixel centre sees a sphere around the origin, else 0."""
    origins, directions = cameras.rays()
    along = np.einsum("vhwk,vk->vhw", directions, origins) / np.linalg.norm(directions, axis=-1)
    hit = (origins**2).sum(axis=-1)[:, None, None] - along**2 < RADIUS**2
    return np.where(hit, 255, 0).astype(np.uint8)


def radius_field(values, resolution=48) -> Volume:
    """A volume whose value depends on the distance from the origin."""
    volume = Volume.covering(np.full(3, -0.5), np.full(3, 0.5), resolution=resolution)
    index = np.stack(np.meshgrid(*map(np.arange, volume.values.shape), indexing="ij"), axis=-1)
    radius = np.linalg.norm(volume.points(index), axis=-1)
    return Volume(values(radius).astype(np.float32), volume.origin, volume.voxel_size)


@pytest.mark.parametrize("true", [0.15, 0.5, 0.8])
def test_the_true_level_of_a_blurred_sphere_is_found(cameras, silhouettes, true):
    offset = 0.03 * np.log(true / (1 - true))
    field = radius_field(lambda r: 1 / (1 + np.exp((r - RADIUS - offset) / 0.03)))
    level = levels.choose(field, silhouettes, cameras)
    found_radius = RADIUS + offset - 0.03 * np.log(level.value / (1 - level.value))
    assert found_radius == pytest.approx(RADIUS, abs=0.1 * field.voxel_size)
    assert level.iou > 0.99


def test_a_field_too_small_for_its_views_says_so(cameras, silhouettes):
    field = radius_field(lambda r: 1.0 * (r < 0.8 * RADIUS))
    level = levels.choose(field, silhouettes, cameras)
    assert level.iou < 0.95
