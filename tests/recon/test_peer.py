"""The peer of the benchmark: given the same views, its held-out views come back, its seconds are fair."""

import importlib
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from svd3d import sample

SCRIPTS = Path(__file__).parents[2] / "scripts"
START_S, EACH_S = 20.0, 2.0


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        return importlib.import_module("benchmark_recon")


@pytest.fixture(scope="module")
def scene(benchmark, make_sample):
    views, held_out = (
        make_sample(solid="sphere", num_views=num_views, size=24, elevation_deg=elevation_deg)
        for num_views, elevation_deg in ((4, 10), (3, 40))
    )
    return benchmark.scenes.Scene("torus knot", views, held_out, None)


@pytest.fixture
def seconds(benchmark, monkeypatch):
    """A clock that only the training moves: START_S, and EACH_S for every iteration."""
    now = [0.0]
    run_program = benchmark.recon_peer.nerfstudio.run_program

    def timed(command, output):
        run_program(command, output)
        if "--max-num-iterations" in command:
            now[0] += START_S + EACH_S * int(command[command.index("--max-num-iterations") + 1])

    monkeypatch.setattr(benchmark.recon_peer.nerfstudio, "run_program", timed)
    monkeypatch.setattr(benchmark, "cpu_seconds", lambda: now[0])
    monkeypatch.setattr(benchmark.time, "monotonic", lambda: now[0])


def measured(benchmark, scene, work, **wishes):
    ours = benchmark.Row("torus knot", "clean", "nerf", 0, {"nerf_s": 10.0, "psnr_db": 32.0}, {}, 0.0, {})
    return benchmark.nerfacto(scene, ours, Namespace(peer_seconds=None, **wishes), work)


def test_it_is_trained_on_the_views_alone_and_renders_the_held_out_ones(benchmark, scene, programs, tmp_path):
    peer = benchmark.recon_peer.Nerfacto(scene.views, scene.held_out, tmp_path, place=programs)
    np.testing.assert_array_equal(peer.trained(7).pictures, scene.held_out.images)
    (data,) = tmp_path.glob("*-7/data")
    found, split = sample.read(data), json.loads((data / "transforms.json").read_text())
    assert split["train_filenames"] == [f"images/{view:03d}.png" for view in range(4)]
    assert (
        split["val_filenames"] == split["test_filenames"] == [f"images/{view:03d}.png" for view in (4, 5, 6)]
    )
    for part, views in ((slice(4), scene.views), (slice(4, 7), scene.held_out)):
        np.testing.assert_array_equal(found.images[part], views.images)
        np.testing.assert_allclose(found.cameras.camera_to_world[part], views.cameras.camera_to_world)
        np.testing.assert_allclose(found.cameras.intrinsics[part], views.cameras.intrinsics)


def test_on_a_cpu_it_gets_our_seconds_and_five_times_as_many_beyond_its_start(
    benchmark, scene, programs, tmp_path, seconds, monkeypatch
):
    monkeypatch.setattr(benchmark.torch.cuda, "is_available", lambda: False)
    once, often = measured(benchmark, scene, tmp_path, nerfstudio=programs)
    assert [each["iterations"] for each in (once, often)] == [6, 26]
    assert [each["seconds"] for each in (once, often)] == [10.0, 50.0]
    assert once["start_s"] == START_S + EACH_S
    assert (once["ours_s"], once["ours_db"], once["device"]) == (10.0, 32.0, "cpu")
    assert min(once["psnr_db"], once["foreground_psnr_db"]) > 50  # the stand-in renders the truth
    assert "6 iterations in 10.0 s" in benchmark.peer_told(once | {"psnr_db": 18.7})


def test_on_a_gpu_it_gets_its_full_schedule(benchmark, scene, programs, tmp_path, seconds, monkeypatch):
    monkeypatch.setattr(benchmark.torch.cuda, "is_available", lambda: True)
    (full,) = measured(benchmark, scene, tmp_path, nerfstudio=programs)
    assert (full["iterations"], full["device"]) == (30_000, "cuda")
    config = json.loads(next(tmp_path.glob("*-30000/train/**/config.yml")).read_text())
    assert config["machine.device_type"] == "cuda"
    assert config["pipeline.datamanager.train_num_rays_per_batch"] is None


@pytest.mark.parametrize("fault", ["absent", "without ns-render", "crash"])
def test_where_it_cannot_run_it_is_left_out_with_one_line(
    benchmark, scene, programs, tmp_path, monkeypatch, capsys, fault
):
    place = tmp_path / "bin"
    place.mkdir()
    for name in {"absent": [], "without ns-render": ["ns-train", "ns-export"]}.get(fault, ()):
        (place / name).symlink_to(programs / name)
    if fault == "crash":
        place = programs
        monkeypatch.setenv("NS_FAKE", fault)
    assert measured(benchmark, scene, tmp_path, nerfstudio=place) == []
    told = capsys.readouterr().err
    assert told.startswith("nerfacto: left out, ")
    assert told.count("\n") == 1
