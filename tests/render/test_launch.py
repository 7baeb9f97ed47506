"""Which command starts a worker, and that the worker is at home in any Blender."""

import json
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh

from render import launch, pool
from render.blender import device
from render.blender.refusal import Refusal
from render.blender.worker import brief
from svd3d.errors import ConfigError, RenderError

needs_bpy = pytest.mark.skipif(find_spec("bpy") is None, reason="needs bpy, which is not installed")
GLTF_TO_WORLD = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])


def program(path: Path, text: str) -> str:
    # A shebang takes no path with a space; to a shell these lines say exec, to Python they are a string.
    path.write_text(f"#!/bin/sh\n'''exec' '{sys.executable}' \"$0\" \"$@\"\n' '''\n{text}")
    path.chmod(0o755)
    return str(path)


def test_the_package_bpy_is_the_default():
    command = launch.command(threads=1)
    assert command[0] == sys.executable
    assert command[-3].endswith("render/blender/worker.py")


@pytest.mark.parametrize(
    ("version", "offline"), [("3.4.1", False), ("4.1.0", False), ("4.2.0 LTS", True), ("5.0.1", True)]
)
def test_an_executable_starts_clean_and_offline_where_it_can(tmp_path, version, offline):
    blender = program(tmp_path / "blender", f"print('Blender {version}\\n\\tbuild date: today')")
    command = launch.command(blender, threads=3)
    assert command[0] == blender
    assert {"--background", "--factory-startup", "--disable-autoexec"} < set(command)
    assert ("--offline-mode" in command) == offline
    assert command[command.index("--threads") + 1] == "3"
    assert command[-3:] == ("--python", str(launch.WORKER), "--")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("print('Blender 2.79 (sub 0)')", "is Blender 2.79, older than 3.4"),
        ("print('GNU Image Manipulation Program')", "not say that it is Blender but 'GNU Image"),
        ("", "not say that it is Blender but ''"),
        ("raise SystemExit('libGL.so.1: cannot open')", "but 'libGL.so.1: cannot open'"),
    ],
)
def test_what_is_no_usable_blender_is_named(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        launch.command(program(tmp_path / "tool", text), threads=1)


def test_a_missing_program_is_named():
    with pytest.raises(ConfigError, match="'/no/such/blender' is not an executable; pass the path"):
        launch.command("/no/such/blender", threads=1)


def gpu(kind, name):
    return SimpleNamespace(type=kind, name=name, use=False)


class Preferences:
    """Those of Cycles: devices by kind, each list with the CPU at its end, as Blender gives them."""

    def __init__(self, *found):
        self.devices = [*found, SimpleNamespace(type="CPU", name="a processor", use=True)]
        self.compute_device_type = "NONE"

    def get_devices_for_type(self, kind):
        if kind == "METAL":
            raise ValueError("Device type 'METAL' is not valid")
        return [each for each in self.devices if each.type in (kind, "CPU")]


TWO = (gpu("CUDA", "card"), gpu("OPTIX", "card"), gpu("OPTIX", "other card"))


@pytest.mark.parametrize(
    ("found", "wanted", "allow_cpu", "expected"),
    [
        ((), "auto", False, ("CPU", [])),
        ((), "cpu", False, ("CPU", [])),
        (TWO, "cpu", False, ("CPU", [])),
        (TWO, "auto", False, ("OPTIX", ["card", "other card"])),
        (TWO, "cuda", False, ("CUDA", ["card"])),
        (TWO, "hip", True, ("CPU", [])),
        ((gpu("HIP", "red"),), "auto", False, ("HIP", ["red"])),
    ],
)
def test_the_device_that_is_told_is_the_one_that_is_enabled(found, wanted, allow_cpu, expected):
    preferences = Preferences(*found)
    used = device.choose(preferences, wanted, allow_cpu=allow_cpu)
    assert (used["device"], used["names"]) == expected
    assert preferences.compute_device_type == (expected[0] if expected[1] else "NONE")
    if expected[1]:
        assert [each.name for each in preferences.devices if each.use] == expected[1]


@pytest.mark.parametrize("wanted", ["optix", "metal"])
def test_an_absent_device_is_an_error_unless_the_cpu_is_allowed(wanted):
    with pytest.raises(Refusal, match=f"finds no {wanted} device.*--allow-cpu") as caught:
        device.choose(Preferences(gpu("HIP", "red")), wanted, allow_cpu=False)
    assert caught.value.kind == "device"


def test_all_gpus_are_named():
    assert device.names(Preferences(*TWO)) == ["OPTIX card", "OPTIX other card", "CUDA card"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Error: OBJ Import:\n Cannot open", "OBJ Import: Cannot open"),
        (
            "Error: Python: Traceback (most recent call last):\n  File 'a', line 3\n    f()\nKeyError: 3\n"
            "Location: /usr/lib/x.py:133\n",
            "KeyError: 3",
        ),
        ("", "ValueError"),
    ],
)
def test_errors_are_told_in_one_line(text, told):
    assert brief(ValueError(text)) == told


def test_a_worker_limits_itself_and_takes_nothing_from_our_environment_but_its_own_package():
    program = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]); from render.blender import worker\n"
        "sys.path.pop(0); before = list(sys.path); worker._find_ourselves(); assert sys.path == before\n"
        "worker._limit_resources()\n"
        "print(*(resource.getrlimit(kind)[1] for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE)))\n"
    )
    root = str(Path(__file__).parents[2])
    said = subprocess.run([sys.executable, "-c", program, root], capture_output=True, text=True, check=True)
    assert [int(part) for part in said.stdout.split()] == [0, 8 << 30]


def loaded(command, paths):
    """Blender's answer, with the vertices, or its refusal, by name of the file; all by one worker."""

    def load(worker, path):
        folder = worker.folder / "object"
        folder.mkdir(exist_ok=True)
        request = {"do": "load", "path": str(path), "folder": str(folder), "max_faces": 1000}
        return {**worker.ask(request), "points": np.load(folder / "points.npy")}

    limits = pool.Limits(timeout_s=120, attempts=1)
    outcomes = pool.run(command, paths, load, workers=1, limits=limits)
    return {outcome.job.name: outcome.value or outcome.error for outcome in outcomes}


EXPORT = """
import bpy, math, os, sys
out = sys.argv[1]
bpy.ops.wm.read_factory_settings(use_empty=True)
points = [(x, y, z) for z in (0, 1, 2) for x in (-0.2, 0.2) for y in (-0.1, 0.1)]
sides = [(0, 2, 6, 4), (1, 5, 7, 3), (0, 4, 5, 1), (2, 3, 7, 6)]
walls = [tuple(corner + k for corner in side) for k in (0, 4) for side in sides]
mesh = bpy.data.meshes.new("bar")
mesh.from_pydata(points, [], [*walls, (0, 1, 3, 2), (8, 10, 11, 9)])
bar, armature = bpy.data.objects.new("bar", mesh), bpy.data.armatures.new("rig")
rig = bpy.data.objects.new("rig", armature)
for thing in (bar, rig):
    bpy.context.collection.objects.link(thing)
bpy.context.view_layer.objects.active = rig
bpy.ops.object.mode_set(mode="EDIT")
low, high = armature.edit_bones.new("low"), armature.edit_bones.new("high")
low.head, low.tail, high.head, high.tail, high.parent = (0, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, 2), low
bpy.ops.object.mode_set(mode="OBJECT")
bar.parent = rig
bar.modifiers.new("skin", "ARMATURE").object = rig
bar.vertex_groups.new(name="low").add(range(8), 1.0, "REPLACE")
bar.vertex_groups.new(name="high").add(range(8, 12), 1.0, "REPLACE")
pose = rig.pose.bones["high"]
pose.rotation_mode = "XYZ"
for frame, angle in ((1, 0), (20, math.pi / 2)):
    pose.rotation_euler = (angle, 0, 0)
    pose.keyframe_insert("rotation_euler", frame=frame)
bpy.context.scene.frame_set(1)
harm = f"open({out + '/harm'!r}, 'w')"
bar["note"] = harm
bar.driver_add("location", 0).driver.expression = f"{harm} and 0"
text = bpy.data.texts.new("start.py")
text.write(harm)
text.use_module = True
bpy.ops.export_scene.gltf(filepath=out + "/skinned.glb", export_extras=True, export_animations=True)
bpy.ops.export_scene.gltf(filepath=out + "/draco.glb", export_draco_mesh_compression_enable=True)
bpy.ops.export_scene.fbx(filepath=out + "/rigged.fbx", bake_anim=True)
bpy.ops.wm.save_as_mainfile(filepath=out + "/evil.blend")
os._exit(0)  # bpy may hang while Python shuts down
"""
"""A bar of 0.4 by 0.2 by 2 that bends over time, in files that also hold programs."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """What Blender's own exporters make: skinned.glb, draco.glb, rigged.fbx and evil.blend."""
    out = tmp_path_factory.mktemp("exported")
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, str(out)], capture_output=True, text=True, timeout=120
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "draco.glb",
        "evil.blend",
        "rigged.fbx",
        "skinned.glb",
    ], done.stderr
    return out


@pytest.mark.bpy
@needs_bpy
def test_a_rig_shows_its_mesh_alone_in_its_first_pose_and_no_program_in_a_file_runs(exported):
    found = loaded(launch.command(threads=1), sorted(exported.iterdir()))
    for name in ("skinned.glb", "draco.glb", "rigged.fbx"):
        assert (found[name]["faces"], found[name]["extent"]) == (20, pytest.approx(2, rel=1e-5))
        assert np.ptp(found[name]["points"], axis=0) == pytest.approx([0.2, 0.1, 1], abs=1e-4)
    assert isinstance(found["evil.blend"], RenderError)
    assert found["evil.blend"].kind == "unreadable"
    assert not (exported / "harm").exists()


@pytest.fixture(scope="module")
def ells(tmp_path_factory):
    """One shape without symmetry in every format that trimesh writes, and things to refuse."""
    folder = tmp_path_factory.mktemp("ells") / "inside"
    folder.mkdir()
    bar = trimesh.creation.box(bounds=[[-0.5, -0.2, 0.0], [0.0, 0.2, 2.0]])
    ell = trimesh.util.concatenate([bar, trimesh.creation.box(bounds=[[0, -0.2, 0], [1, 0.2, 0.5]])])
    for suffix in ("obj", "ply", "stl"):
        ell.export(folder / f"ell.{suffix}")
    stored = ell.copy()
    stored.vertices = ell.vertices @ GLTF_TO_WORLD
    stored.export(folder / "ell.glb")
    trimesh.creation.icosphere(subdivisions=4).export(folder / "many.glb")
    (folder / "flat.obj").write_text("v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n")
    (folder / "points.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
        "end_header\n0 0 0\n"
    )
    (folder / "broken.glb").write_bytes((folder / "ell.glb").read_bytes()[:200])
    return folder


def check_ells(found):
    expected = np.array([[-0.375, -0.1, -0.5], [0.375, 0.1, 0.5]])
    for suffix in ("glb", "obj", "ply", "stl"):
        answer = found[f"ell.{suffix}"]
        assert (answer["faces"], answer["extent"]) == (24, pytest.approx(2))
        points = answer["points"]
        assert np.stack([points.min(0), points.max(0)]) == pytest.approx(expected, abs=1e-6)
        assert points[points[:, 2] > 0.1, 0].max() == pytest.approx(-0.125, abs=1e-6)  # the bar is at -X
    refused = {name: error.kind for name, error in found.items() if isinstance(error, RenderError)}
    assert refused == {
        "many.glb": "too_large",
        "flat.obj": "degenerate",
        "points.ply": "no_mesh",
        "broken.glb": "unreadable",
    }


@pytest.mark.bpy
@needs_bpy
def test_the_package_loads_every_format_and_classes_what_it_refuses(ells):
    check_ells(loaded(launch.command(threads=1), sorted(ells.iterdir())))


@pytest.mark.bpy
@needs_bpy
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, where a child can die with its parent")
def test_a_worker_dies_with_its_parent_even_when_that_is_killed_and_the_pipe_stays_open():
    program = (
        "import subprocess, sys, time\n"
        "worker = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE); worker.stdout.readline()\n"
        "print(worker.pid, flush=True); time.sleep(600)\n"
    )
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, *launch.command(threads=1)], **pipe) as parent:
        stat = Path(f"/proc/{int(parent.stdout.readline())}/stat")
        assert "render" in stat.with_name("cmdline").read_text()
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 10
        while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline, "it is still running"
            time.sleep(0.01)


def blender_is_usable() -> bool:
    """Whether a Blender with numpy is installed; Debian's package only recommends numpy."""
    if shutil.which("blender") is None:
        return False
    test = ["blender", "--background", "--factory-startup", "--python-exit-code", "1"]
    return not subprocess.run(
        [*test, "--python-expr", "import numpy"], capture_output=True, timeout=60
    ).returncode


@pytest.mark.bpy
def test_an_installed_blender_loads_the_same(ells, exported):
    if not blender_is_usable():
        pytest.skip("needs Blender with numpy on the PATH")
    check_ells(loaded(launch.command("blender", threads=1), sorted(ells.iterdir())))
    found = loaded(launch.command("blender", threads=1), [exported / "skinned.glb", exported / "rigged.fbx"])
    for answer in found.values():
        assert (answer["faces"], answer["extent"]) == (20, pytest.approx(2, rel=1e-5))


STAND_IN = """
import json, os, subprocess, sys
script = sys.argv[-1]
json.dump(sys.argv[1:], open({record!r}, "w"))
lines = [line.strip() for line in open(script) if line.strip() and not line.strip().startswith("#")]
assert "import blenderproc" in lines[0], lines[0]  # BlenderProc's own check of a script
print("Using temporary directory: /dev/shm/blender_proc")
environment = dict(os.environ, PYTHONPATH="/nowhere", PYTHONNOUSERSITE="1")
raise SystemExit(subprocess.call([sys.executable, script, "--", script, "/dev/shm"], env=environment))
"""
"""What `blenderproc run` of version 2.8 does, with the package bpy in the place of its Blender."""


@pytest.mark.bpy
@needs_bpy
def test_blenderproc_can_start_the_worker(tmp_path, ells):
    record = tmp_path / "arguments.json"
    blenderproc = program(tmp_path / "blenderproc", STAND_IN.format(record=str(record)))
    found = loaded(launch.command(blenderproc, threads=1), [ells / "ell.glb"])
    assert found["ell.glb"]["faces"] == 24
    arguments = json.loads(record.read_text())
    assert arguments[:2] == ["run", "--blender-install-path"]
    assert os.environ["HOME"] in arguments[2] or arguments[2].startswith("/home_local")
    assert arguments[3:] == [str(launch.WORKER)]
