"""All views of the loaded object: pictures, depth and normals, as files in the request's folder.

000.rgba.npy     uint8 [h, w, 4], straight alpha, sRGB
000.depth.npy    float32 [h, w], along the optical axis in world units, 0 where there is nothing
000.normal.npy   float32 [h, w, 3], world space, unit length, 0 where there is nothing
"""

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from render.blender import compose, device, passes, pilot, scene

DEFAULT_OVERSAMPLING = 3
"""9 camera rays on a grid are worth about 32 random ones (measured)."""
GROUP_PIXELS = 4_000_000
"""Pixels whose surfaces are kept in memory at once; switching between surface and light costs time."""


STUDIO = ("camera_to_world", "borders", "fov_deg", "size", "threads", "seed", "light", "folder")


def render(request: dict[str, Any], *, progress: Callable[[int], None]) -> dict[str, Any]:
    """Render the views of a request; `progress(view)` is called after each."""
    used = device.choose(scene.cycles(), request["device"], allow_cpu=request["allow_cpu"])
    gpu = used["device"] != "CPU"
    studio = passes.Studio(gpu=gpu, **{name: request[name] for name in STUDIO})
    shots = pilot.Shots(studio)
    method, psnr = _method(shots, samples=request["samples"], min_psnr=request["min_psnr"])
    points = request["depth"] or request["normal"]
    per_group = max(1, GROUP_PIXELS // studio.size**2)
    for start in range(0, len(studio), per_group):
        group = range(start, min(start + per_group, len(studio)))
        if points or method.oversampling:
            for view in group:
                shots.surface(view, method.oversampling or 1)
        for view in group:
            picture = shots.picture(view, method)
            _write(request, studio, view, "rgba", compose.to_bytes(picture))
            if points:
                surface = shots.surface(view, method.oversampling or 1)
                if request["depth"]:
                    _write(request, studio, view, "depth", surface.centre_depth)
                if request["normal"]:
                    _write(request, studio, view, "normal", surface.centre_normal)
            progress(view)
        shots.forget()
    chosen = {**method._asdict(), "psnr_db": psnr, "denoised": studio.denoiser}
    return {"views": len(studio), "method": chosen, "device": used["device"]}


def _method(shots: pilot.Shots, *, samples: int, min_psnr: float | None) -> tuple[pilot.Method, float | None]:
    """The fixed method, or the one that the pilot finds."""
    volume = passes.has_volume()
    if min_psnr is None:
        return pilot.Method(0 if volume else DEFAULT_OVERSAMPLING, samples), None
    ladder = tuple(method for method in pilot.LADDER if not (volume and method.oversampling))
    method, psnr = pilot.choose(shots, min_psnr=min_psnr, ladder=ladder)
    return method, round(psnr, 2)


def _write(request: dict[str, Any], studio: passes.Studio, view: int, name: str, part: np.ndarray) -> None:
    """Write the box of a view as a whole picture."""
    whole = np.zeros((studio.size, studio.size, *part.shape[2:]), part.dtype)
    whole[studio.box(view)] = part
    np.save(os.path.join(request["folder"], f"{view:03d}.{name}.npy"), whole)
