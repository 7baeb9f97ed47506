"""The signed distance: NeuS's weights in closed form, and a wrong surface that finds its way to the views."""

import dataclasses

import numpy as np
import pytest
import torch
import trimesh

from recon import raster, sdf, surface
from recon.march import Samples
from recon.volume import Volume
from svd3d import Orbit

RADIUS = 0.4


def along(distances, rays):
    """Samples with these signed distances; only the rays matter to the weights."""
    count = len(distances)
    return Samples(torch.tensor(rays), torch.arange(count) * 1.0, torch.zeros(count, 3))


def weights(distances, rays, *, sharpness=2.0):
    """Weights of samples as a list."""
    column = torch.tensor(distances, dtype=torch.float32)
    return sdf.weights(column, along(distances, rays), max(rays) + 1, sharpness=sharpness).numpy()


def test_a_ray_into_a_solid_gives_all_its_light_at_the_surface():
    distances = np.arange(6, -6, -0.5).tolist()
    found = weights(distances, [0] * len(distances))
    assert found.sum() == pytest.approx(1, abs=1e-4)
    # equation 13 telescopes: what passes a sample is S(f), here with f the distance itself
    passed = 1 / (1 + np.exp(-2 * np.array(distances)))
    np.testing.assert_allclose(found[:-1], passed[:-1] - passed[1:], atol=1e-5)
    assert (found * distances).sum() == pytest.approx(0.25, abs=0.01)


def test_light_that_leaves_a_solid_meets_nothing():
    found = weights([3.0, 2.0, 1.0, 2.0, 3.0], [0] * 5, sharpness=4.0)
    assert found[:2].sum() < 0.02
    np.testing.assert_array_equal(found[2:], 0)


def test_rays_do_not_shade_each_other():
    one = [2.0, 0.0, -2.0, -4.0]
    np.testing.assert_allclose(weights(one + one, [0] * 4 + [2] * 4), np.tile(weights(one, [0] * 4), 2))


def test_the_depth_of_a_ray_pulls_light_forward_and_asks_for_no_more_of_it():
    weight = torch.tensor([0.1, 0.5, 0.2, 0.3, 0.3], requires_grad=True)
    found = sdf.depths(weight, along([0.0] * 5, [0, 0, 0, 2, 2]), 3)
    np.testing.assert_allclose([found[:3].sum().item(), found[3:].sum().item()], 0, atol=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), weight)
    np.testing.assert_allclose(gradient, [-1.125, -0.125, 0.875, -0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose((gradient * weight)[:3].sum().item(), 0, atol=1e-6)


def test_a_face_of_one_colour_does_not_sink(monkeypatch):
    """Only its outlines tell where a grey ball ends."""
    cameras = Orbit.static(num_views=9, elevation_deg=15, distance=2.2).cameras(height=48, width=48)
    mesh = trimesh.creation.icosphere(4, radius=RADIUS)
    grey = raster.render(mesh, cameras)[0]
    monkeypatch.setattr(sdf, "RAYS", 384)
    monkeypatch.setattr(sdf, "ITERATIONS", 100)
    fitted, error = sdf.fit(grey, cameras, start=dented(ball(RADIUS))), []
    for volume in (fitted.nearest, fitted.volume):
        found = surface.extract(volume)
        towards = found.vertices[:, 0] > 0.8 * np.linalg.norm(found.vertices, axis=1)
        error.append(np.abs(np.linalg.norm(found.vertices[towards], axis=1) - RADIUS).mean())
    assert error[0] < 0.6 * error[1], error


def dented(volume) -> Volume:
    """The volume without two voxels of what looks towards +X."""
    inwards = np.roll(volume.values, -2, axis=0)
    return dataclasses.replace(volume, values=np.minimum(volume.values, inwards))


def ball(radius, resolution=32) -> Volume:
    """An occupancy that falls from 1 to 0 over four voxels around a sphere."""
    volume = Volume.covering(np.full(3, -0.56), np.full(3, 0.56), resolution=resolution)
    index = np.stack(np.meshgrid(*map(np.arange, volume.values.shape), indexing="ij"), axis=-1)
    outside = np.linalg.norm(volume.points(index), axis=-1) - radius
    values = (0.5 - outside / (4 * volume.voxel_size)).clip(0, 1).astype(np.float32)
    return dataclasses.replace(volume, values=values)


@pytest.fixture(scope="module")
def views():
    """Exact pictures of a sphere coloured by direction, by four samples per pixel, and their cameras."""
    cameras = Orbit.static(num_views=9, elevation_deg=15, distance=2.2).cameras(height=48, width=48)
    origins, directions = cameras.resized(height=96, width=96).rays()
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    middle = -np.einsum("vhwk,vk->vhw", unit, origins)
    root = RADIUS**2 - (origins**2).sum(-1)[:, None, None] + middle**2
    points = origins[:, None, None] + (middle - np.sqrt(np.maximum(root, 0)))[..., None] * unit
    alpha = (root > 0)[..., None].astype(float)
    rgba = np.concatenate([(0.5 + points) * alpha, alpha], -1).reshape(9, 48, 2, 48, 2, 4).mean(axis=(2, 4))
    rgba[..., :3] /= np.maximum(rgba[..., 3:], 1e-6)
    return (255 * rgba.clip(0, 1)).round().astype(np.uint8), cameras


@pytest.mark.parametrize("voxels", [-1.0, 1.5])
def test_a_sphere_of_the_wrong_size_grows_or_shrinks_to_its_views(views, voxels, monkeypatch):
    monkeypatch.setattr(sdf, "RAYS", 384)
    monkeypatch.setattr(sdf, "ITERATIONS", 60)
    told = []
    size = ball(RADIUS).voxel_size
    found = sdf.fit(*views, start=ball(RADIUS + voxels * size), tell=told.append)
    mesh = surface.extract(found.volume)
    seen = mesh.vertices[mesh.vertices[:, 2] > -0.8 * RADIUS]
    error = np.linalg.norm(seen, axis=1) - RADIUS
    assert abs(error.mean()) < 0.25 * size
    assert error.std() < 0.25 * size
    assert mesh.is_volume
    assert found.psnr_db > 28
    assert len(told) == len(sdf.ROUNDS)


def test_the_same_seed_gives_the_same_surface(views, monkeypatch):
    monkeypatch.setattr(sdf, "RAYS", 128)
    monkeypatch.setattr(sdf, "ITERATIONS", 5)
    one, two, other = (sdf.fit(*views, start=ball(RADIUS), seed=seed).volume.values for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_a_killed_fit_goes_on_to_the_same_surface(views, tmp_path, monkeypatch):
    monkeypatch.setattr(sdf, "RAYS", 128)
    monkeypatch.setattr(sdf, "ITERATIONS", 5)
    state, start = tmp_path / "kept/sdf.safetensors", ball(RADIUS)
    straight = sdf.fit(*views, start=start)

    def second_round_is_killed(message):
        if state.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sdf.fit(*views, start=start, state=state, tell=second_round_is_killed)
    heard = []
    resumed = sdf.fit(*views, start=start, state=state, tell=heard.append)
    assert len(heard) == len(sdf.ROUNDS) - 1
    np.testing.assert_array_equal(resumed.volume.values, straight.volume.values)
    np.testing.assert_array_equal(resumed.nearest.values, straight.nearest.values)
    assert resumed.psnr_db == straight.psnr_db
    sdf.fit(*views, start=start, seed=1, state=state, tell=heard.append)
    assert len(heard) == 2 * len(sdf.ROUNDS) - 1, "went on from the fit of another seed"


def test_distances_are_measured_to_a_fraction_of_a_voxel():
    start = ball(0.37)
    field = sdf._distance_field(start, 0.5)
    index = np.stack(np.meshgrid(*map(np.arange, field.values.shape), indexing="ij"), axis=-1)
    true = (np.linalg.norm(field.points(index), axis=-1) - 0.37) / field.voxel_size
    near = np.abs(true) < 3
    assert np.abs(field.values - true)[near].mean() < 0.15
    assert np.abs((field.values - true)[near].mean()) < 0.1
