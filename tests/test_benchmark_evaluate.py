"""The loop that `svd3d evaluate` is measured against gives the same numbers, from the same files."""

import importlib
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts/benchmark_evaluate.py"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        module = importlib.import_module(SCRIPT.stem)
        patch.setattr(module, "VIEWS", 3)
        patch.setattr(module, "DRAWN", 24)
        yield module


def test_both_ways_give_the_same_numbers(script, tmp_path):
    script.make_views(tmp_path, 2, size=48)
    turn, theirs = script.measure(script.loop, tmp_path)
    assert set(turn.parts) == {"reading", *script.METRICS}
    ours = script.measure(script.ours, tmp_path)[1]
    assert len(theirs) == 2 * 3 * len(script.METRICS)
    assert ours == pytest.approx(theirs, abs=1e-4)
    for metric, low, high in (("psnr", 15, 50), ("ssim", 0.3, 1), ("mask-iou", 0.5, 1)):
        assert all(low < value < high for key, value in ours.items() if key[2] == metric), metric


def test_the_summary_compares_turn_by_turn_and_number_by_number(script):
    def turns(*seconds):
        return [script.Turn(each, cpu_seconds=10 * each, parts={"ssim": 0.5}) for each in seconds]

    scores = {("car", 0, metric): 0.5 for metric in script.METRICS}
    off = scores | {("car", 0, "ssim"): 0.75}
    both = {"public scripts": turns(4, 8, 3), "ours": turns(2, 2, 2)}
    found = script.summary(both, {"public scripts": off, "ours": scores}, views=6)
    assert next(iter(found)) == "ratio"
    assert (found["ratio"], found["ratio_range"], found["cpu_ratio"]) == (2.0, [1.5, 4.0], 2.0)
    assert found["ways"]["ours"]["views_per_second"] == 3
    assert found["largest_difference"] == {"psnr": 0, "ssim": 0.25, "mask-iou": 0}
    assert "ratio 2.00 (1.50 to 4.00)" in script.table(found)
    with pytest.raises(SystemExit, match="not the same numbers were made: 3 and 0"):
        script.summary(both, {"public scripts": off, "ours": {}}, views=6)
