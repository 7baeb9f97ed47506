"""Clips between transitions, and copies of them that must decode to the source's frames and to no others."""

import subprocess

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from svd3d.curation import clips, video
from svd3d.curation.cuts import CutDetector, Transition
from svd3d.curation.video import Frame
from svd3d.errors import OutputError, VideoError

av = pytest.importorskip("av")
BLANK = np.zeros((1, 1, 3), np.uint8)


def cut(frame: int) -> Transition:
    return Transition("cut", frame, frame, frame)


def read(path):
    """The probe of a video, all its frames at their own size, and what `Keys` made of them."""
    found, keys = video.probe(path), clips.Keys()
    frames = list(video.frames(found))
    for frame in frames:
        keys.see(frame)
    return found, frames, keys


def keys_of(keyframes, orders, times_s=None):
    keys = clips.Keys()
    for index, order in enumerate(orders):
        time_s = index / 25 if times_s is None else float(times_s[index])
        keys.see(Frame(index, time_s, BLANK, index in keyframes, order))
    return keys


def ends(found):
    return [(clip.start_frame, clip.end_frame) for clip in found]


def test_clips_leave_out_blended_frames_and_short_shots():
    transitions = [cut(40), Transition("dissolve", 70, 75, 80), cut(85), Transition("fade", 180, 195, 200)]
    found = keys_of({0}, range(200)).clips(transitions, fps=25, min_s=0.5)
    assert ends(found) == [(0, 40), (40, 70), (85, 180)]
    assert [(clip.start_s, clip.end_s) for clip in found] == [(0.0, 1.6), (1.6, 2.8), (3.4, 7.2)]


def test_an_empty_video_and_a_video_of_one_frame():
    assert clips.Keys().clips([], fps=25, min_s=0) == []
    (clip,) = keys_of({0}, [0]).clips([], fps=25, min_s=0)
    assert (clip.start_frame, clip.end_frame, clip.end_s) == (0, 1, 0.04)
    assert (clip.keyframe_start_frame, clip.keyframe_end_frame) == (0, 1)


def test_long_shots_are_split_evenly_by_time():
    found = keys_of({0}, range(100)).clips([], fps=25, min_s=0.5, max_s=1.5)
    assert ends(found) == [(0, 34), (34, 67), (67, 100)]
    times_s = np.cumsum([0, *([0.04] * 50), *([0.08] * 49)])
    found = keys_of({0}, range(100), times_s).clips([], fps=12.5, min_s=0.5, max_s=3.0)
    assert [clip.end_s - clip.start_s for clip in found] == pytest.approx([3.0, 3.0], abs=0.09)
    assert keys_of({0}, range(100)).clips([], fps=25, min_s=0.5, max_s=4.0)[0].end_frame == 100


def test_a_clip_starts_at_the_next_key_frame_and_never_at_the_one_before_the_cut():
    found = keys_of({0, 48, 99}, range(100)).clips([cut(49), cut(60)], fps=25, min_s=0.1)
    copied = [(clip.keyframe_start_frame, clip.keyframe_end_frame) for clip in found]
    assert copied == [(0, 49), (None, None), (99, 100)]
    assert found[1].keyframe_start_s is None


def test_a_clip_ends_where_no_frame_needs_a_later_one():
    orders = [0, 2, 3, 1, 5, 6, 4, 8, 9, 7]  # I B B P B B P B B P
    found = keys_of({0}, orders)
    for end, closed in [(1, 1), (2, 1), (3, 1), (4, 4), (5, 4), (6, 4), (7, 7), (9, 7)]:
        clip = found.clips([cut(end)], fps=25, min_s=0)[0]
        assert clip.keyframe_end_frame == closed, end
    limited = keys_of(
        {0}, orders[:6]
    )  # the reading was limited: frame 6, decoded before 4 and 5, was not seen
    assert limited.clips([], fps=25, min_s=0)[0].keyframe_end_frame == 4


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.permutations(range(12)), st.sets(st.integers(0, 11)), st.integers(0, 12), st.integers(0, 12))
def test_whatever_the_order_a_copied_clip_is_closed(orders, keyframes, one, other):
    start, end = min(one, other), max(one, other)
    found = keys_of(keyframes, orders).clips([cut(start), cut(end)], fps=25, min_s=0)
    for clip in found:
        first, last = clip.keyframe_start_frame, clip.keyframe_end_frame
        inside = sorted(keyframes & set(range(clip.start_frame, clip.end_frame)))
        if first is None:
            assert not inside or min(orders[inside[0] + 1 :], default=99) < orders[inside[0]]
            continue
        assert clip.start_frame <= first < last <= clip.end_frame
        assert first == inside[0]
        assert max(orders[first:last]) < min(orders[last:], default=99)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("closed.mp4", {"options": {"x264-params": "scenecut=0:open-gop=0"}}),
        ("open.mp4", {"bframes": 3, "options": {"x264-params": "scenecut=0:open-gop=1"}}),
        ("open.ts", {"options": {"x264-params": "scenecut=0:open-gop=1"}}),
        ("closed.mkv", {}),
        (
            "open265.mp4",
            {
                "codec": "libx265",
                "options": {"x265-params": "open-gop=1:scenecut=0:pools=none:log-level=none"},
            },
        ),
        ("film.webm", {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}),
        ("vp8.webm", {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}}),
        ("old.avi", {"codec": "mpeg4"}),
        ("turned.mp4", {"rotation_deg": 90, "pixel_format": "yuv420p10le"}),
    ],
)
def test_a_copy_decodes_to_the_frames_of_the_source(write_video, make_scene, tmp_path, name, settings):
    shots = [
        make_scene(seed, length, speed_px=1, height=72, width=96) for seed, length in enumerate((20, 23, 17))
    ]
    path = write_video(tmp_path / name, np.concatenate(shots), gop=8, **settings)
    source, frames, keys = read(path)
    found = keys.clips([cut(20), cut(43)], fps=source.fps, min_s=0.1)
    assert ends(found) == [(0, 20), (20, 43), (43, 60)]
    for clip in found:
        copied = tmp_path / f"{clip.start_frame}{clips.suffix(source)}"
        clips.copy(source, clip, copied)
        written, decoded, _ = read(copied)
        expected = frames[clip.keyframe_start_frame : clip.keyframe_end_frame]
        assert len(expected) > 3
        np.testing.assert_array_equal([each.image for each in decoded], [each.image for each in expected])
        times_s = np.array([each.time_s for each in expected]) - expected[0].time_s
        assert [each.time_s for each in decoded] == pytest.approx(times_s, abs=1.1e-3)  # Matroska counts ms
        assert (written.width, written.height) == (source.width, source.height)
        assert written.rotation_deg == source.rotation_deg
        assert decoded[0].keyframe
    assert {each.suffix for each in tmp_path.iterdir()} == {path.suffix, clips.suffix(source)}


def test_ffmpeg_counts_as_many_frames_in_a_copy(real_videos, tmp_path):
    """On the shared video: cuts are found, clips copied, and each holds the frames of one shot only."""
    program = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    source = video.probe(real_videos / "cuts_concat.mp4")
    detector, keys, frames = CutDetector(source.fps), clips.Keys(), []
    for frame in video.frames(source, short_side=180):
        detector.see(frame)
        keys.see(frame)
        frames.append(frame.image)
    detector.end()
    found = keys.clips(detector.transitions, fps=source.fps, min_s=0.5)
    assert len(found) == 4
    for clip in found:
        path = tmp_path / f"{clip.start_frame}.mp4"
        clips.copy(source, clip, path)
        command = [program, "-i", path, "-map", "0:v", "-f", "framemd5", "-fps_mode", "passthrough", "-"]
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
        lines = [line for line in told.splitlines() if not line.startswith("#")]
        assert len(lines) == clip.keyframe_end_frame - clip.keyframe_start_frame
        decoded = [frame.image for frame in video.frames(video.probe(path), short_side=180)]
        np.testing.assert_array_equal(decoded, frames[clip.keyframe_start_frame : clip.keyframe_end_frame])
        assert clip.start_frame <= clip.keyframe_start_frame
        assert clip.keyframe_end_frame <= clip.end_frame


def test_a_clip_without_a_key_frame_cannot_be_copied(write_video, make_scene, tmp_path):
    path = write_video(tmp_path / "long.mp4", make_scene(1, 30, height=72, width=96), gop=100)
    source, _, keys = read(path)
    clip = keys.clips([cut(10)], fps=25, min_s=0)[1]
    with pytest.raises(VideoError, match="frames 10 to 30: holds no key frame") as caught:
        clips.copy(source, clip, tmp_path / "copy.mp4")
    assert caught.value.kind == "uncuttable"
    assert not (tmp_path / "copy.mp4").exists()


def test_a_clip_of_another_file_is_noticed(write_video, make_scene, tmp_path):
    shot = make_scene(1, 30, height=72, width=96)
    _, _, keys = read(write_video(tmp_path / "a.mp4", shot, gop=10))
    other = video.probe(write_video(tmp_path / "b.mp4", shot, gop=9))
    clip = keys.clips([cut(10)], fps=25, min_s=0)[1]
    with pytest.raises(VideoError, match="its key frame is not where it was seen"):
        clips.copy(other, clip, tmp_path / "copy.mp4")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_a_copy_that_cannot_be_written_says_so(write_video, make_scene, tmp_path):
    source, _, keys = read(write_video(tmp_path / "a.mp4", make_scene(1, 10, height=72, width=96)))
    (clip,) = keys.clips([], fps=25, min_s=0)
    with pytest.raises(OutputError, match=r"copy.mp4: cannot be written"):
        clips.copy(source, clip, tmp_path / "nowhere/copy.mp4")
