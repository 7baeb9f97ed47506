"""Sample folders: what is written is what is read, and one broken fact is refused with its place."""

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from svd3d import images, sample
from svd3d.cameras import Cameras, Orbit
from svd3d.errors import CameraError, InputError, SampleError
from svd3d.sample import Sample

numbers = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
uids = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40).filter(
    lambda uid: uid[0] != "."
)


def unit_vectors(generator, *shape):
    """Random directions, a third of them 0."""
    vectors = generator.normal(size=(*shape, 3))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors * (generator.uniform(size=(*shape, 1)) > 1 / 3)).astype(np.float32)


@st.composite
def samples(draw):
    views, height, width = draw(st.integers(1, 3)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    seed = np.random.default_rng(draw(st.integers(0, 2**32)))
    orbit = Orbit(
        tuple(seed.uniform(0, 360, views).tolist()),
        tuple(seed.uniform(-90, 90, views).tolist()),
        draw(st.floats(0.5, 50)),
        draw(st.floats(1, 170)),
    )
    cameras = orbit.cameras(height=height, width=width)
    if draw(st.booleans()):  # intrinsics of their own for each view
        scale = seed.uniform(0.5, 2, (views, 3, 1)) * [[[1], [1], [0]]] + [[[0], [0], [1]]]
        cameras = dataclasses.replace(cameras, intrinsics=cameras.intrinsics * scale)
    return Sample(
        uid=draw(uids),
        cameras=cameras,
        images=seed.integers(0, 256, (views, height, width, 4), dtype=np.uint8),
        origin=draw(st.sampled_from(["rendered", "generated", "reconstructed"])),
        condition_view=draw(st.none() | st.integers(0, views - 1)),
        orbit=draw(st.sampled_from([orbit, None])),
        object_to_world=draw(st.sampled_from([None, seed.normal(size=(4, 4))])),
        depth=draw(st.sampled_from([None, seed.uniform(0, draw(st.floats(0, 90)), (views, height, width))])),
        normal=draw(st.sampled_from([None, unit_vectors(seed, views, height, width)])),
        about=draw(st.dictionaries(st.text(max_size=8), json_values, max_size=3)),
    )


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(samples())
def test_reading_what_was_written_gives_the_same_sample(made):
    with tempfile.TemporaryDirectory() as folder:
        sample.write(made, Path(folder) / "s")
        found = sample.read(Path(folder) / "s")
        sample.write(found, Path(folder) / "again")
        again = sample.read(Path(folder) / "again")
        unit = json.loads((Path(folder) / "s/transforms.json").read_text())["svd3d"]["depth_unit"]
    np.testing.assert_array_equal(found.images, made.images)
    np.testing.assert_array_equal(found.cameras.camera_to_world, made.cameras.camera_to_world)
    np.testing.assert_array_equal(found.cameras.intrinsics, made.cameras.intrinsics)
    assert (found.cameras.height, found.cameras.width) == (made.cameras.height, made.cameras.width)
    for name in ("uid", "origin", "condition_view", "orbit", "about"):
        assert getattr(found, name) == getattr(made, name)
    if made.object_to_world is None:
        assert found.object_to_world is None
    else:
        np.testing.assert_array_equal(found.object_to_world, made.object_to_world)
    if made.depth is None:
        assert found.depth is None
    else:
        rounding = 1e-7 * made.depth.max()  # of float32
        assert np.abs(found.depth - made.depth).max() <= unit / 2 + rounding
    if made.normal is None:
        assert found.normal is None
    else:
        np.testing.assert_array_equal(again.normal, found.normal)  # stored once more, it stays as it is
        np.testing.assert_array_equal((found.normal == 0).all(-1), (made.normal == 0).all(-1))
        assert np.abs(found.normal - made.normal).max() <= 0.5 / 127.5 + 1e-6


def test_depth_is_stored_to_a_twentieth_of_a_thousandth(make_sample, tmp_path):
    made = make_sample(tmp_path)
    assert np.abs(sample.read(tmp_path).depth - made.depth).max() <= 0.5e-4 + 1e-6


def test_a_stored_normal_turns_by_less_than_two_fifths_of_a_degree(make_sample, tmp_path):
    normal = unit_vectors(np.random.default_rng(0), 1, 400, 400)
    make_sample(tmp_path, num_views=1, size=400, normal=normal)
    found = sample.read(tmp_path).normal.astype(np.float64)
    across = np.linalg.norm(np.cross(found, normal), axis=-1)
    turns = np.degrees(np.arctan2(across, (found * normal).sum(-1)))
    assert 0.3 < turns.max() < 0.4  # at most 0.5 / 127.5 in each of three channels
    assert np.abs(np.linalg.norm(found, axis=-1)[(normal != 0).any(-1)] - 1).max() < 0.007


def test_normals_of_a_sphere_point_away_from_its_centre(make_sample, tmp_path):
    """World space, in the same pixels as depth and alpha."""
    made = make_sample(tmp_path / "without", num_views=5, size=32)
    _, directions = made.cameras.rays()
    points = made.cameras.positions[:, None, None] + made.depth[..., None] * directions
    normal = (points / 0.5 * (made.depth > 0)[..., None]).astype(np.float32)
    sample.write(dataclasses.replace(made, normal=normal), tmp_path / "with")
    found = sample.read(tmp_path / "with")
    np.testing.assert_allclose(found.normal, normal, atol=0.5 / 127.5 + 1e-6)
    np.testing.assert_array_equal((found.normal != 0).any(-1), found.depth > 0)
    with Image.open(tmp_path / "with/normal/000.png") as picture:
        assert picture.mode == "RGB"
        assert picture.getpixel((0, 0)) == (128, 128, 128)
    assert not (tmp_path / "without/normal").exists()


def test_the_keys_are_those_of_nerfstudio(make_sample, tmp_path):
    made = make_sample(tmp_path, num_views=3)
    content = json.loads((tmp_path / "transforms.json").read_text())
    assert set(content) == {
        *("camera_model", "orientation_override", "fl_x", "fl_y", "cx", "cy", "w", "h", "frames"),
        "svd3d",
    }
    assert content["camera_model"] == "OPENCV"
    assert content["orientation_override"] == "none"
    assert [set(frame) for frame in content["frames"]] == [
        {"file_path", "transform_matrix", "depth_file_path"}
    ] * 3
    for frame, matrix in zip(content["frames"], made.cameras.camera_to_world, strict=True):
        assert frame["transform_matrix"] == matrix.tolist()
        for key, mode in (("file_path", "RGBA"), ("depth_file_path", "I;16")):
            with Image.open(tmp_path / frame[key]) as picture:
                assert picture.mode == mode


def test_a_sample_is_the_same_in_every_run(make_sample, tmp_path):
    for name in "ab":
        make_sample(tmp_path / name)
    names = [path.relative_to(tmp_path / "a") for path in sorted((tmp_path / "a").rglob("*.*"))]
    assert len(names) == 17
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


def edit_json(change):
    def apply(folder: Path) -> None:
        path = folder / "transforms.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return apply


def put(*keys, value):
    """Set one value in transforms.json."""

    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return edit_json(change)


def drop(*keys):
    """Delete one key of transforms.json."""

    def change(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return edit_json(change)


def scaled(content):
    matrix = np.array(content["frames"][2]["transform_matrix"])
    matrix[:3, :3] *= 2
    content["frames"][2]["transform_matrix"] = matrix.tolist()


def turned(content):
    content["frames"][1]["transform_matrix"] = content["frames"][0]["transform_matrix"]


def overwrite(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def grey(mode, size):
    return lambda folder: Image.new(mode, size).save(folder / "depth/001.png")


def link_out(folder):
    shutil.move(folder / "images/001.png", folder.parent / "elsewhere.png")
    (folder / "images/001.png").symlink_to(folder.parent / "elsewhere.png")


J = "transforms.json"
MUTATIONS = {
    "no json": (
        lambda folder: (folder / J).unlink(),
        "holds no transforms.json, so it is not a finished sample",
    ),
    "torn json": (overwrite(J, b'{"frames": ['), f"{J}: not readable JSON"),
    "deep json": (overwrite(J, b"[" * 100_000), f"{J}: not readable JSON"),
    "binary json": (overwrite(J, b"\xff\xfe\x00"), f"{J}: not readable JSON"),
    "json of a list": (overwrite(J, b"[]"), f"{J}: expected keys and values, got []"),
    "no block": (drop("svd3d"), f"{J}: svd3d is None, expected keys and values"),
    "newer format": (put("svd3d", "format", value=2), f"{J}: format is 2, this version reads 1"),
    "no frames": (put("frames", value=[]), f"{J}: frames is empty"),
    "frames of text": (put("frames", value="x"), f"{J}: frames is 'x', expected a list"),
    "frame of text": (put("frames", 1, value="x"), f"{J}: frame 1: expected keys and values, got 'x'"),
    "height of text": (put("h", value="48"), f"{J}: h is '48', expected a whole number"),
    "other height": (put("h", value=47), "frame 0: images/000.png is 48 x 48, expected 48 x 47"),
    "no focal length": (drop("fl_x"), "frame 0: fl_x is None, expected a number of pixels"),
    "focal length of zero": (put("fl_y", value=0), "view 0: focal lengths"),
    "huge focal length": (put("fl_x", value=10**400), "frame 0: fl_x is 1000"),
    "infinite centre": (put("frames", 1, "cx", value=math.inf), "frame 1: cx is inf"),
    "no matrix": (drop("frames", 1, "transform_matrix"), "frame 1: transform_matrix is None"),
    "matrix of 3 rows": (
        put("frames", 1, "transform_matrix", value=np.eye(3).tolist()),
        "frame 1: transform_matrix is not a 4 x 4 matrix of finite numbers",
    ),
    "ragged matrix": (put("frames", 1, "transform_matrix", value=[[1], [1, 2]]), "frame 1: transform_matrix"),
    "matrix with NaN": (
        put("frames", 1, "transform_matrix", value=np.full((4, 4), np.nan).tolist()),
        "frame 1: transform_matrix is not a 4 x 4 matrix of finite numbers",
    ),
    "huge number": (
        put("frames", 1, "transform_matrix", value=[[10**400] * 4] * 4),
        "frame 1: transform_matrix",
    ),
    "scaled matrix": (edit_json(scaled), "view 2: camera_to_world is not a rotation (determinant 8.000)"),
    "turned camera": (edit_json(turned), "frame 1: transform_matrix and orbit disagree by"),
    "orbit of text": (put("svd3d", "orbit", value="x"), f"{J}: orbit is 'x', expected keys and values"),
    "orbit without distance": (drop("svd3d", "orbit", "distance"), f"{J}: orbit is "),
    "orbit of words": (put("svd3d", "orbit", "fov_deg", value="wide"), f"{J}: orbit is "),
    "impossible orbit": (put("svd3d", "orbit", "distance", value=-1), f"{J}: orbit: distance -1"),
    "other orbit": (
        lambda folder: edit_json(
            lambda content: [content["svd3d"]["orbit"][k].pop() for k in ("azimuths_deg", "elevations_deg")]
        )(folder),
        "orbit has 2 views, expected 3",
    ),
    "unknown origin": (
        put("svd3d", "origin", value="dreamt"),
        "origin is 'dreamt', expected one of rendered",
    ),
    "no uid": (drop("svd3d", "uid"), f"{J}: uid is None, expected text"),
    "uid that leaves": (put("svd3d", "uid", value="../x"), "uid '../x' cannot be the name of a folder"),
    "condition view 3": (
        put("svd3d", "condition_view", value=3),
        "condition_view is 3, expected null or 0 to 2",
    ),
    "condition view true": (put("svd3d", "condition_view", value=True), "condition_view is True"),
    "condition view of text": (put("svd3d", "condition_view", value="0"), "condition_view is '0'"),
    "about of text": (put("svd3d", "about", value="x"), "about is 'x', expected keys and values"),
    "object matrix": (put("svd3d", "object_to_world", value=[]), "object_to_world is not a 4 x 4 matrix"),
    "no image": (lambda folder: (folder / "images/002.png").unlink(), "frame 2: file_path: "),
    "no file path": (drop("frames", 1, "file_path"), "frame 1: file_path is None, expected text"),
    "path of a folder": (put("frames", 1, "file_path", value="images"), "frame 1: file_path: "),
    "broken image": (overwrite("images/001.png", b"\x89PNG\r\n"), "frame 1: file_path: "),
    "web page": (
        overwrite("images/001.png", b"<html>NoSuchKey"),
        "not an image (starts with b'<html>NoSuch')",
    ),
    "small image": (
        lambda folder: images.write_png(folder / "images/001.png", np.zeros((4, 5, 4), np.uint8)),
        "frame 1: images/001.png is 5 x 4, expected 48 x 48",
    ),
    "path upwards": (put("frames", 1, "file_path", value="../x.png"), "'../x.png' points outside"),
    "absolute path": (put("frames", 1, "file_path", value="/etc/passwd"), "points outside the sample folder"),
    "path with NUL": (
        put("frames", 1, "file_path", value="a\0b"),
        "frame 1: file_path 'a\\x00b' is not a file",
    ),
    "long path": (put("frames", 1, "file_path", value="a" * 5000), "frame 1: file_path"),
    "link that leaves": (link_out, "frame 1: file_path 'images/001.png' points outside the sample folder"),
    "depth upwards": (
        put("frames", 1, "depth_file_path", value="../d.png"),
        "frame 1: depth_file_path '../d.png'",
    ),
    "no depth": (lambda folder: (folder / "depth/001.png").unlink(), "frame 1: depth_file_path: "),
    "no depth path": (drop("frames", 1, "depth_file_path"), "frame 1: depth_file_path is None"),
    "no depth unit": (
        put("svd3d", "depth_unit", value=None),
        "frame 0: depth_file_path is given, but depth_unit",
    ),
    "depth unit of text": (put("svd3d", "depth_unit", value="mm"), f"{J}: depth_unit is 'mm'"),
    "depth unit of zero": (put("svd3d", "depth_unit", value=0), f"{J}: depth_unit is 0"),
    "eight-bit depth": (grey("L", (48, 48)), "a picture of kind L, expected 16-bit grey"),
    "no normal path": (drop("frames", 1, "normal_file_path"), "frame 1: normal_file_path is None"),
    "no normal": (lambda folder: (folder / "normal/001.png").unlink(), "frame 1: normal_file_path: "),
    "normal upwards": (
        put("frames", 1, "normal_file_path", value="../n.png"),
        "frame 1: normal_file_path '../n.png' points outside",
    ),
    "normal of a folder": (put("frames", 1, "normal_file_path", value="normal"), "frame 1: normal_file_path"),
    "normal with alpha": (
        put("frames", 1, "normal_file_path", value="images/001.png"),
        "a picture of kind RGBA, expected 8-bit RGB",
    ),
    "small normal": (
        lambda folder: images.write_png(folder / "normal/001.png", np.zeros((4, 5, 3), np.uint8)),
        "frame 1: normal/001.png is 5 x 4, expected 48 x 48",
    ),
    "black normal": (
        lambda folder: images.write_png(folder / "normal/001.png", np.zeros((48, 48, 3), np.uint8)),
        "frame 1: a normal's length is off by 0.732, expected 1 (or 0: nothing there)",
    ),
    "small depth": (grey("I;16", (5, 4)), "frame 1: depth/001.png is 5 x 4, expected 48 x 48"),
}


@pytest.fixture(scope="module")
def whole(make_sample, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "s"
    make_sample(folder, num_views=3, normal=unit_vectors(np.random.default_rng(0), 3, 48, 48))
    return folder


@pytest.mark.parametrize("name", MUTATIONS)
def test_one_broken_fact_is_refused_with_its_place(name, whole, tmp_path):
    folder = tmp_path / "s"
    shutil.copytree(whole, folder)
    mutate, message = MUTATIONS[name]
    mutate(folder)
    with pytest.raises(SampleError, match=re.escape(message)) as caught:
        sample.read(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000 or name == "long path"


def test_what_a_sample_does_not_need_may_be_missing(whole, tmp_path):
    folder = tmp_path / "s"
    shutil.copytree(whole, folder)
    for key in ("orbit", "object_to_world", "condition_view", "about"):
        drop("svd3d", key)(folder)
    found = sample.read(folder)
    assert (found.orbit, found.object_to_world, found.condition_view, found.about) == (None, None, None, {})


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(SampleError, match=re.escape(f"{tmp_path / 'x'}: no such folder; make one with")):
        sample.read(tmp_path / "x")
    with pytest.raises(InputError, match="no such sample folder; the nearest folder that exists is"):
        sample.find(tmp_path / "x")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"uid": ""}, "uid '' cannot be the name of a folder"),
        ({"uid": ".hidden"}, "cannot be the name"),
        ({"uid": "a/b"}, "cannot be the name"),
        ({"uid": "é" * 101}, "cannot be the name"),
        ({"condition_view": -1}, "condition_view is -1, expected null or 0 to 2"),
        ({"depth": np.full((3, 8, 8), np.nan, np.float32)}, "depth must be finite"),
        ({"depth": np.full((3, 8, 8), -1, np.float32)}, "not below 0"),
        ({"normal": np.full((3, 8, 8, 3), 0.5, np.float32)}, "frame 0: a normal's length is off by 0.134"),
        ({"normal": np.full((3, 8, 8, 3), np.nan, np.float32)}, "a normal's length is off by nan"),
        ({"orbit": Orbit.static(num_views=4)}, "orbit has 4 views, expected 3"),
        (
            {"orbit": Orbit.static(num_views=3, elevation_deg=11)},
            "frame 0: transform_matrix and orbit disagree",
        ),
        ({"images": np.zeros((2, 8, 8, 4), np.uint8)}, "2 images and 3 cameras"),
        ({"images": np.zeros((3, 8, 9, 4), np.uint8)}, "images are 9 x 8, the cameras say 8 x 8"),
    ],
)
def test_a_sample_that_contradicts_itself_cannot_be_made(make_sample, fields, message):
    with pytest.raises(SampleError, match=message):
        dataclasses.replace(make_sample(num_views=3, size=8, depth=False), **fields)


def test_depth_of_another_size_is_a_fault_also_without_checked_shapes(make_sample):
    made = make_sample(num_views=3, size=8)
    object.__setattr__(made, "depth", np.zeros((3, 8, 9), np.float32))
    object.__setattr__(made, "normal", np.zeros((3, 8, 8), np.float32))
    assert list(made._faults()) == [
        "depth has shape (3, 8, 9), expected (3, 8, 8)",
        "normal has shape (3, 8, 8), expected (3, 8, 8, 3)",
    ]


def test_a_sample_without_views_cannot_be_made():
    none = Cameras(np.zeros((0, 4, 4)), np.zeros((0, 3, 3)), 8, 8)
    with pytest.raises(SampleError, match="0 images and 0 cameras"):
        Sample("x", none, np.zeros((0, 8, 8, 4), np.uint8), "rendered", None)


@pytest.mark.parametrize(
    "uid", ["mug 7", "-mug", "Müg", "杯子", 'it\'s "a" mug', "two\nlines", "%s{}", "x" * 200]
)
def test_odd_names_survive(uid, make_sample, tmp_path):
    folder = tmp_path / uid
    make_sample(folder, uid=uid, size=4, num_views=1)
    assert sample.read(folder).uid == uid
    assert sample.find(tmp_path) == [folder]


def test_find_gives_samples_sorted_and_no_unfinished_ones(make_sample, tmp_path):
    for name in ("b", "a", ".a.123.tmp", "notes/deeper"):
        make_sample(tmp_path / name, size=4, num_views=1)
    (tmp_path / "c/images").mkdir(parents=True)
    assert sample.find(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert sample.find(tmp_path / "a") == [tmp_path / "a"]
    with pytest.raises(SampleError, match="a file, not a folder"):
        sample.find(tmp_path / "a/transforms.json")


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from svd3d import Orbit, Sample, images, sample
orbit = Orbit.static(num_views=3)
new = Sample("x", orbit.cameras(height=4, width=4), np.full((3, 4, 4, 4), 7, np.uint8), "rendered")
write_png, written = images.write_png, []
def write_and_die(path, image):
    written.append(write_png(path, image))
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
images.write_png = write_and_die
sample.write(new, Path(sys.argv[1]))
"""


@pytest.mark.parametrize("exists", [False, True], ids=["new folder", "over a finished sample"])
def test_a_killed_write_is_not_a_sample(exists, make_sample, tmp_path):
    folder = tmp_path / "s"
    if exists:
        make_sample(folder, size=4, num_views=3)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", KILLED, folder], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert (folder / "images/001.png").exists()
    assert not sample.is_sample(folder)
    assert sample.find(tmp_path) == []
    make_sample(folder, size=4, num_views=3)
    assert sample.read(folder).uid == "sphere"


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_a_subsampled_sample_is_the_sample_of_the_subsampled_orbit(num_views, step, data):
    views = num_views * step
    start = data.draw(st.integers(0, views - 1))
    seed = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    orbit = Orbit.dynamic(seed, num_views=views, elevation_range_deg=(-20, 45))
    made = Sample(
        uid="x",
        cameras=orbit.cameras(height=2, width=3),
        images=seed.integers(0, 256, (views, 2, 3, 4), dtype=np.uint8),
        origin="rendered",
        condition_view=views - 1,
        orbit=orbit,
        depth=seed.uniform(0, 1, (views, 2, 3)),
        normal=unit_vectors(seed, views, 2, 3),
        about={"seed": 7},
    )
    left = made.subsampled(num_views=num_views, start=start)
    places = [(start + step * view) % views for view in range(num_views)]
    assert left.orbit == orbit.subsampled(num_views=num_views, start=start)
    assert (left.uid, left.condition_view, left.about) == ("x", 0, {"seed": 7})
    for name in ("images", "depth", "normal"):
        np.testing.assert_array_equal(getattr(left, name), getattr(made, name)[places])
    np.testing.assert_array_equal(left.cameras.camera_to_world, made.cameras.camera_to_world[places])
    bare = dataclasses.replace(made, orbit=None, depth=None, normal=None)
    left = bare.subsampled(num_views=num_views, start=start)
    assert (left.orbit, left.depth, left.normal) == (None, None, None)


def test_views_that_do_not_come_out_even_are_refused(make_sample):
    with pytest.raises(CameraError, match="8 views do not thin out to 3; choose a divisor of 8"):
        make_sample(size=4).subsampled(num_views=3)
    with pytest.raises(CameraError, match="start 8 is not a view"):
        make_sample(size=4).subsampled(num_views=4, start=8)


def test_resized_views_keep_their_cameras(make_sample):
    made = make_sample(size=48, normal=np.zeros((8, 48, 48, 3), np.float32))
    small = made.resized(24)
    assert small.images.shape == (8, 24, 24, 4)
    assert (small.depth, small.normal) == (None, None)
    assert (made.resized(48).depth, made.resized(48).normal) == (None, None)
    point = np.array([[0.1, 0.2, 0.3]])
    np.testing.assert_allclose(small.cameras.project(point)[0] * 2, made.cameras.project(point)[0])
    np.testing.assert_array_equal(made.resized(48).images, made.images)


def test_depth_of_a_sphere_unprojects_onto_the_sphere(make_sample):
    made = make_sample(size=32)
    x, y = np.meshgrid(np.arange(32) + 0.5, np.arange(32) + 0.5)
    pixels = np.tile(np.stack([x, y], -1).reshape(1, -1, 2), (8, 1, 1))
    points = made.cameras.unproject(pixels, made.depth.reshape(8, -1).astype(float))
    radius = np.linalg.norm(points, axis=-1)[made.depth.reshape(8, -1) > 0]
    np.testing.assert_allclose(radius, 0.5, atol=1e-6)
    assert (made.images[..., 3] > 0).mean() == pytest.approx((made.depth > 0).mean())
