"""Short clips of a small object before a bold background, by cameras that pan, zoom or stand still.

In the clips of `make_videos.py` objects are too large and backgrounds too faint for optical flow to tell what
the camera does. What a clip shows follows from the seed and its number, so that processes can share the work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import make_videos
import numpy as np
import raycast
from objects import textures

from svd3d import runs
from svd3d.cameras import DEFAULT_FOV_DEG

SIZE = 32
"""Height and width of the frames in pixels; optical flow sees these motions in larger ones no better."""
CAMERAS = ("still", "pans left", "zooms in", "still", "pans right", "zooms out")
"""Of clips in turn."""
KINDS = {"still": "static", "pans": "pan", "zooms": "zoom"}
"""What `svd3d curate` calls them."""
STRENGTHS = {"still": (0.0, 0.0), "pans": (0.0, 0.15), "zooms": (0.1, 0.4)}
"""Of these motions in `make_videos.AMOUNTS`: they can be seen, and most of the first frame stays in view."""
TONES = ((40, 55, 90), (255, 255, 255))
"""Of backgrounds, RGB of 255."""
SMALLER, SLOWER = 0.55, 0.5
"""Than in `make_videos.py` are the objects, and their own motion."""
SIGNS = {"": 0, "left": -1, "right": 1, "out": -1, "in": 1}
"""As `svd3d.curation.camera_motion` has them."""


@dataclass(frozen=True)
class World:
    """Which clips there are."""

    objects: Path
    """A list of `make_objects.py`."""
    count: int
    frames: int
    seed: int


@dataclass(frozen=True)
class Truth:
    """What the camera of a clip does."""

    uid: str
    kind: str
    """`static`, `pan` or `zoom`."""
    pan: float
    """Widths per second, to the right, at the centre."""
    zoom: float
    """Doublings per second, in."""


def make(world: World, out: Path, part: int = 0, parts: int = 1) -> None:
    """OUT/<id>.mkv, every `parts`-th from number `part` on; those that are there stay."""
    runs.output_folder(out)
    rows = make_videos.trained_objects(world.objects)
    places = {row["uid"]: world.objects.parent / row["path"] for row in rows}
    for number in range(part, world.count, parts):
        path = out / f"{number:06d}.mkv"
        if not path.exists():
            shot, generator = _shot(world, number, rows)
            frames, _ = make_videos.film(
                shot,
                [raycast.read(places[actor.uid]) for actor in shot.actors],
                size=SIZE,
                frames=world.frames,
                generator=generator,
                background=_bold(generator),
            )
            make_videos.write_video(path, frames)


def truths(world: World) -> list[Truth]:
    """Of all clips, in their order."""
    rows = make_videos.trained_objects(world.objects)
    seconds = (world.frames - 1) / make_videos.FPS
    found = []
    for number in range(world.count):
        shot, _ = _shot(world, number, rows)
        verb, _, way = shot.camera.partition(" ")
        pan = zoom = 0.0
        if verb == "pans":
            turn = np.radians(make_videos.amount("pan", shot.camera_strength))
            pan = SIGNS[way] * turn / (2 * np.tan(np.radians(DEFAULT_FOV_DEG) / 2)) / seconds
        if verb == "zooms":
            zoom = SIGNS[way] * np.log2(make_videos.amount("zoom", shot.camera_strength)) / seconds
        found.append(Truth(f"{number:06d}", KINDS[verb], float(pan), float(zoom)))
    return found


def _shot(
    world: World, number: int, rows: Sequence[dict[str, Any]]
) -> tuple[make_videos.Shot, np.random.Generator]:
    """What is filmed, and what draws the rest."""
    generator = np.random.default_rng([world.seed, number])
    camera = CAMERAS[number % len(CAMERAS)]
    strength = float(generator.uniform(*STRENGTHS[camera.partition(" ")[0]]))
    shot = make_videos.draw_shot(generator, rows)
    actor = shot.actors[0]
    small = dataclasses.replace(actor, size=SMALLER * actor.size, strength=SLOWER * actor.strength)
    return dataclasses.replace(shot, actors=(small,), camera=camera, camera_strength=strength), generator


def _bold(generator: np.random.Generator) -> make_videos.Background:
    """Smooth dark shapes before white. All clips share the two tones, which an autoencoder learns soon."""
    field = textures.waves(generator, 0.12, 0.12)
    low, high = np.quantile(field, (0.15, 0.85))
    picture = textures.ramp((field - low) / (high - low), TONES)
    return make_videos.Background(raycast.SRGB_TO_LINEAR[picture], across_deg=60.0)
