"""Settings of the stages in `svd3d`: frozen dataclasses that are recipe, command line and help at once.

`render` and `recon` keep theirs in `render/config.py` and `recon/config.py`. No torch here: `--help` must
answer at once.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from svd3d.config import check

Metric = Literal[
    "psnr", "foreground-psnr", "ssim", "mse", "mask-iou", "chamfer", "fscore", "iou", "lpips", "clip-s"
]


@dataclass(frozen=True)
class GenerateConfig:
    """Views around an object from one picture of it, by a Stable-Video-Diffusion multi-view model."""

    image: Positional[Path]
    """A picture with transparency or a plain background, or a sample folder (condition view and orbit)."""
    out: Path
    """Folder for the result: OUT/<name>/ is the sample, with contact_sheet.png and orbit.mp4 inside."""
    model: str = "tiny"
    """Hub id or folder of a diffusers pipeline, or `tiny`, the small model that ships with svd3d."""
    elevation_deg: float | None = None
    """Elevation of the camera that took the picture; default: the sample's, or 10 for a plain picture."""
    num_views: int | None = None
    """Views around the object; view 0 is the picture. Default: the sample's, or 21 for a plain picture."""
    size: int | None = None
    """Height and width of the views in pixels; default: the size the model was trained at."""
    steps: int = 25
    """Denoising steps."""
    min_guidance: float = 1.0
    """Classifier-free guidance at the input view; 1 means none."""
    max_guidance: float | None = None
    """Classifier-free guidance at the opposite view; default: what the model's card asks for."""
    seed: int = 0
    """Seed of the noise; the same seed gives the same bytes on the same machine."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""
    decode_chunk_size: int = 7
    """Views decoded at once; fewer need less memory."""

    def __post_init__(self) -> None:
        views, size, elevation, chunk = self.num_views, self.size, self.elevation_deg, self.decode_chunk_size
        check(views is None or views >= 2, f"num_views must be at least 2; got {views}")
        check(size is None or size >= 16, f"size must be at least 16 pixels; got {size}")
        check(self.steps >= 1, f"steps must be at least 1; got {self.steps}")
        check(chunk >= 1, f"decode_chunk_size must be at least 1; got {chunk}")
        check(0 <= self.seed < 2**63, f"seed must lie between 0 and 2^63; got {self.seed}")
        check(
            elevation is None or abs(elevation) <= 90,
            f"elevation_deg must lie between -90 and 90; got {elevation}",
        )
        for name in ("min_guidance", "max_guidance"):
            scale = getattr(self, name)
            check(scale is None or math.isfinite(scale), f"{name} must be a finite number; got {scale}")


@dataclass(frozen=True)
class EvaluateConfig:
    """Scores of predictions against references: sample folders, plain folders of images, or GLB files."""

    pred: Path
    """Prediction: a sample folder, a folder of them, a folder of images, or a mesh file."""
    ref: Path
    """Reference, of the same kind."""
    out: Path
    """Folder for report.json, report.md and report.html."""
    protocol: str = "svd-mv"
    """How views are compared (background, size, which views): a name from svd3d/metrics/protocols.py."""
    metrics: tuple[Metric, ...] = ()
    """Which metrics; default: all of the protocol that can be computed here."""
    method: str = "prediction"
    """Name of the prediction in the report."""


@dataclass(frozen=True)
class DemoConfig:
    """The whole chain on one object, with a page to look at: OUT/index.html."""

    out: Path = Path("demo_out")
    """Folder for everything the demo makes."""
    object: Path | None = None
    """A GLB, OBJ, PLY or FBX file; default: a toy car that the bundled model has never seen."""
    model: str = "tiny"
    """Hub id or folder of a diffusers pipeline, or `tiny`."""
    size: int = 128
    """Height and width of the rendered views in pixels."""
    samples: int = 16
    """Light paths per pixel in Blender."""
    seed: int = 0
    """Seed of light and noise."""


@dataclass(frozen=True)
class MeshConfig:
    """One picture to a textured mesh: generate, then reconstruct."""

    image: Positional[Path]
    """A picture with transparency or a plain background."""
    out: Path
    """Folder for the views and the mesh."""
    model: str = "tiny"
    """Hub id or folder of a diffusers pipeline, or `tiny`."""
    elevation_deg: float | None = None
    """Elevation of the camera that took the picture; default 10."""
    steps: int = 25
    """Denoising steps."""
    seed: int = 0
    """Seed of the noise."""


@dataclass(frozen=True)
class DoctorConfig:
    """What is installed, what each stage lacks, which device, how much disk."""

    out: Path = Path(".")
    """Folder whose free disk space is reported."""
