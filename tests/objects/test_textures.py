"""Procedural textures: pictures of their colours, seeded; those that wrap a lathe have no seam."""

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    textures = importlib.import_module("objects.textures")
    dress = importlib.import_module("objects.dress")
    base = importlib.import_module("objects.base")

COLOURS = [(210, 30, 40), (240, 235, 220), (30, 60, 160)]
FLAT: dict[str, Callable] = {  # of nothing but the colours
    "stripes": lambda rng, colours: textures.stripes(rng, colours, 3, upright=True),
    "checks": lambda rng, colours: textures.checks(rng, tuple(colours[:2]), 3),
    **{
        name: getattr(textures, name)
        for name in ("dots", "islands", "patches", "zigzag", "targets", "emblem")
    },
}
MIXED: dict[str, Callable] = {  # of tones between
    "wood": lambda rng, colours: textures.wood(rng, colours[0]),
    "word": partial(textures.word, letters="AB"),
    **{name: getattr(textures, name) for name in ("plaid", "clouds", "marble", "bricks", "pattern", "decal")},
}
ALL = FLAT | MIXED
SEAMLESS = {
    name: ALL[name] for name in ("clouds", "islands", "dots", "plaid", "zigzag", "targets", "patches")
}


def kinds(picture: np.ndarray) -> set[tuple[int, ...]]:
    """The colours of a picture."""
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("count", [2, 3])
def test_a_texture_is_a_seeded_picture_with_something_in_it(name, count):
    first, again, other = (ALL[name](np.random.default_rng(seed), COLOURS[:count]) for seed in (5, 5, 6))
    assert first.shape == (base.TEXTURE_PIXELS, base.TEXTURE_PIXELS, 3)
    assert first.dtype == np.uint8
    assert (first == again).all()
    assert (first != other).any() or name in {"checks", "emblem", "word"}
    assert len(kinds(first)) >= 2


@pytest.mark.parametrize("name", FLAT)
def test_flat_textures_hold_their_colours_and_no_others(name):
    pictures = [FLAT[name](np.random.default_rng(seed), COLOURS) for seed in range(8)]
    assert set().union(*(kinds(picture) for picture in pictures)) <= set(COLOURS)
    assert all(COLOURS[0] in kinds(picture) for picture in pictures)


@pytest.mark.parametrize("name", SEAMLESS)
def test_a_texture_that_wraps_a_lathe_has_no_seam(name):
    """Across the edge it changes no more than between columns inside."""
    for seed in range(4):
        picture = SEAMLESS[name](np.random.default_rng(seed), COLOURS).astype(float)
        change = np.abs(picture - np.roll(picture, 1, axis=1)).mean(axis=(0, 2))
        assert change[0] <= change[1:].max()


def test_checks_give_both_colours_half_of_the_area():
    picture = textures.checks(np.random.default_rng(0), tuple(COLOURS[:2]), 4)
    assert (picture == COLOURS[0]).all(axis=-1).mean() == pytest.approx(0.5, abs=0.02)


def test_islands_give_all_colours_as_much():
    picture = textures.islands(np.random.default_rng(0), COLOURS)
    for colour in COLOURS:
        assert (picture == colour).all(axis=-1).mean() == pytest.approx(1 / 3, abs=0.01)


def test_letters_read_from_left_to_right_and_upright():
    ink = (textures.word(np.random.default_rng(0), COLOURS[:2], "LT") == COLOURS[1]).all(axis=-1)
    rows, columns = np.nonzero(ink)
    box = ink[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    (top_left, top_right), (low_left, low_right) = (
        np.array_split(part, 2, axis=1) for part in np.array_split(box, 2)
    )
    assert top_left.mean() < low_left.mean()  # L: its bar lies below
    assert top_right.mean() > low_right.mean()  # T: its bar lies above


@given(st.integers(0, 2**32))
def test_a_palette_stands_out_and_a_finish_is_possible(seed):
    rng = np.random.default_rng(seed)
    colours = np.array(dress.palette(rng))
    assert colours.shape == (3, 3)
    assert colours.min() >= 0
    assert colours.max() <= 255
    gaps = np.abs(colours[:, None] - colours).sum(axis=-1)[np.triu_indices(3, 1)]
    assert gaps.min() > 30
    roughness, metallic = dress.finish(rng)
    assert 0.2 <= roughness <= 1
    assert 0 <= metallic <= 1
