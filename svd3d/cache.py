"""`svd3d cache`: sample folders to latent shards, so that training needs no autoencoder and no CLIP."""

import dataclasses
import functools
import hashlib
import logging
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from svd3d import config as configs
from svd3d import images, runs, sample
from svd3d.errors import CameraError, ConfigError, InputError, OutputError, SampleError, require
from svd3d.sample import Sample
from svd3d.settings import CacheConfig, CacheVerifyConfig

if TYPE_CHECKING:
    from torch import Tensor

    from svd3d.data.latents import Encoders, Info, Row, Shape
    from svd3d.model.pipeline import SVDMVPipeline

log = logging.getLogger(__name__)
LEDGER = "ledger.jsonl"
NOISE_AUG = {"p_mean": -3.0, "p_std": 0.5}
"""Of the logarithm of the strength of the noise on the condition (SVD paper, appendix D)."""
FREELY_CHANGED = ("views", "out", "objects_per_shard", "part", "parts", "encode_chunk", "workers", "device")
"""Settings that may differ between two runs of one cache."""


@dataclass(frozen=True)
class Cached:
    """What became of one sample, or of one shard that was verified."""

    uid: str
    shard: Path | None
    """The folder of its shard, unless it failed."""
    status: Literal["done", "skipped", "failed"]
    message: str
    """Why it failed; empty otherwise."""
    seconds: float


@dataclass(frozen=True)
class Loaded:
    """The encoders on their device, and what they make."""

    pipeline: "SVDMVPipeline"
    device: str
    encoders: "Encoders"
    shape: "Shape"


def count(config: CacheConfig) -> int:
    """How many samples `run` will report."""
    return len(_mine(_sources(config), config))


def is_finished(folder: Path) -> bool:
    """Whether a cache has its index: nothing is open."""
    return (folder / "index.json").is_file()


def run(config: CacheConfig, *, tell: Callable[[str], object] = log.info) -> Iterator[Cached]:
    """Encode all samples that no shard holds yet; running it again resumes, and tries failed ones again.

    Yields one result per sample, when its shard is on disk. The index is written when nothing is open, in
    this part or another. Raises `ConfigError` for settings other than those the cache was begun with.
    """
    _need_packages()
    from svd3d.data import shards

    folders = _sources(config)
    mine = dict.fromkeys(_mine(folders, config))
    out = runs.output_folder(config.out)
    with runs.lock(out, part=f"{config.part}-of-{config.parts}"):
        runs.same_settings(out, config, ignore=FREELY_CHANGED)
        found = shards.read_shards(out)
        held = {uid: shard for shard in found for uid in shard.uids}
        for uid in mine:
            if uid in held and not held[uid].is_damaged:
                yield Cached(uid, out / "shards" / held[uid].entry.name, "skipped", "", 0.0)
        damaged = {each.entry.name: each.uids for each in found if each.is_damaged}
        if gone := {uid for uids in damaged.values() for uid in uids} - set(folders):
            reason = f"{min(gone)} must be encoded again (its shard is damaged), and is not there"
            raise InputError(f"{config.views}: {reason}; bring it back, or make another cache")
        again = {name: [uid for uid in uids if uid in mine] for name, uids in damaged.items()}
        groups = again | _groups([uid for uid in mine if uid not in held], config.objects_per_shard)
        loaded = None
        for name, uids in groups.items():
            loaded = loaded or _load(config, tell=tell)
            yield from _write_shard(loaded, config, name, {uid: folders[uid] for uid in uids})
    _finish(config, set(folders), tell=tell)


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


def count_shards(config: CacheVerifyConfig) -> int:
    """How many shards `verify` will report."""
    return len(_index(config.out).shards)


def settings_of(folder: Path) -> CacheConfig:
    """What made a cache, for `run` to make missing shards again. The views must be where they were."""
    path = runs.input_path(folder / "config.yaml", what="settings of the cache")
    made = configs.build(CacheConfig, configs.read_recipe(CacheConfig, path), where=str(path))
    runs.input_path(made.views, what="folder of the views that were cached")
    return dataclasses.replace(made, out=folder, part=0, parts=1)


def _index(folder: Path) -> "Info":
    _need_packages()
    from svd3d.data import latents

    return latents.read_index(folder)


def _need_packages() -> None:
    for package, extra in (("torch", "model"), ("diffusers", "model"), ("datasets", "train")):
        require(package, extra=extra, reason="caching latents")


def _sources(config: CacheConfig) -> dict[str, Path]:
    """The sample folders by their names, which are the uids."""
    folders = {os.path.basename(path): Path(path) for path in map(os.path.abspath, sample.find(config.views))}
    if not folders:
        raise InputError(f"{config.views}: holds no finished sample; make some with: svd3d render")
    return folders


def _mine(folders: Iterable[str], config: CacheConfig) -> list[str]:
    """The samples of this part, by the hash of their names: the same whatever else is there."""
    return [uid for uid in folders if zlib.crc32(os.fsencode(uid)) % config.parts == config.part]


def _groups(uids: list[str], size: int) -> dict[str, list[str]]:
    """Samples that will share a shard, under its name: a digest of theirs, so that parts never collide."""
    groups = [uids[first : first + size] for first in range(0, len(uids), size)]
    return {hashlib.sha256(os.fsencode("\n".join(group))).hexdigest()[:16]: group for group in groups}


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


def _write_shard(
    loaded: Loaded, config: CacheConfig, name: str, folders: dict[str, Path]
) -> Iterator[Cached]:
    """One shard, and then what became of each of its samples."""
    import torch

    from svd3d.data import shards

    _check_space(config.out, len(folders), loaded.shape)
    results = []

    def encoded() -> "Iterator[list[Row]]":
        read = functools.partial(_read, config=config, size=loaded.shape.size)
        for uid, reading in _ahead(read, folders, workers=config.workers):
            started = time.monotonic()
            try:
                orbit = reading.result()
                rows = encode(loaded, uid, orbit, seed=config.seed, chunk=config.encode_chunk)
            except torch.OutOfMemoryError as error:
                reason = f"device {loaded.device}: out of memory ({error})"
                raise ConfigError(f"{reason}; try --encode-chunk 1 or --dtype float16") from error
            except (InputError, CameraError) as error:
                results.append(Cached(uid, None, "failed", str(error), time.monotonic() - started))
                continue
            shard = config.out / "shards" / name
            results.append(Cached(uid, shard, "done", "", time.monotonic() - started))
            yield rows

    shards.write_shard(config.out, name, encoded(), shape=loaded.shape, encoders=loaded.encoders)
    for result in results:
        facts = {"shard": result.shard and name, "message": result.message, "seconds": result.seconds}
        runs.append_line(config.out / LEDGER, {"uid": result.uid, "status": result.status, **facts})
        yield result


def _check_space(out: Path, objects: int, shape: "Shape") -> None:
    """Refuse to begin a shard that the disk cannot hold."""
    from svd3d.data import shards

    needed, free = objects * len(shape.backgrounds) * shards.row_bytes(shape), shutil.disk_usage(out).free
    if needed > free:
        reason = f"the next shard needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free"
        raise OutputError(f"{out}: {reason}; free some space and run the same command again, it resumes")


def _read(folder: Path, *, config: CacheConfig, size: int) -> Sample:
    """A sample as training sees it: its condition view first, square, of the size asked for."""
    if folder.name.encode("utf-8", "ignore") != os.fsencode(folder.name):
        raise SampleError(f"{folder}: its name is not UTF-8, which shards need; rename the folder")
    found = sample.read(folder)
    height, width = found.images.shape[1:3]
    if found.orbit is None:
        raise SampleError(f"{folder}: holds no orbit, so no elevations; render it with: svd3d render")
    if len(found) != config.num_views:
        raise SampleError(f"{folder}: holds {len(found)} views, expected {config.num_views}; set --num-views")
    if height != width:
        raise SampleError(f"{folder}: views are {width} x {height}, expected square ones; render them again")
    start = found.condition_view or 0
    return found.resized(size).subsampled(num_views=config.num_views, start=start)


def _ahead(
    read: Callable[[Path], Sample], folders: dict[str, Path], *, workers: int
) -> Iterator[tuple[str, "Future[Sample]"]]:
    """Samples in their order, a few of them read ahead by threads."""
    waiting: deque[tuple[str, Future[Sample]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for uid, folder in folders.items():
            waiting.append((uid, pool.submit(read, folder)))
            if len(waiting) > workers:
                yield waiting.popleft()
        yield from waiting


def encode(loaded: Loaded, uid: str, orbit: Sample, *, seed: int, chunk: int | None = None) -> "list[Row]":
    """The rows of one object, one per background. Noise and colours depend on seed and uid alone."""
    import torch

    from svd3d.data import latents
    from svd3d.data.dataset import draw
    from svd3d.model import conditioning, edm, vae

    assert orbit.orbit is not None, "samples without an orbit are refused when they are read"
    pipeline, shape, device = loaded.pipeline, loaded.shape, loaded.device
    conditions, variants = shape.condition_views, shape.noise_variants

    def in_chunks(encoder: Callable[[Any], "Tensor"], inputs: Any) -> "Tensor":
        step = chunk or len(inputs)
        with torch.no_grad():
            parts = [encoder(inputs[first : first + step]) for first in range(0, len(inputs), step)]
        return torch.cat(parts).float().cpu()

    rows = []
    for number, kind in enumerate(shape.backgrounds):
        key = (seed, uid, number)
        red, green, blue = (draw(256, channel, *key) / 255 for channel in ("red", "green", "blue"))
        colour = (red, green, blue) if kind == "random" else images.WHITE
        views = images.to_uint8(images.composite(orbit.images, background=colour))
        pixels = torch.from_numpy(views).permute(0, 3, 1, 2).float() / 127.5 - 1

        generator = torch.Generator().manual_seed(draw(1 << 63, "noise", *key))
        strength = edm.sample_sigmas(conditions * variants, **NOISE_AUG, generator=generator)
        noisy = conditioning.augmented(
            pixels[:conditions].repeat_interleave(variants, dim=0), strength=strength, generator=generator
        )
        modes = in_chunks(
            lambda each: vae.encode_condition(pipeline.vae, each.to(device)), torch.cat([pixels, noisy])
        )
        clean, noisy_modes = modes[: len(pixels)], modes[len(pixels) :].unflatten(0, (conditions, variants))
        rows.append(
            latents.Row(
                uid=uid,
                licence=str(orbit.about.get("licence") or ""),
                background=colour,
                latents=loaded.encoders.scaling_factor * clean,
                cond_latents=torch.cat([clean[:conditions, None], noisy_modes], dim=1),
                noise_aug=torch.cat(
                    [torch.zeros(conditions, 1), strength.reshape(conditions, variants)], dim=1
                ),
                clip=in_chunks(
                    lambda each: pipeline._encode_image(each, device, 1, False)[:, 0],
                    [Image.fromarray(view) for view in views[:conditions]],
                ),
                elevations_deg=torch.tensor(orbit.orbit.elevations_deg),
                azimuths_deg=torch.tensor(orbit.orbit.azimuths_deg),
            )
        )
    return rows


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
