"""`svd3d train --prove-resume N`: a training straight and with a real kill in its middle, bit by bit."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from svd3d import config as configs
from svd3d import runs
from svd3d.errors import ConfigError, TrainingError
from svd3d.model import checkpoints, saving
from svd3d.settings import TrainConfig


@dataclass(frozen=True)
class Proof:
    """What a kill in the middle changed: nothing, if nothing is listed."""

    steps: int
    killed_after: int
    differing_losses: tuple[int, ...]
    """Steps whose loss is not the same to the last bit."""
    differing_weights: tuple[str, ...]
    """Tensors of model and state that are not."""

    @property
    def passed(self) -> bool:
        """Whether the stopped run is the straight one."""
        return not self.differing_losses and not self.differing_weights


def run(config: TrainConfig) -> Proof:
    """Train `config.prove_resume` steps straight, and again with a kill in the middle, in OUT.

    Children do it, so that the kill is a real one, at some moment after the checkpoint in the middle; what
    continues has one more process that reads ahead. Raises `TrainingError` when a child fails.
    """
    steps = config.prove_resume or 0
    middle = steps // 2
    folders = [config.out / name for name in ("straight", "stopped")]
    for folder in folders:
        if folder.exists():
            raise ConfigError(f"{folder}: there already; choose another --out for the proof")
    straight, stopped = (
        dataclasses.replace(
            config,
            out=folder,
            prove_resume=None,
            max_train_steps=steps,
            checkpointing_steps=middle,
            report_to=(),
        )
        for folder in folders
    )
    _train(straight)
    killed_after = _train(stopped, kill_after=middle)
    _train(dataclasses.replace(stopped, dataloader_num_workers=stopped.dataloader_num_workers + 1))
    losses = [[each["loss"] for each in runs.read_lines(folder / saving.METRICS)] for folder in folders]
    return Proof(
        steps=steps,
        killed_after=killed_after,
        differing_losses=tuple(
            step for step in range(1, steps + 1) if len({str(each[step - 1 : step]) for each in losses}) > 1
        ),
        differing_weights=tuple(differing(*(folder / saving.FOLDER / f"step-{steps}" for folder in folders))),
    )


def _train(config: TrainConfig, *, kill_after: int | None = None) -> int:
    """Train in a process of its own; with `kill_after`, kill it after that step and tell how far it came."""
    runs.output_folder(config.out.parent)
    recipe = config.out.with_suffix(".yaml")
    runs.write_file(recipe, configs.to_yaml(config))
    log = config.out.with_suffix(".log")
    metrics = config.out / saving.METRICS
    with open(log, "ab") as file:
        command = [sys.executable, "-m", "svd3d", "train", str(recipe)]
        child = subprocess.Popen(command, stdout=file, stderr=file, env=dict(os.environ))
        try:
            while kill_after is not None and child.poll() is None:
                there = saving.every(config.out)
                if there and there[-1].step >= kill_after:
                    child.kill()
                time.sleep(0.005)
            code = child.wait()
        finally:
            child.kill()
    if kill_after is not None and code == -signal.SIGKILL:
        return len(runs.read_lines(metrics))
    if kill_after is not None and code == 0:
        raise TrainingError(f"{config.out}: ended before it could be killed; prove more steps")
    if code:
        raise TrainingError(f"{config.out}: training ended with code {code}; {log} says why")
    return len(runs.read_lines(metrics))


def differing(one: Path, other: Path) -> Iterator[str]:
    """Names of tensors that two checkpoints do not have in common to the last bit."""
    learns = checkpoints.read_json(one / saving.INDEX)["learns"]
    for name in (saving.STATE, saving.weights(learns)):
        first, second = (checkpoints.read(folder / name) for folder in (one, other))
        yield from sorted(set(first) ^ set(second))
        yield from (key for key in first if key in second and not saving.same_bits(first[key], second[key]))
