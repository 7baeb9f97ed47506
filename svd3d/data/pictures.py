"""Pictures of sample folders as an autoencoder learns from them: pixels, not latents."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from svd3d import images
from svd3d import sample as samples
from svd3d.errors import InputError

AT_ONCE = 7
"""Neighbouring views of a sample, unless said otherwise."""


@dataclass(frozen=True)
class Orbit:
    """All views of a sample, square, RGB or RGBA."""

    uid: str
    images: UInt8[np.ndarray, "v s s _c"]


class Pictures:
    """Sample folders, also of captures, opened as a cache is: sorted by uid, read one at a time."""

    variants = 1

    def __init__(self, folder: Path, *, size: int) -> None:
        """Pictures are seen at `size` x `size` pixels. Raises `InputError` where there are none."""
        self.folder = folder
        self.size = size
        self.places = sorted(samples.find(folder), key=lambda place: place.resolve().name)
        if not self.places:
            raise InputError(f"{folder}: holds no finished sample; make some with: svd3d render")

    @property
    def uids(self) -> list[str]:
        """Names of the folders."""
        return [place.resolve().name for place in self.places]

    @property
    def fingerprint(self) -> str:
        """Digest of the names and the size."""
        return hashlib.sha256("\0".join([str(self.size), *self.uids]).encode()).hexdigest()

    def origin(self, uid: str) -> str:
        """What is held out together with a sample."""
        return uid

    def __len__(self) -> int:
        """How many samples there are."""
        return len(self.places)

    def read(self, index: int, *, variant: int = 0) -> Orbit:
        """Sample number `index`; `variant` is 0. Raises `InputError` for one that cannot be read."""
        place = self.places[index]
        found = samples.read_capture(place) if samples.is_capture(place) else samples.read(place)
        return Orbit(place.resolve().name, found.resized(self.size).images)

    def zeros(self, index: int) -> Orbit:
        """In place of one that cannot be read."""
        nothing = np.zeros((AT_ONCE, self.size, self.size, 4), np.uint8)
        return Orbit(self.places[index].resolve().name, nothing)


def sample(row: Orbit, draw: Callable[[int, str], int], *, num_views: int) -> dict[str, Any]:
    """Neighbouring views, `pictures [v 3 h w]` in [-1, 1]; behind an object is white.

    Views follow each other around an orbit, from any of them on; one with fewer views is gone around again.
    """
    start = draw(len(row.images), "roll")
    views = row.images[(start + np.arange(num_views)) % len(row.images)]
    if views.shape[-1] == 4:
        views = images.to_uint8(images.composite(views))
    return {"pictures": torch.from_numpy(views).movedim(-1, -3).float() / 127.5 - 1}
