"""Captures of every form give the views they were made of; what cannot be used is refused with its reason."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recon import captures, conventions, run
from svd3d import sample
from svd3d.cameras import OPENGL_TO_OPENCV, OPENGL_TO_PYTORCH3D
from svd3d.errors import ImageError, InputError, MeshError, SampleError, Svd3dError
from svd3d.images import composite, to_uint8
from svd3d.sample import Sample


@pytest.fixture(scope="module")
def chair(make_sample) -> Sample:
    """Twelve views of the chair without symmetry."""
    return make_sample(solid="boxes", num_views=12, size=48, elevation_deg=15, depth=False)


def nerfstudio(views: Sample, folder: Path, *, pictures=None, per_frame=False, change=None) -> Path:
    """Write a nerfstudio capture; `change` edits the content of transforms.json."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for view, matrix in enumerate(views.cameras.camera_to_world):
        name = f"images/{view:03d}.png"
        Image.fromarray((views.images if pictures is None else pictures)[view]).save(folder / name)
        frames.append({"file_path": name, "transform_matrix": matrix.tolist()})
    content: dict = {"camera_model": "OPENCV", "k1": 0.0, "w": views.cameras.width, "h": views.cameras.height}
    for view, matrix in enumerate(views.cameras.intrinsics):
        keys = dict(
            zip(("fl_x", "fl_y", "cx", "cy"), matrix[[0, 1, 0, 1], [0, 1, 2, 2]].tolist(), strict=True)
        )
        (frames[view] if per_frame else content).update(keys)
    content["frames"] = frames
    if change:
        change(content)
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def with_cameras(views: Sample, matrices: np.ndarray) -> Sample:
    """The same pictures with other poses."""
    cameras = dataclasses.replace(views.cameras, camera_to_world=np.ascontiguousarray(matrices))
    return dataclasses.replace(views, cameras=cameras, orbit=None)


def same_views(found: Sample, views: Sample) -> None:
    np.testing.assert_array_equal(found.images, views.images)
    np.testing.assert_allclose(found.cameras.camera_to_world, views.cameras.camera_to_world, atol=1e-12)
    np.testing.assert_allclose(found.cameras.intrinsics, views.cameras.intrinsics, atol=1e-9)


@pytest.mark.parametrize("per_frame", [False, True])
def test_a_nerfstudio_capture_has_its_views(chair, tmp_path, per_frame, caplog):
    found = captures.read(nerfstudio(chair, tmp_path / "chair", per_frame=per_frame))
    same_views(found, chair)
    assert (found.uid, caplog.messages) == ("chair", [])


def test_a_mask_is_the_transparency(chair, tmp_path):
    folder = nerfstudio(chair, tmp_path / "chair", pictures=chair.images[..., :3])
    content = json.loads((folder / "transforms.json").read_text())
    for view, frame in enumerate(content["frames"]):
        frame["mask_path"] = f"mask{view}.png"
        Image.fromarray(chair.images[view, ..., 3]).save(folder / frame["mask_path"])
    (folder / "transforms.json").write_text(json.dumps(content))
    same_views(captures.read(folder), chair)


def test_a_nerf_synthetic_capture_has_its_views(chair, tmp_path):
    focal = chair.cameras.intrinsics[0, 0, 0]

    def as_blender(content):
        for key in ("camera_model", "k1", "w", "h", "fl_x", "fl_y", "cx", "cy"):
            del content[key]
        content["camera_angle_x"] = 2 * np.arctan(24 / focal)
        for frame in content["frames"]:
            frame["file_path"] = f"./{frame['file_path'].removesuffix('.png')}"

    folder = nerfstudio(chair, tmp_path / "lego", change=as_blender)
    (folder / "transforms.json").rename(folder / "transforms_train.json")
    same_views(captures.read(folder), chair)
    assert captures.find(tmp_path) == [folder]


def test_a_file_of_the_real_nerf_synthetic_set_is_read(shared_data):
    with pytest.raises(MeshError, match="nerfstudio_lego_test: one view alone has no shape"):
        captures.read(shared_data / "reference/nerfstudio_lego_test")


def test_syncdreamers_orbit_is_the_published_one(shared_data):
    published = json.loads((shared_data / "multiview/syncdreamer_camera-16.json").read_text())
    cameras = captures.SYNCDREAMER.cameras(height=256, width=256)
    np.testing.assert_allclose(cameras.intrinsics, np.broadcast_to(published["K"], (16, 3, 3)), atol=1e-9)
    extrinsics = cameras.opencv_world_to_camera()[:, :3]
    np.testing.assert_allclose(extrinsics, published["poses_world2cam_opencv_3x4"], atol=1e-6)


@pytest.mark.parametrize("name", ["chicken_gt", "chicken_syncdreamer_pred"])
def test_real_syncdreamer_views_meet_on_that_orbit(shared_data, name, caplog):
    found = captures.read(shared_data / "multiview" / name)
    assert found.images.shape == (16, 256, 256, 4)
    inside = (found.images[..., 3] > 127).mean(axis=(1, 2))
    assert 0.05 < inside.min() < inside.max() < 0.6
    assert "taken for the 16 views of SyncDreamer" in caplog.messages[0]
    assert any("made from their white background" in each for each in caplog.messages) == ("pred" in name)


def test_pictures_without_cameras_must_be_of_syncdreamers_size(chair, tmp_path):
    for view in range(16):
        Image.fromarray(chair.images[view % 12]).save(tmp_path / f"{view:03d}.png")
    with pytest.raises(SampleError, match=r"000.png: the picture is 48 x 48, expected 256 x 256"):
        captures.read(tmp_path)


@pytest.mark.parametrize(("background", "words"), [((1.0, 1.0, 1.0), "white"), ((0.1, 0.9, 0.2), "plain")])
def test_a_plain_background_becomes_transparent_and_that_is_said(chair, tmp_path, background, words, caplog):
    opaque = to_uint8(composite(chair.images, background=background))
    found = captures.read(nerfstudio(chair, tmp_path / "chair", pictures=opaque))
    ours, theirs = found.images[..., 3] > 127, chair.images[..., 3] > 127
    assert (ours & theirs).sum() > 0.97 * (ours | theirs).sum()
    assert f"it is made from their {words} background" in caplog.messages[0]


def test_a_background_that_is_not_plain_is_refused(chair, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (12, 48, 48, 3)).astype(np.uint8)
    with pytest.raises(ImageError, match=r"view 0: the background is not plain.*cut the object out"):
        captures.read(nerfstudio(chair, tmp_path / "chair", pictures=noise))


def test_a_capture_is_reconstructed_in_its_own_frame(chair, tmp_path):
    matrices = chair.cameras.camera_to_world.copy()
    matrices[:, :3, 3] = 3 * matrices[:, :3, 3] + [5, -2, 1]
    moved = captures.read(nerfstudio(with_cameras(chair, matrices), tmp_path / "moved"))
    at_home, there = (
        run.reconstruct(each, method="fast", resolution=40, faces=2000, texture_size=64).shape.surface
        for each in (chair, moved)
    )
    np.testing.assert_allclose(there.bounds, 3 * at_home.bounds + [5, -2, 1], atol=0.03)
    assert there.volume == pytest.approx(27 * at_home.volume, rel=0.01)


def test_views_too_large_for_memory_are_scaled_with_their_cameras(chair, tmp_path, caplog):
    folder = nerfstudio(chair, tmp_path / "nerfstudio")
    sample.write(chair, tmp_path / "sample")
    for path in (folder, tmp_path / "sample"):
        found = captures.read(path, max_pixels=12 * 24 * 24)
        assert found.images.shape == (12, 24, 24, 4)
        wanted = chair.resized(24)
        np.testing.assert_array_equal(found.images, wanted.images)
        np.testing.assert_allclose(found.cameras.intrinsics, wanted.cameras.intrinsics)
        assert "12 views of 48 x 48 are scaled down to 24 x 24 to fit into memory" in caplog.messages[-1]


def transposed_rotations(matrices: np.ndarray) -> np.ndarray:
    turned = matrices.copy()
    turned[:, :3, :3] = matrices[:, :3, :3].transpose(0, 2, 1)
    return turned


WRONG = {
    "OpenCV cameras (y down": lambda m, inverse: m @ OPENGL_TO_OPENCV,
    "PyTorch3D cameras": lambda m, inverse: m @ OPENGL_TO_PYTORCH3D,
    "world_to_camera matrices (": lambda m, inverse: inverse,
    "world_to_camera matrices of OpenCV cameras": lambda m, inverse: OPENGL_TO_OPENCV @ inverse,
    "cameras with transposed rotations": lambda m, inverse: transposed_rotations(m),
    "OpenCV cameras with transposed rotations": lambda m, inverse: transposed_rotations(m @ OPENGL_TO_OPENCV),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_convention_is_refused_by_its_name(chair, tmp_path, name):
    wrong = WRONG[name](chair.cameras.camera_to_world, chair.cameras.world_to_camera)
    with pytest.raises(MeshError, match="silhouettes of these cameras do not meet") as caught:
        captures.read(nerfstudio(with_cameras(chair, wrong), tmp_path / "wrong"))
    assert f"they would as {name}" in str(caught.value)
    assert "convert the cameras to OpenGL camera_to_world" in str(caught.value)


def test_a_world_with_another_axis_up_is_warned_about(chair, tmp_path, caplog):
    y_up = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    captures.read(nerfstudio(with_cameras(chair, y_up @ chair.cameras.camera_to_world), tmp_path / "y_up"))
    assert caplog.messages == [
        "y_up: for its cameras (0.00, 1.00, 0.00) is up, not +Z; the mesh will not stand upright"
    ]


def test_views_that_are_off_by_a_little_are_not_refused(chair, caplog):
    images = chair.images.copy()
    for view, shift in enumerate(np.random.default_rng(0).integers(-5, 6, (12, 2))):
        images[view] = np.roll(images[view], tuple(shift.tolist()), axis=(0, 1))
    conventions.check(dataclasses.replace(chair, images=images))
    assert len(caplog.messages) == 1
    assert "the silhouettes agree by 0." in caplog.messages[0]


def test_contradictory_cameras_are_refused(chair, tmp_path):
    apart = dataclasses.replace(chair, images=np.zeros_like(chair.images))
    apart.images[::2, 2:8], apart.images[1::2, 40:46] = 255, 255
    with pytest.raises(MeshError, match=r"agreement 0\.00\), nor in another convention"):
        captures.read(nerfstudio(apart, tmp_path / "apart"))


def frame_2(**facts):
    return lambda content: content["frames"][2].update(facts)


def drop(*keys):
    return lambda content: [content.pop(key) for key in keys]


def transpose(content):
    for frame in content["frames"]:
        frame["transform_matrix"] = np.transpose(frame["transform_matrix"]).tolist()


def scale_rotation(content):
    content["frames"][2]["transform_matrix"] = (
        2 * np.array(content["frames"][2]["transform_matrix"])
    ).tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda content: content.update(k1=0.02),
            r"frame 0: a lens with distortion \(.*k1 0\.02\); undistort",
        ),
        (frame_2(distortion_params=[0, 0.1]), "frame 2: a lens with distortion"),
        (lambda c: c.update(camera_model="OPENCV_FISHEYE"), "distortion .camera_model OPENCV_FISHEYE"),
        (drop("fl_x", "fl_y"), "frame 0: no focal length; give fl_x in pixels or camera_angle_x"),
        (frame_2(fl_x="wide"), "frame 2: fl_x is 'wide', expected a number"),
        (frame_2(transform_matrix=np.full((4, 4), np.nan).tolist()), "frame 2: .* 4 x 4 matrix of finite"),
        (transpose, "frame 0: transform_matrix is transposed"),
        (scale_rotation, "view 2: camera_to_world is not a rotation"),
        (frame_2(w=96), "frame 2: h and w are 48 and 96, but the picture is 48 x 48"),
        (frame_2(file_path="images/wide.png"), "frame 2: the picture is 96 x 48, expected 48 x 48"),
        (frame_2(file_path="images/none.png"), "frame 2: .*none.png: no such image"),
        (frame_2(file_path="../secret.png"), "frame 2: file_path '../secret.png' points outside"),
        (frame_2(mask_path="images/wide.png"), "frame 2: mask_path: the picture is 96 x 48"),
        (lambda content: content.update(frames=[]), "frames is empty"),
        (lambda content: content.update(frames=[3]), "frame 0: expected keys and values, got 3"),
    ],
)
def test_what_a_capture_may_not_be_is_named(chair, tmp_path, change, words):
    folder = nerfstudio(chair, tmp_path / "chair", change=change)
    Image.fromarray(np.zeros((48, 96, 4), np.uint8)).save(folder / "images/wide.png")
    with pytest.raises(Svd3dError, match=words) as caught:
        captures.read(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(folder))


def test_a_folder_without_views_is_refused(tmp_path):
    with pytest.raises(SampleError, match=r"holds no transforms\.json, no transforms_train\.json and not"):
        captures.read(tmp_path)
    with pytest.raises(InputError, match="no such sample folder"):
        captures.find(tmp_path / "nowhere")
    assert captures.find(tmp_path) == []
