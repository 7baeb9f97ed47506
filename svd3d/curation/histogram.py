"""How the clips spread over a score: bins, which clips fall into each, and a picture of them as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Bool, Float, Int

BINS = 20
"""About as many."""
TAIL = 99
"""Percentile where the last bin begins if few clips lie far beyond it."""
WIDTH, HEIGHT = 460, 190
"""In pixels."""
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 18, 22
"""Margins around the bars."""


@dataclass(frozen=True)
class Histogram:
    """Values in bins of equal round width; the last bin may hold all above."""

    edges: Float[np.ndarray, "ends"]
    bins: Int[np.ndarray, "clips"]
    """Of every clip; -1 where it has no value."""
    open_ended: bool

    @classmethod
    def of(cls, values: Float[np.ndarray, "clips"]) -> "Histogram":
        """Of values of which NaN and infinity count as none, but not all are."""
        known = np.isfinite(values)
        low, tail, high = np.percentile(values[known], [0, TAIL, 100])
        open_ended = bool(high - low > 2 * (tail - low) > 0)
        edges = _edges(float(low), float(tail if open_ended else high))
        bins = (np.searchsorted(edges, values, side="right") - 1).clip(0, len(edges) - 2)
        return cls(edges, np.where(known, bins, -1), open_ended)

    def counts(self, chosen: Bool[np.ndarray, "clips"]) -> Int[np.ndarray, "bins"]:
        """How many of the chosen clips each bin holds."""
        return np.bincount(self.bins[chosen & (self.bins >= 0)], minlength=len(self.edges) - 1)

    def labels(self) -> list[str]:
        """Which values each bin holds."""
        ends = [f"to {edge:.4g}" for edge in self.edges[1:]]
        ends[-1] = "and more" if self.open_ended else ends[-1]
        return [f"{edge:.4g} {end}" for edge, end in zip(self.edges[:-1], ends, strict=True)]


def _edges(low: float, high: float) -> Float[np.ndarray, "ends"]:
    """Multiples of a round number that hold both ends, in steps that give at most `BINS` + 1 bins.

    >>> _edges(3.0, 40.0).tolist()[::5]
    [2.0, 12.0, 22.0, 32.0]
    """
    if low == high:
        return np.array([low, high])
    least = (high - low) / BINS
    power = 10 ** math.floor(math.log10(least))
    step = power * next(round_one for round_one in (1, 2, 2.5, 5, 10) if round_one * power >= least)
    first, last = math.floor(low / step), math.ceil(high / step)
    return step * np.arange(first, last + 1, dtype=float)


def svg(
    histogram: Histogram, *, name: str, chosen: Bool[np.ndarray, "clips"] | None, bounds: Sequence[float]
) -> str:
    """Bars of all clips and, in front of them, of those chosen; a line at each bound."""
    layers = {"all": histogram.counts(np.ones(len(histogram.bins), bool)).tolist()}
    layers |= {} if chosen is None else {"chosen": histogram.counts(chosen).tolist()}
    most = max(layers["all"])
    low, high = histogram.edges[[0, -1]]
    bar = (WIDTH - LEFT - RIGHT) / len(histogram.edges[1:])
    floor = HEIGHT - BOTTOM

    def up(count: int) -> float:
        return floor - count / most * (floor - TOP)

    parts = [
        f'<path d="M{LEFT} {up(count):.1f}H{WIDTH - RIGHT}" stroke="#8884"/>'
        f'<text x="{LEFT - 6}" y="{up(count) + 4:.1f}" text-anchor="end">{count:,}</text>'
        for count in sorted({0, most // 2, most})
    ]
    for layer, counts in layers.items():
        for number, (count, label) in enumerate(zip(counts, histogram.labels(), strict=True)):
            parts.append(
                f'<rect x="{LEFT + number * bar + 1:.1f}" y="{up(count):.1f}" width="{bar - 2:.1f}" '
                f'height="{floor - up(count):.1f}" fill="var(--{layer})"><title>{label}: {count:,} clips, '
                f"{layer}</title></rect>"
            )
    ticks = range(0, len(histogram.edges), max(len(histogram.edges[1:]) // 4, 1))
    parts += [
        f'<text x="{LEFT + tick * bar:.1f}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{histogram.edges[tick]:.4g}</text>"
        for tick in ticks
    ]
    for bound in bounds:
        along = (bound - low) / (high - low) if high > low else 0.0
        across = LEFT + min(max(along, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)
        parts.append(f'<path d="M{across:.1f} {TOP - 8}V{floor}" stroke="var(--mark)" stroke-width="2"/>')
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(name)}">{"".join(parts)}</svg>'
    )
