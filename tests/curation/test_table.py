"""The table of clips: what is written is read, in types and units that any Parquet reader sees."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svd3d.curation import table
from svd3d.curation.table import Clip, Part
from svd3d.errors import InputError

parquet = pytest.importorskip("pyarrow.parquet")


def clip(number=0, **scores):
    given_ = {"id": f"cat-{number:04d}", "video": "a cat.mp4", "video_id": "cat", "clip": number}
    place = {"start_frame": 50 * number, "end_frame": 50 * number + 50, "start_s": 2.0 * number}
    size = {"end_s": 2.0 * number + 2, "fps": 25.0, "width": 320, "height": 180}
    return Clip(**{**given_, **place, **size, **scores})


def write(path, clips, **facts):
    return table.write(path, clips, facts=lambda: {"videos": "/videos", "not_computed": {}, **facts})


def test_rows_are_read_as_they_were_written_over_many_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "ROWS", 4)
    scored = clip(
        7, motion=0.5, phash=2**64 - 1, embedding=(0.5, -0.25), caption_probabilities=(0.5, 0.25, 0.25)
    )
    clips = [*map(clip, range(7)), scored]
    assert write(tmp_path / "clips.parquet", iter(clips)) == table.count(tmp_path / "clips.parquet") == 8
    rows = list(table.rows(tmp_path / "clips.parquet"))
    assert [row["id"] for row in rows] == [each.id for each in clips]
    assert {key: value for key, value in rows[7].items() if value is not None} == {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in vars(scored).items()
        if value is not None
    }
    assert parquet.ParquetFile(tmp_path / "clips.parquet").num_row_groups == 2


def test_any_reader_sees_type_meaning_and_unit(tmp_path):
    write(tmp_path / "clips.parquet", [clip(embedding=(1.0, 0.0))])
    found = parquet.read_schema(tmp_path / "clips.parquet")
    assert found.names == list(table.COLUMNS)
    assert found.field("pan").metadata == {b"about": b"horizontal motion of the camera", b"unit": b"widths/s"}
    assert str(found.field("phash").type) == "uint64"
    assert found.field("embedding").type.value_type == "halffloat"
    assert all(field.metadata[b"about"] for field in found)


def test_facts_are_kept_and_asked_for_after_the_last_clip(tmp_path):
    seen = {}

    def clips():
        yield clip()
        seen["text_area"] = "rapidocr is not installed"

    table.write(tmp_path / "clips.parquet", clips(), facts=lambda: {"not_computed": seen})
    assert table.facts(tmp_path / "clips.parquet") == {
        "not_computed": {"text_area": "rapidocr is not installed"}
    }


def test_a_failed_writing_leaves_the_former_table_and_nothing_else(tmp_path):
    path = tmp_path / "clips.parquet"
    write(path, [clip()])

    def broken():
        yield clip(1)
        raise InputError("the second part is broken")

    with pytest.raises(InputError, match="second part"):
        write(path, broken())
    assert [row["clip"] for row in table.rows(path)] == [0]
    assert list(tmp_path.iterdir()) == [path]


def test_duplicates_are_marked_and_all_else_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "ROWS", 2)
    path = tmp_path / "clips.parquet"
    write(path, [clip(number, embedding=(0.1, 0.2), phash=number) for number in range(5)], note="kept")
    before = list(table.rows(path))
    table.mark_duplicates(path, {"cat-0003": "cat-0000"})
    after = list(table.rows(path))
    assert [row.pop("duplicate_of") for row in after] == [None, None, None, "cat-0000", None]
    assert after == [{key: value for key, value in row.items() if key != "duplicate_of"} for row in before]
    assert table.facts(path)["note"] == "kept"


def test_what_is_no_table_of_clips_is_refused_in_one_line(tmp_path):
    import pyarrow

    (tmp_path / "text.parquet").write_text("hello")
    parquet.write_table(pyarrow.table({"id": ["a"]}), tmp_path / "other.parquet")
    for name, story in (
        ("missing", "no such"),
        ("text", "not a readable Parquet"),
        ("other", "it lacks video"),
    ):
        with pytest.raises(InputError, match=story):
            table.count(tmp_path / f"{name}.parquet")


@settings(max_examples=15)  # each writes files, flushed to disk
@given(
    st.lists(
        st.builds(
            clip,
            st.integers(0, 9999),
            motion=st.none() | st.floats(0, 1e6),
            caption_image=st.none() | st.text(),
            phash=st.none() | st.integers(0, 2**64 - 1),
            embedding=st.none() | st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
        ),
        max_size=3,
    )
)
def test_a_part_survives_its_file(tmp_path_factory, clips):
    path = tmp_path_factory.mktemp("parts") / "cat.json"
    part = Part(tuple(clips), {"aesthetic": "no weights"}, "ends early", "cpu", 1.5)
    part.write(path)
    assert Part.read(path) == part


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", json.dumps({"format": 99}), json.dumps({"format": 1, "clips": [{"id": 1}]})]
)
def test_a_part_of_somebody_else_is_refused(tmp_path, content):
    (tmp_path / "cat.json").write_text(content)
    with pytest.raises(InputError, match=r"cat\.json: (not a part|of another format)"):
        Part.read(tmp_path / "cat.json")


@settings(max_examples=15)  # each writes files, flushed to disk
@given(
    st.fixed_dictionaries({name: st.none() | st.just("") | st.text(min_size=1) for name in table.CAPTIONS})
)
def test_captions_that_exist_share_the_draws_as_in_the_paper(captions):
    found = table.probabilities(captions)
    there = [bool(captions[name]) for name in table.CAPTIONS]
    if not any(there):
        assert found is None
        return
    assert sum(found) == pytest.approx(1)
    assert [each > 0 for each in found] == there
    weights = np.array([0.5, 0.25, 0.25])[there]
    assert [each for each in found if each] == pytest.approx(list(weights / weights.sum()))
