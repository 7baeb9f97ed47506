"""Files that must not reach Blender, and how objects are found and named."""

import contextlib
import json
import pickle
import struct

import numpy as np
import pytest
import trimesh
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


def refused(path, data: bytes | None = None, **options) -> str:
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        objects.check_header(path, **options)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", ["glb", "gltf", "obj", "ply", "stl"])
def test_good_files_pass(tmp_path, suffix):
    path = tmp_path / f"box.{suffix}"
    exported = trimesh.creation.box().export(file_type=suffix)
    for name, data in (exported if isinstance(exported, dict) else {path.name: exported}).items():
        (tmp_path / name.replace("model", "box")).write_bytes(
            data if isinstance(data, bytes) else data.encode()
        )
    objects.check_header(path, max_faces=12)


def test_the_budget_counts_triangles_before_blender_does(tmp_path, box):
    assert "12 triangles are more than max_faces 11" in refused(tmp_path / "a.glb", box, max_faces=11)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"\0" * 4096, "the file is blank"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "a PNG picture"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "a JPEG picture"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "an XML message"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"PK\x03\x04" + b"\0" * 50, "a zip archive"),
        (b"BLENDER-v405", "a .blend file"),
        (pickle.dumps({"a": 1}), "a Python pickle"),
    ],
)
@pytest.mark.parametrize("name", ["a.glb", "a.obj", "a.fbx", "a.ply", "a.stl", "a.gltf"])
def test_other_things_under_the_name_of_a_3d_file(tmp_path, name, data, reason):
    assert reason in refused(tmp_path / name, data)


@pytest.mark.parametrize("name", ["a.glb", "a.obj", "a.fbx", "a.ply", "a.stl", "a.gltf"])
def test_noise_under_the_name_of_a_3d_file(tmp_path, name):
    noise = bytes(np.random.default_rng(3).integers(1, 256, 4096, dtype=np.uint8))
    assert name in refused(tmp_path / name, noise)


def test_paths_that_are_no_3d_file(tmp_path):
    assert "nearest folder that exists" in refused(tmp_path / "none/a.glb")
    assert "never opened" in refused(tmp_path / "a.blend", b"anything")
    assert "unknown kind '.xyz'" in refused(tmp_path / "a.xyz", b"anything")
    (tmp_path / "b.glb").mkdir()
    assert "a folder" in refused(tmp_path / "b.glb")


def test_truncated_glb(tmp_path, box):
    for length in (3, 11, 19, 40, len(box) - 1):
        assert "truncated" in refused(tmp_path / "a.glb", box[:length]) or length == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.update(meshes=[]), "mesh is 0, but there are 0 meshes"),
        (lambda c: c["meshes"][0]["primitives"][0]["attributes"].pop("POSITION"), "shows no surface"),
        (lambda c: c["meshes"][0]["primitives"][0].update(mode=0), "shows no surface"),
        (lambda c: c.update(nodes=[{}]), "shows no surface"),
        (lambda c: c["accessors"][0].update(count=10**9), "its view has"),
        (lambda c: c["accessors"][0].update(count=-1), "count is -1"),
        (lambda c: c["accessors"][0].update(componentType=[1]), "componentType is [1]"),
        (lambda c: c["accessors"][0].update(type="VEC9"), "does not exist"),
        (lambda c: c["accessors"][0].update(bufferView=99), "bufferView is 99"),
        (lambda c: c["bufferViews"][0].update(byteLength=10**9), "ends at byte"),
        (lambda c: c["bufferViews"][0].update(buffer="a"), "buffer is 'a'"),
        (lambda c: c["buffers"][0].update(byteLength=10**9), "promises 1000000000 bytes"),
        (lambda c: c.update(nodes=[{"mesh": 0, "children": [1]}, {"children": [0]}]), "circle"),
        (lambda c: c.update(nodes=[{"children": [0], "mesh": 0}]), "circle"),
        (lambda c: c.update(nodes=[{"children": [7]}]), "child 7"),
        (lambda c: c.update(asset={"version": "1.0"}), "version 1.0"),
        (lambda c: c.update(asset=None), "asset"),
        (lambda c: c.update(extensionsRequired=["KHR_texture_basisu"]), "KHR_texture_basisu"),
        (lambda c: c.update(images=[{"uri": "file:///etc/passwd"}]), "outside its folder"),
        (lambda c: c.update(images=[{"uri": "http://example.org/a.png"}]), "outside its folder"),
        (lambda c: c.update(images=[{"uri": "../../secret.png"}]), "outside its folder"),
        (lambda c: c.update(images=[{"uri": "%2e%2e/secret.png"}]), "outside its folder"),
        (lambda c: c.update(images=[{"uri": "..\\secret.png"}]), "outside its folder"),
        (lambda c: c.update(images=[{"uri": "/etc/passwd"}]), "outside its folder"),
        (lambda c: c.update(images=[{"uri": "C:\\secret.png"}]), "outside its folder"),
        (lambda c: c.update(images=[{"uri": "a" * 5000}]), "outside its folder"),
        (lambda c: c["buffers"].append({"uri": "gone.bin", "byteLength": 4}), "missing"),
    ],
)
def test_glb_that_lies(tmp_path, box, change, reason):
    assert reason in refused(tmp_path / "a.glb", changed(box, change))


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
    assert "text FBX" in refused(tmp_path / "a.fbx", b"; FBX 7.3.0 project file\n")


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
        ([{"uid": "a"}], "object 1: has no path"),
        ([{"uid": "../a", "path": "a.glb"}], "cannot name a folder"),
        ([{"uid": "ledger.jsonl", "path": "a.glb"}], "cannot name a folder"),
        ([{"uid": "a", "path": "a.glb", "licence": 3}], "licence is 3"),
        ([{"uid": "a", "path": "a.glb"}, {"uid": "A", "path": "b.glb"}], "object 2: uid 'A' is there twice"),
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
