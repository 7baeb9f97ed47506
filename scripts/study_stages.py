"""Does a text-to-video model obey, and do images first and curated clips help it? The SVD paper, in small.

    python scripts/study_stages.py --out OUT [--jobs 2] [--device cuda] [--quick]

A small model learns clips with captions that tell shape, colour, direction and speed, in three ways:

    image-then-video   single frames first (section 3.1 of the paper), then clips; curated (section 3.2)
    video-alone        clips from the first step on; curated
    uncurated          single frames first, then clips; all that was scraped

Half of what is scraped stands still, cuts to another scene or is covered with text; what `svd3d curate` and
`svd3d curate select` keep of it is curated. All three take as many steps, each of as many frames. A seed
repeats all but the data, from the first weights on. On the way, clips are sampled for captions, half of them
of combinations that no clip to learn from has shown; which way they move, how fast and in what colour is
measured in their frames, and in true clips.

Writes OUT/study.json, study.md, study.svg, study.png, strips.png of samples and index.html; running it again
resumes. About 75 minutes on two CPU cores, with one thread for each of --jobs processes, and 2 GB of disk.
--device cuda is for a GPU: a larger model, four times as many clips a step, and twice as many steps.
"""

import argparse
import base64
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import make_objects
import make_videos
import numpy as np
import torch
from studies import obedience, simple_videos, text_model
from studies.common import (
    SCRIPTS,
    as_table,
    bold,
    check,
    each_of,
    encode,
    estimate,
    last_checkpoint,
    learn,
    told,
)

from svd3d import console, curate, images, runs
from svd3d.config import plain, read_recipe
from svd3d.curation import motion, table
from svd3d.errors import Svd3dError, require
from svd3d.model import memory, saving, tiny, vae
from svd3d.model.video_pipeline import TextToVideoPipeline
from svd3d.settings import CacheConfig, CurateConfig, CurateSelectConfig, TrainConfig

RECIPES = SCRIPTS.parent / "configs/tiny-text"
MAX_TEXT = 0.5
"""Part of a clip's picture in text. The paper's 0.07 would not do: before white, its detector takes many an
object for a letter."""
PARTS = {"held-out": True, "seen": False}
"""Captions that are asked for: whether of combinations that no clip to learn from has shown."""
MEASURES = (*obedience.MEASURES, "direction and colour")
SEEDS = {"scraped": 0, "held-out": 500_000, "seen": 600_000}
"""Numbers of the first objects of each family: no object is in two of these."""
AT_ONCE = 16
"""Clips that are sampled together."""
SHOWN, ACROSS = 6, 3
"""Captions of each kind whose samples are on the page, and how many side by side."""


@dataclass(frozen=True)
class Arm:
    """A way to learn."""

    data: str
    """`curated` or `scraped`."""
    images_first: bool
    colour: str
    """In the figure; told apart by colour-blind people too (Okabe and Ito)."""


ARMS = {
    "image-then-video": Arm("curated", images_first=True, colour="#0072b2"),
    "video-alone": Arm("curated", images_first=False, colour="#d55e00"),
    "uncurated": Arm("scraped", images_first=True, colour="#009e73"),
}
PAIRS = (("image-then-video", "video-alone"), ("image-then-video", "uncurated"))


@dataclass(frozen=True)
class Plan:
    """How much of everything. As it stands: about 75 minutes on two CPU cores."""

    seeds: int = 3
    objects: int = 240
    """That are filmed to learn from."""
    scraped: int = 1600
    """Clips."""
    spoilt: float = 0.5
    """Share of them."""
    frames: int = 8
    """Of a clip."""
    widths: tuple[int, int] = (32, 96)
    """Of the UNet, on its fine and on its coarse level."""
    clips_at_once: int = 8
    """In a step; of single frames, as many as these clips have."""
    image_steps: int = 400
    """Of the first stage, where there is one."""
    milestones: tuple[int, ...] = (600, 1000, 1400)
    """Steps in all after which clips are sampled; the last one ends it."""
    captions: int = 32
    """That are asked for, of combinations held out and of others each; 32 are all that are held out."""
    sampling_steps: int = 12
    guidance: float = 4.0
    device: str = "cpu"
    """`cpu`, or `auto` for a GPU."""
    readers: int = 0
    """Processes that read ahead, for each that trains."""


GPU_PLAN = Plan(
    objects=480, scraped=3200, widths=(64, 128), clips_at_once=32, image_steps=800, milestones=(1500, 3000),
    sampling_steps=25, device="auto", readers=2,
)  # fmt: skip
QUICK = Plan(
    seeds=2, objects=8, scraped=16, widths=(32, 32), clips_at_once=2, image_steps=1, milestones=(2, 3),
    captions=2, sampling_steps=2,
)  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """Everything of one seed."""

    out: Path
    """Of the study."""
    plan: Plan
    seed: int

    @property
    def folder(self) -> Path:
        return self.out / f"seed-{self.seed}"

    @property
    def start(self) -> Path:
        """The model that all begin with."""
        return self.folder / "start"

    def images(self, name: str) -> TrainConfig:
        """The first stage of an arm that has one."""
        return self._learning("image", name, model=self.start, steps=self.plan.image_steps)

    def videos(self, name: str, *, until: int) -> TrainConfig:
        """The stage of clips, up to so many steps in all."""
        if not ARMS[name].images_first:
            return self._learning("video", name, model=self.start, steps=until)
        model = last_checkpoint(self.images(name))
        return self._learning("video", name, model=model, steps=until - self.plan.image_steps)

    def samples(self, name: str, *, step: int) -> Path:
        """Samples after so many steps in all, and what they show."""
        return self.folder / name / f"samples-{step}"

    def _learning(self, recipe: str, name: str, *, model: Path, steps: int) -> TrainConfig:
        plan = self.plan
        changes = {
            "model": str(model),
            "data": self.out / f"data/{ARMS[name].data}/latents",
            "out": self.folder / name / recipe,
            "max_train_steps": steps,
            "train_batch_size": plan.clips_at_once * (plan.frames if recipe == "image" else 1),
            "report_to": (),
            "seed": self.seed,
            "device": plan.device,
            "dataloader_num_workers": plan.readers,
        }
        return TrainConfig(**{**read_recipe(TrainConfig, RECIPES / f"{recipe}.yaml"), **changes})


def frames_seen(chain: Chain, name: str) -> int:
    """In all steps of an arm."""
    stages = [(chain.videos(name, until=chain.plan.milestones[-1]), chain.plan.frames)]
    stages += [(chain.images(name), 1)] if ARMS[name].images_first else []
    return sum(config.max_train_steps * config.train_batch_size * frames for config, frames in stages)


def make_models(chains: Sequence[Chain]) -> None:
    """OUT/model, which reads all captions there are, and the starts of all seeds."""
    model, plan = chains[0].out / "model", chains[0].plan
    if not model.exists():
        captions = [
            case.caption(moves=moves)
            for held_out in PARTS.values()
            for case in simple_videos.cases(held_out=held_out)
            for moves in (True, False)
        ]
        text_model.make(model, captions, widths=plan.widths, frames=plan.frames)
    for chain in chains:
        if not chain.start.exists():
            text_model.make_start(model, chain.start, seed=chain.seed)


def make_clips(out: Path, plan: Plan, part: str, *, jobs: int) -> None:
    """OUT/data/PART: clips to learn from (`scraped`), or true ones of captions that are asked for."""
    folder, seed = out / "data" / part, SEEDS[part]
    names: list[str] = [*simple_videos.FAMILIES]
    count = plan.objects if part == "scraped" else plan.captions
    world = simple_videos.World(
        count=plan.scraped if part == "scraped" else plan.captions,
        size=tiny.SIZE,
        frames=plan.frames,
        seed=seed,
        held_out=PARTS.get(part, False),
        spoilt=plan.spoilt if part == "scraped" else 0.0,
    )
    objects = make_objects.write_objects(names=names, count=count, seed=seed, out=folder / "objects")
    simple_videos.make(objects, folder, world, jobs=jobs)


def choose_clips(out: Path, *, jobs: int) -> None:
    """OUT/data/curated: scraped clips that pass curation. OUT/data/scores: the scores of all."""
    scraped, scores = out / "data/scraped", out / "data/scores"
    config = CurateConfig(scraped / "clips", scores, device="cpu", workers=jobs)
    check(console.progress(curate.run(config), label=f"curate {scores}", total=curate.count(config)))
    chosen = scores / "chosen.parquet"
    curate.select(CurateSelectConfig(scores, chosen, min_motion=motion.STATIC, max_text=MAX_TEXT))
    files = {f"clips/{row['video']}" for row in table.rows(chosen, columns=["video"])}
    kept = [truth for truth in runs.read_lines(scraped / simple_videos.TRUTH) if truth["file"] in files]
    curated = runs.output_folder(out / "data/curated")
    make_videos.write_table(curated / table.NAME, kept, videos=scraped)


def encode_clips(out: Path, plan: Plan, part: str) -> None:
    """The latents of scraped or curated clips and of their captions."""
    folder, size = out / "data" / part, (tiny.SIZE, tiny.SIZE)
    encode(
        CacheConfig(
            views=folder,
            out=folder / "latents",
            model=str(out / "model"),
            clip_size=size,
            clip_frames=plan.frames,
            device=plan.device,
        )
    )


def learn_and_sample(chain: Chain, name: str) -> None:
    """All of one arm."""
    if ARMS[name].images_first:
        learn(chain.images(name))
    for step in chain.plan.milestones:
        if not chain.samples(name, step=step).exists():
            config = chain.videos(name, until=step)
            learn(config)
            sample(chain, last_checkpoint(config), chain.samples(name, step=step))


def sample(chain: Chain, model: Path, out: Path) -> None:
    """OUT/PART/<id>.png, the frames of a clip side by side, and OUT/PART.json, what they show, in its order.

    The noise is that of the seed and the place of the caption: the same for all arms.
    """
    plan = chain.plan
    pipeline = TextToVideoPipeline.load(str(model)).to(memory.usable_device(plan.device))
    pipeline.set_progress_bar_config(disable=True)
    with runs.atomic_folder(out) as folder:
        for part in PARTS:
            asked = truths(chain.out, part)
            found = []
            for first in range(0, len(asked), AT_ONCE):
                few = asked[first : first + AT_ONCE]
                seeds = [1000 * chain.seed + first + place for place in range(len(few))]
                clips = pipeline(
                    [truth["caption_video"] for truth in few],
                    num_inference_steps=plan.sampling_steps,
                    min_guidance_scale=plan.guidance,
                    max_guidance_scale=plan.guidance,
                    fps=make_videos.FPS,
                    generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                ).frames
                found += [
                    (truth["id"], images.to_uint8(clip)) for truth, clip in zip(few, clips, strict=True)
                ]
            write_shown(folder, part, found)


def show_truth(out: Path) -> None:
    """OUT/data/truth and OUT/data/decoded: true clips, and what the autoencoder makes of them, as samples."""
    folders = {name: out / f"data/{name}" for name in ("truth", "decoded")}
    if all(folder.exists() for folder in folders.values()):
        return
    autoencoder = TextToVideoPipeline.load(str(out / "model")).vae
    found: dict[str, dict[str, list[tuple[str, np.ndarray]]]] = {name: {} for name in folders}
    for part in PARTS:
        for truth in truths(out, part):
            clip = simple_videos.read(out / "data" / part / truth["file"])
            pixels = torch.from_numpy(clip).permute(0, 3, 1, 2) / 127.5 - 1
            with torch.no_grad():
                again = vae.decode(autoencoder, vae.encode_views(autoencoder, pixels)[None])[0]
            decoded = images.to_uint8((again.permute(0, 2, 3, 1).numpy() + 1) / 2)
            for name, frames in (("truth", clip), ("decoded", decoded)):
                found[name].setdefault(part, []).append((truth["id"], frames))
    for name, folder in folders.items():
        with runs.atomic_folder(folder) as place:
            for part, clips in found[name].items():
                write_shown(place, part, clips)


def write_shown(folder: Path, part: str, clips: Sequence[tuple[str, np.ndarray]]) -> None:
    """PART/<id>.png and PART.json of some clips."""
    (folder / part).mkdir()
    for uid, frames in clips:
        images.write_png(folder / part / f"{uid}.png", np.concatenate(list(frames), axis=1))
    runs.write_json(folder / f"{part}.json", [plain(obedience.shown(frames)) for _, frames in clips])


def truths(out: Path, part: str) -> list[dict[str, Any]]:
    """Lines of truth.jsonl of a part of the data."""
    return runs.read_lines(out / "data" / part / simple_videos.TRUTH)


def matches(shown: Sequence[Mapping[str, Any]], asked: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """By measure, whether each clip shows what each caption says: [clips, captions].

    The diagonal is obedience; a row is what becomes of it when captions are dealt out anew.
    """
    found = {
        name: np.array([[clip[name] == caption[name] for caption in asked] for clip in shown])
        for name in obedience.MEASURES
    }
    return found | {"direction and colour": found["direction"] & found["colour"]}


def matched(folders: Sequence[Path], part: str, asked: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """The same of several folders of samples, as percentages [folders, clips, captions]."""
    found = [matches(json.loads((each / f"{part}.json").read_bytes()), asked) for each in folders]
    return {name: 100.0 * np.stack([each[name] for each in found]) for name in MEASURES}


def obeyed(matching: np.ndarray) -> np.ndarray:
    """[folders, clips] of [folders, clips, captions]: whether each shows what it was asked for."""
    return np.diagonal(matching, axis1=1, axis2=2)


def summarize(chains: Sequence[Chain]) -> dict[str, Any]:
    """What is in study.json; percentages, by milestone where they are in lists."""
    first, plan = chains[0], chains[0].plan
    return {
        "plan": plain(plan),
        "parameters": sum(each.numel() for each in text_model.unet(plan.widths, frames=1).parameters()),
        "curation": curation(first.out),
        "training": {
            name: {"frames": frames_seen(first, name), "seconds": seconds_spent(chains, name)}
            for name in ARMS
        },
        "parts": {part: compare(chains, part) for part in PARTS},
    }


def compare(chains: Sequence[Chain], part: str) -> dict[str, Any]:
    """How the samples of some captions obey: of each arm, against chance, and of pairs of arms."""
    out, steps = chains[0].out, chains[0].plan.milestones
    asked = truths(out, part)
    found = {
        name: [matched([chain.samples(name, step=step) for chain in chains], part, asked) for step in steps]
        for name in ARMS
    }
    right = {
        name: {measure: [obeyed(each[measure]) for each in by_step] for measure in MEASURES}
        for name, by_step in found.items()
    }
    last = {name: by_step[-1] for name, by_step in found.items()}
    return {
        "captions": len(asked),
        "true": {
            name: {
                measure: float(obeyed(each).mean())
                for measure, each in matched([out / f"data/{name}"], part, asked).items()
            }
            for name in ("truth", "decoded")
        },
        "chance": {
            measure: float(np.mean([each[measure] for each in last.values()])) for measure in MEASURES
        },
        "of": {
            name: {measure: [estimate(each) for each in by_step] for measure, by_step in of.items()}
            for name, of in right.items()
        },
        "by_seed": {
            name: {
                measure: [each.mean(axis=1).tolist() for each in by_step] for measure, by_step in of.items()
            }
            for name, of in right.items()
        },
        "above_chance": {
            name: {measure: estimate(obeyed(of[measure]) - of[measure].mean(axis=2)) for measure in MEASURES}
            for name, of in last.items()
        },
        "ahead": {
            f"{one} - {other}": {
                measure: estimate(right[one][measure][-1] - right[other][measure][-1]) for measure in MEASURES
            }
            for one, other in PAIRS
        },
    }


def curation(out: Path) -> dict[str, dict[str, int]]:
    """How many clips of each kind were scraped, and how many of them are in the curated set."""
    kept = {row["id"] for row in table.rows(out / "data/curated" / table.NAME, columns=["id"])}
    found = {kind: {"scraped": 0, "kept": 0} for kind in ("clean", *simple_videos.SPOILS)}
    for truth in truths(out, "scraped"):
        counts = found[truth["spoil"] or "clean"]
        counts["scraped"] += 1
        counts["kept"] += truth["id"] in kept
    return found


def seconds_spent(chains: Sequence[Chain], name: str) -> float:
    """On the steps of an arm, in the mean over seeds."""
    lines = [
        line
        for chain in chains
        for stage in ("image", "video")
        for line in runs.read_lines(chain.folder / name / stage / saving.METRICS)
    ]
    return sum(line["seconds"] for line in lines) / len(chains)


def figure(found: Mapping[str, Any]) -> Any:
    """Each measure by steps, for captions held out and for others."""
    require("matplotlib", extra="train", reason="the figure of the study")
    from matplotlib.figure import Figure

    steps = found["plan"]["milestones"]
    drawn = Figure(figsize=(3.1 * len(MEASURES), 2.9 * len(PARTS)), layout="constrained")
    axes = drawn.subplots(len(PARTS), len(MEASURES), squeeze=False, sharex=True, sharey=True)
    for row, (part, each) in zip(axes, found["parts"].items(), strict=True):
        for axis, measure in zip(row, MEASURES, strict=True):
            for name, arm in ARMS.items():
                values = np.array(each["by_seed"][name][measure])
                axis.fill_between(
                    steps, values.min(axis=1), values.max(axis=1), color=arm.colour, alpha=0.2, lw=0
                )
                axis.plot(steps, values.mean(axis=1), color=arm.colour, marker="o", ms=3, label=name)
            axis.axhline(each["chance"][measure], color="#888888", ls="--", lw=1, label="chance")
            axis.axhline(each["true"]["decoded"][measure], color="#888888", ls=":", lw=1, label="true clips")
            axis.set_title(f"{measure}, {part} captions", fontsize="medium")
            axis.set_ylim(-2, 102)
        row[0].set_ylabel("right, in % (band: all seeds)")
    for axis in axes[-1]:
        axis.set_xlabel("steps in all")
    axes[0][0].legend(frameon=False, fontsize="small")
    return drawn


def markdown(found: Mapping[str, Any]) -> str:
    """The tables, and how to read them."""
    plan = found["plan"]
    steps, frames = plan["milestones"], plan["clips_at_once"] * plan["frames"]
    cost = "; ".join(
        f"{name} {each['frames']} frames, {each['seconds']:.0f} s" for name, each in found["training"].items()
    )
    rows = [["clips", "scraped", "kept"]]
    rows += [[kind, str(each["scraped"]), str(each["kept"])] for kind, each in found["curation"].items()]
    parts = [
        "# Stages before multi-view: images first, and curated clips",
        f"{found['parameters'] / 1e6:.1f} million parameters learn {steps[-1]} steps of {frames} frames of "
        f"{tiny.SIZE} pixels; where images come first, {plan['image_steps']} of these steps see single "
        f"frames. Number of seeds: {plan['seeds']}. Samples take {plan['sampling_steps']} steps at guidance "
        f"{plan['guidance']:g}, with averaged weights. Each seed: {cost}.",
        "## Curation",
        as_table(rows),
        f"Kept: motion of {motion.STATIC:g} or more, text in at most {MAX_TEXT:.0%} of the picture, at "
        "least a second without a cut.",
    ]
    for part, each in found["parts"].items():
        parts += [
            f"## {each['captions']} {part} captions",
            f"Right after {steps[-1]} steps, in %:",
            obedience_table(each),
        ]
        for measure in MEASURES:
            rows = [[f"{measure}, after steps", *map(str, steps)]]
            rows += [[name, *(told(value, 0) for value in of[measure])] for name, of in each["of"].items()]
            parts.append(as_table(rows))
    return "\n\n".join([*parts, READING])


def obedience_table(each: Mapping[str, Any]) -> str:
    """Of one part, what is right at the end."""
    rows = [["", *MEASURES]]
    for name, of in each["of"].items():
        rows.append([name, *(told(of[measure][-1], 0) for measure in MEASURES)])
    for name, of in each["above_chance"].items():
        rows.append([f"{name} - chance", *(bold(of[measure], 0) for measure in MEASURES)])
    for pair, of in each["ahead"].items():
        rows.append([pair, *(bold(of[measure], 0) for measure in MEASURES)])
    plain_rows = {"chance": each["chance"], "true clips": each["true"]["truth"]}
    plain_rows["true clips, encoded and decoded"] = each["true"]["decoded"]
    rows += [[name, *(f"{of[measure]:.0f}" for measure in MEASURES)] for name, of in plain_rows.items()]
    return as_table(rows)


READING = """\
## How to read this

In brackets: 95 % intervals, for other seeds and other captions of the same kinds. Differences are paired, of
the same captions, seeds and noise; of two arms, the first minus the second. Bold: the interval leaves out 0.

Held out are combinations of family, colour and direction that no clip to learn from has shown; of any two of
the three, clips have shown everything.

Direction: axis and sign of the mean optical flow (Farnebäck) of what differs from white. Speed: how far it
goes. Colour: the name of the hue of its mean colour. Chance: the same clips with the captions dealt out anew.

All arms cost the same. So images first means fewer steps on clips: at equal steps on clips, its last column
stands against an earlier one of video-alone.

Captions of clips that are spoilt tell what is seen at first: that something stands still; what moves before
the cut; what moves below the text. The uncurated set holds the clips of the curated one, too.

This is a narrow world of one object before white, and the autoencoder is that of the bundled model.
"""


def strips(first: Chain) -> Any:
    """Frames of true clips and of samples after all steps of the first captions, none of them chosen."""
    require("matplotlib", extra="train", reason="the strips of the study")
    from matplotlib.figure import Figure

    rows = {"true": first.out / "data/truth", "decoded": first.out / "data/decoded"}
    rows |= {name: first.samples(name, step=first.plan.milestones[-1]) for name in ARMS}
    shown = [(part, truth) for part in PARTS for truth in truths(first.out, part)[:SHOWN]]
    drawn = Figure(figsize=(13, 2.4 * -(-len(shown) // ACROSS)), layout="constrained")
    axes = drawn.subplots(-(-len(shown) // ACROSS), ACROSS, squeeze=False)
    for axis in axes.flat:
        axis.tick_params(length=0)
        axis.set(xticks=[], yticks=[], frame_on=False)
    for axis, (part, truth) in zip(axes.flat, shown, strict=False):
        frames = [images.read(folder / part / f"{truth['id']}.png") for folder in rows.values()]
        axis.imshow(np.concatenate(frames), interpolation="nearest")
        axis.set_title(f"{truth['caption_video']} ({part})", fontsize="medium")
    for axis in axes[:, 0]:
        axis.set_yticks(tiny.SIZE * (np.arange(len(rows)) + 0.5), rows)
    return drawn


def page(out: Path, plan: Plan) -> str:
    """index.html: the figure, and the strips."""
    figure, samples = (embedded(out / f"{name}.png") for name in ("study", "strips"))
    return PAGE.format(figure=figure, strips=samples, count=SHOWN, steps=plan.milestones[-1])


PAGE = """\
<!doctype html>
<meta charset="utf-8">
<title>Stages before multi-view</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; }}
img {{ max-width: 100%; }}
</style>
<h1>Stages before multi-view: images first, and curated clips</h1>
<p>Numbers: <a href="study.md">study.md</a>.</p>
<img src="{figure}">
<p>The first {count} captions of each kind; samples are of the first seed after {steps} steps, not chosen.</p>
<img src="{strips}">
"""


def embedded(path: Path) -> str:
    """A PNG as an address within the page."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def study(out: Path, plan: Plan, *, jobs: int) -> dict[str, Any]:
    """Everything above; what is in study.json."""
    runs.output_folder(out)
    runs.same_settings(out, plan)
    chains = [Chain(out, plan, seed) for seed in range(plan.seeds)]
    make_models(chains)
    for part in SEEDS:
        make_clips(out, plan, part, jobs=jobs)
    choose_clips(out, jobs=jobs)
    each_of([(encode_clips, (out, plan, part)) for part in ("scraped", "curated")], jobs=jobs)
    each_of([(learn_and_sample, (chain, name)) for chain in chains for name in ARMS], jobs=jobs)
    show_truth(out)
    found = summarize(chains)
    drawn = {"study.svg": figure(found), "study.png": figure(found), "strips.png": strips(chains[0])}
    for name, each in drawn.items():
        with runs.atomic_file(out / name) as path:
            each.savefig(path, format=Path(name).suffix[1:], dpi=130)
    runs.write_file(out / "study.md", markdown(found))
    runs.write_file(out / "index.html", page(out, plan))
    runs.write_json(out / "study.json", found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, help="default: 3; 2 with --quick")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once, of one thread each")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: longer, on a GPU")
    parser.add_argument("--quick", action="store_true", help="minutes: the machinery, not the numbers")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        plan = GPU_PLAN if memory.usable_device(given.device) == "cuda" else Plan()
        plan = QUICK if given.quick else plan
        plan = dataclasses.replace(plan, seeds=given.seeds or plan.seeds)
        found = study(given.out, plan, jobs=given.jobs)
    except Svd3dError as error:
        sys.exit(str(error))
    print(markdown(found))


if __name__ == "__main__":
    main()
