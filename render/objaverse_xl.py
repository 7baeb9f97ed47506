"""The four parts of Objaverse-XL: objects all over the web, each with the digest it had when it was listed.

The package `objaverse` reads the lists; the files are fetched here, one by one and verified, where the
package would clone whole repositories. So only files that stand alone can be had.
"""

from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

from render import fetch, licences
from render.config import ObjaverseConfig
from render.objaverse import Library, lists, obtain
from render.remote import Remote, Selection, read_uids, shuffled
from svd3d.errors import require

__all__ = ["SOURCE", "obtain", "select"]
SOURCE = "objaverse-xl"
FILES = "/datasets/allenai/objaverse-xl/resolve/main/"
KINDS = ("glb", "fbx", "ply", "stl")
"""glTF and OBJ need neighbours that the lists do not name."""


def select(config: ObjaverseConfig, client: fetch.Client) -> Selection:
    """The objects of one part that the settings ask for; `uids` may also hold the addresses of the lists.

    Raises as `render.objaverse.select` does.
    """
    reason = "downloading Objaverse-XL"
    package = require("objaverse", extra="objaverse", reason=reason)
    downloader = require("objaverse.xl", extra="objaverse", reason=reason).downloaders[config.xl]
    root = Path(package.BASE_PATH)
    with lists(client, config.hub.rstrip("/") + FILES, root, f"{config.xl}/{config.xl}.parquet"):
        table = downloader.get_annotations(download_dir=str(root))
    table = table[table["fileType"].isin(KINDS)]
    uid_of = _last_part if config.xl == "sketchfab" else package.utils.get_uid_from_str
    table = table.assign(uid=table["fileIdentifier"].map(uid_of)).drop_duplicates("uid")
    missing = {}
    if config.uids is not None:
        listed = read_uids(config.uids)
        known = {*table["uid"], *table["fileIdentifier"]}
        kinds = ", ".join(KINDS)
        missing = {
            uid: f"not a {kinds} file of Objaverse-XL, {config.xl}" for uid in listed if uid not in known
        }
        table = table[table["uid"].isin(listed) | table["fileIdentifier"].isin(listed)]
    if config.licence:
        spelled = [text for text in table["license"].unique() if isinstance(text, str)]
        allowed = [text for text in spelled if licences.permitted(text, config.licence)]
        table = table[table["license"].isin(allowed)]
    if config.count is not None:
        table = table.set_index("uid", drop=False)
        table = table.loc[shuffled(table["uid"], seed=config.seed)[: config.count]]
    rows = table.to_dict("records")
    if config.xl != "sketchfab":
        return Selection([_remote(row, root) for row in rows], missing)
    library = Library(config.hub, client)
    paths = library.object_paths()
    missing |= {row["uid"]: "not among the files of Objaverse" for row in rows if row["uid"] not in paths}
    hosted = [
        library.remote(
            row["uid"], paths[row["uid"]], licence=_licence(row), about=_about(row), sha256=row["sha256"]
        )
        for row in rows
        if row["uid"] in paths
    ]
    return Selection(hosted, missing)


def _last_part(identifier: str) -> str:
    return identifier.rsplit("/", 1)[-1]


def _remote(row: dict[str, Any], root: Path) -> Remote:
    """An object at its own address."""
    uid, kind = row["uid"], row["fileType"]
    return Remote(
        uid=uid,
        url=_address(row["source"], row["fileIdentifier"]),
        file=f"objects/{uid[:2]}/{uid}.{kind}",
        licence=_licence(row),
        sha256=row["sha256"],
        local=root / "smithsonian/objects" / f"{uid}.glb" if row["source"] == "smithsonian" else None,
        about=_about(row),
    )


def _address(source: str, identifier: str) -> str:
    """Where the file itself is: the lists name web pages of GitHub and Thingiverse."""
    if source == "github":
        return quote(identifier.replace("/blob/", "/raw/", 1), safe=":/")
    if source == "thingiverse":
        return urljoin(identifier, f"/download:{quote(identifier.rsplit('fileId=', 1)[-1])}")
    return identifier


def _licence(row: dict[str, Any]) -> str | None:
    return row["license"] if isinstance(row["license"], str) else None


def _about(row: dict[str, Any]) -> dict[str, Any]:
    return {"url": row["fileIdentifier"], "part": row["source"]}
