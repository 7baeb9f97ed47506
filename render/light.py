"""What lights the objects: a neutral sky, or environment pictures of which each object gets one.

A light is a dictionary, as Blender's worker wants it (`request`) or as the sample remembers it (`about`).
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from svd3d.errors import ImageError
from svd3d.runs import input_path

SKY_MEAN = 0.7
"""Radiance of the neutral sky, averaged over all directions."""
SKY_SLOPE = 0.55
"""How much brighter the brightest direction of the neutral sky is than its mean."""
SKY_DIRECTION = (0.35, -0.5, 0.8)
"""Where the neutral sky is brightest, in the world (+Z up): above, to the right of the camera at -Y."""
SUFFIXES = (".hdr", ".exr")
"""Files of a folder that are taken for environment pictures."""
MAGIC = (b"#?RADIANCE", b"#?RGBE", b"\x76\x2f\x31\x01")
"""First bytes of Radiance HDR and OpenEXR files."""


def sky() -> dict[str, Any]:
    """The neutral sky: radiance L(d) = mean + slope . d for a unit direction d.

    A first-order environment lights a white Lambertian surface of normal n without occlusion with
    exactly L = mean + 2/3 slope . n (Ramamoorthi and Hanrahan 2001, equations 7 and 8), which a test
    checks against Blender.
    """
    scale = SKY_SLOPE / math.sqrt(sum(part**2 for part in SKY_DIRECTION))
    return {"kind": "sky", "mean": SKY_MEAN, "slope": [part * scale for part in SKY_DIRECTION]}


def find(path: Path | None) -> list[Path]:
    """The environment pictures that `path` names: none, one file, or those of a folder, sorted by name.

    Raises `ImageError`, naming the file, for one that is neither Radiance HDR nor OpenEXR by its first
    bytes, and for a folder without any; `InputError` when there is no such path.
    """
    if path is None:
        return []
    try:
        found = _inside(path) if input_path(path, what="environment picture").is_dir() else [path]
        for each in found:
            _check(each)
    except OSError as error:
        raise ImageError(
            f"{error.filename}: cannot be read ({error.strerror}); pass another --hdri"
        ) from error
    return found


def request(lights: Iterable[Path], name: str | None, *, turn_deg: float) -> dict[str, Any]:
    """The light for Blender's worker: the picture of that name among those found, or the neutral sky."""
    if name is None:
        return sky()
    (path,) = (light for light in lights if light.name == name)
    return {"kind": "hdri", "path": str(path.resolve()), "turn_deg": turn_deg}


def about(name: str | None, *, turn_deg: float) -> dict[str, Any]:
    """The light for the story of a sample: a picture by its name, not by a path of this machine."""
    return sky() if name is None else {"kind": "hdri", "file": name, "turn_deg": turn_deg}


def _inside(folder: Path) -> list[Path]:
    found = sorted(
        child
        for child in folder.iterdir()
        if child.suffix.lower() in SUFFIXES and not child.name.startswith(".")
    )
    if not found:
        raise ImageError(f"{folder}: holds no .hdr or .exr file; pass another --hdri")
    return found


def _check(path: Path) -> None:
    with open(path, "rb") as file:
        start = file.read(10)
    if not start.startswith(MAGIC):
        raise ImageError(
            f"{path}: neither Radiance HDR nor OpenEXR (it starts with {start!r}); pass another --hdri"
        )
