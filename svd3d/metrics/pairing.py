"""Whether two sets of views may be compared, and how they come to one size: checks, choice, resizing."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from svd3d import images as pictures
from svd3d.cameras import Cameras
from svd3d.errors import InputError, SampleError
from svd3d.metrics.protocols import Protocol
from svd3d.sample import Sample


@dataclass(frozen=True, eq=False)
class Views:
    """Pictures of one object, with cameras and depth when they are known."""

    images: UInt8[np.ndarray, "v h w 4"]
    cameras: Cameras | None = None
    condition_view: int | None = 0
    depth: Float[np.ndarray, "v h w"] | None = None
    """Along the optical axis in world units, 0 where there is nothing."""

    @classmethod
    def of(cls, views: "Sample | Views") -> "Views":
        """The part of a sample that image metrics look at."""
        if isinstance(views, Views):
            return views
        return cls(views.images, views.cameras, views.condition_view, views.depth)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.images.shape[1], self.images.shape[2]

    @property
    def opaque(self) -> bool:
        """Whether no pixel is transparent, so that the pictures say nothing about the outline."""
        return all(image[..., 3].min() == 255 for image in self.images)


def check_pair(prediction: Views, reference: Views, protocol: Protocol, *, where: str) -> None:
    """Refuse views that the protocol cannot compare, with `SampleError` naming the object and the view."""
    if protocol.num_views is not None and len(reference) != protocol.num_views:
        raise SampleError(
            f"{where}: {len(reference)} views, protocol {protocol.name} has {protocol.num_views}; "
            "use --protocol views to compare any set of views"
        )
    if len(prediction) not in (len(reference), len(protocol.views or range(len(reference)))):
        wanted = (
            f"{len(reference)}" if protocol.views is None else f"{len(reference)} or {len(protocol.views)}"
        )
        raise SampleError(
            f"{where}: the prediction has {len(prediction)} views, the reference {wanted}; "
            "they must show the same views in the same order"
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
    if reference.cameras is not None:
        _check_orbit(reference.cameras, protocol, where=where)
        if prediction.cameras is not None:
            shown = reference.cameras
            if len(prediction) < len(reference):
                shown = shown.view(list(protocol.views or ()))
            _check_same_cameras(prediction.cameras, shown, protocol, where=where)


def scored_views(reference: Views, protocol: Protocol) -> list[int]:
    """Indices of the views that count under the protocol."""
    left_out = reference.condition_view if protocol.exclude_condition_view else None
    return [view for view in protocol.views or range(len(reference)) if view != left_out]


def at_size(
    images: UInt8[np.ndarray, "v h w 4"], protocol: Protocol, *, height: int, width: int
) -> UInt8[np.ndarray, "v {height} {width} 4"]:
    """The pictures at a size, by the protocol's filter; `InputError` when the shape changes by over 1 %."""
    rows, columns = images.shape[1:3]
    if (rows, columns) == (height, width):
        return images
    if abs(columns * height / (rows * width) - 1) > 0.01:
        found, wanted = f"{columns} x {rows}", f"{width} x {height}"
        raise InputError(f"views of {found} pixels cannot be resized to {wanted} without stretching")
    if protocol.resize == "lanczos":
        return np.stack([pictures.resize(image, height=height, width=width) for image in images])
    bicubic = (Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC) for image in images)
    return np.stack([np.asarray(image) for image in bicubic])


def colours(images: UInt8[np.ndarray, "v h w 4"], protocol: Protocol) -> Float[np.ndarray, "v h w 3"]:
    """The pictures over the protocol's background, in [0, 1].

    As `svd3d.images.composite`, but each channel is one block of memory, on which arithmetic is several times
    faster than on pixels.
    """
    count, height, width, _ = images.shape
    drawn = np.empty((count, 3, height, width), np.float32)
    background = np.asarray(protocol.background, np.float32)[:, None, None]
    for view, image in enumerate(images):
        planes = np.ascontiguousarray(image.transpose(2, 0, 1))
        weight = planes[3] / np.float32(255) if protocol.soft_edges == "blended" else planes[3] > 0
        np.subtract(planes[:3], 255 * background, out=drawn[view])
        drawn[view] *= weight / np.float32(255)
        drawn[view] += background
    return drawn.transpose(0, 2, 3, 1)


def part_that_shows(*images: UInt8[np.ndarray, "h w 4"], margin: int) -> tuple[slice, slice]:
    """Rows and columns outside which all pictures are background, and `margin` more where there are any."""
    height, width = images[0].shape[:2]
    boxes = [Image.fromarray(image).getbbox() or (0, 0, 1, 1) for image in images]
    left, top, right, bottom = zip(*boxes, strict=True)
    return (
        slice(max(min(top) - margin, 0), min(max(bottom) + margin, height)),
        slice(max(min(left) - margin, 0), min(max(right) + margin, width)),
    )


def azimuths_deg(cameras: Cameras) -> Float[np.ndarray, "v"]:
    """Azimuth of upright cameras that look at the origin, in [0, 360); defined at the poles too."""
    right = cameras.camera_to_world[:, :3, 0]
    return np.degrees(np.arctan2(-right[:, 0], right[:, 1])) % 360


def elevations_deg(cameras: Cameras) -> Float[np.ndarray, "v"]:
    """Elevation of the cameras' positions above the horizon."""
    positions = cameras.positions
    distances = np.maximum(np.linalg.norm(positions, axis=1), 1e-9)
    return np.degrees(np.arcsin(np.clip(positions[:, 2] / distances, -1, 1)))


def _check_orbit(cameras: Cameras, protocol: Protocol, *, where: str) -> None:
    """Refuse a reference whose cameras do not stand as the protocol's, naming the first such view."""
    elevations = elevations_deg(cameras)
    if protocol.elevation_deg is not None:
        low, high = protocol.elevation_deg
        for view, elevation in enumerate(elevations):
            off = max(low - elevation, elevation - high)
            if off > protocol.camera_tolerance_deg:
                fact = f"elevation is {elevation:.2f} degrees, expected {low:g} to {high:g}"
                raise _other_cameras(view, fact, protocol, where=where)
    if protocol.orbit == "any":
        return
    distances = np.linalg.norm(cameras.positions, axis=1)
    azimuths = azimuths_deg(cameras)
    even = azimuths[0] + 360 * np.arange(len(cameras)) / len(cameras)
    turns = np.abs((azimuths - even + 180) % 360 - 180)
    progress = (azimuths - azimuths[0]) % 360
    for view in range(len(cameras)):
        if abs(distances[view] / distances[0] - 1) > protocol.camera_tolerance:
            fact = f"distance is {distances[view]:.3f}, view 0 has {distances[0]:.3f}"
        elif protocol.orbit == "static" and turns[view] > protocol.camera_tolerance_deg:
            fact = f"azimuth is {azimuths[view]:.2f} degrees, expected {even[view] % 360:.2f}"
        elif (
            protocol.orbit == "static"
            and abs(elevations[view] - elevations[0]) > protocol.camera_tolerance_deg
        ):
            fact = f"elevation is {elevations[view]:.2f} degrees, view 0 has {elevations[0]:.2f}"
        elif protocol.orbit == "dynamic" and view > 0 and progress[view] <= progress[view - 1]:
            fact = f"azimuth is {azimuths[view]:.2f} degrees, the view before has {azimuths[view - 1]:.2f}"
        else:
            continue
        raise _other_cameras(view, fact, protocol, where=where)
    still = max(turns.max(), float(np.ptp(elevations))) <= protocol.camera_tolerance_deg
    if protocol.orbit == "dynamic" and still:
        raise _other_cameras(0, "the orbit is static", protocol, where=where)


def _other_cameras(view: int, fact: str, protocol: Protocol, *, where: str) -> SampleError:
    kind = "the orbit" if protocol.orbit == "any" else f"a {protocol.orbit} orbit"
    return SampleError(
        f"{where}: not {kind} that protocol {protocol.name} wants: reference view {view}: {fact}; "
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
