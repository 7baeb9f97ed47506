"""The evaluate stage on folders made here: what it accepts, what it refuses, what the report says."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh

from svd3d import evaluate, sample
from svd3d import images as pictures
from svd3d.cameras import GLTF_TO_WORLD, Orbit
from svd3d.errors import ConfigError, DependencyError, ImageError, InputError, ObjectError, SampleError
from svd3d.metrics import pairing, protocols
from svd3d.metrics.geometry import Surface
from svd3d.metrics.pairing import Views
from svd3d.sample import Sample
from svd3d.settings import EvaluateConfig

CHICKEN = Path(__file__).resolve().parents[2] / "shared/data/multiview"
SIZE = 24


def make_sample(
    uid: str = "cup", *, num_views: int = 21, seed: int = 0, size: int = SIZE, **orbit: float
) -> Sample:
    """Views of a coloured disc with a spot that goes around it; asymmetric, transparent outside."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(40, 200, 3)
    y, x = np.mgrid[:size, :size] / size - 0.5
    images = np.zeros((num_views, size, size, 4), np.uint8)
    for view in range(num_views):
        spot = (x - 0.25 * np.sin(2 * np.pi * view / num_views)) ** 2 + y**2 < 0.01
        images[view, ..., :3] = np.where(spot[..., None], 255 - colour, colour)
        images[view, ..., 3] = np.where(x**2 + y**2 < 0.16, 255, 0)
    ring = Orbit.static(num_views=num_views, **orbit)
    return Sample(uid, ring.cameras(height=size, width=size), images, "rendered", orbit=ring)


def noisy(original: Sample, *, seed: int = 1, amount: int = 30) -> Sample:
    noise = np.random.default_rng(seed).integers(-amount, amount + 1, original.images.shape)
    noise[..., 3] = 0
    images = (original.images.astype(int) + noise).clip(0, 255).astype(np.uint8)
    return dataclasses.replace(original, images=images, origin="generated")


def config(tmp_path: Path, pred: str = "pred", ref: str = "ref", **settings: object) -> EvaluateConfig:
    return EvaluateConfig(pred=tmp_path / pred, ref=tmp_path / ref, out=tmp_path / "scores", **settings)


def ell() -> trimesh.Trimesh:
    foot = trimesh.creation.box((0.6, 0.3, 0.2))
    foot.apply_translation((0.4, 0.1, -0.4))
    return trimesh.util.concatenate([trimesh.creation.box((0.2, 0.3, 1.0)), foot])


def test_sample_folders_of_two_objects_give_a_whole_report(tmp_path):
    for uid, seed in (("cup", 1), ("vase", 2)):
        reference = make_sample(uid, seed=seed)
        sample.write(dataclasses.replace(reference, about={"licence": "CC0"}), tmp_path / "ref" / uid)
        sample.write(noisy(reference), tmp_path / "pred" / uid)
    scores = evaluate.run(config(tmp_path, method="ours"))

    content = json.loads((tmp_path / "scores/report.json").read_text())
    assert content == json.loads(json.dumps(scores.to_json()))
    assert list(content["methods"]) == ["ours", "input-copied", "input-copied-mirrored"]
    assert set(content["methods"]["ours"]) == {"psnr", "foreground-psnr", "ssim", "mask-iou"}
    assert content["methods"]["ours"]["psnr"]["n"] == 2
    assert set(content["not_computed"]) == {"lpips-alex", "lpips-vgg", "clip-s-b32", "clip-s-l14"}
    views = {row["view"] for row in content["rows"]}
    assert views == set(range(1, 21))  # the condition view is left out
    assert set(content["digests"]) == {
        f"{r}/{o}" for r in ("prediction", "reference") for o in ("cup", "vase")
    }
    assert content["methods"]["ours"]["mask-iou"]["mean"] == 1
    manifest = json.loads((tmp_path / "scores/manifest.json").read_text())
    assert (manifest["stage"], manifest["licences"]) == ("evaluate", ["CC0"])
    assert "data:image/png;base64," in (tmp_path / "scores/report.html").read_text()
    assert f"{content['methods']['ours']['psnr']['mean']:.2f}" in (tmp_path / "scores/report.md").read_text()


def test_a_sample_against_itself_has_the_best_scores(tmp_path):
    sample.write(make_sample(), tmp_path / "ref")
    scores = evaluate.run(config(tmp_path, pred="ref", protocol="svd-mv-with-input"))
    best = {name: score.mean for name, score in scores.methods["prediction"].items()}
    assert best == pytest.approx({"psnr": 100, "foreground-psnr": 100, "ssim": 1, "mask-iou": 1})
    assert {row.view for row in scores.rows} == set(range(21))
    assert scores.methods["input-copied"]["psnr"].mean < 100


def test_evaluating_twice_gives_the_same_bytes(tmp_path):
    sample.write(make_sample(), tmp_path / "ref")
    sample.write(noisy(make_sample()), tmp_path / "pred")
    evaluate.run(config(tmp_path))
    first = {
        name: (tmp_path / "scores" / name).read_bytes()
        for name in ("report.json", "report.md", "report.html")
    }
    evaluate.run(config(tmp_path))
    assert first == {name: (tmp_path / "scores" / name).read_bytes() for name in first}


def test_rows_are_the_metrics_of_the_composited_views():
    reference, protocol = make_sample(), protocols.get("svd-mv")
    prediction = noisy(reference)
    rows = evaluate.evaluate_views(prediction, reference, protocol, ["psnr"])
    ours, theirs = (pictures.composite(each.images).astype(float) for each in (prediction, reference))
    expected = {v: -10 * np.log10(((ours[v] - theirs[v]) ** 2).mean()) for v in range(1, 21)}
    assert {row.view: row.value for row in rows} == pytest.approx(expected)


def test_the_baselines_copy_the_input_and_mirror_it_behind():
    views = Views.of(make_sample(num_views=8, azimuth_deg=77.0))
    copied, mirrored = pairing.input_copied(views), pairing.input_copied_mirrored(views)
    assert (copied.images == views.images[0]).all()
    for view, angle in enumerate(range(0, 360, 45)):
        expected = views.images[0][:, ::-1] if 90 < angle < 270 else views.images[0]
        assert (mirrored.images[view] == expected).all(), angle
    # A ball with a mark on its front: from behind at the same height its outline is the mirrored one.
    assert pairing.azimuths_deg(views.cameras) == pytest.approx([(77 + 45 * k) % 360 for k in range(8)])


def test_a_missing_object_is_an_error_and_not_a_smaller_n(tmp_path):
    for uid in ("cup", "vase"):
        sample.write(make_sample(uid), tmp_path / "ref" / uid)
    sample.write(make_sample("cup"), tmp_path / "pred/cup")
    with pytest.raises(InputError, match="no prediction for vase"):
        evaluate.run(config(tmp_path))
    with pytest.raises(InputError, match="no reference for vase"):
        evaluate.run(config(tmp_path, pred="ref", ref="pred"))
    assert not (tmp_path / "scores").exists()


def test_objects_meet_by_uid_when_their_folders_have_other_names(tmp_path):
    for uid, folder in (("cup", "a"), ("vase", "b")):
        sample.write(make_sample(uid, seed=len(uid)), tmp_path / "ref" / uid)
        sample.write(make_sample(uid, seed=len(uid)), tmp_path / "pred" / folder)
    scores = evaluate.run(config(tmp_path))
    assert scores.methods["prediction"]["psnr"].mean == 100
    assert {row.object for row in scores.rows} == {"cup", "vase"}


def test_an_unfinished_sample_is_an_error(tmp_path):
    for uid in ("cup", "vase"):
        sample.write(make_sample(uid), tmp_path / "ref" / uid)
    (tmp_path / "ref/vase/transforms.json").unlink()
    with pytest.raises(InputError, match=r"vase: has images but no transforms\.json"):
        evaluate.run(config(tmp_path, pred="ref"))


@pytest.mark.parametrize(
    ("orbit", "message"),
    [
        ({"azimuth_deg": 1.0}, "view 0: .*look 1.00 degrees apart"),
        ({"elevation_deg": 12.0}, "view 0: .*look 2.00 degrees apart"),
        ({"distance": 2.1}, r"view 0: .*apart by 5\.0 %"),
        ({"fov_deg": 30.0}, r"view 0: .*focal lengths differ by 13\.4 %"),
    ],
)
def test_other_cameras_are_refused_and_named(orbit, message):
    with pytest.raises(SampleError, match=message):
        evaluate.evaluate_views(make_sample(**orbit), make_sample(), protocols.get("svd-mv"))


def test_one_wrong_camera_is_found_and_small_differences_pass():
    reference = make_sample()
    matrices = reference.cameras.camera_to_world.copy()
    matrices[7] = make_sample(azimuth_deg=3.0).cameras.camera_to_world[7]
    wrong = dataclasses.replace(
        reference, orbit=None, cameras=dataclasses.replace(reference.cameras, camera_to_world=matrices)
    )
    with pytest.raises(SampleError, match="cup: view 7"):
        evaluate.evaluate_views(wrong, reference, protocols.get("svd-mv"), object="cup")
    near = make_sample(azimuth_deg=0.3, distance=2.01)
    assert evaluate.evaluate_views(near, reference, protocols.get("svd-mv"))


def test_the_protocol_decides_which_views_it_takes():
    with pytest.raises(SampleError, match="8 views, protocol svd-mv has 21"):
        evaluate.evaluate_views(make_sample(num_views=8), make_sample(num_views=8), protocols.get("svd-mv"))
    with pytest.raises(SampleError, match="the prediction has 8 views, the reference 21"):
        evaluate.evaluate_views(make_sample(num_views=8), make_sample(), protocols.get("views"))
    clockwise = make_sample()
    order = [0, *range(20, 0, -1)]
    clockwise = dataclasses.replace(clockwise, orbit=None, cameras=clockwise.cameras.view(order))
    with pytest.raises(
        SampleError, match=r"not a static orbit.*reference view 1: azimuth is 342\.86 degrees"
    ):
        evaluate.evaluate_views(clockwise, clockwise, protocols.get("svd-mv"))
    assert len(evaluate.evaluate_views(clockwise, clockwise, protocols.get("views"), ["psnr"])) == 21
    other_input = dataclasses.replace(make_sample(), condition_view=3)
    with pytest.raises(SampleError, match="made from view 3"):
        evaluate.evaluate_views(other_input, make_sample(), protocols.get("svd-mv"))


def test_predictions_of_another_size_are_resized_and_the_report_says_so(tmp_path):
    sample.write(make_sample(), tmp_path / "ref")
    sample.write(make_sample(size=2 * SIZE), tmp_path / "pred")
    scores = evaluate.run(config(tmp_path))
    assert scores.protocol["measured"]["sizes"] == [f"{SIZE} x {SIZE}"]
    assert any("resized" in note for note in scores.protocol["measured"]["notes"])
    assert 15 < scores.methods["prediction"]["psnr"].mean < 100
    wide = Views(np.zeros((21, SIZE, 2 * SIZE, 4), np.uint8))
    with pytest.raises(InputError, match="48 x 24 pixels cannot be resized to 24 x 24"):
        evaluate.evaluate_views(wide, make_sample(), protocols.get("views"))


def test_what_cannot_be_computed_is_named_and_an_error_only_when_asked_for(tmp_path):
    reference = make_sample()
    opaque = reference.images.copy()
    opaque[..., 3] = 255
    sample.write(reference, tmp_path / "ref")
    sample.write(dataclasses.replace(reference, images=opaque), tmp_path / "pred")
    scores = evaluate.run(config(tmp_path))
    assert "no transparency" in scores.not_computed["mask-iou"]
    assert "mask-iou" not in scores.methods["input-copied"]
    with pytest.raises(InputError, match="no transparency"):
        evaluate.run(config(tmp_path, metrics=("psnr", "mask-iou")))
    with pytest.raises(DependencyError, match="LPIPS"):
        evaluate.run(config(tmp_path, metrics=("lpips",)))
    with pytest.raises(ConfigError, match="chamfer compares meshes"):
        evaluate.run(config(tmp_path, metrics=("chamfer",)))
    only = evaluate.run(config(tmp_path, metrics=("psnr",)))
    assert set(only.methods["prediction"]) == {"psnr"}


def test_small_pictures_have_no_ssim():
    tiny = make_sample(size=8)
    report = evaluate.score_views(
        [evaluate.ViewPair("cup", {"ours": tiny}, tiny)], protocol=protocols.get("svd-mv")
    )
    assert "at least 11 x 11" in report.not_computed["ssim"]
    assert "psnr" in report.methods["ours"]


def test_methods_are_scored_side_by_side_and_none_may_lack_an_object():
    cup, vase = make_sample("cup", seed=1), make_sample("vase", seed=2)
    both = [
        evaluate.ViewPair(each.uid, {"good": noisy(each, amount=5), "bad": noisy(each, amount=90)}, each)
        for each in (cup, vase)
    ]
    methods = evaluate.score_views(both, protocol=protocols.get("svd-mv")).methods
    assert methods["good"]["psnr"].mean > methods["bad"]["psnr"].mean + 10
    lacking = [both[0], evaluate.ViewPair("vase", {"good": vase}, vase)]
    with pytest.raises(InputError, match="bad: no psnr for object vase"):
        evaluate.score_views(lacking, protocol=protocols.get("svd-mv"))
    with pytest.raises(ConfigError, match="'input-copied' is no name for a prediction"):
        evaluate.score_views(
            [evaluate.ViewPair("cup", {"input-copied": cup}, cup)], protocol=protocols.get("svd-mv")
        )


def test_plain_folders_of_images(tmp_path):
    reference = make_sample(num_views=11)
    for side, views in (("ref", reference), ("pred", noisy(reference))):
        (tmp_path / side).mkdir()
        for view, image in enumerate(views.images):
            pictures.write_png(tmp_path / side / f"{view}.png", image)  # 10 comes after 9, not after 1
            pictures.write_png(tmp_path / side / f"{view}-depth.png", image[..., 0])
    scores = evaluate.run(config(tmp_path, protocol="views"))
    assert scores.protocol["measured"]["notes"][0].endswith("cameras are not checked")
    direct = evaluate.evaluate_views(noisy(reference), reference, protocols.get("views"))
    assert [row.value for row in scores.rows] == [row.value for row in direct]
    sample.write(reference, tmp_path / "rendered")
    mixed = evaluate.run(config(tmp_path, ref="rendered", protocol="views"))
    assert [row.value for row in mixed.rows] == [row.value for row in direct]
    pictures.write_png(tmp_path / "pred/5.png", np.zeros((8, 8, 4), np.uint8))
    with pytest.raises(ImageError, match=r"5\.png: is 8 x 8, 0\.png is 24 x 24"):
        evaluate.run(config(tmp_path, protocol="views"))
    (tmp_path / "pred/5.png").unlink()
    with pytest.raises(SampleError, match="the prediction has 10 views, the reference 11"):
        evaluate.run(config(tmp_path, protocol="views"))


def test_meshes_of_two_kinds_of_file(tmp_path):
    (tmp_path / "ref").mkdir()
    mesh = ell()
    mesh.apply_scale(7)
    mesh.export(tmp_path / "ref/chair.obj")
    lying = ell()
    lying.apply_transform(np.linalg.inv(GLTF_TO_WORLD))
    (tmp_path / "recon").mkdir()
    lying.export(tmp_path / "recon/mesh.glb")
    scores = evaluate.run(config(tmp_path, pred="recon", ref="ref/chair.obj", protocol="mesh"))
    ours, floor = scores.methods["prediction"], scores.methods["reference-resampled"]
    assert ours["chamfer"].mean == pytest.approx(floor["chamfer"].mean, rel=0.03)
    assert ours["fscore-0.02"].mean == pytest.approx(1, abs=1e-3)
    assert ours["chamfer"].ci95 is None
    assert scores.protocol["alignment"] == "bbox"
    content = json.loads((tmp_path / "scores/report.json").read_text())
    assert {row["view"] for row in content["rows"]} == {None}
    assert ".glb read as +Y up, turned" in content["protocol"]["measured"]["notes"]


def test_meshes_that_leak_have_no_volume_but_the_rest():
    box = trimesh.creation.box()
    closed = Surface(np.asarray(box.vertices, float), np.asarray(box.faces, np.int64))
    leaky = Surface(closed.vertices, closed.faces[1:])
    protocol = protocols.get("mesh")
    report = evaluate.score_meshes([evaluate.MeshPair("box", {"ours": leaky}, closed)], protocol=protocol)
    assert report.not_computed == {"iou": "box: ours: the prediction is not watertight, so it has no volume"}
    assert set(report.methods["ours"]) == {"chamfer", "fscore-0.01", "fscore-0.02"}
    both = evaluate.score_meshes([evaluate.MeshPair("box", {"ours": closed}, closed)], protocol=protocol)
    assert both.methods["ours"]["iou"].mean == 1


def test_folders_of_meshes_meet_by_name(tmp_path):
    for side in ("pred", "ref"):
        (tmp_path / side).mkdir()
    for name in ("a", "b"):
        ell().export(tmp_path / f"ref/{name}.ply")
        moved = ell()
        moved.apply_translation((0, 0, 0.1))
        moved.export(tmp_path / f"pred/{name}.obj")
    chamfer = evaluate.run(config(tmp_path, protocol="mesh")).methods["prediction"]["chamfer"]
    assert chamfer.mean < 0.01
    assert chamfer.n == 2
    (tmp_path / "pred/b.obj").unlink()
    with pytest.raises(InputError, match="no prediction for b"):
        evaluate.run(config(tmp_path, protocol="mesh"))


def test_the_world_protocol_counts_place_and_the_mesh_protocol_does_not():
    box = trimesh.creation.box((0.5, 1, 0.5))
    reference = Surface(
        np.asarray(box.vertices * 3 + 7.0), np.asarray(box.faces, np.int64)
    )  # anywhere, any size
    lifted = Surface(np.asarray(box.vertices + np.array([0, 0, 0.1])), reference.faces)
    iou = {}
    for name in ("mesh", "mesh-world"):
        protocol = dataclasses.replace(protocols.get(name), surface_samples=5000)
        pair = evaluate.MeshPair("box", {"ours": lifted}, reference)
        iou[name] = evaluate.score_meshes([pair], protocol=protocol).methods["ours"]["iou"].mean
    assert iou["mesh"] == 1
    assert iou["mesh-world"] == pytest.approx(0.4 / 0.6, abs=0.05)


def test_wrong_inputs_are_one_line_and_write_nothing(tmp_path):
    sample.write(make_sample(), tmp_path / "ref")
    ell().export(tmp_path / "a.glb")
    (tmp_path / "renamed.glb").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "empty").mkdir()
    for settings, kind, message in (
        ({"pred": "nowhere"}, InputError, "no such prediction"),
        ({"pred": "empty"}, InputError, "neither sample folders nor images"),
        ({"pred": "a.glb"}, InputError, "a mesh; compare meshes with: --protocol mesh"),
        ({"pred": "ref", "protocol": "mesh"}, InputError, "holds no meshes"),
        ({"pred": "ref", "protocol": "svd_mv"}, ConfigError, "Did you mean 'svd-mv'"),
        ({"pred": "ref", "method": "input-copied"}, ConfigError, "is no name for a prediction"),
        ({"pred": "renamed.glb", "ref": "a.glb", "protocol": "mesh"}, ObjectError, "not a GLB"),
    ):
        with pytest.raises(kind, match=message) as caught:
            evaluate.run(config(tmp_path, **settings))
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / "scores").glob("*"))
    with pytest.raises(InputError, match="is itself an input"):
        evaluate.run(EvaluateConfig(pred=tmp_path / "ref", ref=tmp_path / "ref", out=tmp_path / "ref"))


def test_progress_is_shown_by_the_caller(tmp_path):
    sample.write(make_sample(), tmp_path / "ref")
    seen = []

    def watch(pairs, total):
        for pair in pairs:
            seen.append((pair.object, total))
            yield pair

    evaluate.run(config(tmp_path, pred="ref"), watch=watch)
    assert seen == [("cup", 1)]


@pytest.mark.skipif(not CHICKEN.is_dir(), reason="the pictures of SyncDreamer's chicken are not here")
def test_a_peers_published_output_can_be_scored(tmp_path):
    settings = EvaluateConfig(
        CHICKEN / "chicken_syncdreamer_pred", CHICKEN / "chicken_gt", tmp_path / "scores", protocol="views"
    )
    scores = evaluate.run(settings).methods["prediction"]
    assert 15 < scores["psnr"].mean < 30
    assert 0.7 < scores["ssim"].mean < 0.95
    assert scores["psnr"].n == 16
