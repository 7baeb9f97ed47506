"""Near-duplicates: the hash against imagehash's own bits, the searches against brute force, tables."""

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from svd3d.curation import duplicates, table
from svd3d.curation.table import Clip
from svd3d.errors import InputError

WORDS = st.integers(0, 2**64 - 1)


def groups(near: np.ndarray) -> np.ndarray:
    """The first of the connected component of each row of a symmetric matrix, by walking it."""
    first = np.full(len(near), -1)
    for start in range(len(near)):
        waiting = [start] if first[start] < 0 else []
        while waiting:
            place = waiting.pop()
            if first[place] < 0:
                first[place] = start
                waiting += np.flatnonzero(near[place]).tolist()
    return first


def differing(hashes: np.ndarray) -> np.ndarray:
    """Bits in which each pair differs, by text."""
    digits = np.array([list(f"{int(each):064b}") for each in hashes]).reshape(-1, 64)
    return (digits[:, None] != digits[None]).sum(-1)


def joined(hashes: np.ndarray, distance: int, chosen: np.ndarray | None = None) -> np.ndarray:
    earliest = np.arange(len(hashes))
    chosen = np.ones(len(hashes), bool) if chosen is None else chosen
    duplicates.join_hashes(earliest, hashes, chosen, distance=distance)
    return duplicates._roots(earliest, np.arange(len(hashes)))


# --- the hash


def scene(seed: int, height: int = 96, width: int = 160) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 10, 3), np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def test_the_hash_has_the_bits_of_imagehash():
    # imagehash 4.3.2: imagehash.phash(Image.fromarray(scene(seed)))
    golden = {0: 0xC88856C7E97617A9, 1: 0xE8FCB098F3060CF9, 2: 0x8DEA53AC21CB9E31, 3: 0xEB3EC24AAE64119B}
    assert {seed: duplicates.phash(scene(seed)) for seed in golden} == golden


def test_the_hash_has_the_bits_of_imagehash_where_it_is_installed(pictures):
    imagehash = pytest.importorskip("imagehash")
    for image in pictures:
        assert duplicates.phash(image) == int(str(imagehash.phash(Image.fromarray(image))), 16)


def test_copies_of_a_picture_have_near_hashes_and_other_pictures_far_ones(pictures):
    def bits(one: np.ndarray, other: np.ndarray) -> int:
        return (duplicates.phash(one) ^ duplicates.phash(other)).bit_count()

    for image in pictures:
        small = np.asarray(Image.fromarray(image).resize((160, 90), Image.Resampling.BOX))
        darker = (image * 0.8).astype(np.uint8)
        noisy = (image + np.random.default_rng(0).normal(0, 5, image.shape)).clip(0, 255).astype(np.uint8)
        assert max(bits(image, copy) for copy in (small, darker, noisy)) <= duplicates.DISTANCE
        assert bits(image, image[:, ::-1]) > 3 * duplicates.DISTANCE
    assert min(bits(*pair) for pair in itertools.combinations(pictures, 2)) > 2 * duplicates.DISTANCE


# --- hashes that are near


@st.composite
def families(draw) -> np.ndarray:
    """Hashes of which many are near others: each differs from an earlier one in few bits, or is anew."""
    hashes = [draw(WORDS)]
    for _ in range(draw(st.integers(0, 40))):
        flips = draw(st.lists(st.integers(0, 63), max_size=8))
        parent = draw(st.sampled_from(hashes))
        hashes.append(draw(st.one_of(WORDS, st.just(parent ^ sum({1 << bit for bit in flips})))))
    return np.array(hashes, np.uint64)


@given(families(), st.integers(0, 12), st.integers(1, 50))
def test_groups_of_hashes_are_those_of_brute_force(hashes, distance, at_once):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "HASHES_AT_ONCE", at_once)
        found = joined(hashes, distance)
    np.testing.assert_array_equal(found, groups(differing(hashes) <= distance))


@given(st.integers(1, 10**9), st.integers(1, 12), st.data())
def test_hashes_within_the_distance_agree_in_a_mask(count, distance, data):
    masks = [int(mask) for mask in duplicates.masks(count, distance)]
    flips = sum(1 << bit for bit in data.draw(st.sets(st.integers(0, 63), max_size=distance)))
    assert any(not mask & flips for mask in masks)
    assert {mask.bit_count() for mask in masks} <= set(range(1, 64))


def test_a_chain_is_one_group_whose_earliest_stays():
    chain = np.array([0b111111, 0b1 << 40, 0b000000, 0b000111], np.uint64)
    assert joined(chain, 3).tolist() == [0, 0, 0, 0]  # 0 and 2 differ by six bits, 3 lies between them
    assert joined(chain, 2).tolist() == [0, 1, 1, 3]
    assert joined(chain[:3], 3).tolist() == [0, 1, 1]


def test_what_is_not_chosen_joins_nothing():
    chain = np.array([0b111111, 0b000111, 0b000000], np.uint64)
    assert joined(chain, 3, np.array([True, False, True])).tolist() == [0, 1, 2]
    assert joined(np.zeros(3, np.uint64), 0, np.array([False, True, True])).tolist() == [0, 1, 1]


def test_a_million_hashes_are_searched_exactly_in_bounded_memory(monkeypatch):
    rng = np.random.default_rng(0)
    count, planted = 10**6, 5000
    hashes = rng.integers(0, 2**64, count, np.uint64)
    copies = np.sort(rng.choice(np.arange(count // 2, count), planted, replace=False))
    originals = rng.choice(count // 2, planted, replace=False)
    bits = rng.permuted(np.tile(np.arange(64, dtype=np.uint64), (planted, 1)), axis=1)[:, :4]
    wanted = np.arange(planted) % 5  # this many bits are flipped
    flips = np.where(np.arange(4) < wanted[:, None], np.uint64(1) << bits, np.uint64(0))
    hashes[copies] = hashes[originals] ^ np.bitwise_or.reduce(flips, axis=1)
    monkeypatch.setattr(duplicates, "HASHES_AT_ONCE", 2**18)
    earliest, chosen = np.arange(count), np.ones(count, bool)
    tracemalloc.start()
    duplicates.join_hashes(earliest, hashes, chosen, distance=4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    expected = np.arange(count)
    expected[copies] = originals
    np.testing.assert_array_equal(earliest, expected)  # random ones are 10 bits apart or more
    assert peak < 100 * 2**18 + count  # bytes: of those at once, and a flag for each of all


# --- embeddings that are near


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([0.5, 0.9, 0.99]), st.integers(1, 15))
def test_groups_of_embeddings_are_those_of_brute_force(seed, count, cosine, at_once):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 3))
    rows[rng.random(count) < 0.2] = 0  # near to none, not even to each other
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    near = (rows @ rows.T >= cosine * lengths @ lengths.T) & (lengths > 0) & (lengths.T > 0)
    chosen = rng.random(count) < 0.9
    earliest = np.arange(count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "EMBEDDINGS_AT_ONCE", at_once)
        duplicates.join_embeddings(earliest, rows, chosen, cosine=cosine)
    found = duplicates._roots(earliest, np.arange(count))
    np.testing.assert_array_equal(found, groups(near & chosen & chosen[:, None]))


# --- tables


def write(path: Path, rows: list[tuple[str, int | None, list[float] | None]]) -> Path:
    clips = [
        Clip(
            id=name,
            video="v.mp4",
            video_id="v",
            clip=number,
            start_frame=0,
            end_frame=10,
            start_s=0.0,
            end_s=1.0,
            fps=10.0,
            width=64,
            height=48,
            phash=phash,
            embedding=None if embedding is None else tuple(embedding),
        )
        for number, (name, phash, embedding) in enumerate(rows)
    ]
    table.write(path, clips, facts=lambda: {})
    return path


def test_the_earliest_clip_over_all_tables_wins(tmp_path):
    first = write(
        tmp_path / "a.parquet",
        [("a", 2**64 - 1, [1.0, 0.0]), ("b", None, None), ("c", 0xFF, [0.0, 1.0]), ("d", None, None)],
    )
    second = write(
        tmp_path / "b.parquet",
        [
            ("e", 2**64 - 2, [0.6, 0.8]),  # a bit from a; its own embedding is not asked any more
            ("f", 0xFFFF0000, [0.01, 1.0]),  # the direction of c
            ("g", 0xFFFF0001, None),  # a bit from f, and so of the group of c
            ("h", None, [0.6, 0.8]),
        ],
    )
    assert duplicates.find([first, second]) == {"e": "a", "f": "c", "g": "c"}
    assert duplicates.find([second, first]) == {"a": "e", "c": "f", "g": "f", "h": "e"}
    assert duplicates.find([first]) == {}
    everything = duplicates.find([first, second], distance=0, cosine=0.5)
    assert everything == dict.fromkeys("cefh", "a")  # g has no embedding


def test_many_rows_in_several_groups_of_rows(tmp_path):
    names = [f"clip-{number:05d}" for number in range(9000)]
    path = write(tmp_path / "a.parquet", [(name, 2**40 * (n % 4500), None) for n, name in enumerate(names)])
    assert duplicates.find([path], distance=0) == dict(zip(names[4500:], names[:4500], strict=True))


def test_empty_tables_have_no_duplicates(tmp_path):
    assert duplicates.find([write(tmp_path / "a.parquet", [])]) == {}
    assert duplicates.find([]) == {}


def test_embeddings_of_two_networks_are_refused(tmp_path):
    first = write(tmp_path / "a.parquet", [("a", 1, [1.0, 0.0])])
    second = write(tmp_path / "b.parquet", [("b", 2, [1.0, 0.0, 0.0])])
    with pytest.raises(InputError, match=r"b\.parquet: embeddings of 3 and of 2 numbers cannot be compared"):
        duplicates.find([first, second])
