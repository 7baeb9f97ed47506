"""Short clips of one object in one colour that moves one way before white: a world for small models.

Each caption tells all of it, as "A red car moves left fast." Some combinations of family, colour and
direction are held out, so that a model can be asked for what no clip has shown. A share of the clips can be
spoilt as a scraper finds them: nothing moves, they cut to another scene, or text covers them; their captions
tell what is seen at first.
"""

from __future__ import annotations

import colorsys
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import make_videos
import numpy as np
import raycast
from make_videos import Actor, Shot
from PIL import Image, ImageDraw, ImageFont

from studies.common import in_order
from svd3d import console, runs
from svd3d.curation import table, video

FAMILIES = ("car", "vessel", "creature", "building")
DIRECTIONS = ("left", "right", "up", "down")
STRENGTHS = {"slowly": (0.25, 0.4), "fast": (0.9, 1.0)}
"""Of motion, as in `make_videos.AMOUNTS`; what is slow is seen to move in small pictures, too."""
HUES = {
    "red": 0.0, "orange": 0.085, "yellow": 0.165, "green": 0.33,
    "turquoise": 0.455, "blue": 0.62, "purple": 0.76, "pink": 0.885,
}  # fmt: skip
"""Well within what has these names in `make_videos.COLOUR_NAMES`."""
SATURATION = 0.85
DARKEST = 0.5
"""Value that black becomes, so that everything has a hue."""
SIZES = (0.75, 0.9)
"""Of objects, in units of the scene, so that those that move fast stay in view."""
SPOILS = ("static", "cut", "text")
LETTERS = "ABCDEFGHIJKLMNOPRSTUVWXYZ"
TRUTH = "truth.jsonl"


@dataclass(frozen=True)
class Case:
    """What a clip is to show."""

    family: str
    colour: str
    direction: str
    speed: str

    def caption(self, *, moves: bool = True) -> str:
        """What is seen of it, in a sentence."""
        article = "an" if self.colour[0] in "aeiou" else "a"
        does = f"moves {self.direction} {self.speed}" if moves else "stands still"
        return make_videos.sentence(f"{article} {self.colour} {self.family} {does}")

    @property
    def is_held_out(self) -> bool:
        """Whether no clip to train on shows this colour of this family going this way.

        So it is for one combination in eight. Of any two of the three, clips to train on show everything.
        """
        family, colour = FAMILIES.index(self.family), list(HUES).index(self.colour)
        return (family + colour + 2 * DIRECTIONS.index(self.direction)) % len(HUES) == 0


def cases(*, held_out: bool) -> list[Case]:
    """All that are held out, or all others, in an order that mixes them."""
    every = itertools.starmap(Case, itertools.product(FAMILIES, HUES, DIRECTIONS, STRENGTHS))
    found = [case for case in every if case.is_held_out == held_out]
    return [found[place] for place in np.random.default_rng(0).permutation(len(found))]


@dataclass(frozen=True)
class World:
    """Which clips are made."""

    count: int
    size: int
    """Side of a frame in pixels."""
    frames: int
    seed: int
    held_out: bool = False
    """Whether they show the cases that are held out, or the others."""
    spoilt: float = 0.0
    """Share of them that has one of `SPOILS`."""


def make(objects: Path, out: Path, world: World, *, jobs: int = 1) -> None:
    """OUT/clips/<id>.mkv, truth.jsonl and clips.parquet, of objects of a list, by so many processes.

    Running it again resumes.
    """
    runs.output_folder(out / "clips")
    runs.same_settings(out, world)
    paths: dict[str, list[Path]] = {family: [] for family in FAMILIES}
    for row in runs.read_lines(objects):
        paths[row["family"]].append(objects.parent / row["path"])
    make_one = functools.partial(_make_clip, paths=paths, out=out, world=world)

    def truths() -> Iterator[dict[str, Any]]:
        known = runs.read_lines(out / TRUTH)
        yield from known
        for truth in in_order(make_one, range(len(known), world.count), jobs=jobs):
            runs.append_line(out / TRUTH, truth)
            yield truth

    told = console.progress(truths(), label=f"clips {out}", total=world.count)
    make_videos.write_table(out / table.NAME, told, videos=out)


def read(path: Path) -> np.ndarray:
    """Frames uint8 [t, h, w, 3] of a clip."""
    return np.stack([frame.image for frame in video.frames(video.probe(path))])


def _make_clip(
    number: int, *, paths: Mapping[str, Sequence[Path]], out: Path, world: World
) -> dict[str, Any]:
    """Film one clip; returns its line of truth.jsonl."""
    generator = np.random.default_rng([world.seed, number])
    known = cases(held_out=world.held_out)
    case = known[number % len(known)]
    spoil = str(generator.choice(SPOILS)) if generator.random() < world.spoilt else None
    moves = spoil != "static"
    pictures = film(generator, case, paths, world, moves=moves)
    if spoil == "cut":
        other, half = known[generator.integers(len(known))], world.frames // 2
        pictures[half:] = film(generator, other, paths, world, background="plain")[half:]
    if spoil == "text":
        pictures = with_text(generator, pictures)
    uid = f"{number:06d}"
    path = Path("clips") / f"{uid}.mkv"
    make_videos.write_video(out / path, pictures)
    told = {"id": uid, "file": path.as_posix(), "size": world.size, "frames": world.frames, "spoil": spoil}
    captions = dict.fromkeys(table.CAPTIONS) | {"caption_video": case.caption(moves=moves)}
    return {**told, **asdict(case), **captions}


def film(
    generator: np.random.Generator,
    case: Case,
    paths: Mapping[str, Sequence[Path]],
    world: World,
    *,
    moves: bool = True,
    background: str = "white",
) -> np.ndarray:
    """Frames uint8 [t, h, w, 3] of one of the objects; `paths` are by family."""
    path = paths[case.family][generator.integers(len(paths[case.family]))]
    actor = Actor(
        uid=path.stem,
        family=case.family,
        direction=case.direction if moves else None,
        path="straight",
        turn=None,
        deformation=None,
        speed=case.speed,
        strength=float(generator.uniform(*STRENGTHS[case.speed])),
        size=float(generator.uniform(*SIZES)),
        place=(0.0, 0.0, 0.0),
        yaw_deg=float(generator.uniform(-180, 180)),
    )
    shot = Shot((actor,), "still", "slowly", 0.0, float(generator.uniform(0, 20)), background)
    solid = painted(raycast.read(path), case.colour)
    pictures, _ = make_videos.film(shot, [solid], size=world.size, frames=world.frames, generator=generator)
    return pictures


def painted(solid: raycast.Solid, colour: str) -> raycast.Solid:
    """The same solid in the hue of a name; its texture keeps what it has of light and dark."""
    brightest = solid.colour.max(axis=-1, keepdims=True)
    grey = np.concatenate([brightest] * 3 + [np.ones_like(brightest)], axis=-1)
    value = raycast.to_rgba(grey)[..., :3] / 255
    tone = np.array(colorsys.hsv_to_rgb(HUES[colour], SATURATION, 1.0))
    texture = (255 * (DARKEST + (1 - DARKEST) * value) * tone).round().astype(np.uint8)
    return replace(solid, colour=raycast.SRGB_TO_LINEAR[texture])


def with_text(generator: np.random.Generator, pictures: np.ndarray) -> np.ndarray:
    """The frames with the same three lines of capitals over all of each."""
    size = pictures.shape[1]
    font = ImageFont.load_default(0.26 * size)
    lines = ["".join(generator.choice(list(LETTERS), 5)) for _ in range(3)]
    covered = []
    for picture in pictures:
        image = Image.fromarray(picture)
        draw = ImageDraw.Draw(image)
        for number, line in enumerate(lines):
            middle = (size / 2, size * (number + 0.5) / len(lines))
            draw.text(middle, line, fill="black", font=font, anchor="mm", stroke_width=1, stroke_fill="white")
        covered.append(np.asarray(image))
    return np.stack(covered)
