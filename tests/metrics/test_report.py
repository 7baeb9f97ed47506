"""Means and intervals from rows, and the same figures in JSON, Markdown and HTML."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svd3d.errors import InputError
from svd3d.metrics import page, protocols, report
from svd3d.metrics.catalog import METRICS
from svd3d.metrics.report import Row

VIEWS = protocols.get("svd-mv")


def rows(objects: int = 4, views: int = 3, methods: tuple[str, ...] = ("ours", "input-copied")) -> list[Row]:
    rng = np.random.default_rng(0)
    return [
        Row(method, f"object-{i}", view, metric, float(rng.normal(mean, 1)))
        for method in methods
        for i in range(objects)
        for view in range(views)
        for metric, mean in (("psnr", 20), ("ssim", 0.8))
    ]


def test_the_mean_is_over_views_first_then_over_objects():
    uneven = [
        Row("ours", "a", 0, "psnr", 10.0),
        Row("ours", "b", 0, "psnr", 20.0),
        Row("ours", "b", 1, "psnr", 30.0),
    ]
    score = report.summarize(uneven, VIEWS).methods["ours"]["psnr"]
    assert score.mean == pytest.approx((10 + 25) / 2)
    assert score.n == 2
    assert score.ci95 == pytest.approx((10, 25))  # of two objects, resampled


def test_the_interval_is_over_objects_or_over_views_of_the_only_one():
    many, one = report.summarize(rows(objects=4), VIEWS), report.summarize(rows(objects=1), VIEWS)
    assert (many.methods["ours"]["psnr"].n, many.protocol["measured"]["interval_over"]) == (4, "objects")
    assert (one.methods["ours"]["psnr"].n, one.protocol["measured"]["interval_over"]) == (3, "views")
    mesh = report.summarize([Row("ours", "a", None, "chamfer", 0.1)], protocols.get("mesh"))
    assert mesh.methods["ours"]["chamfer"].ci95 is None
    assert "no interval" in report.to_markdown(mesh)


def test_the_bootstrap_interval_is_the_normal_one_for_many_values():
    values = np.random.default_rng(1).normal(5, 2, size=400)
    low, high = report.interval(values, resamples=5000, seed=0)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert (low, high) == report.interval(values, resamples=5000, seed=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=20), st.floats(-10, 10))
def test_the_interval_moves_with_the_values(values, shift):
    values = np.array(values)
    low, high = report.interval(values, resamples=200, seed=0)
    assert values.min() - 1e-9 <= low <= high <= values.max() + 1e-9
    assert report.interval(values + shift, resamples=200, seed=0) == pytest.approx(
        (low + shift, high + shift)
    )


def test_json_markdown_and_html_hold_the_same_figures():
    scores = report.summarize(
        rows(), VIEWS, not_computed={"lpips-alex": "no weights"}, digests={"reference/a": "ab"}
    )
    content = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    markdown, html = report.to_markdown(scores), page.to_html(scores)
    lines = [line.split(" | ") for line in markdown.splitlines() if line.startswith("| ")]
    header, body = lines[0], {line[0].strip("| "): line for line in lines[2:]}
    assert set(body) == set(content["methods"])
    for method, by_metric in content["methods"].items():
        for metric, score in by_metric.items():
            column = next(i for i, name in enumerate(header) if name.startswith(metric + " "))
            cell = body[method][column].strip("| ")
            told = [float(number) for number in re.findall(r"-?\d+\.\d+", cell)]
            digits = METRICS[metric].digits
            assert told == [round(x, digits) for x in (score["mean"], *score["ci95"])]
            assert cell in html
            of_object: dict[str, list[float]] = {}
            for row in content["rows"]:
                if (row["method"], row["metric"]) == (method, metric):
                    of_object.setdefault(row["object"], []).append(row["value"])
            mean = np.mean([np.mean(values) for values in of_object.values()])
            assert score["mean"] == pytest.approx(mean)
            assert (score["unit"], score["higher_is_better"]) == (
                METRICS[metric].unit,
                METRICS[metric].higher_is_better,
            )
    for text in (markdown, html):
        assert "lpips-alex" in text
        assert "no weights" in text
        assert content["protocol"]["digest"][:16] in text
        assert METRICS["ssim"].definition in text


def test_the_json_has_the_contract_and_nothing_else():
    content = report.summarize(rows(), VIEWS).to_json()
    assert list(content) == ["protocol", "methods", "rows", "digests", "not_computed"]
    assert set(content["methods"]["ours"]["psnr"]) == {"mean", "ci95", "n", "unit", "higher_is_better"}
    assert set(content["rows"][0]) == {"method", "object", "view", "metric", "value"}


def test_a_hole_is_an_error_that_names_it():
    holed = [
        row
        for row in rows()
        if (row.method, row.object, row.metric, row.view) != ("ours", "object-2", "ssim", 1)
    ]
    with pytest.raises(InputError, match="ours: no ssim for object object-2 view 1"):
        report.summarize(holed, VIEWS)
    with pytest.raises(InputError, match="measured twice"):
        report.summarize([*rows(), rows()[0]], VIEWS)
    with pytest.raises(InputError, match="nothing could be measured"):
        report.summarize([], VIEWS)


def test_names_cannot_break_the_page_or_the_table():
    name = "<script>alert(1)</script>|x"
    picture = page.strip([np.zeros((2, 8, 8, 3), np.float32)] * 2)
    scores = report.summarize(
        [Row(name, name, view, "psnr", 1.0) for view in range(2)], VIEWS,
        strips={name: picture}, digests={name: "0"}, not_computed={name: name},
    )  # fmt: skip
    assert "<script>" not in page.to_html(scores)
    header, _, body = [line for line in report.to_markdown(scores).splitlines() if line.startswith("| ")]
    assert len(re.findall(r"(?<!\\)\|", header)) == len(re.findall(r"(?<!\\)\|", body))
