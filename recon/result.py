"""What reconstruction gives back, and the pictures and numbers made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import trimesh
from jaxtyping import UInt8

from recon.raster import render
from recon.volume import Volume
from svd3d.images import composite
from svd3d.sample import Sample

FORMAT = 1
"""Version of recon.json."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A textured mesh in the +Z up world, where it came from and how well it repeats its views."""

    uid: str
    method: str
    mesh: trimesh.Trimesh
    """Textured and therefore cut open along seams; read back from `glb`."""
    surface: trimesh.Trimesh
    """The same triangles without texture: closed, for everything that is measured."""
    volume: Volume
    """The field that the surface was cut from, level 0.5."""
    k: int
    """Carving kept the k-th smallest alpha of the views: 1 when the silhouettes agree."""
    agreement: Mapping[int, float]
    """Mean silhouette IoU of a coarse hull with the views, for each k tried."""
    base: float
    """Height of the flat cut under the lowest point that any view sees, in world units."""
    seen: float
    """Share of the surface that some view saw; the rest was filled in."""
    glb: bytes
    renders: Sample
    """The mesh at the cameras of the input."""
    silhouette_iou: float
    """Mean over the input views of the IoU of their silhouettes with those of the mesh."""
    psnr_db: float
    """Self-check: mean over the input views of the whole-image PSNR on white."""
    seconds: Mapping[str, float]
    """Wall-clock duration of each step."""

    def report(self) -> dict[str, Any]:
        """What recon.json says, as JSON types. Lengths are in world units (longest side of the object 1)."""
        return {
            "format": FORMAT,
            "uid": self.uid,
            "method": self.method,
            "k": self.k,
            "agreement": {str(k): round(value, 5) for k, value in self.agreement.items()},
            "base": round(self.base, 5),
            "resolution": max(self.volume.values.shape),
            "voxel_size": self.volume.voxel_size,
            "vertices": len(self.surface.vertices),
            "faces": len(self.surface.faces),
            "watertight": bool(self.surface.is_watertight),
            "volume": float(self.surface.volume),
            "area": float(self.surface.area),
            "seen": round(self.seen, 5),
            "silhouette_iou": round(self.silhouette_iou, 5),
            "self_check": {"metric": "psnr", "background": "white", "mean_db": round(self.psnr_db, 3)},
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def rendered(mesh: trimesh.Trimesh, like: Sample, *, uid: str) -> Sample:
    """A textured mesh at the cameras of another sample, with depth."""
    images, depth = render(mesh, like.cameras)
    return Sample(
        uid=uid,
        cameras=like.cameras,
        images=images,
        origin="reconstructed",
        condition_view=like.condition_view,
        orbit=like.orbit,
        object_to_world=like.object_to_world,
        depth=depth,
        about={key: like.about[key] for key in ("licence", "source") if key in like.about},
    )


def mean_psnr(ours: UInt8[np.ndarray, "v h w 4"], theirs: UInt8[np.ndarray, "v h w 4"]) -> float:
    """Mean over the views of the whole-image PSNR on white, in dB; 100 for equal pictures."""
    error = ((composite(ours) - composite(theirs)) ** 2).mean(axis=(1, 2, 3), dtype=np.float64)
    return float((-10 * np.log10(np.maximum(error, 1e-10))).mean())
