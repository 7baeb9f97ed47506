"""How well the model tells the elevation of a picture, against always saying 10 degrees.

    python scripts/benchmark_elevation.py VIEWS [--model tiny] [--count 24]

VIEWS holds sample folders with known cameras (as svd3d render writes them), of objects that the model has not
seen. Of each, the condition view is cut out and centred, as svd3d generate does with a plain picture.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from svd3d import images, sample
from svd3d.generate import PLAIN_ELEVATION_DEG
from svd3d.model import elevation
from svd3d.model.pipeline import SVDMVPipeline


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("views", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--count", type=int, default=24)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipeline = SVDMVPipeline.load(arguments.model)
    pipeline.set_progress_bar_config(disable=True)
    folders = [folder for folder in sorted(arguments.views.iterdir()) if sample.is_sample(folder)]
    true, found = [], []
    for folder in folders[: arguments.count]:
        each = sample.read(folder)
        view = each.condition_view or 0
        square = images.center(each.images[view], size=pipeline.size)
        picture = Image.fromarray(images.to_uint8(images.composite(square)))
        true.append(each.orbit.elevations_deg[view])
        found.append(elevation.estimate(pipeline, picture, num_views=len(each)))
        print(f"{each.uid:30} {true[-1]:6.1f} told as {found[-1]:6.1f}", flush=True)
    told, fixed = (np.abs(np.array(guess) - true) for guess in (found, PLAIN_ELEVATION_DEG))
    ahead = fixed - told
    interval = 1.96 * ahead.std(ddof=1) / np.sqrt(len(ahead))
    print(f"{len(true)} objects: wrong by {told.mean():.1f} degrees on average,", end=" ")
    print(f"always {PLAIN_ELEVATION_DEG:g} by {fixed.mean():.1f}")
    print(f"ahead by {ahead.mean():.1f} +- {interval:.1f} (95 %)")
    print(f"correlation {np.corrcoef(true, found)[0, 1]:.2f}")


if __name__ == "__main__":
    main()
