"""What reconstruction gives back, and the pictures and numbers made of it."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import trimesh
from jaxtyping import Float, UInt8

from recon.raster import render
from svd3d.sample import Sample

if TYPE_CHECKING:
    from recon.field import Field
    from recon.splat import Splats

FORMAT = 2
"""Version of recon.json."""


@dataclass
class Stopwatch:
    """Wall-clock seconds of the steps that ran under it."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Time a `with` block as a step."""
        start = monotonic()
        yield
        self.seconds[step] = monotonic() - start


@dataclass(frozen=True, eq=False)
class Shape:
    """A surface in the +Z up world, as a method found it."""

    surface: trimesh.Trimesh
    """Closed, with outward faces."""
    images: UInt8[np.ndarray, "v h w 4"]
    """The views as they fit the surface: where they disagreed, moved and freed of their gains."""
    details: Mapping[str, Any]
    """What the method says of itself in recon.json, as JSON types."""
    message: str = ""
    """What is noteworthy, for a person."""
    field: "Field | None" = None
    """The NeRF, where the method fits one."""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A textured mesh in the +Z up world, where it came from and how well it repeats its views."""

    uid: str
    method: str
    shape: Shape
    """How the surface was found; the triangles are those of `mesh`, closed, for all that is measured."""
    mesh: trimesh.Trimesh
    """Textured and therefore cut open along seams; read back from `glb`."""
    glb: bytes
    seen: UInt8[np.ndarray, "h w"]
    """255 where some view saw the texel; 0 where it was filled in, or lies on no chart."""
    seen_share: float
    """Of the surface."""
    renders: Sample
    """The mesh at the cameras of the input."""
    silhouette_iou: float
    """Mean over the input views of the IoU of their silhouettes with those of the mesh."""
    psnr_db: float
    """Self-check: mean over the input views of the whole-image PSNR on white."""
    splats: "Splats | None"
    """Gaussians begun on the mesh, where they were asked for."""
    seconds: Mapping[str, float]
    """Wall-clock duration of each step."""

    def report(self) -> dict[str, Any]:
        """What recon.json says, as JSON types. Lengths are in world units (longest side of the object 1)."""
        surface = self.shape.surface
        return {
            "format": FORMAT,
            "uid": self.uid,
            "method": self.method,
            **self.shape.details,
            "vertices": len(surface.vertices),
            "faces": len(surface.faces),
            "watertight": bool(surface.is_watertight),
            "volume": float(surface.volume),
            "area": float(surface.area),
            "seen": round(self.seen_share, 5),
            "silhouette_iou": round(self.silhouette_iou, 5),
            "self_check": {"metric": "psnr", "background": "white", "mean_db": round(self.psnr_db, 3)},
            **({"splats": self.splats.details()} if self.splats else {}),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def rendered(mesh: trimesh.Trimesh, like: Sample, *, uid: str) -> Sample:
    """A textured mesh at the cameras of another sample, with depth."""
    return seen_again(like, *render(mesh, like.cameras), uid=uid)


def seen_again(
    like: Sample, images: UInt8[np.ndarray, "v h w 4"], depth: Float[np.ndarray, "v h w"], *, uid: str
) -> Sample:
    """New pictures from the cameras of a sample; its licence stays."""
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
