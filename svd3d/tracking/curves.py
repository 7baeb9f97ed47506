"""What the lines of metrics.jsonl show: curves by step, thinned and smoothed, and plots of them as SVG."""

import importlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from svd3d.errors import require

POINTS = 2000
"""Points of a curve at most."""
WINDOW = 51
"""Points whose median is one point of a smoothed curve."""
LARGEST = 1e30
"""Larger numbers are drawn as this one."""
INK = "#010203"
"""Of text and axes; `svg` puts currentColor in its place, so that the page may be light or dark."""
LINE, MARK = "#3b82d6", "#e0524d"
Record = Mapping[str, Any]
"""One line of metrics.jsonl: `svd3d.train.Step` as JSON, of which any part may be absent."""


@dataclass(frozen=True)
class Curve:
    """Numbers by step."""

    steps: Float[np.ndarray, "n"]
    values: Float[np.ndarray, "n"]
    label: str = ""

    def thinned(self, points: int = POINTS) -> "Curve":
        """At most `points` (3 or more): the first, the last, and means of equal stretches between."""
        count = len(self.steps)
        if count <= points:
            return self
        edges = np.linspace(0, count - 2, points - 1).astype(int)

        def means(each: Float[np.ndarray, "n"]) -> Float[np.ndarray, "m"]:
            inner = np.add.reduceat(each[1:-1], edges[:-1]) / np.diff(edges)
            return np.concatenate([each[:1], inner, each[-1:]])

        return Curve(means(self.steps), means(self.values), self.label)

    def smoothed(self) -> "Curve":
        """The running median over `WINDOW` points, or half of a short curve."""
        half = min(WINDOW, len(self.values) // 2) // 2
        padded = np.pad(self.values, half, mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
        return Curve(self.steps, np.median(windows, axis=-1), self.label)


@dataclass(frozen=True)
class Plot:
    """Curves that share axes."""

    title: str
    curves: Sequence[Curve]
    note: str = ""
    smooth: bool = False
    """Draw running medians, with the curve itself faint behind it where there is but one."""
    log: bool = False
    """Use a logarithmic axis where the numbers span more than a decade."""
    marks: Sequence[float] = ()
    """Steps to mark."""


def plots(records: Sequence[Record]) -> list[Plot]:
    """The plots of a run; those without a single number are left out."""
    levels = sorted(_names(records, "loss_by_sigma"), key=lambda name: (_number_in(name), name))
    scores = dict.fromkeys(name.removeprefix("baseline-") for name in _names(records, "validation"))
    skipped = [float(record["step"]) for record in records if record.get("loss") is None]
    held_out = "averaged weights, held-out objects"
    found = [
        Plot("Loss", [_curve(records, "loss")], "running median; red: skipped steps", True, True, skipped),
        Plot(
            "Loss by noise level",
            [_curve(records, "loss_by_sigma", name, label=f"σ {name}") for name in levels],
            "running medians; all should fall",
            smooth=True,
            log=True,
        ),
        Plot("Validation loss", [_curve(records, "validation_loss")], held_out, log=True),
        *(
            Plot(
                f"Validation {score}",
                [
                    _curve(records, "validation", score, label="model"),
                    _curve(records, "validation", f"baseline-{score}", label="baseline"),
                ],
                held_out,
            )
            for score in scores
        ),
        Plot("Gradient norm", [_curve(records, "grad_norm")], "running median; before limiting", True, True),
        Plot("Learning rate", [_curve(records, "learning_rate")]),
        Plot("Samples per second", [_curve(records, "samples_per_second")], "running median", True),
    ]
    found = [replace(each, curves=[c for c in each.curves if len(c.steps)]) for each in found]
    return [each for each in found if each.curves]


def svg(plot: Plot) -> str:
    """A plot as an SVG element that takes the colour of text around it; the same for the same numbers.

    Raises `DependencyError` without matplotlib.
    """
    matplotlib = require("matplotlib", extra="train", reason="the page of a training run")
    figures, ticker = (importlib.import_module(f"matplotlib.{name}") for name in ("figure", "ticker"))
    style = {"svg.fonttype": "none", "svg.hashsalt": plot.title, "text.parse_math": False, "font.size": 9}
    style |= dict.fromkeys(("text.color", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    with matplotlib.rc_context(style):
        figure = figures.Figure(figsize=(6, 3.3), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=INK, alpha=0.12, linewidth=0.6)
        single = len(plot.curves) == 1
        colors = [LINE] if single else matplotlib.colormaps["turbo"](np.linspace(0.1, 0.9, len(plot.curves)))
        for curve, color in zip(plot.curves, colors, strict=True):
            thin = curve.thinned()
            if plot.smooth and single:
                axes.plot(thin.steps, thin.values, color=color, alpha=0.3, lw=0.7)
            drawn = thin.smoothed() if plot.smooth else thin
            dot = "o" if len(drawn.steps) < 50 else ""
            axes.plot(
                drawn.steps, drawn.values, marker=dot, ms=3, lw=1.6, color=color, label=curve.label or None
            )
        if plot.marks:
            marks = Curve(np.array(plot.marks), np.zeros(len(plot.marks))).thinned(POINTS // 10).steps
            bottom = axes.get_xaxis_transform()
            axes.plot(marks, np.full(len(marks), 0.02), "|", color=MARK, ms=9, transform=bottom)
        if plot.log and _spans_decades(plot.curves):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        if not single:
            figure.legend(loc="outside lower center", ncols=4, frameon=False)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def _curve(records: Sequence[Record], *path: str, label: str = "") -> Curve:
    """The finite numbers under a key, or under a key in a key."""
    pairs = []
    for record in records:
        value: Any = record
        for key in path:
            value = (value or {}).get(key)
        if value is not None and math.isfinite(value):
            pairs.append((record["step"], value))
    steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return Curve(steps, values.clip(-LARGEST, LARGEST), label)


def _names(records: Sequence[Record], key: str) -> list[str]:
    return list(dict.fromkeys(name for record in records for name in record.get(key) or {}))


def _number_in(name: str) -> float:
    found = re.search(r"\d+(\.\d+)?", name)
    return float(found[0]) if found else math.inf


def _spans_decades(curves: Sequence[Curve]) -> bool:
    values = np.concatenate([curve.values for curve in curves])
    return bool(values.min() > 0 and values.max() > 10 * values.min())
