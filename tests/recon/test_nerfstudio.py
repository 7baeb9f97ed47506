"""Method nerfstudio: the dataset, the two command lines, resuming, failures, and the way back of the mesh."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh

from recon import nerfstudio, surface
from svd3d import sample
from svd3d.errors import ConfigError, DependencyError, MeshError, OutputError
from svd3d.sample import Sample

SHIFT = np.array([5.0, -2.0, 1.0])


@pytest.fixture(scope="module")
def far_ball(make_sample) -> Sample:
    """A ball of radius 1.5 around SHIFT, in a capture with a frame of its own."""
    views = make_sample(solid="sphere", num_views=8, size=32, elevation_deg=10)
    matrices = views.cameras.camera_to_world.copy()
    matrices[:, :3, 3] = 3 * matrices[:, :3, 3] + SHIFT
    cameras = dataclasses.replace(views.cameras, camera_to_world=matrices)
    return dataclasses.replace(views, cameras=cameras, orbit=None)


def given(folder: Path) -> dict:
    """The arguments of the last training."""
    (config,) = folder.glob("train/views/*/run/config.yml")
    return json.loads(config.read_text())


@pytest.fixture(scope="module")
def fitted(far_ball, programs, tmp_path_factory):
    """The folder and the volume of a run to its end."""
    folder = tmp_path_factory.mktemp("out") / "nerfstudio"
    return folder, nerfstudio.fit(far_ball, folder, place=programs, steps=100, resolution=48, device="cpu")


def test_the_object_comes_back_in_the_frame_of_its_views(fitted, far_ball):
    _, volume = fitted
    mesh = surface.extract(volume)
    assert mesh.is_volume
    centre, scale = nerfstudio.placement(far_ball)
    np.testing.assert_allclose(mesh.bounds, centre + np.array([[-0.5], [0.5]]) / scale, atol=0.02)
    assert mesh.volume == pytest.approx(np.pi / 6 / scale**3, rel=0.02)


def test_the_dataset_is_a_sample_whose_object_is_centred_and_of_size_1(fitted, far_ball):
    folder, _ = fitted
    found = sample.read(folder / "data")
    np.testing.assert_array_equal(found.images, far_ball.images)
    centre, scale = nerfstudio.placement(far_ball)
    np.testing.assert_allclose(found.cameras.positions, scale * (far_ball.cameras.positions - centre))
    np.testing.assert_allclose(centre, SHIFT, atol=0.1)  # the underside is not seen
    assert 0.7 < scale * 3 <= 1  # nor is the cone below it
    content = json.loads((folder / "data/transforms.json").read_text())
    assert content["orientation_override"] == "none"
    assert not any("depth_file_path" in frame for frame in content["frames"])


def test_nothing_is_turned_centred_or_scaled_and_the_object_lies_within_the_planes(fitted):
    folder, _ = fitted
    found = given(folder)
    assert (found["orientation_method"], found["center_method"]) == ("none", "none")
    assert (found["auto_scale_poses"], found["eval_mode"]) == ("False", "all")
    assert (found["machine.device_type"], found["max_num_iterations"]) == ("cpu", "100")
    near, far = (float(found[f"pipeline.model.{plane}_plane"]) for plane in ("near", "far"))
    distance = np.linalg.norm(sample.read(folder / "data").cameras.positions, axis=1)
    assert near < distance.min() - 0.5 < distance.max() + 0.5 < far


def test_a_finished_training_is_not_repeated(fitted, far_ball, programs, monkeypatch):
    folder, volume = fitted
    told = []
    again = nerfstudio.fit(
        far_ball, folder, place=programs, steps=100, resolution=48, device="cpu", tell=told.append
    )
    np.testing.assert_array_equal(again.values, volume.values)
    assert [each.split(":")[0] for each in told] == ["ns-export tsdf"]


def test_a_stopped_training_goes_on_from_its_checkpoint(far_ball, programs, tmp_path, monkeypatch):
    monkeypatch.setenv("NS_FAKE", "stop")
    with pytest.raises(
        MeshError, match=r"ns-train ended with exit code 1 \(Killed: out of memory\)"
    ) as caught:
        nerfstudio.fit(far_ball, tmp_path, place=programs, steps=100, resolution=16)
    assert f"its whole output is in {tmp_path}/ns-train.log" in str(caught.value)
    monkeypatch.delenv("NS_FAKE")
    nerfstudio.fit(far_ball, tmp_path, place=programs, steps=100, resolution=16)
    assert given(tmp_path)["max_num_iterations"] == "50"
    assert [path.name for path in tmp_path.glob("train/**/*.ckpt")] == ["step-000000099.ckpt"]


def test_a_method_of_signed_distances_is_cut_at_its_zero_level(far_ball, programs, tmp_path):
    nerfstudio.fit(far_ball, tmp_path, method="neus-facto", place=programs, steps=10, resolution=16)
    assert given(tmp_path)["method"] == "neus-facto"
    assert (tmp_path / "export/sdf_marching_cubes_mesh.ply").is_file()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("crash", r"exit code 1 \(.*RuntimeError: CUDA out of memory\)"),
        ("empty", "found no surface; train for more steps"),
    ],
)
def test_a_failure_is_told_in_one_line_with_the_last_words(
    far_ball, programs, tmp_path, monkeypatch, fault, words
):
    monkeypatch.setenv("NS_FAKE", fault)
    with pytest.raises(MeshError, match=words) as caught:
        nerfstudio.fit(far_ball, tmp_path, place=programs, steps=10, resolution=16)
    assert "\n" not in str(caught.value)


def test_other_views_in_the_same_folder_are_refused(fitted, far_ball, programs):
    folder, _ = fitted
    other = dataclasses.replace(far_ball, images=far_ball.images[::-1].copy())
    with pytest.raises(OutputError, match="data: holds other views; choose another --out"):
        nerfstudio.fit(other, folder, place=programs, steps=100, resolution=16)


def test_without_nerfstudio_the_error_says_how_to_install_it(far_ball, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        DependencyError, match=r"ns-train and ns-export are not on PATH.*pip install nerfstudio=="
    ):
        nerfstudio.fit(far_ball, tmp_path / "out")
    with pytest.raises(DependencyError, match=f"are not in {tmp_path}; give it an environment of its own"):
        nerfstudio.fit(far_ball, tmp_path / "out", place=tmp_path / "ns-train")
    assert not (tmp_path / "out").exists()


def test_a_method_without_a_surface_is_refused(far_ball, programs, tmp_path):
    with pytest.raises(ConfigError, match="splatfacto has no surface to export; choose nerfacto"):
        nerfstudio.fit(far_ball, tmp_path, method="splatfacto", place=programs)


@pytest.mark.parametrize("inside_out", [False, True])
def test_the_solid_of_a_closed_mesh_is_the_mesh(inside_out):
    bounds = np.array([[-0.4, -0.3, -0.5], [0.4, 0.1, 0.3]])
    mesh = trimesh.creation.box(bounds=bounds)
    if inside_out:
        mesh.invert()
    volume = nerfstudio.solid(mesh, np.full(3, -0.6), np.full(3, 0.6), resolution=48)
    found = surface.extract(volume)
    assert found.volume == pytest.approx(0.8 * 0.4 * 0.8, rel=0.02)
    np.testing.assert_allclose(found.bounds, bounds, atol=0.01)


def test_the_solid_of_an_open_mesh_is_closed():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    ball.update_faces(ball.triangles_center[:, 2] > -0.4)
    volume = nerfstudio.solid(ball, np.full(3, -0.6), np.full(3, 0.6), resolution=48)
    found = surface.extract(volume)
    assert found.is_volume
    assert found.volume == pytest.approx(np.pi / 6, rel=0.04)
