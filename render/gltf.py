"""What glTF and GLB files promise in their JSON, checked before Blender sees them.

Checked: magic, lengths, indices, byte ranges, that a node shows a surface, that no node is its own
ancestor, that nothing outside the folder is asked for, and that the positions in a GLB are finite (Blender
would silently move the others to 0). Of the binary chunk only the positions are read.
"""

import json
import mmap
import struct
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

import numpy as np

from svd3d.errors import ObjectError

MAX_JSON = 256 << 20
COMPONENT_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
ELEMENTS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
TRIANGLES = {4: lambda n: n // 3, 5: lambda n: max(n - 2, 0), 6: lambda n: max(n - 2, 0)}
"""Triangles of a primitive with n corners, by its mode: list, strip, fan. Other modes have none."""
UNREADABLE = {"EXT_meshopt_compression", "KHR_texture_basisu", "MSFT_texture_dds"}
"""Extensions that Blender's importer does not know; a file that requires one is refused."""


def check(path: Path) -> int:
    """Check a .glb or .gltf file and count its triangles.

    Raises `ObjectError`, naming the part of the file that is wrong.
    """
    glb = path.suffix.lower() == ".glb"
    content, binary_start, binary_bytes = _read_glb(path) if glb else (_read_gltf(path), 0, None)
    document = _Document(path, content)
    version = document.get(content.get("asset"), "version", str, where="asset")
    if not version.startswith("2."):
        document.refuse(f"glTF version {version[:8]} is not 2; convert it")
    if unreadable := UNREADABLE.intersection(document.strings("extensionsRequired")):
        document.refuse(f"requires {', '.join(sorted(unreadable))}, which Blender cannot read; convert it")
    _check_uris(document)
    _check_buffers(document, binary_bytes)
    _check_accessors(document)
    _check_nodes(document)
    triangles = _triangles(document)
    if glb:
        _check_positions(document, binary_start)
    return triangles


class _Document:
    """The JSON of a glTF file with access that refuses what is missing or of the wrong type."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self.path, self.content = path, content
        self._items: dict[str, list[dict[str, Any]]] = {}

    def refuse(self, reason: str) -> NoReturn:
        raise ObjectError(f"{self.path}: {reason}")

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


def _read_glb(path: Path) -> tuple[dict[str, Any], int, int]:
    """The JSON chunk, and where the binary chunk that follows it starts and how many bytes it has."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        header = file.read(20)
        if header[:4] != b"glTF":
            raise ObjectError(f"{path}: not a GLB file (it starts with {header[:12]!r}); download it again")
        if len(header) < 20:
            raise ObjectError(f"{path}: truncated after {size} bytes; download it again")
        version, length, json_bytes, json_kind = struct.unpack("<II I4s", header[4:])
        if version != 2:
            raise ObjectError(f"{path}: GLB version {version} is not 2; convert it")
        if length > size or 20 + json_bytes > size:
            raise ObjectError(
                f"{path}: truncated, {size} bytes of {max(length, 20 + json_bytes)}; download it again"
            )
        if json_kind != b"JSON" or json_bytes > MAX_JSON:
            raise ObjectError(
                f"{path}: the first chunk is {json_kind!r} of {json_bytes} bytes, not JSON; download it again"
            )
        content = _parse(path, file.read(json_bytes))
        chunk = file.read(8)
        binary_bytes = 0
        if len(chunk) == 8:
            binary_bytes, binary_kind = struct.unpack("<I4s", chunk)
            if binary_kind != b"BIN\0" or 28 + json_bytes + binary_bytes > size:
                raise ObjectError(f"{path}: the binary chunk is broken or cut off; download it again")
    return content, 28 + json_bytes, binary_bytes


def _read_gltf(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_JSON:
        raise ObjectError(f"{path}: more than {MAX_JSON >> 20} MB of JSON; convert it to GLB")
    return _parse(path, path.read_bytes())


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


def _check_uris(document: _Document) -> None:
    """Refuse addresses and paths that leave the object's folder; buffers must exist."""
    for kind in ("buffers", "images"):
        for number, item in enumerate(document.items(kind)):
            if "uri" not in item:
                continue
            uri = document.get(item, "uri", str, where=f"{kind}[{number}]")
            if uri.startswith("data:"):
                continue
            place = _place(document.path.parent, uri)
            if place is None:
                document.refuse(
                    f"{kind}[{number}] points outside its folder ({uri[:60]!r}), which is refused"
                )
            if kind == "buffers" and not place.is_file():
                document.refuse(
                    f"{kind}[{number}]: the file {uri[:60]!r} is missing; put it beside the object"
                )


def _place(folder: Path, uri: str) -> Path | None:
    """The file that a relative address names, or None when it is no place inside the folder."""
    name = unquote(uri).replace("\\", "/")
    parts = name.split("/")
    if ":" in parts[0] or "\0" in name or len(name) > 1000 or max(map(len, parts)) > 100:
        return None
    place = (folder / name).resolve()
    return place if place.is_relative_to(folder.resolve()) else None


def _check_buffers(document: _Document, binary_bytes: int | None) -> None:
    for number, buffer in enumerate(document.items("buffers")):
        where = f"buffers[{number}]"
        length = document.get(buffer, "byteLength", int, where=where)
        uri = buffer.get("uri", "data:")
        place = None if uri.startswith("data:") else _place(document.path.parent, uri)
        present = (
            place.stat().st_size if place else binary_bytes if "uri" not in buffer and not number else None
        )
        if present is not None and length > present:
            document.refuse(f"{where}: promises {length} bytes, holds {present}; download it again")
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
            "shows no surface (no node with triangles), so nothing can be rendered; pass another object"
        )
    return total


def _check_positions(document: _Document, binary_start: int) -> None:
    """Vertices in the binary chunk of a GLB must be finite; compressed or outer ones are left to Blender."""
    used = set()
    for mesh in document.items("meshes"):
        used.update(p["attributes"]["POSITION"] for p in mesh["primitives"] if "POSITION" in p["attributes"])
    with open(document.path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for index in sorted(used):
            accessor = document.items("accessors")[index]
            if "bufferView" not in accessor or (accessor["componentType"], accessor["type"]) != (
                5126,
                "VEC3",
            ):
                continue
            view = document.items("bufferViews")[accessor["bufferView"]]
            if view["buffer"] != 0 or "uri" in document.items("buffers")[0] or not accessor["count"]:
                continue
            start = binary_start + view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
            strides = (view.get("byteStride", 12) or 12, 4)
            points = np.ndarray((accessor["count"], 3), "<f4", buffer=data, offset=start, strides=strides)
            broken = int((~np.isfinite(points).all(axis=1)).sum())
            del points  # the map cannot be closed while an array looks into it
            if broken:
                document.refuse(
                    f"accessors[{index}]: {broken} positions are not finite numbers; the file is broken"
                )
