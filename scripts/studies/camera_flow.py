"""What the camera of a clip does, measured in its optical flow."""

from __future__ import annotations

from typing import Any

import numpy as np

from svd3d.curation import camera_motion, motion, onepass, video
from svd3d.errors import InputError

ROUNDS, FLAT = 10, 0.05
"""Of the fit to flow, and the deviation, in sixteenths of the short side, below which squares count."""


def watch(frames: np.ndarray, *, fps: float) -> dict[str, Any]:
    """What the camera of a video [t, h, w, 3] does, and its `kind` as `svd3d curate` has it.

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
