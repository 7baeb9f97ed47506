"""Selecting clips: shares, bounds and presets against the definition, and a funnel that adds up."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svd3d.curation import selection, table
from svd3d.curation.selection import PRESETS, Rules
from svd3d.curation.table import Clip
from svd3d.errors import ConfigError, InputError

pytest.importorskip("pyarrow")
score = st.none() | st.integers(0, 6).map(float)


def make(path, rows, **facts):
    """A table of clips two seconds long with these scores."""
    clips = (
        Clip(
            **{
                **{"id": f"{number}", "video": "v.mp4", "video_id": "v", "clip": number, "fps": 25.0},
                **{"start_frame": 50 * number, "end_frame": 50 * number + 50, "width": 1024, "height": 576},
                **{"start_s": 2.0 * number, "end_s": 2.0 * number + 2},
                **row,
            }
        )
        for number, row in enumerate(rows)
    )
    table.write(path, clips, facts=lambda: {"videos": "/videos", "not_computed": {}, **facts})
    return path


def chosen(path):
    return [int(row["id"]) for row in table.rows(path, columns=["id"])]


@settings(max_examples=15)  # each writes files, flushed to disk
@given(st.lists(score, min_size=1, max_size=30), st.floats(0.01, 0.99), st.booleans())
def test_a_share_drops_the_lowest_clips_or_the_largest_text_and_never_more(
    tmp_path_factory, values, share, text
):
    folder = tmp_path_factory.mktemp("selection")
    column, rule = ("text_area", "drop_text") if text else ("motion", "drop_motion")
    source = make(folder / "clips.parquet", [{column: value} for value in values])
    known = [value for value in values if value is not None]
    if not known:
        with pytest.raises(ConfigError, match=f"no clip has {column}"):
            selection.select(source, Rules(**{rule: share}), folder / "out.parquet")
        return
    found = selection.select(source, Rules(**{rule: share}), folder / "out.parquet")
    kept = [values[number] for number in chosen(folder / "out.parquet")]
    gone = sorted(known)
    for value in kept:
        gone.remove(value)
    worst_kept, best_gone = (
        (max(kept), min(gone, default=math.inf)) if text else (min(kept), max(gone, default=-1))
    )
    assert worst_kept < best_gone if text else worst_kept > best_gone  # equal scores share their fate
    assert len(gone) <= share * len(known)
    least_kept = max(kept) if text else min(kept)
    assert len(gone) + kept.count(least_kept) > share * len(known)  # one score more would be too many
    assert found.thresholds == {column: least_kept}
    (step,) = found.funnel
    assert (step.without_score, step.removed) == (values.count(None), len(values) - len(kept))


def test_the_papers_choice_with_independent_scores_keeps_what_the_shares_leave(tmp_path):
    """Each score runs through all combinations with the others: 0.75^3 * 0.5 of the clips stay."""
    grid = [(a, b, c, d) for a in range(4) for b in range(4) for c in range(4) for d in range(4)]
    rows = [{"motion": a, "aesthetic": b, "clip_score": c, "text_area": d / 10} for a, b, c, d in grid]
    rows = [{name: float(value) for name, value in row.items()} for row in rows]
    source = make(tmp_path / "clips.parquet", rows, note="kept")
    found = selection.select(source, PRESETS["lvd-f"], tmp_path / "out.parquet")
    assert [grid[number] for number in chosen(tmp_path / "out.parquet")] == [
        (a, b, c, d) for a, b, c, d in grid if a >= 1 and b >= 1 and c >= 2 and d <= 2
    ]
    assert found.chosen == 0.75 * 0.75 * 0.5 * 0.75 * len(grid)
    assert found.thresholds == pytest.approx({"motion": 1, "aesthetic": 1, "clip_score": 2, "text_area": 0.2})
    assert [step.removed for step in found.funnel] == [64, 48, 72, 18]
    assert selection.read(tmp_path / "out.parquet") == found
    facts = table.facts(tmp_path / "out.parquet")
    assert (facts["note"], facts["rules"]["drop_clip"]) == ("kept", 0.5)
    assert "drop_clip 0.5" in found.as_text()


def test_bounds_camera_and_duplicates(tmp_path):
    pan = {"camera_motion": "pan", "camera_confidence": 0.9, "text_area": 0.0}
    rows = [
        pan,
        {**pan, "camera_motion": "zoom"},
        {**pan, "camera_confidence": 0.4},
        {**pan, "text_area": 0.08},
        {**pan, "duplicate_of": "0"},
        {**pan, "camera_motion": None},
        {**pan, "end_s": 1000.0},
        {**pan, "width": 100, "height": 2000},
    ]
    source = make(tmp_path / "clips.parquet", rows)

    def numbers(rules):
        found = selection.select(source, rules, tmp_path / "out.parquet")
        assert found.chosen == len(chosen(tmp_path / "out.parquet"))
        assert sum(step.removed for step in found.funnel) == found.total - found.chosen
        return chosen(tmp_path / "out.parquet")

    assert numbers(PRESETS["camera-pan"]) == [0, 6, 7]
    assert numbers(PRESETS["camera-zoom"]) == [1]
    assert numbers(PRESETS["camera-static"]) == []
    assert numbers(Rules(min_seconds=10)) == [6]
    assert numbers(Rules(min_short_side=101)) == [0, 1, 2, 3, 4, 5, 6]
    assert numbers(Rules(camera=("pan", "zoom"), drop_duplicates=True, max_text=0.07)) == [0, 1, 2, 6, 7]
    assert numbers(Rules()) == list(range(8))


@settings(max_examples=15)  # each writes files, flushed to disk
@given(
    st.lists(
        st.fixed_dictionaries(
            {"motion": score, "aesthetic": score, "camera_motion": st.sampled_from(("pan", None))}
        ),
        max_size=12,
    ),
    st.sampled_from((Rules(), Rules(camera=("pan",)), Rules(camera=("pan",), min_motion=2.0))),
)
def test_the_funnel_adds_up(tmp_path_factory, rows, rules):
    folder = tmp_path_factory.mktemp("selection")
    source = make(folder / "clips.parquet", [{}, {"motion": 1.0, "camera_motion": "pan"}, *rows])
    found = selection.select(source, rules, folder / "out.parquet")
    left = found.total
    for step in found.funnel:
        left -= step.removed
        assert step.left == left
        assert 0 <= step.without_score <= step.removed
    assert left == found.chosen == table.count(folder / "out.parquet")


def test_a_rule_on_a_score_that_was_not_computed_says_why(tmp_path):
    facts = {"not_computed": {"aesthetic": "aesthetic: no weights; pass --aesthetic FILE"}}
    source = make(tmp_path / "clips.parquet", [{"motion": 1.0}], **facts)
    with pytest.raises(ConfigError, match=r"no clip has aesthetic \(aesthetic: no weights; pass --aesthetic"):
        selection.select(source, PRESETS["lvd-f"], tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()
    with pytest.raises(ConfigError, match="drop_motion is a share"):
        selection.select(source, Rules(drop_motion=25.0), tmp_path / "out.parquet")
    with pytest.raises(InputError, match="a table of all clips"):
        selection.read(source)
