"""Which command starts a worker: the package bpy, any Blender executable, or BlenderProc."""

import getpass
import re
import shutil
import subprocess
import sys
from pathlib import Path

from svd3d.errors import ConfigError

WORKER = Path(__file__).with_name("blender") / "worker.py"
OLDEST = (3, 4)
"""Oldest Blender that was tried."""
OFFLINE_SINCE = (4, 2)
VERSION_S = 60.0
SHARED_HOME = Path("/home_local")
"""Where BlenderProc installs Blender if it exists; else in the user's home."""


def command(blender: str | None = None, *, threads: int) -> tuple[str, ...]:
    """The command line of a worker; `blender` is None for the package bpy, an executable, or `blenderproc`.

    Raises `ConfigError` for a program that does not exist, is not Blender, or is too old.
    """
    if blender is None:
        return (sys.executable, "-P", str(WORKER), "--threads", str(threads))
    program = shutil.which(blender)
    if program is None:
        raise ConfigError(
            f"blender: {blender!r} is not an executable; pass the path of Blender, or leave the option out "
            "to use the package bpy"
        )
    if Path(program).stem == "blenderproc":
        # Its own default is the home folder, of which every worker has one of its own.
        home = SHARED_HOME / getpass.getuser() if SHARED_HOME.exists() else Path.home()
        return (program, "run", "--blender-install-path", str(home / "blender"), str(WORKER))
    offline = ("--offline-mode",) if version(program) >= OFFLINE_SINCE else ()
    safe = ("--background", "--factory-startup", "--disable-autoexec", *offline, "-noaudio")
    safe += ("--threads", str(threads))
    return (program, *safe, "--python-exit-code", "1", "--python", str(WORKER), "--")


def version(program: str) -> tuple[int, int]:
    """Major and minor version of a Blender executable. Raises `ConfigError` if it is none, or too old."""
    try:
        done = subprocess.run(
            [program, "--version"],
            capture_output=True,
            timeout=VERSION_S,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"blender: {program} does not start ({error}); pass the path of Blender") from error
    found = re.search(r"^Blender (\d+)\.(\d+)", said, re.MULTILINE)
    if found is None:
        first = said.strip().partition("\n")[0][:80]
        raise ConfigError(
            f"blender: {program} does not say that it is Blender but {first!r}; pass the path of Blender"
        )
    number = int(found[1]), int(found[2])
    if number < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ConfigError(f"blender: {program} is {found[0]}, older than {oldest}; pass a newer one")
    return number
