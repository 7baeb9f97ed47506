"""Results on stdout, everything else on stderr; progress for terminals and for logs."""

import sys

import pytest

from svd3d import console


def test_stdout_carries_results_only(capsys):
    console.say("working")
    console.result("views/a")
    assert list(console.progress("ab", label="render", total=2)) == ["a", "b"]
    seen = capsys.readouterr()
    assert seen.out == "views/a\n"
    assert seen.err == "working\nrender  2/2  0 s\n"


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def ticking(clock, count, seconds):
    for index in range(count):
        clock[0] += seconds
        yield index


def test_a_log_gets_a_line_each_half_minute_and_a_last_one(capsys, clock):
    items = ticking(clock, 8, 10.0)
    done = list(
        console.progress(items, label="render", total=8, failed=lambda item: item in (1, 6), unit="objects")
    )
    assert done == list(range(8))
    assert capsys.readouterr().err.splitlines() == [
        "render  3/8 objects  1 failed  eta 50 s",
        "render  6/8 objects  1 failed  eta 20 s",
        "render  8/8 objects  2 failed  1 min 20 s",
    ]


def test_a_terminal_gets_one_line_that_redraws_itself(capsys, clock, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    list(console.progress(ticking(clock, 2, 100.0), label="train", total=2))
    assert capsys.readouterr().err == "\rtrain  1/2  eta 1 min 40 s\033[K\rtrain  2/2  3 min 20 s\033[K\n"


def test_a_message_after_a_stop_starts_on_its_own_line(capsys, clock, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    def broken():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(console.progress(broken(), label="train", total=9))
    console.say("interrupted")
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted"


def test_items_are_passed_on_as_they_come():
    def endless():
        while True:
            yield 1

    assert next(console.progress(endless(), label="x", total=1)) == 1


def test_nothing_to_do_says_nothing(capsys):
    assert list(console.progress([], label="x", total=0)) == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3599.6, "1 h 00 min"),
        (86400 + 7260, "26 h 01 min"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds, words):
    assert console.duration(seconds) == words
