"""Which frames of a clip training sees: the right ones, in one pass, cropped and never enlarged."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svd3d.curation import table, video, windows
from svd3d.curation.windows import Clip, Plan
from svd3d.errors import InputError

HEIGHT, WIDTH = 32, 48


def numbered(count, *, height=HEIGHT, width=WIDTH):
    """Frames whose grey is three times their number."""
    return [np.full((height, width, 3), 3 * number, np.uint8) for number in range(count)]


def numbers(window):
    """The frames that a window shows, by their grey."""
    return [round(float(image.mean()) / 3) for image in window.images]


def make_clip(start, end, *, name="v-0000", fps=25.0, start_s=None, end_s=None):
    start_s, end_s = (start / fps if start_s is None else start_s), (end / fps if end_s is None else end_s)
    return Clip(name, "v.mp4", "v", start, end, start_s, end_s, fps, 1.0, {})


def make_plan(num_frames=4, *, fps=5.0, stride=None, height=HEIGHT, width=WIDTH):
    return Plan(num_frames, None if stride else fps, stride, height, width)


def read(path, clips, plan):
    return {clip.id: found for clip, found in windows.read(path, clips, plan)}


@pytest.fixture(scope="module")
def film(write_video, tmp_path_factory):
    """Eighty frames at 25 frames per second."""
    return write_video(tmp_path_factory.mktemp("windows") / "v.mp4", numbered(80))


def test_a_window_lies_in_the_middle_at_the_rate_asked_for(film):
    window = read(film, [make_clip(10, 61)], make_plan(4, fps=6.25))["v-0000"]
    assert window.fps == 6.25
    assert window.frames == (29, 33, 37, 41)  # the middle is 35
    assert numbers(window) == [29, 33, 37, 41]
    single = read(film, [make_clip(10, 61)], make_plan(1, fps=5))["v-0000"]
    assert single.frames == (35,)


def test_every_so_many_frames(film):
    window = read(film, [make_clip(10, 20)], make_plan(4, stride=3))["v-0000"]
    assert window.frames == (10, 13, 16, 19)
    assert numbers(window) == [10, 13, 16, 19]
    assert window.fps == pytest.approx(25 / 3)


@given(st.integers(0, 30), st.integers(1, 40), st.integers(1, 6), st.integers(1, 6))
def test_strides_stay_inside_their_clips_as_near_to_the_middle_as_they_can(start, count, num_frames, stride):
    clip, plan = make_clip(start, start + count), make_plan(num_frames, stride=stride)
    misfit = windows._misfit(clip, plan)
    assert (misfit is not None) == (count < (num_frames - 1) * stride + 1)
    if misfit is None:
        places = windows._Filling(clip, plan).places
        assert start <= places[0] <= places[-1] <= start + count - 1
        assert abs((places[0] + places[-1]) / 2 - (start + start + count - 1) / 2) <= 0.5


@given(st.integers(1, 8), st.floats(1, 24), st.floats(0, 2), st.integers(0, 50))
def test_times_stay_inside_their_clips(num_frames, fps, more_s, start):
    count = int(((num_frames - 1) / fps + more_s) * 24) + 1
    clip, plan = make_clip(start, start + count, fps=24.0), make_plan(num_frames, fps=fps)
    if windows._misfit(clip, plan) is None:
        places = windows._Filling(clip, plan).places
        assert clip.start_s - 1e-4 <= places[0] <= places[-1] <= clip.end_s - 1 / 24 + 1e-4
    else:
        assert (count - 1) / 24 < (num_frames - 1) / fps + 1e-4


def test_uneven_times_are_met_by_the_nearest_frames(write_video, tmp_path):
    """Ten frames a second, then a frame that stands still for a second, then ten a second again."""
    times = [*(0.1 * number for number in range(10)), *(1.9 + 0.1 * number for number in range(10))]
    film = write_video(tmp_path / "v.mp4", numbered(20), times_s=times)
    clip = make_clip(0, 20, fps=10.0, start_s=0.0, end_s=2.9)
    window = read(film, [clip], make_plan(8, fps=4))["v-0000"]
    shown = np.array(times)[list(window.frames)]
    wanted = np.array([1.4 + (step - 3.5) / 4 for step in range(8)])
    nearest = [int(np.abs(np.array(times) - place).argmin()) for place in wanted]
    assert list(window.frames) == nearest == numbers(window)
    assert np.abs(shown - wanted).max() < 0.51  # the frame that stands still


def test_frames_are_scaled_until_they_cover_the_size_and_cropped_in_the_middle(write_video, tmp_path):
    wide = np.zeros((64, 160, 3), np.uint8)
    wide[:, 48:112] = 200  # the middle square of 64
    film = write_video(tmp_path / "v.mp4", [wide] * 4, quality=5)
    window = read(film, [make_clip(0, 4)], make_plan(2, stride=1, height=32, width=32))["v-0000"]
    assert window.images.shape == (2, 32, 32, 3)
    assert window.images[:, :, 1:-1].min() > 190
    window = read(film, [make_clip(0, 4)], make_plan(2, stride=1, height=32, width=64))["v-0000"]
    assert window.images[:, :, :15].max() < 20
    assert window.images[:, :, 49:].max() < 20


@given(st.integers(16, 400), st.integers(16, 400), st.integers(16, 400), st.integers(16, 400))
def test_any_size_is_covered_and_barely(height, width, wanted_height, wanted_width):
    film = video.Video(Path(), 25, None, None, width, height, 0, "", "", "", False, Fraction(1), None)
    plan = make_plan(height=wanted_height, width=wanted_width)
    if height < wanted_height or width < wanted_width:
        with pytest.raises(InputError, match="do not cover"):
            windows._short_side(film, plan)
        return
    scale = windows._short_side(film, plan) / min(height, width)
    assert scale <= 1
    assert round(height * scale) >= wanted_height
    assert round(width * scale) >= wanted_width
    assert min(height * scale - wanted_height, width * scale - wanted_width) < max(height, width) / min(
        height, width
    )


def test_a_video_is_decoded_once_and_no_further_than_needed(film, monkeypatch):
    seen, frames = [], video.frames

    def counted(*arguments, **options):
        for frame in frames(*arguments, **options):
            seen.append(frame.index)
            yield frame

    monkeypatch.setattr(video, "frames", counted)
    clips = [make_clip(30, 42, name="b"), make_clip(2, 20, name="a"), make_clip(15, 35, name="between")]
    found = read(film, clips, make_plan(3, stride=4))
    assert {name: window.frames for name, window in found.items()} == {
        "a": (6, 10, 14), "b": (31, 35, 39), "between": (20, 24, 28)
    }  # fmt: skip
    assert seen == list(range(40))


def test_clips_that_do_not_fit_are_named_and_the_others_are_read(film):
    clips = [make_clip(0, 5, name="short"), make_clip(10, 61, name="long")]
    found = read(film, clips, make_plan(4, fps=5))
    assert isinstance(found["long"], windows.Window)
    assert "clip short: lasts 0.20 s, less than the 0.64 s of 4 frames at 5 fps" in str(found["short"])
    (found,) = read(film, [make_clip(0, 60)], make_plan(2, fps=30)).values()
    assert "has 25 frames per second, fewer than 30; take a lower rate" in str(found)
    (found,) = read(film, [make_clip(0, 6)], make_plan(4, stride=2)).values()
    assert "has 6 frames, fewer than the 7 of every 2th" in str(found)
    (found,) = read(film, [make_clip(0, 60)], make_plan(height=64)).values()
    assert "48 x 32 pixels do not cover 48 x 64; take a smaller size" in str(found)


def test_a_video_that_breaks_off_gives_the_clips_before(write_video, make_texture, tmp_path):
    noise = [make_texture(seed, height=HEIGHT, width=WIDTH) for seed in range(30)]
    whole = write_video(tmp_path / "whole.mkv", noise, bframes=0)
    broken = tmp_path / "v.mp4"
    broken.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    found = read(broken, [make_clip(0, 8, name="a"), make_clip(20, 30, name="b")], make_plan(2, stride=3))
    assert isinstance(found["a"], windows.Window)
    assert "v.mp4: ends before its clips do (" in str(found["b"])
    broken.write_bytes(b"<!doctype html>")
    found = read(broken, [make_clip(0, 8, name="a"), make_clip(20, 30, name="b")], make_plan(2, stride=3))
    assert all("not a video" in str(each) for each in found.values())
    found = read(tmp_path / "gone.mp4", [make_clip(0, 8)], make_plan(2, stride=3))
    assert "gone.mp4: no such video" in str(found["v-0000"])


def test_the_captions_of_a_row_come_with_their_shares(tmp_path):
    facts = {"start_s": 0.0, "end_s": 1.0, "fps": 25.0, "width": 48, "height": 32}
    rows = [
        table.Clip(id="v-0000", video="v.mp4", video_id="v", clip=0, start_frame=0, end_frame=25, **facts),
        table.Clip(
            id="v-0001", video="v.mp4", video_id="v", clip=1, start_frame=25, end_frame=50, **facts,
            motion=0.5, caption_image="a cup", caption_video="it turns", caption_merged="a cup",
            caption_probabilities=(0.5, 0.25, 0.25),
        ),
    ]  # fmt: skip
    table.write(tmp_path / "clips.parquet", rows, facts=lambda: {"videos": "/films"})
    without, captioned = windows.clips(tmp_path / "clips.parquet")
    assert (without.id, without.motion, dict(without.captions)) == ("v-0000", None, {})
    assert dict(captioned.captions) == {"a cup": 0.75, "it turns": 0.25}
    assert str(windows.folder(tmp_path / "clips.parquet")) == "/films"
