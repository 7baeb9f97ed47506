"""What studies have in common: commands that resume, several at a time, and estimates with intervals."""

import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from scipy import stats

from svd3d import cache, console, train
from svd3d.errors import InputError
from svd3d.metrics import page
from svd3d.model import saving
from svd3d.settings import CacheConfig, TrainConfig

SCRIPTS = Path(__file__).resolve().parents[1]
Given = TypeVar("Given")
Made = TypeVar("Made")


def script(name: str, *words: object, **options: object) -> None:
    """Run `scripts/NAME WORDS --option value ...`, which resumes; end with it if it fails."""
    line = [sys.executable, str(SCRIPTS / name), *map(str, words)]
    for option, value in options.items():
        values = value if isinstance(value, tuple) else (value,)
        line += [f"--{option.replace('_', '-')}", *map(str, values)]
    if code := subprocess.run(line, stdout=sys.stderr).returncode:
        sys.exit(f"{name}: ended with code {code}; what it said is above")


def encode(config: CacheConfig) -> None:
    """Cache all of it."""
    check(console.progress(cache.run(config), label=f"cache {config.views}", total=cache.count(config)))


def check(results: Iterable[Any]) -> None:
    """Go through the results of a stage. Raises `InputError` for the first that failed."""
    for each in results:
        if each.status == "failed":
            raise InputError(f"{each.uid}: {each.message}; repair it, or start with another --out")


def learn(config: TrainConfig) -> None:
    """Train, unless it is done."""
    if left := train.steps_left(config):
        label = "/".join(config.out.parts[-2:])
        for _ in console.progress(train.run(config), label=label, total=left, unit="steps"):
            pass


def last_checkpoint(config: TrainConfig) -> Path:
    """The model that a training ends with."""
    return config.out / saving.FOLDER / f"step-{config.max_train_steps}"


def each_of(tasks: Sequence[tuple[Callable[..., None], tuple[Any, ...]]], *, jobs: int) -> None:
    """Call functions with their arguments, one after the other, or in so many processes."""
    for _ in in_order(_call, tasks, jobs=jobs):
        pass


def _call(task: tuple[Callable[..., None], tuple[Any, ...]]) -> None:
    function, given = task
    function(*given)


def in_order(function: Callable[[Given], Made], given: Iterable[Given], *, jobs: int) -> Iterator[Made]:
    """What a function makes of each, one after the other, or in so many processes of one thread each."""
    if jobs == 1:
        yield from map(function, given)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        jobs, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield from pool.map(function, given)


Estimate = Mapping[str, Any]
"""`mean` and `interval`, [low, high] at 95 %, or None of a single number."""


def estimate(values: np.ndarray) -> Estimate:
    """Of numbers [seeds, objects], for other seeds and other objects of the same kinds.

    Both are random effects, crossed without replication: the variance of the mean comes from the mean squares
    of seeds, of objects and of their interaction, components below zero being left out, and the degrees of
    freedom are Satterthwaite's (1946). Where all numbers are of one seed, or of one object, it is Student's
    interval over the others.
    """
    seeds, objects = values.shape
    mean = values.mean()
    by_seed, by_object = values.mean(axis=1) - mean, values.mean(axis=0) - mean
    rest = values - mean - by_seed[:, None] - by_object
    freedom = np.array([seeds - 1, objects - 1, (seeds - 1) * (objects - 1)]).clip(min=1)
    sums = np.array([objects * (by_seed**2).sum(), seeds * (by_object**2).sum(), (rest**2).sum()])
    squares = sums / freedom
    above = squares[:2] > squares[2]
    squares *= [*above, 1 - above.sum()]
    half = 0.0
    if variance := squares.sum():
        degrees = variance**2 / (squares**2 / freedom).sum()
        half = float(stats.t.ppf(0.975, degrees) * np.sqrt(variance / values.size))
    mean = float(mean)
    return {"mean": mean, "interval": [mean - half, mean + half] if values.size > 1 else None}


def told(value: Estimate, digits: int) -> str:
    """Mean and interval as they stand in a table."""
    ends = value["interval"] or []
    return f"{value['mean']:.{digits}f}" + (f" [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]" if ends else "")


def bold(value: Estimate, digits: int) -> str:
    """The same of a difference, in bold where it is certain."""
    return f"**{told(value, digits)}**" if certain(value) else told(value, digits)


def certain(difference: Estimate) -> bool:
    """Whether the interval leaves out 0."""
    ends = difference["interval"]
    return ends is not None and not ends[0] <= 0 <= ends[1]


def as_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of which the first row is the heading."""
    lines = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def two_columns(pictures: Sequence[np.ndarray]) -> bytes:
    """A PNG of pictures [h, w, 3] of one size, in reading order."""
    blank = [np.full_like(pictures[0], 255)] * (len(pictures) % 2)
    every = [*pictures, *blank]
    return page.stacked([np.concatenate(pair, axis=1) for pair in zip(every[::2], every[1::2], strict=True)])
