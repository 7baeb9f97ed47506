"""One pass: every scorer sees what it would see alone, and samples follow the clock."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svd3d.curation import onepass, video
from svd3d.curation.onepass import Sampler, Samples
from svd3d.curation.video import Frame


class Diary:
    """A scorer that remembers what it saw."""

    def __init__(self):
        self.seen, self.ended = [], 0

    def see(self, frame):
        assert not self.ended
        self.seen.append((frame.index, round(frame.time_s, 4), int(frame.image.astype(np.int64).sum())))

    def end(self):
        self.ended += 1


@pytest.fixture(scope="module")
def film(tmp_path_factory, write_video, make_scene):
    """Three seconds at 25 fps."""
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", make_scene(1, 75, speed_px=1))


def test_all_scorers_together_see_what_each_sees_alone(film):
    found = video.probe(film)
    together, sampled = [Diary(), Diary()], [Diary(), Diary()]
    reading = onepass.read(found, every=together, sampled=sampled)
    alone = Diary()
    onepass.read(found, every=[alone])
    assert [index for index, *_ in alone.seen] == list(range(75))
    assert together[0].seen == together[1].seen == alone.seen
    assert sampled[0].seen == sampled[1].seen == [alone.seen[i] for i in (0, 13, 25, 38, 50, 63)]
    assert {each.ended for each in (*together, *sampled)} == {1}
    assert (reading.frames, reading.samples, reading.notes) == (75, 6, ())
    assert reading.end_s == pytest.approx(3.0)


def test_a_limit_is_kept_and_noted_and_pictures_are_small(film):
    diary = Diary()
    reading = onepass.read(video.probe(film), every=[diary], short_side=90, limit_s=1.0)
    assert (len(diary.seen), reading.frames) == (25, 25)
    assert "limit of 1 s" in reading.notes[0]
    assert diary.seen[0][2] < 255 * 3 * 90 * 161


def test_progress_is_told(film, monkeypatch):
    monkeypatch.setattr(onepass, "TELL_EVERY", 30)
    told = []
    onepass.read(video.probe(film), on_progress=lambda *news: told.append(news))
    assert told == [(30, pytest.approx(29 / 25)), (60, pytest.approx(59 / 25))]


@given(
    st.lists(st.floats(0.001, 3.0), min_size=1, max_size=60),
    st.floats(0, 1e5),
    st.sampled_from((1.0, 2.0, 4.0)),
)
def test_each_slot_of_the_grid_gives_its_first_frame(steps, start_s, per_s):
    times = start_s + np.cumsum([0.0, *steps])
    sampler = Sampler(per_s)
    taken = [time for time in times if sampler.takes(float(time))]
    slots = [int((time - times[0] + onepass.SLACK_S) * per_s) for time in times]
    assert taken == [times[slots.index(slot)] for slot in sorted(set(slots))]


def test_an_even_rate_gives_two_samples_a_second_without_drift():
    sampler = Sampler()
    taken = [index for index in range(30 * 600) if sampler.takes(index / 29.97)]
    assert len(taken) == 1202
    assert max(np.diff(taken)) - min(np.diff(taken)) <= 1


@given(st.sets(st.integers(0, 50)), st.integers(0, 50), st.integers(0, 50))
def test_samples_of_a_clip_are_those_between_its_frames(indices, start, end):
    samples = Samples(Path("nowhere"))
    samples.indices = sorted(indices)
    assert samples.between(start, end) == [index for index in samples.indices if start <= index < end]


def test_samples_come_back_nearly_as_they_were(tmp_path, make_texture):
    samples, image = Samples(tmp_path), make_texture(3, height=90, width=161)
    samples.see(Frame(index=7, time_s=0.0, image=image, keyframe=True, decode_order=0))
    found = samples.image(7)
    assert found.shape == image.shape
    assert np.abs(found.astype(int) - image).mean() < 5
