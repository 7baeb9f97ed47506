"""The loop that `svd3d train` is measured against computes the same: the same inputs, the same loss."""

import importlib
from pathlib import Path

import pytest
import torch

from svd3d import cache
from svd3d.data.dataset import Batches
from svd3d.data.latents import Latents
from svd3d.model import denoising
from svd3d.model.pipeline import SVDMVPipeline
from svd3d.settings import CacheConfig

SCRIPT = Path(__file__).parents[1] / "scripts/benchmark_train.py"
VIEWS = 3


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        return importlib.import_module(SCRIPT.stem)


@pytest.fixture(scope="module")
def pipeline():
    return SVDMVPipeline.load("tiny")


@pytest.fixture(scope="module")
def setup(script, make_sample, tmp_path_factory):
    """Two cached orbits."""
    folder = tmp_path_factory.mktemp("benchmark")
    views, data = folder / "views", folder / "latents"
    for solid, elevation in (("sphere", 10.0), ("boxes", 20.0)):
        options = {"num_views": VIEWS, "size": 64, "elevation_deg": elevation, "depth": False}
        make_sample(views / solid, uid=solid, solid=solid, **options)
    config = CacheConfig(views, data, num_views=VIEWS, backgrounds=("white",), noise_variants=0, device="cpu")
    assert [each.status for each in cache.run(config)] == ["done", "done"]
    return script.Setup("tiny", views, data, "tiny", batch=2, steps=1, device="cpu", mixed_precision="no")


@pytest.fixture
def batch(setup):
    batches = Batches(Latents.open(setup.data), seed=0, global_batch=2, micro_batch=2, held_out=0.0)
    return next(iter(batches))


def test_the_same_draws_give_the_same_loss(script, setup, pipeline, batch, tmp_path):
    config, drawn = setup.training(tmp_path), denoising.draw(batch, setup.training(tmp_path))
    fixed = torch.tensor([6.0, 127.0]).expand(2, 2)
    told = torch.stack([batch["noise_aug"], batch["elevations_deg"][:, 0]], dim=1)
    inputs = (batch["latents"], drawn["shown"][:, 0], drawn["tokens"], torch.cat([fixed, told], dim=1))
    with torch.no_grad():
        expected, sigma = denoising.losses(pipeline.unet, "svd-mv", batch, config)
        found = script.edm_loss(pipeline.unet, *inputs, sigma, drawn["noise"])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_what_it_encodes_in_each_step_is_what_is_cached(script, setup, pipeline, batch, monkeypatch):
    monkeypatch.setattr(script.random, "choice", lambda options: options[0])  # white
    orbits = [script.read(setup.views / uid, size=64) for uid in batch["uid"]]
    pixels = torch.stack([views for views, _ in orbits])
    for found, name in zip(
        script.encode(pipeline, pixels, torch.zeros(2)), ("latents", "cond_latents", "clip"), strict=True
    ):
        torch.testing.assert_close(found, batch[name], rtol=5e-3, atol=5e-3)  # stored in float16
    assert [elevation for _, elevation in orbits] == batch["elevations_deg"][:, 0].tolist()


def test_the_summary_compares_turn_by_turn(script):
    def turns(*seconds):
        return [script.Turn(each, peak_mb=100 * each, loss=1.0, parts={"encoding": 0.5}) for each in seconds]

    found = script.summary({"straightforward": turns(4, 8, 3), "ours": turns(2, 2, 2)}, caching=3.0)
    assert next(iter(found)) == "ratio"
    assert (found["ratio"], found["ratio_range"], found["memory_ratio"]) == (2.0, [1.5, 4.0], 2.0)
    assert found["cache_paid_after_epochs"] == 1.5
    assert "never" in script.table(
        script.summary({"straightforward": turns(1), "ours": turns(2)}, caching=3.0)
    )
