"""The fast ray caster against closed forms, and orbits as sample folders."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import trimesh

from svd3d import images, sample
from svd3d.cameras import Orbit

SCRIPTS = Path(__file__).parents[2] / "scripts"
SIZE = 48


@pytest.fixture(scope="module", autouse=True)
def _scripts():
    pytest.importorskip("embreex")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield


@pytest.fixture(scope="module")
def raycast(_scripts):
    return importlib.import_module("raycast")


@pytest.fixture(scope="module")
def make_orbits(_scripts):
    return importlib.import_module("make_orbits")


@pytest.fixture
def solid_of(raycast):
    """A function that makes a solid of a mesh that is in the world already."""

    def make(mesh, *, colour=(1.0, 1.0, 1.0), uv=None, surface=None):
        return raycast.Solid(
            vertices=np.float32(mesh.vertices),
            normals=np.float32(mesh.vertex_normals),
            faces=np.asarray(mesh.faces),
            uv=np.zeros((len(mesh.vertices), 2), np.float32) if uv is None else np.float32(uv),
            colour=np.float32(np.broadcast_to(colour, (1, 1, 3)) if np.ndim(colour) == 1 else colour),
            surface=None if surface is None else np.array([[surface]], np.float32),
            object_to_world=np.eye(4),
        )

    return make


@pytest.fixture
def uniform(raycast):
    """A function that makes a sky of the same radiance everywhere."""
    return lambda radiance: raycast.Sky(np.full(3, radiance, np.float32), np.zeros((3, 3), np.float32))


def linear(raycast, rgba):
    return raycast.SRGB_TO_LINEAR[rgba[..., :3]]


def sphere(radius=0.5, centre=(0, 0, 0)):
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    mesh.apply_translation(centre)
    return mesh


def test_the_silhouette_of_a_sphere_is_the_disc_of_its_tangent_cone(raycast, solid_of, uniform):
    distance = 2.2
    cameras = Orbit.static(num_views=2, distance=distance).cameras(height=SIZE, width=SIZE)
    alpha = raycast.render(solid_of(sphere()), cameras, sky=uniform(0.5), seed=0)[..., 3] / 255
    radius = cameras.intrinsics[0, 0, 0] * math.tan(math.asin(0.5 / distance))
    assert alpha.sum(axis=(1, 2)) == pytest.approx(math.pi * radius**2, rel=0.005)


def test_an_object_is_where_the_cameras_project_it(raycast, solid_of, uniform):
    centre = np.array([0.21, -0.13, 0.3])
    orbit = Orbit.static(num_views=5, elevation_deg=17.0, azimuth_deg=33.0, distance=2.5)
    cameras = orbit.cameras(height=SIZE, width=SIZE)
    alpha = raycast.render(solid_of(sphere(0.1, centre)), cameras, sky=uniform(0.5), seed=0)[..., 3]
    (expected,) = cameras.project(centre[None])[0].transpose(1, 0, 2)
    rows, columns = np.indices(alpha.shape[1:]) + 0.5
    weight = alpha / alpha.sum(axis=(1, 2), keepdims=True)
    found = np.stack([(weight * columns).sum(axis=(1, 2)), (weight * rows).sum(axis=(1, 2))], axis=1)
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_a_sphere_under_a_uniform_sky_shows_its_albedo(raycast, solid_of, uniform):
    albedo = np.array([0.8, 0.4, 0.1])
    cameras = Orbit.static(num_views=1).cameras(height=SIZE, width=SIZE)
    (view,) = raycast.render(solid_of(sphere(), colour=albedo), cameras, sky=uniform(0.7), seed=0)
    inside = view[..., 3] == 255
    expected = np.broadcast_to(0.7 * albedo, (inside.sum(), 3))
    np.testing.assert_allclose(linear(raycast, view)[inside], expected, atol=0.004)


def test_a_square_seen_from_the_front_shows_its_texture(raycast, solid_of, uniform):
    """At the centres of the texels; its right is the picture's right, its top the picture's top."""
    generator = np.random.default_rng(0)
    texture = generator.uniform(0.1, 0.9, (4, 4, 3))
    corners = np.array([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]])
    mesh = trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], process=False)
    solid = solid_of(mesh, colour=texture, uv=[[0, 0], [1, 0], [1, 1], [0, 1]])
    cameras = Orbit.static(num_views=1, azimuth_deg=-90, elevation_deg=0).cameras(height=192, width=192)
    (view,) = raycast.render(solid, cameras, sky=uniform(1.0), seed=0)
    ticks = (np.arange(4) + 0.5) / 4 - 0.5
    points = np.array([[x, 0, -z] for z in ticks for x in ticks])
    column, row = np.floor(cameras.project(points)[0][0]).astype(int).T
    np.testing.assert_allclose(linear(raycast, view)[row, column].reshape(4, 4, 3), texture, atol=0.02)


def test_a_mirror_reflects_the_sky_behind_the_camera(raycast, solid_of):
    sky = raycast.Sky.fixed()
    solid = solid_of(sphere(), colour=(1.0, 0.5, 0.2), surface=(0.0, 1.0))
    cameras = Orbit.static(num_views=3, elevation_deg=20.0).cameras(height=49, width=49)
    views = raycast.render(solid, cameras, sky=sky, seed=0)
    toward = cameras.positions / np.linalg.norm(cameras.positions, axis=1, keepdims=True)
    expected = np.clip(sky.radiance(toward) * [1.0, 0.5, 0.2], 0, 1)
    np.testing.assert_allclose(linear(raycast, views)[:, 24, 24], expected, atol=0.02)


def test_half_the_sky_reaches_a_corner_of_black_walls(raycast, solid_of, uniform):
    """On a floor at the foot of a wall; the form factor (1 - cos) / 2 of an endless wall is a half there."""
    floor = np.array([[-0.5, -0.45, -0.45], [0.5, -0.45, -0.45], [0.5, 0.45, -0.45], [-0.5, 0.45, -0.45]])
    wall = np.array([[-0.5, 0.45, -0.45], [0.5, 0.45, -0.45], [0.5, 0.45, 0.45], [-0.5, 0.45, 0.45]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    mesh = trimesh.Trimesh(np.concatenate([floor, wall]), np.concatenate([faces, faces + 4]), process=False)
    solid = solid_of(mesh, colour=(0.0, 0.0, 0.0))
    orbit = Orbit.static(num_views=1, azimuth_deg=-90.0, elevation_deg=50.0, distance=3.0)
    hits = raycast.look(solid, orbit.cameras(height=SIZE, width=SIZE)).hits
    light = raycast.bake(solid, [hits], uniform(1.0), np.random.default_rng(0))
    point, normal, _ = hits.on(solid)
    share = light.share(hits)[:, 0]
    middle = (normal[:, 2] > 0.99) & (np.abs(point[:, 0]) < 0.2)
    assert share[middle & (point[:, 1] > 0.4)].mean() == pytest.approx(0.5, abs=0.06)
    assert share[middle & (point[:, 1] < -0.3)].mean() == pytest.approx(0.88, abs=0.05)


def test_lights_are_never_negative(raycast):
    generator = np.random.default_rng(0)
    for sky in [raycast.Sky.fixed(), *(raycast.Sky.random(generator) for _ in range(50))]:
        assert (np.linalg.norm(sky.slope, axis=1) < sky.mean).all()


@pytest.fixture(scope="module")
def listing(_scripts, tmp_path_factory):
    out = tmp_path_factory.mktemp("objects")
    script = importlib.import_module("make_objects")
    return script.write_objects(names=["car", "furniture"], count=2, seed=0, out=out)


def run(make_orbits, monkeypatch, *args):
    monkeypatch.setattr("sys.argv", ["make_orbits.py", *map(str, args)])
    make_orbits.main()


def test_orbits_are_whole_samples_that_resume(make_orbits, listing, tmp_path, monkeypatch):
    args = (listing, "--out", tmp_path, "--size", 24, "--views", 3, "--orbits-per-object", 2)
    run(make_orbits, monkeypatch, *args)
    folders = sample.find(tmp_path)
    assert [folder.name for folder in folders] == [
        "car-000000", "car-000000-1", "furniture-000000", "furniture-000000-1"
    ]  # fmt: skip
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*.*")}
    (folders[1] / "transforms.json").unlink()
    run(make_orbits, monkeypatch, *args)
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*.*")}
    assert {path: found[0] for path, found in after.items()} == {p: found[0] for p, found in before.items()}
    made_again = {path.relative_to(tmp_path).parts[0] for path in after if after[path] != before[path]}
    assert made_again == {folders[1].name}
    car = sample.read(folders[0])
    assert (car.about["family"], car.about["licence"]) == ("car", "CC0-1.0")
    assert car.about["light"]["kind"] == "sky"
    assert car.orbit is not None
    from_front = (car.orbit.azimuths_deg[0] + 90 + 180) % 360 - 180
    assert 25 <= abs(from_front) <= 60
    assert sample.read(folders[1]).orbit != car.orbit


def test_the_front_of_a_car_is_where_view_0_begins(raycast, listing, uniform):
    """Seen from -Y are its yellow headlights, from +Y its red tail lights and no yellow."""
    solid = raycast.read(listing.parent / "objects/car-000000.glb")
    np.testing.assert_allclose(np.ptp(solid.vertices, axis=0).max(), 1, atol=1e-6)
    orbit = Orbit.static(num_views=2, azimuth_deg=-90.0, elevation_deg=0.0).fitted(solid.vertices)
    views = raycast.render(solid, orbit.cameras(height=96, width=96), sky=uniform(1.0), seed=0)
    lamp = np.abs(views[..., :3].astype(int) - (255, 240, 170)).max(axis=-1) < 30
    front, back = lamp.sum(axis=(1, 2))
    assert front > 10 > back


def test_views_fill_the_frame_as_renders_do(make_orbits, listing, tmp_path, monkeypatch):
    run(make_orbits, monkeypatch, listing, "--out", tmp_path, "--size", 40, "--limit", 1, "--light", "random")
    (folder,) = sample.find(tmp_path)
    found = sample.read(folder)
    rows, columns = (np.flatnonzero((found.images[..., 3] > 127).any(axis=axes)) for axes in ((0, 2), (0, 1)))
    reach = max(np.abs(np.concatenate([rows, columns]) + 0.5 - 20)) / 20
    assert reach == pytest.approx(0.9, abs=0.05)
    assert images.composite(found.images).std() > 0.05


def test_an_object_without_a_texture_is_refused(raycast, tmp_path):
    trimesh.creation.box().export(tmp_path / "box.glb")
    with pytest.raises(raycast.ObjectError, match=r"box\.glb: has no PBR texture; make objects with"):
        raycast.read(tmp_path / "box.glb")
