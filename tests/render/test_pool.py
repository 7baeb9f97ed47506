"""Children that crash, hang and lie: nothing is lost, nothing is left running."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from render import pool
from svd3d.errors import OutputError, RenderError

FAKE = Path(__file__).with_name("fake_worker.py")


@pytest.fixture
def diary(tmp_path):
    return tmp_path / "diary.txt"


def outcomes(tmp_path, diary, names, *, workers=1, **limits):
    """Outcomes of loading objects of these names, by name."""
    for name in names:
        (tmp_path / name).touch()
    limits = pool.Limits(**{"timeout_s": 20.0, **limits})
    command = (sys.executable, str(FAKE), str(diary))
    found = pool.run(command, names, lambda *job: load(tmp_path, *job), workers=workers, limits=limits)
    return {outcome.job: outcome for outcome in found}


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


def assert_nothing_runs(diary):
    deadline = time.monotonic() + 5
    while (left := [pid for pid in started(diary) if alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def test_one_child_serves_many_objects(tmp_path, diary):
    found = outcomes(tmp_path, diary, ["a", "b", "c"])
    assert [outcome.value for outcome in found.values()] == [12, 12, 12]
    assert len(started(diary)) == 1
    assert_nothing_runs(diary)


def test_two_slots_share_the_work(tmp_path, diary):
    names = [f"object{i}" for i in range(12)]
    found = outcomes(tmp_path, diary, names, workers=2)
    assert sorted(found) == sorted(names)
    assert {outcome.kind for outcome in found.values()} == {"done"}
    assert 1 <= len(started(diary)) <= 2


def test_a_crash_is_tried_again(tmp_path, diary):
    found = outcomes(tmp_path, diary, ["crash_once", "b"])
    assert found["crash_once"].kind == found["b"].kind == "done"
    assert found["crash_once"].attempts == 2


def test_an_object_that_always_crashes_is_left_out_and_the_next_is_done(tmp_path, diary):
    found = outcomes(tmp_path, diary, ["crash", "b"], attempts=3)
    bad = found["crash"]
    assert (bad.kind, bad.attempts, bad.value) == ("crash", 3, None)
    assert str(bad.error) == "crash: Blender was killed by SIGKILL (3 times); the object is left out"
    assert bad.log == ("loading crash",)
    assert found["b"].kind == "done"
    assert len(started(diary)) == 4


def test_the_last_twenty_lines_are_kept(tmp_path, diary):
    bad = outcomes(tmp_path, diary, ["quit"], attempts=1)["quit"]
    assert bad.log == tuple(f"line {i}" for i in range(30, 50))
    assert "exit code 3 (once)" in str(bad.error)


def test_a_hanging_child_and_its_own_children_are_killed_within_the_limit(tmp_path, diary):
    start = time.monotonic()
    found = outcomes(tmp_path, diary, ["hang", "b"], timeout_s=0.5, attempts=1)
    assert time.monotonic() - start < 15
    assert found["hang"].kind == "timeout"
    assert "took longer than 0.5 s" in str(found["hang"].error)
    assert found["b"].kind == "done"
    assert len(started(diary)) == 3
    assert_nothing_runs(diary)


@pytest.mark.parametrize("name", ["garbage", "endless", "strange"])
def test_nonsense_on_the_pipe_is_a_fault_of_the_child(tmp_path, diary, name):
    found = outcomes(tmp_path, diary, [name, "b"], attempts=2)
    assert (found[name].kind, found[name].attempts) == ("protocol", 2)
    assert found["b"].kind == "done"


def test_a_refused_object_costs_neither_a_second_attempt_nor_the_child(tmp_path, diary):
    found = outcomes(tmp_path, diary, ["refuse", "b"])
    assert (found["refuse"].kind, found["refuse"].attempts) == ("refused", 1)
    assert isinstance(found["refuse"].error, RenderError)
    assert len(started(diary)) == 1


@pytest.mark.parametrize(("limits", "children"), [({"recycle_after": 2}, 3), ({}, 1)])
def test_children_are_replaced_after_enough_objects(tmp_path, diary, limits, children):
    outcomes(tmp_path, diary, ["a", "b", "c", "d", "e"], **limits)
    assert len(started(diary)) == children


def test_a_child_that_has_grown_is_replaced(tmp_path, diary):
    outcomes(tmp_path, diary, ["fat1", "a", "b"])
    assert len(started(diary)) == 2


def test_a_program_that_cannot_start_ends_the_run_with_its_last_words(tmp_path):
    command = (sys.executable, "-c", "raise SystemExit('libSM.so.6: cannot open shared object file')")
    limits = pool.Limits(timeout_s=5)
    with pytest.raises(pool.StartError) as caught:
        list(pool.run(command, ["a"], lambda worker, job: worker.ask({}), workers=1, limits=limits))
    assert caught.value.log[-1].startswith("libSM.so.6")


def test_an_error_of_ours_ends_the_run_and_leaves_nothing(tmp_path, diary):
    def work(worker, job):
        load(tmp_path, worker, job)
        raise ZeroDivisionError

    command = (sys.executable, str(FAKE), str(diary))
    with pytest.raises(ZeroDivisionError):
        list(pool.run(command, ["a", "b"], work, workers=2, limits=pool.Limits(timeout_s=20)))
    assert_nothing_runs(diary)


def test_closing_the_run_while_a_child_hangs_leaves_nothing(tmp_path, diary):
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
    assert_nothing_runs(diary)
    assert set(threading.enumerate()) <= before


def test_children_get_their_own_home_and_temporary_folder(tmp_path):
    program = "import json, os, sys; print(json.dumps({'kind': 'ready'}), flush=True); input();"
    program += (
        "print(json.dumps({'kind': 'done', **{k: os.environ[k] for k in ('HOME', 'TMPDIR')}}), flush=True)"
    )
    command = (sys.executable, "-c", program)
    (found,) = pool.run(
        command, ["a"], lambda worker, job: worker.ask({}), workers=1, limits=pool.Limits(timeout_s=20)
    )
    assert found.value["HOME"] == found.value["TMPDIR"] != os.environ["HOME"]
    assert not Path(found.value["HOME"]).exists()


def test_a_full_disk_ends_the_run_and_blames_no_object(tmp_path, diary):
    def full(worker, name):
        load(tmp_path, worker, name)
        raise OutputError("views: the disk is full")

    (tmp_path / "a").touch()
    command = (sys.executable, str(FAKE), str(diary))
    with pytest.raises(OutputError, match="the disk is full"):
        list(pool.run(command, ["a", "b"], full, workers=1, limits=pool.Limits(timeout_s=20.0)))
    assert_nothing_runs(diary)
