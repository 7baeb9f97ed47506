"""The stage with a stand-in for Blender: resuming, failing, refusing, and leaving nothing half-written."""

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import trimesh

from render import ledger, orbit
from render import run as stage
from render.config import RenderConfig
from svd3d import runs, sample
from svd3d.errors import ConfigError, DependencyError, InputError, ObjectError, RenderError

FAKE = Path(__file__).with_name("fake_worker.py")


@pytest.fixture
def command(tmp_path):
    return (sys.executable, str(FAKE), str(tmp_path / "diary.txt"))


@pytest.fixture
def folder(tmp_path):
    """Three good objects."""
    made = tmp_path / "objects"
    made.mkdir()
    for name in ("cup", "mug", "vase"):
        trimesh.creation.box().export(made / f"{name}.glb")
    return made


def config(source, out, **changes):
    return RenderConfig(
        **{"source": source, "out": out, "views": 3, "size": 16, "timeout_s": 30.0, **changes}
    )


def results(asked, command, **options):
    return {result.uid: result for result in stage.run(asked, command=command, **options)}


def states(out):
    """How many objects failed by which class, or are done."""
    return dict(Counter(known.kind for known in ledger.read(out).values()))


def everything(folder):
    """Names and bytes of all files that are not about one run (lock, clock)."""
    own = ("manifest.json", "ledger.jsonl", ".lock")
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name not in own
    }


def test_a_folder_becomes_samples_with_cameras_depth_and_story(folder, tmp_path, command):
    out, views = tmp_path / "out", []
    asked = config(folder, out)
    found = results(asked, command, on_view=lambda *view: views.append(view))
    assert {uid: result.status for uid, result in found.items()} == dict.fromkeys(
        ("cup", "mug", "vase"), "done"
    )
    assert stage.count(asked) == 3
    assert sorted(views) == [(uid, n, 3) for uid in ("cup", "mug", "vase") for n in (1, 2, 3)]
    read = sample.read(out / "mug")
    assert (read.uid, read.origin, read.condition_view, len(read)) == ("mug", "rendered", 0, 3)
    assert read.orbit.num_views == 3
    assert read.depth[0, 8, 8] == pytest.approx(2, abs=1e-4)
    assert read.depth[0, 0, 0] == 0
    assert read.about["source"] == "mug.glb"
    assert read.about["sha256"] == runs.sha256(folder / "mug.glb")
    assert read.about["quality"]["coverage"] == round((12 / 16) ** 2, 4)
    assert read.about["method"] == {"oversampling": 3, "paths": 8, "psnr_db": None, "denoised": True}
    assert str(tmp_path) not in (out / "mug/transforms.json").read_text()
    assert read.object_to_world @ [0, 1, 0, 1] == pytest.approx([0, 0, 0.5, 1])  # stored +Y is up
    rows = runs.read_lines(out / "ledger.jsonl")
    assert [row["status"] for row in rows] == ["done"] * 3
    (row,) = (row for row in rows if row["uid"] == "mug")
    assert row["quality"] == read.about["quality"]
    assert (row["faces"], row["cpu_s"], row["device"]) == (12, pytest.approx(0.3), "CPU")
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["stage"], manifest["device"]) == ("render", "CPU")


def test_running_again_renders_nothing_and_changes_nothing(folder, tmp_path, command):
    asked = config(folder, tmp_path / "out")
    results(asked, command)
    before = everything(tmp_path / "out")
    again = results(asked, ("/no/such/program",))
    assert {result.status for result in again.values()} == {"skipped"}
    assert everything(tmp_path / "out") == before


def test_stopped_and_resumed_is_never_stopped(folder, tmp_path, command):
    whole, stopped = config(folder, tmp_path / "whole"), config(folder, tmp_path / "stopped")
    results(whole, command)
    running = stage.run(stopped, command=command)
    next(running)
    running.close()
    resumed = results(stopped, command)
    assert {result.status for result in resumed.values()} <= {
        "done",
        "skipped",
    }  # the child may have been ahead
    assert states(tmp_path / "stopped") == {"done": 3}
    first, second = everything(tmp_path / "whole"), everything(tmp_path / "stopped")
    assert first.pop("config.yaml") != second.pop("config.yaml")
    assert first == second


def test_an_object_finished_without_a_row_gets_one(folder, tmp_path, command):
    """What a power cut between the last rename and the ledger leaves."""
    asked = config(folder, tmp_path / "out")
    results(asked, command)
    path = tmp_path / "out/ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert states(tmp_path / "out") == {"done": 2}
    results(asked, command)
    results(asked, command)
    assert states(tmp_path / "out") == {"done": 3}
    rows = runs.read_lines(path)
    assert len(rows) == 3
    for row in rows:
        assert row["quality"] == sample.read(tmp_path / "out" / row["uid"]).about["quality"]


def test_bad_objects_are_named_and_the_others_go_on(folder, tmp_path, command):
    good = (folder / "cup.glb").read_bytes()
    for name in ("crash", "quit", "refuse", "garbage", "huge"):
        (folder / f"{name}.glb").write_bytes(good)
    (folder / "picture.glb").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    (folder / "evil.blend").write_bytes(b"BLENDER")
    out = tmp_path / "out"
    found = results(config(folder, out), command)
    assert sorted(uid for uid, result in found.items() if result.status == "done") == ["cup", "mug", "vase"]
    assert all(
        result.folder is None and result.message for result in found.values() if result.status == "failed"
    )
    counts = {"done": 3, "crash": 2, "no_mesh": 1, "protocol": 2, "bad_download": 0, "unsupported": 1}
    assert states(out) == {kind: n for kind, n in counts.items() if n} | {"unknown_format": 1}
    assert "PNG picture" in ledger.why(out, "picture")[-1].message
    assert [row.status for row in ledger.why(out, "quit")] == ["requeued", "requeued", "failed"]
    assert ledger.why(out, "quit")[-1].log[-1] == "line 49"
    assert "no surface" in ledger.why(out, "refuse")[-1].message
    with pytest.raises(InputError, match="knows nothing of 'nobody'"):
        ledger.why(out, "nobody")
    assert sorted(p.name for p in sample.find(out)) == ["cup", "mug", "vase"]


def test_what_failed_for_good_is_told_but_not_tried_until_it_is_reopened(folder, tmp_path, command):
    (folder / "refuse.glb").write_bytes((folder / "cup.glb").read_bytes())
    asked = config(folder, tmp_path / "out")
    results(asked, command)
    seen = folder / "refuse.seen"
    seen.unlink()
    again = results(asked, command)["refuse"]
    assert (again.status, again.folder, seen.exists()) == ("failed", None, False)
    assert "no surface" in again.message
    assert "svd3d render retry" in again.message
    assert ledger.retry(tmp_path / "out") == ["refuse"]
    assert results(asked, command)["refuse"].status == "failed"
    assert seen.exists()
    assert [row.status for row in ledger.why(tmp_path / "out", "refuse")] == ["failed", "retry", "failed"]


def test_parts_of_a_job_array_share_a_folder_and_make_the_whole(tmp_path, command):
    objects = tmp_path / "objects"
    objects.mkdir()
    for i in range(12):
        trimesh.creation.box().export(objects / f"box{i}.glb")
    results(config(objects, tmp_path / "whole"), command)
    made = [set(results(config(objects, tmp_path / "parts", shard=(i, 3)), command)) for i in range(3)]
    assert sum(map(len, made)) == len(set.union(*made)) == 12
    assert states(tmp_path / "parts") == {"done": 12}
    whole, parts = everything(tmp_path / "whole"), everything(tmp_path / "parts")
    kept = {name for name in whole if name.startswith("box")}
    assert {name: whole[name] for name in kept} == {n: parts[n] for n in parts if n.startswith("box")}
    assert {result.status for result in results(config(objects, tmp_path / "parts"), command).values()} == {
        "skipped"
    }


def test_licences_are_filtered_and_copies_rendered_once(folder, tmp_path, command):
    digest = runs.sha256(folder / "cup.glb")
    lines = [
        {"uid": "A", "path": "cup.glb", "licence": "CC BY-NC 4.0", "sha256": digest},
        {"uid": "B", "path": "cup.glb", "licence": "CC0-1.0", "sha256": digest},
        {"uid": "C", "path": "cup.glb", "licence": "CC-BY-4.0", "sha256": digest},
        {"uid": "D", "path": "mug.glb"},
    ]
    (folder / "objects.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = config(folder / "objects.jsonl", tmp_path / "out", licence=("cc0", "cc-by"))
    found = results(asked, command)
    assert {uid: result.status for uid, result in found.items()} == {"B": "done", "C": "failed"}
    assert "the same object as" in found["C"].message
    assert states(tmp_path / "out") == {"done": 1, "duplicate": 1}
    assert stage.count(asked) == 2
    with pytest.raises(ObjectError, match="no object has a licence among cc-by-sa"):
        stage.run(config(folder / "objects.jsonl", tmp_path / "out", licence=("cc-by-sa",)), command=command)


def test_normals_come_along_when_asked_for(folder, tmp_path, command):
    results(config(folder / "cup.glb", tmp_path / "out", normal=True), command)
    made = sample.read(tmp_path / "out/cup")
    assert made.normal[0, 8, 8] == pytest.approx([0, 0, 1], abs=0.01)
    assert not made.normal[0, 0, 0].any()


def test_a_list_brings_licences_and_digests(folder, tmp_path, command):
    lines = [
        {"uid": "A", "path": "cup.glb", "licence": "CC0-1.0", "sha256": runs.sha256(folder / "cup.glb")},
        {"uid": "B", "path": "mug.glb", "licence": "CC-BY-4.0", "sha256": "0" * 64},
        {"uid": "C", "path": "gone.glb"},
    ]
    (folder / "objects.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = results(config(folder / "objects.jsonl", tmp_path / "out"), command)
    assert sample.read(tmp_path / "out/A").about["licence"] == "CC0-1.0"
    assert "the list says 000000000000" in found["B"].message
    assert "no such 3-D file" in found["C"].message
    assert json.loads((tmp_path / "out/manifest.json").read_text())["licences"] == ["CC-BY-4.0", "CC0-1.0"]


@pytest.mark.parametrize("name", ["crash", "quit", "refuse", "huge"])
def test_a_single_bad_object_raises_and_leaves_nothing(folder, tmp_path, command, name):
    path = tmp_path / f"{name}.glb"
    shutil.copy(folder / "cup.glb", path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RenderError, match=name):
        results(config(path, tmp_path / "deep/er/out"), command)
    left = {"diary.txt", f"{name}.seen"}
    assert [p for p in sorted(tmp_path.iterdir()) if p.name not in left] == before


def test_a_single_file_that_is_no_object_is_refused_before_anything_is_made(tmp_path, command):
    path = tmp_path / "picture.glb"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    with pytest.raises(ObjectError, match="PNG picture"):
        stage.run(config(path, tmp_path / "out"), command=command)
    with pytest.raises(InputError, match="nearest folder that exists"):
        stage.run(config(tmp_path / "none.glb", tmp_path / "out"), command=command)
    assert sorted(tmp_path.iterdir()) == [path]


def test_an_output_that_cannot_be_written_is_refused(folder, tmp_path, command):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, not a folder"):
        results(config(folder, tmp_path / "file/out"), command)


def test_other_settings_are_refused_but_other_workers_are_not(folder, tmp_path, command):
    out = tmp_path / "out"
    results(config(folder, out), command)
    with pytest.raises(ConfigError, match="size was 16, now 24"):
        results(config(folder, out, size=24), command)
    assert len(results(config(folder, out, workers=2, timeout_s=5.0), command)) == 3


def test_two_runs_on_one_folder_are_refused(folder, tmp_path, command):
    asked = config(folder, tmp_path / "out")
    running = stage.run(asked, command=command)
    next(running)
    with pytest.raises(InputError, match="in use by process"):
        results(asked, command)
    running.close()


def test_an_invisible_object_is_a_failure(folder, tmp_path, command, monkeypatch):
    shapes = {"rgba": ((16, 16, 4), np.uint8), "depth": ((16, 16), np.float32)}

    def blank(path, allow_pickle):
        if path.name == "points.npy":
            return np.array([[0.1, 0.2, 0.5], [0, 0, -0.5]])
        return np.zeros(*shapes[path.suffixes[-2][1:]])

    monkeypatch.setattr(orbit.np, "load", blank)
    found = results(config(folder, tmp_path / "out"), command)
    assert all("nothing is to be seen" in result.message for result in found.values())


def test_a_missing_blender_names_the_extra(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(stage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"svd3d\[render\]"):
        stage.run(config(folder, tmp_path / "out"))


def test_a_missing_system_library_names_the_packages(folder, tmp_path):
    command = (
        sys.executable,
        "-c",
        "raise SystemExit('libSM.so.6: cannot open shared object file: No such file')",
    )
    with pytest.raises(DependencyError, match="apt-get install libsm6"):
        results(config(folder, tmp_path / "out"), command)


def test_light_that_is_no_light_is_refused(folder, tmp_path, command):
    (tmp_path / "sky.exr").write_bytes(b"<?xml version='1.0'?><Error>NoSuchKey</Error>")
    with pytest.raises(InputError, match="neither Radiance HDR nor OpenEXR"):
        stage.run(config(folder, tmp_path / "out", hdri=tmp_path / "sky.exr"), command=command)
