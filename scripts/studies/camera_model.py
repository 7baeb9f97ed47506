"""A small image-to-video model and camera-motion LoRAs of it, from nothing, by the project's own commands."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder, StableVideoDiffusionPipeline
from make_objects import write_objects
from objects import families

from studies import moving_cameras
from studies.common import SCRIPTS, check, each_of, encode, last_checkpoint, learn
from studies.moving_cameras import World
from svd3d import curate, images, launch, runs, sample, train
from svd3d.config import read_recipe
from svd3d.curation import selection, table, video
from svd3d.model import checkpoints, saving, tiny
from svd3d.settings import CacheConfig, CurateConfig, CurateSelectConfig, TrainConfig

RECIPES = SCRIPTS.parent / "configs/tiny"
ALL = "all"
"""The clips that the model learns from."""
PRESETS: dict[str, Literal["camera-pan", "camera-zoom", "camera-static"]] = {
    "horizontal": "camera-pan",
    "zoom": "camera-zoom",
    "static": "camera-static",
}
"""Of `svd3d curate select`."""
SEEDS = {"train": 0, "held-out": 500_000}
"""Numbers of the first objects of each family, and seeds of the clips."""


@dataclass(frozen=True)
class Plan:
    """How much of everything for --train-small. As it stands: about an hour on two CPU cores."""

    families: tuple[str, ...] = families.TRAINED
    objects: int = 320
    clips: int = 960
    frames: int = 8
    pictured: int = 240
    """Clips, the first ones, whose frames the autoencoder learns from."""
    held_out: int = 18
    """Clips of other objects, whose first frames are the pictures."""
    autoencoder_steps: int = 1000
    base_steps: int = 3000
    lora_steps: int = 450
    seeds: int = 3
    """Of LoRAs, and of the noise that they make videos of."""
    sampling_steps: int = 12
    clips_at_once: int = 6
    """In a step of the model and of a LoRA."""
    device: Literal["cpu", "auto"] = "cpu"


GPU_PLAN = Plan(
    objects=1200, clips=4800, pictured=960, held_out=36, autoencoder_steps=3000, base_steps=8000,
    lora_steps=1500, sampling_steps=25, clips_at_once=24, device="auto",
)  # fmt: skip
QUICK = Plan(
    families=("car",), objects=2, clips=12, pictured=4, held_out=2, autoencoder_steps=1, base_steps=1,
    lora_steps=2, seeds=1, sampling_steps=1,
)  # fmt: skip


@dataclass(frozen=True)
class Small:
    """All that --train-small makes."""

    out: Path
    plan: Plan

    def world(self, part: str) -> World:
        """Clips to train on, or those that are held out."""
        count = {"train": self.plan.clips, "held-out": self.plan.held_out}[part]
        return World(self.out / part / "objects.jsonl", count, self.plan.frames, SEEDS[part])

    def films(self, part: str) -> Path:
        return self.out / part / "videos"

    def clips(self, name: str) -> Path:
        """What all clips are in, or those for a LoRA."""
        return self.out / "curated" if name == ALL else self.out / f"curated/{name}.parquet"

    @property
    def first_frames(self) -> Path:
        """Of the clips that are held out: what videos are made of."""
        return self.out / "held-out/pictures"

    def autoencoder(self) -> TrainConfig:
        """From random weights: the bundled one knows white backgrounds alone."""
        return self._learning(
            "autoencoder",
            model=str(self.out / "first"),
            data=self.out / "pictures",
            out=self.out / "autoencoder",
            max_train_steps=self.plan.autoencoder_steps,
            train_batch_size=1,
            global_batch_size=2,
        )

    def base(self) -> TrainConfig:
        """The image-to-video model, from random weights. It is not told how much moves."""
        return self._learning(
            "video",
            model=str(self.out / "start"),
            data=self.out / "latents" / ALL,
            out=self.out / "base",
            max_train_steps=self.plan.base_steps,
            train_batch_size=self.plan.clips_at_once // 2,
            global_batch_size=self.plan.clips_at_once,
            tells_motion=False,
            p_mean=1.2,  # which way a camera moves is settled at high noise levels
        )

    def lora(self, name: str, seed: int) -> TrainConfig:
        """A training of the LoRA of a motion."""
        return self._learning(
            "camera-lora",
            model=str(last_checkpoint(self.base())),
            data=self.out / "latents" / name,
            out=self.out / f"loras/{name}-{seed}",
            max_train_steps=self.plan.lora_steps,
            train_batch_size=self.plan.clips_at_once,
            seed=seed,
        )

    def _learning(self, recipe: str, **settings: Any) -> TrainConfig:
        """Training by a recipe, without looks at held-out clips."""
        common = {"validation_steps": None, "report_to": (), "device": self.plan.device}
        return TrainConfig(**{**read_recipe(TrainConfig, RECIPES / f"{recipe}.yaml"), **common, **settings})


def train_small(small: Small, *, jobs: int) -> None:
    """Everything before the videos."""
    plan, parts = small.plan, tuple(SEEDS)
    each_of([(make_objects, (plan, small.out / part, SEEDS[part])) for part in parts], jobs=jobs)
    each_of(
        [
            (moving_cameras.make, (small.world(part), small.films(part), number, jobs))
            for part in parts
            for number in range(jobs)
        ],
        jobs=jobs,
    )
    show(small)
    make_first(small)
    learn_together(small.autoencoder(), jobs=jobs)
    choose(small, jobs=jobs)
    coded = [
        CacheConfig(
            small.clips(name),
            small.out / "latents" / name,
            model=str(last_checkpoint(small.autoencoder())),
            clip_size=(moving_cameras.SIZE, moving_cameras.SIZE),
            clip_frames=plan.frames,
            device=plan.device,
        )
        for name in (ALL, *PRESETS)
    ]
    each_of([(encode, (config,)) for config in coded], jobs=jobs)
    make_start(small)
    learn_together(small.base(), jobs=jobs)
    each_of([(learn, (small.lora(name, seed),)) for seed in range(plan.seeds) for name in PRESETS], jobs=jobs)


def make_objects(plan: Plan, out: Path, seed: int) -> None:
    """Those that clips show."""
    write_objects(names=list(plan.families), count=plan.objects, seed=seed, out=out)


def show(small: Small) -> None:
    """The frames that the autoencoder learns from, and the first frames of clips that are held out."""
    for path in sorted(small.films("train").iterdir())[: small.plan.pictured]:
        folder = small.out / "pictures" / path.stem
        if not folder.exists():
            runs.output_folder(folder.parent)
            with runs.atomic_folder(folder) as place:
                sample.write_capture(sample.Capture(path.stem, film(path)), place)
    pictures = runs.output_folder(small.first_frames)
    for path in small.films("held-out").iterdir():
        images.write_png(pictures / f"{path.stem}.png", film(path)[0])


def film(path: Path) -> np.ndarray:
    """RGB frames [t, h, w, 3] of a video file."""
    return np.stack([frame.image for frame in video.frames(video.probe(path))])


def learn_together(config: TrainConfig, *, jobs: int) -> None:
    """One training, on CPUs in so many processes."""
    if jobs == 1 or config.device != "cpu" or not train.steps_left(config):
        learn(config)
        return
    line = launch.line(dataclasses.replace(config, gpus=jobs), launch.write_recipe(config))
    if code := subprocess.run(line, stdout=sys.stderr).returncode:
        sys.exit(f"{config.out}: its training ended with code {code}; what it said is above")


def choose(small: Small, *, jobs: int) -> None:
    """Curate all clips, and select those for each LoRA."""
    folder = small.clips(ALL)
    check(curate.run(CurateConfig(small.films("train"), folder, workers=jobs, device="cpu")))
    for name, preset in PRESETS.items():
        # the detector of text takes blobs of few pixels for letters
        curate.select(CurateSelectConfig(folder, small.clips(name), preset=preset, max_text=0.99))


def make_first(small: Small) -> None:
    """A model of random weights, whose autoencoder makes one latent of 4 x 4 pixels."""
    folder, levels = small.out / "first", (32, 64, 96)
    if folder.exists():
        return
    parts = tiny.components(time_ids=3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts["vae"] = AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * len(levels),
            block_out_channels=levels,
            layers_per_block=1,
            latent_channels=tiny.LATENT_CHANNELS,
            sample_size=moving_cameras.SIZE,
        )
    parts["vae"].load_state_dict(checkpoints.still_weights(parts["vae"], seed=0))
    with runs.atomic_folder(folder) as place:
        StableVideoDiffusionPipeline(**parts).save_pretrained(place)


def make_start(small: Small) -> None:
    """The autoencoder, and a UNet of random weights whose layers across frames change nothing yet."""
    folder, network = small.out / "start", tiny.unet(time_ids=3)
    if not folder.exists():
        with runs.atomic_folder(folder) as place:
            saving.link_frozen(last_checkpoint(small.autoencoder()), place, learns="unet", conditioning="svd")
            network.save_config(place / "unet")
            weights = checkpoints.still_weights(network, seed=0)
            checkpoints.write_weights(weights, place / saving.weights("unet"))


def selected(small: Small) -> dict[str, dict[str, int]]:
    """Of each preset: how many clips it selects, how many of them rightly, and how many there are."""
    kinds = {truth.uid: truth.kind for truth in moving_cameras.truths(small.world("train"))}
    found = {}
    for name, preset in PRESETS.items():
        chosen = [Path(row["video"]).stem for row in table.rows(small.clips(name), columns=("video",))]
        right = [kinds[uid] in selection.PRESETS[preset].camera for uid in chosen]
        there = [kind in selection.PRESETS[preset].camera for kind in kinds.values()]
        found[preset] = {"selected": len(chosen), "right": sum(right), "there": sum(there)}
    return found
