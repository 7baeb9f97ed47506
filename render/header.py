"""What a 3-D file promises before it is opened: counts and sizes, and the dimensions of its textures."""

import io
import struct
from dataclasses import dataclass
from pathlib import Path

from PIL import (
    BmpImagePlugin,
    DdsImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from svd3d.errors import ObjectError

PICTURES = {
    b"\x89PNG": PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"DDS ": DdsImagePlugin.DdsImageFile,
    b"GIF8": GifImagePlugin.GifImageFile,
    b"II*\0": TiffImagePlugin.TiffImageFile,
    b"MM\0*": TiffImagePlugin.TiffImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
}
"""Pillow's readers by magic bytes. Used directly, because `Image.open` raises above a limit of its own."""
MAX_PICTURE_MPX = 1000.0
"""A single picture with more megapixels is a decompression bomb."""


@dataclass(frozen=True)
class Header:
    """What a 3-D file says of itself, as far as it can be told without decoding it."""

    kind: str
    """The suffix of the file in small letters, without its dot."""
    bytes: int
    """Size of the file and of the files beside it that it names."""
    triangles: int | None
    """Triangles to be seen; of an OBJ its polygons (at least as many triangles). None: it does not say."""
    nodes: int = 0
    materials: int = 0
    animations: int = 0
    textures: int = 0
    """Pictures that the file holds or names, also those that are missing."""
    texture_mpx: float = 0.0
    """Megapixels of these pictures together; missing and unreadable ones count 0, as Blender drops them."""
    extensions: tuple[str, ...] = ()
    """glTF extensions that the file uses."""


DAMAGED = (OSError, ValueError, SyntaxError, LookupError, TypeError, ArithmeticError, EOFError, struct.error)
"""What Pillow's parsers raise at damaged files."""


def megapixels(picture: Path | bytes, *, where: str) -> float:
    """Size of a picture in megapixels, from its header; 0 when it is none that Pillow knows.

    Raises `ObjectError` for a decompression bomb. KTX2 pictures count 0: Blender does not decode them.
    """
    if isinstance(picture, Path) and not picture.is_file():
        return 0.0
    try:
        with open(picture, "rb") if isinstance(picture, Path) else io.BytesIO(picture) as file:
            start = file.read(4)
            file.seek(0)
            reader = next((r for magic, r in PICTURES.items() if start.startswith(magic)), None)
            width, height = reader(file).size if reader else (0, 0)
    except DAMAGED:
        return 0.0
    if width * height > MAX_PICTURE_MPX * 1e6:
        raise ObjectError(
            f"{where}: a picture of {width} x {height} pixels, which is refused; resize it", kind="too_large"
        )
    return width * height / 1e6
