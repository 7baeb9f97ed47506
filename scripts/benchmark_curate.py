"""Frames per second of `svd3d curate` reading each video once, against one reading for each scorer.

    python scripts/benchmark_curate.py [--quick] [--json] [--videos FOLDER] [--repeats 3]

Public pipelines chain tools, each of which opens the video again. So does the second way here: the same
scorers, each in a decoding pass of its own, over pictures of the same size. Both must end with the same rows.
Networks that need weights (CLIP, aesthetic, captions) are left out: with them the second way would take more
passes. What is left: cuts, keyframes for copying, motion, camera motion, text, near-duplicates, thumbnails.

Without --videos it makes its own: shots of a moving, grainy picture with hard cuts, 1920 x 1080, H.264 of 8
Mbit/s. The less a video costs to decode, the smaller is the ratio: try your own with --videos. The two take
turns in one process with one thread; a ratio is that of one turn, in seconds of the wall clock; the ratio of
CPU-seconds is told too, and what decoding alone takes.
"""

import argparse
import json
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from svd3d.curation import duplicates, footage, onepass, scoring, video  # noqa: E402
from svd3d.curation.clips import Keys  # noqa: E402
from svd3d.curation.cuts import CutDetector  # noqa: E402
from svd3d.curation.motion import FlowScorer  # noqa: E402
from svd3d.curation.onepass import Samples  # noqa: E402
from svd3d.curation.scoring import Tools  # noqa: E402
from svd3d.curation.table import Clip  # noqa: E402
from svd3d.settings import CurateConfig  # noqa: E402

SIZE = (1080, 1920)
FPS = 25
BITS_PER_S = 8_000_000
"""What YouTube recommends for uploads of this size."""
SHOT_S = 11.6
"""Mean length of a clip in the paper's data (SVD, table 1)."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Turn:
    """What scoring all videos once took."""

    seconds: float
    cpu_seconds: float
    frames: int
    """Decoded."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one video, two turns")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--videos", type=Path, help="a folder of videos, or one; default: made here")
    parser.add_argument("--count", type=int, help="videos of two shots made here (1 with --quick, else 3)")
    parser.add_argument("--shot-s", type=float, default=SHOT_S, help="length of a shot in a video made here")
    parser.add_argument("--repeats", type=int, help="turns (2 with --quick, else 3)")
    arguments = parser.parse_args()
    repeats = arguments.repeats or (2 if arguments.quick else 3)
    videos = arguments.count or (1 if arguments.quick else 3)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = arguments.videos
        if source is None:
            source = folder / "videos"
            source.mkdir()
            for number in range(videos):
                make_video(source / f"{number}.mp4", seed=number, shot_s=arguments.shot_s, shots=2)
        config = CurateConfig(source, folder / "out")
        tools = without_networks(scoring.load(config))
        turns: dict[str, list[Turn]] = {name: [] for name in WAYS}
        rows: dict[str, Rows] = {}
        for turn in range(repeats):
            for name, way in WAYS.items():
                made, rows[name] = measure(way, config, tools, folder / "work")
                turns[name].append(made)
                print(f"{turn + 1}/{repeats} {name:16} {made}", file=sys.stderr, flush=True)
        decoding = decode(config)
    found = summary(turns, rows, decoding=decoding)
    print(table(found))
    if arguments.json:
        settings = {"videos": str(arguments.videos or "made here"), "repeats": repeats, "threads": 1}
        settings |= {
            "short_side": onepass.SHORT_SIDE,
            "shot_s": arguments.shot_s,
            "size": SIZE,
            "bits_per_s": BITS_PER_S,
        }
        versions = {"python": platform.python_version()}
        versions |= {each.__name__: each.__version__ for each in (np, cv2, av)}
        print(json.dumps({**found, "settings": settings, "versions": versions}))


def make_video(path: Path, *, seed: int, shot_s: float, shots: int, size: tuple[int, int] = SIZE) -> None:
    """Shots of a camera that moves over a picture with detail at all scales, with the grain of a film."""
    generator = np.random.default_rng(seed)
    height, width = size
    grain = generator.normal(0, 8, (16, height, width, 1)).astype(np.int8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.pix_fmt, stream.height, stream.width, stream.bit_rate = "yuv420p", height, width, BITS_PER_S
        for _ in range(shots):
            picture = wide_picture(generator, height=height, width=2 * width)
            for index in range(round(shot_s * FPS)):
                left = round(index * width / (shot_s * FPS))
                image = picture[:, left : left + width].astype(np.int16) + grain[index % len(grain)]
                frame = av.VideoFrame.from_ndarray(image.clip(0, 255).astype(np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


def wide_picture(generator: np.random.Generator, *, height: int, width: int) -> np.ndarray:
    """Blobs of all sizes in colour, uint8 [h, w, 3]: like a photograph, less detail the finer it is."""
    picture = np.zeros((height, width, 3), np.float32)
    for cells in (4, 8, 16, 32, 64, 128):
        coarse = generator.normal(0, 60 / cells**0.5, (cells, 2 * cells, 3)).astype(np.float32)
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return (picture + generator.uniform(80, 176, 3)).clip(0, 255).astype(np.uint8)


def without_networks(tools: Tools) -> Tools:
    """The scorers that need no downloaded weights."""
    none = dict.fromkeys(("clip", "aesthetic", "image_captioner", "video_captioner", "merger"))
    return replace(tools, **none)


def measure(
    way: Callable[[CurateConfig, Tools, Path], tuple[Rows, int]],
    config: CurateConfig,
    tools: Tools,
    work: Path,
) -> tuple[Turn, Rows]:
    """One turn of a way."""
    start, cpu = time.perf_counter(), time.process_time()
    rows, frames = way(config, tools, work)
    return Turn(time.perf_counter() - start, time.process_time() - cpu, frames), rows


def one_pass(config: CurateConfig, tools: Tools, work: Path) -> tuple[Rows, int]:
    """As `svd3d curate` reads a video."""
    rows, frames = [], 0
    for source in footage.find(config.videos):
        told: list[int] = []
        part = scoring.score(
            source.path,
            uid=source.uid,
            name=source.name,
            out=config.out,
            scratch=fresh(work),
            config=config,
            tools=tools,
            on_progress=lambda frames, time_s, told=told: told.append(frames),
        )
        rows += map(asdict, part.clips)
        frames += told[-1]
    return rows, frames


def one_pass_each(config: CurateConfig, tools: Tools, work: Path) -> tuple[Rows, int]:
    """Every scorer opens the video for itself."""
    rows, frames = [], 0
    for source in footage.find(config.videos):
        film = video.probe(source.path)

        def read(film: video.Video = film, **scorers: Any) -> None:
            nonlocal frames
            frames += onepass.read(film, limit_s=config.limit_s, **scorers).frames

        def threes(bare: list[Clip], film: video.Video = film) -> list[list[np.ndarray]]:
            samples = Samples(fresh(work))
            read(film, sampled=[samples])
            return [scoring.pictures(clip, samples, 3) for clip in bare]

        cuts, keys, flows = CutDetector(film.fps), Keys(), [FlowScorer(tools.flow), FlowScorer(tools.flow)]
        read(every=[cuts])
        read(every=[keys])
        for flow in flows:
            read(sampled=[flow])
        shots = keys.clips(cuts.transitions, fps=film.fps, min_s=config.min_clip_s, max_s=config.max_clip_s)
        bare = [scoring.row(shot, n, film, uid=source.uid, name=source.name) for n, shot in enumerate(shots)]
        strips = zip(threes(bare), bare, strict=True)
        columns = zip(
            scoring.motion_columns(bare, flows[0], method=config.flow),
            scoring.camera_columns(bare, flows[1]),
            scoring.text_columns(threes(bare), tools.text),
            [{"phash": duplicates.phash(scoring.middle(three))} for three in threes(bare)],
            [{"thumbnails": scoring.strip(three, clip, config.out)} for three, clip in strips],
            strict=True,
        )
        for clip, parts in zip(bare, columns, strict=True):
            rows.append(asdict(clip) | {name: value for part in parts for name, value in part.items()})
    return rows, frames


def decode(config: CurateConfig) -> float:
    """Seconds that reading all frames takes, without any scorer."""
    start = time.perf_counter()
    for source in footage.find(config.videos):
        onepass.read(video.probe(source.path), limit_s=config.limit_s)
    return time.perf_counter() - start


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


WAYS: dict[str, Callable[[CurateConfig, Tools, Path], tuple[Rows, int]]] = {
    "a pass for each": one_pass_each,
    "one pass": one_pass,
}


def summary(turns: dict[str, list[Turn]], rows: dict[str, Rows], *, decoding: float) -> dict[str, Any]:
    """Medians over the turns, the ratio first."""
    theirs, ours = turns["a pass for each"], turns["one pass"]
    if rows["a pass for each"] != rows["one pass"]:
        raise SystemExit("the two ways gave different rows")
    pairs = list(zip(theirs, ours, strict=True))
    ratios = [a.seconds / b.seconds for a, b in pairs]
    frames = ours[0].frames
    return {
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "cpu_ratio": statistics.median(a.cpu_seconds / b.cpu_seconds for a, b in pairs),
        "frames": frames,
        "clips": len(rows["one pass"]),
        "decoding_seconds": decoding,
        "ways": {
            name: {
                "frames_per_second": statistics.median(frames / each.seconds for each in done),
                "seconds": statistics.median(each.seconds for each in done),
                "seconds_range": [min(each.seconds for each in done), max(each.seconds for each in done)],
                "cpu_seconds": statistics.median(each.cpu_seconds for each in done),
                "frames_decoded": done[0].frames,
            }
            for name, done in turns.items()
        },
    }


def table(found: dict[str, Any]) -> str:
    """The summary, to read."""
    lines = ["| way | frames/s | s | lowest, highest | CPU-s | frames decoded |", "|---|---|---|---|---|---|"]
    for name, row in found["ways"].items():
        low, high = row["seconds_range"]
        lines.append(
            f"| {name} | {row['frames_per_second']:.0f} | {row['seconds']:.1f} | {low:.1f}, {high:.1f} | "
            f"{row['cpu_seconds']:.1f} | {row['frames_decoded']} |"
        )
    low, high = found["ratio_range"]
    about = f"{found['frames']} frames, {found['clips']} clips, the same rows; decoding alone"
    ratio = f"ratio {found['ratio']:.2f} ({low:.2f} to {high:.2f}); of CPU time {found['cpu_ratio']:.2f}"
    return "\n".join([*lines, "", f"{about} {found['decoding_seconds']:.1f} s", ratio])


if __name__ == "__main__":
    main()
