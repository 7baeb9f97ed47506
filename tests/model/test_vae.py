"""Encoding and decoding against stock code; chunks that change nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svd3d.model import tiny, vae

VIEWS = 6


@pytest.fixture(scope="module")
def network():
    """Random weights whose temporal layers matter: norms and mixing are not those of initialization."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = tiny.vae().eval().requires_grad_(False)
        for name, parameter in network.decoder.named_parameters():
            if "norm" in name or "mix_factor" in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module")
def latents():
    return torch.randn(2, VIEWS, tiny.LATENT_CHANNELS, 5, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("chunk", [None, VIEWS, VIEWS + 1])
def test_without_chunks_it_is_the_decoding_of_diffusers(stock, latents, chunk):
    found = vae.decode(stock.vae, latents, chunk=chunk)
    for each, views in zip(latents, found, strict=True):
        with torch.no_grad():
            expected = stock.decode_latents(each[None], VIEWS, VIEWS)[0].transpose(0, 1)
        assert torch.equal(views, expected)


@settings(max_examples=3)
@given(chunk=st.integers(1, VIEWS - 1))
def test_chunks_do_not_change_the_result(network, latents, chunk):
    whole = vae.decode(network, latents)
    torch.testing.assert_close(vae.decode(network, latents, chunk=chunk), whole, atol=2e-5, rtol=0)


def test_chunks_of_views_alone_do_change_it(network, latents):
    """Why the decoder is run layer by layer: naive chunks, even with all but one view of context, differ."""
    whole = vae.decode(network, latents)
    without_the_last = vae.decode(network, latents[:, :-1])
    assert (without_the_last[:, 0] - whole[:, 0]).abs().max() > 1e-3


def test_deeper_decoders_are_walked_through_in_the_order_of_diffusers(latents):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        deeper = vae.AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 2,
            block_out_channels=(32, 64),
            layers_per_block=2,  # as SVD: then the middle has attention
            latent_channels=tiny.LATENT_CHANNELS,
        ).eval()
    torch.testing.assert_close(
        vae.decode(deeper, latents, chunk=2), vae.decode(deeper, latents), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loses_no_more_in_chunks(latents, dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = tiny.vae().eval()
    exact = vae.decode(network, latents[:1])
    network.to(dtype)
    whole, chunked = (vae.decode(network, latents[:1], chunk=chunk) for chunk in (None, 2))
    assert whole.dtype == chunked.dtype == torch.float32
    assert (chunked - exact).abs().max() < 2 * (whole - exact).abs().max()


def test_conditions_are_unscaled_and_views_scaled_latents(stock, pictures):
    pixels = stock.video_processor.preprocess(pictures)
    with torch.no_grad():
        condition = vae.encode_condition(stock.vae, pixels)
        expected = stock._encode_vae_image(pixels, "cpu", 1, False)
        views = vae.encode_views(stock.vae, pixels)
        samples = [
            vae.encode_views(stock.vae, pixels, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)
        ]
    assert torch.equal(condition, expected)
    torch.testing.assert_close(views, stock.vae.config.scaling_factor * condition)
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    assert not torch.equal(samples[0], views)


@pytest.mark.parametrize(
    ("upcast", "dtype", "computed"),
    [
        (True, torch.float16, torch.float32),
        (False, torch.float16, torch.float16),
        (True, torch.bfloat16, torch.bfloat16),
    ],
)
def test_float16_is_lifted_while_encoding_where_the_configuration_says_so(upcast, dtype, computed):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = tiny.vae().eval().to(dtype)
    network.register_to_config(force_upcast=upcast)
    with torch.no_grad():
        assert vae.encode_condition(network, torch.zeros(1, 3, 64, 64)).dtype == computed
    assert network.dtype == dtype
