"""From 21 views at an elevation of 10 degrees to a NeRF and a mesh: how long, and how near to the truth.

    python scripts/benchmark_recon.py [--quick] [--json] [--work DIR] [--objects NAME ...] [--nerfstudio DIR]

Two closed-form shapes, and real objects where the shared data and Blender are at hand, from views as they
are, from views that were shifted, blurred and re-lit one by one, and from views that were bent by a smooth
random flow. What comes out is scored at 16 held-out views at elevations from -20 to 55 degrees (on white) and
against the mesh (no alignment, longest side 1, 50 000 points; the floor is the mesh against itself).

`ratio` is what a plain voxel NeRF takes (`grid_sample`, every sample of every ray, one resolution) to come
within 0.5 dB of ours on held-out views, over what ours takes; where it has not come so near in
--patience times our seconds, that is a lower bound and said to be one. The race runs beside the other
measurements, on a second core. Seconds are CPU seconds of one thread.

`peer` is nerfacto on the same clean views of the smooth shape, where nerfstudio is installed: on a CPU for as
many CPU seconds as ours took, and for five times as many, each without what its program takes to start; on a
GPU for its full schedule, in seconds on the clock.
"""

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it loads

import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import recon_peer  # noqa: E402
import recon_scenes as scenes  # noqa: E402

from recon import raster, result, run  # noqa: E402
from recon.config import Method  # noqa: E402
from recon.field import Field  # noqa: E402
from recon.result import Reconstruction  # noqa: E402
from svd3d import images  # noqa: E402
from svd3d.cameras import Cameras  # noqa: E402
from svd3d.errors import DependencyError, MeshError  # noqa: E402
from svd3d.metrics import alignment, geometry  # noqa: E402
from svd3d.metrics.images import foreground_psnr, psnr  # noqa: E402
from svd3d.sample import Sample  # noqa: E402

SHARED = ROOT.parent / "shared/data"
GSO = "gso/{}/meshes/model.obj"
OBJECTS = {
    "mustard bottle": "scans/ycb_006_mustard_bottle.glb",
    "power drill": "scans/ycb_035_power_drill.glb",
    "cow": "models/spot_cow.glb",
    "tea set": "models/tea_set_01.glb",
    "caddy": GSO.format("Sterilite_Caddy_Blue_Sky_17_58_x_12_58_x_9_14"),
    "headset": GSO.format("Razer_Kraken_Pro_headset_Full_size_Black_with_cable"),
}
CAPTURES = {
    "chicken, rendered": "multiview/chicken_gt",
    "chicken, SyncDreamer": "multiview/chicken_syncdreamer_pred",
}
"""16 views of one object: rendered, and made by a model from the first of them; none are held out."""
CAPTURED = "gso_geometry/CHICKEN_NESTING.obj"
CAPTURED_YAW_DEG = 90.0
"""From the object file to the frame of these views, found by trying all yaws."""
SMOOTH = "torus knot"
"""The shape that the targets are about."""
NEAR_DB = 0.5
CHECK = 0.5
"""Of our seconds: how often one looks how far the plain NeRF has come."""
RACE_VIEWS = 4
"""Held-out views that the race is judged by."""
PEER_TIMES = (1, 5)
"""Of our seconds: what the peer gets on a CPU."""
POINTS = 50_000
SCORES = {
    "nerf_s": "NeRF s",
    "glb_s": "GLB s",
    "psnr_db": "NeRF dB",
    "foreground_psnr_db": "fg",
    "chamfer": "Chamfer",
    "chamfer_floor": "floor",
    "fscore_001": "F@0.01",
    "fscore_002": "F@0.02",
    "mesh_psnr_db": "mesh dB",
    "mesh_foreground_psnr_db": "fg",
}
"""What is scored, and the head of its column."""


@dataclass(frozen=True)
class Row:
    """What one method made of one object from views in one condition."""

    object: str
    condition: str
    method: str
    seed: int
    scores: dict[str, float]
    """By the names in `SCORES`; without those of a NeRF where there is none."""
    steps_s: Mapping[str, float]
    wall_s: float
    report: dict[str, Any]
    """What recon.json says."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="the smooth shape, one object, a short race")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--size", type=int, default=128, help="of the views")
    parser.add_argument("--resolution", type=int, default=128, help="voxels along the longest side")
    parser.add_argument("--work", type=Path, help="keeps rendered views for the next time")
    everything = [*scenes.SOLIDS, *OBJECTS, *CAPTURES]
    parser.add_argument("--objects", nargs="+", default=everything, choices=everything, metavar="NAME")
    parser.add_argument("--conditions", nargs="+", default=["clean", "shifted", "warped"])
    parser.add_argument("--methods", nargs="+", default=["nerf", "fast"], choices=get_args(Method))
    parser.add_argument("--seeds", type=int, default=1, help="draws of what spoils the views")
    parser.add_argument("--nerfstudio", type=Path, metavar="DIR", help="with its programs (else: PATH)")
    parser.add_argument(
        "--peer-seconds",
        type=float,
        nargs="+",
        metavar="S",
        help="on a CPU (else: ours, and 5 times as many)",
    )
    parser.add_argument("--patience", type=float, default=10.0, help="of the race, in times of our seconds")
    arguments = parser.parse_args()
    if arguments.quick:
        short = [SMOOTH, next(iter(OBJECTS))]
        arguments.objects = short if arguments.objects == everything else arguments.objects
        arguments.patience = min(arguments.patience, 5.0)
    torch.set_num_threads(1)
    rows, raced, peers = [], None, []
    with contextlib.ExitStack() as stack:
        beside = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
        work = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for scene in chosen(arguments, work):
            for condition, seed, method in ways(scene, arguments):
                try:
                    row, made = measure(scene, condition, seed, method, resolution=arguments.resolution)
                except DependencyError as error:
                    print(f"{method}: left out, {error}", file=sys.stderr)
                    continue
                rows.append(row)
                print(told(row), file=sys.stderr, flush=True)
                field = made.shape.field
                if field and scene.held_out and (scene.name, condition) == (SMOOTH, "clean"):
                    wishes = {"resolution": arguments.resolution, "patience": arguments.patience}
                    entrants = (scene.views, scene.held_out, field, row.scores["nerf_s"])
                    raced = beside.submit(race, *entrants, **wishes)
                    peers = nerfacto(scene, row, arguments, work)
    print("\n".join([*table(rows), *map(peer_told, peers)]))
    if arguments.json:
        print(json.dumps(summary(rows, raced and raced.result()) | {"peer": peers} | about(arguments)))


def chosen(arguments: argparse.Namespace, work: Path) -> Iterator[scenes.Scene]:
    """The scenes, made one by one; objects that cannot be had are left out and named."""
    for name in arguments.objects:
        path = SHARED / (OBJECTS | CAPTURES).get(name, "")
        if name in scenes.SOLIDS:
            yield scenes.closed_form(name, size=arguments.size)
        elif not path.exists():
            print(f"{name}: left out, there is no {path}", file=sys.stderr)
        elif name in CAPTURES:
            yield scenes.captured(name, path, SHARED / CAPTURED, yaw_deg=CAPTURED_YAW_DEG)
        elif importlib.util.find_spec("bpy"):
            yield scenes.rendered(name, path, size=arguments.size, work=work)
        else:
            print(f"{name}: left out, rendering it needs: pip install 'svd3d[render]'", file=sys.stderr)


def ways(scene: scenes.Scene, arguments: argparse.Namespace) -> Iterator[tuple[str, int, Method]]:
    """Condition, seed and method of each measurement. Captures are spoilt enough as they are."""
    for condition in arguments.conditions:
        spared = condition != "clean" and (scene.name in CAPTURES or arguments.quick)
        if spared and (scene.name, condition) != (SMOOTH, "shifted"):
            continue
        for seed in range(1 if condition == "clean" else arguments.seeds):
            for method in arguments.methods:
                yield condition, seed, method


def measure(
    scene: scenes.Scene, condition: str, seed: int, method: Method, *, resolution: int
) -> tuple[Row, Reconstruction]:
    """Reconstruct, and score at the held-out views and against the reference."""
    views = scenes.spoilt(scene.views, condition, seed=seed)
    start = time.monotonic()
    with mock.patch.object(result, "monotonic", cpu_seconds):  # whatever else the machine is doing
        made = run.reconstruct(views, method=method, resolution=resolution)
    wall_s, steps = time.monotonic() - start, made.seconds
    closed, held_out = made.shape.surface, scene.held_out
    scores = {"glb_s": sum(steps.values()) - steps["check"]}
    scores |= distances(
        geometry.Surface(np.asarray(closed.vertices), np.asarray(closed.faces)), scene.reference
    )
    same = alignment.align(scene.reference, scene.reference, "none").prediction
    scores["chamfer_floor"] = distances(same, scene.reference)["chamfer"]
    if made.shape.field:
        scores["nerf_s"] = steps["carve"] + steps["nerf"]
    if made.shape.field and held_out:
        pictures, _ = made.shape.field.render(held_out.cameras)
        scores["psnr_db"], scores["foreground_psnr_db"] = likeness(pictures, held_out)
    if held_out:
        pictures, _ = raster.render(made.mesh, held_out.cameras)
        scores["mesh_psnr_db"], scores["mesh_foreground_psnr_db"] = likeness(pictures, held_out)
    scores = {name: scores[name] for name in SCORES if name in scores}
    return Row(scene.name, condition, method, seed, scores, steps, wall_s, made.report()), made


def cpu_seconds() -> float:
    """Of this process and of the programs that it has run."""
    return sum(os.times()[:4])


def distances(surface: geometry.Surface, reference: geometry.Surface) -> dict[str, float]:
    """Chamfer distance and F-scores where the reference has longest side 1 and neither is moved to fit."""
    generator = np.random.default_rng(0)
    pair = alignment.align(surface, reference, "world")
    both = pair.prediction, pair.reference
    points = [geometry.sample_points(each, POINTS, generator=generator) for each in both]
    there, back = geometry.nearest_distances(*points)
    return {
        "chamfer": geometry.chamfer(there, back),
        "fscore_001": geometry.fscore(there, back, threshold=0.01),
        "fscore_002": geometry.fscore(there, back, threshold=0.02),
    }


def likeness(pictures: np.ndarray, truth: Sample) -> tuple[float, float]:
    """Mean PSNR on white of RGBA views in dB, of whole pictures and of what the truth covers."""
    ours, theirs = images.composite(pictures), images.composite(truth.images)
    mask = images.to_float(truth.images[..., 3])
    return float(psnr(ours, theirs).mean()), float(foreground_psnr(ours, theirs, mask).mean())


@dataclass(frozen=True)
class Race:
    """How long the plain NeRF took to come near ours."""

    ratio: float
    """Its seconds over ours; a lower bound unless `reached`."""
    reached: bool
    ours_db: float
    curve: list[tuple[float, float]]
    """CPU seconds of the plain NeRF, and its PSNR at some held-out views."""


def race(
    views: Sample, held_out: Sample, ours: Field, ours_s: float, *, resolution: int, patience: float
) -> Race:
    """Fit the plain NeRF until it comes near our field, or for `patience` times our seconds."""
    some = [int(view) for view in np.linspace(0, len(held_out) - 1, RACE_VIEWS)]
    truth = Sample("some", held_out.cameras.view(some), held_out.images[some], "rendered")
    ours_db, _ = likeness(ours.render(truth.cameras)[0], truth)
    plain, curve = PlainNerf(views, resolution=resolution), []
    while not curve or curve[-1][0] < patience * ours_s:
        plain.fit(CHECK * ours_s)
        curve.append((plain.seconds, likeness(plain.render(truth.cameras), truth)[0]))
        print("plain NeRF: {:.0f} s, {:.2f} dB".format(*curve[-1]), file=sys.stderr, flush=True)
        if curve[-1][1] >= ours_db - NEAR_DB:
            break
    return Race(curve[-1][0] / ours_s, curve[-1][1] >= ours_db - NEAR_DB, ours_db, curve)


def nerfacto(
    scene: scenes.Scene, ours: Row, arguments: argparse.Namespace, work: Path
) -> list[dict[str, Any]]:
    """What nerfacto makes of the views that gave `ours`; nothing where it cannot run, which is said."""
    assert scene.held_out
    ours_s, gpu = ours.scores["nerf_s"], torch.cuda.is_available()
    try:
        peer = recon_peer.Nerfacto(
            scene.views,
            scene.held_out,
            work,
            place=arguments.nerfstudio,
            device="cuda" if gpu else "cpu",
            clock=time.monotonic if gpu else cpu_seconds,
        )
        if gpu:
            trained = [peer.trained(recon_peer.FULL_SCHEDULE)]
        else:
            budgets = arguments.peer_seconds or [times * ours_s for times in PEER_TIMES]
            trained = [peer.budgeted(seconds) for seconds in budgets]
    except (DependencyError, MeshError) as error:
        print(f"nerfacto: left out, {error}", file=sys.stderr)
        return []
    found = []
    for each in trained:
        psnr_db, foreground_psnr_db = likeness(each.pictures, scene.held_out)
        entry = {"method": recon_peer.METHOD, "device": peer.device, "iterations": each.iterations}
        entry |= {"seconds": each.seconds, "start_s": each.start_s}
        entry |= {"psnr_db": psnr_db, "foreground_psnr_db": foreground_psnr_db}
        found.append(entry | {"ours_s": ours_s, "ours_db": ours.scores["psnr_db"]})
    return found


def peer_told(entry: Mapping[str, Any]) -> str:
    """A line of Markdown under the table."""
    return (
        "\n{method} on the same views ({device}): {iterations} iterations in {seconds:.1f} s, "
        "{psnr_db:.1f} dB, foreground {foreground_psnr_db:.1f} dB; ours: {ours_s:.1f} s, {ours_db:.1f} dB"
    ).format(**entry)


class PlainNerf:
    """A voxel NeRF as one writes it first: two dense grids, `grid_sample`, all samples of all rays, Adam.

    Density is softplus(value + shift) per voxel length with the shift of DVGO (Sun et al. 2022, equation 9:
    nearly empty at first), colour is sigmoid(value), both interpolated before activation; the targets are
    premultiplied RGBA.
    """

    RAYS = 2048
    FIRST_ALPHA = 0.01
    RATE = 0.1
    SIDE = 1.04
    """Of the cube around the origin that is modelled; the longest side of an object is 1."""

    def __init__(self, views: Sample, *, resolution: int) -> None:
        self.density = torch.zeros(1, 1, *(resolution,) * 3, requires_grad=True)
        self.colour = torch.zeros(1, 3, *(resolution,) * 3, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.density, self.colour], lr=self.RATE)
        self.shift = float(np.log(1 / (1 - self.FIRST_ALPHA) - 1))
        self.voxel = self.SIDE / (resolution - 1)
        self.count = int(np.ceil(self.SIDE * np.sqrt(3) / self.voxel))
        self.generator = torch.Generator().manual_seed(0)
        self.origins, self.directions = self.rays(views.cameras)
        self.targets = torch.from_numpy(scenes.premultiplied(views.images)).reshape(-1, 4)
        self.seconds = 0.0

    @staticmethod
    def rays(cameras: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
        """Origins and unit directions of all pixels, [n, 3] each."""
        origins, directions = (torch.from_numpy(each).float() for each in cameras.rays())
        origins = origins[:, None, None].expand_as(directions)
        return origins.reshape(-1, 3), F.normalize(directions, dim=-1).reshape(-1, 3)

    def fit(self, seconds: float) -> None:
        """Go on for so many CPU seconds."""
        start = time.process_time()
        while time.process_time() - start < seconds:
            index = torch.randint(len(self.targets), (self.RAYS,), generator=self.generator)
            loss = F.mse_loss(self.trace(self.origins[index], self.directions[index]), self.targets[index])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.seconds += time.process_time() - start

    def trace(self, origins: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
        """Premultiplied RGBA [n, 4] of rays, by samples one voxel apart."""
        middle = -(origins * directions).sum(-1, keepdim=True)
        distance = middle + (torch.arange(self.count) + 0.5 - self.count / 2) * self.voxel
        points = origins[:, None] + distance[..., None] * directions[:, None]
        place = (points * (2 / self.SIDE)).flip(-1)[None, None]  # grid_sample wants z, y, x
        density = F.grid_sample(self.density, place, align_corners=True)[0, 0, 0]
        colour = F.grid_sample(self.colour, place, align_corners=True)[0, :, 0].sigmoid()
        inside = (points.abs() <= self.SIDE / 2).all(-1)
        depth = F.softplus(density + self.shift) * inside
        before = depth.cumsum(1) - depth
        weight = torch.exp(-before) * -torch.expm1(-depth)
        return torch.cat([(weight * colour).sum(-1), weight.sum(-1)[None]]).T

    @torch.no_grad()
    def render(self, cameras: Cameras) -> np.ndarray:
        """Views as RGBA."""
        parts = zip(*(each.split(self.RAYS) for each in self.rays(cameras)), strict=True)
        rgba = torch.cat([self.trace(*part) for part in parts]).numpy()
        return scenes.straight(rgba).reshape(len(cameras), cameras.height, cameras.width, 4)


def summary(rows: list[Row], raced: Race | None) -> dict[str, Any]:
    """What --json prints: the ratio first, then the smooth shape, then every object."""
    found: dict[str, Any] = {"ratio": raced and round(raced.ratio, 2)}
    found["ratio_is_a_lower_bound"] = raced and not raced.reached
    for name, condition in (("clean", "clean"), ("disturbed", "shifted"), ("non_rigid", "warped")):
        found[name] = spread(rows, SMOOTH, condition, "nerf")
    found["objects"] = {}
    for row in rows:
        entry = found["objects"].setdefault(row.object, {}).setdefault(row.condition, {})
        entry[row.method] = spread(rows, row.object, row.condition, row.method)
    found["race"] = raced and asdict(raced)
    return found


def spread(rows: list[Row], name: str, condition: str, method: str) -> dict[str, Any]:
    """Median of each score over the seeds, and under `range` the lowest and highest where there are more."""
    same = [row for row in rows if (row.object, row.condition, row.method) == (name, condition, method)]
    values = {score: [row.scores[score] for row in same if score in row.scores] for score in SCORES}
    found: dict[str, Any] = {
        score: round(statistics.median(some), 5) for score, some in values.items() if some
    }
    if len(same) > 1:
        found["range"] = {score: [min(some), max(some)] for score, some in values.items() if some}
    if same:
        found |= {"wall_s": [row.wall_s for row in same], "recon": same[0].report}
    return found


def told(row: Row) -> str:
    """A row of the table."""
    cells = [row.object, row.condition, row.method]
    for name in SCORES:
        digits = 4 if name.startswith("chamfer") else 3 if name.startswith("fscore") else 1
        cells.append(f"{row.scores[name]:.{digits}f}" if name in row.scores else "-")
    return f"| {' | '.join(cells)} |"


def table(rows: list[Row]) -> list[str]:
    """The lines of a Markdown table."""
    head = ["object", "views", "method", *SCORES.values()]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *map(told, rows)]


def about(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings and versions."""
    packages = ("torch", "numpy", "trimesh", "scikit-image", "xatlas", "embreex")
    return {
        "settings": {name: str(value) for name, value in vars(arguments).items()} | {"threads": 1},
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in packages}},
    }


if __name__ == "__main__":
    main()
