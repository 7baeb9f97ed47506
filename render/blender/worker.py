"""The program that runs inside Blender's Python; needs no `import blenderproc`, even under BlenderProc.

It prints ready {blender, devices}, reads requests and answers with JSON lines:

    {"do": "load", "path", "folder", "max_faces"}                       -> done {faces, vertices, extent, …}
    {"do": "render", "folder", "camera_to_world", "fov_deg", "size", …} -> progress {view} …, done {}

or with error {class, message, errno}. Files go through `folder`: `points.npy` from load; arrays of every
view from render (`render.blender.orbit`). Only the standard library, numpy and bpy, so that any Blender can
run it. (BlenderProc looks for the words `import blenderproc` in the first line of a script, but what they
bring, some twenty packages, is not needed here.)
"""

import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any, TextIO

PR_SET_PDEATHSIG = 1
LIMITS = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 8 << 30, resource.RLIMIT_NOFILE: 4096}
"""Core dumps, bytes of a file, open files: the most that a child may have. Memory is the parent's watch."""


def main() -> None:
    """Answer requests until stdin ends."""
    _die_with_parent()
    _limit_resources()
    # Blender prints from C: what it writes to stdout goes to the log, and the pipe carries answers only.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _find_ourselves()
    if sys.argv[1:2] == ["--threads"]:
        import_bpy(threads=int(sys.argv[2]))
    from render.blender import device, orbit, scene
    from render.blender.refusal import Refusal

    _say(answers, kind="ready", blender=scene.version(), devices=device.names(scene.cycles()))
    for line in sys.stdin:
        request, began = json.loads(line), time.process_time()
        try:
            if request["do"] == "load":
                found = scene.load(request["path"], request["folder"], max_faces=request["max_faces"])
            else:
                found = orbit.render(request, progress=lambda view: _say(answers, kind="progress", view=view))
        except Refusal as error:
            _refuse(answers, error.kind, error)
        except MemoryError as error:
            _refuse(answers, "memory", error)
        except (RuntimeError, ValueError, OSError) as error:
            # What a bad file causes. Anything else is our mistake: it ends the process with a traceback.
            _refuse(answers, "unreadable" if request["do"] == "load" else "refused", error)
        else:
            _say(answers, kind="done", cpu_s=round(time.process_time() - began, 3), **found)
    sys.stderr.flush()
    os._exit(0)  # bpy may crash while Python shuts down


def brief(error: BaseException) -> str:
    """One line of an error; of a traceback, by which Blender reports what its importers raise, the end."""
    text, traceback, end = str(error).rpartition("Traceback (most recent call last):")
    if traceback:
        text = next((line for line in end.splitlines() if line.strip() and not line.startswith(" ")), "")
    return " ".join((text or end).removeprefix("Error: ").split()) or type(error).__name__


def _refuse(answers: TextIO, kind: str, error: BaseException) -> None:
    _say(answers, kind="error", **{"class": kind}, message=brief(error), errno=getattr(error, "errno", None))


def _say(answers: TextIO, **answer: Any) -> None:
    answers.write(json.dumps(answer, allow_nan=False) + "\n")
    answers.flush()


def _find_ourselves() -> None:
    """Make our own package importable, and nothing else beside it: numpy must be that of this Blender."""
    root = str(Path(__file__).resolve().parents[2])
    sys.path.insert(0, root)
    importlib.import_module("render.blender")
    sys.path.remove(root)


def import_bpy(*, threads: int) -> None:
    """The package bpy uses as many threads as it sees CPUs when it is imported, whatever it is told later."""
    if not hasattr(os, "sched_setaffinity"):
        return  # not Linux
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every)[:threads])
    try:
        importlib.import_module("bpy")
    finally:
        for task in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(task), every)


def _limit_resources() -> None:
    for kind, most in LIMITS.items():
        allowed = resource.getrlimit(kind)[1]
        limit = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
        resource.setrlimit(kind, (limit, limit))


def _die_with_parent() -> None:
    """Linux: be killed when the parent dies, even by kill -9, so that no Blender is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
