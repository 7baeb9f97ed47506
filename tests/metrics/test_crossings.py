"""Lines through meshes against closed forms, against trimesh's inside test and against Embree's rays."""

import math

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from recon.raster import RayCaster
from svd3d import Orbit
from svd3d.errors import MeshError
from svd3d.metrics import crossings

CAMERAS = Orbit.static(num_views=3, elevation_deg=25, distance=2.0).cameras(height=40, width=56)


def inside(mesh: trimesh.Trimesh, *, rule: str = "winding", resolution: int = 20) -> np.ndarray:
    """Which points of a grid of step 1 from the origin lie inside."""
    return crossings.occupancy(
        np.asarray(mesh.triangles), origin=np.zeros(3), step=1.0, resolution=resolution, rule=rule
    )


@settings(max_examples=25)
@given(
    st.tuples(*[st.tuples(st.integers(-3, 22), st.integers(1, 20))] * 3),
    st.sampled_from(["winding", "parity"]),
)
def test_a_box_with_all_corners_on_lines_holds_its_volume_in_points(sides, rule):
    """Every side, edge and corner lies exactly on lines: a point belongs to one of two that touch."""
    low = np.array([start for start, _ in sides])
    high = low + [length for _, length in sides]
    box = trimesh.creation.box(bounds=np.stack([low, high]).astype(float))
    found = inside(box, rule=rule)
    held = np.clip(high, 0, 20) - np.clip(low, 0, 20)
    assert found.sum() == held.prod()
    above = box.copy()
    above.apply_translation((0, 0, high[2] - low[2]))
    assert not (found & inside(above, rule=rule)).any()


def test_points_inside_a_scan_are_those_of_trimesh(shared_data):
    mesh = trimesh.load(shared_data / "gso_geometry/dog_statue.obj", process=True, force="mesh")
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    low, high = mesh.bounds
    step = float((high - low).max()) / 24
    found = crossings.occupancy(
        np.asarray(mesh.triangles), origin=low + step / 2, step=step, resolution=24, rule="winding"
    )
    points = low + step * (
        np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), -1).reshape(-1, 3) + 0.5
    )
    assert found.sum() > 1000
    assert (found.ravel() != mesh.contains(points)).sum() <= 2


def test_parts_that_overlap_are_hollow_by_parity_only():
    one = trimesh.creation.box(bounds=np.array([[2.5, 2.5, 2.5], [10.5, 10.5, 10.5]]))
    other = trimesh.creation.box(bounds=np.array([[6.5, 2.5, 2.5], [14.5, 10.5, 10.5]]))
    both = trimesh.util.concatenate([one, other])
    assert inside(both).sum() == 12 * 8 * 8
    assert inside(both, rule="parity").sum() == 8 * 8 * 8


def test_batches_do_not_change_the_result(monkeypatch):
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=8)
    mesh.apply_translation((9.3, 9.1, 10.2))
    whole = inside(mesh)
    monkeypatch.setattr(crossings, "CANDIDATES", 7)
    assert (inside(mesh) == whole).all()
    assert whole.sum() == pytest.approx(mesh.volume, rel=0.02)


def test_a_surface_off_the_grid_crosses_nothing():
    far = trimesh.creation.box()
    far.apply_translation((50, 0.5, 0.5))
    assert not inside(far).any()
    behind = trimesh.creation.box()
    behind.apply_translation((-50, 0.5, 0.5))
    assert not inside(behind).any()


def test_depth_of_a_sphere_is_the_closed_form():
    sphere = trimesh.creation.icosphere(subdivisions=5, radius=0.5)
    depth = crossings.depth_maps(np.asarray(sphere.triangles), CAMERAS)
    origins, directions = CAMERAS.rays()
    for view, (origin, rays) in enumerate(zip(origins, directions, strict=True)):
        a, b = (rays**2).sum(-1), rays @ origin
        root = b**2 - a * (origin @ origin - 0.25)
        expected = np.where(root > 0, (-b - np.sqrt(root.clip(0))) / a, 0)
        clear = np.abs(root) > 0.02  # not along the rim, where facets show
        assert np.abs(depth[view] - expected)[clear].max() < 2e-3
        assert (depth[view] > 0).sum() == pytest.approx((expected > 0).sum(), rel=0.02)


def test_depth_of_a_scan_is_that_of_rays(shared_data):
    mesh = trimesh.load(shared_data / "gso_geometry/purple_tape.obj", process=False, force="mesh")
    mesh.apply_translation(-mesh.bounds.mean(axis=0))
    mesh.apply_scale(1 / mesh.extents.max())
    depth = crossings.depth_maps(np.asarray(mesh.triangles, np.float64), CAMERAS)
    caster = RayCaster(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    origins, directions = CAMERAS.rays()
    for view in range(len(CAMERAS)):
        rays = directions[view].reshape(-1, 3)
        hits = caster.first_hits(np.broadcast_to(origins[view], rays.shape), rays)
        expected = np.where(hits.face >= 0, hits.distance, 0).reshape(depth[view].shape)
        both = (depth[view] > 0) & (expected > 0)
        assert both.sum() > 200
        assert ((depth[view] > 0) != (expected > 0)).sum() <= 1
        assert np.abs(depth[view] - expected)[both].max() < 1e-4


def test_depth_of_a_large_triangle_is_that_of_its_plane():
    """The inverse of depth is linear across a triangle; depth is not."""
    corners = np.array([[[-1.0, -4, -3], [0.5, 4, -3], [0, 0, 4]]])
    depth = crossings.depth_maps(corners, CAMERAS.view(0))
    normal = np.cross(corners[0, 1] - corners[0, 0], corners[0, 2] - corners[0, 0])
    origins, directions = CAMERAS.view(0).rays()
    expected = (corners[0, 0] - origins[0]) @ normal / (directions[0] @ normal)
    assert depth[0] == pytest.approx(expected, rel=1e-9)


def test_a_mesh_behind_the_camera_is_refused():
    wall = trimesh.creation.box((10, 10, 0.1))
    with pytest.raises(MeshError, match="reaches behind the camera of view 0"):
        crossings.depth_maps(np.asarray(wall.triangles), CAMERAS)
    assert math.isfinite(crossings.depth_maps(np.asarray(trimesh.creation.box().triangles), CAMERAS).sum())
