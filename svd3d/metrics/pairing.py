"""Whether two sets of views may be compared, and what they are compared with: checks, sizes, baselines."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from svd3d import images as pictures
from svd3d.cameras import Cameras
from svd3d.errors import InputError, SampleError
from svd3d.metrics.protocols import Protocol
from svd3d.sample import Sample


@dataclass(frozen=True, eq=False)
class Views:
    """Pictures of one object, with cameras when they are known."""

    images: UInt8[np.ndarray, "v h w 4"]
    cameras: Cameras | None = None
    condition_view: int | None = 0

    @classmethod
    def of(cls, views: "Sample | Views") -> "Views":
        """The part of a sample that image metrics look at."""
        return views if isinstance(views, Views) else cls(views.images, views.cameras, views.condition_view)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[1], self.images.shape[2]

    @property
    def opaque(self) -> bool:
        """Whether no pixel is transparent, so that the pictures say nothing about the outline."""
        return bool(self.images[..., 3].min() == 255)

    def resized(self, *, height: int, width: int) -> "Views":
        """The same pictures at another size; a change of shape by more than 1 % is refused (`InputError`)."""
        if self.size == (height, width):
            return self
        if abs(self.size[1] * height / (self.size[0] * width) - 1) > 0.01:
            found, wanted = f"{self.size[1]} x {self.size[0]}", f"{width} x {height}"
            raise InputError(f"views of {found} pixels cannot be resized to {wanted} without stretching")
        images = np.stack([pictures.resize(image, height=height, width=width) for image in self.images])
        return dataclasses.replace(self, images=images)


def check_pair(prediction: Views, reference: Views, protocol: Protocol, *, where: str) -> None:
    """Refuse views that the protocol cannot compare, with `SampleError` naming the object and the view."""
    if len(prediction) != len(reference):
        raise SampleError(
            f"{where}: the prediction has {len(prediction)} views, the reference {len(reference)}; "
            "they must show the same views in the same order"
        )
    if protocol.num_views is not None and len(reference) != protocol.num_views:
        raise SampleError(
            f"{where}: {len(reference)} views, protocol {protocol.name} has {protocol.num_views}; "
            "use --protocol views to compare any set of views"
        )
    if protocol.exclude_condition_view:
        if reference.condition_view is None:
            raise SampleError(
                f"{where}: the reference names no condition view, which protocol {protocol.name} leaves out; "
                "use --protocol views"
            )
        if prediction.condition_view not in (None, reference.condition_view):
            raise SampleError(
                f"{where}: the prediction was made from view {prediction.condition_view}, the condition view "
                f"of the reference is {reference.condition_view}; generate from that view"
            )
    if protocol.static_orbit and reference.cameras is not None:
        _check_static_orbit(reference.cameras, protocol, where=where)
    if prediction.cameras is not None and reference.cameras is not None:
        _check_same_cameras(prediction.cameras, reference.cameras, protocol, where=where)


def scored_views(reference: Views, protocol: Protocol) -> list[int]:
    """Indices of the views that count under the protocol."""
    left_out = reference.condition_view if protocol.exclude_condition_view else None
    return [view for view in range(len(reference)) if view != left_out]


def azimuths_deg(cameras: Cameras) -> Float[np.ndarray, "v"]:
    """Azimuth of upright cameras that look at the origin, in [0, 360); defined at the poles too."""
    right = cameras.camera_to_world[:, :3, 0]
    return np.degrees(np.arctan2(-right[:, 0], right[:, 1])) % 360


def input_copied(reference: Views) -> Views:
    """Baseline: the condition view, whatever view is asked for."""
    source = _condition(reference)
    return dataclasses.replace(
        reference, images=np.repeat(reference.images[source : source + 1], len(reference), 0)
    )


def input_copied_mirrored(reference: Views) -> Views:
    """Baseline: the condition view, mirrored left to right where the camera looks from the back half.

    The back half is more than 90 degrees of azimuth away from the condition view. Without cameras, views
    count as evenly spaced.
    """
    copied = input_copied(reference)
    images = copied.images.copy()
    back = _from_the_back(reference)
    images[back] = images[back][:, :, ::-1]
    return dataclasses.replace(reference, images=images)


def _from_the_back(reference: Views) -> Bool[np.ndarray, "v"]:
    source, count = _condition(reference), len(reference)
    azimuths = (
        np.arange(count) * (360 / count) if reference.cameras is None else azimuths_deg(reference.cameras)
    )
    away = (azimuths - azimuths[source]) % 360
    return (away > 90 + 1e-6) & (away < 270 - 1e-6)


def _condition(reference: Views) -> int:
    if reference.condition_view is None:
        raise SampleError("the reference names no condition view, so there is no input to copy")
    return reference.condition_view


def _check_static_orbit(cameras: Cameras, protocol: Protocol, *, where: str) -> None:
    """Evenly spaced azimuths in rising order, one elevation, one distance."""
    positions = cameras.positions
    distances = np.linalg.norm(positions, axis=1)
    elevations = np.degrees(np.arcsin(np.clip(positions[:, 2] / np.maximum(distances, 1e-9), -1, 1)))
    azimuths = azimuths_deg(cameras)
    for view in range(len(cameras)):
        expected = azimuths[0] + 360 * view / len(cameras)
        turn = abs((azimuths[view] - expected + 180) % 360 - 180)
        if turn > protocol.camera_tolerance_deg:
            fact = f"azimuth is {azimuths[view]:.2f} degrees, expected {expected % 360:.2f}"
        elif abs(elevations[view] - elevations[0]) > protocol.camera_tolerance_deg:
            fact = f"elevation is {elevations[view]:.2f} degrees, view 0 has {elevations[0]:.2f}"
        elif abs(distances[view] / distances[0] - 1) > protocol.camera_tolerance:
            fact = f"distance is {distances[view]:.3f}, view 0 has {distances[0]:.3f}"
        else:
            continue
        raise SampleError(
            f"{where}: not a static orbit, as protocol {protocol.name} wants: reference view {view}: {fact}; "
            "use --protocol views"
        )


def _check_same_cameras(prediction: Cameras, reference: Cameras, protocol: Protocol, *, where: str) -> None:
    relative = np.einsum(
        "vji,vjk->vik", reference.camera_to_world[:, :3, :3], prediction.camera_to_world[:, :3, :3]
    )
    # From the sine as well: the cosine alone cannot tell small angles.
    sines = np.linalg.norm(relative - relative.transpose(0, 2, 1), axis=(1, 2)) / np.sqrt(8)
    turns = np.degrees(np.arctan2(sines, (np.trace(relative, axis1=1, axis2=2) - 1) / 2))
    distances = np.linalg.norm(reference.positions, axis=1)
    shifts = np.linalg.norm(prediction.positions - reference.positions, axis=1) / np.maximum(distances, 1e-9)
    lenses = np.abs(_lens(prediction) - _lens(reference))
    for view in range(len(reference)):
        if turns[view] > protocol.camera_tolerance_deg:
            fact = f"the cameras look {turns[view]:.2f} degrees apart"
        elif shifts[view] > protocol.camera_tolerance:
            fact = f"the cameras stand apart by {100 * shifts[view]:.1f} % of their distance to the origin"
        elif (lenses[view, :2] / _lens(reference)[view, :2]).max() > protocol.camera_tolerance:
            fact = (
                f"focal lengths differ by {100 * (lenses[view, :2] / _lens(reference)[view, :2]).max():.1f} %"
            )
        elif lenses[view, 2:].max() > protocol.camera_tolerance:
            fact = f"principal points differ by {100 * lenses[view, 2:].max():.1f} % of the picture"
        else:
            continue
        raise SampleError(
            f"{where}: view {view}: prediction and reference have different cameras: {fact}; "
            "generate from the reference's sample folder, so that the orbit is the same"
        )


def _lens(cameras: Cameras) -> Float[np.ndarray, "v 4"]:
    """Focal lengths and principal point as fractions of the picture, so that sizes may differ."""
    matrix = cameras.intrinsics
    across, down = cameras.width, cameras.height
    return np.stack(
        [matrix[:, 0, 0] / across, matrix[:, 1, 1] / down, matrix[:, 0, 2] / across, matrix[:, 1, 2] / down],
        axis=1,
    )
