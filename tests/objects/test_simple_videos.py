"""Clips of the narrow world: they show what their captions say, and what is held out is nowhere to learn."""

import collections
import importlib
import itertools
from pathlib import Path

import numpy as np
import pytest

from svd3d import runs
from svd3d.curation import table, windows
from svd3d.errors import ConfigError

SCRIPTS = Path(__file__).parents[2] / "scripts"
SIZE, FRAMES = 64, 8


@pytest.fixture(scope="module", autouse=True)
def _scripts():
    for package in ("av", "cv2", "embreex", "pyarrow"):
        pytest.importorskip(package)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield


@pytest.fixture(scope="module")
def script(_scripts):
    return importlib.import_module("studies.simple_videos")


@pytest.fixture(scope="module")
def obedience(_scripts):
    return importlib.import_module("studies.obedience")


@pytest.fixture(scope="module")
def objects(script, tmp_path_factory):
    out = tmp_path_factory.mktemp("objects")
    return importlib.import_module("make_objects").write_objects(
        names=[*script.FAMILIES], count=4, seed=3, out=out
    )


def world(script, **changes):
    return script.World(**{"count": 8, "size": SIZE, "frames": FRAMES, "seed": 2, **changes})


def test_one_combination_in_eight_is_held_out_and_of_any_two_words_all_are_learnt(script):
    held_out, learnt = script.cases(held_out=True), script.cases(held_out=False)
    assert not set(held_out) & set(learnt)
    assert (len(held_out), len(learnt)) == (32, 224)
    words = ("family", "colour", "direction", "speed")
    combinations = {(case.family, case.colour, case.direction) for case in learnt}
    assert not {(case.family, case.colour, case.direction) for case in held_out} & combinations
    for pair in itertools.combinations(words, 2):
        shown = {tuple(getattr(case, word) for word in pair) for case in learnt}
        every = {tuple(getattr(case, word) for word in pair) for case in [*learnt, *held_out]}
        assert shown == every
    for word in words:  # so that chance is the same for all words
        assert len(set(collections.Counter(getattr(case, word) for case in held_out).values())) == 1


def test_captions_tell_everything_in_order(script):
    case = script.Case("building", "orange", "up", "fast")
    assert case.caption() == "An orange building moves up fast."
    assert case.caption(moves=False) == "An orange building stands still."
    captions = {case.caption() for held_out in (True, False) for case in script.cases(held_out=held_out)}
    assert len(captions) == 256


@pytest.mark.parametrize("held_out", [True, False])
def test_clips_show_what_their_captions_say(script, obedience, objects, tmp_path, held_out):
    """Every direction, colour and speed, measured in lossless frames of the clips on disk."""
    script.make(objects, tmp_path, world(script, held_out=held_out))
    truths = runs.read_lines(tmp_path / script.TRUTH)
    for truth in truths:
        shown = obedience.shown(script.read(tmp_path / truth["file"]))
        assert {word: getattr(shown, word) for word in obedience.MEASURES} == {
            word: truth[word] for word in obedience.MEASURES
        }
        case = script.Case(*(truth[word] for word in ("family", "colour", "direction", "speed")))
        assert case.is_held_out == held_out
        assert truth["caption_video"] == case.caption()
    assert {truth["direction"] for truth in truths} == {*script.DIRECTIONS}
    for clip in windows.clips(tmp_path / table.NAME):
        assert [*clip.captions.values()] == [1.0]


def square(colour=(40, 80, 210), steps=(0, 0)):
    """A textured square that moves by so many pixels right and down from frame to frame."""
    frames = np.full((FRAMES, SIZE, SIZE, 3), 255, np.uint8)
    texture = np.random.default_rng(0).uniform(0.8, 1, (16, 16, 1))
    for number, frame in enumerate(frames):
        left, top = (24 + round(step * (number - (FRAMES - 1) / 2)) for step in steps)
        frame[top : top + 16, left : left + 16] = texture * colour
    return frames


@pytest.mark.parametrize(
    ("steps", "direction", "speed"),
    [
        ((-4, 0), "left", "fast"), ((4, 1), "right", "fast"), ((0, -4), "up", "fast"),
        ((-1, 4), "down", "fast"), ((2, 0), "right", "slowly"), ((0, 0), None, None),
    ],
)  # fmt: skip
def test_the_way_of_a_square_is_measured(obedience, steps, direction, speed):
    shown = obedience.shown(square(steps=steps))
    assert (shown.direction, shown.speed) == (direction, speed)
    expected = np.multiply(steps, (FRAMES - 1) / SIZE)
    assert obedience.path(square(steps=steps)) == pytest.approx(expected, abs=0.06)


def test_colours_are_named_as_in_the_captions_and_nothing_has_none(script, obedience):
    for name, hue in script.HUES.items():
        rgb = 255 * np.array(script.colorsys.hsv_to_rgb(hue, 0.7, 0.8))
        assert obedience.colour(square(rgb)) == name
    nothing = np.full((FRAMES, SIZE, SIZE, 3), 255, np.uint8)
    assert obedience.shown(nothing) == obedience.Shown(None, None, None, 0.0)


def test_spoilt_clips_are_what_they_are_called(script, objects, tmp_path):
    """And their captions tell of them what is seen at first."""
    script.make(objects, tmp_path, world(script, count=12, spoilt=0.999))
    found = {}
    for truth in runs.read_lines(tmp_path / script.TRUTH):
        found.setdefault(truth["spoil"], []).append((truth, script.read(tmp_path / truth["file"])))
    assert found.keys() == {*script.SPOILS}
    for truth, frames in found["static"]:
        assert (frames == frames[0]).all()
        assert truth["caption_video"].endswith("stands still.")
    for truth, frames in found["cut"]:
        white = (frames == 255).all(axis=-1).mean(axis=(1, 2)) > 0.5
        assert white.tolist() == [True] * (FRAMES // 2) + [False] * (FRAMES // 2)
        assert f"moves {truth['direction']}" in truth["caption_video"]
    for _, frames in found["text"]:
        black = (frames < 40).all(axis=-1)
        assert (black == black[0]).mean() > 0.9
        assert black[0].mean() > 0.05


def test_making_clips_resumes_and_refuses_other_settings(script, objects, tmp_path):
    script.make(objects, tmp_path, world(script, count=3))
    truth = (tmp_path / script.TRUTH).read_text("utf-8")
    clips = list(windows.clips(tmp_path / table.NAME))
    (tmp_path / script.TRUTH).write_text("".join(truth.splitlines(True)[:1]), "utf-8")
    script.make(objects, tmp_path, world(script, count=3))
    assert (tmp_path / script.TRUTH).read_text("utf-8") == truth
    assert list(windows.clips(tmp_path / table.NAME)) == clips
    with pytest.raises(ConfigError, match="seed was 2, now 3"):
        script.make(objects, tmp_path, world(script, count=3, seed=3))
