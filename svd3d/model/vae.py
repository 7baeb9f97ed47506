"""Latents to views and back, with the temporal autoencoder of Stable Video Diffusion.

Chunks of views, as stock code decodes them, change the picture: the temporal layers mix neighbouring views
(two convolutions over three views per block: 29 views to either side in SVD's decoder) and normalise over
all views at once, so that no overlap of chunks is exact either. Here all views walk through the decoder
together, layer by layer; only the work inside a layer is cut into pieces, where pieces do not meet. That
gives what decoding everything at once gives, in less memory (`scripts/benchmark_sampling.py` says how much).
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
from diffusers.models.resnet import SpatioTemporalResBlock
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

Encoding = AutoencoderKL | AutoencoderKLTemporalDecoder
"""Autoencoders whose encoder is that of Stable Diffusion; only their decoders differ."""
PerView = Callable[[Tensor], Tensor]
"""A layer, or a part of one, that treats each view [v, c, h, w] alone."""


def encode_condition(vae: Encoding, pixels: Float[Tensor, "n 3 _H _W"]) -> Tensor:
    """Latents [n, c, h, w] of conditioning pictures in [-1, 1]: the mode, not scaled (as SVD was trained).

    Computed in float32 where a float16 autoencoder would overflow (`force_upcast`).
    """
    with _lifted(vae):
        return _posterior(vae, pixels).mode()


def encode_views(
    vae: Encoding,
    pixels: Float[Tensor, "n 3 _H _W"],
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Latents [n, c, h, w] of views in [-1, 1] as the denoiser sees them: times the scaling factor.

    A sample of the posterior if a generator is given, else its mode.
    """
    with _lifted(vae):
        posterior = _posterior(vae, pixels)
        latents = posterior.mode() if generator is None else posterior.sample(generator)
    return vae.config["scaling_factor"] * latents


@torch.no_grad()
def decode(
    vae: AutoencoderKLTemporalDecoder, latents: Float[Tensor, "b v _c _h _w"], *, chunk: int | None = None
) -> Float[Tensor, "b v 3 _H _W"]:
    """Views around [-1, 1] (not clamped), float32, from latents as the denoiser gives them.

    `chunk` bounds the memory, in views that are worked on at a time; it does not change the result beyond
    the rounding of floats. With None or all views this is `decode_latents` of diffusers.
    """
    num_views = latents.shape[1]
    views = []
    for each in latents.to(vae.dtype) * (1 / vae.config["scaling_factor"]):
        if chunk is None or chunk >= num_views:
            decoded: Any = vae.decode(each, num_frames=num_views)
            views.append(decoded.sample.float())
        else:
            views.append(_decode_layerwise(vae, each, chunk).float())
    return torch.stack(views)


def _posterior(vae: Any, pixels: Tensor) -> Any:
    return vae.encode(pixels.to(vae.dtype)).latent_dist


@contextlib.contextmanager
def _lifted(vae: Any) -> Iterator[None]:
    """The autoencoder in float32 for a while, where float16 would overflow."""
    if vae.dtype != torch.float16 or not vae.config["force_upcast"]:
        yield
        return
    try:
        vae.to(dtype=torch.float32)
        yield
    finally:
        vae.to(dtype=torch.float16)


@apply_forward_hook  # brings an offloaded autoencoder to its device, as `vae.decode` does
def _decode_layerwise(vae: Any, latents: Tensor, chunk: int) -> Tensor:
    """Decode [v, c, h, w]: runs of layers that see one view each, between blocks that see all views."""
    decoder = vae.decoder
    strips = -(-len(latents) // chunk)
    hidden = latents
    per_view: list[PerView] = [decoder.conv_in]
    for layer in _layers(decoder):
        if isinstance(layer, SpatioTemporalResBlock):
            per_view.append(partial(layer.spatial_res_block, temb=None))
            hidden = _view_by_view(per_view, hidden, chunk)
            _mix_views(layer, hidden, strips)
            per_view = []
        else:
            per_view.append(layer)
    per_view += [decoder.conv_norm_out, decoder.conv_act, decoder.conv_out]
    pixels = _view_by_view(per_view, hidden, chunk)
    return decoder.time_conv_out(pixels.transpose(0, 1)[None])[0].transpose(0, 1)


def _layers(decoder: Any) -> Iterator[nn.Module]:
    """Blocks, attentions and upsamplers between the first and the last convolution, in their order."""
    middle = decoder.mid_block
    yield middle.resnets[0]
    for attention, block in zip(
        middle.attentions, middle.resnets[1:], strict=False
    ):  # as diffusers pairs them
        yield from (attention, block)
    for up_block in decoder.up_blocks:
        yield from up_block.resnets
        yield from up_block.upsamplers or ()


def _view_by_view(layers: list[PerView], hidden: Tensor, chunk: int) -> Tensor:
    """Layers that treat each view alone, for `chunk` views at a time, into one result."""
    result = None
    for start in range(0, len(hidden), chunk):
        part = hidden[start : start + chunk]
        for layer in layers:
            part = layer(part)
        if result is None:
            result = part.new_empty(len(hidden), *part.shape[1:])
        result[start : start + chunk] = part
    assert result is not None, "there is at least one view"
    return result


def _mix_views(block: Any, hidden: Float[Tensor, "v c h w"], strips: int) -> None:
    """The temporal half of a block, in place. Its convolutions mix views, not pixels: strips are exact."""
    half = block.temporal_res_block
    normalise = _group_norm_over_views(half.norm1, hidden)
    inner = torch.empty_like(hidden)
    for into, part in zip(inner.chunk(strips, 2), hidden.chunk(strips, 2), strict=True):
        into.copy_(_over_views(half.conv1, silu(normalise(part))))
    normalise = _group_norm_over_views(half.norm2, inner)
    for into, part in zip(hidden.chunk(strips, 2), inner.chunk(strips, 2), strict=True):
        temporal = into + _over_views(half.conv2, silu(normalise(part)))
        into.copy_(block.time_mixer(x_spatial=into, x_temporal=temporal))


def _over_views(convolution: nn.Conv3d, hidden: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h w"]:
    return convolution(hidden.transpose(0, 1)[None])[0].transpose(0, 1)


def _group_norm_over_views(norm: nn.GroupNorm, hidden: Float[Tensor, "v c h w"]) -> PerView:
    """A group norm with the statistics of all views and pixels, to be applied to a part of them."""
    moments = [
        torch.var_mean(view.float().reshape(norm.num_groups, -1), dim=1, correction=0) for view in hidden
    ]
    variances, means = (torch.stack(each) for each in zip(*moments, strict=True))
    mean = means.mean(0)
    variance = variances.mean(0) + means.var(0, correction=0)  # law of total variance: views are of one size
    per_group = norm.num_channels // norm.num_groups
    scale = norm.weight * (variance + norm.eps).rsqrt().repeat_interleave(per_group)
    shift = norm.bias - mean.repeat_interleave(per_group) * scale

    def normalise(part: Tensor) -> Tensor:
        return torch.addcmul(shift[:, None, None], part, scale[:, None, None]).to(part.dtype)

    return normalise
