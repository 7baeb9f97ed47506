"""The tiny model: the same diffusers classes as Stable Video Diffusion, small enough for a CPU.

`components` builds it with random weights; the trained one ships in `svd3d/assets/tiny` and is made by
`scripts/make_tiny.py`. It works at 64 pixels on 8 x 8 latents of 16 channels.
"""

# pyright: reportPrivateImportUsage=false, reportArgumentType=false
# (diffusers exports its names lazily, where pyright does not see them, and types all tuples as of length 1)

from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from svd3d.model import TINY_FOLDER

FOLDER = TINY_FOLDER
SIZE = 64
"""Height and width of the views in pixels."""
LATENT_CHANNELS = 16


def vae() -> AutoencoderKLTemporalDecoder:
    """An autoencoder with SVD's temporal decoder: [n, 3, 64, 64] to [n, 16, 8, 8] and back."""
    return AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 4,
        block_out_channels=(32, 64, 96, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        sample_size=SIZE,
    )


def unet(*, time_ids: int = 4, num_frames: int = 21) -> UNetSpatioTemporalConditionModel:
    """SVD's UNet with two levels; `time_ids` numbers in the vector condition (3 in stock SVD, 4 here)."""
    time_embed_dim = 32
    return UNetSpatioTemporalConditionModel(
        sample_size=SIZE // 8,
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 2,
        up_block_types=("CrossAttnUpBlockSpatioTemporal",) * 2,
        block_out_channels=(96, 96),
        addition_time_embed_dim=time_embed_dim,
        projection_class_embeddings_input_dim=time_embed_dim * time_ids,
        layers_per_block=1,
        cross_attention_dim=32,
        num_attention_heads=3,
        num_frames=num_frames,
    )


def image_encoder() -> CLIPVisionModelWithProjection:
    """A CLIP vision tower of two layers at the 224 pixels that SVD pipelines feed."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=224,
            patch_size=32,
            projection_dim=32,
        )
    )


def scheduler() -> EulerDiscreteScheduler:
    """The scheduler of the SVD checkpoints: v-prediction, Karras noise levels, t = ln(sigma) / 4."""
    return EulerDiscreteScheduler(
        prediction_type="v_prediction",
        timestep_type="continuous",
        timestep_spacing="leading",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=80.0,
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        interpolation_type="linear",
    )


def components(*, seed: int = 0, time_ids: int = 4) -> dict[str, Any]:
    """The five parts of a pipeline with random weights, the same for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {
            "vae": vae().eval(),
            "image_encoder": image_encoder().eval(),
            "unet": unet(time_ids=time_ids).eval(),
            "scheduler": scheduler(),
            "feature_extractor": CLIPImageProcessor(size={"shortest_edge": 224}, crop_size=224),
        }
