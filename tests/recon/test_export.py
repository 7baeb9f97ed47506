"""GLB: upright, unmirrored, with its colours, read back as it was written, and readable by others."""

import json
import struct

import numpy as np
import pytest
import trimesh

from recon import export, raster
from svd3d import Orbit
from svd3d.errors import InputError, ObjectError


def test_round_trip_keeps_orientation_and_texture(tmp_path, coloured_cube, colour_of_side):
    export.write_glb(tmp_path / "mesh.glb", coloured_cube)
    back = export.read_glb(tmp_path / "mesh.glb")
    np.testing.assert_allclose(back.vertices, coloured_cube.vertices, atol=1e-6)
    np.testing.assert_array_equal(back.faces, coloured_cube.faces)
    orbit = Orbit((0.0, 90.0, 180.0, 270.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0, 90.0, -90.0), 2.5)
    cameras = orbit.cameras(height=15, width=15)
    rgba, _ = raster.render(back, cameras)
    for view, direction in enumerate(cameras.positions / 2.5):
        assert tuple(rgba[view, 7, 7]) == (*colour_of_side(direction), 255)


def test_the_file_itself_is_y_up(ell):
    loaded = trimesh.load_scene(trimesh.util.wrap_as_stream(export.to_glb(ell)), file_type="glb").to_mesh()
    np.testing.assert_allclose(loaded.extents, [ell.extents[0], ell.extents[2], ell.extents[1]], atol=1e-6)
    # the bump at +Y of the world lies at -Z of the file, the foot stays at +X
    assert loaded.bounds[:, 2] == pytest.approx([-0.3, 0.1])
    assert loaded.vertices[loaded.vertices[:, 1] > 0.4][:, 0].max() == pytest.approx(-0.2)


def test_the_material_is_plain_pbr_with_an_embedded_png(coloured_cube):
    data = export.to_glb(coloured_cube)
    length = struct.unpack("<I", data[12:16])[0]
    content = json.loads(data[20 : 20 + length])
    (material,) = content["materials"]
    assert "baseColorTexture" in material["pbrMetallicRoughness"]
    assert content["images"][0]["mimeType"] == "image/png"
    assert "extensionsRequired" not in content
    assert {"POSITION", "NORMAL", "TEXCOORD_0"} <= set(content["meshes"][0]["primitives"][0]["attributes"])


@pytest.mark.parametrize(
    "data", [b"", b"not a glb at all", b"glTF" + bytes(40), b"glTF\x02\x00\x00\x00" + bytes(40)]
)
def test_what_is_no_glb_is_refused_by_name(tmp_path, data):
    (tmp_path / "mesh.glb").write_bytes(data)
    with pytest.raises(ObjectError, match=r"mesh\.glb: not a"):
        export.read_glb(tmp_path / "mesh.glb")


def test_missing_and_empty_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such GLB file"):
        export.read_glb(tmp_path / "nothing.glb")
    content = json.dumps({"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": []}]}).encode()
    content += b" " * (-len(content) % 4)
    header = struct.pack("<4sII", b"glTF", 2, 20 + len(content))
    (tmp_path / "empty.glb").write_bytes(header + struct.pack("<I4s", len(content), b"JSON") + content)
    with pytest.raises(ObjectError, match=r"empty\.glb: (holds no triangles|not a readable GLB)"):
        export.read_glb(tmp_path / "empty.glb")
