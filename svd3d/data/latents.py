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
one. Of captures nobody knows the angles: they are NaN. Shards are plain Parquet with the features of
`datasets`: `load_dataset("parquet", ...)` reads them too.

Rows of clips lie in the same files, in a cache of their own: `svd3d.data.clips` tells what they hold.
"""

import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float
from torch import Tensor, nn

from svd3d import runs
from svd3d.data import clips
from svd3d.data.columns import Column
from svd3d.errors import InputError

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

    kind: ClassVar[str] = "orbits"

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

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Shape":
        """From JSON, which has lists for tuples."""
        tuples = {name: tuple(content[name]) for name in ("backgrounds", "latent")}
        return cls(**{**content, **tuples})

    @property
    def variants(self) -> int:
        """Rows of each object."""
        return len(self.backgrounds)

    @property
    def columns(self) -> dict[str, Column]:
        """Fields of a row by name."""
        conditions, encodings = self.condition_views, 1 + self.noise_variants
        return {
            "uid": Column("string"),
            "licence": Column("string"),
            "background": Column("float32", (3,), plain=True),
            "latents": Column("float16", (self.num_views, *self.latent)),
            "cond_latents": Column("float16", (conditions, encodings, *self.latent)),
            "noise_aug": Column("float32", (conditions, encodings)),
            "clip": Column("float16", (conditions, self.clip_dim)),
            "elevations_deg": Column("float32", (self.num_views,)),
            "azimuths_deg": Column("float32", (self.num_views,)),
        }


@dataclass(frozen=True)
class ShardEntry:
    """One shard, as the index knows it."""

    name: str
    sha256: str
    bytes: int
    objects: int


S = TypeVar("S", Shape, clips.Shape)
R = TypeVar("R")
C = TypeVar("C", bound="Cache")


@dataclass(frozen=True)
class Info(Generic[S]):
    """The index of a cache."""

    encoders: Encoders | clips.Encoders
    shape: S
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


KINDS: dict[str, tuple[Any, Any, Any]] = {
    Shape.kind: (Shape, Encoders, Row),
    clips.Shape.kind: (clips.Shape, clips.Encoders, clips.Row),
}
"""What each kind of cache is made of."""


class Cache(Generic[S, R]):
    """A finished cache, opened for reading. Objects are sorted by uid, whatever shards they lie in.

    Small and picklable: workers of a data loader open their own files.
    """

    kind: ClassVar[str]

    def __init__(self, folder: Path, info: Info[S], objects: pa.Table) -> None:
        self.folder = folder
        self.info = info
        self.uids: list[str] = objects.column("uid").to_pylist()
        self._shards = objects.column("shard").to_numpy()
        self._places = objects.column("place").to_numpy()

    @classmethod
    def open(
        cls: type[C],
        folder: Path,
        *,
        vae_digest: str | None = None,
        size: int | tuple[int, int] | None = None,
    ) -> C:
        """Open a cache and check it: all shards there, of the length the index says, of this VAE and size.

        Contents are checked when they are read, page by page, and all at once by `verify`. Raises
        `InputError` for what is missing, changed, or made for another model or kind of training.
        """
        info = read_index(folder)
        if info.shape.kind != cls.kind:
            raise InputError(f"{folder}: holds {info.shape.kind}, expected {cls.kind}; pass another cache")
        _check_maker(folder, info, vae_digest=vae_digest, size=size)
        for shard in info.shards:
            if fault := quick_fault(folder, shard):
                raise InputError(f"{fault}; make it again with: svd3d cache verify {folder} --repair")
        path = folder / OBJECTS
        if runs.sha256(runs.input_path(path, what="list of objects")) != info.objects_sha256:
            raise InputError(f"{path}: does not fit {INDEX}; run the svd3d cache command again")
        return cls(folder, info, pq.read_table(path))

    @property
    def variants(self) -> int:
        """Rows of each object."""
        return self.info.shape.variants

    @property
    def fingerprint(self) -> str:
        """Digest of all that training sees."""
        return self.info.fingerprint

    def origin(self, uid: str) -> str:
        """What is held out together with an object."""
        return uid

    def __len__(self) -> int:
        """How many objects there are."""
        return len(self.uids)

    def read(self, index: int, *, variant: int = 0) -> R:
        """Object `index` in the order of `uids`, its row number `variant`: of orbits, one per background.

        Raises `InputError` for what changed since it was written.
        """
        uid = self.uids[index]
        shard = self.info.shards[int(self._shards[index])]
        path = self.folder / "shards" / shard.name / LATENTS
        group = int(self._places[index]) * self.info.shape.variants + variant
        try:
            table = _open_shard(str(path), os.getpid()).read_row_group(group, use_threads=False)
            found = {name: each.read(table.column(name)) for name, each in self.info.shape.columns.items()}
            if found["uid"] != uid:
                raise ValueError(f"another object, {found['uid']}, lies there")
        except (OSError, pa.ArrowException, LookupError, ValueError) as error:  # whatever its footer now says
            reason = f"{path}: {uid} cannot be read ({' '.join(str(error).split())})"
            raise InputError(f"{reason}; run: svd3d cache verify {self.folder} --repair") from error
        return self._row(found)

    def zeros(self, index: int) -> R:
        """In place of a row that cannot be read: all numbers are zero."""
        values = {name: each.zero() for name, each in self.info.shape.columns.items()}
        return self._row({**values, "uid": self.uids[index]})

    def rows(self, uids: Sequence[str], *, variant: int = 0) -> list[R]:
        """The rows of objects by name. Raises `InputError` for one that is not there."""
        places = {uid: index for index, uid in enumerate(self.uids)}
        if unknown := [uid for uid in uids if uid not in places]:
            raise InputError(f"{self.folder}: holds no object {unknown[0]}; {len(self)} others are there")
        return [self.read(places[uid], variant=variant) for uid in uids]

    def _row(self, values: dict[str, Any]) -> R:
        _, _, row = KINDS[self.kind]
        return row(**values)


class Latents(Cache[Shape, Row]):
    """A finished cache of orbits."""

    kind = Shape.kind


class ClipLatents(Cache[clips.Shape, clips.Row]):
    """A finished cache of clips."""

    kind = clips.Shape.kind

    def origin(self, uid: str) -> str:
        """The video of a clip."""
        return clips.video_of(uid)


def open_any(folder: Path, *, vae_digest: str | None = None) -> Latents | ClipLatents:
    """A finished cache of either kind; see `Cache.open`."""
    kinds: dict[str, Any] = {each.kind: each for each in (Latents, ClipLatents)}
    return kinds[read_index(folder).shape.kind].open(folder, vae_digest=vae_digest)


def read_index(folder: Path) -> Info[Any]:
    """The index of a finished cache of any kind.

    Raises `InputError` where there is none, or one of another format.
    """
    path = folder / INDEX
    if not path.is_file():
        what = "holds no index.json, so not a finished cache; finish it with: svd3d cache"
        raise InputError(f"{runs.input_path(folder, what='latent cache')}: {what}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            found = f"format is {content['format']!r}, this version reads {FORMAT}"
            raise InputError(f"{path}: {found}; make the cache again")
        shape, encoders, _ = KINDS[content.get("kind", Shape.kind)]
        info = Info(
            encoders=encoders(**content["encoders"]),
            shape=shape.of(content["shape"]),
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


def clip_digest(encoder: nn.Module) -> str:
    """Digest of the weights of a text or an image encoder, rounded to float16."""
    return _weights_digest(encoder.state_dict())


def _weights_digest(weights: Mapping[str, Tensor], *, salt: str = "") -> str:
    digest = hashlib.sha256(salt.encode())
    for name in sorted(weights):
        digest.update(f"\0{name}{tuple(weights[name].shape)}".encode())
        digest.update(weights[name].detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()


def fault(cache: Path, shard: ShardEntry) -> str | None:
    """What is wrong with a shard, every byte of it read; None for nothing."""
    if quick := quick_fault(cache, shard):
        return quick
    path = cache / "shards" / shard.name / LATENTS
    found = runs.sha256(path)
    return None if found == shard.sha256 else f"{path}: sha256 is {found[:12]}, expected {shard.sha256[:12]}"


def quick_fault(cache: Path, shard: ShardEntry) -> str | None:
    """What is wrong with a shard as far as its length tells."""
    path = cache / "shards" / shard.name / LATENTS
    try:
        found = path.stat().st_size
    except OSError as error:
        return f"{path}: is missing ({error.strerror})"
    return None if found == shard.bytes else f"{path}: has {found} bytes, expected {shard.bytes}"


def _check_maker(
    folder: Path, info: Info[Any], *, vae_digest: str | None, size: int | tuple[int, int] | None
) -> None:
    if vae_digest not in (None, info.encoders.vae):
        found = f"latents of the VAE {info.encoders.vae[:12]}, and the model has {vae_digest[:12]}"
        raise InputError(f"{folder}: {found}; cache the views again with --model of the training")
    if size not in (None, info.shape.size):
        found = f"latents of {info.shape.size} pixels, and the training is for {size}"
        raise InputError(f"{folder}: {found}; cache the views again with --size {size}")


@functools.lru_cache(maxsize=OPEN_SHARDS)
def _open_shard(path: str, process: int) -> pq.ParquetFile:
    """A shard, opened once by each process: files that were open at a fork are not shared."""
    return pq.ParquetFile(path, page_checksum_verification=True)
