"""Pictures of a saved field: a sample folder with depth, and a film."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recon.config import RenderFieldConfig
from recon.field import Field
from recon.result import seen_again
from recon.threads import device_of
from svd3d import images, runs, sample
from svd3d.cameras import Cameras, Orbit
from svd3d.sample import Sample


@dataclass(frozen=True)
class Rendered:
    """What was written."""

    folder: Path
    views: int
    seconds: float


def run(config: RenderFieldConfig) -> Rendered:
    """Render a field into OUT: a sample with depth, contact_sheet.png and orbit.mp4.

    Raises `InputError` when the field cannot be read, `SampleError` for a bad sample of cameras.
    """
    start = time.monotonic()
    device = device_of(config.device)
    field, fitted = Field.load(config.field)
    made = rendered(field.to(device), _views(config, fitted))
    folder = runs.output_folder(config.out)
    images.write_png(folder / "contact_sheet.png", images.contact_sheet(made.images))
    images.write_film(folder / "orbit.mp4", list(images.to_uint8(images.composite(made.images))))
    seconds = time.monotonic() - start
    origin = config.field.parent / "manifest.json"
    runs.write_manifest(
        folder,
        stage="render-field",
        config=config,
        inputs={"field": config.field},
        licences=sample.read_json(origin)["licences"] if origin.is_file() else [],
        seconds={"render": seconds},
        device=device,
    )
    sample.write(made, folder)
    return Rendered(folder, len(made), seconds)


def rendered(field: Field, like: Sample) -> Sample:
    """A field at the cameras of a sample, with depth."""
    return seen_again(like, *field.render(like.cameras), uid=like.uid)


def _views(config: RenderFieldConfig, fitted: Cameras) -> Sample:
    """The views to render, still empty."""
    size = config.size or fitted.height
    if config.cameras_from is not None:
        like = sample.read(config.cameras_from)
        return like if config.size is None else like.resized(size)
    orbit = Orbit.static(
        num_views=config.views,
        elevation_deg=config.elevation_deg,
        azimuth_deg=config.azimuth_deg,
        distance=float(np.median(np.linalg.norm(fitted.positions, axis=1))),
        fov_deg=float(np.degrees(2 * np.arctan(fitted.height / 2 / np.median(fitted.intrinsics[:, 1, 1])))),
    )
    nothing = np.zeros((config.views, size, size, 4), np.uint8)
    name = config.field.resolve().parent.name or "field"
    return Sample(
        uid=name,
        cameras=orbit.cameras(height=size, width=size),
        images=nothing,
        origin="reconstructed",
        orbit=orbit,
    )
