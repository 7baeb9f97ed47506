"""Videos from texts against Euler's method written out, from pictures against diffusers; model folders."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import itertools
import json
import math
import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableVideoDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from svd3d.errors import CheckpointError, ConfigError
from svd3d.model import checkpoints, conditioning, edm, priors, tiny, video_pipeline
from svd3d.model.video_pipeline import TextToVideoPipeline
from tests.videos import WIDTH, text_encoder, text_model, write_tokenizer

QUICK = {"height": 32, "width": 48, "num_frames": 3, "num_inference_steps": 2}
FRAMES = (3, tiny.LATENT_CHANNELS, 4, 6)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return text_model(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "text-to-video"
    pipeline.save_pretrained(path)
    return path


@torch.no_grad()
@pytest.mark.parametrize(("low", "high", "motion"), [(1.0, 4.0, 20.0), (1.0, 1.0, None)])
def test_a_text_becomes_what_eulers_method_makes_of_the_unet(pipeline, low, high, motion):
    """The ODE of EDM, dx/dsigma = (x - D) / sigma, with guided D (Karras et al. 2022, equations 1 and 3)."""
    sigmas = edm.karras_sigmas(3, sigma_min=0.002, sigma_max=80.0).float()
    scales = torch.linspace(low, high, 3)[:, None, None, None]
    tokens = pipeline.tokenizer(["a red car"], padding="max_length", max_length=77, return_tensors="pt")
    states = pipeline.text_encoder(tokens.input_ids).last_hidden_state
    ids = torch.tensor([[11.0, math.nan if motion is None else motion, math.nan]])
    noise = torch.randn(1, *FRAMES, generator=seeded(3))

    def estimate(x, sigma, told):
        _, _, c_in, c_noise = edm.scalings(sigma)
        return edm.denoised(pipeline.unet(c_in * x, c_noise, told, ids).sample, x, sigma[None])

    x = (80.0**2 + 1) ** 0.5 * noise  # stock scales by this
    for sigma, following in itertools.pairwise(sigmas):
        nothing, something = (estimate(x, sigma, told) for told in (torch.zeros_like(states), states))
        x = x + (following - sigma) / sigma * (x - (nothing + scales * (something - nothing)))
    settings = {**QUICK, "num_inference_steps": 3, "fps": 12, "motion_bucket_id": motion}
    settings |= {"min_guidance_scale": low, "max_guidance_scale": high, "output_type": "latent"}
    found = pipeline("a red car", **settings, generator=seeded(3)).frames
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)
    again = pipeline(["a red car"], **settings, latents=noise, return_dict=False)
    assert torch.equal(again, found)


def test_texts_are_encoded_as_stable_diffusion_does(pipeline):
    stock = StableDiffusionPipeline(
        AutoencoderKL(block_out_channels=(32,)),
        pipeline.text_encoder,
        pipeline.tokenizer,
        UNet2DConditionModel(block_out_channels=(32, 32, 32, 32), cross_attention_dim=WIDTH),
        pipeline.scheduler,
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    texts = ["a red car", "", "letters " * 40]
    expected, _ = stock.encode_prompt(texts, "cpu", 1, False)
    found = video_pipeline.hidden_states(pipeline.text_encoder, pipeline.tokenizer, texts, device="cpu")
    assert torch.equal(found, expected)
    assert found.shape == (3, 77, WIDTH)


def test_texts_motion_and_rate_matter_and_videos_of_a_batch_do_not_know_each_other(pipeline):
    generators = [seeded(1), seeded(2)]
    settings = {**QUICK, "output_type": "latent"}
    batch = pipeline(["a dog", "cups"], **settings, generator=generators).frames
    alone = pipeline("cups", **settings, generator=[seeded(2)]).frames
    torch.testing.assert_close(batch[1], alone[0], rtol=0, atol=1e-4)
    for change in ({"prompt": "a dog"}, {"fps": 24}, {"motion_bucket_id": 0.0}, {"max_guidance_scale": 20.0}):
        other = pipeline(**{"prompt": "cups", **settings, **change}, generator=[seeded(2)]).frames
        assert (other - alone).abs().max() > 1e-3, change


def test_decoding_in_chunks_changes_nothing(pipeline):
    whole = pipeline("cups", **QUICK, generator=seeded(), output_type="pt").frames
    parts = pipeline("cups", **QUICK, generator=seeded(), output_type="pt", decode_chunk_size=1).frames
    assert whole.shape == (1, 3, 3, 32, 48)
    assert 0 <= whole.min() < whole.max() <= 1
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


def test_without_guidance_the_unet_is_asked_once_a_step(pipeline, monkeypatch):
    rows = []
    forward = pipeline.unet.forward
    monkeypatch.setattr(
        pipeline.unet, "forward", lambda sample, *a, **b: rows.append(len(sample)) or forward(sample, *a, **b)
    )
    pipeline("cups", **QUICK, min_guidance_scale=1.0, max_guidance_scale=1.0, output_type="latent")
    pipeline("cups", **QUICK, output_type="latent")
    assert rows == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": []}, "prompt: an empty list"),
        ({"num_frames": 1}, "num_frames is 1"),
        ({"height": 36}, "size 48 x 36: must be a multiple of 8"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"max_guidance_scale": math.inf}, "max_guidance_scale is inf"),
        ({"motion_bucket_id": -1.0}, "motion_bucket_id is -1.0"),
        ({"generator": [seeded(), seeded()]}, "2 generators for 1 texts"),
        ({"latents": torch.zeros(1, 3, 4, 4, 4)}, r"this call needs \(1, 3, 16, 4, 6\)"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(pipeline, monkeypatch, settings, message):
    monkeypatch.setattr(pipeline.text_encoder, "forward", lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(ConfigError, match=message):
        pipeline(**{"prompt": "cups", **QUICK, **settings})


# --- folders


def test_saved_and_loaded_it_is_the_same(pipeline, folder):
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "TextToVideoPipeline"
    parts = {name: each for name, each in index.items() if isinstance(each, list)}
    assert {name: library for name, (library, _) in parts.items()} == {
        "scheduler": "diffusers",
        "text_encoder": "transformers",
        "tokenizer": "transformers",
        "unet": "diffusers",
        "vae": "diffusers",
    }
    expected = pipeline("a dog", **QUICK, generator=seeded()).frames
    for loaded in (
        TextToVideoPipeline.from_pretrained(folder),
        video_pipeline.load(str(folder), takes="text"),
    ):
        loaded.set_progress_bar_config(disable=True)
        assert np.array_equal(loaded("a dog", **QUICK, generator=seeded()).frames, expected)


def test_text_encoders_under_their_older_names_load_too(pipeline, folder, tmp_path):
    """Published files of Stable Diffusion have a prefix that newer versions of transformers dropped."""
    old = shutil.copytree(folder, tmp_path / "old")
    file = old / "text_encoder/model.safetensors"
    weights = {
        f"text_model.{name.removeprefix('text_model.')}": each for name, each in load_file(file).items()
    }
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, file, {"format": "pt"})
    loaded = TextToVideoPipeline.load(str(old))
    found = dict(loaded.text_encoder.state_dict())
    assert all(torch.equal(found[name], each) for name, each in pipeline.text_encoder.state_dict().items())


def test_a_weight_that_is_missing_is_named_not_made_up(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    file = broken / "unet/diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_out.bias"]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are not in its file, such as conv_out.bias"):
        TextToVideoPipeline.load(str(broken))


@pytest.fixture(scope="module")
def stock_folder(stock, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "stock"
    stock.save_pretrained(path)
    return path


@pytest.mark.parametrize("guidance", [(1.0, 3.0), (2.0, 2.0)])
def test_a_picture_becomes_what_stock_stable_video_diffusion_makes_of_it(
    stock, stock_folder, pictures, guidance
):
    loaded = video_pipeline.load(str(stock_folder), takes="picture")
    loaded.set_progress_bar_config(disable=True)
    weights = dict(loaded.unet.state_dict())
    assert all(torch.equal(weights[name], each) for name, each in stock.unet.state_dict().items())
    low, high = guidance
    settings = {"height": 32, "width": 48, "num_inference_steps": 2, "fps": 12, "motion_bucket_id": 60}
    settings |= {"noise_aug_strength": 0.1, "min_guidance_scale": low, "max_guidance_scale": high}
    picture = pictures[0].resize((48, 32))
    expected = stock(picture, **settings, num_frames=4, output_type="np", generator=seeded()).frames
    found = loaded(
        [picture],
        **settings,
        num_views=4,
        guidance="linear",
        keep_input_view=False,
        generator=[seeded()],
    ).views
    assert isinstance(stock, StableVideoDiffusionPipeline)
    assert np.array_equal(found, expected)


@pytest.fixture(scope="module")
def sd21(tmp_path_factory):
    """A small Stable Diffusion 2.1 as diffusers saves it."""
    folder = tmp_path_factory.mktemp("models") / "sd21"
    with torch.random.fork_rng():
        torch.manual_seed(4)
        UNet2DConditionModel(
            sample_size=8,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            attention_head_dim=[2, 4],
            use_linear_projection=True,
        ).save_pretrained(folder / "unet")
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(32, 32),
            layers_per_block=2,
        ).save_pretrained(folder / "vae")
        text_encoder().save_pretrained(folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def start(sd21, tmp_path_factory):
    """The start of text-to-video, written and loaded again."""
    folder = tmp_path_factory.mktemp("models") / "start"
    with torch.random.fork_rng():
        checkpoints.write(priors.text_to_video(sd21, seed=5), folder)
    return TextToVideoPipeline.load(str(folder))


@torch.no_grad()
def test_the_start_from_stable_diffusion_gives_its_image_on_every_frame(sd21, start):
    image_unet = UNet2DConditionModel.from_pretrained(sd21, subfolder="unet").eval()
    for name, norm in image_unet.named_modules():
        if ".norm" in name and "resnets" in name:  # where the library's own numbers differ: 1e-5 and 1e-6
            norm.eps = start.unet.get_submodule(name.replace(".norm", ".spatial_res_block.norm")).eps
    noisy = torch.randn(2, 3, 4, 8, 8, generator=seeded(6))
    states = video_pipeline.hidden_states(
        start.text_encoder, start.tokenizer, ["a cup", "a dog"], device="cpu"
    )
    ids = torch.tensor([[6.0, 127.0, math.nan], [24.0, math.nan, math.nan]])
    given = start.unet(noisy, 500, states, ids).sample
    for film, text, expected_of in zip(given, states, noisy, strict=True):
        expected = image_unet(expected_of, 500, text.expand(3, -1, -1)).sample
        torch.testing.assert_close(film, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def image_encoder(tmp_path_factory):
    """A folder with one whose tokens are as wide as those of the texts."""
    place = tmp_path_factory.mktemp("clip")
    sizes = tiny.image_encoder().config.to_dict() | {"projection_dim": WIDTH}
    CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes)).save_pretrained(place / "image_encoder")
    (place / "model_index.json").write_text("{}")
    return str(place)


@torch.no_grad()
def test_the_start_of_frame_interpolation_does_not_look_at_the_ends_yet(
    folder, pipeline, image_encoder, tmp_path
):
    """Told the hidden states of a text it gives what text-to-video gives; all that it is shown may learn."""
    made = priors.interpolation(checkpoints.from_folder(folder), image_encoder=image_encoder)
    checkpoints.write(made, tmp_path / "start")
    start = video_pipeline.load(str(tmp_path / "start"), takes="pair of pictures")
    assert start.unet.config.num_frames == 5
    noisy, ends = torch.randn(1, *FRAMES, generator=seeded(7)), torch.randn(1, 2, *FRAMES[1:])
    states, ids = torch.randn(1, 77, WIDTH, generator=seeded(8)), torch.tensor([[6.0, 127.0, 0.02]])
    expected = pipeline.unet(noisy, 0.3, states, ids).sample
    seen = torch.cat([noisy, conditioning.between(ends, 3)], dim=2)
    torch.testing.assert_close(start.unet(seen, 0.3, states, ids).sample, expected, rtol=0, atol=1e-5)
    with torch.enable_grad():
        start.unet(seen, 0.3, states, ids).sample.square().sum().backward()
    by_channel = start.unet.conv_in.weight.grad.abs().sum(dim=(0, 2, 3))
    assert len(by_channel) == 2 * tiny.LATENT_CHANNELS + 1
    assert (by_channel > 0).all()


@torch.no_grad()
def test_the_start_of_image_to_video_does_not_look_at_the_latents_of_the_picture_yet(
    folder, pipeline, stock_folder, image_encoder, tmp_path
):
    """And is what diffusers opens; told the hidden states of a text it gives what text-to-video gives."""
    told_texts = checkpoints.from_folder(folder)
    with pytest.raises(CheckpointError, match=f"tokens of {WIDTH} numbers, those of .* have 32"):
        priors.image_to_video(told_texts, image_encoder=str(stock_folder))
    checkpoints.write(priors.image_to_video(told_texts, image_encoder=image_encoder), tmp_path / "start")
    start = StableVideoDiffusionPipeline.from_pretrained(tmp_path / "start")
    assert type(start) is StableVideoDiffusionPipeline
    assert start.unet.config.num_frames == 3
    noisy, latents = torch.randn(2, 1, *FRAMES, generator=seeded(7))
    states, ids = torch.randn(1, 77, WIDTH, generator=seeded(8)), torch.tensor([[6.0, 127.0, 0.02]])
    expected = pipeline.unet(noisy, 0.3, states, ids).sample
    found = start.unet(torch.cat([noisy, latents], dim=2), 0.3, states, ids).sample
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    (video_,) = video_pipeline.load(str(tmp_path / "start"), takes="picture")(
        Image.new("RGB", (48, 32)), height=32, width=48, num_views=3, num_inference_steps=1
    ).views
    assert np.isfinite(video_).all()


def test_the_start_keeps_the_text_encoder_and_knows_its_size(sd21, start):
    before = load_file(sd21 / "text_encoder/model.safetensors")
    after = dict(start.text_encoder.state_dict())
    assert all(torch.equal(after[name.removeprefix("text_model.")], each) for name, each in before.items())
    assert (start.unet.config.num_frames, start.size) == (priors.FRAMES, 16)
    assert conditioning.frames_seen(start.unet) == 0
    film = start("a cup", num_frames=2, num_inference_steps=1, generator=seeded()).frames
    assert film.shape == (1, 2, 16, 16, 3)
    assert np.isfinite(film).all()


@pytest.mark.parametrize(
    ("model", "takes", "message"),
    [
        (
            "text",
            "picture",
            "makes videos of a text, and was given a picture; pass a text, or another --model",
        ),
        ("stock", "text", "makes videos of a picture, and was given a text"),
        ("tiny", "picture", "makes views around objects, not videos; take svd3d generate"),
        ("sd21", "text", "makes single images; .* svd3d convert .* --to text-to-video"),
        ("nowhere", "text", "no such model folder"),
    ],
)
def test_a_model_of_another_kind_is_refused(folder, stock_folder, sd21, model, takes, message):
    places = {"text": folder, "stock": stock_folder, "sd21": sd21}
    with pytest.raises(CheckpointError, match=message):
        video_pipeline.load(str(places.get(model, model)), takes=takes)


def test_a_text_encoder_of_another_width_or_as_a_pickle_is_refused(sd21, tmp_path):
    other = shutil.copytree(sd21, tmp_path / "other")
    text_encoder(width=8).save_pretrained(other / "text_encoder")
    with pytest.raises(CheckpointError, match=f"tokens of {WIDTH} numbers, those of its text encoder have 8"):
        priors.text_to_video(other)
    (other / "text_encoder/model.safetensors").rename(other / "text_encoder/pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"model.safetensors: no such file"):
        priors.text_to_video(other)
