"""`scripts/study_priors.py`: that its starts differ in nothing else, and what its page tells."""

import dataclasses
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from svd3d import images, sample, train
from svd3d.metrics.report import Row
from svd3d.model import checkpoints, tiny
from svd3d.model.checkpoints import STILL

SCRIPT = Path(__file__).parents[1] / "scripts/study_priors.py"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        return importlib.import_module(SCRIPT.stem)


@pytest.fixture(scope="module")
def chain(script, tmp_path_factory):
    return script.Chain(tmp_path_factory.mktemp("study"), script.Plan(), seed=3)


def test_the_starts_differ_in_what_mixes_frames_alone(script, chain):
    script.make_starts(chain.folder, seed=chain.seed)
    still, drawn = (checkpoints.from_folder(chain.folder / name) for name in ("still", "random"))
    bundled = checkpoints.from_folder(tiny.FOLDER)
    for part in ("vae", "image_encoder"):
        for start in (still, drawn):
            assert all(
                np.array_equal(each, bundled.weights[part][name])
                for name, each in start.weights[part].items()
            )
    assert still.kind == drawn.kind == "svd"
    differing = {
        name for name, each in still.weights["unet"].items() if not each.equal(drawn.weights["unet"][name])
    }
    assert differing == {name for name in differing if STILL.search(name)} != set()
    assert not any(bool(still.weights["unet"][name].any()) for name in differing)


def test_both_priors_cost_the_same_and_share_their_first_stage(script, chain):
    stages = {
        prior: [chain.pretraining(prior, stage=stage) for stage in (0, 1)] for prior in ("video", "image")
    }
    assert stages["video"][0] == stages["image"][0]
    frames = {prior: [script.frames_seen(each) for each in configs] for prior, configs in stages.items()}
    assert frames["video"] == frames["image"] == [42 * 200, 42 * 440]
    assert script.SAMPLES == {"image": 42, "video": 42 / 14, "multi-view": 42 / 21}
    video, image = stages["video"][1], stages["image"][1]
    assert video.model == image.model == str(script.last_checkpoint(stages["video"][0]))
    assert (video.data, video.seed, video.max_train_steps) == (image.data, image.seed, image.max_train_steps)
    assert (video.num_views, video.trains) == (None, "all")
    assert (image.num_views, image.trains) == (1, "spatial")


def test_multi_view_training_is_the_same_for_all_starts(script, chain):
    configs = [chain.multi_view(prior, steps=40) for prior in script.PRIORS]
    assert len({each.out for each in configs}) == len({each.model for each in configs}) == 3
    alike = [dataclasses.replace(each, out=Path("out"), model="start") for each in configs]
    assert alike[0] == alike[1] == alike[2]
    assert alike[0].seed == chain.seed  # of which alone order, noise and levels of noise are drawn
    longer = dataclasses.replace(configs[0], max_train_steps=320)
    rates = [
        [train.learning_rate_factor(each, step) for step in range(1, 41)] for each in (configs[0], longer)
    ]
    assert rates[0] == rates[1]  # so that a milestone is on the way to the next one


def report(script, gain: float):
    """Two procedural objects and a real one."""
    rows = [
        Row(method, uid, view, metric, value + (gain if method == "model" else 0))
        for method in ("model", script.COPIED)
        for uid, base in (("procedural-a", 10.0), ("procedural-b", 20.0), ("real-c", 30.0))
        for view, value in ((1, base - 1), (2, base + 1))
        for metric in ("psnr", "ssim")
    ]
    return script.by_object(rows)


@pytest.fixture
def found(script, chain, monkeypatch):
    """The summary of two seeds, in which each start gains by step and seed."""
    gains = {"video": 2.0, "image": 1.5, "none": 0.0}
    monkeypatch.setattr(script, "read_report", lambda gain: report(script, gain))
    monkeypatch.setattr(
        script.Chain, "scores", lambda chain, prior, step: gains[prior] * (1 + step / 40) + chain.seed
    )
    monkeypatch.setattr(script, "spent", lambda chains, prior: {"frames": 42, "seconds": 1.0})
    monkeypatch.setattr(
        script, "held_out_loss", lambda chains, prior: [np.array([[0.4], [0.6]]) - gains[prior] / 10]
    )
    plan = dataclasses.replace(script.Plan(), seeds=2, milestones=(40,))
    return script.summarize([script.Chain(chain.out, plan, seed) for seed in range(2)])


def test_starts_are_compared_object_by_object_and_seed_by_seed(script, found):
    group = found["groups"]["procedural"]
    assert group["objects"] == ["procedural-a", "procedural-b"]
    assert found["groups"]["real"]["objects"] == ["real-c"]
    assert group["psnr"]["ahead"]["video - image"] == [
        {"mean": 0.5, "interval": [0.5, 0.5]},  # at step 0, whatever seeds and objects add
        {"mean": 1.0, "interval": [1.0, 1.0]},
    ]
    assert group["psnr"]["by_seed"]["none"] == [[15.0, 16.0], [15.0, 16.0]]
    expected = stats.ttest_1samp([4.0, 5.0], 0).confidence_interval()
    assert group["psnr"]["ahead_of_copied"]["video"]["interval"] == pytest.approx(tuple(expected))
    assert group["psnr"][script.COPIED]["mean"] == 15.0


def test_the_page_tells_seeds_intervals_and_what_is_missing(script, found):
    page = script.markdown(found)
    assert "Number of seeds: 2;" in page
    assert "LPIPS and CLIP-S: not computed, because" in page
    assert "| video - image | **0.50 [0.50, 0.50]** | **1.00 [1.00, 1.00]** |  |" in page
    assert "video is ahead of image: video - image = 1.00 [1.00, 1.00] dB." in page
    assert "Real objects: not computed" not in page
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in page.splitlines() if line.startswith("| psnr")}
    assert widths == {5}
    del found["groups"]["real"]
    assert "Real objects: not computed, because --real was not given." in script.markdown(found)


def test_a_difference_that_may_be_none_is_not_called_ahead(script):
    doubtful = {"mean": 0.3, "interval": [-0.1, 0.7]}
    assert script.bold(doubtful, 2) == "0.30 [-0.10, 0.70]"
    assert "not certain" in script.verdict("video - image", doubtful)
    behind = {"mean": -0.3, "interval": [-0.5, -0.1]}
    assert script.verdict("video - image", behind).startswith("image is ahead of video:")


def test_the_figure_has_the_scores_above_and_the_differences_below(script, found):
    axes = script.figure(found).axes
    titles = [each.get_title() for each in axes if each.get_title()]
    assert titles == ["2 procedural objects", "1 real objects"]
    lines = {line.get_label(): line for line in axes[0].get_lines()}
    np.testing.assert_allclose(lines["prior: video"].get_ydata(), [17.5, 19.5])
    bars = [each for each in axes if each.get_ylabel().startswith("PSNR ahead")]
    np.testing.assert_allclose(bars[0].containers[0].lines[0].get_ydata(orig=False), [0.5, 1.0])


def test_the_held_out_loss_is_compared_seed_by_seed(script, found):
    losses = found["held_out_loss"]
    assert losses["of"]["video"][0]["mean"] == pytest.approx(0.3)
    (ahead,) = losses["ahead"]["video - image"]
    assert ahead["interval"] == pytest.approx([-0.05, -0.05])
    assert "| video - image | **-0.050 [-0.050, -0.050]** |" in script.markdown(found)


def test_strips_show_true_views_above_the_samples_of_each_start(script, chain, make_sample):
    """Of three objects; each picture is of an own grey."""
    groups = {"procedural": ["procedural-a", "procedural-b"], "real": ["real-c"]}
    names = [name for each in groups.values() for name in each]
    folders = [chain.out / "data/truth"]
    folders += [chain.scores(prior, step=320).parent / "views" for prior in script.PRIORS]
    greys = 10 + 10 * np.arange(12).reshape(3, 4)
    for name, of_object in zip(names, greys, strict=True):
        for folder, grey in zip(folders, of_object, strict=True):
            plain = make_sample()
            views = np.full_like(plain.images, 255)
            views[..., :3] = grey
            sample.write(dataclasses.replace(plain, uid=name, images=views), folder / name)
    found = {"groups": {group: {"objects": objects} for group, objects in groups.items()}}
    shown = images.decode_rgb(script.strips(chain, found), where="strips")
    height, width = shown.shape[0] // 8, shown.shape[1] // 2
    cells = shown[height // 2 :: height, width // 2 :: width, 0]
    np.testing.assert_array_equal(cells[:, 0], [*greys[0], *greys[2]])
    np.testing.assert_array_equal(cells[:, 1], [*greys[1], 255, 255, 255, 255])
