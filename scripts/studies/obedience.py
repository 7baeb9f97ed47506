"""What clips of `simple_videos` show, measured in their frames: which way, how fast and in what colour."""

from __future__ import annotations

import colorsys
import itertools
from dataclasses import dataclass

import numpy as np
from make_videos import COLOUR_NAMES

from svd3d.curation import motion

FAINT = 0.25
"""Difference from white, of 1, below which a pixel is background."""
STILL, FAST = 0.05, 0.29
"""Ways, in widths of the picture, below which nothing moves, and above which it is fast."""
SIDE = 128
"""Pixels to which frames are enlarged for the flow."""
MEASURES = ("direction", "colour", "speed")


@dataclass(frozen=True)
class Shown:
    """What a clip shows, in the words of its caption; None: nothing moves, or nothing is there."""

    direction: str | None
    colour: str | None
    speed: str | None
    way: float
    """Of what moves, in widths of the picture, from the first frame to the last."""


def shown(frames: np.ndarray) -> Shown:
    """Of frames uint8 [t, h, w, 3]."""
    right, down = path(frames).tolist()
    way = float(np.hypot(right, down))
    direction = ("left", "right")[right > 0] if abs(right) > abs(down) else ("up", "down")[down > 0]
    speed = "fast" if way > FAST else "slowly"
    moves = way > STILL
    return Shown(direction if moves else None, colour(frames), speed if moves else None, way)


def path(frames: np.ndarray) -> np.ndarray:
    """How far right and down what differs from white moves, in widths of the picture.

    The mean of Farnebäck's optical flow over it, from frame to frame.
    """
    cv2 = motion.opencv()
    settings = motion.FARNEBACK | {"levels": 3}
    pictures = [cv2.resize(255 - frame.min(axis=-1), (SIDE, SIDE)) for frame in frames]
    steps = []
    for before, after in itertools.pairwise(pictures):
        flow = cv2.calcOpticalFlowFarneback(before, after, None, **settings)
        there = before > 255 * FAINT
        steps.append(flow[there].mean(axis=0) if there.any() else np.zeros(2))
    return np.sum(steps, axis=0) / SIDE


def colour(frames: np.ndarray) -> str | None:
    """The name of the hue of the mean colour of what differs from white."""
    there = frames.min(axis=-1) < 255 * (1 - FAINT)
    if not there.any():
        return None
    hue, _, _ = colorsys.rgb_to_hsv(*frames[there].mean(axis=0) / 255)
    return next((name for name, (low, high) in COLOUR_NAMES.items() if low <= hue < high), "red")
