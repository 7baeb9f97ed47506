"""Samples per second and memory of `svd3d train` against a training loop as one would write it first.

    python scripts/benchmark_train.py [--quick] [--json] [--views DIR] [--batch 2] [--steps 10] [--repeats 5]
    python scripts/benchmark_train.py --device cuda --config svd --batch 1

The straightforward loop has the same model, orbits, batch and loss. It reads the pictures and runs the
autoencoder and CLIP in every step, in float32, with AdamW and the average of the weights as their libraries
set them up. Its row is divided into its parts; "encoding" is what `svd3d cache` does once, so its cost is a
row of its own, with the epochs after which it has paid for itself.

The two take turns, each turn in a process of its own, whose first steps are not counted; a ratio is that of
one turn. Checkpoints lie beyond the measured steps. On a CPU, CPU time of one thread is measured; on a GPU,
seconds. Memory is the peak above what the libraries take, on a GPU that of all tensors. `svd` has the sizes
of Stable Video Diffusion with random weights, and both ways recompute activations, or neither would fit.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from svd3d import cache, sample, train  # noqa: E402
from svd3d import config as configs  # noqa: E402
from svd3d.cameras import Orbit  # noqa: E402
from svd3d.model import checkpoints, memory, priors  # noqa: E402
from svd3d.model.pipeline import SVDMVPipeline  # noqa: E402
from svd3d.sample import Sample  # noqa: E402
from svd3d.settings import CacheConfig, TrainConfig  # noqa: E402

WARM_UP = 2
"""Steps at the start of each turn that are not counted."""
SIZES = {"tiny": 64, "svd": 576}
RECIPES = {"tiny": "tiny-cpu", "svd": "svd-mv"}


@dataclass(frozen=True)
class Setup:
    """What both ways train on, and how."""

    config: str
    views: Path
    data: Path
    """Cached latents of `views`."""
    model: str
    batch: int
    steps: int
    device: str
    mixed_precision: str | None
    """Of our way; None: the recipe's."""

    def training(self, out: Path) -> TrainConfig:
        """The recipe, with checkpoints beyond the steps that are measured; both ways take it."""
        recipe = configs.read_recipe(TrainConfig, ROOT / f"configs/train/{RECIPES[self.config]}.yaml")
        measured = {
            "data": self.data,
            "out": out,
            "model": self.model,
            "max_train_steps": 10**6,
            "checkpointing_steps": 10**6,
            "train_batch_size": self.batch,
            "global_batch_size": self.batch,
            "mixed_precision": self.mixed_precision or recipe.get("mixed_precision", "no"),
            "held_out": 0.0,
            "validation_steps": None,
            "device": "cpu" if self.device == "cpu" else "auto",
        }
        return TrainConfig(**(recipe | measured))


@dataclass(frozen=True)
class Turn:
    """What some steps took."""

    seconds_per_sample: float
    peak_mb: float
    loss: float
    parts: dict[str, float]
    """Seconds per sample, as far as a way tells its parts."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few steps, two turns")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--config", choices=["tiny", "svd"], default="tiny")
    parser.add_argument("--views", type=Path, help="sample folders of 21 views; default: toy cars, made now")
    parser.add_argument("--objects", type=int, default=4, help="toy cars to make")
    parser.add_argument("--batch", type=int, default=2, help="orbits at once, as in the recipe tiny-cpu")
    parser.add_argument("--steps", type=int, help="of each turn (4 with --quick, else 10)")
    parser.add_argument("--repeats", type=int, help="turns (2 with --quick, else 5)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--mixed-precision", choices=["no", "bf16"], help="of our way; default: the recipe's")
    arguments = parser.parse_args()
    repeats = arguments.repeats or (2 if arguments.quick else 5)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        setup = Setup(
            config=arguments.config,
            views=arguments.views or folder / "views",
            data=folder / "latents",
            model="tiny" if arguments.config == "tiny" else str(folder / "model"),
            batch=arguments.batch,
            steps=arguments.steps or (4 if arguments.quick else 10),
            device=arguments.device,
            mixed_precision=arguments.mixed_precision,
        )
        objects = None if arguments.views else arguments.objects
        caching = alone(prepare, setup, objects)
        turns: dict[str, list[Turn]] = {name: [] for name in WAYS}
        for turn in range(repeats):
            for name, done in turns.items():
                done.append(alone(measure, setup, name, folder / f"run-{turn}"))
                print(f"{turn + 1}/{repeats} {name:16} {done[-1]}", file=sys.stderr, flush=True)
    found = summary(turns, caching)
    print(table(found))
    if arguments.json:
        device = torch.cuda.get_device_name() if setup.device == "cuda" else "cpu, 1 thread"
        precision = setup.training(setup.data).mixed_precision
        settings = {"config": setup.config, "batch": setup.batch, "steps": setup.steps, "repeats": repeats}
        settings |= {"mixed_precision": precision, "device": device}
        versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
        print(json.dumps({**found, "settings": settings, "versions": versions}))


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a new process, whose memory holds nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def limit_threads(device: str) -> None:
    if device == "cpu":
        torch.set_num_threads(1)


def prepare(setup: Setup, objects: int | None) -> float:
    """Make views and model where they are not given, and the cache: its seconds per object."""
    limit_threads(setup.device)
    if objects is not None:
        make_views(setup.views, objects, size=SIZES[setup.config])
    if setup.config == "svd":
        Path(setup.model).mkdir()
        checkpoints.write(checkpoints.multi_view(priors.full_size(seed=0)), Path(setup.model))
    watch = Stopwatch(setup.device)
    config = CacheConfig(setup.views, setup.data, model=setup.model, objects_per_shard=1, device=setup.device)
    for each in cache.run(config):
        if each.status != "done":
            raise SystemExit(f"{each.uid}: {each.message}")
        watch.lap(each.uid)
    first, *others = watch.laps.values()  # the first one has loaded the encoders
    return statistics.mean(others or [first])


def make_views(folder: Path, objects: int, *, size: int) -> None:
    """Orbits of the bundled toy car, each from its own elevation."""
    import raycast

    solid = raycast.read(ROOT / "svd3d/assets/objects/toy_car.glb")
    for number in range(objects):
        orbit = Orbit.static(elevation_deg=25 * number / objects, azimuth_deg=360 * number / objects)
        orbit = orbit.fitted(solid.vertices)
        cameras = orbit.cameras(height=size, width=size)
        images = raycast.render(solid, cameras, sky=raycast.Sky.fixed(), seed=0)
        made = Sample(f"car-{number}", cameras, images, "rendered", orbit=orbit)
        sample.write(made, folder / made.uid)


class Stopwatch:
    """Time since the last lap, added up by name: CPU time on a CPU, seconds on a GPU."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.laps: dict[str, float] = {}
        self.last = self.now()

    def now(self) -> float:
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def lap(self, name: str) -> None:
        now = self.now()
        self.laps[name] = self.laps.get(name, 0.0) + now - self.last
        self.last = now


def measure(setup: Setup, way: str, folder: Path) -> Turn:
    """One turn of a way."""
    limit_threads(setup.device)
    libraries = memory.peak_gb(setup.device)
    inner, whole = Stopwatch(setup.device), Stopwatch(setup.device)
    losses = WAYS[way](setup, inner, folder)
    for _ in range(WARM_UP):
        next(losses)
    inner.laps.clear()
    whole.lap("warm-up")
    found = list(itertools.islice(losses, setup.steps))
    whole.lap("steps")
    samples = setup.steps * setup.batch
    return Turn(
        seconds_per_sample=whole.laps["steps"] / samples,
        peak_mb=1e3 * (memory.peak_gb(setup.device) - libraries),
        loss=statistics.mean(found),
        parts={name: seconds / samples for name, seconds in inner.laps.items()},
    )


def ours(setup: Setup, _watch: Stopwatch, folder: Path) -> Iterator[float]:
    """The losses of `svd3d train`, which would go on for ever."""
    for step in train.run(setup.training(folder)):
        yield math.nan if step.loss is None else step.loss


def straightforward(setup: Setup, watch: Stopwatch, folder: Path) -> Iterator[float]:
    """The losses of a loop that trains on pictures."""
    random.seed(0)
    torch.manual_seed(0)
    config, device, batch = setup.training(folder), setup.device, setup.batch
    folders = sample.find(setup.views)
    pipeline = SVDMVPipeline.load(setup.model).to(device)
    size, unet = pipeline.size, pipeline.unet.train()
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=config.learning_rate)
    average = EMAModel(unet.parameters(), decay=config.ema_decay)
    watch.lap("loading")
    while True:
        orbits = [read(random.choice(folders), size=size) for _ in range(batch)]
        pixels = torch.stack([views for views, _ in orbits]).to(device)
        elevations_deg = torch.tensor([elevation_deg for _, elevation_deg in orbits])
        watch.lap("reading pictures")

        noise_aug = torch.exp(torch.randn(batch) * 0.5 - 3)
        latents, condition, clip = encode(pipeline, pixels, noise_aug.to(device))
        watch.lap("encoding")

        condition = condition * (torch.rand(batch, 1, 1, 1) > config.drop_image).to(device)
        clip = clip * (torch.rand(batch, 1, 1) > config.drop_clip).to(device)
        sigma = torch.exp(torch.randn(batch) * config.p_std + config.p_mean).to(device)
        fps, motion = torch.full([batch], 6.0), torch.full([batch], 127.0)
        ids = torch.stack([fps, motion, noise_aug, elevations_deg], dim=1).to(device)
        noise = torch.randn_like(latents)
        loss = edm_loss(unet, latents, condition, clip, ids, sigma, noise).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), config.max_grad_norm)
        watch.lap("UNet, there and back")

        optimizer.step()
        optimizer.zero_grad()
        watch.lap("AdamW")
        average.step(unet.parameters())
        watch.lap("average of the weights")
        yield loss.item()


def read(folder: Path, *, size: int) -> tuple[Tensor, float]:
    """Views [v, 3, h, w] in [-1, 1] over white or any colour, and the elevation in degrees."""
    about = json.loads((folder / "transforms.json").read_text(encoding="utf-8"))
    white = (255, 255, 255, 255)
    colour = random.choice([white, (*random.choices(range(256), k=3), 255)])
    views = []
    for frame in about["frames"]:
        picture = Image.open(folder / frame["file_path"]).convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture).convert("RGB")
        views.append(np.asarray(flat.resize((size, size))))
    pixels = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels, about["svd3d"]["orbit"]["elevations_deg"][0]


@torch.no_grad()
def encode(pipeline: Any, pixels: Tensor, noise_aug: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Latents [b, v, c, h, w] of views [b, v, 3, h, w]; condition [b, c, h, w], token [b, 1, d] of view 0."""
    vae, first = pipeline.vae, pixels[:, 0]
    latents = vae.encode(pixels.flatten(0, 1)).latent_dist.mode() * vae.config.scaling_factor
    noisy = first + noise_aug[:, None, None, None] * torch.randn_like(first)
    condition = vae.encode(noisy).latent_dist.mode()
    pictures = pipeline.video_processor.postprocess(first, output_type="pil")
    clip = pipeline._encode_image(pictures, pixels.device, 1, False)
    return latents.unflatten(0, pixels.shape[:2]), condition, clip


def edm_loss(
    unet: Any, clean: Tensor, condition: Tensor, clip: Tensor, ids: Tensor, sigma: Tensor, noise: Tensor
) -> Tensor:
    """Loss [b] of EDM (Karras et al. 2022, equation 8) with v-prediction; clean and noise [b, v, c, h, w]."""
    level = sigma[:, None, None, None, None]
    noisy = clean + level * noise
    scaled = noisy / (level**2 + 1).sqrt()
    condition = condition[:, None].repeat(1, clean.shape[1], 1, 1, 1)
    output = unet(
        torch.cat([scaled, condition], dim=2),
        sigma.log() / 4,
        encoder_hidden_states=clip,
        added_time_ids=ids,
    ).sample
    denoised = noisy / (level**2 + 1) - level / (level**2 + 1).sqrt() * output
    weight = (level**2 + 1) / level**2
    return (weight * (denoised - clean) ** 2).mean(dim=(1, 2, 3, 4))


WAYS: dict[str, Callable[[Setup, Stopwatch, Path], Iterator[float]]] = {
    "straightforward": straightforward,
    "ours": ours,
}


def summary(turns: dict[str, list[Turn]], caching: float) -> dict[str, Any]:
    """Medians over the turns, the ratio first."""
    plain, own = turns["straightforward"], turns["ours"]
    ratios = [a.seconds_per_sample / b.seconds_per_sample for a, b in zip(plain, own, strict=True)]
    rows = {
        name: {
            "samples_per_second": statistics.median(1 / each.seconds_per_sample for each in done),
            "seconds_per_sample": statistics.median(each.seconds_per_sample for each in done),
            "seconds_per_sample_range": [
                min(each.seconds_per_sample for each in done),
                max(each.seconds_per_sample for each in done),
            ],
            "peak_mb": statistics.median(each.peak_mb for each in done),
            "loss": statistics.mean(each.loss for each in done),
        }
        for name, done in turns.items()
    }
    parts = {name: statistics.median(each.parts[name] for each in plain) for name in plain[0].parts}
    saved = rows["straightforward"]["seconds_per_sample"] - rows["ours"]["seconds_per_sample"]
    return {
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "memory_ratio": rows["straightforward"]["peak_mb"] / rows["ours"]["peak_mb"],
        "ways": rows,
        "parts": parts,
        "cache_seconds_per_object": caching,
        "cache_paid_after_epochs": caching / saved if saved > 0 else None,
    }


def table(found: dict[str, Any]) -> str:
    """The summary, to read."""
    low, high = found["ratio_range"]
    lines = [
        "| way | samples/s | s per sample | lowest, highest | peak MB | loss |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found["ways"].items():
        least, most = row["seconds_per_sample_range"]
        lines.append(
            f"| {name} | {row['samples_per_second']:.2f} | {row['seconds_per_sample']:.3f} | "
            f"{least:.3f}, {most:.3f} | {row['peak_mb']:.0f} | {row['loss']:.3f} |"
        )
    lines += ["", "| part of the straightforward step | s per sample |", "|---|---|"]
    lines += [f"| {name} | {seconds:.4f} |" for name, seconds in found["parts"].items()]
    paid = found["cache_paid_after_epochs"]
    lines += [
        "",
        f"ratio {found['ratio']:.2f} ({low:.2f} to {high:.2f}), memory {found['memory_ratio']:.2f}",
        f"svd3d cache: {found['cache_seconds_per_object']:.2f} s per object, "
        + ("never paid for" if paid is None else f"paid for after {paid:.1f} epochs"),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
