"""The arithmetic between passes and pictures, against closed forms; no Blender."""

import numpy as np
import pytest

from render.blender import compose, exr

WINDOW = (0.35875, 0.48829, 0.14128, 0.01168)


def window(x):
    """Blackman-Harris over |x| < 1.5 pixels, written the other way round than in the code under test."""
    terms = [a * np.cos(2 * np.pi * n * x / 3) for n, a in enumerate(WINDOW)]
    return np.where(np.abs(x) < 1.5, sum(terms), 0)


@pytest.mark.parametrize("k", [1, 3, 5, 7])
def test_reducing_keeps_a_constant_and_agrees_with_the_integral_of_the_filter(k):
    inner = compose.reduce(np.full((12 * k, 12 * k, 2), 0.7, np.float32), k)[2:-2, 2:-2]
    assert inner == pytest.approx(0.7, abs=1e-5)
    x = (np.arange(12 * k) + 0.5) / k
    edge = np.tile((x > 6.2).astype(np.float32)[None, :, None], (12 * k, 1, 1))
    fine = np.linspace(-1.5, 1.5, 30001)
    mass = window(fine) / window(fine).sum()
    wanted = [mass[fine + pixel + 0.5 > 6.2].sum() for pixel in range(2, 10)]
    error = np.abs(compose.reduce(edge, k)[6, 2:-2, 0] - wanted).max()
    assert error < 0.7 / k  # at most what one column of samples weighs


def test_centres_are_the_samples_in_the_middle():
    grid = np.arange(15 * 15).reshape(15, 15)
    assert compose.centres(grid, 5).tolist() == grid[2::5, 2::5].tolist()


def test_light_times_colour_plus_emission_and_neighbours_where_no_path_met_the_surface():
    colour = {"diffuse": np.full((5, 5, 3), 0.5), "glossy": np.zeros((5, 5, 3))}
    met = {"diffuse": np.full((5, 5, 3), 0.5), "glossy": np.zeros((5, 5, 3))}
    light = {"diffuse": np.full((5, 5, 3), 0.8), "glossy": np.zeros((5, 5, 3))}
    met["diffuse"][2, 2] = light["diffuse"][2, 2] = 0
    picture = compose.lit(colour, met, light, np.full((5, 5, 3), 0.1))
    assert picture == pytest.approx(0.1 + 0.5 * 0.8)


def test_the_noise_of_the_references_does_not_count():
    generator = np.random.default_rng(0)
    truth = np.ones((200, 200, 4), np.float32) * [0.2, 0.3, 0.4, 1]
    first, second = (truth + [0.02, 0.02, 0.02, 0] * generator.normal(size=truth.shape) for _ in range(2))
    linear = truth + np.array([0.01, 0.01, 0.01, 0])
    exact = ((compose.to_display(linear) - compose.to_display(truth))[..., :3] ** 2).mean()
    assert compose.foreground_error(linear, first, second) == pytest.approx(exact, rel=0.1)
    assert compose.foreground_error(truth, first, second) < exact / 10


def test_bytes_are_straight_srgb():
    linear = np.array([[[0.5, 0.25, 0.0, 0.5], [0.2140, 0.0, 1.0, 1.0], [0, 0, 0, 0]]], np.float32)
    assert compose.to_bytes(linear).tolist() == [[[255, 188, 0, 128], [127, 0, 255, 255], [0, 0, 0, 0]]]


@pytest.mark.parametrize("data", [b"\x76\x2f\x31\x01\x02\x02\0\0", b"\x89PNG\r\n\x1a\n"])
def test_other_files_than_plain_exr_are_refused(tmp_path, data):
    path = tmp_path / "passes.exr"
    path.write_bytes(data + bytes(64))
    with pytest.raises(ValueError, match="not a plain OpenEXR file"):
        exr.read(str(path))
