"""Every metric that a report can hold: unit, direction, range and definition, said once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from svd3d.config import did_you_mean
from svd3d.errors import ConfigError

Kind = Literal["views", "meshes"]
"""What a metric compares."""


@dataclass(frozen=True)
class Metric:
    """What a number means: the facts that a table needs beside it."""

    name: str
    kind: Kind
    unit: str
    higher_is_better: bool
    best: float
    digits: int
    """Decimals in tables; the JSON holds all of them."""
    definition: str


Ssim = Literal["gaussian", "gaussian-observed-range", "uniform"]
"""Which arithmetic a protocol means by `ssim`."""
SSIM: dict[Ssim, str] = {
    "gaussian": (
        "structural similarity (Wang et al. 2004): Gaussian window of 11 px, sigma 1.5, K = 0.01 and 0.03, "
        "data range 1, population covariance, mean over channels and wherever the window fits"
    ),
    "gaussian-observed-range": (
        "structural similarity: Gaussian window of 11 px, sigma 1.5, K = 0.01 and 0.03, population "
        "covariance, data range of each view the larger maximum minus minimum of the two pictures, mean over "
        "channels and wherever the window fits"
    ),
    "uniform": (
        "structural similarity: uniform window of 7 px, K = 0.01 and 0.03, data range of the 8 bits, sample "
        "covariance, mean over channels and wherever the window fits"
    ),
}
"""What each arithmetic is."""
Points = Literal["surface", "vertices", "visible"]
"""Between which points of two meshes distances are taken."""
POINTS: dict[Points, str] = {
    "surface": "samples spread evenly over the area",
    "vertices": "the vertices, whatever the faces between them",
    "visible": "the depth maps of 16 cameras at 30 degrees, thinned to one point per voxel of 0.01",
}
"""What each choice of points is."""
Volume = Literal["winding", "mesh2sdf"]
"""How volume IoU is counted."""
VOLUME: dict[Volume, str] = {
    "winding": (
        "counted on the cell centres of a cubic grid around both meshes that each winds around; watertight "
        "meshes only"
    ),
    "mesh2sdf": "counted on the grid points of [-1, 1] that are inside by the parity of crossings along x",
}
"""What each way of counting is."""

_ALL = (
    Metric("psnr", "views", "dB", True, 100.0, 2,
           "10 log10(1 / MSE) of each view, colours in [0, 1], MSE over pixels and channels, "
           "at most 100 dB (identical views); mean over views"),
    Metric("foreground-psnr", "views", "dB", True, 100.0, 2,
           "as psnr, over the pixels where the reference's alpha is above 0.5"),
    Metric("ssim", "views", "fraction", True, 1.0, 4, SSIM["gaussian"]),
    Metric("ssim-with-border", "views", "fraction", True, 1.0, 4,
           "as the Gaussian ssim with the observed data range, but the border counts too, the picture "
           "continued by reflection: torchmetrics' default since 1.4.2"),
    Metric("mask-iou", "views", "fraction", True, 1.0, 4,
           "intersection over union of alpha above 0.5; 1 where both masks are empty"),
    Metric("mse", "views", "squared colour", False, 0.0, 5,
           "mean squared difference over pixels and channels, colours in [0, 1]"),
    Metric("lpips-alex", "views", "distance", False, 0.0, 4, "LPIPS 0.1 with AlexNet, inputs in [-1, 1]"),
    Metric("lpips-vgg", "views", "distance", False, 0.0, 4, "LPIPS 0.1 with VGG-16, inputs in [-1, 1]"),
    Metric("clip-s-b32", "views", "cosine", True, 1.0, 4, "cosine of CLIP ViT-B/32 image embeddings"),
    Metric("clip-s-l14", "views", "cosine", True, 1.0, 4, "cosine of CLIP ViT-L/14 image embeddings"),
    Metric("reprojection-psnr", "views", "dB", True, 100.0, 2,
           "consistency of a method's views with each other: PSNR of each view against its neighbours seen "
           "through the depth (the prediction's own where it comes with one, else the reference's)"),
    Metric("camera-fit", "views", "px", False, 0.0, 3,
           "how far a reconstruction moved each view's principal point to make the views agree"),
    Metric("chamfer", "meshes", "longest sides", False, 0.0, 5,
           "mean of the two mean distances from points of one mesh to the nearest point of the other, not "
           "squared; the reference's longest side is 1"),
    Metric("chamfer-squared", "meshes", "longest sides²", False, 0.0, 6,
           "as chamfer, of squared distances"),
    Metric("fscore-0.01", "meshes", "fraction", True, 1.0, 4,
           "harmonic mean of precision and recall: share of samples closer than 0.01 to the other's"),
    Metric("fscore-0.02", "meshes", "fraction", True, 1.0, 4,
           "harmonic mean of precision and recall: share of samples closer than 0.02 to the other's"),
    Metric("iou", "meshes", "fraction", True, 1.0, 4,
           "volume of the intersection over that of the union"),
    Metric("normal-consistency", "meshes", "cosine", True, 1.0, 4,
           "mean absolute cosine between the normals at each sample and at the nearest one of the other "
           "mesh, in both directions"),
)  # fmt: skip
METRICS = {metric.name: metric for metric in _ALL}
"""All metrics by name."""

GROUPS = {
    "fscore": ("fscore-0.01", "fscore-0.02"),
    "lpips": ("lpips-alex", "lpips-vgg"),
    "clip-s": ("clip-s-b32", "clip-s-l14"),
}
"""Names that stand for several metrics on the command line."""


def expand(names: Sequence[str], *, kind: Kind, protocol: str) -> tuple[str, ...]:
    """Metric names with groups spelled out, in the order given, each once.

    Raises `ConfigError` for a name that is unknown, or that compares another kind of thing.

    >>> expand(["fscore", "chamfer"], kind="meshes", protocol="mesh")
    ('fscore-0.01', 'fscore-0.02', 'chamfer')
    """
    expanded: dict[str, None] = {}
    for name in names:
        members = GROUPS.get(name, (name,))
        for member in members:
            if member not in METRICS:
                raise ConfigError(
                    f"metrics: unknown metric {name!r}. {did_you_mean(name, [*GROUPS, *METRICS])}"
                )
            if METRICS[member].kind != kind:
                other = "svd-mv" if kind == "meshes" else "mesh"
                raise ConfigError(
                    f"metrics: {name} compares {METRICS[member].kind}, protocol {protocol} compares {kind}; "
                    f"use --protocol {other}"
                )
            expanded[member] = None
    return tuple(expanded)
