"""One video to its rows: one pass for all scorers, then what is asked of the samples of each clip.

A network or package that is missing leaves its columns null, with the reason; it never stops a video.
"""

import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from svd3d import runs
from svd3d.curation import camera_motion, captions, clips, duplicates, motion, onepass, semantic, table, text
from svd3d.curation import video as videos
from svd3d.curation.clips import Keys
from svd3d.curation.cuts import CutDetector
from svd3d.curation.motion import Flow, FlowScorer
from svd3d.curation.onepass import Samples, Scorer
from svd3d.curation.table import Clip, Part
from svd3d.curation.video import Video
from svd3d.errors import DependencyError, VideoError
from svd3d.settings import CurateConfig

T = TypeVar("T")
Picture = UInt8[np.ndarray, "_h _w 3"]
THUMBNAILS = "thumbnails"
CLIPS = "clips"
THUMBNAIL_HEIGHT = 144
"""Pixels of a strip of three pictures."""
CAPTIONED = 8
"""Pictures of a clip that a video captioner sees at most, evenly spread."""
AT_ONCE = 8
"""Clips whose pictures are in memory together, so that networks get them in batches."""


@dataclass(frozen=True)
class Tools:
    """What is loaded once per process and serves all its videos; None is what could not be."""

    flow: Flow | None
    text: text.TextDetector | None
    clip: semantic.Clip | None
    aesthetic: semantic.Aesthetic | None
    image_captioner: captions.ImageCaptioner | None
    video_captioner: captions.VideoCaptioner | None
    merger: captions.Merger | None
    not_computed: dict[str, str]
    """Columns that no clip gets, with the reason."""

    @property
    def device(self) -> str:
        """Where the networks really compute; cpu where there are none."""
        networks = (self.clip, self.image_captioner, self.video_captioner, self.merger)
        devices = {str(each.network.device) for each in networks if each is not None}
        return ", ".join(sorted(devices)) or "cpu"


class Scorers:
    """What looks at the frames of one video, to be fed by one pass."""

    def __init__(self, video: Video, scratch: Path, *, flow: Flow | None) -> None:
        self.cuts, self.keys, self.samples = CutDetector(video.fps), Keys(), Samples(scratch)
        self.flow = None if flow is None else FlowScorer(flow)
        self.every: tuple[Scorer, ...] = (self.cuts, self.keys)
        """Those that need every frame."""
        self.sampled: tuple[Scorer, ...] = (self.samples, *([self.flow] if self.flow else []))
        """Those that need samples."""


def load(config: CurateConfig) -> Tools:
    """Everything that is asked for and can be had here. Raises `ConfigError` for a device that is absent."""
    missing: dict[str, str] = {}

    def attempt(make: Callable[[], T], *columns: str) -> T | None:
        try:
            return make()
        except DependencyError as error:
            name, _, reason = str(error).partition(": ")
            missing.update(dict.fromkeys(columns, str(error) if " " in name else reason))
            return None

    device = config.device
    flow = attempt(
        lambda: motion.load(config.flow, raft_weights=config.raft_weights, device=device),
        *("motion", "camera_motion", "camera_confidence", "pan", "tilt", "zoom", "roll", "object_motion"),
    )
    detector = None
    if config.text:
        detector = attempt(lambda: text.TextDetector.load(threads=config.threads), "text_area")
    else:
        missing["text_area"] = "--text False was asked for"
    clip = attempt(
        lambda: semantic.Clip.load(config.clip, device=device), "embedding", "clip_score", "aesthetic"
    )
    aesthetic = None
    if clip is not None:
        aesthetic = attempt(lambda: semantic.Aesthetic.load(config.aesthetic, width=clip.width), "aesthetic")
    image = attempt(
        lambda: captions.ImageCaptioner.load(config.image_captioner, device=device), "caption_image"
    )
    film = attempt(
        lambda: captions.VideoCaptioner.load(config.video_captioner, device=device), "caption_video"
    )
    merger = attempt(lambda: captions.Merger.load(config.language_model, device=device), "caption_merged")
    if image is None and film is None:
        missing.setdefault("clip_score", "there are no captions to compare with")
    return Tools(flow, detector, clip, aesthetic, image, film, merger, missing)


def score(
    path: Path,
    *,
    uid: str,
    name: str,
    out: Path,
    scratch: Path,
    config: CurateConfig,
    tools: Tools,
    on_progress: Callable[[int, float], None],
) -> Part:
    """All clips of a video with all their scores; thumbnails and copied clips go to folders of `out`.

    `scratch` is an empty folder for samples. `on_progress(frames, time_s)` is called now and then. Raises
    `VideoError` for a file that gives no frame, and `OutputError` when `out` cannot be written.
    """
    shutil.rmtree(out / THUMBNAILS / uid, ignore_errors=True)  # of an attempt that was killed
    video = videos.probe(path)
    scorers = Scorers(video, scratch, flow=tools.flow)
    reading = onepass.read(
        video,
        every=scorers.every,
        sampled=scorers.sampled,
        limit_s=config.limit_s,
        threads=config.threads,
        on_progress=on_progress,
    )
    shots = found(scorers, fps=video.fps, min_s=config.min_clip_s, max_s=config.max_clip_s)
    bare = [row(each, number, video, uid=uid, name=name) for number, each in enumerate(shots)]
    rows: list[Clip] = []
    for start in range(0, len(bare), AT_ONCE):
        rows += scored(bare[start : start + AT_ONCE], scorers, tools, method=config.flow, out=out)
        on_progress(reading.frames, reading.end_s)
    notes = [*reading.notes]
    if config.write_clips:
        rows = [
            replace(clip, file=_copied(video, shot, out / CLIPS / clip.id, notes))
            for clip, shot in zip(rows, shots, strict=True)
        ]
    return Part(tuple(rows), tools.not_computed, "; ".join(notes), tools.device, cpu_s=0.0)


def found(scorers: Scorers, *, fps: float, min_s: float, max_s: float) -> list[clips.Clip]:
    """The clips of a video that was read, of those that hold a sample."""
    shots = scorers.keys.clips(scorers.cuts.transitions, fps=fps, min_s=min_s, max_s=max_s)
    return [each for each in shots if scorers.samples.between(each.start_frame, each.end_frame)]


def row(shot: clips.Clip, number: int, video: Video, *, uid: str, name: str) -> Clip:
    """The row of a clip, without scores."""
    return Clip(
        id=f"{uid}-{number:04d}",
        video=name,
        video_id=uid,
        clip=number,
        start_frame=shot.start_frame,
        end_frame=shot.end_frame,
        start_s=shot.start_s,
        end_s=shot.end_s,
        fps=(shot.end_frame - shot.start_frame) / (shot.end_s - shot.start_s),
        width=video.width,
        height=video.height,
        keyframe_start_frame=shot.keyframe_start_frame,
        keyframe_end_frame=shot.keyframe_end_frame,
    )


def _copied(video: Video, shot: clips.Clip, place: Path, notes: list[str]) -> str | None:
    """Copy a clip; the path relative to the table, or None for one that cannot be copied, with a note."""
    path = place.with_name(f"{place.name}{clips.suffix(video)}")
    path.parent.mkdir(exist_ok=True)
    try:
        clips.copy(video, shot, path)
    except VideoError as error:
        notes.append(str(error))
        return None
    return f"{CLIPS}/{path.name}"


def scored(bare: Sequence[Clip], scorers: Scorers, tools: Tools, *, method: str, out: Path) -> list[Clip]:
    """Clips of one video with what its scorers and the networks say of them. Each has a sample at least."""
    threes = [pictures(clip, scorers.samples, 3) for clip in bare]
    middles = [middle(three) for three in threes]
    told = caption_columns(bare, scorers.samples, middles, tools)
    columns = zip(
        motion_columns(bare, scorers.flow, method=method),
        camera_columns(bare, scorers.flow),
        text_columns(threes, tools.text),
        told,
        semantic_columns(threes, told, tools),
        [{"phash": duplicates.phash(each)} for each in middles],
        [{"thumbnails": strip(three, clip, out)} for three, clip in zip(threes, bare, strict=True)],
        strict=True,
    )
    return [
        replace(clip, **{name: value for part in parts for name, value in part.items()})
        for clip, parts in zip(bare, columns, strict=True)
    ]


def pictures(clip: Clip, samples: Samples, count: int) -> list[Picture]:
    """So many samples of a clip at most, evenly spread from its first to its last."""
    there = samples.between(clip.start_frame, clip.end_frame)
    return [samples.image(index) for index in onepass.spread(there, count)]


def middle(three: Sequence[T]) -> T:
    """The middle of first, middle and last; of two, the last."""
    return three[len(three) // 2]


def motion_columns(bare: Sequence[Clip], flow: FlowScorer | None, *, method: str) -> list[dict[str, Any]]:
    """The motion score of each clip; none where the clip lasts but one sample."""
    pairs = [] if flow is None else flow.pairs
    scores = [motion.motion_score(pairs, clip.start_frame, clip.end_frame) for clip in bare]
    return [{} if score is None else {"motion": score, "motion_method": method} for score in scores]


def camera_columns(bare: Sequence[Clip], flow: FlowScorer | None) -> list[dict[str, Any]]:
    """What the camera of each clip does; nothing where the clip lasts but one sample."""
    found = []
    for clip in bare:
        pairs = [] if flow is None else motion.within(flow.pairs, clip.start_frame, clip.end_frame)
        camera = asdict(camera_motion.classify(pairs)) if pairs else {}
        names = {"kind": "camera_motion", "confidence": "camera_confidence"}
        found.append({names.get(name, name): value for name, value in camera.items()})
    return found


def text_columns(
    threes: Sequence[Sequence[Picture]], detector: text.TextDetector | None
) -> list[dict[str, Any]]:
    """The largest text area of each clip's pictures."""
    if detector is None:
        return [{} for _ in threes]
    return [{"text_area": max(areas)} for areas in _each(detector.area, threes)]


def caption_columns(
    bare: Sequence[Clip], samples: Samples, middles: Sequence[Picture], tools: Tools
) -> list[dict[str, Any]]:
    """Captions of each clip, and how often each is drawn."""
    image = film = [None] * len(bare)
    if tools.image_captioner:
        image = tools.image_captioner.captions(middles)
    if tools.video_captioner:
        film = tools.video_captioner.captions(
            [pictures(clip, samples, CAPTIONED) for clip in bare],
            seconds=[clip.end_s - clip.start_s for clip in bare],
        )
    found = [
        {"caption_image": one, "caption_video": other, "caption_merged": None}
        for one, other in zip(image, film, strict=True)
    ]
    both = [each for each in found if each["caption_image"] and each["caption_video"]]
    if tools.merger and both:
        pairs = [(each["caption_image"], each["caption_video"]) for each in both]
        for each, merged in zip(both, tools.merger.merge(pairs), strict=True):
            each["caption_merged"] = merged
    return [{**each, "caption_probabilities": table.probabilities(each)} for each in found]


def semantic_columns(
    threes: Sequence[Sequence[Picture]], told: Sequence[dict[str, Any]], tools: Tools
) -> list[dict[str, Any]]:
    """CLIP score against the caption that is drawn most often, aesthetic score and embedding of each clip."""
    clip, aesthetic = tools.clip, tools.aesthetic
    if clip is None:
        return [{} for _ in threes]
    found = []
    for embeddings, captioned in zip(_each(clip.embed, threes), told, strict=True):
        stacked = np.stack(embeddings)
        caption = next((captioned[name] for name in table.CAPTIONS if captioned[name]), None)
        found.append(
            {
                "clip_score": None if caption is None else _mean(clip.similarity(stacked, caption)),
                "aesthetic": None if aesthetic is None else _mean(aesthetic.score(stacked)),
                "embedding": tuple(round(float(each), 6) for each in middle(embeddings)),
            }
        )
    return found


def _each(score: Callable[[list[Picture]], Any], groups: Sequence[Sequence[Picture]]) -> list[list[Any]]:
    """What is said of each picture of each group, in one call for all."""
    said = iter(score([picture for group in groups for picture in group]))
    return [list(islice(said, len(group))) for group in groups]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def strip(three: Sequence[Picture], clip: Clip, out: Path) -> str:
    """Write pictures side by side, small, as JPEG; returns the path relative to the table."""
    height, width = three[0].shape[:2]
    size = max(1, round(width * THUMBNAIL_HEIGHT / height)), THUMBNAIL_HEIGHT
    row = np.concatenate([np.asarray(Image.fromarray(each).resize(size)) for each in three], axis=1)
    file, path = io.BytesIO(), out / THUMBNAILS / clip.video_id / f"{clip.clip:04d}.jpg"
    Image.fromarray(row).save(file, "JPEG", quality=85)
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_file(path, file.getvalue())
    return path.relative_to(out).as_posix()
