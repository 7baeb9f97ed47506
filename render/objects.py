"""Where objects come from, and what a file must show before Blender may see it.

A source is one file, a folder of files, or an `objects.jsonl` with one object per line:
`{"uid", "path", "sha256", "licence", "source", …}`; only `path` is needed, relative to the list.
Whatever else a line holds is kept. The checks read headers only: they cost milliseconds and no memory.
"""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from render import gltf
from svd3d import runs
from svd3d.errors import ObjectError

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".fbx")
"""Kinds of files that can be rendered."""
REFUSED = (".blend",)
"""Kinds that are listed, so that nobody misses them, but never opened."""
GENERIC = {
    "model",
    "mesh",
    "meshes",
    "scene",
    "object",
    "textured",
    "models",
    "source",
    "google_16k",
    "tsdf",
    "poisson",
}
"""Names that say nothing about an object; the folder above them does."""
RESERVED = {"ledger.jsonl", "manifest.json", "config.yaml"}
UID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
MAX_NAME = 80
FOREIGN = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"BLENDER", "a .blend file"),
    (b"PK\x03\x04", "a zip archive; unpack it first"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the real file with: git lfs pull"),
    (b"<!doctype", "a web page; the download failed"),
    (b"<html", "a web page; the download failed"),
    (b"<?xml", "an XML message; the download failed"),
    (b"<error", "an XML message; the download failed"),
)
"""How files begin that are often found under the name of a 3-D file."""


@dataclass(frozen=True)
class Source3D:
    """One object to render: where its file is, and what is known about it."""

    uid: str
    """Name of its sample folder; unique in a source, also where case does not count."""
    path: Path
    name: str
    """The path as the user would say it: relative to the folder or list that was given."""
    licence: str | None = None
    sha256: str | None = None
    """Expected digest of the file, if the list names one."""
    about: dict[str, Any] = field(default_factory=dict)
    """Other keys of the list, kept in the sample."""


def find(source: Path) -> list[Source3D]:
    """All objects of a file, folder or list, in a stable order. Looks at names, not into 3-D files.

    Raises `InputError` when the source does not exist and `ObjectError` when it holds no object or the
    list is wrong, naming the line.
    """
    runs.input_path(source, what="object, folder or objects.jsonl")
    if source.is_dir():
        return _in_folder(source)
    if source.suffix.lower() == ".jsonl":
        return _in_list(source)
    return [Source3D(uid_of(source.absolute()), source, source.name)]


def uid_of(path: Path) -> str:
    """A folder name made of a file name: a-z, 0-9, _ and -; generic names take that of their folder.

    >>> uid_of(Path("Toy Car.glb")), uid_of(Path("Mug_Red/meshes/model.obj"))
    ('toy_car', 'mug_red')
    """
    names = [path.stem, *(parent.name for parent in path.parents)]
    name = next((name for name in names if name and name.lower() not in GENERIC), path.stem)
    clean = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_-")
    if not clean or len(clean) > MAX_NAME:
        clean = f"{clean[:MAX_NAME]}_{_short_hash(name)}".lstrip("_")
    return clean


def check_header(path: Path, *, max_faces: int | None = None) -> None:
    """Refuse a file that cannot be, or must not be, opened by Blender.

    Raises `ObjectError` with one line: missing, empty, something else under the name of a 3-D file,
    truncated, without surfaces, pointing outside its folder, or above `max_faces` triangles.
    """
    if runs.input_path(path, what="3-D file").is_dir():
        raise ObjectError(f"{path}: a folder, not a 3-D file; pass a file")
    suffix = path.suffix.lower()
    if suffix == ".blend":
        raise ObjectError(f"{path}: .blend files can run programs and are never opened; export it as GLB")
    if suffix not in SUFFIXES:
        raise ObjectError(f"{path}: unknown kind {suffix or 'without suffix'!r}; known: {' '.join(SUFFIXES)}")
    try:
        with open(path, "rb") as file:
            start = file.read(1 << 16)
        size = path.stat().st_size
    except OSError as error:
        raise ObjectError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if not start.strip(b"\0 \r\n\t"):
        raise ObjectError(f"{path}: the file is {'blank' if start else 'empty'}; download it again")
    _refuse_foreign(path, start)
    if suffix in (".glb", ".gltf"):
        faces = gltf.check(path)
    else:
        faces = {".obj": _check_obj, ".ply": _check_ply, ".stl": _check_stl, ".fbx": _check_fbx}[suffix](
            path, start, size
        )
    if max_faces is not None and faces is not None and faces > max_faces:
        raise ObjectError(
            f"{path}: {faces} triangles are more than max_faces {max_faces}; reduce it or raise the limit"
        )


def _in_folder(folder: Path) -> list[Source3D]:
    def visible(path: Path) -> bool:
        return not any(part.startswith(".") for part in path.relative_to(folder).parts)

    wanted = (*SUFFIXES, *REFUSED)
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in wanted and visible(p) and p.is_file())
    if not paths:
        raise ObjectError(f"{folder}: holds no 3-D file ({' '.join(SUFFIXES)}); pass another folder")
    uids = [uid_of(path.absolute()) for path in paths]
    count = Counter(uids)
    found = []
    for path, uid in zip(paths, uids, strict=True):
        name = path.relative_to(folder).as_posix()
        found.append(Source3D(uid if count[uid] == 1 else f"{uid}_{_short_hash(name)}", path, name))
    return found


def _in_list(path: Path) -> list[Source3D]:
    found: dict[str, Source3D] = {}
    for number, line in enumerate(runs.read_lines(path), start=1):
        where = f"{path}: object {number}"
        if not isinstance(line, dict) or not isinstance(line.get("path"), str) or not line["path"]:
            raise ObjectError(f"{where}: has no path; write one JSON object with uid and path per line")
        file = Path(line["path"])
        uid = line.get("uid", uid_of(file))
        if not isinstance(uid, str) or not UID.fullmatch(uid) or uid.lower() in RESERVED:
            raise ObjectError(f"{where}: uid {uid!r} cannot name a folder; use letters, digits, _ - and .")
        for key in ("licence", "sha256"):
            if not isinstance(line.get(key), str | None):
                raise ObjectError(f"{where}: {key} is {line[key]!r}, expected text")
        if uid.lower() in found:
            raise ObjectError(
                f"{where}: uid {uid!r} is there twice (also {found[uid.lower()].name}); make it unique"
            )
        known = ("uid", "path", "licence", "sha256")
        about = {key: value for key, value in line.items() if key not in known}
        place = file if file.is_absolute() else path.parent / file
        found[uid.lower()] = Source3D(
            uid, place, line["path"], line.get("licence"), line.get("sha256"), about
        )
    if not found:
        raise ObjectError(f"{path}: lists no objects; write one JSON object with uid and path per line")
    return list(found.values())


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _refuse_foreign(path: Path, start: bytes) -> None:
    text = start[:64].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for magic, what in FOREIGN:
        if start.startswith(magic) or text.startswith(magic):
            raise ObjectError(f"{path}: not a 3-D file but {what}")
    if start[0] == 0x80 and len(start) > 1 and start[1] <= 5:
        raise ObjectError(f"{path}: not a 3-D file but a Python pickle, which is never opened")


def _check_obj(path: Path, start: bytes, size: int) -> int | None:
    """Wavefront OBJ: text with vertices and faces."""
    if b"\0" in start:
        raise ObjectError(f"{path}: not a Wavefront OBJ (it is binary); download it again")
    vertices = False
    with open(path, "rb") as file:
        tail = b"\n"
        while block := file.read(1 << 20):
            text = tail + block
            vertices = vertices or re.search(rb"\n[ \t]*v[ \t]", text) is not None
            if vertices and re.search(rb"\n[ \t]*f[ \t]", text):
                return None
            tail = text[-16:]
    missing = "faces" if vertices else "vertices"
    raise ObjectError(f"{path}: has no {missing}, so there is no surface to render; pass another object")


def _check_ply(path: Path, start: bytes, size: int) -> int | None:
    """PLY: a text header that counts vertices and faces."""
    header, end, _ = start.partition(b"end_header")
    if not header.startswith((b"ply\n", b"ply\r")) or not end:
        raise ObjectError(f"{path}: not a PLY file (it starts with {start[:12]!r}); download it again")
    counts = {name: int(n) for name, n in re.findall(rb"element (vertex|face) (\d{1,12})\b", header)}
    for name in (b"vertex", b"face"):
        if not counts.get(name):
            raise ObjectError(
                f"{path}: has no {name.decode()}, so there is no surface to render; pass another object"
            )
    if counts[b"vertex"] + counts[b"face"] > size:
        raise ObjectError(f"{path}: truncated ({size} bytes for {counts[b'face']} faces); download it again")
    return counts[b"face"]


def _check_stl(path: Path, start: bytes, size: int) -> int | None:
    """STL: binary with a count that fits the size, or text with facets."""
    faces = int.from_bytes(start[80:84], "little")
    if size >= 84 and size == 84 + 50 * faces and faces:
        return faces
    if start.lstrip().startswith(b"solid") and b"\0" not in start and b"vertex" in start:
        return None
    raise ObjectError(
        f"{path}: neither text nor binary STL ({size} bytes for {faces} triangles); download it again"
    )


def _check_fbx(path: Path, start: bytes, size: int) -> int | None:
    """FBX: only the binary kind can be imported by Blender."""
    if start.startswith(b"Kaydara FBX Binary  \0"):
        return None
    if start.lstrip().startswith(b"; FBX"):
        raise ObjectError(f"{path}: a text FBX, which Blender cannot read; convert it to binary FBX or GLB")
    raise ObjectError(f"{path}: not an FBX file (it starts with {start[:12]!r}); download it again")
