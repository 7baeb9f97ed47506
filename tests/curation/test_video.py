"""Probing and decoding, against FFmpeg's own program, known frames, and files that are broken or hostile."""

import contextlib
import shutil
import subprocess
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from svd3d.curation import video
from svd3d.errors import InputError, VideoError

pytest.importorskip("av")


@pytest.fixture(scope="module")
def ffmpeg():
    """A function that runs FFmpeg's program and returns what it writes to stdout."""
    program = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()

    def run(*arguments) -> bytes:
        command = [program, "-y", "-loglevel", "error", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, timeout=60).stdout

    return run


@pytest.fixture(scope="module")
def decode_with(ffmpeg):
    """All frames of a file as FFmpeg's program decodes them: upright RGB."""

    def decode(path: Path, height: int, width: int):
        raw = ffmpeg(
            "-i", f"file:{path}", "-f", "rawvideo", "-pix_fmt", "rgb24", "-fps_mode", "passthrough", "-"
        )
        return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)

    return decode


@pytest.fixture(scope="module")
def scene(make_scene):
    return make_scene(1, 30, speed_px=2, height=90, width=162)


@pytest.fixture(scope="module")
def plain(write_video, scene, tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("plain") / "plain.mp4", scene)


def images(path: Path, **options):
    return np.stack([frame.image for frame in video.frames(video.probe(path), **options)])


def brightness_error(decoded, frames):
    """Mean difference in levels, without colour, which encoders store at half the size."""
    return np.abs(decoded.mean(-1) - frames.mean(-1)).mean()


def test_a_video_is_told_by_its_head_and_its_frames_equal_ffmpegs(plain, scene, decode_with):
    found = video.probe(plain)
    assert (found.width, found.height, found.frames) == (162, 90, 30)
    assert (found.fps, found.duration_s, found.codec) == (25.0, 1.2, "h264")
    assert (found.rotation_deg, found.variable_frame_rate, found.pixel_format) == (0, False, "yuv420p")
    frames = list(video.frames(found))
    assert [frame.index for frame in frames] == list(range(30))
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(30) / 25)
    assert [frame.index for frame in frames if frame.keyframe] == [0, 12, 24]
    assert sorted(frame.decode_order for frame in frames) == list(range(30))
    assert [frame.decode_order for frame in frames] != list(range(30))  # B-frames
    decoded = np.stack([frame.image for frame in frames])
    np.testing.assert_array_equal(decoded, decode_with(plain, 90, 162))
    assert brightness_error(decoded, scene) < 6


@pytest.mark.parametrize("rotation_deg", [90, 180, 270])
def test_portrait_is_turned_upright_as_ffmpeg_does(plain, ffmpeg, decode_with, tmp_path, rotation_deg):
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", rotation_deg, "-i", plain, "-c", "copy", turned)
    found = video.probe(turned)
    assert found.rotation_deg == rotation_deg
    assert (found.width, found.height) == ((162, 90) if rotation_deg == 180 else (90, 162))
    difference = images(turned).astype(int) - decode_with(turned, found.height, found.width)
    assert np.abs(difference).max() <= 2  # ffmpeg turns before it converts, we after


def test_a_mirrored_video_is_mirrored_back(plain, ffmpeg, tmp_path):
    ffmpeg("-display_hflip", "-i", plain, "-c", "copy", tmp_path / "mirrored.mp4")
    np.testing.assert_array_equal(images(tmp_path / "mirrored.mp4"), images(plain)[:, :, ::-1])


def test_pixels_that_are_not_square_are_made_square(plain, ffmpeg, tmp_path):
    ffmpeg("-i", plain, "-vf", "setsar=4/3", "-c:v", "libx264", tmp_path / "wide.mp4")
    assert (video.probe(tmp_path / "wide.mp4").width, video.probe(tmp_path / "wide.mp4").height) == (216, 90)
    assert images(tmp_path / "wide.mp4").shape == (30, 90, 216, 3)


def test_scaling_while_converting_is_area_averaging(write_video, make_scene, tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = write_video(
        tmp_path / "large.mp4", make_scene(2, 3, height=360, width=640), pixel_format="yuv444p"
    )
    small = images(path, short_side=90)
    expected = [cv2.resize(image, (160, 90), interpolation=cv2.INTER_AREA) for image in images(path)]
    assert np.abs(small.astype(int) - expected).mean() < 1
    assert images(path, short_side=1000).shape == (3, 360, 640, 3)


@pytest.mark.parametrize(
    ("name", "size", "settings"),
    [
        ("ten-bit.mp4", (90, 162), {"pixel_format": "yuv420p10le"}),
        ("odd.mp4", (91, 161), {"pixel_format": "yuv444p"}),
        ("tiny.mkv", (4, 4), {}),
        ("stream.ts", (90, 162), {}),
        ("film.webm", (90, 162), {"codec": "libvpx-vp9", "options": {"deadline": "realtime"}}),
        ("old.avi", (90, 162), {"codec": "mpeg4"}),
    ],
)
def test_unusual_videos_are_read_whole(write_video, make_scene, tmp_path, name, size, settings):
    shot = make_scene(3, 14, height=size[0], width=size[1])
    path = write_video(tmp_path / name, shot, **settings)
    found = video.probe(path)
    assert (found.height, found.width) == size
    assert found.pixel_format == settings.get("pixel_format", "yuv420p")
    decoded = images(path)
    assert len(decoded) == 14
    assert brightness_error(decoded, shot) < 12


def test_frame_times_of_a_variable_rate_are_the_files(write_video, scene, tmp_path):
    times_s = np.cumsum([0, *([0.04] * 10), *([0.2] * 10), *([0.05] * 9)])
    path = write_video(tmp_path / "uneven.mp4", scene, times_s=times_s)
    found = video.probe(path)
    assert found.variable_frame_rate
    assert [frame.time_s for frame in video.frames(found)] == pytest.approx(times_s, abs=1e-4)


def test_an_even_rate_that_no_clock_tick_fits_is_not_variable(write_video, make_scene, tmp_path):
    path = write_video(
        tmp_path / "ntsc.mkv", make_scene(1, 400, height=16, width=16), fps=Fraction(30000, 1001)
    )
    assert not video.probe(path).variable_frame_rate  # its ticks are whole milliseconds
    assert video.probe(path).fps == pytest.approx(29.97, abs=0.01)


def test_a_limit_ends_the_reading_and_is_told(plain):
    notes: list[str] = []
    times_s = [frame.time_s for frame in video.frames(video.probe(plain), limit_s=0.5, on_note=notes.append)]
    assert times_s == pytest.approx(np.arange(13) / 25)
    assert notes == ["read up to the limit of 0.5 s"]


@pytest.mark.parametrize(
    "name", ["a 'quoted' \"name\".mp4", "new\nline.mp4", "-i.mp4", "concat:a|b.mp4", "🎬 ü.mp4", "%03d.mp4"]
)
def test_a_name_is_a_name(plain, tmp_path, monkeypatch, name):
    shutil.copy(plain, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name, Path(name)):
        assert len(list(video.frames(video.probe(path)))) == 30


@pytest.mark.parametrize("name", ["http://127.0.0.1:9/film.mp4", "pipe:0", "data:video/mp4;base64,AAAA"])
def test_an_address_is_a_missing_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such video"):
        video.probe(Path(name))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"Not a film.\n" * 100, "no_video"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "no_video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{film}\n#EXT-X-ENDLIST\n", "no_video"),
        (b"ffconcat version 1.0\nfile '{film}'\n", "no_video"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "no_video"),
    ],
)
def test_what_is_not_a_video_is_refused(plain, tmp_path, content, kind):
    path = tmp_path / "film.mp4"
    path.write_bytes(content.replace(b"{film}", bytes(plain)))
    with pytest.raises(VideoError) as caught:
        video.probe(path)
    assert caught.value.kind == kind
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(VideoError, match="not a file"):
        video.probe(tmp_path)


def test_an_mp4_without_its_index_is_damaged(plain, tmp_path):
    content = plain.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(VideoError, match="cut off") as caught:
        video.probe(tmp_path / "cut.mp4")
    assert caught.value.kind == "damaged"


def test_sound_alone_and_a_cover_picture_are_no_video(ffmpeg, plain, tmp_path):
    tone = ("-f", "lavfi", "-i", "sine=duration=1")
    ffmpeg(*tone, tmp_path / "tone.mp4")
    ffmpeg("-i", plain, "-frames:v", "1", tmp_path / "cover.png")
    cover = (
        "-i",
        tmp_path / "cover.png",
        "-map",
        "0",
        "-map",
        "1",
        "-c:v",
        "copy",
        "-disposition:v:0",
        "attached_pic",
    )
    ffmpeg(*tone, *cover, tmp_path / "song.mp4")
    for name in ("tone.mp4", "song.mp4"):
        with pytest.raises(VideoError, match="holds no video") as caught:
            video.probe(tmp_path / name)
        assert caught.value.kind == "no_video"


def test_a_video_without_frames_is_empty(plain, ffmpeg, tmp_path):
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "sine=duration=1",
        "-i",
        plain,
        "-frames:v",
        "0",
        "-c:v",
        "copy",
        tmp_path / "no.mp4",
    )
    with pytest.raises(VideoError) as caught:
        video.probe(tmp_path / "no.mp4")
    assert caught.value.kind in ("empty", "no_video")


def test_an_absurd_size_is_refused_before_decoding(plain, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_PIXELS", 162 * 90 - 1)
    with pytest.raises(VideoError, match="162 x 90") as caught:
        video.probe(plain)
    assert caught.value.kind == "too_large"


def test_a_tail_that_is_cut_off_is_left_out_and_told(ffmpeg, plain, tmp_path):
    ffmpeg("-i", plain, "-c", "copy", "-movflags", "+faststart", tmp_path / "fast.mp4")
    whole = images(tmp_path / "fast.mp4")
    content = (tmp_path / "fast.mp4").read_bytes()
    (tmp_path / "torn.mp4").write_bytes(content[: len(content) * 2 // 3])
    notes: list[str] = []
    decoded = images(tmp_path / "torn.mp4", on_note=notes.append)
    assert 4 < len(decoded) < 25
    np.testing.assert_array_equal(decoded, whole[: len(decoded)])
    assert [note.split(" after")[0] for note in notes] == ["damaged"]


def test_damage_at_any_place_never_hangs_and_never_raises_after_a_good_frame(ffmpeg, plain, tmp_path):
    ffmpeg("-i", plain, "-c", "copy", tmp_path / "plain.ts")
    content, survived = np.frombuffer((tmp_path / "plain.ts").read_bytes(), np.uint8), 0
    for seed in range(8):
        generator = np.random.default_rng(seed)
        broken = content.copy()
        at = int(generator.integers(0, len(content) - 2000))
        broken[at : at + 2000] = generator.integers(0, 256, 2000)
        path = tmp_path / f"{seed}.ts"
        path.write_bytes(broken.tobytes())
        with contextlib.suppress(VideoError):
            found = video.probe(path)
            times_s = [frame.time_s for frame in islice(video.frames(found), 1000)]
            assert 0 < len(times_s) <= 30
            assert np.diff(times_s).min(initial=1) > 0
            survived += 1
    assert survived > 4


def test_probing_a_short_side_never_makes_a_picture_of_no_pixels(write_video, make_scene, tmp_path):
    path = write_video(tmp_path / "strip.mp4", make_scene(1, 2, height=2, width=640))
    assert images(path, short_side=1).shape == (2, 1, 320, 3)


def test_threads_change_nothing(plain):
    np.testing.assert_array_equal(images(plain, threads=3), images(plain))
