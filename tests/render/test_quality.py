"""Scores of samples: closed forms for simple bodies, invariances, and a fingerprint that knows its object."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from render import quality
from svd3d.cameras import Orbit

SIZE = 96
GREY = (0.5, 0.5, 0.5)
COLOURS = (
    *((0.9, 0.2, 0.1), (0.2, 0.8, 0.2), (0.1, 0.3, 0.9)),
    *((0.9, 0.9, 0.2), (0.8, 0.8, 0.8), (0.1, 0.1, 0.1)),
)
"""Of the faces of a box: -x, +x, -y, +y, -z, +z."""


def box(extents, colour, *, orbit: Orbit, size: int = SIZE):
    """Views of a box of one colour per face (or all), ray cast: RGBA pictures, depth, cameras."""
    cameras = orbit.cameras(height=size, width=size)
    colours = np.broadcast_to(np.asarray(colour, float), (6, 3))
    pictures = np.zeros((len(cameras), size, size, 4), np.uint8)
    depth = np.zeros((len(cameras), size, size), np.float32)
    row, column = np.mgrid[:size, :size] + 0.5
    for view in range(len(cameras)):
        focal, matrix = cameras.intrinsics[view, 0, 0], cameras.camera_to_world[view]
        rays = np.stack(
            [(column - size / 2) / focal, -(row - size / 2) / focal, np.full((size, size), -1.0)], -1
        )
        rays, eye = rays @ matrix[:3, :3].T, matrix[:3, 3]
        with np.errstate(all="ignore"):
            planes = np.stack([side * np.asarray(extents) / 2 for side in (-1, 1)])
            times = (planes[:, None, None] - eye) / rays
        near, far = times.min(0), times.max(0)
        enter, leave = near.max(-1), far.min(-1)
        hit = enter < leave
        axis = near.argmax(-1)
        face = axis * 2 + (np.take_along_axis(rays, axis[..., None], -1)[..., 0] < 0)
        pictures[view, hit, :3] = (colours[face[hit]] * 255).round()
        pictures[view, hit, 3] = 255
        depth[view, hit] = enter[hit]
    return pictures, depth, cameras


def ball(radius: float, *, orbit: Orbit, size: int = SIZE):
    cameras = orbit.cameras(height=size, width=size)
    focal = cameras.intrinsics[0, 0, 0]
    row, column = np.mgrid[:size, :size] + 0.5 - size / 2
    # distance of the ray from the centre against the radius, and the nearer of the two intersections
    length2 = (row**2 + column**2) / focal**2 + 1
    root = orbit.distance**2 - length2 * (orbit.distance**2 - radius**2)
    depth = np.where(root > 0, (orbit.distance - np.sqrt(root.clip(0))) / length2, 0).astype(np.float32)
    picture = np.zeros((size, size, 4), np.uint8)
    picture[root > 0] = (128, 128, 128, 255)
    views = len(cameras)
    return np.tile(picture, (views, 1, 1, 1)), np.tile(depth, (views, 1, 1)), cameras


def orbit(elevation: float = 15.0, views: int = 12) -> Orbit:
    return Orbit.static(num_views=views, elevation_deg=elevation, distance=3.2)


def scores(pictures, depth, cameras, **options):
    return quality.scores(
        pictures, cameras=cameras, depth=depth, **{"missing_textures": (), "faces": 12, **options}
    )


def bits(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


BOX = box((1, 0.7, 0.4), COLOURS, orbit=orbit())


def test_a_ball_in_closed_form():
    """Coverage is the area of the outline, a circle; nothing else is to be said of a grey ball."""
    around = orbit()
    found = scores(*ball(0.5, orbit=around))
    outline = 0.5 / math.sqrt(around.distance**2 - 0.5**2)
    share = math.pi * (outline / (2 * math.tan(math.radians(around.fov_deg) / 2))) ** 2
    assert found["coverage"] == pytest.approx(share, rel=0.01)
    assert found["coverage_min"] == found["coverage"]
    assert found["luminance"] == pytest.approx(128 / 255, abs=1e-3)
    assert found["flatness"] > 0.8
    for name in ("contrast", "colourfulness", "magenta", "transparency", "diversity"):
        assert found[name] == pytest.approx(0, abs=1e-3)
    assert (found["blank_views"], found["touches_border"]) == (0, False)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("extents", [(1.0, 0.6, 0.3), (0.25, 1.0, 0.5), (0.4, 0.15, 1.0)])
def test_flatness_of_a_box_is_its_shortest_by_its_longest_side(extents):
    found = scores(*box(extents, GREY, orbit=orbit(25)))
    assert found["flatness"] == pytest.approx(min(extents) / max(extents), abs=0.05)


@pytest.mark.parametrize("extents", [(1.0, 1e-3, 0.7), (1e-3, 0.6, 1.0), (1.0, 0.8, 1e-3), (0.01, 0.01, 1.0)])
@given(turn=st.floats(0, 360), elevation=st.floats(-30, 30).filter(lambda e: abs(e) > 3))
def test_cards_and_needles_are_flat_however_they_stand(extents, turn, elevation):
    """Neither the azimuth of the orbit nor its elevation hides a card, though a lying one never shrinks."""
    around = Orbit.static(num_views=6, elevation_deg=elevation, azimuth_deg=turn, distance=2.4)
    pictures, depth, cameras = box(extents, GREY, orbit=around, size=48)
    assert scores(pictures, depth, cameras)["flatness"] < 0.03


def test_colours_in_closed_form():
    """Half red, half blue, seen from above: the definitions by hand."""
    pictures = np.zeros((2, 64, 64, 4), np.uint8)
    pictures[:, 16:48, 16:32] = (255, 0, 0, 255)
    pictures[:, 16:48, 32:48] = (0, 0, 255, 255)
    cameras = orbit(views=2).cameras(height=64, width=64)
    found = scores(pictures, None, cameras)
    red, blue = 0.2126, 0.0722
    assert found["coverage"] == 0.25
    assert found["luminance"] == pytest.approx((red + blue) / 2, abs=1e-3)
    assert found["contrast"] == pytest.approx((red - blue) / 2, abs=1e-3)
    # red-green: 1 and 0; yellow-blue: 1/2 and -1
    spread, offset = math.hypot(0.5, 0.75), math.hypot(0.5, -0.25)
    assert found["colourfulness"] == pytest.approx(spread + 0.3 * offset, abs=1e-3)
    assert found["diversity"] == 0
    assert (found["flatness"], found["hash"]) == (None, None)


@pytest.mark.parametrize(
    ("colour", "magenta"),
    [
        ((1, 0, 1), 1),
        ((0.62, 0.18, 0.62), 1),
        ((0.9, 0.3, 0.5), 0),
        ((0.5, 0.2, 0.9), 0),
        (GREY, 0),
        ((0, 0, 0), 0),
    ],
)
def test_the_colour_of_missing_textures(colour, magenta):
    assert scores(*box((1, 1, 1), colour, orbit=orbit()))["magenta"] == magenta


def test_part_of_the_object_is_magenta():
    pictures, depth, cameras = box((1, 1, 1), GREY, orbit=orbit())
    pictures[:3, ..., :3] = (255, 0, 255)
    found = scores(pictures, depth, cameras, missing_textures=("skin.png",))
    assert found["magenta"] == pytest.approx(0.25, abs=0.03)
    assert found["missing_textures"] == 1


def test_glass_is_transparent_and_outlines_are_not():
    pictures, depth, cameras = box((1, 1, 1), (0.2, 0.6, 0.9), orbit=orbit())
    half = orbit().cameras(height=SIZE // 2, width=SIZE // 2)
    soft = pictures.reshape(12, SIZE // 2, 2, SIZE // 2, 2, 4).max(axis=(2, 4))
    soft[..., 3] = pictures[..., 3].reshape(12, SIZE // 2, 2, SIZE // 2, 2).mean(axis=(2, 4))
    assert len(np.unique(soft[..., 3])) > 2
    assert scores(soft, None, half)["transparency"] == 0
    pictures[..., 3] //= 3
    glass = scores(pictures, depth, cameras)
    assert glass["transparency"] == 1
    assert glass["flatness"] > 0.5
    assert glass["blank_views"] == 0


def test_blank_views_and_borders():
    pictures, depth, cameras = box((1, 1, 1), GREY, orbit=orbit())
    pictures[[2, 5]] = 0
    found = scores(pictures, depth, cameras)
    assert (found["blank_views"], found["coverage_min"]) == (2, 0)
    assert not found["touches_border"]
    pictures[7, 0, 40] = 255
    assert scores(pictures, depth, cameras)["touches_border"]


@pytest.mark.parametrize("size", [8, 64, 100])
def test_nothing_at_all(size):
    pictures = np.zeros((3, size, size, 4), np.uint8)
    depth = np.zeros((3, size, size), np.float32)
    found = scores(pictures, depth, orbit(views=3).cameras(height=size, width=size), faces=0)
    assert found.pop("blank_views") == 3
    assert found.pop("hash") is None
    assert not any(found.values())


def test_scores_do_not_depend_on_the_size_of_the_pictures():
    small, large = (scores(*box((1, 0.7, 0.4), COLOURS, orbit=orbit(), size=size)) for size in (128, 320))
    assert bits(small.pop("hash"), large.pop("hash")) <= 4
    assert small == pytest.approx(large, abs=0.02)


@given(seed=st.integers(0, 99), level=st.integers(1, 12))
def test_the_fingerprint_forgives_noise(seed, level):
    pictures, depth, cameras = BOX
    noise = np.random.default_rng(seed).integers(-level, level + 1, pictures.shape[:3])[..., None]
    noisy = pictures.copy()
    noisy[..., :3] = (pictures[..., :3] + noise).clip(0, 255)
    clean = scores(pictures, depth, cameras)["hash"]
    assert bits(clean, scores(noisy, depth, cameras)["hash"]) <= 3


def test_the_fingerprint_forgives_another_orbit():
    """Other elevations and other numbers of views, over boxes of many shapes."""
    moved = []
    for extents in ((1, 1, 1), (1, 0.7, 0.4), (0.6, 0.4, 1), (0.4, 1, 0.8)):
        first = scores(*box(extents, COLOURS, orbit=orbit(20)))["hash"]
        for elevation, views in ((20, 9), (15, 12), (27, 16), (30, 21)):
            other = scores(*box(extents, COLOURS, orbit=orbit(elevation, views)))["hash"]
            moved.append(bits(first, other))
    assert np.median(moved) <= 4
    assert max(moved) <= 10


def test_the_fingerprint_tells_other_shapes_colours_and_turns():
    around = orbit()
    things = [
        box((1, 1, 1), COLOURS, orbit=around),
        box((1, 1, 1), COLOURS[::-1], orbit=around),
        box((1, 1, 1), GREY, orbit=around),
        box((1, 0.3, 0.3), COLOURS, orbit=around),
        box((0.3, 1, 0.3), COLOURS, orbit=around),
        box((0.3, 0.3, 1), COLOURS, orbit=around),
        ball(0.5, orbit=around),
    ]
    hashes = [scores(*thing)["hash"] for thing in things]
    assert min(bits(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) >= 10


def test_the_fingerprint_moves_by_the_angle_between_two_objects():
    """SimHash: mixing in more of another colour moves more bits."""
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (4000, 3))
    first, second = np.random.default_rng(1).uniform(0, 1, (2, 8, 8, 8, 3))
    cells = ((points + 0.5) * 8).astype(int).T
    before, after = first[tuple(cells)], second[tuple(cells)]
    start = quality.fingerprint(points, before)
    moved = [
        bits(start, quality.fingerprint(points, (1 - part) * before + part * after))
        for part in (0, 0.1, 0.3, 0.6, 1)
    ]
    assert moved[0] == 0
    assert moved == sorted(moved)
    assert 20 < moved[-1] < 44


def test_the_fingerprint_is_the_same_for_ever():
    """Ledgers hold fingerprints: another version may not give other ones."""
    assert bits(scores(*BOX)["hash"], "a7e15f2dcc45a017") <= 1
