"""`svd3d cache`: sample folders or clips to latent shards, so that training needs no autoencoder and no CLIP.

Top to bottom: `run` is the whole stage and knows nothing of what it caches; `Orbits` and `Clips` are the two
things that can be, each with what it is read from, what it loads and how it is encoded.
"""

import dataclasses
import functools
import hashlib
import itertools
import logging
import math
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from svd3d import config as configs
from svd3d import images, runs, sample
from svd3d.curation import table, windows
from svd3d.errors import CameraError, ConfigError, InputError, OutputError, SampleError, require
from svd3d.sample import Capture, Sample
from svd3d.settings import CacheConfig, CacheVerifyConfig

if TYPE_CHECKING:
    from torch import Tensor

    from svd3d.data import clips
    from svd3d.data.latents import Info, Row
    from svd3d.data.shards import AnyEncoders, AnyRow, AnyShape, ShardContent

log = logging.getLogger(__name__)
LEDGER = "ledger.jsonl"
CLIPS_AHEAD = 2
"""Clips that are decoded while another one is encoded."""
FREELY_CHANGED = ("views", "out", "objects_per_shard", "part", "parts", "encode_chunk", "workers", "device")
"""Settings that may differ between two runs of one cache."""


@dataclass(frozen=True)
class Cached:
    """What became of one sample or clip, or of one shard that was verified."""

    uid: str
    shard: Path | None
    """The folder of its shard, unless it failed."""
    status: Literal["done", "skipped", "failed"]
    message: str
    """Why it failed; empty otherwise."""
    seconds: float


T = TypeVar("T")


@dataclass(frozen=True)
class Loaded:
    """The encoders on their device, and what they make."""

    networks: Any
    """`SVDMVPipeline` of orbits, `svd3d.model.encoders.Encoders` of clips."""
    device: str
    encoders: "AnyEncoders"
    shape: "AnyShape"


Reading = Callable[[], T]
"""What was read, or the error that hindered it, raised when it is asked for."""


@runtime_checkable
class Source(Protocol):
    """What is cached."""

    @property
    def uids(self) -> Iterable[str]:
        """All names, in the order in which they are best read."""
        ...

    def origin(self, uid: str) -> str:
        """What of a name decides the part that does it."""
        ...

    def load(self, *, tell: Callable[[str], object]) -> Loaded:
        """The encoders."""
        ...

    def read(self, uids: list[str], loaded: Loaded) -> Iterator[tuple[str, Reading[Any]]]:
        """Samples or clips, a few of them read ahead."""
        ...

    def encode(self, loaded: Loaded, uid: str, found: Any) -> "Sequence[AnyRow]":
        """The rows of what was read."""
        ...


def count(config: CacheConfig) -> int:
    """How many samples or clips `run` will report."""
    return len(_mine(_source(config), config))


def is_finished(folder: Path) -> bool:
    """Whether a cache has its index: nothing is open."""
    return (folder / "index.json").is_file()


def run(config: CacheConfig, *, tell: Callable[[str], object] = log.info) -> Iterator[Cached]:
    """Encode all samples or clips that no shard holds yet; running it again resumes, and tries failed ones.

    Yields one result per sample, when its shard is on disk. The index is written when nothing is open, in
    this part or another. Raises `ConfigError` for settings other than those the cache was begun with.
    """
    _need_packages()
    from svd3d.data import shards

    source = _source(config)
    mine = dict.fromkeys(_mine(source, config))
    out = runs.output_folder(config.out)
    with runs.lock(out, part=f"{config.part}-of-{config.parts}"):
        runs.same_settings(out, config, ignore=FREELY_CHANGED)
        found = shards.read_shards(out)
        held = {uid: shard for shard in found for uid in shard.uids}
        for uid in mine:
            if uid in held and not held[uid].is_damaged:
                yield Cached(uid, out / "shards" / held[uid].entry.name, "skipped", "", 0.0)
        damaged = {each.entry.name: each.uids for each in found if each.is_damaged}
        if gone := {uid for uids in damaged.values() for uid in uids}.difference(source.uids):
            reason = f"{min(gone)} must be encoded again (its shard is damaged), and is not there"
            raise InputError(f"{config.views}: {reason}; bring it back, or make another cache")
        again = {name: [uid for uid in uids if uid in mine] for name, uids in damaged.items()}
        groups = again | _groups([uid for uid in mine if uid not in held], config.objects_per_shard)
        loaded = None
        for name, uids in groups.items():
            if loaded is None:
                loaded = source.load(tell=tell)
                _check_same(config, loaded, found)
            yield from _write_shard(source, loaded, config, name, uids)
    _finish(config, set(source.uids), tell=tell)


def verify(config: CacheVerifyConfig) -> Iterator[Cached]:
    """Read every shard of a finished cache; the results are named by shard.

    With `repair` the latents of damaged ones are removed, for `run` to make again.
    """
    from svd3d.data import latents

    for shard in _index(config.out).shards:
        started = time.monotonic()
        fault = latents.fault(config.out, shard)
        folder = config.out / "shards" / shard.name
        if fault and config.repair:
            (folder / latents.LATENTS).unlink(missing_ok=True)
        seconds = time.monotonic() - started
        yield Cached(shard.name, folder, "failed" if fault else "done", fault or "", seconds)


def holds(folder: Path) -> str:
    """What a finished cache holds: orbits or clips."""
    return _index(folder).shape.kind


def count_shards(config: CacheVerifyConfig) -> int:
    """How many shards `verify` will report."""
    return len(_index(config.out).shards)


def settings_of(folder: Path) -> CacheConfig:
    """What made a cache, for `run` to make missing shards again. The views must be where they were."""
    path = runs.input_path(folder / "config.yaml", what="settings of the cache")
    made = configs.build(CacheConfig, configs.read_recipe(CacheConfig, path), where=str(path))
    runs.input_path(made.views, what="folder of the views that were cached")
    return dataclasses.replace(made, out=folder, part=0, parts=1)


def _index(folder: Path) -> "Info[Any]":
    _need_packages()
    from svd3d.data import latents

    return latents.read_index(folder)


def _need_packages() -> None:
    for package, extra in (("torch", "model"), ("diffusers", "model"), ("datasets", "train")):
        require(package, extra=extra, reason="caching latents")


def _source(config: CacheConfig) -> Source:
    """What there is to cache: a table of clips, or sample folders."""
    path = config.views if config.views.suffix == ".parquet" else config.views / table.NAME
    return Clips.of(config, path) if path.is_file() else Orbits.of(config)


def _mine(source: Source, config: CacheConfig) -> list[str]:
    """The samples of this part, by the hash of their origins: the same whatever else is there."""
    hashes = ((uid, zlib.crc32(os.fsencode(source.origin(uid)))) for uid in source.uids)
    return [uid for uid, number in hashes if number % config.parts == config.part]


def _groups(uids: list[str], size: int) -> dict[str, list[str]]:
    """Samples that will share a shard, under its name: a digest of theirs, so that parts never collide."""
    groups = [uids[first : first + size] for first in range(0, len(uids), size)]
    return {hashlib.sha256(os.fsencode("\n".join(group))).hexdigest()[:16]: group for group in groups}


def _check_same(config: CacheConfig, loaded: Loaded, found: "list[ShardContent]") -> None:
    """Refuse to add shards of another kind, size or model to those that are there."""
    for shard in found:
        if (shard.shape, shard.encoders) != (loaded.shape, loaded.encoders):
            reason = f"its {shard.shape.kind} were made by another model or at another size"
            raise ConfigError(f"{config.out}: {reason}, see {shard.entry.name}; choose another --out")


def _write_shard(
    source: Source, loaded: Loaded, config: CacheConfig, name: str, uids: list[str]
) -> Iterator[Cached]:
    """One shard, and then what became of each of its samples."""
    import torch

    from svd3d.data import shards

    _check_space(config.out, len(uids), loaded.shape)
    shard = config.out / "shards" / name
    results = []

    def encoded() -> "Iterator[Sequence[AnyRow]]":
        for uid, read in source.read(uids, loaded):
            started = time.monotonic()
            try:
                rows = source.encode(loaded, uid, read())
            except torch.OutOfMemoryError as error:
                reason = f"device {loaded.device}: out of memory ({error})"
                raise ConfigError(f"{reason}; try --encode-chunk 1 or --dtype float16") from error
            except (InputError, CameraError) as error:
                results.append(Cached(uid, None, "failed", str(error), time.monotonic() - started))
                continue
            results.append(Cached(uid, shard, "done", "", time.monotonic() - started))
            yield rows

    shards.write_shard(config.out, name, encoded(), shape=loaded.shape, encoders=loaded.encoders)
    for result in results:
        facts = {"shard": result.shard and name, "message": result.message, "seconds": result.seconds}
        runs.append_line(config.out / LEDGER, {"uid": result.uid, "status": result.status, **facts})
        yield result


def _check_space(out: Path, objects: int, shape: "AnyShape") -> None:
    """Refuse to begin a shard that the disk cannot hold."""
    from svd3d.data import shards

    needed, free = objects * shape.variants * shards.row_bytes(shape), shutil.disk_usage(out).free
    if needed > free:
        reason = f"the next shard needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free"
        raise OutputError(f"{out}: {reason}; free some space and run the same command again, it resumes")


def _finish(config: CacheConfig, uids: set[str], *, tell: Callable[[str], object]) -> None:
    """Write the index, unless samples are open in another part."""
    from svd3d.data import shards

    found = [shard for shard in shards.read_shards(config.out) if not shard.is_damaged]
    last = {record["uid"]: record["status"] for record in runs.read_lines(config.out / LEDGER)}
    left = uids.difference(*(shard.uids for shard in found))
    failed = {uid for uid in left if last.get(uid) == "failed"}
    if still_open := left - failed:
        tell(f"{len(still_open)} samples are open in other parts; the last one to end writes the index")
    elif not found:
        raise InputError(f"{config.out}: none of {len(uids)} samples could be encoded; see {LEDGER}")
    else:
        info = shards.write_index(config.out, found, failed=len(failed))
        licences = {licence for shard in found for licence in shard.licences}
        runs.write_manifest(config.out, stage="cache", config=config, licences=licences)
        tell(f"{info.objects} objects in {len(found)} shards, {len(failed)} failed")


@dataclass(frozen=True)
class Orbits:
    """Sample folders, whose names are the uids; also those of captures."""

    config: CacheConfig
    folders: dict[str, Path]

    @classmethod
    def of(cls, config: CacheConfig) -> "Orbits":
        """Raises `InputError` where there is none."""
        found = map(os.path.abspath, sample.find(config.views))
        folders = {os.path.basename(path): Path(path) for path in found}
        if not folders:
            raise InputError(f"{config.views}: holds no finished sample; make some with: svd3d render")
        return cls(config, folders)

    @property
    def uids(self) -> Iterable[str]:
        """In the order of their names."""
        return self.folders

    def origin(self, uid: str) -> str:
        """What belongs to one part."""
        return uid

    def load(self, *, tell: Callable[[str], object]) -> Loaded:
        """The encoders of the model, on the device asked for."""
        return _load(self.config, tell=tell)

    def read(self, uids: list[str], loaded: Loaded) -> "Iterator[tuple[str, Reading[Sample | Capture]]]":
        """Samples in their order, a few of them read ahead by threads."""
        size: Any = loaded.shape.size
        read = functools.partial(_read, config=self.config, size=size)
        waiting: deque[tuple[str, Reading[Sample | Capture]]] = deque()
        with ThreadPoolExecutor(self.config.workers) as pool:
            for uid in uids:
                waiting.append((uid, pool.submit(read, self.folders[uid]).result))
                if len(waiting) > self.config.workers:
                    yield waiting.popleft()
            yield from waiting

    def encode(self, loaded: Loaded, uid: str, found: Sample | Capture) -> "list[Row]":
        """The rows of one sample, one per background."""
        return encode(loaded, uid, found, seed=self.config.seed, chunk=self.config.encode_chunk)


def _load(config: CacheConfig, *, tell: Callable[[str], object]) -> Loaded:
    """The autoencoder and CLIP on the device asked for; of the UNet only the size is needed."""
    import torch

    from svd3d.data import latents
    from svd3d.model import memory
    from svd3d.model.pipeline import SVDMVPipeline

    device = memory.usable_device(config.device)
    pipeline = SVDMVPipeline.load(config.model, dtype=getattr(torch, config.dtype), encoders_only=True)
    size = config.size or pipeline.size
    factor = pipeline.vae_scale_factor
    if size % factor:
        raise ConfigError(f"size {size}: must be a multiple of {factor}; choose another")
    pipeline.vae.to(device)
    pipeline.image_encoder.to(device)
    tell(f"{config.model}: encoding {config.num_views} views of {size} pixels on {device}")
    encoders = latents.Encoders(
        vae=latents.vae_digest(pipeline.vae),
        clip=latents.clip_digest(pipeline.image_encoder),
        scaling_factor=pipeline.vae.config["scaling_factor"],
    )
    shape = latents.Shape(
        size=size,
        num_views=config.num_views,
        condition_views=config.num_views if config.all_condition_views else 1,
        noise_variants=config.noise_variants,
        backgrounds=config.backgrounds,
        latent=(pipeline.vae.config["latent_channels"], size // factor, size // factor),
        clip_dim=pipeline.image_encoder.config.projection_dim,
    )
    return Loaded(pipeline, device, encoders, shape)


def _read(folder: Path, *, config: CacheConfig, size: int) -> Sample | Capture:
    """A sample as training sees it: its condition view first, square, of the size asked for."""
    if folder.name.encode("utf-8", "ignore") != os.fsencode(folder.name):
        raise SampleError(f"{folder}: its name is not UTF-8, which shards need; rename the folder")
    found = sample.read_capture(folder) if sample.is_capture(folder) else sample.read(folder)
    if len(found) != config.num_views:
        raise SampleError(f"{folder}: holds {len(found)} views, expected {config.num_views}; set --num-views")
    if isinstance(found, Capture):
        return found.resized(size)
    height, width = found.images.shape[1:3]
    if found.orbit is None:
        raise SampleError(f"{folder}: holds no orbit, so no elevations; render it with: svd3d render")
    if height != width:
        raise SampleError(f"{folder}: views are {width} x {height}, expected square ones; render them again")
    start = found.condition_view or 0
    return found.resized(size).subsampled(num_views=config.num_views, start=start)


def encode(
    loaded: Loaded, uid: str, orbit: Sample | Capture, *, seed: int, chunk: int | None = None
) -> "list[Row]":
    """The rows of one object, one per background. Noise and colours depend on seed and uid alone.

    A capture has no background to choose, and angles that nobody knows (NaN).
    """
    import torch

    from svd3d.data import latents
    from svd3d.data.dataset import draw
    from svd3d.model import encoders

    shape, device = loaded.shape, loaded.device
    assert isinstance(shape, latents.Shape), "orbits have the shape of orbits"
    rows = []
    for number, kind in enumerate(shape.backgrounds):
        key = (seed, uid, number)
        red, green, blue = (draw(256, channel, *key) / 255 for channel in ("red", "green", "blue"))
        colour = (red, green, blue) if kind == "random" else images.WHITE
        if isinstance(orbit, Capture):
            views, angles = orbit.images, (np.full(len(orbit), np.nan),) * 2
        else:
            assert orbit.orbit is not None, "samples without an orbit are refused when they are read"
            views = images.to_uint8(images.composite(orbit.images, background=colour))
            angles = orbit.orbit.elevations_deg, orbit.orbit.azimuths_deg
        elevations_deg, azimuths_deg = (torch.tensor(each, dtype=torch.float32) for each in angles)
        encoded = encoders.encode(
            loaded.networks.vae,
            _pixels(views),
            conditions=shape.condition_views,
            variants=shape.noise_variants,
            generator=torch.Generator().manual_seed(draw(1 << 63, "noise", *key)),
            chunk=chunk,
        )
        rows.append(
            latents.Row(
                uid=uid,
                licence=str(orbit.about.get("licence") or ""),
                background=colour,
                latents=loaded.encoders.scaling_factor * encoded.clean,
                cond_latents=encoded.conditions,
                noise_aug=encoded.noise_aug,
                clip=encoders.in_chunks(
                    lambda each: loaded.networks._encode_image(each, device, 1, False)[:, 0],
                    [Image.fromarray(view) for view in views[: shape.condition_views]],
                    chunk=chunk,
                ),
                elevations_deg=elevations_deg,
                azimuths_deg=azimuths_deg,
            )
        )
    return rows


@dataclass(frozen=True)
class Clips:
    """Rows of the table of clips of `svd3d curate`, or of a selection of it; their ids are the uids."""

    config: CacheConfig
    videos: Path
    """The folder that holds the videos."""
    clips: dict[str, windows.Clip]

    @classmethod
    def of(cls, config: CacheConfig, path: Path) -> "Clips":
        """Raises `InputError` where there is none."""
        found = {clip.id: clip for clip in windows.clips(path)}
        if not found:
            raise InputError(f"{path}: holds no clip; select some with: svd3d curate select")
        return cls(config, windows.folder(path), found)

    @property
    def uids(self) -> Iterable[str]:
        """In the order of the table: video by video."""
        return self.clips

    def origin(self, uid: str) -> str:
        """The video: no other part decodes it."""
        return self.clips[uid].video_id

    def load(self, *, tell: Callable[[str], object]) -> Loaded:
        """The encoders that the model has, on the device asked for."""
        import torch

        from svd3d.data import clips, latents
        from svd3d.model import encoders, memory

        config, (height, width) = self.config, self.config.clip_size
        device = memory.usable_device(config.device)
        networks = encoders.load(config.model, dtype=getattr(torch, config.dtype), device=device)
        factor = networks.pixels_per_latent
        if height % factor or width % factor:
            raise ConfigError(f"clip_size {height} {width}: must be multiples of {factor}; choose others")
        rate = f"every {config.clip_stride}th" if config.clip_stride else f"at {config.clip_fps:g} fps"
        tell(
            f"{config.model}: encoding {config.clip_frames} frames of {width} x {height}, {rate}, on {device}"
        )
        text, image = networks.text_encoder, networks.image_encoder
        if text is None:
            tell(f"{config.model}: has no text encoder, so captions stay texts")
        if image is None:
            tell(f"{config.model}: has no image encoder, so first frames do not become conditions")
        if networks.fills_in:
            tell(f"{config.model}: fills in frames, so last frames become conditions, too")
        shape = clips.Shape(
            size=config.clip_size,
            num_frames=config.clip_frames,
            fps=None if config.clip_stride else config.clip_fps,
            stride=config.clip_stride,
            latent=(networks.vae.config["latent_channels"], height // factor, width // factor),
            text=text and (text.config.max_position_embeddings, text.config.hidden_size),
            clip_dim=image and image.config.projection_dim,
            noise_variants=None if networks.fills_in else config.noise_variants,
        )
        made_by = clips.Encoders(
            vae=latents.vae_digest(networks.vae),
            text=text and latents.clip_digest(text),
            clip=image and latents.clip_digest(image),
            scaling_factor=networks.vae.config["scaling_factor"],
        )
        return Loaded(networks, device, made_by, shape)

    def read(self, uids: list[str], loaded: Loaded) -> "Iterator[tuple[str, Reading[windows.Window]]]":
        """Clips video by video, a few of them read ahead by a thread; each video is decoded once."""
        height, width = self.config.clip_size
        shape: Any = loaded.shape
        plan = windows.Plan(shape.num_frames, shape.fps, shape.stride, height, width)
        videos: dict[str, list[windows.Clip]] = {}
        for uid in uids:
            videos.setdefault(self.clips[uid].video, []).append(self.clips[uid])
        found = (
            windows.read(self.videos / name, each, plan, threads=self.config.workers)
            for name, each in videos.items()
        )
        ahead = itertools.chain.from_iterable(found)
        with ThreadPoolExecutor(1) as thread:
            waiting = deque(thread.submit(next, ahead, None) for _ in range(CLIPS_AHEAD))
            while (pair := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(next, ahead, None))
                yield pair[0].id, functools.partial(_given, pair[1])

    def encode(self, loaded: Loaded, uid: str, found: windows.Window) -> "list[clips.Row]":
        """The one row of a clip."""
        config = self.config
        return [encode_clip(loaded, self.clips[uid], found, seed=config.seed, chunk=config.encode_chunk)]


def _given(window: windows.Window | InputError) -> windows.Window:
    if isinstance(window, InputError):
        raise window
    return window


def encode_clip(
    loaded: Loaded, clip: windows.Clip, window: windows.Window, *, seed: int, chunk: int | None = None
) -> "clips.Row":
    """The row of one clip. Noise depends on seed and uid alone."""
    import torch

    from svd3d.data import clips
    from svd3d.data.dataset import draw
    from svd3d.model import encoders

    shape, networks = loaded.shape, loaded.networks
    assert isinstance(shape, clips.Shape), "clips have the shape of clips"
    seen = shape.clip_dim is not None and shape.noise_variants is not None
    encoded = encoders.encode(
        networks.vae,
        _pixels(window.images),
        conditions=1 if seen else 0,
        variants=shape.noise_variants or 0,
        generator=torch.Generator().manual_seed(draw(1 << 63, "noise", seed, clip.id)),
        chunk=chunk,
    )
    found: dict[str, Any] = {}
    if shape.text is not None:
        texts = list(clip.captions)
        found["captions"] = networks.texts(texts) if texts else torch.zeros(0, *shape.text)
    if networks.fills_in:
        found["clip"] = torch.stack([networks.image(window.images[end]) for end in (0, -1)])
    elif seen:
        found["clip"] = networks.image(window.images[0])
        found["cond_latents"], found["noise_aug"] = encoded.conditions[0], encoded.noise_aug[0]
    return clips.Row(
        uid=clip.id,
        licence="",
        video=clip.video,
        frames=window.frames,
        fps=window.fps,
        motion=math.nan if clip.motion is None else clip.motion,
        latents=loaded.encoders.scaling_factor * encoded.clean,
        texts=tuple(clip.captions),
        texts_drawn=tuple(clip.captions.values()),
        **found,
    )


def _pixels(views: UInt8[np.ndarray, "v h w 3"]) -> "Tensor":
    """As autoencoders take them: [v, 3, h, w] in [-1, 1]."""
    import torch

    return torch.from_numpy(views).permute(0, 3, 1, 2).float() / 127.5 - 1
