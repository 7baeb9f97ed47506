"""The curation stage: raw videos to `clips.parquet`. Running it again resumes.

Each video is read in a supervised child process (`svd3d.curation.worker`), which leaves `parts/<uid>.json`
when it is done with it. The table is put together from the parts, near-duplicates are looked for in it, and
`report.html` shows it. The supervision, the ledger and the Ray cluster are those of rendering.
"""

import contextlib
import functools
import importlib.util
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from time import monotonic
from typing import Literal

from render import cluster, ledger, pool
from svd3d import config as configs
from svd3d import runs
from svd3d.curation import duplicates, footage, page, selection, table
from svd3d.curation.footage import Footage
from svd3d.curation.table import Part
from svd3d.errors import ConfigError, DependencyError, RenderError, VideoError
from svd3d.settings import CurateConfig, CurateSelectConfig

log = logging.getLogger(__name__)
Outcome = pool.Outcome[Footage, Part]
Outcomes = Generator[Outcome, None, None]
MAY_CHANGE = (
    *("videos", "out", "engine", "ray_address", "chunk", "workers", "threads", "timeout_s", "silence_s"),
    *("attempts", "memory_mb", "device"),
)
"""Settings that may differ between two calls on one folder, because they do not change a row."""
NEEDED = ("av", "cv2", "scenedetect", "pyarrow")
"""Packages without which no video can be curated."""
NETWORKS = ("raft_weights", "clip", "aesthetic", "image_captioner", "video_captioner", "language_model")
"""Settings that name a file or folder, or a hub id."""
CACHES = {"HF_HOME": "huggingface", "TORCH_HOME": "torch"}
"""Where networks lie that were downloaded before: variables, and folders below the user's cache."""


@dataclass(frozen=True)
class Curated:
    """What became of one video."""

    uid: str
    part: Path | None
    """What it gave, unless it failed."""
    status: Literal["done", "skipped", "failed"]
    message: str
    """Why it failed, or what is noteworthy; empty if nothing is."""
    seconds: float


@dataclass(frozen=True)
class Summary:
    """What a finished folder holds."""

    clips: int
    seconds: float
    """Length of all clips."""
    not_computed: dict[str, str]
    """Columns that are null, with the reason."""


def count(config: CurateConfig) -> int:
    """How many videos `run` will report."""
    return len(footage.find(config.videos))


def plan(config: CurateConfig) -> str:
    """What the run would do, in a line."""
    sources = footage.find(config.videos)
    size = sum(source.path.stat().st_size for source in sources if source.path.exists())
    book = ledger.read(config.out) if config.out.is_dir() else ledger.Book()
    fates = Counter(_fate(config.out, book, source) for source in sources)
    told = ", ".join(f"{fates[fate]} {fate}" for fate in ("done", "failed", "open"))
    return f"{len(sources)} videos, {size / 1e6:,.0f} MB: {told}; {config.workers} processes"


def run(config: CurateConfig, *, command: tuple[str, ...] | None = None) -> Iterator[Curated]:
    """Score all clips of all videos of a source; running it again resumes.

    Yields one result per video: first those that are settled (done, or failed for good, until
    `ledger.retry` reopens them), then the others in the order in which they end. Bad videos are failed
    results and the others go on; a single file that is bad raises `VideoError` or `RenderError`, and nothing
    is written. What is wrong with the input is raised here, before any output exists. After the last result
    the table and the page are written. `command` starts another child, for tests.
    """
    sources = footage.find(config.videos)
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            raise DependencyError(
                f"curation needs the package {package}, which is not installed; "
                "install it with: pip install 'svd3d[curation]'"
            )
    return _run(config, sources, command=command or child(config))


def child(config: CurateConfig) -> tuple[str, ...]:
    """The command line of a worker, which knows the settings; it runs in a folder of its own."""
    plain = configs.plain(config)
    here = {
        name: str(Path(plain[name]).absolute())
        for name in NETWORKS
        if plain[name] and Path(plain[name]).exists()
    }
    return (sys.executable, "-m", "svd3d.curation.worker", json.dumps({**plain, **here}))


def work(config: CurateConfig, *, command: tuple[str, ...]) -> cluster.Work[Part]:
    """What a task of a Ray cluster does, with functions that travel to its node."""
    there = replace(config, out=config.out.absolute(), workers=1)
    return cluster.Work(
        "curate", functools.partial(_lead, there, command), functools.partial(_made_before, there.out)
    )


def summary(out: Path) -> Summary:
    """What a finished folder holds. Raises `InputError` where there is no table."""
    path = out / table.NAME
    seconds = sum(row["end_s"] - row["start_s"] for row in table.rows(path, columns=("start_s", "end_s")))
    return Summary(table.count(path), seconds, table.facts(path)["not_computed"])


def select(config: CurateSelectConfig) -> selection.Selection:
    """Write the clips that pass the rules to `config.out`, and the page anew, with the funnel."""
    rules = selection.PRESETS[config.preset] if config.preset else selection.Rules()
    flags = {field.name: getattr(config, field.name) for field in fields(selection.Rules)}
    rules = replace(rules, **{name: value for name, value in flags.items() if value is not None})
    runs.output_folder(config.out.absolute().parent)
    found = selection.select(config.folder / table.NAME, rules, config.out)
    page.write(config.folder, selection=config.out, failures=_failures(config.folder))
    return found


def _run(config: CurateConfig, sources: list[Footage], *, command: tuple[str, ...]) -> Iterator[Curated]:
    existed, start = runs.nearest_parent(config.out), monotonic()
    alone = config.videos.is_file() and config.videos.suffix.lower() != ".jsonl"
    out, devices, cpu_s = runs.output_folder(config.out), set[str](), 0.0
    with runs.lock(out):
        runs.same_settings(out, config, ignore=MAY_CHANGE)
        runs.sweep(out)
        (out / table.PARTS).mkdir(exist_ok=True)
        try:
            book, todo = ledger.read(out), []
            for source in sources:
                fate = _fate(out, book, source)
                if fate == "open":
                    todo.append(source)
                elif fate == "failed":
                    story = (
                        f"{book[source.uid].message} (in an earlier run; svd3d curate retry {out} reopens it)"
                    )
                    yield Curated(source.uid, None, "failed", story, 0.0)
                else:
                    if book.settled(source.uid) != "done":
                        late, attempt = _made_before(out, source), book.attempts(source.uid) + 1
                        _record(out, pool.Outcome(source, late, None, "done", attempt, True, 0.0, "curate"))
                    yield Curated(source.uid, _part(out, source), "skipped", "already curated", 0.0)
            with contextlib.closing(_outcomes(config, todo, book=book, command=command)) as outcomes:
                for outcome in outcomes:
                    _record(out, outcome)
                    if outcome.value:
                        devices.add(outcome.value.device)
                        cpu_s += outcome.value.cpu_s
                    if outcome.error and outcome.final and alone:
                        raise outcome.error
                    if outcome.final:
                        yield _result(out, outcome)
            _publish(out, sources, root=footage.root(config.videos))
        except (DependencyError, VideoError, RenderError):
            if alone and existed != out:
                runs.withdraw(out, existed)
            raise
        finally:
            if out.exists():
                runs.write_manifest(
                    out,
                    stage="curate",
                    config=config,
                    inputs={"videos": config.videos} if config.videos.is_file() else {},
                    seconds={"curate": monotonic() - start, "cpu": cpu_s},
                    device=", ".join(sorted(devices)) or "none",
                )


def _part(out: Path, source: Footage) -> Path:
    return out / table.PARTS / f"{source.uid}.json"


def _fate(out: Path, book: ledger.Book, source: Footage) -> ledger.State:
    """done, failed for good, or open."""
    if _part(out, source).exists():
        return "done"
    return "failed" if book.settled(source.uid) == "failed" else "open"


def _made_before(out: Path, source: Footage) -> Part | None:
    """What an earlier run or a lost task has finished, if it has."""
    path = _part(out, source)
    return Part.read(path) if path.exists() else None


def _outcomes(
    config: CurateConfig, todo: list[Footage], *, book: ledger.Book, command: tuple[str, ...]
) -> Outcomes:
    attempts = {source.uid: book.attempts(source.uid) for source in todo}
    if not todo:
        return
    try:
        if config.engine == "ray":
            yield from cluster.run(config, todo, work(config, command=command), attempts=attempts)
        else:
            yield from _lead(replace(config, out=config.out.absolute()), command, todo, attempts=attempts)
    except pool.StartError as error:
        last = error.log[-1] if error.log else str(error)
        raise ConfigError(f"the process that reads videos does not start: {last}") from error


def _lead(
    config: CurateConfig, command: tuple[str, ...], sources: Sequence[Footage], *, attempts: Mapping[str, int]
) -> Outcomes:
    """Curate with child processes of this one; yields the outcome of every attempt."""
    limits = pool.Limits(
        timeout_s=config.timeout_s,
        attempts=config.attempts,
        memory_mb=config.memory_mb,
        silence_s=config.silence_s,
    )
    yield from pool.run(
        command,
        sources,
        functools.partial(_curate, out=config.out),
        workers=min(config.workers, max(len(sources), 1)),
        limits=limits,
        name="the reader",
        environment=_environment(config),
        describe=lambda source: source.name,
        attempts_before=lambda source: attempts.get(source.uid, 0),
    )


def _curate(worker: pool.Worker, source: Footage, *, out: Path) -> Part:
    """One video in one child."""
    scratch = worker.folder / "samples"
    request = {
        "do": "curate",
        "path": os.fspath(source.path.absolute()),
        "name": source.name,
        "uid": source.uid,
        "out": os.fspath(out),
        "scratch": os.fspath(scratch),
    }
    try:
        worker.ask(request)
    except RenderError as error:
        raise VideoError(str(error), kind=error.kind) from error
    made = _made_before(out, source)
    if made is None:
        raise pool.WorkerFault("protocol", f"{worker.name} left nothing of the video")
    return made


def _environment(config: CurateConfig) -> dict[str, str]:
    """What a child is told beside what all get: our source, networks on this disk, and no downloads."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    given = {name: value for name, value in os.environ.items() if name in ("HF_HUB_CACHE", *CACHES)}
    return {
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        **{name: str(cache / folder) for name, folder in CACHES.items()},
        **given,
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "OMP_NUM_THREADS": str(config.threads),
    }


def _record(out: Path, outcome: Outcome) -> None:
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
        seconds=outcome.seconds,
        cpu_s=made.cpu_s if made else None,
        device=made.device if made else None,
        log=outcome.log,
    )
    ledger.append(out, row)


def _result(out: Path, outcome: Outcome) -> Curated:
    uid, made = outcome.job.uid, outcome.value
    if made:
        return Curated(uid, _part(out, outcome.job), "done", made.message, outcome.seconds)
    return Curated(uid, None, "failed", str(outcome.error), outcome.seconds)


def _publish(out: Path, sources: list[Footage], *, root: Path) -> None:
    """Table and page from all parts, in the order of the source."""
    not_computed: dict[str, str] = {}

    def clips() -> Iterator[table.Clip]:
        for source in sources:
            if (part := _made_before(out, source)) is not None:
                not_computed.update(part.not_computed)
                yield from part.clips

    path = out / table.NAME
    table.write(
        path,
        clips(),
        facts=lambda: {
            "videos": str(root),
            "caption_probabilities": table.CAPTIONS,
            "not_computed": not_computed,
        },
    )
    if copies := duplicates.find([path]):
        table.mark_duplicates(path, copies)
    page.write(out, failures=_failures(out))


def _failures(out: Path) -> dict[str, int]:
    """How many videos failed by each class."""
    return dict(Counter(known.kind for known in ledger.read(out).values() if known.state == "failed"))
