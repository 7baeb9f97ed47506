"""Views per second of `svd3d evaluate` against a loop in the manner of the scripts that papers publish.

    python scripts/benchmark_evaluate.py [--quick] [--json] [--objects 30] [--size 576] [--repeats 3]

Both read the same PNG files and end with PSNR, SSIM and mask IoU of every view over white. The loop takes
one view at a time: Pillow, floats, torchmetrics' PeakSignalNoiseRatio and BinaryJaccardIndex built anew for
each call, scikit-image's structural_similarity with Gaussian weights. `svd3d evaluate` also checks cameras,
takes the SHA-256 of all files, and writes its report, bootstrap intervals and pages. Every number of one is
compared with that of the other.

References are orbits of the bundled toy car (21 views), predictions are the same views shifted, blurred and
re-lit, with a clean background as `svd3d generate` writes it. The two take turns; a ratio is that of one
turn, in seconds of the wall clock; the ratio of CPU-seconds is told too.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import torch
import torchmetrics
from PIL import Image
from scipy import ndimage
from skimage.metrics import structural_similarity
from torchmetrics.classification import BinaryJaccardIndex
from torchmetrics.image import PeakSignalNoiseRatio

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from svd3d import evaluate, images, sample  # noqa: E402
from svd3d.cameras import Orbit  # noqa: E402
from svd3d.sample import Sample  # noqa: E402
from svd3d.settings import EvaluateConfig  # noqa: E402

VIEWS = 21
METRICS = ("psnr", "ssim", "mask-iou")
DRAWN = 144
"""Pixels at which the toy car is drawn before its views are enlarged; drawing is not what is measured."""
Scores = dict[tuple[str, int, str], float]
"""Value by object, view and metric."""


@dataclass(frozen=True)
class Turn:
    """What scoring everything once took."""

    seconds: float
    cpu_seconds: float
    parts: dict[str, float]
    """Seconds of the steps that a way tells."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few objects, two turns")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--objects", type=int, help="3 with --quick, else 30")
    parser.add_argument("--size", type=int, default=576, help="height and width of the views in pixels")
    parser.add_argument("--repeats", type=int, help="turns (2 with --quick, else 3)")
    arguments = parser.parse_args()
    objects = arguments.objects or (3 if arguments.quick else 30)
    repeats = arguments.repeats or (2 if arguments.quick else 3)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_views(folder, objects, size=arguments.size)
        turns: dict[str, list[Turn]] = {name: [] for name in WAYS}
        scores: dict[str, Scores] = {}
        for turn in range(repeats):
            for name, way in WAYS.items():
                made, scores[name] = measure(way, folder)
                turns[name].append(made)
                print(f"{turn + 1}/{repeats} {name:14} {made}", file=sys.stderr, flush=True)
    found = summary(turns, scores, views=objects * VIEWS)
    print(table(found))
    if arguments.json:
        settings = {"objects": objects, "views": VIEWS, "size": arguments.size, "repeats": repeats}
        settings |= {"threads": torch.get_num_threads()}
        libraries = (np, skimage, torch, torchmetrics)
        versions = {"python": platform.python_version()} | {
            each.__name__: each.__version__ for each in libraries
        }
        print(json.dumps({**found, "settings": settings, "versions": versions}))


def make_views(folder: Path, objects: int, *, size: int) -> None:
    """`references/` and `predictions/`: orbits from different elevations and azimuths."""
    import raycast

    solid = raycast.read(ROOT / "svd3d/assets/objects/toy_car.glb")
    for number in range(objects):
        elevation, azimuth = 30 * number / objects - 5, 360 * number / objects
        orbit = Orbit.static(num_views=VIEWS, elevation_deg=elevation, azimuth_deg=azimuth)
        orbit = orbit.fitted(solid.vertices)
        drawn = raycast.render(
            solid, orbit.cameras(height=DRAWN, width=DRAWN), sky=raycast.Sky.fixed(), seed=0
        )
        views = np.stack([images.resize(view, height=size, width=size) for view in drawn])
        cameras = orbit.cameras(height=size, width=size)
        uid = f"car-{number:02d}"
        for kind, origin, made in (
            ("references", "rendered", views),
            ("predictions", "generated", spoiled(views, seed=number)),
        ):
            sample.write(Sample(uid, cameras, made, origin, orbit=orbit), folder / kind / uid)


def spoiled(views: np.ndarray, *, seed: int) -> np.ndarray:
    """The views [v, h, w, 4] as a model might give them: shifted, softer, of another brightness."""
    generator = np.random.default_rng(seed)
    size = views.shape[1]
    found = []
    for view in views:
        shift = (*generator.uniform(-0.01, 0.01, 2) * size, 0)
        moved = ndimage.shift(view.astype(np.float32), shift, order=1, mode="nearest")
        soft = ndimage.gaussian_filter(moved, (size / 300, size / 300, 0))
        colour = soft[..., :3] * generator.uniform(0.9, 1.1) + generator.normal(0, 4, (size, size, 3))
        alpha = np.where(soft[..., 3:] < 2, 0, soft[..., 3:])
        found.append(np.concatenate([colour, alpha], axis=-1).clip(0, 255).astype(np.uint8))
    return np.stack(found)


def measure(way: Callable[[Path, dict[str, float]], Scores], folder: Path) -> tuple[Turn, Scores]:
    """One turn of a way."""
    parts: dict[str, float] = {}
    start, cpu = time.perf_counter(), time.process_time()
    scores = way(folder, parts)
    return Turn(time.perf_counter() - start, time.process_time() - cpu, parts), scores


def ours(folder: Path, _parts: dict[str, float]) -> Scores:
    """`svd3d evaluate --protocol views`, from the files to the report."""
    config = EvaluateConfig(
        pred=(str(folder / "predictions"),),
        ref=folder / "references",
        out=folder / "scores",
        protocol="views",
        metrics=METRICS,
    )
    report = evaluate.run(config)
    return {(row.object, row.view, row.metric): row.value for row in report.rows if row.view is not None}


def loop(folder: Path, parts: dict[str, float]) -> Scores:
    """One picture at a time, one metric object for each call."""
    scores: Scores = {}

    def timed(part: str, compute: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        value = compute()
        parts[part] = parts.get(part, 0.0) + time.perf_counter() - start
        return value

    for reference in sorted((folder / "references").iterdir()):
        for view in range(VIEWS):
            name = f"images/{view:03d}.png"
            theirs, their_mask = timed("reading", lambda path=reference / name: read(path))
            path = folder / "predictions" / reference.name / name
            ours, our_mask = timed("reading", lambda path=path: read(path))
            values = {
                "psnr": timed("psnr", lambda a=ours, b=theirs: psnr(a, b)),
                "ssim": timed("ssim", lambda a=ours, b=theirs: ssim(a, b)),
                "mask-iou": timed("mask-iou", lambda a=our_mask, b=their_mask: mask_iou(a, b)),
            }
            scores |= {(reference.name, view, metric): value for metric, value in values.items()}
    return scores


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Colours [h, w, 3] over white in [0, 1], and the mask [h, w]."""
    rgba = np.asarray(Image.open(path).convert("RGBA"), np.float32) / 255
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + 1 - alpha, alpha[..., 0] > 0.5


def psnr(ours: np.ndarray, theirs: np.ndarray) -> float:
    metric = PeakSignalNoiseRatio(data_range=1.0)
    return float(metric(torch.from_numpy(ours), torch.from_numpy(theirs)))


def ssim(ours: np.ndarray, theirs: np.ndarray) -> float:
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return float(structural_similarity(ours, theirs, channel_axis=2, **options))


def mask_iou(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(BinaryJaccardIndex()(torch.from_numpy(ours), torch.from_numpy(theirs)))


WAYS: dict[str, Callable[[Path, dict[str, float]], Scores]] = {"public scripts": loop, "ours": ours}


def summary(turns: dict[str, list[Turn]], scores: dict[str, Scores], *, views: int) -> dict[str, Any]:
    """Medians over the turns, the ratio first."""
    plain, own = turns["public scripts"], turns["ours"]
    pairs = list(zip(plain, own, strict=True))
    ratios = [a.seconds / b.seconds for a, b in pairs]
    theirs, mine = scores["public scripts"], scores["ours"]
    if theirs.keys() != mine.keys():
        raise SystemExit(f"not the same numbers were made: {len(theirs)} and {len(mine)}")
    return {
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "cpu_ratio": statistics.median(a.cpu_seconds / b.cpu_seconds for a, b in pairs),
        "ways": {
            name: {
                "views_per_second": statistics.median(views / each.seconds for each in done),
                "seconds": statistics.median(each.seconds for each in done),
                "seconds_range": [min(each.seconds for each in done), max(each.seconds for each in done)],
                "cpu_seconds": statistics.median(each.cpu_seconds for each in done),
            }
            for name, done in turns.items()
        },
        "parts": {name: statistics.median(each.parts[name] for each in plain) for name in plain[0].parts},
        "largest_difference": {
            metric: max(abs(value - mine[key]) for key, value in theirs.items() if key[2] == metric)
            for metric in METRICS
        },
        "means": {
            metric: statistics.mean(value for key, value in mine.items() if key[2] == metric)
            for metric in METRICS
        },
    }


def table(found: dict[str, Any]) -> str:
    """The summary, to read."""
    lines = ["| way | views/s | s | lowest, highest | CPU-s |", "|---|---|---|---|---|"]
    for name, row in found["ways"].items():
        least, most = row["seconds_range"]
        lines.append(
            f"| {name} | {row['views_per_second']:.1f} | {row['seconds']:.1f} | {least:.1f}, {most:.1f} | "
            f"{row['cpu_seconds']:.1f} |"
        )
    lines += ["", "| part of the public scripts' loop | s |", "|---|---|"]
    lines += [f"| {name} | {seconds:.1f} |" for name, seconds in found["parts"].items()]
    lines += ["", "| metric | mean | largest difference |", "|---|---|---|"]
    lines += [
        f"| {name} | {found['means'][name]:.4f} | {difference:.1e} |"
        for name, difference in found["largest_difference"].items()
    ]
    low, high = found["ratio_range"]
    ratio = f"ratio {found['ratio']:.2f} ({low:.2f} to {high:.2f})"
    return "\n".join([*lines, "", f"{ratio}; of CPU time {found['cpu_ratio']:.2f}"])


if __name__ == "__main__":
    main()
