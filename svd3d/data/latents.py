"""Latent shards: what the encoders make of orbits, once, so that training needs neither of them in memory.

    <cache>/shards/<name>/latents.parquet    one row, which is one row group, per object and background
    <cache>/shards/<name>/shard.json         its objects in their order, its digest, and what encoded it
    <cache>/objects.parquet                  where each object lies, sorted by uid
    <cache>/index.json                       what all rows share, and the digest of each shard; written last

A row holds one orbit of `v` views, of which the first `n` (one or all) can be the condition:

    uid, licence, background                 who, whose, and the colour behind the object in [0, 1]
    latents          float16 [v, c, h, w]    as the denoiser sees them: the mode, times the scaling factor
    cond_latents     float16 [n, k, c, h, w] as the condition: the mode, not scaled; k = 0: without noise
    noise_aug        float32 [n, k]          standard deviation of the noise in each of those pictures
    clip             float16 [n, d]          CLIP embedding of each clean picture
    elevations_deg, azimuths_deg             of the cameras [v]

SVD adds noise to the condition in pixels, before it is encoded, with log strength ~ N(-3, 0.5^2) (appendix
D). Latents cannot be noised so afterwards; several noisy pictures are therefore encoded and training picks
one. Shards are plain Parquet with the features of `datasets`: `load_dataset("parquet", ...)` reads them too.
"""

import contextlib
import functools
import hashlib
import io
import itertools
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor, nn

from svd3d import runs
from svd3d.errors import CheckpointError, InputError, OutputError

FORMAT = 1
INDEX = "index.json"
OBJECTS = "objects.parquet"
LATENTS = "latents.parquet"
ENCODES = ("encoder.", "quant_conv.")
"""Weights of an autoencoder that latents depend on: decoders may differ."""
OPEN_SHARDS = 64
"""Kept open by one process."""


@dataclass(frozen=True)
class Encoders:
    """What made the latents; equal for all shards of a cache."""

    vae: str
    """Digest of the part of the autoencoder that encodes, and its scaling factor."""
    clip: str
    scaling_factor: float


@dataclass(frozen=True)
class Shape:
    """What all rows have in common."""

    size: int
    """Height and width of the pictures in pixels."""
    num_views: int
    condition_views: int
    """How many views, from view 0, can be the condition: 1, or all of them."""
    noise_variants: int
    """Noisy encodings of each condition view, beside the clean one."""
    backgrounds: tuple[str, ...]
    """Kinds of the rows of each object, in their order."""
    latent: tuple[int, int, int]
    """Channels, height and width."""
    clip_dim: int


@dataclass(frozen=True)
class ShardEntry:
    """One shard, as the index knows it."""

    name: str
    sha256: str
    bytes: int
    objects: int


@dataclass(frozen=True)
class ShardContent:
    """One shard, as its own card tells."""

    entry: ShardEntry
    shape: Shape
    encoders: Encoders
    uids: tuple[str, ...]
    licences: tuple[str, ...]
    is_damaged: bool
    """Whether its latents are missing or of another length; its objects are to be encoded again."""


@dataclass(frozen=True)
class Info:
    """The index of a cache."""

    encoders: Encoders
    shape: Shape
    shards: tuple[ShardEntry, ...]
    objects: int
    failed: int
    """Samples that could not be encoded and are in no shard."""
    objects_sha256: str

    @property
    def fingerprint(self) -> str:
        """Digest of all that training sees: the same numbers in the same order."""
        seen = {name: value for name, value in asdict(self).items() if name != "failed"}
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Row:
    """One orbit with one background, as read: float32, shapes as in the docstring of the module."""

    uid: str
    licence: str
    background: tuple[float, ...]
    latents: Float[Tensor, "v c h w"]
    cond_latents: Float[Tensor, "n k c h w"]
    noise_aug: Float[Tensor, "n k"]
    clip: Float[Tensor, "n d"]
    elevations_deg: Float[Tensor, "v"]
    azimuths_deg: Float[Tensor, "v"]


class Latents:
    """A finished cache, opened for reading. Objects are sorted by uid, whatever shards they lie in.

    Small and picklable: workers of a data loader open their own files.
    """

    def __init__(self, folder: Path, info: Info, objects: pa.Table) -> None:
        self.folder = folder
        self.info = info
        self.uids: list[str] = objects.column("uid").to_pylist()
        self._shards = objects.column("shard").to_numpy()
        self._places = objects.column("place").to_numpy()

    @classmethod
    def open(cls, folder: Path, *, vae_digest: str | None = None, size: int | None = None) -> "Latents":
        """Open a cache and check it: all shards there, of the length the index says, of this VAE and size.

        Contents are checked when they are read, page by page, and all at once by `verify`. Raises
        `InputError` for what is missing, changed, or made for another model.
        """
        info = read_index(folder)
        _check_maker(folder, info, vae_digest=vae_digest, size=size)
        for shard in info.shards:
            if fault := _quick_fault(folder, shard):
                raise InputError(f"{fault}; make it again with: svd3d cache verify {folder} --repair True")
        path = folder / OBJECTS
        if runs.sha256(runs.input_path(path, what="list of objects")) != info.objects_sha256:
            raise InputError(f"{path}: does not fit {INDEX}; run the svd3d cache command again")
        return cls(folder, info, pq.read_table(path))

    def __len__(self) -> int:
        """How many objects there are."""
        return len(self.uids)

    def read(self, index: int, *, variant: int = 0) -> Row:
        """Object `index` in the order of `uids`, before the background number `variant`.

        Raises `InputError` for pages that changed since they were written.
        """
        shard = self.info.shards[int(self._shards[index])]
        path = self.folder / "shards" / shard.name / LATENTS
        group = int(self._places[index]) * len(self.info.shape.backgrounds) + variant
        try:
            table = _open_shard(str(path), os.getpid()).read_row_group(group, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            reason = f"{path}: {self.uids[index]} cannot be read ({error})"
            raise InputError(f"{reason}; run: svd3d cache verify {self.folder} --repair True") from error
        return self._row(table)

    def rows(self, uids: Sequence[str], *, variant: int = 0) -> list[Row]:
        """The rows of objects by name. Raises `InputError` for one that is not there."""
        places = {uid: index for index, uid in enumerate(self.uids)}
        if unknown := [uid for uid in uids if uid not in places]:
            raise InputError(f"{self.folder}: holds no object {unknown[0]}; {len(self)} others are there")
        return [self.read(places[uid], variant=variant) for uid in uids]

    def _row(self, table: pa.Table) -> Row:
        shape = self.info.shape
        views, conditions = shape.num_views, shape.condition_views
        encodings = 1 + shape.noise_variants

        def numbers(name: str, *sizes: int) -> Tensor:
            return torch.from_numpy(_flat(table.column(name)).astype(np.float32).reshape(sizes))

        return Row(
            uid=table.column("uid")[0].as_py(),
            licence=table.column("licence")[0].as_py(),
            background=tuple(_flat(table.column("background")).tolist()),
            latents=numbers("latents", views, *shape.latent),
            cond_latents=numbers("cond_latents", conditions, encodings, *shape.latent),
            noise_aug=numbers("noise_aug", conditions, encodings),
            clip=numbers("clip", conditions, shape.clip_dim),
            elevations_deg=numbers("elevations_deg", views),
            azimuths_deg=numbers("azimuths_deg", views),
        )


def read_index(folder: Path) -> Info:
    """The index of a finished cache. Raises `InputError` where there is none, or one of another format."""
    path = folder / INDEX
    if not path.is_file():
        what = "holds no index.json, so not a finished cache; finish it with: svd3d cache"
        raise InputError(f"{runs.input_path(folder, what='latent cache')}: {what}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            found = f"format is {content['format']!r}, this version reads {FORMAT}"
            raise InputError(f"{path}: {found}; make the cache again")
        info = Info(
            encoders=Encoders(**content["encoders"]),
            shape=_shape(content["shape"]),
            shards=tuple(ShardEntry(**each) for each in content["shards"]),
            **{name: content[name] for name in ("objects", "failed", "objects_sha256")},
        )
        fingerprint = content["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a readable index ({error!r}); run svd3d cache again") from error
    if info.fingerprint != fingerprint:
        raise InputError(f"{path}: was changed by hand (fingerprint differs); run svd3d cache again")
    return info


def vae_digest(vae: nn.Module) -> str:
    """Digest of what latents depend on: the encoding weights, rounded to float16, and the scaling factor.

    The same for the same weights in another number format, and whatever the decoder.
    """
    weights = {name: each for name, each in vae.state_dict().items() if name.startswith(ENCODES)}
    return _weights_digest(weights, salt=repr(vae.config["scaling_factor"]))  # type: ignore[index]


def clip_digest(image_encoder: nn.Module) -> str:
    """Digest of the weights of an image encoder, rounded to float16."""
    return _weights_digest(image_encoder.state_dict())


def _weights_digest(weights: Mapping[str, Tensor], *, salt: str = "") -> str:
    digest = hashlib.sha256(salt.encode())
    for name in sorted(weights):
        digest.update(f"\0{name}{tuple(weights[name].shape)}".encode())
        digest.update(weights[name].detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()


def write_shard(
    cache: Path, name: str, objects: Iterable[list[Row]], *, shape: Shape, encoders: Encoders
) -> None:
    """Write a shard from the rows of each object, one per background; it is published whole or not at all.

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
                    for row in rows:
                        table.write_table(_table(row, features))
            file.flush()
            os.fsync(file.fileno())
        content = {"sha256": runs.sha256(path), "bytes": path.stat().st_size, "uids": uids}
        content["licences"] = sorted(licences - {""})
        made_by = {"shape": asdict(shape), "encoders": asdict(encoders)}
        runs.write_json(temporary / "shard.json", {**content, **made_by})


def read_shards(cache: Path) -> list[ShardContent]:
    """The shards that a cache holds, finished or not, sorted by name; one without its card does not count."""
    folder = cache / "shards"
    if not folder.is_dir():
        return []
    return [_content(path) for path in sorted(folder.glob("*/shard.json"))]


def write_index(cache: Path, shards: Sequence[ShardContent], *, failed: int) -> Info:
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
    info = Info(
        encoders=first.encoders,
        shape=first.shape,
        shards=tuple(shard.entry for shard in shards),
        objects=len(places),
        failed=failed,
        objects_sha256=runs.sha256(cache / OBJECTS),
    )
    runs.write_json(cache / INDEX, {"format": FORMAT, "fingerprint": info.fingerprint, **asdict(info)})
    return info


def fault(cache: Path, shard: ShardEntry) -> str | None:
    """What is wrong with a shard, every byte of it read; None for nothing."""
    if quick := _quick_fault(cache, shard):
        return quick
    path = cache / "shards" / shard.name / LATENTS
    found = runs.sha256(path)
    return None if found == shard.sha256 else f"{path}: sha256 is {found[:12]}, expected {shard.sha256[:12]}"


def row_bytes(shape: Shape) -> int:
    """How long a row is on disk, nearly."""
    pictures = shape.num_views + shape.condition_views * (1 + shape.noise_variants)
    return 2 * (pictures * math.prod(shape.latent) + shape.condition_views * shape.clip_dim)


def _content(path: Path) -> ShardContent:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        entry = ShardEntry(path.parent.name, card["sha256"], card["bytes"], len(card["uids"]))
        return ShardContent(
            entry,
            _shape(card["shape"]),
            Encoders(**card["encoders"]),
            tuple(card["uids"]),
            tuple(card["licences"]),
            is_damaged=_quick_fault(path.parents[2], entry) is not None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        advice = f"remove {path.parent} and run the same svd3d cache command again"
        raise InputError(f"{path}: not a readable shard card ({error!r}); {advice}") from error


def _shape(content: dict[str, Any]) -> Shape:
    tuples = {name: tuple(content[name]) for name in ("backgrounds", "latent")}
    return Shape(**{**content, **tuples})


def _features(shape: Shape) -> datasets.Features:
    conditions, encodings = shape.condition_views, 1 + shape.noise_variants
    angles = datasets.List(datasets.Value("float32"), length=shape.num_views)
    return datasets.Features(
        {
            "uid": datasets.Value("string"),
            "licence": datasets.Value("string"),
            "background": datasets.List(datasets.Value("float32"), length=3),
            "latents": datasets.Array4D((shape.num_views, *shape.latent), "float16"),
            "cond_latents": datasets.Array5D((conditions, encodings, *shape.latent), "float16"),
            "noise_aug": datasets.Array2D((conditions, encodings), "float32"),
            "clip": datasets.Array2D((conditions, shape.clip_dim), "float16"),
            "elevations_deg": angles,
            "azimuths_deg": angles,
        }
    )


def _table(row: Row, features: datasets.Features) -> pa.Table:
    """A row as Arrow has it; numbers beyond float16 are refused by `_half`."""
    halves = {"latents", "cond_latents", "clip"}
    columns: dict[str, list[Any]] = {}
    for field in fields(row):
        value = getattr(row, field.name)
        if field.name in halves:
            value = _half(value, where=f"{row.uid}: {field.name}")
        elif isinstance(value, Tensor):
            value = value.numpy()
        columns[field.name] = [value]
    return datasets.Dataset.from_dict(columns, features=features).data.table


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


def _check_maker(folder: Path, info: Info, *, vae_digest: str | None, size: int | None) -> None:
    if vae_digest not in (None, info.encoders.vae):
        found = f"latents of the VAE {info.encoders.vae[:12]}, and the model has {vae_digest[:12]}"
        raise InputError(f"{folder}: {found}; cache the views again with --model of the training")
    if size not in (None, info.shape.size):
        found = f"latents of {info.shape.size} pixels, and the training is for {size}"
        raise InputError(f"{folder}: {found}; cache the views again with --size {size}")


def _quick_fault(folder: Path, shard: ShardEntry) -> str | None:
    """What is wrong with a shard as far as its length tells."""
    path = folder / "shards" / shard.name / LATENTS
    try:
        found = path.stat().st_size
    except OSError as error:
        return f"{path}: is missing ({error.strerror})"
    return None if found == shard.bytes else f"{path}: has {found} bytes, expected {shard.bytes}"


@functools.lru_cache(maxsize=OPEN_SHARDS)
def _open_shard(path: str, process: int) -> pq.ParquetFile:
    """A shard, opened once by each process: files that were open at a fork are not shared."""
    return pq.ParquetFile(path, page_checksum_verification=True)


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    """All numbers of a column of nested lists of one row."""
    values: Any = column.chunk(0)
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    while pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False)
