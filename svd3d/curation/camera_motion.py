"""The camera's motion in a clip, apart from that of its subjects: static, pan, tilt, zoom, roll, or mixed.

Between two samples, a camera that turns, zooms or looks at something far away moves the whole picture by a
homography. It is fitted to the flow by RANSAC, so that a subject that fills less than half of what stays in
view does not disturb it; what the flow does beyond it is the motion of objects.

Signs are those of the camera: pan > 0 turns or moves right (the picture goes left), tilt > 0 up (the picture
goes down), zoom > 0 in or forward (the picture grows), roll > 0 clockwise as seen from behind the camera (the
picture turns counter-clockwise).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

from svd3d.curation.motion import STEP_S, FlowPair, opencv

Kind = Literal["static", "pan", "tilt", "zoom", "roll", "mixed", "unknown"]
MOVES: tuple[Kind, ...] = ("pan", "tilt", "zoom", "roll")
STILL = 0.3
"""Speed below which a camera stands still, in sixteenths of the short side per half a second: a slower one
needs half a minute to pass what it sees."""
PURE = 0.9
"""Share of a camera's path that must go one way for it to have a kind; else its motion is mixed."""
SAME = 0.2
"""By how many sixteenths the flow of a cell may miss the camera's, beside `SAME_SHARE` of that."""
SAME_SHARE = 0.05
MAJORITY = 1 / 3
"""Share of the picture that must move with the camera for a fit to be believed."""
IN_VIEW = 0.2
"""Share of the picture that must stay in view; what leaves it is not measured."""
TEXTURE = 0.005
"""Share of the picture that must have texture."""


@dataclass(frozen=True)
class CameraMotion:
    """How the camera moves in a clip, on average over its time; None = unknown."""

    kind: Kind
    confidence: float
    """0 to 1: grows with the share of the picture and of the time that agree, and with the distance to
    another kind; 0 for unknown."""
    pan: float | None = None
    """Widths of the picture per second."""
    tilt: float | None = None
    """Heights of the picture per second."""
    zoom: float | None = None
    """Doublings of the size of things per second."""
    roll: float | None = None
    """Degrees per second."""
    object_motion: float | None = None
    """Mean length of the flow that is left without the camera's, in the unit of motion: sixteenths of the
    short side per half a second. Up to half too much, for what a fast subject covers and uncovers."""


@dataclass(frozen=True, eq=False)
class _Step:
    """The camera between two samples."""

    dt_s: float
    rates: Float[np.ndarray, "4"]
    """Pan, tilt, zoom and roll in the units of `CameraMotion`."""
    speeds: Float[np.ndarray, "4"]
    """The same as root mean square of the length of the flow that each makes, in the unit of motion."""
    support: float
    """Share of the picture that moves with the camera."""
    object_motion: float


def classify(pairs: Sequence[FlowPair]) -> CameraMotion:
    """The camera's motion over the pairs of one clip.

    A camera whose mean speed is below `STILL` is static. One that goes one way with at least `PURE` of its
    path is of that kind, however its speed varies; all else, such as a hand that shakes, is mixed. A clip
    is unknown if in most of its time there was too little texture, or no common motion.
    """
    total = sum(pair.dt_s for pair in pairs)
    steps = [step for step in map(_step, pairs) if step is not None]
    known = sum(step.dt_s for step in steps)
    if not steps or known < total / 2:
        return CameraMotion("unknown", 0.0)
    weights = np.array([step.dt_s for step in steps]) / known
    speeds = np.stack([step.speeds for step in steps])
    net, speed = weights @ speeds, float(weights @ np.linalg.norm(speeds, axis=1))
    most = int(np.abs(net).argmax())
    purity = float(abs(net[most])) / max(speed, 1e-9)
    if speed < STILL:
        kind, certainty = "static", 1 - speed / STILL / 2
    else:
        kind, certainty = (MOVES[most], purity) if purity >= PURE else ("mixed", (1 - purity**2) ** 0.5)
        certainty *= 1 - STILL / speed / 2
    support = sum(step.dt_s * min(1.0, 2 * step.support) for step in steps) / total
    pan, tilt, zoom, roll = (float(rate) for rate in weights @ np.stack([step.rates for step in steps]))
    objects = float(weights @ [step.object_motion for step in steps])
    return CameraMotion(kind, certainty * support, pan, tilt, zoom, roll, objects)


def _step(pair: FlowPair) -> _Step | None:
    """The camera between the two samples of a pair, or None where it cannot be told."""
    cells = cells_of(pair)
    seen = (np.abs(cells + pair.flow) < np.array(pair.extent) / 2).all(axis=-1)
    start, flow = cells[seen], pair.flow[seen]
    fitted = fit(start, flow) if pair.texture >= TEXTURE and seen.mean() > IN_VIEW else None
    if fitted is None:
        return None
    camera = _apply(fitted, start) - start
    rest = np.linalg.norm(flow - camera, axis=-1)
    support = float((rest < SAME + SAME_SHARE * np.linalg.norm(camera, axis=-1)).mean())
    if support < MAJORITY:
        return None
    shift, jacobian = _about_centre(fitted)
    grow = 0.5 * np.log(max(np.linalg.det(jacobian), 1e-6))
    turn = np.arctan2(jacobian[1, 0] - jacobian[0, 1], jacobian[0, 0] + jacobian[1, 1])
    lever = np.sqrt((cells**2).sum(axis=-1).mean())
    right, down = shift / pair.extent
    rates = np.array([-right, down, grow / np.log(2), -np.degrees(turn)]) / pair.dt_s
    speeds = np.array([-shift[0], shift[1], grow * lever, -turn * lever]) * STEP_S / pair.dt_s
    return _Step(pair.dt_s, rates, speeds, support, float(rest.mean()) * STEP_S / pair.dt_s)


def fit(start: Float[np.ndarray, "n 2"], flow: Float32[np.ndarray, "n 2"]) -> Float[np.ndarray, "3 3"] | None:
    """The homography that takes most points where the flow says, or None without one.

    RANSAC draws the same samples every time.
    """
    if len(start) < 4:
        return None
    cv2 = opencv()
    fitted, _ = cv2.findHomography(start, start + flow, cv2.RANSAC, SAME)
    return fitted


def cells_of(pair: FlowPair) -> Float[np.ndarray, "h w 2"]:
    """The centres of the cells, x right and y down from that of the picture, in the unit of the flow."""
    height, width = pair.flow.shape[:2]
    rows, columns = np.indices((height, width), dtype=np.float64)
    places = np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=-1)
    return (places - 0.5) * pair.extent


def _apply(homography: Float[np.ndarray, "3 3"], points: Float[np.ndarray, "*n 2"]) -> np.ndarray:
    moved = points @ homography[:, :2].T + homography[:, 2]
    return moved[..., :2] / moved[..., 2:]


def _about_centre(
    homography: Float[np.ndarray, "3 3"],
) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2 2"]]:
    """How far the homography takes the point that it takes across the centre, and what it does around it.

    That point is as far from the centre before as it is after, so the way back gives the inverse.
    """
    point = np.zeros(2)
    for _ in range(10):
        point = (point - _apply(homography, point)) / 2
    scale = homography[2, :2] @ point + homography[2, 2]
    goal = _apply(homography, point)
    return goal - point, (homography[:2, :2] - np.outer(goal, homography[2, :2])) / scale
