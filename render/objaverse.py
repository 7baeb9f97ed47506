"""Objaverse 1.0: what there is, under which licence, and where each file lies.

The package `objaverse` knows the layout of its folder (~/.objaverse) and reads the lists in it. This
module puts lists there that are lacking, because the package would fetch them without time limits, retries
or checks. Objects go to the output folder, unless the package's folder already has them.
"""

import contextlib
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from render import fetch, licences
from render.config import ObjaverseConfig
from render.remote import Remote, Selection, read_uids, shuffled
from svd3d import runs
from svd3d.config import did_you_mean
from svd3d.errors import ConfigError, InputError, ObjectError, require

SOURCE = "objaverse"
FILES = "/datasets/allenai/objaverse/resolve/main/"
FOLDERS_AT_ONCE = 10
"""Folders of annotations that are read together; for more the package draws a bar of its own."""


def select(config: ObjaverseConfig, client: fetch.Client) -> Selection:
    """The objects that the settings ask for.

    Raises `DependencyError` without the package, `ConfigError` for an unknown category, `InputError` for a
    list that is broken, and `ObjectError` for one that cannot be fetched.
    """
    library = Library(config.hub, client)
    paths = library.object_paths()
    listed = list(paths) if config.uids is None else read_uids(config.uids)
    missing = {uid: "not in Objaverse 1.0" for uid in listed if uid not in paths}
    category_of = library.categories(config.lvis) if config.lvis else {}
    fitting = [uid for uid in listed if uid in paths and (not config.lvis or uid in category_of)]
    limit = len(fitting)
    if config.count is not None:
        fitting, limit = shuffled(fitting, seed=config.seed), config.count
    remotes: list[Remote] = []
    start, size = 0, limit
    while start < len(fitting) and len(remotes) < limit:
        block = fitting[start : start + size]
        for uid, about in library.annotations(block, paths).items():
            licence = about.pop("licence", None)
            if licences.permitted(licence, config.licence):
                about["category"] = category_of.get(uid, about.get("category"))
                remotes.append(library.remote(uid, paths[uid], licence=licence, about=about))
        start, size = start + size, 2 * size
    return Selection(remotes[:limit], missing)


def obtain(remote: Remote, client: fetch.Client, *, out: Path, max_bytes: float) -> Path:
    """The file of one object: here, in the folder of the package, or fetched. Raises `ObjectError`."""
    place = out / remote.file
    if place.exists():
        return place
    if remote.local is not None and remote.local.exists():
        with contextlib.suppress(ObjectError):
            fetch.verify(remote.local, kind=place.suffix, origin=remote.local, sha256=remote.sha256)
            return remote.local
    client.file(remote.url, place, sha256=remote.sha256, max_bytes=max_bytes)
    return place


class Library:
    """The lists of Objaverse in the package's folder."""

    def __init__(self, hub: str, client: fetch.Client) -> None:
        self._package: ModuleType = require("objaverse", extra="objaverse", reason="downloading Objaverse")
        self._root = Path(self._package._VERSIONED_PATH)
        self._url = hub.rstrip("/") + FILES
        self._client = client

    def object_paths(self) -> dict[str, str]:
        """Where each object lies, as glbs/FOLDER/UID.glb below the hub's and the package's folder."""
        with self._list("object-paths.json.gz"):
            paths = self._package._load_object_paths()
        return {uid: path for uid, path in paths.items() if _is_regular(uid, path)}

    def categories(self, wanted: tuple[str, ...]) -> dict[str, str]:
        """The LVIS category of each object that has one of those wanted."""
        with self._list("lvis-annotations.json.gz"):
            categories = self._package.load_lvis_annotations()
        for name in wanted:
            if name not in categories:
                raise ConfigError(f"lvis: no category {name!r}. {did_you_mean(name, list(categories))}")
        return {uid: name for name in wanted for uid in categories[name]}

    def annotations(self, uids: list[str], paths: dict[str, str]) -> dict[str, dict[str, Any]]:
        """What is worth keeping about each object, in the order of `uids`; opens only their folders.

        Keys, as far as known: licence, name, creator, category, tags, faces, url.
        """
        folders: dict[str, list[str]] = {}
        for uid in uids:
            folders.setdefault(paths[uid].split("/")[1], []).append(uid)
        names = sorted(folders)
        about: dict[str, dict[str, Any]] = {uid: {} for uid in uids}
        for first in range(0, len(names), FOLDERS_AT_ONCE):
            group = names[first : first + FOLDERS_AT_ONCE]
            with self._list(*(f"metadata/{name}.json.gz" for name in group)):
                found = self._package.load_annotations([uid for name in group for uid in folders[name]])
            about |= {uid: _about(notes) for uid, notes in found.items()}
        return about

    def remote(
        self, uid: str, path: str, *, licence: str | None, about: dict[str, Any], sha256: str | None = None
    ) -> Remote:
        """An object at `path` on the hub."""
        return Remote(
            uid=uid,
            url=self._url + path,
            file=f"objects/{uid[:2]}/{uid}.glb",
            licence=licence,
            sha256=sha256,
            local=self._root / path,
            about=about,
        )

    def _list(self, *names: str) -> contextlib.AbstractContextManager[None]:
        return lists(self._client, self._url, self._root, *names)


@contextlib.contextmanager
def lists(client: fetch.Client, url: str, root: Path, *names: str) -> Iterator[None]:
    """Put files of the hub into the package's folder if it lacks them, and name them if they are broken."""
    lacking = [name for name in names if not (root / name).exists()]
    if lacking:
        with runs.lock(runs.output_folder(root)):
            for name in lacking:
                client.file(url + name, root / name)
    try:
        yield
    except (OSError, EOFError, ValueError, zlib.error) as error:
        story = f"{root}: {' or '.join(names)} is broken ({error})"
        raise InputError(f"{story}; delete it, it is then fetched again") from error


def _is_regular(uid: str, path: str) -> bool:
    """Whether a line of the list is made as all are, so that it may name files."""
    folder = path[5:12]
    plain = uid.isascii() and uid.isalnum() and folder.replace("-", "").isdecimal()
    return plain and path == f"glbs/{folder}/{uid}.glb"


def _about(notes: dict[str, Any]) -> dict[str, Any]:
    """The part of an annotation that a list of objects should carry; all of it would fill the memory."""
    categories = [entry["name"] for entry in notes.get("categories") or []]
    return {
        "licence": notes.get("license"),
        "name": notes.get("name"),
        "creator": (notes.get("user") or {}).get("displayName"),
        "category": categories[0] if categories else None,
        "tags": [sys.intern(entry["name"]) for entry in notes.get("tags") or []],
        "faces": notes.get("faceCount"),
        "url": notes.get("viewerUrl"),
    }
