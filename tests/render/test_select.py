"""The query: bounds are kept, reasons are named, near-duplicates are found as by comparing all pairs."""

import json
import random
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from render import quality, select
from render.config import SelectConfig
from render.select import Chosen
from svd3d.cameras import Orbit
from svd3d.errors import ConfigError, InputError

GOOD = {
    **{"coverage": 0.3, "coverage_min": 0.2, "blank_views": 0, "touches_border": False, "luminance": 0.5},
    **{"contrast": 0.1, "colourfulness": 0.2, "magenta": 0.0, "transparency": 0.0, "diversity": 0.1},
    **{"flatness": 0.5, "hash": "0123456789abcdef", "missing_textures": 0, "faces": 1000},
}
BOUNDS = {
    "min_coverage": ("coverage", 0.1),
    "max_coverage": ("coverage", 0.9),
    "min_luminance": ("luminance", 0.1),
    "max_luminance": ("luminance", 0.9),
    "max_magenta": ("magenta", 0.2),
    "min_flatness": ("flatness", 0.03),
    "min_faces": ("faces", 10),
}


def row(uid: str, *, licence: str | None = None, status: str = "done", **scores):
    kind = "done" if status == "done" else "crash"
    return {
        **{"uid": uid, "status": status, "kind": kind, "message": "" if status == "done" else "it died"},
        **{"quality": {**GOOD, **scores} if status == "done" else None, "licence": licence},
        **{"source": f"{uid}.glb", "at": "2030-01-01T00:00:00+00:00"},
    }


def write(folder: Path, rows, name: str = "ledger.jsonl") -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in rows))


def selected(tmp_path, rows=None, **bounds):
    if rows is not None:
        write(tmp_path / "views", rows)
    selection = select.run(
        SelectConfig(tmp_path / "views", tmp_path / "list.jsonl", tmp_path / "rejected.jsonl", **bounds)
    )
    return [one.uid for one in selection.chosen], {
        uid: rejected.reason for uid, rejected in selection.rejected.items()
    }


def lines(path: Path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("scores", "bounds", "reason"),
    [
        ({"coverage": 0.01}, {"min_coverage": 0.02}, "min_coverage"),
        ({"coverage": 0.99}, {"max_coverage": 0.9}, "max_coverage"),
        ({"luminance": 0.05}, {"min_luminance": 0.1}, "min_luminance"),
        ({"luminance": 0.97}, {"max_luminance": 0.95}, "max_luminance"),
        ({"contrast": 0.01}, {"min_contrast": 0.02}, "min_contrast"),
        ({"colourfulness": 0.01}, {"min_colourfulness": 0.015}, "min_colourfulness"),
        ({"blank_views": 1}, {}, "max_blank_views"),
        ({"magenta": 0.5}, {"max_magenta": 0.2}, "max_magenta"),
        ({"transparency": 0.9}, {"max_transparency": 0.5}, "max_transparency"),
        ({"diversity": 0.01}, {"min_diversity": 0.03}, "min_diversity"),
        ({"flatness": 0.01}, {"min_flatness": 0.03}, "min_flatness"),
        ({"flatness": None}, {"min_flatness": 0.03}, "min_flatness"),
        ({"faces": 5}, {"min_faces": 12}, "min_faces"),
        ({"faces": 5000}, {"max_faces": 4000}, "max_faces"),
        ({"missing_textures": 2}, {}, "missing_textures"),
        ({"touches_border": True}, {"touches_border": False}, "touches_border"),
        ({"hash": None}, {"near_duplicates": 3}, "near_duplicates"),
    ],
)
def test_each_bound_rejects_by_its_name(tmp_path, scores, bounds, reason):
    chosen, rejected = selected(tmp_path, [row("bad", **scores), row("good")], **bounds)
    assert (chosen, rejected) == (["good"], {"bad": reason})


def test_a_score_at_its_bound_is_kept(tmp_path):
    bounds = {f"{side}_{name}": GOOD[name] for side in ("min", "max") for name in ("coverage", "luminance")}
    assert selected(tmp_path, [row("edge")], **bounds) == (["edge"], {})


def test_every_bound_of_the_settings_is_a_score():
    cameras = Orbit.static(num_views=2).cameras(height=8, width=8)
    pictures, depth = np.zeros((2, 8, 8, 4), np.uint8), np.zeros((2, 8, 8), np.float32)
    scores = quality.scores(pictures, cameras=cameras, depth=depth, missing_textures=(), faces=0)
    bounds = [field.name[4:] for field in fields(SelectConfig) if field.name[:4] in ("min_", "max_")]
    assert set(bounds) <= set(scores)
    assert set(scores) == set(GOOD)


def test_what_is_let_in_on_request(tmp_path):
    rows = [row("a", missing_textures=1), row("b", blank_views=3), row("c", touches_border=True)]
    assert selected(tmp_path, rows)[0] == ["c"]
    assert selected(tmp_path, missing_textures=True, max_blank_views=None)[0] == ["a", "b", "c"]


def test_licences_are_compared_however_they_are_spelled(tmp_path):
    rows = [row("a", licence="CC-BY-4.0"), row("b", licence="by-nc"), row("c"), row("d", licence="cc0")]
    assert selected(tmp_path, rows, licence=("cc-by", "cc0")) == (
        ["a", "d"],
        {"b": "licence", "c": "licence"},
    )


def test_the_last_row_of_an_object_counts_in_all_ledgers(tmp_path):
    """Failed, retried and done; done and then failed; a row of an older version; shards; a torn line."""
    first = [
        *(row("a", status="failed"), row("a", status="retry"), row("a", coverage=0.4)),
        *(row("b"), row("b", status="failed")),
        {"uid": "c", "status": "done", "kind": "done"},
        *(row("e", coverage=0.01), row("e", coverage=0.9)),
    ]
    write(tmp_path / "views", first, "ledger-0-of-2.jsonl")
    write(tmp_path / "views", [row("d"), row("f", status="requeued")], "ledger-1-of-2.jsonl")
    with open(tmp_path / "views/ledger-1-of-2.jsonl", "a") as file:
        file.write(json.dumps(row("g"))[:-9])
    chosen, rejected = selected(tmp_path, min_coverage=0.1)
    assert chosen == ["a", "d", "e"]
    assert rejected == {"b": "not_rendered", "c": "not_scored", "f": "not_rendered"}


def test_the_files_that_are_written(tmp_path):
    write(tmp_path / "views", [row("b", licence="cc0"), row("a", coverage=0.01), row("c", status="failed")])
    config = SelectConfig(
        tmp_path / "views", tmp_path / "lists/train.jsonl", tmp_path / "out/left.jsonl", min_coverage=0.1
    )
    selection = select.run(config)
    assert lines(config.out) == [{"uid": "b", "path": "../views/b", "licence": "cc0", "quality": GOOD}]
    assert lines(tmp_path / "out/left.jsonl") == [
        {"uid": "a", "reason": "min_coverage", "message": "coverage 0.01 is below 0.1"},
        {"uid": "c", "reason": "not_rendered", "message": "it died"},
    ]
    table = [(line.name, line.objects, line.example) for line in selection.table()]
    assert table == [("chosen", 1, ""), ("min_coverage", 1, "a"), ("not_rendered", 1, "c")]
    assert sum(line.share for line in selection.table()) == pytest.approx(1)
    before = config.out.read_bytes()
    select.run(config)
    assert config.out.read_bytes() == before


def test_wrong_input(tmp_path):
    with pytest.raises(InputError, match="nearest folder that exists"):
        selected(tmp_path)
    (tmp_path / "views").mkdir()
    with pytest.raises(InputError, match="render objects into it first"):
        selected(tmp_path)
    for wrong in (
        {"min_coverage": -0.1},
        {"max_magenta": float("nan")},
        {"near_duplicates": 8},
        {"min_faces": 9, "max_faces": 8},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SelectConfig(tmp_path, tmp_path / "list.jsonl", **wrong)


scores = st.fixed_dictionaries(
    {name: st.floats(0, 1) for name in ("coverage", "luminance", "magenta", "flatness")}
    | {"faces": st.integers(0, 100)}
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(objects=st.lists(scores, min_size=1, max_size=12), data=st.data())
def test_no_bound_is_broken_and_tighter_bounds_choose_less(tmp_path, objects, data):
    write(tmp_path / "views", [row(f"u{i}", **found) for i, found in enumerate(objects)])
    names = data.draw(st.sets(st.sampled_from(sorted(BOUNDS))))
    bounds = {name: BOUNDS[name][1] for name in names}
    chosen, rejected = selected(tmp_path, **bounds)
    assert sorted([*chosen, *rejected]) == sorted(f"u{i}" for i in range(len(objects)))
    for i, found in enumerate(objects):
        kept = all(
            found[score] >= limit if name.startswith("min") else found[score] <= limit
            for name, (score, limit) in BOUNDS.items()
            if name in names
        )
        assert (f"u{i}" in chosen) == kept
    tighter = {name: limit * (1.5 if name.startswith("min") else 0.7) for name, limit in bounds.items()}
    if "min_faces" in tighter:
        tighter["min_faces"] = 15
    assert set(selected(tmp_path, **tighter)[0]) <= set(chosen)


def hashes(generator: random.Random, count: int) -> list[int]:
    """Random fingerprints, most of them a few bits from an earlier one."""
    found = [generator.getrandbits(64)]
    while len(found) < count:
        near = generator.choice(found)
        for place in generator.sample(range(64), generator.randint(0, 9)):
            near ^= 1 << place
        found.append(near if generator.random() < 0.8 else generator.getrandbits(64))
    return found


@given(seed=st.integers(0, 10**6), bits=st.integers(0, 7))
def test_near_duplicates_are_those_that_comparing_all_pairs_finds(seed, bits):
    generator = random.Random(seed)
    objects = [
        Chosen(f"u{i}", None, {**GOOD, "hash": f"{value:016x}", "coverage": generator.choice((0.2, 0.3))})
        for i, value in enumerate(hashes(generator, 60))
    ]
    kept: list[tuple[int, str]] = []
    expected = set()
    for one in sorted(objects, key=lambda o: (-o.quality["coverage"], o.uid)):
        value = int(one.quality["hash"], 16)
        if any((value ^ other).bit_count() <= bits for other, _ in kept):
            expected.add(one.uid)
        else:
            kept.append((value, one.uid))
    copies = select.near_duplicates(objects, bits=bits)
    assert set(copies) == expected
    assert set(copies.values()) <= {uid for _, uid in kept}
    of = {one.uid: int(one.quality["hash"], 16) for one in objects}
    assert all((of[copy] ^ of[first]).bit_count() <= bits for copy, first in copies.items())
    generator.shuffle(objects)
    assert select.near_duplicates(objects, bits=bits) == copies


def test_the_best_of_a_group_is_kept(tmp_path):
    rows = [
        row("plain", colourfulness=0.1),
        row("colourful", colourfulness=0.4),
        row("broken", colourfulness=0.9, missing_textures=1),
        row("other", hash="f" * 16),
    ]
    chosen, rejected = selected(tmp_path, rows, near_duplicates=4, missing_textures=True)
    assert chosen == ["colourful", "other"]
    assert rejected == {"plain": "near_duplicates", "broken": "near_duplicates"}
    assert lines(tmp_path / "rejected.jsonl")[0]["message"] == "looks like colourful"


def test_near_duplicates_of_many_objects_are_not_all_compared():
    """Random fingerprints: of 20 000 objects each meets a few hundred others at most, not thousands."""
    generator = random.Random(0)
    compared = 0

    class Counted(int):
        def __xor__(self, other):
            nonlocal compared
            compared += 1
            return int(self) ^ int(other)

    index = select._Index(6)
    for number in range(20_000):
        value = generator.getrandbits(64)
        assert index.near(value) is None
        index.add(Counted(value), str(number))
    assert compared < 20_000 * 100
