"""The tiny model: what random weights it starts from, and the trained ones if they are there."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from svd3d.errors import CheckpointError
from svd3d.model import local_folder, tiny
from svd3d.model.pipeline import SVDMVPipeline

MEGABYTES = 1_000_000


def weights(parts):
    return torch.cat(
        [p.flatten() for name in ("vae", "image_encoder", "unet") for p in parts[name].parameters()]
    )


def test_the_seed_makes_the_weights_and_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    made = [tiny.components(seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = map(weights, made)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not any(made[0][name].training for name in ("vae", "image_encoder", "unet"))


def test_names_of_models(tmp_path):
    assert local_folder("stabilityai/stable-video-diffusion-img2vid-xt") is None
    with pytest.raises(CheckpointError, match="no such model folder"):
        local_folder("x" * 5000)
    with pytest.raises(CheckpointError, match="holds no model_index"):
        local_folder(str(tmp_path))
    (tmp_path / "model_index.json").touch()
    assert local_folder(str(tmp_path)) == tmp_path


@pytest.fixture(scope="module")
def bundled():
    if not (tiny.FOLDER / "model_index.json").is_file():
        pytest.skip("the bundled weights are not made yet: scripts/make_tiny.py")
    pipeline = SVDMVPipeline.load("tiny")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_the_bundled_weights_are_small_and_safe(bundled):
    files = [path for path in tiny.FOLDER.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md", ".png"}
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") <= 24 * MEGABYTES
    assert all(p.dtype == torch.float32 for p in weights(bundled.components).split(1 << 20))


def test_the_bundled_model_generates_an_orbit(bundled):
    picture = Image.new("RGB", (tiny.SIZE, tiny.SIZE), "white")
    ImageDraw.Draw(picture).rectangle((12, 24, 52, 44), fill="red")
    found = bundled(picture, num_inference_steps=3, generator=torch.Generator().manual_seed(0))
    assert found.views.shape == (1, 21, tiny.SIZE, tiny.SIZE, 3)
    assert np.isfinite(found.views).all()
    corners = found.views[0][:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.mean() > 0.9  # it has learned that the background is white
