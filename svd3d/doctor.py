"""`svd3d doctor`: what is installed, what each stage lacks, which device, how much disk. Changes nothing."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path

from svd3d import runs

NEEDS = {
    "render": ("bpy",),
    "model": ("torch", "diffusers", "transformers", "safetensors"),
    "recon": ("trimesh", "scipy", "skimage", "xatlas", "fast_simplification", "embreex"),
    "metrics": ("trimesh", "scipy"),
    "video": ("imageio", "imageio_ffmpeg"),
}
"""Modules that each extra brings and its stage cannot do without."""
BLENDER_LIBRARIES = {
    "SM": "libsm6",
    "Xrender": "libxrender1",
    "Xfixes": "libxfixes3",
    "Xi": "libxi6",
    "xkbcommon": "libxkbcommon0",
    "GL": "libgl1",
}
"""System libraries of the Blender wheel and the Debian packages that hold them."""


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    ok: bool
    finding: str


def examine(folder: Path) -> list[Check]:
    """Everything worth knowing before a stage is run; `folder` is where results would go."""
    checks = [
        Check("python", sys.version_info >= (3, 11), f"{platform.python_version()} on {platform.platform()}"),
        _packages_in_place(),
    ]
    for extra, modules in NEEDS.items():
        lacking = [module for module in modules if importlib.util.find_spec(module) is None]
        hint = f"lacks {', '.join(lacking)}; install with: pip install 'svd3d[{extra}]'"
        checks.append(Check(f"extra {extra}", not lacking, hint if lacking else _versions(modules)))
    lacking = [package for library, package in BLENDER_LIBRARIES.items() if find_library(library) is None]
    if sys.platform == "linux":
        hint = f"install with: sudo apt-get install {' '.join(lacking)}"
        checks.append(Check("blender libraries", not lacking, hint if lacking else "all found"))
    checks.append(_device())
    free = shutil.disk_usage(runs.nearest_parent(folder)).free / 1e9
    checks.append(Check("disk", free > 2, f"{free:.0f} GB free at {folder.absolute()}"))
    return checks


def _packages_in_place() -> Check:
    """`render` and `recon` are common names: a file of the user's may stand in their place."""
    home = Path(__file__).resolve().parents[1]
    for name in ("render", "recon"):
        spec = importlib.util.find_spec(name)
        found = None if spec is None or spec.origin is None else Path(spec.origin).resolve().parents[1]
        if found != home:
            where = spec.origin if spec else "nowhere"
            return Check("packages", False, f"{name} is found at {where}, not beside svd3d; rename that file")
    return Check("packages", True, f"svd3d, render and recon from {home}")


def _versions(modules: tuple[str, ...]) -> str:
    names = importlib.metadata.packages_distributions()
    found = {names[module][0] for module in modules if module in names}
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(found))


def _device() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if importlib.util.find_spec("torch") is None:
        return Check("device", False, f"{cores} CPU cores; torch is not installed, so GPUs are not known")
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Check("device", True, f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB; {cores} CPU cores")
    return Check("device", True, f"{cores} CPU cores, no GPU that torch can use")
