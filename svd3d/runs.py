"""Writing so that an interruption leaves nothing or a whole thing: atomic files, folders, ledgers, manifests.

Done is a file that exists. Every file is written beside its place under a temporary name, flushed to
disk and renamed; the file that marks an object as done is written last. Running a command again
therefore resumes it.
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from svd3d import config as configs
from svd3d.errors import ConfigError, InputError, OutputError

PACKAGES = ("svd3d", "torch", "diffusers", "transformers", "numpy", "trimesh", "bpy")
"""Packages whose versions every manifest records when they are installed."""
LOCK_GRACE_S = 1.0
"""For so long a lock is tried: what a killed process had just begun to start may hold it for a moment."""
UNFINISHED = ".svd3d.tmp"
"""Hidden folder beside finished ones, in which new ones are filled."""


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file atomically and durably: temporary name, fsync, rename, fsync of the folder.

    Raises `OutputError`, with the former file still in place, when the disk is full or refuses.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to, flushed and renamed on success, removed on any error.

    Raises `OutputError`, with the former file still in place, when the disk is full or refuses.
    """
    temporary = _temporary(path)
    with _named(path):
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any] | list[Any]) -> None:
    """Write JSON atomically; NaN and infinity are refused, because JSON has neither."""
    write_file(path, _json(content, indent=1) + "\n")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A fresh folder to fill, renamed to `path` on success (replacing it) and deleted on any error.

    It is filled in a hidden folder beside `path`, which is there only while somebody writes. What a killed
    process of this machine left in it for the same `path` is removed first. The parent itself, which may hold
    millions of folders, is never listed.
    """
    with _named(path):
        if path.is_file():
            raise OutputError(
                f"{path}: a file is in the way of this folder; remove it or choose another --out"
            )
        _remove_leftovers(path.parent, _key(path))
        temporary = _unfinished(path)
    try:
        yield temporary
        with _named(path):
            _replace(temporary, path)
            _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _remove_if_empty(temporary.parent)


def sweep(folder: Path) -> None:
    """Remove what killed processes of this machine left unfinished in `folder`; for the start of a stage."""
    with _named(folder):
        _remove_leftovers(folder, "[0-9a-f]+")
    _remove_if_empty(folder / UNFINISHED)


def _key(path: Path) -> str:
    """A short stand-in for the name of `path`, so that names of 255 bytes work too."""
    return hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]


def _mark(path: Path) -> str:
    """A temporary name for `path` that tells whose it is."""
    return f"{_key(path)}.{platform.node()}.{os.getpid()}-{threading.get_ident()}"


def _temporary(path: Path) -> Path:
    """A hidden file name beside `path`."""
    return path.with_name(f".{_mark(path)}.tmp")


def _unfinished(path: Path) -> Path:
    """A new folder to fill, in the folder for unfinished ones; others may remove that while it is empty."""
    temporary = path.parent / UNFINISHED / _mark(path)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            temporary.parent.mkdir()
        with contextlib.suppress(FileNotFoundError):
            temporary.mkdir()
            return temporary


def _replace(temporary: Path, path: Path) -> None:
    """Rename a folder over another one. Several processes may do so with one `path`; the last one wins.

    That takes two renames when there is one already; who is killed in between leaves none.
    """
    old = temporary.with_name(f"{temporary.name}.old")
    while True:
        try:
            os.replace(temporary, path)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        shutil.rmtree(old, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.replace(path, old)
    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(folder: Path, key: str) -> None:
    """Delete unfinished folders of processes of this machine that no longer run; `key` is a pattern."""
    ours = re.compile(rf"{key}\.{re.escape(platform.node())}\.(\d+)-\d+(\.old)?")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in os.listdir(folder / UNFINISHED):
            found = ours.fullmatch(name)
            if found and not _runs(int(found[1])):
                shutil.rmtree(folder / UNFINISHED / name, ignore_errors=True)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _runs(process: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def _sync(path: Path) -> None:
    """Make what a file holds, or renames in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write into an `OutputError` that says what to do."""
    try:
        yield
    except OSError as error:
        advice = "choose another --out"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some space and run the same command again, it resumes"
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); {advice}") from error


def _json(content: Any, *, indent: int | None = None) -> str:
    text = json.dumps(content, indent=indent, allow_nan=False, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()  # file names that are not UTF-8 become \udcXX


def output_folder(path: Path) -> Path:
    """Make the output folder and prove that it can be written, before any work is done.

    Raises `OutputError` when a file is in the way, or the place is read-only or full.
    """
    existing = nearest_parent(path)
    if not existing.is_dir():
        raise OutputError(f"{path}: {existing} is a file, not a folder; choose another --out")
    with _named(path):
        path.mkdir(parents=True, exist_ok=True)
        probe = _temporary(path / "probe")
        try:
            probe.write_bytes(b"svd3d")
            _sync(probe)
        finally:
            probe.unlink(missing_ok=True)
    return path


def withdraw(out: Path, existed: Path) -> None:
    """Remove an output folder that this call made, and the empty folders above it up to `existed`."""
    shutil.rmtree(out, ignore_errors=True)
    for parent in out.absolute().parents:
        if parent == existed.absolute():
            break
        with contextlib.suppress(OSError):
            parent.rmdir()


def input_path(path: Path, *, what: str) -> Path:
    """The path, if it exists; otherwise an `InputError` that names the nearest folder that does."""
    try:
        path.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the {what}") from error
        nearest = nearest_parent(path)
        raise InputError(f"{path}: no such {what}; the nearest folder that exists is {nearest}") from error
    return path


def nearest_parent(path: Path) -> Path:
    """The deepest existing ancestor of a path, or the path itself."""
    for candidate in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            if candidate.exists():
                return candidate
    return Path(path.anchor)


def sha256(path: Path) -> str:
    """Digest of a file, or of a folder's files and their relative names (hidden files left out)."""
    digest = hashlib.sha256()
    if path.is_dir():
        for name in sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file()):
            if not any(part.startswith(".") for part in name.parts):
                digest.update(os.fsencode(name) + f"\0{sha256(path / name)}\n".encode())
        return digest.hexdigest()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record to a JSON-lines ledger and flush it to disk.

    A torn last line (power cut, full disk) is removed first. Raises `OutputError`, with the ledger as it
    was, when the disk is full or refuses.
    """
    line = (_json(record) + "\n").encode("utf-8")
    with _named(path), open(path, "a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = _mend(file)
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def _mend(file: io.FileIO) -> int:
    """Finish or remove a last line without newline; returns the length of the file."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(end - 1, 0))
    if file.read(1) in (b"", b"\n"):
        return end
    file.seek(0)
    content = file.read()
    start = content.rfind(b"\n") + 1
    try:
        json.loads(content[start:])
    except ValueError:
        return file.truncate(start)
    file.write(b"\n")
    return end + 1


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole records of a JSON-lines file; a torn last line (power cut) counts as absent.

    Raises `InputError` for a broken line elsewhere.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a JSON-lines file") from error
    records = []
    for number, line in enumerate(lines, start=1):
        record = None
        with contextlib.suppress(ValueError):
            record = json.loads(line or b"null")
        if isinstance(record, dict):
            records.append(record)
        elif line.strip() and number < len(lines):  # the last line may be torn
            raise InputError(f"{path}: line {number} is not a record ({line[:60]!r}); remove the line")
    return records


@contextlib.contextmanager
def lock(folder: Path, *, part: str = "") -> Iterator[None]:
    """Hold `folder` for one running command; a second one is refused. Released when the process ends.

    Commands that each name another `part` share the folder, but not with one that names none.
    """
    with _held(folder / ".lock", shared=bool(part)):
        if not part:
            yield
            return
        with _held(folder / f".lock-{part}", shared=False):
            yield


@contextlib.contextmanager
def _held(path: Path, *, shared: bool) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with _named(path.parent):
            file = stack.enter_context(open(path, "a+", encoding="utf-8"))
            until = time.monotonic() + LOCK_GRACE_S
            while not _locked(file, shared=shared):
                if time.monotonic() > until:
                    file.seek(0)
                    use = f"{path.parent}: in use by {file.read().strip() or 'another process'}"
                    raise OutputError(f"{use}; wait for it to end or choose another --out")
                time.sleep(0.05)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
        yield


def _locked(file: io.TextIOWrapper, *, shared: bool) -> bool:
    """Take the lock of a file, unless somebody holds it."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def same_settings(folder: Path, config: Any, *, ignore: Iterable[str] = ()) -> None:
    """Refuse to continue in a folder that was started with other settings.

    Writes `config.yaml` on the first call. `ignore` names fields that may change between calls (paths,
    workers). Raises `ConfigError` with the differing fields.
    """
    path = folder / "config.yaml"
    if not path.exists():
        write_file(path, configs.to_yaml(config))
        return
    was = configs.plain(configs.build(type(config), configs.read_recipe(type(config), path), where=str(path)))
    _refuse_changes(folder, was, configs.plain(config), ignore=ignore)


def _refuse_changes(folder: Path, was: dict[str, Any], now: dict[str, Any], *, ignore: Iterable[str]) -> None:
    changed = [key for key in now if key not in set(ignore) and now[key] != was.get(key)]
    if changed:
        story = "; ".join(f"{key} was {was.get(key)!r}, now {now[key]!r}" for key in changed)
        raise ConfigError(f"{folder}: made with other settings ({story}); choose another --out")


def write_manifest(
    folder: Path,
    *,
    stage: str,
    config: Any,
    inputs: Mapping[str, Path] | None = None,
    licences: Iterable[str] = (),
    seconds: Mapping[str, float] | None = None,
    device: str = "cpu",
    digest: Callable[[Path], str] = sha256,
) -> None:
    """Write `manifest.json`: what made this folder, from which inputs, with which versions.

    `seconds` are wall-clock durations per part of the stage; `device` is the one really used. `digest` may
    remember: of many results with one big input, it need be read once only.
    """
    write_json(
        folder / "manifest.json",
        {
            "stage": stage,
            "command": sys.argv,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": configs.plain(config),
            "inputs": {k: {"path": str(v), "sha256": digest(v)} for k, v in (inputs or {}).items()},
            "licences": sorted(set(licences)),
            "device": device,
            "seconds": {name: round(value, 3) for name, value in (seconds or {}).items()},
            "versions": {"python": platform.python_version(), **versions()},
            "git": git_revision(),
        },
    )


def already_made(
    folder: Path, *, config: Any, inputs: Mapping[str, Path], digest: Callable[[Path], str] = sha256
) -> bool:
    """Whether `folder` was finished by the same settings from the same inputs (its manifest tells).

    `digest` as for `write_manifest`. Raises `ConfigError` when it was finished with others, rather than
    overwriting it.
    """
    path = folder / "manifest.json"
    if not path.exists():
        return False
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        found = {**made["config"], **{name: entry["sha256"] for name, entry in made["inputs"].items()}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a readable manifest ({error}); choose another --out") from error
    wanted = {**configs.plain(config), **{name: digest(source) for name, source in inputs.items()}}
    _refuse_changes(folder, found, wanted, ignore=["out"])
    return True


def versions() -> dict[str, str]:
    """Versions of the installed packages that matter to a result."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git_revision() -> str | None:
    """The commit of the source tree this package runs from, or None when installed without one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
