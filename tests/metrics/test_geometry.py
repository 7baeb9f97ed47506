"""Surface metrics against closed forms, with trimesh as oracle; orientation of every file kind."""

import math

import numpy as np
import pytest
import trimesh

from svd3d.cameras import GLTF_TO_WORLD
from svd3d.errors import MeshError, ObjectError
from svd3d.metrics import geometry
from svd3d.metrics.geometry import Surface

COUNT = 20_000


def surface(mesh: trimesh.Trimesh) -> Surface:
    return Surface(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64))


def ell() -> trimesh.Trimesh:
    """An asymmetric solid: no rotation by a right angle maps it onto itself."""
    upright = trimesh.creation.box((0.2, 0.3, 1.0))
    foot = trimesh.creation.box((0.6, 0.3, 0.2))
    foot.apply_translation((0.4, 0, -0.4))
    knob = trimesh.creation.box((0.2, 0.2, 0.2))
    knob.apply_translation((0.6, 0.25, -0.4))
    return trimesh.util.concatenate([upright, foot, knob])


def distances(one: Surface, other: Surface, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    points = [
        geometry.sample_points(each, COUNT, generator=np.random.default_rng((seed, i)))
        for i, each in enumerate((one, other))
    ]
    return geometry.nearest_distances(*points)


def consistency(one: Surface, other: Surface) -> float:
    samples = [
        geometry.sample_surface(each, COUNT // 4, generator=np.random.default_rng(stream))
        for stream, each in enumerate((one, other))
    ]
    near = geometry.neighbours(*(each.points for each in samples))
    return geometry.normal_consistency(*(each.normals for each in samples), near)


def scanned(shared_data, name: str) -> tuple[trimesh.Trimesh, Surface]:
    """A scanned object whose longest side is 1, as a trimesh with closed seams and as read by us."""
    read = geometry.read(shared_data / f"gso_geometry/{name}.obj")
    low, high = read.bounds
    placed = Surface((read.vertices - (low + high) / 2) / (high - low).max(), read.faces)
    return trimesh.Trimesh(placed.vertices, placed.faces, process=True), placed


@pytest.mark.parametrize(("small", "large"), [(0.4, 0.5), (0.3, 0.5), (0.45, 0.5)])
def test_chamfer_of_two_spheres_is_the_difference_of_their_radii(small, large):
    one, other = (
        surface(trimesh.creation.icosphere(subdivisions=4, radius=radius)) for radius in (small, large)
    )
    there, back = distances(one, other)
    assert geometry.chamfer(there, back) == pytest.approx(large - small, rel=0.03)
    assert geometry.chamfer_squared(there, back) == pytest.approx((large - small) ** 2, rel=0.06)


def test_chamfer_of_a_shifted_sphere_is_half_the_shift():
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    moved = sphere.copy()
    moved.apply_translation((0.06, 0, 0.08))
    there, back = distances(surface(moved), surface(sphere))  # the mean of |normal . shift| over directions
    assert geometry.chamfer(there, back) == pytest.approx(0.1 / 2, rel=0.03)
    assert geometry.chamfer_squared(there, back) == pytest.approx(0.1**2 / 3, rel=0.06)


def test_a_lifted_plane_is_as_far_as_it_was_lifted_and_fscore_switches_there():
    plane = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    lifted = plane.copy()
    lifted.apply_translation((0, 0, 0.1))
    there, back = distances(surface(lifted), surface(plane))
    assert geometry.chamfer(there, back) == pytest.approx(0.1, rel=0.01)
    assert geometry.fscore(there, back, threshold=0.099) == 0
    assert geometry.fscore(there, back, threshold=0.11) == 1


def test_fscore_is_the_harmonic_mean_of_precision_and_recall():
    there, back = np.array([0.0, 0.0, 0.0, 1.0]), np.array([0.0, 1.0])
    assert geometry.fscore(there, back, threshold=0.5) == pytest.approx(2 * 0.75 * 0.5 / 1.25)
    assert geometry.fscore(back + 1, there + 1, threshold=0.5) == 0


def test_a_missing_half_costs_recall_and_not_precision():
    box = surface(trimesh.creation.box((1, 1, 1)))
    half = Surface(box.vertices, box.faces[box.vertices[box.faces].mean(axis=1)[:, 2] > 0.4])  # the lid alone
    there, back = distances(half, box)
    # a point of the lid finds no neighbour with the chance of an empty disc among COUNT / 6 samples per area
    assert (there < 0.02).mean() == pytest.approx(1 - math.exp(-COUNT / 6 * math.pi * 0.02**2), abs=0.005)
    # lid, and a strip of 0.02 on each of the four sides
    assert (back < 0.02).mean() == pytest.approx((1 + 4 * 0.02) / 6, abs=0.01)


@pytest.mark.parametrize("tilt_deg", [0, 30, 60, 90])
def test_normal_consistency_of_tilted_planes_is_the_cosine(tilt_deg):
    plane = trimesh.Trimesh([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    tilted = plane.copy()
    tilted.apply_transform(trimesh.transformations.rotation_matrix(math.radians(tilt_deg), (1, 0, 0)))
    flipped = Surface(np.asarray(tilted.vertices), np.asarray(tilted.faces)[:, ::-1])
    for other in (surface(tilted), flipped):  # which side is outside does not count
        assert consistency(other, surface(plane)) == pytest.approx(math.cos(math.radians(tilt_deg)), abs=1e-9)


def test_normal_consistency_of_spheres_is_one_and_of_random_directions_one_half():
    one, other = (surface(trimesh.creation.icosphere(subdivisions=4, radius=radius)) for radius in (0.4, 0.5))
    assert consistency(one, other) > 0.99
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(2, COUNT, 3))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    near = geometry.neighbours(*rng.random((2, COUNT, 3)))
    assert geometry.normal_consistency(*directions, near) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", ["dog_statue", "purple_tape"])
def test_a_scan_against_itself_its_copy_and_its_decimation(shared_data, name):
    scan, reference = scanned(shared_data, name)
    one, again = (
        geometry.sample_surface(reference, COUNT, generator=np.random.default_rng(stream))
        for stream in (0, 1)
    )
    same = geometry.neighbours(one.points, one.points)
    assert geometry.chamfer(same.there, same.back) == geometry.chamfer_squared(same.there, same.back) == 0
    assert geometry.fscore(same.there, same.back, threshold=1e-9) == 1
    assert geometry.normal_consistency(one.normals, one.normals, same) == pytest.approx(1)
    assert geometry.volume_iou(reference, reference, resolution=32) == 1
    # Random points of density d lie 1 / (2 sqrt(d)) apart on average: the floor of resampling.
    resampled = geometry.neighbours(again.points, one.points)
    floor = geometry.chamfer(resampled.there, resampled.back)
    area = trimesh.Trimesh(reference.vertices, reference.faces).area
    assert floor == pytest.approx(math.sqrt(area / COUNT) / 2, rel=0.1)
    assert geometry.normal_consistency(again.normals, one.normals, resampled) > 0.9

    smaller = scan.simplify_quadric_decimation(face_count=len(scan.faces) // 4)
    decimated = surface(smaller)
    there, back = distances(decimated, reference)
    assert 0.97 * floor < geometry.chamfer(there, back) < 1.15 * floor
    assert geometry.fscore(there, back, threshold=0.02) > 0.98
    assert geometry.volume_iou(decimated, reference, resolution=64) > 0.95


@pytest.mark.parametrize("shift", [0.02, 0.1])
def test_a_shifted_scan_is_at_most_as_far_as_it_was_shifted(shared_data, shift):
    _, reference = scanned(shared_data, "crayon_box")
    samples = geometry.sample_surface(reference, COUNT, generator=np.random.default_rng(0))
    for axis in np.eye(3):
        near = geometry.neighbours(samples.points + shift * axis, samples.points)
        assert near.there.max() <= shift + 1e-12
        assert near.back.max() <= shift + 1e-12
        # where the surface is flat, its distance is the shift along the normal; samples add their floor
        along = shift * np.abs(samples.normals @ axis).mean()
        assert 0.6 * along < geometry.chamfer(near.there, near.back) < along + 0.006


def test_samples_are_spread_by_area_and_lie_on_the_surface():
    mesh = trimesh.creation.box((1, 2, 3))
    points = geometry.sample_points(surface(mesh), COUNT, generator=np.random.default_rng(0))
    _, distance, _ = trimesh.proximity.closest_point(mesh, points[:300])
    assert distance.max() < 1e-9
    share = np.isclose(np.abs(points[:, 2]), 1.5, atol=1e-9).mean()  # lid and floor: 4 of 22
    assert share == pytest.approx(4 / 22, abs=4 * math.sqrt(4 / 22 / COUNT))
    assert np.abs(points.mean(axis=0)).max() < 0.03


def test_samples_carry_the_normals_of_their_faces():
    samples = geometry.sample_surface(
        surface(trimesh.creation.box((1, 1, 1))), 500, generator=np.random.default_rng(0)
    )
    axis = np.abs(samples.points).argmax(axis=1)
    sides = np.eye(3)[axis] * np.sign(np.take_along_axis(samples.points, axis[:, None], 1))
    assert samples.normals == pytest.approx(sides)


def test_the_same_generator_gives_the_same_samples():
    one, other = (
        geometry.sample_points(surface(ell()), 100, generator=np.random.default_rng(3)) for _ in range(2)
    )
    assert (one == other).all()


@pytest.mark.parametrize("shift", [0.25, 0.5, 0.75])
def test_volume_iou_of_two_shifted_boxes(shift):
    box = trimesh.creation.box((1, 1, 1))
    moved = box.copy()
    moved.apply_translation((shift, 0, 0))
    found = geometry.volume_iou(surface(moved), surface(box), resolution=64)
    assert found == pytest.approx((1 - shift) / (1 + shift), abs=0.03)


def test_volume_iou_of_spheres_one_inside_the_other():
    one, other = (surface(trimesh.creation.icosphere(subdivisions=3, radius=radius)) for radius in (0.4, 0.5))
    assert geometry.volume_iou(one, other, resolution=64) == pytest.approx(0.4**3 / 0.5**3, abs=0.01)
    assert geometry.volume_iou(one, one, resolution=32) == 1


@pytest.mark.parametrize("shift", [0.2, 0.5])
def test_volume_iou_of_shifted_spheres_is_that_of_the_lens(shift):
    sphere = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    moved = sphere.copy()
    moved.apply_translation(np.array([1, 2, 2]) / 3 * shift)
    lens = math.pi * (4 * 0.5 + shift) * (2 * 0.5 - shift) ** 2 / 12
    found = geometry.volume_iou(surface(moved), surface(sphere), resolution=64)
    assert found == pytest.approx(lens / (2 * math.pi / 6 - lens), abs=0.01)


def test_parts_that_overlap_count_once_however_all_faces_turn():
    left, right = trimesh.creation.box((0.6, 1, 1)), trimesh.creation.box((0.6, 1, 1))
    left.apply_translation((-0.2, 0, 0))
    right.apply_translation((0.2, 0, 0))
    both = surface(trimesh.util.concatenate([left, right]))
    whole = surface(trimesh.creation.box((1, 1, 1)))
    assert geometry.volume_iou(both, whole, resolution=20) == 1
    assert geometry.volume_iou(Surface(both.vertices, both.faces[:, ::-1]), whole, resolution=20) == 1


def test_volume_needs_a_closed_surface_that_knows_its_outside():
    box = surface(trimesh.creation.box())
    with pytest.raises(MeshError, match="prediction is not watertight"):
        geometry.volume_iou(Surface(box.vertices, box.faces[1:]), box, resolution=16)
    mixed = Surface(box.vertices, np.concatenate([box.faces[:5, ::-1], box.faces[5:]]))
    with pytest.raises(MeshError, match="reference has faces that turn different ways"):
        geometry.volume_iou(box, mixed, resolution=16)
    sheet = surface(trimesh.creation.box((1, 1, 1e-6)))
    with pytest.raises(MeshError, match="too thin for a grid of 16"):
        geometry.volume_iou(sheet, sheet, resolution=16)


def test_vertices_split_at_texture_seams_do_not_open_a_solid():
    box = surface(trimesh.creation.box())
    split = Surface(box.vertices[box.faces].reshape(-1, 3), np.arange(36).reshape(-1, 3))
    assert geometry.is_watertight(split)
    assert geometry.volume_iou(split, box, resolution=16) == 1


def test_loose_vertices_do_not_count_for_the_bounding_box():
    box = surface(trimesh.creation.box())
    loose = Surface(np.concatenate([box.vertices, [[50.0, 0, 0]]]), box.faces)
    assert loose.bounds == pytest.approx(box.bounds)


def test_glb_y_up_and_obj_z_up_of_one_shape_lie_on_each_other(tmp_path):
    mesh = ell()
    mesh.export(tmp_path / "shape.obj")
    mesh.export(tmp_path / "shape.ply")
    lying = mesh.copy()
    lying.apply_transform(np.linalg.inv(GLTF_TO_WORLD))  # what an exporter to +Y up does
    lying.export(tmp_path / "shape.glb")
    mesh.export(tmp_path / "wrong.glb")
    obj, ply, glb, wrong = (
        geometry.read(tmp_path / name) for name in ("shape.obj", "shape.ply", "shape.glb", "wrong.glb")
    )
    assert glb.bounds == pytest.approx(surface(mesh).bounds, abs=1e-6)
    floor = geometry.chamfer(*distances(obj, obj))
    assert geometry.chamfer(*distances(glb, obj)) == pytest.approx(floor, rel=0.05)
    assert geometry.chamfer(*distances(glb, ply)) == pytest.approx(floor, rel=0.05)
    assert geometry.chamfer(*distances(wrong, obj)) > 10 * floor


def test_parts_of_a_scene_are_placed(tmp_path):
    scene = trimesh.Scene()
    for x in (0.0, 3.0):
        scene.add_geometry(
            trimesh.creation.box(), transform=trimesh.transformations.translation_matrix((x, 0, 0))
        )
    scene.export(tmp_path / "two.glb")
    assert geometry.read(tmp_path / "two.glb").bounds == pytest.approx(
        np.array([[-0.5, -0.5, -0.5], [3.5, 0.5, 0.5]])
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("renamed.glb", b"\x89PNG\r\n\x1a\n0000", "not a GLB"),
        ("empty.glb", b"", "the file is empty"),
        ("cut.glb", b"glTF\x02\x00\x00\x00\xff\xff", "not a readable mesh"),
        ("text.obj", b"hello", "no faces"),
        ("points.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\n", "no faces"),
        ("beyond.obj", b"v 0 0 0\nv 1 0 0\nf 1 2 9\n", "not a readable mesh"),
        ("text.ply", b"nothing", "not a readable mesh"),
        ("broken.gltf", b"{", "not a readable mesh"),
        ("shape.step", b"ISO-10303", "not a mesh file"),
    ],
)
def test_files_that_are_no_meshes_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ObjectError, match=message):
        geometry.read(tmp_path / name)


def test_a_point_cloud_is_named(tmp_path):
    trimesh.PointCloud(np.random.default_rng(0).random((50, 3))).export(tmp_path / "cloud.ply")
    with pytest.raises(ObjectError, match=r"cloud\.ply: no faces \(a point cloud"):
        geometry.read(tmp_path / "cloud.ply")


def test_surfaces_that_cannot_be_measured_are_refused():
    line = Surface(np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), np.array([[0, 1, 2]]))
    with pytest.raises(MeshError, match="no area"):
        geometry.sample_surface(line, 10, generator=np.random.default_rng(0))
    with pytest.raises(MeshError, match="2 vertices that are not finite"):
        Surface(np.array([[0, 0, 0], [0, 0, np.nan], [np.inf, 0, 0]]), np.array([[0, 1, 2]]))
    with pytest.raises(MeshError, match="vertices beyond its 3"):
        Surface(np.zeros((3, 3)), np.array([[0, 1, 3]]))
    with pytest.raises(MeshError, match="or an empty mesh"):
        Surface(np.zeros((0, 3)), np.zeros((0, 3), np.int64))
