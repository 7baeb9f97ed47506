"""The render stage: 3-D files to sample folders. Running it again resumes.

`render.objects` finds the files, `render.orbit` makes one sample, `render.local` or `render.cluster` does
that for many, and `render.ledger` remembers what became of each.
"""

import contextlib
import functools
import hashlib
import importlib.util
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Literal

from render import launch, ledger, light, local, objects, pool
from render.config import MAY_CHANGE, RenderConfig
from render.objects import Source3D
from svd3d import runs, sample
from svd3d.errors import DependencyError, ObjectError, RenderError

log = logging.getLogger(__name__)
LIBRARIES = "libsm6 libxrender1 libxfixes3 libxi6 libxkbcommon0 libgl1"
BYTES_PER_PIXEL = 3.0
"""Of a view on disk with depth, at most about: compressed RGBA and 16-bit depth."""


@dataclass(frozen=True)
class Rendered:
    """What became of one object."""

    uid: str
    folder: Path | None
    """The sample folder, unless it failed."""
    status: Literal["done", "skipped", "failed"]
    message: str
    """Why it failed, or what is noteworthy; empty if nothing is."""
    seconds: float


def count(config: RenderConfig) -> int:
    """How many objects `run` will report."""
    return len(_sources(config))


def run(
    config: RenderConfig, *, on_view: local.OnView | None = None, command: tuple[str, ...] | None = None
) -> Iterator[Rendered]:
    """Render all objects of a source; running it again resumes.

    Yields one result per object: first those that are settled (done, or failed for good, until
    `render.ledger.retry` reopens them), then the others in the order in which they end. Bad objects in a
    folder or list are failed results and the others go on; a single file that is bad raises `ObjectError` or
    `RenderError`, and nothing is written. `on_view(uid, done, total)` is called after every view, from
    another thread, by the local engine only. What is wrong with the input is raised here, before any output
    exists. `command` starts another worker than `config.blender` says, for tests.
    """
    sources = _sources(config)
    alone = config.source.is_file() and config.source.suffix.lower() != ".jsonl"
    if alone:
        limits = {name: getattr(config, name) for name in ("max_faces", "max_mb", "max_texture_mpx")}
        objects.check_header(sources[0].path, **limits)
    lights = light.find(config.hdri)
    if command is None:
        if config.blender is None and importlib.util.find_spec("bpy") is None:
            raise DependencyError(
                "rendering needs the package bpy, which is not installed; "
                "install it with: pip install 'svd3d[render]', or pass --blender PATH"
            )
        command = launch.command(config.blender, threads=config.threads)
    return _run(config, sources, alone=alone, lights=lights, on_view=on_view, command=command)


def _sources(config: RenderConfig) -> list[Source3D]:
    """The objects of this part of the source whose licence is asked for.

    Of copies, the first that is left counts as the original.
    """
    found, left_out = objects.permitted(objects.find(config.source), config.licence)
    if left_out:
        log.warning("%d of %d objects have another licence", len(left_out), len(found) + len(left_out))
    if not found:
        wanted = ", ".join(config.licence)
        raise ObjectError(f"{config.source}: no object has a licence among {wanted}; widen --licence")
    first: dict[str, str] = {}
    for source in found:
        first.setdefault(source.duplicate_of or source.uid, source.uid)
    originals = [first[source.duplicate_of or source.uid] for source in found]
    known = [
        replace(source, duplicate_of=None if original == source.uid else original)
        for source, original in zip(found, originals, strict=True)
    ]
    part, parts = config.shard
    return [source for source in known if parts == 1 or _part(source.uid, parts) == part]


def _part(uid: str, parts: int) -> int:
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:8], "big") % parts


def _run(
    config: RenderConfig,
    sources: list[Source3D],
    *,
    alone: bool,
    lights: list[Path],
    on_view: local.OnView | None,
    command: tuple[str, ...],
) -> Iterator[Rendered]:
    existed = runs.nearest_parent(config.out)
    out = runs.output_folder(config.out)
    start, devices = monotonic(), set[str]()
    part, parts = config.shard
    with runs.lock(out, part=f"{part}-of-{parts}" if parts > 1 else ""):
        runs.same_settings(out, config, ignore=MAY_CHANGE)
        runs.sweep(out)
        try:
            book = ledger.read(out)
            settled, todo = _sort(sources, book, out)
            for source in settled:
                made = None if book.settled(source.uid) == "done" else local.made_before(out, source)
                if made is not None:
                    attempt = book.attempts(source.uid) + 1
                    late = pool.Outcome(source, made, None, "done", attempt, True, 0.0, "render")
                    _record(out, late, shard=config.shard)
                yield _settled(source, book, out)
            if todo:
                _expect_space(config, len(todo))
                outcomes = _outcomes(config, todo, book=book, lights=lights, on_view=on_view, command=command)
                with contextlib.closing(outcomes):
                    for outcome in outcomes:
                        _record(out, outcome, shard=config.shard)
                        if outcome.value:
                            devices.add(outcome.value.device)
                        if outcome.error and outcome.final and alone:
                            raise outcome.error
                        if outcome.final:
                            yield _result(out, outcome)
        except (DependencyError, ObjectError, RenderError):
            if alone and existed != out:
                runs.withdraw(out, existed)
            raise
        finally:
            if out.exists():
                inputs = {"source": config.source} if config.source.is_file() else {}
                runs.write_manifest(
                    out,
                    stage="render",
                    config=config,
                    inputs={**inputs, **({"hdri": config.hdri} if config.hdri else {})},
                    licences=[source.licence for source in sources if source.licence],
                    seconds={"render": monotonic() - start},
                    device=", ".join(sorted(devices)) or "none",
                )


def _sort(sources: list[Source3D], book: ledger.Book, out: Path) -> tuple[list[Source3D], list[Source3D]]:
    """What needs no work, done or failed for good, and what does."""
    settled, todo = [], []
    for source in sources:
        ready = sample.is_sample(out / source.uid) or book.settled(source.uid) == "failed"
        (settled if ready else todo).append(source)
    return settled, todo


def _settled(source: Source3D, book: ledger.Book, out: Path) -> Rendered:
    if sample.is_sample(out / source.uid):
        return Rendered(source.uid, out / source.uid, "skipped", "already rendered", 0.0)
    story = f"{book[source.uid].message} (in an earlier run; svd3d render retry {out} lets it try again)"
    return Rendered(source.uid, None, "failed", story, 0.0)


def _expect_space(config: RenderConfig, objects_left: int) -> None:
    """Say at the start that the disk will not do, not after a week."""
    needed = objects_left * config.views * config.size**2 * BYTES_PER_PIXEL
    free = shutil.disk_usage(config.out).free
    if needed > free:
        log.warning(
            "%s: %d objects may need up to %.0f GB, %.0f GB are free; a full disk stops the run",
            config.out,
            objects_left,
            needed / 1e9,
            free / 1e9,
        )


def _outcomes(
    config: RenderConfig,
    todo: list[Source3D],
    *,
    book: ledger.Book,
    lights: list[Path],
    on_view: local.OnView | None,
    command: tuple[str, ...],
) -> local.Outcomes:
    first = [source for source in todo if source.duplicate_of is None]
    for source in todo:
        if source.duplicate_of is not None:
            error = ObjectError(f"{source.path}: the same object as {source.duplicate_of}", kind="duplicate")
            yield pool.Outcome(source, None, error, error.kind, 1, final=True, seconds=0.0, stage="check")
    attempts = {source.uid: book.attempts(source.uid) for source in first}
    try:
        if config.engine == "ray":
            from render import cluster

            there = replace(config, out=config.out.absolute(), workers=1)
            skies = [path.absolute() for path in lights]
            lead = functools.partial(local.run, there, lights=skies, command=command)
            work = cluster.Work("render", lead, functools.partial(local.made_before, there.out))
            yield from cluster.run(config, first, work, attempts=attempts)
        else:
            yield from local.run(
                config, first, attempts=attempts, lights=lights, on_view=on_view, command=command
            )
    except pool.StartError as error:
        last = error.log[-1] if error.log else str(error)
        if "cannot open shared object file" in last:
            raise DependencyError(
                f"Blender lacks a system library ({last}); on Debian or Ubuntu: apt-get install {LIBRARIES}"
            ) from error
        raise RenderError(f"Blender does not start: {last}; see: svd3d doctor") from error


def _record(out: Path, outcome: local.Outcome, *, shard: tuple[int, int]) -> None:
    source, made = outcome.job, outcome.value
    row = ledger.Row(
        source.uid,
        "done" if made else "failed" if outcome.final else "requeued",
        outcome.kind,
        made.message if made else str(outcome.error),
        stage=outcome.stage,
        signal=outcome.signal,
        attempt=outcome.attempt,
        source=source.name,
        licence=source.licence,
        faces=made.faces if made else None,
        quality=made.quality if made else None,
        seconds=outcome.seconds,
        cpu_s=made.cpu_s if made else None,
        device=made.device if made else None,
        log=outcome.log,
    )
    ledger.append(out, row, shard=shard)


def _result(out: Path, outcome: local.Outcome) -> Rendered:
    uid = outcome.job.uid
    if outcome.value:
        return Rendered(uid, out / uid, "done", outcome.value.message, outcome.seconds)
    return Rendered(uid, None, "failed", str(outcome.error), outcome.seconds)
