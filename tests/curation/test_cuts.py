"""Cuts and transitions: real videos with known cuts, exact fades and dissolves, and what is no cut."""

import json

import numpy as np
import pytest

from svd3d.curation import cuts, video
from svd3d.curation.cuts import CutDetector, Transition
from svd3d.curation.video import Frame

cv2 = pytest.importorskip("cv2")
scenedetect = pytest.importorskip("scenedetect")
FPS = 25.0


@pytest.fixture(scope="module")
def pictures(pictures):
    """Real pictures, RGB of 90 x 160."""
    return [cv2.resize(picture, (160, 90), interpolation=cv2.INTER_AREA) for picture in pictures]


def detect(frames, fps: float = FPS) -> CutDetector:
    detector = CutDetector(fps)
    for index, image in enumerate(frames):
        detector.see(Frame(index, index / fps, image, False, index))
    detector.end()
    return detector


def grainy(frames, seed: int = 0):
    """8-bit frames with the noise of a camera."""
    noise = np.random.default_rng(seed).integers(-4, 5, frames.shape, np.int8)
    return (frames + noise).clip(0, 255).round().astype(np.uint8)


def still(picture, count: int = 50):
    return np.repeat(picture[None].astype(np.float32), count, 0)


def zoomed(picture, count: int = 50, *, rate: float = 0.2):
    """A shot that zooms into a picture, in octaves per second."""
    height, width = picture.shape[:2]
    shots = []
    for index in range(count):
        scale = 2 ** (rate * index / FPS)
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 0, scale)
        shots.append(cv2.warpAffine(picture, matrix, (width, height)).astype(np.float32))
    return np.stack(shots)


def blended(one, other, length: int):
    """Two shots over `length` frames that mix them; the first and the last (exclusive) of these."""
    weight = (np.arange(1, length + 1) / (length + 1))[:, None, None, None]
    mix = one[len(one) - length :] * (1 - weight) + other[:length] * weight
    return np.concatenate([one[:-length], mix, other[length:]]), (len(one) - length, len(one))


def faded(one, other, length: int, *, level: float, hold: int = 4):
    """A shot that fades to black or white, and another that fades in from it."""
    plain = np.full((1, *one.shape[1:]), level)
    first, (start, _) = blended(one, np.repeat(plain, length, 0), length)
    second, (_, lit) = blended(np.repeat(plain, length, 0), other, length)
    held = np.repeat(plain, hold, 0)
    return np.concatenate([first, held, second]), (start, len(first) + hold + lit)


@pytest.mark.parametrize(
    "name", ["cuts_concat.mp4", "bigbuckbunny.mp4", "realshort.mp4", "bottle-detection.mp4"]
)
def test_real_videos_have_exactly_the_known_cuts(real_videos, name):
    truth = json.loads((real_videos / "TRUTH.json").read_text())[name]
    source = video.probe(real_videos / name)
    detector = CutDetector(source.fps)
    for frame in video.frames(source, short_side=180, limit_s=8):
        detector.see(frame)
    detector.end()
    expected = truth.get("cuts_first_frame_of_new_shot", [])
    assert detector.cuts == expected
    assert detector.transitions == [Transition("cut", cut, cut, cut) for cut in expected]


def test_hard_cuts_are_those_of_scenedetects_own_detect(write_video, make_scene, tmp_path):
    shots = [make_scene(seed, 30, height=144, width=256) for seed in (1, 2, 3, 4)]
    path = write_video(tmp_path / "cuts.mp4", np.concatenate(shots))
    told = scenedetect.detect(str(path), scenedetect.AdaptiveDetector())
    detector = detect([frame.image for frame in video.frames(video.probe(path))])
    assert [start.frame_num for start, _ in told] == [0, 30, 60, 90]
    assert detector.cuts == [30, 60, 90]


def test_a_cut_in_the_first_or_last_frames_is_found(pictures):
    assert detect(grainy(np.concatenate([still(pictures[0], 1), still(pictures[1], 30)]))).cuts == [1]
    assert detect(grainy(np.concatenate([still(pictures[0], 30), still(pictures[1], 1)]))).cuts == [30]


def test_frames_that_a_converter_blended_at_a_hard_cut_are_told(pictures):
    frames, (first, end) = blended(still(pictures[0]), still(pictures[1]), 1)
    (found,) = detect(grainy(frames)).transitions
    assert (found.kind, found.first, found.end) == ("cut", first, end)


@pytest.mark.parametrize(("shot", "length"), [(still, 5), (still, 12), (zoomed, 25), (zoomed, 45)])
def test_a_dissolve_is_found_with_all_its_blended_frames(pictures, length, shot):
    frames, (first, end) = blended(shot(pictures[0], 70), shot(pictures[3], 70), length)
    (found,) = detect(grainy(frames)).transitions
    assert found.kind == "dissolve"
    assert found.first <= first + 1  # the outermost frames are blended by a few per cent only
    assert found.end >= end - 1
    assert found.end - found.first <= 1.4 * length + 8
    assert abs(found.cut - (first + end) // 2) <= 2 + length // 10


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("length", [6, 20])
def test_a_fade_is_one_transition_with_all_its_blended_frames(pictures, level, length):
    frames, (first, end) = faded(zoomed(pictures[1], 60), zoomed(pictures[4], 60), length, level=level)
    (found,) = detect(grainy(frames)).transitions
    assert found.kind == "fade"
    assert found.first <= first + 1 + length // 8
    assert found.end >= end - 1 - length // 8
    assert found.end - found.first <= 1.4 * (end - first) + 8


def test_a_long_black_and_black_ends_cost_no_memory_and_are_left_out(pictures):
    frames, (first, end) = faded(still(pictures[1]), still(pictures[4]), 10, level=0, hold=200)
    black = np.zeros((20, *frames.shape[1:]))
    found = detect(grainy(np.concatenate([black, frames, black]))).transitions
    assert [(each.kind, each.first, each.end) for each in found] == [
        ("fade", 0, 20),
        ("fade", pytest.approx(first + 20, abs=2), pytest.approx(end + 20, abs=2)),
        ("fade", len(frames) + 20, len(frames) + 40),
    ]


@pytest.mark.parametrize("speed_px", [1, 8, 40])
def test_a_pan_is_no_cut_however_fast(make_scene, speed_px):
    pan = make_scene(7, 60, speed_px=speed_px, height=90, width=160)
    stop = np.concatenate([still(pan[0], 30), pan[:12], still(pan[12], 30)])
    assert detect(grainy(pan)).transitions == []
    assert detect(grainy(stop)).transitions == []


@pytest.mark.parametrize("length", [1, 3, 8])
@pytest.mark.parametrize("level", [0, 255])
def test_a_flash_or_a_dropout_is_no_cut(pictures, length, level):
    frames = zoomed(pictures[2], 60)
    frames[30 : 30 + length] = 0.1 * frames[30 : 30 + length] + 0.9 * level
    assert detect(grainy(frames)).transitions == []


def test_a_flash_on_a_cut_leaves_the_cut(pictures):
    frames = np.concatenate([still(pictures[0]), still(pictures[3])])
    frames[50:53] = 255
    found = detect(grainy(frames)).transitions
    assert len(found) in (1, 2)
    assert (found[0].first, found[-1].end) == (50, 53)


def test_changes_of_light_and_things_that_pass_are_no_cut(pictures):
    frames = zoomed(pictures[3], 80)
    brighter = frames * np.interp(np.arange(80), [20, 45], [0.6, 1.0])[:, None, None, None]
    at_once = frames * np.where(np.arange(80) < 40, 0.6, 1.0)[:, None, None, None]
    passing = frames.copy()
    for index in range(32):
        passing[25 + index, :, max(0, index * 8 - 100) : index * 8] = (90, 60, 40)
    for shot in (brighter, at_once, passing):
        assert detect(grainy(shot)).transitions == []


def test_shaking_and_stuttering_cameras_are_no_cut(make_scene):
    wide = make_scene(5, 1, height=110, width=200)[0]
    offsets = np.random.default_rng(0).integers(0, 12, (60, 2))
    shaken = np.stack([wide[y : y + 90, x : x + 160] for y, x in offsets])
    stuttering = make_scene(6, 80, speed_px=2, height=90, width=160)[np.arange(80) // 5 * 5]
    assert detect(grainy(shaken)).transitions == []
    assert detect(grainy(stuttering)).transitions == []


@pytest.mark.parametrize("fps", [10.0, 60.0])
def test_other_frame_rates(pictures, fps):
    count = round(2 * fps)
    frames, (first, end) = blended(still(pictures[0], count), still(pictures[1], count), round(fps))
    (found,) = detect(grainy(frames), fps).transitions
    assert found.kind == "dissolve"
    assert (found.first, found.end) == pytest.approx((first, end), abs=max(2, round(0.15 * fps)))


def test_memory_does_not_grow_with_the_video(make_scene):
    detector = CutDetector(FPS)
    shots, held = [make_scene(seed, 1, height=18, width=32)[0] for seed in (0, 1)], 0
    for index in range(1200):
        detector.see(Frame(index, index / FPS, shots[index // 40 % 2], False, index))
        if index == 600:
            held = len(detector._window._pictures)
    assert len(detector._window._pictures) == held < 250
    assert len(detector._suspicions) < 100
    detector.end()
    assert detector.cuts == list(range(40, 1200, 40))


def test_an_empty_video_and_a_video_of_one_frame_have_no_cuts(pictures):
    assert detect([]).cuts == []
    assert detect([pictures[0]]).transitions == []
    assert detect([pictures[0]] * 2).transitions == []


def test_transitions_that_touch_become_one():
    merged = cuts._merged(
        [Transition("cut", 60, 60, 60), Transition("dissolve", 40, 50, 60), Transition("cut", 70, 70, 70)]
    )
    assert merged == [Transition("dissolve", 40, 50, 60), Transition("cut", 70, 70, 70)]
