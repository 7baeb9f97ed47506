"""The program that runs inside Blender's Python: reads requests, answers with JSON lines.

    {"do": "load", "path", "folder", "threads", "max_faces"}            -> done {faces, vertices, extent, …}
    {"do": "render", "folder", "camera_to_world", "fov_deg", "size", …} -> progress {view} …, done {}

Files go through `folder`: `points.npy` from load; `000.png` and `000.npy` (depth) per view from render.
Only the standard library, numpy and bpy, so that any Blender can run it.
"""

import ctypes
import json
import os
import signal
import sys
from typing import Any, TextIO

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer requests until stdin ends."""
    _die_with_parent()
    # Blender prints from C: what it writes to stdout goes to the log, and the pipe carries answers only.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    from render.blender import passes, scene

    _say(answers, kind="ready", blender=scene.version())
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "load":
                found = scene.load(request["path"], request["folder"], max_faces=request["max_faces"])
            else:
                found = passes.render(
                    request, progress=lambda view: _say(answers, kind="progress", view=view)
                )
        except (RuntimeError, ValueError, OSError, MemoryError) as error:
            # What a bad file causes. Anything else is our mistake: it ends the process with a traceback.
            _say(answers, kind="error", message=" ".join(str(error).split()) or type(error).__name__)
        else:
            _say(answers, kind="done", rss_mb=_rss_mb(), **found)
    sys.stderr.flush()
    os._exit(0)  # bpy may crash while Python shuts down


def _say(answers: TextIO, **answer: Any) -> None:
    answers.write(json.dumps(answer, allow_nan=False) + "\n")
    answers.flush()


def _rss_mb() -> float:
    """Resident memory of this process now; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


def _die_with_parent() -> None:
    """Linux: be killed when the parent dies, even by kill -9, so that no Blender is left behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
