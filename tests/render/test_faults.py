"""Everything that can go wrong, on purpose: nothing is lost, nothing counts twice, nothing is left behind.

The stage is run with a stand-in for Blender, in processes that are killed outright.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import trimesh

from render import ledger, pool
from render import run as stage
from render.config import RenderConfig
from svd3d import runs
from svd3d.errors import OutputError

FAKE = Path(__file__).with_name("fake_worker.py")
KILLS = 50
GOOD = [f"slow_{number}" for number in range(8)]
OTHERS = ["crash_once", "refuse", "picture", "slow_crash_once"]


def make_objects(folder: Path, names) -> Path:
    folder.mkdir()
    glb = trimesh.creation.box().export(file_type="glb")
    for name in names:
        (folder / f"{name}.glb").write_bytes(glb)
    return folder


def everything(folder: Path) -> dict[str, bytes | None]:
    """Names and bytes of all files, and names of folders, that are not about one run (lock, clock).

    A kill while the manifest is written may leave its hidden temporary file, which is left out too.
    """
    own = ("manifest.json", "ledger.jsonl", ".lock")
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name not in own and not (path.is_file() and path.match(".*.tmp"))
    }


def final_rows(out: Path) -> dict[str, dict]:
    """The final row of each object, of which it may have only one, as its last."""
    rows = runs.read_lines(out / ledger.name())
    last = {row["uid"]: row for row in rows}
    assert [row for row in rows if row["final"]] == [row for row in rows if last[row["uid"]] is row]
    return last


def started(diary: Path) -> list[int]:
    lines = diary.read_text().splitlines() if diary.exists() else []
    return [int(line.split()[1]) for line in lines]


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie that nobody has waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for_the_end_of(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left == []


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_every_kind_of_fault_is_told_and_costs_the_others_nothing(tmp_path, temporary, monkeypatch):
    """Workers that crash, hang, lie, talk nonsense and grow, among good ones."""
    monkeypatch.setattr(pool, "WATCH_S", 0.1)
    fates = {
        **dict.fromkeys(("cup", "mug", "vase", "crash_once"), "done"),
        **dict.fromkeys(("crash", "quit"), "crash"),
        **dict.fromkeys(("garbage", "endless", "strange", "huge", "liar", "small"), "protocol"),
        "hang": "timeout",
        "swell": "memory",
        "refuse": "no_mesh",
    }
    out, diary = tmp_path / "out", tmp_path / "diary"
    asked = RenderConfig(
        make_objects(tmp_path / "objects", fates),
        out,
        views=2,
        size=16,
        attempts=2,
        timeout_s=3.0,
        memory_mb=200.0,
        workers=3,
    )
    found = list(stage.run(asked, command=(sys.executable, str(FAKE), str(diary))))
    assert Counter(result.uid for result in found) == Counter(fates.keys())
    assert {result.uid for result in found if result.status == "done"} == {"cup", "mug", "vase", "crash_once"}
    rows = final_rows(out)
    assert {uid: row["kind"] for uid, row in rows.items()} == fates
    for uid, row in rows.items():
        assert row["attempt"] == (1 if uid in ("cup", "mug", "vase", "refuse") else 2), uid
    assert (rows["crash"]["signal"], rows["crash"]["stage"]) == ("SIGKILL", "load")
    assert rows["liar"]["stage"] == "render"
    wait_for_the_end_of(started(diary))
    assert list(temporary.iterdir()) == []
    before = (out / "ledger.jsonl").read_bytes()
    again = list(stage.run(asked, command=("/no/such/program",)))
    assert Counter(result.status for result in again) == {"skipped": 4, "failed": len(fates) - 4}
    assert (out / "ledger.jsonl").read_bytes() == before


def test_a_full_disk_stops_the_run_which_resumes_as_if_nothing_had_been(tmp_path, temporary):
    source = make_objects(tmp_path / "objects", ["a", "b", "full_once", "z"])
    out, diary = tmp_path / "out", tmp_path / "diary"
    asked = RenderConfig(source, out, views=2, size=16)
    command = (sys.executable, str(FAKE), str(diary))
    with pytest.raises(OutputError, match=r"scratch disk is full.*it resumes"):
        list(stage.run(asked, command=command))
    assert "full_once" not in final_rows(out)
    list(stage.run(asked, command=command))
    assert {(row["kind"], row["attempt"]) for row in final_rows(out).values()} == {("done", 1)}
    stopped = everything(out)
    shutil.rmtree(out)
    list(stage.run(asked, command=command))
    assert everything(out) == stopped
    wait_for_the_end_of(started(diary))
    assert list(temporary.iterdir()) == []


NURSERY = """
import os, sys, tempfile
from pathlib import Path
from render import run as stage
from render.config import RenderConfig
source, out, *command = sys.argv[1:]
config = RenderConfig(Path(source), Path(out), views=2, size=16, workers=2, attempts=9, timeout_s=60.0)
tempfile.gettempdir()  # it tries the folder out, once, by a file that a kill would leave there
while sys.stdin.readline():
    child = os.fork()
    if child == 0:
        for _ in stage.run(config, command=tuple(command)):
            pass
        os._exit(0)
    print(child, flush=True)
    sys.stdin.readline()
    print(os.waitpid(child, 0)[1], flush=True)
"""
"""Starts a coordinator for a line and says its id, and for the next line how it ended; until then the id is
nobody else's, so that it can be killed safely. The libraries are loaded only once.
"""


class Coordinators:
    """Runs of the stage in processes of their own, one after the other."""

    def __init__(self, folder: Path, temporary: Path) -> None:
        self.source, self.out, self.diary = folder / "objects", folder / "out", folder / "diary"
        command = [str(self.source), str(self.out), sys.executable, str(FAKE), str(self.diary)]
        self.nursery = subprocess.Popen(
            [sys.executable, "-c", NURSERY, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "TMPDIR": str(temporary)},
        )

    def start(self) -> int:
        return self._ask()

    def ended(self) -> int:
        """Exit code of the one that was started last, or minus the signal that killed it."""
        return os.waitstatus_to_exitcode(self._ask())

    def _ask(self) -> int:
        self.nursery.stdin.write("\n")
        self.nursery.stdin.flush()
        return int(self.nursery.stdout.readline())

    def workers(self) -> list[int]:
        return [pid for pid in started(self.diary) if alive(pid)]

    def fresh(self) -> None:
        """A new life: no output, and crashes that happen once will happen again."""
        shutil.rmtree(self.out, ignore_errors=True)
        for seen in self.source.glob("*.seen"):
            seen.unlink()


@pytest.fixture
def coordinators(tmp_path, temporary):
    made = Coordinators(tmp_path, temporary)
    make_objects(made.source, [*GOOD, *OTHERS])
    (made.source / "picture.glb").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    yield made
    made.nursery.stdin.close()
    made.nursery.wait(20)
    made.nursery.stdout.close()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find the workers")
def test_killed_at_random_moments_and_resumed_is_never_interrupted(coordinators, temporary):
    """Kill -9 of workers and of coordinators, fifty times; every life ends as the undisturbed one did."""
    dice, kills = random.Random(0), Counter()

    def live(*, whole: bool) -> tuple[dict[str, bytes | None], dict[str, str]]:
        """Run until all is done, and give everything that was written, and how each object ended."""
        coordinators.fresh()
        code = None
        while code != 0:
            process, begun = coordinators.start(), len(started(coordinators.diary))
            if not whole:
                time.sleep(dice.uniform(0, 0.4))
                if dice.random() < 0.4 and (running := coordinators.workers()):
                    kills["worker"] += 1
                    os.kill(dice.choice(running), signal.SIGKILL)
                    time.sleep(dice.uniform(0, 0.4))
                if dice.random() < 0.8:
                    os.kill(process, signal.SIGKILL)
            code = coordinators.ended()
            assert code in (0, -signal.SIGKILL)
            kills["coordinator"] += code != 0
            wait_for_the_end_of(started(coordinators.diary)[begun:])
        pool.sweep()  # the last one may have had nothing left to render
        assert list(temporary.iterdir()) == []
        rows = final_rows(coordinators.out)
        assert sorted(rows) == sorted([*GOOD, *OTHERS])
        return everything(coordinators.out), {uid: row["status"] for uid, row in rows.items()}

    expected = live(whole=True)
    while kills.total() < KILLS:
        assert live(whole=False) == expected
    assert min(kills["worker"], kills["coordinator"]) > 5
