"""A stand-in for the process that reads videos; it behaves as the name of the video says: well, or badly.

Started as `python fake_worker.py DIARY`; every process writes its id into the diary. It reads no video: a
part has one clip. It must start fast, so it imports nothing of ours.
"""

import errno
import json
import os
import sys
import time
from pathlib import Path

diary = Path(sys.argv[1])


def say(**answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def curate(request):
    path, name, out = Path(request["path"]), Path(request["path"]).stem, Path(request["out"])
    first = not path.with_suffix(".seen").exists()
    path.with_suffix(".seen").touch()
    sys.stderr.write(f"reading {name}\n")
    sys.stderr.flush()
    if "crash" in name and (first or "once" not in name):
        os.kill(os.getpid(), 9)
    while "wait" in name and not path.with_name("go").exists():
        time.sleep(0.01)
    if "silent" in name:
        time.sleep(600)
    if "talks" in name:
        for frames in range(8):
            time.sleep(0.25)
            say(kind="progress", frames=frames, time_s=0.0)
    if "slow" in name:
        time.sleep(0.2)
    if "refuse" in name:
        return say(kind="error", message=f"{path}: holds no video", **{"class": "no_video"})
    if "full" in name and (first or "once" not in name):
        return say(kind="error", message=f"{out}: cannot be written", **{"class": "output"}, errno=None)
    if "scratch" in name:
        return say(kind="error", message="no space", **{"class": "unreadable"}, errno=errno.ENOSPC)
    place = {"start_frame": 0, "end_frame": 50, "start_s": 0.0, "end_s": 2.0}
    clip = {"id": f"{request['uid']}-0000", "video": request["name"], "video_id": request["uid"], "clip": 0}
    part = {"clips": [{**clip, **place, "fps": 25.0, "width": 64, "height": 48, "motion": float(len(name))}]}
    facts = {"not_computed": {"aesthetic": "no weights"}, "message": "", "device": "cpu", "cpu_s": 0.1}
    if "liar" not in name:
        temporary = out / "parts" / f".{request['uid']}.tmp"
        temporary.write_text(json.dumps({"format": 1, **part, **facts}))
        temporary.rename(out / "parts" / f"{request['uid']}.json")
    return say(kind="done")


with open(diary, "a") as file:
    file.write(f"pid {os.getpid()}\n")
say(kind="ready")
for line in sys.stdin:
    curate(json.loads(line))
