"""Every family of `scripts/objects`: closed, standing, textured, seeded; and how a texture is laid on."""

import importlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

SCRIPTS = Path(__file__).parents[2] / "scripts"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(SCRIPTS)
    script = importlib.import_module("make_objects")
base, families = script.base, script.families
SEEDS = range(4)


@pytest.fixture(scope="module", params=families.FAMILIES)
def made(request) -> list[tuple[Any, bytes]]:
    """Some objects of a family and their GLBs."""
    things = [families.make(request.param, seed) for seed in SEEDS]
    return [(thing, base.to_glb(thing, name="thing")) for thing in things]


def read(glb: bytes) -> Any:
    """The one mesh of a GLB."""
    (mesh,) = trimesh.load_scene(io.BytesIO(glb), file_type="glb", process=False).geometry.values()
    return mesh


def test_parts_are_closed_and_turned_outward(made):
    for thing, _ in made:
        for part in thing.parts:
            solid = trimesh.Trimesh(part.vertices, part.faces)  # merges what flat shading splits
            solid.update_faces((np.diff(np.sort(solid.faces, axis=1), axis=1) > 0).all(axis=1))
            assert solid.is_volume, f"{part.material}: not closed, or not turned one way"
            assert solid.volume > 0, f"{part.material}: inside out"


def test_normals_point_out_of_their_faces(made):
    for thing, _ in made:
        for part in thing.parts:
            corners = part.vertices[part.faces]
            area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            along = np.einsum("fi,fki->f", area, part.normals[part.faces])
            size = np.linalg.norm(area, axis=1)
            assert size[along < 0].sum() < 0.01 * size.sum()
            assert np.allclose(np.linalg.norm(part.normals[part.faces], axis=-1), 1, atol=1e-6)


def test_a_glb_is_one_textured_mesh_that_stands_on_the_floor(made):
    for _, glb in made:
        mesh = read(glb)
        size = mesh.extents.max()
        assert np.isfinite(mesh.vertices).all()
        assert 0.05 < size < 40
        assert mesh.bounds[0, 1] == pytest.approx(0, abs=0.01 * size)
        assert np.abs(mesh.bounds.mean(axis=0)[[0, 2]]).max() < 0.1 * size
        uv = np.asarray(mesh.visual.uv)
        assert uv.min() >= 0
        assert uv.max() <= 1
        assert len(mesh.visual.material.baseColorTexture.getcolors(1 << 24)) > 2


def test_what_is_read_is_what_was_made(made):
    for thing, glb in made:
        mesh = read(glb)
        assert len(mesh.faces) == sum(len(part.faces) for part in thing.parts)
        assert mesh.bounds == pytest.approx(thing.bounds() * thing.scale, abs=1e-6)
        finish = mesh.visual.material.metallicRoughnessTexture
        assert (finish is None) == all(material.matte for material in thing.materials.values())
        assert (b"KHR_materials_specular" in glb) == (finish is None)


def test_a_seed_is_an_object(made, request):
    family = request.node.callspec.params["made"]
    assert base.to_glb(families.make(family, SEEDS[-1]), name="thing") == made[-1][1]
    contents = {script.content(glb) for _, glb in made}
    contents.add(script.content(base.to_glb(families.make(family, SEEDS[-1], attempt=1), name="thing")))
    assert len(contents) == len(SEEDS) + 1


def test_trained_and_held_out_families_share_nothing():
    assert set(families.TRAINED).isdisjoint(families.HELD_OUT)
    assert set(families.TRAINED) | families.HELD_OUT == set(families.FAMILIES)
    assert {"car", "furniture"} <= set(families.TRAINED)


def test_the_bundled_toy_car_is_still_made_bit_for_bit():
    bundled = SCRIPTS.parent / "svd3d/assets/objects/toy_car.glb"
    assert script.content(base.to_glb(families.make("car", 1659), name="toycar-001659")) == script.content(
        bundled.read_bytes()
    )


def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Red grows to the right and green upwards, from 0 to 254 over the texture."""
    return np.stack([2 * x, 2 * y, np.full_like(x, 100)], axis=-1).astype(np.uint8)


def colours(solid, mapping) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, normal, and colour read from the GLB, of each triangle of a solid that wears `texture`."""
    right, down = np.meshgrid(np.arange(base.TEXTURE_PIXELS), np.arange(base.TEXTURE_PIXELS))
    gradient = texture(right, base.TEXTURE_PIXELS - 1 - down)
    thing = base.Object({"other": base.Material((9, 9, 9)), "worn": base.Material(gradient)})
    thing.add(solid, "worn", mapping=mapping)
    mesh = read(base.to_glb(thing, name="thing"))
    image = np.asarray(mesh.visual.material.baseColorTexture)
    u, v = np.asarray(mesh.visual.uv)[mesh.faces].mean(axis=1).T
    rows = np.floor((1 - v) * image.shape[0]).astype(int)
    columns = np.floor(u * image.shape[1]).astype(int)
    return mesh.triangles_center, mesh.face_normals, image[rows, columns].astype(float)


def test_a_texture_reads_upright_and_unmirrored_on_each_side_of_a_box():
    box = trimesh.creation.box((1.0, 1.0, 1.0))
    centres, normals, colour = colours((box.vertices, box.faces), "object")
    views = {  # outward normal -> what is right and what is up for who looks at that face
        (0, 0, 1): ((1, 0, 0), (0, 1, 0)),
        (0, 0, -1): ((-1, 0, 0), (0, 1, 0)),
        (1, 0, 0): ((0, 0, -1), (0, 1, 0)),
        (-1, 0, 0): ((0, 0, 1), (0, 1, 0)),
        (0, 1, 0): ((1, 0, 0), (0, 0, -1)),
        (0, -1, 0): ((1, 0, 0), (0, 0, 1)),
    }
    for normal, (right, up) in views.items():
        mine = normals @ normal > 0.5
        assert mine.sum() == 2
        assert colour[mine, 0] == pytest.approx(256 * (centres[mine] @ right + 0.5), abs=3)
        assert colour[mine, 1] == pytest.approx(256 * (centres[mine] @ up + 0.5), abs=3)


def test_a_texture_wraps_a_lathe_once_and_its_middle_faces_the_front():
    profile = [(1.0, 0.0), (1.0, 1.0), (1.0, 2.0)]
    centres, normals, colour = colours(base.revolve(profile, (0, 0, 0), "y", 24), "round")
    side = np.abs(normals[:, 1]) < 0.5
    turn = np.arctan2(centres[side, 0], centres[side, 2]) / (2 * np.pi) + 0.5
    assert colour[side, 0] == pytest.approx(256 * turn, abs=4)
    assert colour[side, 1] == pytest.approx(128 * centres[side, 1], abs=3)


def test_a_solid_may_bring_its_own_places_in_the_texture():
    square = trimesh.creation.box((1.0, 1.0, 1.0))
    place = np.tile([[0.25, 0.75]], (len(square.vertices), 1))
    _, _, colour = colours((square.vertices, square.faces), place)
    assert colour[:, 0] == pytest.approx(64, abs=3)
    assert colour[:, 1] == pytest.approx(192, abs=3)


def test_finishes_differ_by_part():
    thing = base.Object({"iron": base.Material((90, 90, 90), 0.2, 1.0), "wood": base.Material((150, 90, 40))})
    thing.add(base.box((0, 1, 0), (1, 1, 1), 0.1), "iron")
    thing.add(base.box((3, 1, 0), (1, 1, 1), 0.1), "wood")
    mesh = read(base.to_glb(thing, name="thing"))
    finish = np.asarray(mesh.visual.material.metallicRoughnessTexture)
    u, v = np.asarray(mesh.visual.uv).T
    read_out = finish[((1 - v) * len(finish)).astype(int), (u * len(finish)).astype(int)]
    iron = mesh.vertices[:, 0] < 1.5
    assert np.unique(read_out[iron][:, 1:], axis=0).tolist() == [[51, 255]]
    assert np.unique(read_out[~iron][:, 1:], axis=0).tolist() == [[153, 0]]


def test_a_list_of_objects_mixes_its_families_resumes_and_repeats_nothing(tmp_path, monkeypatch, capsys):
    listing = script.write_objects(names=["car", "furniture"], count=4, seed=5, out=tmp_path)
    rows = [json.loads(line) for line in listing.read_text().splitlines()]
    assert [row["uid"] for row in rows] == [
        "car-000005",
        "furniture-000005",
        "car-000006",
        "furniture-000006",
    ]
    assert [row["family"] for row in rows] == ["car", "furniture"] * 2
    before = listing.read_bytes()
    (tmp_path / rows[2]["path"]).unlink()
    kept = (tmp_path / rows[0]["path"]).stat().st_mtime_ns
    assert script.write_objects(names=["car", "furniture"], count=4, seed=5, out=tmp_path) == listing
    assert listing.read_bytes() == before
    assert (tmp_path / rows[0]["path"]).stat().st_mtime_ns == kept

    first = families.make("car", 5)
    monkeypatch.setattr(
        script.families,
        "make",
        lambda family, seed, attempt: (
            families.FAMILIES["furniture"](np.random.default_rng(attempt)) if attempt else first
        ),
    )
    listing = script.write_objects(names=["car"], count=2, seed=0, out=tmp_path / "twins")
    assert "car-000001: equals car-000000, drawn again (1)" in capsys.readouterr().err
    assert len({script.content(path.read_bytes()) for path in listing.parent.glob("objects/*.glb")}) == 2
