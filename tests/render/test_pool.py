"""Children that crash, hang, lie and grow: nothing is lost, nothing is left running."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from render import pool
from svd3d.errors import ConfigError, ObjectError, OutputError, RenderError

FAKE = Path(__file__).with_name("fake_worker.py")


@pytest.fixture
def diary(tmp_path):
    return tmp_path / "diary.txt"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A place for temporary files of one test, so that what is left there is seen."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def attempts(tmp_path, diary, names, *, workers=1, before=None, work=None, **limits):
    """Outcomes of all attempts at loading objects of these names, in their order."""
    for name in names:
        (tmp_path / name).touch()
    return list(
        pool.run(
            (sys.executable, str(FAKE), str(diary)),
            names,
            work or (lambda *job: load(tmp_path, *job)),
            workers=workers,
            limits=pool.Limits(**{"timeout_s": 20.0, **limits}),
            **({"attempts_before": before.__getitem__} if before else {}),
        )
    )


def outcomes(*arguments, **options):
    """Final outcomes by name; every object has exactly one, and it is its last."""
    found = attempts(*arguments, **options)
    last = {outcome.job: outcome for outcome in found}
    assert [outcome for outcome in found if outcome.final] == [o for o in found if last[o.job] is o]
    return last


def load(tmp_path, worker, name):
    return worker.ask({"do": "load", "path": str(tmp_path / name), "folder": str(worker.folder)})["faces"]


def started(diary):
    return [int(line.split()[1]) for line in diary.read_text().splitlines() if line.startswith("pid")]


def alive(pid):
    """Whether a process runs (a zombie that nobody has waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_nothing_is_left(diary, temporary):
    deadline = time.monotonic() + 5
    while (left := [pid for pid in started(diary) if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    assert list(temporary.iterdir()) == []


def test_one_child_serves_many_objects(tmp_path, diary, temporary):
    found = outcomes(tmp_path, diary, ["a", "b", "c"])
    assert [outcome.value for outcome in found.values()] == [12, 12, 12]
    assert {(outcome.kind, outcome.stage, outcome.attempt) for outcome in found.values()} == {
        ("done", "load", 1)
    }
    assert len(started(diary)) == 1
    assert_nothing_is_left(diary, temporary)


def test_every_slot_has_its_own_child(tmp_path, diary):
    found = outcomes(tmp_path, diary, ["a", "b", "c", "d"], workers=2)
    assert {outcome.kind for outcome in found.values()} == {"done"}
    assert 1 <= len(started(diary)) <= 2


def test_an_object_that_crashed_waits_at_the_end_of_the_queue(tmp_path, diary):
    found = attempts(tmp_path, diary, ["crash_once", "b", "c"])
    assert [(o.job, o.kind, o.attempt, o.final) for o in found] == [
        ("crash_once", "crash", 1, False),
        ("b", "done", 1, True),
        ("c", "done", 1, True),
        ("crash_once", "done", 2, True),
    ]
    assert found[0].signal == "SIGKILL"


def test_an_object_that_always_crashes_is_left_out_with_its_story(tmp_path, diary):
    found = attempts(tmp_path, diary, ["crash", "b"], attempts=3)
    assert [(o.job, o.final) for o in found] == [
        ("crash", False),
        ("b", True),
        ("crash", False),
        ("crash", True),
    ]
    bad = found[-1]
    assert (bad.kind, bad.attempt, bad.value, bad.stage, bad.signal) == ("crash", 3, None, "load", "SIGKILL")
    assert bad.log == ("loading crash",)
    assert str(bad.error) == (
        "crash: Blender was killed by SIGKILL at load (attempt 3 of 3; its last words: 'loading crash'); "
        "it is left out"
    )
    assert len(started(diary)) == 3


def test_attempts_of_earlier_runs_count(tmp_path, diary):
    before = {"crash": 2, "crash_once": 1}
    found = attempts(tmp_path, diary, list(before), before=before)
    assert [(o.job, o.attempt, o.final) for o in found] == [
        ("crash", 3, True),
        ("crash_once", 2, False),
        ("crash_once", 3, True),
    ]


@settings(max_examples=6)
@given(
    names=st.lists(
        st.sampled_from(["good", "crash", "crash_once", "refuse", "quit"]), min_size=1, max_size=5
    ),
    workers=st.integers(1, 3),
    limit=st.integers(1, 2),
)
def test_whatever_happens_every_object_ends_exactly_once(names, workers, limit):
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        names = [f"{number}_{name}" for number, name in enumerate(names)]
        found = attempts(place, place / "diary.txt", names, workers=workers, attempts=limit)
    assert sorted(outcome.job for outcome in found if outcome.final) == sorted(names)
    for name in names:
        tries = [outcome.attempt for outcome in found if outcome.job == name]
        bad = name.endswith(("crash", "quit")) or (name.endswith("once") and limit == 1)
        assert tries == list(range(1, 1 + (limit if bad else 2 if name.endswith("once") else 1)))
        assert (found[[o.job for o in found].index(name)].kind == "done") == name.endswith("good")


def test_the_last_twenty_lines_are_kept(tmp_path, diary):
    bad = outcomes(tmp_path, diary, ["quit"], attempts=1)["quit"]
    assert bad.log == tuple(f"line {i}" for i in range(30, 50))
    assert "exit code 3 at load" in str(bad.error)
    assert bad.signal is None


def test_a_hanging_child_and_its_own_children_are_killed_within_the_limit(tmp_path, diary, temporary):
    start = time.monotonic()
    found = outcomes(tmp_path, diary, ["hang", "b"], timeout_s=0.5, attempts=1)
    assert time.monotonic() - start < 15
    assert found["hang"].kind == "timeout"
    assert "took longer than 0.5 s" in str(found["hang"].error)
    assert found["b"].kind == "done"
    assert len(started(diary)) == 3
    assert_nothing_is_left(diary, temporary)


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to see memory")


@needs_proc
def test_a_child_whose_own_children_take_too_much_memory_is_killed(tmp_path, diary, monkeypatch):
    monkeypatch.setattr(pool, "WATCH_S", 0.1)
    found = outcomes(tmp_path, diary, ["swell", "b"], attempts=1, memory_mb=200.0)
    assert found["swell"].kind == found["swell"].error.kind == "memory"
    assert "more than memory_mb 200" in str(found["swell"].error)
    assert found["b"].kind == "done"


@needs_proc
def test_resident_memory_is_that_of_a_whole_process_group():
    hold = "hold = b'x' * (64 << 20); print(flush=True); input()"
    twice = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {hold!r}]).wait()"
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "start_new_session": True}
    with subprocess.Popen([sys.executable, "-c", twice], **pipe) as parent:
        parent.stdout.readline()
        assert 64 < pool.resident_mb(parent.pid) < 160
        parent.communicate(b"\n")
    assert pool.resident_mb(parent.pid) == 0


@pytest.mark.parametrize("name", ["garbage", "endless", "strange"])
def test_nonsense_on_the_pipe_is_a_fault_of_the_child(tmp_path, diary, name):
    found = outcomes(tmp_path, diary, [name, "b"], attempts=2)
    assert (found[name].kind, found[name].attempt) == ("protocol", 2)
    assert found["b"].kind == "done"


def test_a_refused_object_costs_neither_a_second_attempt_nor_the_child(tmp_path, diary):
    found = outcomes(tmp_path, diary, ["refuse", "b"])
    assert (found["refuse"].kind, found["refuse"].attempt) == ("no_mesh", 1)
    assert isinstance(found["refuse"].error, RenderError)
    assert len(started(diary)) == 1


def test_our_own_refusal_keeps_its_class_and_starts_no_child(tmp_path, diary):
    def refuse(worker, name):
        raise ObjectError(f"{name}: 9 triangles are more than max_faces 5", kind="too_large")

    (found,) = attempts(tmp_path, diary, ["a"], work=refuse)
    assert (found.kind, found.stage, found.final, found.log) == ("too_large", "check", True, ())
    assert not diary.exists()


@pytest.mark.parametrize(("limits", "children"), [({"recycle_after": 2}, 3), ({}, 1)])
def test_children_are_replaced_after_enough_objects(tmp_path, diary, limits, children):
    outcomes(tmp_path, diary, ["a", "b", "c", "d", "e"], **limits)
    assert len(started(diary)) == children


@needs_proc
def test_a_child_that_has_grown_is_replaced(tmp_path, diary):
    outcomes(tmp_path, diary, ["fat", "a", "b"], memory_mb=200.0)
    assert len(started(diary)) == 2


MISSING = "raise SystemExit('libSM.so.6: cannot open shared object file')"


def test_a_program_that_cannot_start_ends_the_run_with_its_last_words(tmp_path, diary, temporary):
    limits = pool.Limits(timeout_s=5)
    with pytest.raises(pool.StartError) as caught:
        list(
            pool.run((sys.executable, "-c", MISSING), ["a"], lambda w, j: w.ask({}), workers=1, limits=limits)
        )
    assert caught.value.log[-1].startswith("libSM.so.6")
    with pytest.raises(pool.StartError, match="no-such-blender cannot be started"):
        list(pool.run(("no-such-blender",), ["a"], lambda w, j: w.ask({}), workers=1, limits=limits))
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("tries", [2, 9])
def test_a_child_that_once_started_is_started_again_a_few_times(tmp_path, diary, monkeypatch, tries):
    """It served before, so the machine was short of something; three pauses later the run ends."""
    monkeypatch.setattr(pool, "START_AGAIN_S", (0.01, 0.01, 0.01))
    program = tmp_path / "sometimes.py"
    program.write_text(
        "import pathlib, runpy, sys\n"
        "seen = pathlib.Path(sys.argv[1]).with_name('starts')\n"
        "starts = int(seen.read_text()) if seen.exists() else 0\n"
        "seen.write_text(str(starts + 1))\n"
        f"if 0 < starts < {tries}: sys.exit('no memory')\n"
        f"runpy.run_path({str(FAKE)!r})\n"
    )
    command, limits = (sys.executable, str(program), str(diary)), pool.Limits(timeout_s=20, recycle_after=1)
    for name in ("a", "b"):
        (tmp_path / name).touch()
    running = pool.run(command, ["a", "b"], lambda *job: load(tmp_path, *job), workers=1, limits=limits)
    if tries == 2:
        assert [(o.kind, o.attempt) for o in running] == [("done", 1), ("done", 1)]
    else:
        with pytest.raises(pool.StartError, match="exit code 1"):
            list(running)
        assert (tmp_path / "starts").read_text() == "5"


def test_an_error_of_ours_ends_the_run_and_leaves_nothing(tmp_path, diary, temporary):
    def work(worker, job):
        load(tmp_path, worker, job)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        attempts(tmp_path, diary, ["a", "b"], work=work, workers=2)
    assert_nothing_is_left(diary, temporary)


def test_closing_the_run_while_a_child_hangs_leaves_nothing(tmp_path, diary, temporary):
    """What Ctrl-C does: the generator is closed while a slot waits for its child."""
    before = set(threading.enumerate())  # progress bars of other tests may have left one
    for name in ("a", "hang"):
        (tmp_path / name).touch()
    command = (sys.executable, str(FAKE), str(diary))
    running = pool.run(
        command,
        ["a", "hang"],
        lambda *job: load(tmp_path, *job),
        workers=2,
        limits=pool.Limits(timeout_s=500),
    )
    assert next(running).job == "a"
    while len(started(diary)) < 3:
        time.sleep(0.02)
    start = time.monotonic()
    running.close()
    assert time.monotonic() - start < 10
    assert_nothing_is_left(diary, temporary)
    assert set(threading.enumerate()) <= before


def test_children_get_their_own_home_and_no_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("OCIO", "/my/colours.ocio")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    program = "import json, os, sys; print(json.dumps({'kind': 'ready'}), flush=True); input();"
    program += "print(json.dumps({'kind': 'done', 'env': dict(os.environ)}), flush=True)"
    command, limits = (sys.executable, "-c", program), pool.Limits(timeout_s=20)
    (found,) = pool.run(command, ["a"], lambda worker, job: worker.ask({}), workers=1, limits=limits)
    env = found.value["env"]
    assert env["HOME"] == env["TMPDIR"] != os.environ["HOME"]
    assert not Path(env["HOME"]).exists()
    assert (env["PATH"], env["CUDA_VISIBLE_DEVICES"]) == (os.environ["PATH"], "1")
    assert not {"HF_TOKEN", "OCIO"}.intersection(env)


def full_by_ours(tmp_path, monkeypatch):
    def work(worker, name):
        load(tmp_path, worker, name)
        raise OutputError("views: the disk is full")

    return "a", work


def full_by_the_system(tmp_path, monkeypatch):
    def work(worker, name):
        load(tmp_path, worker, name)
        raise OSError(28, "No space left on device")

    return "a", work


def full_by_the_child(tmp_path, monkeypatch):
    return "full", None


def full_by_what_is_left(tmp_path, monkeypatch):
    """Blender crashes or says nonsense on a full disk; nothing tells but the disk."""
    free = pool.shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(pool.shutil, "disk_usage", lambda folder: free)
    return "crash", None


@pytest.mark.parametrize("full", [full_by_ours, full_by_the_system, full_by_the_child, full_by_what_is_left])
def test_a_full_disk_ends_the_run_and_blames_no_object(tmp_path, diary, temporary, monkeypatch, full):
    name, work = full(tmp_path, monkeypatch)
    with pytest.raises(OutputError, match="disk is full"):
        attempts(tmp_path, diary, [name, "b"], work=work)
    assert_nothing_is_left(diary, temporary)


def test_a_scratch_folder_that_cannot_be_made_is_named(tmp_path, diary, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(OutputError, match=r"gone: no scratch folder can be made .* set TMPDIR"):
        attempts(tmp_path, diary, ["a"])


def test_a_missing_device_ends_the_run_and_blames_no_object(tmp_path, diary, temporary):
    with pytest.raises(ConfigError, match="no optix here"):
        attempts(tmp_path, diary, ["nogpu", "b"])
    assert_nothing_is_left(diary, temporary)


def test_scratch_of_dead_owners_is_removed_and_that_of_living_ones_kept(tmp_path, diary, temporary):
    for name in ("svd3d-render-1-abcdefgh/worker-0", "svd3d-render-2-chairs/cup", "svd3d-render-3-abcdefgh"):
        (temporary / name).mkdir(parents=True)
    with pool._locked(temporary / "svd3d-render-3-abcdefgh") as ours:
        assert ours
        outcomes(tmp_path, diary, ["a"])
    left = ["svd3d-render-2-chairs", "svd3d-render-3-abcdefgh"]  # somebody's own folder, and one in use
    assert sorted(p.name for p in temporary.iterdir()) == left


def test_a_coordinator_killed_outright_leaves_no_child_and_its_scratch_goes_next_time(
    tmp_path, diary, temporary
):
    program = (
        "import sys, tempfile; from render import pool; tempfile.tempdir = sys.argv[3]\n"
        "work = lambda worker, job: worker.ask({'do': 'load', 'path': job, 'folder': str(worker.folder)})\n"
        "for _ in pool.run(sys.argv[4:], [sys.argv[1]] * 9999, work, workers=2,"
        " limits=pool.Limits(timeout_s=60)): open(sys.argv[2], 'w').close()\n"
    )
    began = tmp_path / "began"
    arguments = [str(tmp_path / "a"), str(began), str(temporary), sys.executable, str(FAKE), str(diary)]
    coordinator = subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=Path(__file__).parents[2])
    while not began.exists():
        assert coordinator.poll() is None
        time.sleep(0.02)
    coordinator.send_signal(signal.SIGKILL)
    coordinator.wait()
    assert [p.name.split("-")[2] for p in temporary.iterdir()] == [str(coordinator.pid)]
    outcomes(tmp_path, diary, ["b"])
    assert_nothing_is_left(diary, temporary)
