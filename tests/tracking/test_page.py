"""The page of a run shows the numbers that were logged, whatever they are, and nothing else runs in it."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from svd3d import images
from svd3d.errors import InputError
from svd3d.tracking import curves, page
from svd3d.tracking.curves import Curve


def line(step: int, **changes) -> dict:
    """What training logs of a step."""
    usual = {
        "step": step,
        "loss": 1.0 / step,
        "loss_by_sigma": {"below 10": 0.5, "below 0.2": 2.0 / step, "from 10": 0.1},
        "learning_rate": 1e-5,
        "grad_norm": 0.5,
        "skipped": 0,
        "seconds": 2.0,
        "samples_per_second": 8.0,
        "validation_loss": None,
        "validation": None,
        "checkpoint": None,
    }
    return usual | changes


@pytest.fixture
def make(tmp_path):
    """A function that makes a run folder of lines of metrics and settings, and its page as text."""

    def make(*lines: dict, **settings) -> str:
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
        assert page.write(run) == run / "index.html"
        return (run / "index.html").read_text("utf-8")

    return make


def shown(records: list[dict]) -> dict[str, list[tuple[str, list, list]]]:
    """Labels, steps and values of the curves by the title of their plot."""
    return {
        plot.title: [(each.label, each.steps.tolist(), each.values.tolist()) for each in plot.curves]
        for plot in curves.plots(records)
    }


class Elements(HTMLParser):
    """Tags and attributes of a page, and its text outside of styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.words, self.inside = [], [], [], ""
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.inside = tag

    def handle_data(self, data):
        self.words += [] if self.inside == "style" else [data]


def test_curves_hold_the_numbers_that_were_logged():
    scores = {"psnr": 20.0, "baseline-psnr": 15.0, "ssim": 0.8}
    records = [
        line(1, loss=None, grad_norm=None, skipped=1),
        line(2, loss=3.0, loss_by_sigma={"below 0.2": 7.0}),
        line(3, loss=2.0, validation_loss=0.25, validation=scores),
    ]
    found = shown(records)
    assert found["Loss"] == [("", [2, 3], [3.0, 2.0])]
    assert found["Loss by noise level"] == [
        ("σ below 0.2", [1, 2, 3], [2.0, 7.0, pytest.approx(2 / 3)]),
        ("σ below 10", [1, 3], [0.5, 0.5]),
        ("σ from 10", [1, 3], [0.1, 0.1]),
    ]
    assert found["Validation loss"] == [("", [3], [0.25])]
    assert found["Validation psnr"] == [("model", [3], [20.0]), ("baseline", [3], [15.0])]
    assert found["Validation ssim"] == [("model", [3], [0.8])]
    assert found["Gradient norm"] == [("", [2, 3], [0.5, 0.5])]
    assert found["Learning rate"] == [("", [1, 2, 3], [1e-5] * 3)]
    assert [plot.marks for plot in curves.plots(records) if plot.title == "Loss"] == [[1.0]]


def test_a_line_is_drawn_where_the_numbers_are():
    """The path in the SVG is an affine image of the curve, upside down."""
    steps, values = np.array([10.0, 20.0, 40.0, 50.0]), np.array([1.0, 3.0, 2.0, 7.0])
    drawing = curves.svg(curves.Plot("Learning rate", [Curve(steps, values)]))
    (path,) = re.findall(r'<path d="([^"]*)" clip-path[^>]*stroke: #3b82d6', drawing)
    points = np.array(re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path), dtype=float)
    for drawn, true, direction in ((points[:, 0], steps, 1), (points[:, 1], values, -1)):
        np.testing.assert_allclose(
            (drawn - drawn[0]) / (drawn[-1] - drawn[0]), (true - true[0]) / (true[-1] - true[0]), atol=1e-4
        )
        assert np.sign(drawn[-1] - drawn[0]) == direction


@given(st.integers(1, 300), st.integers(3, 40))
def test_thinning_keeps_the_ends_and_the_mean_of_all_between(count, points):
    steps = np.arange(1.0, count + 1)
    values = np.random.default_rng(count).normal(size=count)
    thin = Curve(steps, values, "a").thinned(points)
    assert len(thin.steps) == min(count, points)
    assert (thin.steps[0], thin.steps[-1], thin.label) == (1, count, "a")
    assert (thin.values[0], thin.values[-1]) == (values[0], values[-1])
    assert (np.diff(thin.steps) > 0).all()
    first = 2
    for step, value in zip(thin.steps[1:-1], thin.values[1:-1], strict=True):
        last = round(2 * step - first)  # the mean of a stretch of steps is its middle
        assert value == pytest.approx(values[first - 1 : last].mean())
        first = last + 1
    assert first == max(count, 2)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=120))
def test_smoothing_is_a_median(values):
    curve = Curve(np.arange(1.0, len(values) + 1), np.array(values))
    smooth = curve.smoothed()
    half = min(curves.WINDOW, len(values) // 2) // 2
    middle = len(values) // 2
    assert len(smooth.values) == len(values)
    assert smooth.values[middle] == np.median(values[middle - half : middle + half + 1])


def test_a_long_run_makes_a_small_drawing():
    steps = np.arange(1.0, 200_001)
    noise = np.random.default_rng(0).lognormal(size=len(steps))
    plot = curves.Plot("Loss", [Curve(steps, noise)], smooth=True, marks=steps.tolist())
    assert len(curves.svg(plot)) < 200_000


def test_every_drawing_is_svg_and_the_same_twice():
    for plot in curves.plots([line(step, validation={"psnr": 1.0}) for step in (1, 2, 3)]):
        drawing = curves.svg(plot)
        assert ElementTree.fromstring(drawing).tag.endswith("svg")
        assert drawing == curves.svg(plot)
        assert curves.INK not in drawing
        assert "currentColor" in drawing


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [line(1)],
        [{"step": 1}],
        [dict.fromkeys(line(1)) | {"step": step} for step in (1, 2)],
        [line(1, loss=1e308), line(2, loss=1e-308, grad_norm=-1e308), line(3, grad_norm=0.0)],
        [line(step, loss=0.0, grad_norm=1e-300) for step in (1, 2)],
        [line(10**12, loss=float("nan"), seconds=1e9)],
    ],
    ids=["none", "one", "old", "nulls", "extreme", "equal", "nan"],
)
def test_any_metrics_make_a_page(make, lines):
    text = Elements(make(*lines, max_train_steps=10)).text
    assert ("No steps yet" in text) == (not lines)
    assert "max_train_steps 10" in text


def test_a_run_without_any_file_has_a_page(tmp_path):
    assert "No steps yet" in page.write(tmp_path).read_text("utf-8")


def test_a_broken_file_of_the_run_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"manifest\.json: cannot be read"):
        page.write(tmp_path)


def test_the_status_tells_what_is_left_and_what_was_best(make):
    records = [line(step, validation_loss={2: 0.5, 3: 0.25, 4: 0.75}.get(step)) for step in range(1, 5)]
    running = Elements(make(*records, max_train_steps=34))
    assert "4 of 34 step 1 min 00 s left" in running.text
    assert "0.25 best validation loss, at step 3" in running.text
    assert ("http-equiv", "refresh") in running.attributes
    finished = Elements(make(*records, max_train_steps=4))
    assert "4 of 4 step finished state" in finished.text
    assert ("http-equiv", "refresh") not in finished.attributes


def test_the_commands_use_checkpoints_that_are_there(make, tmp_path):
    run = tmp_path / "run"
    losses = {2: 0.1, 4: 0.2, 6: 0.3, 8: 0.3}
    records = [line(n, validation_loss=loss, checkpoint=f"step-{n}") for n, loss in losses.items()]
    for step in (4, 6):
        (run / f"checkpoints/step-{step}").mkdir(parents=True)
    manifest = {"command": ["/bin/svd3d", "train", "--out", "my run"], "licences": ["CC0-1.0", "CC-BY-4.0"]}
    (run / "manifest.json").write_text(json.dumps(manifest))
    text = Elements(make(*records)).text
    assert "svd3d train --out 'my run'" in text
    assert f"newest checkpoint, step 6 svd3d generate IMAGE --model {run}/checkpoints/step-6" in text
    assert f"best checkpoint, step 4 svd3d generate IMAGE --model {run}/checkpoints/step-4" in text
    assert "step-2 " not in text
    assert "step-8 " not in text
    assert "CC0-1.0, CC-BY-4.0" in text


def test_the_newest_sheet_is_large_and_few_older_ones_are_small(make, tmp_path):
    folder = tmp_path / "run/validation"
    folder.mkdir(parents=True)
    for step in range(10, 310, 10):
        images.write_png(folder / f"step-{step}.png", np.full((4, 900, 3), step % 256, np.uint8))
    found = Elements(make(line(300)))
    alternatives = [value for name, value in found.attributes if name == "alt"]
    assert alternatives[0] == "held-out objects at step 300"
    assert alternatives[1] == "held-out objects at step 290"
    assert alternatives[-1] == "held-out objects at step 10"
    assert len(alternatives) == 1 + page.OLDER


def test_strings_are_shown_and_never_run(make, tmp_path):
    hostile = "<script>alert(1)</script>\"'&$x_{$"
    (tmp_path / "run").mkdir()
    manifest = {"command": ["svd3d", hostile], "licences": [hostile], "device": hostile, "git": hostile}
    manifest["versions"] = {hostile: hostile}
    (tmp_path / "run/manifest.json").write_text(json.dumps(manifest))
    record = line(1, loss_by_sigma={hostile: 1.0, "a": 2.0}, validation={hostile: 1.0})
    found = Elements(make(record, line(2), **{hostile: hostile}))
    assert "script" not in found.tags
    assert found.text.count(hostile) >= 7


def test_the_page_needs_no_network(make):
    found = Elements(make(line(1), line(2)))
    addresses = [value for name, value in found.attributes if name in ("href", "src", "xlink:href")]
    assert {"script", "link", "iframe"} & set(found.tags) == set()
    assert [each for each in addresses if not each.startswith(("data:", "#"))] == []
    assert "url(http" not in (make(line(1)))
