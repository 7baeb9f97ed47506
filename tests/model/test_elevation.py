"""The elevation of a picture: the candidate whose first view is nearest, refined by a parabola."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from svd3d.model import elevation


@given(st.floats(-4.9, 29.9))
def test_the_minimum_of_a_parabola_is_found_exactly(place):
    values = [(candidate - place) ** 2 for candidate in elevation.CANDIDATES_DEG]
    found = elevation.lowest(elevation.CANDIDATES_DEG, values)
    assert found == pytest.approx(place, abs=1e-9) or min(place + 5, 30 - place) < 2.5  # nearest an end
    best = elevation.CANDIDATES_DEG[int(np.argmin(values))]
    assert abs(found - best) <= 2.5 + 1e-9


def test_at_the_ends_and_on_flat_ground_it_is_the_candidate_itself():
    assert elevation.lowest((0.0, 5.0, 10.0), [1.0, 2.0, 3.0]) == 0
    assert elevation.lowest((0.0, 5.0, 10.0), [3.0, 2.0, 1.0]) == 10
    assert elevation.lowest((0.0, 5.0, 10.0), [1.0, 1.0, 1.0]) == 0


@pytest.mark.parametrize("true_deg", [0.0, 12.5, 20.0])
def test_a_model_that_paints_its_elevation_is_read_back(true_deg):
    seeds = []

    class Painter:
        size = 8

        def __call__(self, picture, *, elevation_deg, num_views, keep_input_view, generator, **settings):
            assert not keep_input_view
            seeds.append(generator.initial_seed())
            views = np.full((1, num_views, 8, 8, 3), (elevation_deg + 10) / 50)
            return SimpleNamespace(views=views)

    picture = Image.new("RGB", (16, 16), (round((true_deg + 10) / 50 * 255),) * 3)
    found = elevation.estimate(Painter(), picture, num_views=3, seed=4)
    assert found == pytest.approx(true_deg, abs=0.1)
    assert set(seeds) == {4}
