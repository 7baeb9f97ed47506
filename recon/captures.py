"""Views with cameras in the forms that people keep them in, read as a `Sample`.

    transforms.json with a block "svd3d"   our sample folder
    transforms.json                        nerfstudio and instant-ngp: fl_x, fl_y, cx, cy, w, h in common or
                                           per frame; RGBA, or RGB with mask_path
    transforms_train.json                  NeRF-synthetic: camera_angle_x, RGBA, file names without suffix
    000.png … 015.png and no cameras       SyncDreamer: 16 views of 256 pixels on its one published orbit

A capture keeps its own frame: nothing is centred, scaled or turned. Cameras must be OpenGL camera_to_world as
everywhere here; others are refused (`conventions`), never converted on a guess. What had to be assumed is
logged as a warning.
"""

import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from recon import conventions, hull
from svd3d import images as pictures
from svd3d import sample
from svd3d.cameras import Cameras, Orbit
from svd3d.errors import CameraError, InputError, MeshError, SampleError
from svd3d.sample import Sample

log = logging.getLogger(__name__)

MAX_PIXELS = 24_000_000
"""Pixels of all views together; larger captures are scaled down. Carving takes some 100 bytes for each."""
SYNCDREAMER = Orbit.static(
    num_views=16, elevation_deg=30.0, distance=1.5, fov_deg=2 * math.degrees(math.atan(128 / 280))
)
"""The cameras of every SyncDreamer result (its meta_info/camera-16): focal length 280 pixels of 256."""
SYNCDREAMER_SIZE = 256
PINHOLE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE")
"""Camera models of transforms.json that are pinholes when their distortion is 0."""
DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
WHITE_BORDER = 230
"""Views whose border is nowhere darker have a white background."""


def is_capture(folder: Path) -> bool:
    """Whether a folder holds views in a form that `read` knows."""
    return _transforms(folder) is not None or _is_syncdreamer(folder)


def find(folder: Path) -> list[Path]:
    """The captures at or directly below `folder`, sorted by name."""
    return sample.find(folder, accepts=is_capture)


def read(folder: Path, *, max_pixels: int = MAX_PIXELS) -> Sample:
    """The views of a capture with transparency, in its own frame, with cameras whose silhouettes meet.

    Views that together have more than `max_pixels` are scaled down; views without transparency are cut out of
    a plain background. Raises `SampleError` or `ImageError` for what cannot be read, naming the file and the
    frame, and `MeshError` for views and cameras that no surface can be made of.
    """
    transforms = _transforms(folder)
    if transforms is not None and "svd3d" in sample.read_json(transforms):
        views = _shrunk(sample.read(folder), max_pixels=max_pixels, where=str(folder))
    elif transforms is not None:
        views = _posed(folder, transforms, max_pixels=max_pixels)
    elif _is_syncdreamer(folder):
        views = _syncdreamer(folder)
    else:
        raise SampleError(
            f"{folder}: holds no transforms.json, no transforms_train.json and not 000.png to 015.png; "
            "make a sample with: svd3d render"
        )
    views = dataclasses.replace(views, images=_with_alpha(views.images, where=str(folder)))
    try:
        hull.check_silhouettes(pictures.to_float(views.images[..., 3]))
        conventions.check(views)
    except MeshError as error:
        raise MeshError(f"{folder}: {error}") from error
    return views


def _transforms(folder: Path) -> Path | None:
    names = ("transforms.json", "transforms_train.json")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _is_syncdreamer(folder: Path) -> bool:
    return all((folder / f"{view:03d}.png").is_file() for view in range(SYNCDREAMER.num_views))


def _syncdreamer(folder: Path) -> Sample:
    cameras = SYNCDREAMER.cameras(height=SYNCDREAMER_SIZE, width=SYNCDREAMER_SIZE)
    images = [pictures.read(folder / f"{view:03d}.png") for view in range(len(cameras))]
    for view, image in enumerate(images):
        _check_size(image, (cameras.height, cameras.width), where=f"{folder}/{view:03d}.png")
    log.warning("%s: has no cameras; taken for the 16 views of SyncDreamer at elevation 30", folder)
    return Sample(_name(folder), cameras, np.stack(images), "generated", orbit=SYNCDREAMER)


def _posed(folder: Path, transforms: Path, *, max_pixels: int) -> Sample:
    """A nerfstudio or NeRF-synthetic capture; its pictures are scaled one by one, as they are read."""
    frames = _frames(folder, transforms)
    height, width = frames[0].read().shape[:2]
    size = (height, width)
    cameras = [frame.camera(*size) for frame in frames]
    smaller = _size_within(len(frames), *size, max_pixels=max_pixels, where=str(folder))
    images = []
    for frame in frames:
        image = frame.read()
        _check_size(image, size, where=frame.where)
        images.append(pictures.resize(image, height=smaller[0], width=smaller[1]))
    matrices, intrinsics = (np.stack(each) for each in zip(*cameras, strict=True))
    try:
        resized = Cameras(matrices, intrinsics, *size).resized(height=smaller[0], width=smaller[1])
    except CameraError as error:
        raise SampleError(f"{transforms}: {error}") from error
    return Sample(_name(folder), resized, np.stack(images), "rendered", condition_view=None)


@dataclass(frozen=True)
class _Frame:
    """One view of a transforms file."""

    where: str
    picture: Path
    mask: Path | None
    facts: dict[str, Any]
    """What the file says of all views, overridden by what it says of this one."""

    def read(self) -> UInt8[np.ndarray, "h w 4"]:
        """The picture; what the mask leaves out is transparent."""
        try:
            picture = pictures.read(self.picture)
            if self.mask is not None:
                mask = pictures.read(self.mask)[..., 0]
                _check_size(mask, (picture.shape[0], picture.shape[1]), where=f"{self.where}: mask_path")
                picture[..., 3] = np.minimum(picture[..., 3], mask)
        except InputError as error:
            raise SampleError(f"{self.where}: {error}") from error
        return picture

    def camera(self, height: int, width: int) -> tuple[Float[np.ndarray, "4 4"], Float[np.ndarray, "3 3"]]:
        """Camera_to_world as written and intrinsics in pixels; refuses lenses that are not pinholes."""
        said = {"h": self._number("h", height), "w": self._number("w", width)}
        if (said["h"], said["w"]) != (height, width):
            raise SampleError(
                f"{self.where}: h and w are {said['h']:g} and {said['w']:g}, but the picture is "
                f"{width} x {height}; scale fl_x, fl_y, cx and cy along with the pictures"
            )
        model = self.facts.get("camera_model", "OPENCV")
        distortion = {key: value for key in DISTORTION if (value := self._number(key, 0))}
        if model not in PINHOLE or distortion or any(self.facts.get("distortion_params") or ()):
            lens = ", ".join([f"camera_model {model}", *(f"{k} {v:g}" for k, v in distortion.items())])
            raise SampleError(
                f"{self.where}: a lens with distortion ({lens}); undistort the views first, "
                "for example with: colmap image_undistorter"
            )
        angle = self._number("camera_angle_x", 0)
        focal_x = self._number("fl_x", width / (2 * math.tan(angle / 2)) if 0 < angle < math.pi else 0)
        if focal_x <= 0:
            raise SampleError(
                f"{self.where}: no focal length; give fl_x in pixels or camera_angle_x in radians"
            )
        focal_y = self._number("fl_y", focal_x)
        intrinsics = np.array(
            [
                [focal_x, 0, self._number("cx", width / 2)],
                [0, focal_y, self._number("cy", height / 2)],
                [0, 0, 1],
            ]
        )
        matrix = sample.matrix_entry(self.facts, "transform_matrix", where=self.where)
        if np.allclose(matrix[:3, 3], 0) and not np.allclose(matrix[3, :3], 0):
            raise SampleError(
                f"{self.where}: transform_matrix is transposed, its position stands in the last row; "
                "transpose the matrices of all frames"
            )
        return matrix, intrinsics

    def _number(self, key: str, default: float) -> float:
        value = self.facts.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9:
            raise SampleError(f"{self.where}: {key} is {value!r}, expected a number")
        return float(value)


def _frames(folder: Path, transforms: Path) -> list[_Frame]:
    content = sample.read_json(transforms)
    listed = sample.entry(content, "frames", list, where=str(transforms))
    if not listed:
        raise SampleError(f"{transforms}: frames is empty; a capture needs views")
    frames = []
    for number, said in enumerate(listed):
        where = f"{transforms}: frame {number}"
        facts = {**content, **sample.as_dict(said, where=where)}
        picture = sample.path_entry(folder, facts, "file_path", where=where)
        mask = sample.path_entry(folder, facts, "mask_path", where=where) if "mask_path" in facts else None
        if not picture.suffix:
            picture = picture.with_name(f"{picture.name}.png")
        frames.append(_Frame(where, picture, mask, facts))
    return frames


def _shrunk(views: Sample, *, max_pixels: int, where: str) -> Sample:
    cameras = views.cameras
    height, width = _size_within(
        len(views), cameras.height, cameras.width, max_pixels=max_pixels, where=where
    )
    if (height, width) == (cameras.height, cameras.width):
        return views
    images = [pictures.resize(image, height=height, width=width) for image in views.images]
    resized = cameras.resized(height=height, width=width)
    return dataclasses.replace(views, images=np.stack(images), cameras=resized, depth=None, normal=None)


def _size_within(views: int, height: int, width: int, *, max_pixels: int, where: str) -> tuple[int, int]:
    """Height and width at which that many views have at most `max_pixels` together."""
    scale = math.sqrt(max_pixels / (views * height * width))
    if scale >= 1:
        return height, width
    smaller = max(1, int(scale * height)), max(1, int(scale * width))
    log.warning(
        "%s: %d views of %d x %d are scaled down to %d x %d to fit into memory",
        *(where, views, width, height, smaller[1], smaller[0]),
    )
    return smaller


def _with_alpha(images: UInt8[np.ndarray, "v h w 4"], *, where: str) -> UInt8[np.ndarray, "v h w 4"]:
    """The views with their own transparency, or cut out of the plain background that all of them have."""
    if pictures.has_transparency(images.reshape(1, -1, 4)):
        return images
    rows, columns = images[:, [0, -1], :, :3], images[:, :, [0, -1], :3]
    white = min(float(np.percentile(each, 10)) for each in (rows, columns)) >= WHITE_BORDER
    if white:
        cut = [pictures.remove_white(pictures.to_float(image[..., :3])) for image in images]
    else:
        cut = [pictures.cut_out(image, where=f"{where}: view {view}") for view, image in enumerate(images)]
    log.warning(
        "%s: the views have no transparency; it is made from their %s background, "
        "which errs where the object has that colour",
        *(where, "white" if white else "plain"),
    )
    return np.stack(cut)


def _check_size(image: np.ndarray, size: tuple[int, int], *, where: str) -> None:
    if image.shape[:2] != size:
        raise SampleError(
            f"{where}: the picture is {image.shape[1]} x {image.shape[0]}, expected {size[1]} x {size[0]}; "
            "give all views of a capture one size"
        )


def _name(folder: Path) -> str:
    return folder.resolve().name
