"""What the stages of the SVD paper cost, by configs/train/: memory, data and GPU-hours, as a Markdown table.

    python scripts/stage_costs.py

Computed from configurations alone, nothing is measured. Memory is `svd3d train --dry-run`'s: weights,
gradients, averages and moments, without activations. Operations of a pass through the UNet are counted on
the meta device; a step of training takes three passes (one forward, two backward). The paper states the time
of one stage, its SVD-MV: 16 hours of eight A100. What share of an A100's 312 TFLOP/s in bfloat16 that was is
taken for all others.
"""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import UNetSpatioTemporalConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from svd3d import config as configs  # noqa: E402
from svd3d.model import conditioning, learner, memory  # noqa: E402
from svd3d.settings import TrainConfig  # noqa: E402

PASSES = 3
A100 = 312e12
"""Operations per second in bfloat16, by its maker's data sheet."""
STATED = ("svd-mv", 16 * 8)
"""GPU-hours by the paper, appendix D.6."""
SCALE, LATENT_CHANNELS, WIDTH = 8, 4, 1024
"""Pixels per latent, and width of tokens, of SVD and of Stable Diffusion 2.1."""
TOKENS = {"text": 77, "picture": 1, "pair of pictures": 2}
CHANNELS = {"text": 0, "picture": LATENT_CHANNELS, "pair of pictures": LATENT_CHANNELS + 1}
"""Of what the UNet sees beside the noisy latents."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A recipe of configs/train, and what it does not say."""

    recipe: str
    size: tuple[int, int]
    """Height and width of frames in pixels."""
    told: str
    multi_view: bool = False


STAGES = (
    Stage("image-edm-1", (512, 512), "text"),
    Stage("image-edm-2", (256, 384), "text"),
    Stage("video-a", (256, 384), "text"),
    Stage("video-b", (320, 576), "text"),
    Stage("t2v-hq", (576, 1024), "text"),
    Stage("i2v-base", (320, 576), "picture"),
    Stage("i2v-hq-14", (576, 1024), "picture"),
    Stage("i2v-hq-25", (576, 1024), "picture"),
    Stage("interpolation", (576, 1024), "pair of pictures"),
    Stage("camera-lora-horizontal", (576, 1024), "picture"),
    Stage("svd-mv", (576, 576), "picture", multi_view=True),
)


def unet_of(stage: Stage) -> Any:
    """At SVD's size, without memory for weights."""
    channels = LATENT_CHANNELS + CHANNELS[stage.told]
    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel(in_channels=channels, out_channels=LATENT_CHANNELS)
        if stage.multi_view:
            unet = conditioning.widen(unet)
    return nn.Module.to(unet, device="meta")  # a few parameters are born on the CPU all the same


@torch.no_grad()
def operations(unet: Any, stage: Stage, *, frames: int) -> int:
    """Of one pass for one clip."""
    height, width = (side // SCALE for side in stage.size)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        unet(
            torch.empty(1, frames, unet.config["in_channels"], height, width),
            torch.empty(()),
            encoder_hidden_states=torch.empty(1, TOKENS[stage.told], WIDTH),
            added_time_ids=torch.empty(1, round(conditioning.count_time_ids(unet))),
        )
    return counter.get_total_flops()


def row_of(stage: Stage) -> dict[str, float | str]:
    """Everything about a stage but its GPU-hours; `work` is in operations."""
    path = ROOT / f"configs/train/{stage.recipe}.yaml"
    needed = {"data": Path("data"), "out": Path("out")}
    recipe = configs.read_recipe(TrainConfig, path)
    config: TrainConfig = configs.build(TrainConfig, {**recipe, **needed}, where=str(path))
    frames, samples = config.num_views or 1, config.global_batch_size or 1
    unet = unet_of(stage)
    passing = operations(unet, stage, frames=frames)
    learner.select(unet, config)
    trained = sum(each.numel() for each in learner.trainable(unet).values())
    height, width = stage.size
    return {
        "recipe": stage.recipe,
        "clip": f"{frames} x {height} x {width}",
        "trained": trained / 1e6,
        "held": memory.held_for_training(unet, config) / memory.GB,
        "latents": 2 * frames * LATENT_CHANNELS * height * width / SCALE**2 / 1e6,
        "pass": passing / 1e12,
        "work": float(config.max_train_steps * samples * PASSES * passing),
    }


def main() -> None:
    rows = [row_of(stage) for stage in STAGES]
    recipe, hours = STATED
    (stated,) = (float(row["work"]) for row in rows if row["recipe"] == recipe)
    share = stated / (hours * 3600 * A100)
    print(
        "| recipe | frames x pixels | million that learn | GB held | MB a clip | TFLOP a pass | A100-hours |"
    )
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        found = float(row["work"]) / (share * A100 * 3600)
        told = f"{hours}, stated" if row["recipe"] == recipe else f"{float(f'{found:.2g}'):,.0f}"
        print(
            f"| `{row['recipe']}` | {row['clip']} | {row['trained']:.1f} | {row['held']:.1f} | "
            f"{row['latents']:.2f} | {row['pass']:.1f} | {told} |"
        )
    print(f"\nAt {share:.0%} of an A100's {A100 / 1e12:.0f} TFLOP/s.")


if __name__ == "__main__":
    main()
