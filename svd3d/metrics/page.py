"""The report as one HTML file that opens from the file system: same figures as the Markdown, and pictures."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from jaxtyping import Float
from PIL import Image

from svd3d import images as pictures
from svd3d.metrics.report import MetricReport, interval_text, table

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
code { font-size: 90%; overflow-wrap: anywhere; }
"""


def strip(stacks: Sequence[Float[np.ndarray, "v h w 3"]]) -> bytes:
    """A PNG with one row per stack of views, the same few views in each."""
    count = len(stacks[0])
    chosen = sorted({round(i * (count - 1) / max(STRIP_VIEWS - 1, 1)) for i in range(STRIP_VIEWS)})
    rows = [np.concatenate([_thumbnail(stack[view]) for view in chosen], axis=1) for stack in stacks]
    return pictures.encode_png(np.concatenate(rows, axis=0))


def to_html(report: MetricReport) -> str:
    """The report as a self-contained page."""
    protocol, measured = report.protocol, report.protocol["measured"]
    header, *body = table(report)
    parts = [
        f"<h1>Scores under protocol <code>{escape(protocol['name'])}</code></h1>",
        f"<p>{escape(protocol['about'])}</p>",
        f"<p>{escape(interval_text(report))}</p>",
        '<div class="wide"><table><thead>' + _row("th", header) + "</thead><tbody>",
        *(_row("td", row) for row in body),
        "</tbody></table></div>",
    ]
    if report.not_computed:
        parts.append("<h2>Not computed</h2>" + _list(report.not_computed.items()))
    if report.strips:
        methods = ", ".join(measured.get("strip_rows", []))
        parts.append(f"<h2>Pictures</h2><p>From top to bottom: {escape(methods)}.</p>")
        for name, png in report.strips.items():
            data = base64.b64encode(png).decode("ascii")
            parts.append(
                f'<figure><figcaption>{escape(name)}</figcaption><img alt="views of {escape(name)}" '
                f'src="data:image/png;base64,{data}"></figure>'
            )
        if len(report.strips) < measured["objects"]:
            parts.append(f"<p>The first {len(report.strips)} of {measured['objects']} objects are shown.</p>")
    parts.append("<h2>How each number is made</h2>" + _list(protocol["definitions"].items()))
    notes = [("note", note) for note in measured.get("notes", [])]
    parts.append("<h2>Protocol</h2>" + _list([*notes, ("digest", protocol["digest"]), *_settings(report)]))
    parts.append("<h2>Inputs (SHA-256)</h2>" + _list(report.digests.items()) if report.digests else "")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>svd3d evaluate: {escape(protocol['name'])}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _settings(report: MetricReport) -> list[tuple[str, str]]:
    told = {"name", "about", "digest", "definitions", "measured"}
    return [(key, str(value)) for key, value in report.protocol.items() if key not in told]


def _row(tag: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in cells) + "</tr>"


def _list(items: Iterable[tuple[str, str]]) -> str:
    entries = (f"<li><code>{escape(name)}</code>: {escape(text)}</li>" for name, text in items)
    return "<ul>" + "".join(entries) + "</ul>"


def _thumbnail(view: Float[np.ndarray, "h w 3"]) -> np.ndarray:
    width = max(1, round(view.shape[1] * THUMBNAIL / view.shape[0]))
    picture = Image.fromarray(pictures.to_uint8(view))
    return np.asarray(picture.resize((width, THUMBNAIL), Image.Resampling.LANCZOS))
