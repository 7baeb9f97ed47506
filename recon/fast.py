"""Method `fast`: a surface from silhouettes alone, forgiving views that disagree."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Bool, Float

from recon import hull, surface
from recon.raster import render
from recon.result import Shape, Stopwatch
from recon.volume import Volume
from svd3d.cameras import Cameras
from svd3d.errors import MeshError
from svd3d.images import to_float
from svd3d.sample import Sample

MAX_K = 3
"""Larger values make the hull too fat to be a result (recon.md: k = 3 is a bound, not a shape)."""
GAIN = 0.01
"""A larger k must improve the agreement by this much to be chosen."""
TRIAL_RESOLUTION = 64
"""Voxels of the hulls that are compared to choose k."""
UNSEEN_SHARE = 2e-4
"""Silhouette pixels that a flat base may cost: outline pixels graze the cone below the object."""
SMOOTHING = 0.7
"""Standard deviation of the filter on the field, in voxels."""


@dataclass(frozen=True, eq=False)
class Carved:
    """A carved field and how well the views agree on it."""

    volume: Volume
    k: int
    agreement: Mapping[int, float]
    """Mean IoU of the views' silhouettes with those of a coarse hull, for each k tried."""
    base: float
    """Height of the flat cut under the lowest point that any view sees, in world units."""

    def details(self) -> dict[str, Any]:
        """What recon.json says of carving."""
        return {
            "k": self.k,
            "agreement": {str(k): round(value, 5) for k, value in self.agreement.items()},
            "base": round(self.base, 5),
            "resolution": max(self.volume.values.shape),
            "voxel_size": self.volume.voxel_size,
        }


def carve(alpha: Float[np.ndarray, "v h w"], cameras: Cameras, *, resolution: int) -> Carved:
    """Carve with the smallest k whose hull, seen from the cameras, covers what the views show.

    The hull of k = 1 lies inside every silhouette; views that disagree make it cover too little of them.
    Raises `MeshError` when nothing is left for any k.
    """
    hull.check_silhouettes(alpha)
    silhouettes = hull.Silhouettes.of(alpha, cameras)
    agreement: dict[int, float] = {}
    for k in range(1, min(MAX_K, len(alpha) - 1) + 1):
        agreement[k] = hull_agreement(silhouettes, alpha > hull.LEVEL, cameras, k)
        if k > 1 and agreement[k] < agreement[k - 1]:
            break
    best = 1
    for k, value in agreement.items():
        if value > agreement[best] + GAIN:
            best = k
    low, high = hull.object_box(silhouettes, cameras, k=best)
    volume = hull.carve(silhouettes, cameras, low, high, resolution=resolution, k=best)
    base = lowest_seen(volume.smoothed(SMOOTHING), alpha > hull.LEVEL, cameras)
    return Carved(cut_below(volume, base), best, agreement, base)


def lowest_seen(
    volume: Volume, inside: Bool[np.ndarray, "v h w"], cameras: Cameras, *, level: float = hull.LEVEL
) -> float:
    """The height below which nearly no ray through a silhouette first meets the level surface of a field.

    An orbit above the horizon never sees the underside, and carving leaves a cone there (slope: the
    elevation). What lies lower is such a cone: removing it costs at most UNSEEN_SHARE of the silhouettes.
    """
    whole = surface.extract(volume, level=level)
    _, depth = render(whole, cameras, samples_per_side=1)
    origins, directions = cameras.rays()
    heights = origins[:, None, None, 2] + depth * directions[..., 2]
    pixel = depth / cameras.intrinsics[:, 1, 1, None, None]
    met = (heights - 0.5 * pixel)[(depth > 0) & inside]
    return float(np.quantile(met, UNSEEN_SHARE)) if len(met) else float(whole.bounds[0, 2])


def cut_below(volume: Volume, height: float, *, level: float = hull.LEVEL) -> Volume:
    """The volume with nothing below a height; the cut falls between samples as any other surface."""
    heights = volume.origin[2] + volume.voxel_size * np.arange(volume.values.shape[2])
    ramp = (level + (heights - height) / (2 * volume.voxel_size)).clip(0, 1).astype(np.float32)
    return dataclasses.replace(volume, values=np.minimum(volume.values, ramp))


def shape(views: Sample, *, resolution: int, faces: int, watch: Stopwatch) -> Shape:
    """The surface of method `fast`."""
    with watch("carve"):
        carved = carve(to_float(views.images[..., 3]), views.cameras, resolution=resolution)
    with watch("surface"):
        closed = mesh(carved.volume, faces=faces)
    message = "" if carved.k == 1 else f"the silhouettes disagree; carved with k = {carved.k}"
    return Shape(closed, views.images, carved.details(), message)


def mesh(volume: Volume, *, faces: int) -> trimesh.Trimesh:
    """The closed surface of a carved field, lightly smoothed, with at most about `faces` triangles."""
    smooth = volume.padded(2).smoothed(SMOOTHING)
    level = hull.LEVEL if smooth.values.max() > hull.LEVEL else float(smooth.values.max()) / 2
    return surface.decimate(surface.main_parts(surface.extract(smooth, level=level)), faces=faces)


def hull_agreement(
    silhouettes: hull.Silhouettes, inside: Bool[np.ndarray, "v h w"], cameras: Cameras, k: int
) -> float:
    """Mean IoU of the views' silhouettes with those of a coarse hull; 0 when carving leaves nothing."""
    try:
        low, high = hull.object_box(silhouettes, cameras, k=k)
        volume = hull.carve(silhouettes, cameras, low, high, resolution=TRIAL_RESOLUTION, k=k)
        shape = surface.extract(volume, level=hull.LEVEL)
    except MeshError:
        return 0.0
    _, depth = render(shape, cameras, samples_per_side=1)
    return silhouette_iou(depth > 0, inside)


def silhouette_iou(ours: Bool[np.ndarray, "v h w"], theirs: Bool[np.ndarray, "v h w"]) -> float:
    """Mean over the views of intersection over union; views empty on both sides count as 1."""
    both, either = (ours & theirs).sum(axis=(1, 2)), (ours | theirs).sum(axis=(1, 2))
    return float(np.where(either > 0, both / np.maximum(either, 1), 1.0).mean())
