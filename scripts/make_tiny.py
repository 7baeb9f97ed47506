"""The bundled model from nothing, in the stages of the SVD paper, by the project's own commands.

    python scripts/make_tiny.py --out RUN                      two families, on CPUs: hours
    python scripts/make_tiny.py --out RUN --plan general       all trained families, on a GPU
    python scripts/make_tiny.py --out RUN --list               what would run, and nothing else

    objects       scripts/make_objects.py, those to train on and others to be held out
    views         scripts/make_orbits.py of both
    clips         scripts/make_videos.py of the objects to train on
    start         random weights of svd3d.model.tiny; layers across frames change nothing yet
    autoencoder   svd3d train configs/tiny/autoencoder.yaml, on orbits of the first objects
    latents       svd3d cache of views and clips with that autoencoder
    image         svd3d train configs/tiny/image.yaml, on single frames of the clips
    video         svd3d train configs/tiny/video.yaml, on the clips, from the image stage
    multi-view    svd3d train configs/tiny/multi-view.yaml, on the orbits, from the video stage
    export        svd3d convert --dtype float16 --max-guidance-scale 1
    gate          scripts/gate.py on the held-out objects

Every command resumes, so this resumes; it ends with the first one that fails. `--from STAGE` and `--to STAGE`
run a part. `--processes 2` trains the stages of the UNet in so many processes, a core each.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from diffusers import StableVideoDiffusionPipeline  # pyright: ignore[reportPrivateImportUsage]
from objects import families

from svd3d.model import checkpoints, tiny

ROOT = Path(__file__).resolve().parents[1]
FIRST_HELD_OUT = 1_000_000
"""Number of the first object that is held out; those that are trained on count from 0."""


@dataclass(frozen=True)
class Plan:
    """How much of what a model is made of."""

    recipes: Path
    """Folder of the four recipes."""
    families: tuple[str, ...]
    objects: int
    pictured: int
    """Objects, the first ones, whose orbits the autoencoder learns from; it sees each picture for itself."""
    clips: int
    held_out: int
    device: str
    orbits_per_object: int = 1
    light: str = "fixed"
    start_deg: tuple[str, ...] = ("25", "60")

    def steps(self, stage: str) -> int:
        """Of the training of a stage."""
        return yaml.safe_load((self.recipes / f"{stage}.yaml").read_text("utf-8"))["max_train_steps"]


PLANS = {
    "narrow": Plan(
        recipes=ROOT / "configs/tiny",
        families=("car", "furniture"),
        objects=3300,  # so that car 1659, the demo's object, is none of them
        pictured=400,
        clips=2000,
        held_out=64,
        device="cpu",
    ),
    "general": Plan(
        recipes=ROOT / "configs/tiny-general",
        families=tuple(families.TRAINED),
        objects=30_000,
        pictured=30_000,
        clips=20_000,
        held_out=256,
        device="auto",
        orbits_per_object=2,
        light="random",
        start_deg=("any",),
    ),
}
Line = list[object]


def stages(plan: Plan, out: Path, *, folder: Path, processes: int) -> Iterator[tuple[str, list[Line]]]:
    """The command lines of every stage but `start`, which has none, in their order."""
    script, svd3d = _script, [sys.executable, "-m", "svd3d"]
    device = ["--device", plan.device]
    seen, kept = out / "objects", out / "held-out-objects"
    orbits = ["--size", tiny.SIZE, "--light", plan.light, "--start-deg", *plan.start_deg]
    trained = {stage: out / stage / f"checkpoints/step-{plan.steps(stage)}" for stage in RECIPES}

    def train(stage: str, *, model: Path, data: Path, processes: int = 1) -> list[Line]:
        line: Line = [*svd3d, "train", plan.recipes / f"{stage}.yaml", "--model", model, "--data", data]
        spread = ["--gpus", processes] if processes > 1 else []
        return [[*line, "--out", out / stage, *device, *spread]]

    yield (
        "objects",
        [
            [*script("make_objects"), "--families", *plan.families, "--count", plan.objects, "--out", seen],
            [
                *script("make_objects"),
                *("--families", *families.FAMILIES, "--count", plan.held_out * len(families.FAMILIES)),
                *("--seed", FIRST_HELD_OUT, "--out", kept),
            ],
        ],
    )
    yield (
        "views",
        [
            [
                *script("make_orbits"),
                *(seen / "objects.jsonl", "--out", out / "views", *orbits),
                *("--orbits-per-object", plan.orbits_per_object),
            ],
            [
                *script("make_orbits"),
                *(seen / "objects.jsonl", "--out", out / "pictures", *orbits, "--limit", plan.pictured),
            ],
            [*script("make_orbits"), kept / "objects.jsonl", "--out", out / "held-out", *orbits],
        ],
    )
    yield (
        "clips",
        [
            [
                *script("make_videos"),
                *(seen / "objects.jsonl", "--out", out / "clips", "--count", plan.clips),
                *("--size", tiny.SIZE, "--white"),
            ]
        ],
    )
    yield "start", []
    yield "autoencoder", train("autoencoder", model=out / "start", data=out / "pictures")
    cache: Line = [*svd3d, "cache"]
    encoder: Line = ["--model", trained["autoencoder"], *device]
    clip_size = ["--clip-size", tiny.SIZE, tiny.SIZE]
    yield (
        "latents",
        [
            [*cache, out / "views", *encoder, "--backgrounds", "white", "--out", out / "view-latents"],
            [*cache, out / "clips", *encoder, *clip_size, "--out", out / "clip-latents"],
        ],
    )
    latents = {
        "image": out / "clip-latents",
        "video": out / "clip-latents",
        "multi-view": out / "view-latents",
    }
    before = trained["autoencoder"]
    for stage, data in latents.items():
        yield stage, train(stage, model=before, data=data, processes=processes)
        before = trained[stage]
    export: Line = ["--dtype", "float16", "--max-guidance-scale", 1]
    yield "export", [[*svd3d, "convert", before, "--out", folder, *export]]
    yield (
        "gate",
        [
            [
                *script("gate"),
                *("--model", folder, "--held-out", out / "held-out", "--training-views", out / "views"),
                *("--out", out / "gate"),
            ]
        ],
    )


RECIPES = ("autoencoder", "image", "video", "multi-view")
"""Stages that are trained."""


def _script(name: str) -> Line:
    return [sys.executable, ROOT / f"scripts/{name}.py"]


def make_start(out: Path, *, seed: int = 0) -> None:
    """A pipeline of random weights whose layers across frames change nothing."""
    parts = tiny.components(seed=seed, time_ids=3)
    parts["vae"].register_to_config(force_upcast=False)  # so small a decoder stays in the range of float16
    for name in ("unet", "vae"):
        parts[name].load_state_dict(checkpoints.still_weights(parts[name], seed=seed))
    StableVideoDiffusionPipeline(**parts).save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of everything that is made")
    parser.add_argument("--plan", choices=sorted(PLANS), default="narrow")
    parser.add_argument("--folder", type=Path, help="folder of the finished model; default: OUT/model")
    parser.add_argument("--from", dest="first", help="first stage to run")
    parser.add_argument("--to", dest="last", help="last stage to run")
    parser.add_argument("--processes", type=int, default=1, help="that train the UNet, a core or GPU each")
    parser.add_argument("--list", action="store_true", help="print the commands and end")
    given = parser.parse_args()
    out: Path = given.out
    lines = dict(
        stages(PLANS[given.plan], out, folder=given.folder or out / "model", processes=given.processes)
    )
    names = list(lines)
    for name in (given.first, given.last):
        if name not in (None, *names):
            parser.error(f"{name}: no stage; choose one of {', '.join(names)}")
    first = names.index(given.first or names[0])
    last = names.index(given.last or names[-1])
    for name in names[first : last + 1]:
        if name == "start" and not given.list and not (out / "start/model_index.json").is_file():
            make_start(out / "start")
        for line in lines[name]:
            words = [str(word) for word in line]
            print(shlex.join(words), flush=True)
            if not given.list and (code := subprocess.run(words).returncode):
                sys.exit(f"{name}: ended with code {code}; run the same command again, it resumes")


if __name__ == "__main__":
    main()
