"""Nothing or a whole thing: files, folders, ledgers and locks under errors, kills and full disks."""

import errno
import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svd3d import runs
from svd3d.errors import ConfigError, InputError, OutputError

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Config:
    views: int = 21
    rate: float = 1e-4
    workers: int = 2
    out: Path = Path("out")


def run(code: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run Python code that sees our packages in a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full_disk(monkeypatch):
    """Every fsync finds the disk full."""

    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)


@given(st.binary(max_size=99) | st.text(max_size=99))
def test_a_file_holds_what_was_written(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("f") / "a"
    runs.write_file(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(path.parent) == ["a"]


def test_a_file_on_a_full_disk_keeps_its_former_content(tmp_path, full_disk):
    (tmp_path / "a").write_text("before")
    with pytest.raises(OutputError) as caught:
        runs.write_file(tmp_path / "a", "after")
    assert str(caught.value) == (
        f"{tmp_path / 'a'}: cannot be written (No space left on device); "
        "free some space and run the same command again, it resumes"
    )
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "before"


LIMITED = """
import resource, sys
from pathlib import Path
from svd3d import errors, runs
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
for write, content in ((runs.write_file, "x" * 200), (runs.append_line, {"uid": "y" * 60})):
    try:
        write(Path(sys.argv[1]), content)
    except errors.OutputError as error:
        print(error)
"""


def test_a_write_that_the_system_stops_half_way_leaves_the_former_content(tmp_path):
    """A limit on the size of files stops a write in the middle, as a disk does that becomes full."""
    former = '{"uid": "' + "x" * 40 + '"}\n'
    (tmp_path / "a").write_text(former)
    done = run(LIMITED, tmp_path / "a")
    assert [line.split("; ")[0] for line in done.stdout.splitlines()] == [
        f"{tmp_path / 'a'}: cannot be written (File too large)",
        f"{tmp_path / 'a'}: cannot be written (No space left on device)",
    ], done.stderr
    assert (tmp_path / "a").read_text() == former
    assert names(tmp_path) == ["a"]


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    path = tmp_path / ("é" * 127 + "x")
    runs.write_file(path, "whole")
    assert path.read_text() == "whole"
    with runs.atomic_folder(tmp_path / ("f" * 255)) as folder:
        (folder / "a").touch()
    assert (tmp_path / ("f" * 255) / "a").exists()


def test_a_missing_parent_is_reported(tmp_path):
    with pytest.raises(OutputError, match=r"x/a: cannot be written \(No such file or directory\)"):
        runs.write_file(tmp_path / "x/a", "")


def test_threads_may_write_the_same_file(tmp_path):
    texts = [str(i) * 10_000 for i in range(8)]
    threads = [threading.Thread(target=runs.write_file, args=(tmp_path / "a", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in texts
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        runs.write_json(tmp_path / "a.json", {"x": value})
    assert names(tmp_path) == []


def test_json_keeps_names_that_are_not_utf8(tmp_path):
    content = {"ü": os.fsdecode(b"caf\xe9.glb")}
    runs.write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == content
    runs.write_json(tmp_path / "b.json", {"ü": 1})
    assert "ü" in (tmp_path / "b.json").read_text()


def test_a_folder_appears_whole(tmp_path):
    with runs.atomic_folder(tmp_path / "deep/x") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "deep/x").exists()
    assert names(tmp_path / "deep") == ["x"]
    assert names(tmp_path / "deep/x") == ["a"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for name in "ab":
        with runs.atomic_folder(tmp_path / "x") as folder:
            (folder / name).touch()
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["b"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_former_folder_and_nothing_else(tmp_path, error):
    with runs.atomic_folder(tmp_path / "x") as folder:
        (folder / "a").touch()

    def fail():
        with runs.atomic_folder(tmp_path / "x") as folder:
            (folder / "b").touch()
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == ["x"]
    assert names(tmp_path / "x") == ["a"]


def test_a_file_in_the_way_of_a_folder_is_refused_before_the_work(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(OutputError, match="a file is in the way"), runs.atomic_folder(tmp_path / "x"):
        pytest.fail("the work began")
    with pytest.raises(OutputError, match="File exists"), runs.atomic_folder(tmp_path / "x/y"):
        pytest.fail("the work began")


KILLED_FOLDER = """
import os, signal, sys
from pathlib import Path
from svd3d import runs
with runs.atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("done")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_hidden_and_removed_by_the_next(tmp_path):
    for _ in range(2):
        assert run(KILLED_FOLDER, tmp_path / "x").returncode == -signal.SIGKILL
        assert names(tmp_path) == [runs.UNFINISHED]
        (left,) = names(tmp_path / runs.UNFINISHED)  # the second run removed what the first one left
    assert runs.UNFINISHED.startswith(".")
    with runs.atomic_folder(tmp_path / "other") as mine:
        assert names(tmp_path / runs.UNFINISHED) == sorted([left, mine.name])
    with runs.atomic_folder(tmp_path / "x") as mine:
        assert names(tmp_path / runs.UNFINISHED) == [mine.name]
    assert names(tmp_path) == ["other", "x"]


def test_a_sweep_removes_what_killed_processes_of_this_machine_left_and_nothing_else(tmp_path):
    runs.sweep(tmp_path)
    assert names(tmp_path) == []
    for name in ("x", "y"):
        assert run(KILLED_FOLDER, tmp_path / name).returncode == -signal.SIGKILL
    unfinished = tmp_path / runs.UNFINISHED
    other = unfinished / names(unfinished)[0].replace(platform.node(), "another-machine")
    shutil.copytree(unfinished / names(unfinished)[0], other)
    with runs.atomic_folder(tmp_path / "z") as mine:
        (mine / "half").touch()
        runs.sweep(tmp_path)
        assert names(unfinished) == sorted([mine.name, other.name])
        assert names(mine) == ["half"]
    shutil.rmtree(other)
    runs.sweep(tmp_path)
    assert names(tmp_path) == ["z"]


KILLED_REPLACEMENT = """
import os, signal, sys
from pathlib import Path
from svd3d import runs
replace = os.replace
def rename(source, target):
    replace(source, target)
    if source == Path(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = rename
with runs.atomic_folder(Path(sys.argv[1])):
    pass
"""


def test_a_process_killed_between_the_two_renames_leaves_nothing_half_done(tmp_path):
    with runs.atomic_folder(tmp_path / "x") as folder:
        (folder / "former").touch()
    assert run(KILLED_REPLACEMENT, tmp_path / "x").returncode == -signal.SIGKILL
    assert names(tmp_path) == [runs.UNFINISHED]
    assert len(names(tmp_path / runs.UNFINISHED)) == 2
    runs.sweep(tmp_path)
    assert names(tmp_path) == []


def test_the_folder_of_all_objects_is_never_listed(tmp_path, monkeypatch):
    """It may hold millions; listing it for each object would be quadratic."""
    listed = []

    def spy(function):
        def call(path=".", *rest):
            listed.append(str(path))
            return function(path, *rest)

        return call

    (tmp_path / "out").mkdir()
    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, spy(getattr(os, name)))
    for _ in range(2):
        with runs.atomic_folder(tmp_path / "out/x") as folder:
            (folder / "a").touch()
    runs.sweep(tmp_path / "out")
    assert listed
    assert str(tmp_path / "out") not in listed


REPLACE = """
import sys
from pathlib import Path
from svd3d import runs
for i in range(150):
    with runs.atomic_folder(Path(sys.argv[1]) / sys.argv[3]) as folder:
        for name in "ab":
            (folder / name).write_text(f"{sys.argv[2]} {i}")
"""


@pytest.mark.parametrize("places", [("x", "x", "x"), ("x", "y", "z")], ids=["one folder", "three folders"])
def test_processes_may_write_folders_at_the_same_time(tmp_path, places):
    """Each removes the hidden folder when it is empty, and the last one to replace a folder wins."""
    command = [sys.executable, "-c", REPLACE, str(tmp_path)]
    running = [subprocess.Popen([*command, str(who), place], cwd=ROOT) for who, place in enumerate(places)]
    assert [each.wait(60) for each in running] == [0, 0, 0]
    assert names(tmp_path) == sorted(set(places))
    for place in places:
        whole = {path.read_text() for path in (tmp_path / place).iterdir()}
        assert len(whole) == 1
        assert whole <= {f"{who} 149" for who in range(3)}


def test_the_unfinished_folder_of_a_living_process_is_left_alone(tmp_path):
    with runs.atomic_folder(tmp_path / "x") as mine:
        code = "import sys; from pathlib import Path; from svd3d import runs\n"
        done = run(code + "with runs.atomic_folder(Path(sys.argv[1])): pass", tmp_path / "x")
        assert done.returncode == 0, done.stderr
        assert mine.exists()


KILLED_FILE = """
import os, signal, sys
from pathlib import Path
from svd3d import runs
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
runs.write_file(Path(sys.argv[1]), "after")
"""


def test_a_killed_write_keeps_the_former_file(tmp_path):
    (tmp_path / "a").write_text("before")
    assert run(KILLED_FILE, tmp_path / "a").returncode == -signal.SIGKILL
    assert (tmp_path / "a").read_text() == "before"


def test_an_output_folder_is_made_and_left_empty(tmp_path):
    assert runs.output_folder(tmp_path / "a/b") == tmp_path / "a/b"
    assert names(tmp_path / "a/b") == []


def test_an_output_folder_that_cannot_be_is_refused(tmp_path, monkeypatch):
    (tmp_path / "f").touch()
    for path in (tmp_path / "f", tmp_path / "f/x"):
        with pytest.raises(InputError, match=r"f is a file, not a folder; choose another --out"):
            runs.output_folder(path)
    with pytest.raises(OutputError, match=r"cannot be written \(.*\); choose another --out"):
        runs.output_folder(Path("/proc/svd3d"))


def test_an_output_folder_on_a_full_disk_is_refused(tmp_path, full_disk):
    with pytest.raises(
        OutputError, match=r"/x: cannot be written \(No space left on device\); free some space"
    ):
        runs.output_folder(tmp_path / "x")
    assert names(tmp_path / "x") == []


def test_a_missing_input_names_the_nearest_folder(tmp_path):
    with pytest.raises(InputError) as caught:
        runs.input_path(tmp_path / "a/b/c.glb", what="object")
    assert str(caught.value).endswith(f"c.glb: no such object; the nearest folder that exists is {tmp_path}")
    with pytest.raises(InputError, match=r"cannot be read \(File name too long\); check the object"):
        runs.input_path(Path("x" * 300), what="object")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="cannot be read"):
        runs.input_path(tmp_path / "loop", what="object")
    assert runs.input_path(tmp_path, what="object") == tmp_path


def test_the_digest_of_a_file_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert runs.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_digest_of_a_folder_is_that_of_its_files_and_names(tmp_path):
    def folder(name: str, **files: str) -> str:
        for file, text in files.items():
            path = tmp_path / name / file.replace("_", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return runs.sha256(tmp_path / name)

    digests = [
        folder("a", x="1", y_z="2"),
        folder("c", x="1", y_w="2"),
        folder("d", x="1", y_z="3"),
        folder("e", x="1"),
    ]
    assert len(set(digests)) == 4
    assert folder("b", y_z="2", x="1") == digests[0]
    (tmp_path / "b/.lock").touch()
    (tmp_path / "b/.cache").mkdir()
    (tmp_path / "b/.cache/x").touch()
    (tmp_path / "b/empty").mkdir()
    assert runs.sha256(tmp_path / "b") == digests[0]
    (tmp_path / "b").rename(tmp_path / "moved")
    assert runs.sha256(tmp_path / "moved") == digests[0]


records = st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=9), max_size=3)


@given(st.lists(records, max_size=5))
def test_a_ledger_gives_back_its_records(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("l") / "ledger.jsonl"
    for record in written:
        runs.append_line(path, record)
    assert runs.read_lines(path) == written


def test_an_absent_ledger_is_empty(tmp_path):
    assert runs.read_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("cut", range(1, 16))
def test_a_torn_last_line_counts_as_absent_and_is_mended_by_the_next(tmp_path, cut):
    path = tmp_path / "ledger.jsonl"
    runs.append_line(path, {"uid": "a"})
    runs.append_line(path, {"uid": "böse"})
    path.write_bytes(path.read_bytes()[:-cut])
    before = runs.read_lines(path)
    assert before == ([{"uid": "a"}, {"uid": "böse"}] if cut == 1 else [{"uid": "a"}])
    runs.append_line(path, {"uid": "c"})
    assert runs.read_lines(path) == [*before, {"uid": "c"}]


@pytest.mark.parametrize("line", ["{torn", "5", "[]", "\x00"])
def test_a_broken_line_inside_a_ledger_is_named(tmp_path, line):
    path = tmp_path / "ledger.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n{{"a": 2}}\n')
    with pytest.raises(InputError, match=r"ledger\.jsonl: line 2 is not a record"):
        runs.read_lines(path)
    with pytest.raises(InputError, match="cannot be read"):
        runs.read_lines(tmp_path)


def test_a_ledger_on_a_full_disk_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "ledger.jsonl"
    runs.append_line(path, {"uid": "a"})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(OutputError, match=r"ledger\.jsonl: cannot be written"):
            runs.append_line(path, {"uid": "b"})
    assert path.read_text() == '{"uid": "a"}\n'


APPEND = """
import sys
from pathlib import Path
from svd3d import runs
for i in range(30):
    runs.append_line(Path(sys.argv[1]), {"who": sys.argv[2], "i": i, "text": "x" * 500})
"""


def test_two_processes_may_append_to_one_ledger(tmp_path):
    path = tmp_path / "ledger.jsonl"
    command = [sys.executable, "-c", APPEND, str(path)]
    both = [subprocess.Popen([*command, who], cwd=ROOT) for who in "ab"]
    assert [each.wait(60) for each in both] == [0, 0]
    found = runs.read_lines(path)
    assert sorted((line["who"], line["i"]) for line in found) == [(who, i) for who in "ab" for i in range(30)]


LOCK = """
import sys
from pathlib import Path
from svd3d import errors, runs
try:
    with runs.lock(Path(sys.argv[1])):
        print("got it")
except errors.InputError as error:
    print(error)
"""


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path):
    with runs.lock(tmp_path):
        refused = run(LOCK, tmp_path).stdout.strip()
    owner = f"process {os.getpid()} on {platform.node()}"
    assert refused == f"{tmp_path}: in use by {owner}; wait for it to end or choose another --out"
    assert run(LOCK, tmp_path).stdout.strip() == "got it"


def test_a_lock_that_is_let_go_within_a_moment_is_waited_for(tmp_path):
    happened = []
    with open(tmp_path / ".lock", "a+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def let_go():
            happened.append("let go")
            fcntl.flock(held, fcntl.LOCK_UN)

        letting_go = threading.Timer(0.3, let_go)
        letting_go.start()
        with runs.lock(tmp_path):
            happened.append("locked")
            assert str(os.getpid()) in (tmp_path / ".lock").read_text()
        letting_go.join()
    assert happened == ["let go", "locked"]


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = LOCK.replace('print("got it")', "import os; os.kill(os.getpid(), 9)")
    assert run(code, tmp_path).returncode == -signal.SIGKILL
    with runs.lock(tmp_path):
        pass


def test_an_error_inside_frees_the_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), runs.lock(tmp_path):
        _ = 1 / 0
    with runs.lock(tmp_path):
        pass


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path):
    with pytest.raises(OutputError, match=r"x: cannot be written"), runs.lock(tmp_path / "x"):
        pytest.fail("locked")


def test_the_same_settings_continue_and_others_are_refused(tmp_path):
    runs.same_settings(tmp_path, Config())
    runs.same_settings(tmp_path, Config())
    runs.same_settings(tmp_path, Config(workers=8, out=Path("other")), ignore=["workers", "out"])
    with pytest.raises(ConfigError) as caught:
        runs.same_settings(tmp_path, Config(views=4, rate=0.5, workers=8), ignore=["workers"])
    assert str(caught.value) == (
        f"{tmp_path}: made with other settings (views was 21, now 4; rate was 0.0001, now 0.5); "
        "choose another --out"
    )
    assert (tmp_path / "config.yaml").read_text() == "views: 21\nrate: 0.0001\nworkers: 2\nout: out\n"


def test_settings_of_another_version_or_broken_ones_are_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("veiws: 3\n")
    with pytest.raises(ConfigError, match=r"config\.yaml: unknown key 'veiws'"):
        runs.same_settings(tmp_path, Config())
    (tmp_path / "config.yaml").write_text("[")
    with pytest.raises(ConfigError, match=r"config\.yaml: not valid YAML"):
        runs.same_settings(tmp_path, Config())


def test_the_manifest_says_what_made_the_folder_from_what(tmp_path):
    (tmp_path / "in.glb").write_bytes(b"abc")
    runs.write_manifest(
        tmp_path,
        stage="render",
        config=Config(views=3),
        inputs={"object": tmp_path / "in.glb"},
        licences=["CC-BY-4.0", "CC0-1.0", "CC-BY-4.0"],
        seconds={"render": 1.23456},
        device="cuda:0",
    )
    content = json.loads((tmp_path / "manifest.json").read_text())
    assert content["stage"] == "render"
    assert content["command"] == sys.argv
    assert content["config"] == {"views": 3, "rate": 1e-4, "workers": 2, "out": "out"}
    assert content["inputs"] == {
        "object": {"path": str(tmp_path / "in.glb"), "sha256": runs.sha256(tmp_path / "in.glb")}
    }
    assert content["licences"] == ["CC-BY-4.0", "CC0-1.0"]
    assert content["device"] == "cuda:0"
    assert content["seconds"] == {"render": 1.235}
    assert content["versions"]["python"] == platform.python_version()
    assert "numpy" in content["versions"]
    assert content["made"].endswith("+00:00")
    assert set(content) >= {"git"}


def test_a_finished_folder_is_known_by_its_settings_and_inputs(tmp_path):
    source = tmp_path / "in.glb"
    source.write_bytes(b"abc")
    made = {"config": Config(), "inputs": {"object": source}}
    assert not runs.already_made(tmp_path, **made)
    runs.write_manifest(tmp_path, stage="render", **made)
    assert runs.already_made(tmp_path, **made)
    moved = source.rename(tmp_path / "moved.glb")
    assert runs.already_made(tmp_path, config=Config(out=Path("other")), inputs={"object": moved})
    with pytest.raises(
        ConfigError, match=r"made with other settings \(views was 21, now 4\); choose another"
    ):
        runs.already_made(tmp_path, config=Config(views=4), inputs={"object": moved})
    moved.write_bytes(b"abcd")
    with pytest.raises(ConfigError, match="object was 'ba78"):
        runs.already_made(tmp_path, config=Config(), inputs={"object": moved})


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"config": {}, "inputs": {"a": 1}}', '{"config": 1, "inputs": {}}']
)
def test_a_broken_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json: not a readable manifest"):
        runs.already_made(tmp_path, config=Config(), inputs={})


def test_the_revision_is_that_of_the_source_tree_or_none(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "svd3d/runs.py"))
    assert runs.git_revision() is None
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    assert runs.git_revision() is None
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", tmp_path, *author, "commit", "-qm", "x", "--allow-empty"], check=True)
    assert len(runs.git_revision()) == 40
    monkeypatch.setenv("PATH", "")
    assert runs.git_revision() is None


def test_parts_share_a_folder_but_not_with_the_whole(tmp_path):
    with runs.lock(tmp_path, part="0-of-2"), runs.lock(tmp_path, part="1-of-2"):
        for part in ("0-of-2", ""):
            with pytest.raises(OutputError, match="in use by process"), runs.lock(tmp_path, part=part):
                pass
    with (
        runs.lock(tmp_path),
        pytest.raises(OutputError, match="in use by process"),
        runs.lock(tmp_path, part="0-of-2"),
    ):
        pass
