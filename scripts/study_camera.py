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

import argparse
import base64
import re
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
from studies import moving_cameras
from studies.camera_flow import watch
from studies.camera_model import GPU_PLAN, PRESETS, QUICK, Plan, Small, film, selected, train_small
from studies.common import (
    as_table,
    bold,
    certain,
    check,
    each_of,
    estimate,
    last_checkpoint,
    told,
    two_columns,
)

from svd3d import console, images, runs
from svd3d import video as videos
from svd3d.config import plain
from svd3d.errors import ConfigError, Svd3dError
from svd3d.metrics import page
from svd3d.model import encoders, memory, vae
from svd3d.settings import VideoConfig, lora_and_weight

NONE = "none"
"""The videos without a LoRA."""
MEASURES = {
    "pan": ("pan either way, widths/s", 3),
    "right": ("pan to the right, widths/s", 3),
    "zoom": ("zoom either way, doublings/s", 3),
    "in": ("zoom in, doublings/s", 3),
    "camera": ("camera, sixteenths per 1/2 s", 2),
    "motion": ("all flow, the same", 2),
}
"""What is measured of a video, its heading, and the digits that are shown."""
TARGETS = {"horizontal": ("pan", 1), "zoom": ("zoom", 1), "static": ("camera", -1)}
"""What a LoRA of this name is to change, and its way."""
SHOWN = 6
"""Pictures whose videos are on the page, the first ones."""


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


def of_small(small: Small) -> Study:
    """Of the small model, without guidance, so that videos vary as the clips do."""
    seeds = range(small.plan.seeds)
    return Study(
        small.out,
        model=str(last_checkpoint(small.base())),
        loras={name: [str(last_checkpoint(small.lora(name, seed))) for seed in seeds] for name in PRESETS},
        pictures=small.first_frames,
        seeds=small.plan.seeds,
        motion="unknown",
        steps=small.plan.sampling_steps,
        max_guidance=1.0,
        device=small.plan.device,
    )


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
    runs.write_file(study.out / "strips.png", two_columns(shown))


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
            print(report(of_small(small), small, jobs=given.jobs))
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
