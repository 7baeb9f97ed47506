"""Settings of the render stage: recipe, command line and help at once."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from svd3d.cameras import DEFAULT_FILL, DEFAULT_FOV_DEG, DEFAULT_VIEWS
from svd3d.config import check

MAY_CHANGE = ("source", "out", "engine", "workers", "threads", "timeout_s", "attempts", "max_faces")
"""Fields that may differ between two calls on one output folder, because they do not change a picture."""


@dataclass(frozen=True)
class RenderConfig:
    """Orbits of 3-D objects, rendered by Blender (Cycles): one sample folder per object."""

    source: Positional[Path]
    """A GLB, glTF, OBJ, PLY, STL or FBX file, a folder of them (also nested), or an objects.jsonl."""
    out: Path
    """Folder for the samples: OUT/<uid>/, with ledger.jsonl beside them. Running again resumes."""
    views: int = DEFAULT_VIEWS
    """Views of an orbit; view k is at azimuth-deg + 360 k / views."""
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
    samples: int = 32
    """Light paths per pixel, before denoising; far above 32, quiet pixels stop early."""
    hdri: Path | None = None
    """Environment picture (.hdr, .exr), turned by a random angle per object; default: a neutral grey sky."""
    seed: int = 0
    """Seed of elevations, light and noise; the same seed gives the same pictures."""
    depth: bool = True
    """Whether to keep the depth of each view."""
    engine: Literal["local"] = "local"
    """Where the work runs: local = child processes on this machine."""
    workers: int = 1
    """Blender processes at once. One with two threads beats two with one."""
    threads: int = 2
    """Threads of each Blender process."""
    timeout_s: float = 600.0
    """Wall-clock limit per object; a Blender that takes longer is stopped."""
    attempts: int = 2
    """How often an object may crash or hang Blender before it is given up."""
    max_faces: int = 5_000_000
    """Objects with more triangles are refused (5 million need about 2 GB)."""

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
        suffix = self.hdri.suffix.lower() if self.hdri else ".hdr"
        check(suffix in (".hdr", ".exr"), f"hdri must be a .hdr or .exr file; got {self.hdri}")
        check(0 <= self.seed < 2**31, f"seed must lie between 0 and {2**31 - 1}; got {self.seed}")
        check(0 < self.timeout_s < math.inf, f"timeout_s must be above 0; got {self.timeout_s}")
        for name in ("samples", "workers", "threads", "attempts", "max_faces"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1; got {getattr(self, name)}")
