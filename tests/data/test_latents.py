"""Latent shards: what is written is read, `datasets` reads it too, and damage is named."""

import dataclasses
import errno
import itertools
import json
import os
import pickle
import re
import shutil

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from svd3d.data import latents, shards
from svd3d.data.latents import Latents
from svd3d.errors import CheckpointError, InputError, OutputError
from svd3d.model import tiny


@pytest.fixture
def copied(cache, tmp_path):
    return shutil.copytree(cache, tmp_path / "cache")


def shard_file(folder):
    return folder / "shards/shard-4/latents.parquet"


def test_rows_are_read_as_they_were_written(opened, make_row):
    assert opened.uids == [f"o{number:02}" for number in range(23)]
    for index, uid in enumerate(opened.uids):
        for variant in range(2):
            assert same(opened.read(index, variant=variant), make_row(uid, variant))


def test_datasets_reads_the_shards_too(cache, make_row, tmp_path):
    files = sorted(str(path) for path in cache.glob("shards/*/latents.parquet"))
    found = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path)).with_format("numpy")
    assert len(found) == 46
    expected = make_row(found[9]["uid"], 1)
    for name in ("latents", "cond_latents", "clip", "noise_aug"):
        assert np.array_equal(found[9][name], getattr(expected, name).numpy()), name
    assert found.features["latents"] == datasets.Array4D((6, 2, 2, 2), "float16")


def test_objects_have_the_same_order_in_whatever_shards(cache, make_cache, tmp_path, opened):
    other = Latents.open(make_cache(tmp_path, list(reversed(opened.uids)), per_shard=7))
    assert other.uids == opened.uids
    assert torch.equal(other.read(5).elevations_deg, opened.read(5).elevations_deg)


def test_an_opened_cache_travels_to_another_process(opened):
    there = pickle.loads(pickle.dumps(opened))
    assert there.rows(["o11"])[0].uid == "o11"


def test_a_moved_cache_keeps_its_fingerprint(copied, opened):
    assert Latents.open(copied).info.fingerprint == opened.info.fingerprint


def test_an_unknown_object_is_named(opened):
    with pytest.raises(InputError, match="holds no object o99; 23 others are there"):
        opened.rows(["o01", "o99"])


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"vae_digest": "c" * 64}, "latents of the VAE aaaaaaaaaaaa, and the model has cccccccccccc; cache"),
        ({"size": 576}, "latents of 16 pixels, and the training is for 576; cache"),
    ],
)
def test_a_cache_for_another_model_is_refused(cache, wanted, message):
    with pytest.raises(InputError, match=message):
        Latents.open(cache, **wanted)
    Latents.open(cache, vae_digest="a" * 64, size=16)


def same(one, other):
    return all(
        torch.equal(a, b) if torch.is_tensor(a) else a == b
        for a, b in zip(vars(one).values(), vars(other).values(), strict=True)
    )


def row_or_refusal(cache, index, variant):
    try:
        return cache.read(index, variant=variant)
    except InputError as error:
        return str(error)


def damage(folder, kind):
    path = shard_file(folder)
    if kind == "missing":
        path.unlink()
    elif kind == "short":
        os.truncate(path, path.stat().st_size - 1)
    elif kind == "objects":
        (folder / "objects.parquet").write_bytes(b"")
    elif kind == "edited":
        index = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps({**index, "objects": 3}))
    elif kind == "newer":
        (folder / "index.json").write_text(json.dumps({"format": 99}))
    elif kind == "unfinished":
        (folder / "index.json").unlink()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"shard-4/latents.parquet: is missing .*; make it again with: svd3d cache verify"),
        ("short", r"shard-4/latents.parquet: has \d+ bytes, expected \d+; make it again"),
        ("objects", "objects.parquet: does not fit index.json; run the svd3d cache"),
        ("edited", "index.json: was changed by hand"),
        ("newer", "index.json: format is 99, this version reads 1"),
        ("unfinished", "holds no index.json, so not a finished cache; finish it with: svd3d cache"),
    ],
)
def test_a_damaged_cache_is_refused_in_one_line(copied, kind, message):
    damage(copied, kind)
    with pytest.raises(InputError, match=message) as caught:
        Latents.open(copied)
    assert "\n" not in str(caught.value)


@given(st.integers(0, 2**32))
def test_no_changed_bit_goes_unnoticed(cache, opened, tmp_path_factory, where):
    """Every row is exact or refused, wherever in the file the bit lies; `verify` always finds it."""
    folder = tmp_path_factory.mktemp("flipped")
    shutil.copytree(cache, folder, dirs_exist_ok=True)
    content = bytearray(shard_file(folder).read_bytes())
    content[where % len(content)] ^= 1 << where % 8
    shard_file(folder).write_bytes(content)
    found = Latents.open(folder)
    shard = next(each for each in found.info.shards if each.name == "shard-4")
    assert re.search("shard-4/latents.parquet: sha256 is .*, expected", latents.fault(folder, shard))
    for index, variant in itertools.product(range(4, 8), range(2)):
        row = row_or_refusal(found, index, variant)
        if isinstance(row, str):
            assert re.fullmatch(r"\S*shard-4/latents.parquet: o0\d cannot be read \(.*", row)  # one line
        else:
            assert same(row, opened.read(index, variant=variant))
    shutil.rmtree(folder)


def test_a_page_that_rotted_is_named_when_it_is_read(copied):
    content = bytearray(shard_file(copied).read_bytes())
    numbers = np.float16(105).tobytes() * 8  # view 5 of a row before the random background
    content[bytes(content).index(numbers)] ^= 1
    shard_file(copied).write_bytes(content)
    found = Latents.open(copied)
    with pytest.raises(
        InputError, match=r"shard-4/latents.parquet: o04 cannot be read \(.*; run: svd3d cache"
    ):
        found.rows(["o04"], variant=1)
    assert found.rows(["o05", "o00"], variant=1)


def test_a_cache_from_before_there_were_clips_is_one_of_orbits(copied, opened):
    for path in (copied / "index.json", *copied.glob("shards/*/shard.json")):
        content = json.loads(path.read_text())
        assert content.pop("kind") == "orbits"
        path.write_text(json.dumps(content))
    assert Latents.open(copied).info.fingerprint == opened.info.fingerprint
    assert {each.shape.kind for each in shards.read_shards(copied)} == {"orbits"}
    with pytest.raises(InputError, match="holds orbits, expected clips; pass another cache"):
        latents.ClipLatents.open(copied)


def test_shards_of_two_models_or_with_one_object_twice_do_not_mix(make_cache, make_row, opened, tmp_path):
    info, row = opened.info, make_row("o90", 0)
    make_cache(tmp_path, ["o01", "o02"])
    other = dataclasses.replace(info.encoders, vae="c" * 64)
    shards.write_shard(tmp_path, "zz", [[row, make_row("o90", 1)]], shape=info.shape, encoders=other)
    with pytest.raises(InputError, match="shards shard-0 and zz were made by different models"):
        shards.write_index(tmp_path, shards.read_shards(tmp_path), failed=0)
    rows = [make_row("o01", 0), make_row("o01", 1)]
    shards.write_shard(tmp_path, "zz", [rows], shape=info.shape, encoders=info.encoders)
    with pytest.raises(InputError, match="object o01 is in two shards"):
        shards.write_index(tmp_path, shards.read_shards(tmp_path), failed=0)


def test_a_shard_is_whole_or_not_there(tmp_path, make_row, opened):
    def objects():
        yield [make_row("o01", 0), make_row("o01", 1)]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    info = opened.info
    with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\); free some space"):
        shards.write_shard(tmp_path, "a", objects(), shape=info.shape, encoders=info.encoders)
    assert shards.read_shards(tmp_path) == []
    assert list((tmp_path / "shards").iterdir()) == []
    shards.write_shard(tmp_path, "a", [], shape=info.shape, encoders=info.encoders)
    assert shards.read_shards(tmp_path) == []


def test_latents_beyond_float16_are_refused(tmp_path, make_row, opened):
    row = dataclasses.replace(make_row("o01", 0), latents=torch.full((6, 2, 2, 2), 1e6))
    with pytest.raises(CheckpointError, match="o01: latents are not finite in float16; check the encoders"):
        shards.write_shard(tmp_path, "a", [[row]], shape=opened.info.shape, encoders=opened.info.encoders)


def test_the_digest_knows_the_encoder_and_nothing_else():
    vae, digest = tiny.vae(), None
    digest = latents.vae_digest(vae.half())
    with torch.no_grad():
        vae.decoder.conv_in.weight += 1
    assert latents.vae_digest(vae.float()) == digest
    vae.register_to_config(scaling_factor=0.5)
    assert latents.vae_digest(vae) != digest
    vae.register_to_config(scaling_factor=0.18215)
    assert latents.vae_digest(vae) == digest
    with torch.no_grad():
        vae.quant_conv.bias[0] += 1
    assert latents.vae_digest(vae) != digest
