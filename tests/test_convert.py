"""`svd3d convert` as its user sees it: whole folders or nothing, once, and back."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLTemporalDecoder,
    StableVideoDiffusionPipeline,
    UNet2DConditionModel,
    UNetSpatioTemporalConditionModel,
)
from safetensors.torch import load_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from svd3d import cli, convert
from svd3d.errors import ConfigError, OutputError
from svd3d.model import original, tiny
from svd3d.model.pipeline import SVDMVPipeline
from svd3d.settings import ConvertConfig


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Path:
    """A small Stable Video Diffusion of the same family, saved by diffusers."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "stock"
    StableVideoDiffusionPipeline(
        vae=AutoencoderKLTemporalDecoder(
            down_block_types=("DownEncoderBlock2D",) * 2, block_out_channels=(32, 32), layers_per_block=2
        ),
        image_encoder=CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=80,
                intermediate_size=320,
                num_hidden_layers=1,
                num_attention_heads=1,
                patch_size=56,
                projection_dim=64,
                hidden_act="gelu",
            )
        ),
        unet=UNetSpatioTemporalConditionModel(
            sample_size=96,
            block_out_channels=(64, 64),
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            layers_per_block=1,
            cross_attention_dim=64,
            num_attention_heads=(1, 1),
        ),
        scheduler=tiny.scheduler(),
        feature_extractor=CLIPImageProcessor(),
    ).save_pretrained(folder)
    return folder


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["convert", *map(str, words)])
    return int(ended.value.code or 0)


def networks(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a diffusers folder, by network and name."""
    return {
        f"{path.parent.name}.{name}": each
        for path in folder.glob("*/*.safetensors")
        for name, each in load_file(path).items()
    }


def test_stock_becomes_the_start_of_svd_mv_and_a_second_run_changes_nothing(stock, tmp_path, capsys):
    out = tmp_path / "svd-mv"
    assert run(stock, "--out", out) == 0
    said = capsys.readouterr()
    assert said.out == f"{out}\n"
    assert said.err == f"{out}: made. Next: svd3d generate IMAGE --model {out} --out generated\n"
    pipeline = SVDMVPipeline.load(str(out))
    assert pipeline.conditioning == "svd-mv"
    assert (pipeline.size, pipeline.unet.config.num_frames) == (576, 21)
    before, after = networks(stock), networks(out)
    labels = "unet.add_embedding.linear_1.weight"
    assert torch.equal(after[labels][:, :768], before.pop(labels))
    assert not after[labels][:, 768:].any()
    assert all(torch.equal(after[name], each) for name, each in before.items())
    assert len({path.stat().st_mode for path in out.rglob("*.*")}) == 1  # whoever may read one may read all
    manifest = (out / "manifest.json").read_bytes()
    assert json.loads(manifest)["inputs"]["source"]["path"] == str(stock)

    assert run(stock, "--out", out, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["status"], told["seconds"]) == ("skipped", 0.0)
    assert (out / "manifest.json").read_bytes() == manifest
    with pytest.raises(ConfigError, match="dtype was 'source', now 'float16'"):
        convert.run(ConvertConfig(str(stock), out, dtype="float16"))


def test_to_original_and_back_is_bit_for_bit(stock, tmp_path):
    original = convert.run(ConvertConfig(str(stock), tmp_path / "original", to="original"))
    assert original.path == tmp_path / "original/model.safetensors"
    direct = convert.run(ConvertConfig(str(stock), tmp_path / "direct", prior="svd"))
    around = convert.run(ConvertConfig(str(original.path), tmp_path / "around", prior="svd"))
    expected, given = networks(direct.path), networks(around.path)
    assert expected.keys() == given.keys()
    assert all(torch.equal(given[name], each) for name, each in expected.items())


def test_half_precision_is_half_the_size(stock, tmp_path):
    convert.run(ConvertConfig(str(stock), tmp_path / "half", dtype="float16", size=64))
    assert {each.dtype for each in networks(tmp_path / "half").values()} == {torch.float16}
    assert SVDMVPipeline.load(str(tmp_path / "half"), dtype=torch.float16).size == 64


def test_stable_diffusion_is_recognized_as_the_image_prior(stock, tmp_path):
    source = tmp_path / "sd21"
    UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 32),
        layers_per_block=1,
        cross_attention_dim=64,
        use_linear_projection=True,
    ).save_pretrained(source / "unet")
    AutoencoderKL(block_out_channels=(32,), layers_per_block=2).save_pretrained(source / "vae")
    (source / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    made = convert.run(ConvertConfig(str(source), tmp_path / "out", image_encoder=str(stock)))
    given = networks(made.path)
    stem = given["unet.conv_in.weight"]
    assert torch.equal(stem[:, :4], networks(source)["unet.conv_in.weight"])
    assert not stem[:, 4:].any()
    assert SVDMVPipeline.load(str(made.path)).conditioning == "svd-mv"


def test_scratch_of_tiny_is_a_tiny_that_has_learnt_nothing(tmp_path):
    convert.run(ConvertConfig("tiny", tmp_path / "scratch", prior="scratch", seed=3))
    trained, new = networks(tiny.FOLDER), networks(tmp_path / "scratch")
    assert trained.keys() == new.keys()
    assert all(torch.equal(new[name], each) for name, each in trained.items() if not name.startswith("unet."))
    assert not torch.equal(new["unet.conv_in.weight"], trained["unet.conv_in.weight"].float())
    assert SVDMVPipeline.load(str(tmp_path / "scratch")).size == 64


def test_the_guidance_that_nobody_has_to_ask_for(stock, tmp_path):
    def said(name, **settings):
        made = convert.run(ConvertConfig(str(settings.pop("source", stock)), tmp_path / name, **settings))
        return SVDMVPipeline.load(str(made.path)).config["max_guidance_scale"]

    assert said("as-it-is") == 2.5
    assert said("none", max_guidance_scale=1.0) == 1.0
    assert said("kept", source=tmp_path / "none") == 1.0
    assert said("more", source=tmp_path / "none", max_guidance_scale=3.0) == 3.0


def test_scratch_of_svd_needs_no_weights_at_all(stock, tmp_path, monkeypatch):
    configs = {name: json.loads((stock / name / "config.json").read_text()) for name in original.FULL_SIZE}
    monkeypatch.setattr(original, "FULL_SIZE", configs)
    made = convert.run(ConvertConfig("svd", tmp_path / "out", prior="scratch", size=64))
    assert {name: each.shape for name, each in networks(made.path).items() if "vae" in name} == {
        name: each.shape for name, each in networks(stock).items() if "vae" in name
    }
    assert SVDMVPipeline.load(str(made.path)).size == 64


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.safetensors"], "no such file of weights"),
        (["owner/model.ckpt"], "no such file of weights"),
        (["nowhere"], "no such model folder"),
        (["PICKLE"], "is a pickle"),
        (["STOCK", "--prior", "sv3d_u"], "is a svd model, not sv3d_u"),
        (["STOCK", "--from", "sv3d_p"], "is a svd model, not sv3d_p"),
        (["STOCK", "--prior", "sd21"], "expected UNet2DConditionModel"),
        (["PICKLE", "--prior", "sd21"], "needs a diffusers folder"),
        (["tiny", "--to", "original"], "only models of the architecture of SVD go back"),
        (["STOCK", "--size", "100"], "size must be a multiple of 8; got 100"),
        (["STOCK", "--max-guidance-scale", "nan"], "max_guidance_scale must be a number, at least 0"),
        (
            ["STOCK", "--max-guidance-scale", "1", "--to", "original"],
            "and of --to svd3d; got 1.0 of original",
        ),
        (["STOCK", "--prior", "sd15"], "--prior"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(words, said, stock, tmp_path, capsys):
    pickled = tmp_path / "svd.ckpt"
    torch.save({"state_dict": {}}, pickled)
    places = {"STOCK": stock, "PICKLE": pickled}
    assert run(*(places.get(word, word) for word in words), "--out", tmp_path / "out") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1, captured.err
    assert said in captured.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["svd.ckpt"]


def test_a_folder_with_something_else_is_never_replaced(stock, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="holds other files"):
        convert.run(ConvertConfig(str(stock), tmp_path))
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
