"""Settings and plans: the same seed gives the same plan, and what is framed is whole."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from render import plan
from render.config import RenderConfig
from svd3d.cameras import Orbit
from svd3d.config import build, plain
from svd3d.errors import ConfigError


def config(**changes):
    return RenderConfig(**{"source": Path("a.glb"), "out": Path("out"), **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"views": 1},
        {"size": 4},
        {"elevation_deg": (30.0, -5.0)},
        {"elevation_deg": (0.0, 91.0)},
        {"azimuth_deg": float("nan")},
        {"fov_deg": 0.0},
        {"fill": 1.5},
        {"samples": 0},
        {"seed": -1},
        {"timeout_s": 0.0},
        {"attempts": 0},
        {"min_psnr": 10.0},
        {"shard": (2, 2)},
        {"memory_mb": 0.0},
        {"max_faces": 0},
    ],
)
def test_impossible_settings_are_refused_by_name(changes):
    (name,) = changes
    with pytest.raises(ConfigError, match=name):
        config(**changes)


def test_settings_survive_a_recipe():
    asked = config(elevation_deg=(0.0, 10.0), hdri=Path("light.hdr"))
    assert build(RenderConfig, plain(asked), where="recipe") == asked


LIGHTS = ("forest.exr", "hall.hdr", "sunset.hdr")
kinds = st.sampled_from(["static", "dynamic", "random"])


@given(st.text(min_size=1), st.integers(0, 1000), kinds, st.permutations(LIGHTS))
def test_the_same_seed_and_uid_give_the_same_plan_within_the_range(uid, seed, kind, lights):
    asked = config(seed=seed, elevation_deg=(-5.0, 30.0), azimuth_deg=40.0, orbit=kind)
    planned = plan.plan(asked, uid, lights=LIGHTS)
    assert planned == plan.plan(asked, uid, lights=lights)
    assert planned.orbit.num_views == 21
    assert planned.orbit.azimuths_deg[0] == 40
    assert all(-5 <= elevation <= 30 for elevation in planned.orbit.elevations_deg)
    assert planned.light in LIGHTS
    assert 0 <= planned.light_turn_deg <= 360
    assert planned.seed + asked.views < 2**31
    assert plan.plan(asked, uid, lights=[]).light is None


@pytest.mark.parametrize(
    ("kind", "elevations_deg"),
    [
        ("static", (27.878, 27.878, 27.878)),
        ("dynamic", (16.253, 1.948, -3.719)),
        ("random", (20.608, 29.886, 6.8)),
    ],
)
def test_plans_are_those_that_were_drawn_on_another_machine(kind, elevations_deg):
    drawn = plan.plan(config(views=3, orbit=kind), "mug", lights=LIGHTS)
    assert drawn.orbit.elevations_deg == elevations_deg
    # the same for every orbit, so that random views show what the orbit's model should have seen
    assert (drawn.light, drawn.light_turn_deg, drawn.seed) == ("forest.exr", 122.922, 1063457872)


def test_each_kind_of_orbit_is_what_it_says():
    static, dynamic, random = (
        plan.plan(config(views=84, orbit=kind, fov_deg=40.0), "mug", lights=[]).orbit
        for kind in ("static", "dynamic", "random")
    )
    even = Orbit.static(num_views=84, elevation_deg=static.elevations_deg[0], fov_deg=40)
    assert static == even
    step = 360 / 84
    assert 0 < np.abs(np.array(dynamic.azimuths_deg) - even.azimuths_deg).max() < step / 2
    assert np.ptp(dynamic.elevations_deg) > 1
    assert (np.diff(random.azimuths_deg) < 0).sum() > 20
    assert {dynamic.fov_deg, random.fov_deg} == {40}


def test_objects_and_seeds_differ():
    for kind in ("static", "dynamic", "random"):
        plans = [
            plan.plan(config(seed=seed, orbit=kind), uid, lights=LIGHTS)
            for seed in (0, 1)
            for uid in ("a", "b")
        ]
        assert len({planned.orbit.elevations_deg for planned in plans}) == 4
        assert len({planned.seed for planned in plans}) == 4
        assert len({planned.light_turn_deg for planned in plans}) == 4


def test_elevations_fill_their_range_evenly():
    asked = config(elevation_deg=(-5.0, 30.0))
    drawn = [plan.plan(asked, str(i), lights=[]).orbit.elevations_deg[0] for i in range(2000)]
    histogram, _ = np.histogram(drawn, bins=5, range=(-5, 30))
    assert abs(histogram - 400).max() < 80


def test_lights_are_drawn_evenly_and_another_one_takes_only_its_share():
    uids = [f"object {i}" for i in range(900)]
    before = {uid: plan.plan(config(), uid, lights=LIGHTS).light for uid in uids}
    for light in LIGHTS:
        assert 230 < list(before.values()).count(light) < 370
    after = {uid: plan.plan(config(), uid, lights=[*LIGHTS, "attic.hdr"]).light for uid in uids}
    changed = [uid for uid in uids if after[uid] != before[uid]]
    assert {after[uid] for uid in changed} == {"attic.hdr"}
    assert 160 < len(changed) < 290
    assert before != {uid: plan.plan(config(seed=1), uid, lights=LIGHTS).light for uid in uids}


def test_framing_in_chunks_is_framing_at_once(monkeypatch):
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (1000, 3))
    orbit = Orbit.static(num_views=7)
    monkeypatch.setattr(plan, "CHUNK", 64)
    assert plan.framed(orbit, points, fill=0.9) == orbit.fitted(points, fill=0.9)


def test_borders_hold_all_points_and_stay_in_the_frame(monkeypatch):
    monkeypatch.setattr(plan, "CHUNK", 64)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (500, 3))
    for fill in (0.1, 0.9, 1.0):
        cameras = plan.framed(Orbit.static(), points, fill=fill).cameras(height=64, width=64)
        left, top, right, bottom = plan.borders(cameras, points).T[:, :, None]
        pixels, _ = cameras.project(points)
        assert (left >= 0).all()
        assert (bottom <= 64).all()
        assert ((pixels[..., 0] >= left) & (pixels[..., 0] <= right)).all()
        assert ((pixels[..., 1] >= top) & (pixels[..., 1] <= bottom)).all()
