"""Which videos a source holds, and the name under which each is remembered. No video is opened."""

import hashlib
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from svd3d import runs
from svd3d.errors import InputError

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".vob"),
    *(".wmv", ".flv", ".ogv", ".3gp", ".mxf"),
)
"""Names of files in a folder that are taken for videos."""
MAX_NAME = 40


@dataclass(frozen=True, slots=True)
class Footage:
    """One video file."""

    uid: str
    """Its name in the ledger and the table: that of the file, cleaned, and a digest of its path."""
    path: Path
    name: str
    """The path as the user would say it: relative to the folder or list that was given."""


def root(source: Path) -> Path:
    """The folder that names of footage are relative to, absolute."""
    return (source if source.is_dir() else source.parent).absolute()


def find(source: Path) -> list[Footage]:
    """All videos of a file, folder or `.jsonl` list, in a stable order.

    Raises `InputError` when the source does not exist, holds no video, or has a line without a path.
    """
    runs.input_path(source, what="video, folder of videos or videos.jsonl")
    base = root(source)
    if source.is_dir():
        names = sorted(
            os.path.relpath(os.path.join(folder, name), source)
            for folder, below, files in os.walk(source)
            for name in files
            if name.lower().endswith(SUFFIXES) and not name.startswith("._")
        )
    elif source.suffix.lower() == ".jsonl":
        names = list(dict.fromkeys(_listed(source)))
    else:
        names = [source.name]
    if not names:
        raise InputError(f"{source}: holds no video ({', '.join(SUFFIXES[:5])} …); pass a folder that does")
    return [Footage(_uid(name), base / name, name) for name in names]


def _listed(source: Path) -> list[str]:
    names = []
    for number, line in enumerate(runs.read_lines(source), start=1):
        if not isinstance(line.get("path"), str):
            raise InputError(f"{source}: record {number} names no video; it needs a key path")
        names.append(line["path"])
    return names


def _uid(name: str) -> str:
    r"""A name that is safe everywhere.

    >>> _uid("my films/It's\na cat.mp4")
    'it_s_a_cat-92d79ab63856'
    """
    stem = unicodedata.normalize("NFKD", Path(name).stem).lower()
    clean = re.sub(r"[^a-z0-9]+", "_", stem)[:MAX_NAME].strip("_")
    return f"{clean or 'video'}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"
