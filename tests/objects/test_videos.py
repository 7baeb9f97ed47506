"""Clips of moving objects: what their captions say is what the optical flow measures."""

import importlib
import itertools
from pathlib import Path

import numpy as np
import pytest

from svd3d.curation import motion, table, windows

SCRIPTS = Path(__file__).parents[2] / "scripts"
FRAMES, SIZE = 6, 64


@pytest.fixture(scope="module", autouse=True)
def _scripts():
    for package in ("av", "cv2", "embreex", "pyarrow"):
        pytest.importorskip(package)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield


@pytest.fixture(scope="module")
def script(_scripts):
    return importlib.import_module("make_videos")


@pytest.fixture(scope="module")
def listing(_scripts, tmp_path_factory):
    out = tmp_path_factory.mktemp("objects")
    return importlib.import_module("make_objects").write_objects(
        names=["car", "furniture"], count=4, seed=0, out=out
    )


@pytest.fixture(scope="module")
def car(script, listing):
    return script.raycast.read(listing.parent / "objects/car-000001.glb")


@pytest.fixture(scope="module")
def flow_of(script, car):
    """A function that films the car and gives the mean flow right and down, and away from the middle."""
    still = {"direction": None, "path": "straight", "turn": None, "deformation": None}
    cv2 = motion.opencv()

    def measure(camera="still", background="plain", *, yaw_deg=30.0, **motions):
        actor = script.Actor(
            uid="car", family="car", **(still | motions), speed="slowly", strength=0.2, size=1.1,
            place=(0.0, 0.0, 0.0), yaw_deg=yaw_deg,
        )  # fmt: skip
        shot = script.Shot((actor,), camera, "slowly", 0.2, 10.0, background)
        generator = np.random.default_rng(1)
        pictures, _ = script.film(shot, [car], size=SIZE, frames=FRAMES, generator=generator)
        grey = [cv2.resize(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY), (128, 128)) for each in pictures]
        flow = np.mean(
            [
                cv2.calcOpticalFlowFarneback(one, other, None, **(motion.FARNEBACK | {"levels": 3}))
                for one, other in itertools.pairwise(grey)
            ],
            axis=0,
        )
        rows, columns = np.indices((128, 128)) - 63.5
        outward = (flow[..., 0] * columns + flow[..., 1] * rows) / np.hypot(rows, columns)
        return flow[..., 0].mean(), flow[..., 1].mean(), outward.mean()

    return measure


@pytest.mark.parametrize(
    ("motions", "axis", "sign"),
    [
        ({"direction": "left"}, 0, -1),
        ({"direction": "right"}, 0, 1),
        ({"direction": "right", "path": "arc"}, 0, 1),
        ({"direction": "up"}, 1, -1),
        ({"direction": "down"}, 1, 1),
        ({"direction": "towards the camera"}, 2, 1),
        ({"direction": "away"}, 2, -1),
        ({"deformation": "bends to the left"}, 0, -1),
        ({"deformation": "bends to the right"}, 0, 1),
        ({"camera": "pans left", "background": "textured"}, 0, 1),
        ({"camera": "pans right", "background": "textured"}, 0, -1),
        ({"camera": "zooms in", "background": "textured"}, 2, 1),
        ({"camera": "zooms out", "background": "textured"}, 2, -1),
    ],
)
def test_flow_goes_where_the_caption_says(flow_of, motions, axis, sign):
    found = flow_of(**motions)
    assert sign * found[axis] > 0.02
    if axis < 2:
        assert abs(found[axis]) > 2 * abs(found[1 - axis])


def test_the_near_side_of_a_turning_body_goes_where_the_caption_says(script):
    near, far = np.array([0.0, -0.5, 0.0]), np.array([0.0, 0.5, 0.0])
    for turn, sign in (("left", -1), ("right", 1)):
        actor = script.Actor(
            "a", "car", None, "straight", turn, None, "slowly", 0.1, 1.0, (0.0, 0.0, 0.0), 0.0
        )
        step = script.pose(actor, 0.2).rotation - script.pose(actor, 0.0).rotation
        assert sign * (step @ near)[0] > 0.01
        assert sign * (step @ far)[0] < -0.01


def test_what_stretches_or_is_squashed_keeps_its_volume(script, car):
    """And a twist leaves its height, so that each word means one thing."""
    heights, volumes = {}, {}
    for deformation in ("stretches", "is squashed", "twists"):
        actor = script.Actor(
            "a", "car", None, "straight", None, deformation, "fast", 1.0, 1.0, (0.0, 0.0, 0.0), 0.0
        )
        body = script.deformed(car, actor, 1.0)
        assert script.deformed(car, actor, 0.0).vertices == pytest.approx(car.vertices, abs=1e-6)
        heights[deformation] = np.ptp(body.vertices[:, 2]) / np.ptp(car.vertices[:, 2])
        volumes[deformation] = np.linalg.det(body.vertices[body.faces]).sum()
    assert heights == pytest.approx({"stretches": 1.8, "is squashed": 0.45, "twists": 1.0}, rel=1e-4)
    volume = np.linalg.det(car.vertices[car.faces]).sum()
    assert [volumes["stretches"], volumes["is squashed"]] == pytest.approx([volume, volume], rel=1e-3)


def test_a_circling_camera_goes_where_the_caption_says(script):
    for side, sign in (("left", -1), ("right", 1)):
        shot = script.Shot((), f"circles to the {side}", "fast", 0.9, 5.0, "textured")
        cameras = script.cameras_of(shot, size=SIZE, frames=FRAMES)
        steps = np.diff(cameras.positions, axis=0)
        right = cameras.camera_to_world[:-1, :3, 0]
        assert (sign * np.einsum("ni,ni->n", steps, right) > 0).all()


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((215, 30, 30), "red"), ((240, 130, 20), "orange"), ((245, 220, 40), "yellow"),
        ((40, 160, 60), "green"), ((40, 190, 180), "turquoise"), ((40, 80, 210), "blue"),
        ((130, 60, 190), "purple"), ((240, 90, 170), "pink"), ((120, 75, 40), "brown"),
        ((20, 20, 24), "black"), ((128, 128, 128), "grey"), ((245, 240, 225), "white"),
    ],
)  # fmt: skip
def test_colours_have_their_names(script, rgb, name):
    hsv = np.asarray(script.Image.new("RGB", (1, 1), rgb).convert("HSV"))[0, 0] / 255
    assert script.colour_name(*hsv) == name


def test_words_are_those_of_the_truth(script):
    """A caption names colour, family, direction, speed and camera of each actor, and nothing else moves."""
    generator = np.random.default_rng(3)
    rows = [{"uid": str(number), "family": "car"} for number in range(3)]
    for _ in range(200):
        shot = script.draw_shot(generator, rows)
        text = script.captions(shot, [["red"]] * len(shot.actors))["caption_merged"]
        expected = "the camera is still" if shot.camera == "still" else f"{shot.camera} {shot.camera_speed}"
        assert expected in text
        assert text.lower().count("a red car") == len(shot.actors)
        words = [
            word for each in shot.actors for word in (each.deformation, each.turn and f"turns {each.turn}")
        ]
        assert all(word in text for word in words if word)
        assert sum(each.direction is not None for each in shot.actors) == text.count("moves") + text.count(
            "bounces"
        )
        assert shot.camera != "still" or "stands still" not in text or len(shot.actors) == 2


def run(script, monkeypatch, *args):
    monkeypatch.setattr("sys.argv", ["make_videos.py", *map(str, args)])
    script.main()


def test_clips_are_a_table_that_training_reads_and_that_resumes(script, listing, tmp_path, monkeypatch):
    args = (listing, "--out", tmp_path, "--count", 3, "--frames", FRAMES)
    run(script, monkeypatch, *args)
    plan = windows.Plan(num_frames=FRAMES, fps=7.0, stride=None, height=SIZE, width=SIZE)
    clips = list(windows.clips(tmp_path / table.NAME))
    assert len(clips) == 3
    films = {}
    for clip in clips:
        ((_, window),) = windows.read(windows.folder(tmp_path / table.NAME) / clip.video, [clip], plan)
        assert isinstance(window, windows.Window), window
        assert window.frames == tuple(range(FRAMES))
        assert sum(clip.captions.values()) == pytest.approx(1)
        films[clip.id] = window.images
    (tmp_path / "truth.jsonl").write_text((tmp_path / "truth.jsonl").read_text().splitlines(True)[0])
    run(script, monkeypatch, *args)
    assert list(windows.clips(tmp_path / table.NAME)) == clips
    for clip in clips:
        ((_, again),) = windows.read(windows.folder(tmp_path / table.NAME) / clip.video, [clip], plan)
        assert isinstance(again, windows.Window), again
        np.testing.assert_array_equal(again.images, films[clip.id])
    with pytest.raises(SystemExit, match="other settings"):
        run(script, monkeypatch, *args, "--seed", 1)


def test_held_out_families_never_appear(script, listing, monkeypatch):
    monkeypatch.setattr(script.families, "TRAINED", ("car",))
    assert {row["family"] for row in script.trained_objects(listing)} == {"car"}
    monkeypatch.setattr(script.families, "TRAINED", ())
    with pytest.raises(script.InputError, match="0 objects of families to train on"):
        script.trained_objects(listing)
