"""The page of `svd3d demo`: pictures, films, meshes to turn, scores, timings and commands; no network."""

import functools
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svd3d import console, images, runs, sample
from svd3d.errors import require

if TYPE_CHECKING:
    from svd3d.metrics.report import MetricReport

_UNFAMILIAR = (
    "The bundled model was trained on toy cars and toy furniture only and has never seen anything like this "
    "object, so its views are not a fair picture of the method; the mesh beside it is made from the rendered "
    "views."
)
_FAMILIAR = (
    "The bundled model was trained on toy cars and toy furniture; this car was held out from its training."
)
_SRGB_OUTPUT = "renderer.outputEncoding=THREE.sRGBEncoding;"
"""Without it trimesh's viewer shows linear light as if it were sRGB: dark and oversaturated."""
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; }
img, video { width: 100%; background: white; border-radius: 4px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 1.5rem; }
iframe { width: 100%; height: 420px; border: 1px solid #8886; border-radius: 4px; background: white; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; vertical-align: top; }
tr { border-bottom: 1px solid #8884; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font-size: .85rem; overflow-wrap: anywhere; }
.note { border-left: 4px solid #d90; padding-left: 1rem; }
figure { margin: 0; } figcaption { font-size: .9rem; opacity: .8; }
"""


@dataclass(frozen=True)
class Step:
    """One step of the demo as the page tells it."""

    title: str
    command: str
    seconds: float


def write(
    out: Path,
    *,
    name: str,
    views: Path,
    generated: Path,
    meshes: Mapping[str, Path],
    scores: Mapping[str, Sequence["MetricReport"]],
    steps: Sequence[Step],
    familiar: bool,
    tiny: bool,
) -> Path:
    """Write OUT/index.html and the media it shows; returns the page."""
    media = runs.output_folder(out / "media")
    for kind, folder in (("rendered", views), ("generated", generated)):
        orbit = sample.read(folder)
        images.write_png(media / f"{kind}.png", images.contact_sheet(orbit.images))
        images.write_film(media / f"{kind}.mp4", list(images.to_uint8(images.composite(orbit.images))))
    images.write_png(media / "input.png", sample.read(views).images[0])
    for kind, folder in meshes.items():
        runs.write_file(media / f"mesh_{kind}.html", _viewer(folder / "mesh.glb"))
        images.write_png(
            media / f"mesh_{kind}.png", images.contact_sheet(sample.read(folder / "renders").images)
        )
    total = console.duration(sum(step.seconds for step in steps))
    note = f'<p class="note">{_FAMILIAR if familiar else _UNFAMILIAR}</p>' if tiny else ""
    body = [
        f"<h1>{html.escape(name)}: from one object to views, meshes and scores</h1>",
        f"<p>Made in {total} by the commands at the end of this page (0 s: done by an earlier run).</p>",
        note,
        "<h2>Views</h2>",
        '<div class="pair">',
        _figure("media/input.png", "The input of the model: view 0"),
        _film("media/rendered.mp4", "Rendered by Blender: 21 views"),
        _film("media/generated.mp4", "Generated from view 0: 21 views"),
        "</div>",
        _figure("media/rendered.png", "Rendered: views 0 to 20 in reading order"),
        _figure("media/generated.png", "Generated: views 0 to 20 in reading order; view 0 is the input"),
        "<h2>Meshes</h2>",
        "<p>Drag to turn, scroll to zoom.</p>",
        '<div class="pair">',
        *(
            f'<figure><iframe src="media/mesh_{kind}.html" title="mesh from {kind} views"></iframe>'
            f'<figcaption>From the {kind} views: <a href="{folder.name}/mesh.glb">mesh.glb</a>'
            "</figcaption></figure>"
            for kind, folder in meshes.items()
        ),
        "</div>",
        *(_figure(f"media/mesh_{kind}.png", f"Re-rendered mesh from the {kind} views") for kind in meshes),
        "<h2>Scores</h2>",
        *(f"<h3>{html.escape(heading)}</h3>{_table(reports)}" for heading, reports in scores.items()),
        _not_computed([report for reports in scores.values() for report in reports]),
        "<h2>Steps</h2>",
        "<table><thead><tr><th>Step<th>Command<th>Time</tr></thead><tbody>",
        *(
            f"<tr><td>{html.escape(step.title)}<td><code>{html.escape(step.command)}</code>"
            f'<td class="number">{console.duration(step.seconds)}</tr>'
            for step in steps
        ),
        "</tbody></table>",
    ]
    page = out / "index.html"
    runs.write_file(
        page,
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>svd3d demo: {html.escape(name)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n",
    )
    return page


def _figure(path: str, caption: str) -> str:
    caption = html.escape(caption)
    return f'<figure><img src="{path}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def _film(path: str, caption: str) -> str:
    return (
        f'<figure><video src="{path}" autoplay loop muted playsinline controls></video>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _viewer(mesh: Path) -> str:
    """A self-contained page that shows a mesh, by trimesh; GLB is +Y up, as its viewer expects."""
    trimesh = require("trimesh", extra="recon", reason="showing a mesh")
    viewer = require("trimesh.viewer.notebook", extra="recon", reason="showing a mesh")
    scene = trimesh.load_scene(mesh)
    scene.export = functools.partial(scene.export, tree_postprocessor=_without_lights)
    page = viewer.scene_to_html(scene)
    made = "renderer=new THREE.WebGLRenderer({antialias:true});"
    return page.replace(made, made + _SRGB_OUTPUT)


def _without_lights(gltf: dict[str, Any]) -> None:
    """Show colours as they are: the light of the views is in the texture, a lamp would count it twice."""
    gltf["extensionsUsed"] = [*gltf.get("extensionsUsed", []), "KHR_materials_unlit"]
    for material in gltf.get("materials", []):
        material["extensions"] = {**material.get("extensions", {}), "KHR_materials_unlit": {}}


def _table(reports: Sequence["MetricReport"]) -> str:
    """One table for reports that share a reference: a row per method."""
    methods = {method: scores for report in reports for method, scores in report.methods.items()}
    names = list(dict.fromkeys(name for scores in methods.values() for name in scores))
    rows = []
    for method, scores in methods.items():
        found = [scores.get(name) for name in names]
        cells = [f"{score.mean:.4g} {html.escape(score.unit)}" if score else "" for score in found]
        rows.append(
            f"<tr><td>{html.escape(method)}" + "".join(f'<td class="number">{cell}' for cell in cells)
        )
    head = "".join(f"<th>{html.escape(name)}" for name in ("method", *names))
    return f"<table><thead><tr>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _not_computed(reports: Sequence["MetricReport"]) -> str:
    """Each missing metric once, with its reason."""
    missing = {name: why for report in reports for name, why in report.not_computed.items()}
    items = [
        f"<li>{html.escape(name)}: not computed, because {html.escape(why)}" for name, why in missing.items()
    ]
    return f"<ul><small>{''.join(items)}</small></ul>" if items else ""
