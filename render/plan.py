"""What will be rendered, and how: a pure function of the settings and the uid.

Nothing here reads a clock, a file or a random state, so the same list of objects gives the same cameras
and the same light on every machine and in every order.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from render.config import RenderConfig
from svd3d.cameras import Cameras, Orbit

SKY_MEAN = 0.7
"""Radiance of the neutral sky, averaged over all directions."""
SKY_SLOPE = 0.55
"""How much brighter the brightest direction of the neutral sky is than its mean."""
SKY_DIRECTION = (0.35, -0.5, 0.8)
"""Where the neutral sky is brightest, in the world (+Z up): above, to the right of the camera at -Y."""
BORDER_PX = 3
"""Pixels around the projected object that are rendered too: the filter reaches 1.5 pixels."""
CHUNK = 100_000
"""Points projected at once, to keep memory flat for scans with millions of vertices."""


@dataclass(frozen=True)
class Plan:
    """How one object will be rendered: directions and light; the distance needs its vertices."""

    uid: str
    orbit: Orbit
    """Its distance is provisional until `framed`."""
    seed: int
    """Of Blender's noise; view k takes seed + k."""
    light_turn_deg: float
    """Turn of an environment picture around the vertical axis."""


def plan(config: RenderConfig, uid: str) -> Plan:
    """Draw elevation, light and noise seed of one object from the seed and its uid."""
    digest = hashlib.sha256(f"{config.seed}:{uid}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:16], "big"))
    elevation, turn = generator.uniform(*config.elevation_deg), generator.uniform(0, 360)
    orbit = Orbit.static(
        num_views=config.views,
        azimuth_deg=config.azimuth_deg,
        elevation_deg=round(float(elevation), 3),
        fov_deg=config.fov_deg,
    )
    return Plan(uid, orbit, int(generator.integers(2**30)), round(float(turn), 3))


def framed(orbit: Orbit, points: Float[np.ndarray, "n 3"], *, fill: float) -> Orbit:
    """The orbit at the smallest distance that clips no point in any view; exact, in flat memory."""
    chunks = [points[start : start + CHUNK] for start in range(0, len(points), CHUNK)]
    return max((orbit.fitted(chunk, fill=fill) for chunk in chunks), key=lambda fitted: fitted.distance)


def borders(cameras: Cameras, points: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "v 4"]:
    """Pixel rectangles (left, top, right, bottom; right and bottom exclusive) that hold the object."""
    low = np.full((len(cameras), 2), np.inf)
    high = -low
    for start in range(0, len(points), CHUNK):
        pixels, _ = cameras.project(points[start : start + CHUNK])
        low, high = np.minimum(low, pixels.min(axis=1)), np.maximum(high, pixels.max(axis=1))
    frame = np.array([cameras.width, cameras.height])
    low = np.clip(np.floor(low - BORDER_PX), 0, frame - 1)
    high = np.clip(np.ceil(high + BORDER_PX), low + 1, frame)
    return np.concatenate([low, high], axis=1).astype(np.int64)


def sky() -> dict[str, Any]:
    """The neutral sky: radiance L(d) = mean + slope . d for a unit direction d.

    A first-order environment lights a white Lambertian surface of normal n without occlusion with
    exactly L = mean + 2/3 slope . n (Ramamoorthi and Hanrahan 2001, equations 7 and 8), which a test
    checks against Blender.
    """
    scale = SKY_SLOPE / math.sqrt(sum(part**2 for part in SKY_DIRECTION))
    return {"kind": "sky", "mean": SKY_MEAN, "slope": [part * scale for part in SKY_DIRECTION]}
