"""Mesh refinement: rays against Embree, gradients against differences, a ball that finds its size."""

import numpy as np
import pytest
import torch
import trimesh

from recon import raster, refine
from svd3d import Orbit
from svd3d.images import to_uint8

RADIUS = 0.4


@pytest.fixture(scope="module")
def cameras():
    return Orbit.static(num_views=9, elevation_deg=15, distance=2.2).cameras(height=48, width=48)


@pytest.fixture(scope="module")
def views(cameras):
    """A ball coloured by position, as premultiplied means of nine rays per pixel."""
    fine = cameras.resized(height=144, width=144)
    _, depth = raster.render(trimesh.creation.icosphere(5, radius=RADIUS), fine, samples_per_side=1)
    origins, directions = fine.rays()
    points = origins[:, None, None] + depth[..., None] * directions
    rgba = np.concatenate([0.5 + points, np.ones_like(depth)[..., None]], axis=-1) * (depth > 0)[..., None]
    rgba = rgba.reshape(9, 48, 3, 48, 3, 4).mean(axis=(2, 4))
    rgba[..., :3] /= np.maximum(rgba[..., 3:], 1e-6)
    return to_uint8(rgba.astype(np.float32))


def lumpy(radius):
    """A ball of the wrong size with a wave on it."""
    mesh = trimesh.creation.icosphere(3, radius=radius)
    mesh.vertices *= 1 + 0.02 * np.sin(7 * mesh.vertices[:, :1] / radius)
    return mesh


@pytest.mark.parametrize("radius", [0.96 * RADIUS, 1.04 * RADIUS])
def test_a_ball_of_the_wrong_size_finds_its_outlines_and_its_colours(views, cameras, radius):
    mesh, told = lumpy(radius), []
    before = np.abs(np.linalg.norm(mesh.vertices, axis=1) - RADIUS)
    made = refine.refined(mesh, views, cameras, steps=40, device="cpu", tell=told.append)
    after = np.abs(np.linalg.norm(made.vertices, axis=1) - RADIUS)
    seen = mesh.vertices[:, 2] > -0.5 * radius
    assert after[seen].mean() < 0.25 * before[seen].mean()
    assert made.is_volume
    np.testing.assert_array_equal(made.faces, mesh.faces)
    assert len(told) == refine.REPORTS
    again = refine.refined(mesh, views, cameras, steps=40, device="cpu")
    np.testing.assert_array_equal(again.vertices, made.vertices)


def test_rays_meet_faces_where_embree_says(views, cameras):
    mesh = lumpy(RADIUS)
    view = refine._View.of(views[2], cameras.view(2), device="cpu")
    vertices, faces = torch.from_numpy(mesh.vertices).float(), torch.from_numpy(mesh.faces)
    face = refine.by_embree(vertices, faces, cameras.view(2))
    corners, weights, _ = view.met(vertices, faces, face)
    assert len(corners) > 300
    assert ((weights > -1e-4) & (weights < 1 + 1e-4)).all()
    points = (vertices[corners] * weights[..., None]).sum(dim=1).numpy()
    pixels, _ = cameras.view(2).project(points.astype(np.float64))
    np.testing.assert_allclose(pixels[0] % 1, 0.5, atol=2e-3)


def test_the_gradient_of_colours_is_that_of_differences(views, cameras):
    mesh = lumpy(0.95 * RADIUS)
    view = refine._View.of(views[0], cameras.view(0), device="cpu")
    vertices, faces = torch.from_numpy(mesh.vertices).float(), torch.from_numpy(mesh.faces)
    face = refine.by_embree(vertices, faces, cameras.view(0))
    colours = 0.5 + vertices

    def loss(size):
        return view.colour_error(vertices * size, faces, colours, face).square().sum()

    size = torch.ones((), requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(size), [size])
    step = 1e-3
    difference = (loss(torch.tensor(1 + step)) - loss(torch.tensor(1 - step))) / (2 * step)
    assert gradient.item() == pytest.approx(difference.item(), rel=0.02)


def test_outlines_are_told_apart_in_pixels(views, cameras):
    found = []
    for size in (0.97, 1.0, 1.03):
        mesh = trimesh.creation.icosphere(5, radius=size * RADIUS)
        view = refine._View.of(views[1], cameras.view(1), device="cpu")
        caster = raster.RayCaster(mesh.vertices, mesh.faces)
        error = view.outline_error(torch.from_numpy(mesh.vertices).float(), mesh, caster)
        assert len(error) > 100
        assert error.std() < 0.1
        found.append(error.mean().item())
    # a sphere of radius r at distance d shows a disc of radius f r / sqrt(d^2 - r^2)
    small, true, large = (
        cameras.intrinsics[1, 1, 1] * r / np.sqrt(2.2**2 - r**2)
        for r in (0.97 * RADIUS, RADIUS, 1.03 * RADIUS)
    )
    outwards = np.sign(found[2])
    np.testing.assert_allclose(outwards * np.array(found), [small - true, 0, large - true], atol=0.05)


def test_pytorch3d_sees_the_same_faces(cameras):
    pytest.importorskip("pytorch3d", reason="PyTorch3D has no wheel for this machine")
    mesh = lumpy(RADIUS)
    vertices, faces = torch.from_numpy(mesh.vertices).float(), torch.from_numpy(mesh.faces)
    for view in range(3):
        ours, theirs = (
            sees(vertices, faces, cameras.view(view)) for sees in (refine.by_embree, refine.by_pytorch3d)
        )
        assert (ours == theirs).float().mean() > 0.99
