"""What will be rendered, and how: a pure function of the settings, the uid and the names of the lights.

Nothing here reads a clock, a file or a random state, so the same list of objects gives the same cameras
and the same light on every machine and in every order.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from render.config import RenderConfig
from svd3d.cameras import Cameras, Orbit

BORDER_PX = 3
"""Pixels around the projected object that are rendered too: the filter reaches 1.5 pixels."""
CHUNK = 2_000_000
"""Points times views projected at once, to keep memory flat for scans with millions of vertices."""


@dataclass(frozen=True)
class Plan:
    """How one object will be rendered: directions and light; the distance needs its vertices."""

    uid: str
    orbit: Orbit
    """Its distance is provisional until `framed`."""
    seed: int
    """Of Blender's noise; view k takes seed + k."""
    light: str | None
    """Name of its environment picture; None: the neutral sky."""
    light_turn_deg: float
    """Turn of an environment picture around the vertical axis."""


def plan(config: RenderConfig, uid: str, *, lights: Sequence[str]) -> Plan:
    """Draw orbit, light and noise of one object from the seed, its uid and the names of the lights.

    Another light in the list is drawn by some objects, which then look different; the others keep theirs.
    Other objects and the order of the lights change nothing, and another orbit does not change the light.
    """
    orbit = _orbit(config, np.random.default_rng(_hash(config.seed, uid)))
    generator = np.random.default_rng(_hash(config.seed, uid, "light and noise"))
    turn = round(float(generator.uniform(0, 360)), 3)
    light = max(lights, key=lambda name: _hash(config.seed, uid, name), default=None)
    return Plan(uid, orbit, int(generator.integers(2**30)), light, turn)


def _hash(*parts: object) -> int:
    """A number of 128 bits, the same on every machine."""
    text = ":".join(map(str, parts)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:16], "big")


def _orbit(config: RenderConfig, generator: np.random.Generator) -> Orbit:
    shared = {"num_views": config.views, "azimuth_deg": config.azimuth_deg, "fov_deg": config.fov_deg}
    if config.orbit == "dynamic":
        return Orbit.dynamic(generator, elevation_range_deg=config.elevation_deg, **shared)
    if config.orbit == "random":
        return Orbit.random(generator, elevation_range_deg=config.elevation_deg, **shared)
    return Orbit.static(elevation_deg=round(float(generator.uniform(*config.elevation_deg)), 3), **shared)


def framed(orbit: Orbit, points: Float[np.ndarray, "n 3"], *, fill: float) -> Orbit:
    """The orbit at the smallest distance that clips no point in any view; exact, in flat memory."""
    fits = (orbit.fitted(chunk, fill=fill) for chunk in _chunks(points, orbit.num_views))
    return max(fits, key=lambda fitted: fitted.distance)


def borders(cameras: Cameras, points: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "v 4"]:
    """Pixel rectangles (left, top, right, bottom; right and bottom exclusive) that hold the object."""
    low = np.full((len(cameras), 2), np.inf)
    high = -low
    for chunk in _chunks(points, len(cameras)):
        pixels, _ = cameras.project(chunk)
        low, high = np.minimum(low, pixels.min(axis=1)), np.maximum(high, pixels.max(axis=1))
    frame = np.array([cameras.width, cameras.height])
    low = np.clip(np.floor(low - BORDER_PX), 0, frame - 1)
    high = np.clip(np.ceil(high + BORDER_PX), low + 1, frame)
    return np.concatenate([low, high], axis=1).astype(np.int64)


def _chunks(points: Float[np.ndarray, "n 3"], views: int) -> Iterator[Float[np.ndarray, "m 3"]]:
    size = max(1, CHUNK // views)
    return (points[start : start + size] for start in range(0, len(points), size))
