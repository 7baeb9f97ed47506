"""`SVDMVPipeline`: views around an object from one picture of it, with the manners of diffusers."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily and huggingface_hub those of its HTTP library; pyright sees neither)

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from diffusers.utils import BaseOutput
from diffusers.utils import logging as diffusers_logging
from diffusers.utils.torch_utils import randn_tensor
from huggingface_hub.errors import HTTPError
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPVisionModelWithProjection
from transformers.utils import logging as transformers_logging

from svd3d import images
from svd3d.cameras import Cameras, Orbit
from svd3d.errors import CheckpointError, ConfigError
from svd3d.model import conditioning, local_folder
from svd3d.model.conditioning import Guidance

DEFAULT_DISTANCE = 2.0
"""Of generated cameras when nothing else is known: a unit object fills a 33.8 degree frame from there."""
NETWORKS = {
    "vae": AutoencoderKLTemporalDecoder,
    "image_encoder": CLIPVisionModelWithProjection,
    "unet": UNetSpatioTemporalConditionModel,
}
"""The parts of a checkpoint that hold weights."""


@dataclass
class SVDMVPipelineOutput(BaseOutput):
    """Views [b, v, h, w, 3] in [0, 1] with the orbit of each object. `cameras` is that of the first."""

    views: Float[np.ndarray, "b v h w 3"]
    orbits: list[Orbit]

    @property
    def cameras(self) -> Cameras:
        """Cameras of the first object."""
        return self.orbits[0].cameras(height=self.views.shape[2], width=self.views.shape[3])


class SVDMVPipeline(StableVideoDiffusionPipeline):
    """Stable Video Diffusion, finetuned to generate an orbit at the elevation of the input (SVD-MV).

    The parts are those of `StableVideoDiffusionPipeline`; the UNet takes one more number in its vector
    condition, the elevation in degrees. A stock image-to-video checkpoint loads too: it is widened with
    zeros and then behaves as the stock pipeline.
    """

    def __init__(
        self,
        vae: Any,
        image_encoder: Any,
        unet: Any,
        scheduler: Any,
        feature_extractor: Any,
        max_guidance_scale: float = 2.5,
    ) -> None:
        """`max_guidance_scale` is the default of calls; it is saved in `model_index.json`."""
        super().__init__(vae, image_encoder, conditioning.widen(unet), scheduler, feature_extractor)
        self.register_to_config(max_guidance_scale=max_guidance_scale)

    @classmethod
    def load(cls, model: str, *, dtype: torch.dtype = torch.float32) -> "SVDMVPipeline":
        """From `tiny`, a local diffusers folder or a hub id (the cache when offline); safetensors only.

        Stricter than `from_pretrained`, which fills what a file lacks with random numbers. Raises
        `CheckpointError` that says what is missing.
        """
        folder = local_folder(model)
        try:
            folder = folder or Path(cls.download(model, use_safetensors=True))
            with _without_loading_bars():
                parts = {name: _network(folder, name, dtype=dtype) for name in NETWORKS}
                return cls.from_pretrained(str(folder), **parts)
        except (OSError, ValueError, RuntimeError, SafetensorError, HTTPError) as error:
            reason = " ".join(str(error).split())[:300]
            advice = "pass a whole diffusers folder with safetensors weights, or a hub id that can be reached"
            raise CheckpointError(f"{model}: cannot be loaded ({reason}); {advice}") from error

    @property
    def size(self) -> int:
        """Height and width of the views in pixels that the model was trained at."""
        return int(self.unet.config.sample_size) * self.vae_scale_factor

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        image: Image.Image | list[Image.Image] | Tensor,
        *,
        elevation_deg: float | Sequence[float] = 10.0,
        azimuth_deg: float = 0.0,
        distance: float = DEFAULT_DISTANCE,
        num_views: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 25,
        guidance: Guidance = "triangular",
        min_guidance_scale: float = 1.0,
        max_guidance_scale: float | None = None,
        fps: int = 7,
        motion_bucket_id: int = 127,
        noise_aug_strength: float = 0.02,
        decode_chunk_size: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Float[Tensor, "b v c h w"] | None = None,
        keep_input_view: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
    ) -> SVDMVPipelineOutput:
        """Generate all views of one or more objects jointly.

        `image` is RGB over the background the model was trained with (white for ours, and what shows
        through transparency): a picture, a list, or a tensor [b, 3, h, w] in [0, 1]. `elevation_deg` is that
        of the camera that took it, one for all or one each. `azimuth_deg` and `distance` only place the
        cameras of the result. With `keep_input_view` the first view is the picture itself (as SV3D's
        sampling does with its last view). Give a list of generators to make each object independent of the
        batch it is in. `latents` is the first noise, with variance 1.
        """
        # 0. Sizes, defaults and cameras; whatever is wrong is refused here, before any work
        pictures = _pictures(image)
        height, width = height or self.size, width or self.size
        num_views = int(self.unet.config.num_frames) if num_views is None else num_views
        decode_chunk_size = num_views if decode_chunk_size is None else decode_chunk_size
        _check_counts(num_views=num_views, steps=num_inference_steps, decode_chunk_size=decode_chunk_size)
        multiple = self.vae_scale_factor
        if height % multiple or width % multiple:
            raise ConfigError(f"size {width} x {height}: must be a multiple of {multiple}; choose another")
        elevations = _one_each(elevation_deg, len(pictures))
        if isinstance(generator, list) and len(generator) != len(pictures):
            raise ConfigError(f"{len(generator)} generators for {len(pictures)} images; give one each")
        orbits = [
            Orbit.static(num_views=num_views, azimuth_deg=azimuth_deg, elevation_deg=each, distance=distance)
            for each in elevations
        ]
        scales = conditioning.guidance_scales(
            num_views,
            shape=guidance,
            min_scale=min_guidance_scale,
            max_scale=self.config["max_guidance_scale"] if max_guidance_scale is None else max_guidance_scale,
        )
        device = self._execution_device

        # 1. The condition: the picture for CLIP, the picture with a little noise, and the numbers
        embeddings = torch.cat([self._encode_image([each], device, 1, False) for each in pictures])
        pixels = self.video_processor.preprocess(pictures, height=height, width=width).to(device)
        noise = randn_tensor(pixels.shape, generator=generator, device=pixels.device, dtype=pixels.dtype)
        condition = self._encode_pixels(pixels + noise_aug_strength * noise).to(embeddings.dtype)
        condition = condition[:, None].repeat(1, num_views, 1, 1, 1)
        time_ids = conditioning.added_time_ids(
            torch.tensor(elevations, dtype=torch.float32, device=device),
            fps=fps,
            motion_bucket_id=motion_bucket_id,
            noise_aug_strength=noise_aug_strength,
        )

        # 2. Guidance; where no view has any, the unconditional half is not computed
        self._guidance_scale = scales = scales.to(device, embeddings.dtype)[:, None, None, None]
        guided = bool((scales != 1).any())
        if guided:
            embeddings = torch.cat([torch.zeros_like(embeddings), embeddings])
            condition = torch.cat([torch.zeros_like(condition), condition])
            time_ids = torch.cat([time_ids, time_ids])

        # 3. Noise levels and the first latents
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        self._num_timesteps = len(self.scheduler.timesteps)
        sample: Any = self.prepare_latents(
            len(pictures),
            num_views,
            self.unet.config.in_channels,
            height,
            width,
            embeddings.dtype,
            device,
            generator,  # type: ignore[arg-type]
            None if latents is None else latents.to(embeddings.dtype),
        )

        # 4. Denoise all views jointly
        with self.progress_bar(total=num_inference_steps) as bar:  # type: ignore[call-arg]
            for step, time in enumerate(self.scheduler.timesteps):
                noisy = torch.cat([sample, sample]) if guided else sample
                noisy = self.scheduler.scale_model_input(noisy, time)
                output = self.unet(
                    torch.cat([noisy, condition], dim=2),
                    time,
                    encoder_hidden_states=embeddings,
                    added_time_ids=time_ids,
                ).sample
                if guided:
                    unconditional, conditional = output.chunk(2)
                    output = unconditional + scales * (conditional - unconditional)
                sample = self.scheduler.step(output, time, sample).prev_sample
                if callback_on_step_end is not None:
                    changed = callback_on_step_end(self, step, time, {"latents": sample})
                    sample = changed.get("latents", sample)
                bar.update()

        # 5. Decode; the temporal decoder sees `decode_chunk_size` views of one object at a time
        frames = [
            self.decode_latents(each[None].to(self.vae.dtype), num_views, decode_chunk_size)
            for each in sample
        ]
        views = (torch.cat(frames).permute(0, 2, 3, 4, 1) / 2 + 0.5).clamp(0, 1).cpu().numpy()
        if keep_input_view:
            views[:, 0] = (pixels / 2 + 0.5).permute(0, 2, 3, 1).float().cpu().numpy()
        self.maybe_free_model_hooks()
        return SVDMVPipelineOutput(views=views, orbits=orbits)

    def _encode_pixels(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c _h _w"]:
        """Latents of the input, not scaled; in float32 where float16 would overflow."""
        lifted = self.vae.dtype == torch.float16 and self.vae.config.force_upcast
        try:
            if lifted:
                self.vae.to(dtype=torch.float32)
            return self._encode_vae_image(pixels, self._execution_device, 1, False)
        finally:
            if lifted:
                self.vae.to(dtype=torch.float16)


def _network(folder: Path, name: str, *, dtype: torch.dtype) -> Any:
    """One part of a checkpoint, with every weight from its file."""
    part, report = NETWORKS[name].from_pretrained(
        str(folder), subfolder=name, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{name}: {len(missing)} weights are not in its file, such as {missing[0]}")
    return part


@contextlib.contextmanager
def _without_loading_bars() -> Iterator[None]:
    """No progress bars while parts are read from disk; those of downloads stay."""
    libraries: list[Any] = [diffusers_logging, transformers_logging]
    shown = [each for each in libraries if each.is_progress_bar_enabled()]
    try:
        for each in shown:
            each.disable_progress_bar()
        yield
    finally:
        for each in shown:
            each.enable_progress_bar()


def _pictures(image: Image.Image | list[Image.Image] | Tensor) -> list[Image.Image]:
    """Pictures in RGB over white: stock code resizes only pictures, not tensors, for the CLIP tower."""
    if isinstance(image, Tensor):
        if image.ndim != 4 or image.shape[1] != 3:
            raise ConfigError(f"image: a tensor of shape {tuple(image.shape)}; pass one of [b, 3, h, w]")
        return [
            Image.fromarray(each)
            for each in images.to_uint8(image.detach().float().movedim(1, 3).cpu().numpy())
        ]
    found = image if isinstance(image, list) else [image]
    if not found:
        raise ConfigError("image: an empty list; pass at least one picture")
    return [each if each.mode == "RGB" else _over_white(each) for each in found]


def _over_white(picture: Image.Image) -> Image.Image:
    return Image.fromarray(images.to_uint8(images.composite(np.array(picture.convert("RGBA")))))


def _one_each(elevation_deg: float | Sequence[float], count: int) -> list[float]:
    """One elevation for each of `count` pictures."""
    try:
        return np.broadcast_to(np.asarray(elevation_deg, dtype=np.float64), (count,)).tolist()
    except ValueError as error:
        raise ConfigError(
            f"elevation_deg {elevation_deg}: give one, or one for each of {count} images"
        ) from error


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}: must be at least 1; choose another")
