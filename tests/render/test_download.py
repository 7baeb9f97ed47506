"""The download stage: N of M, the rest named; resumed after anything; licences kept; archives distrusted."""

import errno
import gzip
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import time
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
import trimesh

from render import download, fetch, gso, objects
from render.config import GsoConfig, ObjaverseConfig
from render.remote import shuffled
from svd3d.config import build, plain
from svd3d.errors import ConfigError, InputError, ObjectError, OutputError
from tests.render import mirror as servers
from tests.render.mirror import archive, breaks_after, says, status

objaverse = pytest.importorskip("objaverse")
pandas = pytest.importorskip("pandas")

HUB = "/datasets/allenai/objaverse/resolve/main/"
XL = "/datasets/allenai/objaverse-xl/resolve/main/"
LICENCES = ("by", "by-nc", "cc0", "by", "something new", None)
UIDS = tuple(sha256(str(n).encode()).hexdigest()[:32] for n in range(len(LICENCES)))
FOLDERS = ("000-000", "000-023")
BODY = b"0123456789abcdef" * 20_000


def glb_of(uid):
    body = uid.encode() + BODY
    return b"glTF" + struct.pack("<II", 2, 12 + len(body)) + body


def path_of(uid):
    return f"glbs/{FOLDERS[UIDS.index(uid) % 2]}/{uid}.glb"


def packed(content):
    return gzip.compress(json.dumps(content).encode())


def hub():
    """Six objects in two folders, as the hub serves them: path below its root to bytes."""
    notes = {folder: {} for folder in FOLDERS}
    for uid, licence in zip(UIDS, LICENCES, strict=True):
        notes[path_of(uid).split("/")[1]][uid] = {
            "uid": uid,
            "name": f"Mug {uid[0]}",
            "license": licence,
            "user": {"username": "ada", "displayName": "Ada L."},
            "categories": [{"name": "furniture-home"}],
            "tags": [{"name": "mug", "slug": "mug"}],
            "faceCount": 12,
            "viewerUrl": f"https://sketchfab.com/3d-models/{uid}",
            "description": "long " * 100,
        }
    return {
        "object-paths.json.gz": packed({uid: path_of(uid) for uid in UIDS}),
        "lvis-annotations.json.gz": packed({"mug": UIDS[:2], "chair": UIDS[3:4], "broken": []}),
        **{f"metadata/{folder}.json.gz": packed(found) for folder, found in notes.items()},
        **{path_of(uid): glb_of(uid) for uid in UIDS},
    }


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder in the place of ~/.objaverse, which the package fixes when it is imported."""
    home = tmp_path / "home/.objaverse"
    monkeypatch.setattr(objaverse, "BASE_PATH", str(home))
    monkeypatch.setattr(objaverse, "_VERSIONED_PATH", str(home / "hf-objaverse-v1"))
    return home


@pytest.fixture
def mirror(home, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "BACKOFF_S", 0.01)
    with servers.serving() as mirror:
        mirror.files = {HUB + path: content for path, content in hub().items()}
        yield mirror


def run(config):
    """All results of a command by uid, and the command."""
    command = download.Download(config)
    results = list(command.run())
    assert len(results) == command.total
    return {result.uid: result for result in results}, command


def lines(path):
    return {line["uid"]: line for line in map(json.loads, path.read_text().splitlines())}


def leftovers(folder):
    return [path.name for path in folder.rglob("*") if path.suffix in (".part", ".tmp", ".zip")]


def test_objaverse_from_an_empty_folder_and_nothing_twice(mirror, tmp_path):
    out = tmp_path / "out"
    results, command = run(ObjaverseConfig(out=out, hub=mirror.url + "/"))
    assert {result.status for result in results.values()} == {"done"}
    assert command.summary() == f"6 of 6 objects are in {out / 'objects.jsonl'}"
    found = objects.find(out / "objects.jsonl")
    assert {source.uid: source.path.read_bytes() for source in found} == {uid: glb_of(uid) for uid in UIDS}
    assert all(source.sha256 == sha256(glb_of(source.uid)).hexdigest() for source in found)
    assert {s.uid: s.licence for s in found} == dict(
        zip(UIDS, ("cc-by", "cc-by-nc", "cc0", "cc-by", "something new", None), strict=True)
    )
    line = lines(out / "objects.jsonl")[UIDS[0]]
    assert line == {
        "uid": UIDS[0],
        "path": f"objects/{UIDS[0][:2]}/{UIDS[0]}.glb",
        "sha256": sha256(glb_of(UIDS[0])).hexdigest(),
        "bytes": len(glb_of(UIDS[0])),
        "licence": "cc-by",
        "licence_name": "by",
        "source": "objaverse",
        "name": f"Mug {UIDS[0][0]}",
        "creator": "Ada L.",
        "category": "furniture-home",
        "tags": ["mug"],
        "faces": 12,
        "url": f"https://sketchfab.com/3d-models/{UIDS[0]}",
    }
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["licences"] == ["cc-by", "cc-by-nc", "cc0", "something new"]
    assert not leftovers(tmp_path)
    asked, before = len(mirror.requests), (out / "objects.jsonl").read_bytes()
    results, _ = run(ObjaverseConfig(out=out, hub=mirror.url))
    assert {result.status for result in results.values()} == {"skipped"}
    assert len(mirror.requests) == asked
    assert (out / "objects.jsonl").read_bytes() == before


def test_a_full_local_mirror_is_used_in_place_and_without_network(home, tmp_path):
    root = home / "hf-objaverse-v1"
    for name, content in hub().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    results, _ = run(ObjaverseConfig(out=tmp_path / "out", hub="http://127.0.0.1:9"))
    assert {uid: result.path for uid, result in results.items()} == {uid: root / path_of(uid) for uid in UIDS}
    (source, *_) = objects.find(tmp_path / "out/objects.jsonl")
    assert source.path == root / path_of(source.uid)
    assert not (tmp_path / "out/objects").exists()


def test_a_broken_copy_in_the_local_mirror_is_not_used(home, mirror, tmp_path):
    broken = home / "hf-objaverse-v1" / path_of(UIDS[0])
    broken.parent.mkdir(parents=True)
    broken.write_bytes(glb_of(UIDS[0])[:-1])
    results, _ = run(ObjaverseConfig(out=tmp_path / "out", hub=mirror.url))
    assert results[UIDS[0]].path.read_bytes() == glb_of(UIDS[0])


def test_n_of_m_with_the_missing_named_and_tried_again(mirror, tmp_path):
    out = tmp_path / "out"
    gone, web, other = UIDS[:3]
    del mirror.files[HUB + path_of(gone)]
    mirror.faults[HUB + path_of(web)] = [says(servers.HTML)] * 2
    mirror.faults[HUB + path_of(other)] = [status(429, Retry_After="0"), breaks_after(1000), status(503)]
    results, command = run(ObjaverseConfig(out=out, hub=mirror.url))
    missing = lines(out / "missing.jsonl")
    assert {uid: line["kind"] for uid, line in missing.items()} == {gone: "not_found", web: "bad_download"}
    assert results[web].message == missing[web]["reason"]
    assert "a web page" in missing[web]["reason"]
    assert lines(out / "objects.jsonl").keys() == set(UIDS[2:])
    summary = command.summary()
    assert summary.startswith(f"4 of 6 objects are in {out / 'objects.jsonl'}; these 2 are missing: ")
    assert gone in summary
    assert web in summary
    asked = len(mirror.requests)
    results, command = run(ObjaverseConfig(out=out, hub=mirror.url))
    assert {request.path for request in mirror.requests[asked:]} == {HUB + path_of(u) for u in (gone, web)}
    assert results[web].status == "done"
    assert command.summary().startswith("5 of 6 objects")
    assert lines(out / "missing.jsonl").keys() == {gone}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"licence": ("cc-by",)}, {0, 3}),
        ({"licence": ("cc0", "cc-by-nc")}, {1, 2}),
        ({"lvis": ("mug", "chair")}, {0, 1, 3}),
        ({"lvis": ("mug",), "licence": ("cc-by",)}, {0}),
        ({"count": 99}, {0, 1, 2, 3, 4, 5}),
        ({"count": 99, "licence": ("cc-by",)}, {0, 3}),
    ],
)
def test_filters_hold_before_anything_is_fetched(mirror, tmp_path, settings, expected):
    run(ObjaverseConfig(out=tmp_path / "out", hub=mirror.url, **settings))
    assert lines(tmp_path / "out/objects.jsonl").keys() == {UIDS[n] for n in expected}
    glbs = {request.path for request in mirror.requests if request.path.endswith(".glb")}
    assert glbs == {HUB + path_of(UIDS[n]) for n in expected}


@pytest.mark.parametrize("licence", [(), ("cc-by", "cc-by-nc", "cc0")])
def test_a_count_draws_by_the_seed_and_a_larger_one_keeps_the_smaller(mirror, tmp_path, licence):
    def drawn(count, seed):
        config = ObjaverseConfig(out=tmp_path / "o", hub=mirror.url, count=count, seed=seed, licence=licence)
        return [remote.uid for remote in download.Download(config).selection.remotes]

    for seed in range(4):
        draws = [drawn(count, seed) for count in (1, 2, 4)]
        assert [len(draw) for draw in draws] == [1, 2, 4]
        assert draws[0] == draws[2][:1]
        assert draws[1] == draws[2][:2]
    assert len({tuple(drawn(4, seed)) for seed in range(4)}) > 1


def test_a_draw_does_not_depend_on_how_the_source_sorts():
    assert shuffled(UIDS, seed=3) == shuffled(UIDS[::-1], seed=3)


def test_a_small_draw_reads_only_the_annotations_it_needs(mirror, tmp_path):
    download.Download(ObjaverseConfig(out=tmp_path / "out", hub=mirror.url, count=1))
    assert sum("metadata" in request.path for request in mirror.requests) == 1


def test_objects_that_were_asked_for_and_do_not_exist_are_missing(mirror, tmp_path):
    listed = tmp_path / "uids.txt"
    listed.write_text(f"{UIDS[1]}\n\n../../etc/passwd\n{UIDS[4]}\n")
    results, command = run(ObjaverseConfig(out=tmp_path / "out", hub=mirror.url, uids=listed))
    assert {uid: result.status for uid, result in results.items()} == {
        UIDS[1]: "done",
        UIDS[4]: "done",
        "../../etc/passwd": "failed",
    }
    assert command.summary().startswith("2 of 3 objects")
    assert [*lines(tmp_path / "out/objects.jsonl")] == [UIDS[1], UIDS[4]]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"lvis": ("muk",)}, ConfigError, "no category 'muk'. Did you mean 'mug'?"),
        ({"lvis": ("broken",)}, InputError, "no object fits"),
        ({"licence": ("cc-by-nd",)}, InputError, "no object fits"),
        ({"uids": Path("nowhere.txt")}, InputError, "no such list of uids"),
        ({"hub": "http://127.0.0.1:9"}, ObjectError, "object-paths.json.gz: "),
        ({"lvis": ("mug",), "xl": "github"}, ConfigError, "drop lvis or xl"),
        ({"count": 0}, ConfigError, "count must be at least 1; got 0"),
        ({"max_mb": float("nan")}, ConfigError, "max_mb must be above 0; got nan"),
    ],
)
def test_what_cannot_be_done_is_said_before_it_is_tried(mirror, tmp_path, settings, error, message):
    with pytest.raises(error) as caught:
        download.Download(ObjaverseConfig(**{"out": tmp_path / "out", "hub": mirror.url, **settings}))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any(request.path.endswith(".glb") for request in mirror.requests)


def test_a_broken_list_in_the_packages_folder_is_named(home, mirror, tmp_path):
    broken = home / "hf-objaverse-v1/object-paths.json.gz"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(packed({})[:-4])
    with pytest.raises(InputError, match=r"object-paths.json.gz is broken .*; delete it"):
        download.Download(ObjaverseConfig(out=tmp_path / "out", hub=mirror.url))


def test_lines_of_the_list_that_are_not_like_the_others_name_no_files(mirror, tmp_path):
    good = {UIDS[0]: path_of(UIDS[0])}
    bad = {
        "../../a": "glbs/000-000/../../a.glb",
        UIDS[1]: "../../x.glb",
        UIDS[2]: f"glbs/000-000/{UIDS[3]}.glb",
    }
    mirror.files[HUB + "object-paths.json.gz"] = packed(good | bad)
    run(ObjaverseConfig(out=tmp_path / "out", hub=mirror.url))
    assert lines(tmp_path / "out/objects.jsonl").keys() == {UIDS[0]}


SCRIPT = """
import signal
import sys
import objaverse
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
home, out, hub = sys.argv[1:]
objaverse.BASE_PATH, objaverse._VERSIONED_PATH = home, f"{home}/hf-objaverse-v1"
from pathlib import Path
from render import download
from render.config import ObjaverseConfig
for each in download.Download(ObjaverseConfig(out=Path(out), hub=hub, workers=2)).run():
    pass
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_whole_files_and_parts_and_is_resumed(home, mirror, tmp_path, how):
    out, cut = tmp_path / "out", UIDS[3]

    def stalls(handler, content):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.send_header("ETag", f'"{sha256(content).hexdigest()[:16]}"')
        handler.end_headers()
        handler.wfile.write(content[: fetch.BLOCK + 1000])
        handler.wfile.flush()
        process.wait(60)

    mirror.faults[HUB + path_of(cut)] = [stalls]
    command = [sys.executable, "-c", SCRIPT, str(home), str(out), mirror.url]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    part = out / f"objects/{cut[:2]}/{cut}.glb.part"
    ledger = out / "downloads.jsonl"
    deadline = time.monotonic() + 120
    while not (part.exists() and part.stat().st_size and ledger.exists() and len(lines(ledger)) == 5):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(how)
    process.wait(20)  # shorter than the time-out of the network
    files = [path.name for path in (out / "objects").rglob("*") if path.is_file()]
    whole = {f"{uid}.glb" for uid in UIDS if uid != cut}
    assert {*files} == {*whole, f"{cut}.glb.part", f"{cut}.glb.etag.part"}
    if how == signal.SIGINT:
        assert lines(out / "objects.jsonl").keys() == set(UIDS) - {cut}
        assert lines(out / "missing.jsonl")[cut]["kind"] == "not_tried"
    asked = len(mirror.requests)
    results, _ = run(ObjaverseConfig(out=out, hub=mirror.url))
    assert {uid for uid, result in results.items() if result.status == "done"} == {cut}
    (request,) = mirror.requests[asked:]
    assert request.range == f"bytes={fetch.BLOCK}-"
    assert {s.uid: s.path.read_bytes() for s in objects.find(out / "objects.jsonl")} == {
        uid: glb_of(uid) for uid in UIDS
    }
    assert not leftovers(out)


def test_files_of_a_run_that_could_not_record_them_are_not_fetched_again(mirror, tmp_path):
    run(ObjaverseConfig(out=tmp_path / "out", hub=mirror.url))
    ledger = tmp_path / "out/downloads.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-30])
    asked = len(mirror.requests)
    run(ObjaverseConfig(out=tmp_path / "out", hub=mirror.url))
    assert len(mirror.requests) == asked
    assert len(objects.find(tmp_path / "out/objects.jsonl")) == 6


def test_a_file_that_was_removed_or_cut_is_fetched_again(mirror, tmp_path):
    results, _ = run(ObjaverseConfig(out=tmp_path / "out", hub=mirror.url))
    results[UIDS[0]].path.unlink()
    asked = len(mirror.requests)
    results, _ = run(ObjaverseConfig(out=tmp_path / "out", hub=mirror.url))
    assert results[UIDS[0]].status == "done"
    assert [request.path for request in mirror.requests[asked:]] == [HUB + path_of(UIDS[0])]


def test_a_caller_that_stops_leaves_a_list_of_what_is_there(mirror, tmp_path):
    command = download.Download(ObjaverseConfig(out=tmp_path / "out", hub=mirror.url, workers=1))
    results = command.run()
    first = next(results)
    results.close()
    assert lines(tmp_path / "out/objects.jsonl").keys() == {first.uid}
    assert len(lines(tmp_path / "out/missing.jsonl")) == 5
    assert command.summary().startswith("1 of 6 objects")


def test_a_full_disk_ends_the_run_and_keeps_what_is_there(mirror, tmp_path, monkeypatch):
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    command = download.Download(ObjaverseConfig(out=tmp_path / "out", hub=mirror.url, workers=1))
    monkeypatch.setattr(fetch.os, "fsync", full)
    with pytest.raises(OutputError, match="run the same command again"):
        list(command.run())
    monkeypatch.undo()


def test_two_commands_do_not_share_a_folder(mirror, tmp_path):
    config = ObjaverseConfig(out=tmp_path / "out", hub=mirror.url)
    command = download.Download(config)
    first = command.run()
    next(first)
    with pytest.raises(OutputError, match="in use by process"):
        next(download.Download(config).run())
    first.close()


# Objaverse-XL


def xl_rows(mirror, source):
    """Rows of a list of Objaverse-XL whose files the mirror serves."""
    files = {
        "smithsonian": [("/3d-package/a.glb", "/3d-package/a.glb", "glb", "CC0")],
        "thingiverse": [
            ("/thing:7/files?fileId=77", "/download:77", "stl", "Creative Commons - Attribution")
        ],
        "github": [
            ("/org/repo/blob/c0ffee/my model#1.ply", "/org/repo/raw/c0ffee/my model#1.ply", "ply", None),
            ("/org/repo/blob/c0ffee/b.glb", "/org/repo/raw/c0ffee/b.glb", "glb", "CC-BY-4.0"),
            ("/org/repo/blob/c0ffee/c.obj", "/org/repo/raw/c0ffee/c.obj", "obj", "CC-BY-4.0"),
            ("/org/repo/blob/c0ffee/d.blend", "/org/repo/raw/c0ffee/d.blend", "blend", "CC-BY-4.0"),
        ],
        "sketchfab": [(f"/3d-models/{uid}", HUB + path_of(uid), "glb", "by") for uid in UIDS[:3]],
    }[source]
    rows = []
    for identifier, path, kind, licence in files:
        mirror.files.setdefault(
            path, {"glb": glb_of("xl"), "ply": b"ply\n", "stl": b"solid\n"}.get(kind, b"?")
        )
        rows.append(
            {
                "fileIdentifier": mirror.url + identifier,
                "source": source,
                "license": licence,
                "fileType": kind,
                "sha256": sha256(mirror.files[path]).hexdigest(),
                "metadata": "{}",
            }
        )
    return rows


@pytest.mark.parametrize(
    ("source", "count"), [("smithsonian", 1), ("thingiverse", 1), ("github", 2), ("sketchfab", 3)]
)
def test_every_part_of_xl_gives_the_files_that_stand_alone(home, mirror, tmp_path, source, count):
    table = tmp_path / "table.parquet"
    rows = xl_rows(mirror, source)
    pandas.DataFrame(rows).to_parquet(table)
    mirror.files[f"{XL}{source}/{source}.parquet"] = table.read_bytes()
    config = ObjaverseConfig(out=tmp_path / "out", hub=mirror.url, xl=source)
    results, _ = run(config)
    assert [result.status for result in results.values()] == ["done"] * count
    found = objects.find(tmp_path / "out/objects.jsonl")
    assert {s.about["url"]: s.sha256 for s in found} == {
        row["fileIdentifier"]: row["sha256"] for row in rows if row["fileType"] in ("glb", "ply", "stl")
    }
    assert {s.about["source"] for s in found} == {"objaverse-xl"}
    asked = len(mirror.requests)
    run(config)
    assert len(mirror.requests) == asked


def test_xl_filters_and_refuses_what_has_changed(home, mirror, tmp_path):
    rows = xl_rows(mirror, "github")
    table = tmp_path / "table.parquet"
    pandas.DataFrame(rows).to_parquet(table)
    mirror.files[f"{XL}github/github.parquet"] = table.read_bytes()
    mirror.files["/org/repo/raw/c0ffee/b.glb"] = glb_of("another")
    listed = tmp_path / "uids.txt"
    listed.write_text(f"{rows[1]['fileIdentifier']}\n{rows[2]['fileIdentifier']}\n")
    config = ObjaverseConfig(
        out=tmp_path / "out", hub=mirror.url, xl="github", uids=listed, licence=("cc-by",), count=5
    )
    results, command = run(config)
    assert command.summary().startswith("0 of 2 objects")
    (changed,) = [
        line for line in lines(tmp_path / "out/missing.jsonl").values() if "sha256" in line["reason"]
    ]
    assert changed["kind"] == "bad_download"
    assert "not a glb, fbx, ply, stl file" in results[rows[2]["fileIdentifier"]].message


# Google Scanned Objects

NAMES = ("Cup_Red", "Shoe_42", "Toy-Car.v2")
FUEL = "/1.0/GoogleResearch/models"


def obj_files(name):
    """What a zip of Fuel holds: the texture is in another folder than the .mtl that names it."""
    mesh = trimesh.creation.box(extents=(1, 2, 1 + len(name)))
    obj = "mtllib model.mtl\nusemtl material_0\n" + mesh.export(file_type="obj")
    return {
        "meshes/": b"",
        "meshes/model.obj": obj.encode(),
        "meshes/model.mtl": b"newmtl material_0\nmap_Kd texture.png\n",
        "materials/textures/texture.png": b"\x89PNG picture of " + name.encode(),
        "thumbnails/0.jpg": b"\xff\xd8\xff",
        "model.config": b"<?xml version='1.0'?><model/>",
    }


@pytest.fixture
def fuel(mirror):
    def page(query):
        number, size = int(query["page"][0]), 2
        part = NAMES[(number - 1) * size : number * size]
        by = "Creative Commons Attribution 4.0 International"
        url = "http://creativecommons.org/licenses/by/4.0/"
        entries = [
            {
                "name": name,
                "owner": "GoogleResearch",
                "license_name": by,
                "license_url": url,
                "categories": ["Mug"],
            }
            for name in part
        ]
        bad = [{"name": "../../evil", "license_name": by}, "nonsense"] if number == 1 else []
        return json.dumps(entries + bad).encode() if part else None

    mirror.files = {FUEL: page, **{f"{FUEL}/{name}.zip": archive(obj_files(name)) for name in NAMES}}
    return mirror


def test_gso_with_its_texture_beside_the_mesh_and_nothing_twice(fuel, tmp_path):
    out = tmp_path / "out"
    fuel.faults[f"{FUEL}/{NAMES[0]}.zip"] = [breaks_after(100), says(servers.HTML)]
    results, command = run(GsoConfig(out=out, server=fuel.url))
    assert command.summary() == f"3 of 3 objects are in {out / 'objects.jsonl'}"
    found = objects.find(out / "objects.jsonl")
    assert [source.uid for source in found] == list(NAMES)
    for source in found:
        files = obj_files(source.uid)
        assert source.path == out / f"objects/{source.uid}/meshes/model.obj" == results[source.uid].path
        assert source.path.read_bytes() == files["meshes/model.obj"]
        texture = source.path.with_name("texture.png")
        assert texture.read_bytes() == files["materials/textures/texture.png"]
        assert source.licence == "cc-by"
        assert source.about["licence_name"] == "Creative Commons Attribution 4.0 International"
        assert source.about["licence_url"] == "http://creativecommons.org/licenses/by/4.0/"
        assert source.about["category"] == "Mug"
        objects.check_header(source.path)
        assert source.sha256 == objects.digest(source.path)
    assert sorted(path.name for path in (out / f"objects/{NAMES[0]}").rglob("*")) == [
        *("meshes", "model.mtl", "model.obj", "texture.png")
    ]
    assert not leftovers(out)
    asked = len(fuel.requests)
    results, _ = run(GsoConfig(out=out, server=fuel.url))
    assert {result.status for result in results.values()} == {"skipped"}
    assert len(fuel.requests) == asked


def test_gso_names_what_it_lacks(fuel, tmp_path):
    listed = tmp_path / "uids.txt"
    listed.write_text(f"{NAMES[0]}\n{NAMES[1]}\nUnknown_Thing\n")
    del fuel.files[f"{FUEL}/{NAMES[0]}.zip"]
    _, command = run(GsoConfig(out=tmp_path / "out", server=fuel.url, uids=listed))
    assert command.summary().startswith("1 of 3 objects")
    assert lines(tmp_path / "out/missing.jsonl").keys() == {NAMES[0], "Unknown_Thing"}
    with pytest.raises(InputError, match="no object fits"):
        download.Download(GsoConfig(out=tmp_path / "out", server=fuel.url, licence=("cc0",)))


@pytest.mark.parametrize(
    "answer", [b"[]", b'{"message": "hello"}', b"[1, 2]", b'[{"name": "../evil"}, {"name": null}]']
)
def test_a_server_that_is_no_fuel_server_is_named(fuel, tmp_path, answer):
    fuel.files[FUEL] = answer
    with pytest.raises(InputError, match="check --server"):
        download.Download(GsoConfig(out=tmp_path / "out", server=fuel.url))


def special(name, mode):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


OBJ = {"meshes/model.obj": b"v 0 0 0\n"}
ATTACKS = {
    "parent": ({**OBJ, "../evil.txt": b"x"}, "leads out of its folder"),
    "deep parent": ({**OBJ, "meshes/../../evil.txt": b"x"}, "leads out of its folder"),
    "absolute": ({**OBJ, "/tmp/evil.txt": b"x"}, "leads out of its folder"),
    "backslash": ({**OBJ, "..\\evil.txt": b"x"}, "leads out of its folder"),
    "drive": ({**OBJ, "C:evil.txt": b"x"}, "leads out of its folder"),
    "link": (
        {**OBJ, special("meshes/texture.png", stat.S_IFLNK | 0o777): b"/etc/passwd"},
        "a link or a device",
    ),
    "device": ({**OBJ, special("meshes/texture.png", stat.S_IFCHR | 0o777): b""}, "a link or a device"),
    "many": ({**OBJ, **{f"meshes/{n}.png": b"" for n in range(1000)}}, "holds 1001 files"),
    "bomb": ({"meshes/model.obj": b"\0" * 5_000_000}, "grows more than 100 times"),
    "no mesh": ({"meshes/other.obj": b"v 0 0 0\n"}, "holds no meshes/model.obj"),
    "mesh is a folder": ({"meshes/model.obj/": b""}, "holds no meshes/model.obj"),
    "empty": ({}, "holds no meshes/model.obj"),
}


@pytest.mark.parametrize(("entries", "reason"), ATTACKS.values(), ids=ATTACKS.keys())
def test_archives_that_attack_are_refused_and_leave_nothing(fuel, tmp_path, entries, reason):
    out, evil = tmp_path / "out", NAMES[0]
    content = archive(entries) if entries else archive({"model.config": b""})
    fuel.files[f"{FUEL}/{evil}.zip"] = content
    results, command = run(GsoConfig(out=out, server=fuel.url))
    assert results[evil].status == "failed"
    assert reason in results[evil].message
    assert lines(out / "missing.jsonl")[evil]["kind"] == "bad_archive"
    assert command.summary().startswith("2 of 3 objects")
    assert not [path for path in tmp_path.rglob("*") if "evil" in path.name]
    assert sorted(path.name for path in (out / "objects").iterdir()) == sorted(NAMES[1:])


def spoiled(content, **changes):
    """An archive whose bytes say something else than what is in it."""
    start = content.index(b"PK\x01\x02")
    at = {"flags": 8, "method": 10, "size": 24}
    changed = bytearray(content)
    for name, value in changes.items():
        changed[start + at[name] : start + at[name] + len(value)] = value
    return bytes(changed)


@pytest.mark.parametrize(
    "content",
    [
        archive(OBJ)[:-30],
        archive(OBJ, zipfile.ZIP_STORED).replace(b"v 0 0 0", b"v 9 9 9"),
        spoiled(archive(OBJ, zipfile.ZIP_STORED), flags=b"\x01\x00"),
        spoiled(archive(OBJ), method=b"\x63\x00"),
        b"PK\x03\x04" + b"\0" * 100,
    ],
    ids=["truncated", "changed", "encrypted", "unknown method", "nonsense"],
)
def test_archives_that_are_broken_are_refused(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    (tmp_path / "out").mkdir()
    with pytest.raises(ObjectError, match=r"a\.zip: .*; it is not unpacked"):
        gso.unpack(tmp_path / "a.zip", tmp_path / "out", max_bytes=1e6)


def test_the_true_size_counts_not_the_one_in_the_header(tmp_path):
    noise = os.urandom(200_000)
    content = archive({"meshes/model.obj": noise}, zipfile.ZIP_STORED)
    (tmp_path / "a.zip").write_bytes(content)
    (tmp_path / "out").mkdir()
    with pytest.raises(ObjectError, match="beyond max_mb"):
        gso.unpack(tmp_path / "a.zip", tmp_path / "out", max_bytes=100_000)


@pytest.mark.parametrize(
    "config", [ObjaverseConfig(Path("out"), count=3, licence=("cc0",)), GsoConfig(Path("out"))]
)
def test_settings_survive_a_recipe(config):
    assert build(type(config), plain(config), where="recipe") == config
