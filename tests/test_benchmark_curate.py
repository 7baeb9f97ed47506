"""The chain of passes that `svd3d curate` is measured against gives the same rows from seven decodings."""

import importlib
import json
from pathlib import Path

import pytest

from svd3d import curate

for package in curate.NEEDED:
    pytest.importorskip(package)
SCRIPT = Path(__file__).parents[1] / "scripts/benchmark_curate.py"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield importlib.import_module(SCRIPT.stem)


def test_both_ways_give_the_same_rows_from_the_same_video(script, tmp_path):
    for folder in ("videos", "out"):
        (tmp_path / folder).mkdir()
    script.make_video(tmp_path / "videos/a.mp4", seed=0, shot_s=3, shots=2, size=(90, 160))
    config = script.CurateConfig(tmp_path / "videos", tmp_path / "out", text=False, clip="no/such")
    tools = script.without_networks(script.scoring.load(config))
    found = {name: script.measure(way, config, tools, tmp_path / "work") for name, way in script.WAYS.items()}
    (each, theirs), (one, ours) = found["a pass for each"], found["one pass"]
    assert ours == theirs
    assert [(row["start_frame"], row["end_frame"]) for row in ours] == [(0, 75), (75, 150)]
    assert {row["camera_motion"] for row in ours} == {"pan"}
    assert (one.frames, each.frames) == (150, 7 * 150)
    turns, rows = {name: [turn] for name, (turn, _) in found.items()}, {n: r for n, (_, r) in found.items()}
    summary = script.summary(turns, rows, decoding=1.0)
    assert next(iter(summary)) == "ratio"
    assert json.loads(json.dumps(summary))["ratio"] == pytest.approx(each.seconds / one.seconds)
    assert f"ratio {summary['ratio']:.2f}" in script.table(summary)
    with pytest.raises(SystemExit, match="different rows"):
        script.summary(turns, {**rows, "one pass": ours[:1]}, decoding=1.0)
