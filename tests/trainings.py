"""What the tests of training share: small models, made-up clips, whole runs, and what they leave."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel

from svd3d import config as configs
from svd3d import runs, train
from svd3d.data import clips
from svd3d.data.shards import read_shards, write_index, write_shard
from svd3d.model import checkpoints, saving, tiny
from svd3d.model.pipeline import SVDMVPipeline
from svd3d.settings import TrainConfig

FRAMES, CHANNELS, HEIGHT, WIDTH = 4, 16, 8, 12
LATENT = (CHANNELS, HEIGHT, WIDTH)
TOKENS, TEXT, PICTURE = 5, 24, 32
"""Tokens of a caption and their width; width of the embedding of a picture."""


def small_unet(*, time_ids: int = 4, channels: int = 16, **options: Any) -> UNetSpatioTemporalConditionModel:
    """A UNet of one level with random weights, the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = {
            "sample_size": 8,
            "in_channels": 2 * channels,
            "out_channels": channels,
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal",),
            "up_block_types": ("CrossAttnUpBlockSpatioTemporal",),
            "block_out_channels": (64,),  # norms over one channel would take away what numbers add
            "addition_time_embed_dim": 32,
            "projection_class_embeddings_input_dim": 32 * time_ids,
            "layers_per_block": 1,
            "cross_attention_dim": 32,
            "num_attention_heads": 1,
        }
        return UNetSpatioTemporalConditionModel(**{**settings, **options})


def small_vae(*, channels: int = 4) -> AutoencoderKLTemporalDecoder:
    """An autoencoder of two levels with random weights, the same at every call: 2 pixels to a latent."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 2,
            block_out_channels=(32, 32),
            layers_per_block=1,
            latent_channels=channels,
            sample_size=16,
        )


def save_model(folder: Path, **parts: Any) -> Path:
    """The tiny pipeline with that UNet, or with other `parts`, as a folder."""
    everything = {**tiny.components(), "unet": small_unet(), **parts}
    SVDMVPipeline(**{"max_guidance_scale": 1.0, **everything}).save_pretrained(folder)
    return folder


def trained(config: TrainConfig, **changes: object) -> list[train.Step]:
    return list(train.run(dataclasses.replace(config, **changes)))


def published(config: TrainConfig, step: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The model and the training state of a checkpoint."""
    (saved,) = (each for each in saving.every(config.out) if each.step == step)
    return checkpoints.read(saved.model), saved.state()


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not saving.same_bits(one[name], other[name])] == []


def command(config: TrainConfig, *words: str) -> subprocess.CompletedProcess[str]:
    """`svd3d train` as a user starts it."""
    recipe = config.out.with_suffix(".yaml")
    runs.write_file(recipe, configs.to_yaml(config))
    line = [sys.executable, "-m", "svd3d", "train", str(recipe), *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, check=False)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_row(number: int, *, text: bool, picture: int | None, ends: bool) -> clips.Row:
    """Clip `number` % 2 of video `number` // 2; of every third clip nobody knows the motion.

    The last channel of the latents says which frame it is.
    """
    frames = normal(FRAMES, *LATENT, seed=number)
    frames[:, -1] = torch.arange(FRAMES)[:, None, None]
    told: dict[str, Any] = {}
    if text:
        told["captions"] = normal(2, TOKENS, TEXT, seed=100 + number)
    if ends and picture:
        told["clip"] = normal(2, picture, seed=200 + number)
    elif picture:
        told["clip"] = normal(picture, seed=200 + number)
        told["cond_latents"] = normal(2, *LATENT, seed=300 + number)
        told["noise_aug"] = torch.tensor([0.0, 0.01 * (1 + number)])
    return clips.Row(
        uid=f"video{number // 2}-{number % 2:04d}",
        licence="",
        video=f"video{number // 2}.mp4",
        frames=tuple(range(FRAMES)),
        fps=float(6 + number),
        motion=math.nan if number % 3 == 2 else 10.0 + number,
        latents=frames,
        texts=("a cup", "a red cup"),
        texts_drawn=(0.5, 0.5),
        **told,
    )


def write_clips(
    folder: Path,
    *,
    digest: str,
    text: bool = False,
    picture: bool = True,
    ends: bool = False,
    width: int = PICTURE,
    count: int = 8,
) -> Path:
    """A cache of clips, made by an autoencoder of that digest; of both `ends` for filling in frames.

    `width` is that of the embedding of a picture.
    """
    encoders = clips.Encoders(digest, "text" if text else None, "clip" if picture else None, 1.0)
    shape = clips.Shape(
        size=(2 * HEIGHT, 2 * WIDTH),
        num_frames=FRAMES,
        fps=None,
        stride=1,
        latent=LATENT,
        text=(TOKENS, TEXT) if text else None,
        clip_dim=width if picture else None,
        noise_variants=None if ends else 1,
    )
    rows = ([make_row(i, text=text, picture=width if picture else None, ends=ends)] for i in range(count))
    write_shard(folder, "only", rows, shape=shape, encoders=encoders)
    write_index(folder, read_shards(folder), failed=0)
    return folder
