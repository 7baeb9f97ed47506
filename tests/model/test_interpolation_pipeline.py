"""Frames between two pictures against Euler's method written out; what is refused; folders."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import itertools
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from svd3d.errors import CheckpointError, ConfigError
from svd3d.model import checkpoints, conditioning, edm, encoders, tiny, video_pipeline
from svd3d.model.interpolation_pipeline import FrameInterpolationPipeline
from svd3d.model.pipeline import SVDMVPipeline
from tests.trainings import small_unet

SHAPE = (5, tiny.LATENT_CHANNELS, 4, 6)
QUICK = {"height": 32, "width": 48, "num_inference_steps": 3}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pipeline():
    unet = small_unet(time_ids=3, in_channels=2 * tiny.LATENT_CHANNELS + 1, num_frames=5).eval()
    made = FrameInterpolationPipeline(**{**tiny.components(time_ids=3), "unet": unet})
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "interpolation"
    pipeline.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pair(pictures):
    return [each.resize((48, 32)) for each in pictures[:2]]


@torch.no_grad()
@pytest.mark.parametrize(("low", "high", "motion"), [(1.0, 4.0, 20.0), (1.0, 1.0, None)])
def test_a_pair_becomes_what_eulers_method_makes_of_the_unet(pipeline, pair, low, high, motion):
    """The ODE of EDM, dx/dsigma = (x - D) / sigma, with guided D (Karras et al. 2022, equations 1 and 3)."""
    sigmas = edm.karras_sigmas(3, sigma_min=0.002, sigma_max=80.0).float()
    scales = torch.linspace(low, high, 5)[:, None, None, None]
    pixels = torch.stack([torch.from_numpy(np.array(each)).movedim(2, 0) / 127.5 - 1 for each in pair])
    ends = pipeline.vae.config.scaling_factor * pipeline.vae.encode(pixels).latent_dist.mode()
    seen = torch.zeros(1, 5, tiny.LATENT_CHANNELS + 1, 4, 6)
    for place, end in ((0, ends[0]), (4, ends[1])):
        seen[0, place] = torch.cat([end, torch.ones(1, 4, 6)])
    tokens = torch.cat([pipeline._encode_image([each], "cpu", 1, False) for each in pair], dim=1)
    ids = torch.tensor([[11.0, math.nan if motion is None else motion, 0.0]])
    noise = torch.randn(1, *SHAPE, generator=seeded(3))

    def estimate(x, sigma, shown, told):
        _, _, c_in, c_noise = edm.scalings(sigma)
        output = pipeline.unet(torch.cat([c_in * x, shown], dim=2), c_noise, told, ids).sample
        return edm.denoised(output, x, sigma[None])

    x = (80.0**2 + 1) ** 0.5 * noise  # stock scales by this
    for sigma, following in itertools.pairwise(sigmas):
        conditions = ((torch.zeros_like(seen), torch.zeros_like(tokens)), (seen, tokens))
        nothing, something = (estimate(x, sigma, *each) for each in conditions)
        x = x + (following - sigma) / sigma * (x - (nothing + scales * (something - nothing)))
    settings = {**QUICK, "fps": 12, "motion_bucket_id": motion, "noise_aug_strength": 0.0}
    settings |= {"guidance": "linear", "min_guidance_scale": low, "max_guidance_scale": high}
    found = pipeline(*pair, **settings, latents=noise, output_type="latent").frames
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)
    film = pipeline(*pair, **settings, latents=noise).frames[0]
    assert film.shape == (5, 32, 48, 3)
    assert np.array_equal(np.round(255 * film[[0, -1]]), np.stack(pair))
    plain = pipeline(*pair, **settings, latents=noise, keep_ends=False, return_dict=False)[0]
    assert np.array_equal(plain[1:-1], film[1:-1])
    assert not np.array_equal(plain[0], film[0])


def test_which_picture_is_first_and_their_noise_matter_and_pairs_do_not_know_each_other(pipeline, pair):
    first, last = pair
    settings = {**QUICK, "output_type": "latent"}
    alone = pipeline(first, last, **settings, generator=[seeded(2)]).frames
    pairs = {"first": [last, first], "last": [first, last]}
    both = pipeline(**pairs, **settings, generator=[seeded(1), seeded(2)]).frames
    torch.testing.assert_close(both[1], alone[0], rtol=0, atol=1e-4)
    for change in ({"first": last, "last": first}, {"last": first}, {"noise_aug_strength": 0.3}, {"fps": 24}):
        other = pipeline(**{"first": first, "last": last, **settings, **change}, generator=[seeded(2)]).frames
        assert (other - alone).abs().max() > 1e-3, change


def test_saved_and_loaded_it_is_the_same_and_the_encoders_know_what_it_is(pipeline, folder, pair):
    assert (
        json.loads((folder / "model_index.json").read_text())["_class_name"] == "FrameInterpolationPipeline"
    )
    expected = pipeline(*pair, **QUICK, generator=seeded()).frames
    loaded = video_pipeline.load(str(folder), takes="pair of pictures")
    loaded.set_progress_bar_config(disable=True)
    for name in pipeline.networks:
        kept = getattr(loaded, name).state_dict()
        for key, tensor in getattr(pipeline, name).state_dict().items():
            assert torch.equal(kept[key], tensor), (name, key)
    # equal weights at other places in memory may be added up in another order
    found = loaded(*pair, **QUICK, generator=seeded()).frames
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert encoders.load(str(folder), dtype=torch.float32, device="cpu").fills_in
    checkpoint = checkpoints.from_folder(folder)
    assert (checkpoint.kind, checkpoint.told) == ("svd", "pair of pictures")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"first": []}, "image: an empty list"),
        ({"last": ["PICTURE"] * 2}, "1 first and 2 last frames; give pairs"),
        ({"num_frames": 1}, "num_frames is 1"),
        ({"width": 36}, "size 36 x 32: must be a multiple of 8"),
        ({"noise_aug_strength": math.nan}, "noise_aug_strength is nan"),
        ({"latents": torch.zeros(1, 3, 4, 4, 4)}, r"this call needs \(1, 5, 16, 4, 6\)"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(pipeline, pair, monkeypatch, settings, message):
    monkeypatch.setattr(pipeline.vae, "encode", lambda *_, **__: pytest.fail("work was done"))
    monkeypatch.setattr(pipeline, "_encode_image", lambda *_, **__: pytest.fail("work was done"))
    given = {name: [pair[0]] * 2 if each == ["PICTURE"] * 2 else each for name, each in settings.items()}
    with pytest.raises(ConfigError, match=message):
        pipeline(**{"first": pair[0], "last": pair[1], **QUICK, **given})


def test_it_is_not_taken_for_another_model_nor_another_for_it(folder, tmp_path):
    with pytest.raises(CheckpointError, match="and was given a picture; give the last one with --last"):
        video_pipeline.load(str(folder), takes="picture")
    unet = small_unet(time_ids=3, in_channels=7)
    with pytest.raises(
        CheckpointError, match=r"takes 7 channels, and with 16 of latents it may be \[16, 32, 33\]"
    ):
        conditioning.frames_seen(unet)
    with pytest.raises(CheckpointError, match="fills in the frames between two pictures"):
        SVDMVPipeline.load(str(folder))


def test_small_pictures_and_transparent_ones_are_as_for_other_pipelines(pipeline, pair):
    clear = Image.new("RGBA", (48, 32))
    white = pipeline(clear, pair[1], **QUICK, generator=seeded()).frames
    assert np.array_equal(
        white, pipeline(Image.new("RGB", (48, 32), "white"), pair[1], **QUICK, generator=seeded()).frames
    )
