"""`FrameInterpolationPipeline`: the frames between two pictures (SVD paper, section 4.4 and appendix D.5)."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    StableVideoDiffusionPipelineOutput,
)
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from svd3d.errors import ConfigError
from svd3d.model import conditioning as conditions
from svd3d.model import sampling, vae
from svd3d.model.conditioning import KINDS, Guidance
from svd3d.model.pipeline import NETWORKS, as_pictures
from svd3d.model.sampling import OutputType, SamplingPipeline


class FrameInterpolationPipeline(SamplingPipeline, StableVideoDiffusionPipeline):
    """Stable Video Diffusion that is shown the first and the last frame, and fills in those between.

    The parts are those of `StableVideoDiffusionPipeline`, but the UNet takes c + (c + 1) channels: the noisy
    latents, and those of both ends with a channel that marks them (`conditioning.between`). Its
    cross-attention reads two tokens, CLIP's of each end.
    """

    networks = NETWORKS

    def __init__(
        self,
        vae: Any,
        image_encoder: Any,
        unet: Any,
        scheduler: Any,
        feature_extractor: Any,
        conditioning: str = "svd",
    ) -> None:
        """`conditioning` is what the UNet is told besides the pictures: frame rate, motion, their noise."""
        super().__init__(
            vae, image_encoder, conditions.prepare(unet, conditioning), scheduler, feature_extractor
        )
        self.register_to_config(conditioning=conditioning)

    @torch.no_grad()
    def __call__(  # type: ignore[override]
        self,
        first: Image.Image | Sequence[Image.Image],
        last: Image.Image | Sequence[Image.Image],
        *,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 25,
        guidance: Guidance = "constant",
        min_guidance_scale: float = 1.0,
        max_guidance_scale: float = 1.0,
        fps: float = 7,
        motion_bucket_id: float | None = 127,
        noise_aug_strength: float | None = None,
        decode_chunk_size: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        keep_ends: bool = True,
        output_type: OutputType = "np",
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """One video for each pair of pictures, `num_frames` with both of them (the paper: 5).

        With `keep_ends` these two frames are the pictures themselves. `noise_aug_strength` is that of the
        noise in their latents, which are scaled, so of a variance of about 1. Everything else is as for
        `TextToVideoPipeline`, the result too; without guidance, as by default, the unconditional half is not
        computed. Raises `ConfigError` for whatever is wrong, before any work.
        """
        # 0. Sizes and defaults; whatever is wrong is refused here
        firsts, lasts = (
            as_pictures([each] if isinstance(each, Image.Image) else list(each)) for each in (first, last)
        )
        if len(firsts) != len(lasts):
            raise ConfigError(f"{len(firsts)} first and {len(lasts)} last frames; give pairs")
        num_frames = num_frames or int(self.unet.config.num_frames)
        height, width = height or self.size, width or self.size
        sampling.check_views(num_frames, name="num_frames")
        shape = (len(firsts), num_frames, *self.latent_shape(height, width))
        if noise_aug_strength is None:
            noise_aug_strength = KINDS[self.conditioning].noise_aug_strength
        sampling.check_counts(num_inference_steps=num_inference_steps, decode_chunk_size=decode_chunk_size)
        sampling.check_finite(
            min_guidance_scale=min_guidance_scale,
            max_guidance_scale=max_guidance_scale,
            noise_aug_strength=noise_aug_strength,
            fps=fps,
            motion_bucket_id=motion_bucket_id or 0,
        )
        sampling.check_latents(latents, shape)
        sampling.check_output(output_type, generators=generator, count=len(firsts), what="pairs of pictures")
        scales = conditions.guidance_scales(
            num_frames, shape=guidance, min_scale=min_guidance_scale, max_scale=max_guidance_scale
        )
        device = self._execution_device

        # 1. The condition: both ends for CLIP, their latents with a little noise, and the numbers
        pairs = list(zip(firsts, lasts, strict=True))
        embeddings = torch.stack(
            [torch.cat([self._encode_image([end], device, 1, False)[0] for end in pair]) for pair in pairs]
        )
        pixels = torch.stack(
            [self.video_processor.preprocess(list(pair), height=height, width=width) for pair in pairs]
        ).to(device)
        modes = vae.encode_condition(self.vae, pixels.flatten(0, 1)).unflatten(0, (len(pairs), 2))
        noisy = conditions.augmented(
            self.vae.config.scaling_factor * modes,
            strength=torch.full((len(pairs),), noise_aug_strength, device=device),
            generator=generator,
        )
        unknown = torch.full((len(pairs), 1), torch.nan)
        time_ids = conditions.added_time_ids(
            self.conditioning,
            elevations_deg=unknown,
            azimuths_deg=unknown,
            noise_aug_strength=noise_aug_strength,
            fps=fps,
            motion_bucket_id=torch.nan if motion_bucket_id is None else motion_bucket_id,
        )

        # 2. Noise levels and the first latents
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=embeddings.dtype)
        sample = latents.to(device, embeddings.dtype) * self.scheduler.init_noise_sigma

        # 3. Denoise all frames jointly
        sample = self.denoise(
            sample,
            conditions.between(noisy.to(embeddings.dtype), num_frames),
            embeddings,
            time_ids.to(device),
            scales=scales,
            callback=callback_on_step_end,
        )

        # 4. Decode
        frames = sample
        if output_type != "latent":
            decoded = vae.decode(self.vae, sample, chunk=decode_chunk_size)
            if keep_ends:
                decoded[:, [0, -1]] = pixels.to(decoded)
            frames = self.video_processor.postprocess_video(decoded.transpose(1, 2), output_type=output_type)
        self.maybe_free_model_hooks()
        return StableVideoDiffusionPipelineOutput(frames=frames) if return_dict else frames
