"""The camera apart from its subjects: closed forms on maps of flow, and exact films of real pictures."""

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from svd3d.curation import camera_motion, motion, video
from svd3d.curation.motion import FlowPair
from svd3d.curation.video import Frame

cv2 = pytest.importorskip("cv2")
EXTENT = (16 * 16 / 9, 16.0)
SIGNS = pytest.mark.parametrize("sign", [1, -1], ids=["forwards", "backwards"])
SPEEDS = {"pan": 0.12, "tilt": 0.15, "zoom": 0.3, "roll": 12.0}


@pytest.fixture(scope="module")
def watch():
    """What the camera does in samples at 2 fps, by Farnebäck's flow."""
    flow = motion.load("farneback")

    def watch(frames):
        scorer = motion.FlowScorer(flow)
        for index, image in enumerate(frames):
            scorer.see(Frame(index, index / 2, image, False, index))
        scorer.end()
        return camera_motion.classify(scorer.pairs)

    return watch


@SIGNS
@pytest.mark.parametrize("kind", SPEEDS)
def test_each_kind_both_ways_behind_a_moving_subject(watch, film, scenes, kind, sign):
    """The subject fills 30 % of the picture, with more detail than the scene; there is grain and flicker."""
    speed = sign * SPEEDS[kind]
    subject = scenes[1][100:500, 300:1000]
    found = watch(film(scenes[0], subject=subject, noise=3, flicker=0.05, count=3, **{kind: speed}))
    assert found.kind == kind
    assert getattr(found, kind) == pytest.approx(speed, rel=0.1)
    assert found.confidence > 0.5


@SIGNS
@pytest.mark.parametrize("pan", [0.05, 0.5])
def test_a_camera_that_turns_leaves_no_motion_of_objects(watch, film, scenes, pan, sign):
    """A pinhole of 60° that turns bends the picture; up to a quarter of the width from sample to sample."""
    for scene in scenes[:2]:
        found = watch(film(scene, fov_deg=60, pan=sign * pan, count=2))
        assert found.kind == "pan"
        assert found.pan == pytest.approx(sign * pan, rel=0.1)
        assert found.object_motion < 0.15 * pan / 2 * EXTENT[0]


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_static_camera_stays_static_behind_a_moving_subject(watch, film, scenes, share):
    for scene, other in zip(scenes, scenes[::-1], strict=True):
        subject = other[200:600, 200:900]
        found = watch(
            film(scene, subject=subject, subject_share=share, subject_speed=(0.2, 0.1), noise=2, count=3)
        )
        assert found.kind == "static"
        speed = math.hypot(0.1 * EXTENT[0], 0.05 * EXTENT[1])
        assert share * speed < found.object_motion < 1.8 * share * speed  # with what the subject uncovers


def test_a_subject_before_a_plain_background_is_no_camera(watch, film, pictures):
    """Nothing tells it from a camera that passes a plain wall, but the borders do not move."""
    plain = np.full((300, 500, 3), 180, np.uint8)
    found = watch(film(plain, subject=pictures[0], subject_share=0.2, subject_speed=(0.2, 0)))
    assert found.kind == "static"
    assert found.object_motion > 0.1


def test_two_ways_at_once_and_a_shaking_hand_are_mixed(watch, film, make_texture):
    picture = make_texture(1, height=500, width=900)
    assert watch(film(picture, pan=0.1, tilt=0.1 * 16 / 9)).kind == "mixed"
    assert watch([picture[100:244, x : x + 256] for x in (0, 12, 0, 12, 0)]).kind == "mixed"


def test_no_texture_and_no_pairs_are_unknown(watch):
    for frames in ([np.zeros((90, 160, 3), np.uint8)] * 3, [np.zeros((90, 160, 3), np.uint8)]):
        found = watch(frames)
        assert (found.kind, found.confidence, found.pan, found.object_motion) == ("unknown", 0.0, None, None)


def test_noise_that_never_repeats_is_no_camera(watch):
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 255, (4, 90, 160, 3), dtype=np.uint8)
    assert watch(list(frames)).kind in ("unknown", "static", "mixed")


def test_a_mirrored_film_pans_and_rolls_the_other_way(watch, film, scenes):
    frames = film(scenes[2], pan=0.08, roll=4.0, zoom=0.1, tilt=0.05)
    there = watch(frames)
    mirrored = watch([np.ascontiguousarray(image[:, ::-1]) for image in frames])
    back = watch(frames[::-1])
    for name, mirror in {"pan": -1, "tilt": 1, "zoom": 1, "roll": -1}.items():
        slack = 0.03 * SPEEDS[name]
        assert getattr(mirrored, name) == pytest.approx(mirror * getattr(there, name), abs=slack)
        assert getattr(back, name) == pytest.approx(-getattr(there, name), abs=slack)


def test_real_cameras_are_what_their_truth_says(watch, real_videos):
    pytest.importorskip("av")
    truth = json.loads((real_videos / "TRUTH.json").read_text(encoding="utf-8"))
    for name in ("bottle-detection", "bigbuckbunny", "realshort"):
        frames = video.frames(video.probe(real_videos / f"{name}.mp4"), short_side=240, limit_s=4.0)
        found = watch([frame.image for frame in frames if frame.index % 15 == 0])
        static = truth[f"{name}.mp4"]["camera"] == "static"
        assert (found.kind == "static") == static
        if name == "bigbuckbunny":
            assert found.object_motion > motion.STATIC / 2


class TestOnMaps:
    """Maps of flow without pictures, of which everything is known."""

    @staticmethod
    def places(extent):
        """The centre of each cell, from the centre of the picture."""
        width, height = (round(side) for side in extent)
        rows, columns = np.indices((height, width))
        return (np.stack([(columns + 0.5) / width, (rows + 0.5) / height], axis=-1) - 0.5) * extent

    @staticmethod
    def pair(*, pan=0.0, tilt=0.0, zoom=0.0, roll=0.0, dt_s=0.5, subject=0, seed=0, extent=EXTENT):
        """What a camera with these speeds makes a point at (x, y) do; some rows move on their own."""
        x, y = np.moveaxis(TestOnMaps.places(extent), -1, 0)
        turn, grow = -math.radians(roll) * dt_s, 2 ** (zoom * dt_s)
        right = grow * (math.cos(turn) * x - math.sin(turn) * y) - x - pan * dt_s * extent[0]
        down = grow * (math.sin(turn) * x + math.cos(turn) * y) - y + tilt * dt_s * extent[1]
        flow = np.stack([right, down], axis=-1)
        flow += 0.02 * np.random.default_rng(seed).standard_normal(flow.shape)
        flow[4 : 4 + subject, 4:-4] += (3.0, -2.0)
        return FlowPair(0, 12, dt_s, flow.astype(np.float32), extent, 1.0)

    @settings(max_examples=40)
    @given(
        kind=st.sampled_from(list(SPEEDS)),
        factor=st.floats(0.6, 3.0),
        sign=st.sampled_from([-1, 1]),
        subject=st.integers(0, 6),
        dt_s=st.sampled_from([0.3, 0.5, 1.0]),
        portrait=st.booleans(),
    )
    def test_speeds_are_per_second_whatever_subject_shape_and_step(
        self, kind, factor, sign, subject, dt_s, portrait
    ):
        speed = sign * factor * SPEEDS[kind]
        extent = EXTENT[::-1] if portrait else EXTENT
        pairs = [
            self.pair(**{kind: speed}, dt_s=dt_s, subject=subject, seed=n, extent=extent) for n in range(3)
        ]
        stays = (np.abs(self.places(extent) + pairs[0].flow) < np.array(extent) / 2).all(axis=-1)
        share = stays[4 : 4 + subject, 4:-4].sum() / stays.sum()
        assume(share < 0.4)
        found = camera_motion.classify(pairs)
        assert found.kind == kind
        assert getattr(found, kind) == pytest.approx(speed, rel=0.05)
        others = {name: getattr(found, name) for name in SPEEDS if name != kind}
        assert all(abs(rate) < 0.1 * SPEEDS[name] for name, rate in others.items()), others
        ideal = share * math.hypot(3, 2) * 0.5 / dt_s
        assert found.object_motion == pytest.approx(ideal, rel=0.1, abs=0.1)

    @settings(max_examples=20)
    @given(speed=st.floats(0, 0.003), subject=st.integers(0, 7))
    def test_slower_than_the_limit_is_static(self, speed, subject):
        found = camera_motion.classify([self.pair(pan=speed, subject=subject)])
        assert found.kind == "static"
        assert found.confidence > 0.5

    def test_an_uneven_pan_is_a_pan_and_one_there_and_back_is_mixed(self):
        uneven = camera_motion.classify([self.pair(pan=speed) for speed in (0.02, 0.1, 0.3)])
        assert (uneven.kind, uneven.pan) == ("pan", pytest.approx(0.14, rel=0.02))
        assert camera_motion.classify([self.pair(pan=speed) for speed in (0.2, -0.2)]).kind == "mixed"

    def test_long_steps_count_more(self):
        found = camera_motion.classify([self.pair(pan=0.1, dt_s=0.5), self.pair(pan=0.2, dt_s=1.0)])
        assert found.pan == pytest.approx(0.5 / 3, rel=0.02)

    def test_without_a_common_motion_it_is_unknown(self):
        pair = self.pair()
        wild = 4 * np.random.default_rng(1).standard_normal(pair.flow.shape)
        pairs = [FlowPair(0, 12, 0.5, wild.astype(np.float32), EXTENT, 1.0), pair]
        assert camera_motion.classify([pairs[0]]).kind == "unknown"
        half = camera_motion.classify([pairs[0], pair, pair])
        assert (half.kind, half.confidence) == ("static", pytest.approx(2 / 3, abs=0.1))
