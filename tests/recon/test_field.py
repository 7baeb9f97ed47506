"""Volume rendering against closed forms, and the file against itself."""

import json
import math

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from recon import field, grid
from recon.field import BIAS, Field
from recon.volume import Volume
from svd3d import Orbit
from svd3d.errors import InputError

BOX = np.array([0.5, 0.5, 0.5])


def ball(*, depth, resolution=64, radius=0.4):
    """A ball of one optical depth per voxel, one colour for each half, and its grid."""
    volume = Volume.covering(-BOX, BOX, resolution=resolution)
    index = np.stack(np.meshgrid(*map(np.arange, volume.values.shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm(volume.points(index), axis=-1)
    share = ((radius - distance) / volume.voxel_size + 0.5).clip(0, 1).astype(np.float32)
    where = grid.Grid.of(volume, share > 0)
    density = torch.log(torch.expm1(depth * where.gather(share)))[:, None] - BIAS
    density[0] = 0
    colour = torch.zeros(where.num_rows, 3)
    colour[1:, 0] = torch.where(where.points()[:, 2] > 0, 8.0, -8.0)
    return Field(where, density, colour, torch.ones(where.num_rows))


def sphere(cameras, radius=0.4):
    """Nearest distance along the unit rays of all pixels, and the chord, of a ball around the origin."""
    origins, directions = (each.double().numpy() for each in grid.rays(cameras))
    along = -np.einsum("vhwk,vk->vhw", directions, origins)
    inside = radius**2 - ((origins**2).sum(-1)[:, None, None] - along**2)
    half = np.sqrt(np.maximum(inside, 0))
    return along - half, 2 * half, directions


@pytest.fixture(scope="module")
def two_cameras():
    return Orbit((20.0, 140.0), (10.0, -35.0), 2.0).cameras(height=24, width=20)


def test_a_homogeneous_ball_dims_by_its_chord(two_cameras):
    made = ball(depth=0.4 / 127, resolution=128)
    rgba, _ = made.render(two_cameras)
    _, chord, _ = sphere(two_cameras)
    expected = 1 - np.exp(-0.4 / 127 / made.grid.voxel_size * chord)
    assert expected.max() > 0.25
    off = np.abs(rgba[..., 3] / 255 - expected)
    assert off.max() < 1e-2


def test_an_opaque_ball_lies_where_it_is_and_shows_its_colours(two_cameras):
    made = ball(depth=20.0)
    rgba, depth = made.render(two_cameras)
    near, chord, directions = sphere(two_cameras)
    forward = -two_cameras.camera_to_world[:, :3, 2]
    expected = near * np.einsum("vhwk,vk->vhw", directions, forward)
    inner = chord > 0.25
    assert np.abs(depth - expected)[inner].max() < 1.5 * made.grid.voxel_size
    outside = sphere(two_cameras, radius=0.43)[1] == 0
    assert not depth[outside].any()
    assert (rgba[inner][:, 3] == 255).all()
    assert (rgba[outside][:, 3] == 0).all()
    height = two_cameras.positions[:, None, None, 2] + near * directions[..., 2]
    red = rgba[..., 0]
    assert red[inner & (height > 0.03)].min() > 235
    assert red[inner & (height < -0.03)].max() < 20


@hypothesis.given(seed=st.integers(0, 1000), step=st.sampled_from([0.3, 0.5, 1.0]))
@hypothesis.settings(max_examples=10)
def test_weights_along_a_ray_sum_to_what_its_density_stops(seed, step):
    generator = torch.Generator().manual_seed(seed)
    volume = Volume.covering(-BOX, BOX, resolution=12)
    where = grid.Grid.of(volume, torch.rand(12, 12, 12, generator=generator).numpy() < 0.6)
    density = torch.randn(where.num_rows, 1, generator=generator) * 2 - BIAS - 2
    made = Field(where, density, torch.zeros(len(density), 3), torch.ones(len(density)))
    cameras = Orbit.static(num_views=2, distance=2.0).cameras(height=5, width=5)
    origins, directions = grid.rays(cameras)
    origins = origins[:, None].expand(2, 25, 3).reshape(-1, 3)
    traced = made.trace(origins, directions.reshape(-1, 3), step=step)
    optical = step * torch.nn.functional.softplus(
        grid.look_up(density, where, traced.samples.points)[:, 0] + BIAS
    )
    total = torch.zeros(50).index_add(0, traced.samples.ray, optical)
    assert torch.allclose(traced.rgba[:, 3], 1 - torch.exp(-total), atol=2 * field.OPAQUE)
    assert torch.allclose(traced.rgba[:, 0], 0.5 * traced.rgba[:, 3], atol=1e-6)


def test_spread_is_the_mean_distance_between_the_stops_of_a_ray():
    made = ball(depth=0.3, resolution=24)
    origins = torch.tensor([[-2.0, 0.01, 0.02], [-2.0, 0.1, -0.2], [-2.0, 5.0, 0.0]])
    traced = made.trace(origins, torch.tensor([[1.0, 0, 0]]).repeat(3, 1))
    ray, weight, distance = traced.samples.ray, traced.weight, traced.samples.distance
    same = (ray[:, None] == ray).float()
    expected = (same * weight[:, None] * weight * (distance[:, None] - distance).abs()).sum()
    assert expected > 0.1
    assert traced.spread(3).sum() == pytest.approx(expected.item(), rel=1e-4)


@hypothesis.given(counts=st.lists(st.integers(0, 5), min_size=1, max_size=8), seed=st.integers(0, 99))
def test_sum_before_is_an_exclusive_sum_per_ray(counts, seed):
    values = np.random.default_rng(seed).uniform(size=sum(counts)).astype(np.float32)
    ray = np.repeat(np.arange(len(counts)), counts)
    expected = [values[:i][ray[:i] == ray[i]].sum() for i in range(len(ray))]
    found = field.sum_before(torch.from_numpy(values), torch.from_numpy(ray), len(counts))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_volume_is_alpha_outside_and_full_where_no_light_came():
    made = ball(depth=0.5, resolution=24)
    light = made.grid.points().norm(dim=1).gt(0.2).float()
    lit = Field(made.grid, made.density, made.colour, torch.cat([torch.ones(1), light]))
    values = lit.volume().values[made.grid.active.numpy()]
    alpha = 1 - torch.exp(-torch.nn.functional.softplus(made.density[1:, 0] + BIAS))
    assert alpha.max() == pytest.approx(1 - math.exp(-0.5), abs=1e-5)
    np.testing.assert_allclose(values[light > 0], alpha[light > 0], atol=1e-5)
    np.testing.assert_array_equal(values[light == 0], 1)
    assert not lit.volume().values[~made.grid.active.numpy()].any()


def test_a_field_and_its_cameras_survive_the_file_bitwise(tmp_path, two_cameras):
    made = ball(depth=0.5, resolution=24)
    made.save(tmp_path / "field.safetensors", two_cameras)
    found, cameras = Field.load(tmp_path / "field.safetensors")
    for name in ("density", "colour", "light"):
        assert torch.equal(getattr(found, name), getattr(made, name))
    assert torch.equal(found.grid.rows, made.grid.rows)
    np.testing.assert_array_equal(cameras.camera_to_world, two_cameras.camera_to_world)
    np.testing.assert_array_equal(cameras.intrinsics, two_cameras.intrinsics)
    for ours, theirs in zip(found.render(cameras), made.render(two_cameras), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def damaged(tmp_path, cameras, change):
    path = tmp_path / "field.safetensors"
    ball(depth=0.5, resolution=12).save(path, cameras)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    path.write_bytes(change(content, json.loads(header["__metadata__"]["svd3d.field"])))
    return path


def changed(**new):
    return lambda content, about: to_bytes(from_bytes(content), {"svd3d.field": json.dumps(about | new)})


def without(name):
    def change(content, about):
        tensors = from_bytes(content)
        del tensors[name]
        return to_bytes(tensors, {"svd3d.field": json.dumps(about)})

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content, about: content[:-7], "not a field"),
        (lambda content, about: b"PK\x03\x04 a pickle in disguise", "not a field"),
        (lambda content, about: to_bytes(from_bytes(content)), "not a field"),
        (changed(format=99), "format is 99"),
        (without("light"), "light"),
    ],
    ids=["cut", "pickle", "other", "format", "part"],
)
def test_what_is_no_field_is_refused_in_one_line(tmp_path, two_cameras, change, reason):
    path = damaged(tmp_path, two_cameras, change)
    with pytest.raises(InputError, match=reason) as caught:
        Field.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_that_do_not_fit_the_grid_are_refused(tmp_path, two_cameras):
    made = ball(depth=0.5, resolution=12)
    broken = Field(made.grid, made.density[:-1], made.colour[:-1], made.light[:-1])
    broken.save(tmp_path / "f.safetensors", two_cameras)
    with pytest.raises(InputError, match="tables of shapes"):
        Field.load(tmp_path / "f.safetensors")
