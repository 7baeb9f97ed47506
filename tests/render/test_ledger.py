"""The ledger: the last row decides, whoever wrote it; a million rows are read in a stream."""

import json
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from render import ledger
from render.ledger import Line, Row
from svd3d import runs
from svd3d.errors import InputError

CRASH = {"kind": "crash", "stage": "load", "signal": "SIGSEGV"}


@pytest.fixture
def out(tmp_path):
    """One object of each fate."""
    for row in (
        Row("cup", "done", "done", source="cup.glb", licence="cc0", faces=12, seconds=1.23456, device="CPU"),
        Row("mug", "requeued", **CRASH),
        Row("vase", "failed", "no_mesh", "vase.glb: it shows no surface", stage="load"),
        Row("jar", "failed", "no_mesh", "jar.glb: it shows\x1b[2J | nothing"),
        Row("pot", "requeued", **CRASH),
        Row("pot", "requeued", attempt=2, **CRASH),
        Row("pot", "failed", message="pot.glb: killed by SIGSEGV", attempt=3, log=("a", "b"), **CRASH),
    ):
        ledger.append(tmp_path, row)
    return tmp_path


def test_a_row_is_read_as_it_was_written(out):
    (row,) = ledger.why(out, "cup")
    assert (row.licence, row.faces, row.seconds, row.device, row.final) == ("cc0", 12, 1.235, "CPU", True)
    assert row.host
    assert row.at
    assert runs.read_lines(out / "ledger.jsonl")[0]["final"] is True


def test_the_last_row_decides_and_attempts_are_counted(out):
    book = ledger.read(out)
    states = {uid: book.settled(uid) for uid in ("cup", "mug", "vase", "pot", "nobody")}
    assert states == {"cup": "done", "mug": "open", "vase": "failed", "pot": "failed", "nobody": "open"}
    assert [book.attempts(uid) for uid in ("mug", "pot", "nobody")] == [1, 3, 0]


def test_why_tells_every_attempt(out):
    rows = ledger.why(out, "pot")
    assert [(row.status, row.attempt) for row in rows] == [("requeued", 1), ("requeued", 2), ("failed", 3)]
    story = ledger.as_story(rows).splitlines()
    assert "failed (crash)  attempt 3 at load" in story[2]
    assert story[3:] == ["  pot.glb: killed by SIGSEGV", "  | a", "  | b"]
    with pytest.raises(InputError, match="knows nothing of 'nobody'"):
        ledger.why(out, "nobody")


def test_status_and_failures_are_tables(out):
    assert ledger.status(out) == [
        Line("done", 1, 1 / 5),
        Line("failed", 3, 3 / 5, message="no_mesh 2, crash 1"),
        Line("open", 1, 1 / 5, message="the next svd3d render tries them"),
    ]
    assert ledger.failures(out) == [
        Line("no_mesh", 2, 2 / 5, "vase", "vase.glb: it shows no surface"),
        Line("crash", 1, 1 / 5, "pot", "pot.glb: killed by SIGSEGV"),
    ]


def test_tables_are_aligned_and_harmless():
    lines = [Line("crash", 12, 0.6, "jar", "jar.glb: \x1b[2J | nothing\nmore"), Line("no_mesh", 8, 0.4)]
    assert ledger.as_text(lines) == (
        "class    objects  share  example  message\n"
        "crash         12  60.0%  jar      jar.glb: ?[2J | nothing?more\n"
        "no_mesh        8  40.0%"
    )
    assert ledger.as_markdown(lines) == (
        "| class | objects | share | example | message |\n"
        "| --- | ---: | ---: | --- | --- |\n"
        "| crash | 12 | 60.0% | jar | jar.glb: ?[2J \\| nothing?more |\n"
        "| no_mesh | 8 | 40.0% |  |  |"
    )


def test_retry_opens_what_failed_with_all_attempts_again(out):
    assert ledger.retry(out, kinds=["crash"]) == ["pot"]
    book = ledger.read(out)
    assert (book.settled("pot"), book.attempts("pot")) == ("open", 0)
    assert ledger.retry(out, uids=["jar"]) == ["jar"]
    assert ledger.retry(out) == ["vase"]
    assert ledger.retry(out) == []
    assert [line.objects for line in ledger.status(out)] == [1, 0, 4]
    assert ledger.failures(out) == []
    ledger.append(out, Row("jar", "done", "done"))
    assert ledger.read(out).settled("jar") == "done"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"uids": ["cup"]}, "'cup' is done, not failed"),
        ({"uids": ["mug"]}, "'mug' is open, not failed"),
        ({"uids": ["nobody"]}, "'nobody' is unknown"),
        ({"kinds": ["timeout"]}, "nothing failed by timeout"),
    ],
)
def test_a_retry_of_what_has_not_failed_is_refused(out, asked, message):
    before = (out / "ledger.jsonl").read_bytes()
    with pytest.raises(InputError, match=message):
        ledger.retry(out, **asked)
    assert (out / "ledger.jsonl").read_bytes() == before


def test_parts_of_a_job_array_write_their_own_files_and_readers_take_all(tmp_path):
    ledger.append(tmp_path, Row("a", "failed", "crash"), shard=(0, 2))
    ledger.append(tmp_path, Row("b", "done", "done"), shard=(1, 2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ledger-0-of-2.jsonl", "ledger-1-of-2.jsonl"]
    assert ledger.retry(tmp_path) == ["a"]
    assert len(runs.read_lines(tmp_path / "ledger-0-of-2.jsonl")) == 2
    time.sleep(0.002)
    ledger.append(tmp_path, Row("a", "done", "done"))  # later, and not in parts
    book = ledger.read(tmp_path)
    assert {uid: book.settled(uid) for uid in book} == {"a": "done", "b": "done"}
    assert [row.status for row in ledger.why(tmp_path, "a")] == ["failed", "retry", "done"]


def test_rows_of_the_first_format_are_understood(tmp_path):
    old = {"uid": "a", "status": "failed", "kind": "crash", "message": "m", "source": "a.glb", "attempts": 2}
    runs.append_line(tmp_path / "ledger.jsonl", {**old, "seconds": 1.0, "at": "2026-01-01T00:00:00+00:00"})
    book = ledger.read(tmp_path)
    assert (book.settled("a"), book.attempts("a")) == ("failed", 2)
    assert ledger.why(tmp_path, "a")[0].message == "m"


def test_a_torn_last_line_counts_as_absent_and_is_mended(out):
    path = out / "ledger.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert ledger.read(out).settled("pot") == "open"
    ledger.append(out, Row("pot", "done", "done"))
    assert ledger.read(out).settled("pot") == "done"


@pytest.mark.parametrize("line", ['{"uid": 1', '{"status": "done"}', "[]", '{"uid": 3, "status": "done"}'])
def test_a_broken_line_is_named(out, line):
    path = out / "ledger.jsonl"
    path.write_text(f"{line}\n" + path.read_text())
    with pytest.raises(InputError, match=r"ledger.jsonl: line 1 is not a r.*remove the line"):
        ledger.read(out)


def test_a_folder_that_was_not_rendered_is_named(tmp_path):
    with pytest.raises(InputError, match="no such folder of rendered objects"):
        ledger.read(tmp_path / "none")
    assert ledger.read(tmp_path) == {}
    for ask in (ledger.status, ledger.failures):
        with pytest.raises(InputError, match="has no ledger with a row"):
            ask(tmp_path)


FATES = st.sampled_from([("done", "done"), ("failed", "crash"), ("requeued", "crash"), ("retry", "retry")])


@given(st.lists(st.tuples(st.sampled_from("abc"), FATES), min_size=1, max_size=12))
def test_the_states_are_those_of_the_last_rows(tmp_path_factory, story):
    out, rows = tmp_path_factory.mktemp("out"), []
    for uid, (status, kind) in story:
        rows.append({"uid": uid, "status": status, "kind": kind, "attempt": 1, "at": "", "message": "m"})
    (out / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    last = {"done": "done", "failed": "failed", "requeued": "open", "retry": "open"}
    expected = {uid: last[status] for uid, (status, _) in story}
    assert {uid: known.state for uid, known in ledger.read(out).items()} == expected
    counts = Counter(expected.values())
    assert [line.objects for line in ledger.status(out)] == [counts[s] for s in ("done", "failed", "open")]
