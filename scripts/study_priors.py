"""Does a prior from videos help a multi-view model? Section 4.5 and figure 10(b) of the SVD paper, in small.

    python scripts/study_priors.py --out OUT [--real VIEWS_OR_OBJECTS] [--jobs 2] [--quick]

Three starts of the UNet of the bundled model learn orbits of procedural objects:

    video   first single frames of clips, then whole clips: the video prior
    image   the same first stage, then as many single frames as the other saw in clips: the image prior
    none    random weights

Every step of every stage sees 42 frames, and both priors take as many steps, so their pretraining costs the
same. All three share autoencoder, orbits, order of samples, noise, steps, batch and learning rate. A seed
repeats all but the data, from the first weights on. On the way, views of held-out objects are sampled and
scored: procedural ones, half of them of families that no stage has seen, where there are such; with --real
also objects of somebody else: sample folders of `svd3d render`, or 3-D files, which are rendered first.

Writes OUT/study.json, study.md, study.svg, study.png and strips.png of samples; running it again resumes. It
works on CPUs, with one thread for each of --jobs processes, and needs 4 GB of disk.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from objects import families
from studies.common import (
    SCRIPTS,
    Estimate,
    Given,
    as_table,
    bold,
    certain,
    check,
    each_of,
    encode,
    estimate,
    last_checkpoint,
    learn,
    script,
    told,
    two_columns,
)

from render import run as render
from render.config import RenderConfig
from svd3d import console, evaluate, generate, runs, sample
from svd3d.cameras import DEFAULT_VIEWS
from svd3d.config import plain, read_recipe
from svd3d.errors import Svd3dError, require
from svd3d.metrics import page
from svd3d.metrics.report import Row, by_object
from svd3d.model import checkpoints, saving, tiny
from svd3d.settings import CacheConfig, EvaluateConfig, GenerateConfig, TrainConfig

RECIPES = SCRIPTS.parent / "configs/tiny"
PRIORS = {"video": ("image", "video"), "image": ("image", "image"), "none": ()}
"""The recipes that each start has learnt by, one after the other; the first stage is the same run."""
COPIED = "input-copied"
CLIP_FRAMES = 14
FRAMES = 42
"""In each step of every stage."""
SAMPLES = {"image": FRAMES, "video": FRAMES // CLIP_FRAMES, "multi-view": FRAMES // DEFAULT_VIEWS}
"""Frames, clips and orbits in a step."""
DIGITS = {"psnr": 2, "ssim": 3}
"""That are shown of each metric."""
SEEDS = {"orbits": 0, "clips": 200_000, "unseen": 400_000}
"""Numbers of the first objects of each family: no object is in two of these."""
COLOURS = {"video": "#0072b2", "image": "#d55e00", "none": "#009e73"}
"""Told apart by colour-blind people too (Okabe and Ito)."""
PAIRS = {"video - image": "#cc79a7", "image - none": "#e69f00", "video - none": "#56b4e9"}
"""Of starts that are compared, in other colours of theirs."""
SHOWN = 4
"""Objects of each group whose samples are in strips.png."""


@dataclass(frozen=True)
class Plan:
    """How much of everything. As it stands: under an hour on two CPU cores."""

    seeds: int = 3
    known_families: tuple[str, ...] = families.TRAINED
    unknown_families: tuple[str, ...] = tuple(sorted(families.HELD_OUT))
    """No stage sees these."""
    orbits: int = 320
    """To train on; so many objects."""
    clips: int = 400
    """To pretrain on, of a third as many other objects."""
    unseen: int = 16
    """Held-out procedural objects whose views are sampled."""
    real: Path | None = None
    """Sample folders, or 3-D files to render."""
    real_objects: int = 6
    """So many of them, at most."""
    first_steps: int = 200
    """Of the stage on images that both priors begin with."""
    second_steps: int = 440
    """Of the stage in which they differ."""
    milestones: tuple[int, ...] = (40, 80, 160, 320)
    """Steps of multi-view training after which views are sampled; the last one ends it."""
    sampling_steps: int = 8
    learning_rate: float = 5e-4
    """Of multi-view training, constant after a short warm-up, so that every milestone is an end."""
    held_out: float = 0.05
    """Share of the orbits that only the held-out loss is taken of."""


QUICK = Plan(
    seeds=2, orbits=16, clips=8, unseen=2, real_objects=1, first_steps=2, second_steps=2, milestones=(2,),
    sampling_steps=2, held_out=0.3,
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

    def start(self, prior: str) -> Path:
        """The model that multi-view training begins with."""
        if prior == "none":
            return self.folder / "random"
        return last_checkpoint(self.pretraining(prior, stage=1))

    def pretraining(self, prior: str, *, stage: int) -> TrainConfig:
        """The first or second stage of a prior; the first ones are the same."""
        recipe = PRIORS[prior][stage]
        begins = last_checkpoint(self.pretraining(prior, stage=0)) if stage else self.folder / "still"
        return learning(
            recipe,
            model=begins,
            data=self.out / "data/clips/latents",
            out=self.folder / (f"{prior}-prior" if stage else "first"),
            seed=self.seed,
            steps=self.plan.second_steps if stage else self.plan.first_steps,
        )

    def multi_view(self, prior: str, *, steps: int) -> TrainConfig:
        """Multi-view training up to a milestone."""
        return learning(
            "multi-view",
            model=self.folder / f"{prior}-start",
            data=self.out / "data/orbits/latents",
            out=self.folder / prior,
            seed=self.seed,
            steps=steps,
            learning_rate=self.plan.learning_rate,
            lr_scheduler="constant",
            lr_warmup_steps=self.plan.milestones[-1] // 20,
            validation_steps=steps,
            validation_batches=1000,
            held_out=self.plan.held_out,
        )

    def scores(self, prior: str, *, step: int) -> Path:
        """The report of svd3d evaluate at a milestone."""
        return self.folder / prior / f"scored-{step}/scores"


def learning(
    recipe: str, *, model: Path, data: Path, out: Path, seed: int, steps: int, **settings: Any
) -> TrainConfig:
    """Training by a recipe for so many steps."""
    common = {
        "model": str(model),
        "data": data,
        "out": out,
        "max_train_steps": steps,
        "train_batch_size": SAMPLES[recipe],
        "global_batch_size": SAMPLES[recipe],
        "lr_warmup_steps": steps // 20,
        "checkpointing_steps": 200,
        "checkpoints_total_limit": 1,
        "validation_steps": None,
        "validation_objects": 0,
        "report_to": (),
        "seed": seed,
        "device": "cpu",
    }
    return TrainConfig(**{**read_recipe(TrainConfig, RECIPES / f"{recipe}.yaml"), **common, **settings})


def make_orbits(out: Path, plan: Plan) -> None:
    """Orbits to train on, and their latents."""
    folder = out / "data/orbits"
    render_objects(folder, plan.known_families, count=plan.orbits, seed=SEEDS["orbits"])
    encode(CacheConfig(folder / "views", folder / "latents", backgrounds=("white",), device="cpu"))


def make_clips(out: Path, plan: Plan) -> None:
    """Clips to pretrain on, and their latents."""
    folder, size = out / "data/clips", (tiny.SIZE, tiny.SIZE)
    make_objects(folder, plan.known_families, count=-(-plan.clips // 3), seed=SEEDS["clips"])
    script(
        "make_videos.py", folder / "objects.jsonl", out=folder / "films", count=plan.clips, frames=CLIP_FRAMES
    )
    films = CacheConfig(folder / "films", folder / "latents", clip_size=size, clip_frames=CLIP_FRAMES)
    encode(dataclasses.replace(films, device="cpu"))


def make_truth(out: Path, plan: Plan) -> None:
    """OUT/data/truth: the orbits that are to be sampled, at the size of the model, named by their groups."""
    of_unknown = plan.unseen // 2 if plan.unknown_families else 0
    parts = {
        "known": (plan.known_families, plan.unseen - of_unknown),
        "unknown": (plan.unknown_families, of_unknown),
    }
    found: dict[str, list[Path]] = {"procedural": [], "real": []}
    for part, (names, count) in parts.items():
        if count:
            folder = out / f"data/{part}-families"
            render_objects(folder, names, count=count, seed=SEEDS["unseen"])
            found["procedural"] += sample.find(folder / "views")
    if plan.real is not None:
        found["real"] = spread(real_orbits(plan.real, out / "data/real"), plan.real_objects)
    truth = runs.output_folder(out / "data/truth")
    for group, folders in found.items():
        for folder in folders:
            name = f"{group}-{folder.name}"
            if not sample.is_sample(truth / name):
                with runs.atomic_folder(truth / name) as place:
                    resized = sample.read(folder).resized(tiny.SIZE)
                    sample.write(dataclasses.replace(resized, uid=name), place)


def make_objects(out: Path, names: Sequence[str], *, count: int, seed: int) -> None:
    script("make_objects.py", families=names, count=count, seed=seed, out=out)


def render_objects(folder: Path, names: Sequence[str], *, count: int, seed: int) -> None:
    make_objects(folder, names, count=count, seed=seed)
    objects = folder / "objects.jsonl"
    script("make_orbits.py", objects, out=folder / "views", size=tiny.SIZE, start_deg="any")


def real_orbits(real: Path, out: Path) -> list[Path]:
    """Sample folders as they are, or those that `svd3d render` makes of 3-D files."""
    if found := sample.find(real):
        return found
    config = RenderConfig(source=real, out=out, size=tiny.SIZE)
    check(console.progress(render.run(config), label=f"render {real}", total=render.count(config)))
    return sample.find(out)


def spread(given: Sequence[Given], count: int) -> list[Given]:
    """At most so many, evenly from the first to the last."""
    if len(given) <= count:
        return list(given)
    return [given[place] for place in np.linspace(0, len(given) - 1, count).round().astype(int)]


def make_starts(folder: Path, *, seed: int) -> None:
    """Two models below `folder`, equal but for the last layers of what mixes frames.

    `still`: they are zero, as where an image model becomes a video model. `random`: all weights are.
    """
    for name, weights in (("still", checkpoints.still_weights), ("random", checkpoints.random_weights)):
        if not (folder / name).exists():
            network = tiny.unet(time_ids=3)
            with runs.atomic_folder(folder / name) as place:
                saving.link_frozen(tiny.FOLDER, place, learns="unet", conditioning="svd")
                network.save_config(place / "unet")
                checkpoints.write_weights(weights(network, seed=seed), place / saving.weights("unet"))


def pretrain(chain: Chain, prior: str, stage: int) -> None:
    """One stage of a prior."""
    make_starts(runs.output_folder(chain.folder), seed=chain.seed)
    learn(chain.pretraining(prior, stage=stage))


def learn_orbits(chain: Chain, prior: str) -> None:
    """Multi-view training; at every milestone, and before it, the held-out views are sampled and scored."""
    start = chain.folder / f"{prior}-start"
    if not start.exists():
        known = checkpoints.from_folder(chain.start(prior))
        with runs.atomic_folder(start) as folder:
            checkpoints.write(checkpoints.multi_view(known, size=tiny.SIZE), folder)
    for step in (0, *chain.plan.milestones):
        out = chain.scores(prior, step=step)
        if not (out / "report.json").is_file():
            config = chain.multi_view(prior, steps=max(step, 1))
            if step:
                learn(config)
            paint(chain, last_checkpoint(config) if step else start, out)


def paint(chain: Chain, model: Path, out: Path) -> None:
    """Sample the held-out views without guidance, and score them."""
    truth = chain.out / "data/truth"
    check(
        generate.run(
            GenerateConfig(
                image=truth,
                out=out.parent / "views",
                model=str(model),
                steps=chain.plan.sampling_steps,
                max_guidance=1.0,
                seed=chain.seed,
                device="cpu",
                dtype="bfloat16",
            )
        )
    )
    views = f"model={out.parent / 'views'}"
    evaluate.run(EvaluateConfig(pred=(views,), ref=truth, out=out, metrics=("psnr", "ssim"), device="cpu"))


Report = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
"""By method, metric and object, one number a view."""


def summarize(chains: Sequence[Chain]) -> dict[str, Any]:
    """What is in study.json, from the reports and metrics of all seeds; lists are by `steps`."""
    plan = chains[0].plan
    steps = [0, *plan.milestones]
    reports = {
        prior: [[read_report(chain.scores(prior, step=step)) for chain in chains] for step in steps]
        for prior in PRIORS
    }
    losses = {prior: held_out_loss(chains, prior) for prior in PRIORS}
    one = reports["none"][0][0]
    names = sorted(one[COPIED]["psnr"])
    groups = {
        group: [name for name in names if name.startswith(f"{group}-")]
        for group in dict.fromkeys(name.partition("-")[0] for name in names)
    }
    return {
        "plan": plain(plan),
        "steps": steps,
        "parameters": sum(each.numel() for each in tiny.unet().parameters()),
        "pretraining": {prior: spent(chains, prior) for prior in PRIORS},
        "held_out_loss": {
            "of": {prior: [estimate(each) for each in by_step] for prior, by_step in losses.items()},
            "ahead": differences(losses),
        },
        "groups": {
            group: {"objects": chosen, **{metric: compare(reports, metric, chosen) for metric in DIGITS}}
            for group, chosen in groups.items()
        },
    }


def compare(
    reports: Mapping[str, Sequence[Sequence[Report]]], metric: str, objects: Sequence[str]
) -> dict[str, Any]:
    """A metric of some objects: of each prior, of pairs of them, and against the input copied.

    `reports` are by prior, step and seed.
    """

    def scores(of: Sequence[Report], method: str) -> np.ndarray:
        """[seeds, objects], means over views."""
        return np.array([[np.mean(each[method][metric][name]) for name in objects] for each in of])

    values = {prior: [scores(of, "model") for of in by_step] for prior, by_step in reports.items()}
    copied = scores(reports["none"][0][:1], COPIED)
    return {
        "of": {prior: [estimate(each) for each in by_step] for prior, by_step in values.items()},
        "by_seed": {
            prior: [each.mean(axis=1).tolist() for each in by_step] for prior, by_step in values.items()
        },
        "ahead": differences(values),
        COPIED: estimate(copied),
        "ahead_of_copied": {prior: estimate(by_step[-1] - copied) for prior, by_step in values.items()},
    }


def differences(values: Mapping[str, Sequence[np.ndarray]]) -> dict[str, list[Estimate]]:
    """Of pairs of priors by step, from numbers [seeds, objects] by prior and step."""
    return {
        pair: [
            estimate(ours - theirs)
            for ours, theirs in zip(*(values[prior] for prior in pair.split(" - ")), strict=True)
        ]
        for pair in PAIRS
    }


def read_report(folder: Path) -> Report:
    """What svd3d evaluate has measured."""
    content = json.loads((folder / "report.json").read_text("utf-8"))
    return by_object(Row(**row) for row in content["rows"])


def spent(chains: Sequence[Chain], prior: str) -> dict[str, Any]:
    """Frames that a prior has seen, and the seconds that its steps took, in the mean over seeds."""
    stages = [
        [chain.pretraining(prior, stage=stage) for stage in range(len(PRIORS[prior]))] for chain in chains
    ]
    seconds = [
        sum(line["seconds"] for config in each for line in runs.read_lines(config.out / saving.METRICS))
        for each in stages
    ]
    return {"frames": sum(map(frames_seen, stages[0])), "seconds": float(np.mean(seconds))}


def frames_seen(config: TrainConfig) -> int:
    """In all steps of a training on clips."""
    return config.max_train_steps * config.train_batch_size * (config.num_views or CLIP_FRAMES)


def held_out_loss(chains: Sequence[Chain], prior: str) -> list[np.ndarray]:
    """At each milestone, [seeds, 1]."""
    milestones = chains[0].plan.milestones
    lines = [runs.read_lines(chain.folder / prior / saving.METRICS) for chain in chains]
    losses = [{line["step"]: line["validation_loss"] for line in of_seed} for of_seed in lines]
    return [np.array([[of_seed[step]] for of_seed in losses]) for step in milestones]


def figure(found: Mapping[str, Any]) -> Any:
    """For each group of objects: PSNR and SSIM by step, and below how far priors are ahead in PSNR."""
    require("matplotlib", extra="train", reason="the figure of the study")
    from matplotlib.figure import Figure

    groups, steps = found["groups"], found["steps"]
    drawn = Figure(figsize=(5.2 * len(groups), 6.4), layout="constrained")
    axes = drawn.subplots(2, len(groups), squeeze=False, height_ratios=(3, 2), sharex=True)
    for (upper, lower), (group, each) in zip(axes.T, groups.items(), strict=True):
        right = upper.twinx()
        for prior, color in COLOURS.items():
            psnr = np.array(each["psnr"]["by_seed"][prior])
            upper.fill_between(steps, psnr.min(axis=1), psnr.max(axis=1), color=color, alpha=0.2, lw=0)
            upper.plot(steps, psnr.mean(axis=1), color=color, marker="o", ms=3, label=f"prior: {prior}")
            right.plot(steps, [value["mean"] for value in each["ssim"]["of"][prior]], color=color, ls=":")
        copied = each["psnr"][COPIED]["mean"]
        upper.axhline(copied, color="#888888", ls="--", lw=1, label=f"{COPIED}, PSNR")
        upper.set_title(f"{len(each['objects'])} {group} objects")
        upper.set_ylabel("PSNR in dB (solid; band: all seeds)")
        right.set_ylabel("SSIM (dotted)")
        for place, (pair, values) in enumerate(each["psnr"]["ahead"].items()):
            means = [value["mean"] for value in values]
            half = [(value["interval"] or [value["mean"]])[-1] - value["mean"] for value in values]
            beside = np.array(steps) + (place - 1) * steps[-1] / 100  # or bars would hide each other
            lower.errorbar(
                beside, means, half, color=PAIRS[pair], label=pair, marker="o", ms=3, lw=1, capsize=3
            )
        lower.axhline(0, color="#888888", lw=1)
        lower.set_ylabel("PSNR ahead in dB (95 % intervals)")
        lower.set_xlabel("steps of multi-view training")
    for row in axes:
        row[0].legend(frameon=False, fontsize="small")
    return drawn


def markdown(found: Mapping[str, Any]) -> str:
    """The tables, and how to read them."""
    plan, steps = found["plan"], found["steps"]
    cost = "; ".join(
        f"{prior} {each['frames']} frames, {each['seconds']:.0f} s"
        for prior, each in found["pretraining"].items()
    )
    parts = [
        "# Priors from videos, from images, and none",
        f"{found['parameters'] / 1e6:.1f} million parameters learn {steps[-1]} steps of "
        f"{SAMPLES['multi-view']} orbits at a learning rate of {plan['learning_rate']:g}. Number of seeds: "
        f"{plan['seeds']}; each repeats all but the data, from the first weights on. Views of "
        f"{tiny.SIZE} pixels are sampled in {plan['sampling_steps']} steps without guidance, of "
        "averaged weights.",
        f"Pretraining, of each seed: {cost}. The priors share {plan['first_steps']} steps on single frames, "
        f"then take {plan['second_steps']} more on clips or on as many single frames of them.",
        "In brackets: 95 % intervals, for other seeds and other objects of the same kinds. Differences are "
        "paired, of the same objects and seeds; of two starts, the first minus the second. Bold: the "
        "interval leaves out 0.",
    ]
    for group, each in found["groups"].items():
        parts.append(f"## {len(each['objects'])} {group} objects")
        for metric, digits in DIGITS.items():
            of = each[metric]
            rows = [[f"{metric}, after steps", *map(str, steps), f"ahead of {COPIED}"]]
            for prior, values in of["of"].items():
                ahead = bold(of["ahead_of_copied"][prior], digits)
                rows.append([prior, *(told(value, digits) for value in values), ahead])
            for pair, values in of["ahead"].items():
                rows.append([pair, *(bold(value, digits) for value in values), ""])
            rows.append([COPIED, *[""] * len(steps[1:]), told(of[COPIED], digits), ""])
            parts.append(as_table(rows))
        parts.append(" ".join(verdict(pair, values[-1]) for pair, values in each["psnr"]["ahead"].items()))
    if "real" not in found["groups"]:
        parts.append("Real objects: not computed, because --real was not given.")
    parts.append(NOT_COMPUTED)
    rows = [["prior, after steps", *map(str, steps[1:])]]
    for prior, values in found["held_out_loss"]["of"].items():
        rows.append([prior, *(told(each, 3) for each in values)])
    for pair, values in found["held_out_loss"]["ahead"].items():
        rows.append([pair, *(bold(each, 3) for each in values)])
    return "\n\n".join([*parts, "## Held-out loss", as_table(rows), CAVEATS])


NOT_COMPUTED = """\
LPIPS and CLIP-S: not computed, because on a CPU their networks would take longer than all the rest. All views
are kept: `svd3d evaluate --pred OUT/seed-0/video/scored-N/views --ref OUT/data/truth --out SCORES`."""
CAVEATS = """\
Intervals of the loss are over seeds. It is of single denoising steps, with noise of its own for each seed and
the same for each start: lower does not mean better samples.

## How far this reaches

The clips show procedural objects, not those of the orbits but of the same families, that move, turn and
change their form, while the camera stands, pans, zooms or goes partly around them. This is nearer to orbits
than the videos of the paper: a prior from films of streets would be worth less.

Objects whose views are sampled were in no stage. Where families are held out, half of the procedural ones
are of these.

Stages take the recipes configs/tiny/image.yaml and video.yaml, which differ in their levels of noise, too.

The start without a prior had no pretraining, so it had less compute. Its layers between frames are random, as
in the paper; those of the image prior change nothing at first.
"""


def strips(first: Chain, found: Mapping[str, Any]) -> bytes:
    """A PNG of some objects of each group, none of them chosen.

    Of each the true views, and below them samples of each start after all steps of the first seed.
    """
    last = first.plan.milestones[-1]
    rows = [first.out / "data/truth"]
    rows += [first.scores(prior, step=last).parent / "views" for prior in PRIORS]
    names = [name for each in found["groups"].values() for name in spread(each["objects"], SHOWN)]
    return two_columns(
        [np.concatenate([page.thumbnails(sample.read(row / name).images) for row in rows]) for name in names]
    )


def verdict(pair: str, difference: Estimate) -> str:
    """A paired difference in PSNR at the end, in words."""
    one, other = pair.split(" - ")
    if not certain(difference):
        return f"Whether {one} or {other} is ahead is not certain: {pair} = {told(difference, 2)} dB."
    first, second = (one, other) if difference["mean"] > 0 else (other, one)
    return f"{first} is ahead of {second}: {pair} = {told(difference, 2)} dB."


def study(out: Path, plan: Plan, *, jobs: int) -> dict[str, Any]:
    """Everything above; what is in study.json."""
    runs.output_folder(out)
    runs.same_settings(out, plan)
    chains = [Chain(out, plan, seed) for seed in range(plan.seeds)]
    pretrained = [prior for prior, stages in PRIORS.items() if stages]
    each_of([(make, (out, plan)) for make in (make_clips, make_orbits, make_truth)], jobs=jobs)
    each_of([(pretrain, (chain, pretrained[0], 0)) for chain in chains], jobs=jobs)
    each_of([(pretrain, (chain, prior, 1)) for chain in chains for prior in pretrained], jobs=jobs)
    each_of([(learn_orbits, (chain, prior)) for chain in chains for prior in PRIORS], jobs=jobs)
    found = summarize(chains)
    drawn = figure(found)
    for kind in ("svg", "png"):
        with runs.atomic_file(out / f"study.{kind}") as path:
            drawn.savefig(path, format=kind, dpi=130)
    runs.write_file(out / "strips.png", strips(chains[0], found))
    runs.write_file(out / "study.md", markdown(found))
    runs.write_json(out / "study.json", found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--real", type=Path, help="sample folders, or 3-D files to render")
    parser.add_argument("--seeds", type=int, help="default: 3; 2 with --quick")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once, of one thread each")
    parser.add_argument("--quick", action="store_true", help="minutes: the machinery, not the numbers")
    given = parser.parse_args()
    plan = QUICK if given.quick else Plan()
    plan = dataclasses.replace(plan, seeds=given.seeds or plan.seeds, real=given.real)
    torch.set_num_threads(1)
    try:
        found = study(given.out, plan, jobs=given.jobs)
    except Svd3dError as error:
        sys.exit(str(error))
    print(markdown(found))


if __name__ == "__main__":
    main()
