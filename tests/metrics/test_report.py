"""Means and intervals from rows, and the same figures in JSON, Markdown and HTML."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svd3d.errors import InputError
from svd3d.metrics import curves, page, protocols, published, report, tables
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
    assert "no interval" in tables.to_markdown(mesh)
    assert "Paired" not in tables.to_markdown(mesh)  # nothing to compare with


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
    markdown, html = tables.to_markdown(scores), page.to_html(scores)
    lines = [line.split(" | ") for line in markdown.splitlines() if line.startswith("| ")]
    header, body = lines[0], {line[0].strip("| "): line for line in lines[2 : 2 + len(content["methods"])]}
    assert set(body) == set(content["methods"])
    latex = tables.to_latex(scores)
    for method, by_metric in content["methods"].items():
        for metric, score in by_metric.items():
            column = next(i for i, name in enumerate(header) if name.startswith(metric + " "))
            cell = body[method][column].strip("| ")
            told = [float(number) for number in re.findall(r"-?\d+\.\d+", cell)]
            digits = METRICS[metric].digits
            assert told == [round(x, digits) for x in (score["mean"], *score["ci95"])]
            assert cell in html
            assert cell in latex
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


def shifted(by: float, spread: float) -> list[Row]:
    """Two methods over eight very different objects, one better by about `by`."""
    rng = np.random.default_rng(1)
    level = rng.normal(20, 5, 8)
    return [
        Row(method, f"object-{i}", view, "psnr", float(level[i] + gain + rng.normal(0, spread)))
        for method, gain in (("ours", by), ("theirs", 0.0))
        for i in range(8)
        for view in range(4)
    ]


def test_paired_differences_see_what_two_intervals_hide():
    scores = report.summarize(shifted(by=0.5, spread=0.1), VIEWS)
    ours, theirs = (scores.methods[name]["psnr"] for name in ("ours", "theirs"))
    assert ours.ci95[0] < theirs.mean  # the intervals overlap
    difference = report.differences(scores, "ours", "theirs")["psnr"]
    assert difference.mean == pytest.approx(ours.mean - theirs.mean)
    assert difference.certain
    assert difference.ci95[0] < 0.5 < difference.ci95[1]
    back = report.differences(scores, "theirs", "ours")["psnr"]
    assert back.mean == pytest.approx(-difference.mean)
    assert back.ci95 == pytest.approx((-difference.ci95[1], -difference.ci95[0]), abs=0.02)
    assert not report.differences(scores, "ours", "ours")["psnr"].certain
    markdown = tables.to_markdown(scores)
    assert (
        f"| theirs | {difference.mean:+.2f} [{difference.ci95[0]:+.2f}, {difference.ci95[1]:+.2f}] * |"
        in markdown
    )


def test_of_one_object_views_are_paired():
    one = [row for row in shifted(by=0.5, spread=0.1) if row.object == "object-3"]
    scores = report.summarize(one, VIEWS)
    difference = report.differences(scores, "ours", "theirs")["psnr"]
    pairs = [a.value - b.value for a, b in zip(one[:4], one[4:], strict=True)]
    assert difference.mean == pytest.approx(np.mean(pairs))
    assert min(pairs) <= difference.ci95[0] <= difference.ci95[1] <= max(pairs)


def test_the_latex_table_has_as_many_cells_in_every_line_and_nothing_left_open():
    names = ("our_model 50%", "input-copied")
    scores = report.summarize(rows(methods=names), VIEWS)
    latex = tables.to_latex(scores)
    lines = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len({len(re.findall(r"(?<!\\)&", line)) for line in lines}) == 1
    assert r"our\_model 50\%" in latex
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 1
    assert latex.index(r"\toprule") < latex.index(r"\midrule") < latex.index(r"\bottomrule")
    (published_line,) = [line for line in lines if line.startswith("SVD-MV ")]
    assert "as published: SVD, Figure 10 (a)" in published_line
    assert "16.83" in published_line
    assert not re.search(r"(?<!\\)[_#]", latex)


def test_published_figures_name_their_source_and_an_existing_protocol():
    for kind in ("views", "meshes"):
        for table in published.tables(kind):
            assert protocols.get(table.like).kind == kind
            assert table.source
            assert table.protocol
            assert set(table.metrics) <= {*METRICS, *published.UNSTATED}
            figures = table.figures()
            assert len(figures) == len(table.rows)
            for by_metric in figures.values():
                assert list(by_metric) == list(table.metrics)
                for text, digits in zip(by_metric.values(), table.digits, strict=True):
                    assert len(text.split(".")[1]) == digits


def test_published_figures_are_those_of_the_papers(shared_data):
    """Every row of three figures or more stands in the list of published figures that this project keeps."""
    told = (shared_data.parent / "paper.md").read_text()
    known = {tuple(float(x) for x in re.findall(r"\d*\.\d+", part))
             for line in told.splitlines() for part in re.split(r"[;:|(]|\*\*", line)}  # fmt: skip
    numbers = {figure for line in known for figure in line} | {
        float(x) for x in re.findall(r"\d*\.\d+", told)
    }
    for kind in ("views", "meshes"):
        for table in published.tables(kind):
            for row in table.rows:
                assert set(row[1:]) <= numbers, row


def test_the_worst_objects_come_first_whatever_is_better():
    meshes = [Row("ours", f"object-{i}", None, "chamfer", i / 100) for i in range(12)]
    scores = report.summarize(meshes, protocols.get("mesh"))
    names = [row[0] for row in tables.extremes(scores)[1:]]
    assert names == [f"object-{i}" for i in (11, 10, 9, 8, 3, 2, 1, 0)]
    for text in (tables.to_markdown(scores), page.to_html(scores)):
        assert "The 4 worst and the 4 best of 12 objects, from the worst to the best chamfer of ours" in text


def test_a_curve_goes_through_the_means_over_objects():
    flat = [
        Row(method, name, view, "psnr", value + view)
        for method, value in (("ours", 20.0), ("theirs", 24.0))
        for name in ("a", "b")
        for view in range(1, 21)
    ]
    (chart,) = curves.per_view(report.summarize(flat, VIEWS))
    ours, theirs = (
        np.array([pair.split() for pair in path.split("L")], float)
        for path in re.findall(r'd="M([^"V]*?L[^"]*)"', chart)
    )
    assert len(ours) == len(theirs) == 20
    assert np.diff(ours[:, 0]) == pytest.approx(np.full(19, np.diff(ours[:, 0])[0]), abs=0.11)
    assert np.ptp(ours[:, 1]) == pytest.approx(np.ptp(theirs[:, 1]), abs=0.11)
    step = -np.diff(ours[:, 1]).mean()
    assert (ours[:, 1] - theirs[:, 1]) == pytest.approx(np.full(20, 4 * step), abs=0.3)  # higher is up
    assert "azimuth from view 0" in chart
    assert (
        curves.per_view(report.summarize([Row("ours", "a", None, "iou", 1.0)], protocols.get("mesh"))) == []
    )


def test_identical_views_do_not_flatten_the_curve():
    values = [100.0, 20.0, 21.0, 19.0]
    scores = report.summarize([Row("ours", "a", v, "psnr", x) for v, x in enumerate(values)], VIEWS)
    (chart,) = curves.per_view(scores)
    ticks = [float(x) for x in re.findall(r'text-anchor="end">([\d.]+)<', chart)]
    assert 19 <= min(ticks) < max(ticks) <= 21


def test_time_and_memory_stand_beside_the_figures_and_not_in_the_json():
    costs = {"ours": {"generate (s)": 12.5}, "scoring": {"peak memory (GB)": 1.0}}
    scores = report.summarize(rows(), VIEWS, costs=costs)
    for text in (tables.to_markdown(scores), page.to_html(scores)):
        assert "12.5" in text
        assert "generate (s)" in text
    assert "12.5" not in json.dumps(scores.to_json())


def test_thumbnails_are_a_few_of_the_views_over_the_background():
    views = np.zeros((21, 3 * page.THUMBNAIL, 2 * page.THUMBNAIL, 4), np.uint8)
    views[..., 0] = 10 * np.arange(21)[:, None, None]
    views[:, : views.shape[1] // 2, :, 3] = 255  # the lower half is transparent
    row = page.thumbnails(views, background=(0.0, 1.0, 0.0))
    width = round(page.THUMBNAIL * 2 / 3)
    assert row.shape == (page.THUMBNAIL, page.STRIP_VIEWS * width, 3)
    middles = row[:, width // 2 :: width]
    assert middles[10, :, 0].tolist() == [0, 30, 70, 100, 130, 170, 200]
    assert (middles[-10] == (0, 255, 0)).all()


def test_names_cannot_break_the_page_or_the_table():
    name = "<script>alert(1)</script>|x"
    picture = page.strip([np.zeros((2, 8, 8, 4), np.uint8)] * 2)
    scores = report.summarize(
        [Row(name, name, view, "psnr", 1.0) for view in range(2)], VIEWS,
        strips={name: picture}, strip_rows=(name,), digests={name: "0"}, not_computed={name: name},
        costs={name: {name: 1.0}},
    )  # fmt: skip
    assert "<script>" not in page.to_html(scores)
    header, _, body, *_ = [line for line in tables.to_markdown(scores).splitlines() if line.startswith("| ")]
    assert len(re.findall(r"(?<!\\)\|", header)) == len(re.findall(r"(?<!\\)\|", body))
