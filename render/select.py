"""The select stage: a training list as a query over the scores that rendering stored in the ledger."""

import itertools
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from sys import intern
from typing import Any

from render import ledger, licences
from render.config import SelectConfig
from svd3d import runs
from svd3d.errors import InputError

BANDS = 4
"""Parts of 16 bits into which a fingerprint is cut; each has an index of its own."""


@dataclass(frozen=True)
class Chosen:
    """An object that keeps all bounds."""

    uid: str
    licence: str | None
    quality: dict[str, Any]
    """Its scores, as `render.quality.scores` gives them."""


@dataclass(frozen=True)
class Rejected:
    """Why an object was left out: the first bound that it breaks."""

    reason: str
    """The setting, such as min_coverage, or not_rendered, not_scored."""
    message: str


@dataclass(frozen=True)
class Selection:
    """What became of every object of the ledger."""

    chosen: list[Chosen]
    """Sorted by uid."""
    rejected: dict[str, Rejected]
    """By uid, sorted."""

    def table(self) -> list[ledger.Line]:
        """How many were chosen and how many left out for which reason, most frequent first."""
        groups: defaultdict[str, list[str]] = defaultdict(list)
        for uid, rejected in self.rejected.items():
            groups[rejected.reason].append(uid)
        total = max(len(self.chosen) + len(self.rejected), 1)
        return [
            ledger.Line("chosen", len(self.chosen), len(self.chosen) / total),
            *(
                ledger.Line(reason, len(uids), len(uids) / total, uids[0], self.rejected[uids[0]].message)
                for reason, uids in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
            ),
        ]


def run(config: SelectConfig) -> Selection:
    """Choose objects, and write the list and, if asked for, the rejected ones.

    Raises `InputError` when nothing was rendered in `config.samples`.
    """
    book = ledger.read(config.samples)
    if not book:
        raise InputError(f"{config.samples}: has no ledger with a row; render objects into it first")
    chosen: dict[str, Chosen] = {}
    rejected = {
        uid: Rejected("not_rendered", known.message)
        if known.state != "done"
        else Rejected("not_scored", "its row in the ledger has no scores; render it again")
        for uid, known in book.items()
    }
    for found in _scored(config.samples, book):
        chosen.pop(found.uid, None)
        fault = _fault(found, config)
        if fault is None:
            chosen[found.uid] = found
            rejected.pop(found.uid, None)
        else:
            rejected[found.uid] = fault
    if config.near_duplicates is not None:
        copies = near_duplicates(chosen.values(), bits=config.near_duplicates)
        for uid, first in copies.items():
            del chosen[uid]
            rejected[uid] = Rejected("near_duplicates", f"looks like {first}")
    selection = Selection(
        [chosen[uid] for uid in sorted(chosen)], {uid: rejected[uid] for uid in sorted(rejected)}
    )
    _write(selection, config)
    return selection


def near_duplicates(objects: Iterable[Chosen], *, bits: int) -> dict[str, str]:
    """The objects whose fingerprint is within `bits` of a better one that is kept, and that one's uid.

    The best come first and are kept: fewest missing textures, most colourful, largest in the picture, most
    faces; equals go by uid. Any two kept ones differ in more than `bits` bits.
    """
    index, copies = _Index(bits), {}
    for found in sorted(objects, key=_rank):
        fingerprint = int(found.quality["hash"], 16)
        if first := index.near(fingerprint):
            copies[found.uid] = first
        else:
            index.add(fingerprint, found.uid)
    return copies


class _Index:
    """Fingerprints that can be searched by Hamming distance (multi-index hashing: Norouzi et al. 2012).

    Of two fingerprints that differ in at most `bits` bits, some band differs in at most `bits // BANDS`: only
    those that share such a band are compared, not all.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._bands: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in range(BANDS)]
        self._uids: dict[int, str] = {}
        self._flips = [
            sum(1 << place for place in places)
            for count in range(bits // BANDS + 1)
            for places in itertools.combinations(range(64 // BANDS), count)
        ]

    def add(self, fingerprint: int, uid: str) -> None:
        self._uids[fingerprint] = uid
        for band, key in zip(self._bands, _keys(fingerprint), strict=True):
            band[key].append(fingerprint)

    def near(self, fingerprint: int) -> str | None:
        """The uid of a fingerprint within reach, if there is one."""
        for band, key in zip(self._bands, _keys(fingerprint), strict=True):
            for flip in self._flips:
                for other in band.get(key ^ flip, ()):
                    if (other ^ fingerprint).bit_count() <= self._bits:
                        return self._uids[other]
        return None


def _keys(fingerprint: int) -> list[int]:
    width = 64 // BANDS
    return [fingerprint >> band * width & (1 << width) - 1 for band in range(BANDS)]


def _rank(found: Chosen) -> tuple[Any, ...]:
    scores = found.quality
    best = ("colourfulness", "coverage", "faces")
    return scores["missing_textures"], *(-scores[name] for name in best), found.uid


def _scored(folder: Path, book: ledger.Book) -> Iterator[Chosen]:
    """Finished objects with their scores; a later one of the same uid replaces an earlier one.

    Streams the ledgers, which `ledger.read` has found to be sound; a torn last line counts as absent.
    """
    for name in sorted({known.file for known in book.values()}):
        with open(folder / name, "rb") as lines:
            for line in lines:
                if b'"quality"' not in line or not line.endswith(b"\n"):
                    continue
                row = json.loads(line)
                known = book.get(row["uid"])
                if known and known.file == name and known.state == row["status"] == "done" and row["quality"]:
                    quality = {intern(key): value for key, value in row["quality"].items()}  # of millions
                    yield Chosen(row["uid"], row.get("licence"), quality)


def _fault(found: Chosen, config: SelectConfig) -> Rejected | None:
    """The first bound that an object breaks."""
    scores = found.quality
    if not licences.permitted(found.licence, config.licence):
        return Rejected("licence", f"its licence is {found.licence or 'unknown'}")
    if scores.get("missing_textures") != 0 and not config.missing_textures:
        return Rejected("missing_textures", f"{scores.get('missing_textures')} textures are missing")
    if scores.get("touches_border") is not False and not config.touches_border:
        return Rejected("touches_border", "a picture may cut it off")
    for field in fields(config):
        side, _, name = field.name.partition("_")
        limit = getattr(config, field.name)
        if side not in ("min", "max") or limit is None:
            continue
        value = scores.get(name)
        if value is None:
            return Rejected(field.name, f"its {name} is unknown")
        if value < limit if side == "min" else value > limit:
            return Rejected(field.name, f"{name} {value} is {'below' if side == 'min' else 'above'} {limit}")
    if config.near_duplicates is not None and scores.get("hash") is None:
        return Rejected("near_duplicates", "its fingerprint is unknown")
    return None


def _write(selection: Selection, config: SelectConfig) -> None:
    samples = Path(os.path.relpath(config.samples, config.out.parent))
    runs.output_folder(config.out.parent)
    _write_lines(
        config.out,
        (
            {
                "uid": one.uid,
                "path": (samples / one.uid).as_posix(),
                "licence": one.licence,
                "quality": one.quality,
            }
            for one in selection.chosen
        ),
    )
    if config.rejected is not None:
        runs.output_folder(config.rejected.parent)
        rows = selection.rejected.items()
        _write_lines(
            config.rejected, ({"uid": uid, "reason": r.reason, "message": r.message} for uid, r in rows)
        )


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    runs.write_file(path, text.encode("utf-8", "backslashreplace"))
