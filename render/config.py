"""Settings of the render stage: recipe, command line and help at once."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from svd3d.cameras import DEFAULT_FILL, DEFAULT_FOV_DEG, DEFAULT_VIEWS
from svd3d.config import check

MAY_CHANGE = (
    *("source", "out", "engine", "shard", "chunk", "ray_address", "workers", "threads", "timeout_s"),
    *("attempts", "memory_mb", "max_mb", "max_faces", "max_texture_mpx", "licence"),
)
"""Fields that may differ between two calls on one output folder, because they do not change a picture."""
Licence = Literal["cc0", "cc-by", "cc-by-sa", "cc-by-nc", "cc-by-nd", "cc-by-nc-sa", "cc-by-nc-nd"]
"""Licences that objects are filtered by; how a source spells them is normalised (`render.licences`)."""


@dataclass(frozen=True)
class RenderConfig:
    """Orbits of 3-D objects, rendered by Blender (Cycles): one sample folder per object."""

    source: Positional[Path]
    """A GLB, glTF, OBJ, PLY, STL or FBX file, a folder of them (also nested), or an objects.jsonl."""
    out: Path
    """Folder for the samples: OUT/<uid>/, with ledger.jsonl beside them. Running again resumes."""
    licence: tuple[Licence, ...] = ()
    """Only objects of these licences; default: all, also those without a known licence."""
    orbit: Literal["static", "dynamic", "random"] = "static"
    """static: one elevation, even azimuths (SVD); dynamic: smoothly varying elevation, uneven azimuths (SV3D,
    section 4); random: every view on its own, for tests of novel views."""
    views: int = DEFAULT_VIEWS
    """Views of an orbit; view k of a static one is at azimuth-deg + 360 k / views."""
    size: int = 576
    """Height and width of a view in pixels."""
    elevation_deg: tuple[float, float] = (-5.0, 30.0)
    """Lowest and highest elevation; each object draws its own from the seed and its uid."""
    azimuth_deg: float = 0.0
    """Azimuth of view 0, the condition view."""
    fov_deg: float = DEFAULT_FOV_DEG
    """Vertical field of view."""
    fill: float = DEFAULT_FILL
    """Part of the half frame that the object reaches in its widest view; the distance follows from it."""
    samples: int = 8
    """Light paths per pixel, before denoising; colours and edges get 9 camera rays of their own."""
    min_psnr: float | None = None
    """Fidelity to reach, as foreground PSNR in dB against a converged picture: method and light paths are
    then chosen and verified per object, and `samples` is not used. 40 is visually clean."""
    hdri: Path | None = None
    """Environment picture (.hdr, .exr), or a folder of them of which each object draws one; it is turned by a
    random angle. Default: a neutral grey sky."""
    seed: int = 0
    """Seed of elevations, light and noise; the same seed gives the same pictures."""
    depth: bool = True
    """Whether to keep the depth of each view."""
    normal: bool = False
    """Whether to keep the surface normals of each view (world space)."""
    device: Literal["auto", "cpu", "optix", "cuda", "hip", "oneapi", "metal"] = "auto"
    """What Cycles computes on; auto: the GPU that Blender finds, else the CPU."""
    allow_cpu: bool = False
    """Whether a Blender that lacks the device may use the CPU instead; otherwise that is an error."""
    blender: str | None = None
    """Blender's executable, or `blenderproc`; default: the package bpy."""
    engine: Literal["local", "ray"] = "local"
    """Where the work runs: child processes on this machine, or a Ray cluster that shares the folder OUT."""
    ray_address: str | None = None
    """Ray cluster to join, such as auto or HOST:6379; default: one of its own on this machine."""
    chunk: int = 16
    """Objects per Ray task; one Blender serves them all."""
    shard: tuple[int, int] = (0, 1)
    """I N: render only part I (0 to N-1) of N, for a job array; all parts share the folder OUT."""
    workers: int = 1
    """Blender processes at once."""
    threads: int = 2
    """Threads of each Blender process. More processes of one thread each finish more objects an hour."""
    timeout_s: float = 600.0
    """Wall-clock limit per object; a Blender that takes longer is stopped."""
    attempts: int = 3
    """How often an object may crash or hang Blender before it is quarantined."""
    memory_mb: float = 8000.0
    """Resident memory of one Blender above which it is stopped."""
    max_mb: float = 1000.0
    """Larger object files are refused."""
    max_faces: int = 5_000_000
    """Objects with more triangles are refused (5 million need about 2 GB)."""
    max_texture_mpx: float = 600.0
    """Objects with more texture megapixels in all are refused (600 need about 2.4 GB)."""

    def __post_init__(self) -> None:
        check(2 <= self.views <= 999, f"views must lie between 2 and 999; got {self.views}")
        check(8 <= self.size <= 4096, f"size must lie between 8 and 4096 pixels; got {self.size}")
        low, high = self.elevation_deg
        check(
            -90 <= low <= high <= 90,
            f"elevation_deg must be two angles from -90 to 90, low first; got {low} {high}",
        )
        check(math.isfinite(self.azimuth_deg), f"azimuth_deg must be a finite angle; got {self.azimuth_deg}")
        check(1 <= self.fov_deg <= 150, f"fov_deg must lie between 1 and 150; got {self.fov_deg}")
        check(0 < self.fill <= 1, f"fill must be above 0 and at most 1; got {self.fill}")
        psnr = self.min_psnr
        check(psnr is None or 20 <= psnr <= 60, f"min_psnr must lie between 20 and 60 dB; got {psnr}")
        part, parts = self.shard
        check(0 <= part < parts, f"shard must be I N with I from 0 to N-1; got {part} {parts}")
        check(0 <= self.seed < 2**31, f"seed must lie between 0 and {2**31 - 1}; got {self.seed}")
        for name in ("timeout_s", "memory_mb", "max_mb", "max_texture_mpx"):
            value = getattr(self, name)
            check(0 < value < math.inf, f"{name} must be above 0; got {value}")
        for name in ("samples", "workers", "threads", "attempts", "chunk", "max_faces"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1; got {getattr(self, name)}")


@dataclass(frozen=True)
class LedgerConfig:
    """How many objects of a folder are done, failed or open."""

    out: Positional[Path]
    """Folder that `svd3d render` writes or has written; also while it is running."""


@dataclass(frozen=True)
class FailuresConfig(LedgerConfig):
    """Failed objects by class, each with an example."""

    markdown: bool = False
    """Print the table as Markdown."""


@dataclass(frozen=True)
class WhyConfig:
    """The whole story of one object: every attempt, with the last words of Blender."""

    out: Positional[Path]
    """Folder that `svd3d render` has written."""
    uid: Positional[str]
    """The object."""


@dataclass(frozen=True)
class RetryConfig:
    """Let failed objects be tried again by the next `svd3d render`."""

    out: Positional[Path]
    """Folder that `svd3d render` has written."""
    uids: tuple[str, ...] = ()
    """Only these objects; default: all that failed."""
    kinds: tuple[str, ...] = ()
    """Only failures of these classes, such as crash or timeout (see: svd3d render failures)."""


@dataclass(frozen=True)
class DownloadConfig:
    """What `svd3d download` takes for every source."""

    out: Path
    """Folder for the objects and objects.jsonl, which `svd3d render` takes. Running again resumes."""
    count: int | None = None
    """How many objects, drawn by the seed; default: all. A larger count keeps those of a smaller one."""
    uids: Path | None = None
    """Only these objects: a text file with one uid a line."""
    licence: tuple[Licence, ...] = ()
    """Only objects of these licences; default: all, also those without a known licence."""
    seed: int = 0
    """Seed of the draw."""
    workers: int = 8
    """Files that are fetched at once."""
    max_mb: float = 1000.0
    """Larger downloads are refused."""
    timeout_s: float = 30.0
    """How long a server may stay silent."""

    def __post_init__(self) -> None:
        check(self.count is None or self.count >= 1, f"count must be at least 1; got {self.count}")
        check(0 <= self.seed < 2**31, f"seed must lie between 0 and {2**31 - 1}; got {self.seed}")
        check(1 <= self.workers <= 64, f"workers must lie between 1 and 64; got {self.workers}")
        for name in ("max_mb", "timeout_s"):
            value = getattr(self, name)
            check(0 < value < math.inf, f"{name} must be above 0; got {value}")


@dataclass(frozen=True)
class ObjaverseConfig(DownloadConfig):
    """Objects of Objaverse or Objaverse-XL, through the package objaverse and its folder ~/.objaverse."""

    lvis: tuple[str, ...] = ()
    """Only objects of these LVIS categories, such as chair or mug."""
    xl: Literal["sketchfab", "smithsonian", "thingiverse", "github"] | None = None
    """Take this part of Objaverse-XL instead of Objaverse 1.0; of GitHub only files that stand alone."""
    hub: str = "https://huggingface.co"
    """The Hugging Face hub, or a mirror of it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(not (self.lvis and self.xl), "lvis categories exist for Objaverse 1.0 only; drop lvis or xl")


@dataclass(frozen=True)
class GsoConfig(DownloadConfig):
    """Google Scanned Objects: 1 030 household items with textures, from Gazebo Fuel."""

    server: str = "https://fuel.gazebosim.org"
    """The Fuel server, or a mirror of it."""


@dataclass(frozen=True)
class SelectConfig:
    """A training list: the rendered objects whose stored scores lie within bounds. No picture is opened.

    A bound of null is none; any bound on a score leaves out objects without that score. The hints are from
    57 real objects and some made to be bad; what the scores mean is told in render/quality.py.
    """

    samples: Positional[Path]
    """Folder that `svd3d render` has written."""
    out: Path
    """File for the list: JSON lines with uid, path of the sample (relative to the list), licence, quality."""
    rejected: Path | None = None
    """File for the others: JSON lines with uid, reason, message."""
    licence: tuple[Licence, ...] = ()
    """Only objects of these licences; default: all, also those without a known licence."""
    missing_textures: bool = False
    """Whether objects that lack textures are let in."""
    touches_border: bool = True
    """Whether objects that a picture cuts off are let in."""
    max_blank_views: int | None = 0
    """Most views in which nothing is to be seen."""
    min_coverage: float | None = None
    """Least part of a picture that the object covers, on average; 0.02 keeps scissors and drops threads."""
    max_coverage: float | None = None
    """Largest part of a picture that the object covers, on average."""
    min_luminance: float | None = None
    """Lowest mean luminance, 0 to 1; 0.1 drops what is all black."""
    max_luminance: float | None = None
    """Highest mean luminance, 0 to 1; 0.95 drops what is all white."""
    min_contrast: float | None = None
    """Lowest standard deviation of luminance; shading alone gives up to 0.1."""
    min_colourfulness: float | None = None
    """Lowest colourfulness; 0.015 drops grey, untextured scans, and plain white porcelain with them."""
    max_magenta: float | None = None
    """Largest part in the colour of a missing texture; 0.2 is safe for painted objects."""
    max_transparency: float | None = None
    """Largest part that lets light through; 0.5 drops glass."""
    min_diversity: float | None = None
    """Least change over the views; 0.03 drops plain balls, which look the same from everywhere."""
    min_flatness: float | None = None
    """Smallest over largest extent; 0.03 drops cards and keeps scissors (0.05)."""
    min_faces: int | None = None
    """Fewest triangles."""
    max_faces: int | None = None
    """Most triangles."""
    near_duplicates: int | None = None
    """Keep the best of objects whose fingerprints differ in at most so many bits, 0 to 7. 6 finds about 8 of
    10 copies that were rendered at other elevations; unrelated objects begin at 12."""

    def __post_init__(self) -> None:
        bits = self.near_duplicates
        check(bits is None or 0 <= bits <= 7, f"near_duplicates must lie between 0 and 7; got {bits}")
        for name, value in vars(self).items():
            if name.startswith(("min_", "max_")) and value is not None:
                check(math.isfinite(value) and value >= 0, f"{name} must be 0 or more; got {value}")
        for name in ("coverage", "luminance", "faces"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            check(None in (low, high) or low <= high, f"min_{name} {low} is above max_{name} {high}")
