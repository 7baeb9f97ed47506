"""`SVDMVPipeline`: views around an object from one picture of it, with the manners of diffusers."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

from svd3d import images
from svd3d.cameras import Cameras, Orbit
from svd3d.errors import CheckpointError, ConfigError, ImageError
from svd3d.model import conditioning as conditions
from svd3d.model import sampling, vae
from svd3d.model.conditioning import KINDS, Guidance
from svd3d.model.sampling import MEGAPIXELS, OutputType, SamplingPipeline
from svd3d.sample import Sample

DEFAULT_ELEVATION_DEG = 10.0
MIN_SIDE = 8
"""Pixels of the shorter side of a picture below which there is nothing to see."""
NETWORKS = {
    "vae": AutoencoderKLTemporalDecoder,
    "image_encoder": CLIPVisionModelWithProjection,
    "unet": UNetSpatioTemporalConditionModel,
}
"""The parts of a checkpoint that hold weights."""


@dataclass
class SVDMVPipelineOutput(BaseOutput):
    """Views of each object and the orbit they lie on."""

    views: Any
    """By `output_type`: `np` an array [b, v, h, w, 3] in [0, 1], `pt` a tensor [b, v, 3, h, w] in [0, 1],
    `pil` a list of pictures for each object, `latent` a tensor [b, v, c, h/8, w/8], scaled."""
    orbits: list[Orbit]
    height: int
    width: int

    @property
    def cameras(self) -> Cameras:
        """Cameras of the first object."""
        return self.orbits[0].cameras(height=self.height, width=self.width)

    def samples(self, uids: Sequence[str], *, about: dict[str, Any] | None = None) -> list[Sample]:
        """Each object as a `Sample`, ready to be written; the white around it becomes transparent.

        Needs views of output type `np`. Raises `CheckpointError` if the model broke down.
        """
        if not isinstance(self.views, np.ndarray):
            raise ConfigError("samples: the views are not arrays; call the pipeline with output_type='np'")
        if len(uids) != len(self.views):
            raise ConfigError(f"samples: {len(uids)} uids for {len(self.views)} objects; give one each")
        if not np.isfinite(self.views).all():
            raise CheckpointError(
                "samples: the model gave views that are not finite; "
                "its weights are broken or need a larger number format"
            )
        return [
            Sample(
                uid=uid,
                cameras=orbit.cameras(height=self.height, width=self.width),
                images=np.stack([images.remove_white(view) for view in views]),
                origin="generated",
                orbit=orbit,
                about=about or {},
            )
            for uid, views, orbit in zip(uids, self.views, self.orbits, strict=True)
        ]


class SVDMVPipeline(SamplingPipeline, StableVideoDiffusionPipeline):
    """Stable Video Diffusion, finetuned to generate views around the object of a picture.

    The parts are those of `StableVideoDiffusionPipeline`; `conditioning` says what the UNet is told besides
    the picture (see `svd3d.model.conditioning`). A stock image-to-video checkpoint loads too: it is widened
    with zeros and then behaves as the stock pipeline.
    """

    networks = NETWORKS

    def __init__(
        self,
        vae: Any,
        image_encoder: Any,
        unet: Any,
        scheduler: Any,
        feature_extractor: Any,
        conditioning: str = "svd-mv",
        max_guidance_scale: float = 2.5,
    ) -> None:
        """`conditioning` and the default of `max_guidance_scale` are saved in `model_index.json`.

        Raises `CheckpointError` for a UNet that is not shown one picture.
        """
        unet = conditions.prepare(unet, conditioning)
        if seen := conditions.frames_seen(unet) - 1:
            raise CheckpointError(
                "unet: fills in the frames between two pictures; take svd3d video PICTURE --last PICTURE"
                if seen > 0
                else "unet: is told a text, not shown a picture; take svd3d video TEXT"
            )
        super().__init__(vae, image_encoder, unet, scheduler, feature_extractor)
        self.register_to_config(conditioning=conditioning, max_guidance_scale=max_guidance_scale)

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        image: Image.Image | list[Image.Image] | Tensor,
        *,
        orbit: Orbit | Sequence[Orbit] | None = None,
        elevation_deg: float | Sequence[float] | None = None,
        azimuth_deg: float | None = None,
        distance: float | None = None,
        num_views: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 25,
        guidance: Guidance = "triangular",
        min_guidance_scale: float = 1.0,
        max_guidance_scale: float | None = None,
        fps: float = 7,
        motion_bucket_id: float | None = 127,
        noise_aug_strength: float | None = None,
        decode_chunk_size: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        keep_input_view: bool = True,
        output_type: OutputType = "np",
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Generate all views of one or more objects jointly.

        `image` is RGB over the background the model was trained with (white for ours, and what shows
        through transparency): a picture, a list, or a tensor [b, 3, h, w] in [0, 1].

        The orbit starts at the camera of the picture: an `Orbit`, one for all or one each, or a static one of
        `num_views` views at `elevation_deg` (10; one for all or one each), `azimuth_deg` (0) and `distance`.
        Uneven orbits need a model of conditioning `sv3d_p`. With `keep_input_view` the first view is the
        picture itself (as SV3D's sampling does with its last view).

        `guidance` goes from `min_guidance_scale` to `max_guidance_scale` (the checkpoint's); it costs nothing
        where all scales are 1. `motion_bucket_id` None: the motion is not told. `noise_aug_strength` is that
        of the published model unless given. `decode_chunk_size` bounds the memory of decoding. Give a list of
        generators to make each object independent of the batch it is in. `latents` [b, v, c, h/8, w/8] is the
        first noise, with variance 1. The callback gets and may return `{"latents": ...}` after each step.
        Returns `SVDMVPipelineOutput`, or (views, orbits) without `return_dict`. Raises an `Svd3dError` for
        whatever is wrong, before any work.
        """
        # 0. Sizes, defaults and cameras; whatever is wrong is refused here
        pictures = as_pictures(image)
        height, width = height or self.size, width or self.size
        parts = {
            "elevation_deg": elevation_deg,
            "azimuth_deg": azimuth_deg,
            "distance": distance,
            "num_views": num_views,
        }
        orbits = self._orbits(len(pictures), orbit, parts)
        num_views = orbits[0].num_views
        shape = (len(pictures), num_views, *self.latent_shape(height, width))
        kind = self.conditioning
        if noise_aug_strength is None:
            noise_aug_strength = KINDS[kind].noise_aug_strength
        if max_guidance_scale is None:
            max_guidance_scale = float(self.config["max_guidance_scale"])
        sampling.check_counts(num_inference_steps=num_inference_steps, decode_chunk_size=decode_chunk_size)
        sampling.check_finite(
            min_guidance_scale=min_guidance_scale,
            max_guidance_scale=max_guidance_scale,
            noise_aug_strength=noise_aug_strength,
            fps=fps,
            motion_bucket_id=motion_bucket_id or 0,
        )
        sampling.check_latents(latents, shape)
        sampling.check_output(output_type, generators=generator, count=len(pictures), what="images")
        scales = conditions.guidance_scales(
            num_views, shape=guidance, min_scale=min_guidance_scale, max_scale=max_guidance_scale
        )
        device = self._execution_device

        # 1. The condition: the picture for CLIP, the picture with a little noise, and the numbers
        of_one_size = len({each.size for each in pictures}) == 1
        batches = [pictures] if of_one_size else [[each] for each in pictures]
        embeddings = torch.cat([self._encode_image(batch, device, 1, False) for batch in batches])
        pixels = self.video_processor.preprocess(pictures, height=height, width=width).to(device)
        strength = torch.full((len(pictures),), noise_aug_strength, device=device)
        noisy_pixels = conditions.augmented(pixels, strength=strength, generator=generator)
        condition = vae.encode_condition(self.vae, noisy_pixels).to(embeddings.dtype)
        condition = condition[:, None].repeat(1, num_views, 1, 1, 1)
        time_ids = conditions.added_time_ids(
            kind,
            elevations_deg=torch.tensor([each.elevations_deg for each in orbits], dtype=torch.float64),
            azimuths_deg=torch.tensor([each.azimuths_deg for each in orbits], dtype=torch.float64),
            noise_aug_strength=noise_aug_strength,
            fps=fps,
            motion_bucket_id=torch.nan if motion_bucket_id is None else motion_bucket_id,
        ).to(device)

        # 2. Noise levels and the first latents
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

        # 3. Denoise all views jointly
        sample = self.denoise(
            sample, condition, embeddings, time_ids, scales=scales, callback=callback_on_step_end
        )

        # 4. Decode
        views = sample
        if output_type != "latent":
            views = vae.decode(self.vae, sample, chunk=decode_chunk_size)
            if keep_input_view:
                views[:, 0] = pixels
            views = self.video_processor.postprocess_video(views.transpose(1, 2), output_type=output_type)
        self.maybe_free_model_hooks()
        if not return_dict:
            return views, orbits
        return SVDMVPipelineOutput(views=views, orbits=orbits, height=height, width=width)

    def _orbits(
        self,
        count: int,
        orbit: Orbit | Sequence[Orbit] | None,
        parts: dict[str, Any],
    ) -> list[Orbit]:
        """One orbit for each of `count` pictures, all of one number of views, that the model can do."""
        given = {name: value for name, value in parts.items() if value is not None}
        if orbit is None:
            elevations = _one_each(given.pop("elevation_deg", DEFAULT_ELEVATION_DEG), count)
            sampling.check_views(given.setdefault("num_views", int(self.unet.config.num_frames)))
            return [Orbit.static(**given, elevation_deg=each) for each in elevations]
        if given:
            named = ", ".join(given)
            raise ConfigError(f"orbit: given together with {named}; give an orbit or its parts, not both")
        orbits = [orbit] * count if isinstance(orbit, Orbit) else list(orbit)
        if len(orbits) != count:
            raise ConfigError(f"{len(orbits)} orbits for {count} images; give one, or one each")
        for each in orbits:
            sampling.check_views(each.num_views)
            if each.num_views != orbits[0].num_views:
                numbers = f"{orbits[0].num_views} and {each.num_views}"
                raise ConfigError(f"orbits of {numbers} views in one batch; call the pipeline for each")
            if not KINDS[self.conditioning].per_view and not _is_static(each):
                raise ConfigError(
                    f"orbit: its views are uneven, and this model (conditioning {self.conditioning!r}) knows "
                    "only even ones at one elevation; take Orbit.static or a model of conditioning 'sv3d_p'"
                )
        return orbits


def as_pictures(image: Image.Image | list[Image.Image] | Tensor) -> list[Image.Image]:
    """Pictures in RGB over white: stock code resizes only pictures, not tensors, for the CLIP tower."""
    if isinstance(image, Tensor):
        image = _from_tensor(image)
    found = image if isinstance(image, list) else [image]
    if not found:
        raise ConfigError("image: an empty list; pass at least one picture")
    for each in found:
        if not isinstance(each, Image.Image):
            raise ConfigError(f"image: a {type(each).__name__}; pass a picture of PIL, a list, or a tensor")
        _check_size(*each.size)
    return [each if each.mode == "RGB" else _over_white(each) for each in found]


def _from_tensor(tensor: Tensor) -> list[Image.Image]:
    if tensor.ndim != 4 or tensor.shape[1] != 3 or not tensor.is_floating_point():
        found = f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
        raise ConfigError(f"image: a tensor, {found}; pass floats of shape [b, 3, h, w] in [0, 1]")
    _check_size(tensor.shape[3], tensor.shape[2])
    if not ((tensor >= 0) & (tensor <= 1)).all():  # NaN is neither
        low, high = tensor.min().item(), tensor.max().item()
        raise ConfigError(f"image: a tensor of values from {low:g} to {high:g}; they must lie in [0, 1]")
    pixels = tensor.detach().float().movedim(1, 3).cpu().numpy()
    return [Image.fromarray(each) for each in images.to_uint8(pixels)]


def _check_size(width: int, height: int) -> None:
    found = f"image: {width} x {height} pixels"
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"{found}; pass one of at least {MIN_SIDE} pixels a side")
    if width * height > images.MAX_PIXELS:
        raise ImageError(f"{found}, above the limit of {MEGAPIXELS} megapixels; resize it first")


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


def _is_static(orbit: Orbit) -> bool:
    """Whether a model that knows nothing of single views paints this orbit."""
    even = Orbit.static(
        num_views=orbit.num_views, azimuth_deg=orbit.azimuths_deg[0], elevation_deg=orbit.elevations_deg[0]
    )
    return np.allclose(even.rotations(), orbit.rotations(), atol=1e-3)
