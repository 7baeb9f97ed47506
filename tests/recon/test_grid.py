"""Look-ups against torch's own trilinear interpolation, and rays against projection."""

import hypothesis
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from recon import grid
from recon.volume import Volume

LOW, HIGH = np.array([-0.5, -0.3, -0.2]), np.array([0.4, 0.5, 0.3])


def box(resolution=9):
    return Volume.covering(LOW, HIGH, resolution=resolution)


def by_grid_sample(dense, volume, points):
    """Torch's look-up in a dense table [x, y, z, c]: zeros outside, samples on the corners of the box."""
    size = volume.voxel_size * (np.array(dense.shape[:3]) - 1)
    place = (points - torch.from_numpy(volume.origin).float()) / torch.from_numpy(size).float() * 2 - 1
    found = F.grid_sample(
        dense.permute(3, 2, 1, 0)[None], place[None, None, None], align_corners=True, padding_mode="zeros"
    )
    return found[0, :, 0, 0].T


@hypothesis.given(
    seed=st.integers(0, 1000), channels=st.integers(1, 4), share=st.sampled_from([0.0, 0.4, 1.0])
)
@hypothesis.settings(max_examples=15)
def test_value_and_gradient_are_those_of_grid_sample(seed, channels, share):
    generator = torch.Generator().manual_seed(seed)
    volume = box()
    active = torch.rand(volume.values.shape, generator=generator).numpy() <= share
    where = grid.Grid.of(volume, active)
    table = torch.randn(where.num_rows, channels, generator=generator)
    table[0] = 0
    table.requires_grad_()
    dense = torch.zeros(*active.shape, channels)
    dense[torch.from_numpy(active)] = table.detach()[1:]
    dense.requires_grad_()
    points = torch.rand(300, 3, generator=generator) * 1.6 - 0.8
    pull = torch.randn(300, channels, generator=generator)

    ours, theirs = grid.look_up(table, where, points), by_grid_sample(dense, volume, points)
    (gradient,) = torch.autograd.grad((ours * pull).sum(), table)
    (expected,) = torch.autograd.grad((theirs * pull).sum(), dense)

    assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(gradient[1:], expected[torch.from_numpy(active)], atol=1e-5)
    assert not gradient[0].any()


def test_row_0_is_everything_without_a_row():
    where = grid.Grid.of(box(), box().values > 1)
    assert where.num_rows == 1
    found = grid.look_up(torch.tensor([[-7.0]]), where, torch.tensor([[0.0, 0, 0], [50.0, 0, 0]]))
    assert torch.allclose(found, torch.tensor([[-7.0], [-7.0]]))


def test_a_table_travels_to_a_volume_and_back():
    volume = box()
    values = np.random.default_rng(0).uniform(size=volume.values.shape).astype(np.float32)
    active = values > 0.5
    where = grid.Grid.of(volume, active)
    column = where.gather(values)
    back = where.scatter(column)
    assert np.array_equal(back.values, np.where(active, values, 0))
    np.testing.assert_array_equal(back.origin, volume.origin)
    at_samples = grid.look_up(column[:, None], where, where.points())[:, 0]
    assert torch.allclose(at_samples, column[1:], atol=1e-5)


def test_rays_go_through_the_centres_of_their_pixels(cameras):
    origins, directions = grid.rays(cameras)
    assert torch.allclose(directions.norm(dim=-1), torch.ones(()), atol=1e-6)
    points = (origins[3] + 1.7 * directions[3, 5, 20]).double().numpy()
    pixels, depth = cameras.view(3).project(points[None])
    assert pixels[0, 0] == pytest.approx([20.5, 5.5], abs=1e-3)
    assert depth[0, 0] > 0
