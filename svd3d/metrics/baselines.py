"""What needs no model: methods that every prediction must beat, in the table of every report.

    input-copied            the condition view, whatever view is asked for
    input-copied-mirrored   the same, mirrored left to right where the camera looks from the back half
    silhouette              the true outline, filled with the mean colour of the condition view
    white                   nothing but the background, where that is white
    nearest-training-view   of the training orbits, the one with the view most like the condition view
    mean-training-view      the mean of all views of all training orbits, whatever view is asked for

The true condition view decides what all but `white` and the mean show; the silhouette also gets the true
outlines, so its mask IoU is 1.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from svd3d import images as pictures
from svd3d.errors import InputError, SampleError
from svd3d.metrics.pairing import Views, at_size, azimuths_deg
from svd3d.metrics.protocols import Protocol

NEAREST = "nearest-training-view"
MEAN = "mean-training-view"
NEED_TRAINING = (NEAREST, MEAN)
"""Names of the baselines that need training views."""
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


def white(reference: Views, protocol: Protocol) -> Views:
    """Nothing, in every view: fully transparent pictures, of which a white background is all that is seen.

    Raises `SampleError` under a protocol whose background is not white.
    """
    if protocol.background != pictures.WHITE:
        raise SampleError(f"the background of protocol {protocol.name} is {protocol.background}, not white")
    return dataclasses.replace(reference, images=np.zeros_like(reference.images), depth=None)


BASELINES: dict[str, Baseline] = {
    "input-copied": input_copied,
    "input-copied-mirrored": input_copied_mirrored,
    "silhouette": silhouette,
    "white": white,
}
"""Methods that need the reference only, by name."""


@dataclass(frozen=True, eq=False)
class TrainingViews:
    """What is kept of the orbits that a model was trained on: 64 kB for 21 views."""

    orbits: tuple[Callable[[], Views], ...]
    """Each reads one orbit."""
    thumbnails: tuple[UInt8[np.ndarray, "_v t t 3"], ...]
    """Of each view of each orbit, over the protocol's background."""
    mean_view: UInt8[np.ndarray, "_h _w 4"]
    """Of all views, at the size of the first orbit. Colour is weighted by alpha, so that over any background
    this is the mean of the views over that background."""

    @classmethod
    def of(cls, orbits: Iterable[Callable[[], Views]], protocol: Protocol) -> "TrainingViews":
        """Reads each orbit once, one at a time, and again whenever it is the nearest.

        Raises `InputError` for no orbits and for orbits of different shapes.
        """
        readers, thumbnails = tuple(orbits), []
        total, size = np.zeros(4), None
        for read in readers:
            views = read()
            size = size or views.size
            thumbnails.append(_thumbnails(views.images, protocol))
            try:
                images = at_size(views.images, protocol, height=size[0], width=size[1])
            except InputError as error:
                raise InputError(f"training views: {error}; train on views of one shape") from error
            total = total + _premultiplied(images).sum(axis=0)
        if not readers:
            raise InputError("training views: there are none; pass at least one orbit")
        mean = total / sum(map(len, thumbnails))
        mean[..., :3] /= np.maximum(mean[..., 3:], 1e-9)
        return cls(readers, tuple(thumbnails), pictures.to_uint8(mean))

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
            index: (np.subtract(stack, shown, dtype=np.float32) ** 2).mean(axis=(1, 2, 3))
            for index, stack in enumerate(self.thumbnails)
            if len(stack) == len(reference)
        }
        if not errors:
            raise SampleError(f"no training orbit has {len(reference)} views")
        index = min(errors, key=lambda orbit: errors[orbit].min())
        view = int(errors[index].argmin())
        images = at_size(
            self.orbits[index]().images, protocol, height=reference.size[0], width=reference.size[1]
        )
        return dataclasses.replace(reference, images=np.roll(images, source - view, axis=0), depth=None)

    def mean(self, reference: Views, protocol: Protocol) -> Views:
        """The mean of all training views, in every view.

        Raises `SampleError` where soft edges are kept: what is seen of a mean is not a mean then.
        """
        if protocol.soft_edges == "kept":
            raise SampleError(f"protocol {protocol.name} keeps soft edges, and a mean is soft everywhere")
        height, width = reference.size
        images = at_size(self.mean_view[None], protocol, height=height, width=width)
        return dataclasses.replace(reference, images=np.repeat(images, len(reference), axis=0), depth=None)

    def baselines(self) -> dict[str, Baseline]:
        """Methods by name, as in `BASELINES`."""
        return {NEAREST: self.nearest, MEAN: self.mean}


def _thumbnails(images: UInt8[np.ndarray, "v h w 4"], protocol: Protocol) -> UInt8[np.ndarray, "v t t 3"]:
    small = np.stack([pictures.resize(image, height=THUMBNAIL, width=THUMBNAIL) for image in images])
    return pictures.to_uint8(pictures.composite(small, background=protocol.background))


def _premultiplied(images: UInt8[np.ndarray, "v h w 4"]) -> Float[np.ndarray, "v h w 4"]:
    values = images / 255
    values[..., :3] *= values[..., 3:]
    return values


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
