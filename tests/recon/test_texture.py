"""Baking: the right colour at the right place, nothing of the background, what is unseen is filled."""

import numpy as np
import pytest
import trimesh

from recon import raster, texture
from svd3d import Cameras, Orbit


def colour_by_direction(points):
    """A smooth colour for each direction, in [0, 1]."""
    return 0.5 + 0.4 * points / np.linalg.norm(points, axis=-1, keepdims=True)


def sphere_views(cameras: Cameras, radius=0.5, background=0):
    """Exact pictures of a sphere coloured by direction; the pixels outside are `background`, transparent."""
    origins, directions = cameras.rays()
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    along = np.einsum("vhwk,vk->vhw", unit, origins)
    root = along**2 - (origins**2).sum(-1)[:, None, None] + radius**2
    hit = root > 0
    points = origins[:, None, None] + (-along - np.sqrt(np.maximum(root, 0)))[..., None] * unit
    rgba = np.full((*hit.shape, 4), background, np.uint8)
    rgba[hit, :3] = (255 * colour_by_direction(points[hit])).round()
    rgba[..., 3] = 255 * hit
    return rgba


@pytest.fixture(scope="module")
def baked():
    surface = trimesh.creation.icosphere(4, radius=0.5)
    cameras = Orbit.static(num_views=12, elevation_deg=15, distance=2.2).cameras(height=64, width=64)
    return texture.bake(surface, sphere_views(cameras, background=255), cameras, size=256)


def test_each_direction_of_a_sphere_gets_its_colour(baked):
    uv, picture = raster.texture_of(baked.mesh)
    points = baked.mesh.triangles_center
    colour = raster.sample_texture(picture, uv[baked.mesh.faces].mean(axis=1))
    well_seen = np.abs(points[:, 2]) < 0.3
    error = np.abs(colour - colour_by_direction(points))
    assert error[well_seen].max() < 0.03
    assert np.abs(colour[points[:, 2] < -0.45] - colour_by_direction(np.array([0, 0, -1.0]))).max() < 0.25


def test_the_pole_that_no_camera_sees_counts_as_unseen(baked):
    surface = trimesh.creation.icosphere(4, radius=0.5)
    # a point is in sight of a ring of cameras at 15 degrees unless its angle to all of them is too wide
    elevation = np.arcsin(surface.triangles_center[:, 2] / np.linalg.norm(surface.triangles_center, axis=1))
    limit = np.radians(15) + np.arcsin(0.5 / 2.2) - np.pi / 2
    hidden = surface.area_faces[elevation < limit].sum() / surface.area
    assert 0 < hidden < 1 - baked.seen_share < hidden + 0.12


def test_the_background_does_not_bleed_in():
    surface = trimesh.creation.icosphere(4, radius=0.5)
    cameras = Orbit.static(num_views=12, elevation_deg=15, distance=2.2).cameras(height=64, width=64)
    dark, bright = (
        np.asarray(raster.texture_of(texture.bake(surface, views, cameras, size=128).mesh)[1], int)
        for views in (sphere_views(cameras, background=0), sphere_views(cameras, background=255))
    )
    np.testing.assert_array_equal(dark, bright)


def test_a_hidden_surface_does_not_take_the_colour_of_what_hides_it():
    red, blue = trimesh.creation.box([0.1, 0.8, 0.8]), trimesh.creation.box([0.1, 0.3, 0.3])
    blue.apply_translation([0.3, 0, 0])
    surface = trimesh.util.concatenate([red, blue])
    cameras = Orbit.static(num_views=1, elevation_deg=0, distance=2.5).cameras(height=64, width=64)
    _, depth = raster.render(surface, cameras, samples_per_side=1)
    images = np.zeros((1, 64, 64, 4), np.uint8)
    images[depth > 0] = (255, 0, 0, 255)
    images[(depth > 0) & (depth < 2.3)] = (0, 0, 255, 255)
    points = np.array([[0.05, 0.02, 0.03], [0.05, 0.3, 0.3], [0.35, 0.05, 0.0]], np.float32)
    normals = np.tile(np.array([1, 0, 0], np.float32), (3, 1))
    inside = np.zeros((2, 2), bool)
    colour, seen = texture.project(surface, texture.Texels(inside, points, normals), images, cameras)
    np.testing.assert_array_equal(seen, [False, True, True])
    np.testing.assert_allclose(colour[1:], [[1, 0, 0], [0, 0, 1]], atol=1e-6)


def test_texels_lie_on_the_surface_where_their_coordinate_says():
    surface = trimesh.creation.icosphere(3, radius=0.5)
    chart = texture.unwrap(surface, size=128)
    texels = texture.texel_points(surface, chart, size=128)
    assert 0.4 < texels.inside.mean() < 1
    assert len(texels.points) == texels.inside.sum()
    assert np.abs(np.linalg.norm(texels.points, axis=1) - 0.5).max() < 0.01
    assert (np.einsum("nk,nk->n", texels.normals, texels.points) > 0.45).all()
    # every vertex of a chart has a texel near it that lies near it in space
    rows, columns = np.nonzero(texels.inside)
    centres = np.column_stack([(columns + 0.5) / 128, 1 - (rows + 0.5) / 128])
    for vertex in range(0, len(chart.uv), 97):
        nearest = np.linalg.norm(centres - chart.uv[vertex], axis=1).argmin()
        assert np.linalg.norm(texels.points[nearest] - surface.vertices[chart.vertex[vertex]]) < 0.06


def test_charts_do_not_overlap_and_cover_every_face():
    surface = trimesh.creation.icosphere(3, radius=0.5)
    chart = texture.unwrap(surface, size=256)
    np.testing.assert_array_equal(np.sort(chart.vertex[chart.faces], axis=1), np.sort(surface.faces, axis=1))
    one, two = (chart.uv[chart.faces[:, k]] - chart.uv[chart.faces[:, 0]] for k in (1, 2))
    area = np.abs(one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).sum() / 2
    covered = texture.texel_points(surface, chart, size=256).inside.mean()
    assert covered == pytest.approx(area, rel=0.02)


def test_unseen_points_take_their_neighbours_colour():
    points = np.array([[0, 0, 0], [1, 0, 0], [0.1, 0, 0]], np.float32)
    colour = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0]], np.float32)
    filled = texture.fill_unseen(points, colour, np.array([True, True, False]))
    np.testing.assert_allclose(filled[2], [0.9, 0, 0.1], atol=1e-5)
    nothing = texture.fill_unseen(points, colour, np.zeros(3, bool))
    np.testing.assert_array_equal(nothing, 0.5)


def test_chart_borders_are_repeated_outwards():
    picture, inside = np.zeros((32, 32, 3), np.float32), np.zeros((32, 32), bool)
    inside[:, :8] = True
    picture[:, :8] = 0.8
    padded = texture.pad_charts(picture, inside)
    np.testing.assert_allclose(padded, 0.8, atol=1e-5)
