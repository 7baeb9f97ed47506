"""Objects per hour of `svd3d render` by workers and threads, and whether its memory stays flat.

    python scripts/benchmark_throughput.py OBJECTS [--size 128] [--setting 1x1 1x2 2x1] [--repeats 2]

OBJECTS is what `svd3d render` takes as its source. A setting is WORKERSxTHREADS; the settings take turns,
and every run starts from nothing, so its time holds the starts of Blender. Memory (Linux) is the resident set
of the command and of its Blenders together, looked at every half second: the highest while the first, and
while the last quarter of the objects was rendered.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("objects", type=Path)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--setting", nargs="+", default=["1x1", "1x2", "2x1"])
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    found: dict[str, list[dict]] = {setting: [] for setting in arguments.setting}
    for _ in range(arguments.repeats):
        for setting, runs in found.items():
            runs.append(render(arguments.objects, setting, arguments.size))
            print(setting, runs[-1], file=sys.stderr, flush=True)
    first = arguments.setting[0]
    print(f"| workers x threads | objects per hour | against {first} | MB, first quarter | MB, last |")
    print("|---|---|---|---|---|")
    base = statistics.median(run["per_hour"] for run in found[first])
    for setting, runs in found.items():
        rates = [run["per_hour"] for run in runs]
        middle = statistics.median(rates)
        memory = [f"{statistics.median(run[part] for run in runs):.0f}" for part in ("first", "last")]
        cells = [
            setting,
            f"{middle:.0f} ({min(rates):.0f}, {max(rates):.0f})",
            f"{middle / base:.2f}",
            *memory,
        ]
        print(f"| {' | '.join(cells)} |")


def render(objects: Path, setting: str, size: int) -> dict[str, float]:
    """One run in a folder of its own: objects per hour, and the highest memory early and late, in MB."""
    workers, threads = setting.split("x")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        svd3d = shutil.which("svd3d", path=str(Path(sys.executable).parent)) or "svd3d"
        command = [svd3d, "render", str(objects), "--out", str(out), "--size", str(size), "--device", "cpu"]
        start, seen = time.monotonic(), []
        with subprocess.Popen(
            [*command, "--workers", workers, "--threads", threads],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as child:
            while child.poll() is None:
                seen.append((rows(out), memory_mb(child.pid)))
                time.sleep(0.5)
        took, done = time.monotonic() - start, rows(out)
        if child.returncode not in (0, 1) or not done:
            raise SystemExit(f"{' '.join(command)}: exit code {child.returncode}, {done} objects")
    early = max((mb for count, mb in seen if count <= done / 4), default=0)
    late = max((mb for count, mb in seen if count >= done * 3 / 4), default=0)
    return {"objects": done, "per_hour": 3600 * done / took, "first": early, "last": late}


def rows(out: Path) -> int:
    """Attempts that are over."""
    ledger = out / "ledger.jsonl"
    return ledger.read_bytes().count(b"\n") if ledger.exists() else 0


def memory_mb(pid: int) -> float:
    """Resident set of a process and of all that it started."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = [
            int(c) for file in Path(f"/proc/{pid}/task").glob("*/children") for c in file.read_text().split()
        ]
    except OSError:
        return 0.0
    own = next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)
    return own + sum(map(memory_mb, children))


if __name__ == "__main__":
    main()
