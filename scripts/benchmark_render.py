"""CPU-seconds per 21-view orbit, ours against the recipe of the public renderers, at what fidelity.

    python scripts/benchmark_render.py [--quick] [--json] [--size 256] [--min-psnr 40] [--objects FILE ...]

The baseline is what public Objaverse renderers do per view (128 paths, adaptive 0.01, OpenImageDenoise high
quality with accurate guides, the whole frame, nothing kept between views), without the start of the process
that they also pay per object. Both are compared with pixels that were rendered by 1024 paths without a
denoiser. CPU time is that of Blender's process with one thread; the ratio is taken within one process.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SHARED = ROOT.parent / "shared/data"
GSO = "gso/{}/meshes/model.obj"
OBJECTS = {
    "mustard bottle (textured scan)": "scans/ycb_006_mustard_bottle.glb",
    "water bottle (metal)": "models/WaterBottle.glb",
    "alpha blend test (alpha)": "edge_cases/AlphaBlendModeTest.glb",
    "headset (GSO)": GSO.format("Razer_Kraken_Pro_headset_Full_size_Black_with_cable"),
    "caddy (GSO)": GSO.format("Sterilite_Caddy_Blue_Sky_17_58_x_12_58_x_9_14"),
    "painted stool": "models/painted_wooden_stool.glb",
    "tea set": "models/tea_set_01.glb",
}
QUICK = 4
VIEWS, FOV_DEG, ELEVATION_DEG = 21, 33.8, 12.0
REFERENCE_PATHS = 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="four objects, two scored views, every third pixel"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--min-psnr", type=float, default=40.0)
    parser.add_argument("--objects", type=Path, nargs="*", help="default: real objects of the shared data")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(Path(arguments.measure[0]), Path(arguments.measure[1]), arguments)
        return
    named = {path.stem: path for path in arguments.objects or []}
    if not named:
        named = {name: SHARED / path for name, path in OBJECTS.items() if (SHARED / path).is_file()}
        named = dict(list(named.items())[: QUICK if arguments.quick else None])
    if not named:
        named = {"toy car": ROOT / "svd3d/assets/objects/toy_car.glb"}
    rows = {}
    for name, path in named.items():
        rows[name] = row = in_own_process(path)
        print(f"{name:32} {told(row)}", file=sys.stderr, flush=True)
    report(rows, arguments)


def in_own_process(path: Path) -> dict:
    """Measure one object in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "row.json"
        command = [sys.executable, __file__, *sys.argv[1:], "--measure", str(path), str(result)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if not result.exists():
            raise SystemExit(f"{path}: {done.stdout[-2000:]}")
        return json.loads(result.read_text())


def told(row: dict) -> str:
    baseline = row["ways"]["baseline"]["cpu_s"]
    parts = [
        f"{way} {baseline / found['cpu_s']:.1f}x {found['psnr_db']:.1f} dB"
        for way, found in row["ways"].items()
    ]
    return ", ".join(parts)


def report(rows: dict, arguments: argparse.Namespace) -> None:
    import bpy

    ways = list(next(iter(rows.values()))["ways"])

    def column(way: str, key: str) -> list[float]:
        return [row["ways"][way][key] for row in rows.values()]

    ratios = {
        way: [b / o for b, o in zip(column("baseline", "cpu_s"), column(way, "cpu_s"), strict=True)]
        for way in ways
    }
    print("\n| way | median ratio | lowest, highest | median dB | lowest, highest | median CPU s per orbit |")
    print("|---|---|---|---|---|---|")
    for way in ways:
        spreads = map(spread, (ratios[way], column(way, "psnr_db")))
        cells = [f"{middle} | {lowest}, {highest}" for middle, lowest, highest in spreads]
        print(f"| {way} | {' | '.join(cells)} | {statistics.median(column(way, 'cpu_s')):.1f} |")
    ours = ways[-1]
    if arguments.json:
        found = {
            "ratio": round(statistics.median(ratios[ours]), 2),
            "psnr_db": round(statistics.median(column(ours, "psnr_db")), 2),
            "ratio_range": [round(min(ratios[ours]), 2), round(max(ratios[ours]), 2)],
            "psnr_range": [round(min(column(ours, "psnr_db")), 2), round(max(column(ours, "psnr_db")), 2)],
            "cpu_s_per_orbit": round(statistics.median(column(ours, "cpu_s")), 2),
            "objects": rows,
            "settings": {
                "size": arguments.size,
                "min_psnr": arguments.min_psnr,
                "views": VIEWS,
                "quick": arguments.quick,
            },
            "versions": {"blender": bpy.app.version_string, "python": sys.version.split()[0]},
        }
        print(json.dumps(found))


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median, lowest and highest."""
    return round(statistics.median(values), 1), round(min(values), 1), round(max(values), 1)


def measure(path: Path, result: Path, arguments: argparse.Namespace) -> None:
    """All ways of rendering one object, in this process, which becomes Blender."""
    import numpy as np

    from render import light, plan
    from render.blender import worker

    worker.import_bpy(threads=1)
    from render.blender import orbit, passes, scene
    from svd3d.cameras import Orbit

    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        scene.load(str(path), folder, max_faces=10**7)
        loading = time.process_time() - start
        points = np.load(Path(folder) / "points.npy").astype(np.float64)
        ring = plan.framed(
            Orbit.static(num_views=VIEWS, elevation_deg=ELEVATION_DEG, fov_deg=FOV_DEG), points, fill=0.9
        )
        cameras = ring.cameras(height=arguments.size, width=arguments.size)
        request = {
            "camera_to_world": cameras.camera_to_world.tolist(),
            "borders": plan.borders(cameras, points).tolist(),
            "light": light.sky(),
            "fov_deg": FOV_DEG,
            "size": arguments.size,
            "threads": 1,
            "seed": 5,
            "folder": folder,
        }
        studio = passes.Studio(gpu=False, **request)
        scored = [3, 13] if arguments.quick else [3, 8, 13, 18]
        step = 3 if arguments.quick else 1
        references = {view: studio.probe(view, REFERENCE_PATHS, step=step, seed=99) for view in scored}
        ways = {"baseline": _baseline(studio, scored, loading, references, step)}
        ask = {**request, "depth": True, "normal": False, "device": "cpu", "allow_cpu": False}
        wishes = {} if arguments.quick else {"8 paths": {"samples": 8, "min_psnr": None}}
        wishes[f"pilot, {arguments.min_psnr:g} dB"] = {"samples": 8, "min_psnr": arguments.min_psnr}
        for name, wish in wishes.items():
            start = time.process_time()
            answer = orbit.render({**ask, **wish}, progress=lambda view: None)
            cost = time.process_time() - start + loading
            pictures = {view: np.load(Path(folder) / f"{view:03d}.rgba.npy") / 255 for view in scored}
            ways[name] = {
                "cpu_s": cost,
                "psnr_db": _psnr(pictures, references, studio, step),
                "method": answer["method"],
            }
        row = {"faces": len(points), "loading_cpu_s": loading, "ways": ways}
        result.write_text(json.dumps(row))
    sys.stdout.flush()
    os._exit(0)  # bpy may crash while Python shuts down


def _baseline(studio, scored, loading, references, step) -> dict:
    """The public recipe on the scored views, scaled to an orbit."""
    import bpy
    import numpy as np

    from render.blender import compose
    from render.blender.passes import rgba

    scene, cycles = bpy.context.scene, bpy.context.scene.cycles
    kept = {name: getattr(cycles, name) for name in ("denoising_prefilter", "denoising_quality")}
    cycles.denoising_prefilter, cycles.denoising_quality = "ACCURATE", "HIGH"
    cycles.use_adaptive_sampling, cycles.adaptive_threshold = True, 0.01
    scene.render.use_persistent_data = False
    whole = (0, 0, studio.size, studio.size)
    pictures, costs = {}, []
    for view in scored:
        start = time.process_time()
        passes = studio.passes(view, whole, samples=128, denoise=True)
        costs.append(time.process_time() - start)
        pictures[view] = compose.to_display(rgba(passes))
    cycles.use_adaptive_sampling, scene.render.use_persistent_data = False, True
    for name, value in kept.items():
        setattr(cycles, name, value)
    cost = float(np.mean(costs)) * VIEWS + loading
    return {"cpu_s": cost, "psnr_db": _psnr(pictures, references, studio, step)}


def _psnr(pictures: dict, references: dict, studio, step: int) -> float:
    """Foreground PSNR over white, over the probed pixels of all scored views; pictures are sRGB in [0, 1]."""
    import numpy as np

    from render.blender import compose

    errors = []
    for view, reference in references.items():
        probed = studio.probed(step)
        inside = (probed >= 0) & (probed < studio.size)
        ours = pictures[view][np.ix_(probed[inside], probed[inside])]
        truth = compose.to_display(reference[inside][:, inside])
        seen = truth[..., 3] > 0.004
        over = [image[..., :3] * image[..., 3:] + 1 - image[..., 3:] for image in (ours, truth)]
        errors.append(((over[0] - over[1])[seen] ** 2).mean())
    return -10 * math.log10(float(np.mean(errors)))


if __name__ == "__main__":
    main()
