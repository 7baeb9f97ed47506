"""Video files: what they hold, and their frames, decoded once, upright and small.

FFmpeg (through PyAV) reads them. A path is a path here, whatever it looks like: `concat:a|b`, `http://x` and
`-i` are names of files, and a file may not open another one, so playlists are refused. A video that breaks
off gives the frames before the break.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from svd3d.errors import VideoError, require
from svd3d.runs import input_path

FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,ivf,mxf,m4v,h264,hevc"
"""Containers that are read, by FFmpeg's names: films without scripts, playlists and pictures."""
OPENING = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
MAX_PIXELS = 64_000_000
"""Larger pictures are refused before they are decoded (8K has 33 million)."""
PROBED_PACKETS = 300
"""How many are looked at for the first frame and for an even frame rate."""
REORDERED = 16
"""Frames that may come in the file after one that is shown later."""
MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
"""How an MP4 or MOV begins, after four bytes."""
EARLY_S = 1.0
"""How much shorter than promised a video may be without a word."""
UNEVEN = 0.1
"""Frames whose durations differ by more than this share make the frame rate variable."""


@dataclass(frozen=True)
class Video:
    """What a file of one video holds, by its head and its first frames."""

    path: Path
    fps: float
    """Frames per second, on average."""
    frames: int | None
    """As many as the container claims; None where it does not say."""
    duration_s: float | None
    """As the container claims; None where it does not say."""
    width: int
    """Pixels as displayed: turned upright, with square pixels."""
    height: int
    rotation_deg: int
    """How far the stored pictures are turned counter-clockwise to stand upright: 0, 90, 180 or 270."""
    codec: str
    pixel_format: str
    """FFmpeg's name, such as yuv420p10le."""
    container: str
    variable_frame_rate: bool
    """Whether its first frames last differently long."""
    time_base: Fraction
    """Seconds per tick of its clock."""
    start_pts: int | None
    """Ticks at which the first frame is shown; None for a stream without times."""


@dataclass(frozen=True)
class Frame:
    """One picture of a video."""

    index: int
    """From 0, in the order in which they are shown."""
    time_s: float
    """Since the first frame; grows from frame to frame."""
    image: UInt8[np.ndarray, "h w 3"]
    """RGB, upright."""
    keyframe: bool
    """Whether decoding can start here."""
    decode_order: int
    """Number of its packet in the file: how many come before it when the file is copied."""


class _Turn(NamedTuple):
    """How a stored picture becomes upright: first transposed, then mirrored."""

    transposed: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False

    def __call__(self, image: UInt8[np.ndarray, "_h _w 3"]) -> UInt8[np.ndarray, "_h2 _w2 3"]:
        if self.transposed:
            image = image.transpose(1, 0, 2)
        if self.mirrored_x:
            image = image[:, ::-1]
        if self.mirrored_y:
            image = image[::-1]
        return np.ascontiguousarray(image)


def probe(path: Path) -> Video:
    """What a video file holds. Its first frame is decoded, so what is not a video is found out here.

    Raises `VideoError` of kind no_video (something else, audio only, a playlist), empty (no bytes, no
    frames), damaged (nothing can be decoded, such as an MP4 cut off before its index), too_large (more than
    `MAX_PIXELS`) or unsupported (no decoder), and `InputError` for a missing file.
    """
    av = _av()
    first, damage, times = None, None, []
    with opened(path) as (container, stream):
        for packet in islice(container.demux(stream), PROBED_PACKETS):
            if packet.pts is not None:
                times.append(packet.pts)
            if first is None:
                try:
                    first = next((frame for frame in packet.decode() if not frame.is_corrupt), None)
                except av.FFmpegError as error:
                    damage = error
        if first is None:
            raise _nothing(path, damage) from damage
        turn = _turn(first)
        width, height = _displayed(stream, first)
        fps = stream.average_rate or stream.guessed_rate or stream.base_rate or 25
        duration_s = None
        if stream.duration:
            duration_s = float(stream.duration * stream.time_base)
        elif container.duration:
            duration_s = container.duration / av.time_base
        return Video(
            path=path,
            fps=float(fps),
            frames=stream.frames or None,
            duration_s=duration_s,
            width=height if turn.transposed else width,
            height=width if turn.transposed else height,
            rotation_deg=round(first.rotation / 90) * 90 % 360,
            codec=stream.codec_context.codec.canonical_name,
            pixel_format=first.format.name,
            container=container.format.name,
            variable_frame_rate=_uneven(times),
            time_base=stream.time_base,
            start_pts=first.pts,
        )


def frames(
    video: Video,
    *,
    short_side: int | None = None,
    limit_s: float | None = None,
    threads: int = 1,
    on_note: Callable[[str], None] = lambda note: None,
) -> Iterator[Frame]:
    """All frames of a video in the order they are shown, decoded as they are asked for.

    The shorter side of the pictures is at most `short_side` pixels; at most `limit_s` seconds are read. A
    stream that breaks ends at its last good frame: what a decoder makes up after that is no material.
    `on_note` is told of damage, of a file that ends early and of a limit that was met. Raises `VideoError`
    when not one frame can be decoded.
    """
    shorter = min(video.height, video.width)
    scale = min(shorter, short_side or shorter) / shorter
    size = max(1, round(video.height * scale)), max(1, round(video.width * scale))
    time_s, turn, pictures = -1.0, _Turn(), enumerate(_pictures(video.path, threads=threads))
    while True:
        try:
            index, picture = next(pictures)
        except StopIteration:
            break
        except VideoError as error:
            if time_s < 0:
                raise
            on_note(f"damaged after {time_s:.2f} s ({_words(error.__cause__)}); the rest is left out")
            return
        if index == 0:
            turn = _turn(picture)
        time_s = _time(picture, video, after_s=time_s) if index else 0.0
        if limit_s is not None and time_s >= limit_s:
            on_note(f"read up to the limit of {limit_s:g} s")
            return
        decode_order, starts = picture.opaque
        keyframe = starts and bool(picture.key_frame)
        yield Frame(index, time_s, _upright(picture, turn, size), keyframe, decode_order)
    if video.duration_s and time_s + 1 / video.fps + EARLY_S < video.duration_s:
        on_note(f"ends after {time_s:.2f} s, its head promises {video.duration_s:.2f} s")


def _pictures(path: Path, *, threads: int) -> Iterator[Any]:
    """Decoded pictures from the first good one on; the first damage after it is raised as `VideoError`."""
    av, seen, damage = _av(), False, None
    with opened(path, threads=threads) as (container, stream):
        packets = enumerate(container.demux(stream))
        while not (seen and damage):
            decoded = []
            try:
                number, packet = next(packets)
                packet.opaque = (number, packet.is_keyframe)
                decoded = packet.decode()
            except StopIteration:
                break
            except av.FFmpegError as error:
                damage = error
            for picture in decoded:
                if picture.is_corrupt:
                    damage = av.InvalidDataError(0, "an incomplete frame")
                    break
                if not seen:
                    seen, damage = True, None
                yield picture
    if damage or not seen:
        raise _nothing(path, damage) from damage


def _time(picture: Any, video: Video, *, after_s: float) -> float:
    """Seconds since the first frame; where the file's clock stands still or is missing, by the rate."""
    if picture.pts is not None and video.start_pts is not None:
        time_s = float((picture.pts - video.start_pts) * video.time_base)
        if time_s > after_s:
            return time_s
    return after_s + 1 / video.fps


@contextlib.contextmanager
def opened(path: Path, *, threads: int = 1) -> Iterator[tuple[Any, Any]]:
    """PyAV's container and the first film in it, not a cover picture. Errors as for `probe`."""
    av = _av()
    if not input_path(path, what="video").is_file():
        raise VideoError(f"{path}: not a file; pass a video file", kind="no_video")
    try:
        container = av.open(f"file:{path}", options=OPENING, metadata_errors="replace")
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error
    with container:
        aside = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
        films = [stream for stream in container.streams.video if not stream.disposition & aside]
        if not films:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise VideoError(f"{path}: holds no video (only {kinds}); leave it out", kind="no_video")
        context = films[0].codec_context
        if context is None:
            raise VideoError(f"{path}: no decoder for its video; convert it first", kind="unsupported")
        if context.width * context.height > MAX_PIXELS:
            raise VideoError(
                f"{path}: pictures of {context.width} x {context.height} pixels are more than "
                f"{MAX_PIXELS // 1_000_000} megapixels; scale it down first",
                kind="too_large",
            )
        context.options = {"max_pixels": str(MAX_PIXELS)}
        context.thread_count, context.copy_opaque = threads, True
        yield container, films[0]


def _unreadable(path: Path, error: Exception) -> VideoError:
    """Why FFmpeg refuses a file, judged by how it begins."""
    with open(path, "rb") as file:
        head = file.read(12)
    if not head:
        return VideoError(f"{path}: the file is empty; download it again", kind="empty")
    if head[4:8] in MP4_BOXES:
        story = "its index is missing or broken, was it cut off?"
        return VideoError(f"{path}: a damaged MP4 ({story}); download it again", kind="damaged")
    reason = f"starts with {head!r}; {_words(error)}"
    return VideoError(f"{path}: not a video that is read ({reason}); leave it out", kind="no_video")


def _nothing(path: Path, damage: Exception | None) -> VideoError:
    if damage:
        story = f"no frame can be decoded ({_words(damage)})"
        return VideoError(f"{path}: {story}; download it again", kind="damaged")
    return VideoError(f"{path}: its video has no frames; leave it out", kind="empty")


def _words(error: object) -> str:
    """What FFmpeg says, without numbers and paths."""
    return str(getattr(error, "strerror", None) or error).splitlines()[0]


def _uneven(times: list[int]) -> bool:
    """Whether the durations between times, in any order, differ by more than ticks and rounding."""
    durations = np.diff(np.sort(np.array(times, dtype=np.int64))[: PROBED_PACKETS - REORDERED])
    return len(durations) > 1 and bool(np.ptp(durations) > max(2, UNEVEN * np.median(durations)))


def _turn(picture: Any) -> _Turn:
    """By the display matrix: the displayed point is (ax + cy, bx + dy), of which two terms are 0."""
    matrix = picture.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return _Turn()
    (a, b, _), (c, d, _), _ = np.frombuffer(matrix, np.int32).reshape(3, 3).tolist()
    transposed = abs(b) > abs(a)
    return _Turn(transposed, (c if transposed else a) < 0, (b if transposed else d) < 0)


def _displayed(stream: Any, picture: Any) -> tuple[int, int]:
    """Width and height with square pixels, before turning."""
    aspect = float(stream.sample_aspect_ratio or 1)
    aspect = aspect if 0.25 <= aspect <= 4 else 1.0
    return max(1, round(picture.width * aspect)), picture.height


def _upright(picture: Any, turn: _Turn, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of an upright height and width; scaled while converting, each pixel the mean of those it covers."""
    height, width = size[::-1] if turn.transposed else size
    return turn(
        picture.to_ndarray(width=width, height=height, format="rgb24", interpolation="AREA", threads=1)
    )


def _av() -> ModuleType:
    return require("av", extra="curation", reason="reading a video")
