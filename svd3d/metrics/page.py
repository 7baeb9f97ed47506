"""The report as one HTML file that opens from the file system: same figures as the Markdown, and pictures."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from svd3d import images as pictures
from svd3d.metrics import curves, published, tables
from svd3d.metrics.report import MetricReport

STRIP_VIEWS = 7
"""Views shown per object, evenly chosen."""
THUMBNAIL = 112
"""Height of a shown view in pixels."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .3em .8em; border-bottom: 1px solid #8886; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5em 0; } img { max-width: 100%; border: 1px solid #8886; }
.curves { display: flex; flex-wrap: wrap; gap: 1em; } .curves figure { margin: 0; width: 470px; }
.key { white-space: nowrap; margin-right: .6em; font-size: 90%; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
details { margin: .8em 0; } summary { cursor: pointer; }
code { font-size: 90%; overflow-wrap: anywhere; }
"""


def strip(stacks: Sequence[UInt8[np.ndarray, "v h w 4"]]) -> bytes:
    """A PNG with one row per stack of views, the same few views in each, over white."""
    return stacked([thumbnails(stack) for stack in stacks])


def thumbnails(
    views: UInt8[np.ndarray, "v h w 4"], *, background: tuple[float, float, float] = pictures.WHITE
) -> UInt8[np.ndarray, "t _w 3"]:
    """A few of the views, evenly chosen, small and side by side."""
    count = len(views)
    chosen = sorted({round(i * (count - 1) / max(STRIP_VIEWS - 1, 1)) for i in range(STRIP_VIEWS)})
    row = np.concatenate([_thumbnail(views[view]) for view in chosen], axis=1)
    return pictures.to_uint8(pictures.composite(row, background=background))


def stacked(rows: Sequence[UInt8[np.ndarray, "t w 3"]]) -> bytes:
    """A PNG of rows of small views, one below the other."""
    return pictures.encode_png(np.concatenate(rows, axis=0))


def to_html(report: MetricReport) -> str:
    """The report as a self-contained page."""
    protocol, measured = report.protocol, report.protocol["measured"]
    parts = [
        f"<h1>Scores under protocol <code>{escape(protocol['name'])}</code></h1>",
        f"<p>{escape(protocol['about'])}</p>",
        scores(report),
    ]
    if len(paired := tables.paired_differences(report)) > 1:
        parts.append(f"<h2>Paired differences</h2><p>{escape(tables.difference_text(report))}</p>")
        parts.append(_table(paired))
    if drawn := curves.per_view(report):
        parts += ["<h2>View by view</h2>", f'<div class="curves">{"".join(drawn)}</div>']
    if report.strips:
        parts.append(_gallery(report))
    elif measured["objects"] > 1:
        parts.append(f"<h2>Worst and best objects</h2><p>{escape(tables.extremes_text(report))}</p>")
        parts.append(_table(tables.extremes(report)))
    if report.costs:
        parts += ["<h2>Time and memory</h2>", _table(tables.costs(report))]
    parts.append("<h2>As published</h2><p>Figures compare within one table only.</p>")
    for table in published.tables(protocol["kind"]):
        near = " open" if table.like == protocol["name"] else ""
        parts.append(
            f"<details{near}><summary>{escape(table.name)}</summary>"
            f"<p>{escape(tables.published_text(table))}</p>{_table(tables.published_scores(table))}</details>"
        )
    parts += ["<h2>How each number is made</h2>", _list(protocol["definitions"].items())]
    notes = [("note", note) for note in measured.get("notes", [])]
    parts += ["<h2>Protocol</h2>", _list([*notes, ("digest", protocol["digest"]), *_settings(report)])]
    networks = [(name, ", ".join(f"{key} {value}" for key, value in facts.items()))
                for name, facts in measured.get("networks", {}).items()]  # fmt: skip
    if networks:
        parts += ["<h2>Networks</h2>", _list(networks)]
    if report.digests:
        parts.append("<h2>Inputs (SHA-256)</h2><details><summary>digests, which <code>svd3d evaluate verify"
                     f"</code> compares</summary>{_list(report.digests.items())}</details>")  # fmt: skip
    return document(f"svd3d evaluate: {protocol['name']}", parts)


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page of HTML parts; the title is text."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def scores(report: MetricReport) -> str:
    """The table of scores as HTML, with what its brackets are and what is missing."""
    text = f"<p>{escape(tables.interval_text(report))}</p>{_table(tables.scores(report))}"
    if report.not_computed:
        text += f"<h3>Not computed</h3>{_list(report.not_computed.items())}"
    return text


def _gallery(report: MetricReport) -> str:
    """The worst and the best objects, from worst to best."""
    (_, metric), *scored = tables.extremes(report)
    values = dict(scored)
    parts = [
        f"<h2>Worst and best objects</h2><p>{escape(tables.extremes_text(report))} "
        f"From top to bottom: {escape(', '.join(report.strip_rows))}.</p>"
    ]
    for name, png in report.strips.items():
        data = base64.b64encode(png).decode("ascii")
        parts.append(
            f"<figure><figcaption>{escape(name)}: {escape(metric)} {values.get(name, '')}</figcaption>"
            f'<img alt="views of {escape(name)}" src="data:image/png;base64,{data}"></figure>'
        )
    return "\n".join(parts)


def _settings(report: MetricReport) -> list[tuple[str, str]]:
    told = {"name", "about", "digest", "definitions", "measured"}
    return [(key, str(value)) for key, value in report.protocol.items() if key not in told]


def _table(rows: Sequence[Sequence[str]]) -> str:
    header, *body = rows
    lines = "".join(_row("td", row) for row in body)
    return f'<div class="wide"><table><thead>{_row("th", header)}</thead><tbody>{lines}</tbody></table></div>'


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in cells) + "</tr>"


def _list(items: Iterable[tuple[str, str]]) -> str:
    entries = (f"<li><code>{escape(name)}</code>: {escape(text)}</li>" for name, text in items)
    return "<ul>" + "".join(entries) + "</ul>"


def _thumbnail(view: UInt8[np.ndarray, "h w 4"]) -> UInt8[np.ndarray, "t _w 4"]:
    width = max(1, round(view.shape[1] * THUMBNAIL / view.shape[0]))
    step = max(1, view.shape[0] // (2 * THUMBNAIL))  # large views give pixels enough
    picture = Image.fromarray(np.ascontiguousarray(view[::step, ::step]))
    return np.asarray(picture.resize((width, THUMBNAIL), Image.Resampling.HAMMING))
