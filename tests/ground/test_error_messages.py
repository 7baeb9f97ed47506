"""Byte-for-byte snapshots of the ground floor's error messages, because the message is what a user gets.

After a change that is meant, write them anew and read the difference before committing it:

    UPDATE_ERROR_MESSAGES=1 .venv/bin/python -m pytest tests/ground/test_error_messages.py
    git diff tests/ground/error_messages.json
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from svd3d import config, errors, images, runs, sample
from svd3d.cameras import Cameras, Orbit
from svd3d.settings import DemoConfig, GenerateConfig

SNAPSHOTS = Path(__file__).with_name("error_messages.json")
UPDATE = bool(os.environ.get("UPDATE_ERROR_MESSAGES"))


def recipe(text: str):
    def case(folder: Path) -> None:
        (folder / "recipe.yaml").write_text(text)
        config.build(
            GenerateConfig, config.read_recipe(GenerateConfig, folder / "recipe.yaml"), where="recipe.yaml"
        )

    return case


def image(data: bytes):
    def case(folder: Path) -> None:
        (folder / "cup.png").write_bytes(data)
        images.read(folder / "cup.png")

    return case


def broken_sample(**changes):
    def case(folder: Path) -> None:
        orbit = Orbit.static(num_views=2)
        pictures = np.zeros((2, 4, 4, 4), np.uint8)
        sample.write(sample.Sample("mug", orbit.cameras(height=4, width=4), pictures, "rendered"), folder)
        content = json.loads((folder / "transforms.json").read_text())
        content["frames"][1].update(changes)
        (folder / "transforms.json").write_text(json.dumps(content))
        sample.read(folder)

    return case


def locked(folder: Path) -> None:
    with runs.lock(folder), open(folder / ".lock", "w") as file:
        file.write("process 12 on render-3")
        file.flush()
        with runs.lock(folder):
            pass


def other_settings(folder: Path) -> None:
    runs.same_settings(folder, DemoConfig())
    runs.same_settings(folder, DemoConfig(size=256))


def torn_ledger(folder: Path) -> None:
    (folder / "ledger.jsonl").write_text('{"uid": 1\n{"uid": 2}\n')
    runs.read_lines(folder / "ledger.jsonl")


def file_in_the_way(folder: Path) -> None:
    (folder / "out").touch()
    runs.output_folder(folder / "out/views")


def cameras(change):
    def case(folder: Path) -> None:
        matrices, intrinsics = np.tile(np.eye(4), (2, 1, 1)), np.tile(np.eye(3) * [50, 50, 1], (2, 1, 1))
        change(matrices, intrinsics)
        Cameras(matrices, intrinsics, 8, 8)

    return case


CASES = {
    "recipe: unknown key": recipe("stpes: 3"),
    "recipe: far from any key": recipe("zzzz: 3"),
    "recipe: wrong type": recipe("steps: many"),
    "recipe: out of range": recipe("image: a.png\nout: o\nsteps: 0"),
    "recipe: missing keys": recipe("steps: 3"),
    "recipe: not YAML": recipe("steps: [3"),
    "recipe: key set twice": recipe("steps: 3\nsteps: 4"),
    "recipe: not a mapping": recipe("- steps"),
    "recipe: missing file": lambda folder: config.read_recipe(GenerateConfig, folder / "recipe.yaml"),
    "input: missing": lambda folder: runs.input_path(folder / "a/cup.png", what="image"),
    "output: file in the way": file_in_the_way,
    "output: impossible": lambda folder: runs.output_folder(Path("/proc/svd3d")),
    "output: in use": locked,
    "output: other settings": other_settings,
    "ledger: broken line": torn_ledger,
    "image: empty": image(b""),
    "image: a web page": image(b"<html><body>404 Not Found"),
    "image: truncated": image(images.encode_png(np.full((64, 64, 4), 7, np.uint8))[:-40]),
    "image: a folder": images.read,
    "image: no object": lambda folder: images.cut_out(np.zeros((8, 8, 4), np.uint8), where="cup.png"),
    "image: busy background": lambda folder: images.cut_out(
        np.random.default_rng(0).integers(250, 506, (64, 64, 4)).astype(np.uint8) | np.uint8([0, 0, 0, 255]),
        where="cup.png",
    ),
    "sample: no folder": lambda folder: sample.read(folder / "mug"),
    "sample: unfinished": sample.read,
    "sample: no image": broken_sample(file_path="images/007.png"),
    "sample: outside": broken_sample(file_path="../cup.png"),
    "sample: scaled matrix": broken_sample(transform_matrix=(np.eye(4) * [2, 2, 2, 1]).tolist()),
    "sample: no matrix": broken_sample(transform_matrix=None),
    "orbit: elevation": lambda folder: Orbit((0.0, 9.0), (0.0, 95.0), 2.0),
    "orbit: views": lambda folder: Orbit((0.0, 9.0), (0.0,), 2.0),
    "orbit: distance": lambda folder: Orbit((0.0,), (0.0,), 0.0),
    "cameras: mirrored": cameras(lambda matrices, intrinsics: matrices.__setitem__((1, 0, 0), -1)),
    "cameras: no focal length": cameras(lambda matrices, intrinsics: intrinsics.__setitem__((1, 0, 0), 0)),
    "package: not installed": lambda folder: errors.require(
        "svd3d_of_tomorrow", extra="render", reason="rendering"
    ),
}


def message(name: str, folder: Path) -> str:
    with pytest.raises(errors.Svd3dError) as caught:
        CASES[name](folder)
    text = f"{type(caught.value).__name__}: {caught.value}"
    return text.replace(str(folder), "FOLDER")


@pytest.mark.parametrize("name", CASES)
def test_the_message_is_the_one_we_agreed_on(name, tmp_path):
    found = message(name, tmp_path)
    assert "\n" not in found
    if UPDATE:
        known = json.loads(SNAPSHOTS.read_text()) if SNAPSHOTS.exists() else {}
        kept = {key: text for key, text in {**known, name: found}.items() if key in CASES}
        SNAPSHOTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    assert found == json.loads(SNAPSHOTS.read_text())[name]


def test_every_snapshot_has_a_case():
    assert set(json.loads(SNAPSHOTS.read_text())) == set(CASES)


def test_an_installed_package_that_fails_to_load_raises_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("import svd3d_of_tomorrow\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="svd3d_of_tomorrow"):
        errors.require("broken_package", extra="x", reason="x")
    assert errors.require("json", extra="x", reason="x") is json
