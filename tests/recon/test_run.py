"""The stage: what it writes, that it resumes, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from recon import export, run
from recon.config import ReconConfig
from svd3d import sample
from svd3d.errors import ConfigError, InputError, MeshError, OutputError, SampleError

SMALL = {"resolution": 32, "faces": 2000, "texture_size": 128}


@pytest.fixture(scope="module")
def views(make_sample, tmp_path_factory) -> Path:
    """A folder with two samples and a folder with other views of both."""
    folder = tmp_path_factory.mktemp("input")
    for solid in ("boxes", "sphere"):
        make_sample(folder / f"views/{solid}", solid=solid, num_views=14, size=48, elevation_deg=12)
        make_sample(folder / f"held_out/{solid}", solid=solid, num_views=3, size=40, elevation_deg=30)
    return folder


@pytest.fixture(scope="module")
def made(views):
    """The result for one sample."""
    config = ReconConfig(views / "views/boxes", views / "out", views_from=(views / "held_out",), **SMALL)
    (done,) = run.run(config)
    return config, done


def report(folder: Path) -> dict:
    return json.loads((folder / "recon.json").read_text())


def test_one_sample_is_written_straight_into_out(made):
    config, done = made
    assert (done.uid, done.folder, done.status) == ("boxes", config.out, "done")
    names = {path.name for path in config.out.iterdir() if not path.name.startswith(".")}
    assert names == {
        "mesh.glb", "seen.png", "recon.json", "renders", "renders-held_out", "manifest.json", "config.yaml"
    }  # fmt: skip
    found = report(config.out)
    assert found["watertight"] is True
    assert found["k"] == 1
    assert found["silhouette_iou"] > 0.92
    assert found["self_check"]["mean_db"] == pytest.approx(done.psnr_db, abs=1e-3)
    assert found["self_check"]["mean_db"] > 20
    assert set(found["seconds"]) == {"carve", "surface", "texture", "export", "check"}


def test_the_mesh_file_stands_upright_and_is_closed(made):
    config, _ = made
    mesh = export.read_glb(config.out / "mesh.glb")
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_volume
    assert mesh.volume == pytest.approx(report(config.out)["volume"], rel=1e-4)
    # the chair's back stands at +X and -Y
    assert mesh.contains(np.array([[0.3, -0.1, 0.2]])).all()
    assert not mesh.contains(np.array([[-0.3, 0.0, 0.2], [0.3, 0.2, 0.25]])).any()


def test_renders_are_samples_at_the_right_cameras(made, views):
    config, _ = made
    for name, like in (("renders", "views/boxes"), ("renders-held_out", "held_out/boxes")):
        ours, theirs = sample.read(config.out / name), sample.read(views / like)
        assert (ours.uid, ours.origin) == ("boxes", "reconstructed")
        np.testing.assert_allclose(ours.cameras.camera_to_world, theirs.cameras.camera_to_world)
        both = (ours.images[..., 3] > 127) & (theirs.images[..., 3] > 127)
        either = (ours.images[..., 3] > 127) | (theirs.images[..., 3] > 127)
        assert both.sum() > 0.85 * either.sum()
        assert np.median(np.abs(ours.depth - theirs.depth)[both]) < 0.03
        difference = ours.images[both].astype(int) - theirs.images[both]
        assert np.median(np.abs(difference)) < 12


def test_running_again_keeps_the_result_and_adds_what_is_new(made, views, tmp_path):
    config, _ = made
    before = (config.out / "mesh.glb").stat().st_mtime_ns
    (again,) = run.run(config)
    assert (again.status, again.message) == ("skipped", "already reconstructed")
    more = views / "more"
    shutil.copytree(views / "held_out/boxes", more)
    (added,) = run.run(ReconConfig(config.sample, config.out, views_from=(more,), **SMALL))
    assert (added.status, added.message) == ("skipped", "added renders-more")
    assert sample.read(config.out / "renders-more").origin == "reconstructed"
    assert (config.out / "mesh.glb").stat().st_mtime_ns == before


def test_an_interrupted_result_is_made_again(made, views, tmp_path):
    config, _ = made
    out = tmp_path / "out"
    shutil.copytree(config.out, out)
    (out / "recon.json").unlink()
    (out / "mesh.glb").write_bytes(b"torn")
    (again,) = run.run(ReconConfig(config.sample, out, **SMALL))
    assert again.status == "done"
    assert len(export.read_glb(out / "mesh.glb").faces) > 0


def test_a_refined_mesh_repeats_its_views_better(made, tmp_path):
    config, done = made
    (better,) = run.run(ReconConfig(config.sample, tmp_path, refine_steps=20, device="cpu", **SMALL))
    found = report(tmp_path)
    assert found["refine_steps"] == 20
    assert found["watertight"] is True
    assert found["silhouette_iou"] > report(config.out)["silhouette_iou"] + 0.005
    assert better.psnr_db > done.psnr_db


def test_the_same_views_give_the_same_bytes(made, tmp_path):
    config, _ = made
    list(run.run(ReconConfig(config.sample, tmp_path, **SMALL)))
    assert (tmp_path / "mesh.glb").read_bytes() == (config.out / "mesh.glb").read_bytes()


def test_other_settings_or_other_views_are_refused(made, views):
    config, _ = made
    with pytest.raises(ConfigError, match="faces was 2000, now 3000"):
        list(run.run(ReconConfig(config.sample, config.out, **{**SMALL, "faces": 3000})))
    with pytest.raises(OutputError, match="made from other views"):
        list(run.run(ReconConfig(views / "views/sphere", config.out, **SMALL)))


def test_a_folder_of_samples_gives_a_folder_each_and_lists_failures(views, tmp_path):
    folder = tmp_path / "views"
    shutil.copytree(views / "views", folder)
    empty = sample.read(folder / "sphere")
    empty.images[:] = 0
    sample.write(empty, folder / "sphere")
    config = ReconConfig(folder, tmp_path / "out", **SMALL)
    assert run.count(config) == 2
    first, second = run.run(config)
    assert (first.status, first.folder) == ("done", tmp_path / "out/boxes")
    assert (first.folder / "recon.json").exists()
    assert (first.folder / "manifest.json").exists()
    assert (second.status, second.folder) == ("failed", None)
    assert "the silhouette of 14 of 14 views is empty" in second.message
    assert not (tmp_path / "out/sphere").exists()
    assert (tmp_path / "out/manifest.json").exists()


def test_a_bad_single_sample_leaves_nothing_behind(views, tmp_path):
    blank = sample.read(views / "views/sphere")
    blank.images[:] = 0
    sample.write(blank, tmp_path / "blank")
    with pytest.raises(MeshError, match="blank: the silhouette of 14"):
        list(run.run(ReconConfig(tmp_path / "blank", tmp_path / "out", **SMALL)))
    apart = sample.read(views / "views/sphere")
    apart.images[:] = 0
    apart.images[::2, 2:8], apart.images[1::2, 40:46] = 255, 255
    sample.write(apart, tmp_path / "apart")
    with pytest.raises(MeshError, match="apart: the silhouettes of these cameras do not meet"):
        list(run.run(ReconConfig(tmp_path / "apart", tmp_path / "out", **SMALL)))
    assert not (tmp_path / "out").exists()


def test_wrong_paths_are_refused_before_any_output(views, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no such sample folder"):
        list(run.run(ReconConfig(tmp_path / "nothing", out)))
    with pytest.raises(SampleError, match="holds no sample"):
        list(run.run(ReconConfig(tmp_path, out)))
    shutil.copytree(views / "held_out/sphere", tmp_path / "other/sphere")
    with pytest.raises(SampleError, match="holds no sample boxes"):
        list(run.run(ReconConfig(views / "views/boxes", out, views_from=(tmp_path / "other",))))
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"resolution": 8}, "resolution must lie between 16 and 1024; got 8"),
        ({"faces": 3}, "faces must be at least 100; got 3"),
        ({"texture_size": 1}, "texture_size must lie between 64 and 8192; got 1"),
        ({"views_from": (Path("a/x"), Path("b/x"))}, "folder names must differ"),
    ],
)
def test_settings_out_of_range_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        ReconConfig(Path("views"), Path("out"), **change)
