"""Alignments: what each forgives and what it does not, on solids and on scans that were moved by hand."""

import math

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from svd3d.errors import MeshError
from svd3d.metrics import alignment, geometry
from svd3d.metrics.geometry import Surface

CUBE = trimesh.creation.box()


def surface(mesh: trimesh.Trimesh) -> Surface:
    return Surface(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64))


def ell() -> Surface:
    """A solid without any symmetry."""
    foot, knob = trimesh.creation.box((0.6, 0.3, 0.2)), trimesh.creation.box((0.2, 0.2, 0.2))
    foot.apply_translation((0.4, 0, -0.4))
    knob.apply_translation((0.6, 0.25, -0.4))
    return surface(trimesh.util.concatenate([trimesh.creation.box((0.2, 0.3, 1.0)), foot, knob]))


def similarity(axis: tuple[float, float, float], angle_deg: float, scale: float) -> np.ndarray:
    move = np.eye(4)
    turned = Rotation.from_rotvec(np.radians(angle_deg) * np.array(axis) / np.linalg.norm(axis))
    move[:3, :3], move[:3, 3] = scale * turned.as_matrix(), (5, -2, 1)
    return move


def chamfer(pair: alignment.Aligned, count: int = 10_000) -> float:
    points = [
        geometry.sample_points(each, count, generator=np.random.default_rng((7, stream)))
        for stream, each in enumerate((pair.prediction, pair.reference))
    ]
    return geometry.chamfer(*geometry.nearest_distances(*points))


def decimated(shared_data, name: str) -> tuple[Surface, Surface]:
    """A scan, and a copy with a third of the faces, so that no vertex and no sample meets its own."""
    scan = geometry.read(shared_data / f"gso_geometry/{name}.obj")
    mesh = trimesh.Trimesh(scan.vertices, scan.faces)
    return surface(mesh.simplify_quadric_decimation(face_count=len(scan.faces) // 3)), scan


@settings(max_examples=15)
@given(st.tuples(*[st.floats(-5, 5)] * 3), st.floats(0.01, 100))
def test_the_bounding_box_forgets_place_and_size_and_none_and_world_do_not(shift, scale):
    reference = ell()
    moved = Surface(reference.vertices * scale + np.array(shift), reference.faces)
    boxed = alignment.align(moved, reference, "bounding-box")
    assert boxed.prediction.vertices == pytest.approx(boxed.reference.vertices, abs=1e-6)
    low, high = boxed.reference.bounds
    assert (high - low).max() == pytest.approx(1)
    assert low + high == pytest.approx([0, 0, 0], abs=1e-9)
    world = alignment.align(moved, reference, "world")
    assert world.prediction.vertices == pytest.approx(moved.vertices)
    assert (world.prediction_move == np.eye(4)).all()
    together = alignment.align(moved, moved, "none")
    assert together.prediction.vertices == pytest.approx(boxed.reference.vertices, abs=1e-6)


@pytest.mark.parametrize("kind", ["none", "world", "bounding-box", "icp", "yaw"])
def test_the_moves_in_the_report_are_those_that_were_made(kind):
    reference = ell()
    prediction = alignment.transformed(reference, similarity((0, 0, 1), 20, 3))
    pair = alignment.align(prediction, reference, kind)
    for before, after, move in (
        (prediction, pair.prediction, pair.prediction_move),
        (reference, pair.reference, pair.reference_move),
    ):
        homogeneous = np.column_stack([before.vertices, np.ones(len(before.vertices))])
        assert (homogeneous @ move.T)[:, :3] == pytest.approx(after.vertices)
        linear = move[:3, :3] / np.cbrt(np.linalg.det(move[:3, :3]))
        assert linear @ linear.T == pytest.approx(np.eye(3))  # turn and scale only
        assert np.linalg.det(move[:3, :3]) > 0  # never a mirror
    again = alignment.align(prediction, reference, kind)
    assert (again.prediction_move == pair.prediction_move).all()


@pytest.mark.parametrize(
    ("name", "angle_deg", "turning"), [("alarm_clock", 97, 1), ("yoshi_figure", 187.5, -1)]
)
def test_yaw_brings_a_turned_scaled_shifted_scan_back(shared_data, name, angle_deg, turning):
    copy, scan = decimated(shared_data, name)
    copy = Surface(copy.vertices, copy.faces[:, ::turning])  # peers write faces either way round
    moved = alignment.transformed(copy, similarity((0, 0, 1), angle_deg, 3.7))
    floor = chamfer(alignment.align(copy, scan, "none"))
    assert chamfer(alignment.align(moved, scan, "bounding-box")) > 3 * floor
    found = alignment.align(moved, scan, "yaw")
    assert chamfer(found) < 1.02 * floor
    left = found.prediction_move @ similarity((0, 0, 1), angle_deg, 3.7) @ np.linalg.inv(found.reference_move)
    scale = np.cbrt(np.linalg.det(left[:3, :3]))
    assert scale == pytest.approx(1, abs=0.005)
    assert math.degrees(Rotation.from_matrix(left[:3, :3] / scale).magnitude()) < 0.3
    assert left[:3, 3] == pytest.approx(np.zeros(3), abs=0.005)


def test_icp_undoes_a_small_turn_about_any_axis_better_than_trimesh(shared_data):
    copy, scan = decimated(shared_data, "dog_statue")
    moved = alignment.transformed(copy, similarity((1, -2, 0.5), 9, 0.9))
    floor = chamfer(alignment.align(copy, scan, "none"))
    boxed = alignment.align(moved, scan, "bounding-box")
    found = chamfer(alignment.align(moved, scan, "icp"))
    assert found < 1.02 * floor
    _, points, _ = trimesh.registration.icp(
        boxed.prediction.vertices, boxed.reference.vertices, max_iterations=50, reflection=False
    )
    theirs = alignment.Aligned(
        Surface(np.asarray(points), copy.faces), boxed.reference, np.eye(4), boxed.reference_move
    )
    assert found <= chamfer(theirs)
    assert chamfer(theirs) < chamfer(boxed)


def test_icp_does_not_search_and_yaw_does():
    reference = ell()
    behind = alignment.transformed(reference, alignment.turn(180))
    floor = chamfer(alignment.align(reference, reference, "none"))
    assert chamfer(alignment.align(behind, reference, "icp")) > 3 * floor
    assert chamfer(alignment.align(behind, reference, "yaw")) < 1.1 * floor


def test_a_mirrored_copy_stays_wrong():
    reference = ell()
    mirrored = Surface(reference.vertices * [1, -1, 1], reference.faces[:, ::-1])
    floor = chamfer(alignment.align(reference, reference, "none"))
    assert chamfer(alignment.align(mirrored, reference, "yaw")) > 1.5 * floor


@pytest.mark.parametrize(
    "mesh",
    [
        trimesh.creation.icosphere(subdivisions=3),
        trimesh.creation.cylinder(radius=0.3, height=1.0),
        CUBE,
        trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]]),
        trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 0, 1]], [[0, 1, 2]]),
    ],
    ids=["sphere", "cylinder", "cube", "sheet", "triangle"],
)
def test_symmetric_and_flat_objects_meet_themselves(mesh):
    reference = surface(mesh)
    moved = alignment.transformed(reference, similarity((0, 0, 1), 33, 2))
    floor = chamfer(alignment.align(reference, reference, "none"))
    # An open sheet may stay turned by some degrees in its own plane, where its distance does not grow.
    assert chamfer(alignment.align(moved, reference, "yaw")) < 1.3 * floor


@pytest.mark.parametrize("extents", [(1, 0.2, 0.1), (0.1, 0.1, 1)])
def test_a_prediction_of_another_shape_ends_no_further_than_it_began(extents):
    box = surface(trimesh.creation.box(extents))
    fitted, boxed = (chamfer(alignment.align(ell(), box, kind), 3000) for kind in ("icp", "bounding-box"))
    assert fitted < 1.02 * boxed


def test_surfaces_without_extent_or_area_are_refused():
    cube = surface(CUBE)
    point = Surface(np.zeros((3, 3)), np.array([[0, 1, 2]]))
    with pytest.raises(MeshError, match="longest side of 0"):
        alignment.align(cube, point, "none")
    with pytest.raises(MeshError, match="longest side of 0"):
        alignment.align(point, cube, "bounding-box")
    line = Surface(np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), np.array([[0, 1, 2]]))
    with pytest.raises(MeshError, match="no area"):
        alignment.align(line, cube, "icp")
