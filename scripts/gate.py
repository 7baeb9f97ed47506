"""Whether a model beats what needs no model, on objects that it was not trained on.

    python scripts/gate.py --model MODEL --held-out VIEWS [VIEWS ...] --training-views VIEWS --out OUT

Generates the views of the held-out sample folders (`svd3d generate`; running it again resumes), scores them
(`svd3d evaluate`, protocol svd-mv) and writes

    OUT/gate.json, OUT/gate.md   PSNR and SSIM of the model, of four baselines and of the autoencoder
    OUT/sheets/GROUP/            best, median and worst objects by rank of PSNR, nothing picked by hand
    OUT/sheets/all.png           every object
    OUT/scores/                  the report of svd3d evaluate with every number

for all objects, for those of families that are among the training views, for the rest, and for each family.
The family of `chair-000123` (or of `chair-000123-1`, another orbit of it) is `chair`; what has no such number
is of family `other`. An object counts once, with its first orbit, at the model's size. A baseline is beaten,
in PSNR or in SSIM, when the mean paired difference is more than two standard errors above 0.
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import stats

from svd3d import console, evaluate, generate, images, runs, sample
from svd3d.errors import InputError, Svd3dError
from svd3d.metrics.baselines import MEAN
from svd3d.metrics.report import Row, by_object
from svd3d.model import memory, vae
from svd3d.model.pipeline import SVDMVPipeline
from svd3d.settings import EvaluateConfig, GenerateConfig

MODEL, CEILING = "model", "autoencoder"
BASELINES = ("input-copied", "input-copied-mirrored", MEAN, "white")
METRICS = {"psnr": 2, "ssim": 3}
"""Each with the digits that are shown."""
VIEWS = range(1, 21)
"""The views that count."""
PARTS = {"near": (1, 2, 19, 20), "side": (3, 4, 5, 6, 7, 14, 15, 16, 17, 18), "back": tuple(range(8, 14))}
NUMBERED = re.compile(r"((.+)-\d{6,})(-\d+)?")
"""The name of a sample folder: its object, the family of that, and which orbit it is."""
SHOWN_VIEWS = [3, 6, 9, 12, 15, 18]
SHOWN_OBJECTS = 3
Scores = dict[str, dict[str, np.ndarray]]
"""By method and metric, [objects, views]."""


def gate(
    held_out: Sequence[Path],
    training: Path,
    out: Path,
    *,
    model: str = "tiny",
    steps: int = 25,
    count: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """Everything above; what is in gate.json. `count` objects of each family are taken, None: all."""
    trained = [folder.name for folder in sample.find(training)]
    chosen = choose(held_out, count=count)
    if seen := {object_of(name) for name in chosen} & set(map(object_of, trained)):
        raise InputError(f"{training}: holds {min(seen)}, which is to be held out; leave it out of one")
    pipeline = SVDMVPipeline.load(model, encoders_only=True)
    truth, generated, decoded = (runs.output_folder(out) / name for name in ("truth", "generated", CEILING))
    with runs.atomic_folder(truth) as folder:
        for name, source in chosen.items():
            resized = sample.read(source).resized(pipeline.size)
            sample.write(dataclasses.replace(resized, uid=name), folder / name)
    autoencode(pipeline, truth, decoded, device=memory.usable_device(device))
    config = GenerateConfig(image=truth, out=generated, model=model, steps=steps, seed=seed, device=device)
    for made in console.progress(generate.run(config), label="generate", total=len(chosen), unit="orbits"):
        if made.status == "failed":
            raise InputError(f"{made.uid}: {made.message}")
    report = evaluate.run(
        EvaluateConfig(
            pred=(f"{MODEL}={generated}", f"{CEILING}={decoded}"),
            ref=truth,
            out=out / "scores",
            metrics=("psnr", "ssim"),
            training_views=training,
        ),
        only=list(chosen),
    )

    names, scores = tabulate(report.rows)
    groups = group(names, trained=set(map(family, trained)))
    found = {
        "model": model,
        "steps": steps,
        "seed": seed,
        "size": pipeline.size,
        "seconds_per_object": report.costs[MODEL]["generate (s)"],
        "groups": {name: compare(scores, members) for name, members in groups.items()},
    }
    runs.write_json(out / "gate.json", found)
    runs.write_file(out / "gate.md", markdown(found))
    write_sheets(out / "sheets", names, groups, scores[MODEL]["psnr"].mean(axis=1), truth, generated)
    return found


def choose(folders: Iterable[Path], *, count: int | None) -> dict[str, Path]:
    """The first orbit of the first `count` objects of each family, by name."""
    found: dict[str, Path] = {}
    for path in folders:
        samples = sample.find(path)
        if not samples:
            raise InputError(f"{path}: holds no sample folders; render some with: svd3d render")
        for folder in samples:
            if (other := found.setdefault(folder.name, folder)) != folder:
                raise InputError(f"{folder}: its name is that of {other} too; rename one")
    objects: dict[str, dict[str, str]] = {}
    for name in sorted(found):
        objects.setdefault(family(name), {}).setdefault(object_of(name), name)
    return {name: found[name] for members in objects.values() for name in list(members.values())[:count]}


def family(name: str) -> str:
    """The family that an object or sample folder is of."""
    numbered = NUMBERED.fullmatch(name)
    return numbered[2] if numbered else "other"


def object_of(name: str) -> str:
    """The object that a sample folder shows."""
    numbered = NUMBERED.fullmatch(name)
    return numbered[1] if numbered else name


@torch.no_grad()
def autoencode(pipeline: SVDMVPipeline, truth: Path, out: Path, *, device: str) -> None:
    """The true views encoded, decoded and cut out as `svd3d generate` does: what bounds the model."""
    network: Any = pipeline.vae.to(device)
    with runs.atomic_folder(out) as folder:
        for source in sample.find(truth):
            original = sample.read(source)
            pixels = torch.from_numpy(images.composite(original.images)).movedim(-1, 1) * 2 - 1
            decoded = vae.decode(network, vae.encode_views(network, pixels.to(device))[None])[0]
            views = (decoded.cpu().movedim(1, -1) / 2 + 0.5).clamp(0, 1).numpy()
            cut = np.stack([images.remove_white(view) for view in views])
            sample.write(dataclasses.replace(original, images=cut, origin="generated"), folder / source.name)


def tabulate(rows: Iterable[Row]) -> tuple[list[str], Scores]:
    """Names of the objects in order, and the scores of all methods."""
    scored = by_object(rows)
    names = sorted(scored[MODEL]["psnr"])
    return names, {
        method: {metric: np.array([values[name] for name in names]) for metric, values in of_method.items()}
        for method, of_method in scored.items()
    }


def group(names: Sequence[str], *, trained: set[str]) -> dict[str, list[int]]:
    """Places of the objects of each group; groups that are all objects or none are left out."""
    families = [family(name) for name in names]
    known = {
        "families trained on": trained & set(families),
        "families not trained on": set(families) - trained,
    }
    named = {
        "all": set(families),
        **{name: members for name, members in known.items() if all(known.values())},
    }
    named |= {each: {each} for each in sorted(set(families))}
    return {
        name: [place for place, each in enumerate(families) if each in members]
        for name, members in named.items()
    }


def compare(scores: Scores, members: list[int]) -> dict[str, Any]:
    """Means of all methods, and how far the model is ahead of the baselines, over some of the objects."""
    columns = {"all": VIEWS, **PARTS}
    means = {
        method: {
            metric: {
                part: float(scores[method][metric][members][:, [view - 1 for view in views]].mean())
                for part, views in columns.items()
            }
            for metric in METRICS
        }
        for method in (MODEL, *BASELINES, CEILING)
    }
    ahead = {
        baseline: {
            metric: difference(*(scores[each][metric][members].mean(axis=1) for each in (MODEL, baseline)))
            for metric in METRICS
        }
        for baseline in BASELINES
    }
    beaten = {metric: [name for name in BASELINES if ahead[name][metric]["beaten"]] for metric in METRICS}
    return {"objects": len(members), "means": means, "ahead": ahead, "beaten": beaten}


def difference(ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
    """Mean of the paired differences and its standard error, which is None for a single object."""
    ahead = ours - theirs
    error = float(stats.sem(ahead)) if len(ahead) > 1 else None
    mean = float(ahead.mean())
    return {"mean": mean, "standard_error": error, "beaten": error is not None and mean > 2 * error}


def markdown(found: dict[str, Any]) -> str:
    """The tables: one of all groups, and one for each."""
    rows = [
        ["objects of", "number", "PSNR, dB", "SSIM", *(f"ahead of {name}" for name in BASELINES), CEILING]
    ]
    for name, each in found["groups"].items():
        ours, best = each["means"][MODEL], each["means"][CEILING]
        row = [name, str(each["objects"])]
        row += [f"{ours[metric]['all']:.{digits}f}" for metric, digits in METRICS.items()]
        row += [" / ".join(told(each["ahead"][other], metric) for metric in METRICS) for other in BASELINES]
        rows.append([*row, f"{best['psnr']['all']:.2f}"])
    parts = [
        f"# `{found['model']}` against what needs no model",
        f"Held-out objects, views {VIEWS[0]} to {VIEWS[-1]} over white at {found['size']} px, "
        f"{found['steps']} steps, seed {found['seed']}; {found['seconds_per_object']:.1f} s per object.",
        "Ahead: PSNR in dB / SSIM, ours minus the baseline, mean of the paired differences ± standard error; "
        "bold where the baseline is beaten by more than two standard errors. The autoencoder (PSNR, dB) gets "
        "the true views.",
        table(rows),
    ]
    for name, each in found["groups"].items():
        rows = [[f"{name} ({each['objects']})"]]
        rows[0] += [f"{metric.upper()}, {part}" for metric in METRICS for part in ("all", *PARTS)]
        for method, means in each["means"].items():
            shown = [
                f"{means[metric][part]:.{digits}f}"
                for metric, digits in METRICS.items()
                for part in means[metric]
            ]
            rows.append([method, *shown])
        parts.append(table(rows))
    named = "; ".join(f"{part}: {', '.join(map(str, views))}" for part, views in PARTS.items())
    return "\n\n".join([*parts, f"Views: {named}."]) + "\n"


def told(ahead: dict[str, dict[str, Any]], metric: str) -> str:
    """A paired difference as it stands in the table."""
    each, digits = ahead[metric], METRICS[metric]
    error = "" if each["standard_error"] is None else f" ± {each['standard_error']:.{digits}f}"
    text = f"{each['mean']:.{digits}f}{error}"
    return f"**{text}**" if each["beaten"] else text


def table(rows: list[list[str]]) -> str:
    """A Markdown table of which the first row is the heading."""
    lines = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_sheets(
    out: Path, names: list[str], groups: dict[str, list[int]], psnr: np.ndarray, truth: Path, generated: Path
) -> None:
    """The best, median and worst objects of each group, truth above model, and all objects, as PNG files."""
    shown = [
        (
            row([*true.images[[0, *SHOWN_VIEWS]]]),
            row([np.zeros_like(true.images[0]), *made.images[SHOWN_VIEWS]]),
        )
        for true, made in ((sample.read(truth / name), sample.read(generated / name)) for name in names)
    ]

    def write(path: Path, places: Iterable[int], *, side_by_side: bool = False) -> None:
        parts = []
        for place in places:
            block = np.concatenate(shown[place], axis=1 if side_by_side else 0)
            heading = Image.new("RGB", (block.shape[1], 14), "white")
            label = f"{names[place]}  {psnr[place]:.2f} dB"
            ImageDraw.Draw(heading).text((3, 1), label, fill="black")
            parts += [np.asarray(heading), block]
        images.write_png(runs.output_folder(path.parent) / path.name, np.concatenate(parts))

    for name, members in groups.items():
        folder = out / name.replace(" ", "-")
        ranked = sorted(members, key=lambda place: -psnr[place])
        middle = max(len(ranked) - SHOWN_OBJECTS, 0) // 2
        write(folder / "best.png", ranked[:SHOWN_OBJECTS])
        write(folder / "median.png", ranked[middle : middle + SHOWN_OBJECTS])
        write(folder / "worst.png", ranked[-SHOWN_OBJECTS:])
    write(out / "all.png", range(len(names)), side_by_side=True)


def row(views: list[np.ndarray]) -> np.ndarray:
    """Views over white side by side, each with a grey line right of it and below it."""
    shown = images.to_uint8(images.composite(np.stack(views)))
    framed = np.pad(shown, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=215)
    return np.concatenate(framed, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="a folder of a diffusers pipeline, a hub id, or tiny")
    parser.add_argument("--held-out", type=Path, nargs="+", required=True, help="folders of sample folders")
    parser.add_argument("--training-views", type=Path, required=True, help="what the model was trained on")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=25, help="denoising steps")
    parser.add_argument("--objects", type=int, help="of each family, the first ones by name; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N, or auto: a GPU if there is one")
    given = parser.parse_args()
    try:
        found = gate(
            given.held_out,
            given.training_views,
            given.out,
            model=given.model,
            steps=given.steps,
            count=given.objects,
            seed=given.seed,
            device=given.device,
        )
    except Svd3dError as error:
        sys.exit(str(error))
    print(markdown(found))


if __name__ == "__main__":
    main()
