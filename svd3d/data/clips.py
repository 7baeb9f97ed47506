"""Cached clips of videos, for the training before multi-view: what a row holds, and what a draw takes of it.

The files are those of `svd3d.data.latents`; a row is one clip of `t` frames of `height` by `width` pixels:

    uid, licence, video                 who, whose, and the path of the video as the table of clips has it
    frames           int64 [t]          which frames of the video, from 0
    fps, motion      float32            frames per second of these frames; motion score, NaN: not computed
    latents          float16 [t, c, h, w]    as the denoiser sees them: the mode, times the scaling factor
    texts            string [n]         its captions, as many as it has (up to three)
    texts_drawn      float32 [n]        how often each of them is drawn; their sum is 1
    captions         float16 [n, l, d]  hidden states of each, if the model has a text encoder
    clip             float16 [e]        CLIP embedding of the first frame, if the model has an image encoder
    cond_latents     float16 [k, c, h, w]    and then that frame as the condition: the mode, not scaled
    noise_aug        float32 [k]        and the noise in each of those pictures: none in the first

For a model that fills in frames `clip` has two embeddings [2, e], of the first and of the last frame, and the
last two columns are not there: its condition are `latents` of these two, with noise drawn in training.

The motion score is that of `svd3d curate`, in sixteenths of the short side per half a second, and the UNet is
told this number. Released SVD was told "motion buckets" instead, whose scale is not published.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from svd3d.data.columns import Column

FINE = 1 << 53
"""Steps of a drawn number in [0, 1)."""


@dataclass(frozen=True)
class Encoders:
    """What made the rows; equal for all shards of a cache."""

    vae: str
    """Digest of the part of the autoencoder that encodes, and its scaling factor."""
    text: str | None
    """Digest of the text encoder, if the model has one."""
    clip: str | None
    """Digest of the image encoder, if the model has one."""
    scaling_factor: float


@dataclass(frozen=True)
class Shape:
    """What all rows have in common."""

    kind: ClassVar[str] = "clips"
    variants: ClassVar[int] = 1
    """Rows of each object."""

    size: tuple[int, int]
    """Height and width of the frames in pixels."""
    num_frames: int
    fps: float | None
    """Frames per second of all clips; None for every `stride`-th frame of each."""
    stride: int | None
    latent: tuple[int, int, int]
    """Channels, height and width."""
    text: tuple[int, int] | None
    """Tokens and width of the hidden states of a caption, if there is a text encoder."""
    clip_dim: int | None
    """Width of the embedding of a frame, if there is an image encoder."""
    noise_variants: int | None
    """Noisy encodings of the first frame, beside the clean one, if there is an image encoder; None: of a
    model that fills in the frames between two, which gets its noise in training."""

    @classmethod
    def of(cls, content: dict[str, Any]) -> "Shape":
        """From JSON, which has lists for tuples."""
        tuples = {name: content[name] and tuple(content[name]) for name in ("size", "latent", "text")}
        return cls(**{**content, **tuples})

    @property
    def columns(self) -> dict[str, Column]:
        """Fields of a row by name."""
        found = {
            "uid": Column("string"),
            "licence": Column("string"),
            "video": Column("string"),
            "frames": Column("int64", (self.num_frames,), plain=True),
            "fps": Column("float32"),
            "motion": Column("float32"),
            "latents": Column("float16", (self.num_frames, *self.latent)),
            "texts": Column("string", (None,), plain=True),
            "texts_drawn": Column("float32", (None,), plain=True),
        }
        if self.text is not None:
            found["captions"] = Column("float16", (None, *self.text))
        if self.clip_dim is not None:
            if self.noise_variants is None:
                return {**found, "clip": Column("float16", (2, self.clip_dim))}
            encodings = 1 + self.noise_variants
            found["clip"] = Column("float16", (self.clip_dim,))
            found["cond_latents"] = Column("float16", (encodings, *self.latent))
            found["noise_aug"] = Column("float32", (encodings,))
        return found


@dataclass(frozen=True)
class Row:
    """One clip as read: float32, shapes as in the docstring of the module."""

    uid: str
    licence: str
    video: str
    frames: tuple[int, ...]
    fps: float
    motion: float
    latents: Float[Tensor, "t c h w"]
    texts: tuple[str, ...]
    texts_drawn: tuple[float, ...]
    captions: Float[Tensor, "n l d"] | None = None
    clip: Float[Tensor, "*n e"] | None = None
    cond_latents: Float[Tensor, "k c h w"] | None = None
    noise_aug: Float[Tensor, "k"] | None = None


def video_of(uid: str) -> str:
    """The video of a clip: its name without the number of the clip. All of a video are held out together."""
    return uid.rpartition("-")[0] or uid


def sample(
    row: Row,
    draw: Callable[[int, str], int],
    *,
    shape: Shape,
    num_frames: int | None = None,
    tells_motion: bool = True,
) -> dict[str, Any]:
    """What a training sees of a clip: one of its captions, one noisy encoding of its first frame.

    Of fewer `num_frames` the first ones are seen. A single one is any of them, an image with nothing before
    it: its condition is zero, as one that is dropped out, and it has no frame rate and no motion. These two
    are unknown too unless the training `tells_motion`.

    `latents [t c h w]` (scaled), `fps []`, `motion []` (NaN: not known), `caption`, the text that was drawn,
    and as far as the model has encoders `text [l d]`, `clip [1 d]`, `cond_latents [c h w]` (not scaled) and
    `noise_aug []`. A clip without captions has an empty one and zeros, like a caption that is dropped out.
    Of a model that fills in frames there are `clip [2 d]`, `ends [2 c h w]` (scaled) and no noise in them.
    """
    chosen = _drawn(row.texts_drawn, draw(FINE, "caption") / FINE)
    still = num_frames == 1
    first = draw(shape.num_frames, "frame") if still else 0
    fps, motion = (row.fps, row.motion) if tells_motion and not still else (math.nan, math.nan)
    found: dict[str, Any] = {
        "latents": row.latents[first : first + (num_frames or shape.num_frames)],
        "fps": torch.tensor(fps, dtype=torch.float32),
        "motion": torch.tensor(motion, dtype=torch.float32),
        "caption": "" if chosen is None else row.texts[chosen],
    }
    if shape.text is not None:
        assert row.captions is not None, "the shape says that captions are there"
        found["text"] = torch.zeros(shape.text) if chosen is None else row.captions[chosen]
    if shape.clip_dim is not None:
        assert row.clip is not None, "the shape says that it is there"
        if shape.noise_variants is None:
            return {**found, "clip": row.clip, "ends": row.latents[[0, -1]], "noise_aug": torch.zeros(())}
        assert row.cond_latents is not None, "so are encodings of the first frame"
        assert row.noise_aug is not None, "and the noise in them"
        noisy = min(shape.noise_variants, 1) + draw(max(shape.noise_variants, 1), "noise")
        found["clip"] = row.clip[None]
        found["cond_latents"], found["noise_aug"] = row.cond_latents[noisy], row.noise_aug[noisy]
        if still:
            found |= {name: torch.zeros_like(found[name]) for name in ("clip", "cond_latents")}
            found["noise_aug"] = torch.tensor(torch.nan)
    return found


def _drawn(shares: tuple[float, ...], number: float) -> int | None:
    """Which share a number in [0, 1) falls into; None where there is none."""
    below = 0.0
    for index, share in enumerate(shares):
        below += share
        if number * sum(shares) < below:
            return index
    return len(shares) - 1 if shares else None
