"""Writing latent shards, whole or not at all, and the index that finishes a cache of them.

Readers need none of this, nor `datasets`: see `svd3d.data.latents`, which tells the format.
"""

import contextlib
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from svd3d import runs
from svd3d.data import clips
from svd3d.data.columns import Column
from svd3d.data.latents import (
    FORMAT,
    INDEX,
    KINDS,
    LATENTS,
    OBJECTS,
    Encoders,
    Info,
    Row,
    Shape,
    ShardEntry,
    quick_fault,
)
from svd3d.errors import CheckpointError, InputError, OutputError

AnyRow = Row | clips.Row
AnyShape = Shape | clips.Shape
AnyEncoders = Encoders | clips.Encoders


@dataclass(frozen=True)
class ShardContent:
    """One shard, as its own card tells."""

    entry: ShardEntry
    shape: AnyShape
    encoders: AnyEncoders
    uids: tuple[str, ...]
    licences: tuple[str, ...]
    is_damaged: bool
    """Whether its latents are missing or of another length; its objects are to be encoded again."""


def write_shard(
    cache: Path, name: str, objects: Iterable[Sequence[AnyRow]], *, shape: AnyShape, encoders: AnyEncoders
) -> None:
    """Write a shard from the rows of each object, of orbits one per background; whole or not at all.

    No objects make no shard. Raises `OutputError` when the disk is full or refuses.
    """
    objects = iter(objects)
    if (first := next(objects, None)) is None:
        return
    features = _features(shape)
    uids, licences = [], set()
    with runs.atomic_folder(cache / "shards" / name) as temporary:
        path = temporary / LATENTS
        with _writable(path), open(path, "wb") as file:
            options = {"compression": "none", "use_dictionary": False, "write_statistics": False}  # noise
            with pq.ParquetWriter(file, features.arrow_schema, write_page_checksum=True, **options) as table:
                for rows in itertools.chain([first], objects):
                    uids.append(rows[0].uid)
                    licences.add(rows[0].licence)
                    table.write_table(_table(rows, features, shape.columns), row_group_size=1)
            file.flush()
            os.fsync(file.fileno())
        content = {"sha256": runs.sha256(path), "bytes": path.stat().st_size, "uids": uids}
        content["licences"] = sorted(licences - {""})
        made_by = {"kind": shape.kind, "shape": asdict(shape), "encoders": asdict(encoders)}
        runs.write_json(temporary / "shard.json", {**content, **made_by})


def read_shards(cache: Path) -> list[ShardContent]:
    """The shards that a cache holds, finished or not, sorted by name; one without its card does not count."""
    folder = cache / "shards"
    if not folder.is_dir():
        return []
    return [_content(path) for path in sorted(folder.glob("*/shard.json"))]


def write_index(cache: Path, shards: Sequence[ShardContent], *, failed: int) -> Info[Any]:
    """Finish a cache: the list of objects, then the index.

    Raises `InputError` for shards of different encoders or shapes, or with an object in common.
    """
    first = shards[0]
    for shard in shards:
        if (shard.shape, shard.encoders) != (first.shape, first.encoders):
            reason = f"shards {first.entry.name} and {shard.entry.name} were made by different models"
            raise InputError(f"{cache}: {reason}; make the cache again in another --out")
    places = sorted(
        (uid, number, place) for number, shard in enumerate(shards) for place, uid in enumerate(shard.uids)
    )
    for (uid, *_), (other, *_) in itertools.pairwise(places):
        if uid == other:
            raise InputError(f"{cache}: object {uid} is in two shards; make the cache again in another --out")
    columns = {"uid": pa.string(), "shard": pa.int32(), "place": pa.int32()}
    arrays = [
        pa.array(values, kind)
        for values, kind in zip(zip(*places, strict=True), columns.values(), strict=True)
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(zip(columns, arrays, strict=True))), buffer)
    runs.write_file(cache / OBJECTS, buffer.getvalue())
    info = Info[Any](
        encoders=first.encoders,
        shape=first.shape,
        shards=tuple(shard.entry for shard in shards),
        objects=len(places),
        failed=failed,
        objects_sha256=runs.sha256(cache / OBJECTS),
    )
    facts = {"format": FORMAT, "kind": first.shape.kind, "fingerprint": info.fingerprint}
    runs.write_json(cache / INDEX, {**facts, **asdict(info)})
    return info


def row_bytes(shape: AnyShape) -> int:
    """How long a row is on disk, nearly."""
    return sum(column.bytes for column in shape.columns.values())


def _content(path: Path) -> ShardContent:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        entry = ShardEntry(path.parent.name, card["sha256"], card["bytes"], len(card["uids"]))
        shape, encoders, _ = KINDS[card.get("kind", Shape.kind)]
        return ShardContent(
            entry,
            shape.of(card["shape"]),
            encoders(**card["encoders"]),
            tuple(card["uids"]),
            tuple(card["licences"]),
            is_damaged=quick_fault(path.parents[2], entry) is not None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        advice = f"remove {path.parent} and run the same svd3d cache command again"
        raise InputError(f"{path}: not a readable shard card ({error!r}); {advice}") from error


def _features(shape: AnyShape) -> datasets.Features:
    return datasets.Features({name: _feature(column) for name, column in shape.columns.items()})


def _feature(column: Column) -> Any:
    lengths = [-1 if side is None else side for side in column.size]
    if not lengths:
        return datasets.Value(column.kind)
    if len(lengths) == 1:
        return datasets.List(datasets.Value(column.kind), length=lengths[0])
    return getattr(datasets, f"Array{len(lengths)}D")(column.size, column.kind)


def _table(rows: Sequence[AnyRow], features: datasets.Features, columns: dict[str, Column]) -> pa.Table:
    """Rows as Arrow has them; numbers beyond float16 are refused by `_half`."""

    def plain(row: AnyRow, name: str) -> Any:
        value = getattr(row, name)
        if columns[name].kind == "float16":
            return _half(value, where=f"{row.uid}: {name}")
        return value.numpy() if isinstance(value, Tensor) else value

    values = {name: [plain(row, name) for row in rows] for name in columns}
    return datasets.Dataset.from_dict(values, features=features).data.table


def _half(values: Tensor, *, where: str) -> np.ndarray:
    halves = values.half()
    if not halves.isfinite().all():
        raise CheckpointError(
            f"{where} are not finite in float16; check the encoders, or load them with --dtype float32"
        )
    return halves.numpy()


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = "free some space and run the same command again, it resumes"
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); {advice}") from error
