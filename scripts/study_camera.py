"""What do camera-motion LoRAs do to videos? Section 4.3 and appendix D.4 of the SVD paper, measured.

    python scripts/study_camera.py --out OUT --model MODEL --pictures FOLDER
                                   --lora horizontal=FILE zoom=FILE static=FILE [--seeds 3]
    python scripts/study_camera.py --out OUT --train-small [--jobs 2] [--device cpu] [--quick]

The same pictures become videos with the same noise by `svd3d video`: without a LoRA, with each, and with the
first two together at half weight. What the camera does is measured in the optical flow of each video.
Differences are paired, with intervals for other pictures and other seeds. A LoRA that is named again is
another training of it: seeds take them in turns.

--train-small makes all that is needed by the project's own commands: clips whose cameras pan, zoom or stand
still, curated; an autoencoder and an image-to-video model on all of them; and for each seed a LoRA on those
that each camera preset selects. About an hour with --jobs 2 on two cores; on a GPU there are more clips, and
trainings are longer.

Writes OUT/study.json, study.md, strips.png of frames, and index.html with both; running it again resumes.
"""

# pyright: reportPrivateImportUsage=false, reportArgumentType=false
# (diffusers exports its names lazily, where pyright does not see them, and types all tuples as of length 1)

import argparse
import base64
import dataclasses
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

import make_videos
import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder, StableVideoDiffusionPipeline
from make_objects import write_objects
from objects import families
from studies import moving_cameras
from studies.common import (
    SCRIPTS,
    as_table,
    bold,
    certain,
    check,
    each_of,
    encode,
    estimate,
    last_checkpoint,
    learn,
    told,
)
from studies.moving_cameras import World

from svd3d import console, curate, images, launch, runs, sample, train
from svd3d import video as videos
from svd3d.config import plain, read_recipe
from svd3d.curation import camera_motion, motion, onepass, selection, table, video
from svd3d.errors import ConfigError, InputError, Svd3dError
from svd3d.metrics import page
from svd3d.model import checkpoints, encoders, memory, saving, tiny, vae
from svd3d.settings import (
    CacheConfig,
    CurateConfig,
    CurateSelectConfig,
    TrainConfig,
    VideoConfig,
    lora_and_weight,
)

RECIPES = SCRIPTS.parent / "configs/tiny"
NONE = "none"
"""The videos without a LoRA."""
ALL = "all"
"""The clips that the model learns from."""
MEASURES = {
    "pan": ("pan either way, widths/s", 3),
    "right": ("pan to the right, widths/s", 3),
    "zoom": ("zoom either way, doublings/s", 3),
    "in": ("zoom in, doublings/s", 3),
    "camera": ("camera, sixteenths per 1/2 s", 2),
    "motion": ("all flow, the same", 2),
}
"""What is measured of a video, its heading, and the digits that are shown."""
ROUNDS, FLAT = 10, 0.05
"""Of the fit to flow, and the deviation, in sixteenths of the short side, below which squares count."""
TARGETS = {"horizontal": ("pan", 1), "zoom": ("zoom", 1), "static": ("camera", -1)}
"""What a LoRA of this name is to change, and its way."""
PRESETS: dict[str, Literal["camera-pan", "camera-zoom", "camera-static"]] = {
    "horizontal": "camera-pan",
    "zoom": "camera-zoom",
    "static": "camera-static",
}
"""Of `svd3d curate select`."""
SHOWN = 6
"""Pictures whose videos are on the page, the first ones."""
SEEDS = {"train": 0, "held-out": 500_000}
"""Numbers of the first objects of each family, and seeds of the clips."""


@dataclass(frozen=True)
class Study:
    """Which videos are made and compared."""

    out: Path
    model: str
    loras: Mapping[str, Sequence[str]]
    """By name, one or more trainings of each: files, folders or hub ids, FILE=0.7 with a weight."""
    pictures: Path
    """A folder of first frames."""
    seeds: int = 3
    motion: float | Literal["unknown"] | None = None
    """As of `svd3d video`, like the next three."""
    steps: int = 25
    max_guidance: float | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ConfigError(f"seeds must be at least 1; got {self.seeds}")

    @property
    def arms(self) -> dict[str, dict[str, float]]:
        """The LoRAs of each sort of video, and their weights."""
        first, *others = self.loras
        together = {f"{first} + {others[0]}": {first: 0.5, others[0]: 0.5}} if others else {}
        return {NONE: {}, **{name: {name: 1.0} for name in self.loras}, **together}

    def config(self, arm: str, seed: int) -> VideoConfig:
        """Of the videos of one sort with one seed, those of all pictures."""
        chosen = []
        for name, share in self.arms[arm].items():
            trainings = self.loras[name]
            source, weight = lora_and_weight(trainings[seed % len(trainings)])
            chosen.append(f"{source}={share * weight:g}")
        return VideoConfig(
            prompt=str(self.pictures),
            model=self.model,
            out=self.out / "videos" / arm.replace(" ", "") / f"seed-{seed}",
            lora=tuple(chosen),
            motion=self.motion,
            steps=self.steps,
            max_guidance=self.max_guidance,
            seed=seed,
            device=self.device,
        )


def make(study: Study, arm: str, seed: int) -> None:
    """The videos of one sort with one seed."""
    check(videos.run(study.config(arm, seed), tell=console.say))


def watch(frames: np.ndarray, *, fps: float) -> dict[str, Any]:
    """What the camera of a video [t, h, w, 3] does: `MEASURES`, and its `kind` as `svd3d curate` has it.

    `camera` is the length of the flow that is fitted, `motion` that of all flow: root mean square and mean
    over the picture, in sixteenths of the short side per half a second.
    """
    scorer, sampler = motion.FlowScorer(motion.load("farneback")), onepass.Sampler()
    for index, image in enumerate(frames):
        if sampler.takes(index / fps):
            scorer.see(video.Frame(index, index / fps, image, index == 0, index))
    everything = motion.motion_score(scorer.pairs, 0, len(frames))
    if everything is None:
        raise InputError(
            f"{len(frames)} frames at {fps:g} per second: less than half a second; make longer videos"
        )
    moves = np.sum([camera_move(pair) for pair in scorer.pairs], axis=0)
    right, down, grow, turn = moves / sum(pair.dt_s for pair in scorer.pairs)
    cells, extent = camera_motion.cells_of(scorer.pairs[0]), scorer.pairs[0].extent
    lever = np.sqrt((cells**2).sum(axis=-1).mean())
    pan, zoom = float(-right / extent[0]), float(grow / np.log(2))
    return {
        "kind": camera_motion.classify(scorer.pairs).kind,
        "pan": abs(pan),
        "right": pan,
        "zoom": abs(zoom),
        "in": zoom,
        "camera": float(np.linalg.norm([right, down, grow * lever, turn * lever])) * motion.STEP_S,
        "motion": everything,
    }


def camera_move(pair: motion.FlowPair) -> np.ndarray:
    """Shift right and down in the unit of the flow, logarithm of the growth, and turn, between two frames.

    Of all similarities, that with the least sum of deviations from the flow, by iterated least squares. It
    tells something of every pair, where `svd3d curate` would rather not tell; what has no texture does not
    seem to move, so that it tells too little rather than too much.
    """
    x, y = camera_motion.cells_of(pair).reshape(-1, 2).T
    one, none = np.ones_like(x), np.zeros_like(x)
    terms = np.array([[one, none, x, -y], [none, one, y, x]]).transpose(2, 0, 1)  # [cells, 2, 4]
    flow, weights, found = pair.flow.reshape(-1, 2), one, np.zeros(4)
    for _ in range(ROUNDS):
        share = np.sqrt(weights)[:, None]
        weighted = (terms * share[..., None]).reshape(-1, 4)
        found = np.linalg.lstsq(weighted, (flow * share).ravel(), rcond=None)[0]
        weights = 1 / np.linalg.norm(terms @ found - flow, axis=-1).clip(FLAT)
    right, down, grow, turn = found
    return np.array([right, down, np.log(np.hypot(1 + grow, turn)), np.arctan2(turn, 1 + grow)])


def frames_of(folder: Path) -> np.ndarray:
    """RGBA [t, h, w, 4] of a video that was made."""
    return np.stack([images.read(path) for path in sorted((folder / "frames").iterdir())])


def summarize(study: Study) -> dict[str, Any]:
    """What is in study.json of the videos."""
    first = study.config(NONE, 0).out
    names = sorted(path.parent.name for path in first.glob("*/video.json"))
    seen = {
        arm: [
            [
                watch(frames_of(config.out / name)[..., :3], fps=config.fps)
                for name in names
            ]
            for config in (study.config(arm, seed) for seed in range(study.seeds))
        ]
        for arm in study.arms
    }  # fmt: skip

    def values(arm: str, measure: str) -> np.ndarray:
        """Of [seeds, pictures]."""
        return np.array([[each[measure] for each in row] for row in seen[arm]])

    return {
        "model": study.model,
        "loras": {name: list(trainings) for name, trainings in study.loras.items()},
        "seeds": study.seeds,
        "pictures": names,
        "of": {arm: {measure: estimate(values(arm, measure)) for measure in MEASURES} for arm in seen},
        "change": {
            arm: {measure: estimate(values(arm, measure) - values(NONE, measure)) for measure in MEASURES}
            for arm in seen
            if arm != NONE
        },
        "kinds": {
            arm: dict(Counter(each["kind"] for row in rows for each in row)) for arm, rows in seen.items()
        },
        "videos": seen,
    }


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
    lora_steps=500, sampling_steps=25, clips_at_once=24, device="auto",
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

    def study(self) -> Study:
        """Without guidance, so that videos vary as the clips do."""
        seeds = range(self.plan.seeds)
        return Study(
            self.out,
            model=str(last_checkpoint(self.base())),
            loras={name: [str(last_checkpoint(self.lora(name, seed))) for seed in seeds] for name in PRESETS},
            pictures=self.out / "held-out/pictures",
            seeds=self.plan.seeds,
            motion="unknown",
            steps=self.plan.sampling_steps,
            max_guidance=1.0,
            device=self.plan.device,
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
    pictures = runs.output_folder(small.study().pictures)
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


def ceiling(small: Small) -> dict[str, Any]:
    """What is measured of held-out clips, as they are and from their latents, and what is true."""
    network = encoders.load(str(last_checkpoint(small.autoencoder())), dtype=torch.float32, device="cpu").vae
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for truth in moving_cameras.truths(small.world("held-out")):
        frames = film(small.films("held-out") / f"{truth.uid}.mkv")
        with torch.no_grad():
            pixels = torch.from_numpy(frames).movedim(-1, 1).float() / 127.5 - 1
            (back,) = vae.decode(network, vae.encode_views(network, pixels)[None])
        decoded = images.to_uint8(((back + 1) / 2).clamp(0, 1).movedim(1, -1).numpy())
        of_kind = found.setdefault(truth.kind, {name: [] for name in ("true", "clips", "decoded")})
        of_kind["true"].append({"kind": truth.kind, "pan": abs(truth.pan), "zoom": abs(truth.zoom)})
        of_kind["clips"].append(watch(frames, fps=make_videos.FPS))
        of_kind["decoded"].append(watch(decoded, fps=make_videos.FPS))
    return {
        kind: {
            source: {
                **{name: float(np.mean([each[name] for each in seen])) for name in ("pan", "zoom")},
                "right": float(np.mean([each["kind"] == kind for each in seen])),
            }
            for source, seen in of_kind.items()
        }
        for kind, of_kind in found.items()
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The tables, and how to read them."""
    headings = ["LoRA", *(heading for heading, _ in MEASURES.values())]
    digits = {measure: shown for measure, (_, shown) in MEASURES.items()}
    of, change, total = found["of"], found["change"], found["seeds"] * len(found["pictures"])
    kinds = sorted({kind for counts in found["kinds"].values() for kind in counts})
    parts = [
        "# What camera-motion LoRAs do",
        f"Videos of {len(found['pictures'])} pictures with {found['seeds']} seeds by {found['model']}, the "
        "same with each LoRA as without. The camera: the similarity that is nearest to the optical flow over "
        "a whole video. In brackets: 95 % intervals, for other "
        "pictures and other seeds. Bold: the interval leaves out 0.",
        "\n".join(f"- {line}" for line in verdicts(change)),
        "## With minus without",
        as_table(
            [headings]
            + [
                [arm, *(bold(of_arm[name], digits[name]) for name in MEASURES)]
                for arm, of_arm in change.items()
            ]
        ),
        "## As measured",
        as_table(
            [headings]
            + [[arm, *(told(of_arm[name], digits[name]) for name in MEASURES)] for arm, of_arm in of.items()]
        ),
        f"## What `svd3d curate` calls it, of {total} videos each",
        as_table(
            [["LoRA", *kinds]]
            + [[arm, *(str(counts.get(kind, 0)) for kind in kinds)] for arm, counts in found["kinds"].items()]
        ),
    ]
    if "plan" in found:
        parts.append(small_markdown(found))
    return "\n\n".join(filter(None, parts)) + "\n"


def verdicts(change: Mapping[str, Any]) -> list[str]:
    """Whether each LoRA with a known aim does what it is for, in words."""
    lines = []
    for name in (name for name in change if name in TARGETS):
        measure, way = TARGETS[name]
        heading, digits = MEASURES[measure]
        difference = change[name][measure]
        does = (
            "does what it is for" if way * difference["mean"] > 0 else "does the opposite of what it is for"
        )
        if not certain(difference):
            does = "may do nothing of what it is for"
        lines.append(f"{name} {does}: {heading}, with minus without: {told(difference, digits)}")
    return lines


def small_markdown(found: Mapping[str, Any]) -> str:
    """What --train-small made before the videos."""
    plan = found["plan"]
    rows = [["preset", "selected", "rightly", "precision", "of", "recall"]]
    for preset, each in found["selected"].items():
        precision, recall = (f"{each['right'] / max(each[of], 1):.2f}" for of in ("selected", "there"))
        rows.append(
            [preset, str(each["selected"]), str(each["right"]), precision, str(each["there"]), recall]
        )
    seen = [["clips", "what is measured", *(MEASURES[name][0] for name in ("pan", "zoom")), "kind is right"]]
    for kind, sources in found["ceiling"].items():
        for source, each in sources.items():
            values = [f"{each[name]:.3f}" for name in ("pan", "zoom")]
            seen.append([kind, source, *values, f"{each['right']:.2f}"])
    return "\n\n".join(
        [
            "## How the model and the LoRAs were made",
            f"The model learnt from {plan['clips']} clips of {plan['frames']} frames of "
            f"{moving_cameras.SIZE} pixels, a third each with a camera that stands still, pans and zooms, in "
            f"{plan['base_steps']} steps from random weights; its autoencoder in {plan['autoencoder_steps']} "
            "steps. There is one such model: intervals do not tell of other ones. Each LoRA learnt in "
            f"{plan['lora_steps']} steps from the clips that a preset of `svd3d curate select` took; each of "
            f"{plan['seeds']} seeds has LoRAs of its own.",
            as_table(rows),
            "What can be measured at best, of clips that are held out, in the mean: what is true, what is "
            "measured of the clips, and of what the autoencoder makes of them.",
            as_table(seen),
        ]
    )  # fmt: skip


def write_page(study: Study, found: Mapping[str, Any], report: str) -> None:
    """OUT/index.html: the report, and frames of some videos; OUT/strips.png: the frames."""
    parts = [as_html(block) for block in report.split("\n\n")]
    parts.append(f"<h2>Videos of the first {SHOWN} pictures, with the first seed</h2>")
    shown = [strips(study, name) for name in found["pictures"][:SHOWN]]
    for number, (name, seen) in enumerate(zip(found["pictures"], shown, strict=False)):
        picture = base64.b64encode(page.stacked([seen])).decode("ascii")
        kinds = ", ".join(f"{arm}: {found['videos'][arm][0][number]['kind']}" for arm in study.arms)
        parts.append(
            f"<figure><figcaption>{escape(name)}, from top to bottom {escape(kinds)}</figcaption>"
            f'<img alt="frames of {escape(name)}" src="data:image/png;base64,{picture}"></figure>'
        )
    runs.write_file(study.out / "index.html", page.document("What camera-motion LoRAs do", parts))
    shown += [np.full_like(shown[0], 255)] * (len(shown) % 2)
    pairs = zip(shown[::2], shown[1::2], strict=True)
    runs.write_file(study.out / "strips.png", page.stacked([np.concatenate(pair, axis=1) for pair in pairs]))


def strips(study: Study, name: str) -> np.ndarray:
    """Frames [h, w, 3] of the videos of a picture with the first seed, a row for each arm."""
    folders = [study.config(arm, 0).out / name for arm in study.arms]
    return np.concatenate([page.thumbnails(frames_of(folder)) for folder in folders])


def as_html(block: str) -> str:
    """A heading, a table, a list or a paragraph of our Markdown as HTML."""
    text = re.sub(r"`(.+?)`", r"<code>\1</code>", re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(block)))
    lines = text.splitlines()
    if hashes := re.match("#+", text):
        level = len(hashes[0])
        return f"<h{level}>{text.lstrip('# ')}</h{level}>"
    if lines[0].startswith("- "):
        return "<ul>" + "".join(f"<li>{line[2:]}</li>" for line in lines) + "</ul>"
    if lines[0].startswith("| "):
        rows = [line.strip("| ").split(" | ") for line in (lines[0], *lines[2:])]
        return "<table>" + "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in rows) + "</table>"
    return f"<p>{text}</p>"


def report(study: Study, small: Small | None, *, jobs: int) -> str:
    """Make the videos, and write everything that is found; the text of study.md."""
    each_of([(make, (study, arm, seed)) for seed in range(study.seeds) for arm in study.arms], jobs=jobs)
    found = summarize(study)
    if small is not None:
        found |= {"plan": plain(small.plan), "selected": selected(small), "ceiling": ceiling(small)}
    text = markdown(found)
    runs.write_json(study.out / "study.json", found)
    runs.write_file(study.out / "study.md", text)
    write_page(study, found, text)
    return text


def named(given: Sequence[str]) -> dict[str, list[str]]:
    """LoRAs by name, of words such as zoom=FILE. Raises `ConfigError` for others."""
    found: dict[str, list[str]] = {}
    for each in given:
        name, _, source = each.partition("=")
        if not re.fullmatch(r"[\w-]+", name) or name == NONE or not source:
            raise ConfigError(f"lora {each}: not a LoRA with a name; write one such as zoom=FILE")
        found.setdefault(name, []).append(source)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="an image-to-video model: a hub id or a folder")
    parser.add_argument("--lora", nargs="+", metavar="NAME=FILE", help="LoRAs of it, FILE=0.7 with a weight")
    parser.add_argument("--pictures", type=Path, help="a folder of first frames")
    parser.add_argument("--seeds", type=int, default=3, help="videos of each picture")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps")
    parser.add_argument("--motion", type=motion_told, help="as of svd3d video, or unknown")
    parser.add_argument("--train-small", action="store_true", help="make a small model and its LoRAs first")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once, of one thread each")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument("--quick", action="store_true", help="minutes: the machinery, not the numbers")
    given = parser.parse_args()
    try:
        if given.train_small:
            torch.set_num_threads(1)
            plan = GPU_PLAN if memory.usable_device(given.device) == "cuda" else Plan()
            small = Small(runs.output_folder(given.out), QUICK if given.quick else plan)
            runs.same_settings(small.out, small.plan)
            train_small(small, jobs=given.jobs)
            print(report(small.study(), small, jobs=given.jobs))
        elif given.model and given.lora and given.pictures:
            print(report(asked(given), None, jobs=given.jobs))
        else:
            parser.error("--model, --lora and --pictures are needed, or --train-small")
    except Svd3dError as error:
        sys.exit(str(error))


def asked(given: argparse.Namespace) -> Study:
    """What the command line asks for."""
    return Study(
        given.out,
        model=given.model,
        loras=named(given.lora),
        pictures=runs.input_path(given.pictures, what="folder of pictures"),
        seeds=given.seeds,
        motion=given.motion,
        steps=given.steps,
        device=given.device,
    )


def motion_told(word: str) -> float | Literal["unknown"]:
    """Of a word of the command line. Raises `ValueError`, of which argparse makes its message."""
    return "unknown" if word == "unknown" else float(word)


if __name__ == "__main__":
    main()
