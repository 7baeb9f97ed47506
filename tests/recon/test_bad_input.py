"""Bad views given to `svd3d reconstruct`: one sentence and exit code 2, or a named failure; nothing stays."""

import dataclasses
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recon import captures
from svd3d import cli, sample
from svd3d.sample import Sample

SMALL = ("--resolution", "32", "--faces", "2000", "--texture-size", "64")


@pytest.fixture(scope="module")
def chair(make_sample) -> Sample:
    """Eight views of the chair."""
    return make_sample(solid="boxes", num_views=8, size=40, elevation_deg=15, depth=False)


def changed(change: Callable[[np.ndarray], None]) -> Callable[[Sample, Path], None]:
    """A sample with other pictures; `change` edits them in place."""

    def write(views: Sample, folder: Path) -> None:
        images = views.images.copy()
        change(images)
        sample.write(dataclasses.replace(views, images=images), folder)

    return write


def one_view(views: Sample, folder: Path) -> None:
    orbit = views.orbit and views.orbit.subsampled(num_views=1)
    alone = dataclasses.replace(views, cameras=views.cameras.view(0), images=views.images[:1], orbit=orbit)
    sample.write(alone, folder)


def without_alpha(images: np.ndarray) -> None:
    images[..., :3] = np.random.default_rng(0).integers(0, 255, images[..., :3].shape)
    images[..., 3] = 255


def empty(images: np.ndarray) -> None:
    images[..., 3] = 0


def contradictory(images: np.ndarray) -> None:
    images[:] = 0
    images[::2, 2:8], images[1::2, 32:38] = 255, 255


def wrong_convention(views: Sample, folder: Path) -> None:
    matrices = views.cameras.camera_to_world @ np.diag([1.0, -1, -1, 1])
    cameras = dataclasses.replace(views.cameras, camera_to_world=matrices)
    sample.write(dataclasses.replace(views, cameras=cameras, orbit=None), folder)


def nan_poses(views: Sample, folder: Path) -> None:
    sample.write(views, folder)
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"][3]["transform_matrix"][0][3] = float("nan")
    (folder / "transforms.json").write_text(json.dumps(content))


def different_sizes(views: Sample, folder: Path) -> None:
    sample.write(views, folder)
    Image.fromarray(np.zeros((20, 40, 4), np.uint8)).save(folder / "images/005.png")


def truncated(views: Sample, folder: Path) -> None:
    sample.write(views, folder)
    path = folder / "images/002.png"
    path.write_bytes(path.read_bytes()[:200])


BAD = {
    "one_view": (one_view, "one view alone has no shape; make an orbit of at least 3 views"),
    "without_alpha": (
        changed(without_alpha),
        "view 0: the background is not plain and there is no transparency",
    ),
    "empty": (changed(empty), "the silhouette of 8 of 8 views is empty (view 0, 1, 2, 3, 4, …)"),
    "contradictory": (
        changed(contradictory),
        "silhouettes of these cameras do not meet (agreement 0.00), nor in",
    ),
    "wrong_convention": (wrong_convention, "they would as OpenCV cameras (y down, looking along +Z) ("),
    "nan_poses": (nan_poses, "frame 3: transform_matrix is not a 4 x 4 matrix of finite numbers"),
    "different_sizes": (different_sizes, "frame 5: images/005.png is 40 x 20, expected 40 x 40"),
    "truncated": (truncated, "frame 2: file_path: "),
}


def reconstruct(path: Path, out: Path) -> int:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["reconstruct", str(path), "--out", str(out), *SMALL])
    return int(exit_.value.code or 0)


@pytest.mark.parametrize("name", BAD)
def test_bad_views_end_in_one_sentence_and_exit_2_and_leave_nothing(chair, tmp_path, capsys, name):
    write, words = BAD[name]
    write(chair, tmp_path / "views")
    assert reconstruct(tmp_path / "views", tmp_path / "out") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert words in said.err
    assert str(tmp_path / "views") in said.err
    assert not (tmp_path / "out").exists()


def test_in_a_folder_of_objects_the_bad_ones_are_named_and_the_good_ones_are_made(chair, tmp_path, capsys):
    for name, (write, _) in BAD.items():
        write(dataclasses.replace(chair, uid=name), tmp_path / "views" / name)
    sample.write(dataclasses.replace(chair, uid="good"), tmp_path / "views/good")
    assert reconstruct(tmp_path / "views", tmp_path / "out") == 1
    said = capsys.readouterr()
    for name, (_, words) in BAD.items():
        (line,) = (line for line in said.err.splitlines() if line.startswith(f"failed: {name}: "))
        assert words in line
        assert not (tmp_path / "out" / name).exists()
    assert (tmp_path / "out/good/mesh.glb").is_file()


def test_pictures_too_large_for_memory_are_never_held_together(chair, tmp_path, caplog):
    peaks = []
    for number in (3, 8):
        folder = tmp_path / f"views{number}"
        sample.write(chair, folder)
        content = json.loads((folder / "transforms.json").read_text())
        del content["svd3d"]
        content["frames"] = content["frames"][:number]
        content.update({key: 24 * content[key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")})
        (folder / "transforms.json").write_text(json.dumps(content))
        for view in range(number):
            picture = chair.images[view].repeat(24, axis=0).repeat(24, axis=1)
            Image.fromarray(picture).save(folder / f"images/{view:03d}.png")
        tracemalloc.start()
        found = captures.read(folder, max_pixels=number * 48 * 48)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.images.shape == (number, 48, 48, 4)
        assert f"{number} views of 960 x 960 are scaled down to 48 x 48" in caplog.messages[-1]
    assert peaks[1] < 1.1 * peaks[0]
