"""One pass over a video feeds all scorers: it is decoded once, however many there are.

Scorers that need every frame (cuts) get every frame; the others get two frames a second, as the paper's
optical flow. First, middle and last picture of a clip are chosen among these samples when the cuts are
known, which is after the pass: until then the samples lie on disk as JPEG files, about 80 kB each, so that
memory does not grow with the video; an hour takes about 600 MB.
"""

import bisect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from svd3d.curation import video as videos
from svd3d.curation.video import Frame, Video

T = TypeVar("T")
SHORT_SIDE = 450
"""Pixels to which pictures are scaled down while they are decoded: RAFT's size in the paper, 800 x 450."""
SAMPLES_PER_S = 2.0
SLACK_S = 1e-4
"""Times are sums of fractions: a frame that is early by so little is in time."""
QUALITY = 95
"""Of the JPEG files of samples."""
TELL_EVERY = 256
"""Frames between two reports of progress."""


@runtime_checkable
class Scorer(Protocol):
    """Whatever looks at the frames of one video in their order."""

    def see(self, frame: Frame) -> None:
        """Take the next frame; its picture is only lent."""
        ...

    def end(self) -> None:
        """The video has ended."""
        ...


@dataclass(frozen=True)
class Reading:
    """What one pass read."""

    frames: int
    samples: int
    end_s: float
    """End of the last frame."""
    notes: tuple[str, ...]
    """What is noteworthy: a damaged tail, a limit that was reached."""


class Sampler:
    """Picks frames by their time, so that a variable frame rate does not matter.

    A frame is a sample if it is the first in its half second of the grid that starts at the first frame.
    """

    def __init__(self, per_s: float = SAMPLES_PER_S) -> None:
        self._per_s, self._start_s, self._slot = per_s, 0.0, -1

    def takes(self, time_s: float) -> bool:
        """Whether the frame at this time, none of which is before the last one, is a sample."""
        if self._slot < 0:
            self._start_s = time_s
        slot = int((time_s - self._start_s + SLACK_S) * self._per_s)
        taken, self._slot = slot > self._slot, max(slot, self._slot)
        return taken


class Samples:
    """The samples of one video on disk, from which pictures of clips are taken when clips are known."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.indices: list[int] = []
        """Frame numbers of the samples, ascending."""

    def see(self, frame: Frame) -> None:
        """Keep a sample."""
        path = self._folder / f"{frame.index}.jpg"
        Image.fromarray(frame.image).save(path, quality=QUALITY, subsampling=0)
        self.indices.append(frame.index)

    def end(self) -> None:
        """Nothing is left to do."""

    def between(self, start_frame: int, end_frame: int) -> list[int]:
        """The samples of a clip, by frame number."""
        first, last = (bisect.bisect_left(self.indices, frame) for frame in (start_frame, end_frame))
        return self.indices[first:last]

    def image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """The picture of one sample."""
        with Image.open(self._folder / f"{index}.jpg") as image:
            return np.asarray(image)


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` items evenly spread from the first to the last; all, where there are no more.

    >>> spread([4, 8, 12, 16], 3), spread([4, 8], 3)
    ([4, 12, 16], [4, 8])
    """
    return [
        items[place] for place in np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    ]


def read(
    video: Video,
    *,
    every: Iterable[Scorer] = (),
    sampled: Iterable[Scorer] = (),
    short_side: int = SHORT_SIDE,
    limit_s: float | None = None,
    threads: int = 1,
    on_progress: Callable[[int, float], None] | None = None,
) -> Reading:
    """Decode a video once for all scorers; `limit_s` of it at most.

    `on_progress(frames, time_s)` is called now and then. Raises `VideoError` as `video.frames`; a damaged
    tail ends the reading and is noted.
    """
    every, sampled, sampler = tuple(every), tuple(sampled), Sampler()
    frames, samples, time_s, notes = 0, 0, 0.0, []
    for frame in videos.frames(
        video, short_side=short_side, limit_s=limit_s, threads=threads, on_note=notes.append
    ):
        frames, time_s = frames + 1, frame.time_s
        for scorer in every:
            scorer.see(frame)
        if sampled and sampler.takes(frame.time_s):
            samples += 1
            for scorer in sampled:
                scorer.see(frame)
        if on_progress is not None and frames % TELL_EVERY == 0:
            on_progress(frames, frame.time_s)
    for scorer in (*every, *sampled):
        scorer.end()
    return Reading(frames, samples, time_s + 1 / video.fps, tuple(notes))
