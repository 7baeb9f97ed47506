"""What the UNet is told besides the picture: the vector condition, and what guidance leaves out.

Numbers are embedded with sinusoids and concatenated to one vector. Four published kinds of it:

- `svd`: frames per second - 1, motion bucket and noise augmentation, as in stock SVD: videos, not orbits.
- `svd-mv`: the same and the elevation of the camera in degrees (SVD paper, appendix D.6). Degrees, not
  radians: the sinusoids separate elevations about 56 times better.
- `sv3d_u`: noise augmentation alone (SV3D paper, section 3).
- `sv3d_p`: noise augmentation, polar angle and azimuth of each view in radians (SV3D paper, section 3).

Everywhere in this project view 0 is the input. SV3D's networks have it last: `to_network` and `from_network`
turn the ring of views by one.

What the UNet sees beside the noisy latents is one frame, the input or the first one, at every place, or two:
the first and the last, for the frames between to be filled in (SVD paper, section 4.4).
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor, nn

from svd3d.errors import CheckpointError, ConfigError
from svd3d.model.unet import KnownTimesteps, per_view

Kind = Literal["svd", "svd-mv", "sv3d_u", "sv3d_p"]
Guidance = Literal["constant", "linear", "triangular"]
NOISE_AUG = {"p_mean": -3.0, "p_std": 0.5}
"""Of the logarithm of the strength of the noise on the condition (SVD paper, appendix D)."""
STOCK_IDS = 3
MULTI_VIEW_IDS = 4


@dataclass(frozen=True)
class _Traits:
    """How kinds differ."""

    widths: tuple[int, ...]
    """Of the sinusoid of each number, in units of the UNet's `addition_time_embed_dim` (256 in SVD)."""
    per_view: bool
    """Whether each view has its own vector, so that orbits may be uneven."""
    input_last: bool
    noise_aug_strength: float
    """Noise on the input picture that the published model samples with."""


KINDS: dict[Kind, _Traits] = {
    "svd": _Traits((1, 1, 1), per_view=False, input_last=False, noise_aug_strength=0.02),
    "svd-mv": _Traits((1, 1, 1, 1), per_view=False, input_last=False, noise_aug_strength=0.02),
    "sv3d_u": _Traits((1,), per_view=False, input_last=True, noise_aug_strength=1e-5),
    "sv3d_p": _Traits((1, 2, 2), per_view=True, input_last=True, noise_aug_strength=1e-5),
}


def prepare(unet: UNetSpatioTemporalConditionModel, kind: str) -> UNetSpatioTemporalConditionModel:
    """Make a UNet take the `added_time_ids` of a kind, in place; a stock SVD UNet is widened for `svd-mv`.

    Numbers that are not known (NaN) are then embedded as zeros. Raises `CheckpointError` for a UNet of
    another kind, `ConfigError` for a kind that is not known.
    """
    if kind not in get_args(Kind):
        raise ConfigError(f"conditioning {kind!r}: not known; choose one of {', '.join(KINDS)}")
    traits, dim = KINDS[cast("Kind", kind)], unet.config["addition_time_embed_dim"]
    if not traits.per_view:
        unet.add_time_proj = KnownTimesteps(dim)
    if kind == "svd-mv":
        return widen(unet)
    found, needed = unet.add_embedding.linear_1.in_features, dim * sum(traits.widths)
    if found != needed:
        raise CheckpointError(
            f"unet: the vector condition is {found} wide, and conditioning {kind!r} needs {needed}; "
            "check conditioning in model_index.json, or convert the checkpoint again"
        )
    if traits.per_view:
        return per_view(unet, widths=tuple(dim * width for width in traits.widths))
    return unet


def count_time_ids(unet: UNetSpatioTemporalConditionModel) -> float:
    """How many numbers the vector condition of a UNet holds: 3 in stock SVD, 4 in SVD-MV."""
    return unet.add_embedding.linear_1.in_features / unet.config["addition_time_embed_dim"]


def frames_seen(unet: UNetSpatioTemporalConditionModel) -> int:
    """How many frames a UNet is shown, each with its CLIP token: 1, or 2 at both ends, or 0 and a text.

    Raises `CheckpointError` for a UNet with other channels.
    """
    inputs, latents = unet.config["in_channels"], unet.config["out_channels"]
    known = {latents: 0, 2 * latents: 1, 2 * latents + 1: 2}
    if inputs not in known:
        raise CheckpointError(
            f"unet: takes {inputs} channels, and with {latents} of latents it may be {list(known)}; pass a "
            "Stable Video Diffusion"
        )
    return known[inputs]


def shown(batch: Mapping[str, Any]) -> Float[Tensor, "b v k h w"]:
    """What the UNet sees beside the noisy latents of a batch of `svd3d.data.dataset.Batches`.

    The picture `cond_latents` at every place, or `ends` at theirs; see `between`.
    """
    count = batch["latents"].shape[1]
    if "ends" in batch:
        return between(batch["ends"], count)
    return batch["cond_latents"][:, None].expand(-1, count, -1, -1, -1)


def between(ends: Float[Tensor, "b 2 c h w"], count: int) -> Float[Tensor, "b v k h w"]:
    """Latents, scaled, of the first and the last of `count` frames; the last channel, 1, marks these two.

    Those between are zeros, where the paper has a "mask" (appendix D.5): one latent for all of them would
    come to the same but at the edges, because the first layer is free to add it where the mark is 0.
    """
    batch, _, channels, height, width = ends.shape
    seen = ends.new_zeros(batch, count, channels + 1, height, width)
    seen[:, [0, -1], :-1] = ends
    seen[:, [0, -1], -1] = 1
    return seen


def widen(unet: UNetSpatioTemporalConditionModel) -> UNetSpatioTemporalConditionModel:
    """Make room for the elevation in a stock SVD UNet, in place: new columns of `add_embedding.linear_1`.

    The new columns are zero, so the widened UNet gives what the stock UNet gives, whatever the elevation
    (to the last bit, unless the linear algebra sums the longer rows in another order). A UNet that has
    the room already is returned as it is. Raises `CheckpointError` for any other width.
    """
    ids = count_time_ids(unet)
    if ids == MULTI_VIEW_IDS:
        return unet
    if ids != STOCK_IDS:
        raise CheckpointError(
            f"unet: the vector condition holds {ids:g} numbers, expected {STOCK_IDS} (stock SVD) or "
            f"{MULTI_VIEW_IDS} (SVD-MV); load a Stable Video Diffusion image-to-video model"
        )
    layer, dim = unet.add_embedding.linear_1, unet.config["addition_time_embed_dim"]
    wider = nn.functional.pad(layer.weight.detach(), (0, dim))
    layer.weight = nn.Parameter(wider, requires_grad=layer.weight.requires_grad)
    layer.in_features += dim
    unet.register_to_config(projection_class_embeddings_input_dim=layer.in_features)
    return unet


def added_time_ids(
    kind: Kind,
    *,
    elevations_deg: Float[Tensor, "b v"],
    azimuths_deg: Float[Tensor, "b v"],
    noise_aug_strength: float | Float[Tensor, "b"],
    fps: float | Float[Tensor, "b"] = 7,
    motion_bucket_id: float | Float[Tensor, "b"] = 127,
) -> Float[Tensor, "b *views n"]:
    """The vector condition as the UNet takes it, float32: what sampling and training have in common.

    Angles are those of the cameras, input first, or NaN where they are not known, as of captures; frame rate
    and motion matter to `svd` and `svd-mv` only, the azimuths to `sv3d_p` only. Per-view conditions have the
    views in the order of the network.
    """

    def column(value: float | Tensor) -> Tensor:
        numbers = torch.as_tensor(value, dtype=torch.float32, device=elevations_deg.device)
        return numbers.expand(len(elevations_deg))

    noise = column(noise_aug_strength)
    if kind == "sv3d_u":
        return noise[:, None]
    if kind in ("svd", "svd-mv"):
        numbers = [column(fps) - 1, column(motion_bucket_id), noise]
        numbers += [elevations_deg[:, 0].float()] if kind == "svd-mv" else []
        return torch.stack(numbers, dim=1)
    polar = torch.deg2rad(90 - elevations_deg.double())
    azimuth = torch.deg2rad((azimuths_deg.double() - azimuths_deg[:, :1].double()) % 360)  # from the input's
    each = torch.stack([noise[:, None].expand_as(polar), polar, azimuth], dim=2)
    return to_network(each.float(), kind)


def time_ids_of(kind: Kind, batch: Mapping[str, Any]) -> Float[Tensor, "b *views n"]:
    """The vector condition of a batch of `svd3d.data.dataset.Batches`.

    Nobody knows the elevation of clips, nor, of those without a picture as condition, the noise in it.
    """
    if "fps" not in batch:
        return added_time_ids(
            kind,
            elevations_deg=batch["elevations_deg"],
            azimuths_deg=batch["azimuths_deg"],
            noise_aug_strength=batch["noise_aug"],
        )
    unknown = torch.full_like(batch["fps"], torch.nan)
    return added_time_ids(
        kind,
        elevations_deg=unknown[:, None],
        azimuths_deg=unknown[:, None],
        noise_aug_strength=batch.get("noise_aug", unknown),
        fps=batch["fps"],
        motion_bucket_id=batch["motion"],
    )


def to_network(views: Float[Tensor, "b v ..."], kind: Kind) -> Float[Tensor, "b v ..."]:
    """Views from our order, input first, to that of the network."""
    return views.roll(-1, dims=1) if KINDS[kind].input_last else views


def from_network(views: Float[Tensor, "b v ..."], kind: Kind) -> Float[Tensor, "b v ..."]:
    """Views from the order of the network to ours, input first."""
    return views.roll(1, dims=1) if KINDS[kind].input_last else views


def augmented(
    pictures: Float[Tensor, "b ..."],
    *,
    strength: Float[Tensor, "b"],
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> Float[Tensor, "b ..."]:
    """What will be the condition with noise of a standard deviation each.

    Pixels of input pictures before they are encoded, or latents of both ends. SVD was trained with log
    strength ~ `NOISE_AUG`: `edm.sample_sigmas` draws that.
    """
    noise = randn_tensor(pictures.shape, generator=generator, device=pictures.device, dtype=pictures.dtype)
    return pictures + strength.to(pictures).reshape(-1, *[1] * (pictures.ndim - 1)) * noise


def dropped(
    condition: Float[Tensor, "b ..."], *, rate: float, generator: torch.Generator | None = None
) -> Float[Tensor, "b ..."]:
    """A copy in which each sample is zero with probability `rate`: unconditional, for guidance to learn from.

    One call each for the CLIP token and the image latents makes their drop-outs independent.
    """
    lost = torch.rand(len(condition), generator=generator) < rate
    return condition.masked_fill(lost.to(condition.device).reshape(-1, *[1] * (condition.ndim - 1)), 0)


def guidance_scales(
    num_views: int, *, shape: Guidance, min_scale: float, max_scale: float
) -> Float[Tensor, "{num_views}"]:
    """Classifier-free guidance per view.

    `linear` rises from the first to the last view (SVD, appendix D.4.1). On an orbit the first and the last
    view are neighbours, so `triangular` rises to the opposite view and falls again (SV3D, section 3; its code
    starts the triangle one view after the input, where this one is symmetric around the orbit).

    >>> guidance_scales(4, shape="triangular", min_scale=1.0, max_scale=3.0).tolist()
    [1.0, 2.0, 3.0, 2.0]
    """
    if shape == "constant":
        return torch.full((num_views,), float(max_scale))
    if shape == "linear":
        return torch.linspace(min_scale, max_scale, num_views)
    if shape == "triangular":
        turn = torch.arange(num_views) / num_views
        return min_scale + (max_scale - min_scale) * (1 - (2 * turn - 1).abs())
    raise ConfigError(f"guidance {shape!r}: not known; choose one of {', '.join(get_args(Guidance))}")
