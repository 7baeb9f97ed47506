"""What the UNet is told besides the picture: the vector condition, and guidance over an orbit.

Stock SVD embeds three numbers with sinusoids and concatenates them: frames per second - 1, motion bucket
and noise augmentation. The multi-view model adds the elevation of the camera in degrees (SVD paper,
appendix D.6). Degrees, not radians: the sinusoids separate elevations about 56 times better.
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

from typing import Literal, get_args

import torch
from diffusers import UNetSpatioTemporalConditionModel
from jaxtyping import Float
from torch import Tensor, nn

from svd3d.errors import CheckpointError, ConfigError

Guidance = Literal["constant", "linear", "triangular"]
STOCK_IDS = 3
MULTI_VIEW_IDS = 4


def count_time_ids(unet: UNetSpatioTemporalConditionModel) -> float:
    """How many numbers the vector condition of a UNet holds: 3 in stock SVD, 4 in SVD-MV."""
    return unet.add_embedding.linear_1.in_features / unet.config["addition_time_embed_dim"]


def added_time_ids(
    elevation_deg: Float[Tensor, "b"], *, fps: int, motion_bucket_id: int, noise_aug_strength: float
) -> Float[Tensor, "b 4"]:
    """The vector condition in the order of training: fps - 1, motion bucket, noise, elevation in degrees."""
    stock = torch.tensor([fps - 1, motion_bucket_id, noise_aug_strength], dtype=torch.float32)
    stock = stock.to(elevation_deg.device).expand(len(elevation_deg), STOCK_IDS)
    return torch.cat([stock, elevation_deg.float()[:, None]], dim=1)


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


def guidance_scales(
    num_views: int, *, shape: Guidance, min_scale: float, max_scale: float
) -> Float[Tensor, "{num_views}"]:
    """Classifier-free guidance per view.

    `linear` rises from the first to the last view (SVD, appendix D.4.1). On an orbit the first and the last
    view are neighbours, so `triangular` rises to the opposite view and falls again (SV3D, section 3).

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
