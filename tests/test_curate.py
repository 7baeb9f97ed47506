"""The curation stage: whatever one video does, the others go on; run again, the rows are the same."""

import importlib.util
import json
import pickle
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from render import cluster, ledger
from svd3d import curate as stage
from svd3d import runs
from svd3d.curation import footage, table
from svd3d.errors import ConfigError, InputError, OutputError, VideoError
from svd3d.settings import CurateConfig, CurateSelectConfig

for package in stage.NEEDED:
    pytest.importorskip(package)
ROOT = Path(__file__).parents[1]
FAKE = ROOT / "tests/curation/fake_worker.py"


@pytest.fixture
def command(tmp_path):
    return (sys.executable, str(FAKE), str(tmp_path / "diary"))


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def make_names(folder, names):
    """A folder of files that only the stand-in takes for videos."""
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / f"{name}.mp4").write_bytes(b"")
    return folder


def config(videos, out, **changes):
    return CurateConfig(**{"videos": videos, "out": out, "timeout_s": 30.0, **changes})


def results(asked, **options):
    return {footage_name(result.uid): result for result in stage.run(asked, **options)}


def footage_name(uid):
    return uid.rpartition("-")[0]


def rows(out):
    return list(table.rows(out / table.NAME))


def started(diary):
    return [int(line.split()[1]) for line in diary.read_text().splitlines()] if diary.exists() else []


def wait_until(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.02)


def runs_still(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_whatever_a_reader_does_is_told_and_costs_the_others_nothing(tmp_path, temporary, command):
    fates = {
        **dict.fromkeys(("cat", "dog", "crash_once", "talks"), "done"),
        **{"crash": "crash", "silent": "timeout", "refuse": "no_video", "liar": "protocol"},
    }
    asked = config(
        make_names(tmp_path / "videos", fates), tmp_path / "out", attempts=2, silence_s=1.0, workers=2
    )
    found = results(asked, command=command)
    assert {name: result.status for name, result in found.items()} == {
        name: "done" if fate == "done" else "failed" for name, fate in fates.items()
    }
    book = ledger.read(asked.out)
    assert {footage_name(uid): known.kind for uid, known in book.items()} == fates
    told = {footage_name(uid): known.message for uid, known in book.items()}
    assert told["silent"] == (
        "silent.mp4: the reader said nothing for 1 s at curate (attempt 2 of 2; its last words: "
        "'reading silent'); it is left out"
    )
    assert "the reader was killed by SIGKILL" in told["crash"]
    assert [row["video"] for row in rows(asked.out)] == ["cat.mp4", "crash_once.mp4", "dog.mp4", "talks.mp4"]
    assert stage.summary(asked.out) == stage.Summary(4, 8.0, {"aesthetic": "no weights"})
    assert (asked.out / "report.html").exists()
    manifest = json.loads((asked.out / "manifest.json").read_text())
    assert (manifest["stage"], manifest["device"]) == ("curate", "cpu")
    assert list(temporary.iterdir()) == []
    wait_until(lambda: not any(map(runs_still, started(tmp_path / "diary"))))

    before = (asked.out / "ledger.jsonl").read_bytes(), rows(asked.out)
    again = results(asked, command=("/no/such/program",))
    assert Counter(result.status for result in again.values()) == {"skipped": 4, "failed": 4}
    assert "svd3d curate retry" in again["refuse"].message
    assert ((asked.out / "ledger.jsonl").read_bytes(), rows(asked.out)) == before
    assert "8 videos, 0 MB: 4 done, 4 failed, 0 open; 2 processes" in stage.plan(asked)
    assert len(ledger.retry(asked.out, kinds=["no_video"], stage="curate")) == 1
    assert "4 done, 3 failed, 1 open" in stage.plan(asked)
    assert results(asked, command=command)["refuse"].status == "failed"


def test_what_is_nobodys_video_ends_the_run_which_resumes(tmp_path, temporary, command):
    asked = config(make_names(tmp_path / "videos", ["a", "full_once", "z"]), tmp_path / "out")
    with pytest.raises(OutputError, match="cannot be written"):
        results(asked, command=command)
    assert {result.status for result in results(asked, command=command).values()} == {"skipped", "done"}
    assert len(rows(asked.out)) == 3
    asked = config(make_names(tmp_path / "others", ["scratch"]), tmp_path / "out2")
    with pytest.raises(OutputError, match="scratch disk is full"):
        results(asked, command=command)
    with pytest.raises(ConfigError, match="the process that reads videos does not start"):
        results(asked, command=(sys.executable, "-c", "raise SystemExit('device: no CUDA here')"))


def test_a_single_bad_file_is_refused_and_leaves_nothing(tmp_path, command):
    make_names(tmp_path / "videos", ["refuse", "cat"])
    with pytest.raises(VideoError, match=r"refuse\.mp4: holds no video"):
        results(config(tmp_path / "videos/refuse.mp4", tmp_path / "a/b/out"), command=command)
    assert not (tmp_path / "a").exists()
    results(config(tmp_path / "videos/cat.mp4", tmp_path / "out"), command=command)
    assert [row["video"] for row in rows(tmp_path / "out")] == ["cat.mp4"]
    assert table.facts(tmp_path / "out" / table.NAME)["videos"] == str(tmp_path / "videos")


def test_other_settings_are_refused_but_more_workers_and_a_moved_folder_are_not(tmp_path, command):
    asked = config(make_names(tmp_path / "videos", ["cat"]), tmp_path / "out")
    results(asked, command=command)
    with pytest.raises(ConfigError, match=r"flow was 'farneback', now 'dis'"):
        results(config(asked.videos, asked.out, flow="dis"), command=command)
    moved = asked.videos.rename(tmp_path / "moved")
    assert results(config(moved, asked.out, workers=4), command=())["cat"].status == "skipped"


def test_a_part_without_its_row_gets_one(tmp_path, command):
    """A run that is killed between the part and the ledger has done the work."""
    asked = config(make_names(tmp_path / "videos", ["cat"]), tmp_path / "out")
    results(asked, command=command)
    before = rows(asked.out)
    (asked.out / "ledger.jsonl").unlink()
    assert results(asked, command=())["cat"].status == "skipped"
    assert [row["status"] for row in runs.read_lines(asked.out / "ledger.jsonl")] == ["done"]
    assert rows(asked.out) == before


def test_closing_the_run_leaves_no_process(tmp_path, temporary, command):
    asked = config(make_names(tmp_path / "videos", ["a", "b_wait"]), tmp_path / "out")
    running = stage.run(asked, command=command)
    next(running)
    wait_until((asked.videos / "b_wait.seen").exists)
    running.close()
    assert not any(map(runs_still, started(tmp_path / "diary")))
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "story"),
    [
        ("missing", "no such video, folder"),
        ("empty", "holds no video"),
        ("list.jsonl", "record 2 names no video"),
    ],
)
def test_a_source_without_videos_is_refused_before_there_is_output(tmp_path, name, story):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").touch()
    (tmp_path / "list.jsonl").write_text('{"path": "a.mp4"}\n{"url": "b"}\n')
    with pytest.raises(InputError, match=story):
        stage.run(config(tmp_path / name, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_names_of_videos_are_safe_unique_and_do_not_change_when_the_folder_moves(tmp_path):
    names = [
        'It\'s a "cat"\n.mp4',
        "-i.MP4",
        "a/x.mov",
        "b/x.mov",
        "ünï.webm",
        "." * 3 + ".mkv",
        "x" * 200 + ".ts",
    ]
    for root in ("here", "there"):
        for name in [*names, "._junk.mp4", "notes.txt"]:
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    found = footage.find(tmp_path / "here")
    assert sorted(each.name for each in found) == sorted(names)
    assert [each.uid for each in found] == [each.uid for each in footage.find(tmp_path / "there")]
    assert len({each.uid for each in found}) == len(names)
    assert all(part.isalnum() for each in found for part in each.uid.replace("_", "-").split("-"))
    (tmp_path / "list.jsonl").write_text(
        "".join(json.dumps({"path": f"here/{name}"}) + "\n" for name in names)
    )
    assert [each.path.exists() for each in footage.find(tmp_path / "list.jsonl")] == [True] * len(names)


def test_a_flag_overrides_the_preset_and_the_report_shows_the_funnel(tmp_path, command):
    asked = config(make_names(tmp_path / "videos", ["a", "bb", "ccc", "dddd"]), tmp_path / "out")
    results(asked, command=command)
    chosen = tmp_path / "lists/chosen.parquet"
    off = {"drop_aesthetic": 0.0, "drop_clip": 0.0, "drop_text": 0.0}
    with pytest.raises(
        ConfigError, match=r"no clip has aesthetic \(no weights\), clip_score, text_area \(not computed\)"
    ):
        stage.select(CurateSelectConfig(asked.out, chosen, preset="lvd-f"))
    found = stage.select(CurateSelectConfig(asked.out, chosen, preset="lvd-f", **off))
    assert [row["video"] for row in table.rows(chosen)] == ["bb.mp4", "ccc.mp4", "dddd.mp4"]
    assert [(step.rule, step.removed) for step in found.funnel] == [("drop_motion 0.25", 1)]
    found = stage.select(CurateSelectConfig(asked.out, chosen, preset="lvd-f", **off, drop_motion=0.5))
    assert (found.chosen, found.thresholds) == (2, {"motion": 3.0})
    assert "drop_motion 0.5" in (asked.out / "report.html").read_text()


def test_a_task_on_another_node_gets_functions_that_travel_and_skips_what_is_done(tmp_path, command):
    asked = config(make_names(tmp_path / "videos", ["a", "crash", "refuse"]), tmp_path / "out", attempts=1)
    (tmp_path / "out/parts").mkdir(parents=True)
    work = pickle.loads(pickle.dumps(stage.work(asked, command=command)))
    sources = footage.find(asked.videos)
    for known in (False, True):
        told = list(cluster._work(work, sources, {source.uid: 0 for source in sources}))
        told = {footage_name(each.outcome.job): each.outcome for each in told}
        assert {name: each.kind for name, each in told.items()} == {
            "a": "done",
            "crash": "crash",
            "refuse": "no_video",
        }
        assert (told["a"].seconds == 0) == known
        assert [clip.video for clip in told["a"].value.clips] == ["a.mp4"]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed")
def test_a_ray_cluster_gives_the_rows_of_the_local_engine(tmp_path, command, monkeypatch):
    for name, value in {**cluster.ENVIRONMENT, **cluster.OWN_ENVIRONMENT}.items():
        monkeypatch.setenv(name, value)
    kinds = []
    for engine in ("local", "ray"):
        videos = make_names(tmp_path / engine, ["a", "b", "crash", "refuse", "z"])
        asked = config(videos, tmp_path / f"{engine}_out", attempts=2, chunk=2, engine=engine)
        results(asked, command=command)
        kinds.append({uid: known.kind for uid, known in ledger.read(asked.out).items()})
    assert rows(tmp_path / "ray_out") == rows(tmp_path / "local_out")
    assert kinds[0] == kinds[1]
    assert set(kinds[0].values()) == {"done", "crash", "no_video"}


@pytest.mark.slow
def test_real_videos_end_as_their_truth_says(shared_data, tmp_path):
    """Four shots of three videos, one with burnt-in text; one of the shots also lies there as a video."""
    videos = shared_data / "videos"
    truth = json.loads((videos / "TRUTH.json").read_text())["cuts_concat.mp4"]
    names = ("cuts_concat.mp4", "realshort.mp4")
    (tmp_path / "some.jsonl").write_text(
        "".join(json.dumps({"path": str(videos / name)}) + "\n" for name in names)
    )
    assert {each.status for each in stage.run(CurateConfig(tmp_path / "some.jsonl", tmp_path / "out"))} == {
        "done"
    }
    *shots, again = rows(tmp_path / "out")
    cuts = truth["cuts_first_frame_of_new_shot"]
    assert [row["start_frame"] for row in shots] == pytest.approx([0, *cuts], abs=2)
    assert [row["end_frame"] for row in shots] == pytest.approx([*cuts, truth["frames"]], abs=2)
    assert [row["text_area"] > 0 for row in shots] == [part["text_overlay"] for part in truth["segments"]]
    still = [part["motion"].startswith("static camera") for part in truth["segments"]]
    assert [row["camera_motion"] == "static" for row in shots] == still
    assert [row["duplicate_of"] for row in (*shots, again)] == [None] * 4 + [shots[2]["id"]]
    reasons = table.facts(tmp_path / "out" / table.NAME)["not_computed"]
    assert all(row[column] is None for row in shots for column in reasons)
