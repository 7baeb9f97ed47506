"""The order of training as a pure function: (seed, global position) says which orbit is seen, and how.

No state to save, nothing to shuffle: a position names the epoch and the place in it, a keyed permutation
the object, and keyed hashes everything that is drawn for the sample. So one integer resumes exactly, and any
number of processes, loader workers and micro-batches sees the same samples in the same global order.
"""

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from svd3d.cameras import every
from svd3d.data import clips, pictures
from svd3d.data.latents import Cache, ClipLatents, Latents, Row, Shape
from svd3d.data.pictures import Pictures
from svd3d.errors import ConfigError, InputError

Part = Literal["train", "held-out"]
OnDamage = Literal["error", "skip"]
Batch = dict[str, Any]
Sample = Callable[[Any, Callable[[int, str], int]], Batch]
"""What is seen of a row; its second argument draws a number below a bound."""
ROUNDS = 8
"""Of the Feistel network: four are a random permutation in theory, small ones gain from more."""


def draw(bound: int, *key: object) -> int:
    """A whole number from 0 below `bound`, evenly: the same for the same key, on every machine."""
    text = "\0".join(map(str, key)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "big") % bound


def permuted(place: int, count: int, *key: object) -> int:
    """Where a keyed random permutation of `count` things sends `place`, without writing it down.

    A Feistel network on the next larger square power of two, walked until it is back below `count` (Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    side = 1 << half
    while True:
        left, right = divmod(place, side)
        for turn in range(ROUNDS):
            left, right = right, left ^ draw(side, *key, turn, right)
        place = left * side + right
        if place < count:
            return place


def is_held_out(uid: str, fraction: float) -> bool:
    """Whether an object is kept from training: by the hash of its name, so for good and on every machine."""
    return draw(1 << 64, "held-out", uid) < fraction * (1 << 64)


class Draws(Dataset[Batch]):
    """Sample number `position` of a run, as tensors of one element; what `Batches` stacks.

    Damage is never raised here, where it could be in another process: it is told in `damaged`.
    """

    def __init__(
        self,
        latents: Cache[Any, Any] | Pictures,
        objects: list[int],
        *,
        seed: int,
        sample: Sample,
        shuffled: bool,
        global_batch: int,
        image: Sample | None = None,
        image_share: float = 0.0,
    ) -> None:
        """`image` takes the place of `sample` in `image_share` of the steps, each of `global_batch` samples.

        `sample` is what is seen of a row.
        """
        self.latents = latents
        self.objects = objects
        self.seed = seed
        self.sample = sample
        self.shuffled = shuffled
        self.global_batch = global_batch
        self.image = image
        self.image_share = image_share

    def sample_at(self, position: int) -> Sample:
        """What is seen at a position: the same in all of a step, whose samples have one shape.

        The first step never sees images, so that it shows what memory the training takes.
        """
        step = position // self.global_batch
        if self.image is None or step == 0:
            return self.sample
        drawn = draw(clips.FINE, "image", self.seed, step) / clips.FINE
        return self.image if drawn < self.image_share else self.sample

    def __getitem__(self, position: int) -> Batch:
        def drawn(bound: int, what: str) -> int:
            return draw(bound, what, self.seed, position)

        epoch, place = divmod(position, len(self.objects))
        if self.shuffled:
            place = permuted(place, len(self.objects), "order", self.seed, epoch)
        variant = drawn(self.latents.variants, "background") if self.shuffled else 0
        index, damaged = self.objects[place], ""
        try:
            row = self.latents.read(index, variant=variant)
        except InputError as error:
            row, damaged = self.latents.zeros(index), str(error)
        return {
            **self.sample_at(position)(row, drawn),
            "draw_seed": torch.tensor(drawn(1 << 63, "draw")),
            "uid": row.uid,
            "weight": torch.tensor(0.0 if damaged else 1.0),
            "damaged": damaged,
        }


def orbit_sample(row: Row, drawn: Callable[[int, str], int], *, shape: Shape, num_views: int) -> Batch:
    """The orbit from a view on that can be the condition, thinned out to the views of the model.

    A capture is no closed orbit: it begins with its first view.
    """
    start = 0 if row.azimuths_deg.isnan().any() else drawn(shape.condition_views, "roll")
    views = every(shape.num_views, num_views=num_views, start=start)
    noisy = min(shape.noise_variants, 1) + drawn(max(shape.noise_variants, 1), "noise")
    return {
        "latents": row.latents[views],
        "cond_latents": row.cond_latents[start, noisy],
        "noise_aug": row.noise_aug[start, noisy],
        "clip": row.clip[start, None],
        "elevations_deg": row.elevations_deg[views],
        "azimuths_deg": row.azimuths_deg[views],
    }


class Batches:
    """The micro-batches of one process, from a global position on.

    Of orbits each has `latents [b v c h w]` (scaled), `cond_latents [b c h w]` (not scaled), `noise_aug [b]`,
    `clip [b 1 d]`, `elevations_deg [b v]` and `azimuths_deg [b v]` (NaN of captures), all float32; view 0 is
    the condition. Of clips and of pictures, each has what the `sample` of their modules tells. All have
    `draw_seed [b]`, int64, which seeds whatever else is random about a sample, and `uid`, a list.

    An object whose latents are damaged raises `InputError`, or with `damaged="skip"` it keeps its place as
    zeros: `weight [b]`, float32, is 0 for it and 1 for others, and `damaged` lists what is wrong, by name.

    Training never ends and takes each object once an epoch; the held-out part is passed once, by name, and
    may end with a smaller batch. `position` is the global position to go on from: it moves when the process
    has got the last micro-batch of a global batch.
    """

    def __init__(
        self,
        latents: Latents | ClipLatents | Pictures,
        *,
        seed: int,
        global_batch: int,
        micro_batch: int,
        held_out: float,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        part: Part = "train",
        num_views: int | None = None,
        image_share: float = 0.0,
        tells_motion: bool = True,
        workers: int = 0,
        damaged: OnDamage = "error",
    ) -> None:
        """`workers` are loader processes, 0 for none.

        `num_views` thins orbits out, cuts clips, or says how many neighbouring pictures are seen at once;
        default: all, of pictures 7. Of clips, `image_share` is the part of the steps of training that see
        single frames of all samples instead, and `tells_motion` whether frame rate and motion are known.

        Raises `ConfigError` for a global batch that does not come out even, or a part without objects.
        """
        if global_batch < 1 or global_batch % (world * micro_batch):
            raise ConfigError(
                f"global batch {global_batch}: does not divide into {world} processes x {micro_batch} "
                "samples; choose a multiple"
            )
        self.global_batch = global_batch
        self.micro_batch = micro_batch
        self.rank, self.world = rank, world
        self.position = start
        self.part = part
        self.workers = workers
        self.damaged = damaged
        image: Sample | None = None
        if isinstance(latents, ClipLatents):
            clip = functools.partial(clips.sample, shape=latents.info.shape, tells_motion=tells_motion)
            sample: Any = functools.partial(clip, num_frames=num_views)
            image = functools.partial(clip, num_frames=1) if part == "train" and image_share else None
        elif isinstance(latents, Pictures):
            sample = functools.partial(pictures.sample, num_views=num_views or pictures.AT_ONCE)
        else:
            shape = latents.info.shape
            num_views = num_views or shape.num_views
            sample = functools.partial(orbit_sample, shape=shape, num_views=num_views)
        objects = objects_of(latents, part, held_out=held_out)
        self.draws = Draws(
            latents,
            objects,
            seed=seed,
            sample=sample,
            shuffled=part == "train",
            global_batch=global_batch,
            image=image,
            image_share=image_share,
        )

    def __iter__(self) -> Iterator[Batch]:
        positions_of_batches, plan = itertools.tee(self._plan(self.position))
        loader = DataLoader(
            self.draws,
            batch_sampler=(positions for positions, _ in positions_of_batches),  # type: ignore[arg-type]
            num_workers=self.workers,
            collate_fn=collate,
            generator=torch.Generator(),  # or the loader would take its seed from the global generator
        )
        for batch, (_, end) in zip(loader, plan, strict=True):
            batch["damaged"] = [each for each in batch["damaged"] if each]
            if batch["damaged"] and self.damaged == "error":
                raise InputError(batch["damaged"][0])
            self.position = end
            yield batch

    def _plan(self, start: int) -> Iterator[tuple[list[int], int]]:
        """The positions of each micro-batch of this process, and where to go on after it."""
        stop = None if self.part == "train" else len(self.draws.objects)
        share = self.global_batch // self.world
        while stop is None or start < stop:
            end = start + self.global_batch if stop is None else min(start + self.global_batch, stop)
            mine = range(start, end)[self.rank * share : (self.rank + 1) * share]
            for first in range(0, len(mine), self.micro_batch):
                last = first + self.micro_batch >= len(mine)
                yield list(mine[first : first + self.micro_batch]), end if last else start
            start = end


def objects_of(latents: Cache[Any, Any] | Pictures, part: Part, *, held_out: float) -> list[int]:
    """Indices of the objects of a part, in the order of their names; clips of a video stay together.

    Raises `ConfigError` where there are none.
    """
    wanted = part == "held-out"
    origins = map(latents.origin, latents.uids)
    objects = [i for i, origin in enumerate(origins) if is_held_out(origin, held_out) == wanted]
    if not objects:
        raise ConfigError(
            f"{latents.folder}: no object of {len(latents)} is for {part} with held-out fraction "
            f"{held_out:g}; choose another fraction or cache more objects"
        )
    return objects


def collate(samples: list[Batch]) -> Batch:
    """One batch of samples: tensors are stacked, names listed."""
    return {
        name: torch.stack([each[name] for each in samples])
        if isinstance(value, Tensor)
        else [each[name] for each in samples]
        for name, value in samples[0].items()
    }
