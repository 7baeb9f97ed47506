"""The folder of a training run, above all RUN/checkpoints/step-N: a diffusers folder and what resuming needs.

A checkpoint is written aside, read back, and renamed into place, so it is there wholly or not at all.
`state/index.json` holds the digest of every file; a checkpoint that differs from its digests is never used.
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableVideoDiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from svd3d import runs
from svd3d.errors import CheckpointError, OutputError
from svd3d.model import checkpoints
from svd3d.model.interpolation_pipeline import FrameInterpolationPipeline
from svd3d.model.video_pipeline import TextToVideoPipeline
from svd3d.settings import TrainConfig

FOLDER = "checkpoints"
METRICS = "metrics.jsonl"
VALIDATION = "validation"
INDEX = "state/index.json"
STATE = "state/training.safetensors"
PARTS = ("unet", "vae", "image_encoder", "feature_extractor", "text_encoder", "tokenizer", "scheduler")
"""Of a pipeline, if it has them; all but the one that learns are left alone."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """A published checkpoint: its folder, and what was noted with it."""

    folder: Path
    step: int
    facts: dict[str, Any]

    @property
    def model(self) -> Path:
        """The weights of the network that learns."""
        return self.folder / weights(self.facts.get("learns", "unet"))

    def state(self) -> dict[str, Tensor]:
        """What training resumes from, mapped from disk."""
        return checkpoints.read(self.folder / STATE)


def publish(run: Path, step: int, *, fill: Callable[[Path], None], facts: Mapping[str, Any]) -> Path:
    """Make `step-N` of a run: `fill` writes its files into the folder that it gets.

    Raises `OutputError`, with all former checkpoints still in place, when the disk is full or refuses.
    """
    folder = run / FOLDER / f"step-{step}"
    try:
        with runs.atomic_folder(folder) as unfinished:
            fill(unfinished)
            files = {str(path.relative_to(unfinished)): path for path in sorted(unfinished.rglob("*"))}
            digests = {name: _synced_digest(path) for name, path in files.items() if path.is_file()}
            (unfinished / INDEX).parent.mkdir(exist_ok=True)
            runs.write_json(unfinished / INDEX, {**facts, "step": step, "files": digests})
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        advice = "free some space and run the same command again, it resumes"
        raise OutputError(f"{folder}: cannot be written ({reason}); {advice}") from error
    return folder


def write(tensors: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file, read back and compared bit by bit. Raises `OutputError` where it differs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write_weights(dict(tensors), path)
    with safe_open(path, framework="pt") as content:
        for name, tensor in tensors.items():
            if not same_bits(content.get_tensor(name), tensor.detach().cpu()):
                raise OutputError(f"{path}: {name} reads differently than written; check the disk")


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bytes; NaN then equals NaN."""
    first, second = (each.contiguous().reshape(-1).view(torch.uint8) for each in (one, other))
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(first, second)


def weights(part: str) -> str:
    """The file of the weights of a part, in a diffusers folder."""
    return f"{part}/{checkpoints.WEIGHTS[part]}.safetensors"


def link_frozen(base: Path, folder: Path, *, learns: str, conditioning: str | None = None) -> None:
    """The parts of the pipeline `base` that do not learn: hard links to its files where the disk can.

    `conditioning` is that of the pipeline now, if it changes; that of `svd` is diffusers' own pipeline, or
    one for videos of ours.
    """
    for part in PARTS:
        if part != learns and (base / part).is_dir():
            shutil.copytree(base / part, folder / part, copy_function=_link)
    index = checkpoints.read_json(base / "model_index.json")
    if conditioning == "svd":
        ours = (TextToVideoPipeline.__name__, FrameInterpolationPipeline.__name__)
        if index["_class_name"] not in ours:
            index["_class_name"] = StableVideoDiffusionPipeline.__name__
    elif conditioning is not None:
        index |= {"_class_name": "SVDMVPipeline", "conditioning": conditioning}
    runs.write_json(folder / "model_index.json", index)


def find(run: Path, wanted: str = "latest") -> Saved | None:
    """The newest whole checkpoint of a run (None when it has none at all), or the one that is named.

    Raises `CheckpointError`, with a list of what exists, for one that is not there or differs from its
    digests, and when none of several is whole.
    """
    existing = every(run)
    if wanted != "latest":
        named = [each for each in existing if each.folder.name == wanted]
        problem = _problem(named[0]) if named else "not there"
        if problem:
            raise CheckpointError(f"{run / FOLDER / wanted}: {problem}; {_choices(existing)}")
        return named[0]
    for each in reversed(existing):
        if not (problem := _problem(each)):
            return each
        log.warning("%s: %s; taking the one before", each.folder, problem)
    if existing:
        raise CheckpointError(f"{run / FOLDER}: no whole checkpoint; {_choices(existing)}")
    return None


def every(run: Path) -> list[Saved]:
    """All checkpoints of a run, oldest first; their files are not read."""
    found = []
    for folder in (run / FOLDER).glob("step-*"):
        if re.fullmatch(r"step-\d+", folder.name) and (folder / INDEX).is_file():
            with contextlib.suppress(CheckpointError):
                facts = checkpoints.read_json(folder / INDEX)
                found.append(Saved(folder, int(folder.name.removeprefix("step-")), facts))
    return sorted(found, key=lambda each: each.step)


def check_space(config: TrainConfig, unet: nn.Module) -> None:
    """Refuse to begin what the disk cannot hold: the checkpoints to keep, the best, and one being written.

    Raises `OutputError` with the sizes.
    """
    each = size_on_disk(config, unet)
    kept = min(config.checkpoints_total_limit + 2, -(-config.max_train_steps // config.checkpointing_steps))
    needed = each * max(kept - len(every(config.out)), 1)
    free = shutil.disk_usage(config.out).free
    if needed > free:
        raise OutputError(
            f"{config.out}: {kept} checkpoints of {each / 1e9:.2f} GB need {needed / 1e9:.2f} GB more, and "
            f"{free / 1e9:.2f} GB are free; free some space, or lower --checkpoints_total_limit"
        )


def size_on_disk(config: TrainConfig, unet: nn.Module) -> int:
    """Bytes of a checkpoint; the frozen parts are links."""
    model = sum(each.numel() for name, each in unet.named_parameters() if ".lora_" not in name)
    trained = sum(each.numel() for each in unet.parameters() if each.requires_grad)
    moments = 2 if config.use_8bit_adam else 8
    averages = 4 if config.trains == "lora" else 0  # else the model has them
    return 4 * model + (4 + moments + averages) * trained


def prune(run: Path, *, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best one, that of the lowest validation loss."""
    existing = every(run)
    judged = [each for each in existing if each.facts.get("validation_loss") is not None]
    best = min(judged, key=lambda each: each.facts["validation_loss"], default=None)
    for each in existing[:-keep]:
        if each is not best:
            (each.folder / INDEX).unlink()  # first, so that half of it is no checkpoint
            shutil.rmtree(each.folder)


def _problem(saved: Saved) -> str:
    """What is wrong with a checkpoint on disk; empty if nothing is."""
    files = saved.facts.get("files")
    if not isinstance(files, dict) or STATE not in files:
        return f"its {INDEX} is not one of a training run"
    for name, digest in files.items():
        path = saved.folder / name
        if not path.is_file():
            return f"{name} is missing"
        if runs.sha256(path) != digest:
            return f"{name} is not what was written"
    return ""


def _choices(existing: list[Saved]) -> str:
    names = ", ".join(each.folder.name for each in existing)
    return f"choose one of {names}" if names else "there are no checkpoints, so start without one"


def _synced_digest(path: Path) -> str:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return runs.sha256(path)


def _link(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
