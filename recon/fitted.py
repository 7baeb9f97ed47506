"""Methods `nerf` and `sdf`: a field fitted to the views, and its surface as their silhouettes choose it."""

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import trimesh
from scipy import ndimage

from recon import fast, hull, levels, nerf, sdf, surface
from recon.result import Shape, Stopwatch
from recon.threads import device_of
from recon.volume import Volume
from svd3d.images import to_float
from svd3d.sample import Sample

log = logging.getLogger(__name__)

CONSISTENT = 0.97
"""Agreement of the carved hull below which it may cut into the object; a fatter one bounds the field then."""
AGREEMENT = 0.995
"""Mean silhouette IoU of the density's surface above which views agree, and no distance is fitted."""
SMOOTHING = 0.7
"""Standard deviation of the filter on the density, in voxels."""
FAIRING = 10
"""Rounds of smoothing of the mesh before it is thinned out."""
SPECK_LEVEL = 0.1
"""What touches the object only through less than this is apart from it."""
DISTRUST = 2.0
"""A view whose residual is so many times the median is distrusted."""


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A surface that may be the result."""

    volume: Volume
    level: levels.Level

    def mesh(self, *, faces: int) -> trimesh.Trimesh:
        """The closed surface with at most about `faces` triangles."""
        whole = surface.extract(self.volume, level=self.level.value)
        fair = surface.faired(surface.main_parts(whole), rounds=FAIRING)
        return surface.decimate(fair, faces=faces)


def shape(
    views: Sample,
    *,
    method: Literal["nerf", "sdf"],
    resolution: int,
    faces: int,
    seed: int,
    device: str,
    work: Path | None,
    watch: Stopwatch,
) -> Shape:
    """The surface of a density field or of a signed distance, whichever agrees better with the silhouettes.

    Method `nerf` fits a distance only where the views disagree, `sdf` always, and keeps the better of its two
    surfaces.
    """
    device = device_of(device)
    unfinished = work / "unfinished" if work else None
    with watch("carve"):
        alpha = to_float(views.images[..., 3])
        carved = fast.carve(alpha, views.cameras, resolution=resolution)
        bound = carved.volume
        if max(carved.agreement.values()) < CONSISTENT:
            k = min(fast.MAX_K, len(views) - 1)
            silhouettes = hull.Silhouettes.of(alpha, views.cameras)
            box = hull.object_box(silhouettes, views.cameras, k=k)
            bound = hull.carve(silhouettes, views.cameras, *box, resolution=resolution, k=k)
    with watch("nerf"):
        fit = nerf.fit(
            views,
            bound=bound,
            resolution=resolution,
            seed=seed,
            device=device,
            tell=log.info,
            state=unfinished / "nerf.safetensors" if unfinished else None,
        )
    with watch("surface"):
        density = without_specks(fit.field.volume().padded(sdf.OUTSIDE)).smoothed(SMOOTHING)
        level = levels.choose(density, fit.images[..., 3], views.cameras, device=device)
        inside = fit.images[..., 3] > 127
        base = fast.lowest_seen(density, inside, views.cameras, level=level.value)
        density = fast.cut_below(density, base, level=level.value)
        candidates = {"density": Candidate(density, level)}
    found = candidates["density"]
    if method == "sdf" or found.level.iou < AGREEMENT:
        with watch("sdf"):
            refined = sdf.fit(
                fit.images,
                views.cameras,
                start=density,
                level=found.level.value,
                seed=seed,
                device=device,
                tell=log.info,
                state=unfinished / "sdf.safetensors" if unfinished else None,
            )
            for name, volume in {"sdf": refined.volume, "sdf-nearest": refined.nearest}.items():
                level = levels.choose(volume, fit.images[..., 3], views.cameras, device=device)
                candidates[name] = Candidate(volume, level)
    allowed = [name for name in candidates if method == "nerf" or name != "density"]
    chosen = max(allowed, key=lambda name: candidates[name].level.iou)
    with watch("mesh"):
        closed = candidates[chosen].mesh(faces=faces)
    if unfinished:
        shutil.rmtree(unfinished, ignore_errors=True)
    distrusted = np.flatnonzero(fit.residuals > DISTRUST * np.median(fit.residuals)).tolist()
    details = {
        **carved.details(),
        "base": round(base, 5),
        "field": "field.safetensors",
        "surface": chosen,
        "candidates": {
            name: {"level": round(each.level.value, 3), "silhouette_iou": round(each.level.iou, 5)}
            for name, each in candidates.items()
        },
        "nerf": {"psnr_db": round(fit.psnr_db, 3)},
        "views": {
            **{
                name: np.asarray(getattr(fit, name), dtype=np.float64).round(4).tolist()
                for name in ("shifts_px", "gains", "offsets", "residuals")
            },
            "distrusted": distrusted,
        },
    }
    return Shape(closed, fit.images, details, _message(chosen, candidates, distrusted), fit.field)


def without_specks(volume: Volume) -> Volume:
    """The volume without what is small and apart: samples at the border of a field that no ray meets."""
    labels = np.zeros(volume.values.shape, np.int32)
    ndimage.label(volume.values > SPECK_LEVEL, output=labels)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    small = (sizes < surface.SMALL_PART * sizes.max()) & (np.arange(len(sizes)) > 0)
    values = np.where(ndimage.grey_dilation(small[labels], 3), 0, volume.values)
    return dataclasses.replace(volume, values=values)


def _message(chosen: str, candidates: dict[str, Candidate], distrusted: list[int]) -> str:
    words = []
    if len(candidates) > 1:
        compared = " and ".join(f"{each.level.iou:.4f} ({name})" for name, each in candidates.items())
        words.append(f"surface of the {chosen}: silhouette IoU {compared}")
    if distrusted:
        words.append(f"view {', '.join(map(str, distrusted))} fits badly")
    return "; ".join(words)
