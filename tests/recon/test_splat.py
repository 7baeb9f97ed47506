"""Splats: a compositor in plain torch stands in for gsplat's kernels, and gsplat's own code checks both."""

import json
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import trimesh
from scipy.spatial.transform import Rotation

from recon import run, splat
from recon.config import ReconConfig
from recon.splat import SH_0, Gaussians
from svd3d import Cameras, Orbit
from svd3d.errors import DependencyError
from svd3d.images import composite

DILATION = 0.3
"""Kerbl et al. 2023 add so much to the variance of every splat, in square pixels."""
COUNT = 300
"""Splats of a fit."""


def projected(means, quats, scales, world_to_camera, intrinsics):
    """Places, covariances in pixels and depths: elliptical weighted averages (Zwicker et al. 2001)."""
    part, axis = F.normalize(quats, dim=1)[:, None].split([1, 3], dim=-1)
    axes = torch.diag_embed(scales)
    across = torch.linalg.cross(axis.expand_as(axes), axes)
    axes = axes + 2 * part * across + 2 * torch.linalg.cross(axis.expand_as(axes), across)
    covariance = axes.mT @ axes
    local = means @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    x, y, z = local.unbind(1)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([1 / z, zero, -x / z**2, zero, 1 / z, -y / z**2], dim=1).view(-1, 2, 3)
    jacobian = intrinsics[:2, :2] @ jacobian @ world_to_camera[:3, :3]
    pixels = (local / z[:, None]) @ intrinsics.T
    return pixels[:, :2], jacobian @ covariance @ jacobian.mT + DILATION * torch.eye(2), z


def composited(pixels, inverse, depth, opacities, colours, width, height):
    """Premultiplied RGBA of one view: the nearest first, every splat at every pixel."""
    x, y = torch.meshgrid(torch.arange(width) + 0.5, torch.arange(height) + 0.5, indexing="xy")
    order = depth.argsort()
    offset = torch.stack([x, y], dim=-1).view(-1, 1, 2) - pixels[order]
    x, y = offset.unbind(-1)
    (a, b), (_, c) = inverse[order].permute(1, 2, 0)
    alpha = (opacities[order] * torch.exp(-0.5 * (a * x * x + 2 * b * x * y + c * y * y))).clamp_max(0.999)
    alpha = alpha * (alpha >= 1 / 255)
    light = F.pad(torch.cumprod(1 - alpha, dim=1)[:, :-1], (1, 0), value=1.0)
    rgba = (alpha * light) @ F.pad(colours[order], (0, 1), value=1.0)
    return rgba.view(height, width, 4)


def plain(means, quats, scales, opacities, colours, world_to_camera, intrinsics, width, height):
    """What `splat.rasterize` gives."""
    views = []
    for extrinsics, intrinsic in zip(world_to_camera, intrinsics, strict=True):
        pixels, covariance, depth = projected(means, quats, scales, extrinsics, intrinsic)
        inverse = torch.linalg.inv(covariance)
        views.append(composited(pixels, inverse, depth, opacities, colours, width, height))
    return torch.stack(views)


@pytest.fixture
def on_cpu(monkeypatch):
    """Splats by `plain`: few, in few and long steps."""
    monkeypatch.setattr(splat, "rasterize", plain)
    monkeypatch.setattr(splat, "check", lambda device: None)
    monkeypatch.setattr(splat, "FEWEST", COUNT)
    monkeypatch.setattr(splat, "MOST", COUNT)
    monkeypatch.setattr(splat, "ITERATIONS", 40)
    monkeypatch.setattr(splat, "PIXELS", 2 * 20 * 20)
    monkeypatch.setattr(splat, "RATES", {name: 5 * rate for name, rate in splat.RATES.items()})


@pytest.fixture
def cameras():
    """Three views from above: neither square nor centred, and of two focal lengths."""
    ring = Orbit.static(num_views=3, elevation_deg=25, distance=2.5).cameras(height=40, width=56)
    intrinsics = ring.intrinsics.copy()
    intrinsics[:, 0, 2] += 3.0
    intrinsics[:, 1, 1] *= 1.25
    return Cameras(ring.camera_to_world, intrinsics, 40, 56)


@pytest.fixture
def gaussians():
    """Sixty of all sizes, turns and colours."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape):
        return torch.rand(shape, generator=generator)

    return Gaussians(
        0.8 * (random(60, 3) - 0.5),
        torch.log(0.01 + 0.09 * random(60, 3)),
        random(60, 4) - 0.5,
        4 * random(60) - 2,
        (random(60, 3) - 0.5) / SH_0,
    )


def one_dot(point, *, size=1e-3, colour=(1.0, 0.5, 0.0)):
    return Gaussians(
        torch.from_numpy(point[None]).float(),
        torch.full((1, 3), np.log(size)).float(),
        torch.tensor([[1.0, 0, 0, 0]]),
        torch.tensor([0.0]),
        (torch.tensor([colour]) - 0.5) / SH_0,
    )


def test_a_dot_is_seen_where_the_cameras_project_it(on_cpu, cameras):
    point = np.array([0.21, -0.13, 0.3])
    rgba = one_dot(point).render(cameras).double().numpy()
    pixels, _ = cameras.project(point[None])
    x, y = np.arange(56) + 0.5, np.arange(40) + 0.5
    mass = rgba[..., 3].sum(axis=(1, 2))
    centre = np.stack([rgba[..., 3].sum(axis=1) @ x, rgba[..., 3].sum(axis=2) @ y], axis=1) / mass[:, None]
    np.testing.assert_allclose(centre, pixels[:, 0], atol=0.02)
    np.testing.assert_allclose(mass, 0.5 * 2 * np.pi * DILATION, rtol=0.03)
    np.testing.assert_allclose(
        rgba[..., :3].sum(axis=(1, 2)) / mass[:, None], [[1.0, 0.5, 0.0]] * 3, atol=1e-3
    )


def test_discs_lie_flat_on_a_mesh_in_its_colours(coloured_cube, colour_of_side):
    discs = Gaussians.on_surface(coloured_cube, count=600, seed=1)
    points = discs.means.double().numpy()
    side = np.abs(points).argmax(axis=1)
    normals = np.eye(3)[side] * np.sign(np.take_along_axis(points, side[:, None], axis=1))
    np.testing.assert_allclose(np.abs(points).max(axis=1), 0.5, atol=1e-6)
    assert {tuple(normal) for normal in normals} == {tuple(s * e) for s in (-1, 1) for e in np.eye(3)}
    turned = Rotation.from_quat(discs.quats[:, [1, 2, 3, 0]].double().numpy()).apply([0, 0, 1])
    np.testing.assert_allclose(turned, normals, atol=1e-6)
    colours = [colour_of_side(normal) for normal in normals]
    np.testing.assert_allclose(255 * (0.5 + SH_0 * discs.sh0.numpy()), colours, atol=0.01)
    spread, thick = discs.log_scales[:, 0].exp(), discs.log_scales[:, 2].exp()
    np.testing.assert_allclose(spread, 0.5 * np.sqrt(6 / 600), rtol=1e-5)
    np.testing.assert_allclose(thick, splat.FLAT * spread, rtol=1e-5)


def shown_db(gaussians, views) -> float:
    """PSNR on white of what all cameras of a sample see of splats."""
    rgba = gaussians.render(views.cameras).numpy()
    ours = rgba[..., :3] + 1 - rgba[..., 3:]
    theirs = composite(views.images)
    return float(-10 * np.log10(((ours - theirs) ** 2).mean(axis=(1, 2, 3))).mean())


def test_splats_come_to_show_what_the_views_show(on_cpu, make_sample):
    """From a grey ball a little too large; views that were held out are closer, too."""
    views = make_sample(num_views=8, size=20, elevation_deg=30)
    held_out = make_sample(num_views=3, size=20, elevation_deg=15, azimuth_deg=20)
    ball, told = trimesh.creation.icosphere(3, radius=0.52), []
    made = splat.fit(ball, views.images, views.cameras, device="cpu", tell=told.append)
    start = Gaussians.on_surface(ball, count=COUNT)
    assert made.psnr_db > shown_db(start, views) + 6
    assert made.psnr_db == pytest.approx(shown_db(made.gaussians, views), abs=0.1)  # of 8 bits
    assert shown_db(made.gaussians, held_out) > shown_db(start, held_out) + 3
    assert made.details() == {"count": COUNT, "psnr_db": pytest.approx(made.psnr_db, abs=1e-3)}
    assert len(told) == splat.REPORTS
    assert told[-1].startswith("splats: iteration 40 of 40, ")
    again = splat.fit(ball, views.images, views.cameras, device="cpu")
    np.testing.assert_array_equal(again.gaussians.means, made.gaussians.means)


def columns(ply: bytes) -> dict[str, np.ndarray]:
    """A PLY of one element with float properties, by name."""
    header, body = ply.split(b"end_header\n")
    lines = header.decode().split("\n")
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    names = [line.split()[-1] for line in lines if line.startswith("property float ")]
    table = np.frombuffer(body, "<f4").reshape(-1, len(names))
    assert f"element vertex {len(table)}" in lines
    return dict(zip(names, table.T, strict=True))


def test_a_file_has_the_columns_of_the_authors_in_their_order(gaussians):
    found = columns(gaussians.to_ply())
    rest = [f"f_rest_{index}" for index in range(45)]
    assert list(found) == [
        "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity",
        "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
    ]  # fmt: skip
    np.testing.assert_array_equal(found["y"], gaussians.means[:, 1])
    np.testing.assert_array_equal(found["opacity"], gaussians.logit_opacities)
    cloud = trimesh.load(trimesh.util.wrap_as_stream(gaussians.to_ply()), file_type="ply")
    np.testing.assert_allclose(cloud.vertices, gaussians.means)


def test_reconstruct_leaves_a_file_and_says_how_good_it_is(on_cpu, make_sample, tmp_path):
    make_sample(tmp_path / "views", solid="boxes", num_views=14, size=20, elevation_deg=12)
    small = {"resolution": 24, "faces": 1000, "texture_size": 64, "splats": True, "device": "cpu"}
    (done,) = run.run(ReconConfig(tmp_path / "views", tmp_path / "out", **small))
    said = json.loads((done.folder / "recon.json").read_text())
    found = columns((done.folder / "splats.ply").read_bytes())
    assert said["splats"]["count"] == len(found["x"])
    assert said["splats"]["psnr_db"] > said["self_check"]["mean_db"]
    assert said["seconds"]["splats"] > 0
    # the chair's back stands at +X and -Y
    high = found["z"] > 0
    assert found["x"][high].mean() > 0.2
    assert found["y"][high].mean() < -0.05


def refused(views, out) -> str:
    with pytest.raises(DependencyError) as error:
        list(run.run(ReconConfig(views, out, splats=True)))
    assert not out.exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_missing_is_said_before_the_work(make_sample, tmp_path, monkeypatch):
    make_sample(tmp_path / "views", num_views=3, size=24)
    monkeypatch.setitem(sys.modules, "gsplat", None)
    assert "pip install 'svd3d[splats]'" in refused(tmp_path / "views", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "gsplat", types.ModuleType("gsplat"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "NVIDIA GPUs only, and the device is cpu" in refused(tmp_path / "views", tmp_path / "out")


def test_kernels_that_cannot_be_built_are_said_in_one_line(monkeypatch, capsys):
    def broken(*arguments, **options):
        sys.stdout.write("Setting up CUDA")
        raise RuntimeError("Error building extension 'gsplat_cuda'\nninja: build stopped")

    module = types.ModuleType("gsplat")
    module.rasterization = broken
    monkeypatch.setitem(sys.modules, "gsplat", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", lambda shape, device: torch.zeros(shape))
    with pytest.raises(DependencyError, match=r"kernels cannot be used \(Error .* 'gsplat_cuda'\); install"):
        splat.check("auto")
    assert capsys.readouterr().out == ""


@pytest.fixture
def gsplat():
    return pytest.importorskip("gsplat", reason="gsplat is an extra: svd3d[splats]")


def test_gsplat_projects_as_we_do(gsplat, gaussians, cameras):
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    scales = gaussians.log_scales.exp()
    covariances, _ = _quat_scale_to_covar_preci(gaussians.quats, scales, compute_preci=False)
    extrinsics, intrinsics = (
        torch.from_numpy(each).float() for each in (cameras.opencv_world_to_camera(), cameras.intrinsics)
    )
    radii, pixels, depth, conics, _ = _fully_fused_projection(
        gaussians.means, covariances, extrinsics, intrinsics, 56, 40, eps2d=DILATION
    )
    seen, at = cameras.project(gaussians.means.double().numpy())
    np.testing.assert_allclose(pixels, seen, atol=1e-3)
    np.testing.assert_allclose(depth, at, rtol=1e-5)
    assert (radii > 0).all(dim=-1).float().mean() > 0.9
    for view in range(3):
        _, covariance, _ = projected(
            gaussians.means, gaussians.quats, scales, extrinsics[view], intrinsics[view]
        )
        inverse = torch.linalg.inv(covariance).flatten(1)[:, [0, 1, 3]]
        np.testing.assert_allclose(conics[view], inverse, rtol=2e-3, atol=2e-4)


def test_gsplat_without_its_kernels_draws_the_same(gsplat, gaussians, cameras, monkeypatch):
    """All of `gsplat.rasterization` runs; its references in torch and `composited` stand in for kernels."""
    from gsplat import rendering
    from gsplat.cuda import _torch_impl

    depths = []

    def projection(means, covars, quats, scales, extrinsics, intrinsics, width, height, **options):
        covars, _ = _torch_impl._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
        found = _torch_impl._fully_fused_projection(
            means, covars, extrinsics, intrinsics, width, height, eps2d=options["eps2d"]
        )
        depths.append(found[2])
        return found

    def tiles(pixels, radii, depth, size, width, height, **options):
        return _torch_impl._isect_tiles(pixels, radii, depth, size, width, height)

    def pixels_of(pixels, conics, colours, opacities, width, height, *tiling, **options):
        a, b, c = conics.unbind(-1)
        inverse = torch.stack([a, b, b, c], dim=-1).unflatten(-1, (2, 2))
        views = zip(pixels, inverse, depths[-1], opacities, colours, strict=True)
        rgba = torch.stack([composited(*view, width, height) for view in views])
        return rgba[..., :3], rgba[..., 3:]

    monkeypatch.setattr(rendering, "fully_fused_projection", projection)
    monkeypatch.setattr(rendering, "isect_tiles", tiles)
    monkeypatch.setattr(rendering, "isect_offset_encode", _torch_impl._isect_offset_encode)
    monkeypatch.setattr(rendering, "rasterize_to_pixels", pixels_of)
    theirs = gaussians.render(cameras)
    monkeypatch.setattr(splat, "rasterize", plain)
    ours = gaussians.render(cameras)
    assert ours[..., 3].mean() > 0.1
    np.testing.assert_allclose(theirs, ours, atol=1e-3)


@pytest.mark.parametrize("rest", [0, 15])
def test_gsplat_writes_the_same_columns(gsplat, gaussians, rest):
    ours = columns(gaussians.to_ply())
    quats = F.normalize(gaussians.quats, dim=1)
    data = gsplat.export_splats(
        gaussians.means,
        gaussians.log_scales,
        quats,
        gaussians.logit_opacities,
        gaussians.sh0[:, None],
        torch.zeros(60, rest, 3),
    )
    theirs = columns(data)
    assert [name for name in ours if name in theirs] == list(theirs)
    for name, column in theirs.items():
        np.testing.assert_array_equal(ours[name], column)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_draw_the_same(gsplat, gaussians, cameras, monkeypatch):
    there = Gaussians(**{name: each.cuda() for name, each in gaussians.tensors().items()})
    theirs = there.render(cameras).cpu()
    monkeypatch.setattr(splat, "rasterize", plain)
    np.testing.assert_allclose(theirs, gaussians.render(cameras), atol=5e-3)
