"""Are frames between two filled in, and does a text-to-video model help? Section 4.4 of the paper in small.

    python scripts/study_interpolation.py --stages STAGES --out OUT [--jobs 2] [--quick]

STAGES is the folder of a finished `study_stages.py`. Two starts, of each of its seeds, become models that
fill in the frames between two (`svd3d convert --to interpolation`) and learn its curated clips, five frames
of each (`svd3d train`):

    text-to-video   the model that learnt images first and then clips
    random          what that model began with

Then both fill in three frames of clips whose captions were held out, and of others. PSNR and SSIM of these
frames are compared with what needs no model: the nearer end, and a blend of both.

Writes OUT/study.json, study.md and strips.png; running it again resumes. About 15 minutes on two CPU cores.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import study_stages
import torch
from PIL import Image
from studies import simple_videos, text_model
from studies.common import (
    SCRIPTS,
    as_table,
    bold,
    each_of,
    encode,
    estimate,
    last_checkpoint,
    learn,
    told,
)
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from svd3d import config as configs
from svd3d import convert, images, runs
from svd3d.config import plain, read_recipe
from svd3d.errors import InputError, Svd3dError
from svd3d.metrics import images as metrics
from svd3d.metrics import page
from svd3d.model import memory, tiny, vae
from svd3d.model.interpolation_pipeline import FrameInterpolationPipeline
from svd3d.settings import CacheConfig, ConvertConfig, TrainConfig

RECIPE = SCRIPTS.parent / "configs/tiny-text/interpolation.yaml"
ARM = "image-then-video"
"""Of `study_stages.py`: whose models and clips are taken."""
STARTS = ("text-to-video", "random")
FRAMES = 5
METRICS = {"psnr": (metrics.psnr, 2), "ssim": (metrics.ssim, 3)}
"""Each with the digits that are shown."""
CEILING = "autoencoder"
"""What it makes of the true frames."""
AT_ONCE = 16
"""Pairs that are filled in together."""
SHOWN = 8
"""Clips in strips.png, the first ones."""


@dataclass(frozen=True)
class Plan:
    """How much of everything. As it stands: about 15 minutes on two CPU cores."""

    milestones: tuple[int, ...] = (200, 600)
    """Steps after which frames are filled in; the last one ends the training."""
    sampling_steps: int = 12


QUICK = Plan(milestones=(1, 2), sampling_steps=2)


@dataclass(frozen=True)
class Chain:
    """Everything of one seed."""

    stages: study_stages.Chain
    out: Path
    """Of this study."""
    plan: Plan

    @property
    def folder(self) -> Path:
        return self.out / f"seed-{self.stages.seed}"

    def source(self, start: str) -> Path:
        """The text-to-video model that a start is made of."""
        if start == "random":
            return self.stages.start
        return last_checkpoint(self.stages.videos(ARM, until=self.stages.plan.milestones[-1]))

    def training(self, start: str, *, steps: int) -> TrainConfig:
        """Up to a milestone."""
        changes = {
            "model": str(self.folder / start / "start"),
            "data": self.out / "latents",
            "out": self.folder / start / "run",
            "max_train_steps": steps,
            "report_to": (),
            "seed": self.stages.seed,
            "device": self.stages.plan.device,
        }
        return TrainConfig(**{**read_recipe(TrainConfig, RECIPE), **changes})

    def filled(self, start: str, *, steps: int) -> Path:
        """What a model fills in after so many steps."""
        return self.folder / start / f"filled-{steps}"


def make_encoder(out: Path) -> None:
    """OUT/clip: an image encoder whose tokens are as wide as those of the texts, with random weights."""
    if (out / "clip").exists():
        return
    sizes: dict[str, Any] = tiny.image_encoder().config.to_dict() | {"projection_dim": text_model.TEXT_WIDTH}
    with torch.random.fork_rng(), runs.atomic_folder(out / "clip") as folder:
        torch.manual_seed(0)
        CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes)).save_pretrained(folder / "image_encoder")
        runs.write_json(folder / "model_index.json", {})


def make_start(chain: Chain, start: str) -> None:
    """The model that a training begins with; its UNet does not look at the ends yet."""
    source, encoder = chain.source(start), str(chain.out / "clip")
    if not source.exists():
        raise InputError(f"{source}: no such model; run study_stages.py to its end first")
    folder = chain.folder / start / "start"
    convert.run(ConvertConfig(str(source), folder, to="interpolation", image_encoder=encoder))


def learn_and_fill(chain: Chain, start: str) -> None:
    """All of one start."""
    for steps in chain.plan.milestones:
        if not chain.filled(start, steps=steps).exists():
            config = chain.training(start, steps=steps)
            learn(config)
            fill(chain, last_checkpoint(config), chain.filled(start, steps=steps))


def fill(chain: Chain, model: Path, out: Path) -> None:
    """OUT/PART/<id>.png: the frames of each true clip with those filled in between its ends, side by side.

    The noise is that of the seed and the place of the clip: the same for both starts.
    """
    device = memory.usable_device(chain.stages.plan.device)
    pipeline = FrameInterpolationPipeline.load(str(model)).to(device)
    pipeline.set_progress_bar_config(disable=True)
    with runs.atomic_folder(out) as folder:
        for part in study_stages.PARTS:
            clips = list(true_clips(chain.stages.out, part).items())
            for first in range(0, len(clips), AT_ONCE):
                few = clips[first : first + AT_ONCE]
                seeds = [1000 * chain.stages.seed + first + place for place in range(len(few))]
                films = pipeline(
                    [Image.fromarray(frames[0]) for _, frames in few],
                    [Image.fromarray(frames[-1]) for _, frames in few],
                    num_inference_steps=chain.plan.sampling_steps,
                    motion_bucket_id=None,
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                ).frames
                for (uid, _), film in zip(few, films, strict=True):
                    path = runs.output_folder(folder / part) / f"{uid}.png"
                    images.write_png(path, np.concatenate(list(images.to_uint8(film)), axis=1))


def true_clips(stages: Path, part: str) -> dict[str, np.ndarray]:
    """Frames uint8 [5, h, w, 3] from the middle of each clip, by name."""
    found = {}
    for truth in study_stages.truths(stages, part):
        frames = simple_videos.read(stages / "data" / part / truth["file"])
        first = (len(frames) - FRAMES) // 2
        found[truth["id"]] = frames[first : first + FRAMES]
    return found


def read_strip(path: Path) -> np.ndarray:
    """Frames uint8 [5, h, w, 3] of a clip that was filled in."""
    return np.stack(np.split(images.read(path)[..., :3], FRAMES, axis=1))


def without_model(frames: np.ndarray) -> dict[str, np.ndarray]:
    """What needs no model, of frames in [0, 1]: the first for the middle one, too."""
    share = np.linspace(0, 1, FRAMES)[:, None, None, None]
    return {
        "nearer end": frames[np.where(np.arange(FRAMES) <= FRAMES // 2, 0, -1)],
        "blend": (1 - share) * frames[:1] + share * frames[-1:],
    }


def decoded(autoencoder: Any, frames: np.ndarray) -> np.ndarray:
    """What the autoencoder makes of frames in [0, 1]."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() * 2 - 1
    with torch.no_grad():
        again = vae.decode(autoencoder, vae.encode_views(autoencoder, pixels)[None])[0]
    return ((again + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1).double().numpy()


def score(film: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Means over the three frames in the middle."""
    return {name: float(measure(film[1:-1], true[1:-1]).mean()) for name, (measure, _) in METRICS.items()}


def summarize(chains: Sequence[Chain]) -> dict[str, Any]:
    """What is in study.json."""
    first = chains[0]
    autoencoder = FrameInterpolationPipeline.load(str(first.folder / STARTS[0] / "start")).vae
    return {
        "plan": plain(first.plan),
        "seeds": len(chains),
        "parts": {part: compare(chains, part, autoencoder) for part in study_stages.PARTS},
    }


def compare(chains: Sequence[Chain], part: str, autoencoder: Any) -> dict[str, Any]:
    """How near frames come to the true ones: by start, steps and metric, and against what needs no model."""
    steps = chains[0].plan.milestones
    clips = {uid: frames / 255 for uid, frames in true_clips(chains[0].stages.out, part).items()}
    plainly: dict[str, list[dict[str, float]]] = {}
    for frames in clips.values():
        for name, film in {**without_model(frames), CEILING: decoded(autoencoder, frames)}.items():
            plainly.setdefault(name, []).append(score(film, frames))
    scores = {
        start: [
            [
                [
                    score(read_strip(chain.filled(start, steps=count) / part / f"{uid}.png") / 255, frames)
                    for uid, frames in clips.items()
                ]
                for chain in chains
            ]
            for count in steps
        ]
        for start in STARTS
    }
    found: dict[str, Any] = {"clips": len(clips)}
    for metric in METRICS:
        without = {name: np.array([[each[metric] for each in row]]) for name, row in plainly.items()}
        values = {
            start: [np.array([[each[metric] for each in row] for row in of]) for of in by_steps]
            for start, by_steps in scores.items()
        }
        best = max((name for name in without if name != CEILING), key=lambda name: without[name].mean())
        found[metric] = {
            "of": {start: [estimate(each) for each in of] for start, of in values.items()},
            "without": {name: estimate(each) for name, each in without.items()},
            "best": best,
            "ahead_of_best": {start: estimate(of[-1] - without[best]) for start, of in values.items()},
            "ahead": [
                estimate(one - other) for one, other in zip(*(values[start] for start in STARTS), strict=True)
            ],
        }
    return found


def markdown(found: Mapping[str, Any]) -> str:
    """The tables, and how to read them."""
    steps = found["plan"]["milestones"]
    parts = [
        "# Frames between two",
        f"{FRAMES} frames of {tiny.SIZE} pixels, of which three are filled in, in "
        f"{found['plan']['sampling_steps']} steps without guidance, by models of {found['seeds']} seeds.",
    ]
    for part, each in found["parts"].items():
        parts.append(f"## {each['clips']} clips of {part} captions")
        for metric, (_, digits) in METRICS.items():
            of = each[metric]
            rows = [[f"{metric}, after steps", *map(str, steps), f"ahead of {of['best']}"]]
            for start, values in of["of"].items():
                ahead = bold(of["ahead_of_best"][start], digits)
                rows.append([f"from {start}", *(told(value, digits) for value in values), ahead])
            rows.append([" - ".join(STARTS), *(bold(value, digits) for value in of["ahead"]), ""])
            blank = [""] * (len(steps) - 1)
            rows += [[name, *blank, told(value, digits), ""] for name, value in of["without"].items()]
            parts.append(as_table(rows))
    return "\n\n".join([*parts, READING])


READING = f"""\
In brackets: 95 % intervals, for other seeds and other clips of the same kinds. Differences are paired, of the
same clips, seeds and noise. Bold: the interval leaves out 0. `{CEILING}`: what the autoencoder makes of the
true frames, which bounds what these models can reach. The world is that of `study_stages.py`.
"""


def strips(chain: Chain) -> bytes:
    """A PNG: the first clips, true and filled in from each start, of the first seed."""
    last = chain.plan.milestones[-1]
    rows = []
    for part in study_stages.PARTS:
        for uid, frames in list(true_clips(chain.stages.out, part).items())[:SHOWN]:
            films = [read_strip(chain.filled(start, steps=last) / part / f"{uid}.png") for start in STARTS]
            rows += [np.concatenate([frames, *films]).swapaxes(0, 1).reshape(tiny.SIZE, -1, 3)]
    return page.stacked(rows)


def plan_of(stages: Path) -> study_stages.Plan:
    """With what a folder of `study_stages.py` was made. Raises `InputError` for another folder."""
    path = runs.input_path(stages / "config.yaml", what="plan of study_stages.py")
    return configs.build(study_stages.Plan, configs.read_recipe(study_stages.Plan, path), where=str(path))


def study(stages: Path, out: Path, plan: Plan, *, jobs: int) -> dict[str, Any]:
    """Everything above; what is in study.json."""
    made_with = plan_of(stages)
    runs.output_folder(out)
    runs.same_settings(out, plan)
    chains = [
        Chain(study_stages.Chain(stages, made_with, seed), out, plan) for seed in range(made_with.seeds)
    ]
    make_encoder(out)
    each_of([(make_start, (chain, start)) for chain in chains for start in STARTS], jobs=1)
    encode(
        CacheConfig(
            views=stages / "data/curated",
            out=out / "latents",
            model=str(chains[0].folder / STARTS[0] / "start"),
            clip_size=(tiny.SIZE, tiny.SIZE),
            clip_frames=FRAMES,
            clip_stride=1,
            device=made_with.device,
        )
    )
    each_of([(learn_and_fill, (chain, start)) for chain in chains for start in STARTS], jobs=jobs)
    found = summarize(chains)
    runs.write_file(out / "strips.png", strips(chains[0]))
    runs.write_file(out / "study.md", markdown(found))
    runs.write_json(out / "study.json", found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stages", type=Path, required=True, help="folder of a finished study_stages.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1, help="processes at once, of one thread each")
    parser.add_argument("--quick", action="store_true", help="a minute: the machinery, not the numbers")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        found = study(given.stages, given.out, QUICK if given.quick else Plan(), jobs=given.jobs)
    except Svd3dError as error:
        sys.exit(str(error))
    print(markdown(found))


if __name__ == "__main__":
    main()
