"""`svd3d benchmark gso`: models and peers over the same objects, in one table made by one command.

    svd3d benchmark gso --objects gso --model tiny --pred peer=DIR --out bench

    bench/objects.jsonl, objects/     the objects of the split: a list to render from, links to compare with
    bench/reference/UID/              their rendered views; view 0 is what every method is shown
    bench/methods/NAME/views/UID/     what a model made of view 0
    bench/methods/NAME/meshes/UID/    the mesh of these views; of the reference views under `true-views`
    bench/views/, bench/meshes/       a report each, as svd3d evaluate writes them
    bench/index.html, benchmark.json  tables and pictures; what was asked, what failed and why

Every step is a stage with its own folder, so the same command continues after a kill at any moment. An object
that fails is in no mean of any method, and is counted and named with its reason wherever there are numbers.
"""

import dataclasses
import functools
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svd3d import runs, sample
from svd3d.benchmark_plan import TRUE_VIEWS, Method, Plan, plan, some
from svd3d.errors import OutputError, Svd3dError
from svd3d.settings import BenchmarkConfig, EvaluateConfig, GenerateConfig

if TYPE_CHECKING:
    from recon.run import Reconstructed
    from render.config import RenderConfig
    from render.objects import Source3D
    from svd3d.metrics.report import MetricReport, Row

__all__ = ["Benchmark", "plan", "run"]

Watch = Callable[[str, Iterable[Any], int], Iterable[Any]]
"""Passes the results of a step on while showing progress; gets the step's name and their number."""
Render = Callable[["RenderConfig"], Iterable[Any]]
SHOWN = 12
"""Objects with pictures on the page."""
UNFAMILIAR = (
    "trained on toy cars and toy furniture only, so its numbers show that the commands work, not what the "
    "method can do"
)


@dataclass(frozen=True)
class Benchmark:
    """What came out."""

    page: Path
    objects: int
    failed: dict[str, dict[str, str]]
    """Uid to step to reason."""
    reports: "dict[str, MetricReport]"
    """`views` and `meshes`, as far as they were asked for and objects are left to score."""


def run(
    config: BenchmarkConfig,
    *,
    watch: Watch = lambda step, results, total: results,
    render: Render | None = None,
) -> Benchmark:
    """Do what is left of the steps, score, and write reports and page; running it again resumes.

    `render` makes the reference views in Blender's stead, for tests. Raises what `plan` raises before
    anything is written; `ConfigError` when a step was done with other settings; `InputError` when a peer's
    views cannot be compared with the reference.
    """
    work = plan(config)
    out = runs.output_folder(config.out)
    start = time.monotonic()
    with runs.lock(out):
        bench = _Run(work, watch)
        runs.write_file(out / "objects.jsonl", "".join(map(_line, work.split.objects)))
        bench.render(render)
        for method in work.methods:
            if method.model:
                bench.generate(method, method.model)
        if work.meshes:
            for method in (*work.methods, Method(TRUE_VIEWS)):
                bench.reconstruct(method)
        return bench.report(start=start)


@dataclass
class _Run:
    """A benchmark at work."""

    plan: Plan
    watch: Watch
    failed: dict[str, dict[str, str]] = field(default_factory=dict)
    """Uid to step to reason."""
    remarks: list[str] = field(default_factory=list)
    meshed: list[str] = field(default_factory=list)
    """Methods that have meshes."""

    @property
    def out(self) -> Path:
        return self.plan.config.out

    def left(self, kind: str) -> list[str]:
        """The objects to compare views or meshes of: all but those that failed on the way there."""
        hinders = {
            uid
            for uid, steps in self.failed.items()
            if kind == "meshes" or any(not step.startswith("reconstruct") for step in steps)
        }
        return [uid for uid in self.plan.split.uids if uid not in hinders]

    def views(self, method: Method, uid: str) -> Path:
        """Folder of a method's views of an object."""
        if method.name == TRUE_VIEWS:
            return self.plan.reference.out / uid
        return method.views.get(uid, self._made(method.name, "views") / uid)

    def mesh(self, method: str, uid: str) -> Path:
        """Folder of the mesh made of a method's views of an object."""
        return self._made(method, "meshes") / uid

    def _made(self, method: str, kind: str) -> Path:
        return self.out / "methods" / method / kind

    def render(self, stand_in: Render | None) -> None:
        """Reference views of all objects."""
        from render import run as stage

        self._follow("render", (stand_in or stage.run)(self.plan.reference), len(self.plan.split.uids))

    def generate(self, method: Method, model: str) -> None:
        """Views by a model, from view 0 of each reference."""
        if not self.left("views"):
            return
        from svd3d import generate as stage
        from svd3d.model import memory

        config = self.plan.config
        settings = GenerateConfig(
            image=self.plan.reference.out,
            out=self._made(method.name, "views"),
            model=model,
            steps=config.steps,
            seed=config.seed,
            device=config.device,
        )
        if self._follow(f"generate {method.name}", stage.run(settings), stage.count(settings)):
            peak = memory.peak_gb(memory.usable_device(config.device))
            runs.write_json(self._made(method.name, "memory.json"), {"peak_gb": round(peak, 1)})

    def reconstruct(self, method: Method) -> None:
        """Meshes of a method's views; pictures without cameras have none."""
        left = self.left("views")
        if not all(sample.is_sample(self.views(method, uid)) for uid in left):
            self.remarks.append(f"{method.name}: pictures without cameras, so no mesh is made of them")
        elif left:
            self._follow(f"reconstruct {method.name}", self._meshes(method, left), len(left))
            self.meshed.append(method.name)

    def _meshes(self, method: Method, uids: list[str]) -> "Iterator[Reconstructed]":
        from recon import run as stage
        from recon.config import ReconConfig

        for uid in uids:
            start = time.monotonic()
            settings = ReconConfig(
                sample=self.views(method, uid),
                out=self.mesh(method.name, uid),
                method=self.plan.config.method,
                seed=self.plan.config.seed,
                device=self.plan.config.device,
            )
            try:
                for each in stage.run(settings):
                    yield dataclasses.replace(each, uid=uid)
            except OutputError:
                raise
            except Svd3dError as error:
                yield stage.Reconstructed(uid, None, "failed", str(error), time.monotonic() - start)

    def _follow(self, step: str, results: Iterable[Any], total: int) -> bool:
        """See a stage to its end and remember what failed; whether anything was made."""
        made = False
        for each in self.watch(step, results, total):
            made |= each.status == "done"
            if each.status == "failed" and each.uid in self.plan.split.uids:
                self.failed.setdefault(each.uid, {})[step] = each.message
        return made

    def report(self, *, start: float) -> Benchmark:
        """Score what is left and write all that a person reads; benchmark.json last."""
        from svd3d import benchmark_page

        reports: dict[str, MetricReport] = {}
        if self.plan.methods and self.left("views"):
            reports["views"] = self._score_views()
        if self.plan.meshes and self.meshed and self.left("meshes"):
            reports["meshes"] = self._score_meshes()
        notes = self._notes()
        page = benchmark_page.write(self.out, reports=reports, notes=notes, pictures=self._pictures())
        split, config = self.plan.split, self.plan.config
        runs.write_manifest(
            self.out,
            stage="benchmark",
            config=config,
            licences=[each.licence for each in split.objects if each.licence],
            seconds={"total": time.monotonic() - start},
        )
        summary = {
            "split": {"name": split.name, "objects": split.uids, "sha256": split.digest},
            "methods": {each.name: each.model or "views given" for each in self.plan.methods},
            "failed": self.failed,
            "notes": notes,
        }
        runs.write_json(self.out / "benchmark.json", summary)
        return Benchmark(page, len(split.uids), self.failed, reports)

    def _score_views(self) -> "MetricReport":
        """Models and peers against the reference views; meshes of the same views tell how well they fit."""
        from svd3d import evaluate

        config = self.plan.config
        folders = {each.name: each.folder or self._made(each.name, "views") for each in self.plan.methods}
        settings = EvaluateConfig(
            pred=tuple(f"{name}={folder}" for name, folder in folders.items()),
            ref=self.plan.reference.out,
            out=self.out / "views",
            protocol=config.protocol,
            metrics=config.metrics,
            training_views=config.training_views,
            lpips_weights=config.lpips_weights,
            clip_b32=config.clip_b32,
            clip_l14=config.clip_l14,
            device=config.device,
        )
        left = self.left("views")
        rows: list[Row] = []
        for name in folders:
            fits = [_camera_fit(name, uid, self.mesh(name, uid)) for uid in left]
            rows += itertools.chain(*fits) if all(fits) else ()  # never of fewer objects
        watch = functools.partial(self.watch, "score views")
        return evaluate.run(settings, watch=watch, only=left, notes=self._notes(), rows=rows)

    def _score_meshes(self) -> "MetricReport":
        """Meshes against the objects, which all lie in one folder for that."""
        from svd3d import evaluate

        objects = runs.output_folder(self.out / "objects")
        for each in self.plan.split.objects:
            link = objects / f"{each.uid}{each.path.suffix.lower()}"
            link.unlink(missing_ok=True)
            link.symlink_to(each.path.resolve())
        settings = EvaluateConfig(
            pred=tuple(f"{name}={self._made(name, 'meshes')}" for name in self.meshed),
            ref=objects,
            out=self.out / "meshes",
            protocol=self.plan.config.mesh_protocol,
        )
        watch = functools.partial(self.watch, "score meshes")
        return evaluate.run(settings, watch=watch, only=self.left("meshes"), notes=self._notes())

    def _notes(self) -> list[str]:
        """What every report must say: the split, who is missing and why."""
        split = self.plan.split
        notes = [f"split {split.name}: {len(split.uids)} objects, SHA-256 of their names {split.digest}"]
        if self.failed:
            notes.append(
                f"{len(self.failed)} of {len(split.uids)} objects failed and are in no mean that needs the "
                f"step where they did: {some(list(self.failed))}"
            )
            notes += [
                f"failed: {uid}: {step}: {reason}"
                for uid, steps in self.failed.items()
                for step, reason in steps.items()
            ]
        for method in self.plan.methods:
            memory = self._made(method.name, "memory.json")
            if memory.is_file():
                peak = json.loads(memory.read_text(encoding="utf-8"))["peak_gb"]
                notes.append(f"{method.name}: {peak:g} GB of memory at most until its views were made")
            if method.model == "tiny":
                notes.append(f"{method.name}: {UNFAMILIAR}")
        if not self.plan.methods:
            notes.append("no method was entered, with --model or --pred, so no views are scored")
        return notes + self.remarks

    def _pictures(self) -> dict[str, dict[str, Path]]:
        """For the first objects, what the page shows of each: folders of views by title."""
        shown: dict[str, dict[str, Path]] = {}
        for uid in self.left("views")[:SHOWN]:
            rows = shown[uid] = {"reference": self.plan.reference.out / uid}
            rows |= {f"views of {method.name}": self.views(method, uid) for method in self.plan.methods}
            meshes = {method: self.mesh(method, uid) / "renders" for method in self.meshed}
            rows |= {f"mesh of {name}": path for name, path in meshes.items() if sample.is_sample(path)}
        return shown


def _line(source: "Source3D") -> str:
    """An object in a list for the renderer."""
    known = {"uid": source.uid, "path": str(source.path.resolve())}
    known |= {"licence": source.licence, "sha256": source.sha256, **source.about}
    return json.dumps(known) + "\n"


def _camera_fit(method: str, uid: str, mesh: Path) -> "list[Row]":
    """How far each view had to be shifted to fit the field, in pixels; without a field there is none."""
    from svd3d.metrics.report import Row

    if not (mesh / "recon.json").is_file():
        return []
    made = json.loads((mesh / "recon.json").read_text(encoding="utf-8"))
    shifts = enumerate(made.get("views", {}).get("shifts_px", []))
    return [Row(method, uid, view, "camera-fit", math.hypot(x, y)) for view, (x, y) in shifts]
