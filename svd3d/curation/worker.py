"""The process that reads videos, one after another; it keeps its networks loaded.

Started by `svd3d.curate` as `python -m svd3d.curation.worker SETTINGS`, with the settings as JSON. It prints
ready, reads requests and answers with JSON lines:

    {"do": "curate", "uid", "name", "path", "out", "scratch"}    -> progress {frames, time_s} …, done {}

or with error {class, message, errno}. What it finds it writes to OUT/parts/<uid>.json. Videos come from
strangers and decoders have holes: it dies with its parent, leaves no core dumps, and is watched.
"""

import ctypes
import json
import logging
import os
import resource
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import cv2

from svd3d import config as configs
from svd3d.curation import scoring, table
from svd3d.errors import OutputError, Svd3dError
from svd3d.settings import CurateConfig

PR_SET_PDEATHSIG = 1
LIMITS = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: 4096}


def main(settings: str) -> None:
    """Answer requests until stdin ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for kind, most in LIMITS.items():
        resource.setrlimit(kind, (most, most))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print from C goes to the log
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    config = configs.build(CurateConfig, json.loads(settings), where="settings")
    cv2.setNumThreads(config.threads)
    tools = scoring.load(config)
    _say(answers, kind="ready")
    for line in sys.stdin:
        _answer(answers, json.loads(line), config, tools)
        sys.stderr.flush()


def _answer(answers: TextIO, request: dict[str, Any], config: CurateConfig, tools: scoring.Tools) -> None:
    scratch, out = Path(request["scratch"]), Path(request["out"])
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    began = time.process_time()
    try:
        part = scoring.score(
            Path(request["path"]),
            uid=request["uid"],
            name=request["name"],
            out=out,
            scratch=scratch,
            config=config,
            tools=tools,
            on_progress=lambda frames, time_s: _say(answers, kind="progress", frames=frames, time_s=time_s),
        )
        part = replace(part, cpu_s=round(time.process_time() - began, 3))
        part.write(out / table.PARTS / f"{request['uid']}.json")
    except OutputError as error:
        _refuse(answers, "output", error)
    except Svd3dError as error:
        _refuse(answers, getattr(error, "kind", "refused"), error)
    except MemoryError as error:
        _refuse(answers, "memory", error)
    except OSError as error:
        _refuse(answers, "unreadable", error)
    else:
        _say(answers, kind="done")
    shutil.rmtree(scratch, ignore_errors=True)


def _refuse(answers: TextIO, kind: str, error: BaseException) -> None:
    message = " ".join(str(error).split()) or type(error).__name__
    _say(answers, kind="error", **{"class": kind}, message=message, errno=getattr(error, "errno", None))


def _say(answers: TextIO, **answer: Any) -> None:
    answers.write(json.dumps(answer, allow_nan=False) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
