"""Numbers and pictures of a training run to tensorboard, wandb and trackio, none of which can hurt the run.

Whatever a tracker raises is one warning, after which the run goes on without it. metrics.jsonl, which the run
writes itself, is the record; trackers only show it.
"""

import contextlib
import logging
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from accelerate.tracking import GeneralTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from svd3d import images, runs
from svd3d.errors import require

PROJECT = "svd3d"
"""The name under which wandb (unless WANDB_PROJECT says otherwise) and trackio list all runs."""
IDENTITY = ".tracking-id"
"""A file of the run, by which wandb and trackio know it again when it is resumed."""
Name = Literal["tensorboard", "wandb", "trackio"]
log = logging.getLogger(__name__)


class Trackers:
    """The trackers `names` of the run in folder `run`. For the main process, beside an `Accelerator`.

    `done` is the number of steps that a resumed run has: what tensorboard has of later ones, from before a
    kill, is replaced. tensorboard writes to RUN/tensorboard. Where wandb finds no API key it records to
    RUN/wandb, for `wandb sync`, rather than ask for one.
    """

    def __init__(self, names: Sequence[Name], *, run: Path, config: Mapping[str, Any], done: int = 0) -> None:
        self._trackers: dict[Name, Any] = {}
        for name in names:
            start = _STARTS[name]
            with self._guarded(name):
                self._trackers[name] = start(run, config, done)

    def log(self, step: int, values: Mapping[str, float], pictures: Mapping[str, Path] | None = None) -> None:
        """Numbers and picture files by name, of a step."""
        for name, tracker in tuple(self._trackers.items()):
            with self._guarded(name):
                tracker.log(dict(values), step=step)
                for title, path in (pictures or {}).items():
                    picture = images.to_uint8(images.composite(images.read(path)))
                    tracker.log_images({title: picture[None]}, step=step)

    def close(self) -> None:
        """Write what is pending."""
        for name, tracker in tuple(self._trackers.items()):
            with self._guarded(name):
                tracker.finish()
        self._trackers.clear()

    def __enter__(self) -> "Trackers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _guarded(self, name: Name) -> Iterator[None]:
        """Make an error of a tracker its end, and what it prints a message."""
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        except Exception as error:  # of foreign code, of any class
            self._trackers.pop(name, None)
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning("report_to %s: stopped (%s); the run goes on without it", name, reason)


class _TensorBoard(TensorBoardTracker):
    def log_images(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        super().log_images(values, step=step, dataformats="NHWC", **kwargs)


class _Trackio(TrackioTracker):
    def log_images(self, values: dict[str, Any], step: int | None = None) -> None:
        trackio = require("trackio", extra="track", reason="report_to trackio")
        self.log({name: trackio.Image(picture) for name, (picture,) in values.items()}, step=step)


def _tensorboard(run: Path, config: Mapping[str, Any], done: int) -> GeneralTracker:
    require("tensorboard", extra="train", reason="report_to tensorboard")
    tracker = _TensorBoard("tensorboard", run, purge_step=done + 1)
    tracker.start()
    settings = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    block = "".join(f"    {line}\n" for line in settings.splitlines())  # Markdown for a block of code
    tracker.tracker.add_text("config", block, global_step=done + 1)
    return tracker


def _wandb(run: Path, config: Mapping[str, Any], done: int) -> GeneralTracker:
    wandb = require("wandb", extra="track", reason="report_to wandb")
    mode = os.environ.get("WANDB_MODE", "online")
    if mode == "online" and not wandb.login(prompt=False, verify=False):
        mode = "offline"
    tracker = WandBTracker(
        os.environ.get("WANDB_PROJECT", PROJECT),
        name=run.resolve().name,
        id=_identity(run),
        resume="allow",
        dir=str(run),
        config=dict(config),
        mode=mode,
        settings={"console": "off"},  # what the run prints stays its own
    )
    tracker.start()
    return tracker


def _trackio(run: Path, config: Mapping[str, Any], done: int) -> GeneralTracker:
    require("trackio", extra="track", reason="report_to trackio")
    name = f"{run.resolve().name}-{_identity(run)}"
    tracker = _Trackio(PROJECT, name=name, resume="allow", config=dict(config))
    tracker.start()
    return tracker


def _identity(run: Path) -> str:
    """The same for one run at every start, and never that of another."""
    path = run / IDENTITY
    if not path.exists():
        runs.write_file(path, secrets.token_hex(4))
    return path.read_text(encoding="utf-8")


_STARTS = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
