"""`clips.parquet`: one row per clip with all its scores. Nothing is decoded again to change a threshold.

A null is a score that was not computed; why is in the file's own facts (`facts`). Every column carries its
meaning and unit in the file. Reading and writing stream row groups, so a table may be larger than memory.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from svd3d import runs
from svd3d.errors import InputError, require

NAME = "clips.parquet"
PARTS = "parts"
"""Folder beside it, with one JSON file per video."""
ROWS = 4096
"""In a row group: of clips with an embedding, a few megabytes."""
CAPTIONS = {"caption_image": 0.5, "caption_video": 0.25, "caption_merged": 0.25}
"""How often a training draws each caption of a clip (SVD, appendix C)."""
FORMAT = 1
FACTS = b"svd3d"
"""Key of our JSON in the file's metadata."""


def _column(kind: str, about: str, unit: str = "", *, required: bool = False) -> Any:
    about_it = {"kind": kind, "about": about, "unit": unit}
    return field(metadata=about_it) if required else field(default=None, metadata=about_it)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One row: a shot of a video without its blended borders, and what the scorers made of it."""

    id: str = _column("string", "unique: video_id and number of the clip", required=True)
    video: str = _column("string", "path of the video as given, relative to the source", required=True)
    video_id: str = _column("string", "name of the video in the ledger", required=True)
    clip: int = _column("int32", "number of the clip in its video, from 0", required=True)
    start_frame: int = _column("int64", "first frame, counted from 0 as decoded", required=True)
    end_frame: int = _column("int64", "frame after the last one", required=True)
    start_s: float = _column("float64", "time of the first frame in the video", "s", required=True)
    end_s: float = _column("float64", "end of the last frame", "s", required=True)
    fps: float = _column("float64", "mean over the clip", "frames/s", required=True)
    width: int = _column("int32", "of the upright picture", "px", required=True)
    height: int = _column("int32", "of the upright picture", "px", required=True)
    keyframe_start_frame: int | None = _column("int64", "first frame of a copy without re-encoding")
    keyframe_end_frame: int | None = _column("int64", "frame after the last one of such a copy")
    file: str | None = _column("string", "the copied clip, relative to the table; with write_clips only")
    motion: float | None = _column(
        "float32", "mean magnitude of optical flow over time and space", "1/16 of the short side, per 1/2 s"
    )
    motion_method: str | None = _column("string", "farneback, dis or raft")
    camera_motion: str | None = _column("string", "static, pan, tilt, zoom, roll, mixed or unknown")
    camera_confidence: float | None = _column("float32", "of camera_motion", "0 to 1")
    pan: float | None = _column("float32", "horizontal motion of the camera", "widths/s")
    tilt: float | None = _column("float32", "vertical motion of the camera", "heights/s")
    zoom: float | None = _column("float32", "change of focal length", "log2 of the scale per s")
    roll: float | None = _column("float32", "rotation about the optical axis", "degrees/s")
    object_motion: float | None = _column(
        "float32", "flow that the camera does not explain", "1/16 of the short side, per 1/2 s"
    )
    text_area: float | None = _column(
        "float32", "largest part of first, middle and last sample in boxes around text", "0 to 1"
    )
    caption_image: str | None = _column("string", "of the middle sample, by an image captioner")
    caption_video: str | None = _column("string", "of the clip, by a video captioner")
    caption_merged: str | None = _column("string", "of both captions, by a language model")
    caption_probabilities: tuple[float, ...] | None = _column(
        "list<float32>", "how often a training draws the image, video and merged caption; sum 1"
    )
    clip_score: float | None = _column(
        "float32", "mean CLIP similarity of first, middle and last sample to the caption", "cosine"
    )
    aesthetic: float | None = _column("float32", "mean over first, middle and last sample", "1 to 10")
    phash: int | None = _column("uint64", "perceptual hash of the middle sample", "64 bits")
    embedding: tuple[float, ...] | None = _column("list<float16>", "CLIP, middle sample; length 1")
    duplicate_of: str | None = _column("string", "id of an earlier clip that shows the same")
    thumbnails: str | None = _column("string", "JPEG strip of first, middle and last sample, relative path")


COLUMNS = tuple(each.name for each in fields(Clip))


def probabilities(captions: Mapping[str, str | None]) -> tuple[float, ...] | None:
    """`CAPTIONS` over those captions that exist, renormalised to 1, in their order; None if none exists.

    >>> probabilities({"caption_image": "a cup", "caption_video": "a cup turns", "caption_merged": None})
    (0.6666666666666666, 0.3333333333333333, 0.0)
    """
    weights = [weight if captions.get(name) else 0.0 for name, weight in CAPTIONS.items()]
    return tuple(weight / sum(weights) for weight in weights) if any(weights) else None


@dataclass(frozen=True)
class Part:
    """What one video gave: its clips, and what the table must tell of them."""

    clips: tuple[Clip, ...]
    not_computed: dict[str, str]
    """Columns that are null throughout, with the reason."""
    message: str
    """What is noteworthy of the video."""
    device: str
    cpu_s: float

    def write(self, path: Path) -> None:
        """Write it as JSON, atomically: a video is done when its part exists."""
        runs.write_json(path, {"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> "Part":
        """A part that was written. Raises `InputError` for anything else."""
        try:
            found = json.loads(path.read_bytes())
            if found.pop("format") != FORMAT:
                raise InputError(f"{path}: of another format; choose another --out")
            clips = tuple(Clip(**{**clip, **_tuples(clip)}) for clip in found.pop("clips"))
            return cls(clips=clips, **found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: not a part that svd3d curate has written ({error!r:.80}); remove it and run again"
            ) from error


def _tuples(clip: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """Lists of JSON as the tuples that they were."""
    return {name: tuple(value) for name, value in clip.items() if isinstance(value, list)}


def schema() -> Any:
    """The Arrow schema: type, meaning and unit of every column."""
    arrow = _arrow()
    kinds = {"list<float16>": arrow.list_(arrow.float16()), "list<float32>": arrow.list_(arrow.float32())}
    columns = []
    for each in fields(Clip):
        kind, about = each.metadata["kind"], {key: each.metadata[key] for key in ("about", "unit")}
        data_type = kinds[kind] if kind in kinds else arrow.type_for_alias(kind)
        columns.append(arrow.field(each.name, data_type, metadata={k: v for k, v in about.items() if v}))
    return arrow.schema(columns)


def write(path: Path, clips: Iterable[Clip], *, facts: Callable[[], Mapping[str, Any]]) -> int:
    """Write clips as they come, atomically; returns how many.

    `facts` gives JSON that is kept in the file; it is asked after the last clip.
    """
    arrow, layout = _arrow(), schema()

    rows = (_row(clip) for clip in clips)

    def groups() -> Iterator[Any]:
        while group := list(itertools.islice(rows, ROWS)):
            yield arrow.RecordBatch.from_pylist(group, schema=layout)

    return write_batches(path, groups(), facts=facts)


def _row(clip: Clip) -> dict[str, Any]:
    """A clip as a dict, with an embedding of half precision, as Arrow wants it."""
    row = asdict(clip)
    if clip.embedding is not None:
        row["embedding"] = np.asarray(clip.embedding, np.float16)
    return row


def write_batches(path: Path, batches: Iterable[Any], *, facts: Callable[[], Mapping[str, Any]]) -> int:
    """As `write`, of Arrow record batches of the table's schema."""
    from pyarrow import parquet

    layout, rows = schema(), 0
    with (
        runs.atomic_file(path) as temporary,
        open(temporary, "wb") as file,  # Arrow cannot open every name
        parquet.ParquetWriter(file, layout, compression="zstd") as writer,
    ):
        for batch in batches:
            rows += batch.num_rows
            writer.write_batch(batch)
        writer.add_key_value_metadata({FACTS: json.dumps(facts(), allow_nan=False).encode()})
    return rows


def mark_duplicates(path: Path, copies: Mapping[str, str]) -> None:
    """Fill the column duplicate_of of a table: `copies` maps ids of clips to those that they repeat."""
    arrow, known = _arrow(), facts(path)
    column = COLUMNS.index("duplicate_of")

    def marked() -> Iterator[Any]:
        for batch in batches(path):
            found = [copies.get(clip) for clip in batch["id"].to_pylist()]
            arrays = [*batch.columns]
            arrays[column] = arrow.array(found, arrow.string())
            yield arrow.RecordBatch.from_arrays(arrays, schema=batch.schema)

    write_batches(path, marked(), facts=lambda: known)


def batches(path: Path, *, columns: Sequence[str] | None = None) -> Iterator[Any]:
    """Arrow record batches of a table, at most `ROWS` rows each, all columns or some.

    Raises `InputError` for what is not a table of clips.
    """
    with _opened(path) as file:
        yield from file.iter_batches(batch_size=ROWS, columns=list(columns or COLUMNS))


def rows(path: Path, *, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a table as they come, all columns or some. Raises `InputError` as `batches`."""
    for batch in batches(path, columns=columns):
        yield from batch.to_pylist()


def count(path: Path) -> int:
    """How many clips a table holds. Raises `InputError` as `batches`."""
    with _opened(path) as file:
        return file.metadata.num_rows


def facts(path: Path) -> dict[str, Any]:
    """What a table tells of itself: how often captions are drawn, what was not computed and why.

    Raises `InputError` as `batches`.
    """
    with _opened(path) as file:
        return json.loads(file.metadata.metadata[FACTS])


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    arrow = _arrow()
    from pyarrow import parquet

    runs.input_path(path, what="table of clips")
    with contextlib.ExitStack() as stack:
        try:
            source = stack.enter_context(open(path, "rb"))
            file = stack.enter_context(parquet.ParquetFile(source))
        except (OSError, arrow.ArrowException) as error:
            story = f"not a readable Parquet file ({error}); make it with svd3d curate"
            raise InputError(f"{path}: {story}") from error
        missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
        if missing or FACTS not in (file.metadata.metadata or {}):
            lacks = ", ".join(missing[:3]) or "our facts"
            raise InputError(f"{path}: not a table of clips (it lacks {lacks}); make it with svd3d curate")
        yield file


def _arrow() -> Any:
    return require("pyarrow", extra="curation", reason="the table of clips")
