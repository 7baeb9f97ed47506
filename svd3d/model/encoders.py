"""The parts of a diffusers folder that encode: an autoencoder, a text and an image encoder if it has them.

Any pipeline in the manner of Stable Diffusion will do: SD 2.1 (text), Stable Video Diffusion (image), ours.
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, StableVideoDiffusionPipeline
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from svd3d.errors import CheckpointError
from svd3d.model import conditioning, edm, local_folder, vae
from svd3d.model.checkpoints import read_json
from svd3d.model.interpolation_pipeline import FrameInterpolationPipeline
from svd3d.model.sampling import network, without_loading_bars
from svd3d.model.video_pipeline import hidden_states

PARTS = ("vae", "text_encoder", "tokenizer", "image_encoder", "feature_extractor")
FILES = ("*.json", "*.txt", "diffusion_pytorch_model.safetensors", "model.safetensors")
"""Of each part."""
CLASSES = {
    each.__name__: each
    for each in (AutoencoderKL, AutoencoderKLTemporalDecoder, CLIPTextModel, CLIPVisionModelWithProjection)
}
"""Of parts with weights. Others that a folder names, such as T5, are not known here."""


@dataclass(frozen=True, eq=False)
class Encoders:
    """An autoencoder and what else the model has, on their device."""

    vae: Any
    text_encoder: Any | None
    tokenizer: Any | None
    image_pipeline: Any | None
    """Stock pipeline that knows how a picture is prepared for its image encoder."""
    fills_in: bool
    """Whether the model is shown the last frame as well as the first."""
    device: str

    @property
    def image_encoder(self) -> Any | None:
        """The CLIP tower, if there is one."""
        return None if self.image_pipeline is None else self.image_pipeline.image_encoder

    @property
    def pixels_per_latent(self) -> int:
        """Along each side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    def texts(self, captions: Sequence[str]) -> Float[Tensor, "n l d"]:
        """Hidden states of captions, as `TextToVideoPipeline` makes them."""
        assert self.tokenizer is not None, "asked only of a model with a text encoder"
        assert self.text_encoder is not None, "asked only of a model with a text encoder"
        return hidden_states(self.text_encoder, self.tokenizer, captions, device=self.device).float().cpu()

    @torch.no_grad()
    def image(self, picture: UInt8[Any, "h w 3"]) -> Float[Tensor, "e"]:
        """Embedding of a picture, squeezed into the square that CLIP sees, as SVD does."""
        assert self.image_pipeline is not None, "asked only of a model with an image encoder"
        encoded = self.image_pipeline._encode_image([Image.fromarray(picture)], self.device, 1, False)
        return encoded[0, 0].float().cpu()


@dataclass(frozen=True, eq=False)
class Encoded:
    """Pictures and their first few as conditions, without and with noise; the mode, not scaled."""

    clean: Float[Tensor, "v c h w"]
    conditions: Float[Tensor, "n k c h w"]
    noise_aug: Float[Tensor, "n k"]
    """Standard deviation of the noise, in pixels of [-1, 1]; the first is 0."""


def encode(
    autoencoder: Any,
    pixels: Float[Tensor, "v 3 _H _W"],
    *,
    conditions: int,
    variants: int,
    generator: torch.Generator,
    chunk: int | None = None,
) -> Encoded:
    """Encode pictures in [-1, 1], and `variants` noisy ones of each of the first `conditions`.

    `chunk` bounds how many are encoded at once.
    """
    strength = edm.sample_sigmas(conditions * variants, **conditioning.NOISE_AUG, generator=generator)
    noisy = conditioning.augmented(
        pixels[:conditions].repeat_interleave(variants, dim=0), strength=strength, generator=generator
    )
    modes = in_chunks(
        lambda each: vae.encode_condition(autoencoder, each.to(autoencoder.device)),
        torch.cat([pixels, noisy]),
        chunk=chunk,
    )
    clean, noisy_modes = modes[: len(pixels)], modes[len(pixels) :].unflatten(0, (conditions, variants))
    return Encoded(
        clean,
        torch.cat([clean[:conditions, None], noisy_modes], dim=1),
        torch.cat([torch.zeros(conditions, 1), strength.reshape(conditions, variants)], dim=1),
    )


@torch.no_grad()
def in_chunks(encoder: Callable[[Any], Tensor], inputs: Any, *, chunk: int | None) -> Tensor:
    """What an encoder makes of inputs, `chunk` at a time, on the CPU in float32."""
    step = chunk or len(inputs)
    parts = [encoder(inputs[first : first + step]) for first in range(0, len(inputs), step)]
    return torch.cat(parts).float().cpu()


def load(model: str, *, dtype: torch.dtype, device: str) -> Encoders:
    """From `tiny`, a local diffusers folder or a hub id (the cache when offline); safetensors only.

    Raises `CheckpointError` that says what is missing.
    """
    folder = local_folder(model)
    try:
        if folder is None:
            patterns = ["model_index.json", *(f"{part}/{name}" for part in PARTS for name in FILES)]
            folder = Path(snapshot_download(model, allow_patterns=patterns))
        with without_loading_bars():
            return _from_folder(folder, dtype=dtype, device=device)
    except (OSError, ValueError, RuntimeError, SafetensorError, HTTPError) as error:
        reason = " ".join(str(error).split())[:300]
        advice = "pass a whole diffusers folder with safetensors weights, or a hub id that can be reached"
        raise CheckpointError(f"{model}: cannot be loaded ({reason}); {advice}") from error


def _from_folder(folder: Path, *, dtype: torch.dtype, device: str) -> Encoders:
    index = read_json(folder / "model_index.json")
    parts: dict[str, Any] = {}
    for name in ("vae", "text_encoder", "image_encoder"):
        library, kind = index.get(name) or (None, None)
        if library is None and name != "vae":
            parts[name] = None  # the pipeline has none
        elif kind in CLASSES:
            parts[name] = network(CLASSES[kind], folder, name, dtype=dtype).eval().to(device)
        else:
            raise ValueError(f"{name} is a {kind}, expected one of {', '.join(CLASSES)}")
    tokenizer = image_pipeline = None
    if parts["text_encoder"] is not None:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    if parts["image_encoder"] is not None:
        processor: Any = CLIPImageProcessor.from_pretrained(folder / "feature_extractor")
        nothing: Any = None
        image_pipeline = StableVideoDiffusionPipeline(
            parts["vae"], parts["image_encoder"], nothing, nothing, processor
        )
    fills_in = index.get("_class_name") == FrameInterpolationPipeline.__name__
    return Encoders(parts["vae"], parts["text_encoder"], tokenizer, image_pipeline, fills_in, device)
