"""`svd3d convert`: foreign weights to a diffusers folder of our pipeline, and back."""

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from svd3d import model, runs
from svd3d.errors import CheckpointError, ConfigError, OutputError, require
from svd3d.settings import ConvertConfig

if TYPE_CHECKING:
    from svd3d.model.checkpoints import Checkpoint

FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
"""Endings of single files of weights; what else does not exist may be a hub id."""
ORIGINAL = "model.safetensors"
"""The file in Stability's naming."""
TOLD = {
    "svd3d": ("picture", "picture of an object"),
    "text-to-video": ("text",),
    "image-to-video": ("picture",),
    "interpolation": ("pair of pictures",),
    "original": ("picture", "picture of an object"),
}
"""By what is made, what the models that it can be made of are told."""
REAL_SIZE = "svd"
"""SOURCE of `--prior scratch` that needs no weights at all."""


@dataclass(frozen=True)
class Converted:
    """What one run made."""

    path: Path
    """The diffusers folder, or the file in Stability's naming."""
    status: Literal["done", "skipped"]
    """`skipped`: it was there already, from the same source with the same settings."""
    seconds: float


def run(config: ConvertConfig) -> Converted:
    """Convert SOURCE into the folder OUT; running it again changes nothing.

    Raises `CheckpointError` for a source of another kind or with missing, unknown or misshapen weights, and
    `OutputError` for an OUT that holds something else; nothing is left then.
    """
    started = time.monotonic()
    source = _source(config)
    inputs = {} if source is None else {"source": source}
    digest = functools.cache(runs.sha256)
    result = config.out / ORIGINAL if config.to == "original" else config.out
    if runs.already_made(config.out, config=config, inputs=inputs, digest=digest):
        return Converted(result, "skipped", 0.0)
    if config.out.is_dir() and any(config.out.iterdir()):
        raise OutputError(f"{config.out}: holds other files; choose an --out that does not exist yet")

    # 1. The checkpoint, checked name by name; what SOURCE gives stays on disk
    for package in ("torch", "diffusers", "transformers"):
        require(package, extra="model", reason="converting weights")
    import torch

    from svd3d.model import checkpoints

    checkpoint = _checkpoint(config, source)
    dtype = None if config.dtype == "source" else getattr(torch, config.dtype)

    # 2. The folder, renamed into place when it is whole
    with runs.atomic_folder(config.out) as temporary:
        if config.to == "original":
            weights = checkpoints.original_weights(checkpoint)
            checkpoints.write_weights(weights, temporary / ORIGINAL, dtype=dtype)
        else:
            if config.to == "svd3d":
                scale = config.max_guidance_scale
                checkpoint = checkpoints.multi_view(checkpoint, size=config.size, max_guidance_scale=scale)
            elif config.size is not None:
                side = config.size // checkpoint.scale
                checkpoint.networks["unet"].register_to_config(sample_size=side)
            checkpoints.write(checkpoint, temporary, dtype=dtype)
        seconds = time.monotonic() - started
        runs.write_manifest(
            temporary,
            stage="convert",
            config=config,
            inputs=inputs,
            seconds={"convert": seconds},
            digest=digest,
        )
    return Converted(result, "done", seconds)


def _source(config: ConvertConfig) -> Path | None:
    """The local file or folder that SOURCE names; None for a hub id and for random weights."""
    path = Path(config.source)
    if path.is_file() or path.suffix in FILES:
        return runs.input_path(path, what="file of weights")
    if config.prior == "scratch" and config.source == REAL_SIZE and not path.is_dir():
        return None
    return model.local_folder(config.source)


def _checkpoint(config: ConvertConfig, source: Path | None) -> "Checkpoint":
    """The checkpoint that SOURCE holds, or the start of training that --prior asks for."""
    from svd3d.model import checkpoints, priors

    if source is None and config.source == REAL_SIZE:
        return priors.full_size(seed=config.seed)
    if source is not None and source.is_file():
        if config.prior == "sd21" or config.to == "text-to-video":
            raise ConfigError(f"{source}: this start needs a diffusers folder of Stable Diffusion 2.1")
        found = checkpoints.from_original(checkpoints.read(source), where=str(source), seed=config.seed)
    else:
        folder = source or checkpoints.fetch(config.source)
        if config.prior == "sd21" or (config.prior == "auto" and priors.is_stable_diffusion(folder)):
            if config.to == "text-to-video":
                return priors.text_to_video(folder, seed=config.seed)
            return priors.from_stable_diffusion(folder, image_encoder=config.image_encoder, seed=config.seed)
        found = checkpoints.from_folder(folder)
        if found.told == "text" and config.to == "image-to-video":
            found = priors.image_to_video(found, image_encoder=config.image_encoder)
        if found.told == "text" and config.to == "interpolation":
            found = priors.interpolation(found, image_encoder=config.image_encoder)
    if found.told not in TOLD[config.to]:
        raise CheckpointError(
            f"{config.source}: a model that is told a {found.told}, of which --to {config.to} cannot be "
            "made; choose another source, or another --to"
        )
    if config.prior == "scratch":
        return priors.scratch(found, seed=config.seed)
    if config.prior not in ("auto", found.kind, found.kind.removesuffix("-mv")):
        raise ConfigError(f"{config.source}: is a {found.kind} model, not {config.prior}; leave out --prior")
    return found
