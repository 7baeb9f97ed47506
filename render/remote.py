"""What a download is about: objects on a server, and how a command picks among them."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svd3d import runs
from svd3d.errors import InputError


@dataclass(frozen=True)
class Remote:
    """One object that a source offers."""

    uid: str
    url: str
    file: str
    """Where its 3-D file will be, relative to the output folder."""
    licence: str | None
    """As the source spells it."""
    sha256: str | None = None
    """Expected digest of what `url` serves, if known."""
    local: Path | None = None
    """Where a copy may lie already."""
    about: dict[str, Any] = field(default_factory=dict)
    """What else is known: name, creator, category and the like."""


@dataclass(frozen=True)
class Selection:
    """The objects of one command."""

    remotes: list[Remote]
    missing: dict[str, str]
    """Objects that were asked for and that the source does not have: uid and reason."""


def read_uids(path: Path) -> list[str]:
    """The uids of a text file, one a line; raises `InputError` when there is none."""
    try:
        lines = runs.input_path(path, what="list of uids").read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); pass a text file with one uid a line") from error
    uids = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not uids:
        raise InputError(f"{path}: holds no uid; write one a line")
    return uids


def shuffled(uids: Iterable[str], *, seed: int) -> list[str]:
    """All uids in an order drawn from the seed; its first n are a fair sample, whatever n is."""
    order = sorted(uids)
    random.Random(seed).shuffle(order)
    return order
