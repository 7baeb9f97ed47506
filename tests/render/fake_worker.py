"""A stand-in for Blender's worker that behaves as the name of the object says: well, or in a bad way.

Started as `python fake_worker.py DIARY`; every process writes its id into the diary, and so do its children.
It writes its arrays and pictures by hand, because it must start fast: tests kill and start hundreds.
"""

import errno
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

diary = Path(sys.argv[1])
answers = os.fdopen(os.dup(1), "w")
CORNERS = [(x, y, z) for x in (-0.5, 0.5) for y in (-0.3, 0.3) for z in (-0.2, 0.2)]


def say(**answer):
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def note(text):
    with open(diary, "a") as file:
        file.write(text + "\n")


def npy(path, kind, shape, data):
    """An array in numpy's format 1.0."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data)


def load(path, folder):
    name, first = path.stem, not path.with_suffix(".seen").exists()
    path.with_suffix(".seen").touch()
    sys.stderr.write(f"loading {name}\n")
    sys.stderr.flush()
    if "crash" in name and (first or "once" not in name):
        os.kill(os.getpid(), 9)
    if "sink" in name:
        os.kill(os.getppid(), 9)
    while "wait" in name and not path.with_name("go").exists():
        time.sleep(0.01)
    if "quit" in name:
        sys.stderr.write("".join(f"line {i}\n" for i in range(50)))
        sys.exit(3)
    if "hang" in name:
        child = subprocess.Popen(["sleep", "600"])
        note(f"pid {child.pid}")
        time.sleep(600)
    if "swell" in name:
        subprocess.Popen([sys.executable, "-c", "import time; hold = b'x' * (300 << 20); time.sleep(600)"])
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
        return say(kind="error", message="it shows no surface", **{"class": "no_mesh"})
    if "nogpu" in name:
        return say(kind="error", message="device: no optix here; pass --device cpu", **{"class": "device"})
    if "full" in name and (first or "once" not in name):
        return say(kind="error", message="No space left on device", errno=errno.ENOSPC)
    global held, loaded
    held = b"x" * (100 << 20) if "fat" in name else held
    loaded = name
    scale = 40 if "huge" in name else 1
    points = [scale * part for corner in CORNERS for part in corner]
    npy(folder / "points.npy", "<f4", (8, 3), struct.pack("<24f", *points))
    stats = {
        "faces": 12,
        "vertices": 8,
        "extent": 2.0,
        "missing_textures": [],
        "blender": "fake",
        "cpu_s": 0.1,
    }
    matrix = [[0.5 * (i == j) if i < 3 else float(j == 3) for j in range(4)] for i in range(4)]
    say(kind="done", imported_to_world=matrix, **stats)


def render(request, folder):
    """A brown square two units away, with a transparent rim of two pixels."""
    size = request["size"] - ("small" in loaded)
    rim, middle = bytes(8), bytes((200, 100, 50, 255)) * (size - 4)
    rgba = bytes(8 * size) + (rim + middle + rim) * (size - 4) + bytes(8 * size)
    for view in range(len(request["camera_to_world"])):
        if "liar" not in loaded:
            npy(folder / f"{view:03d}.rgba.npy", "|u1", (size, size, 4), rgba)
        npy(folder / f"{view:03d}.depth.npy", "<f4", (size, size), struct.pack("<f", 2.0) * size**2)
        npy(folder / f"{view:03d}.normal.npy", "<f4", (size, size, 3), struct.pack("<3f", 0, 0, 1) * size**2)
        say(kind="progress", view=view)
        time.sleep(0.01 * ("slow" in loaded))
    method = {"oversampling": 3, "paths": 8, "psnr_db": request.get("min_psnr"), "denoised": True}
    say(kind="done", device="CPU", views=view + 1, cpu_s=0.2, method=method)


held, loaded = b"", ""
note(f"pid {os.getpid()}")
answers.write("some banner, as Blender prints one\n")
say(kind="ready")
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "load":
        load(Path(request["path"]), Path(request["folder"]))
    else:
        render(request, Path(request["folder"]))
