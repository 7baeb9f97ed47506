"""The three starts of `scripts/train_priors.py`: what they share, and what each knows at step 0."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from svd3d.model import checkpoints, tiny
from svd3d.model.pipeline import SVDMVPipeline

SCRIPT = Path(__file__).parents[1] / "scripts/train_priors.py"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        return importlib.import_module(SCRIPT.stem)


@pytest.fixture(scope="module")
def folder(script, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("starts")
    script.make_starts(folder, seed=3)
    return folder


@pytest.fixture(scope="module")
def starts(folder) -> dict[str, SVDMVPipeline]:
    return {name: SVDMVPipeline.load(str(folder / name)) for name in ("video", "image", "none")}


def same(one: torch.nn.Module, other: torch.nn.Module) -> set[bool]:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    return {torch.equal(first[name], second[name]) for name in first}


def test_the_starts_share_all_but_the_unet(starts):
    bundled = SVDMVPipeline.load("tiny")
    for start in starts.values():
        assert same(start.vae, bundled.vae) == same(start.image_encoder, bundled.image_encoder) == {True}
        assert start.scheduler.config == bundled.scheduler.config
        assert start.config["max_guidance_scale"] == bundled.config["max_guidance_scale"] == 1
        assert start.unet.config["num_frames"] == 21
        assert start.size == tiny.SIZE


def test_the_video_prior_is_the_bundled_model(starts):
    assert same(starts["video"].unet, SVDMVPipeline.load("tiny").unet) == {True}


def test_without_a_prior_no_weight_matrix_is_shared(starts):
    new, trained = (starts[name].unet.state_dict() for name in ("none", "video"))
    matrices = [name for name, each in new.items() if each.ndim > 1]
    assert len(matrices) > 100
    assert not [name for name in matrices if torch.equal(new[name], trained[name])]


@torch.no_grad()
def test_the_image_prior_computes_each_view_by_the_spatial_layers_alone(folder, starts):
    image = UNet2DConditionModel.from_pretrained(folder / "image-model", subfolder="unet").eval()
    video = starts["image"].unet
    for name, norm in image.named_modules():
        if ".norm" in name and "resnets" in name:  # where the library's own numbers differ: 1e-5 and 1e-6
            norm.eps = video.get_submodule(name.replace(".norm", ".spatial_res_block.norm")).eps
    noisy, condition = torch.randn(2, 1, 3, 16, 8, 8, generator=torch.Generator().manual_seed(6))
    token = torch.ones(1, 1, 32)
    given = video(
        torch.cat([noisy, condition], dim=2),
        0.5,
        encoder_hidden_states=token,
        added_time_ids=torch.tensor([[6.0, 127.0, 0.02, 20.0]]),
    ).sample
    expected = image(noisy[0], 0.5, encoder_hidden_states=token.expand(3, 1, 32)).sample
    torch.testing.assert_close(given[0], expected, rtol=0, atol=1e-4)


def test_the_image_model_has_the_spatial_weights_of_the_video_model(folder):
    trained = checkpoints.folder_weights(tiny.FOLDER, "unet")
    place = "down_blocks.0.resnets.0.{}conv1.weight"
    image = UNet2DConditionModel.from_pretrained(folder / "image-model", subfolder="unet").state_dict()
    expected = trained[place.format("spatial_res_block.")].float()
    assert torch.equal(image[place.format("")], expected)
    assert torch.equal(image["conv_in.weight"], trained["conv_in.weight"][:, :16].float())


def test_scores_are_means_over_views_then_over_objects(script):
    rows = [
        {"method": "video", "metric": "psnr", "object": uid, "view": view, "value": value}
        for uid, view, value in (("b", 1, 10.0), ("b", 2, 20.0), ("a", 1, 11.0), ("a", 2, 13.0))
    ]
    (values,) = script.by_object(rows)["video"].values()
    np.testing.assert_allclose(values, [12, 15])  # a before b
    assert script.mean_and_error(values) == pytest.approx((13.5, 1.5))


def test_starts_are_compared_object_by_object(script):
    plan = script.Plan(**script.QUICK, batch=2, learning_rate=1e-3, device="cpu", seed=0)
    better = {"video": 1.0, "image": 0.5, script.COPIED: 0.0}
    scores = {name: {"psnr": np.array([10.0, 20.0]) + gain} for name, gain in better.items()}
    losses = {"held_out_loss": {0: 0.9, 10: 0.5}, "training_loss": (0.6, 0.1), "seconds_per_step": 1.0}
    found = script.summary({"video": losses, "image": losses}, scores, plan)
    assert found["psnr_video_ahead_of"] == {"image": (0.5, 0.0), script.COPIED: (1.0, 0.0)}
    assert found["sampled"]["video"]["psnr"] == pytest.approx((16.0, 5.0))
