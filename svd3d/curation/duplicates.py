"""Near-duplicates among clips: first by perceptual hash, then by CLIP embedding, out of core.

The earliest clip of a group stays. A group is a connected component: clips that are linked by a chain of near
neighbours belong together, also where its ends differ by more. So the groups depend neither on the order of
the comparisons nor on the size of a block. Both searches are exact.
"""

import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8, UInt64
from PIL import Image

from svd3d.curation import table
from svd3d.errors import InputError

DISTANCE = 4
"""Bits of 64 by which the hashes of near-duplicates differ at most."""
COSINE = 0.98
"""Of the embeddings of near-duplicates, at least."""
HASHES_AT_ONCE = 2**22
"""Hashes that are sorted and compared in memory: about 0.4 GB."""
EMBEDDINGS_AT_ONCE = 2048
"""Rows of a block of embeddings; a block against another takes a few 10 MB."""
SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""Odd multiplier that spreads keys over the parts of a search (Knuth's multiplicative hashing)."""
BITS = np.array([bin(value).count("1") for value in range(2**16)], np.uint8)
"""Number of ones in each word of 16 bits."""
WAVES = np.cos(np.pi / 64 * np.arange(8)[:, None] * (2 * np.arange(32) + 1))
"""The first eight rows of the cosine transform (DCT-II) of 32 samples."""


def phash(image: UInt8[np.ndarray, "h w 3"]) -> int:
    """Perceptual hash of an RGB picture: which of its 8 x 8 lowest frequencies are above their median.

    64 bits of the cosine transform of the grey picture at 32 x 32 pixels, row by row from the highest bit,
    as in the package imagehash. Scale, light and compression change few bits; mirroring changes many.
    """
    grey = Image.fromarray(image).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    lowest = WAVES @ np.asarray(grey, np.float64) @ WAVES.T
    return int.from_bytes(np.packbits(lowest > np.median(lowest)).tobytes(), "big")


def find(tables: Sequence[Path], *, distance: int = DISTANCE, cosine: float = COSINE) -> dict[str, str]:
    """The clips that show the same as an earlier one: id of the clip to id of the earliest of its group.

    Clips come in the order of the tables and of their rows. Those within `distance` bits are grouped first;
    the embeddings of the clips that stay are compared then, each with all others: their time grows with the
    square of their number. Scores that are null are not compared. The scores lie on disk meanwhile; in memory
    are blocks of them, a few bytes per clip and the result.
    Raises `InputError` for what is not a table of clips, and for embeddings of two lengths.
    """
    count = sum(map(table.count, tables))
    with tempfile.TemporaryDirectory() as folder:

        def array(name: str, kind: type, *shape: int) -> np.ndarray:
            return np.lib.format.open_memmap(Path(folder) / f"{name}.npy", "w+", kind, (count, *shape))

        if not count:
            return {}  # nothing can be mapped
        earliest, hashes, hashed = (
            array("earliest", np.int64),
            array("hashes", np.uint64),
            array("hashed", np.bool_),
        )
        embeddings, embedded = None, array("embedded", np.bool_)
        for path, start, batch in _batches(tables, "phash", "embedding"):
            rows = slice(start, start + batch.num_rows)
            earliest[rows] = np.arange(rows.start, rows.stop)
            hashed[rows] = batch["phash"].is_valid().to_numpy(zero_copy_only=False)
            hashes[rows] = batch["phash"].fill_null(0).to_numpy()
            embedded[rows] = has = batch["embedding"].is_valid().to_numpy(zero_copy_only=False)
            if has.any():
                if embeddings is None:
                    embeddings = array("embeddings", np.float16, len(batch["embedding"].drop_null()[0]))
                embeddings[start + np.flatnonzero(has)] = _stacked(
                    batch["embedding"], embeddings.shape[1], path
                )
        join_hashes(earliest, hashes, hashed, distance=distance)
        if embeddings is not None:
            join_embeddings(earliest, embeddings, embedded, cosine=cosine)
        return _named(tables, earliest)


def join_hashes(
    earliest: Int64[np.ndarray, "n"],
    hashes: UInt64[np.ndarray, "n"],
    chosen: Bool[np.ndarray, "n"],
    *,
    distance: int,
) -> None:
    """Join the groups of all chosen hashes that differ by at most `distance` bits, 0 to 63.

    `earliest` points from each clip towards the earliest of its group, which points to itself; it is
    0, 1, 2, … where nothing is joined yet. Multi-index hashing (Norouzi et al. 2012): of m blocks of bits,
    m - distance are equal in any such pair, so only hashes that agree in some choice of that many blocks
    are compared. The arrays may lie on disk.
    """
    _join_within(earliest, hashes, chosen, np.uint64(2**64 - 1), distance=0)
    distinct = _first(earliest, chosen)
    for mask in masks(int(distinct.sum()), distance) if distance else ():
        _join_within(earliest, hashes, distinct, mask, distance=distance)


def masks(count: int, distance: int) -> list[np.uint64]:
    """Bits to agree in: any two hashes within `distance` bits do so in one of the masks at least.

    Few bits make many pairs to compare, many bits many masks to sort by: what is less for `count` hashes.
    """

    def work(equal: int) -> float:
        blocks = distance + equal
        pairs = count**2 / 2 / 2.0 ** (64 * equal // blocks)
        return math.comb(blocks, equal) * (4 * count + pairs)

    equal = min(range(1, 65 - distance), key=work)
    edges = [64 * block // (distance + equal) for block in range(distance + equal + 1)]
    blocks = [2**high - 2**low for low, high in itertools.pairwise(edges)]
    return [np.uint64(sum(chosen)) for chosen in itertools.combinations(blocks, equal)]


def join_embeddings(
    earliest: Int64[np.ndarray, "n"],
    embeddings: Float[np.ndarray, "n d"],
    chosen: Bool[np.ndarray, "n"],
    *,
    cosine: float,
) -> None:
    """Join the groups whose earliest clips have embeddings of at least that cosine, where chosen.

    `earliest` as in `join_hashes`. Embeddings need not have length 1; those of length 0 are near to none.
    """
    stay = np.flatnonzero(_first(earliest, chosen))
    blocks = [stay[start : start + EMBEDDINGS_AT_ONCE] for start in range(0, len(stay), EMBEDDINGS_AT_ONCE)]
    for number, block in enumerate(blocks):
        ours = _directions(embeddings[block])
        for other in blocks[number:]:
            one, two = np.nonzero(ours @ _directions(embeddings[other]).T >= cosine)
            _join(earliest, block[one], other[two])


def _directions(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings of length 1, in single precision."""
    wide = embeddings.astype(np.float32)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return wide / np.where(length > 0, length, 1)


def _join_within(
    earliest: np.ndarray, hashes: np.ndarray, chosen: np.ndarray, mask: np.uint64, *, distance: int
) -> None:
    """Join the chosen hashes within `distance` that agree in the bits of a mask.

    What agrees falls into one part, and one part after another is brought into memory.
    """
    half, parts = np.uint64(32), math.ceil(len(hashes) / HASHES_AT_ONCE)
    for part in range(parts):
        found = []
        for rows in _blocks(len(hashes)):
            spread = ((hashes[rows] & mask) * SPREAD >> half) * np.uint64(parts) >> half  # 0 to parts - 1
            found.append(rows.start + np.flatnonzero(chosen[rows] & (spread == part)))
        places = np.concatenate(found)
        keys = hashes[places] & mask
        order = np.argsort(keys)
        _join_runs(earliest, places[order], keys[order], hashes[places[order]], distance=distance)


def _join_runs(
    earliest: np.ndarray, places: np.ndarray, keys: np.ndarray, hashes: np.ndarray, *, distance: int
) -> None:
    """Join the hashes within `distance` in each run of equal keys: neighbours, then the next but one."""
    left = np.arange(len(keys))
    for step in range(1, len(keys)):
        left = left[: np.searchsorted(left, len(keys) - step)]
        left = left[keys[left] == keys[left + step]]
        if not len(left):
            break
        ones = BITS[(hashes[left] ^ hashes[left + step]).view(np.uint16)]
        near = left[ones[::4] + ones[1::4] + ones[2::4] + ones[3::4] <= distance]
        _join(earliest, places[near], places[near + step])
        if distance == 0:
            break  # neighbours link the whole run


def _join(earliest: np.ndarray, one: np.ndarray, other: np.ndarray) -> None:
    """Make one group of the groups of each pair; the earliest of all stays."""
    while len(one):
        one, other = _roots(earliest, one), _roots(earliest, other)
        apart = one != other
        one, other = one[apart], other[apart]
        np.minimum.at(earliest, np.maximum(one, other), np.minimum(one, other))


def _roots(earliest: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The earliest of the group of each place, to which it points from now on."""
    found = earliest[places]
    while (further := earliest[found]).tobytes() != found.tobytes():
        found = further
    earliest[places] = found
    return found


def _first(earliest: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Whether each place is chosen and the earliest of its group."""
    found = np.array(chosen)
    for rows in _blocks(len(found)):
        found[rows] &= earliest[rows] == np.arange(rows.start, rows.stop)
    return found


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + HASHES_AT_ONCE, count)) for start in range(0, count, HASHES_AT_ONCE)]


def _named(tables: Sequence[Path], earliest: np.ndarray) -> dict[str, str]:
    """The ids of all clips that are not the earliest of their group, with the id of that one."""
    copies = np.flatnonzero(~_first(earliest, np.ones(len(earliest), bool)))
    originals = _roots(earliest, copies)
    wanted, names = np.union1d(copies, originals), []
    for _, start, batch in _batches(tables, "id"):
        inside = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + batch.num_rows)]
        names += batch["id"].take(inside - start).to_pylist()
    places = (np.searchsorted(wanted, each).tolist() for each in (copies, originals))
    return {names[copy]: names[original] for copy, original in zip(*places, strict=True)}


def _batches(tables: Sequence[Path], *columns: str) -> Iterator[tuple[Path, int, Any]]:
    """Record batches of all tables, each with its table and the number of rows before it."""
    start = 0
    for path in tables:
        for batch in table.batches(path, columns=columns):
            yield path, start, batch
            start += batch.num_rows


def _stacked(embeddings: Any, width: int, path: Path) -> np.ndarray:
    """The rows of a column of embeddings that are not null."""
    lengths = embeddings.drop_null().value_lengths().to_numpy()
    if (lengths != width).any():
        raise InputError(
            f"{path}: embeddings of {lengths[lengths != width][0]} and of {width} numbers cannot be "
            "compared; score all clips with one CLIP"
        )
    return embeddings.flatten().to_numpy().reshape(-1, width)
