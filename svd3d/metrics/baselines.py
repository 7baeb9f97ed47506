"""What needs no model: methods that every prediction must beat, in the table of every report.

    input-copied            the condition view, whatever view is asked for
    input-copied-mirrored   the same, mirrored left to right where the camera looks from the back half
    silhouette              the true outline, filled with the mean colour of the condition view
    nearest-training-view   of the training orbits, the one with the view most like the condition view

All get the true condition view; the silhouette also the true outlines, so its mask IoU is 1.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from svd3d import images as pictures
from svd3d.errors import SampleError
from svd3d.metrics.pairing import Views, at_size, azimuths_deg
from svd3d.metrics.protocols import Protocol

NEAREST = "nearest-training-view"
"""Name of the baseline that needs training views."""
THUMBNAIL = 32
"""Height and width in pixels at which training views are compared with the condition view."""

Baseline = Callable[[Views, Protocol], Views]
"""From the reference to a prediction. Raises `SampleError` when the reference does not allow it."""


def input_copied(reference: Views, protocol: Protocol) -> Views:
    """The condition view, whatever view is asked for."""
    source = _condition(reference)
    images = np.repeat(reference.images[source : source + 1], len(reference), axis=0)
    return dataclasses.replace(reference, images=images, depth=None)


def input_copied_mirrored(reference: Views, protocol: Protocol) -> Views:
    """The condition view, mirrored left to right where the camera looks from the back half.

    The back half is more than 90 degrees of azimuth away from the condition view. Without cameras, the views
    of an orbit count as evenly spaced.
    """
    copied = input_copied(reference, protocol)
    back = _from_the_back(reference, protocol)
    copied.images[back] = copied.images[back][:, :, ::-1]
    return copied


def silhouette(reference: Views, protocol: Protocol) -> Views:
    """The outline of every view, filled with the mean colour of the object in the condition view."""
    if reference.opaque:
        raise SampleError("no transparency in the views, so no outline")
    shown = reference.images[_condition(reference)]
    inside = shown[..., 3] > 127
    if not inside.any():
        raise SampleError("nothing is opaque in the condition view, so it has no mean colour")
    images = reference.images.copy()
    images[..., :3] = shown[inside][:, :3].mean(axis=0).round().astype(np.uint8)
    return dataclasses.replace(reference, images=images, depth=None)


BASELINES: dict[str, Baseline] = {
    "input-copied": input_copied,
    "input-copied-mirrored": input_copied_mirrored,
    "silhouette": silhouette,
}
"""Methods that need the reference only, by name."""


@dataclass(frozen=True, eq=False)
class TrainingViews:
    """Orbits that a model was trained on, and a thumbnail of each of their views."""

    orbits: tuple[Callable[[], Views], ...]
    """Each reads one orbit."""
    thumbnails: tuple[Float[np.ndarray, "_v t t 3"], ...]
    """Of each orbit, over the protocol's background."""

    @classmethod
    def of(cls, orbits: Iterable[Callable[[], Views]], protocol: Protocol) -> "TrainingViews":
        """Thumbnails of all views; the pictures themselves are read again when they are the nearest."""
        readers = tuple(orbits)
        return cls(readers, tuple(_thumbnails(read().images, protocol) for read in readers))

    def nearest(self, reference: Views, protocol: Protocol) -> Views:
        """The orbit that holds the view most like the condition view, turned so that this is its place.

        Likeness is the mean squared error of thumbnails. Raises `SampleError` when the protocol is of no
        orbit or no training orbit has as many views.
        """
        source = _condition(reference)
        if protocol.orbit == "any":
            raise SampleError(f"protocol {protocol.name} is of no orbit, so a training orbit does not fit")
        shown = _thumbnails(reference.images[source : source + 1], protocol)[0]
        errors = {
            (index, view): float(((view_of - shown) ** 2).mean())
            for index, stack in enumerate(self.thumbnails)
            if len(stack) == len(reference)
            for view, view_of in enumerate(stack)
        }
        if not errors:
            raise SampleError(f"no training orbit has {len(reference)} views")
        index, view = min(errors, key=lambda place: errors[place])
        images = at_size(
            self.orbits[index]().images, protocol, height=reference.size[0], width=reference.size[1]
        )
        return dataclasses.replace(reference, images=np.roll(images, source - view, axis=0), depth=None)


def _thumbnails(images: UInt8[np.ndarray, "v h w 4"], protocol: Protocol) -> Float[np.ndarray, "v t t 3"]:
    small = np.stack([pictures.resize(image, height=THUMBNAIL, width=THUMBNAIL) for image in images])
    return pictures.composite(small, background=protocol.background)


def _from_the_back(reference: Views, protocol: Protocol) -> Bool[np.ndarray, "v"]:
    source, count = _condition(reference), len(reference)
    if reference.cameras is not None:
        azimuths = azimuths_deg(reference.cameras)
    elif protocol.orbit != "any":
        azimuths = np.arange(count) * (360 / count)
    else:
        raise SampleError("cameras are not known, so the back half is not either")
    away = (azimuths - azimuths[source]) % 360
    return (away > 90 + 1e-6) & (away < 270 - 1e-6)


def _condition(reference: Views) -> int:
    if reference.condition_view is None:
        raise SampleError("the reference names no condition view")
    return reference.condition_view
