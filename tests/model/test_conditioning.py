"""The vector condition, widening of stock weights, and guidance over an orbit."""

import doctest
import math

import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.embeddings import Timesteps
from hypothesis import given
from hypothesis import strategies as st

from svd3d.errors import CheckpointError
from svd3d.model import conditioning, tiny


def ids(*elevations):
    return conditioning.added_time_ids(
        torch.tensor(elevations), fps=7, motion_bucket_id=127, noise_aug_strength=0.02
    )


def unet(time_ids):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny.unet(time_ids=time_ids, num_frames=3).eval()


@torch.no_grad()
def denoise(network, added_time_ids):
    random = torch.Generator().manual_seed(0)
    count = len(added_time_ids)
    sample = torch.randn(1, 3, 32, 4, 4, generator=random).expand(count, -1, -1, -1, -1)
    context = torch.randn(1, 1, 32, generator=random).expand(count, -1, -1)
    return network(sample, torch.tensor(0.3), context, added_time_ids).sample


@pytest.fixture(scope="module")
def stock():
    return unet(3)


@pytest.fixture(scope="module")
def widened():
    return conditioning.widen(unet(3))


def test_a_widened_unet_gives_what_the_stock_unet_gives_at_any_elevation(stock, widened):
    expected = denoise(stock, ids(0.0, 0.0)[:, :3])
    for elevation in (-90.0, -5.0, 0.0, 12.3, 90.0):
        assert torch.equal(denoise(widened, ids(elevation, -elevation)), expected)
    # A single row goes another way through the linear algebra, where zeros may change the order of a sum.
    torch.testing.assert_close(denoise(widened, ids(9.0)), denoise(stock, ids(0.0)[:, :3]), rtol=0, atol=1e-5)


def test_elevation_matters_once_its_columns_are_trained(stock, widened):
    trained = conditioning.widen(unet(3))
    with torch.no_grad():
        trained.add_embedding.linear_1.weight[:, 96:] = 0.1
    low, high, same = denoise(trained, ids(0.0, 30.0, 0.0))
    assert (low - high).abs().max() > 1e-3
    torch.testing.assert_close(low, same)


def test_widening_draws_no_random_numbers_and_keeps_what_may_be_trained():
    network = unet(3).requires_grad_(False)
    before = torch.get_rng_state()
    assert conditioning.widen(network) is network
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert conditioning.count_time_ids(network) == 4
    weight = network.add_embedding.linear_1.weight.clone()
    assert torch.equal(conditioning.widen(network).add_embedding.linear_1.weight, weight)  # twice is once


def test_the_width_is_saved(widened, tmp_path):
    widened.save_pretrained(tmp_path)
    again = UNetSpatioTemporalConditionModel.from_pretrained(tmp_path)
    assert again.config["projection_class_embeddings_input_dim"] == 4 * 32
    assert conditioning.count_time_ids(again) == 4
    assert torch.equal(denoise(again, ids(20.0)), denoise(widened, ids(20.0)))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_another_width_is_refused(count):
    with pytest.raises(CheckpointError, match=f"holds {count} numbers, expected 3 .* or 4"):
        conditioning.widen(unet(count))


def test_a_width_that_is_no_whole_number_of_ids_is_refused(stock):
    odd = UNetSpatioTemporalConditionModel.from_config(
        stock.config, projection_class_embeddings_input_dim=100, num_frames=3
    )
    with pytest.raises(CheckpointError, match=r"holds 3\.125 numbers"):
        conditioning.widen(odd)


def test_the_vector_condition_is_fps_minus_one_motion_noise_elevation():
    found = ids(-5.0, 30.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.tensor([[6, 127, 0.02, -5], [6, 127, 0.02, 30]]))


def test_the_sinusoid_separates_degrees_much_better_than_radians():
    embed = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)

    def per_degree(scale):
        step = embed(torch.tensor([10.0, 11.0]) * scale).diff(dim=0)
        return step.norm().item()

    assert per_degree(1.0) == pytest.approx(2.67, abs=0.01)
    assert per_degree(1.0) / per_degree(math.pi / 180) > 50


@given(views=st.integers(2, 40), low=st.floats(0, 4), rise=st.floats(0, 4))
def test_triangular_guidance_is_symmetric_on_the_orbit_and_highest_at_the_back(views, low, rise):
    found = conditioning.guidance_scales(views, shape="triangular", min_scale=low, max_scale=low + rise)
    torch.testing.assert_close(found[1:], found[1:].flip(0))
    assert found[0].item() == pytest.approx(low, abs=1e-5)
    assert found.max() <= low + rise + 1e-5
    assert found[views // 2] >= found.max() - 1e-5
    assert (found[: (views + 1) // 2].diff() >= 0).all()
    if views % 2 == 0:
        assert found[views // 2].item() == pytest.approx(low + rise, abs=1e-5)


def test_linear_guidance_is_that_of_stock_and_constant_is_constant():
    linear = conditioning.guidance_scales(21, shape="linear", min_scale=1.0, max_scale=3.0)
    assert torch.equal(linear, torch.linspace(1.0, 3.0, 21))
    constant = conditioning.guidance_scales(3, shape="constant", min_scale=1.0, max_scale=2)
    assert torch.equal(constant, torch.full((3,), 2.0))
    assert constant.dtype == torch.float32


def test_doctests():
    found = doctest.testmod(conditioning)
    assert found.attempted
    assert not found.failed
