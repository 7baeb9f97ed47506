"""Protocols as data: everything that changes a number is named, and the name has a digest.

Published tables of one method differ by four decibels because background, masking, resizing and alignment
differ in silence. A report therefore carries its whole protocol, and two reports can be compared when
their protocol digests are equal.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from svd3d.config import did_you_mean
from svd3d.errors import ConfigError
from svd3d.images import WHITE
from svd3d.metrics.catalog import METRICS, Kind
from svd3d.metrics.geometry import Alignment

_VIEWS = (
    "psnr",
    "foreground-psnr",
    "ssim",
    "mask-iou",
    "lpips-alex",
    "lpips-vgg",
    "clip-s-b32",
    "clip-s-l14",
)
_MESHES = ("chamfer", "fscore-0.01", "fscore-0.02", "iou")


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
    static_orbit: bool = False
    """Views must lie evenly on a ring of one elevation (checked where cameras are known)."""
    exclude_condition_view: bool = False
    """Leave the view that the model was shown out of every mean."""
    baselines: bool = False
    """Score `input-copied` and `input-copied-mirrored` as methods."""
    background: tuple[float, float, float] = WHITE
    """Colour behind the straight alpha of both pictures, in [0, 1]; opaque pictures are taken as they are."""
    size: int | None = None
    """Height and width in pixels at which views are compared; None: the reference's, to which predictions are
    resized (Lanczos on premultiplied colour)."""
    camera_tolerance_deg: float = 0.5
    """Largest difference of viewing direction between prediction and reference."""
    camera_tolerance: float = 0.01
    """Largest difference of position (fraction of the distance), focal length and centre (fractions of the
    picture)."""
    alignment: Alignment = "bbox"
    """Meshes: how the prediction is brought into the reference's frame (`svd3d.metrics.geometry.align`)."""
    surface_samples: int = 100_000
    """Meshes: points per surface, area weighted, for Chamfer distance and F-score."""
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

    @property
    def digest(self) -> str:
        """SHA-256 of all fields and of the definitions of the metrics."""
        definitions = {name: METRICS[name].definition for name in self.metrics}
        content = json.dumps([dataclasses.asdict(self), definitions], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8")).hexdigest()

    def plain(self) -> dict[str, Any]:
        """The fields that matter to this kind of protocol, as JSON types."""
        meshes_only = {"alignment", "surface_samples", "iou_resolution"}
        views_only = {
            "num_views",
            "static_orbit",
            "exclude_condition_view",
            "baselines",
            "background",
            "size",
        }
        hidden = views_only if self.kind == "meshes" else meshes_only
        fields = {
            key: value
            for key, value in dataclasses.asdict(self).items()
            if key not in hidden and not (self.kind == "meshes" and key.startswith("camera_"))
        }
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}


_ALL = (
    Protocol(
        name="svd-mv",
        kind="views",
        about="Views around an object from one picture, as the SVD and SV3D papers evaluate: 21 views of a "
        "static orbit on white. The papers do not say whether the input view counts; here it does not.",
        metrics=_VIEWS,
        num_views=21,
        static_orbit=True,
        exclude_condition_view=True,
        baselines=True,
    ),
    Protocol(
        name="svd-mv-with-input",
        kind="views",
        about="As svd-mv, but the input view counts, as in public code that averages over all frames.",
        metrics=_VIEWS,
        num_views=21,
        static_orbit=True,
        baselines=True,
    ),
    Protocol(
        name="views",
        kind="views",
        about="All views as they are, from any cameras, on white: for re-renders of a reconstruction against "
        "held-out views, and for plain folders of images.",
        metrics=_VIEWS,
    ),
    Protocol(
        name="mesh",
        kind="meshes",
        about="Two surfaces, each scaled by its own bounding box to longest side 1 (as EscherNet does), so "
        "size and place do not count, orientation does. GLB and glTF are +Y up, OBJ and PLY +Z up.",
        metrics=_MESHES,
    ),
    Protocol(
        name="mesh-world",
        kind="meshes",
        about="A prediction that already stands in svd3d's world (reconstruct writes those) against "
        "an object scaled by its bounding box as the renderer does (SyncDreamer's choice): size and place "
        "count too.",
        metrics=_MESHES,
        alignment="world",
    ),
)
PROTOCOLS = {protocol.name: protocol for protocol in _ALL}
"""All protocols by name."""


def get(name: str) -> Protocol:
    """The protocol of that name; `ConfigError` with the nearest name otherwise.

    >>> get("svd-mv").num_views
    21
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol: there is no {name!r}. {did_you_mean(name, list(PROTOCOLS))}")
    return PROTOCOLS[name]
