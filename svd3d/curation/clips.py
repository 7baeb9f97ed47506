"""Clips between transitions, and exact copies of them without encoding anything again.

A clip holds pure frames of one shot only. Its copy can begin at a key frame only and, where frames refer to
later ones, cannot end everywhere. As the paper does, its start is moved to the closest key frame that does
not cross the cut, which lies inside the clip; its end to the last frame that needs none from behind the cut.
What is copied then decodes to the source's frames, bit for bit, and to no others.
"""

import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from svd3d.curation.cuts import Transition
from svd3d.curation.video import Frame, Video, opened
from svd3d.errors import OutputError, VideoError, require

MP4_CODECS = ("h264", "hevc", "av1", "vp9", "mpeg4")
"""Codecs whose copies go into an MP4; those of others go into a Matroska file."""


@dataclass(frozen=True)
class Clip:
    """A stretch of one shot. Ends are exclusive; frames are those of the whole video."""

    start_frame: int
    end_frame: int
    start_s: float
    """Since the first frame of the video."""
    end_s: float
    keyframe_start_frame: int | None
    """What a copy holds; None where the clip contains no key frame, so that it cannot be copied."""
    keyframe_end_frame: int | None
    keyframe_start_s: float | None


class Keys:
    """Remembers when each frame of a video is shown and how it is stored; 17 bytes a frame.

    Feed it with all frames.
    """

    def __init__(self) -> None:
        self._times_s, self._orders, self._keyframes = array("d"), array("q"), array("b")

    def see(self, frame: Frame) -> None:
        """Take the next frame."""
        self._times_s.append(frame.time_s)
        self._orders.append(frame.decode_order)
        self._keyframes.append(frame.keyframe)

    def end(self) -> None:
        """Nothing is left to do."""

    def clips(
        self, transitions: Sequence[Transition], *, fps: float, min_s: float, max_s: float | None = None
    ) -> list[Clip]:
        """The clips of a video without blended frames, in order.

        Shots shorter than `min_s` seconds give none; those longer than `max_s` are split evenly. `fps` tells
        how long the last frame is shown.
        """
        times_s = np.append(self._times_s, self._times_s[-1] + 1 / fps if self._times_s else 0.0)
        storage, clips = _Storage(self._keyframes, self._orders), []
        for start, end in _spans(transitions, times_s, min_s=min_s, max_s=max_s):
            first, last = storage.closed(start, end) or (None, None)
            clips.append(
                Clip(
                    start_frame=start,
                    end_frame=end,
                    start_s=float(times_s[start]),
                    end_s=float(times_s[end]),
                    keyframe_start_frame=first,
                    keyframe_end_frame=last,
                    keyframe_start_s=None if first is None else float(times_s[first]),
                )
            )
        return clips


class _Storage:
    """How the frames of a video lie in its file."""

    def __init__(self, keyframes: Sequence[int], orders: Sequence[int]) -> None:
        self._keyframes, self._orders = np.flatnonzero(keyframes), np.array(orders, dtype=np.int64)
        none = np.iinfo(np.int64).max
        self._later = np.minimum.accumulate(np.append(self._orders, none)[::-1])[::-1]
        """Of this frame and all that follow: the first in the file."""
        self._unseen = np.append(np.setdiff1d(np.arange(len(orders) + 1), self._orders), none)
        """Places in the file of frames that were never shown, or not read any more."""

    def closed(self, start: int, end: int) -> tuple[int, int] | None:
        """The longest stretch from the first key frame of some frames on that needs no others."""
        at = int(np.searchsorted(self._keyframes, start))
        if at == len(self._keyframes) or self._keyframes[at] >= end:
            return None
        first = int(self._keyframes[at])
        needed = np.maximum.accumulate(self._orders[first:end])
        missing = self._unseen[np.searchsorted(self._unseen, self._orders[first])]
        closed = np.flatnonzero(needed < np.minimum(self._later[first + 1 : end + 1], missing))
        return (first, first + 1 + int(closed[-1])) if len(closed) else None


def _spans(
    transitions: Sequence[Transition], times_s: np.ndarray, *, min_s: float, max_s: float | None
) -> Iterator[tuple[int, int]]:
    """First and last frame (exclusive) of the stretches that become clips; `times_s` also holds the end."""
    frames = len(times_s) - 1
    starts = [0, *(transition.end for transition in transitions)]
    ends = [*(transition.first for transition in transitions), frames]
    for start, end in zip(starts, ends, strict=True):
        length_s = times_s[end] - times_s[start] if start < end else 0.0
        if start >= end or length_s < min_s:
            continue
        parts = 1 if max_s is None else int(np.ceil(length_s / max_s - 1e-6))
        bounds = np.linspace(times_s[start], times_s[end], parts + 1)[1:-1]
        inner = [int(np.searchsorted(times_s, bound - 1e-6)) for bound in bounds]
        yield from zip([start, *inner], [*inner, end], strict=True)


def suffix(video: Video) -> str:
    """Ending of the name of a copied clip: .mp4, or .mkv for codecs that MP4 does not take."""
    return ".mp4" if video.codec in MP4_CODECS else ".mkv"


def copy(video: Video, clip: Clip, path: Path) -> None:
    """Write the frames from `keyframe_start_frame` to `keyframe_end_frame` to a file, without encoding.

    The pictures, their times, rotation and aspect are kept; sound is not. Raises `VideoError` (uncuttable)
    for a clip without a key frame, a file whose key frames are not where they were seen and a codec that
    neither MP4 nor Matroska takes, and `OutputError` if the copy cannot be written.
    """
    first, last, start_s = clip.keyframe_start_frame, clip.keyframe_end_frame, clip.keyframe_start_s
    if first is None or last is None or start_s is None or video.start_pts is None:
        raise _uncuttable(video, clip, "holds no key frame")
    av = require("av", extra="curation", reason="copying a clip")
    start_pts, count = video.start_pts + round(start_s / video.time_base), last - first
    for seeks in (True, False):
        with opened(video.path) as (source, stream):
            shown = [packet.pts for packet in islice(_packets(source, stream, start_pts, seeks=seeks), count)]
        if len(shown) == count:
            break
    else:
        raise _uncuttable(video, clip, "its key frame is not where it was seen")
    in_order = sorted(shown)
    delay = max(late - pts for late, pts in zip(in_order, shown, strict=True))
    temporary = path.with_name(f".{os.getpid()}.tmp{suffix(video)}")
    container = "mp4" if suffix(video) == ".mp4" else "matroska"
    try:
        with (
            opened(video.path) as (source, stream),
            av.open(f"file:{temporary}", "w", format=container) as copied,
        ):
            try:
                film = copied.add_stream_from_template(stream, opaque=True)
            except ValueError as error:
                raise _uncuttable(video, clip, f"no container for {video.codec}") from error
            packets = _packets(source, stream, start_pts, seeks=seeks)
            for packet, decoded in zip(packets, in_order, strict=False):
                packet.pts -= start_pts
                packet.dts = decoded - delay - start_pts
                packet.stream = film
                copied.mux(packet)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}); is the disk full?") from error
    finally:
        temporary.unlink(missing_ok=True)


def _packets(source: Any, stream: Any, start_pts: int, *, seeks: bool) -> Iterator[Any]:
    """Packets from the key frame of a time on, in the order of decoding, without those shown before it."""
    if seeks:
        source.seek(start_pts, stream=stream)
    started = False
    for packet in source.demux(stream):
        started = started or (packet.is_keyframe and packet.pts == start_pts)
        if started and packet.pts is not None and packet.pts >= start_pts:
            yield packet


def _uncuttable(video: Video, clip: Clip, reason: str) -> VideoError:
    frames = f"frames {clip.start_frame} to {clip.end_frame}"
    return VideoError(f"{video.path}: {frames}: {reason}; use the clip without a copy", kind="uncuttable")
