"""The frames of clips that training sees: a window in the middle of each, cropped, in one pass over a video.

The window lies in the middle because captions and scores were made there. Frames are scaled so that they just
cover the size asked for, and what is over is cut off evenly on both sides; nothing is ever enlarged.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from svd3d.curation import table, video
from svd3d.curation.video import Frame, Video
from svd3d.errors import InputError, VideoError

COLUMNS = ("id", "video", "video_id", "start_frame", "end_frame", "start_s", "end_s", "fps", "motion")
SLACK = 1e-3
"""Part of a frame's duration by which rounded times may miss each other."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A row of the table of clips, as far as training needs it."""

    id: str
    video: str
    video_id: str
    start_frame: int
    end_frame: int
    start_s: float
    end_s: float
    fps: float
    motion: float | None
    captions: Mapping[str, float]
    """How often each is drawn; their sum is 1."""


@dataclass(frozen=True)
class Plan:
    """Which frames of a clip make a window: `num_frames` of them at `fps`, or every `stride`-th."""

    num_frames: int
    fps: float | None
    stride: int | None
    height: int
    width: int


@dataclass(frozen=True, eq=False)
class Window:
    """What training sees of a clip."""

    images: UInt8[np.ndarray, "t h w 3"]
    frames: tuple[int, ...]
    """Their numbers in the video."""
    fps: float


def clips(path: Path) -> Iterator[Clip]:
    """The clips of a table or a selection, in its order. Raises `InputError` for another file."""
    for row in table.rows(path, columns=[*COLUMNS, *table.CAPTIONS, "caption_probabilities"]):
        texts = [row.pop(name) for name in table.CAPTIONS]
        captions: Counter[str] = Counter()
        for text, share in zip(texts, row.pop("caption_probabilities") or [], strict=False):
            if text:
                captions[text] += share
        yield Clip(**row, captions=captions)


def folder(path: Path) -> Path:
    """The folder that the videos of a table are relative to."""
    return Path(table.facts(path)["videos"])


def read(
    path: Path, wanted: Iterable[Clip], plan: Plan, *, threads: int = 1
) -> Iterator[tuple[Clip, Window | InputError]]:
    """The window of each clip of one video, or what hinders it; the video is decoded once, to the last clip.

    In memory are windows that are being filled: one, unless clips overlap. `threads` decode.
    """
    waiting: deque[_Filling] = deque()
    for clip in sorted(wanted, key=lambda clip: clip.start_frame):
        if reason := _misfit(clip, plan):
            yield clip, VideoError(f"{path}: clip {clip.id}: {reason}", kind="misfit")
        else:
            waiting.append(_Filling(clip, plan))
    if not waiting:
        return
    notes: list[str] = []
    open_: list[_Filling] = []
    try:
        film = video.probe(path)
        short_side = _short_side(film, plan)
        for frame in video.frames(film, short_side=short_side, threads=threads, on_note=notes.append):
            while waiting and waiting[0].clip.start_frame <= frame.index:
                open_.append(waiting.popleft())
            for each in open_:
                each.see(frame)
            for each in [each for each in open_ if each.is_full]:
                open_.remove(each)
                yield each.clip, each.window()
            if not (waiting or open_):
                return
        reason = f"{path}: ends before its clips do ({'; '.join(notes) or 'was it changed?'}); get it again"
    except InputError as error:
        reason = str(error)
    for each in (*open_, *waiting):
        yield each.clip, VideoError(reason)


class _Filling:
    """The window of a clip, filled with the frames nearest to its places."""

    def __init__(self, clip: Clip, plan: Plan) -> None:
        self.clip, self.plan = clip, plan
        steps = np.arange(plan.num_frames) - (plan.num_frames - 1) / 2
        if plan.stride is not None:
            first = (clip.start_frame + clip.end_frame - 1 - (plan.num_frames - 1) * plan.stride) // 2
            self.places = [float(first + plan.stride * step) for step in range(plan.num_frames)]
        else:
            assert plan.fps is not None, "a plan has a rate or a stride"
            middle = (clip.start_s + clip.end_s - 1 / clip.fps) / 2
            self.places = (middle + steps / plan.fps).tolist()
        self.taken: list[tuple[int, np.ndarray]] = []
        self.before: tuple[float, Frame] | None = None

    @property
    def is_full(self) -> bool:
        return len(self.taken) == len(self.places)

    def see(self, frame: Frame) -> None:
        """The next frame of the clip."""
        now = float(frame.index) if self.plan.stride is not None else frame.time_s
        is_last = frame.index == self.clip.end_frame - 1
        while not self.is_full and (is_last or self.places[len(self.taken)] <= now):
            place, nearest = self.places[len(self.taken)], frame
            if self.before is not None and place - self.before[0] < now - place:
                nearest = self.before[1]
            self.taken.append((nearest.index, _cropped(nearest.image, self.plan)))
        self.before = now, frame

    def window(self) -> Window:
        fps = self.plan.fps if self.plan.stride is None else self.clip.fps / self.plan.stride
        assert fps is not None, "a plan has a rate or a stride"
        return Window(
            np.stack([image for _, image in self.taken]), tuple(index for index, _ in self.taken), fps
        )


def _misfit(clip: Clip, plan: Plan) -> str | None:
    """Why a clip has no such window."""
    count = clip.end_frame - clip.start_frame
    if plan.stride is not None:
        needed = (plan.num_frames - 1) * plan.stride + 1
        if count < needed:
            return (
                f"has {count} frames, fewer than the {needed} of every {plan.stride}th; take a smaller stride"
            )
        return None
    assert plan.fps is not None, "a plan has a rate or a stride"
    if plan.num_frames > 1 and plan.fps > clip.fps * (1 + SLACK):
        return f"has {clip.fps:g} frames per second, fewer than {plan.fps:g}; take a lower rate"
    needed_s = (plan.num_frames - 1) / plan.fps + (1 - SLACK) / clip.fps
    if clip.end_s - clip.start_s < needed_s:
        reason = f"lasts {clip.end_s - clip.start_s:.2f} s, less than the {needed_s:.2f} s"
        return f"{reason} of {plan.num_frames} frames at {plan.fps:g} fps; take fewer frames"
    return None


def _short_side(film: Video, plan: Plan) -> int:
    """The least shorter side at which frames cover the size. Raises `VideoError` where they never do."""
    if film.height < plan.height or film.width < plan.width:
        reason = f"{film.width} x {film.height} pixels do not cover {plan.width} x {plan.height}"
        raise VideoError(f"{film.path}: {reason}; take a smaller size", kind="misfit")
    shorter = min(film.height, film.width)
    return math.ceil(shorter * max(plan.height / film.height, plan.width / film.width))


def _cropped(image: UInt8[np.ndarray, "_h _w 3"], plan: Plan) -> UInt8[np.ndarray, "h w 3"]:
    top, left = (image.shape[0] - plan.height) // 2, (image.shape[1] - plan.width) // 2
    return image[top : top + plan.height, left : left + plan.width].copy()
