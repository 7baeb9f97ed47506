"""What glTF and GLB files promise in their JSON, checked before Blender sees them.

Checked: magic, lengths, indices, byte ranges, required extensions, that a node shows a surface, that no node
is its own ancestor, that nothing outside the folder is asked for, and that positions are finite (Blender
would silently move the others to 0). Of the buffers only positions and the headers of pictures are read.
"""

import base64
import binascii
import json
import struct
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

import numpy as np

from render.header import Header, megapixels
from svd3d.errors import ObjectError

MAX_JSON = 256 << 20
COMPONENT_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
ELEMENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
TRIANGLES = {4: lambda n: n // 3, 5: lambda n: max(n - 2, 0), 6: lambda n: max(n - 2, 0)}
"""Triangles of a primitive with n corners, by its mode: list, strip, fan. Other modes have none."""
KNOWN = {
    *("EXT_mesh_gpu_instancing", "EXT_texture_webp", "KHR_animation_pointer", "KHR_draco_mesh_compression"),
    *("KHR_lights_punctual", "KHR_mesh_quantization", "KHR_texture_transform", "KHR_materials_anisotropy"),
    *("KHR_materials_clearcoat", "KHR_materials_emissive_strength", "KHR_materials_ior"),
    *("KHR_materials_pbrSpecularGlossiness", "KHR_materials_sheen", "KHR_materials_specular"),
    *("KHR_materials_transmission", "KHR_materials_unlit", "KHR_materials_variants", "KHR_materials_volume"),
}
"""Extensions that the importer of Blender 4.5 knows; a file that requires another one is refused."""


def check(path: Path) -> Header:
    """Check a .glb or .gltf file and read its header.

    Raises `ObjectError`, naming the part of the file that is wrong.
    """
    document = _read(path)
    version = document.get(document.content.get("asset"), "version", str, where="asset")
    if not version.startswith("2."):
        document.refuse(f"glTF version {version[:8]} is not 2; convert it", kind="unsupported")
    if unknown := set(document.strings("extensionsRequired")) - KNOWN:
        names = ", ".join(sorted(unknown))
        document.refuse(f"requires {names:.120}, which Blender cannot read; convert it", kind="unsupported")
    _check_buffers(document)
    _check_accessors(document)
    _check_nodes(document)
    triangles = _triangles(document)
    _check_positions(document)
    return Header(
        kind=path.suffix[1:].lower(),
        bytes=path.stat().st_size + sum(file.stat().st_size for file in _files(document)),
        triangles=triangles,
        nodes=len(document.items("nodes")),
        materials=len(document.items("materials")),
        animations=len(document.items("animations")),
        textures=len(document.items("images")),
        texture_mpx=sum(_megapixels(document, number) for number in range(len(document.items("images")))),
        extensions=tuple(sorted(set(document.strings("extensionsUsed")))),
    )


def files(path: Path) -> set[Path]:
    """The files beside a .glb or .gltf that its buffers and pictures name, and that are there."""
    return _files(_read(path))


class _Document:
    """The JSON of a glTF file with access that refuses what is missing or of the wrong type."""

    def __init__(self, path: Path, content: dict[str, Any], chunk: np.ndarray | None) -> None:
        self.path, self.content, self._chunk = path, content, chunk
        self._items: dict[str, list[dict[str, Any]]] = {}
        self._buffers: dict[int, np.ndarray | None] = {}

    def refuse(self, reason: str, *, kind: str = "invalid") -> NoReturn:
        raise ObjectError(f"{self.path}: {reason}", kind=kind)

    def items(self, name: str) -> list[dict[str, Any]]:
        """One of the top-level lists; every member is a JSON object."""
        if name in self._items:
            return self._items[name]
        found = self.content.get(name, [])
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            self.refuse(f"{name} is not a list of objects; the file is broken, download it again")
        self._items[name] = found
        return found

    def strings(self, name: str) -> list[str]:
        found = self.content.get(name, [])
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            self.refuse(f"{name} is not a list of names; the file is broken, download it again")
        return found

    def get(self, holder: Any, key: str, kind: type, *, where: str, default: Any = None) -> Any:
        value = holder.get(key, default) if isinstance(holder, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 0):
            self.refuse(f"{where}: {key} is {value!r:.60}; the file is broken, download it again")
        return value

    def index(self, holder: dict[str, Any], key: str, into: str, *, where: str) -> dict[str, Any]:
        """The member of a top-level list that `holder[key]` names."""
        found = self.items(into)
        index = self.get(holder, key, int, where=where)
        if index >= len(found):
            self.refuse(f"{where}: {key} is {index}, but there are {len(found)} {into}; the file is broken")
        return found[index]

    def beside(self, name: str, number: int) -> Path | None:
        """The file that a buffer or picture names; None when its bytes are in this file.

        Addresses, and paths that leave the object's folder, are refused.
        """
        item, where = self.items(name)[number], f"{name}[{number}]"
        uri = self.get(item, "uri", str, where=where, default="data:")
        if uri.startswith("data:"):
            return None
        place = _place(self.path.parent, uri)
        if place is None:
            self.refuse(f"{where} points outside its folder ({uri[:60]!r}), which is refused", kind="outside")
        return place

    def buffer(self, number: int) -> np.ndarray | None:
        """The bytes of a buffer, uint8, mapped into memory; None for one that an extension would fill."""
        if number not in self._buffers:
            self._buffers[number] = self._open(number)
        return self._buffers[number]

    def _open(self, number: int) -> np.ndarray | None:
        where, place = f"buffers[{number}]", self.beside("buffers", number)
        if place is None and "uri" in self.items("buffers")[number]:
            return self.embedded(self.items("buffers")[number]["uri"], where=where)
        if place is None:
            return self._chunk if number == 0 else None
        if not place.is_file():
            self.refuse(f"{where}: the file {place.name[:60]!r} is missing; put it beside the object")
        return _mapped(place, start=0, length=place.stat().st_size)

    def embedded(self, uri: str, *, where: str) -> np.ndarray:
        """The bytes of a data URI, uint8."""
        kind, comma, data = uri.partition(",")
        if not comma or not kind.endswith(";base64"):
            self.refuse(f"{where}: a data URI that is not base64; the file is broken, download it again")
        try:
            return np.frombuffer(base64.b64decode(data), np.uint8)
        except (binascii.Error, ValueError) as error:
            self.refuse(f"{where}: its base64 cannot be read ({error}); download it again")


def _read(path: Path) -> _Document:
    if path.suffix.lower() == ".glb":
        return _read_glb(path)
    if path.stat().st_size > MAX_JSON:
        raise ObjectError(
            f"{path}: more than {MAX_JSON >> 20} MB of JSON; convert it to GLB", kind="too_large"
        )
    return _Document(path, _parse(path, path.read_bytes()), None)


def _read_glb(path: Path) -> _Document:
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(20)
        if header[:4] != b"glTF":
            raise ObjectError(
                f"{path}: not a GLB file (it starts with {header[:12]!r}); download it again",
                kind="unknown_format",
            )
        if len(header) < 20:
            raise ObjectError(f"{path}: truncated after {size} bytes; download it again", kind="bad_download")
        version, length, json_bytes, json_kind = struct.unpack("<II I4s", header[4:])
        if version != 2:
            raise ObjectError(f"{path}: GLB version {version} is not 2; convert it", kind="unsupported")
        if max(length, 20 + json_bytes) > size:
            raise ObjectError(
                f"{path}: truncated, {size} bytes of {max(length, 20 + json_bytes)}; download it again",
                kind="bad_download",
            )
        if json_kind != b"JSON" or json_bytes > MAX_JSON:
            raise ObjectError(
                f"{path}: the first chunk is {json_kind!r} of {json_bytes} bytes, not JSON; download it again"
            )
        content = _parse(path, file.read(json_bytes))
        chunk = file.read(8)
    binary_bytes, binary_kind = struct.unpack("<I4s", chunk) if len(chunk) == 8 else (0, b"BIN\0")
    if binary_kind != b"BIN\0" or 20 + json_bytes + len(chunk) + binary_bytes > size:
        raise ObjectError(
            f"{path}: the binary chunk is broken or cut off; download it again", kind="bad_download"
        )
    return _Document(path, content, _mapped(path, start=28 + json_bytes, length=binary_bytes))


def _mapped(path: Path, *, start: int, length: int) -> np.ndarray:
    """Part of a file as uint8, mapped into memory; nothing is read until it is looked at."""
    return np.memmap(path, np.uint8, "r", start, (length,)) if length else np.empty(0, np.uint8)


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    def refuse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a JSON number")

    try:
        content = json.loads(data, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ObjectError(f"{path}: its JSON cannot be read ({error}); download it again") from error
    if not isinstance(content, dict):
        raise ObjectError(
            f"{path}: its JSON is {type(content).__name__}, not a glTF object; download it again"
        )
    return content


def _files(document: _Document) -> set[Path]:
    places = {
        document.beside(name, number)
        for name in ("buffers", "images")
        for number in range(len(document.items(name)))
    }
    return {place for place in places if place is not None and place.is_file()}


def _place(folder: Path, uri: str) -> Path | None:
    """The file that a relative address names, or None when it is no place inside the folder."""
    name = unquote(uri).replace("\\", "/")
    parts = name.split("/")
    if ":" in parts[0] or "\0" in name or len(name) > 1000 or max(map(len, parts)) > 100:
        return None
    try:
        place = (folder / name).resolve()
    except (OSError, RuntimeError):  # a loop of links
        return None
    return place if place.is_relative_to(folder.resolve()) else None


def _check_buffers(document: _Document) -> None:
    for number, buffer in enumerate(document.items("buffers")):
        where = f"buffers[{number}]"
        length, present = document.get(buffer, "byteLength", int, where=where), document.buffer(number)
        if present is not None and length > len(present):
            document.refuse(f"{where}: promises {length} bytes, holds {len(present)}; download it again")
    for number, view in enumerate(document.items("bufferViews")):
        where = f"bufferViews[{number}]"
        buffer = document.index(view, "buffer", "buffers", where=where)
        end = document.get(view, "byteOffset", int, where=where, default=0)
        end += document.get(view, "byteLength", int, where=where)
        if end > buffer["byteLength"]:
            document.refuse(f"{where}: ends at byte {end} of {buffer['byteLength']}; the file is broken")


def _check_accessors(document: _Document) -> None:
    for number, accessor in enumerate(document.items("accessors")):
        where = f"accessors[{number}]"
        count = document.get(accessor, "count", int, where=where)
        component = document.get(accessor, "componentType", int, where=where)
        kind = document.get(accessor, "type", str, where=where)
        if component not in COMPONENT_BYTES or kind not in ELEMENTS:
            document.refuse(
                f"{where}: type {kind!r:.20} of {component!r:.20} does not exist; the file is broken"
            )
        if "bufferView" not in accessor:
            continue
        view = document.index(accessor, "bufferView", "bufferViews", where=where)
        element = COMPONENT_BYTES[component] * ELEMENTS[kind]
        stride = document.get(view, "byteStride", int, where=where, default=element) or element
        start = document.get(accessor, "byteOffset", int, where=where, default=0)
        end = start + (count - 1) * stride + element if count else start
        if end > view["byteLength"]:
            document.refuse(
                f"{where}: needs {end} bytes, its view has {view['byteLength']}; the file is broken"
            )


def _check_nodes(document: _Document) -> None:
    """Every node has at most one parent and no node is its own ancestor."""
    nodes = document.items("nodes")
    parent: dict[int, int] = {}
    for number, node in enumerate(nodes):
        for child in document.get(node, "children", list, where=f"nodes[{number}]", default=[]):
            if (
                not isinstance(child, int)
                or isinstance(child, bool)
                or not 0 <= child < len(nodes)
                or child in parent
            ):
                document.refuse(
                    f"nodes[{number}]: child {child!r:.20} is missing or has two parents; the file is broken"
                )
            parent[child] = number
    rooted = set(range(len(nodes))) - set(parent)
    waiting = list(rooted)
    while waiting:
        children = nodes[waiting.pop()].get("children", [])
        rooted.update(children)
        waiting.extend(children)
    if len(rooted) != len(nodes):
        document.refuse("its nodes form a circle; the file is broken")


def _triangles(document: _Document) -> int:
    """Triangles of all nodes that show a mesh; a mesh shown twice counts twice."""
    meshes = []
    for number, mesh in enumerate(document.items("meshes")):
        triangles = 0
        for primitive in document.get(mesh, "primitives", list, where=f"meshes[{number}]"):
            where = f"meshes[{number}].primitives"
            attributes = document.get(primitive, "attributes", dict, where=where)
            if "POSITION" not in attributes:
                continue
            corners = document.index(attributes, "POSITION", "accessors", where=where)["count"]
            if "indices" in primitive:
                corners = document.index(primitive, "indices", "accessors", where=where)["count"]
            mode = document.get(primitive, "mode", int, where=where, default=4)
            triangles += TRIANGLES.get(mode, lambda n: 0)(corners)
        meshes.append(triangles)
    total = 0
    for number, node in enumerate(document.items("nodes")):
        if "mesh" in node:
            document.index(node, "mesh", "meshes", where=f"nodes[{number}]")
            total += meshes[node["mesh"]]
    if not total:
        document.refuse(
            "shows no surface (no node with triangles), so nothing can be rendered; pass another object",
            kind="no_mesh",
        )
    return total


def _check_positions(document: _Document) -> None:
    """Vertices must be finite; compressed ones are left to Blender."""
    used = set()
    for mesh in document.items("meshes"):
        used.update(p["attributes"]["POSITION"] for p in mesh["primitives"] if "POSITION" in p["attributes"])
    for index in sorted(used):
        accessor = document.items("accessors")[index]
        kind = accessor["componentType"], accessor["type"]
        if "bufferView" not in accessor or kind != (5126, "VEC3") or not accessor["count"]:
            continue
        view = document.items("bufferViews")[accessor["bufferView"]]
        data = document.buffer(view["buffer"])
        if data is None:
            continue
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        strides = (view.get("byteStride", 12) or 12, 4)
        points = np.ndarray((accessor["count"], 3), "<f4", buffer=data, offset=start, strides=strides)
        if broken := int((~np.isfinite(points).all(axis=1)).sum()):
            document.refuse(
                f"accessors[{index}]: {broken} positions are not finite numbers; the file is broken"
            )


def _megapixels(document: _Document, number: int) -> float:
    where, image = f"images[{number}]", document.items("images")[number]
    picture: Path | bytes = b""
    if place := document.beside("images", number):
        picture = place
    elif "uri" in image:
        picture = document.embedded(image["uri"], where=where).tobytes()
    elif "bufferView" in image:
        view = document.index(image, "bufferView", "bufferViews", where=where)
        data, start = document.buffer(view["buffer"]), view.get("byteOffset", 0)
        picture = b"" if data is None else data[start : start + view["byteLength"]].tobytes()
    return megapixels(picture, where=f"{document.path}: {where}")
