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
        {"hdri": Path("light.png")},
    ],
)
def test_impossible_settings_are_refused_by_name(changes):
    (name,) = changes
    with pytest.raises(ConfigError, match=name):
        config(**changes)


def test_settings_survive_a_recipe():
    asked = config(elevation_deg=(0.0, 10.0), hdri=Path("light.hdr"))
    assert build(RenderConfig, plain(asked), where="recipe") == asked


@given(st.text(min_size=1), st.integers(0, 1000))
def test_the_same_seed_and_uid_give_the_same_plan_within_the_range(uid, seed):
    asked = config(seed=seed, elevation_deg=(-5.0, 30.0))
    planned = plan.plan(asked, uid)
    assert planned == plan.plan(asked, uid)
    assert -5 <= planned.orbit.elevations_deg[0] <= 30
    assert 0 <= planned.light_turn_deg <= 360
    assert planned.seed + asked.views < 2**31


def test_objects_and_seeds_differ():
    plans = [plan.plan(config(seed=seed), uid) for seed in (0, 1) for uid in ("a", "b")]
    assert len({planned.orbit.elevations_deg for planned in plans}) == 4
    assert len({planned.seed for planned in plans}) == 4


def test_elevations_fill_their_range_evenly():
    asked = config(elevation_deg=(-5.0, 30.0))
    drawn = [plan.plan(asked, str(i)).orbit.elevations_deg[0] for i in range(2000)]
    histogram, _ = np.histogram(drawn, bins=5, range=(-5, 30))
    assert abs(histogram - 400).max() < 80


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


def test_the_neutral_sky_is_nowhere_dark():
    light = plan.sky()
    assert np.linalg.norm(light["slope"]) == pytest.approx(plan.SKY_SLOPE)
    assert light["mean"] > plan.SKY_SLOPE
