"""Where objects come from, and what a file must show before Blender may see it.

A source is one file, a folder of files, or an `objects.jsonl` with one object per line:
`{"uid", "path", "sha256", "licence", "source", …}`; only `path` is needed, relative to the list.
Whatever else a line holds is kept. The checks decode nothing: they cost milliseconds (a long OBJ is read
through, at some hundred MB a second) and little memory.
"""

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from sys import intern
from typing import Any

from render import formats, gltf, licences
from render.header import Header
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
RESERVED = re.compile(r"ledger.*\.jsonl|manifest\.json|config\.yaml")
"""Names of other things in the output folder."""
UID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_NAME = 80
MAX_PARTS = {"nodes": 100_000, "materials": 4_000, "animations": 2_000, "textures": 4_000}
"""Beyond these an object is no object but a world, and its import takes minutes."""
FOREIGN = (
    (b"\x89PNG", "unknown_format", "a PNG picture"),
    (b"\xff\xd8\xff", "unknown_format", "a JPEG picture"),
    (b"BLENDER", "unsupported", "a .blend file, which can run programs and is never opened"),
    (b"PK\x03\x04", "unknown_format", "a zip archive; unpack it first"),
    (b"\x1f\x8b", "unknown_format", "a gzip archive; unpack it first"),
    (
        b"version https://git-lfs",
        "bad_download",
        "a Git LFS pointer; fetch the real file with: git lfs pull",
    ),
    (b"<!doctype", "bad_download", "a web page; the download failed"),
    (b"<html", "bad_download", "a web page; the download failed"),
    (b"<?xml", "bad_download", "an XML message; the download failed"),
    (b"<error", "bad_download", "an XML message; the download failed"),
)
"""How files begin that are often found under the name of a 3-D file, and the class of the failure."""


@dataclass(frozen=True, slots=True)
class Source3D:
    """One object to render: where its file is, and what is known about it."""

    uid: str
    """Name of its sample folder; unique in a source, also where case does not count."""
    path: Path
    name: str
    """The path as the user would say it: relative to the folder or list that was given."""
    licence: str | None = None
    sha256: str | None = None
    """Expected `digest` of the object in small letters, if the list names one."""
    duplicate_of: str | None = None
    """The uid of an earlier object of the list with the same digest: rendering both would waste one."""
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
    names = [unicodedata.normalize("NFC", part) for part in (path.stem, *(p.name for p in path.parents))]
    name = next((name for name in names if name and name.lower() not in GENERIC), path.stem)
    clean = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_-")
    if not clean or len(clean) > MAX_NAME:
        clean = f"{clean[:MAX_NAME]}_{_short_hash(name)}".lstrip("_")
    return clean


def permitted(sources: Iterable[Source3D], allowed: Collection[str]) -> tuple[list[Source3D], list[Source3D]]:
    """The objects whose licence, however it is spelled, is among `allowed`, and those left out.

    None allowed means all are. An unknown licence is never permitted.
    """
    kept: list[Source3D] = []
    left_out: list[Source3D] = []
    for source in sources:
        (kept if licences.permitted(source.licence, allowed) else left_out).append(source)
    return kept, left_out


def check_header(
    path: Path,
    *,
    max_faces: int | None = None,
    max_mb: float | None = None,
    max_texture_mpx: float | None = None,
) -> Header:
    """Refuse a file that cannot be, or must not be, opened by Blender, and say what it promises.

    Raises `InputError` for a missing file, and `ObjectError` of these kinds: bad_download (empty, truncated,
    a web page in its place), unknown_format, unsupported, invalid (broken), outside (names a file outside
    its folder), no_mesh, too_large (above a limit: megabytes with all files it names, triangles, megapixels
    of all its textures, a single giant picture, or `MAX_PARTS`).
    """
    if runs.input_path(path, what="3-D file").is_dir():
        raise ObjectError(f"{path}: a folder, not a 3-D file; pass a file", kind="unknown_format")
    suffix = path.suffix.lower()
    if suffix == ".blend":
        raise ObjectError(
            f"{path}: .blend files can run programs and are never opened; export it as GLB",
            kind="unsupported",
        )
    if suffix not in SUFFIXES:
        raise ObjectError(
            f"{path}: unknown kind {suffix or 'without suffix'!r}; known: {' '.join(SUFFIXES)}",
            kind="unknown_format",
        )
    try:
        with open(path, "rb") as file:
            start = file.read(1 << 16)
        size = path.stat().st_size
    except OSError as error:
        raise ObjectError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if not start.strip(b"\0 \r\n\t"):
        raise ObjectError(
            f"{path}: the file is {'blank' if start else 'empty'}; download it again", kind="bad_download"
        )
    _refuse_foreign(path, start)
    _refuse_above(path, "megabytes", size / 1e6, max_mb, name="max_mb")
    if suffix in (".glb", ".gltf"):
        header = gltf.check(path)
    else:
        check = {".obj": formats.check_obj, ".ply": formats.check_ply, ".stl": formats.check_stl}
        header = check.get(suffix, formats.check_fbx)(path, start)
    _refuse_above(path, "megabytes", header.bytes / 1e6, max_mb, name="max_mb")
    _refuse_above(path, "triangles", header.triangles, max_faces, name="max_faces")
    _refuse_above(path, "texture megapixels", header.texture_mpx, max_texture_mpx, name="max_texture_mpx")
    for part, most in MAX_PARTS.items():
        _refuse_above(path, part, getattr(header, part), most)
    return header


def digest(path: Path) -> str:
    """SHA-256 of all that makes an object: the file and the files beside it that an OBJ or glTF names.

    Equals the digest of the file when it stands alone. Expects a file that `check_header` let pass.
    """
    suffix, beside = path.suffix.lower(), set[Path]()
    if suffix in (".glb", ".gltf"):
        beside = gltf.files(path)
    elif suffix == ".obj":
        beside = formats.obj_files(path)
    if not beside:
        return runs.sha256(path)
    whole = hashlib.sha256(runs.sha256(path).encode())
    for name, file in sorted((file.relative_to(path.parent.resolve()).as_posix(), file) for file in beside):
        whole.update(name.encode("utf-8", "surrogateescape") + f"\0{runs.sha256(file)}\n".encode())
    return whole.hexdigest()


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
    found: list[Source3D] = []
    lines: dict[str, int] = {}
    uids: dict[str, str] = {}
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            source = _from_line(line, folder=path.parent, where=f"{path}: line {number}")
            first = lines.setdefault(source.uid.lower(), number)
            if first != number:
                raise ObjectError(
                    f"{path}: line {number}: uid {source.uid!r} is there twice (also in line {first}); "
                    "make it unique"
                )
            if source.sha256 is not None and uids.setdefault(source.sha256, source.uid) != source.uid:
                source = replace(source, duplicate_of=uids[source.sha256])
            found.append(source)
    if not found:
        raise ObjectError(f"{path}: lists no objects; write one JSON object with uid and path per line")
    return found


def _from_line(line: bytes, *, folder: Path, where: str) -> Source3D:
    try:
        known = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ObjectError(f"{where}: not JSON ({error}); write one JSON object per line") from error
    if not isinstance(known, dict) or not isinstance(known.get("path"), str) or not known["path"]:
        raise ObjectError(f"{where}: has no path; write one JSON object with uid and path per line")
    name, uid = known.pop("path"), known.pop("uid", None)
    if "\0" in name:
        raise ObjectError(f"{where}: path {name!r:.80} cannot name a file; write the path of a 3-D file")
    uid = uid_of(Path(name)) if uid is None else uid
    if not isinstance(uid, str) or not UID.fullmatch(uid) or RESERVED.fullmatch(uid.lower()):
        raise ObjectError(f"{where}: uid {uid!r:.80} cannot name a folder; use letters, digits, _ - and .")
    licence, sha256 = known.pop("licence", None), known.pop("sha256", None)
    if not isinstance(licence, str | None):
        raise ObjectError(f"{where}: licence is {licence!r:.80}, expected text")
    if sha256 is not None and not (isinstance(sha256, str) and SHA256.fullmatch(sha256.lower())):
        raise ObjectError(f"{where}: sha256 is {sha256!r:.80}, expected 64 hexadecimal digits")
    about = {intern(key): value for key, value in known.items()}  # a list may have millions of lines
    return Source3D(
        uid, folder / name, name, licence and intern(licence), sha256 and sha256.lower(), None, about
    )


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _refuse_foreign(path: Path, start: bytes) -> None:
    text = start[:64].lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for magic, kind, what in FOREIGN:
        if start.startswith(magic) or text.startswith(magic):
            raise ObjectError(f"{path}: not a 3-D file but {what}", kind=kind)
    if start[0] == 0x80 and len(start) > 1 and start[1] <= 5:
        raise ObjectError(
            f"{path}: not a 3-D file but a Python pickle, which is never opened", kind="unknown_format"
        )


def _refuse_above(
    path: Path, what: str, value: float | None, limit: float | None, *, name: str | None = None
) -> None:
    """Refuse an object with more than `limit` of something; `name` is the setting that could be raised."""
    if value is None or limit is None or value <= limit:
        return
    number = f"{value:.1f}" if isinstance(value, float) else str(value)
    advice = f"reduce it or raise {name}" if name else "reduce it"
    raise ObjectError(
        f"{path}: {number} {what} are more than {name or 'the limit of'} {limit:.10g}; {advice}",
        kind="too_large",
    )
