"""Reading the OpenEXR files that Blender writes for us: one part, scan lines, no compression.

Blender's own loader cannot read the passes of such a file, and any Blender has numpy. Only what
`render.blender.passes` asks for is understood; anything else is refused.
"""

import struct

import numpy as np

HALF, FLOAT = 1, 2


def read(path: str) -> dict[str, np.ndarray]:
    """All channels of a file by their full name, such as `ViewLayer.DiffCol.R`, each float32 [h, w].

    Raises `ValueError` for compressed, tiled, deep or cut-off files.
    """
    with open(path, "rb") as file:
        data = file.read()
    if data[:4] != b"\x76\x2f\x31\x01" or data[5] & 0x1A:  # tiled, deep, several parts
        raise ValueError(f"{path} is not a plain OpenEXR file")
    attributes, position = _attributes(data)
    if attributes["compression"] != b"\0":
        raise ValueError(f"{path} is compressed")
    left, top, right, bottom = struct.unpack("<4i", attributes["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    channels, pixel = _channels(attributes["channels"]), {HALF: "<f2", FLOAT: "<f4"}
    row = np.dtype(
        [
            ("y", "<i4"),
            ("bytes", "<i4"),
            *((name, pixel[kind], (width,)) for name, kind in channels),
        ]
    )
    start = position + 8 * height  # one offset per row; Blender stores the rows in order
    if len(data) < start + height * row.itemsize:
        raise ValueError(f"{path} is cut off")
    rows = np.frombuffer(data, row, height, start)
    if not np.array_equal(rows["y"], np.arange(top, bottom + 1)):
        raise ValueError(f"{path} stores its rows in another order")
    return {name: rows[name].astype(np.float32) for name, _ in channels}


def _attributes(data: bytes) -> tuple[dict[str, bytes], int]:
    found, position = {}, 8
    while data[position]:
        name, position = _text(data, position)
        _, position = _text(data, position)
        (size,) = struct.unpack_from("<i", data, position)
        found[name] = data[position + 4 : position + 4 + size]
        position += 4 + size
    return found, position + 1


def _channels(data: bytes) -> list[tuple[str, int]]:
    found, position = [], 0
    while data[position]:
        name, position = _text(data, position)
        (kind,) = struct.unpack_from("<i", data, position)
        found.append((name, kind))
        position += 16
    return found


def _text(data: bytes, position: int) -> tuple[str, int]:
    end = data.index(b"\0", position)
    return data[position:end].decode(), end + 1
