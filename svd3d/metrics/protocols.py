"""Protocols as data: everything that changes a number is named, and the name has a digest.

Published tables of one method differ by four decibels because background, masking, resizing and alignment
differ in silence. A report therefore carries its whole protocol, and two reports can be compared when
their protocol digests are equal. Each protocol is one file in `svd3d/assets/protocols`.
"""

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from svd3d import config as configs
from svd3d.errors import ConfigError
from svd3d.images import WHITE
from svd3d.metrics import catalog
from svd3d.metrics.alignment import Alignment
from svd3d.metrics.catalog import Kind, Points, Ssim, Volume

FOLDER = Path(__file__).resolve().parents[1] / "assets/protocols"
"""One YAML file per protocol."""


@dataclass(frozen=True)
class Protocol:
    """How predictions are compared with references. Every field is part of the digest."""

    name: str
    kind: Kind
    """Whether views or meshes are compared."""
    about: str
    """What the protocol is for, and where its choices come from."""
    metrics: tuple[str, ...]
    """What is computed by default."""
    num_views: int | None = None
    """Views that the reference must have; None: any number."""
    views: tuple[int, ...] | None = None
    """Views of the reference that count; None: all. A prediction may hold only those."""
    orbit: Literal["any", "static", "dynamic"] = "any"
    """`static`: views lie evenly on a ring of one elevation; `dynamic`: once around at one distance with
    azimuths or elevations that vary. Checked where cameras are known."""
    elevation_deg: tuple[float, float] | None = None
    """Lowest and highest elevation of a view. Checked where cameras are known."""
    exclude_condition_view: bool = False
    """Leave the view that the model was shown out of every mean."""
    baselines: bool = False
    """Score what needs no model as methods too (`svd3d.metrics.baselines`)."""
    background: tuple[float, float, float] = WHITE
    """Colour behind the straight alpha of both pictures, in [0, 1]; opaque pictures are taken as they are."""
    soft_edges: Literal["blended", "kept"] = "blended"
    """`blended` with the background by their alpha, or `kept`: only pixels without any alpha get the
    background."""
    size: int | None = None
    """Height and width in pixels at which views are compared; None: the reference's."""
    resize: Literal["lanczos", "bicubic"] = "lanczos"
    """Filter for views of another size: Lanczos on premultiplied floats, or Pillow's bicubic on 8 bits."""
    ssim: Ssim = "gaussian"
    """Which arithmetic `ssim` stands for (`svd3d.metrics.catalog.SSIM`)."""
    camera_tolerance_deg: float = 0.5
    """Largest difference of viewing direction between prediction and reference."""
    camera_tolerance: float = 0.01
    """Largest difference of position (fraction of the distance), focal length and centre (fractions of the
    picture)."""
    alignment: Alignment = "bounding-box"
    """Meshes: how the prediction is brought into the reference's frame (`svd3d.metrics.alignment.align`)."""
    points: Points = "surface"
    """Meshes: between which points distances are taken (`svd3d.metrics.catalog.POINTS`)."""
    volume: Volume = "winding"
    """Meshes: how volume IoU is counted (`svd3d.metrics.catalog.VOLUME`)."""
    surface_samples: int = 100_000
    """Meshes: points per surface, area weighted, for distances."""
    iou_resolution: int = 64
    """Meshes: cells per side of the grid for volume IoU."""
    mean: str = "mean over the views of an object, then over objects"
    interval: str = (
        "95 % bootstrap interval of the mean over objects (percentiles); over views when there is one "
        "object; none with fewer than two of them"
    )
    bootstrap_samples: int = 10_000
    seed: int = 0
    """Of surface samples and bootstrap."""

    def __post_init__(self) -> None:
        catalog.expand(self.metrics, kind=self.kind, protocol=self.name)
        known = self.num_views or 0
        configs.check(self.num_views is None or known >= 1, f"num_views must be at least 1; got {known}")
        configs.check(
            self.views is None or (set(self.views) <= set(range(known)) and len(set(self.views)) > 0),
            f"views must lie between 0 and num_views - 1 = {known - 1}; got {self.views}",
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all fields and of the definitions of the metrics."""
        definitions = {name: self.definition(name) for name in self.metrics}
        content = json.dumps([dataclasses.asdict(self), definitions], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8")).hexdigest()

    def definition(self, metric: str) -> str:
        """What a metric means under this protocol."""
        variants = {
            "ssim": catalog.SSIM[self.ssim],
            "chamfer": catalog.METRICS["chamfer"].definition + "; points: " + catalog.POINTS[self.points],
            "iou": catalog.METRICS["iou"].definition + "; " + catalog.VOLUME[self.volume],
        }
        return variants.get(metric, catalog.METRICS[metric].definition)

    def plain(self) -> dict[str, Any]:
        """The fields that matter to this kind of protocol, as JSON types."""
        hidden = VIEWS_ONLY if self.kind == "meshes" else MESHES_ONLY
        fields = dataclasses.asdict(self)
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in fields.items()
            if key not in hidden
        }


MESHES_ONLY = {"alignment", "points", "volume", "surface_samples", "iou_resolution"}
VIEWS_ONLY = {
    "num_views", "views", "orbit", "elevation_deg", "exclude_condition_view", "baselines", "background",
    "soft_edges", "size", "resize", "ssim", "camera_tolerance_deg", "camera_tolerance",
}  # fmt: skip
"""Fields that say nothing about the other kind."""


def names() -> list[str]:
    """The protocols that ship, in alphabetical order."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


@functools.cache
def get(name: str) -> Protocol:
    """The protocol of that name, or of a YAML file of one's own (a path that ends in .yaml).

    Raises `ConfigError` with the nearest name when there is none, or naming what is wrong in the file.

    >>> get("svd-mv").num_views
    21
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if path.parent == FOLDER and path.stem not in names():
        raise ConfigError(f"protocol: there is no {name!r}. {configs.did_you_mean(name, names())}")
    return configs.build(Protocol, configs.read_recipe(Protocol, path), where=str(path))
