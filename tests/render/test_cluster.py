"""The engine `ray`: the same samples as the local one, also when nodes die; nothing lost, nothing double."""

import functools
import importlib.util
import os
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import trimesh
from hypothesis import given
from hypothesis import strategies as st

from render import cluster, local, objects, pool
from render import run as stage
from render.config import RenderConfig
from svd3d import runs
from svd3d.errors import ConfigError, OutputError

FAKE = Path(__file__).with_name("fake_worker.py")
ENVIRONMENT = {**cluster.ENVIRONMENT, **cluster.OWN_ENVIRONMENT}
NODE = {"num_cpus": 1, "object_store_memory": cluster.OBJECT_STORE}
needs_ray = pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed")


@pytest.fixture
def command(tmp_path):
    return (sys.executable, str(FAKE), str(tmp_path / "diary.txt"))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What the engine sets for Ray ends with the test."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def two_nodes():
    """A Ray cluster of two nodes with one CPU each; the second one may be killed by the last test."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        nodes = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        nodes.add_node(**NODE)
        yield nodes
        nodes.shutdown()


def boxes(folder, names):
    folder.mkdir(exist_ok=True)
    for name in names:
        trimesh.creation.box().export(folder / f"{name}.glb")
    return folder


def config(source, out, **changes):
    small = {"views": 2, "size": 16, "threads": 1, "chunk": 3, "workers": 2, "engine": "ray"}
    return RenderConfig(**{"source": source, "out": out, **small, **changes})


def results(asked, command):
    return {result.uid: result.status for result in stage.run(asked, command=command)}


def final_rows(out):
    rows = runs.read_lines(out / "ledger.jsonl")
    return [(row["uid"], row["kind"], row["attempt"]) for row in rows if row["final"]]


def samples(out):
    """Names and bytes of all files in sample folders."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.glob("*/**/*") if p.is_file()}


def processes(command):
    """Ids of the stand-ins for Blender that were started."""
    diary = Path(command[-1])
    return [int(line.split()[1]) for line in diary.read_text().splitlines()] if diary.exists() else []


def parent(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def wait_until(condition, timeout_s=240.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.05)


def task(asked, attempts, command):
    """What a task tells about all objects of a folder."""
    lead = functools.partial(local.run, asked, lights=[], command=command)
    work = cluster.Work("render", lead, functools.partial(local.made_before, asked.out))
    return cluster._work(work, objects.find(asked.source), attempts)


def test_what_a_lost_task_finished_is_told_and_not_rendered_again(tmp_path, command):
    asked = config(boxes(tmp_path / "objects", ["a", "b"]), tmp_path / "out", engine="local", workers=1)
    results(asked, command)
    row = runs.read_lines(asked.out / "ledger.jsonl")[0]
    told = list(task(asked, {"a": 0, "b": 2}, ("/no/such/program",)))
    assert [(t.outcome.job, t.outcome.kind, t.outcome.attempt, t.outcome.final) for t in told] == [
        ("a", "done", 1, True),
        ("b", "done", 3, True),
    ]
    made = told[0].outcome.value
    assert (made.faces, made.quality, made.device) == (row["faces"], row["quality"], row["device"])


def test_what_is_nobodys_object_ends_the_run_and_names_the_node(tmp_path, command):
    asked = config(boxes(tmp_path / "objects", ["full"]), tmp_path / "out")
    (halt,) = task(asked, {"full": 0}, command)
    error = halt.error()
    assert isinstance(error, OutputError)
    assert "scratch disk is full" in str(error)
    assert str(error).endswith(f"(on {os.uname().nodename})")
    (halt,) = task(asked, {"full": 0}, ("/no/such/program",))
    assert isinstance(halt.error(), pool.StartError)


@given(
    doomed=st.sets(st.integers(0, 11), max_size=1),
    chunk=st.integers(1, 5),
    workers=st.integers(1, 6),
    nodes=st.integers(1, 3),
    chance=st.randoms(use_true_random=False),
)
def test_an_object_that_kills_its_node_falls_alone(doomed, chunk, workers, nodes, chance):
    """Tasks of a simulated cluster, whose nodes die with everything on them when they meet the doomed one."""
    made = [objects.Source3D(str(number), Path(f"{number}.glb"), f"{number}.glb") for number in range(12)]
    queue = cluster.Queue(made, chunk=chunk, attempts={}, limit=3, stage="render")
    running, ended, losses = {}, Counter(), 0
    while True:
        free = [slot for slot in range(workers) if slot not in running]
        while free and (task := queue.take()):
            running[free.pop()] = task
        assert sum(task.suspect for task in running.values()) <= 1
        if not running:
            break
        slot = chance.choice(list(running))
        uid = next(iter(running[slot].left), None)
        if uid is None:
            queue.end(running.pop(slot))
        elif int(uid) in doomed:
            losses += 1
            for each in [other for other in running if other % nodes == slot % nodes]:
                outcome = queue.lose(running.pop(each), "NodeDiedError")
                if outcome and outcome.final:
                    ended[outcome.job.uid, outcome.kind] += 1
        else:
            done = pool.Outcome(uid, None, None, "done", 1, final=True, seconds=0.0, stage="render")
            outcome = queue.hear(running[slot], cluster.Told(done, ""))
            ended[outcome.job.uid, outcome.kind] += 1
    kinds = {number: "lost" if number in doomed else "done" for number in range(12)}
    assert ended == Counter((str(number), kind) for number, kind in kinds.items())
    assert losses == 5 * len(doomed)  # two until it is a suspect, and three attempts


def test_an_attempt_that_failed_counts_when_its_object_runs_again():
    made = [objects.Source3D(uid, Path(uid), uid) for uid in "ab"]
    queue = cluster.Queue(made, chunk=2, attempts=(counted := {}), limit=3, stage="render")
    task = queue.take()
    crash = pool.Outcome("a", None, None, "crash", 1, final=False, seconds=1.0, stage="load", log=("last",))
    outcome = queue.hear(task, cluster.Told(crash, "a: crashed"))
    assert (outcome.job.uid, str(outcome.error), outcome.error.kind) == ("a", "a: crashed", "crash")
    assert (outcome.log, outcome.final) == (("last",), False)
    assert list(task.left) == ["b", "a"]  # so that b is under suspicion if the node dies now
    assert counted == {"a": 1}


def test_room_counts_living_nodes_that_have_all_a_task_needs():
    def node(*, alive=True, **resources):
        return {"Alive": alive, "Resources": resources}

    nodes = [node(CPU=5.0, GPU=1.0), node(CPU=9.0), node(alive=False, CPU=99.0)]
    assert cluster._room(nodes, {"CPU": 2, "GPU": 0}) == 6
    assert cluster._room(nodes, {"CPU": 2, "GPU": 1}) == 1
    assert cluster._room(nodes, {"CPU": 16, "GPU": 0}) == 0
    assert [cluster._gpus(device, {"GPU": 2.0}) for device in ("cpu", "auto", "optix")] == [0, 1, 1]
    assert [cluster._gpus(device, {"CPU": 2.0}) for device in ("cpu", "auto", "optix")] == [0, 0, 1]


@needs_ray
def test_an_address_where_nobody_listens_is_refused_at_once(tmp_path, command):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        asked = config(boxes(tmp_path / "objects", ["a"]), tmp_path / "out", ray_address=address)
        with pytest.raises(ConfigError, match=f"nobody answers at {address}"):
            results(asked, command)
    assert processes(command) == []


@needs_ray
def test_a_cluster_of_its_own_gives_what_the_local_engine_gives(tmp_path, command, capfd):
    """With objects that crash, are refused, and take the process of their task with them."""
    names = ["crash", "crash_once", "cup", "mug", "refuse", "vase", "wok"]
    here = boxes(tmp_path / "objects", names)
    there = boxes(tmp_path / "again", [*names, "sink"])
    results(config(here, tmp_path / "local", engine="local", workers=1, attempts=2), command)
    capfd.readouterr()
    asked = config(there, tmp_path / "ray", workers=1, attempts=2)
    running = stage.run(asked, command=command)
    first = next(running)
    import ray

    addresses = {node["NodeManagerAddress"] for node in ray.nodes()}
    list(running)
    assert first.uid
    assert addresses == {"127.0.0.1"}
    assert not ray.is_initialized()
    assert samples(tmp_path / "ray") == samples(tmp_path / "local")
    local_rows, ray_rows = final_rows(tmp_path / "local"), final_rows(tmp_path / "ray")
    assert sorted(ray_rows) == sorted([*local_rows, ("sink", "lost", 2)])
    assert capfd.readouterr().out == ""


@needs_ray
def test_a_run_that_is_stopped_leaves_no_blender_and_no_scratch(two_nodes, tmp_path, command):
    folder = boxes(tmp_path / "objects", ["a", "b_wait", "c", "d", "e_wait", "f"])
    running = stage.run(config(folder, tmp_path / "out", ray_address=two_nodes.address), command=command)
    next(running)
    wait_until(lambda: len(list(folder.glob("*_wait.seen"))) == 2)
    leaders = [parent(process) for process in processes(command)]
    assert len(leaders) == 2
    running.close()
    wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes(command)))
    folder = Path(tempfile.gettempdir())
    wait_until(lambda: not [s for leader in leaders for s in folder.glob(f"{pool.SCRATCH}{leader}-*")])


@needs_ray
def test_when_a_node_is_killed_nothing_is_lost_and_nothing_is_double(two_nodes, tmp_path, command, caplog):
    names = [f"{number:02d}" + "_wait" * (number in (1, 4)) for number in range(12)]
    folder = boxes(tmp_path / "objects", names)
    asked = config(folder, tmp_path / "ray", ray_address=two_nodes.address)
    running = stage.run(asked, command=command)
    told = [next(running), next(running)]
    wait_until(lambda: len(list(folder.glob("*_wait.seen"))) == 2)
    victim = two_nodes.list_all_nodes()[1]
    (raylet,) = victim.all_processes["raylet"]
    (killed,) = [each for each in processes(command) if parent(parent(each)) == raylet.process.pid]
    two_nodes.remove_node(victim, allow_graceful=False)
    wait_until(lambda: not Path(f"/proc/{killed}").exists())
    (folder / "go").touch()
    told += running
    assert sorted(result.uid for result in told) == sorted(names)
    assert {result.status for result in told} == {"done"}
    assert sorted(final_rows(asked.out)) == [(name, "done", 1) for name in sorted(names)]
    assert "a task was lost" in caplog.text
    assert "its 2 unfinished objects go back" in caplog.text
    assert len(processes(command)) == 4 + 1  # the killed node's task ran again
    results(config(folder, tmp_path / "local", engine="local"), command)
    assert samples(asked.out) == samples(tmp_path / "local")
