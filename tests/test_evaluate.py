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
from svd3d.errors import (
    ConfigError,
    DependencyError,
    ImageError,
    InputError,
    MeshError,
    ObjectError,
    SampleError,
)
from svd3d.metrics import baselines, pairing, protocols
from svd3d.metrics.geometry import Surface
from svd3d.metrics.pairing import Views
from svd3d.metrics.report import Row
from svd3d.sample import Sample
from svd3d.settings import EvaluateConfig, EvaluateVerifyConfig

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


def config(
    tmp_path: Path, pred: str | tuple[str, ...] = "pred", ref: str = "ref", **settings: object
) -> EvaluateConfig:
    named = (str(tmp_path / pred),) if isinstance(pred, str) else pred
    given = {"pred": named, "ref": tmp_path / ref, "out": tmp_path / "scores"}
    nowhere = {
        "lpips_weights": tmp_path,
        "clip_b32": str(tmp_path),
        "clip_l14": str(tmp_path),
    }  # no downloads
    return EvaluateConfig(**{**given, **nowhere, "device": "cpu", **settings})


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
    assert list(content["methods"]) == ["ours", *baselines.BASELINES]
    assert set(content["methods"]["ours"]) == {"psnr", "foreground-psnr", "ssim", "mse", "mask-iou"}
    assert content["methods"]["ours"]["psnr"]["n"] == 2
    networks = {"lpips-alex", "lpips-vgg", "clip-s-b32", "clip-s-l14"}
    assert set(content["not_computed"]) == networks | {"reprojection-psnr", *baselines.NEED_TRAINING}
    views = {row["view"] for row in content["rows"]}
    assert views == set(range(1, 21))  # the condition view is left out
    assert set(content["digests"]) == {
        f"{role}/{uid}" for role in ("ours", "reference") for uid in ("cup", "vase")
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
    assert best == pytest.approx({"psnr": 100, "foreground-psnr": 100, "ssim": 1, "mask-iou": 1, "mse": 0})
    assert {row.view for row in scores.rows} == set(range(21))
    assert scores.methods["input-copied"]["psnr"].mean < 100


def test_evaluating_twice_gives_the_same_bytes(tmp_path):
    sample.write(make_sample(), tmp_path / "ref")
    sample.write(noisy(make_sample()), tmp_path / "pred")
    evaluate.run(config(tmp_path))
    first = {name: (tmp_path / "scores" / name).read_bytes() for name in ("report.json", "report.tex")}
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
    protocol = protocols.get("svd-mv")
    copied, mirrored = (make(views, protocol) for make in list(baselines.BASELINES.values())[:2])
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
    with pytest.raises(DependencyError, match="lpips"):
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
    assert scores.protocol["alignment"] == "bounding-box"
    content = json.loads((tmp_path / "scores/report.json").read_text())
    assert {row["view"] for row in content["rows"]} == {None}
    assert ".glb read as +Y up, turned" in content["protocol"]["measured"]["notes"]


def test_meshes_that_leak_have_no_volume_but_the_rest():
    box = trimesh.creation.box()
    closed = Surface(np.asarray(box.vertices, float), np.asarray(box.faces, np.int64))
    leaky = Surface(closed.vertices, closed.faces[1:])
    protocol = protocols.get("mesh")
    report = evaluate.score_meshes([evaluate.MeshPair("box", {"ours": leaky}, closed)], protocol=protocol)
    why = "the prediction is not watertight, so it has no volume; close its holes or leave iou out"
    assert report.not_computed == {"iou": f"box: ours: {why}"}
    pair = evaluate.MeshPair("box", {"ours": leaky}, closed)
    with pytest.raises(MeshError, match=r"^box: ours: the prediction is not watertight"):
        evaluate.score_meshes([pair], protocol=protocol, metrics=["iou"])
    assert set(report.methods["ours"]) == set(protocol.metrics) - {"iou"}
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
        ({"pred": ("a=x", "a=y")}, ConfigError, "two predictions are called 'a'"),
        ({"pred": ("x", "y")}, ConfigError, "two predictions are called 'prediction'"),
        ({"pred": "ref", "protocol": "svd_mv"}, ConfigError, "Did you mean 'svd-mv'"),
        ({"pred": "ref", "method": "input-copied"}, ConfigError, "is no name for a prediction"),
        ({"pred": "renamed.glb", "ref": "a.glb", "protocol": "mesh"}, ObjectError, "not a GLB"),
    ):
        with pytest.raises(kind, match=message) as caught:
            evaluate.run(config(tmp_path, **settings))
        assert "\n" not in str(caught.value)
        assert not list((tmp_path / "scores").glob("*"))
    with pytest.raises(InputError, match="is itself an input"):
        evaluate.run(config(tmp_path, pred="ref", out=tmp_path / "ref"))


def test_progress_is_shown_by_the_caller(tmp_path):
    sample.write(make_sample(), tmp_path / "ref")
    seen = []

    def watch(pairs, total):
        for pair in pairs:
            seen.append((pair.object, total))
            yield pair

    evaluate.run(config(tmp_path, pred="ref"), watch=watch)
    assert seen == [("cup", 1)]


def test_methods_of_several_folders_stand_in_one_report(tmp_path):
    """`--pred NAME=PATH` more than once; one folder holds an object by uid, the other by name."""
    for uid, seed in (("cup", 1), ("vase", 2)):
        reference = make_sample(uid, seed=seed)
        sample.write(reference, tmp_path / "ref" / uid)
        sample.write(noisy(reference, amount=5), tmp_path / "good" / uid)
        sample.write(noisy(reference, amount=90), tmp_path / "a=b" / f"renamed-{seed}")
    given = (f"good={tmp_path / 'good'}", str(tmp_path / "a=b"))  # a path that exists needs no name
    scores = evaluate.run(config(tmp_path, pred=given, method="bad"))
    assert list(scores.methods)[:2] == ["good", "bad"]
    assert scores.methods["good"]["psnr"].mean > scores.methods["bad"]["psnr"].mean + 10
    assert {"good/cup", "bad/vase", "reference/cup"} <= set(scores.digests)
    separate = evaluate.run(config(tmp_path, pred="a=b", method="bad"))
    assert separate.methods["bad"] == scores.methods["bad"]
    markdown = (tmp_path / "scores/report.md").read_text()
    assert "as published" in markdown.lower()
    (tmp_path / "good/vase/transforms.json").unlink()
    with pytest.raises(InputError, match="good"):
        evaluate.run(config(tmp_path, pred=given, method="bad"))


def test_a_report_is_verified_against_its_files_its_protocol_and_its_rows(tmp_path):
    sample.write(make_sample(), tmp_path / "ref")
    sample.write(noisy(make_sample()), tmp_path / "pred")
    evaluate.run(config(tmp_path, method="ours"))
    folder = tmp_path / "scores"

    def verdict(path: Path = folder) -> dict[str, str]:
        checks = evaluate.verify(EvaluateVerifyConfig(path))
        return {check.uid: check.message for check in checks if check.status == "failed"}

    assert verdict() == verdict(folder / "report.json") == {}
    assert len(evaluate.verify(EvaluateVerifyConfig(folder))) == 4

    pictures.write_png(tmp_path / "pred/images/003.png", make_sample().images[3])
    assert list(verdict()) == ["ours/cup"]
    assert "changed since" in verdict()["ours/cup"]
    (tmp_path / "ref").rename(tmp_path / "elsewhere")
    assert "no longer there" in verdict()["reference/cup"]

    content = json.loads((folder / "report.json").read_text())
    content["methods"]["ours"]["ssim"]["mean"] += 0.01
    content["protocol"]["soft_edges"] = "kept"
    (folder / "report.json").write_text(json.dumps(content))
    assert verdict()["figures"] == "ssim of ours does not follow from the rows"
    assert "another digest" in verdict()["protocol"]
    (folder / "report.json").write_text('{"digests": {}}')
    with pytest.raises(InputError, match="not a report of svd3d evaluate"):
        verdict()
    (folder / "report.json").write_text("{")
    with pytest.raises(InputError, match="not readable JSON"):
        verdict()


def test_a_mesh_report_is_verified_too(tmp_path):
    ell().export(tmp_path / "a.ply")
    evaluate.run(config(tmp_path, pred="a.ply", ref="a.ply", protocol="mesh-eschernet"))
    checks = evaluate.verify(EvaluateVerifyConfig(tmp_path / "scores"))
    assert {check.uid: check.status for check in checks} == dict.fromkeys(
        ("protocol", "figures", "reference/a", "prediction/a"), "done"
    )


def test_what_the_predictions_cost_is_their_manifests_mean(tmp_path):
    for uid, seconds in (("cup", 2.0), ("vase", 4.0)):
        sample.write(make_sample(uid), tmp_path / "ref" / uid)
        sample.write(make_sample(uid), tmp_path / "pred" / uid)
        parts = {"generate": seconds} | ({"load": 1.0} if uid == "cup" else {})
        (tmp_path / "pred" / uid / "manifest.json").write_text(json.dumps({"seconds": parts}))
    scores = evaluate.run(config(tmp_path, method="ours"))
    assert scores.costs["ours"] == {"generate (s)": 3.0}  # not every object states what loading took
    assert "generate (s)" in (tmp_path / "scores/report.html").read_text()


def test_training_views_are_a_baseline(tmp_path):
    for uid, seed in (("cup", 1), ("vase", 2)):
        sample.write(make_sample(uid, seed=seed), tmp_path / "train" / uid)
    sample.write(make_sample("cup", seed=1), tmp_path / "ref")
    scores = evaluate.run(config(tmp_path, pred="ref", training_views=tmp_path / "train"))
    assert scores.methods["nearest-training-view"]["psnr"].mean == 100


def test_a_protocol_file_of_ones_own_stands_in_the_report(tmp_path):
    sample.write(make_sample(num_views=8), tmp_path / "ref")
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nkind: views\nabout: Eight views.\nmetrics: [psnr]\nnum_views: 8\n")
    scores = evaluate.run(config(tmp_path, pred="ref", protocol=str(path)))
    assert scores.protocol["name"] == "mine"
    checks = evaluate.verify(EvaluateVerifyConfig(tmp_path / "scores"))
    assert {check.status for check in checks} == {"done"}


def test_chosen_objects_are_scored_and_what_else_lies_there_is_left_alone(tmp_path):
    for uid in ("cup", "vase", "shoe"):
        sample.write(make_sample(uid, seed=len(uid)), tmp_path / "ref" / uid)
        if uid != "shoe":
            sample.write(make_sample(uid, seed=len(uid)), tmp_path / "pred" / uid.upper())
    rows, costs = [Row("ours", "cup", view, "camera-fit", 0.5) for view in range(1, 21)], {"ours": {"s": 1.0}}
    scores = evaluate.run(
        config(tmp_path, method="ours"), only=["cup"], notes=["a split"], rows=rows, costs=costs
    )
    assert {row.object for row in scores.rows} == {"cup"}
    assert scores.protocol["measured"]["notes"][0] == "a split"
    assert scores.methods["ours"]["camera-fit"].mean == 0.5
    assert scores.costs["ours"] == {"s": 1.0}
    with pytest.raises(InputError, match="pred: holds no shoe"):
        evaluate.run(config(tmp_path), only=["cup", "shoe"])
