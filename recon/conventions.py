"""Cameras in a wrong convention: silhouettes meet when the cameras are right, and seldom otherwise."""

import dataclasses
import logging
import math

import numpy as np
from jaxtyping import Float
from PIL import Image

from recon import fast, hull
from svd3d.cameras import OPENGL_TO_OPENCV, OPENGL_TO_PYTORCH3D, Cameras
from svd3d.errors import MeshError
from svd3d.images import to_float
from svd3d.sample import Sample

log = logging.getLogger(__name__)

MEET = 0.75
"""Views whose silhouettes agree with their own hull (mean IoU) less than this may have wrong cameras."""
CLEARLY = 0.3
"""Another convention is named when it makes the silhouettes agree by so much better."""
APART = 0.1
"""Silhouettes that agree less than this have no object in common."""
TRIAL_SIZE = 64
"""Longer side, in pixels, of the silhouettes that are tried."""
TRIAL_VIEWS = 24
"""Views that are tried, evenly spread over those there are."""
UPRIGHT_DEG = 45.0
"""How far the mean up direction of the cameras may lean from +Z before a warning."""


def check(views: Sample) -> None:
    """Refuse cameras whose silhouettes do not meet, with the name of the convention in which they would.

    Raises `MeshError`. Silhouettes that meet badly in every convention are warned about: generated views of
    thin objects do so (of 63 objects, moved by up to 4 of 128 pixels, the worst agrees by 0.23). A turned
    world changes no silhouette, so cameras that stand as if another axis than +Z were up are a warning, too.
    """
    chosen = np.linspace(0, len(views) - 1, min(len(views), TRIAL_VIEWS)).round().astype(int).tolist()
    cameras = views.cameras.view(chosen)
    scale = min(1.0, TRIAL_SIZE / max(cameras.height, cameras.width))
    height, width = (max(1, round(scale * side)) for side in (cameras.height, cameras.width))
    alpha = np.stack(
        [
            to_float(np.asarray(Image.fromarray(views.images[view, ..., 3]).resize((width, height))))
            for view in chosen
        ]
    )
    cameras = cameras.resized(height=height, width=width)
    agreement = _agreement(alpha, cameras)
    if agreement < MEET:
        tried = {name: _agreement(alpha, other) for name, other in _alternatives(cameras).items()}
        name, best = max(tried.items(), key=lambda each: each[1])
        problem = f"the silhouettes of these cameras do not meet (agreement {agreement:.2f})"
        if best > agreement + CLEARLY:
            raise MeshError(
                f"{problem}; they would as {name} ({best:.2f}): convert the cameras to OpenGL camera_to_world"
            )
        if agreement < APART:
            raise MeshError(f"{problem}, nor in another convention; check that they belong to these views")
        log.warning(
            "%s: the silhouettes agree by %.2f only; the views or their cameras are off", views.uid, agreement
        )
    up = cameras.camera_to_world[:, :3, 1].mean(axis=0)
    up /= max(float(np.linalg.norm(up)), 1e-9)
    if up[2] < math.cos(math.radians(UPRIGHT_DEG)):
        log.warning(
            "%s: for its cameras (%.2f, %.2f, %.2f) is up, not +Z; the mesh will not stand upright",
            views.uid,
            *up,
        )


def _agreement(alpha: Float[np.ndarray, "v h w"], cameras: Cameras) -> float:
    """The best agreement of the views with their hull, also when some of the views are off by a little."""
    silhouettes = hull.Silhouettes.of(alpha, cameras)
    best = 0.0
    for k in range(1, min(fast.MAX_K, len(alpha) - 1) + 1):
        best = max(best, fast.hull_agreement(silhouettes, alpha > hull.LEVEL, cameras, k))
        if best >= MEET:
            break
    return best


def _alternatives(cameras: Cameras) -> dict[str, Cameras]:
    """The cameras that the given matrices mean in other conventions, by name."""
    given, inverted = cameras.camera_to_world, cameras.world_to_camera
    turned = given.copy()
    turned[:, :3, :3] = given[:, :3, :3].transpose(0, 2, 1)
    meant = {
        "OpenCV cameras (y down, looking along +Z)": given @ OPENGL_TO_OPENCV,
        "PyTorch3D cameras (x left, looking along +Z)": given @ OPENGL_TO_PYTORCH3D,
        "world_to_camera matrices": inverted,
        "world_to_camera matrices of OpenCV cameras": inverted @ OPENGL_TO_OPENCV,
        "cameras with transposed rotations": turned,
        "OpenCV cameras with transposed rotations": turned @ OPENGL_TO_OPENCV,
    }
    return {name: dataclasses.replace(cameras, camera_to_world=matrices) for name, matrices in meant.items()}
