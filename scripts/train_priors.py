"""The three starts of training of the SVD paper (section 4.5, figure 10), in small: one command, one table.

    python scripts/train_priors.py --views VIEWS --out OUT [--quick]

VIEWS holds sample folders of `svd3d render`, static orbits of 21 views. A fifth of the objects is held out.
The command resumes when it is run again, and writes OUT/priors.md and OUT/priors.json.

The starts differ in nothing but the UNet, at the size of the bundled tiny model:

- video: the bundled model as it is. It was trained on orbits of procedural toy cars and knows the elevation,
  so it has seen orbits before. Stable Video Diffusion has not: whether a prior from *videos* helps is a
  question for full-size weights, which this table does not answer.
- image: the spatial layers of that model, as a 2-D UNet that `svd3d convert --from sd21` takes. They never
  were an image model on their own, so this is a weaker prior than Stable Diffusion is in the paper.
- none: random weights.

All share autoencoder, CLIP tower, latents, held-out objects, order of samples, noise, steps and learning
rate; they follow configs/train/{svd-mv,sd21-mv,scratch-mv}.yaml but for what `overrides` names. Views are
sampled from noise, at 64 pixels.
"""

# pyright: reportPrivateImportUsage=false, reportArgumentType=false
# (diffusers exports its names lazily, where pyright does not see them, and types all tuples as of length 1)

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import AutoencoderKL, UNet2DConditionModel

from svd3d import convert, runs, sample
from svd3d.data.dataset import is_held_out
from svd3d.model import checkpoints, saving, tiny
from svd3d.settings import ConvertConfig

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {"video": "svd-mv", "image": "sd21-mv", "none": "scratch-mv"}
HELD_OUT = 0.2
COPIED = "input-copied"
UNTRAINED = "video, untrained"


@dataclass(frozen=True)
class Plan:
    """How long each start is trained and tested."""

    steps: int
    batch: int
    learning_rate: float
    validations: int
    """Held-out losses along the way; step 0 has one besides."""
    sampling_steps: int
    objects: int | None
    """Held-out objects whose views are sampled; None: all of them."""
    all_condition_views: bool
    """Whether training begins orbits at any view, not at view 0 alone."""
    device: str
    seed: int


FULL = {"steps": 240, "validations": 6, "sampling_steps": 12, "objects": None, "all_condition_views": True}
QUICK = {"steps": 20, "validations": 2, "sampling_steps": 8, "objects": 2, "all_condition_views": False}


def make_starts(out: Path, *, seed: int) -> dict[str, Path]:
    """Three diffusers folders below `out`, equal but for the UNet, which `svd3d convert` makes."""
    image_model(tiny.FOLDER, out / "image-model")
    sources: dict[str, tuple[Path, Any]] = {
        "video": (tiny.FOLDER, "svd"),
        "image": (out / "image-model", "sd21"),
        "none": (tiny.FOLDER, "scratch"),
    }
    starts = {}
    for name, (source, prior) in sources.items():
        made = convert.run(
            ConvertConfig(
                source=str(source),
                out=out / "converted" / name,
                prior=prior,
                size=tiny.SIZE,
                image_encoder="tiny",
                seed=seed,
            )
        )
        starts[name] = out / name
        if not starts[name].exists():
            with runs.atomic_folder(starts[name]) as folder:
                saving.link_frozen(tiny.FOLDER, folder, learns="unet")
                shutil.copytree(made.path / "unet", folder / "unet")
    return starts


def image_model(video: Path, out: Path) -> None:
    """The spatial layers of a video model as a diffusers folder of an image model, unless it is there.

    Its autoencoder is not trained and only tells the shape of the latents: the starts get that of `video`.
    """
    if out.exists():
        return
    found = checkpoints.from_folder(video)
    unet, levels = found.networks["unet"].config, len(found.networks["vae"].config["block_out_channels"])
    channels = unet["out_channels"]
    image_unet = UNet2DConditionModel(
        in_channels=channels,
        out_channels=channels,
        down_block_types=_image_blocks(unet["down_block_types"]),
        up_block_types=_image_blocks(unet["up_block_types"]),
        block_out_channels=unet["block_out_channels"],
        layers_per_block=unet["layers_per_block"],
        cross_attention_dim=unet["cross_attention_dim"],
        attention_head_dim=unet["num_attention_heads"],
        use_linear_projection=True,
    )
    spatial = {name.replace(".spatial_res_block.", "."): each for name, each in found.weights["unet"].items()}
    spatial["conv_in.weight"] = spatial["conv_in.weight"][:, :channels]
    image_unet.load_state_dict({name: spatial[name] for name in image_unet.state_dict()})
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(32,) * levels,
        layers_per_block=2,
        latent_channels=channels,
    )
    with runs.atomic_folder(out) as folder:
        image_unet.save_pretrained(folder / "unet")
        vae.save_pretrained(folder / "vae")
        runs.write_json(folder / "model_index.json", {"unet": ["diffusers", "UNet2DConditionModel"]})


def _image_blocks(kinds: list[str]) -> tuple[str, ...]:
    return tuple(kind.replace("SpatioTemporal", "2D") for kind in kinds)


def held_out_samples(views: Path, out: Path, *, count: int | None) -> Path:
    """The first `count` samples that training never sees, at the size of the model, in a folder."""
    kept = [folder for folder in sample.find(views) if is_held_out(folder.resolve().name, HELD_OUT)]
    if len(kept) < 2:
        sys.exit(f"{views}: {len(kept)} of its objects are held out, a spread needs 2; render more objects")
    for folder in kept[:count]:
        if not sample.is_sample(out / folder.name):
            sample.write(sample.read(folder).resized(tiny.SIZE), out / folder.name)
    return out


def overrides(plan: Plan) -> dict[str, Any]:
    """What the tiny configuration changes in the three recipes."""
    return {
        "max_train_steps": plan.steps,
        "train_batch_size": plan.batch,
        "global_batch_size": plan.batch,
        "learning_rate": plan.learning_rate,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": plan.steps // 20,
        "ema_decay": 0.99,
        "gradient_checkpointing": False,
        "dataloader_num_workers": 0,
        "validation_steps": max(plan.steps // plan.validations, 1),
        "validation_batches": 1000,
        "validation_objects": 0,
        "held_out": HELD_OUT,
        "checkpointing_steps": max(plan.steps // 3, 1),
        "checkpoints_total_limit": 1,
        "seed": plan.seed,
    }


def train(name: str, start: Path, latents: Path, out: Path, plan: Plan) -> dict[str, Any]:
    """Train one start by its recipe; its losses and the folder of its model."""
    recipe = ROOT / f"configs/train/{RECIPES[name]}.yaml"
    device = "cpu" if plan.device == "cpu" else "auto"
    common = {"model": start, "data": latents, "device": device, **overrides(plan)}
    untouched = {"max_train_steps": 1, "learning_rate": 1e-12, "validation_steps": 1, "lr_warmup_steps": 0}
    svd3d("train", recipe, **common | untouched, out=out / "step-0")
    svd3d("train", recipe, **common, out=out / "run")
    before = runs.read_lines(out / "step-0/metrics.jsonl")
    steps = runs.read_lines(out / "run/metrics.jsonl")
    judged = {0: before[0]["validation_loss"]}
    judged |= {each["step"]: each["validation_loss"] for each in steps if each["validation_loss"] is not None}
    last = [each["loss"] for each in steps[-max(len(steps) // 5, 2) :]]
    return {
        "held_out_loss": judged,
        "training_loss": mean_and_error(last),
        "seconds_per_step": float(np.median([each["seconds"] for each in steps])),
        "model": out / f"run/checkpoints/step-{plan.steps}",
    }


def score(name: str, model: Path, held_out: Path, out: Path, plan: Plan) -> dict[str, dict[str, np.ndarray]]:
    """Sample the held-out views and score them: by method and metric, one number per object."""
    svd3d(
        "generate",
        held_out,
        model=model,
        out=out / "views",
        steps=plan.sampling_steps,
        seed=plan.seed,
        device=plan.device,
    )
    svd3d(
        "evaluate",
        pred=out / "views",
        ref=held_out,
        out=out / "scores",
        metrics=("psnr", "ssim"),
        method=name,
    )
    return by_object(json.loads((out / "scores/report.json").read_text("utf-8"))["rows"])


def by_object(rows: list[dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """Mean over views of each object, objects in the order of their names, by method and metric."""
    views: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        views.setdefault((row["method"], row["metric"], row["object"]), []).append(row["value"])
    found: dict[str, dict[str, list[float]]] = {}
    for method, metric, uid in sorted(views):
        found.setdefault(method, {}).setdefault(metric, []).append(float(np.mean(views[method, metric, uid])))
    return {
        method: {metric: np.array(each) for metric, each in scores.items()}
        for method, scores in found.items()
    }


def mean_and_error(values: Any) -> tuple[float, float]:
    """Mean and standard error; that of a single value is NaN."""
    numbers = np.asarray(values, float)
    error = numbers.std(ddof=1) / np.sqrt(len(numbers)) if len(numbers) > 1 else np.nan
    return float(numbers.mean()), float(error)


def svd3d(command: str, *words: object, **options: object) -> None:
    """Run `svd3d COMMAND WORDS --option value ...`; end with it if it fails."""
    line = [sys.executable, "-m", "svd3d", command, *map(str, words)]
    for name, value in options.items():
        values = value if isinstance(value, tuple) else (value,)
        line += [f"--{name.replace('_', '-')}", *map(str, values)]
    if code := subprocess.run(line, stdout=sys.stderr).returncode:
        sys.exit(f"{shlex.join(line)}: ended with code {code}")


def summary(
    trained: dict[str, dict[str, Any]], scores: dict[str, dict[str, np.ndarray]], plan: Plan
) -> dict[str, Any]:
    """All numbers of the table. `scores` are by method and metric, one number per object."""
    psnr = {name: each["psnr"] for name, each in scores.items()}
    return {
        "plan": asdict(plan),
        "trained": trained,
        "sampled": {
            name: {metric: mean_and_error(values) for metric, values in each.items()}
            for name, each in scores.items()
        },
        "objects": len(psnr[COPIED]),
        "psnr_ahead_of_copied": {name: mean_and_error(each - psnr[COPIED]) for name, each in psnr.items()},
        "psnr_video_ahead_of": {
            name: mean_and_error(psnr["video"] - each) for name, each in psnr.items() if name != "video"
        },
    }


def markdown(found: dict[str, Any]) -> str:
    """The table, and how to read it."""
    plan, trained = found["plan"], found["trained"]
    judged = list(trained["video"]["held_out_loss"])
    shown = sorted({judged[third * (len(judged) - 1) // 3] for third in range(4)})
    header = ["prior", *(f"held-out loss, step {step}" for step in shown)]
    header += ["training loss, last fifth", "s/step", "PSNR, dB", "SSIM", "PSNR ahead of input copied"]
    rows = [header, ["---"] * len(header)]
    for name, each in found["sampled"].items():
        losses = ["–"] * (len(shown) + 2)
        if name in trained:
            run = trained[name]
            losses = [f"{run['held_out_loss'][step]:.4f}" for step in shown]
            losses += [plus_minus(run["training_loss"], 3), f"{run['seconds_per_step']:.2f}"]
        quality = [plus_minus(each["psnr"], 2), plus_minus(each["ssim"], 3)]
        rows.append([name, *losses, *quality, plus_minus(found["psnr_ahead_of_copied"][name], 2)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    ahead = "; ".join(
        f"of {name} by {plus_minus(value, 2)} dB" for name, value in found["psnr_video_ahead_of"].items()
    )
    return f"""{table}

Each start: {plan["steps"]} steps of {plan["batch"]} orbits, learning rate {plan["learning_rate"]:g} with a
cosine to zero, one seed. PSNR and SSIM: views 1 to 20 of {found["objects"]} held-out objects at 64 pixels,
sampled with {plan["sampling_steps"]} steps. ± is the standard error, over objects (of the training loss: over
steps). s/step is the median of what the clock showed, whatever else the machine did.

Paired per object, the PSNR of the video prior is ahead {ahead}.

The video prior is the bundled tiny model, trained on orbits of procedural cars; the image prior is its
spatial layers alone, which never were an image model. Whether a prior from videos helps is a question for
full-size weights.
"""


def plus_minus(value: tuple[float, float], digits: int) -> str:
    """Mean and standard error as they stand in the table."""
    return f"{value[0]:.{digits}f} ± {value[1]:.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--views", type=Path, required=True, help="sample folders of svd3d render")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="minutes: the machinery, not the numbers")
    parser.add_argument("--steps", type=int, help="of training (240; 20 with --quick)")
    parser.add_argument("--batch", type=int, default=2, help="orbits per step")
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--device", default="cpu", help="cpu, or auto: a GPU if there is one")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    length = QUICK if given.quick else FULL
    asked = {name: getattr(given, name) for name in ("steps", "batch", "learning_rate", "device", "seed")}
    plan = Plan(**length | {name: value for name, value in asked.items() if value is not None})

    out = given.out
    starts = make_starts(runs.output_folder(out / "starts"), seed=plan.seed)
    latents = out / "latents"
    svd3d(
        "cache",
        given.views,
        model="tiny",
        out=latents,
        all_condition_views=plan.all_condition_views,
        device=plan.device,
        seed=plan.seed,
    )
    held_out = held_out_samples(given.views, out / "held-out", count=plan.objects)
    trained = {name: train(name, start, latents, out / name, plan) for name, start in starts.items()}
    models = {name: each.pop("model") for name, each in trained.items()} | {UNTRAINED: starts["video"]}
    scores = {}
    for name, model in models.items():
        scores |= score(name, model, held_out, out / "scored" / name.replace(", ", "-"), plan)
    found = summary(trained, {name: scores[name] for name in (*models, COPIED)}, plan)
    runs.write_json(out / "priors.json", found)
    runs.write_file(out / "priors.md", markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
