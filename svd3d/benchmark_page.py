"""The page of `svd3d benchmark`: tables, what failed and why, and a few views of every method."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from svd3d import runs

if TYPE_CHECKING:
    from svd3d.metrics.report import MetricReport

_TITLES = {"views": "Views", "meshes": "Meshes"}


def write(
    out: Path,
    *,
    reports: "Mapping[str, MetricReport]",
    notes: Sequence[str],
    pictures: Mapping[str, Mapping[str, Path]],
) -> Path:
    """Write OUT/index.html and OUT/media/; returns the page.

    `reports` by the name of their folder; `pictures` by object and title: folders of views, of which a strip
    is shown.
    """
    from svd3d.metrics import page

    parts = ["<h1>Benchmark</h1>", _list(notes)]
    for kind, report in reports.items():
        parts += [
            f'<h2>{_TITLES[kind]}: protocol <a href="{kind}/report.html">{escape(report.protocol["name"])}'
            "</a></h2>",
            page.scores(report),
        ]
    if not reports:
        parts.append("<p>There is nothing to score.</p>")
    if pictures:
        parts.append("<h2>Pictures</h2>")
    for uid, folders in pictures.items():
        rows = [_strip(out, uid, title, folder) for title, folder in folders.items()]
        parts.append(f"<h3>{escape(uid)}</h3><table>{''.join(rows)}</table>")
    path = out / "index.html"
    runs.write_file(path, page.document("svd3d benchmark", parts))
    return path


def _strip(out: Path, uid: str, title: str, folder: Path) -> str:
    """A row of a table: the title, and the same few views of each folder."""
    from svd3d.metrics import inputs, page

    file = Path("media") / uid / f"{title.replace(' ', '-')}.png"
    runs.output_folder(out / file.parent)
    runs.write_file(out / file, page.strip([inputs.read_views(folder).images]))
    source, text = escape(file.as_posix()), escape(title)
    return f'<tr><td>{text}</td><td><img src="{source}" alt="{text}"></td></tr>'


def _list(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
