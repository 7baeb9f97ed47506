"""The page of a training run, RUN/index.html: curves, pictures, commands and settings, in one file.

Made from what the run wrote: metrics.jsonl, config.yaml, manifest.json and validation/step-N.png. It opens
from the file system without a network, reloads itself until the run is finished, and stays below a few MB.
"""

import base64
import io
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from svd3d import console, images, runs
from svd3d.errors import InputError
from svd3d.tracking import curves
from svd3d.tracking.curves import Plot, Record

NAME = "index.html"
OLDER = 8
"""Contact sheets shown besides the newest, evenly chosen."""
NEWEST_WIDTH, OLDER_WIDTH = 1600, 480
"""Largest width of a picture in pixels."""
LATELY = 100
"""Steps over which the status takes medians."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1280px; margin: 2em auto; padding: 0 1em; }
h2 { margin: 1.8em 0 .7em; }
.status { display: flex; flex-wrap: wrap; gap: .6em 2em; }
.status span, figcaption, .note { opacity: .75; font-size: .9em; }
.status b { display: block; font-size: 1.2em; font-variant-numeric: tabular-nums; }
.plots, .strip { display: grid; gap: 1.5em 2em; }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(380px, 100%), 1fr)); }
.strip { grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); margin: 1em 0; }
figure { margin: 0; }
svg { width: 100%; height: auto; display: block; }
img { max-width: 100%; border-radius: 4px; background: white; }
pre { overflow-x: auto; border: 1px solid #8886; border-radius: 4px; padding: .5em 1em; margin: .2em 0 1em; }
.settings { columns: 24em; column-gap: 2.5em; }
.settings div { display: flex; justify-content: space-between; gap: 1em; break-inside: avoid;
  border-bottom: 1px solid #8883; }
.settings span { overflow-wrap: anywhere; text-align: right; }
"""


def write(run: Path) -> Path:
    """Write RUN/index.html from the files of the run, whichever are there; returns it.

    Raises `InputError` for a file of the run that is broken, `OutputError` when the disk is full or refuses,
    `DependencyError` without matplotlib.
    """
    metrics = run / "metrics.jsonl"
    records = runs.read_lines(metrics)
    manifest = _mapping(run / "manifest.json", json.loads)
    settings = _mapping(run / "config.yaml", yaml.safe_load) | manifest.get("config", {})
    done, total = (records[-1]["step"] if records else 0), settings.get("max_train_steps", math.inf)
    name = escape(run.resolve().name)
    reload = '<meta http-equiv="refresh" content="60">' if done < total else ""
    body = [
        f"<h1>svd3d train: {name}</h1>",
        _status(records, total=total, at=metrics) if records else "<p>No steps yet.</p>",
        "<h2>Curves</h2>" if records else "",
        '<div class="plots">' + "\n".join(map(_figure, curves.plots(records))) + "</div>",
        _pictures(run / "validation"),
        "<h2>Commands</h2>",
        *_commands(run, records, manifest),
        "<h2>Settings</h2>",
        '<div class="settings">',
        *(f"<div>{_text(key)} <span>{_text(value)}</span></div>" for key, value in settings.items()),
        "</div>",
        _origin(manifest),
    ]
    runs.write_file(
        run / NAME,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{reload}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>svd3d train: {name}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n",
    )
    return run / NAME


def _mapping(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """The mapping in a file; an empty one where there is no file."""
    if not path.exists():
        return {}
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read ({reason}); start the run again to renew it") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}, expected keys and values; remove it")
    return content


def _text(value: Any) -> str:
    return escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _status(records: Sequence[Record], *, total: float, at: Path) -> str:
    last = records[-1]
    lately = records[-LATELY:]
    seconds = [each["seconds"] for each in lately if each.get("seconds") is not None]
    losses = [each["loss"] for each in lately if each.get("loss") is not None]
    facts = {"step": f"{last['step']:,}" + (f" of {total:,}" if math.isfinite(total) else "")}
    if last["step"] >= total:
        facts["state"] = "finished"
    elif seconds and math.isfinite(total):
        facts["left"] = console.duration(float(np.median(seconds)) * (total - last["step"]))
    if losses:
        facts[f"loss, median of {len(losses)} steps"] = f"{np.median(losses):.4g}"
    if best := _best(records):
        facts[f"best validation loss, at step {best['step']:,}"] = f"{best['validation_loss']:.4g}"
    if last.get("skipped"):
        facts["steps skipped"] = f"{last['skipped']:,}"
    written = datetime.fromtimestamp(at.stat().st_mtime, UTC)
    facts["last step written"] = f"{written:%Y-%m-%d %H:%M} UTC"
    cells = (f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for name, value in facts.items())
    return '<div class="status">' + "".join(cells) + "</div>"


def _best(records: Sequence[Record]) -> Record | None:
    """The one of the lowest validation loss."""
    judged = [each for each in records if each.get("validation_loss") is not None]
    return min(judged, key=lambda each: each["validation_loss"], default=None)


def _figure(plot: Plot) -> str:
    title, note = escape(plot.title), escape(plot.note)
    caption = f"<figcaption><b>{title}</b>{note and f' ({note})'}</figcaption>"
    return f'<figure role="img" aria-label="{title}">{caption}{curves.svg(plot)}</figure>'


def _pictures(folder: Path) -> str:
    """The newest contact sheet, and a few of the older ones."""
    names = {path.stem.removeprefix("step-"): path for path in folder.glob("step-*.png")}
    sheets = {int(name): path for name, path in names.items() if name.isdecimal()}
    if not sheets:
        return ""
    *older, newest = sorted(sheets)
    chosen = sorted({older[round(i)] for i in np.linspace(0, len(older) - 1, OLDER)}) if older else []
    strip = "".join(_picture(sheets[step], step, width=OLDER_WIDTH) for step in reversed(chosen))
    return (
        "<h2>Held-out objects</h2>"
        + _picture(sheets[newest], newest, width=NEWEST_WIDTH)
        + f'<div class="strip">{strip}</div>'
    )


def _picture(path: Path, step: int, *, width: int) -> str:
    """A picture in the page, scaled down to `width`, that leads to its file."""
    picture = Image.fromarray(images.to_uint8(images.composite(images.read(path))))
    picture.thumbnail((width, 4 * width))
    file = io.BytesIO()
    picture.save(file, format="WEBP", quality=85)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<figure><figcaption>step {step:,}</figcaption><a href="{path.parent.name}/{path.name}">'
        f'<img alt="held-out objects at step {step}" src="data:image/webp;base64,{data}"></a></figure>'
    )


def _commands(run: Path, records: Sequence[Record], manifest: Mapping[str, Any]) -> list[str]:
    """How to resume, and how to generate from the newest and from the best checkpoint."""
    found = []
    if words := manifest.get("command", [])[1:]:
        found.append(("Continue, or resume after a stop", ["svd3d", *words]))
    saved = [each for each in records if each.get("checkpoint") is not None]
    saved = [each for each in saved if (run / "checkpoints" / f"step-{each['step']}").is_dir()]
    if saved:
        found.append(
            (f"Generate from the newest checkpoint, step {saved[-1]['step']:,}", _use(run, saved[-1]))
        )
    if (best := _best(saved)) and best is not saved[-1]:
        found.append((f"Generate from the best checkpoint, step {best['step']:,}", _use(run, best)))
    return [f"<div>{escape(what)}</div><pre>{escape(shlex.join(words))}</pre>" for what, words in found]


def _use(run: Path, record: Record) -> list[str]:
    model = str(run / "checkpoints" / f"step-{record['step']}")
    return ["svd3d", "generate", "IMAGE", "--model", model, "--out", "DIR"]


def _origin(manifest: Mapping[str, Any]) -> str:
    """Licences, device and versions, where they are known."""
    facts = {
        "Licences of the data": ", ".join(manifest.get("licences", [])),
        "Device": manifest.get("device"),
        "Versions": ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items()),
        "Source": manifest.get("git"),
    }
    return "".join(f'<p class="note">{name}: {_text(fact)}</p>' for name, fact in facts.items() if fact)
