"""Where torch computes, and with how many threads: on shared or few cores often one."""

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

TRIAL_S = 0.4
"""How long each number of threads is tried, after one run to warm up."""


def device_of(wish: str) -> str:
    """`auto` as a GPU if there is one; anything else as it is."""
    if wish == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return wish


@contextlib.contextmanager
def fastest_threads(
    work: Callable[[], object], *, clock: Callable[[], float] = time.perf_counter
) -> Iterator[int]:
    """Use one thread of torch or the present number, whichever does `work` faster; restored on leaving."""
    present = torch.get_num_threads()
    try:
        chosen = 1
        if present > 1:
            chosen = min((1, present), key=lambda threads: _seconds(work, threads, clock))
        torch.set_num_threads(chosen)
        yield chosen
    finally:
        torch.set_num_threads(present)


def _seconds(work: Callable[[], object], threads: int, clock: Callable[[], float]) -> float:
    """Mean wall-clock time of one run."""
    torch.set_num_threads(threads)
    work()
    start, runs = clock(), 0
    while clock() - start < TRIAL_S:
        work()
        runs += 1
    return (clock() - start) / max(runs, 1)
