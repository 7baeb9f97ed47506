"""What our pipelines have in common: strict loading, and denoising of all frames together under guidance."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily and huggingface_hub those of its HTTP library; pyright sees neither)

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch
from diffusers import DiffusionPipeline, UNetSpatioTemporalConditionModel
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from transformers.utils import logging as transformers_logging

from svd3d import images
from svd3d.errors import CheckpointError, ConfigError
from svd3d.model import conditioning as conditions
from svd3d.model import local_folder
from svd3d.model.conditioning import Kind
from svd3d.settings import MAX_VIEWS

OutputType = Literal["np", "pt", "pil", "latent"]
MEGAPIXELS = images.MAX_PIXELS // 1_000_000
Pipeline = TypeVar("Pipeline", bound="SamplingPipeline")


class SamplingPipeline(DiffusionPipeline):
    """A pipeline around a UNet of Stable Video Diffusion."""

    networks: ClassVar[Mapping[str, Any]]
    """Classes of the parts that hold weights."""
    vae_scale_factor: int
    """Pixels per latent along each side."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers, but from safetensors only: a pickle is never opened."""
        return super().from_pretrained(*args, **{**kwargs, "use_safetensors": True})

    @classmethod
    def load(
        cls: type[Pipeline],
        model: str,
        *,
        dtype: torch.dtype = torch.float32,
        encoders_only: bool = False,
        **settings: Any,
    ) -> Pipeline:
        """From `tiny`, a local diffusers folder or a hub id (the cache when offline); safetensors only.

        Stricter than `from_pretrained`, which fills what a file lacks with random numbers. With
        `encoders_only` the UNet is an outline on the meta device, and its weights are neither downloaded nor
        read. `settings` replace those of model_index.json. Raises `CheckpointError` that says what is
        missing.
        """
        folder = local_folder(model)
        try:
            parts = {"unet": _outline(folder or model)} if encoders_only else {}
            folder = folder or Path(cls.download(model, use_safetensors=True, **parts))
            with without_loading_bars():
                needed = [name for name in cls.networks if name not in parts]
                parts |= {name: network(cls.networks[name], folder, name, dtype=dtype) for name in needed}
                return cls.from_pretrained(str(folder), **parts, **settings)
        except (OSError, ValueError, RuntimeError, SafetensorError, HTTPError) as error:
            reason = " ".join(str(error).split())[:300]
            advice = "pass a whole diffusers folder with safetensors weights, or a hub id that can be reached"
            raise CheckpointError(f"{model}: cannot be loaded ({reason}); {advice}") from error

    @property
    def conditioning(self) -> Kind:
        """What the UNet is told besides the picture or the text."""
        return self.config["conditioning"]

    @property
    def size(self) -> int:
        """Height and width of the frames in pixels that the model was trained at."""
        return int(self.unet.config.sample_size) * self.vae_scale_factor

    @torch.no_grad()
    def denoise(
        self,
        sample: Float[Tensor, "b v c h w"],
        condition: Float[Tensor, "b v k h w"] | None,
        embeddings: Float[Tensor, "b l d"],
        time_ids: Float[Tensor, "b *n"],
        *,
        scales: Float[Tensor, "v"],
        callback: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
    ) -> Float[Tensor, "b v c h w"]:
        """All steps of the scheduler, from `sample`, its first noise, under the guidance of each frame.

        `condition` is what the UNet sees beside the noisy latents, of `conditioning.shown`, if it does. Where
        no frame is guided, the unconditional half, for which all conditions are zeros, is not computed.
        """
        kind = self.conditioning
        self._guidance_scale = scales = scales.to(sample)[:, None, None, None]
        guided = bool((scales != 1).any())
        if guided:
            embeddings = torch.cat([torch.zeros_like(embeddings), embeddings])
            time_ids = torch.cat([time_ids, time_ids])
            if condition is not None:
                condition = torch.cat([torch.zeros_like(condition), condition])
        with self.progress_bar(total=len(self.scheduler.timesteps)) as bar:  # type: ignore[call-arg]
            for step, time in enumerate(self.scheduler.timesteps):
                noisy = torch.cat([sample, sample]) if guided else sample
                noisy = self.scheduler.scale_model_input(noisy, time)
                seen = noisy if condition is None else torch.cat([noisy, condition], dim=2)
                output = self.unet(
                    conditions.to_network(seen, kind),
                    time,
                    encoder_hidden_states=embeddings,
                    added_time_ids=time_ids,
                ).sample
                output = conditions.from_network(output, kind)
                if guided:
                    unconditional, conditional = output.chunk(2)
                    output = unconditional + scales * (conditional - unconditional)
                sample = self.scheduler.step(output, time, sample).prev_sample
                if callback is not None:
                    changed = callback(self, step, time, {"latents": sample})
                    sample = changed.get("latents", sample)
                bar.update()
        return sample

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of one frame's latents; refuses sizes that do not come out even."""
        multiple = self.vae_scale_factor
        if height < multiple or width < multiple or height % multiple or width % multiple:
            raise ConfigError(f"size {width} x {height}: must be a multiple of {multiple}; choose another")
        if height * width > images.MAX_PIXELS:
            raise ConfigError(f"size {width} x {height}: above {MEGAPIXELS} megapixels; choose a smaller one")
        return int(self.unet.config.out_channels), height // multiple, width // multiple


def network(kind: Any, folder: Path, name: str, *, dtype: torch.dtype) -> Any:
    """One part of a checkpoint, of a class, with every weight from its file, or a `ValueError`."""
    part, report = kind.from_pretrained(
        str(folder), subfolder=name, dtype=dtype, use_safetensors=True, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{name}: {len(missing)} weights are not in its file, such as {missing[0]}")
    return part


def _outline(source: Path | str) -> Any:
    """The UNet of a folder or a hub id without memory for its weights."""
    name = "unet/config.json"
    path = source / name if isinstance(source, Path) else Path(hf_hub_download(source, name))
    config = json.loads(path.read_text(encoding="utf-8"))
    with torch.device("meta"):
        return UNetSpatioTemporalConditionModel.from_config(config)


@contextlib.contextmanager
def without_loading_bars() -> Iterator[None]:
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


def check_views(count: int, *, name: str = "num_views") -> None:
    """Refuse a number of views or frames that cannot be denoised jointly."""
    if not 2 <= count <= MAX_VIEWS:
        raise ConfigError(f"{name} is {count}: must be from 2 to {MAX_VIEWS}; choose another")


def check_counts(**counts: int | None) -> None:
    """Refuse what is below 1."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}: must be at least 1; choose another")


def check_finite(**numbers: float) -> None:
    """Refuse what is not a number, or negative."""
    for name, value in numbers.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name} is {value}: must be a number, at least 0; choose another")


def check_latents(latents: Tensor | None, shape: tuple[int, ...]) -> None:
    """Refuse first noise of another shape, or broken."""
    if latents is None:
        return
    if latents.shape != shape:
        raise ConfigError(f"latents: of shape {tuple(latents.shape)}, but this call needs {shape}")
    if not latents.isfinite().all():
        raise ConfigError("latents: they hold numbers that are not finite; pass noise of variance 1")


def check_output(output_type: str, *, generators: object, count: int, what: str) -> None:
    """Refuse types of output that are not known, and a list of generators that is not one each."""
    if output_type not in get_args(OutputType):
        known = ", ".join(get_args(OutputType))
        raise ConfigError(f"output_type {output_type!r}: not known; choose one of {known}")
    if isinstance(generators, list) and len(generators) != count:
        raise ConfigError(f"{len(generators)} generators for {count} {what}; give one each")
