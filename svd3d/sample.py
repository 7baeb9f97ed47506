"""The sample folder: the one format that travels between all stages.

    <uid>/images/000.png …      RGBA, 8 bits, straight alpha
    <uid>/depth/000.png …       optional, 16-bit grey: depth / depth_unit, 0 = nothing there
    <uid>/normal/000.png …      optional, 8-bit RGB: 127.5 + 127.5 * normal, grey (128) = nothing there
    <uid>/transforms.json       cameras in nerfstudio's keys and one block "svd3d"; written last

Rendered objects, generated orbits and re-renders of reconstructions are all samples. Keys and conventions are
nerfstudio's; `orientation_override` keeps it from turning the world.

A `Capture` lies in the same folder, with origin `captured`, opaque pictures and frames that have no
`transform_matrix`, because nobody knows the cameras: `read` refuses it, `read_capture` reads nothing else.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from svd3d import images as pictures
from svd3d.cameras import DEFAULT_VIEWS, Cameras, Orbit, every
from svd3d.errors import CameraError, InputError, SampleError
from svd3d.runs import input_path, output_folder, write_json

FORMAT = 1
DEPTH_UNIT = 1e-4
"""World units per step of a 16-bit depth picture; larger scenes store a larger unit."""
NOTHING = 128
"""All three channels of a normal picture where there is nothing; no unit vector is stored so."""
UNIT_TOLERANCE = 0.01
"""How far the length of a normal may be from 1; storing it in 8 bits moves it by up to 0.007."""
Origin = Literal["rendered", "generated", "reconstructed"]
CAPTURED = "captured"
"""In place of an origin, where cameras are not known."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Views of one object with their cameras. `read(write(sample))` gives the same sample."""

    uid: str
    cameras: Cameras
    images: UInt8[np.ndarray, "v h w 4"]
    origin: Origin
    condition_view: int | None = 0
    orbit: Orbit | None = None
    object_to_world: Float[np.ndarray, "4 4"] | None = None
    """How the stored object was centred and scaled into the world; None when there is no such object."""
    depth: Float[np.ndarray, "v h w"] | None = None
    """Along the optical axis in world units; 0 where there is nothing."""
    normal: Float[np.ndarray, "v h w 3"] | None = None
    """Unit normals of the surface in the world, 0 where there is nothing; storing turns one by up to 0.4°."""
    about: dict[str, Any] = field(default_factory=dict)
    """Anything else worth keeping, as JSON: source, licence, light, seed, model."""

    def __post_init__(self) -> None:
        for fault in self._faults():
            raise SampleError(f"sample {self.uid}: {fault}")

    def _faults(self) -> Iterator[str]:
        views, height, width = self.images.shape[:3]
        if not _is_name(self.uid):
            yield f"uid {self.uid!r} cannot be the name of a folder"
        if not 0 < views == len(self.cameras):
            yield f"{views} images and {len(self.cameras)} cameras"
        if (height, width) != (self.cameras.height, self.cameras.width):
            expected = f"{self.cameras.width} x {self.cameras.height}"
            yield f"images are {width} x {height}, the cameras say {expected}"
        if self.condition_view is not None and not 0 <= self.condition_view < views:
            yield f"condition_view is {self.condition_view}, expected null or 0 to {views - 1}"
        if self.depth is not None and self.depth.shape != (views, height, width):
            yield f"depth has shape {self.depth.shape}, expected {(views, height, width)}"
        if self.depth is not None and not (np.isfinite(self.depth).all() and self.depth.min() >= 0):
            yield "depth must be finite and not below 0 (0: nothing there)"
        if self.normal is not None and self.normal.shape != (views, height, width, 3):
            yield f"normal has shape {self.normal.shape}, expected {(views, height, width, 3)}"
        elif self.normal is not None:
            length = np.linalg.norm(self.normal, axis=-1)
            off = np.where(length == 0, 0, np.abs(length - 1)).max(axis=(1, 2))
            if not off.max() <= UNIT_TOLERANCE:
                yield (
                    f"frame {off.argmax()}: a normal's length is off by {off.max():.3g}, "
                    "expected 1 (or 0: nothing there)"
                )
        if self.orbit is not None and self.orbit.num_views != views:
            yield f"orbit has {self.orbit.num_views} views, expected {views}"
        if self.orbit is not None:
            wanted = self.orbit.cameras(height=height, width=width).camera_to_world
            off = np.abs(self.cameras.camera_to_world - wanted).max(axis=(1, 2))
            if off.max() > 1e-3 * max(1.0, self.orbit.distance):
                yield f"frame {off.argmax()}: transform_matrix and orbit disagree by {off.max():.3g}"

    def __len__(self) -> int:
        return len(self.images)

    def resized(self, size: int) -> "Sample":
        """The same views at `size` by `size` pixels, without depth and normals."""
        if self.images.shape[1:3] == (size, size):
            return dataclasses.replace(self, depth=None, normal=None)
        images = np.stack([pictures.resize(image, height=size, width=size) for image in self.images])
        cameras = self.cameras.resized(height=size, width=size)
        return dataclasses.replace(self, images=images, cameras=cameras, depth=None, normal=None)

    def subsampled(self, *, num_views: int = DEFAULT_VIEWS, start: int = 0) -> "Sample":
        """Every k-th view around the circle, from `start`, which becomes view 0 and the condition view.

        `about` stays as it is. Raises `CameraError` unless `num_views` divides the views there are.
        """
        chosen = every(len(self), num_views=num_views, start=start)
        return dataclasses.replace(
            self,
            cameras=self.cameras.view(chosen),
            images=self.images[chosen],
            condition_view=0,
            orbit=self.orbit and self.orbit.subsampled(num_views=num_views, start=start),
            depth=None if self.depth is None else self.depth[chosen],
            normal=None if self.normal is None else self.normal[chosen],
        )


@dataclass(frozen=True, eq=False)
class Capture:
    """Views of one object in the order that an unknown camera took them; view 0 is the condition.

    `read_capture(write_capture(capture))` gives the same capture.
    """

    uid: str
    images: UInt8[np.ndarray, "v h w 3"]
    about: dict[str, Any] = field(default_factory=dict)
    """As of a sample."""

    def __post_init__(self) -> None:
        if not _is_name(self.uid):
            raise SampleError(f"capture {self.uid}: uid {self.uid!r} cannot be the name of a folder")
        if not len(self):
            raise SampleError(f"capture {self.uid}: has no views")

    def __len__(self) -> int:
        return len(self.images)

    def resized(self, size: int) -> "Capture":
        """The largest square in the middle of each view, at `size` by `size` pixels."""
        height, width = self.images.shape[1:3]
        left, top = (width - min(height, width)) // 2, (height - min(height, width)) // 2
        box = (left, top, left + min(height, width), top + min(height, width))
        views = [
            Image.fromarray(view).resize((size, size), Image.Resampling.LANCZOS, box=box)
            for view in self.images
        ]
        return dataclasses.replace(self, images=np.stack([np.asarray(view) for view in views]))


def is_sample(folder: Path) -> bool:
    """Whether a folder holds a finished sample or capture."""
    return (folder / "transforms.json").is_file()


def find(folder: Path, *, accepts: Callable[[Path], bool] = is_sample) -> list[Path]:
    """The sample folders at or directly below `folder`, or those that `accepts` takes, sorted by name."""
    if accepts(input_path(folder, what="sample folder")):
        return [folder]
    if not folder.is_dir():
        raise SampleError(f"{folder}: a file, not a folder; pass a sample folder or a folder of them")
    children = (child for child in folder.iterdir() if not child.name.startswith("."))  # hidden: unfinished
    return sorted(child for child in children if accepts(child))


def write(sample: Sample, folder: Path) -> None:
    """Write a sample into an existing or new folder; `transforms.json` last, so that done means whole."""
    output_folder(folder / "images")
    (folder / "transforms.json").unlink(missing_ok=True)
    frames: list[dict[str, Any]] = []
    for view, image in enumerate(sample.images):
        pictures.write_png(folder / f"images/{view:03d}.png", image)
        matrix = sample.cameras.camera_to_world[view].tolist()
        frames.append({"file_path": f"images/{view:03d}.png", "transform_matrix": matrix})
    depth_unit = None
    if sample.depth is not None:
        output_folder(folder / "depth")
        depth_unit = max(DEPTH_UNIT, float(sample.depth.max()) / 65535)
        for view, depth in enumerate(sample.depth.astype(np.float64)):
            steps = (depth / depth_unit).round().astype(np.uint16)
            pictures.write_png(folder / f"depth/{view:03d}.png", steps)
            frames[view]["depth_file_path"] = f"depth/{view:03d}.png"
    if sample.normal is not None:
        output_folder(folder / "normal")
        for view, normal in enumerate(sample.normal):
            steps = (normal * 127.5 + 127.5).round().clip(0, 255).astype(np.uint8)
            pictures.write_png(folder / f"normal/{view:03d}.png", steps)
            frames[view]["normal_file_path"] = f"normal/{view:03d}.png"
    placement = sample.object_to_world
    keys = [_intrinsic_keys(matrix) for matrix in sample.cameras.intrinsics]
    shared = all(each == keys[0] for each in keys)
    if not shared:
        for frame, each in zip(frames, keys, strict=True):
            frame.update(each)
    write_json(
        folder / "transforms.json",
        {
            "camera_model": "OPENCV",
            "orientation_override": "none",
            "w": sample.cameras.width,
            "h": sample.cameras.height,
            **(keys[0] if shared else {}),
            "svd3d": {
                "format": FORMAT,
                "uid": sample.uid,
                "origin": sample.origin,
                "condition_view": sample.condition_view,
                "orbit": dataclasses.asdict(sample.orbit) if sample.orbit else None,
                "object_to_world": None if placement is None else placement.tolist(),
                "depth_unit": depth_unit,
                "about": sample.about,
            },
            "frames": frames,
        },
    )


def write_capture(capture: Capture, folder: Path) -> None:
    """Write a capture into an existing or new folder; `transforms.json` last, as of a sample."""
    output_folder(folder / "images")
    (folder / "transforms.json").unlink(missing_ok=True)
    names = [f"images/{view:03d}.png" for view in range(len(capture))]
    for name, image in zip(names, capture.images, strict=True):
        pictures.write_png(folder / name, image)
    height, width = capture.images.shape[1:3]
    block = {"format": FORMAT, "uid": capture.uid, "origin": CAPTURED, "about": capture.about}
    frames = [{"file_path": name} for name in names]
    write_json(folder / "transforms.json", {"w": width, "h": height, "svd3d": block, "frames": frames})


def read_capture(folder: Path) -> Capture:
    """Read a capture's folder. Raises `SampleError` as `read` does, also for a sample that has cameras."""
    opened = _open(folder)
    where, block = str(opened.path), opened.block
    if not opened.is_capture:
        raise SampleError(f"{where}: origin is {_short(block.get('origin'))}, expected {CAPTURED}")
    return Capture(entry(block, "uid", str, where=where), opened.images()[..., :3], opened.about)


def is_capture(folder: Path) -> bool:
    """Whether a finished sample folder holds a capture, without cameras."""
    return _open(folder).is_capture


def read(folder: Path) -> Sample:
    """Read a sample folder and check every promise of the format.

    Raises `SampleError` that names the file, the frame and the fact that is broken.
    """
    opened = _open(folder)
    path, block, named, shape = opened.path, opened.block, opened.frames, opened.shape
    if opened.is_capture:
        raise SampleError(f"{path}: a capture without cameras, which only svd3d cache takes; pass a sample")
    fields = {
        "uid": entry(block, "uid", str, where=str(path)),
        "origin": entry(block, "origin", str, where=str(path)),
        "condition_view": _optional(block, "condition_view", int, where=str(path)),
        "about": opened.about,
        "orbit": _orbit(_optional(block, "orbit", dict, where=str(path)), where=str(path)),
        "object_to_world": None,
    }
    if fields["origin"] not in get_args(Origin):
        expected = ", ".join(get_args(Origin))
        raise SampleError(f"{path}: origin is {_short(fields['origin'])}, expected one of {expected}")
    if block.get("object_to_world") is not None:
        fields["object_to_world"] = matrix_entry(block, "object_to_world", where=str(path))
    matrices = np.stack([matrix_entry(frame, "transform_matrix", where=where) for where, frame in named])
    intrinsics = np.stack([_intrinsics({**opened.content, **frame}, where=where) for where, frame in named])
    images = opened.images()
    fields["depth"] = _depth(folder, named, shape, block.get("depth_unit"), where=str(path))
    fields["normal"] = _normal(folder, named, shape)
    try:
        return Sample(cameras=Cameras(matrices, intrinsics, *shape), images=images, **fields)
    except (CameraError, SampleError) as error:
        raise SampleError(f"{path}: {error}") from error


def _is_name(uid: str) -> bool:
    """Whether a uid can be the name of a folder."""
    length = len(uid.encode("utf-8", "surrogatepass"))
    return 0 < length <= 200 and uid[0] != "." and not set(uid) & {"/", "\0"}


@dataclass(frozen=True)
class _Opened:
    """What `transforms.json` says, before any picture is read."""

    path: Path
    content: dict[str, Any]
    block: dict[str, Any]
    frames: list[tuple[str, dict[str, Any]]]
    """Each with its name for errors."""
    shape: tuple[int, int]
    """Height and width."""

    @property
    def is_capture(self) -> bool:
        return self.block.get("origin") == CAPTURED

    @property
    def about(self) -> dict[str, Any]:
        return _optional(self.block, "about", dict, where=str(self.path)) or {}

    def images(self) -> UInt8[np.ndarray, "v h w 4"]:
        folder = self.path.parent
        return np.stack([_image(folder, frame, self.shape, where=where) for where, frame in self.frames])


def _open(folder: Path) -> _Opened:
    path = folder / "transforms.json"
    if not path.is_file():
        reason = "no such folder"
        if folder.exists():
            reason = "holds no transforms.json, so it is not a finished sample"
        raise SampleError(f"{folder}: {reason}; make one with: svd3d render")
    content = read_json(path)
    block = entry(content, "svd3d", dict, where=str(path))
    if block.get("format") != FORMAT:
        found = f"format is {block.get('format')!r}, this version reads {FORMAT}"
        raise SampleError(f"{path}: {found}; make the sample again")
    frames = entry(content, "frames", list, where=str(path))
    if not frames:
        raise SampleError(f"{path}: frames is empty; make the sample again with: svd3d render")
    named = [(f"{path}: frame {i}", frame) for i, frame in enumerate(frames)]
    for where, frame in named:
        as_dict(frame, where=where)
    shape = (entry(content, "h", int, where=str(path)), entry(content, "w", int, where=str(path)))
    return _Opened(path, content, block, named, shape)


def _intrinsic_keys(matrix: np.ndarray) -> dict[str, float]:
    values = {"fl_x": matrix[0, 0], "fl_y": matrix[1, 1], "cx": matrix[0, 2], "cy": matrix[1, 2]}
    return {key: float(value) for key, value in values.items()}


def read_json(path: Path) -> dict[str, Any]:
    """The keys and values of a JSON file; `SampleError` when it is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SampleError(f"{path}: not readable JSON ({error}); make the sample again") from error
    return as_dict(content, where=str(path))


def as_dict(content: Any, *, where: str) -> dict[str, Any]:
    """The content itself, which must be keys and values."""
    if not isinstance(content, dict):
        raise SampleError(f"{where}: expected keys and values, got {_short(content)}")
    return content


def entry(content: dict[str, Any], key: str, kind: type, *, where: str) -> Any:
    """The value of a key that must be there and of a kind: int, str, list or dict."""
    value = content.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        expected = {int: "a whole number", str: "text", list: "a list", dict: "keys and values"}[kind]
        raise SampleError(f"{where}: {key} is {_short(value)}, expected {expected}")
    return value


def _optional(content: dict[str, Any], key: str, kind: type, *, where: str) -> Any:
    return None if content.get(key) is None else entry(content, key, kind, where=where)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _orbit(block: dict[str, Any] | None, *, where: str) -> Orbit | None:
    if block is None:
        return None
    try:
        return Orbit(
            tuple(float(angle) for angle in block["azimuths_deg"]),
            tuple(float(angle) for angle in block["elevations_deg"]),
            float(block["distance"]),
            float(block["fov_deg"]),
        )
    except CameraError as error:
        raise SampleError(f"{where}: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SampleError(f"{where}: orbit is {_short(block)}, which is not an orbit") from error


def matrix_entry(content: dict[str, Any], key: str, *, where: str) -> Float[np.ndarray, "4 4"]:
    """The 4 x 4 matrix of finite numbers under a key."""
    value = entry(content, key, list, where=where)
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.empty(0)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise SampleError(f"{where}: {key} is not a 4 x 4 matrix of finite numbers")
    return matrix


def _intrinsics(content: dict[str, Any], *, where: str) -> Float[np.ndarray, "3 3"]:
    values = {key: content.get(key) for key in ("fl_x", "fl_y", "cx", "cy")}
    for key, value in values.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 1e9:
            raise SampleError(f"{where}: {key} is {_short(value)}, expected a number of pixels")
    fl_x, fl_y, cx, cy = (float(value) for value in values.values())  # type: ignore[arg-type]
    return np.array([[fl_x, 0, cx], [0, fl_y, cy], [0, 0, 1.0]])


def path_entry(folder: Path, frame: dict[str, Any], key: str, *, where: str) -> Path:
    """The path that a frame names under a key, refused when it leaves the folder."""
    name = entry(frame, key, str, where=where)
    path = folder / name
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, a loop of links
        raise SampleError(f"{where}: {key} {_short(name)} is not a file name ({error})") from error
    if not inside:
        raise SampleError(f"{where}: {key} {name!r} points outside the sample folder")
    return path


def _image(
    folder: Path, frame: dict[str, Any], shape: tuple[int, int], *, where: str
) -> UInt8[np.ndarray, "h w 4"]:
    path = path_entry(folder, frame, "file_path", where=where)
    try:
        image = pictures.read(path)
    except InputError as error:
        raise SampleError(f"{where}: file_path: {error}") from error
    _check_shape(path, image, shape, where=where)
    return image


def _depth(
    folder: Path, named: list[tuple[str, Any]], shape: tuple[int, int], unit: Any, *, where: str
) -> Float[np.ndarray, "v h w"] | None:
    if unit is None:
        for frame_where, frame in named:
            if "depth_file_path" in frame:
                raise SampleError(f"{frame_where}: depth_file_path is given, but depth_unit is missing")
        return None
    if not isinstance(unit, (int, float)) or isinstance(unit, bool) or not 0 < unit < 1e9:
        raise SampleError(f"{where}: depth_unit is {_short(unit)}, expected world units per step, above 0")
    found = _maps(folder, named, shape, "depth_file_path", pictures.decode_depth)
    return np.stack([(steps * float(unit)).astype(np.float32) for steps in found])


def _normal(
    folder: Path, named: list[tuple[str, Any]], shape: tuple[int, int]
) -> Float[np.ndarray, "v h w 3"] | None:
    if not any("normal_file_path" in frame for _, frame in named):
        return None
    found = _maps(folder, named, shape, "normal_file_path", pictures.decode_rgb)
    return np.stack([_from_steps(steps) for steps in found])


def _from_steps(steps: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    something = (steps != NOTHING).any(axis=-1, keepdims=True)
    return (steps.astype(np.float32) - 127.5) / 127.5 * something


def _maps(
    folder: Path,
    named: list[tuple[str, Any]],
    shape: tuple[int, int],
    key: str,
    decode: Callable[..., np.ndarray],
) -> Iterator[np.ndarray]:
    """The decoded pictures that all frames name under `key`, checked."""
    for where, frame in named:
        path = path_entry(folder, frame, key, where=where)
        try:
            steps = decode(input_path(path, what="picture").read_bytes(), where=str(path))
        except (InputError, OSError) as error:
            raise SampleError(f"{where}: {key}: {error}") from error
        _check_shape(path, steps, shape, where=where)
        yield steps


def _check_shape(path: Path, image: np.ndarray, shape: tuple[int, int], *, where: str) -> None:
    if image.shape[:2] != shape:
        found, expected = f"{image.shape[1]} x {image.shape[0]}", f"{shape[1]} x {shape[0]}"
        raise SampleError(
            f"{where}: {path.parent.name}/{path.name} is {found}, expected {expected}; make it again"
        )
