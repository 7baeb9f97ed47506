"""Blender itself: cameras, light, axes and depth against closed forms; hostile files; sudden death."""

import json
import os
import signal
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from render import light
from render import run as stage
from render.config import RenderConfig
from svd3d import images, runs, sample
from svd3d.cameras import GLTF_TO_WORLD

pytestmark = [
    pytest.mark.bpy,
    pytest.mark.skipif(
        stage.importlib.util.find_spec("bpy") is None, reason="needs bpy, which is not installed"
    ),
]
SIZE = 64
BALLS = {  # centre as stored in the GLB (+Y up), base colour
    "red": ((0.9, 0.1, -0.4), (0.9, 0.02, 0.02)),
    "green": ((-0.7, 0.8, 0.1), (0.02, 0.8, 0.02)),
    "blue": ((0.1, -0.9, 0.6), (0.02, 0.02, 0.9)),
    "grey": ((-0.5, -0.3, -0.9), (0.5, 0.5, 0.5)),
}
RADIUS = 0.12


def matte(mesh, colour):
    """The mesh with a plain rough colour (linear)."""
    material = trimesh.visual.material.PBRMaterial(
        baseColorFactor=[*colour, 1.0], metallicFactor=0.0, roughnessFactor=1.0
    )
    mesh.visual = trimesh.visual.TextureVisuals(material=material)
    return mesh


def rewritten(glb: bytes, change) -> bytes:
    """A GLB with changed JSON."""
    length = struct.unpack("<I", glb[12:16])[0]
    content = json.loads(glb[20 : 20 + length])
    change(content)
    data = json.dumps(content).encode()
    data += b" " * (-len(data) % 4)
    rest = glb[20 + length :]
    return struct.pack("<4sIIII", b"glTF", 2, 20 + len(data) + len(rest), len(data), 0x4E4F534A) + data + rest


def without_specular(content):
    """Principled shaders reflect 4 percent; Lambert's closed form needs none."""
    for material in content["materials"]:
        material["pbrMetallicRoughness"]["baseColorFactor"] = [0.8, 0.8, 0.8, 1.0]
        material["extensions"] = {"KHR_materials_specular": {"specularFactor": 0.0}}
    content["extensionsUsed"] = ["KHR_materials_specular"]


def with_companions(content):
    """A camera and a strong lamp, far away: neither may move the object or light it."""
    content["cameras"] = [{"type": "perspective", "perspective": {"yfov": 1.0, "znear": 0.1}}]
    content["extensionsUsed"] = ["KHR_lights_punctual"]
    content["extensions"] = {"KHR_lights_punctual": {"lights": [{"type": "point", "intensity": 1e6}]}}
    first = len(content["nodes"])
    content["nodes"] += [
        {"camera": 0, "translation": [0, 50, 0]},
        {"extensions": {"KHR_lights_punctual": {"light": 0}}, "translation": [3, 3, 3]},
    ]
    content["scenes"][0]["nodes"] += [first, first + 1]


def stored_like(positions) -> bytes:
    """A GLB of one triangle with these stored positions, whatever they are."""
    glb = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]).export(file_type="glb")
    old = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32).tobytes()
    assert old in glb
    return glb.replace(old, np.array(positions, np.float32).tobytes())


def ell(up: int) -> trimesh.Trimesh:
    """A tall bar with a foot towards +X; `up` is the stored axis that points up."""
    bar = trimesh.creation.box(bounds=[[-0.5, -0.2, 0.0], [0.0, 0.2, 2.0]])
    foot = trimesh.creation.box(bounds=[[0.0, -0.2, 0.0], [1.0, 0.2, 0.5]])
    mesh = trimesh.util.concatenate([bar, foot])
    if up == 1:
        mesh.apply_transform(np.linalg.inv(GLTF_TO_WORLD))
    return mesh


def make_objects(folder: Path) -> None:
    balls = trimesh.Scene()
    for name, (centre, colour) in BALLS.items():
        ball = matte(trimesh.creation.icosphere(subdivisions=3, radius=RADIUS), colour)
        balls.add_geometry(ball.apply_translation(centre), node_name=name, geom_name=name)
    balls.export(folder / "balls.glb")
    sphere = matte(trimesh.creation.icosphere(subdivisions=5, radius=3.0), (0.8, 0.8, 0.8))
    glb = sphere.export(file_type="glb", include_normals=True)
    (folder / "sphere.glb").write_bytes(rewritten(glb, without_specular))
    cube = matte(trimesh.creation.box(), (0.5, 0.5, 0.5)).export(file_type="glb")
    (folder / "cube.glb").write_bytes(cube)
    (folder / "companions.glb").write_bytes(rewritten(cube, with_companions))
    ell(up=1).export(folder / "ell_y.glb")
    for suffix in ("obj", "ply", "stl"):
        mesh = ell(up=2)
        if suffix == "ply":
            mesh.visual.vertex_colors = [255, 0, 0, 255]
        mesh.export(folder / f"ell_{suffix}.{suffix}")
    (folder / "bare.obj").write_text(
        "mtllib bare.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 1\nvt 0 0\nusemtl m\nf 1/1 2/1 3/1\n"
    )
    (folder / "bare.mtl").write_text("newmtl m\nmap_Kd gone.png\n")
    Image.new("RGB", (4, 4)).save(folder.parent / "secret.png")
    (folder / "nosy.obj").write_text(
        "mtllib nosy.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 1\nvt 0 0\nusemtl m\nf 1/1 2/1 3/1\n"
    )
    (folder / "nosy.mtl").write_text(f"newmtl m\nmap_Kd {folder.parent / 'secret.png'}\n")
    (folder / "tiny.glb").write_bytes(stored_like(np.full((3, 3), 1e-39)))
    (folder / "nan.glb").write_bytes(stored_like([[0, 0, 0], [1, 0, np.nan], [0, 1, 0]]))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Every object of this file, rendered once; results by uid."""
    folder = tmp_path_factory.mktemp("objects") / "inside"
    folder.mkdir()
    make_objects(folder)
    config = RenderConfig(
        folder,
        tmp_path_factory.mktemp("out"),
        views=4,
        size=SIZE,
        samples=16,
        elevation_deg=(15, 25),
        threads=1,
    )
    return {result.uid: result for result in stage.run(config)}


def views_of(rendered, uid):
    result = rendered[uid]
    assert result.status == "done", result.message
    return sample.read(result.folder)


def test_balls_are_where_the_cameras_say(rendered):
    made = views_of(rendered, "balls")
    stored = np.array([[*centre, 1] for centre, _ in BALLS.values()])
    centres = (stored @ made.object_to_world.T)[:, :3]
    pixels, depth = made.cameras.project(centres)
    scale = made.object_to_world[:3, :3]
    radius = RADIUS * np.cbrt(np.linalg.det(scale)) * made.cameras.intrinsics[0, 0, 0] / depth
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    errors = []
    for view, image in enumerate(made.images):
        for ball, colour in enumerate(colour for _, colour in BALLS.values()):
            gaps = np.delete(np.linalg.norm(pixels[view] - pixels[view, ball], axis=1), ball)
            if gaps.min() < 2 * radius[view].max() + 4:
                continue  # another ball is too near to tell them apart
            near = np.hypot(x - pixels[view, ball, 0], y - pixels[view, ball, 1]) < radius[view, ball] + 2
            weight = image[..., 3] / 255 * near
            centroid = np.array([(x * weight).sum(), (y * weight).sum()]) / weight.sum()
            errors.append(np.linalg.norm(centroid - pixels[view, ball]))
            mean = (image[..., :3] * weight[..., None]).sum((0, 1)) / weight.sum()
            assert max(colour) - min(colour) < 0.1 or mean.argmax() == np.argmax(colour)
    assert len(errors) >= 8
    assert max(errors) < 0.1


def test_the_neutral_sky_lights_a_sphere_as_the_closed_form_says(rendered):
    """Radiance of a Lambertian sphere of albedo 0.8: 0.8 (mean + 2/3 slope . n)."""
    made = views_of(rendered, "sphere")
    sky = light.sky()
    origins, directions = made.cameras.rays()
    for view, image in enumerate(images.to_float(made.images)):
        origin, ray = origins[view], directions[view]
        a, b = (ray**2).sum(-1), ray @ origin
        root = b**2 - a * (origin @ origin - 0.25)
        normal = 2 * (origin + ray * ((-b - np.sqrt(np.maximum(root, 0))) / a)[..., None])
        facing = -(normal * ray).sum(-1) / np.sqrt(a)
        seen = (root > 0) & (facing > 0.25) & (image[..., 3] == 1)
        assert seen.sum() > 1500
        expected = 0.8 * (sky["mean"] + 2 / 3 * normal @ np.array(sky["slope"]))
        linear = np.where(image > 0.04045, ((image + 0.055) / 1.055) ** 2.4, image / 12.92)[..., :3]
        error = np.abs(linear[seen] / expected[seen][:, None] - 1)
        assert error.mean() < 0.02
        assert linear[seen].mean() == pytest.approx(expected[seen].mean(), rel=0.005)


@pytest.mark.parametrize("uid", ["ell_y", "ell_obj", "ell_ply", "ell_stl"])
def test_an_ell_stands_upright_with_its_foot_to_the_right(rendered, uid):
    made = views_of(rendered, uid)
    assert made.orbit.azimuths_deg[3] == 270  # the camera at -Y sees +X to the right
    alpha = made.images[3, ..., 3] > 127
    rows, columns = np.nonzero(alpha)
    box = alpha[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = box.shape
    assert height > width
    assert box[height // 2 :, width // 2 :].mean() > 0.35  # the foot
    assert not box[: height // 2, width // 2 :].any()  # nothing above it
    assert box[:, : width // 4].mean() > 0.8  # the bar


def test_an_ell_is_the_same_in_every_format(rendered):
    first, second = views_of(rendered, "ell_y"), views_of(rendered, "ell_obj")
    corner = np.array([1, 0.2, 0, 1])
    stored = corner @ np.linalg.inv(GLTF_TO_WORLD).T
    assert first.object_to_world @ stored == pytest.approx(second.object_to_world @ corner, abs=1e-6)


def test_vertex_colours_are_shown(rendered):
    image = images.to_float(views_of(rendered, "ell_ply").images)
    red, green, _ = image[image[..., 3] == 1].mean(0)[:3]
    assert red > 0.5
    assert green < 0.25


def test_depth_of_a_cube_is_along_the_optical_axis(rendered):
    made = views_of(rendered, "cube")
    origins, directions = made.cameras.rays()
    for view in range(len(made)):
        with np.errstate(divide="ignore"):
            slabs = (np.array([-0.5, 0.5])[:, None, None, None] - origins[view]) / directions[view]
        near, far = slabs.min(0).max(-1), slabs.max(0).min(-1)
        solid = made.images[view, ..., 3] == 255
        assert ((near < far) == (made.images[view, ..., 3] > 127)).mean() > 0.99
        error = (made.depth[view] - near)[solid & (near < far)]
        assert abs(np.median(error)) < 1e-4
        assert np.percentile(np.abs(error), 95) < 5e-4  # stored in steps of 1e-4
        assert (made.depth[view][made.images[view, ..., 3] == 0] == 0).all()


def test_the_object_fills_the_frame_and_touches_no_border(rendered):
    for uid in ("balls", "sphere", "cube", "ell_y"):
        alpha = views_of(rendered, uid).images[..., 3]
        rim = np.concatenate([alpha[:, [0, -1]].ravel(), alpha[:, :, [0, -1]].ravel()])
        assert not rim.any()
        reach = max(np.abs(np.argwhere(image > 127) + 0.5 - SIZE / 2).max() for image in alpha) / (SIZE / 2)
        assert reach == pytest.approx(0.9, abs=0.05)


def test_cameras_and_lamps_of_the_file_are_dropped(rendered):
    plain, lit = views_of(rendered, "cube"), views_of(rendered, "companions")
    assert lit.object_to_world == pytest.approx(plain.object_to_world)
    means = [made.images[made.images[..., 3] == 255].mean() for made in (plain, lit)]
    assert means[0] == pytest.approx(means[1], rel=0.03)


def test_hostile_files_are_told_apart(rendered):
    assert "gone.png" in rendered["bare"].message
    assert rendered["bare"].status == "done"
    assert "outside its folder" in rendered["nosy"].message
    assert "no usable size" in rendered["tiny"].message
    assert "1 positions are not finite" in rendered["nan"].message
    for uid in ("nosy", "tiny", "nan"):
        assert rendered[uid].folder is None
        assert "\n" not in rendered[uid].message


@pytest.fixture
def cups(tmp_path):
    folder = tmp_path / "objects"
    folder.mkdir()
    for name in ("cup", "mug"):
        matte(trimesh.creation.box(), (0.6, 0.4, 0.2)).export(folder / f"{name}.glb")
    return folder


def small(source, out, **changes):
    return RenderConfig(source, out, **{"views": 3, "size": 16, "samples": 4, "threads": 1, **changes})


def test_the_same_seed_gives_the_same_bytes_and_one_colour_of_sky_one_colour_of_object(cups, tmp_path):
    hdri = tmp_path / "flat.hdr"
    pixels = np.full((2, 4, 4), (128, 64, 32, 128), np.uint8)  # 0.5, 0.25, 0.125
    hdri.write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 2 +X 4\n" + pixels.tobytes())
    for name in ("first", "second"):
        list(stage.run(small(cups / "cup.glb", tmp_path / name, hdri=hdri)))
    files = [
        p.relative_to(tmp_path / "first/cup") for p in (tmp_path / "first/cup").rglob("*") if p.is_file()
    ]
    assert len(files) == 7
    for file in files:
        assert (tmp_path / "first/cup" / file).read_bytes() == (tmp_path / "second/cup" / file).read_bytes()
    made = sample.read(tmp_path / "first/cup")
    colour = images.to_float(made.images[made.images[..., 3] == 255]).mean(0)[:3]
    linear = ((colour + 0.055) / 1.055) ** 2.4
    assert linear[0] / linear[1] == pytest.approx(0.5 * 0.6 / (0.25 * 0.4), rel=0.1)
    assert made.about["light"]["file"] == "flat.hdr"


def children() -> list[int]:
    """Ids of our own children that run Blender."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"worker.py" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find the child")
def test_a_blender_killed_in_the_middle_costs_nothing(cups, tmp_path):
    killed = []

    def kill_once(uid, done, total):
        if not killed and done == 2:
            killed.extend(children())
            os.kill(killed[0], signal.SIGKILL)

    found = {r.uid: r for r in stage.run(small(cups, tmp_path / "out"), on_view=kill_once)}
    assert len(killed) == 1
    assert {uid: result.status for uid, result in found.items()} == {"cup": "done", "mug": "done"}
    rows = [(row["uid"], row["status"]) for row in runs.read_lines(tmp_path / "out/ledger.jsonl")]
    assert sorted(rows) == [("cup", "done"), ("cup", "requeued"), ("mug", "done")]
    assert children() == []


def test_a_real_duck(shared_data, tmp_path):
    path = shared_data / "models/Duck.glb"
    if not path.is_file():
        pytest.skip("needs Duck.glb in the shared data")
    (result,) = stage.run(small(path, tmp_path / "out", size=32))
    made = sample.read(result.folder)
    red, green, blue = images.to_float(made.images[made.images[..., 3] == 255]).mean(0)[:3]
    assert red > green > 2 * blue  # yellow
    assert 0.2 < (made.images[..., 3] > 127).mean() < 0.6
    assert made.about["quality"]["faces"] == 4212
