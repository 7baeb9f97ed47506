"""Several processes for one training: the line that starts them, by `torchrun`."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import NoReturn

from svd3d import config as configs
from svd3d import runs
from svd3d.errors import ConfigError
from svd3d.settings import TrainConfig

PORT = 29500
"""At which the processes of several machines find each other."""


def is_wanted(config: TrainConfig) -> bool:
    """Whether a command is to start others, rather than being one that was started."""
    return (config.gpus or 1) * config.nodes > 1 and "RANK" not in os.environ


def line(config: TrainConfig, recipe: Path, *, node: int = 0) -> list[str]:
    """The command that machine number `node` runs. All of them see the folders of the recipe."""
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(config.gpus or 1)]
    if config.nodes == 1:
        words += ["--standalone"]
    else:
        words += ["--nnodes", str(config.nodes), "--node_rank", str(node)]
        words += ["--master_addr", "HOST_OF_NODE_0", "--master_port", str(PORT)]
    return [*words, "-m", "svd3d", "train", str(recipe)]


def write_recipe(config: TrainConfig) -> Path:
    """The settings in full, as a recipe in OUT for all processes; they start no others."""
    recipe = runs.output_folder(config.out) / "launch.yaml"
    runs.write_file(recipe, configs.to_yaml(dataclasses.replace(config, gpus=None, nodes=1)))
    return recipe


def run(config: TrainConfig) -> NoReturn:
    """Become the command that starts the processes of one machine; when one fails, it ends the others.

    Raises `ConfigError` where there are fewer GPUs.
    """
    if config.device != "cpu":
        _check_gpus(config.gpus or 1)
    words = line(config, write_recipe(config))
    sys.stdout.flush()
    os.execv(words[0], words)


def _check_gpus(wanted: int) -> None:
    import torch

    found = torch.cuda.device_count()
    if found < wanted:
        raise ConfigError(f"gpus {wanted}: this machine has {found}; choose fewer, or --device cpu")
