"""`svd3d generate`: views around an object from one picture of it, as a sample folder; for one or many."""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from svd3d import console, cutout, images, model, runs, sample
from svd3d.cameras import DEFAULT_VIEWS, Orbit
from svd3d.errors import CheckpointError, ConfigError, InputError, SampleError, require
from svd3d.sample import Sample
from svd3d.settings import DECODE_CHUNK, MAX_VIEWS, GenerateConfig

if TYPE_CHECKING:
    import torch

    from svd3d.model import memory
    from svd3d.model.pipeline import SVDMVPipeline

log = logging.getLogger(__name__)
PLAIN_ELEVATION_DEG = 10.0
"""Assumed elevation of a picture that comes without cameras."""


@dataclass(frozen=True)
class Generated:
    """What became of one orbit."""

    uid: str
    folder: Path | None
    """The sample folder, unless it failed; it also holds the contact sheet and the film."""
    status: Literal["done", "skipped", "failed"]
    message: str
    """Why it failed; empty otherwise."""
    seconds: float


@dataclass(frozen=True)
class _Picture:
    """The input, ready for the model, and the orbit to generate."""

    uid: str
    rgba: UInt8[np.ndarray, "h h 4"]
    orbit: Orbit
    about: dict[str, object]


@dataclass(frozen=True)
class _Loaded:
    """The model, on its device."""

    pipeline: "SVDMVPipeline"
    device: str
    preset: "memory.Preset"
    seconds: float


def count(config: GenerateConfig) -> int:
    """How many orbits `run` will report."""
    return len(_sources(config.image)) * config.samples


def plan(config: GenerateConfig) -> str:
    """What `run` would take, in a line: orbits, memory, and roughly how long; no weights are loaded."""
    orbits = count(config)
    _need_packages()
    import torch

    from svd3d.model import duration, memory
    from svd3d.model.pipeline import SVDMVPipeline

    num_views = config.num_views or DEFAULT_VIEWS
    memory_text = _memory(config, num_views).text()
    index: Any = SVDMVPipeline.load_config(model.local_folder(config.model) or config.model)
    largest = index.get("max_guidance_scale") if config.max_guidance is None else config.max_guidance
    device = memory.usable_device(config.device)
    seconds = orbits * duration.estimate_s(
        config.model,
        size=config.size,
        views=num_views,
        steps=config.steps,
        guided=(config.min_guidance, largest) != (1, 1),
        dtype=getattr(torch, _preset(config).dtype),
        device=device,
    )
    return f"{orbits} orbits: {memory_text}; roughly {console.duration(seconds)} on {device}, if none is done"


def run(config: GenerateConfig, *, tell: Callable[[str], object] = log.info) -> Iterator[Generated]:
    """Generate OUT/<name>/ for a picture, or for each one in a folder; running it again resumes.

    Yields one result per orbit. In a folder a bad picture is a failed result and the others go on; a single
    bad one raises, and nothing is written. Orbits that are there with the same settings stay; with other
    settings they raise `ConfigError`. `tell` gets a line on memory before the model is loaded and one at the
    end. The model is not loaded when nothing is left to do.
    """
    sources = _sources(config.image)
    alone = sources == [config.image]
    if config.out.resolve() == config.image.resolve():
        raise InputError(f"{config.out}: is itself the input; choose another --out")
    weights = model.local_folder(config.model)
    cut_out = cutout.choose(config.background, network=config.cutout_network)
    digest = functools.cache(runs.sha256)
    loaded: _Loaded | None = None
    taken: dict[str, Path] = {}
    for source in sources:
        started = time.monotonic()
        try:
            picture = _read(config, source, cut_out)
            if (other := taken.setdefault(picture.uid, source)) != source:
                raise InputError(f"{source}: its name, {picture.uid}, is that of {other} too; rename one")
        except InputError as error:
            if alone:
                raise
            seconds = time.monotonic() - started
            for uid in _uids(source.stem, config.samples):
                yield Generated(uid, None, "failed", str(error), seconds)
            continue
        out = runs.output_folder(config.out)
        inputs = {"image": source, **({"model": weights} if weights else {})}
        todo: list[tuple[Path, GenerateConfig]] = []
        for number, uid in enumerate(_uids(picture.uid, config.samples)):
            single = dataclasses.replace(
                config, image=source, samples=1, batch_size=1, seed=config.seed + number
            )
            if runs.already_made(out / uid, config=single, inputs=inputs, digest=digest):
                yield Generated(uid, out / uid, "skipped", "", 0.0)
            else:
                todo.append((out / uid, single))
        for first in range(0, len(todo), config.batch_size):
            loaded = loaded or _load(config, picture.orbit.num_views, quiet=not alone, tell=tell)
            batch = todo[first : first + config.batch_size]
            started = time.monotonic()
            if config.estimate_elevation and source.is_file() and "elevation" not in picture.about:
                picture = _estimated(loaded.pipeline, picture)
            orbits = _generate(loaded, config, picture, seeds=[single.seed for _, single in batch])
            seconds = (time.monotonic() - started) / len(batch)
            for (folder, single), views in zip(batch, orbits, strict=True):
                with runs.atomic_folder(folder) as temporary:
                    _write(temporary, folder.name, picture, views, single)
                    runs.write_manifest(
                        temporary,
                        stage="generate",
                        config=single,
                        inputs=inputs,
                        licences=[str(picture.about["licence"])] if picture.about.get("licence") else [],
                        seconds={"load": loaded.seconds, "generate": seconds},
                        device=loaded.device,
                        digest=digest,
                    )
                yield Generated(folder.name, folder, "done", "", seconds)
    if loaded:
        from svd3d.model import memory

        tell(f"peak memory: {memory.peak_gb(loaded.device):.1f} GB")


def generate(
    pipeline: "SVDMVPipeline",
    rgba: UInt8[np.ndarray, "_h _w 4"],
    orbit: Orbit,
    *,
    generators: "Sequence[torch.Generator]",
    size: int | None = None,
    steps: int = 25,
    guidance: Literal["constant", "linear", "triangular"] = "triangular",
    min_guidance: float = 1.0,
    max_guidance: float | None = None,
    decode_chunk_size: int | None = DECODE_CHUNK,
) -> UInt8[np.ndarray, "b v h h 4"]:
    """Views of the whole orbit from its first one, once per generator, all in one batch.

    View 0 is the picture itself, with its own alpha. The model paints on white; the white around the object
    becomes transparent again. A view that is white everywhere is kept, fully transparent, with a warning.
    Raises `CheckpointError` if the model breaks down.
    """
    size = size or pipeline.size
    condition = images.resize(rgba, height=size, width=size)
    picture = Image.fromarray(images.to_uint8(images.composite(condition)))
    output = pipeline(
        [picture] * len(generators),
        orbit=orbit,
        height=size,
        width=size,
        num_inference_steps=steps,
        guidance=guidance,
        min_guidance_scale=min_guidance,
        max_guidance_scale=max_guidance,
        decode_chunk_size=decode_chunk_size,
        generator=list(generators),
    )
    if not np.isfinite(output.views).all():
        raise CheckpointError(
            "the model gave views that are not finite; its weights are broken or need a larger number format"
        )
    orbits = []
    for painted in output.views:
        views = np.stack([condition, *(images.remove_white(view) for view in painted[1:])])
        if blank := [index for index, view in enumerate(views) if not view[..., 3].any()]:
            log.warning("views without any object: %s; try another seed or more steps", blank)
        orbits.append(views)
    return np.stack(orbits)


def _sources(path: Path) -> list[Path]:
    """The pictures and sample folders at a path: itself, or what lies directly below it."""
    path = runs.input_path(path, what="image or sample folder")
    if not path.is_dir() or sample.is_sample(path):
        return [path]
    try:
        visible = sorted(child for child in path.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    found = [each for each in visible if each.suffix.lower() in images.SUFFIXES or sample.is_sample(each)]
    if not found:
        kinds = ", ".join(images.SUFFIXES)
        raise InputError(f"{path}: holds no picture ({kinds}) and no sample folder; pass one that does")
    return found


def _uids(name: str, samples: int) -> list[str]:
    """Names of the orbits of one picture."""
    return [name] if samples == 1 else [f"{name}-s{number}" for number in range(samples)]


def _read(config: GenerateConfig, path: Path, cut_out: cutout.CutOut) -> _Picture:
    """The condition view of a sample, as it is; or a plain picture, cut out and centred."""
    if path.is_dir():
        return _read_sample(config, path, cut_out)
    rgba = cut_out(images.read(path), where=str(path))
    side = max(rgba.shape[:2])
    elevation = PLAIN_ELEVATION_DEG if config.elevation_deg is None else config.elevation_deg
    orbit = Orbit.static(num_views=config.num_views or DEFAULT_VIEWS, elevation_deg=elevation)
    uid = path.stem.lstrip(".")[:45] or "picture"
    square = _pad(rgba) if config.background == "keep" else images.center(rgba, size=side)
    return _Picture(uid, square, orbit, {"source": str(path)})


def _pad(rgba: UInt8[np.ndarray, "_h _w 4"]) -> UInt8[np.ndarray, "h h 4"]:
    """The picture in the middle of a transparent square."""
    height, width = rgba.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(rgba, ((top, side - height - top), (left, side - width - left), (0, 0)))


def _read_sample(config: GenerateConfig, path: Path, cut_out: cutout.CutOut) -> _Picture:
    """The condition view of a sample, with the orbit that starts at its camera."""
    source = sample.read(path)
    if source.orbit is None or source.condition_view is None:
        raise SampleError(f"{path}: holds no orbit or condition view; pass one image instead")
    view = source.condition_view
    height, width = source.images.shape[1:3]
    if height != width:
        raise SampleError(
            f"{path}: views are {width} x {height}, expected square ones; pass one image instead"
        )
    num_views = config.num_views or len(source)
    if not 2 <= num_views <= MAX_VIEWS:
        raise SampleError(f"{path}: holds {num_views} views; say how many with --num-views, 2 to {MAX_VIEWS}")
    elevation = source.orbit.elevations_deg[view] if config.elevation_deg is None else config.elevation_deg
    orbit = Orbit.static(
        num_views=num_views,
        azimuth_deg=source.orbit.azimuths_deg[view],
        elevation_deg=elevation,
        distance=source.orbit.distance,
        fov_deg=source.orbit.fov_deg,
    )
    rgba = cut_out(source.images[view], where=f"{path}: view {view}")
    return _Picture(source.uid, rgba, orbit, {"source": str(path), "licence": source.about.get("licence")})


def _need_packages() -> None:
    reason = "generating views"
    for package in ("torch", "diffusers", "transformers"):
        require(package, extra="model", reason=reason)
    require("imageio_ffmpeg", extra="video", reason=reason)


def _load(config: GenerateConfig, num_views: int, *, quiet: bool, tell: Callable[[str], object]) -> _Loaded:
    """The model on the device asked for, as the preset for its memory says."""
    started = time.monotonic()
    _need_packages()
    import torch

    from svd3d.model import memory
    from svd3d.model.pipeline import SVDMVPipeline

    device = memory.usable_device(config.device)
    preset = _preset(config)
    tell(f"{config.model}: {_memory(config, num_views).text()}")
    pipeline = SVDMVPipeline.load(config.model, dtype=getattr(torch, preset.dtype))
    memory.apply(pipeline, preset, device=device)
    # None: only on a terminal; in a folder the bar of the steps makes room for that of the pictures
    pipeline.set_progress_bar_config(desc="generate", unit="step", disable=None, leave=not quiet)
    return _Loaded(pipeline, device, preset, time.monotonic() - started)


def _preset(config: GenerateConfig) -> "memory.Preset":
    """What --vram asks for, under what is set by hand."""
    from svd3d.model import memory

    return memory.chosen(config.vram, dtype=config.dtype, decode_chunk_size=config.decode_chunk_size)


def _memory(config: GenerateConfig, num_views: int) -> "memory.Estimate":
    """Memory of one batch, from the configuration of the model alone."""
    from svd3d.model import memory

    preset = _preset(config)
    return memory.estimate(
        config.model,
        size=config.size,
        views=num_views,
        dtype=preset.dtype,
        vram=config.vram,
        decode_chunk_size=preset.decode_chunk_size,
        batch=min(config.batch_size, config.samples),
    )


def _estimated(pipeline: "SVDMVPipeline", picture: _Picture) -> _Picture:
    """The picture with the orbit at the elevation that the model finds in it."""
    from svd3d.model import elevation

    square = images.resize(picture.rgba, height=pipeline.size, width=pipeline.size)
    white = Image.fromarray(images.to_uint8(images.composite(square)))
    views = picture.orbit.num_views
    orbit = Orbit.static(num_views=views, elevation_deg=elevation.estimate(pipeline, white, num_views=views))
    return dataclasses.replace(picture, orbit=orbit, about={**picture.about, "elevation": "estimated"})


def _generate(
    loaded: _Loaded, config: GenerateConfig, picture: _Picture, *, seeds: Sequence[int]
) -> UInt8[np.ndarray, "b v h h 4"]:
    """One orbit per seed, in one batch."""
    import torch

    try:
        with _shortcuts(loaded.pipeline, config):
            return generate(
                loaded.pipeline,
                picture.rgba,
                picture.orbit,
                generators=[torch.Generator().manual_seed(seed) for seed in seeds],
                size=config.size,
                steps=config.steps,
                guidance=config.guidance,
                min_guidance=config.min_guidance,
                max_guidance=config.max_guidance,
                decode_chunk_size=loaded.preset.decode_chunk_size,
            )
    except torch.OutOfMemoryError as error:
        advice = "try --vram 8, fewer --num-views, a smaller --size or --batch-size 1"
        raise ConfigError(f"device {loaded.device}: out of memory ({error}); {advice}") from error


@contextlib.contextmanager
def _shortcuts(pipeline: "SVDMVPipeline", config: GenerateConfig) -> Iterator[None]:
    """The solver and the shortcuts asked for, while an orbit is made."""
    from svd3d.model import fast

    with contextlib.ExitStack() as stack:
        stack.enter_context(fast.solver(pipeline, config.solver))
        if config.fast:
            stack.enter_context(fast.single_token_attention(pipeline.unet))
            stack.enter_context(fast.flat_convolutions(pipeline.unet, pipeline.vae))
            stack.enter_context(fast.cache_features(pipeline.unet))
        yield


def _write(
    folder: Path,
    uid: str,
    picture: _Picture,
    views: UInt8[np.ndarray, "v h h 4"],
    config: GenerateConfig,
) -> None:
    """The sample, its sheet and its film."""
    height, width = views.shape[1:3]
    images.write_png(folder / "contact_sheet.png", images.contact_sheet(views))
    images.write_film(folder / "orbit.mp4", list(images.to_uint8(images.composite(views))))
    made = Sample(
        uid=uid,
        cameras=picture.orbit.cameras(height=height, width=width),
        images=views,
        origin="generated",
        orbit=picture.orbit,
        about={**picture.about, "model": config.model, "steps": config.steps, "seed": config.seed},
    )
    sample.write(made, folder)
