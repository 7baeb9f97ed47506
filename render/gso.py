"""Google Scanned Objects from Gazebo Fuel: one zip per object, unpacked with its texture beside the mesh."""

import json
import re
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from render import licences, objects
from render.config import GsoConfig
from render.fetch import Client
from render.remote import Remote, Selection, read_uids, shuffled
from svd3d import runs
from svd3d.errors import InputError, ObjectError

SOURCE = "gso"
OWNER = "GoogleResearch"
CATALOGUE = "catalogue.json"
PAGE = 100
MESH = "meshes/model.obj"
KEPT = (("meshes",), ("materials", "textures"))
"""Folders of an archive that are unpacked, both into meshes/, where the .mtl looks for its textures."""
FILE = re.compile(r"\w[\w-]{0,99}\.(obj|mtl|png|jpg|jpeg)", re.ASCII | re.IGNORECASE)
MAX_ENTRIES = 1000
MAX_RATIO = 100
"""An archive that grows by more than this is a bomb."""


def select(config: GsoConfig, client: Client) -> Selection:
    """The objects that the settings ask for; the catalogue is kept in the output folder."""
    models = f"{config.server.rstrip('/')}/1.0/{OWNER}/models"
    catalogue = {entry["name"]: entry for entry in _catalogue(models, config.out / CATALOGUE, client)}
    wanted = catalogue.keys() if config.uids is None else read_uids(config.uids)
    fitting = [
        uid
        for uid in wanted
        if uid in catalogue and licences.permitted(catalogue[uid].get("license_name"), config.licence)
    ]
    if config.count is not None:
        fitting = shuffled(fitting, seed=config.seed)[: config.count]
    missing = {uid: "not in Google Scanned Objects" for uid in wanted if uid not in catalogue}
    return Selection([_remote(models, catalogue[uid]) for uid in fitting], missing)


def obtain(remote: Remote, client: Client, *, out: Path, max_bytes: float) -> Path:
    """The mesh of one object, fetched and unpacked unless it is there. Raises `ObjectError`."""
    mesh = out / remote.file
    if not mesh.exists():
        archive = out / "objects" / f"{remote.uid}.zip"
        client.file(remote.url, archive, max_bytes=max_bytes)
        try:
            with runs.atomic_folder(out / "objects" / remote.uid) as folder:
                unpack(archive, folder, max_bytes=max_bytes)
        finally:
            archive.unlink()
    return mesh


def unpack(archive: Path, folder: Path, *, max_bytes: float) -> None:
    """Unpack the mesh and its textures. Nothing but plain files, and no byte outside of `folder`.

    Raises `ObjectError` with the kind `bad_archive` for one that is broken, lacks the mesh or looks like an
    attack, before anything of it is written; only its true size shows while it is read.
    """
    left = min(max_bytes, MAX_RATIO * archive.stat().st_size)
    (folder / "meshes").mkdir()
    try:
        with zipfile.ZipFile(archive) as source:
            for entry, target in _checked(archive, source.infolist()).items():
                with source.open(entry) as packed, open(folder / target, "wb") as file:
                    while block := packed.read(1 << 20):
                        left -= len(block)
                        if left < 0:
                            raise _bad(archive, f"grows more than {MAX_RATIO} times or beyond max_mb")
                        file.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise _bad(archive, f"a broken archive ({error})") from error


def _checked(archive: Path, entries: list[zipfile.ZipInfo]) -> dict[zipfile.ZipInfo, str]:
    """The entries to unpack, and where to; any suspicious entry condemns the whole archive."""
    if len(entries) > MAX_ENTRIES:
        raise _bad(archive, f"holds {len(entries)} files")
    found: dict[zipfile.ZipInfo, str] = {}
    for entry in entries:
        path = PurePosixPath(entry.filename)
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename:
            raise _bad(archive, f"{entry.filename!r} leads out of its folder")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _bad(archive, f"{entry.filename!r} is a link or a device")
        if not entry.is_dir() and path.parts[:-1] in KEPT and FILE.fullmatch(path.name):
            target = f"meshes/{path.name}"
            if target not in found.values():
                found[entry] = target
    if MESH not in found.values():
        raise _bad(archive, f"holds no {MESH}")
    return found


def _bad(archive: Path, reason: str) -> ObjectError:
    return ObjectError(f"{archive.name}: {reason}; it is not unpacked", kind="bad_archive")


def _catalogue(models: str, path: Path, client: Client) -> list[dict[str, Any]]:
    """What the server says about all models, listed once."""
    if path.exists():
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({error}); delete it, it is made again") from error
    found: dict[str, dict[str, Any]] = {}
    page = 1
    while entries := _page(models, page, client):
        named = {e["name"]: e for e in entries if isinstance(e, dict) and _is_uid(e.get("name"))}
        if named.keys() <= found.keys():
            break  # a server that knows no pages repeats itself
        found |= named
        page += 1
    if not found:
        raise InputError(f"{models}: lists no objects; check --server")
    runs.write_json(path, list(found.values()))
    return list(found.values())


def _page(models: str, page: int, client: Client) -> list[Any]:
    """One page of the list; Fuel answers with 404, or an empty list, behind the last one."""
    try:
        answer = client.json(models, params={"page": page, "per_page": PAGE})
    except ObjectError as error:
        if error.kind == "not_found" and page > 1:
            return []
        raise
    if not isinstance(answer, list):
        raise InputError(f"{models}: answers with {answer!r:.60}, not a list of models; check --server")
    return answer


def _is_uid(name: Any) -> bool:
    return isinstance(name, str) and objects.UID.fullmatch(name) is not None


def _remote(models: str, entry: dict[str, Any]) -> Remote:
    uid = entry["name"]
    categories = entry.get("categories") or [None]
    about = {
        "name": uid.replace("_", " "),
        "creator": OWNER,
        "category": categories[0],
        "licence_url": entry.get("license_url"),
        "url": f"{models}/{quote(uid)}",
    }
    return Remote(
        uid=uid,
        url=f"{models}/{quote(uid)}.zip",
        file=f"objects/{uid}/{MESH}",
        licence=entry.get("license_name"),
        about=about,
    )
