"""Cameras against closed forms and against OpenCV, PyTorch3D and nerfstudio, to which we convert."""

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from svd3d.cameras import (
    AZIMUTH_NOISE,
    GLTF_TO_WORLD,
    SINUSOID_AMPLITUDE_DEG,
    SINUSOID_PERIODS,
    SINUSOIDS,
    Cameras,
    Orbit,
)
from svd3d.errors import CameraError

numbers = st.floats(-1, 1, allow_subnormal=False)


@st.composite
def orbits(draw, max_views=6):
    views = draw(st.integers(1, max_views))
    azimuths = draw(st.lists(st.floats(-720, 720), min_size=views, max_size=views))
    elevations = draw(st.lists(st.floats(-90, 90), min_size=views, max_size=views))
    return Orbit(tuple(azimuths), tuple(elevations), draw(st.floats(1.8, 20)), draw(st.floats(5, 120)))


@st.composite
def camera_batches(draw):
    return draw(orbits()).cameras(height=draw(st.integers(1, 40)), width=draw(st.integers(1, 40)))


points_in_the_object = arrays.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(3)), elements=numbers)


@given(camera_batches())
def test_cameras_are_right_handed_rotations(cameras):
    rotations = cameras.camera_to_world[:, :3, :3]
    squares = rotations.transpose(0, 2, 1) @ rotations
    np.testing.assert_allclose(squares, np.broadcast_to(np.eye(3), squares.shape), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-12)


@given(camera_batches())
def test_every_camera_looks_at_the_origin(cameras):
    pixels, depth = cameras.project(np.zeros((1, 3)))
    np.testing.assert_allclose(
        pixels[:, 0], [[cameras.width / 2, cameras.height / 2]] * len(cameras), atol=1e-6
    )
    np.testing.assert_allclose(depth[:, 0], np.linalg.norm(cameras.positions, axis=1))


@given(camera_batches())
def test_up_is_up_in_every_picture(cameras):
    higher, _ = cameras.project(np.array([[0, 0, 1e-3]]))
    assert (higher[:, 0, 1] <= cameras.height / 2 + 1e-6).all()
    np.testing.assert_allclose(higher[:, 0, 0], cameras.width / 2, atol=1e-6)


@given(orbits())
def test_angles_measured_back_from_positions_are_those_asked_for(orbit):
    x, y, z = orbit.cameras(height=4, width=4).positions.T
    np.testing.assert_allclose(np.degrees(np.arcsin(z / orbit.distance)), orbit.elevations_deg, atol=1e-5)
    off_pole = np.abs(orbit.elevations_deg) < 89.9
    turn = (np.degrees(np.arctan2(y, x)) - orbit.azimuths_deg + 180) % 360 - 180
    np.testing.assert_allclose(turn[off_pole], 0, atol=1e-6)


def test_view_k_of_21_is_at_k_times_360_over_21():
    orbit = Orbit.static(azimuth_deg=90, elevation_deg=0, distance=2)
    positions = orbit.cameras(height=4, width=4).positions
    assert orbit.num_views == 21
    np.testing.assert_allclose(positions[0], [0, 2, 0], atol=1e-12)
    angles = np.degrees(np.unwrap(np.arctan2(positions[:, 1], positions[:, 0])))
    np.testing.assert_allclose(np.diff(angles), 360 / 21)


elevation_ranges = st.tuples(st.floats(-90, 90), st.floats(-90, 90)).map(lambda ends: tuple(sorted(ends)))
"""Lowest and highest elevation in degrees."""


@st.composite
def dynamic_orbits(draw, min_views=1, max_views=90):
    return Orbit.dynamic(
        np.random.default_rng(draw(st.integers(0, 2**32))),
        num_views=draw(st.integers(min_views, max_views)),
        azimuth_deg=draw(st.floats(-720, 720)),
        elevation_range_deg=draw(elevation_ranges),
    )


@given(dynamic_orbits())
def test_azimuths_of_a_dynamic_orbit_stay_near_the_static_ones_in_their_order(orbit):
    step = 360 / orbit.num_views
    static = Orbit.static(num_views=orbit.num_views, azimuth_deg=orbit.azimuths_deg[0])
    off = (np.array(orbit.azimuths_deg) - static.azimuths_deg + 180) % 360 - 180
    assert np.abs(off).max() <= AZIMUTH_NOISE * step + 1e-9 < step / 2
    once_around = [*(np.arange(orbit.num_views) * step + off), 360]  # and back to view 0
    assert (np.diff(once_around) >= (1 - 2 * AZIMUTH_NOISE) * step - 1e-9).all()


@given(st.data(), elevation_ranges)
def test_elevations_of_dynamic_and_random_orbits_stay_in_their_range(data, ends):
    seed = data.draw(st.integers(0, 2**32))
    for kind in (Orbit.dynamic, Orbit.random):
        orbit = kind(np.random.default_rng(seed), elevation_range_deg=ends, azimuth_deg=400)
        assert ends[0] <= min(orbit.elevations_deg) <= max(orbit.elevations_deg) <= ends[1]
        assert orbit.azimuths_deg[0] == 40


@given(dynamic_orbits(min_views=2 * SINUSOID_PERIODS[1] + 1))
def test_elevations_of_a_dynamic_orbit_are_a_few_waves_that_close_around_the_circle(orbit):
    """No wave is shorter than a fifth of the circle: nothing was clamped, and the end meets the start."""
    elevations = np.array(orbit.elevations_deg)
    waves = np.abs(np.fft.rfft(elevations))[1:] * 2 / len(elevations)  # amplitudes, by periods from 1 up
    rounding = 0.001
    assert (waves[SINUSOID_PERIODS[1] :] <= rounding).all()
    assert (waves[: SINUSOID_PERIODS[1]] > rounding).sum() <= SINUSOIDS
    steepest = 2 * math.sin(math.pi * SINUSOID_PERIODS[1] / len(elevations))  # of a wave of amplitude 1
    jumps = np.abs(np.diff([*elevations, elevations[0]]))
    assert jumps.max() <= SINUSOIDS * SINUSOID_AMPLITUDE_DEG[1] * steepest + rounding


def test_dynamic_orbits_use_their_range_and_vary():
    made = [
        Orbit.dynamic(np.random.default_rng(seed), elevation_range_deg=(-20, 45), num_views=84)
        for seed in range(300)
    ]
    elevations = np.array([orbit.elevations_deg for orbit in made])
    swings = np.ptp(elevations, axis=1)
    assert swings.min() > 2 * SINUSOID_AMPLITUDE_DEG[0]
    assert np.percentile(swings, 90) > 30
    assert elevations.min() < -19
    assert elevations.max() > 44
    assert len({orbit.azimuths_deg for orbit in made}) == 300
    (flat,) = {
        Orbit.dynamic(np.random.default_rng(seed), elevation_range_deg=(7, 7)).elevations_deg
        for seed in range(9)
    }
    assert flat == (7.0,) * 21


def test_random_views_are_spread_evenly_by_area():
    orbit = Orbit.random(np.random.default_rng(0), num_views=20_001, elevation_range_deg=(-30, 75))
    low, high = math.sin(math.radians(-30)), math.sin(math.radians(75))
    heights = (np.sin(np.radians(orbit.elevations_deg)) - low) / (high - low)
    turns = np.array(orbit.azimuths_deg[1:]) / 360
    for uniform in (heights, turns):
        found = np.sort(uniform)
        distance = np.abs(found - np.linspace(0, 1, len(found))).max()  # Kolmogorov and Smirnov
        assert distance < 1.63 / math.sqrt(len(found))  # exceeded by 1 in 100 even distributions
    assert abs(np.corrcoef(heights[1:], turns)[0, 1]) < 0.02


@given(dynamic_orbits(), points_in_the_object, st.floats(0.1, 1))
def test_a_fitted_dynamic_orbit_clips_nothing(orbit, points, fill):
    points = np.concatenate([points, np.eye(3)])
    points = np.concatenate([points, -points])
    cameras = orbit.fitted(points, fill=fill).cameras(height=2, width=2)
    pixels, depth = cameras.project(points)
    assert (depth > 0).all()
    assert (np.abs(pixels - 1) <= fill * (1 + 1e-6)).all()


@given(st.integers(1, 30), st.integers(1, 6), st.floats(-720, 720), st.data())
def test_what_is_left_of_a_static_orbit_is_static(num_views, step, azimuth_deg, data):
    views = num_views * step
    start = data.draw(st.integers(0, views - 1))
    whole = Orbit.static(num_views=views, azimuth_deg=azimuth_deg, elevation_deg=12, distance=3, fov_deg=40)
    left = whole.subsampled(num_views=num_views, start=start)
    first = azimuth_deg + 360 * start / views
    again = Orbit.static(num_views=num_views, azimuth_deg=first, elevation_deg=12, distance=3, fov_deg=40)
    assert dataclasses.replace(left, azimuths_deg=again.azimuths_deg) == again
    apart = (np.array(left.azimuths_deg) - again.azimuths_deg + 180) % 360 - 180
    np.testing.assert_allclose(apart, 0, atol=1e-9)


@given(dynamic_orbits(min_views=84, max_views=84), st.integers(0, 83))
def test_every_fourth_of_84_views_from_any_start(orbit, start):
    left = orbit.subsampled(start=start)
    places = [(start + 4 * view) % 84 for view in range(21)]
    assert left.elevations_deg == tuple(orbit.elevations_deg[place] for place in places)
    assert left.azimuths_deg == tuple(orbit.azimuths_deg[place] for place in places)
    ahead = (np.array(left.azimuths_deg) - left.azimuths_deg[0]) % 360
    assert (np.diff([*ahead, 360]) > 0).all()  # still once around, in order


@pytest.mark.parametrize("elevation_deg", [90, -90])
def test_the_poles_have_a_defined_up_that_follows_the_azimuth(elevation_deg):
    orbit = Orbit.static(num_views=4, elevation_deg=elevation_deg)
    near = Orbit.static(num_views=4, elevation_deg=np.sign(elevation_deg) * (90 - 1e-9))
    np.testing.assert_allclose(orbit.rotations(), near.rotations(), atol=1e-9)
    corners = np.array([[0.3, 0.1, 0.2], [-0.5, 0, 0]])
    assert np.isfinite(orbit.fitted(corners).distance)


@given(camera_batches(), st.integers(1, 8), st.randoms(use_true_random=False))
def test_unproject_undoes_project(cameras, count, random):
    points = np.array([[random.uniform(-1, 1) for _ in range(3)] for _ in range(count)])
    back = cameras.unproject(*cameras.project(points))
    np.testing.assert_allclose(back, np.tile(points, (len(cameras), 1, 1)), atol=1e-7)


@given(camera_batches())
def test_rays_pass_through_pixel_centres_at_depth(cameras):
    origins, directions = cameras.rays()
    depth = 1.7
    points = origins[:, None, None] + depth * directions
    for view in range(len(cameras)):
        pixels, found = cameras.view(view).project(points[view].reshape(-1, 3))
        x, y = np.meshgrid(np.arange(cameras.width) + 0.5, np.arange(cameras.height) + 0.5)
        np.testing.assert_allclose(pixels[0], np.stack([x, y], -1).reshape(-1, 2), atol=1e-6)
        np.testing.assert_allclose(found, depth)


@given(orbits(), points_in_the_object, st.floats(0.1, 1))
def test_the_fitted_distance_touches_the_fill_and_no_view_exceeds_it(orbit, points, fill):
    if np.abs(points).max() < 1e-3:
        with pytest.raises(CameraError):
            orbit.fitted(np.zeros_like(points))
        return
    points = np.concatenate([points, -points])  # centred, as objects are
    fitted = orbit.fitted(points, fill=fill)
    pixels, depth = fitted.cameras(height=2, width=2).project(points)
    ahead = depth > 1e-9 * fitted.distance
    reach = np.abs(pixels - 1).max(-1)[ahead]
    assert (depth >= -1e-9).all()
    assert (reach <= fill * (1 + 1e-6)).all()
    limit = fill * math.tan(math.radians(orbit.fov_deg) / 2)
    local = np.einsum("nj,vjk->vnk", points, fitted.rotations())
    slack = limit * (fitted.distance - local[..., 2]) - np.abs(local[..., :2]).max(-1)
    assert slack.min() == pytest.approx(0, abs=1e-9 * fitted.distance)


def test_a_unit_cube_fills_nine_tenths_of_the_widest_view():
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    cameras = Orbit.static(elevation_deg=10).fitted(corners).cameras(height=576, width=576)
    pixels, _ = cameras.project(corners)
    assert np.abs(pixels / 288 - 1).max() == pytest.approx(0.9)


@given(camera_batches(), st.integers(1, 50), st.integers(1, 50))
def test_resized_cameras_see_the_same_place_in_the_picture(cameras, height, width):
    points = np.array([[0.2, -0.3, 0.1], [0, 0.4, 0.5]])
    before, depth = cameras.project(points)
    after, same = cameras.resized(height=height, width=width).project(points)
    size, new_size = np.array([cameras.width, cameras.height]), np.array([width, height])
    np.testing.assert_allclose(after / new_size, before / size, atol=1e-9)
    np.testing.assert_array_equal(depth, same)


def test_view_picks_cameras_in_the_order_asked(cameras):
    np.testing.assert_array_equal(cameras.view([3, 1]).positions, cameras.positions[[3, 1]])
    assert len(cameras.view(2)) == 1


@given(camera_batches())
def test_world_to_camera_is_the_inverse(cameras):
    np.testing.assert_allclose(
        cameras.world_to_camera @ cameras.camera_to_world, np.eye(4)[None].repeat(len(cameras), 0), atol=1e-9
    )


def test_points_in_the_plane_of_a_camera_have_depth_zero_and_no_pixel(cameras):
    pixels, depth = cameras.view(0).project(cameras.positions[:1] + cameras.camera_to_world[:1, :3, 0])
    assert abs(depth[0, 0]) < 1e-12
    assert not np.isfinite(pixels).all() or np.abs(pixels).max() > 1e9


def test_gltf_up_becomes_world_up_by_a_rotation():
    np.testing.assert_array_equal(GLTF_TO_WORLD @ [0, 1, 0, 1], [0, 0, 1, 1])
    np.testing.assert_array_equal(GLTF_TO_WORLD @ [1, 2, 3, 1], [1, -3, 2, 1])
    assert np.linalg.det(GLTF_TO_WORLD) == 1


def test_opencv_projects_to_the_same_pixels(orbit):
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")
    cameras = orbit.cameras(height=120, width=200)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3))
    ours, _ = cameras.project(points)
    for view, extrinsics in enumerate(cameras.opencv_world_to_camera()):
        turn, _ = cv2.Rodrigues(extrinsics[:3, :3])
        theirs, _ = cv2.projectPoints(points, turn, extrinsics[:3, 3], cameras.intrinsics[view], None)
        np.testing.assert_allclose(ours[view], theirs[:, 0], atol=1e-9)


@pytest.fixture
def opencv_reference(shared_data):
    """PyTorch3D's table of `cv2.projectPoints`: extrinsics, intrinsics, points and their pixels."""
    return json.loads((shared_data / "reference/pytorch3d_cv_project_points_precomputed.json").read_text())


def rodrigues(vector):
    """The rotation by `|vector|` about `vector`."""
    angle = np.linalg.norm(vector)
    x, y, z = np.asarray(vector) / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def test_pytorch3ds_table_of_opencv_projections_is_reproduced(opencv_reference):
    for case in opencv_reference:
        world_to_camera = np.eye(4)
        world_to_camera[:3, :3], world_to_camera[:3, 3] = rodrigues(case["rvec"]), case["tvec"]
        matrix = np.array(case["camera_matrix"])
        focal, centre = matrix[[0, 1], [0, 1]], matrix[[0, 1], [2, 2]]
        intrinsics = np.abs(matrix) * np.eye(3)  # the table has negative focal lengths, which we refuse
        height, width = case["image_size"]
        cameras = Cameras.from_opencv(world_to_camera[None], intrinsics[None], height=height, width=width)
        pixels, _ = cameras.project(np.array(case["pts"]))
        np.testing.assert_allclose(
            np.sign(focal) * pixels[0] + centre, case["pts_proj"], rtol=1e-4, atol=1e-4
        )
        rotation, translation = cameras.pytorch3d_rotation_translation()
        # pytorch3d.utils.cameras_from_opencv_projection: R transposed, x and y turned around
        turned = np.array([-1, -1, 1])
        np.testing.assert_allclose(rotation[0], world_to_camera[:3, :3].T * turned, atol=1e-9)
        np.testing.assert_allclose(translation[0], np.array(case["tvec"]) * turned, atol=1e-9)


def test_pytorch3d_sees_left_and_up_as_positive(cameras):
    rotation, translation = cameras.pytorch3d_rotation_translation()
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (9, 3))
    local = points @ rotation + translation[:, None]
    pixels, depth = cameras.project(points)
    focal = cameras.intrinsics[0, 0, 0]
    np.testing.assert_allclose(local[..., 2], depth)
    np.testing.assert_allclose(cameras.width / 2 - focal * local[..., 0] / depth, pixels[..., 0])
    np.testing.assert_allclose(cameras.height / 2 - focal * local[..., 1] / depth, pixels[..., 1])


@given(camera_batches())
def test_cameras_come_back_from_opencv_and_from_pytorch3d(cameras):
    size = {"height": cameras.height, "width": cameras.width}
    for back in (
        Cameras.from_opencv(cameras.opencv_world_to_camera(), cameras.intrinsics, **size),
        Cameras.from_pytorch3d(*cameras.pytorch3d_rotation_translation(), cameras.intrinsics, **size),
    ):
        np.testing.assert_allclose(back.camera_to_world, cameras.camera_to_world, atol=1e-12)
        np.testing.assert_array_equal(back.intrinsics, cameras.intrinsics)
        assert (back.height, back.width) == (cameras.height, cameras.width)


def test_gsplat_projects_to_the_same_pixels(orbit):
    reference = pytest.importorskip("gsplat.cuda._torch_impl", reason="needs gsplat")
    torch = pytest.importorskip("torch", reason="needs torch")
    cameras = orbit.cameras(height=64, width=80)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3))
    small = 1e-6 * torch.eye(3, dtype=torch.float64).expand(len(points), 3, 3)
    extrinsics, intrinsics = map(torch.from_numpy, (cameras.opencv_world_to_camera(), cameras.intrinsics))
    _, pixels, depth, *_ = reference._fully_fused_projection(
        torch.from_numpy(points), small, extrinsics, intrinsics, cameras.width, cameras.height
    )
    ours, our_depth = cameras.project(points)
    np.testing.assert_allclose(ours, pixels.numpy(), atol=1e-9)
    np.testing.assert_allclose(our_depth, depth.numpy(), atol=1e-9)


@pytest.mark.parametrize("split", ["train", "val"])
def test_nerfstudios_lego_has_our_axes(shared_data, split):
    """The Blender poses that nerfstudio tests with look at the origin along -Z with +Y up, as ours do."""
    content = json.loads(
        (shared_data / f"reference/nerfstudio_lego_test/transforms_{split}.json").read_text()
    )
    matrices = np.array([frame["transform_matrix"] for frame in content["frames"]])
    focal = 400 / math.tan(content["camera_angle_x"] / 2)
    intrinsics = np.array([[focal, 0, 400], [0, focal, 400], [0, 0, 1]])
    lego = Cameras(matrices, np.tile(intrinsics, (len(matrices), 1, 1)), 800, 800)
    x, y, z = lego.positions[0]
    distance = float(np.linalg.norm(lego.positions[0]))
    azimuth, elevation = math.degrees(math.atan2(y, x)), math.degrees(math.asin(z / distance))
    ours = Orbit((azimuth,), (elevation,), distance, math.degrees(content["camera_angle_x"]))
    mine = ours.cameras(height=800, width=800)
    np.testing.assert_allclose(mine.camera_to_world, lego.camera_to_world, atol=2e-5)
    np.testing.assert_allclose(mine.intrinsics, lego.intrinsics, atol=1e-6)


def rigid(change):
    matrix = np.eye(4)
    change(matrix)
    return matrix[None]


def generator():
    return np.random.default_rng(0)


def set_at(*where, value):
    return lambda matrix: matrix.__setitem__(where, value)


GOOD = np.array([[[50.0, 0, 4], [0, 50, 4], [0, 0, 1]]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Orbit((), (), 2), "0 azimuths and 0 elevations"),
        (lambda: Orbit((0.0, 1.0), (0.0,), 2), "2 azimuths and 1 elevations; give one of each per view"),
        (lambda: Orbit((0.0,), (90.1,), 2), "view 0: elevation 90.1 degrees"),
        (lambda: Orbit((0.0, math.nan), (0.0, 0.0), 2), "view 1: azimuth nan degrees"),
        (lambda: Orbit((0.0,), (0.0,), 0), "distance 0 must be above 0"),
        (lambda: Orbit((0.0,), (0.0,), math.inf), "distance inf"),
        (lambda: Orbit((0.0,), (0.0,), 2, 0), "field of view 0 degrees must lie between 0 and 180"),
        (lambda: Orbit((0.0,), (0.0,), 2, 180), "field of view 180"),
        (lambda: Orbit.static(num_views=0), "0 azimuths"),
        (lambda: Orbit.dynamic(generator(), num_views=0, elevation_range_deg=(0, 1)), "0 azimuths"),
        (lambda: Orbit.random(generator(), num_views=0, elevation_range_deg=(0, 1)), "0 elevations"),
        (
            lambda: Orbit.dynamic(generator(), elevation_range_deg=(30, -5)),
            "elevations from 30 to -5 degrees; give two from -90 to 90, the lower one first",
        ),
        (lambda: Orbit.random(generator(), elevation_range_deg=(0, 91)), "elevations from 0 to 91 degrees"),
        (lambda: Orbit.random(generator(), elevation_range_deg=(math.nan, 9)), "elevations from nan to 9"),
        (lambda: Orbit.static().subsampled(num_views=4), "21 views do not thin out to 4; choose a divisor"),
        (lambda: Orbit.static().subsampled(num_views=0), "21 views do not thin out to 0"),
        (lambda: Orbit.static().subsampled(num_views=42), "21 views do not thin out to 42"),
        (lambda: Orbit.static().subsampled(start=21), "start 21 is not a view; choose one from 0 to 20"),
        (lambda: Orbit.static().subsampled(start=-1), "start -1 is not a view"),
        (lambda: Orbit.static().fitted(np.ones((2, 3)), fill=0), "fill 0 must be above 0 and at most 1"),
        (lambda: Orbit.static().fitted(np.empty((0, 3))), "cannot fit 0 points"),
        (lambda: Orbit.static().fitted(np.full((1, 3), np.nan)), "must be finite"),
        (lambda: Cameras(rigid(set_at(0, 0, value=-1)), GOOD, 8, 8), "view 0: .* not a rotation .*-1.000"),
        (lambda: Cameras(rigid(set_at(0, 0, value=2)), GOOD, 8, 8), r"not a rotation \(determinant 2.000\)"),
        (lambda: Cameras(rigid(set_at(0, 1, value=0.1)), GOOD, 8, 8), "not a rotation"),
        (lambda: Cameras(rigid(set_at(0, 3, value=np.inf)), GOOD, 8, 8), "numbers that are not finite"),
        (lambda: Cameras(rigid(set_at(3, 0, value=1)), GOOD, 8, 8), "last row of camera_to_world"),
        (lambda: Cameras(np.eye(4)[None], GOOD * [[[0.0], [1], [1]]], 8, 8), "focal lengths 0.0, 50.0"),
        (lambda: Cameras(np.eye(4)[None], GOOD + np.eye(3)[0], 8, 8), "not of the form fx 0 cx"),
        (lambda: Cameras(np.eye(4)[None], GOOD, 0, 8), "picture size 8 x 0"),
    ],
)
def test_cameras_that_cannot_exist_are_refused(make, message):
    with pytest.raises(CameraError, match=message):
        make()


def test_the_view_with_the_wrong_matrix_is_named():
    matrices = np.tile(np.eye(4), (3, 1, 1))
    matrices[2, :3, :3] *= 1.01
    with pytest.raises(CameraError, match="view 2: "):
        Cameras(matrices, np.tile(GOOD, (3, 1, 1)), 8, 8)
