"""`svd3d generate`: views around an object from one picture of it, as a sample folder."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from svd3d import images, model, runs, sample
from svd3d.cameras import DEFAULT_VIEWS, Orbit
from svd3d.errors import CheckpointError, ConfigError, SampleError, require
from svd3d.sample import Sample
from svd3d.settings import GenerateConfig

if TYPE_CHECKING:
    import torch

    from svd3d.model.pipeline import SVDMVPipeline

log = logging.getLogger(__name__)
SMALL_MODEL = 50_000_000
"""Parameters below which one CPU thread is used: two never won, and beside other work they lost tenfold."""
PLAIN_ELEVATION_DEG = 10.0
"""Assumed elevation of a picture that comes without cameras."""


@dataclass(frozen=True)
class Generated:
    """What one run made."""

    uid: str
    folder: Path
    """The sample folder; it also holds the contact sheet and the film."""
    seconds: float


@dataclass(frozen=True)
class _Picture:
    """The input, ready for the model, and the orbit to generate."""

    uid: str
    rgba: UInt8[np.ndarray, "h h 4"]
    orbit: Orbit
    about: dict[str, object]


def run(config: GenerateConfig) -> Generated:
    """Generate one orbit into OUT/<name>/. A finished orbit of the same settings is left as it is."""
    started = time.monotonic()
    picture = _read_picture(config)
    inputs = {"image": config.image}
    if weights := model.local_folder(config.model):
        inputs["model"] = weights
    folder = runs.output_folder(config.out) / picture.uid
    if runs.already_made(folder, config=config, inputs=inputs):
        return Generated(picture.uid, folder, 0.0)

    # 1. The model, on the device asked for
    reason = "generating views"
    for package in ("torch", "diffusers", "transformers"):
        require(package, extra="model", reason=reason)
    require("imageio_ffmpeg", extra="video", reason=reason)
    import torch

    from svd3d.model.pipeline import SVDMVPipeline

    device = _device(config.device)
    pipeline = SVDMVPipeline.load(config.model)
    pipeline.to(device)
    if device == "cpu" and pipeline.unet.num_parameters() < SMALL_MODEL:
        torch.set_num_threads(1)
    pipeline.set_progress_bar_config(desc="generate", unit="step", disable=None)  # None: only on a terminal
    loaded = time.monotonic()

    # 2. All views jointly
    views = generate(
        pipeline,
        picture.rgba,
        picture.orbit,
        size=config.size,
        steps=config.steps,
        min_guidance=config.min_guidance,
        max_guidance=config.max_guidance,
        decode_chunk_size=config.decode_chunk_size,
        generator=torch.Generator().manual_seed(config.seed),
    )
    generated = time.monotonic()

    # 3. The sample, its sheet and its film; transforms.json marks it done
    height, width = views.shape[1:3]
    result = Sample(
        uid=picture.uid,
        cameras=picture.orbit.cameras(height=height, width=width),
        images=views,
        origin="generated",
        orbit=picture.orbit,
        about={**picture.about, "model": config.model, "steps": config.steps, "seed": config.seed},
    )
    with runs.atomic_folder(folder) as temporary:
        images.write_png(temporary / "contact_sheet.png", images.contact_sheet(views))
        images.write_film(temporary / "orbit.mp4", list(images.to_uint8(images.composite(views))))
        runs.write_manifest(
            temporary,
            stage="generate",
            config=config,
            inputs=inputs,
            licences=[str(picture.about["licence"])] if picture.about.get("licence") else [],
            seconds={"load": loaded - started, "generate": generated - loaded},
            device=device,
        )
        sample.write(result, temporary)
    return Generated(picture.uid, folder, time.monotonic() - started)


def generate(
    pipeline: "SVDMVPipeline",
    rgba: UInt8[np.ndarray, "_h _w 4"],
    orbit: Orbit,
    *,
    size: int | None = None,
    steps: int = 25,
    min_guidance: float = 1.0,
    max_guidance: float | None = None,
    decode_chunk_size: int = 7,
    generator: "torch.Generator | None" = None,
) -> UInt8[np.ndarray, "v h h 4"]:
    """Views of the whole orbit from its first one; view 0 is the picture itself, with its own alpha.

    The model paints on white; the white around the object becomes transparent again. A view that is white
    everywhere is kept, fully transparent, with a warning. Raises `CheckpointError` if the model breaks down.
    """
    from PIL import Image

    size = size or pipeline.size
    condition = images.resize(rgba, height=size, width=size)
    output = pipeline(
        Image.fromarray(images.to_uint8(images.composite(condition))),
        elevation_deg=orbit.elevations_deg[0],
        azimuth_deg=orbit.azimuths_deg[0],
        distance=orbit.distance,
        num_views=orbit.num_views,
        height=size,
        width=size,
        num_inference_steps=steps,
        min_guidance_scale=min_guidance,
        max_guidance_scale=max_guidance,
        decode_chunk_size=decode_chunk_size,
        generator=generator,
    )
    if not np.isfinite(output.views).all():
        raise CheckpointError(
            "the model gave views that are not finite; its weights are broken or need a larger number format"
        )
    views = np.stack([condition, *(images.remove_white(view) for view in output.views[0, 1:])])
    if blank := [index for index, view in enumerate(views) if not view[..., 3].any()]:
        log.warning("views without any object: %s; try another seed or more steps", blank)
    return views


def _read_picture(config: GenerateConfig) -> _Picture:
    """The condition view of a sample, as it is; or a plain picture, cut out and centred."""
    path = runs.input_path(config.image, what="image or sample folder")
    if path.is_dir():
        return _read_sample(config, path)
    rgba = images.cut_out(images.read(path), where=str(path))
    elevation = PLAIN_ELEVATION_DEG if config.elevation_deg is None else config.elevation_deg
    orbit = Orbit.static(num_views=config.num_views or DEFAULT_VIEWS, elevation_deg=elevation)
    uid = path.stem.lstrip(".")[:50] or "picture"
    return _Picture(uid, images.center(rgba, size=max(rgba.shape[:2])), orbit, {"source": str(path)})


def _read_sample(config: GenerateConfig, path: Path) -> _Picture:
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
    elevation = source.orbit.elevations_deg[view] if config.elevation_deg is None else config.elevation_deg
    orbit = Orbit.static(
        num_views=config.num_views or len(source),
        azimuth_deg=source.orbit.azimuths_deg[view],
        elevation_deg=elevation,
        distance=source.orbit.distance,
        fov_deg=source.orbit.fov_deg,
    )
    rgba = images.cut_out(source.images[view], where=f"{path}: view {view}")
    return _Picture(source.uid, rgba, orbit, {"source": str(path), "licence": source.about.get("licence")})


def _device(name: str) -> str:
    """`auto` resolved; a GPU that is not there is refused rather than replaced."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name}: not usable here ({reason}); use --device cpu or auto") from error
    return name
