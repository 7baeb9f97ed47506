"""The order of training: a permutation, the same however the work is divided, resumed with one integer."""

import dataclasses
import multiprocessing
import shutil
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svd3d.data import dataset
from svd3d.data.dataset import Batches
from svd3d.data.latents import Latents
from svd3d.errors import ConfigError, InputError

SETTINGS = {"seed": 7, "global_batch": 12, "micro_batch": 12, "held_out": 0.2}


def samples(batches, count):
    """The first micro-batches, taken apart: (uid, draw seed, every number) of each sample."""
    found = []
    for batch in islice(batches, count):
        uids, _ = batch.pop("uid"), batch.pop("damaged")
        flat = torch.cat([each.reshape(len(uids), -1).double() for each in batch.values()], dim=1)
        found += [
            (uid, int(seed), row.tolist())
            for uid, seed, row in zip(uids, batch["draw_seed"], flat, strict=True)
        ]
    return found


@given(st.integers(1, 400), st.integers(), st.integers())
def test_each_epoch_is_a_permutation(count, seed, epoch):
    order = [dataset.permuted(place, count, seed, epoch) for place in range(count)]
    assert sorted(order) == list(range(count))


def test_all_orders_of_a_few_objects_come_up_evenly():
    orders = [
        tuple(dataset.permuted(place, 4, "order", 0, epoch) for place in range(4)) for epoch in range(2400)
    ]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 24
    assert sum((each - 100) ** 2 / 100 for each in counts) < 60  # chi-square, 23 degrees: 60 is p = 4e-5


def test_each_object_of_training_is_seen_once_an_epoch(opened):
    batches = Batches(opened, **{**SETTINGS, "global_batch": 1, "micro_batch": 1})
    objects = {opened.uids[each] for each in batches.draws.objects}
    seen = [uid for uid, *_ in samples(batches, 3 * len(objects))]
    epochs = [seen[first : first + len(objects)] for first in range(0, len(seen), len(objects))]
    assert [set(epoch) for epoch in epochs] == [objects] * 3
    assert epochs[0] != epochs[1] != epochs[2]


@settings(max_examples=10)
@given(st.sampled_from([(1, 12), (1, 4), (2, 3), (2, 6), (3, 2), (4, 3), (12, 1)]), st.integers(0, 60))
def test_any_division_of_the_work_sees_the_same_samples(opened, division, start):
    world, micro = division
    whole = samples(Batches(opened, **SETTINGS, start=start), 3)
    steps = 12 // (world * micro)
    ranks = [
        samples(
            Batches(opened, **{**SETTINGS, "micro_batch": micro}, start=start, rank=rank, world=world),
            3 * steps,
        )
        for rank in range(world)
    ]
    share = 12 // world
    merged = [each for step in range(3) for rank in ranks for each in rank[step * share : (step + 1) * share]]
    assert merged == whole


@settings(max_examples=10)
@given(st.integers(0, 50), st.integers(1, 4))
def test_one_integer_resumes(opened, start, steps):
    first = Batches(opened, **{**SETTINGS, "micro_batch": 4}, start=start)
    begun = samples(first, 3 * steps)
    assert first.position == start + 12 * steps
    resumed = samples(Batches(opened, **SETTINGS, start=first.position), 2)
    assert begun + resumed == samples(Batches(opened, **SETTINGS, start=start), steps + 2)


def test_a_global_batch_counts_when_its_last_micro_batch_is_there(opened):
    batches = Batches(opened, **{**SETTINGS, "micro_batch": 4})
    assert [batches.position for _ in islice(batches, 4)] == [0, 0, 12, 12]


def test_loader_workers_change_nothing_and_leave_the_global_generator_alone(opened):
    state = torch.get_rng_state()
    loaded = samples(Batches(opened, **{**SETTINGS, "micro_batch": 3}, workers=2), 6)
    assert torch.equal(torch.get_rng_state(), state)
    assert loaded == samples(Batches(opened, **{**SETTINGS, "micro_batch": 3}), 6)


def test_an_orbit_is_turned_with_everything_that_belongs_to_it(opened):
    batch = next(iter(Batches(opened, **{**SETTINGS, "global_batch": 60, "micro_batch": 60})))
    view = batch["clip"][:, 0, 0]
    turned = (view[:, None] + torch.arange(6)) % 6
    assert len(view.unique()) == 6
    assert torch.equal(batch["latents"][:, :, 0, 0, 0] % 100, turned)
    assert torch.equal(batch["azimuths_deg"], 60 * turned)
    assert torch.equal(batch["elevations_deg"] - batch["elevations_deg"].amin(1, keepdim=True), turned)
    assert torch.equal(batch["cond_latents"][:, 0, 0, 0], 10 * view + 8 * batch["noise_aug"])
    assert set(batch["noise_aug"].tolist()) == {1 / 8, 2 / 8}  # never the clean encoding
    assert set((batch["latents"][:, 0, 0, 0, 0] // 100).tolist()) == {0, 1}  # both backgrounds
    assert len(batch["draw_seed"].unique()) == 60


def test_orbits_are_thinned_out_from_the_view_they_begin_with(opened):
    batch = next(iter(Batches(opened, **SETTINGS, num_views=3)))
    begin = batch["clip"][:, 0, :1]
    assert torch.equal(batch["latents"][:, :, 0, 0, 0] % 100, (begin + torch.tensor([0, 2, 4])) % 6)


def test_a_capture_is_no_circle_and_begins_with_its_first_view(opened):
    shape = opened.info.shape
    row = opened.read(0)
    unknown = torch.full_like(row.azimuths_deg, torch.nan)
    capture = dataclasses.replace(row, azimuths_deg=unknown, elevations_deg=unknown)
    for number in range(6):
        drawn = dataset.orbit_sample(capture, lambda bound, _, n=number: n % bound, shape=shape, num_views=3)
        assert drawn["latents"][:, 0, 0, 0].tolist() == [0, 2, 4]
        assert drawn["cond_latents"][0, 0, 0].item() in (1, 2)  # of view 0, with noise
        assert drawn["azimuths_deg"].isnan().all()


def test_the_held_out_part_is_passed_once_by_name(opened):
    ours = {"global_batch": 4, "micro_batch": 2, "held_out": 0.5}
    kept = [uid for uid, *_ in samples(Batches(opened, seed=1, part="held-out", **ours), None)]
    trained = {uid for uid, *_ in samples(Batches(opened, seed=1, **ours), 40)}
    assert kept == sorted(set(opened.uids) - trained)
    ranks = [
        [
            uid
            for uid, *_ in samples(Batches(opened, seed=1, part="held-out", rank=rank, world=2, **ours), None)
        ]
        for rank in range(2)
    ]
    assert sorted(ranks[0] + ranks[1]) == kept


@given(st.lists(st.text(), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_held_out_fraction_only_adds(uids, one, other):
    less, more = sorted((one, other))
    assert all(dataset.is_held_out(uid, more) for uid in uids if dataset.is_held_out(uid, less))
    assert not any(dataset.is_held_out(uid, 0) for uid in uids)
    assert all(dataset.is_held_out(uid, 1) for uid in uids)


def test_the_split_has_the_fraction_asked_for():
    kept = sum(dataset.is_held_out(f"object-{number}", 0.1) for number in range(10_000))
    assert abs(kept - 1000) < 120  # four standard deviations


def test_draws_are_the_same_on_every_machine():
    assert dataset.draw(1 << 63, "draw", 0, 0) == 6048154487179182065
    assert [dataset.permuted(place, 5, "order", 0, 0) for place in range(5)] == [1, 0, 4, 2, 3]


@pytest.fixture
def rotten(cache, tmp_path):
    """A cache with one changed bit, in the numbers of o04 before the random background."""
    folder = shutil.copytree(cache, tmp_path / "cache")
    path = folder / "shards/shard-4/latents.parquet"
    content = bytearray(path.read_bytes())
    content[bytes(content).index(np.float16(105).tobytes() * 8)] ^= 1
    path.write_bytes(content)
    return Latents.open(folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_is_the_same_one_line_whoever_reads_and_leaves_no_worker(rotten, workers):
    batches = Batches(rotten, **{**SETTINGS, "micro_batch": 3}, workers=workers)
    with pytest.raises(
        InputError,
        match=r"^\S*shard-4/latents.parquet: o04 cannot be read \([^\n]*\); run: svd3d cache[^\n]*$",
    ):
        samples(batches, 40)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_damage_is_named_and_weighs_nothing_and_moves_nobody(rotten, opened, workers):
    ours = {**SETTINGS, "micro_batch": 3}
    found = list(islice(Batches(rotten, **ours, workers=workers, damaged="skip"), 40))
    told = 0
    for batch, whole in zip(found, Batches(opened, **ours), strict=False):
        gone = batch["weight"] == 0
        assert torch.equal(whole["weight"], torch.ones(3))
        assert len(batch["damaged"]) == gone.sum()
        assert all("o04 cannot be read" in each for each in batch["damaged"])
        assert {uid for uid, is_gone in zip(batch["uid"], gone, strict=True) if is_gone} <= {"o04"}
        assert (batch["uid"], batch["draw_seed"].tolist()) == (whole["uid"], whole["draw_seed"].tolist())
        for name in ("latents", "cond_latents", "noise_aug", "clip", "elevations_deg", "azimuths_deg"):
            assert torch.equal(batch[name][~gone], whole[name][~gone])
            assert not batch[name][gone].any()
        told += len(batch["damaged"])
    assert 0 < told < sum(batch["uid"].count("o04") for batch in found)  # its other background is whole


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"global_batch": 10}, "global batch 10: does not divide into 1 processes x 12 samples; choose"),
        ({"held_out": 1.0}, "no object of 23 is for train with held-out fraction 1; choose"),
        ({"held_out": 0.0, "part": "held-out"}, "no object of 23 is for held-out with"),
    ],
)
def test_what_cannot_be_divided_is_refused(opened, changed, message):
    with pytest.raises(ConfigError, match=message):
        Batches(opened, **{**SETTINGS, **changed})
