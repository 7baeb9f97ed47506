"""The elevation of the camera that took a picture, asked of the model itself.

The model is told one elevation after the other and makes a short orbit of the picture each time; its first
view should be the picture again, and is most so where the elevation is right. How well that works is
measured by `scripts/benchmark_elevation.py`: it is not clearly better than a constant with the bundled model.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from svd3d.model.pipeline import SVDMVPipeline

CANDIDATES_DEG = (-5.0, 0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
"""The elevations of the paper's training set (SVD, section 4.5)."""
STEPS = 6
"""Denoising steps of each short orbit."""


def estimate(pipeline: "SVDMVPipeline", picture: Image.Image, *, num_views: int, seed: int = 0) -> float:
    """Degrees between the lowest and the highest candidate; costs as much as 48 steps without guidance.

    The picture is RGB over the background that the model was trained with. The same seed gives the same
    answer.
    """
    size = pipeline.size
    wanted = np.asarray(picture.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)) / 255
    errors = []
    for candidate in CANDIDATES_DEG:
        made = pipeline(
            picture,
            elevation_deg=candidate,
            num_views=num_views,
            num_inference_steps=STEPS,
            min_guidance_scale=1.0,
            max_guidance_scale=1.0,
            keep_input_view=False,
            decode_chunk_size=1,  # least memory
            generator=torch.Generator().manual_seed(seed),
        )
        errors.append(float(((made.views[0, 0] - wanted) ** 2).mean()))
    return lowest(CANDIDATES_DEG, errors)


def lowest(places: tuple[float, ...], values: list[float]) -> float:
    """Where the parabola through the lowest value and its two neighbours is lowest; places are even."""
    best = int(np.argmin(values))
    if best in (0, len(values) - 1):
        return places[best]
    left, middle, right = values[best - 1 : best + 2]
    bend = left - 2 * middle + right
    shift = 0.0 if bend <= 0 else 0.5 * (left - right) / bend
    return places[best] + shift * (places[1] - places[0])
