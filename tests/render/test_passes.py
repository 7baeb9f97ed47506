"""Blender's pictures against Blender: probes, edges, the pilot, another Blender, environments."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import trimesh

from render import light, plan
from render import run as stage
from render.blender import compose
from render.config import RenderConfig
from svd3d import sample
from svd3d.cameras import Orbit

pytestmark = [
    pytest.mark.bpy,
    pytest.mark.skipif(find_spec("bpy") is None, reason="needs bpy, which is not installed"),
]
SIZE = 66

EXPERIMENT = """
import json, os, sys
import numpy as np
from render.blender import worker
worker.import_bpy(threads=1)
from render.blender import passes, pilot, scene

request = json.loads(sys.argv[1])
scene.load(request.pop("object"), request["folder"], max_faces=10**6)
studio = passes.Studio(gpu=False, **request)
whole = (0, 0, studio.size, studio.size)

def raw(seed, samples=256):
    return passes.rgba(studio.passes(0, whole, samples=samples, seed=seed))

found = {"first": raw(1), "second": raw(2), "truth": raw(3, 1024), "probed": studio.probed(3)}
found["probe"] = studio.probe(0, 256, step=3, seed=4)
surface = studio.surface(0, 5)
rows, columns = studio.box(0)
found["alpha"] = np.zeros((studio.size, studio.size, 1), np.float32)
found["alpha"][rows, columns] = surface.alpha
shots = pilot.Shots(studio)
found["picture"] = np.zeros((studio.size, studio.size, 4), np.float32)
method, psnr = pilot.choose(shots, min_psnr=36.0)
found["picture"][rows, columns] = shots.picture(0, method)
np.savez(os.path.join(request["folder"], "found.npz"), psnr=psnr, method=np.array(method), **found)
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture(scope="module")
def thing(tmp_path_factory):
    """A rough blue box and a shiny ball, with nothing symmetric about them."""
    box = trimesh.creation.box(extents=[1, 0.4, 0.7])
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.35)
    ball.apply_translation([0.2, 0.5, 0.1])
    for mesh, colour, metal, rough in ((box, [0.1, 0.2, 0.7], 0.0, 0.9), (ball, [0.8, 0.6, 0.3], 0.8, 0.25)):
        material = trimesh.visual.material.PBRMaterial(
            baseColorFactor=[*colour, 1.0], metallicFactor=metal, roughnessFactor=rough
        )
        mesh.visual = trimesh.visual.TextureVisuals(material=material)
    path = tmp_path_factory.mktemp("thing") / "thing.glb"
    scene = trimesh.Scene([box, ball])
    scene.apply_transform(trimesh.transformations.euler_matrix(0.3, 0.5, 0.2))  # edges along no grid
    scene.export(path)
    return path


@pytest.fixture(scope="module")
def found(thing, tmp_path_factory):
    """What `EXPERIMENT` measured, with the passes and the pilot themselves."""
    folder = tmp_path_factory.mktemp("experiment")
    points = np.array(trimesh.load(thing, force="mesh").bounding_box.vertices) @ [
        [1, 0, 0],
        [0, 0, 1],
        [0, -1, 0],
    ]
    points = (points - (points.min(0) + points.max(0)) / 2) / np.ptp(points, axis=0).max()
    ring = plan.framed(Orbit.static(num_views=4, elevation_deg=15.0, fov_deg=33.8), points, fill=0.9)
    cameras = ring.cameras(height=SIZE, width=SIZE)
    request = {
        "object": str(thing),
        "folder": str(folder),
        "camera_to_world": cameras.camera_to_world.tolist(),
        "borders": plan.borders(cameras, points).tolist(),
        "fov_deg": 33.8,
        "size": SIZE,
        "threads": 1,
        "seed": 7,
        "light": light.sky(),
    }
    done = subprocess.run(
        [sys.executable, "-c", EXPERIMENT, json.dumps(request)], capture_output=True, text=True, check=False
    )
    assert (folder / "found.npz").exists(), done.stderr[-2000:]
    return dict(np.load(folder / "found.npz"))


def over_white(linear):
    straight = compose.to_display(linear)
    return straight[..., :3] * straight[..., 3:] + 1 - straight[..., 3:]


def rms(difference):
    return float(np.sqrt((difference**2).mean()))


def test_a_probe_is_the_pixels_of_the_full_picture_up_to_noise(found):
    pixels = np.ix_(found["probed"], found["probed"])
    noise = rms((found["first"] - found["second"])[pixels])
    assert noise > 0.001
    assert rms(found["first"][pixels] - found["probe"]) < 1.25 * noise
    shifted = np.ix_(found["probed"][:-1], found["probed"][:-1] + 1)
    assert rms(found["first"][shifted] - found["probe"][:-1, :-1]) > 5 * noise  # it can fail


def test_25_rays_on_a_grid_have_the_edges_of_a_thousand_at_random(found):
    error = found["alpha"][..., 0] - found["truth"][..., 3]
    edge = (found["truth"][..., 3] > 0.02) & (found["truth"][..., 3] < 0.98)
    assert edge.sum() > 50
    assert rms(error[edge]) < 0.02
    assert np.abs(error[~edge]).max() < 0.03


def test_the_pilot_says_the_fidelity_that_is_reached(found):
    seen = found["truth"][..., 3] > 0.01
    error = ((over_white(found["picture"]) - over_white(found["truth"])) ** 2).mean(-1)
    psnr = -10 * np.log10(error[seen].mean())
    assert found["method"][0] > 0  # not the fallback
    assert psnr > 35.5
    assert found["psnr"] == pytest.approx(psnr, abs=2.0)  # it saw four views, this is one


def config(thing, out, **changes):
    settings = {"views": 3, "size": 48, "elevation_deg": (12.0, 12.0), "threads": 1, "samples": 16}
    return RenderConfig(thing, out, **(settings | changes))


def test_a_fidelity_beyond_reach_is_told(thing, tmp_path):
    (result,) = stage.run(config(thing, tmp_path, min_psnr=60.0, views=2, size=16))
    assert result.status == "done"
    assert result.message.startswith("reached ")
    assert result.message.endswith(" dB of 60")
    method = sample.read(result.folder).about["method"]
    assert method["oversampling"] == 0
    assert 30 < method["psnr_db"] < 60


def test_another_blender_makes_the_same_picture(thing, tmp_path):
    blender = shutil.which("blender")
    if blender is None:
        pytest.skip("needs a Blender on the PATH")
    start = [blender, "--background", "--factory-startup", "--python-exit-code", "1"]
    if subprocess.run([*start, "--python-expr", "import numpy"], capture_output=True, check=False).returncode:
        pytest.skip("the Blender on the PATH has no numpy")
    made, notes = {}, {}
    for name, program in (("bpy", None), ("other", blender)):
        (result,) = stage.run(config(thing, tmp_path / name, blender=program, normal=True, samples=256))
        made[name], notes[name] = sample.read(result.folder), result.message
    ours, other = made["bpy"], made["other"]
    if not other.about["method"]["denoised"]:
        assert notes == {"bpy": "", "other": "noisy: this Blender was built without a denoiser"}
    assert np.array_equal(ours.cameras.camera_to_world, other.cameras.camera_to_world)
    assert np.abs(ours.images[..., 3].astype(int) - other.images[..., 3]).max() <= 8
    seen = (ours.images[..., 3] == 255) & (other.images[..., 3] == 255)
    assert -20 * np.log10(rms((ours.images.astype(float) - other.images)[..., :3][seen] / 255)) > 35
    both = (ours.depth > 0) & (other.depth > 0)
    assert np.quantile(np.abs(ours.depth - other.depth)[both], 0.99) < 1e-3
    assert np.quantile((ours.normal * other.normal).sum(-1)[both], 0.01) > 0.99


@pytest.mark.parametrize("seed", [0, 1])
def test_an_environment_lights_the_side_that_it_is_turned_to(tmp_path, seed):
    """A ball is brightest towards the only bright patch, in the middle of the picture."""
    ball = trimesh.creation.icosphere(subdivisions=4)
    material = trimesh.visual.material.PBRMaterial(roughnessFactor=1.0, metallicFactor=0.0)
    ball.visual = trimesh.visual.TextureVisuals(material=material)
    ball.export(tmp_path / "ball.glb")
    pixels = np.zeros((32, 64, 4), np.uint8)
    pixels[14:18, 30:34] = (128, 128, 128, 134)
    hdri = tmp_path / "patch.hdr"
    hdri.write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 32 +X 64\n" + pixels.tobytes())
    settings = config(tmp_path / "ball.glb", tmp_path / "out", hdri=hdri, seed=seed, normal=True, views=6)
    (result,) = stage.run(settings)
    made = sample.read(result.folder)
    solid = made.images[..., 3] == 255
    brightness = (made.images[solid][:, :3] / 255).mean(-1) ** 2.2
    x, y, z = (brightness[:, None] * made.normal[solid]).sum(0)
    turn = made.about["light"]["turn_deg"]
    assert (np.degrees(np.arctan2(y, x)) - turn + 180) % 360 - 180 == pytest.approx(0, abs=5)
    assert abs(z) < np.hypot(x, y) / 3


def test_objects_share_out_a_folder_of_real_environments(thing, shared_data, tmp_path):
    hdri = shared_data / "hdri"
    if not any(hdri.glob("*.hdr")) and not any(hdri.glob("*.exr")):
        pytest.skip("needs environment pictures in the shared data")
    folder = tmp_path / "objects"
    folder.mkdir()
    for name in "ab":
        scene = trimesh.load(thing)
        scene.apply_scale(ord(name))  # no copies of one another
        scene.export(folder / f"{name}.glb")
    made = [sample.read(r.folder) for r in stage.run(config(folder, tmp_path / "out", hdri=hdri, size=24))]
    lights = [each.about["light"]["file"] for each in made]
    assert len(set(lights)) > 1
    assert {light for light in lights} <= {path.name for path in hdri.iterdir()}
    levels = [each.images[each.images[..., 3] == 255][:, :3].mean(0) for each in made]
    assert np.ptp(levels, axis=0).max() > 3
