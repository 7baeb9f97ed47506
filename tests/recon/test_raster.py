"""Pictures of meshes against projections in closed form and against trimesh's own ray test."""

import numpy as np
import pytest
import trimesh

from recon import raster
from svd3d import Orbit


def square(side=0.5, x=0.0):
    """A square in the plane x = const, facing +X."""
    half = side / 2
    corners = np.array([[x, -half, -half], [x, half, -half], [x, half, half], [x, -half, half]])
    return trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)


def test_a_square_covers_what_it_projects_to():
    cameras = Orbit.static(num_views=1, elevation_deg=0, distance=2.0).cameras(height=64, width=64)
    rgba, depth = raster.render(square(), cameras, samples_per_side=5)
    side = 0.5 * cameras.intrinsics[0, 0, 0] / 2.0
    assert rgba[0, ..., 3].sum() / 255 == pytest.approx(side**2, rel=0.02)
    rows, columns = np.nonzero(rgba[0, ..., 3])
    assert rows.mean() == columns.mean() == pytest.approx(31.5)
    np.testing.assert_allclose(depth[0][depth[0] > 0], 2.0, rtol=1e-5)


def test_coverage_of_outline_pixels_is_a_fraction():
    cameras = Orbit.static(num_views=1, elevation_deg=0, distance=2.0).cameras(height=64, width=64)
    side_px = 20.5
    mesh = square(side_px * 2.0 / cameras.intrinsics[0, 0, 0])
    rgba, _ = raster.render(mesh, cameras, samples_per_side=9)
    assert rgba[0, 32, :, 3].sum() / 255 == pytest.approx(side_px, abs=0.15)


def test_depth_and_silhouette_agree_with_trimesh(ell):
    cameras = Orbit.static(num_views=3, elevation_deg=35, azimuth_deg=20, distance=2.2).cameras(
        height=24, width=20
    )
    _, depth = raster.render(ell, cameras, samples_per_side=1)
    origins, directions = cameras.rays()
    for view in range(3):
        flat = directions[view].reshape(-1, 3)
        points, ray, _ = trimesh.ray.ray_triangle.RayMeshIntersector(ell).intersects_location(
            np.broadcast_to(origins[view], flat.shape), flat, multiple_hits=True
        )
        expected = np.full(len(flat), np.inf)
        along = ((points - origins[view]) * flat[ray]).sum(1) / (flat[ray] ** 2).sum(1)
        np.minimum.at(expected, ray, along)
        expected[np.isinf(expected)] = 0
        different = np.abs(depth[view].ravel() - expected) > 1e-4
        assert different.sum() <= 2  # rays through an edge may fall to either side


def test_a_texture_is_looked_up_the_right_way_up():
    texture = np.zeros((2, 2, 3), np.uint8)
    texture[0, 0], texture[1, 1] = (255, 0, 0), (0, 0, 255)  # red at the top left, blue at the bottom right
    uv = np.array([[0.25, 0.75], [0.75, 0.25], [0.5, 0.5], [0.0, 1.0]])
    expected = np.array([[1, 0, 0], [0, 0, 1], [0.25, 0, 0.25], [1, 0, 0]])
    np.testing.assert_allclose(raster.sample_texture(texture, uv), expected, atol=1e-6)


def test_outline_pixels_keep_the_colour_of_the_object(coloured_cube):
    cameras = Orbit.static(num_views=1, elevation_deg=0, distance=2.5).cameras(height=40, width=40)
    rgba, _ = raster.render(coloured_cube, cameras)
    outline = (rgba[0, ..., 3] > 0) & (rgba[0, ..., 3] < 255)
    assert outline.any()
    assert (rgba[0][outline, :3] == (255, 0, 0)).all()


def test_large_pictures_are_rendered_in_bands(monkeypatch, ell):
    cameras = Orbit.static(num_views=2, distance=2.2).cameras(height=33, width=31)
    whole = raster.render(ell, cameras)
    monkeypatch.setattr(raster, "RAYS", 500)
    for one, two in zip(whole, raster.render(ell, cameras), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_mesh_outside_the_frame_gives_nothing():
    cameras = Orbit.static(num_views=1, elevation_deg=0, distance=2.0).cameras(height=16, width=16)
    shape = square()
    shape.apply_translation([0, 50, 0])
    rgba, depth = raster.render(shape, cameras)
    assert not rgba.any()
    assert not depth.any()
