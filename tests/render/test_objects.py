"""Files that must not reach Blender, and how objects are found and named."""

import base64
import contextlib
import io
import json
import os
import pickle
import struct
import tracemalloc
import unicodedata
import zlib

import numpy as np
import pytest
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from render import objects
from svd3d.errors import InputError, ObjectError
from svd3d.runs import sha256


@pytest.fixture(scope="module")
def box():
    return trimesh.creation.box().export(file_type="glb")


def parts(glb: bytes) -> tuple[dict, bytes]:
    length = struct.unpack("<I", glb[12:16])[0]
    return json.loads(glb[20 : 20 + length]), glb[20 + length :]


def glb_of(content: dict | bytes, rest: bytes = b"") -> bytes:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    data += b" " * (-len(data) % 4)
    header = struct.pack("<4sIIII", b"glTF", 2, 20 + len(data) + len(rest), len(data), 0x4E4F534A)
    return header + data + rest


def changed(glb: bytes, change) -> bytes:
    content, rest = parts(glb)
    change(content)
    return glb_of(content, rest)


def picture(width: int, height: int, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(stream, form)
    return stream.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


def with_picture(glb: bytes, data: bytes) -> bytes:
    """The GLB with a picture at the end of its binary chunk."""
    content, rest = parts(glb)
    start = len(rest) - 8
    content["bufferViews"].append({"buffer": 0, "byteOffset": start, "byteLength": len(data)})
    content["images"] = [{"bufferView": len(content["bufferViews"]) - 1, "mimeType": "image/png"}]
    rest += data + b"\0" * (-len(data) % 4)
    content["buffers"][0]["byteLength"] = len(rest) - 8
    return glb_of(content, struct.pack("<I", len(rest) - 8) + rest[4:])


def refused(path, data: bytes | None = None, *, kind: str | None = None, **options) -> str:
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        objects.check_header(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert kind is None or caught.value.kind == kind
    return message


@pytest.mark.parametrize("suffix", ["glb", "gltf", "obj", "ply", "stl"])
def test_good_files_pass(tmp_path, suffix):
    path = tmp_path / f"box.{suffix}"
    exported = trimesh.creation.box().export(file_type=suffix)
    for name, data in (exported if isinstance(exported, dict) else {path.name: exported}).items():
        (tmp_path / name.replace("model", "box")).write_bytes(
            data if isinstance(data, bytes) else data.encode()
        )
    header = objects.check_header(path, max_faces=12, max_mb=1, max_texture_mpx=0.001)
    assert (header.kind, header.triangles) == (suffix, 12)
    assert header.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())


def test_the_budget_counts_triangles_before_blender_does(tmp_path, box):
    assert "12 triangles are more than max_faces 11" in refused(
        tmp_path / "a.glb", box, max_faces=11, kind="too_large"
    )


def test_files_above_the_budget_in_bytes_are_not_even_parsed(tmp_path, box):
    message = refused(tmp_path / "a.glb", box[:20] + b"?" * 2_500_000, max_mb=2, kind="too_large")
    assert "2.5 megabytes are more than max_mb 2" in message


@pytest.mark.parametrize(
    ("name", "count", "item"),
    [("nodes", 100_001, {}), ("materials", 4001, {}), ("animations", 2001, {}), ("images", 4001, {})],
)
def test_a_world_is_not_an_object(tmp_path, box, name, count, item):
    data = changed(box, lambda c: c.setdefault(name, []).extend([item] * count))
    assert "reduce it" in refused(tmp_path / "a.glb", data, kind="too_large")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "DDS"])
def test_texture_megapixels_are_read_from_headers(tmp_path, box, form):
    data = picture(640, 250, form)
    inside, beside, written = tmp_path / "inside.glb", tmp_path / "beside.glb", tmp_path / "written.glb"
    inside.write_bytes(with_picture(box, data))
    (tmp_path / "skin.bin").write_bytes(data)
    beside.write_bytes(changed(box, lambda c: c.update(images=[{"uri": "skin.bin"}])))
    uri = "data:image/png;base64," + base64.b64encode(data).decode()
    written.write_bytes(changed(box, lambda c: c.update(images=[{"uri": uri}])))
    for path in (inside, beside, written):
        header = objects.check_header(path, max_texture_mpx=0.16)
        assert (header.textures, header.texture_mpx) == (1, 0.16)
        assert "0.2 texture megapixels are more than max_texture_mpx 0.159" in refused(
            path, max_texture_mpx=0.159, kind="too_large"
        )


def test_a_decompression_bomb_is_refused_without_being_decoded(tmp_path, box):
    tracemalloc.start()
    message = refused(tmp_path / "a.glb", with_picture(box, bomb(50_000, 50_000)), kind="too_large")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "50000 x 50000 pixels" in message
    assert peak < 10e6
    (tmp_path / "b.glb").write_bytes(with_picture(box, bomb(16_384, 16_384)))
    assert objects.check_header(tmp_path / "b.glb", max_texture_mpx=300).texture_mpx == pytest.approx(
        268.435456
    )


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG", b"\xff\xd8\xff", b"RIFF1234WEBP", b"DDS ", b"GIF89a", b"?" * 99]
)
def test_broken_textures_count_nothing(tmp_path, box, data):
    path = tmp_path / "a.glb"
    path.write_bytes(with_picture(box, data))
    assert objects.check_header(path).texture_mpx == 0


@pytest.mark.parametrize(
    ("data", "reason", "kind"),
    [
        (b"", "the file is empty", "bad_download"),
        (b"\0" * 4096, "the file is blank", "bad_download"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "a PNG picture", "unknown_format"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "a JPEG picture", "unknown_format"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "an XML message", "bad_download"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page", "bad_download"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer", "bad_download"),
        (b"PK\x03\x04" + b"\0" * 50, "a zip archive", "unknown_format"),
        (b"BLENDER-v405", "a .blend file", "unsupported"),
        (pickle.dumps({"a": 1}), "a Python pickle", "unknown_format"),
    ],
)
@pytest.mark.parametrize("name", ["a.glb", "a.obj", "a.fbx", "a.ply", "a.stl", "a.gltf"])
def test_other_things_under_the_name_of_a_3d_file(tmp_path, name, data, reason, kind):
    assert reason in refused(tmp_path / name, data, kind=kind)


@pytest.mark.parametrize("name", ["a.glb", "a.obj", "a.fbx", "a.ply", "a.stl", "a.gltf"])
def test_noise_under_the_name_of_a_3d_file(tmp_path, name):
    noise = bytes(np.random.default_rng(3).integers(1, 256, 4096, dtype=np.uint8))
    assert name in refused(tmp_path / name, noise)


def test_paths_that_are_no_3d_file(tmp_path):
    assert "nearest folder that exists" in refused(tmp_path / "none/a.glb")
    assert "never opened" in refused(tmp_path / "a.blend", b"anything", kind="unsupported")
    assert "unknown kind '.xyz'" in refused(tmp_path / "a.xyz", b"anything", kind="unknown_format")
    (tmp_path / "b.glb").mkdir()
    assert "a folder" in refused(tmp_path / "b.glb")


def test_truncated_glb(tmp_path, box):
    for length in (3, 11, 19, 40, len(box) - 1):
        assert "truncated" in refused(tmp_path / "a.glb", box[:length]) or length == 3


@pytest.mark.parametrize(
    ("change", "reason", "kind"),
    [
        (lambda c: c.update(meshes=[]), "mesh is 0, but there are 0 meshes", "invalid"),
        (
            lambda c: c["meshes"][0]["primitives"][0]["attributes"].pop("POSITION"),
            "shows no surface",
            "no_mesh",
        ),
        (lambda c: c["meshes"][0]["primitives"][0].update(mode=0), "shows no surface", "no_mesh"),
        (lambda c: c.update(nodes=[{}]), "shows no surface", "no_mesh"),
        (lambda c: c["accessors"][0].update(count=10**9), "its view has", "invalid"),
        (lambda c: c["accessors"][0].update(count=-1), "count is -1", "invalid"),
        (lambda c: c["accessors"][0].update(componentType=[1]), "componentType is [1]", "invalid"),
        (lambda c: c["accessors"][0].update(type="VEC9"), "does not exist", "invalid"),
        (lambda c: c["accessors"][0].update(bufferView=99), "bufferView is 99", "invalid"),
        (lambda c: c["bufferViews"][0].update(byteLength=10**9), "ends at byte", "invalid"),
        (lambda c: c["bufferViews"][0].update(buffer="a"), "buffer is 'a'", "invalid"),
        (lambda c: c["buffers"][0].update(byteLength=10**9), "promises 1000000000 bytes", "invalid"),
        (lambda c: c.update(nodes=[{"mesh": 0, "children": [1]}, {"children": [0]}]), "circle", "invalid"),
        (lambda c: c.update(nodes=[{"children": [0], "mesh": 0}]), "circle", "invalid"),
        (lambda c: c.update(nodes=[{"children": [7]}]), "child 7", "invalid"),
        (lambda c: c.update(asset={"version": "1.0"}), "version 1.0", "unsupported"),
        (lambda c: c.update(asset=None), "asset", "invalid"),
        (lambda c: c.update(extensionsRequired=["KHR_texture_basisu"]), "KHR_texture_basisu", "unsupported"),
        (lambda c: c.update(images=[{"uri": "file:///etc/passwd"}]), "outside its folder", "outside"),
        (lambda c: c.update(images=[{"uri": "http://example.org/a.png"}]), "outside its folder", "outside"),
        (lambda c: c.update(images=[{"uri": "../../secret.png"}]), "outside its folder", "outside"),
        (lambda c: c.update(images=[{"uri": "%2e%2e/secret.png"}]), "outside its folder", "outside"),
        (lambda c: c.update(images=[{"uri": "..\\secret.png"}]), "outside its folder", "outside"),
        (lambda c: c.update(images=[{"uri": "/etc/passwd"}]), "outside its folder", "outside"),
        (lambda c: c.update(images=[{"uri": "C:\\secret.png"}]), "outside its folder", "outside"),
        (lambda c: c.update(images=[{"uri": "a" * 5000}]), "outside its folder", "outside"),
        (lambda c: c.update(extensionsRequired=["ACME_new"]), "ACME_new", "unsupported"),
        (lambda c: c.update(images=[{"uri": "data:image/png,abc"}]), "not base64", "invalid"),
        (lambda c: c.update(images=[{"uri": "data:;base64,A"}]), "its base64 cannot be read", "invalid"),
        (lambda c: c.update(images=[{"bufferView": 9}]), "bufferView is 9", "invalid"),
        (lambda c: c["buffers"].append({"uri": "gone.bin", "byteLength": 4}), "missing", "invalid"),
    ],
)
def test_glb_that_lies(tmp_path, box, change, reason, kind):
    assert reason in refused(tmp_path / "a.glb", changed(box, change), kind=kind)


@pytest.mark.parametrize("place", ["chunk", "file", "data"])
def test_positions_that_are_not_finite_are_found_wherever_they_are(tmp_path, box, place):
    content, rest = parts(box)
    data = bytearray(rest[8:])
    accessor = content["accessors"][content["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    start = content["bufferViews"][accessor["bufferView"]].get("byteOffset", 0)
    data[start : start + 4] = struct.pack("<f", float("nan"))
    (tmp_path / "a.bin").write_bytes(data)
    uris = {"file": "a.bin", "data": "data:;base64," + base64.b64encode(data).decode()}
    if place in uris:
        content["buffers"][0]["uri"] = uris[place]
        assert "1 positions are not finite" in refused(tmp_path / "a.gltf", json.dumps(content).encode())
    else:
        assert "1 positions are not finite" in refused(tmp_path / "a.glb", glb_of(content, rest[:8] + data))


def test_json_that_is_none(tmp_path, box):
    assert "cannot be read" in refused(tmp_path / "a.glb", glb_of(b'{"asset": NaN}'))
    assert "cannot be read" in refused(tmp_path / "a.glb", glb_of(b'{"asset": '))
    assert "not a glTF object" in refused(tmp_path / "a.glb", glb_of(b"[1, 2]"))
    assert "cannot be read" in refused(tmp_path / "a.glb", glb_of(b'{"a": ' + b"[" * 100_000))


def test_a_texture_in_the_folder_is_allowed(tmp_path, box):
    path = tmp_path / "a.glb"
    path.write_bytes(changed(box, lambda c: c.update(images=[{"uri": "textures/skin%20one.png"}])))
    objects.check_header(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(data=st.data())
def test_a_damaged_glb_passes_or_is_refused_but_never_breaks_the_check(tmp_path, box, data):
    content, rest = parts(box)
    text = bytearray(json.dumps(content).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.sampled_from([b"0", b"9", b"null", b"[]", b"-", b""])
        )
    path = tmp_path / "damaged.glb"
    path.write_bytes(glb_of(bytes(text), rest))
    with contextlib.suppress(ObjectError):
        objects.check_header(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(suffix=st.sampled_from(objects.SUFFIXES), data=st.data())
def test_any_file_passes_or_is_refused(tmp_path, suffix, data):
    words = [
        b"v 0 0 0\n",
        b"f 1 2 3\n",
        b"mtllib a.mtl\n",
        b"ply\n",
        b"element face 3\n",
        b"end_header",
        b"solid ",
    ]
    words += [
        b"glTF",
        b"\2\0\0\0",
        b"JSON",
        b"{}",
        b"vertex",
        b"Kaydara FBX Binary  \0",
        b"\xff\xfe",
        b"mtllib \0\n",
    ]
    content = b"".join(data.draw(st.lists(st.sampled_from(words) | st.binary(max_size=9), max_size=12)))
    lines = [
        b"map_Kd ",
        b"-s 1 1 1 ",
        b"bump ",
        b"/etc/passwd",
        b"a.png",
        b"..",
        b"\n",
        b"newmtl x\n",
        b"-o ",
        b"A" * 999,
    ]
    library = b"".join(data.draw(st.lists(st.sampled_from(lines) | st.binary(max_size=9), max_size=9)))
    (tmp_path / "a.mtl").write_bytes(library)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with contextlib.suppress(ObjectError):
        header = objects.check_header(path)
        assert header.bytes >= len(content)
        assert len(objects.digest(path)) == 64


def test_an_obj_is_all_that_it_names(tmp_path):
    """Options and spaces, an absolute path of the author's, a missing texture, a library Blender guesses."""
    path = tmp_path / "a.obj"
    path.write_bytes(b"mtllib look of it.mtl\n" + b"v 0 0 0\n" * 3 + b"f 1 2 3\n f 1 2 3")
    alone = objects.check_header(path)
    assert (alone.triangles, alone.materials, alone.textures) == (2, 0, 0)
    assert objects.digest(path) == sha256(path)
    (tmp_path / "look of it.mtl").write_bytes(
        b"newmtl one\nKd 1 1 1\nmap_Kd -s 1 1 1 -o 0 0 0 red skin.png\nnewmtl two\n"
        b"map_Bump -bm 0.5 sub\\bump.jpg\nmap_Ks C:\\Users\\me\\shine.png\nmap_d gone.png\n"
    )
    (tmp_path / "a.mtl").write_bytes(b"newmtl three\nmap_Kd red skin.png\n")
    (tmp_path / "sub").mkdir()
    for name, data in (
        ("red skin.png", picture(100, 200)),
        ("sub/bump.jpg", picture(300, 100, "JPEG")),
        ("shine.png", picture(10, 10)),
    ):
        (tmp_path / name).write_bytes(data)
    header = objects.check_header(path)
    assert (header.materials, header.textures) == (3, 5)
    assert header.texture_mpx == pytest.approx(0.02 + 0.03 + 0.0001)
    assert header.bytes == sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    digests = {objects.digest(path)}
    for name in ("a.mtl", "look of it.mtl", "red skin.png", "sub/bump.jpg", "shine.png", "a.obj"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"\n")
        digests.add(objects.digest(path))
    assert len(digests) == 7
    (tmp_path / "unnamed.png").write_bytes(b"not part of it")
    assert objects.digest(path) in digests


@pytest.mark.parametrize("name", ["../secret.png", "/proc/self/status", "link.png"])
@pytest.mark.parametrize("line", ["mtllib {}", "map_Kd {}"])
def test_an_obj_that_names_files_outside_its_folder(tmp_path, name, line):
    folder = tmp_path / "object"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(picture(4, 4))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    line = line.format(name).encode()
    (folder / "a.mtl").write_bytes(line if line.startswith(b"map") else b"")
    obj = b"v 0 0 0\nf 1 1 1\n" + (line if line.startswith(b"mtl") else b"")
    assert "outside its folder" in refused(folder / "a.obj", obj, kind="outside")


def test_an_endless_line_costs_no_memory(tmp_path):
    (tmp_path / "a.obj").write_bytes(b"v 0 0 0\nf " + b"1 " * 20_000_000)
    tracemalloc.start()
    assert "a line of more than 1 MB" in refused(tmp_path / "a.obj")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_the_digest_covers_the_buffers_and_textures_of_a_gltf(tmp_path, box):
    exported = trimesh.creation.box().export(file_type="gltf")
    for name, data in exported.items():
        (tmp_path / name).write_bytes(data)
    before = objects.digest(tmp_path / "model.gltf")
    assert before != sha256(tmp_path / "model.gltf")
    buffer = next(tmp_path.glob("*.bin"))
    buffer.write_bytes(buffer.read_bytes() + b"\0")
    assert objects.digest(tmp_path / "model.gltf") != before
    (tmp_path / "a.glb").write_bytes(box)
    assert objects.digest(tmp_path / "a.glb") == sha256(tmp_path / "a.glb")


def test_headers_of_real_objects_agree_with_trimesh(shared_data):
    """Triangles as trimesh counts them in the whole scene; textures as Pillow opens them."""
    for path in sorted([*shared_data.glob("models/*.glb"), *shared_data.glob("gso/*/meshes/*.obj")]):
        scene = trimesh.load_scene(path, process=False)
        placed = [scene.geometry[scene.graph[node][1]] for node in scene.graph.nodes_geometry]
        header = objects.check_header(path)
        assert header.triangles == sum(len(mesh.faces) for mesh in placed), path.name
        if path.suffix == ".obj":
            with Image.open(path.with_name("texture.png")) as texture:
                assert header.texture_mpx == texture.width * texture.height / 1e6


def test_text_formats_without_surface(tmp_path):
    assert "no vertices" in refused(tmp_path / "a.obj", b"# nothing here\n")
    assert "no faces" in refused(tmp_path / "a.obj", b"v 0 0 0\nv 1 0 0\n")
    assert "not a Wavefront OBJ" in refused(tmp_path / "a.obj", b"v 0 0 0\0\nf 1 1 1\n")
    header = b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nend_header\n0\n0\n0\n"
    assert "no face" in refused(tmp_path / "a.ply", header)
    assert "truncated" in refused(
        tmp_path / "a.ply", header.replace(b"property float x", b"property float x\nelement face 99999")
    )
    assert "neither text nor binary STL" in refused(tmp_path / "a.stl", b"solid?" + b" " * 200)
    assert "text FBX" in refused(tmp_path / "a.fbx", b"; FBX 7.3.0 project file\n", kind="unsupported")


def test_faces_far_behind_the_vertices_are_found(tmp_path):
    path = tmp_path / "a.obj"
    path.write_bytes(b"v 0.123456 0.123456 0.123456\n" * 90_000 + b"f 1 2 3\n")
    objects.check_header(path)


@pytest.mark.parametrize(
    ("path", "uid"),
    [
        ("Duck.glb", "duck"),
        ("Red Mug (2).glb", "red_mug_2"),
        ("Razer_Kraken/meshes/model.obj", "razer_kraken"),
        ("x/-rf.glb", "rf"),
    ],
)
def test_uid_of_a_path(tmp_path, path, uid):
    assert objects.uid_of(tmp_path / path) == uid


@given(st.text(min_size=1, max_size=200).filter(lambda text: "/" not in text and "\0" not in text))
def test_any_name_gives_a_safe_uid(name):
    uid = objects.uid_of(objects.Path("/somewhere") / (name + ".glb"))
    assert objects.UID.fullmatch(uid)
    assert uid == uid.lower()


def test_a_folder_is_searched_and_equal_names_get_different_uids(tmp_path, box):
    for name in (
        "a/cup.glb",
        "b/cup.GLB",
        "b/Mug.glb",
        "b/.hidden/x.glb",
        ".y.glb",
        "c/evil.blend",
        "c/picture.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(box)
    found = {source.name: source.uid for source in objects.find(tmp_path)}
    assert sorted(found) == ["a/cup.glb", "b/Mug.glb", "b/cup.GLB", "c/evil.blend"]
    assert found["b/Mug.glb"] == "mug"
    assert found["a/cup.glb"] != found["b/cup.GLB"]
    assert all(found[name].startswith("cup_") for name in ("a/cup.glb", "b/cup.GLB"))


def test_a_list_of_objects(tmp_path, box):
    (tmp_path / "cup.glb").write_bytes(box)
    digest = sha256(tmp_path / "cup.glb")
    line = {"uid": "Cup.1", "path": "cup.glb", "sha256": digest, "licence": "CC-BY-4.0", "author": "somebody"}
    (tmp_path / "objects.jsonl").write_text(
        json.dumps(line) + "\n" + json.dumps({"path": "Other.glb"}) + "\n"
    )
    first, second = objects.find(tmp_path / "objects.jsonl")
    assert (first.uid, first.path, first.licence) == ("Cup.1", tmp_path / "cup.glb", "CC-BY-4.0")
    assert first.about == {"author": "somebody"}
    assert second.uid == "other"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([{"uid": "a"}], "line 1: has no path"),
        ([{"uid": "../a", "path": "a.glb"}], "cannot name a folder"),
        ([{"uid": "ledger.jsonl", "path": "a.glb"}], "cannot name a folder"),
        ([{"uid": "Ledger-1-of-8.jsonl", "path": "a.glb"}], "cannot name a folder"),
        ([{"uid": "a", "path": "a\0.glb"}], "cannot name a file"),
        ([{"uid": "a", "path": "a.glb", "licence": 3}], "licence is 3"),
        ([{"uid": "a", "path": "a.glb", "sha256": "abc"}], "64 hexadecimal digits"),
        (["text"], "line 1: has no path"),
        ([{"uid": "a", "path": "a.glb"}, {"uid": "A", "path": "b.glb"}], "line 2: uid 'A' is there twice"),
        ([], "lists no objects"),
    ],
)
def test_a_wrong_list_names_the_line(tmp_path, lines, reason):
    path = tmp_path / "objects.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ObjectError, match=reason):
        objects.find(path)


def test_sources_that_hold_nothing(tmp_path):
    with pytest.raises(ObjectError, match="holds no 3-D file"):
        objects.find(tmp_path)
    with pytest.raises(InputError, match="nearest folder that exists"):
        objects.find(tmp_path / "none")


def test_a_list_that_is_not_json_names_the_line(tmp_path):
    (tmp_path / "objects.jsonl").write_text('{"path": "a.glb"}\n\n{"path": "b.g')
    with pytest.raises(ObjectError, match="line 3: not JSON"):
        objects.find(tmp_path / "objects.jsonl")


def test_the_same_bytes_again_are_a_duplicate(tmp_path):
    lines = [
        {"uid": "first", "path": "a.glb", "sha256": "ab" * 32},
        {"uid": "other", "path": "b.glb", "sha256": "cd" * 32},
        {"uid": "again", "path": "c.glb", "sha256": "AB" * 32},
        {"uid": "third", "path": "d.glb", "sha256": "ab" * 32},
        {"uid": "unknown", "path": "e.glb"},
    ]
    path = tmp_path / "objects.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {source.uid: source.duplicate_of for source in objects.find(path)}
    assert found == {"first": None, "other": None, "again": "first", "third": "first", "unknown": None}


def test_names_that_differ_only_in_their_unicode_form(tmp_path, box):
    """The same name on Linux (NFC) and macOS (NFD) gives the same uid; both in one folder stay apart."""
    composed, decomposed = (unicodedata.normalize(form, "Café.glb") for form in ("NFC", "NFD"))
    assert objects.uid_of(objects.Path(composed)) == objects.uid_of(objects.Path(decomposed))
    for name in (composed, decomposed):
        (tmp_path / name).write_bytes(box)
    if len(os.listdir(tmp_path)) == 2:
        assert len({source.uid for source in objects.find(tmp_path)}) == 2


def test_only_permitted_licences_pass():
    spelled = {"a": "CC-BY-4.0", "b": "by-nc", "c": None, "d": "cc0", "e": "ask me"}
    sources = [objects.Source3D(uid, objects.Path("x.glb"), "x.glb", text) for uid, text in spelled.items()]
    kept, left_out = objects.permitted(sources, ["cc-by", "cc0"])
    assert [source.uid for source in kept] == ["a", "d"]
    assert [source.uid for source in left_out] == ["b", "c", "e"]
    assert objects.permitted(sources, []) == (sources, [])


def test_a_long_list_costs_memory_only_for_its_objects(tmp_path):
    path, count = tmp_path / "objects.jsonl", 5_000
    with open(path, "w") as file:
        for number in range(count):
            file.write(json.dumps({"uid": f"u{number}", "path": f"o/{number}.glb", "tag": "x" * 50}) + "\n")
    tracemalloc.start()
    found = objects.find(path)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == count
    assert kept < count * 2000
    assert peak < kept + count * 200
