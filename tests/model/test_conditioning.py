"""The vector conditions of all kinds, widening of stock weights, drop-outs, and guidance over an orbit."""

import doctest
import inspect
import math

import numpy as np
import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.models.embeddings import Timesteps
from hypothesis import given
from hypothesis import strategies as st

from svd3d.cameras import Orbit
from svd3d.errors import CheckpointError, ConfigError
from svd3d.model import conditioning, tiny


def ids(*elevations):
    return conditioning.added_time_ids(
        "svd-mv",
        elevations_deg=torch.tensor(elevations)[:, None].expand(-1, 5),
        azimuths_deg=torch.zeros(len(elevations), 5),
        noise_aug_strength=0.02,
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


def test_an_elevation_that_is_not_known_leaves_its_columns_alone(stock):
    """It is neither 0 degrees nor any other: the network is the stock one, and its columns learn nothing."""
    network = conditioning.prepare(unet(3), "svd-mv")
    columns = network.add_embedding.linear_1.weight
    with torch.no_grad():
        columns[:, 96:] = 0.1
    unknown, zero = denoise(network, ids(math.nan, 0.0))
    expected = denoise(stock, ids(0.0, 0.0)[:, :3])
    torch.testing.assert_close(unknown, expected[0], rtol=0, atol=1e-5)
    assert (zero - unknown).abs().max() > 1e-3
    random = torch.Generator().manual_seed(0)
    sample, context = torch.randn(2, 3, 32, 4, 4, generator=random), torch.randn(2, 1, 32, generator=random)
    network(sample, torch.tensor(0.3), context, ids(math.nan, math.nan)).sample.square().mean().backward()
    assert not columns.grad[:, 96:].any()
    assert columns.grad[:, :96].any()


@torch.no_grad()
def test_cameras_that_are_not_known_are_zeros_in_every_kind():
    angles = torch.full((1, 3), math.nan)
    for kind, time_ids in (("sv3d_u", 1), ("sv3d_p", 5)):
        network = conditioning.prepare(unet(time_ids), kind)
        told = conditioning.added_time_ids(
            kind, elevations_deg=angles, azimuths_deg=angles, noise_aug_strength=0.02
        )
        assert denoise(network, told).isfinite().all()


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
    weights = again.state_dict()
    assert all(torch.equal(weights[name], each) for name, each in widened.state_dict().items())
    # equal weights at other places in memory may be added up in another order
    torch.testing.assert_close(denoise(again, ids(20.0)), denoise(widened, ids(20.0)), rtol=0, atol=1e-5)


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


def test_every_sample_of_a_batch_has_its_own_numbers():
    elevations = torch.tensor([[1.0, 9.0], [2.0, 9.0]])  # the input's elevation counts
    numbers = {"fps": torch.tensor([7.0, 25.0]), "motion_bucket_id": torch.tensor([127, 40])}
    found = conditioning.added_time_ids(
        "svd-mv",
        elevations_deg=elevations,
        azimuths_deg=elevations,
        noise_aug_strength=torch.tensor([0.02, 0.3]),
        **{name: value.float() for name, value in numbers.items()},
    )
    assert torch.equal(found, torch.tensor([[6, 127, 0.02, 1], [24, 40, 0.3, 2]]))


@given(views=st.integers(2, 21), start=st.floats(-400, 400), seed=st.integers(0, 99))
def test_sv3d_p_is_told_polar_and_azimuth_as_its_published_sampler_does(views, start, seed):
    random = np.random.default_rng(seed)
    elevations, azimuths = random.uniform(-90, 90, views), start + random.uniform(0, 360, views)
    found = conditioning.added_time_ids(
        "sv3d_p",
        elevations_deg=torch.from_numpy(elevations)[None],
        azimuths_deg=torch.from_numpy(azimuths)[None],
        noise_aug_strength=1e-5,
    )
    elevations, azimuths = np.roll(elevations, -1), np.roll(azimuths, -1)  # there the input is the last view
    polar = np.deg2rad(90 - elevations)
    azimuth = np.deg2rad((azimuths - azimuths[-1]) % 360)
    expected = np.stack([np.full(views, 1e-5), polar, azimuth], axis=1)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found[0].numpy(), expected.astype(np.float32))
    assert found[0, -1, 2] == 0


def test_a_static_orbit_is_the_default_one_of_sv3d():
    orbit = Orbit.static(num_views=21, elevation_deg=12.0, azimuth_deg=77.0)
    found = conditioning.added_time_ids(
        "sv3d_p",
        elevations_deg=torch.tensor([orbit.elevations_deg], dtype=torch.float64),
        azimuths_deg=torch.tensor([orbit.azimuths_deg], dtype=torch.float64),
        noise_aug_strength=1e-5,
    )
    published = np.deg2rad(np.linspace(0, 360, 22)[1:] % 360)
    np.testing.assert_allclose(found[0, :, 2], published, atol=1e-6)
    np.testing.assert_allclose(found[0, :, 1], np.deg2rad(78), atol=1e-6)


def test_sv3d_u_is_told_the_noise_alone():
    angles = torch.zeros(2, 21)
    noise = torch.tensor([1e-5, 0.1])
    found = conditioning.added_time_ids(
        "sv3d_u", elevations_deg=angles, azimuths_deg=angles, noise_aug_strength=noise
    )
    assert torch.equal(found, noise[:, None])


def test_the_networks_of_sv3d_have_the_input_last_and_that_of_svd_first():
    views = torch.arange(5.0)[None]
    assert conditioning.to_network(views, "sv3d_u").tolist() == [[1, 2, 3, 4, 0]]
    assert torch.equal(conditioning.to_network(views, "svd-mv"), views)
    for kind in conditioning.KINDS:
        assert torch.equal(conditioning.from_network(conditioning.to_network(views, kind), kind), views)


@pytest.mark.parametrize(("kind", "width"), [("sv3d_u", 1), ("sv3d_p", 5)])
def test_a_unet_is_prepared_for_its_own_kind_only(kind, width):
    network = unet(width)
    names = network.state_dict().keys()
    assert conditioning.prepare(conditioning.prepare(network, kind), kind) is network  # twice is once
    assert network.state_dict().keys() == names
    denoise(network, torch.zeros({"sv3d_u": (2, 1), "sv3d_p": (2, 3, 3)}[kind]))
    other = {"sv3d_u": "sv3d_p", "sv3d_p": "sv3d_u"}[kind]
    with pytest.raises(CheckpointError, match=rf"{32 * width} wide, and conditioning '{other}' needs"):
        conditioning.prepare(network, other)
    with pytest.raises(CheckpointError, match=f"holds {width} numbers"):
        conditioning.prepare(network, "svd-mv")


def test_noise_augmentation_has_a_strength_for_each_sample_and_leaves_the_input_alone():
    pixels = torch.rand(3, 3, 64, 64)
    before = pixels.clone()
    strength = torch.tensor([0.0, 0.1, 2.0])
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2, 3)]
    noise = conditioning.augmented(pixels, strength=strength, generator=generators) - pixels
    assert torch.equal(pixels, before)
    assert noise.std(dim=(1, 2, 3)).tolist() == pytest.approx(strength.tolist(), rel=0.02, abs=1e-7)
    alone = conditioning.augmented(
        pixels[1:2], strength=strength[1:2], generator=torch.Generator().manual_seed(2)
    )
    assert torch.equal(alone - pixels[1:2], noise[1:2])


def test_drop_outs_are_per_sample_and_independent_and_leave_the_input_alone():
    random = torch.Generator().manual_seed(0)
    token, latents = torch.ones(20_000, 1, 2), torch.full((20_000, 2, 1, 1, 1), math.nan)
    kept = torch.stack(
        [
            conditioning.dropped(token, rate=0.1, generator=random).flatten(1).all(dim=1),
            conditioning.dropped(latents, rate=0.2, generator=random).isnan().flatten(1).all(dim=1),
        ]
    ).double()
    assert token.all()
    assert latents.isnan().all()
    assert (1 - kept.mean(dim=1)).tolist() == pytest.approx([0.1, 0.2], abs=0.01)
    assert torch.corrcoef(kept)[0, 1].abs() < 0.03
    assert torch.equal(conditioning.dropped(token, rate=0.0), token)
    assert not conditioning.dropped(token, rate=1.0).any()


def test_a_kind_that_is_not_known_is_refused():
    with pytest.raises(ConfigError, match="'sv3d': not known; choose one of svd, svd-mv, sv3d_u, sv3d_p"):
        inspect.unwrap(conditioning.prepare)(unet(1), "sv3d")


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
