"""`svd3d video`: a text, a picture or a pair of them to a video, in a folder with its frames; or many."""

import dataclasses
import functools
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from svd3d import images, model, runs
from svd3d.errors import CheckpointError, ConfigError, InputError, require
from svd3d.settings import VideoConfig, lora_and_weight

if TYPE_CHECKING:
    from svd3d.model import memory
    from svd3d.model.video_pipeline import Takes

PUBLISHED_SIZE = (576, 1024)
"""Height and width of the frames of published models (SVD paper, appendix D.3)."""
NAME_LENGTH = 60
"""Of folders, without the numbers of samples."""
MAX_GUIDANCE = {"text": 7.0, "picture": 3.0, "pair of pictures": 1.0}
STOCK_MOTION = 127.0
"""The motion bucket that stock Stable Video Diffusion is told."""


@dataclass(frozen=True)
class Made:
    """What became of one video."""

    uid: str
    folder: Path | None
    """Holds video.mp4, frames/, video.json and the manifest, unless it failed."""
    status: Literal["done", "skipped", "failed"]
    message: str
    """Why it failed; empty otherwise."""
    seconds: float


@dataclass(frozen=True)
class _Source:
    """A text, or the path of a picture, or of the first and the last one."""

    text: str
    path: Path | None = None
    last: Path | None = None

    @property
    def takes(self) -> "Takes":
        """What a model must make videos of."""
        if self.path is None:
            return "text"
        return "picture" if self.last is None else "pair of pictures"

    @property
    def pictures(self) -> dict[str, Path]:
        """By what they are."""
        named = {"picture" if self.last is None else "first": self.path, "last": self.last}
        return {name: path for name, path in named.items() if path is not None}

    @property
    def name(self) -> str:
        """Of its folder: the words of the text, or the name of the file."""
        words = re.sub(r"[\W_]+", "-", self.text if self.path is None else self.path.stem)
        return words.strip("-").lower()[:NAME_LENGTH].strip("-") or self.takes


@dataclass(frozen=True)
class _Loaded:
    """The model, on its device, and what it makes unless it is told otherwise."""

    pipeline: Any
    device: str
    preset: "memory.Preset"
    num_frames: int
    size: tuple[int, int]
    seconds: float


def count(config: VideoConfig) -> int:
    """How many videos `run` will report."""
    return len(_sources(config)) * config.samples


def run(config: VideoConfig, *, tell: Callable[[str], object]) -> Iterator[Made]:
    """Make OUT/<name>/ of a text or a picture, or of each in a file or a folder; running it again resumes.

    Yields one result per video. Among many a bad picture is a failed result and the others go on; a single
    bad one raises, and nothing is written. Videos that are there with the same settings stay; with other
    settings they raise `ConfigError`. `tell` gets a line before the first video and one at the end. The model
    is not loaded when nothing is left to do.
    """
    sources = _sources(config)
    alone = len(sources) == 1
    weights = model.local_folder(config.model)
    adapters = [lora_and_weight(each) for each in config.lora]
    digest = functools.cache(runs.sha256)
    loaded: _Loaded | None = None
    taken: dict[str, _Source] = {}
    for source in sources:
        started = time.monotonic()
        try:
            pictures = [_read(path) for path in source.pictures.values()]
            if (other := taken.setdefault(source.name, source)) != source:
                raise InputError(
                    f"{source.text}: its name, {source.name}, is that of {other.text} too; change it"
                )
        except InputError as error:
            if alone:
                raise
            for uid in _uids(source, config.samples):
                yield Made(uid, None, "failed", str(error), time.monotonic() - started)
            continue
        out = runs.output_folder(config.out)
        inputs = {
            **source.pictures,
            **({"model": weights} if weights else {}),
            **{source: Path(source) for source, _ in adapters if Path(source).exists()},
        }
        for number, uid in enumerate(_uids(source, config.samples)):
            seed = config.seed + number
            single = dataclasses.replace(config, prompt=source.text, samples=1, seed=seed)
            folder = out / uid
            if runs.already_made(folder, config=single, inputs=inputs, digest=digest):
                yield Made(uid, folder, "skipped", "", 0.0)
                continue
            loaded = loaded or _load(config, takes=source.takes, quiet=not alone, tell=tell)
            started = time.monotonic()
            frames = _make(loaded, single, pictures, takes=source.takes)
            seconds = time.monotonic() - started
            with runs.atomic_folder(folder) as temporary:
                _write(temporary, frames, single, source)
                runs.write_manifest(
                    temporary,
                    stage="video",
                    config=single,
                    inputs=inputs,
                    seconds={"load": loaded.seconds, "make": seconds},
                    device=loaded.device,
                    digest=digest,
                )
            yield Made(uid, folder, "done", "", seconds)
    if loaded:
        from svd3d.model import memory

        tell(f"peak memory: {memory.peak_gb(loaded.device):.1f} GB")


def _sources(config: VideoConfig) -> list[_Source]:
    """The texts or pictures that a prompt names: what is no file and does not look like one is a text."""
    prompt, path = config.prompt, Path(config.prompt)
    if config.last is not None:
        first = runs.input_path(path, what="first picture")
        if first.is_dir():
            raise InputError(f"{first}: a folder, and --last ends one video; pass its first picture")
        return [_Source(prompt, first, runs.input_path(config.last, what="last picture"))]
    if os.path.isdir(prompt):
        visible = sorted(each for each in path.iterdir() if not each.name.startswith("."))
        found = [each for each in visible if each.suffix.lower() in images.SUFFIXES]
        if not found:
            raise InputError(
                f"{path}: holds no picture ({', '.join(images.SUFFIXES)}); pass a folder that does"
            )
        return [_Source(str(each), each) for each in found]
    if path.suffix == ".txt":
        return _lines(runs.input_path(path, what="file of texts"))
    if os.path.isfile(prompt) or path.suffix.lower() in images.SUFFIXES:
        return [_Source(prompt, runs.input_path(path, what="picture"))]
    if not prompt.strip():
        raise InputError("prompt: an empty text; say what shall be seen")
    return [_Source(prompt)]


def _lines(path: Path) -> list[_Source]:
    """The texts in a file, one a line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); pass texts in UTF-8, one a line") from error
    texts = [_Source(line.strip()) for line in lines if line.strip()]
    if not texts:
        raise InputError(f"{path}: holds no text; write one a line")
    return texts


def _uids(source: _Source, samples: int) -> list[str]:
    """Names of the videos of one text or picture."""
    return [source.name] if samples == 1 else [f"{source.name}-s{number}" for number in range(samples)]


def _read(path: Path) -> Image.Image:
    """A picture, over white where it is transparent."""
    return Image.fromarray(images.to_uint8(images.composite(images.read(path))))


def _load(config: VideoConfig, *, takes: "Takes", quiet: bool, tell: Callable[[str], object]) -> _Loaded:
    """The model on the device asked for, as the preset for its memory says."""
    started = time.monotonic()
    reason = "making videos"
    for package in ("torch", "diffusers", "transformers"):
        require(package, extra="model", reason=reason)
    require("imageio_ffmpeg", extra="video", reason=reason)
    import torch

    from svd3d.model import checkpoints, memory, video_pipeline

    device = memory.usable_device(config.device)
    preset = memory.chosen(config.vram, dtype=config.dtype, decode_chunk_size=config.decode_chunk_size)
    pipeline: Any = video_pipeline.load(config.model, takes=takes, dtype=getattr(torch, preset.dtype))
    published = pipeline.unet.config.sample_size == checkpoints.FRAME_SAMPLE_SIZE
    size = config.size or (PUBLISHED_SIZE if published else (pipeline.size, pipeline.size))
    num_frames = config.num_frames or int(pipeline.unet.config.num_frames)
    pipeline.latent_shape(*size)  # refused before anything is moved to a device
    _adapt(pipeline.unet, config)
    memory.apply(pipeline, preset, device=device)
    # None: only on a terminal; among many the bar of the steps makes room for that of the videos
    pipeline.set_progress_bar_config(desc="video", unit="step", disable=None, leave=not quiet)
    height, width = size
    tell(f"{config.model}: {num_frames} frames of {width} x {height} in {preset.dtype} on {device}")
    return _Loaded(pipeline, device, preset, num_frames, size, time.monotonic() - started)


def _adapt(unet: Any, config: VideoConfig) -> None:
    """Add the adapters to the weights. Raises `CheckpointError` for one that changes nothing."""
    from svd3d.model import lora

    for number, (source, weight) in enumerate(map(lora_and_weight, config.lora)):
        name = f"lora-{number}"
        lora.load(unet, source, name=name, weight=weight)
        if lora.changes_nothing(unet, name=name):
            raise CheckpointError(f"{source}: changes nothing, all its B are zero; train it, or leave it out")
    if config.lora:
        lora.fuse(unet)
        lora.remove(unet)


def _make(
    loaded: _Loaded, config: VideoConfig, pictures: list[Image.Image], *, takes: "Takes"
) -> UInt8[np.ndarray, "t h w 3"]:
    """The frames of one video."""
    import torch

    height, width = loaded.size
    largest = MAX_GUIDANCE[takes] if config.max_guidance is None else config.max_guidance
    least = 1.0 if takes == "picture" else largest
    settings: dict[str, Any] = {
        "height": height,
        "width": width,
        "num_inference_steps": config.steps,
        "guidance": "linear",
        "min_guidance_scale": least if config.min_guidance is None else config.min_guidance,
        "max_guidance_scale": largest,
        "fps": config.fps,
        "motion_bucket_id": _motion(config, takes),
        "decode_chunk_size": loaded.preset.decode_chunk_size,
        "generator": [torch.Generator().manual_seed(config.seed)],
    }
    try:
        seen = [ImageOps.fit(each, (width, height), Image.Resampling.LANCZOS) for each in pictures]
        if seen:
            settings |= {"noise_aug_strength": config.noise_aug}
        if takes == "picture":
            settings |= {"keep_input_view": False, "num_views": loaded.num_frames}
            (frames,) = loaded.pipeline(seen, **settings).views
        else:
            (frames,) = loaded.pipeline(
                *(seen or [config.prompt]), num_frames=loaded.num_frames, **settings
            ).frames
    except torch.OutOfMemoryError as error:
        advice = "try --vram 8, fewer --num-frames or a smaller --size"
        raise ConfigError(f"device {loaded.device}: out of memory ({error}); {advice}") from error
    if not np.isfinite(frames).all():
        raise CheckpointError(
            f"{config.model}: gave frames that are not finite; its weights are broken or need another --dtype"
        )
    return images.to_uint8(frames)


def _motion(config: VideoConfig, takes: "Takes") -> float | None:
    """What the model is told; None: nobody knows."""
    if config.motion == "unknown" or (config.motion is None and takes != "picture"):
        return None
    return STOCK_MOTION if config.motion is None else config.motion


def _write(folder: Path, frames: UInt8[np.ndarray, "t h w 3"], config: VideoConfig, source: _Source) -> None:
    """The film, its frames, and what it is of."""
    (folder / "frames").mkdir()
    for number, frame in enumerate(frames):
        images.write_png(folder / f"frames/{number:03d}.png", frame)
    images.write_film(folder / "video.mp4", list(frames), fps=config.fps, repeat=1)
    num_frames, height, width = frames.shape[:3]
    facts = {
        **({name: str(path) for name, path in source.pictures.items()} or {"text": source.text}),
        "model": config.model,
        "lora": list(config.lora),
        "num_frames": num_frames,
        "height": height,
        "width": width,
        "fps": config.fps,
        "motion": _motion(config, source.takes),
        "steps": config.steps,
        "seed": config.seed,
    }
    runs.write_json(folder / "video.json", facts)
