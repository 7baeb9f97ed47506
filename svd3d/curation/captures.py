"""`svd3d curate captures`: walks around real objects, as in MVImgNet, to training samples without cameras.

    <source>/…/<class>/<id>/images/000.jpg …    frames of one walk, in the order of their numbers
    <source>/…/<name>.mp4                       or a film of it

As in the SVD paper (section 4.5), frames in portrait are turned to landscape. They are then reversed, thinned
out evenly and made smaller. What is broken or of another size than most frames is left out and named; a
capture that has no whole frame close enough to one of the even places is refused.
"""

import hashlib
import logging
import os
import re
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from svd3d import images, runs, sample
from svd3d.curation import video
from svd3d.errors import ImageError, InputError, OutputError
from svd3d.sample import Capture
from svd3d.settings import CurateCapturesConfig

log = logging.getLogger(__name__)
LEDGER = "ledger.jsonl"
FREELY_CHANGED = ("source", "out", "part", "parts")
"""Settings that may differ between two runs into one folder."""
FRAME = re.compile(r"(.*?)(\d+)\.(jpe?g|png|webp)", re.IGNORECASE | re.DOTALL)
"""Name of a frame: its number is last. Masks and depth maps beside frames are called otherwise."""
FILM = re.compile(r".+\.(mp4|mov|m4v|mkv|webm|avi)", re.IGNORECASE | re.DOTALL)
PLAIN = re.compile(r"\w[\w.]*", re.ASCII)
"""Names of folders that, joined by hyphens, name one capture only."""
LONGEST_NAME = 100
LONGEST_S = 300.0
"""Of a film."""
NAMED_AT_MOST = 3
"""Frames that were left out, in one message."""


@dataclass(frozen=True)
class Captured:
    """What became of one capture."""

    uid: str
    folder: Path | None
    """Its sample folder, unless it failed."""
    status: Literal["done", "skipped", "failed"]
    message: str
    """Why it failed, or which frames were left out."""
    seconds: float


@dataclass(frozen=True)
class Frames:
    """Frames of a capture in their order, of which some cannot be used."""

    count: int
    """How many there are, whole or not."""
    usable: tuple[int, ...]
    left_out: tuple[str, ...]
    """What is wrong with others, by name."""
    load: Callable[[Sequence[int]], "Iterator[UInt8[np.ndarray, '_h _w 3']]"]
    """Pictures of usable frames, given in rising order."""


def run(config: CurateCapturesConfig) -> Iterator[Captured]:
    """Make a sample of every capture; running it again resumes, and tries failed ones again.

    Raises `InputError` where there is no capture, `ConfigError` for settings other than those that the folder
    was begun with.
    """
    found = _mine(config)
    out = runs.output_folder(config.out)
    with runs.lock(out, part=f"{config.part}-of-{config.parts}"):
        runs.same_settings(out, config, ignore=FREELY_CHANGED)
        for uid, source in found.items():
            if sample.is_sample(out / uid):
                yield Captured(uid, out / uid, "skipped", "", 0.0)
                continue
            result = _make(config, uid, source)
            facts = {"status": result.status, "message": result.message, "seconds": result.seconds}
            runs.append_line(out / LEDGER, {"uid": uid, "source": str(source), **facts})
            yield result
        licences = [config.licence] if config.licence else []
        runs.write_manifest(out, stage="curate captures", config=config, licences=licences)


def count(config: CurateCapturesConfig) -> int:
    """How many captures `run` will report."""
    return len(_mine(config))


def find(source: Path) -> dict[str, Path]:
    """Captures by uid, at or below `source`: films, and folders with frames in `images/` or of their own.

    Raises `InputError` where there is none.
    """
    if runs.input_path(source, what="folder of captures").is_file():
        return {_uid((source.name,)): source}
    root = source.parent if source.name == "images" else source
    found: dict[str, Path] = {}
    for folder, below, files in os.walk(source):
        below[:] = sorted(each for each in below if not each.startswith("."))
        here = Path(folder)
        places = [here / each for each in sorted(files) if FILM.fullmatch(each)]
        if any(FRAME.fullmatch(each) for each in files):
            places.insert(0, here.parent if here.name == "images" else here)
        for place in places:
            found[_uid(place.relative_to(root).parts or (place.absolute().name,))] = place
    if not found:
        raise InputError(
            f"{source}: holds no capture, such as CLASS/ID/images/000.jpg or NAME.mp4; check the path"
        )
    return found


def read(source: Path, config: CurateCapturesConfig, *, uid: str) -> tuple[Capture, tuple[str, ...]]:
    """One capture, and what is wrong with frames that were left out.

    Raises `InputError` where too few frames are whole, or none near one of the even places.
    """
    frames = _film(source, config) if source.is_file() else _folder(source, config)
    if frames.count < config.num_views:
        raise InputError(f"{source}: has {frames.count} frames, fewer than the {config.num_views} needed")
    chosen = evenly(frames.usable, count=frames.count, wanted=config.num_views)
    if chosen is None:
        reason = f"{len(frames.usable)} of {frames.count} frames are usable, not {config.num_views} evenly"
        raise InputError(f"{source}: {reason} ({_few(frames.left_out)}); get it again, or set --num-views")
    views = np.stack(list(frames.load(chosen)))
    is_portrait = views.shape[1] > views.shape[2]
    if turned := is_portrait and config.portrait == "rotate":
        views = np.rot90(views, axes=(1, 2)).copy()
    if config.reverse:
        views, chosen = views[::-1].copy(), chosen[::-1]
    about = {
        "source": str(source),
        "licence": config.licence,
        "frames": list(chosen),
        "frames_in_source": frames.count,
        "left_out": len(frames.left_out),
        "rotated_deg": 90 if turned else 0,
    }
    return Capture(uid, views, about), frames.left_out


def evenly(usable: Sequence[int], *, count: int, wanted: int) -> tuple[int, ...] | None:
    """The usable frames nearest to `wanted` even places among `count`, rising; None if one is too far off.

    The first and the last place are the first and the last frame. A frame may be half a step off.

    >>> evenly(range(9), count=9, wanted=3), evenly([0, 1, 3, 4], count=5, wanted=3)
    ((0, 4, 8), (0, 1, 4))
    """
    places = np.linspace(0, count - 1, wanted)
    chosen: list[int] = []
    for place in places:
        free = [each for each in usable if not chosen or each > chosen[-1]]
        nearest = min(free, key=lambda each: abs(each - place), default=None)
        if nearest is None or abs(nearest - place) > (count - 1) / (wanted - 1) / 2:
            return None
        chosen.append(nearest)
    return tuple(chosen)


def _make(config: CurateCapturesConfig, uid: str, source: Path) -> Captured:
    started = time.monotonic()
    try:
        capture, left_out = read(source, config, uid=uid)
        sample.write_capture(capture, config.out / uid)
    except OutputError:
        raise
    except InputError as error:
        return Captured(uid, None, "failed", str(error), time.monotonic() - started)
    message = f"{len(left_out)} frames left out ({_few(left_out)})" if left_out else ""
    return Captured(uid, config.out / uid, "done", message, time.monotonic() - started)


def _folder(source: Path, config: CurateCapturesConfig) -> Frames:
    """Frames of a folder: each is decoded once to see whether it is whole and of the size of most."""
    inner = source / "images"
    matches = ((FRAME.fullmatch(path.name), path) for path in (inner if inner.is_dir() else source).iterdir())
    numbered = sorted((match[1], int(match[2]), path) for match, path in matches if match)
    paths = [path for *_, path in numbered]
    sizes: dict[int, tuple[int, int]] = {}
    faults: dict[int, str] = {}
    for index, path in enumerate(paths):
        try:
            height, width = images.read(path).shape[:2]
            sizes[index] = height, width
        except ImageError as error:
            faults[index] = str(error)
    usual = Counter(sizes.values()).most_common(1)
    for index, (height, width) in sizes.items():
        if (height, width) != usual[0][0]:
            most = "{1} x {0}".format(*usual[0][0])
            faults[index] = f"{paths[index]}: is {width} x {height}, most frames are {most}"

    def load(chosen: Sequence[int]) -> Iterator[UInt8[np.ndarray, "_h _w 3"]]:
        for index in chosen:
            yield _fitted(images.read(paths[index]), config.size)

    usable = tuple(index for index in range(len(paths)) if index not in faults)
    return Frames(len(paths), usable, tuple(faults[index] for index in sorted(faults)), load)


def _film(source: Path, config: CurateCapturesConfig) -> Frames:
    """Frames of a film, which is decoded twice: to count them, and for the chosen ones."""
    film = video.probe(source)
    if (film.duration_s or 0) > LONGEST_S:
        reason = (
            f"a film of {film.duration_s:.0f} s, more than the {LONGEST_S:.0f} s of a walk around an object"
        )
        raise InputError(f"{source}: {reason}; cut it first")
    notes: list[str] = []
    count = sum(1 for _ in video.frames(film, short_side=1, limit_s=LONGEST_S, on_note=notes.append))

    def load(chosen: Sequence[int]) -> Iterator[UInt8[np.ndarray, "_h _w 3"]]:
        wanted = set(chosen)
        for frame in video.frames(film, short_side=config.size, limit_s=LONGEST_S):
            if frame.index in wanted:
                yield frame.image

    return Frames(count, tuple(range(count)), tuple(f"{source}: {note}" for note in notes), load)


def _fitted(rgba: UInt8[np.ndarray, "_h _w 4"], size: int) -> UInt8[np.ndarray, "_h2 _w2 3"]:
    """Over white, with a shorter side of at most `size` pixels."""
    height, width = rgba.shape[:2]
    scale = min(1.0, size / min(height, width))
    picture, flat = Image.fromarray(rgba), Image.new("RGB", (width, height), "white")
    flat.paste(picture, mask=picture.getchannel("A"))
    return np.asarray(flat.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS))


def _mine(config: CurateCapturesConfig) -> dict[str, Path]:
    """The captures of this part, by the hash of their names."""
    found = find(config.source)
    return {
        uid: place for uid, place in found.items() if zlib.crc32(uid.encode()) % config.parts == config.part
    }


def _uid(parts: Sequence[str]) -> str:
    """A name for the sample: the names of the folders, with a digest where those are no plain words."""
    name = "-".join(parts)
    if all(PLAIN.fullmatch(part) for part in parts) and len(name) <= LONGEST_NAME:
        return name
    clean = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).strip("._-")[:LONGEST_NAME]
    return f"{clean or 'capture'}-{hashlib.sha256(os.fsencode('/'.join(parts))).hexdigest()[:8]}"


def _few(reasons: Sequence[str]) -> str:
    more = [f"and {len(reasons) - NAMED_AT_MOST} more"] if len(reasons) > NAMED_AT_MOST else []
    return "; ".join([*reasons[:NAMED_AT_MOST], *more]) or "none is broken"
