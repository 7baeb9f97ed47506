"""`scripts/gate.py`: its arithmetic against scipy, its groups, and the whole of it on two small objects."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from svd3d.errors import InputError
from svd3d.metrics.report import Row

SCRIPT = Path(__file__).parents[1] / "scripts/gate.py"


@pytest.fixture(scope="module")
def gate():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        return importlib.import_module(SCRIPT.stem)


def test_a_paired_difference_is_that_of_a_paired_t_test(gate):
    ours, theirs = np.random.default_rng(0).normal(20, 3, (2, 12))
    found = gate.difference(ours, theirs)
    assert found["mean"] / found["standard_error"] == pytest.approx(stats.ttest_rel(ours, theirs).statistic)
    assert not found["beaten"]
    error = found["standard_error"]
    for ahead, beaten in ((2.001, True), (1.999, False)):
        assert gate.difference(ours - found["mean"] + ahead * error, theirs)["beaten"] is beaten
    assert gate.difference(ours[:1] + 9, theirs[:1])["beaten"] is False  # one object says nothing


def test_names_tell_family_object_and_orbit(gate, tmp_path, make_sample):
    names = ("coffee-table-000002", "coffee-table-000001-1", "coffee-table-000001-2", "Duck", "mug-1000007")
    for name in names:
        make_sample(tmp_path / name, num_views=2, size=16, depth=False)
    assert [gate.family(name) for name in names] == [*["coffee-table"] * 3, "other", "mug"]
    chosen = gate.choose([tmp_path], count=1)
    assert list(chosen) == ["Duck", "coffee-table-000001-1", "mug-1000007"]
    groups = gate.group(list(chosen), trained={"mug", "car"})
    assert groups == {
        "all": [0, 1, 2],
        "families trained on": [2],
        "families not trained on": [0, 1],
        "coffee-table": [1],
        "mug": [2],
        "other": [0],
    }
    assert list(gate.group(["mug-000007"], trained={"mug"})) == ["all", "mug"]
    (tmp_path / "again").mkdir()
    with pytest.raises(InputError, match="again: holds no sample folders"):
        gate.choose([tmp_path / "again"], count=None)
    make_sample(tmp_path / "again/Duck", num_views=2, size=16, depth=False)
    with pytest.raises(InputError, match=r"again/Duck: its name is that of .*Duck too; rename one"):
        gate.choose([tmp_path, tmp_path / "again"], count=None)


def test_means_are_of_the_parts_of_the_orbit_and_of_the_members(gate):
    methods = (gate.MODEL, gate.CEILING, *gate.BASELINES)
    rows = [
        Row(method, name, view, metric, float(view + 100 * place + 7 * (method == gate.MODEL)))
        for method in methods
        for place, name in enumerate(("a", "b"))
        for metric in ("psnr", "ssim")
        for view in range(1, 21)
    ]
    names, scores = gate.tabulate(rows)
    assert names == ["a", "b"]
    found = gate.compare(scores, [1])
    means = found["means"]["white"]["psnr"]
    assert means == {"all": 110.5, "near": 110.5, "side": 110.5, "back": 110.5}
    assert found["ahead"]["white"]["psnr"] == {"mean": 7.0, "standard_error": None, "beaten": False}
    both = gate.compare(scores, [0, 1])
    assert both["ahead"]["white"]["ssim"] == {"mean": 7.0, "standard_error": 0.0, "beaten": True}
    assert both["beaten"] == {"psnr": list(gate.BASELINES), "ssim": list(gate.BASELINES)}
    assert sorted(view for views in gate.PARTS.values() for view in views) == list(gate.VIEWS)


def test_the_gate_on_two_objects(gate, make_sample, tmp_path, monkeypatch):
    for number, solid in enumerate(("sphere", "boxes")):
        name = f"{solid}-{number:06d}"
        make_sample(tmp_path / "views" / name, solid=solid, num_views=21, size=96, depth=False, uid="solid")
    make_sample(tmp_path / "trained/sphere-000009", num_views=21, size=64, depth=False)
    asked = {"held_out": [tmp_path / "views"], "training": tmp_path / "trained", "out": tmp_path / "gate"}
    found = gate.gate(**asked, steps=2)

    assert json.loads((tmp_path / "gate/gate.json").read_text()) == found
    assert list(found["groups"]) == [
        "all", "families trained on", "families not trained on", "boxes", "sphere",
    ]  # fmt: skip
    means = found["groups"]["all"]["means"]
    report = json.loads((tmp_path / "gate/scores/report.json").read_text())
    for method, scores in means.items():
        assert scores["psnr"]["all"] == pytest.approx(report["methods"][method]["psnr"]["mean"])
    assert means["autoencoder"]["psnr"]["all"] > max(
        means[each]["psnr"]["all"] for each in ("model", "white", "input-copied")
    )
    text = (tmp_path / "gate/gate.md").read_text()
    assert f"| all | 2 | {means['model']['psnr']['all']:.2f} |" in text
    with Image.open(tmp_path / "gate/sheets/all/best.png") as sheet:
        assert sheet.size == (7 * 65, 2 * (14 + 2 * 65))
    with Image.open(tmp_path / "gate/sheets/all.png") as sheet:
        assert sheet.size == (14 * 65, 2 * (14 + 65))

    monkeypatch.setattr(gate.generate, "_load", None)  # nothing is generated twice
    monkeypatch.setattr(gate, "autoencode", lambda *given, **options: None)  # done already
    assert gate.gate(**asked, steps=2) == found
    with pytest.raises(InputError, match="trained: holds sphere-000009, which is to be held out"):
        gate.gate(**asked | {"held_out": [tmp_path / "trained"]})
