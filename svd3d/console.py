"""What a person sees: messages and progress on stderr, results on stdout."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
QUIET_INTERVAL_S = 30.0
"""Seconds between progress lines when stderr is not a terminal."""


def say(message: str) -> None:
    """Write one message for the person at the keyboard (stderr)."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()


def result(text: str) -> None:
    """Write one result for the next program (stdout)."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def duration(seconds: float) -> str:
    """A duration as people say it.

    >>> duration(42), duration(250), duration(16800)
    ('42 s', '4 min 10 s', '4 h 40 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def progress(
    items: Iterable[T],
    *,
    label: str,
    total: int,
    failed: Callable[[T], bool] = lambda item: False,
    unit: str = "",
) -> Iterator[T]:
    """Pass `items` on while showing how many are done, how many failed, and when the rest will be.

    A terminal gets one line that redraws itself; a log gets a line every 30 seconds and a last one.
    """
    terminal = sys.stderr.isatty()
    start = last = time.monotonic()
    failures = 0
    open_line = False
    try:
        for count, item in enumerate(items, start=1):
            failures += failed(item)
            now = time.monotonic()
            finished = count >= total
            if terminal or finished or now - last >= QUIET_INTERVAL_S:
                left = (now - start) / count * max(total - count, 0)
                line = f"{label}  {count}/{total}{unit and ' ' + unit}"
                line += f"  {failures} failed" if failures else ""
                line += f"  {duration(now - start)}" if finished else f"  eta {duration(left)}"
                open_line = terminal and not finished
                sys.stderr.write(f"\r{line}\033[K" if terminal else line)
                sys.stderr.write("" if open_line else "\n")
                sys.stderr.flush()
                last = now
            yield item
    finally:
        if open_line:  # stopped early: what is said next starts on a line of its own
            sys.stderr.write("\n")
