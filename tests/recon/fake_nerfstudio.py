"""A stand-in for the programs of nerfstudio 1.1.5: takes their arguments only, and leaves their files.

Its mesh is the file mesh.ply beside it, its renderings are the pictures of the dataset's test split. NS_FAKE
in the environment makes it fail ("crash"), stop early ("stop") or find nothing ("empty").
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

MODEL = (
    "near-plane",
    "far-plane",
    "background-color",
    "disable-scene-contraction",
    "camera-optimizer.mode",
    "proposal-initial-sampler",
    "use-appearance-embedding",
    "num-proposal-samples-per-ray",
    "num-nerf-samples-per-ray",
    "log2-hashmap-size",
    "num-levels",
    "max-res",
)
TRAIN = (
    "output-dir",
    "experiment-name",
    "timestamp",
    "vis",
    "machine.device-type",
    "max-num-iterations",
    "load-dir",
    "steps-per-eval-batch",
    "steps-per-eval-image",
    "pipeline.datamanager.train-num-rays-per-batch",
)
NUMBERS = {"bounding-box-min": 3, "bounding-box-max": 3, "pipeline.model.num-proposal-samples-per-ray": 2}
DATA = ("data", "eval-mode", "orientation-method", "center-method", "auto-scale-poses")


def parsed(arguments, names):
    """Flags given, as a dictionary; argparse ends with 2 for any other, as tyro does."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}", nargs=NUMBERS.get(name))
    return vars(parser.parse_args(arguments))


def train(arguments):
    """Write config.yml and a checkpoint, numbered as nerfstudio does it."""
    method, *rest = arguments
    at = rest.index("nerfstudio-data")
    model = [f"pipeline.model.{name}" for name in MODEL] if method == "nerfacto" else []
    given = {**parsed(rest[:at], [*TRAIN, *model]), **parsed(rest[at + 1 :], DATA)}
    folder = Path(given["output_dir"], given["experiment_name"], method, given["timestamp"])
    checkpoints = folder / "nerfstudio_models"
    checkpoints.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(json.dumps({"method": method, **given}))
    start = 0
    if given["load_dir"]:
        start = int(max(Path(given["load_dir"]).glob("step-*.ckpt")).stem[5:]) + 1
    steps = int(given["max_num_iterations"])
    if os.environ.get("NS_FAKE") == "stop":
        steps //= 2
    for old in checkpoints.glob("*.ckpt"):
        old.unlink()
    (checkpoints / f"step-{start + steps - 1:09d}.ckpt").touch()
    if os.environ.get("NS_FAKE") == "stop":
        sys.exit("Killed: out of memory")


def export(arguments):
    """Write the mesh where the exporter writes it."""
    kind, *rest = arguments
    names = ("load-config", "output-dir", "resolution", "bounding-box-min", "bounding-box-max")
    given = parsed(rest, [*names, *(("downscale-factor", "texture-method") if kind == "tsdf" else ())])
    json.loads(Path(given["load_config"]).read_text())
    folder = Path(given["output_dir"])
    folder.mkdir(exist_ok=True)
    mesh = "empty.ply" if os.environ.get("NS_FAKE") == "empty" else "mesh.ply"
    name = {"tsdf": "tsdf_mesh.ply", "marching-cubes": "sdf_marching_cubes_mesh.ply"}[kind]
    shutil.copyfile(Path(__file__).with_name(mesh), folder / name)


def render(arguments):
    """Write the pictures of the test split, by their names."""
    kind, *rest = arguments
    names = ("load-config", "output-path", "split", "rendered-output-names", "image-format")
    given = parsed(rest, names)
    assert (kind, given["split"], given["image_format"]) == ("dataset", "test", "png")
    data = Path(json.loads(Path(given["load_config"]).read_text())["data"])
    folder = Path(given["output_path"], "test", given["rendered_output_names"])
    folder.mkdir(parents=True)
    for name in json.loads((data / "transforms.json").read_text())["test_filenames"]:
        shutil.copyfile(data / name, folder / Path(name).name)


if __name__ == "__main__":
    if os.environ.get("NS_FAKE") == "crash":
        sys.exit("Traceback (most recent call last):\nRuntimeError: CUDA out of memory")
    {"ns-train": train, "ns-export": export, "ns-render": render}[Path(sys.argv[0]).stem](sys.argv[1:])
