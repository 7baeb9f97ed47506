"""Curves of metrics over the views, as SVG that a page can hold: what is far from the input is harder."""

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from svd3d.metrics.catalog import METRICS
from svd3d.metrics.images import MAX_PSNR_DB
from svd3d.metrics.report import MetricReport

AZIMUTH = "azimuth from view 0 (degrees)"
WIDTH, HEIGHT = 470, 230
"""Of one chart in pixels."""
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 24, 34
"""Margins around the plot."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#999999", "#f0e442")
"""Of the methods in turn; told apart by colour-blind people too (Okabe and Ito)."""


def per_view(report: MetricReport) -> list[str]:
    """One chart per metric: mean over objects for each view, a line per method, without identical views.

    On an orbit the views stand at their azimuth from view 0 (of a dynamic one, at the even azimuth that it
    varies around); else at their index. None for meshes.
    """
    values: dict[str, dict[str, dict[int, list[float]]]] = {}
    for row in report.rows:
        if row.view is not None and (row.value < MAX_PSNR_DB or METRICS[row.metric].unit != "dB"):
            of_method = values.setdefault(row.metric, {}).setdefault(row.method, {})
            of_method.setdefault(row.view, []).append(row.value)
    orbit, count = report.protocol.get("orbit", "any"), report.protocol.get("num_views")
    step, unit = (360 / count, AZIMUTH) if orbit != "any" and count else (1, "view")
    colours = {method: COLOURS[index % len(COLOURS)] for index, method in enumerate(report.methods)}
    charts = []
    for metric, by_method in values.items():
        lines = {
            method: [(view * step, float(np.mean(found))) for view, found in sorted(by_view.items())]
            for method, by_view in by_method.items()
        }
        if any(len(line) > 1 for line in lines.values()):
            charts.append(_chart(f"{metric} ({METRICS[metric].unit})", unit, lines, colours))
    return charts


def _chart(
    title: str, unit: str, lines: Mapping[str, Sequence[tuple[float, float]]], colours: Mapping[str, str]
) -> str:
    points = np.array([point for line in lines.values() for point in line])
    (left, low), (right, high) = points.min(axis=0), points.max(axis=0)
    if unit == AZIMUTH:
        left, right = 0.0, 360.0
    margin = 0.05 * (high - low) or 0.5
    low, high = low - margin, high + margin

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - left) / (right - left or 1) * (WIDTH - LEFT - RIGHT)
        return across, TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="{LEFT}" y="14">{escape(title)}</text>']
    for y in np.linspace(low, high, 5)[1:-1]:
        at = place(left, y)[1]
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#8884"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{y:.3g}</text>')
    for x in np.linspace(left, right, 5):
        at = place(x, low)[0]
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 18}" text-anchor="middle">{x:.0f}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(unit)}</text>')
    legend = []
    for method, line in lines.items():
        colour = colours[method]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in line))
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2">'
                     f"<title>{escape(method)}</title></path>")  # fmt: skip
        legend.append(f'<span class="key"><span style="color:{colour}">■</span> {escape(method)}</span>')
    return (
        f'<figure><svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)} by view">{"".join(parts)}</svg>'
        f"<figcaption>{' '.join(legend)}</figcaption></figure>"
    )
