"""Methods `nerf` and `sdf` from views to a mesh: true size, upright, closed, and what they report."""

import json

import numpy as np
import pytest
import trimesh

from recon import export, nerf, raster, run, sdf
from recon.config import ReconConfig
from recon.field import Field
from svd3d import Orbit, sample
from svd3d.sample import Sample

SMALL = {"resolution": 40, "faces": 4000, "texture_size": 128}
SPOILT = 5
LENGTH = {(module, name): getattr(module, name) for module in (nerf, sdf) for name in ("RAYS", "ITERATIONS")}
"""Of a fit, before `short` makes it short."""


def painted(mesh, cameras):
    """Pictures of a mesh coloured by position, nine samples per pixel."""
    fine = cameras.resized(height=3 * cameras.height, width=3 * cameras.width)
    _, depth = raster.render(mesh, fine, samples_per_side=1)
    origins, directions = fine.rays()
    points = origins[:, None, None] + depth[..., None] * directions
    alpha = (depth > 0)[..., None]
    checks = 0.12 * np.sign(np.sin(25 * points).prod(axis=-1, keepdims=True))
    rgba = np.concatenate([(0.5 + 0.6 * points + checks).clip(0, 1) * alpha, alpha], axis=-1)
    rgba = rgba.reshape(len(cameras), cameras.height, 3, cameras.width, 3, 4).mean(axis=(2, 4))
    rgba[..., :3] /= np.maximum(rgba[..., 3:], 1e-6)
    return (255 * rgba).round().astype(np.uint8)


def views_of(mesh, elevations_deg, *, size=48) -> Sample:
    """A sample of a mesh coloured by position, around a circle at these elevations."""
    views = len(elevations_deg)
    orbit = Orbit(tuple(360 / views * k for k in range(views)), elevations_deg, 2.2)
    cameras = orbit.cameras(height=size, width=size)
    images = painted(mesh, cameras)
    return Sample(uid="solid", cameras=cameras, images=images, origin="rendered", orbit=orbit)


@pytest.fixture(scope="module", autouse=True)
def short():
    """Few rays and iterations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nerf, "RAYS", 1024)
        patch.setattr(nerf, "ITERATIONS", 80)
        patch.setattr(sdf, "RAYS", 384)
        patch.setattr(sdf, "ITERATIONS", 50)
        yield


@pytest.fixture(scope="module")
def sphere():
    """What method `sdf` makes of a sphere; the colours of one view are inverted."""
    views = views_of(trimesh.creation.icosphere(4, radius=0.45), (10.0, -60.0, 50.0) * 4)
    views.images[SPOILT, ..., :3] = 255 - views.images[SPOILT, ..., :3]
    return run.reconstruct(views, method="sdf", **SMALL)


@pytest.fixture(scope="module")
def upright(ell, tmp_path_factory):
    """The folder that method `nerf` makes of the L."""
    folder = tmp_path_factory.mktemp("ell")
    sample.write(views_of(ell, (30.0, 5.0) * 6), folder / "views")
    (done,) = run.run(ReconConfig(folder / "views", folder / "out", method="nerf", **SMALL))
    return done


def test_a_sphere_has_its_volume(sphere):
    mesh = sphere.shape.surface
    assert mesh.is_volume
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.45**3, rel=0.06)  # of a short fit
    assert mesh.bounds.mean(axis=0) == pytest.approx(np.zeros(3), abs=0.01)
    details = sphere.report()
    assert details["surface"].startswith("sdf")
    assert set(details["candidates"]) == {"density", "sdf", "sdf-nearest"}
    assert all(each["silhouette_iou"] > 0.95 for each in details["candidates"].values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["nerf", "sdf"])
def test_volumes_are_true_to_two_percent(ell, method, monkeypatch):
    """At the default resolution and length of the fit."""
    for module, name in ((nerf, "RAYS"), (nerf, "ITERATIONS"), (sdf, "RAYS"), (sdf, "ITERATIONS")):
        monkeypatch.setattr(module, name, LENGTH[module, name])
    for mesh in (trimesh.creation.icosphere(4, radius=0.45), ell):
        views = views_of(mesh, (10.0, -60.0, 50.0) * 7, size=128)
        made = run.reconstruct(views, method=method, texture_size=128)
        assert made.shape.surface.is_volume
        assert made.shape.surface.volume == pytest.approx(mesh.volume, rel=0.02)


def test_a_view_that_contradicts_the_others_is_distrusted(sphere):
    assert sphere.report()["views"]["distrusted"] == [SPOILT]
    assert f"view {SPOILT} fits badly" in sphere.shape.message


def test_the_l_stands_upright_in_its_file(upright, ell):
    mesh = export.read_glb(upright.folder / "mesh.glb")
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_volume
    assert mesh.volume == pytest.approx(ell.volume, rel=0.2)
    heavy, light = np.array([[-0.3, 0.2, -0.4], [0.3, 0.0, -0.4], [-0.3, 0.0, 0.4]]), -0.3 * np.ones((1, 3))
    assert mesh.contains(heavy).all()
    assert not mesh.contains(np.array([[0.3, 0.0, 0.3], [0.3, 0.25, -0.4], [-0.3, -0.25, -0.4]])).any()
    assert not mesh.contains(light).any()


def test_the_folder_holds_the_field_and_says_what_was_chosen(upright):
    report = json.loads((upright.folder / "recon.json").read_text())
    assert report["surface"] in report["candidates"]
    best = max(report["candidates"], key=lambda name: report["candidates"][name]["silhouette_iou"])
    assert report["surface"] == best
    assert np.shape(report["views"]["shifts_px"]) == (12, 2)
    assert report["nerf"]["psnr_db"] > 20
    field, cameras = Field.load(upright.folder / report["field"])
    rgba, _ = field.render(cameras.view([0, 5]))
    inputs = sample.read(upright.folder.parent / "views").images[[0, 5]]
    assert ((rgba[..., 3] > 127) == (inputs[..., 3] > 127)).mean() > 0.97
    assert not list(upright.folder.glob("unfinished*"))


def test_the_mask_marks_what_no_view_saw(upright):
    from PIL import Image

    seen = np.asarray(Image.open(upright.folder / "seen.png"))
    assert seen.shape == (128, 128)
    assert set(np.unique(seen)) == {0, 255}
    mesh = export.read_glb(upright.folder / "mesh.glb")
    uv, _ = raster.texture_of(mesh)
    value = raster.sample_texture(np.repeat(seen[..., None], 3, axis=-1), uv[mesh.faces].mean(axis=1))[:, 0]
    downwards = mesh.face_normals[:, 2] < -0.9
    aside = (np.abs(mesh.face_normals[:, 2]) < 0.2) & (mesh.triangles_center[:, 2] > 0)
    assert value[downwards].mean() < 0.3 < 0.8 < value[aside].mean()
