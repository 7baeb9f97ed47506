"""`svd3d benchmark gso` on objects made here: a stand-in for Blender, peers' views, failures, resuming."""

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh

from recon.run import Reconstructed
from render.remote import shuffled
from render.run import Rendered
from svd3d import benchmark, cli, evaluate, runs, sample
from svd3d import images as pictures
from svd3d.benchmark_plan import SPLITS
from svd3d.errors import CheckpointError, ConfigError, InputError, MeshError, SampleError
from svd3d.settings import BenchmarkConfig, EvaluateConfig, EvaluateVerifyConfig

SOLIDS = {"red_chair": "boxes", "blue_ball": "sphere", "old_cup": "boxes"}
SIZE, VIEWS = 40, 7
QUICK = {"about": "as svd-mv and mesh-world, with less to compute", "bootstrap_samples": 100}
ORBIT = {"num_views": VIEWS, "orbit": "static", "exclude_condition_view": True, "baselines": True}
PROTOCOLS = {
    "views": QUICK | ORBIT | {"metrics": ["psnr", "mask-iou"]},
    "meshes": QUICK | {"metrics": ["chamfer"], "alignment": "world", "surface_samples": 2000},
}


@pytest.fixture
def objects(tmp_path):
    """Three objects in the layout of Google Scanned Objects."""
    meshes = {
        "red_chair": trimesh.util.concatenate(
            [
                trimesh.creation.box(bounds=[[-0.5, -0.25, -0.4], [0.5, 0.25, -0.1]]),
                trimesh.creation.box(bounds=[[0.1, -0.25, -0.1], [0.5, 0.05, 0.4]]),
            ]
        ),
        "blue_ball": trimesh.creation.icosphere(radius=0.5),
    }
    meshes["old_cup"] = meshes["red_chair"]
    for name, mesh in meshes.items():
        folder = tmp_path / "gso" / name.title() / "meshes"
        folder.mkdir(parents=True)
        mesh.export(folder / "model.obj")
    return tmp_path / "gso"


@pytest.fixture
def render(make_sample):
    """Makes reference views as the render stage does, without Blender; `render.bad` objects fail."""

    def stage(config):
        for line in config.source.read_text().splitlines():
            uid = json.loads(line)["uid"]
            if uid in stage.bad:
                yield Rendered(uid, None, "failed", f"{uid}: Blender died", 0.0)
            elif sample.is_sample(config.out / uid):
                yield Rendered(uid, config.out / uid, "skipped", "", 0.0)
            else:
                size = {"num_views": config.views, "size": config.size}
                make_sample(config.out / uid, uid=uid, solid=SOLIDS[uid], **size)
                stage.made.append(uid)
                yield Rendered(uid, config.out / uid, "done", "", 0.0)

    stage.bad, stage.made = set(), []
    return stage


@pytest.fixture
def peer(make_sample, tmp_path):
    """Views of all objects by another method: the true ones with noise."""

    def make(name="peer", *, amount=20, num_views=VIEWS, without=()):
        for uid, solid in SOLIDS.items():
            if uid not in without:
                true = make_sample(uid=uid, solid=solid, num_views=num_views, size=SIZE)
                noise = np.random.default_rng(0).integers(-amount, amount + 1, true.images.shape)
                noise[..., 3] = 0
                views = (true.images.astype(int) + noise).clip(0, 255).astype(np.uint8)
                made = dataclasses.replace(true, images=views, origin="generated", depth=None)
                sample.write(made, tmp_path / name / uid)
        return f"{name}={tmp_path / name}"

    return make


@pytest.fixture
def reconstruct(monkeypatch):
    """A stand-in for reconstruction: always the ball, but nothing for views without an object."""

    def stage(config):
        views = sample.read(config.sample)
        if not views.images[..., 3].any():
            raise MeshError(f"{config.sample}: silhouettes are empty")
        if (config.out / "recon.json").exists():
            yield Reconstructed(views.uid, config.out, "skipped", "", 0.0)
            return
        sample.write(dataclasses.replace(views, origin="reconstructed", depth=None), config.out / "renders")
        trimesh.creation.icosphere(radius=0.5).export(config.out / "mesh.glb")
        runs.write_manifest(
            config.out, stage="reconstruct", config=config, seconds={"carve": 1.0, "bake": 0.5}
        )
        shifts = [[3.0, 4.0]] * len(views)
        runs.write_json(config.out / "recon.json", {"views": {"shifts_px": shifts}})
        yield Reconstructed(views.uid, config.out, "done", "", 1.5)

    monkeypatch.setattr("recon.run.run", stage)


@pytest.fixture
def config(objects, tmp_path):
    def make(**settings):
        for kind, facts in PROTOCOLS.items():
            (tmp_path / f"{kind}.yaml").write_text(json.dumps({"name": kind, "kind": kind} | facts))
        options = {"views_only": True, "size": SIZE, "out": tmp_path / "bench"}
        options |= {"protocol": str(tmp_path / "views.yaml"), "mesh_protocol": str(tmp_path / "meshes.yaml")}
        return BenchmarkConfig(objects, **(options | settings))

    return make


def report(out: Path, kind: str = "views") -> dict:
    return json.loads((out / kind / "report.json").read_text())


def test_peers_and_baselines_stand_in_one_table(config, render, peer):
    settings = config(pred=(peer("near", amount=5), peer("far", amount=60)))
    done = benchmark.run(settings, render=render)
    found = report(settings.out)
    assert list(found["methods"])[:2] == ["near", "far"]
    assert {"input-copied", "input-copied-mirrored"} < set(found["methods"])
    psnr = {name: scores["psnr"]["mean"] for name, scores in found["methods"].items() if "psnr" in scores}
    assert psnr["near"] > psnr["far"] > psnr["input-copied"]
    assert {scores["psnr"]["n"] for scores in found["methods"].values() if "psnr" in scores} == {3}
    assert (done.objects, done.failed) == (3, {})
    page = done.page.read_text()
    for link in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert (settings.out / link).is_file(), link
    assert f"{psnr['near']:.2f}" in page
    assert not (settings.out / "methods").exists()  # no mesh was asked for


def test_the_numbers_are_those_of_evaluate(config, render, peer, tmp_path):
    settings = config(pred=(peer(),))
    benchmark.run(settings, render=render)
    alone = evaluate.run(
        EvaluateConfig(
            settings.pred, settings.out / "reference", tmp_path / "alone", protocol=settings.protocol
        )
    )
    ours = {
        (r["method"], r["object"], r["view"], r["metric"]): r["value"] for r in report(settings.out)["rows"]
    }
    assert ours == {(r.method, r.object, r.view, r.metric): r.value for r in alone.rows}


def test_a_model_generates_reconstructs_and_is_scored(config, render, reconstruct, peer, objects):
    shutil.rmtree(objects / "Red_Chair")
    shutil.rmtree(objects / "Old_Cup")
    settings = config(model=("tiny",), pred=(peer(),), steps=1, views_only=False)
    benchmark.run(settings, render=render)
    assert sample.read(settings.out / "methods/tiny/views/blue_ball").about["model"] == "tiny"
    meshes = report(settings.out, "meshes")["methods"]
    assert list(meshes)[:3] == ["tiny", "peer", "true-views"]
    assert meshes["peer"]["chamfer"]["mean"] < 0.05  # the ball; what remains is the distance of random points
    assert set(report(settings.out)["methods"]) >= {"tiny", "peer", "input-copied"}
    notes = "\n".join(json.loads((settings.out / "benchmark.json").read_text())["notes"])
    assert "tiny: trained on toy cars and toy furniture only" in notes
    assert re.search(r"tiny: [\d.]+ GB of memory", notes)
    fits = {row["value"] for row in report(settings.out)["rows"] if row["metric"] == "camera-fit"}
    assert fits == {5.0}  # pixels: the length of (3, 4)
    assert (settings.out / "media/blue_ball/mesh-of-tiny.png").is_file()


def test_an_object_that_fails_is_named_counted_and_in_no_mean(config, render, peer, capsys, monkeypatch):
    render.bad.add("old_cup")
    settings = config(pred=(peer(),))
    done = benchmark.run(settings, render=render)
    assert done.failed == {"old_cup": {"render": "old_cup: Blender died"}}
    found = report(settings.out)
    assert {row["object"] for row in found["rows"]} == {"red_chair", "blue_ball"}
    assert json.loads((settings.out / "benchmark.json").read_text())["failed"] == done.failed
    for told in (done.page, settings.out / "views/report.md", settings.out / "views/report.html"):
        assert "1 of 3 objects failed" in told.read_text()
        assert "old_cup: render: old_cup: Blender died" in told.read_text()

    monkeypatch.setattr("render.run.run", render)
    words = ["--objects", settings.objects, "--out", settings.out, "--size", SIZE, "--views-only"]
    words += ["--protocol", settings.protocol, "--pred", settings.pred[0]]
    with pytest.raises(SystemExit) as ended:
        cli.main(["benchmark", "gso", *map(str, words)])
    told = capsys.readouterr()
    assert ended.value.code == 1
    assert told.out == f"{done.page}\n"
    assert "failed: old_cup: render: old_cup: Blender died" in told.err
    assert "2 of 3 objects" in told.err


def test_an_object_without_a_mesh_still_counts_among_the_views(config, render, reconstruct, peer, tmp_path):
    settings = config(pred=(peer(),), views_only=False)
    views = sample.read(tmp_path / "peer/old_cup")
    blank = views.images.copy()
    blank[..., 3] = 0
    sample.write(dataclasses.replace(views, images=blank), tmp_path / "peer/old_cup")
    done = benchmark.run(settings, render=render)
    assert list(done.failed["old_cup"]) == ["reconstruct peer"]
    assert {row["object"] for row in report(settings.out)["rows"]} == set(SOLIDS)
    assert {row["object"] for row in report(settings.out, "meshes")["rows"]} == {"red_chair", "blue_ball"}


def test_when_every_object_fails_the_page_says_so(config, render):
    render.bad |= set(SOLIDS)
    done = benchmark.run(config(), render=render)
    assert done.reports == {}
    assert "There is nothing to score." in done.page.read_text()
    assert "no method was entered" in done.page.read_text()


def test_running_again_makes_only_what_is_missing(config, render, peer):
    settings = config(pred=(peer(),))

    def killed(asked):
        for each in render(asked):
            yield each
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark.run(settings, render=killed)
    assert not (settings.out / "benchmark.json").exists()
    benchmark.run(settings, render=render)
    assert render.made == ["blue_ball", "old_cup", "red_chair"]  # each once
    first = (settings.out / "views/report.json").read_bytes()
    benchmark.run(settings, render=render)
    assert (settings.out / "views/report.json").read_bytes() == first


def test_the_report_can_be_verified_against_its_files(config, render, peer):
    settings = config(pred=(peer(),))
    benchmark.run(settings, render=render)
    verify = EvaluateVerifyConfig(settings.out / "views")
    checked = {each.uid: each.status for each in evaluate.verify(verify)}
    files = {f"{role}/{uid}" for role in ("reference", "peer") for uid in SOLIDS}
    assert checked == dict.fromkeys({"protocol", "figures", *files}, "done")
    (settings.out / "reference/old_cup/images/003.png").unlink()
    assert [each.uid for each in evaluate.verify(verify) if each.status == "failed"] == ["reference/old_cup"]


def test_plain_pictures_are_scored_but_make_no_mesh(
    config, render, reconstruct, make_sample, objects, tmp_path
):
    shutil.rmtree(objects / "Red_Chair")
    shutil.rmtree(objects / "Old_Cup")
    (tmp_path / "plain/Blue_Ball").mkdir(parents=True)
    for view, image in enumerate(make_sample(solid="sphere", num_views=VIEWS, size=SIZE).images):
        pictures.write_png(tmp_path / f"plain/Blue_Ball/{view:03d}.png", image)
    settings = config(pred=(f"plain={tmp_path / 'plain'}",), views_only=False)
    benchmark.run(settings, render=render)
    assert report(settings.out)["methods"]["plain"]["psnr"]["mean"] == 100
    found = report(settings.out, "meshes")
    assert "plain" not in found["methods"]
    assert any("plain: pictures without cameras" in note for note in found["protocol"]["measured"]["notes"])


def test_a_dry_run_tells_the_plan_and_writes_nothing(config, peer, capsys, tmp_path):
    settings = config()
    words = ["--objects", settings.objects, "--out", settings.out, "--model", "tiny", "--pred", peer()]
    with pytest.raises(SystemExit) as ended:
        cli.main(["benchmark", "gso", *map(str, words), "--dry-run"])
    told = capsys.readouterr().err
    assert ended.value.code == 0
    for fact in ("3 objects (split disk", "21 on static orbits, 576 px", "tiny (tiny)", "peer (views given)"):
        assert fact in told
    assert not settings.out.exists()


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        (
            {"split": "seeded-5"},
            ConfigError,
            "split: 'seeded-5' is neither a file nor a list that ships. Did ",
        ),
        ({"split": "seeded-50"}, InputError, "50 of the 50 objects of split seeded-50 are not there: "),
        ({"split": "syncdreamer-30"}, InputError, "only chicken is known in full, CHICKEN_NESTING"),
        ({"model": ("nowhere",)}, CheckpointError, "nowhere: no such model folder"),
        ({"model": ("tiny", "tiny")}, ConfigError, "method tiny: is there twice"),
        ({"model": ("input-copied=tiny",)}, ConfigError, "'input-copied' is no name for a prediction"),
        ({"model": ("a b=tiny",)}, ConfigError, "method 'a b': use up to 64 letters"),
        ({"pred": ("peer=gone",)}, InputError, "gone: no such folder of the views of peer"),
        ({"protocol": "mesh"}, ConfigError, "protocol mesh compares meshes; choose one for views"),
        ({"protocol": "svdmv"}, ConfigError, "Did you mean 'svd-mv'?"),
        (
            {"model": ("tiny",), "orbit": "dynamic"},
            ConfigError,
            "makes static orbits, these are dynamic ones",
        ),
    ],
)
def test_what_cannot_begin_is_refused_in_one_line_before_anything_is_written(config, settings, error, said):
    asked = config(**settings)
    with pytest.raises(error, match=re.escape(said)) as caught:
        benchmark.run(asked)
    assert "\n" not in str(caught.value)
    assert not asked.out.exists()


def test_a_peer_that_lacks_objects_is_refused(config, peer):
    with pytest.raises(InputError, match="peer has no views of 1 of 3 objects: old_cup"):
        benchmark.run(config(pred=(peer(without=["old_cup"]),)))


def test_views_that_cannot_be_compared_are_refused_by_name(config, render, peer):
    with pytest.raises(SampleError, match=r"blue_ball.*5 views"):
        benchmark.run(config(pred=(peer(num_views=5),)), render=render)


def test_a_split_takes_objects_by_name_whatever_their_capitals(config, render, peer, tmp_path):
    (tmp_path / "two.txt").write_text("Old_Cup\nblue_ball\n\n")
    settings = config(split=str(tmp_path / "two.txt"), pred=(peer(),))
    benchmark.run(settings, render=render)
    assert {row["object"] for row in report(settings.out)["rows"]} == {"blue_ball", "old_cup"}
    (tmp_path / "two.txt").write_text("Old_Cup\nTeapot\n")
    with pytest.raises(
        InputError, match=r"1 of the 2 objects of split .*two\.txt are not there: Teapot; fetch"
    ):
        benchmark.run(settings, render=render)


def test_a_list_that_was_downloaded_keeps_names_digests_and_licences(config, render, objects):
    facts = {"uid": "red_chair_9", "licence": "cc-by", "sha256": "a" * 64}
    (objects / "objects.jsonl").write_text(json.dumps(facts | {"path": "Red_Chair/meshes/model.obj"}))
    render.bad.add("red_chair_9")
    settings = config()
    benchmark.run(settings, render=render)
    (line,) = map(json.loads, (settings.out / "objects.jsonl").read_text().splitlines())
    path = str((objects / "Red_Chair/meshes/model.obj").resolve())
    assert line == facts | {"path": path}
    assert json.loads((settings.out / "manifest.json").read_text())["licences"] == ["cc-by"]


@pytest.mark.parametrize(
    ("name", "count", "digest"),
    [
        ("all", 1033, "7a9cab0b2b06"),
        ("seeded-300", 300, "25659397a925"),
        ("seeded-50", 50, "5a2c9abb0218"),
        ("zero123-study-50", 50, "5b6b5b5c3060"),
        ("vivid123-100", 100, "d7b20c14bc20"),
        ("syncdreamer-30", 30, "845a950db386"),
    ],
)
def test_a_list_that_ships_never_changes(name, count, digest):
    content = (SPLITS / f"{name}.txt").read_bytes()
    names = content.decode().split()
    assert names == sorted(set(names))
    assert len(names) == count
    assert hashlib.sha256(content).hexdigest().startswith(digest)
    assert f"| `{name}` | {count:,}".replace(",", " ") in (SPLITS / "README.md").read_text()
    assert digest in (SPLITS / "README.md").read_text()
    if name != "syncdreamer-30":
        assert set(names) <= set((SPLITS / "all.txt").read_text().split())


@pytest.mark.parametrize("count", [50, 300])
def test_the_seeded_lists_are_what_a_download_of_so_many_takes(count):
    everything = [name for name in (SPLITS / "all.txt").read_text().split() if name.isascii()]
    drawn = (SPLITS / f"seeded-{count}.txt").read_text().split()
    assert drawn == sorted(shuffled(everything, seed=0)[:count])


@pytest.mark.bpy
@pytest.mark.slow
def test_a_benchmark_that_is_killed_ends_as_one_that_is_not(config, objects, tmp_path):
    """The whole chain with Blender and the bundled model: SIGKILL as soon as one object is rendered."""
    settings = config(size=32)
    words = ["--objects", objects, "--size", 32, "--samples", 1, "--model", "tiny", "--steps", 1]
    words += ["--protocol", settings.protocol, "--mesh-protocol", settings.mesh_protocol]

    def start(name):
        command = [sys.executable, "-m", "svd3d", "benchmark", "gso", *words, "--out", tmp_path / name]
        return subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)

    killed = start("killed")
    while not list((tmp_path / "killed").glob("reference/*/transforms.json")):
        assert killed.poll() is None, killed.stderr.read()
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    for name in ("killed", "straight"):
        process = start(name)
        _, told = process.communicate()
        assert process.returncode == 0, told
    for kind in ("views", "meshes"):
        ours, theirs = (report(tmp_path / name, kind)["rows"] for name in ("killed", "straight"))
        assert ours == theirs
