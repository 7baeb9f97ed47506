"""Videos from texts or pictures: `TextToVideoPipeline`, and which pipeline a model folder is of.

Image-to-video needs no pipeline of its own: `SVDMVPipeline` of conditioning `svd` gives what stock
`StableVideoDiffusionPipeline` gives, from its weights as they were published. Both ends of a video are for
`svd3d.model.interpolation_pipeline`.
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily and huggingface_hub those of its HTTP library; pyright sees neither)

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    DiffusionPipeline,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    StableVideoDiffusionPipelineOutput,
)
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from huggingface_hub.errors import HTTPError
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel

from svd3d.errors import CheckpointError, ConfigError
from svd3d.model import conditioning as conditions
from svd3d.model import local_folder, sampling, vae
from svd3d.model.conditioning import Guidance
from svd3d.model.interpolation_pipeline import FrameInterpolationPipeline
from svd3d.model.pipeline import SVDMVPipeline
from svd3d.model.sampling import OutputType, SamplingPipeline

Takes = Literal["text", "picture", "pair of pictures"]
"""What a model makes a video of."""


class TextToVideoPipeline(SamplingPipeline):
    """Stable Video Diffusion that is told a text in place of a picture (SVD paper, section 4.2).

    The UNet has no channels for a picture; its cross-attention reads the hidden states of CLIP's text
    encoder, as in Stable Diffusion 2.1. Guidance leads away from hidden states of zeros, which is what
    training has for dropped captions.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    networks = {  # noqa: RUF012 (a ClassVar of the base class)
        "vae": AutoencoderKLTemporalDecoder,
        "text_encoder": CLIPTextModel,
        "unet": UNetSpatioTemporalConditionModel,
    }

    def __init__(
        self,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        unet: Any,
        scheduler: Any,
        conditioning: str = "svd",
    ) -> None:
        """`conditioning` is what the UNet is told besides the text: the frame rate and the motion."""
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=conditions.prepare(unet, conditioning),
            scheduler=scheduler,
        )
        self.register_to_config(conditioning=conditioning)
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        *,
        num_frames: int | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 25,
        guidance: Guidance = "linear",
        min_guidance_scale: float = 7.0,
        max_guidance_scale: float = 7.0,
        fps: float = 7,
        motion_bucket_id: float | None = None,
        decode_chunk_size: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: OutputType = "np",
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """One video for each text.

        The number of frames and their size in pixels are those of the UNet's configuration unless given.
        `guidance` goes from `min_guidance_scale` to `max_guidance_scale`; it costs nothing where all scales
        are 1. `motion_bucket_id` None: the motion is not told. `decode_chunk_size` bounds the memory of
        decoding. Give a list of generators to make each video independent of the batch it is in. `latents`
        [b, t, c, h/8, w/8] is the first noise, with variance 1.

        Returns diffusers' `StableVideoDiffusionPipelineOutput`, or its frames alone without `return_dict`: an
        array [b, t, h, w, 3] in [0, 1] (`np`), a tensor [b, t, 3, h, w] (`pt`), lists of pictures (`pil`) or
        latents. Raises `ConfigError` for whatever is wrong, before any work.
        """
        # 0. Sizes and defaults; whatever is wrong is refused here
        prompts = [prompt] if isinstance(prompt, str) else prompt
        if not prompts:
            raise ConfigError("prompt: an empty list; pass at least one text")
        num_frames = num_frames or int(self.unet.config.num_frames)
        sampling.check_views(num_frames, name="num_frames")
        shape = (len(prompts), num_frames, *self.latent_shape(height or self.size, width or self.size))
        sampling.check_counts(num_inference_steps=num_inference_steps, decode_chunk_size=decode_chunk_size)
        sampling.check_finite(
            min_guidance_scale=min_guidance_scale,
            max_guidance_scale=max_guidance_scale,
            fps=fps,
            motion_bucket_id=motion_bucket_id or 0,
        )
        sampling.check_latents(latents, shape)
        sampling.check_output(output_type, generators=generator, count=len(prompts), what="texts")
        scales = conditions.guidance_scales(
            num_frames, shape=guidance, min_scale=min_guidance_scale, max_scale=max_guidance_scale
        )
        device, dtype = self._execution_device, self.unet.dtype

        # 1. The condition: the text, and the numbers; nobody knows the noise in a picture that is not there
        unknown = torch.full((len(prompts), 1), torch.nan)
        time_ids = conditions.added_time_ids(
            self.conditioning,
            elevations_deg=unknown,
            azimuths_deg=unknown,
            noise_aug_strength=torch.nan,
            fps=fps,
            motion_bucket_id=torch.nan if motion_bucket_id is None else motion_bucket_id,
        )
        embeddings = hidden_states(self.text_encoder, self.tokenizer, prompts, device=device)

        # 2. Noise levels and the first latents
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        sample = latents.to(device, dtype) * self.scheduler.init_noise_sigma

        # 3. Denoise all frames jointly
        sample = self.denoise(
            sample,
            None,
            embeddings.to(dtype),
            time_ids.to(device),
            scales=scales,
            callback=callback_on_step_end,
        )

        # 4. Decode
        frames = sample
        if output_type != "latent":
            pixels = vae.decode(self.vae, sample, chunk=decode_chunk_size)
            frames = self.video_processor.postprocess_video(pixels.transpose(1, 2), output_type=output_type)
        self.maybe_free_model_hooks()
        return StableVideoDiffusionPipelineOutput(frames=frames) if return_dict else frames


@torch.no_grad()
def hidden_states(
    text_encoder: Any, tokenizer: Any, texts: Sequence[str], *, device: Any
) -> Float[Tensor, "n l d"]:
    """What CLIP makes of texts, which are cut off after the tokens that the model reads."""
    length = text_encoder.config.max_position_embeddings
    tokens = tokenizer(
        list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    return text_encoder(tokens.input_ids.to(device)).last_hidden_state


def load(
    model: str, *, takes: Takes, dtype: torch.dtype = torch.float32
) -> SVDMVPipeline | TextToVideoPipeline | FrameInterpolationPipeline:
    """The pipeline of a folder or a hub id that makes videos of what `takes` says; safetensors only.

    Which of them it is, its model_index.json tells. Raises `CheckpointError` for one of another kind, with
    what to do.
    """
    found = _takes(model)
    if found != takes:
        how = "give the last one with --last" if found == "pair of pictures" else f"pass a {found}"
        raise CheckpointError(
            f"{model}: makes videos of a {found}, and was given a {takes}; {how}, or another --model"
        )
    if takes == "text":
        return TextToVideoPipeline.load(model, dtype=dtype)
    if takes == "pair of pictures":
        return FrameInterpolationPipeline.load(model, dtype=dtype)
    return SVDMVPipeline.load(model, dtype=dtype, conditioning="svd")


def _takes(model: str) -> Takes:
    """What a model makes videos of, from its model_index.json alone."""
    try:
        index: Any = DiffusionPipeline.load_config(str(local_folder(model) or model))
    except (OSError, ValueError, HTTPError) as error:
        reason = " ".join(str(error).split())[:300]
        advice = "pass a whole diffusers folder, or a hub id that can be reached"
        raise CheckpointError(f"{model}: cannot be loaded ({reason}); {advice}") from error

    def kind_of(part: str) -> str | None:
        return (index.get(part) or (None, None))[1]

    if index.get("_class_name") == SVDMVPipeline.__name__ and index.get("conditioning") != "svd":
        raise CheckpointError(
            f"{model}: makes views around objects, not videos; take svd3d generate, or another --model"
        )
    if kind_of("unet") == UNet2DConditionModel.__name__ and kind_of("text_encoder"):
        raise CheckpointError(
            f"{model}: makes single images; make it the start of a video model with: svd3d convert {model} "
            "--to text-to-video, and train that"
        )
    if kind_of("unet") != UNetSpatioTemporalConditionModel.__name__:
        raise CheckpointError(
            f"{model}: its UNet is {kind_of('unet')}, expected {UNetSpatioTemporalConditionModel.__name__}; "
            "pass a Stable Video Diffusion"
        )
    if index.get("_class_name") == FrameInterpolationPipeline.__name__:
        return "pair of pictures"
    return "text" if kind_of("text_encoder") else "picture"
