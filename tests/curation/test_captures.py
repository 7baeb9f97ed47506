"""Captures become samples: which frames, turned how, and what is left out by name."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from svd3d import cli, runs, sample
from svd3d.curation import captures
from svd3d.errors import ConfigError, InputError, SampleError
from svd3d.sample import Capture
from svd3d.settings import CurateCapturesConfig

VIEWS = 5


def picture(number, *, height=20, width=32):
    """Red tells the number of the frame, green the row, blue the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([np.full_like(rows, 10 * number), 4 * rows, 4 * columns], axis=-1).astype(np.uint8)


def write_frames(folder, count, **size):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(picture(number, **size)).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture
def source(tmp_path):
    """A capture of nine frames in landscape and one of eleven in portrait."""
    write_frames(tmp_path / "source/7/aa/images", 9)
    write_frames(tmp_path / "source/7/bb/images", 11, height=32, width=20)
    return tmp_path / "source"


def settings(source, out, **changed):
    return CurateCapturesConfig(source, out, **{"num_views": VIEWS, "size": 20, **changed})


def run(*arguments, **changed):
    return {each.uid: each for each in captures.run(settings(*arguments, **changed))}


def numbers(capture):
    """Which frames the views of a capture are."""
    return (capture.images[..., 0].reshape(len(capture), -1).mean(axis=1) / 10).tolist()


def test_a_capture_is_reversed_and_thinned_out_evenly(source, tmp_path):
    assert {each.status for each in run(source, tmp_path / "out").values()} == {"done"}
    made = sample.read_capture(tmp_path / "out/7-aa")
    assert numbers(made) == [8, 6, 4, 2, 0]
    assert np.array_equal(made.images[0], picture(8))
    assert made.about["frames"] == [8, 6, 4, 2, 0]
    run(source, tmp_path / "forward", reverse=False)
    assert numbers(sample.read_capture(tmp_path / "forward/7-aa")) == [0, 2, 4, 6, 8]


def test_portrait_is_turned_to_landscape_and_landscape_is_not(source, tmp_path):
    run(source, tmp_path / "out", reverse=False)
    made = sample.read_capture(tmp_path / "out/7-bb")
    assert made.images.shape == (VIEWS, 20, 32, 3)
    upright = picture(5, height=32, width=20)
    assert np.array_equal(made.images[2], np.rot90(upright))  # its top is at the left
    assert (made.about["rotated_deg"], sample.read_capture(tmp_path / "out/7-aa").about["rotated_deg"]) == (
        90,
        0,
    )
    run(source, tmp_path / "kept", reverse=False, portrait="keep")
    assert np.array_equal(sample.read_capture(tmp_path / "kept/7-bb").images[2], upright)


def test_frames_become_smaller_but_never_larger(source, tmp_path):
    run(source, tmp_path / "small", size=16)
    assert sample.read_capture(tmp_path / "small/7-bb").images.shape == (VIEWS, 16, 26, 3)
    run(source, tmp_path / "large", size=400)
    assert sample.read_capture(tmp_path / "large/7-bb").images.shape == (VIEWS, 20, 32, 3)


def test_a_film_of_a_capture_gives_what_its_frames_give(write_video, tmp_path):
    frames = [np.full((32, 64, 3), 10 * number, np.uint8) for number in range(13)]
    (tmp_path / "films").mkdir()
    write_video(tmp_path / "films/cup.mp4", frames)
    (made,) = run(tmp_path / "films", tmp_path / "out", size=16).values()
    assert made.uid == "cup.mp4"
    capture = sample.read_capture(made.folder)
    assert capture.images.shape == (VIEWS, 16, 32, 3)
    assert np.abs(np.array(numbers(capture)) - [12, 9, 6, 3, 0]).max() < 0.4  # H.264
    assert run(tmp_path / "films/cup.mp4", tmp_path / "one", size=16)["cup.mp4"].status == "done"


def test_a_film_in_portrait_is_turned_once(write_video, tmp_path):
    """Phones store landscape and a rotation; what is seen is portrait, and that is turned."""
    top = np.zeros((64, 32, 3), np.uint8)
    top[:32] = 200
    write_video(tmp_path / "film.mp4", [np.rot90(top)] * VIEWS, rotation_deg=-90)
    (made,) = run(tmp_path / "film.mp4", tmp_path / "out").values()
    views = sample.read_capture(made.folder).images
    assert views.shape[1:3] == (20, 40)
    assert views[:, :, :18].mean() > 190 > 10 > views[:, :, 22:].mean()  # its top is at the left


def test_broken_and_odd_frames_are_named_counted_and_left_out(source, tmp_path):
    frames = source / "7/bb/images"
    (frames / "003.png").write_bytes((frames / "003.png").read_bytes()[:-40])
    Image.fromarray(picture(5)).save(frames / "005.png")
    (frames / "mask.png").write_bytes(b"no frame")
    found = run(source, tmp_path / "out")["7-bb"]
    assert found.status == "done"
    assert found.message.startswith(f"2 frames left out ({frames / '003.png'}: a broken image")
    assert f"{frames / '005.png'}: is 32 x 20, most frames are 20 x 32" in found.message
    made = sample.read_capture(tmp_path / "out/7-bb")
    assert numbers(made) == [10, 7, 4, 2, 0]  # 4 stands for 5
    assert (made.about["left_out"], made.about["frames_in_source"]) == (2, 11)


def test_captures_with_too_few_frames_are_named_and_left_out(source, tmp_path):
    write_frames(source / "7/cc/images", VIEWS - 1)
    for number in (0, 1, 2):
        (source / f"7/aa/images/{number:03d}.png").write_bytes(b"")
    (source / "8.mp4").write_bytes(b"no film")
    found = run(source, tmp_path / "out")
    assert {uid: each.status for uid, each in found.items()} == {
        "8.mp4": "failed", "7-aa": "failed", "7-bb": "done", "7-cc": "failed"
    }  # fmt: skip
    assert "has 4 frames, fewer than the 5 needed" in found["7-cc"].message
    assert "6 of 9 frames are usable, not 5 evenly" in found["7-aa"].message
    assert "000.png: the file is empty" in found["7-aa"].message
    assert "8.mp4: not a video" in found["8.mp4"].message
    told = {each["uid"]: each["status"] for each in runs.read_lines(tmp_path / "out/ledger.jsonl")}
    assert told == {uid: each.status for uid, each in found.items()}


def test_running_again_resumes_and_other_settings_are_refused(source, tmp_path, monkeypatch):
    shutil.move(source / "7/bb/images/000.png", tmp_path / "000.png")
    assert run(source, tmp_path / "out")["7-bb"].status == "done"  # ten frames are enough
    shutil.rmtree(tmp_path / "out/7-bb")
    monkeypatch.setattr(captures, "read", lambda _, __, *, uid: (Capture(uid, picture(0)[None]), ()))
    assert {uid: each.status for uid, each in run(source, tmp_path / "out").items()} == {
        "7-aa": "skipped", "7-bb": "done"
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"made with other settings \(size was 20, now 30\)"):
        run(source, tmp_path / "out", size=30)


def test_a_capture_that_was_interrupted_is_no_sample(source, tmp_path, monkeypatch):
    write = sample.pictures.write_png

    def interrupted(path, image):
        if path.name == "003.png":
            raise KeyboardInterrupt
        write(path, image)

    monkeypatch.setattr(sample.pictures, "write_png", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out")
    assert sample.find(tmp_path / "out") == []
    monkeypatch.undo()
    assert {each.status for each in run(source, tmp_path / "out").values()} == {"done"}


def test_parts_share_the_captures(source, tmp_path):
    for number in range(6):
        write_frames(source / f"9/{number}", VIEWS)
    parts = [run(source, tmp_path / "out", part=part, parts=2) for part in range(2)]
    assert not set(parts[0]) & set(parts[1])
    assert set(parts[0]) | set(parts[1]) == set(captures.find(source))
    assert all(parts)


@given(st.integers(2, 12), st.integers(0, 40), st.data())
def test_even_places_are_met_within_half_a_step_or_refused(wanted, more, data):
    count = wanted + more
    usable = sorted(data.draw(st.sets(st.integers(0, count - 1))))
    chosen = captures.evenly(usable, count=count, wanted=wanted)
    step = (count - 1) / (wanted - 1)
    if chosen is not None:
        assert set(chosen) <= set(usable)
        assert list(chosen) == sorted(set(chosen))
        assert np.abs(np.array(chosen) - step * np.arange(wanted)).max() <= step / 2
    else:
        assert len(usable) < count
    assert (captures.evenly(range(count), count=count, wanted=wanted)) is not None


def test_strange_names_make_safe_different_names_of_samples(tmp_path):
    names = ("a b", "a_b", "quote'\"\n", "x" * 250, "-dash", "ümlaut", "a-b", "a/b")
    for name in names:
        write_frames(tmp_path / "source" / name, 2)
    found = captures.find(tmp_path / "source")
    assert len(found) == len(names)
    assert all(
        uid.isascii() and uid.isprintable() and len(uid) <= 110 and uid[0] not in ".-" for uid in found
    )
    assert found["a-b"] == tmp_path / "source/a/b"


def test_nothing_to_capture_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: holds no capture, such as CLASS/ID/images/000\.jpg"):
        run(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InputError, match="no such folder of captures"):
        run(tmp_path / "nowhere", tmp_path / "out")


def test_the_capture_folder_keeps_every_pixel_and_nobody_takes_it_for_a_sample(tmp_path):
    made = Capture("cup", np.stack([picture(number) for number in range(3)]), {"licence": "cc0"})
    sample.write_capture(made, tmp_path / "cup")
    again = sample.read_capture(tmp_path / "cup")
    assert np.array_equal(again.images, made.images)
    assert (again.uid, again.about) == (made.uid, made.about)
    assert sample.is_capture(tmp_path / "cup")
    with pytest.raises(
        SampleError, match=r"transforms\.json: a capture without cameras, which only svd3d cache"
    ):
        sample.read(tmp_path / "cup")
    Image.fromarray(picture(0)[:-1]).save(tmp_path / "cup/images/001.png")
    with pytest.raises(SampleError, match=r"frame 1: images/001\.png is 32 x 19, expected 32 x 20"):
        sample.read_capture(tmp_path / "cup")


def test_a_sample_with_cameras_is_no_capture(make_sample, tmp_path):
    make_sample(tmp_path / "o", uid="o", num_views=2, size=16, depth=False)
    assert not sample.is_capture(tmp_path / "o")
    with pytest.raises(SampleError, match="origin is 'rendered', expected captured"):
        sample.read_capture(tmp_path / "o")


def test_a_real_turn_of_an_object_is_taken(shared_data, tmp_path):
    """Sixteen views with transparency, depth maps beside them."""
    source = shared_data / "multiview/chicken_gt"
    (made,) = run(source, tmp_path / "out", num_views=16, size=64, reverse=False).values()
    assert (made.status, made.message) == ("done", "")
    capture = sample.read_capture(tmp_path / "out/chicken_gt")
    assert capture.images.shape == (16, 64, 64, 3)
    assert (capture.images[:, 0, 0] == 255).all()  # transparency is white
    assert capture.about["frames_in_source"] == 16


def test_the_command_tells_what_was_left_out(source, tmp_path, capsys):
    (source / "7/aa/images/003.png").write_bytes(b"")
    words = ["curate", "captures", source, "--out", tmp_path / "out", "--num-views", VIEWS, "--json"]
    with pytest.raises(SystemExit) as caught:
        cli.main([str(word) for word in words])
    assert caught.value.code == 0
    told = capsys.readouterr()
    assert "7-aa: 1 frames left out" in told.err
    assert f"Next: svd3d cache {tmp_path / 'out'} --model" in told.err
    assert [json.loads(line)["uid"] for line in told.out.splitlines()] == ["7-aa", "7-bb"]
