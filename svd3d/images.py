"""Images as arrays: reading that refuses what is not an image, alpha done right, sheets and films.

Images are RGBA, 8 bits, straight alpha, sRGB. Whoever consumes them chooses the background.
"""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8, UInt16
from PIL import Image, ImageOps, UnidentifiedImageError

from svd3d.errors import ImageError, OutputError, require
from svd3d.runs import input_path, write_file

log = logging.getLogger(__name__)
WHITE = (1.0, 1.0, 1.0)
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
"""Formats that are read. Pillow knows more; some start other programs (EPS) or have no magic bytes (TGA)."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
"""Of the files that are taken for pictures in a folder."""
OPAQUE_PALENESS = 0.2
"""How far the darkest channel of an outline pixel must lie below white to count as fully object."""
MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded."""


def read(path: Path) -> UInt8[np.ndarray, "h w 4"]:
    """Read a picture of any common kind as RGBA: rotation applied, palettes and 16 bits converted.

    Raises `ImageError` when the file is missing, not an image by its content, truncated, too large, or when
    pixels are NaN.
    """
    if input_path(path, what="image").is_dir():
        raise ImageError(f"{path}: a folder, not an image; pass one image file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    return decode(data, where=str(path))


def decode(data: bytes, *, where: str) -> UInt8[np.ndarray, "h w 4"]:
    """Decode the bytes of a picture; `where` names it in errors."""
    if not data:
        raise ImageError(f"{where}: the file is empty; download or render it again")
    picture = _open(data, where=where)
    return np.array(_eight_bits(picture, where=where).convert("RGBA"))


def decode_rgb(data: bytes, *, where: str) -> UInt8[np.ndarray, "h w 3"]:
    """Decode a picture of three 8-bit channels without conversion; `where` names it in errors."""
    picture = _open(data, where=where)
    if picture.mode != "RGB":
        raise ImageError(f"{where}: a picture of kind {picture.mode}, expected 8-bit RGB; render it again")
    return np.array(picture)


def decode_depth(data: bytes, *, where: str) -> UInt16[np.ndarray, "h w"]:
    """Decode a 16-bit grey picture without scaling; `where` names it in errors."""
    picture = _open(data, where=where)
    if not picture.mode.startswith("I;16"):
        raise ImageError(f"{where}: a picture of kind {picture.mode}, expected 16-bit grey; render it again")
    return np.array(picture).astype(np.uint16)


def _open(data: bytes, *, where: str) -> Image.Image:
    """The whole picture in memory, upright, with a size that was checked before decoding."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's hints on size and metadata; the limit here is our own
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{picture.width} x {picture.height} pixels")
            if getattr(picture, "is_animated", False) and picture.format != "MPO":
                log.warning("%s: animated; only its first frame is used", where)
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            return picture
    except UnidentifiedImageError as error:
        raise ImageError(f"{where}: not an image (starts with {data[:12]!r}); pass a PNG or JPEG") from error
    except Image.DecompressionBombError as error:
        limit = f"{MAX_PIXELS // 1_000_000} megapixels"
        raise ImageError(f"{where}: larger than the limit of {limit} ({error}); resize it first") from error
    except Exception as error:  # Pillow's parsers raise whatever a damaged file makes them meet
        raise ImageError(f"{where}: a broken image ({error}); download or render it again") from error


def _eight_bits(picture: Image.Image, *, where: str) -> Image.Image:
    """Sixteen-bit and float grey pictures scaled to eight bits (Pillow alone would clip them)."""
    if picture.mode.startswith("I"):
        return Image.fromarray(to_uint8(np.asarray(picture, dtype=np.float64) / 65535))
    if picture.mode == "F":
        values = np.asarray(picture)
        if bad := int((~np.isfinite(values)).sum()):
            raise ImageError(f"{where}: {bad} of {values.size} pixels are not finite; write it again")
        return Image.fromarray(to_uint8(values))
    return picture


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of an 8-bit image (h, w, 3 or 4) or of a 16-bit grey one (h, w)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def write_png(path: Path, image: np.ndarray) -> None:
    """Write a PNG atomically."""
    write_file(path, encode_png(image))


def to_float(rgba: UInt8[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """8 bits to [0, 1], float32."""
    return rgba.astype(np.float32) / 255


def to_uint8(image: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """[0, 1] to 8 bits, clipped and rounded."""
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def composite(
    rgba: UInt8[np.ndarray, "*v h w 4"], *, background: tuple[float, float, float] = WHITE
) -> Float[np.ndarray, "*v h w 3"]:
    """The image over a plain background, in [0, 1]."""
    image = to_float(rgba)
    alpha = image[..., 3:]
    return image[..., :3] * alpha + np.asarray(background, dtype=np.float32) * (1 - alpha)


def resize(
    rgba: UInt8[np.ndarray, "h w 4"], *, height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 4"]:
    """Resize with a Lanczos filter on premultiplied colour (straight alpha would bleed the background in)."""
    if rgba.shape[:2] == (height, width):
        return rgba
    image = to_float(rgba)
    image[..., :3] *= image[..., 3:]
    channels = [
        np.asarray(Image.fromarray(image[..., c]).resize((width, height), Image.Resampling.LANCZOS))
        for c in range(4)
    ]
    resized = np.stack(channels, axis=-1)
    alpha = resized[..., 3:]
    colour = resized[..., :3] / np.maximum(alpha, 1e-6)  # before clipping, so that overshoots cancel
    return to_uint8(np.concatenate([colour, alpha], axis=-1) * (alpha > 0.5 / 255))


def has_transparency(rgba: UInt8[np.ndarray, "h w 4"]) -> bool:
    """Whether an image comes with alpha of its own."""
    return bool(rgba[..., 3].min() < 250)


def cut_out(rgba: UInt8[np.ndarray, "h w 4"], *, where: str = "image") -> UInt8[np.ndarray, "h w 4"]:
    """The object without its background.

    An image with transparency keeps its alpha. An opaque one loses what is connected to its border and
    of the border's colour; a border that is not plain is refused with `ImageError`, and so is an image
    without any object.
    """
    if has_transparency(rgba):
        cut = rgba
    else:
        border = np.concatenate([rgba[0], rgba[-1], rgba[:, 0], rgba[:, -1]])[:, :3].astype(np.float32)
        plain = np.median(border, axis=0)
        if np.percentile(np.abs(border - plain).max(axis=1), 90) > 32:
            raise ImageError(
                f"{where}: the background is not plain and there is no transparency; "
                "cut the object out first (a PNG with alpha), for example with rembg"
            )
        distance = np.abs(rgba[..., :3].astype(np.float32) - plain).max(axis=-1)
        outside = _connected_to_border(distance < 24)
        cut = rgba.copy()
        cut[..., 3] = np.where(outside, (distance * (255 / 24)).clip(0, 255), 255).astype(np.uint8)
        cut[..., 3][outside & (distance < 10)] = 0
    if (cut[..., 3] > 127).sum() < 16:
        raise ImageError(f"{where}: no object found, the image is empty or transparent; pass another image")
    return cut


def remove_white(view: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 4"]:
    """Straight alpha for a view in [0, 1] that a model painted on white.

    White that is connected to the border becomes transparent; the outline gets the alpha that explains its
    paleness. A view that is white everywhere becomes fully transparent.
    """
    paleness = 1 - view.min(axis=-1)
    outside = _connected_to_border(paleness < OPAQUE_PALENESS)
    alpha = np.where(outside, (paleness / OPAQUE_PALENESS - 0.25).clip(0, 1), 1.0)[..., None]
    colour = np.where(alpha > 0, (view - (1 - alpha)) / np.maximum(alpha, 1e-3), 0.0)
    return to_uint8(np.concatenate([colour, alpha], axis=-1).astype(np.float32))


def _connected_to_border(mask: np.ndarray) -> np.ndarray:
    """Part of a mask reached from the border of the picture: sweeps four ways until nothing grows."""
    reached = mask.copy()
    reached[1:-1, 1:-1] = False
    across = np.ascontiguousarray(mask.T)
    count = -1
    while count != (count := int(reached.sum())):
        _sweep(reached, mask)
        turned = np.ascontiguousarray(reached.T)
        _sweep(turned, across)
        reached = np.ascontiguousarray(turned.T)
    return reached


def _sweep(reached: np.ndarray, mask: np.ndarray) -> None:
    """Spread `reached` down and up the columns of `mask`, in place."""
    for seen, free in ((reached, mask), (reached[::-1], mask[::-1])):
        for row in range(1, len(seen)):
            seen[row] |= seen[row - 1] & free[row]


def center(
    rgba: UInt8[np.ndarray, "h w 4"], *, size: int, fill: float = 0.9
) -> UInt8[np.ndarray, "{size} {size} 4"]:
    """The object centred in a transparent square, its longer side `fill` of the picture.

    Raises `ImageError` when nothing is opaque.
    """
    rows, columns = np.nonzero(rgba[..., 3] > 127)
    if not len(rows):
        raise ImageError("image: no object found, it is fully transparent; pass another image")
    crop = rgba[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    scale = fill * size / max(crop.shape[:2])
    height, width = (max(1, min(size, round(side * scale))) for side in crop.shape[:2])
    square = np.zeros((size, size, 4), np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    square[top : top + height, left : left + width] = resize(crop, height=height, width=width)
    return square


def contact_sheet(
    rgba: UInt8[np.ndarray, "v h w 4"], *, columns: int = 7, background: tuple[float, float, float] = WHITE
) -> UInt8[np.ndarray, "_h _w 3"]:
    """All views in reading order on one sheet."""
    views, height, width = rgba.shape[:3]
    columns = min(columns, views)
    rows = -(-views // columns)
    sheet = np.full((rows * height, columns * width, 3), to_uint8(np.array([[background]]))[0, 0], np.uint8)
    for index, image in enumerate(to_uint8(composite(rgba, background=background))):
        top, left = index // columns * height, index % columns * width
        sheet[top : top + height, left : left + width] = image
    return sheet


def write_film(
    path: Path, frames: Sequence[UInt8[np.ndarray, "h w 3"]], *, fps: int = 10, repeat: int = 2
) -> None:
    """Write an MP4 (H.264) that any browser plays; frames are padded to even sides with white."""
    imageio = require("imageio.v2", extra="video", reason="writing an MP4")
    require("imageio_ffmpeg", extra="video", reason="writing an MP4")
    height, width = frames[0].shape[:2]
    pad = ((0, height % 2), (0, width % 2), (0, 0))
    temporary = path.with_name(f".{os.getpid()}.tmp{path.suffix}")
    writer = imageio.get_writer(temporary, fps=fps, codec="libx264", quality=8, macro_block_size=1)
    try:
        with contextlib.closing(writer) as film:  # as a context manager it would run on after an error
            for frame in [*frames] * repeat:
                film.append_data(np.pad(frame, pad, constant_values=255))
        temporary.replace(path)
    except OSError as error:
        reason = " ".join(str(error).split())[:300]
        raise OutputError(f"{path}: the film cannot be written ({reason}); is the disk full?") from error
    finally:
        temporary.unlink(missing_ok=True)
