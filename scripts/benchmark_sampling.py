"""Seconds per orbit, ours against the stock pipeline of diffusers, and what each shortcut costs in dB.

    python scripts/benchmark_sampling.py [--quick] [--json] [--steps 25] [--image FILE]
    python scripts/benchmark_sampling.py --device cuda --config svd --size 576

The baseline is `StableVideoDiffusionPipeline` with the same weights, steps, noise and size, in the same run.
The elevation, which the stock UNet does not know, is folded into a bias, so both compute the same views: the
first row says how equal. All ways take turns; each time is divided by that of the stock pipeline in the same
turn. PSNR is against our plain result of the same noise, over the views that were generated; "limit" is
against the exact solution of the differential equation (DPM-Solver++, 100 steps). On a CPU, CPU time of one
thread is measured; on a GPU, seconds. Memory is the peak above what is held before. `svd` has the sizes of
Stable Video Diffusion with random weights: its times are real, its dB are not.
"""

import argparse
import contextlib
import ctypes
import json
import math
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from svd3d.cameras import Orbit  # noqa: E402
from svd3d.model import checkpoints, conditioning, fast, priors, vae  # noqa: E402
from svd3d.model.pipeline import SVDMVPipeline  # noqa: E402

VIEWS, ELEVATION_DEG, GUIDED = 21, 10.0, 2.5
LIMIT_STEPS = 100
MIN_PSNR = 40.0


@dataclass(frozen=True)
class Way:
    """One way to sample."""

    steps: int
    solver: str = "euler"
    exact: bool = False
    """Single-token attention and, on a CPU, flat convolutions."""
    every: int = 1
    """Steps from one whole pass of the UNet to the next."""
    interval: tuple[float, float] | None = None
    guided: bool = False
    """Guidance of 1 to 2.5, whatever the checkpoint's is."""


def ways(steps: int, *, quick: bool) -> dict[str, Way]:
    """All rows of the table; `steps` is that of the baseline."""
    fewer, few = round(steps * 0.64), round(steps * 0.48)
    found = {
        "plain": Way(steps),
        "exact": Way(steps, exact=True),
        f"euler, {few} steps": Way(few),
        f"dpm++2m, {fewer} steps": Way(fewer, "dpm++2m"),
        "cache 2": Way(steps, every=2),
        "cache 3": Way(steps, every=3),
        "exact, cache 2": Way(steps, exact=True, every=2),
        "exact, cache 3": Way(steps, exact=True, every=3),
        f"exact, cache 2, {few} steps": Way(few, exact=True, every=2),
        f"exact, cache 2, {fewer} steps": Way(fewer, exact=True, every=2),
        "guided": Way(steps, guided=True),
        "guided, interval 0.1 to 10": Way(steps, interval=(0.1, 10.0), guided=True),
    }
    if quick:
        return found
    return found | {
        f"euler, {fewer} steps": Way(fewer),
        f"euler, {round(steps * 0.32)} steps": Way(round(steps * 0.32)),
        f"dpm++2m, {few} steps": Way(few, "dpm++2m"),
        f"dpm++3m, {fewer} steps": Way(fewer, "dpm++3m"),
        "cache 4": Way(steps, every=4),
        "cache 5": Way(steps, every=5),
        f"exact, cache 2, dpm++2m, {fewer} steps": Way(fewer, "dpm++2m", exact=True, every=2),
        f"exact, cache 3, {fewer} steps": Way(fewer, exact=True, every=3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer rows, two turns")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--repeats", type=int, help="turns (2 with --quick, else 5)")
    parser.add_argument("--image", type=Path, help="default: a picture of the bundled toy car")
    parser.add_argument("--config", choices=["tiny", "svd"], default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, help="of the views (64 for tiny, 576 for svd)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    bench = Bench(arguments)
    rows = bench.sampling()
    decoding = bench.decoding()
    report(rows, decoding, bench)


class Bench:
    """Both pipelines with the same weights, one picture and one noise."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = arguments.device
        self.repeats = arguments.repeats or (2 if arguments.quick else 5)
        self.ours = SVDMVPipeline.load("tiny") if arguments.config == "tiny" else random_svd()
        self.ours.to(self.device)
        self.stock = stock_of(self.ours)
        self.size = arguments.size or self.ours.size
        for each in (self.ours, self.stock):
            each.set_progress_bar_config(disable=True)
        picture = Image.open(arguments.image).convert("RGB") if arguments.image else toy_car(self.size)
        self.picture = picture.resize((self.size, self.size))
        shape = (1, VIEWS, self.ours.unet.config.out_channels, self.size // 8, self.size // 8)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.noise = noise.to(self.device, self.ours.dtype)

    def sampling(self) -> dict[str, dict[str, Any]]:
        """The rows of the sampling table."""
        steps = self.arguments.steps
        table = ways(steps, quick=self.arguments.quick)
        runs: dict[str, Callable[[], np.ndarray]] = {"stock": lambda: self.run_stock(guided=False)}
        runs["stock, guided"] = lambda: self.run_stock(guided=True)
        runs |= {name: lambda way=way: self.run(way) for name, way in table.items()}
        limits = {guided: self.run(Way(LIMIT_STEPS, "dpm++2m", guided=guided)) for guided in (False, True)}
        costs: dict[str, list[float]] = {name: [] for name in runs}
        views: dict[str, np.ndarray] = {}
        peaks: dict[str, float] = {}
        for turn in range(self.repeats):
            for name, run in runs.items():
                views[name], cost, peaks[name] = self.measured(run)
                costs[name].append(cost)
                print(f"{turn + 1}/{self.repeats} {name:32} {cost:.2f} s", file=sys.stderr, flush=True)
        rows = {}
        for name in runs:
            guided = "guided" in name
            base, plain = costs["stock, guided" if guided else "stock"], "guided" if guided else "plain"
            ratios = [b / o for b, o in zip(base, costs[name], strict=True)]
            rows[name] = {
                "ratio": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "seconds": statistics.median(costs[name]),
                "psnr_db": psnr(views[name], views[plain]),
                "psnr_to_limit_db": psnr(views[name], limits[guided]),
                "peak_mb": peaks[name],
            }
        return rows

    def run(self, way: Way) -> np.ndarray:
        """Our views."""
        unet = self.ours.unet
        with contextlib.ExitStack() as shortcuts:
            shortcuts.enter_context(fast.solver(self.ours, way.solver))
            if way.exact:
                shortcuts.enter_context(fast.single_token_attention(unet))
                if self.device == "cpu":
                    shortcuts.enter_context(fast.flat_convolutions(unet, self.ours.vae))
            if way.every > 1:
                shortcuts.enter_context(fast.cache_features(unet, every=way.every))
            if way.interval:
                low, high = way.interval
                shortcuts.enter_context(fast.guidance_interval(unet, low=low, high=high))
            return self.ours(
                self.picture,
                elevation_deg=ELEVATION_DEG,
                guidance="linear",
                num_inference_steps=way.steps,
                **self.settings(guided=way.guided),
            ).views[:, 1:]

    def run_stock(self, *, guided: bool) -> np.ndarray:
        """The views of the stock pipeline, which decodes all at once, as ours does."""
        return self.stock(
            self.picture,
            num_frames=VIEWS,
            num_inference_steps=self.arguments.steps,
            decode_chunk_size=VIEWS,
            output_type="np",
            **self.settings(guided=guided),
        ).frames[:, 1:]

    def settings(self, *, guided: bool) -> dict[str, Any]:
        """What both pipelines are called with."""
        return {
            "height": self.size,
            "width": self.size,
            "max_guidance_scale": GUIDED if guided else 1.0,
            "latents": self.noise,
            "generator": torch.Generator().manual_seed(0),
        }

    def decoding(self) -> dict[str, dict[str, Any]]:
        """Ways to decode the latents of an orbit, at twice the size on a CPU, where memory is seen then."""
        latents = self.ours(
            self.picture,
            elevation_deg=ELEVATION_DEG,
            num_inference_steps=8,
            output_type="latent",
            **self.settings(guided=False),
        ).views.to(self.ours.vae.dtype)
        if self.device == "cpu":
            latents = torch.nn.functional.interpolate(latents, scale_factor=(1, 2, 2))
        network = self.ours.vae
        runs: dict[str, Callable[[], torch.Tensor]] = {
            "whole": lambda: vae.decode(network, latents),
            "stock, chunks of 7": lambda: self.in_chunks(latents, 7, overlap=0),
            "overlapping by 3, chunks of 7": lambda: self.in_chunks(latents, 7, overlap=3),
            "overlapping by 7, chunks of 7": lambda: self.in_chunks(latents, 7, overlap=7),
            "ours, chunks of 7": lambda: vae.decode(network, latents, chunk=7),
            "ours, chunks of 1": lambda: vae.decode(network, latents, chunk=1),
        }
        views, rows = {}, {}
        for name, run in runs.items():
            views[name], seconds, peak = self.measured(lambda run=run: run().clamp(-1, 1).cpu().numpy() / 2)
            rows[name] = {"seconds": seconds, "psnr_db": psnr(views[name], views["whole"]), "peak_mb": peak}
        return rows

    def in_chunks(self, latents: torch.Tensor, chunk: int, *, overlap: int) -> torch.Tensor:
        """Decode chunks on their own, each with some views of its neighbours as context."""
        parts = []
        for start in range(0, VIEWS, chunk):
            first = max(start - overlap, 0)
            part = vae.decode(self.ours.vae, latents[:, first : start + chunk + overlap])
            parts.append(part[:, start - first : start - first + chunk])
        return torch.cat(parts, dim=1)

    def measured(self, run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float, float]:
        """What a run gives, its seconds, and the peak of memory in MB above what was taken before it."""
        if self.device == "cpu":
            before = reset_peak()
            start = time.process_time()
            result = run()
            return result, time.process_time() - start, resident_mb("VmHWM") - before
        before = torch.cuda.memory_allocated() / 1e6
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = run()
        torch.cuda.synchronize()
        return result, time.perf_counter() - start, torch.cuda.max_memory_allocated() / 1e6 - before


def reset_peak() -> float:
    """Give freed memory back and forget the highest resident set (Linux); the present one in MB."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return resident_mb("VmRSS")


def resident_mb(which: str) -> float:
    """A line of this process's status in MB; NaN where the system does not tell."""
    with contextlib.suppress(OSError):
        found = re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) / 1e3 if found else math.nan
    return math.nan


def stock_of(ours: SVDMVPipeline) -> diffusers.StableVideoDiffusionPipeline:
    """The stock pipeline with our weights; what our UNet is told of the elevation becomes part of a bias."""
    config = dict(ours.unet.config)
    dim = config["addition_time_embed_dim"]
    config["projection_class_embeddings_input_dim"] = dim * conditioning.STOCK_IDS
    unet = diffusers.UNetSpatioTemporalConditionModel.from_config(config)
    weights = dict(ours.unet.state_dict())
    layer = "add_embedding.linear_1"
    elevation = ours.unet.add_time_proj(torch.tensor([ELEVATION_DEG], device=ours.device))
    stock, ours_alone = weights[f"{layer}.weight"].split([dim * conditioning.STOCK_IDS, dim], dim=1)
    weights[f"{layer}.weight"] = stock
    weights[f"{layer}.bias"] = weights[f"{layer}.bias"] + ours_alone @ elevation[0].to(ours_alone.dtype)
    unet.load_state_dict(weights)
    scheduler = diffusers.EulerDiscreteScheduler.from_config(ours.scheduler.config)
    parts = {**ours.components, "unet": unet.to(ours.device, ours.dtype).eval(), "scheduler": scheduler}
    return diffusers.StableVideoDiffusionPipeline(**parts)


def random_svd() -> SVDMVPipeline:
    """Stable Video Diffusion's sizes with random weights, in bfloat16."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.write(
            checkpoints.multi_view(priors.full_size(seed=0)), Path(folder), dtype=torch.bfloat16
        )
        return SVDMVPipeline.load(folder, dtype=torch.bfloat16)


def toy_car(size: int) -> Image.Image:
    """The bundled toy car over white, as shaded points seen by the first camera of an orbit."""
    import trimesh

    mesh: Any = trimesh.load(ROOT / "svd3d/assets/objects/toy_car.glb", force="mesh")
    mesh.visual = mesh.visual.to_color()
    mesh.apply_transform(trimesh.transformations.rotation_matrix(math.pi / 2, [1, 0, 0]))  # glTF is +Y up
    mesh.apply_translation(-mesh.bounds.mean(axis=0))
    mesh.apply_scale(1 / mesh.extents.max())
    sampled: Any = trimesh.sample.sample_surface(mesh, 400_000, sample_color=True, seed=0)
    points, faces, colours = sampled
    orbit = Orbit.static(num_views=1, elevation_deg=ELEVATION_DEG, azimuth_deg=30.0).fitted(points)
    pixels, depths = orbit.cameras(height=2 * size, width=2 * size).project(points)
    order = np.argsort(-depths[0])  # the nearest is painted last
    x, y = pixels[0, order].astype(int).T
    light = 0.4 + 0.6 * np.maximum(mesh.face_normals[faces] @ [0.36, 0.48, 0.8], 0)
    canvas = np.full((2 * size, 2 * size, 3), 255, np.uint8)
    canvas[y, x] = (colours[:, :3] * light[:, None]).astype(np.uint8)[order]
    return Image.fromarray(canvas).resize((size, size), Image.Resampling.BOX)


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    """Of values in a range of length 1; at most 150 dB, where float32 ends."""
    error = float(np.mean((found.astype(np.float64) - expected) ** 2))
    return -10 * math.log10(max(error, 1e-15))


def report(rows: dict[str, dict], decoding: dict[str, dict], bench: Bench) -> None:
    """The tables, and the JSON object."""
    print("\n| way | ratio | lowest, highest | s per orbit | dB to plain | dB to the limit | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        low, high = row["ratio_range"]
        print(
            f"| {name} | {row['ratio']:.2f} | {low:.2f}, {high:.2f} | {row['seconds']:.2f} | "
            f"{row['psnr_db']:.1f} | {row['psnr_to_limit_db']:.1f} | {row['peak_mb']:.0f} |"
        )
    print("\n| decoding | s | dB to whole | peak MB |\n|---|---|---|---|")
    for name, row in decoding.items():
        print(f"| {name} | {row['seconds']:.2f} | {row['psnr_db']:.1f} | {row['peak_mb']:.0f} |")
    if bench.arguments.json:
        good = {
            name: row for name, row in rows.items() if row["psnr_db"] >= MIN_PSNR and "guided" not in name
        }
        best = max(good, key=lambda name: good[name]["ratio"])
        found = {
            "ratio": round(rows[best]["ratio"], 2),
            "way": best,
            **{key: value for key, value in rows[best].items() if key != "ratio"},
            "ways": rows,
            "decoding": decoding,
            "settings": {
                "config": bench.arguments.config,
                "size": bench.size,
                "steps": bench.arguments.steps,
                "views": VIEWS,
                "repeats": bench.repeats,
                "min_psnr_db": MIN_PSNR,
                "device": torch.cuda.get_device_name() if bench.device != "cpu" else "cpu, 1 thread",
            },
            "versions": {
                "torch": torch.__version__,
                "diffusers": diffusers.__version__,
                "python": sys.version.split()[0],
            },
        }
        print(json.dumps(found))


if __name__ == "__main__":
    main()
