"""SyncDreamer's and EscherNet's mesh scores against restatements, their cameras and depth maps."""

import json

import numpy as np
import pytest
import trimesh
from scipy.spatial.distance import cdist

from recon.raster import RayCaster
from svd3d.errors import MeshError
from svd3d.images import decode_depth
from svd3d.metrics import alignment, geometry, peer_meshes
from svd3d.metrics.geometry import Surface

CAMERAS = peer_meshes.ORBIT.cameras(height=256, width=256)


def surface(mesh: trimesh.Trimesh) -> Surface:
    return Surface(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64))


def scanned(shared_data, name: str) -> Surface:
    """A scan centred on its bounding box with longest side 1."""
    scan = geometry.read(shared_data / f"gso_geometry/{name}.obj")
    return alignment.transformed(scan, alignment.to_unit_box(scan))


def chamfer(points: np.ndarray, others: np.ndarray) -> float:
    return geometry.chamfer(*geometry.nearest_distances(points, others))


def restated_chamfer(points: np.ndarray, others: np.ndarray) -> float:
    distances = cdist(points, others)
    return (distances.min(axis=1).mean() + distances.min(axis=0).mean()) / 2


def restated_visible_points(shape: Surface, poses: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """By rays, one view at a time, with a dictionary of voxels."""
    caster = RayCaster(shape.vertices, shape.faces)
    points = []
    for pose in poses:
        rotation, shift = pose[:, :3], pose[:, 3]
        x, y = np.meshgrid(np.arange(256), np.arange(256))
        rays = np.stack([x + 0.5, y + 0.5, np.ones_like(x)], -1).reshape(-1, 3) @ np.linalg.inv(intrinsics).T
        hits = caster.first_hits(np.broadcast_to(-rotation.T @ shift, rays.shape), rays @ rotation)
        seen = hits.face >= 0
        pixels = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3)[seen]  # indices, not centres
        local = pixels @ np.linalg.inv(intrinsics).T * hits.distance[seen, None]
        points.append((local - shift) @ rotation)
    points = np.concatenate(points)
    voxels = {}
    corner = points.min(axis=0) - 0.005
    for point in points:
        voxels.setdefault(tuple(((point - corner) // 0.01).astype(int)), []).append(point)
    return np.array([np.mean(members, axis=0) for members in voxels.values()])


@pytest.fixture(scope="module")
def published(shared_data):
    """Poses (OpenCV, world to camera) and intrinsics of SyncDreamer's 16 views."""
    cameras = json.loads((shared_data / "multiview/syncdreamer_camera-16.json").read_text())
    return np.array(cameras["poses_world2cam_opencv_3x4"]), np.array(cameras["K"])


def test_the_cameras_are_those_that_syncdreamer_publishes(published):
    poses, intrinsics = published
    assert CAMERAS.opencv_world_to_camera()[:, :3] == pytest.approx(poses, abs=1e-6)
    assert CAMERAS.intrinsics[5] == pytest.approx(intrinsics)


def test_visible_points_are_those_of_syncdreamers_own_depth_maps(shared_data, published):
    """The authors' depth pictures of the same scan, 16 bits from 0.6 to 2.4; theirs stands turned by 90."""
    ours = peer_meshes.visible_points(
        alignment.transformed(scanned(shared_data, "CHICKEN_NESTING"), alignment.turn(90))
    )
    poses, intrinsics = published
    theirs = []
    for view, pose in enumerate(poses):
        path = shared_data / f"multiview/chicken_gt/{view:03d}-depth.png"
        depth = decode_depth(path.read_bytes(), where=path.name) / 65535 * 1.8 + 0.6
        y, x = np.nonzero((depth > 0.63) & (depth < 2.37))
        local = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(intrinsics).T * depth[y, x][:, None]
        theirs.append((local - pose[:, 3]) @ pose[:, :3])
    theirs = peer_meshes.voxel_means(np.concatenate(theirs), peer_meshes.VOXEL)
    assert len(ours) == pytest.approx(len(theirs), rel=0.01)
    assert chamfer(ours, theirs) < 1e-4


def test_chamfer_of_visible_points_is_that_of_the_restatement(shared_data, published):
    reference = alignment.transformed(scanned(shared_data, "purple_tape"), np.diag([0.4, 0.4, 0.4, 1.0]))
    prediction = alignment.transformed(reference, np.diag([0.8, 0.8, 0.8, 1.0]))
    found = chamfer(*(peer_meshes.visible_points(each) for each in (prediction, reference)))
    points, others = (restated_visible_points(each, *published) for each in (prediction, reference))
    assert found == pytest.approx(restated_chamfer(points, others), abs=1e-4)
    assert found > 0.01


def test_what_no_camera_sees_does_not_count():
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.2)
    filled = trimesh.util.concatenate([ball, trimesh.creation.icosphere(subdivisions=1, radius=0.1)])
    one, other = (peer_meshes.visible_points(surface(each)) for each in (ball, filled))
    assert chamfer(one, other) == 0


def test_voxel_means_average_inside_cells_only():
    points = np.array([[0, 0, 0], [0.004, 0, 0], [0.006, 0, 0], [0.5, 0.2, 0.1]])
    expected = [[0.002, 0, 0], [0.006, 0, 0], [0.5, 0.2, 0.1]]  # the grid starts at -0.005
    assert peer_meshes.voxel_means(points, 0.01) == pytest.approx(np.array(expected))
    assert peer_meshes.voxel_means(points, 10.0) == pytest.approx(points.mean(axis=0)[None])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("CHICKEN_NESTING", 0.9905362776025236), ("porcelain_cup", 0.9274516952242071)],
    ids=["closed", "leaky"],
)
def test_the_grid_is_that_of_mesh2sdf(shared_data, name, expected):
    """Numbers of mesh2sdf 1.1.0 for a scan against itself turned by 5 degrees; the cup is not watertight."""
    reference = scanned(shared_data, name)
    prediction = alignment.transformed(reference, alignment.turn(5))
    found = peer_meshes.mesh2sdf_iou(prediction, reference, resolution=64)
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_grid_spans_two_units():
    """Points at -1 + i / 32: cubes whose sides miss the grid hold the cube of the points between them."""
    large, small = (surface(trimesh.creation.box((side, side, side))) for side in (0.99, 0.49))
    assert peer_meshes.mesh2sdf_iou(small, large, resolution=64) == 15**3 / 31**3
    assert peer_meshes.mesh2sdf_iou(small, large, resolution=16) == 3**3 / 7**3


def test_eschernets_chamfer_is_between_vertices_of_meshes_boxed_apart(shared_data):
    reference = geometry.read(shared_data / "gso_geometry/purple_tape.obj")
    shape = trimesh.creation.annulus(r_min=0.2, r_max=0.4, height=0.3)
    shape.apply_translation((3, 1, 0))
    pair = alignment.align(surface(shape), reference, "bounding-box")
    found = chamfer(pair.prediction.vertices, pair.reference.vertices)

    def boxed(vertices):
        vertices = vertices / (vertices.max(0) - vertices.min(0)).max()
        return vertices - (vertices.max(0) + vertices.min(0)) / 2

    expected = restated_chamfer(boxed(np.asarray(shape.vertices)), boxed(reference.vertices))
    assert found == pytest.approx(expected, abs=1e-4)
    # few vertices tell little of the surface: the same shape, finer, is another number
    finer = alignment.align(surface(shape.subdivide()), reference, "bounding-box")
    assert chamfer(finer.prediction.vertices, finer.reference.vertices) != pytest.approx(found, rel=0.1)


def test_meshes_out_of_sight_or_off_the_grid_are_refused():
    away = trimesh.creation.box()
    away.apply_translation((0, 0, -1e3))
    with pytest.raises(MeshError, match="cameras sees the mesh"):
        peer_meshes.visible_points(surface(away))
    with pytest.raises(MeshError, match="reaches behind the camera of view 0"):
        peer_meshes.visible_points(surface(trimesh.creation.box((30, 30, 30))))
    with pytest.raises(MeshError, match="neither mesh holds a point"):
        peer_meshes.mesh2sdf_iou(surface(away), surface(away), resolution=16)
