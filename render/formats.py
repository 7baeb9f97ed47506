"""What OBJ, PLY, STL and FBX files promise in their first bytes or text, before Blender sees them.

An OBJ file names material libraries, and these name textures. They are looked up as Blender does: beside the
file that names them, else under their last name; what exists outside of the object's folder is refused.
"""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from render.header import Header, megapixels
from svd3d.errors import ObjectError

MAX_LINE = 1 << 20
MAX_LIBRARY = 64 << 20
"""Largest material library in bytes."""
OPTION = rb"-[a-z]+(?:[ \t]+(?:on|off|sphere|cube_\w+|[rgbmlz]|[-+]?[\d.]+))+[ \t]+"
TEXTURE = re.compile(
    rb"^[ \t]*(?:map_\w+|bump|norm|disp|decal|refl)[ \t]+(?:" + OPTION + rb")*([^\r\n]+)", re.I | re.M
)
"""A line of a material library that names a texture, after its options."""


@dataclass(frozen=True)
class _Materials:
    """The material libraries of an OBJ file."""

    libraries: frozenset[Path]
    pictures: frozenset[Path]
    """The textures that are there."""
    named: int
    """Textures that are named, also those that are missing."""
    materials: int


def check_obj(path: Path, start: bytes) -> Header:
    """Wavefront OBJ: text with vertices and faces. Reads all of it, at some hundred MB a second."""
    if b"\0" in start:
        raise ObjectError(
            f"{path}: not a Wavefront OBJ (it is binary); download it again", kind="unknown_format"
        )
    vertices, polygons, libraries = _scan_obj(path)
    if not vertices or not polygons:
        missing = "faces" if vertices else "vertices"
        raise ObjectError(
            f"{path}: has no {missing}, so there is no surface to render; pass another object", kind="no_mesh"
        )
    materials = _materials(path, libraries)
    beside = materials.libraries | materials.pictures
    return Header(
        kind="obj",
        bytes=sum(file.stat().st_size for file in (path, *beside)),
        triangles=polygons,
        materials=materials.materials,
        textures=materials.named,
        texture_mpx=sum(
            megapixels(picture, where=f"{path}: {picture.name}") for picture in materials.pictures
        ),
    )


def obj_files(path: Path) -> set[Path]:
    """The material libraries and textures of an OBJ file that are there."""
    materials = _materials(path, _scan_obj(path)[2])
    return {*materials.libraries, *materials.pictures}


def check_ply(path: Path, start: bytes) -> Header:
    """PLY: a text header that counts vertices and faces."""
    size = path.stat().st_size
    header, end, _ = start.partition(b"end_header")
    if not header.startswith((b"ply\n", b"ply\r")) or not end:
        raise ObjectError(
            f"{path}: not a PLY file (it starts with {start[:12]!r}); download it again",
            kind="unknown_format",
        )
    counts = {name: int(n) for name, n in re.findall(rb"element (vertex|face) (\d{1,12})\b", header)}
    for name in (b"vertex", b"face"):
        if not counts.get(name):
            raise ObjectError(
                f"{path}: has no {name.decode()}, so there is no surface to render; pass another object",
                kind="no_mesh",
            )
    if counts[b"vertex"] + counts[b"face"] > size:
        raise ObjectError(
            f"{path}: truncated ({size} bytes for {counts[b'face']} faces); download it again",
            kind="bad_download",
        )
    return Header(kind="ply", bytes=size, triangles=counts[b"face"])


def check_stl(path: Path, start: bytes) -> Header:
    """STL: binary with a count that fits the size, or text with facets."""
    size, faces = path.stat().st_size, int.from_bytes(start[80:84], "little")
    if size >= 84 and size == 84 + 50 * faces and faces:
        return Header(kind="stl", bytes=size, triangles=faces)
    if start.lstrip().startswith(b"solid") and b"\0" not in start and b"vertex" in start:
        return Header(kind="stl", bytes=size, triangles=None)
    raise ObjectError(
        f"{path}: neither text nor binary STL ({size} bytes for {faces} triangles); download it again",
        kind="bad_download",
    )


def check_fbx(path: Path, start: bytes) -> Header:
    """FBX: only the binary kind can be imported by Blender."""
    if start.startswith(b"Kaydara FBX Binary  \0"):
        return Header(kind="fbx", bytes=path.stat().st_size, triangles=None)
    if start.lstrip().startswith(b"; FBX"):
        raise ObjectError(
            f"{path}: a text FBX, which Blender cannot read; convert it to binary FBX or GLB",
            kind="unsupported",
        )
    raise ObjectError(
        f"{path}: not an FBX file (it starts with {start[:12]!r}); download it again", kind="unknown_format"
    )


def _scan_obj(path: Path) -> tuple[bool, int, list[bytes]]:
    """Whether there are vertices, how many polygons, and the names of the material libraries."""
    vertices, polygons, libraries = False, 0, []
    rest = b"\n"
    with open(path, "rb") as file:
        for block in itertools.chain(iter(lambda: file.read(MAX_LINE), b""), [b"\n"]):
            text = rest + block
            end = text.rfind(b"\n")
            text, rest = text[:end], text[end:]
            if len(rest) > MAX_LINE:
                raise ObjectError(f"{path}: a line of more than {MAX_LINE >> 20} MB; the file is broken")
            vertices = vertices or re.search(rb"\n[ \t]*v[ \t]", text) is not None
            polygons += len(re.findall(rb"\n[ \t]*f[ \t]", text))
            libraries += re.findall(rb"\n[ \t]*mtllib[ \t]+([^\r\n]+)", text) if b"mtllib" in text else []
    return vertices, polygons, libraries


def _materials(path: Path, names: list[bytes]) -> _Materials:
    own = path.with_suffix(".mtl").name.encode("utf-8", "surrogateescape")  # Blender reads it unasked
    libraries = {_beside(path, path.parent, name) for name in (*names, own)} - {None}
    pictures: dict[tuple[Path, bytes], Path | None] = {}
    materials = 0
    for library in filter(None, libraries):
        if library.stat().st_size > MAX_LIBRARY:
            raise ObjectError(
                f"{path}: material library {library.name} has more than {MAX_LIBRARY >> 20} MB",
                kind="too_large",
            )
        text = library.read_bytes()
        materials += len(re.findall(rb"^[ \t]*newmtl\b", text, re.M))
        for name in TEXTURE.findall(text):
            pictures[library, name] = _beside(path, library.parent, name)
    return _Materials(
        frozenset(filter(None, libraries)),
        frozenset(filter(None, pictures.values())),
        len(set(pictures)),
        materials,
    )


def _beside(path: Path, folder: Path, name: bytes) -> Path | None:
    """The file that a name in an OBJ or its library means, as Blender looks for it; None when it is missing.

    Raises `ObjectError` when that file lies outside of the object's folder.
    """
    text = name.decode("utf-8", "surrogateescape").strip().strip('"').replace("\\", "/")
    try:
        for place in (folder / text, folder / Path(text).name):
            if place.is_file():
                if place.resolve().is_relative_to(path.parent.resolve()):
                    return place.resolve()
                raise ObjectError(
                    f"{path}: names {text[:60]!r} outside its folder, which is refused", kind="outside"
                )
    except (OSError, ValueError, RuntimeError):  # no name that a file could have
        return None
    return None
