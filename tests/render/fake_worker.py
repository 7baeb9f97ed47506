"""A stand-in for Blender's worker that behaves as the name of the object says: well, or in a bad way.

Started as `python fake_worker.py DIARY`; every process writes its id into the diary, and so do its children.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

diary = Path(sys.argv[1])
answers = os.fdopen(os.dup(1), "w")


def say(**answer):
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def note(text):
    with open(diary, "a") as file:
        file.write(text + "\n")


def load(path, folder):
    name, first = path.stem, not path.with_suffix(".seen").exists()
    path.with_suffix(".seen").touch()
    sys.stderr.write(f"loading {name}\n")
    sys.stderr.flush()
    if "crash" in name and (first or "once" not in name):
        os.kill(os.getpid(), 9)
    if "quit" in name:
        sys.stderr.write("".join(f"line {i}\n" for i in range(50)))
        sys.exit(3)
    if "hang" in name:
        child = subprocess.Popen(["sleep", "600"])
        note(f"pid {child.pid}")
        time.sleep(600)
    if "garbage" in name:
        answers.write("Info: this is not an answer\n")
        answers.flush()
    if "endless" in name:
        answers.write("x" * (3 << 20))
        answers.flush()
    if "strange" in name:
        say(kind="perhaps")
    if "refuse" in name:
        say(kind="error", message="it shows no surface")
        return
    corners = np.array(np.meshgrid([-0.5, 0.5], [-0.3, 0.3], [-0.2, 0.2])).reshape(3, 8).T.astype(np.float32)
    np.save(folder / "points.npy", corners * (40 if "huge" in name else 1))
    rss = 1e9 if "fat" in name else 10
    stats = {"faces": 12, "vertices": 8, "extent": 2.0, "missing_textures": [], "blender": "fake"}
    say(kind="done", rss_mb=rss, imported_to_world=np.diag([0.5, 0.5, 0.5, 1]).tolist(), **stats)


def render(request, folder):
    size = request["size"]
    for view in range(len(request["camera_to_world"])):
        picture = np.zeros((size, size, 4), np.uint8)
        picture[2:-2, 2:-2] = (200, 100, 50, 255)
        Image.fromarray(picture).save(folder / f"{view:03d}.png")
        np.save(folder / f"{view:03d}.npy", np.full((size, size), 2.0, np.float32))
        say(kind="progress", view=view)
    say(kind="done", device="CPU", views=view + 1)


note(f"pid {os.getpid()}")
answers.write("some banner, as Blender prints one\n")
say(kind="ready")
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "load":
        load(Path(request["path"]), Path(request["folder"]))
    else:
        render(request, Path(request["folder"]))
