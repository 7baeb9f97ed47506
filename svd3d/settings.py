"""Settings of the stages in `svd3d`: frozen dataclasses that are recipe, command line and help at once.

`render` and `recon` keep theirs in `render/config.py` and `recon/config.py`. No torch here: `--help` must
answer at once.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from svd3d.config import check

Metric = Literal[
    "psnr", "foreground-psnr", "ssim", "mse", "mask-iou", "chamfer", "fscore", "iou", "lpips", "clip-s"
]
Background = Literal["keep", "plain", "rembg"]
MAX_VIEWS = 1000
"""Of one orbit: the views are denoised jointly, and published models were trained on 14 to 25."""


@dataclass(frozen=True)
class GenerateConfig:
    """Views around an object from one picture of it, by a Stable-Video-Diffusion multi-view model."""

    image: Positional[Path]
    """A picture, a folder of pictures, a sample folder (condition view and orbit), or a folder of them."""
    out: Path
    """Folder for the results: OUT/<name>/ is a sample, with contact_sheet.png and orbit.mp4 inside."""
    model: str = "tiny"
    """Hub id or folder of a diffusers pipeline, or `tiny`, the small model that ships with svd3d."""
    background: Background = "plain"
    """`plain` removes one of one colour, `rembg` any (extra `cutout`); transparency that is there is kept by
    both. `keep` takes the picture as it is, padded to a square."""
    cutout_network: str = "u2net"
    """Network of `rembg`; its weights are taken from the folder $U2NET_HOME, or downloaded."""
    elevation_deg: float | None = None
    """Elevation of the camera that took the picture; default: the sample's, or 10 for a plain picture."""
    estimate_elevation: bool = False
    """Ask the model for the elevation of a plain picture: costs about as much as an orbit of 48 steps without
    guidance; scripts/benchmark_elevation.py tells how far off it is."""
    num_views: int | None = None
    """Views around the object; view 0 is the picture. Default: the sample's, or 21 for a plain picture."""
    size: int | None = None
    """Height and width of the views in pixels; default: the size the model was trained at."""
    steps: int = 25
    """Denoising steps."""
    solver: Literal["euler", "dpm++2m", "dpm++3m"] = "euler"
    """`euler` is what the published checkpoints come with; the others need fewer steps for the same views."""
    fast: bool = False
    """Compute deep features at every second step only; scripts/benchmark_sampling.py measures the cost."""
    guidance: Literal["constant", "linear", "triangular"] = "triangular"
    """How classifier-free guidance changes over the views; all of `constant` have the largest."""
    min_guidance: float = 1.0
    """Classifier-free guidance at the input view; 1 means none."""
    max_guidance: float | None = None
    """Largest classifier-free guidance, at the opposite view; default: what the model's card asks for."""
    samples: int = 1
    """Orbits per picture: OUT/<name>-s0/, -s1/ … with the seeds SEED, SEED + 1 …"""
    batch_size: int = 1
    """Orbits of one picture generated at once; more need more memory."""
    seed: int = 0
    """Seed of the noise; the same seed gives the same bytes on the same machine."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Number format of the networks; default: float32, or what --vram asks for."""
    vram: Literal[8, 12, 16, 24, 40, 80] | None = None
    """Fit into a GPU of so many GB: number format, parts in main memory, views decoded at once."""
    decode_chunk_size: int | None = None
    """Views decoded at once; fewer need less memory. Default: 7, or what --vram asks for."""

    def __post_init__(self) -> None:
        views, size, elevation, chunk = self.num_views, self.size, self.elevation_deg, self.decode_chunk_size
        check(
            views is None or 2 <= views <= MAX_VIEWS,
            f"num_views must lie between 2 and {MAX_VIEWS}; got {views}",
        )
        check(size is None or size >= 16, f"size must be at least 16 pixels; got {size}")
        for name in ("steps", "samples", "batch_size"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1; got {getattr(self, name)}")
        check(chunk is None or chunk >= 1, f"decode_chunk_size must be at least 1; got {chunk}")
        last = self.seed + self.samples - 1
        check(
            self.seed >= 0 and last < 2**63, f"seeds must lie between 0 and 2^63; got {self.seed} to {last}"
        )
        check(
            elevation is None or abs(elevation) <= 90,
            f"elevation_deg must lie between -90 and 90; got {elevation}",
        )
        check(
            elevation is None or not self.estimate_elevation,
            f"estimate_elevation: elevation_deg is given as {elevation}; leave out one of them",
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
class ConvertConfig:
    """Foreign weights to a diffusers folder of our pipeline: a multi-view model, or the start of one."""

    source: Positional[str]
    """A file in Stability's naming (svd, svd_xt, sv3d_u, sv3d_p.safetensors), a diffusers folder or hub id,
    or `tiny`; with --prior scratch also `svd`: random weights at the real size."""
    out: Path
    """Folder to make: model_index.json and safetensors weights, and the manifest."""
    prior: Annotated[
        Literal["auto", "svd", "sv3d_u", "sv3d_p", "sd21", "scratch"], tyro.conf.arg(aliases=["--from"])
    ] = "auto"
    """What training starts from. `svd`: the video prior, widened for the elevation; `sv3d_u`, `sv3d_p`:
    finished multi-view models; `sd21`: the image prior, Stable Diffusion 2.1 with temporal layers that change
    nothing yet; `scratch`: SOURCE with a UNet of random weights; `auto`: what SOURCE holds."""
    to: Literal["svd3d", "original"] = "svd3d"
    """`original` goes back: OUT/model.safetensors in Stability's naming."""
    dtype: Literal["source", "float32", "float16", "bfloat16"] = "source"
    """Number format of the weights; `source` keeps every bit."""
    size: int | None = None
    """Height and width of the views in pixels; default: 576, or what SOURCE makes views at already."""
    image_encoder: str = "stabilityai/stable-video-diffusion-img2vid-xt"
    """For sd21: hub id or folder of a pipeline whose image encoder, CLIP ViT-H/14, is taken."""
    seed: int = 0
    """Seed of all weights that SOURCE does not give."""

    def __post_init__(self) -> None:
        size = self.size
        check(size is None or (size >= 16 and size % 8 == 0), f"size must be a multiple of 8; got {size}")
        check(0 <= self.seed < 2**63, f"seed must lie between 0 and 2^63; got {self.seed}")


@dataclass(frozen=True)
class DoctorConfig:
    """What is installed, what each stage lacks, which device, how much disk."""

    out: Path = Path(".")
    """Folder whose free disk space is reported."""
