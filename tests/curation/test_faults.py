"""Videos as they are found in the wild, read by the real process, and kill -9 at any time."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from render import ledger
from svd3d import curate, runs
from svd3d.curation import table

for package in curate.NEEDED:
    pytest.importorskip(package)
ROOT = Path(__file__).parents[2]


def rows(out):
    return list(table.rows(out / table.NAME))


def name_of(uid):
    return uid.rpartition("-")[0]


def wait_until(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.02)


NO_NETWORKS = ("--text", "False", "--clip", "no/such")
"""So that a reader starts quickly."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, write_video, make_scene):
    """A folder with what is found in the wild, and what must become of each file."""
    import av

    folder = tmp_path_factory.mktemp("hostile")
    two = np.concatenate([make_scene(1, 40, speed_px=2), make_scene(2, 40)])
    name = 'it\'s "a"\ncat; rm -rf $HOME.mp4'
    good = write_video(folder / name, two)
    (folder / "cut_off.mp4").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    write_video(folder / "whole.mkv", two)
    torn = (folder / "whole.mkv").read_bytes()
    (folder / "torn.mkv").write_bytes(torn[: 2 * len(torn) // 3])
    (folder / "zero_bytes.mp4").touch()
    (folder / "renamed.mp4").write_text("This is a text about a cat.\n" * 99)
    times = np.cumsum(np.r_[0, np.tile([0.02, 0.1], 30)])
    write_video(folder / "uneven.mp4", make_scene(3, 61, speed_px=1), times_s=times)
    write_video(folder / "odd.mp4", make_scene(4, 40, height=91, width=161), pixel_format="yuv444p")
    write_video(folder / "ten_bit.mp4", make_scene(5, 40), pixel_format="yuv420p10le")
    write_video(folder / "portrait.mp4", make_scene(6, 40), rotation_deg=90)
    hours = np.r_[np.arange(50) / 25, np.linspace(10, 4 * 3600, 10)]
    write_video(folder / "four_hours.mp4", make_scene(7, 60), times_s=hours)
    with av.open(str(folder / "no_frames.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for number in range(20):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            sound.sample_rate, sound.pts = 44100, 1024 * number
            container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return folder


def cli(*words, **options):
    command = [sys.executable, "-m", "svd3d", "curate", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)


def test_every_hostile_file_is_named_and_stops_nothing(hostile, tmp_path):
    out = tmp_path / "out"
    done = cli(hostile, "--out", out, *NO_NETWORKS, "--limit-s", "3.3", "--json")
    assert done.returncode == 1, done.stderr
    book = {name_of(uid): known for uid, known in ledger.read(out).items()}
    kinds = {name: known.kind for name, known in book.items() if known.kind != "done"}
    assert kinds == {
        "cut_off": "damaged",
        "zero_bytes": "empty",
        "renamed": "no_video",
        "no_frames": "no_video",
        "sound": "no_video",
    }
    assert all(name in done.stderr for name in kinds)
    found = {}
    for row in rows(out):
        found.setdefault(row["video"], []).append(row)
    tricky = found['it\'s "a"\ncat; rm -rf $HOME.mp4']
    assert [(row["start_frame"], row["end_frame"]) for row in tricky] == [(0, 40), (40, 80)]
    assert [row["camera_motion"] for row in tricky] == ["pan", "static"]
    assert [len(found[name]) for name in ("odd.mp4", "ten_bit.mp4", "uneven.mp4", "four_hours.mp4")] == [
        1
    ] * 4
    assert (found["portrait.mp4"][0]["width"], found["portrait.mp4"][0]["height"]) == (180, 320)
    assert found["uneven.mp4"][0]["end_s"] == pytest.approx(3.3, abs=0.11)
    assert found["torn.mkv"][-1]["end_frame"] < 80
    messages = {name_of(row["uid"]): row["message"] for row in runs.read_lines(out / "ledger.jsonl")}
    assert "limit of 3.3 s" in messages["four_hours"]
    assert "damaged" in messages["torn"] or "ends after" in messages["torn"]
    assert (out / tricky[0]["thumbnails"]).read_bytes()[:2] == b"\xff\xd8"
    copies = [row["id"] for row in rows(out) if row["duplicate_of"]]
    assert copies, "whole.mkv repeats the tricky one"
    results_ = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results_) == len(book) + 1
    assert results_[-1]["clips"] == len(rows(out))


CALL = """
import sys
from pathlib import Path
from svd3d import curate
from svd3d.settings import CurateConfig
videos, out, *command = sys.argv[1:]
options = {"text": False, "clip": "no/such"}
config = CurateConfig(Path(videos), Path(out), workers=2, **options)
sys.exit(any(each.status == "failed" for each in curate.run(config, command=tuple(command) or None)))
"""
FAKE = (sys.executable, str(Path(__file__).with_name("fake_worker.py")))


def kill_and_compare(videos, tmp_path, *command, kills):
    """Straight through against killed so often, at any time or while it works; then the same command."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"

    def call(out):
        words = [sys.executable, "-c", CALL, str(videos), str(out), *command]
        return subprocess.Popen(words, cwd=ROOT, stderr=subprocess.DEVNULL)

    def parts():
        return len(list((killed / "parts").glob("*.json")))

    assert call(straight).wait() == 0
    chance = random.Random(0)
    for number in range(kills):
        before, running = parts(), call(killed)
        if number % 3 < 2:
            wait_until(lambda before=before, it=running: parts() > before or it.poll() is not None)
        time.sleep(chance.uniform(0, (0.2, 0.2, 2)[number % 3]))
        running.send_signal(signal.SIGKILL)
        running.wait()
    assert call(killed).wait() == 0
    assert len(rows(killed)) >= len(list(videos.glob("*.mp4")))
    assert rows(killed) == rows(straight)
    finals = Counter(row["uid"] for row in runs.read_lines(killed / "ledger.jsonl") if row["final"])
    assert finals == Counter(path.stem for path in (straight / "parts").iterdir())
    assert not [path for path in killed.glob("thumbnails/**/*") if ".tmp" in path.name]


def test_kill_9_anywhere_and_the_same_command_ends_with_the_same_rows(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(12):
        (videos / f"slow_{number}.mp4").touch()
    kill_and_compare(videos, tmp_path, *FAKE, str(tmp_path / "diary"), kills=3)


@pytest.mark.slow
def test_kill_9_of_the_real_reader_at_many_places(tmp_path, write_video, make_scene):
    videos = tmp_path / "videos"
    videos.mkdir()
    for number in range(12):
        write_video(videos / f"{number}.mp4", make_scene(number, 60, speed_px=number))
    kill_and_compare(videos, tmp_path, kills=20)
