"""Short clips of moving, turning and deforming objects, and captions that tell the truth about them.

    OMP_NUM_THREADS=1 python scripts/make_videos.py data/objects.jsonl --out data/clips --count 2000
    svd3d cache data/clips --model tiny --out data/latents --clip-size 64 64

OUT holds clips/<id>.mkv (lossless), clips.parquet as of `svd3d curate`, and truth.jsonl, one line a clip:
what moves, in what words and by how much. Clips of truth.jsonl are kept, so running it again resumes. Only
families that models may be trained on appear. The scene is seen from -Y: right is +X, away is +Y.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import raycast
from objects import colours, families, textures
from PIL import Image

from svd3d import console
from svd3d.cameras import Cameras, Orbit
from svd3d.curation import table
from svd3d.errors import InputError, Svd3dError
from svd3d.runs import append_line, atomic_file, input_path, output_folder, read_lines

FPS = 7
SETTINGS = ("size", "frames", "seed", "white")
"""That all clips of a folder have in common."""
DISTANCE = 3.2
"""Of the camera, in units of the scene, of which 1.9 are in view."""
DIRECTIONS = {
    "left": (-1, 0, 0),
    "right": (1, 0, 0),
    "up": (0, 0, 1),
    "down": (0, 0, -1),
    "towards the camera": (0, -1.5, 0),
    "away": (0, 1.5, 0),
}
DEFORMATIONS = ("bends to the left", "bends to the right", "twists", "stretches", "is squashed")
CAMERAS = ("pans left", "pans right", "zooms in", "zooms out", "circles to the left", "circles to the right")
SPEEDS = {"slowly": (0.0, 0.25), "fast": (0.75, 1.0)}
"""Where in these ranges, so that nobody takes one for the other."""
AMOUNTS = {
    "path": (0.25, 1.0),  # sizes of the actor over the clip
    "bounce": (0.15, 0.4),  # sizes of the actor
    "turn": (40.0, 200.0),  # degrees over the clip
    "pan": (6.0, 22.0),  # degrees over the clip
    "zoom": (1.25, 2.2),  # factor over the clip
    "circle": (20.0, 110.0),  # degrees over the clip
}
NOUNS = {"furniture": "piece of furniture"}
COLOUR_NAMES = {
    "red": (0.0, 0.04), "orange": (0.04, 0.115), "yellow": (0.115, 0.19), "green": (0.19, 0.43),
    "turquoise": (0.43, 0.515), "blue": (0.515, 0.70), "purple": (0.70, 0.82), "pink": (0.82, 0.95),
}  # fmt: skip
"""Ranges of hue; what lies above them is red."""
MAIN_COLOUR = 0.25
"""Share of what is seen from which on a second colour is named."""
NOT_SCORED = [
    column.name
    for column in fields(table.Clip)
    if column.default is None and not column.name.startswith("caption")
]


@dataclass(frozen=True)
class Actor:
    """An object and what it does, in the words of the captions; None: it does not."""

    uid: str
    family: str
    direction: str | None
    path: str
    """`straight`, `arc` or `bounce`."""
    turn: str | None
    """Where its near side goes: `left` or `right`."""
    deformation: str | None
    speed: str
    strength: float
    """Of its motion, 0 to 1 within `AMOUNTS`; 0 to 0.25 is slow, 0.75 to 1 fast."""
    size: float
    place: tuple[float, float, float]
    """In the middle of the clip, in scene units."""
    yaw_deg: float
    """At the first frame, counter-clockwise from above; at 0 its front looks at the camera."""


@dataclass(frozen=True)
class Shot:
    """What is to be filmed; all that a caption says is drawn here, except colours."""

    actors: tuple[Actor, ...]
    camera: str
    """`still`, or one of `CAMERAS`."""
    camera_speed: str
    camera_strength: float
    elevation_deg: float
    background: str
    """`plain`, `gradient`, `textured` or `white`."""


def draw_shot(generator: np.random.Generator, rows: Sequence[dict[str, Any]], *, white: bool = False) -> Shot:
    """One or two actors, of which at least one moves unless the camera does; it never does before white."""
    moving_camera = generator.random() < 0.35 and not white
    pair = generator.random() < 0.3
    places = [(-0.45, 0.5, 0.0), (0.45, -0.5, 0.0)] if pair else [(0.0, 0.0, 0.0)]
    moves = [generator.random() < (0.4 if moving_camera else 0.85) for _ in places]
    moves[0] |= not moving_camera
    chosen = generator.choice(len(rows), len(places), replace=False)
    actors = [
        draw_actor(generator, rows[row], place=place, moves=each, room=0.7 if pair else 1.0)
        for row, place, each in zip(chosen, places, moves, strict=True)
    ]
    speed, strength = draw_speed(generator)
    background = "white" if white else str(generator.choice(("plain", "gradient", "textured")))
    return Shot(
        tuple(actors),
        camera=str(generator.choice(CAMERAS)) if moving_camera else "still",
        camera_speed=speed,
        camera_strength=strength,
        elevation_deg=float(generator.uniform(0, 20)),
        background="textured" if moving_camera else background,  # before a plain one, who moves?
    )


def draw_speed(generator: np.random.Generator) -> tuple[str, float]:
    """A word and the strength that it stands for."""
    speed = str(generator.choice(list(SPEEDS)))
    return speed, float(generator.uniform(*SPEEDS[speed]))


def draw_actor(
    generator: np.random.Generator,
    row: dict[str, Any],
    *,
    place: tuple[float, float, float],
    moves: bool,
    room: float,
) -> Actor:
    """What an object does; `room` scales it where two share the scene."""
    kind = generator.choice(("path", "turn", "path and turn", "deform", "path and deform")) if moves else ""
    speed, strength = draw_speed(generator)
    direction = str(generator.choice(list(DIRECTIONS))) if "path" in kind else None
    path = "straight"
    if direction in ("left", "right"):
        path = str(generator.choice(("straight", "straight", "arc", "bounce")))
    return Actor(
        uid=row["uid"],
        family=row["family"],
        direction=direction,
        path=path,
        turn=str(generator.choice(("left", "right"))) if "turn" in kind else None,
        deformation=str(generator.choice(DEFORMATIONS)) if "deform" in kind else None,
        speed=speed,
        strength=strength,
        size=float(room * generator.uniform(0.8, 1.1)),
        place=place,
        yaw_deg=float(generator.uniform(-180, 180)),
    )


def amount(kind: str, strength: float) -> float:
    """The strength in the units of `AMOUNTS`."""
    low, high = AMOUNTS[kind]
    return low + strength * (high - low)


@dataclass(frozen=True)
class Pose:
    """Where a body is: point = size * rotation @ point in its own axes + place."""

    rotation: np.ndarray
    """[3, 3]"""
    size: float
    place: np.ndarray
    """[3]"""

    def camera(self, camera: Cameras) -> Cameras:
        """A camera of the scene as the body sees it."""
        moved = camera.camera_to_world.copy()
        moved[:, :3, :3] = self.rotation.T @ moved[:, :3, :3]
        moved[:, :3, 3] = (moved[:, :3, 3] - self.place) @ self.rotation / self.size
        return replace(camera, camera_to_world=moved)


def pose(actor: Actor, time: float) -> Pose:
    """The rigid part of the motion, for a time from 0 to 1."""
    place = np.array(actor.place)
    if actor.direction is not None:
        step = actor.size * amount("path", actor.strength) * np.array(DIRECTIONS[actor.direction])
        place = place + (time - 0.5) * step
    if actor.path == "arc":
        place[2] += actor.size * (np.sin(np.pi * time) - 0.5) * 0.7 * amount("path", actor.strength)
    if actor.path == "bounce":
        hops = 2 if actor.speed == "slowly" else 4
        place[2] += actor.size * (abs(np.sin(np.pi * hops * time)) - 0.5) * amount("bounce", actor.strength)
    yaw = np.radians(actor.yaw_deg)
    if actor.turn is not None:
        sign = 1 if actor.turn == "right" else -1  # from above, counter-clockwise takes the near side right
        yaw += sign * time * np.radians(amount("turn", actor.strength))
    return Pose(turned_about_z(yaw), actor.size, place)


def turned_about_z(angle: float) -> np.ndarray:
    """Rotation [3, 3] by radians, counter-clockwise from above."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def deformed(solid: raycast.Solid, actor: Actor, time: float) -> raycast.Solid:
    """The body in its own axes, for a time from 0 to 1; itself when it keeps its form."""
    if actor.deformation is None:
        return solid
    points = solid.vertices.copy()
    low, high = points[:, 2].min(), points[:, 2].max()
    height = (points[:, 2] - low) / (high - low)
    strength = time * (0.5 + 0.5 * actor.strength)
    if actor.deformation.startswith("bends"):
        sign = 1 if actor.deformation.endswith("right") else -1
        points += sign * 0.6 * strength * height[:, None] ** 2 * pose(actor, time).rotation[0]
    elif actor.deformation == "twists":
        angle = 1.8 * strength * (height - 0.5)
        points[:, 0] = np.cos(angle) * solid.vertices[:, 0] - np.sin(angle) * solid.vertices[:, 1]
        points[:, 1] = np.sin(angle) * solid.vertices[:, 0] + np.cos(angle) * solid.vertices[:, 1]
    else:
        factor = 1 + 0.8 * strength if actor.deformation == "stretches" else 1 - 0.55 * strength
        points *= [factor**-0.5, factor**-0.5, factor]
    return solid.moved(points.astype(np.float32))


def cameras_of(shot: Shot, *, size: int, frames: int) -> Cameras:
    """One camera per frame."""
    times = np.linspace(0, 1, frames)
    kind, _, where = shot.camera.partition(" ")
    sign = {"left": 1, "to the left": -1, "right": -1, "to the right": 1}.get(where, 0)
    circle = sign * amount("circle", shot.camera_strength) if kind == "circles" else 0.0
    azimuths = tuple((-90 + circle * (times - 0.5)).tolist())
    orbit = Orbit(azimuths, (shot.elevation_deg,) * frames, DISTANCE)
    cameras = orbit.cameras(height=size, width=size)
    matrices, intrinsics = cameras.camera_to_world, cameras.intrinsics
    if kind == "pans":
        angles = np.radians(sign * amount("pan", shot.camera_strength) * (times - 0.5))
        matrices[:, :3, :3] = np.stack([turned_about_z(angle) for angle in angles]) @ matrices[:, :3, :3]
    if kind == "zooms":
        factor = amount("zoom", shot.camera_strength) ** (times if where == "in" else 1 - times)
        intrinsics[:, [0, 1], [0, 1]] *= factor[:, None] / factor.max() ** 0.5
    return replace(cameras, camera_to_world=matrices, intrinsics=intrinsics)


@dataclass(frozen=True)
class Background:
    """A texture around the scene, infinitely far."""

    texture: np.ndarray
    """Linear RGB [h, w, 3]."""
    across_deg: float
    """Of one repetition."""

    @classmethod
    def draw(cls, kind: str, generator: np.random.Generator) -> Background:
        """White, or pale or dark and of little saturation, so that objects stand out."""
        if kind == "white":
            return cls(np.ones((1, 1, 3)), 90.0)
        tones = [np.array(colours.paint(generator)) for _ in range(2)]
        grey = generator.choice((70, 225))
        one, other = (tuple(np.round(0.3 * tone + 0.7 * grey).astype(int)) for tone in tones)
        if kind == "plain":
            picture = np.array([[one]], np.uint8)
        elif kind == "gradient":
            picture = textures.ramp(np.linspace(0, 1, 64)[:, None], (one, other))
        else:
            picture = textured(generator, one, other)
        return cls(raycast.SRGB_TO_LINEAR[picture], 90.0 if kind == "gradient" else 45.0)

    def seen(self, camera: Cameras) -> np.ndarray:
        """Linear RGB [h, w, 3]."""
        _, (toward,) = camera.rays()
        x, y, z = np.moveaxis(toward, -1, 0)
        turn, rise = np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))
        uv = np.stack([-turn, rise], axis=-1).reshape(-1, 2) / self.across_deg + 0.5
        return raycast.sample_texture(self.texture, uv).reshape(*toward.shape)


def textured(generator: np.random.Generator, one: Any, other: Any) -> np.ndarray:
    """Coarse noise, checks or stripes in two tones, 64 pixels a side."""
    ways: tuple[Callable[[], np.ndarray], ...] = (
        lambda: textures.ramp(textures.waves(generator, 0.2, 0.2), (one, other)),
        lambda: textures.checks(generator, (one, other), 2),
        lambda: textures.ramp(textures.waves(generator, 0.1, 0.3), (one, other)),
    )
    picture = ways[generator.integers(len(ways))]()
    return picture.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3)).astype(np.uint8)


def film(
    shot: Shot,
    solids: Sequence[raycast.Solid],
    *,
    size: int,
    frames: int,
    generator: np.random.Generator,
    background: Background | None = None,
) -> tuple[np.ndarray, list[list[str]]]:
    """Frames uint8 [t, h, w, 3], and the names of the main colours that are seen of each actor.

    The background is drawn, as the shot says, unless it is given.
    """
    sky = raycast.Sky.random(generator)
    background = background or Background.draw(shot.background, generator)
    cameras = cameras_of(shot, size=size, frames=frames)
    layers: list[list[tuple[float, raycast.Seen, np.ndarray]]] = [[] for _ in range(frames)]
    names = []
    for actor, solid in zip(shot.actors, solids, strict=True):
        times = np.linspace(0, 1, frames)
        poses = [pose(actor, time) for time in times]
        bodies = [deformed(solid, actor, time) for time in times]
        views = [each.camera(cameras.view(frame)) for frame, each in enumerate(poses)]
        looks = [raycast.look(body, view) for body, view in zip(bodies, views, strict=True)]
        hits = [seen.hits for seen in looks]
        light = raycast.bake(solid, hits, sky.turned(poses[frames // 2].rotation), generator)
        for frame, (body, seen, each) in enumerate(zip(bodies, looks, poses, strict=True)):
            lit = replace(light, sky=sky.turned(each.rotation))
            distance = float(np.linalg.norm(cameras.positions[frame] - each.place))
            layers[frame].append((distance, seen, raycast.shade(body, seen, lit)))
        names.append(colour_names(solid, hits))
    pictures = []
    for frame, found in enumerate(layers):
        far_first = sorted(found, key=lambda layer: -layer[0])
        picture = raycast.develop([layer[1:] for layer in far_first], height=size, width=size)
        behind = background.seen(cameras.view(frame)) * (1 - picture[..., 3:])
        opaque = np.concatenate([picture[..., :3] + behind, np.ones((size, size, 1))], axis=-1)
        pictures.append(raycast.to_rgba(opaque)[..., :3])
    return np.stack(pictures), names


def colour_names(solid: raycast.Solid, hits: Sequence[raycast.Hits]) -> list[str]:
    """The names of one or two colours that cover most of what is seen of the bare texture."""
    uv = np.concatenate([each.on(solid)[2][::16] for each in hits])
    if not len(uv):
        return []
    texels = raycast.sample_texture(solid.colour, uv)[:, None]
    opaque = raycast.to_rgba(np.concatenate([texels, np.ones((*texels.shape[:2], 1))], axis=-1))
    hsv = np.asarray(Image.fromarray(opaque[..., :3]).convert("HSV"))[:, 0] / 255
    found, counts = np.unique([colour_name(*each) for each in hsv], return_counts=True)
    order = np.argsort(-counts)[:2]
    return [str(found[k]) for k in order if counts[k] > MAIN_COLOUR * len(uv) or k == order[0]]


def colour_name(hue: float, saturation: float, value: float) -> str:
    """The basic colour term of a colour, all parts 0 to 1."""
    if value < 0.3:
        return "black"
    if saturation < 0.2:
        return "white" if value > 0.75 else "grey"
    name = next((name for name, (low, high) in COLOUR_NAMES.items() if low <= hue < high), "red")
    return "brown" if name in ("red", "orange") and value < 0.68 and hue > 0.02 else name


def captions(shot: Shot, names: Sequence[Sequence[str]]) -> dict[str, str]:
    """The captions of `svd3d.curation.table`: what stands there, what happens, and both."""
    things = [thing(actor, each) for actor, each in zip(shot.actors, names, strict=True)]
    deeds = [f"{what} {does(actor)}" for what, actor in zip(things, shot.actors, strict=True)]
    speed = f" {shot.camera_speed}" if shot.camera != "still" else ""
    camera = "is still" if shot.camera == "still" else f"{shot.camera}{speed}"
    still, moving = " and ".join(things), " and ".join(deeds)
    where = {"plain": "a plain", "gradient": "a shaded", "textured": "a patterned", "white": "a white"}
    return {
        "caption_image": sentence(f"{still} before {where[shot.background]} background"),
        "caption_video": sentence(f"{moving}, the camera {camera}"),
        "caption_merged": sentence(
            f"{moving} before {where[shot.background]} background, the camera {camera}"
        ),
    }


def thing(actor: Actor, names: Sequence[str]) -> str:
    """An actor with its colours and article."""
    words = " ".join([*[" and ".join(names)] * bool(names), NOUNS.get(actor.family, actor.family)])
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def does(actor: Actor) -> str:
    """The verbs of an actor."""
    verbs = []
    if actor.direction is not None:
        verb = "bounces" if actor.path == "bounce" else "moves"
        verbs.append(f"{verb} {actor.direction} {actor.speed}{' in an arc' if actor.path == 'arc' else ''}")
    if actor.turn is not None:
        verbs.append(f"turns {actor.turn} {actor.speed}")
    if actor.deformation is not None:
        verbs.append(actor.deformation)
    return " and ".join(verbs) or "stands still"


def sentence(words: str) -> str:
    """With a capital and a full stop."""
    return f"{words[0].upper()}{words[1:]}."


def write_video(path: Path, frames: np.ndarray) -> None:
    """Lossless, every frame a key frame."""
    with atomic_file(path) as temporary, av.open(f"file:{temporary}", "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=FPS, options={"threads": "1"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def make_clip(number: int, rows: Sequence[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Film one clip; returns its line of truth.jsonl."""
    generator = np.random.default_rng([args.seed, number])
    shot = draw_shot(generator, rows, white=args.white)
    paths = {row["uid"]: args.objects.parent / row["path"] for row in rows}
    solids = [raycast.read(paths[actor.uid]) for actor in shot.actors]
    pictures, names = film(shot, solids, size=args.size, frames=args.frames, generator=generator)
    uid = f"{number:06d}"
    path = Path("clips") / f"{uid}.mkv"
    write_video(args.out / path, pictures)
    told = {"id": uid, "file": path.as_posix(), **{name: getattr(args, name) for name in SETTINGS}}
    actors = [{**asdict(actor), "colours": each} for actor, each in zip(shot.actors, names, strict=True)]
    return {**told, **asdict(shot), "actors": actors, **captions(shot, names)}


def row_of(truth: dict[str, Any]) -> table.Clip:
    """A row of clips.parquet."""
    texts = {name: truth[name] for name in table.CAPTIONS}
    return table.Clip(
        id=truth["id"],
        video=truth["file"],
        video_id=truth["id"],
        clip=0,
        start_frame=0,
        end_frame=truth["frames"],
        start_s=0.0,
        end_s=truth["frames"] / FPS,
        fps=float(FPS),
        width=truth["size"],
        height=truth["size"],
        caption_probabilities=table.probabilities(texts),
        **texts,
    )


def write_table(path: Path, truths: Iterable[dict[str, Any]], *, videos: Path) -> None:
    """A table of clips from lines of truth.jsonl, whose files are relative to the folder `videos`."""
    table.write(
        path,
        map(row_of, truths),
        facts=lambda: {
            "videos": str(videos.resolve()),
            "caption_probabilities": table.CAPTIONS,
            "not_computed": {name: "made by scripts/make_videos.py" for name in NOT_SCORED},
        },
    )


def make_clips(rows: Sequence[dict[str, Any]], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The truth about every clip; those that are not there yet are made."""
    told = args.out / "truth.jsonl"
    known = {truth["id"]: truth for truth in read_lines(told)}
    for number in range(args.count):
        truth = known.get(f"{number:06d}")
        if truth is None:
            truth = make_clip(number, rows, args)
            append_line(told, truth)
        elif any(getattr(args, name) != truth.get(name) for name in SETTINGS):
            raise InputError(f"{told}: clip {truth['id']} was made with other settings; choose another --out")
        yield truth


def trained_objects(path: Path) -> list[dict[str, Any]]:
    """Rows of objects.jsonl whose family models may be trained on."""
    rows = read_lines(input_path(path, what="list of objects"))
    rows = [row for row in rows if row["family"] in families.TRAINED]
    if len(rows) < 2:
        raise InputError(f"{path}: {len(rows)} objects of families to train on; clips need two or more")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Clips of moving objects, with captions.")
    parser.add_argument("objects", type=Path, help="objects.jsonl; mesh paths are relative to its folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the clips")
    parser.add_argument("--count", type=int, default=2000, help="number of clips")
    parser.add_argument("--size", type=int, default=64, help="side of a frame in pixels")
    parser.add_argument("--frames", type=int, default=14, help=f"frames of a clip, at {FPS} per second")
    parser.add_argument("--seed", type=int, default=0, help="of all that happens")
    parser.add_argument("--white", action="store_true", help="a still camera and nothing behind the objects")
    args = parser.parse_args()
    try:
        output_folder(args.out / "clips")
        made = make_clips(trained_objects(args.objects), args)
        told = console.progress(made, label="clips", total=args.count)
        write_table(args.out / table.NAME, told, videos=args.out)
    except Svd3dError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
