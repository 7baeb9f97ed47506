"""What learns: parameters, their optimizer and their running average, whole or spread over GPUs (FSDP2)."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule as FSDPModule
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from svd3d.errors import CheckpointError, require
from svd3d.model import checkpoints, conditioning, lora
from svd3d.model.saving import Saved
from svd3d.settings import TrainConfig

WEIGHTS, AVERAGE, MOMENTS = "weights", "ema", "adamw"
"""First parts of the names in the state; the name of the parameter comes last."""
TEMPORAL = (".temporal_transformer_blocks.", ".temporal_res_block.", ".time_pos_embed.", ".time_mixer.")

AUTOENCODERS = ("autoencoder", "decoder")
"""What `config.trains` may name besides parts of the UNet."""
MOOT = re.compile(r"transformer_blocks\.\d+\.(norm2|attn2\.to_[qk])\.")
"""Layers before the softmax over the one token of a picture, which is 1: their gradient is zero."""


def select(unet: Any, config: TrainConfig) -> None:
    """Let learn what `config.trains` names and can change the views, and freeze the rest.

    Of the two that are autoencoders, `unet` is one.
    """
    if config.trains in AUTOENCODERS:
        unet.requires_grad_(config.trains == "autoencoder")
        unet.decoder.requires_grad_(True)
        middle = unet.decoder.mid_block
        for unused in middle.attentions[len(middle.resnets) - 1 :]:  # diffusers pairs them with later blocks
            unused.requires_grad_(False)
        return
    if config.trains == "lora":
        lora.add(
            unet,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            where=config.lora_where,
            seed=config.seed,
        )
        lora.trainable(unet)
    elif config.trains == "time-embedding":
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(name.startswith("time_embedding."))
    elif config.trains in ("temporal", "spatial"):
        for name, parameter in unet.named_parameters():
            temporal = any(part in f".{name}" for part in TEMPORAL)
            parameter.requires_grad_(temporal == (config.trains == "temporal"))
    else:
        unet.requires_grad_(True)
    for name, parameter in unet.named_parameters():
        if conditioning.frames_seen(unet) == 1 and MOOT.search(name):
            parameter.requires_grad_(False)


def number_format(device: torch.device, config: TrainConfig) -> contextlib.AbstractContextManager[Any]:
    """Networks compute in bfloat16 if the recipe says so."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.mixed_precision == "bf16")


def trainable(unet: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: each for name, each in unet.named_parameters() if each.requires_grad}


def shard(unet: Any, *, device: str, processes: int) -> None:
    """Spread weights, gradients and what the optimizer keeps over all processes: FSDP2 of PyTorch.

    Each process then holds its share, and the whole of one block at a time while that computes.
    """
    # the UNet of diffusers does not write into what its blocks return
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device, (processes,))
    for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
        fully_shard(block, mesh=mesh)
    fully_shard(unet, mesh=mesh)


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all of one that is spread; all processes must call it then."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@dataclass(frozen=True)
class Learner:
    """The parameters that are trained, by name, their optimizer and their running average."""

    trained: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: EMAModel
    fills_model: bool
    """Whether the model of a checkpoint holds the averages under the names of the parameters."""

    @classmethod
    def of(
        cls,
        unet: nn.Module,
        config: TrainConfig,
    ) -> "Learner":
        """With the optimizer and the average of a recipe.

        Raises `DependencyError` without the package that has AdamW in 8 bits, if it is asked for.
        """
        trained = trainable(unet)
        parameters = list(trained.values())
        settings: dict[str, Any] = {
            "lr": config.learning_rate,
            "betas": (config.adam_beta1, config.adam_beta2),
            "weight_decay": config.adam_weight_decay,
            "eps": config.adam_epsilon,
        }
        if config.use_8bit_adam:
            library = require("bitsandbytes", extra="gpu", reason="AdamW in 8 bits")
            optimizer = library.optim.AdamW8bit(parameters, **settings)
        else:
            optimizer = torch.optim.AdamW(parameters, fused=True, **settings)
        spread = any(isinstance(each, DTensor) for each in parameters)
        average = EMAModel(parameters, decay=config.ema_decay, foreach=not spread)
        return cls(trained, optimizer, average, fills_model=config.trains != "lora")

    def step(self, *, learning_rate: float) -> None:
        """Learn from the gradients there are."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.average.step(self.trained.values())

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The network has the averaged weights for a while."""
        self.average.store(self.trained.values())
        self.average.copy_to(self.trained.values())
        try:
            yield
        finally:
            self.average.restore(self.trained.values())

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Weights, what the optimizer keeps, and averages unless the model of the checkpoint has them."""
        for (name, parameter), mean in zip(self.trained.items(), self.average.shadow_params, strict=True):
            yield f"{WEIGHTS}/{name}", whole(parameter.detach())
            if not self.fills_model:
                yield f"{AVERAGE}/{name}", whole(mean)
            for key, value in self.optimizer.state[parameter].items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    yield f"{MOMENTS}/{key}/{name}", whole(value)
                else:  # counts and tables, which parameters may share
                    yield f"{MOMENTS}/{key}/{name}", torch.as_tensor(value).clone()

    @torch.no_grad()
    def restore(self, saved: Saved) -> None:
        """Put the state of a checkpoint back. Raises `CheckpointError` if it is one of other parameters."""
        state = saved.state()
        self._check_names(saved, state)
        averages = checkpoints.read(saved.model) if self.fills_model else state
        prefix = "" if self.fills_model else f"{AVERAGE}/"
        kept: dict[str, dict[str, Any]] = {name: {} for name in self.trained}
        for place, tensor in state.items():
            if place.startswith(f"{MOMENTS}/"):
                _, key, name = place.split("/", 2)
                kept[name][key] = tensor
        for (name, parameter), mean in zip(self.trained.items(), self.average.shadow_params, strict=True):
            parameter.copy_(_placed(state[f"{WEIGHTS}/{name}"], parameter))
            mean.copy_(_placed(averages[f"{prefix}{name}"], mean))
            if kept[name]:  # not before the first step that was not skipped
                self.optimizer.state[parameter] = {
                    key: _as_kept(tensor, parameter) for key, tensor in kept[name].items()
                }
        self.average.optimization_step = saved.facts["ema_steps"]

    def _check_names(self, saved: Saved, state: Mapping[str, Tensor]) -> None:
        expected = {f"{WEIGHTS}/{name}": tuple(each.shape) for name, each in self.trained.items()}
        found = {name: tuple(each.shape) for name, each in state.items() if name.startswith(f"{WEIGHTS}/")}
        if differing := sorted(set(expected.items()) ^ set(found.items())):
            name = differing[0][0]
            raise CheckpointError(
                f"{saved.folder}: of other parameters ({name} is {found.get(name, 'not there')}, expected "
                f"{expected.get(name, 'none')}); train with the settings it was made with, or another --out"
            )


def _placed(tensor: Tensor, like: Tensor) -> Tensor:
    """On the device of `like`, and spread as it is."""
    if not isinstance(like, DTensor):
        return tensor.to(like.device)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _as_kept(tensor: Tensor, parameter: nn.Parameter) -> Any:
    """An entry of the optimizer's state as the optimizer has it: counts are floats or integers."""
    if tensor.ndim == 0:
        return tensor.to(parameter.device, copy=True) if tensor.is_floating_point() else int(tensor)
    if tensor.shape != parameter.shape:
        return tensor.to(parameter.device, copy=True)
    return _placed(tensor, parameter).clone()  # not the file that it is mapped from
