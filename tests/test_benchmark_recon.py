"""The yardstick of reconstruction: its shapes and its damage are what they say, and its race is fair."""

import dataclasses
import importlib
import itertools
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from svd3d.metrics import geometry

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        return importlib.import_module("benchmark_recon")


@pytest.fixture(scope="module")
def scenes(benchmark):
    return benchmark.scenes


@pytest.fixture(scope="module")
def knot(scenes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "REFERENCE_RESOLUTION", 48)
        patch.setattr(scenes, "SUPERSAMPLING", 1)
        return scenes.closed_form("torus knot", size=32)


def test_a_closed_form_shape_is_centred_with_longest_side_1_and_never_clipped(knot):
    low, high = knot.reference.bounds
    np.testing.assert_allclose(low, -high, atol=2e-3)
    assert (high - low).max() == pytest.approx(1, abs=2e-3)
    assert geometry.is_watertight(knot.reference)
    for views in (knot.views, knot.held_out):
        alpha = views.images[..., 3]
        assert not alpha[:, [0, -1]].any()
        assert not alpha[:, :, [0, -1]].any()
        assert alpha.max(axis=(1, 2)).min() == 255


def test_the_box_has_its_hole_and_its_ball(scenes):
    solid = scenes.box_and_ball()
    points = np.array([[0.2, 0, 0.2], [-0.2, 0, -0.2], [0.3, 0.2, -0.3], [-0.4, 0.25, 0.1], [0.2, 0, 0.44]])
    assert (solid.distance(points) > 0).tolist() == [True, False, True, False, True]
    on_top, inside_hole = np.array([[0.2, 0, 0.45]]), np.array([[-0.2, 0.1, -0.36]])
    np.testing.assert_allclose(solid.distance(np.concatenate([on_top, inside_hole])), 0, atol=1e-9)


def test_the_damage_is_as_large_as_it_says(scenes, knot):
    assert scenes.spoilt(knot.views, "clean", seed=0) is knot.views
    views = [scenes.spoilt(knot.views, "shifted", seed=seed).images for seed in (0, 0, 1)]
    np.testing.assert_array_equal(views[0], views[1])
    assert (views[0] != views[2]).any()
    row, column = np.mgrid[:32, :32] + 0.5

    def centre(alpha):
        return np.array([(alpha * axis).sum() / alpha.sum() for axis in (row, column)])

    pairs = zip(views[0][..., 3].astype(float), knot.views.images[..., 3].astype(float), strict=True)
    moved = np.array([centre(ours) - centre(theirs) for ours, theirs in pairs]) * 128 / 32
    assert np.abs(moved).max() < 2.1
    assert np.sqrt((moved**2).mean()) == pytest.approx(2 / np.sqrt(3), abs=0.25)


def test_a_warp_moves_by_a_pixel_but_hardly_as_a_whole(scenes, monkeypatch):
    seen = []
    monkeypatch.setattr(
        scenes.ndimage, "map_coordinates", lambda channel, at, order: (seen.append(at), channel)[1]
    )
    scenes.warped(np.zeros((64, 64, 4), np.uint8), np.random.default_rng(0), pixel=1.0)
    flow = seen[0] - np.mgrid[:64, :64]
    assert np.sqrt((flow**2).sum(axis=0).mean()) == pytest.approx(1)
    assert np.abs(np.gradient(flow, axis=(1, 2))).max() < 0.5  # smooth


def test_a_surface_is_scored_where_it_stands(benchmark, knot):
    same = benchmark.distances(knot.reference, knot.reference)
    shifted = type(knot.reference)(knot.reference.vertices - [0.05, 0, 0], knot.reference.faces)
    moved = benchmark.distances(shifted, knot.reference)
    assert same["fscore_001"] > 0.98
    assert same["chamfer"] < 0.005
    assert moved["chamfer"] > 3 * same["chamfer"]
    assert moved["fscore_001"] < 0.7


def test_the_plain_nerf_learns_and_composites_as_volume_rendering_does(benchmark, knot, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(benchmark.time, "process_time", lambda: next(ticks))
    monkeypatch.setattr(benchmark.PlainNerf, "RAYS", 512)
    some = dataclasses.replace(
        knot.views, cameras=knot.views.cameras.view(0), images=knot.views.images[:1], orbit=None
    )
    plain = benchmark.PlainNerf(some, resolution=16)
    before, _ = benchmark.likeness(plain.render(some.cameras), some)
    plain.fit(30)
    after, _ = benchmark.likeness(plain.render(some.cameras), some)
    assert after > before + 2
    assert plain.seconds == pytest.approx(30, abs=2)
    with torch.no_grad():
        plain.density.fill_(2.0)
        alpha = plain.trace(torch.tensor([[0.0, 0.0, 3.0]]), torch.tensor([[0.0, 0.0, -1.0]]))[0, 3]
    depth = torch.nn.functional.softplus(torch.tensor(2.0 + plain.shift)) * plain.SIDE / plain.voxel
    assert float(alpha) == pytest.approx(1 - float(torch.exp(-depth)), abs=0.03)  # one sample more or less


@pytest.mark.parametrize(("patience", "ratio", "reached"), [(10, 3.5, True), (3, 3.0, False)])
def test_the_race_ends_when_the_plain_nerf_comes_near_or_patience_ends(
    benchmark, knot, monkeypatch, patience, ratio, reached
):
    def truth(cameras):
        away = np.linalg.norm(knot.held_out.cameras.positions - cameras.positions[:, None], axis=-1)
        return knot.held_out.images[away.argmin(axis=1)]

    class Plain:
        """Black until it has seen 35 seconds, perfect from then on."""

        def __init__(self, views, *, resolution):
            self.seconds = 0.0

        def fit(self, seconds):
            self.seconds += seconds

        def render(self, cameras):
            return truth(cameras) * (self.seconds >= 35)

    ours = types.SimpleNamespace(render=lambda cameras: (truth(cameras), None))
    monkeypatch.setattr(benchmark, "PlainNerf", Plain)
    found = benchmark.race(knot.views, knot.held_out, ours, 10.0, resolution=8, patience=patience)
    assert (found.ratio, found.reached) == (ratio, reached)


def test_the_summary_starts_with_the_ratio_and_tells_what_it_is(benchmark):
    def row(condition, seed, chamfer):
        return benchmark.Row(
            "torus knot", condition, "nerf", seed, {"chamfer": chamfer, "nerf_s": 10.0}, {}, 12.0, {}
        )

    rows = [row("clean", 0, 0.004), *(row("shifted", seed, 0.006 + seed / 1000) for seed in range(3))]
    found = benchmark.summary(rows, benchmark.Race(10.4, False, 32.0, [(104.0, 30.0)]))
    assert list(found)[:2] == ["ratio", "ratio_is_a_lower_bound"]
    assert (found["ratio"], found["ratio_is_a_lower_bound"]) == (10.4, True)
    assert (found["clean"]["chamfer"], found["disturbed"]["chamfer"]) == (0.004, 0.007)
    assert found["disturbed"]["range"]["chamfer"] == [0.006, 0.008]
    assert found["non_rigid"] == {}
    assert found["objects"]["torus knot"]["shifted"]["nerf"] == found["disturbed"]
    head, rule, *body = benchmark.table(rows)
    assert len({line.count("|") for line in (head, rule, *body)}) == 1
    assert len(body) == 4
