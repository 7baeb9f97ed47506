"""Adapters: closed forms on the weights; their file against the readers and writers of diffusers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNetSpatioTemporalConditionModel
from diffusers.loaders import PeftAdapterMixin, StableDiffusionLoraLoaderMixin
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from svd3d.errors import CheckpointError, ConfigError, OutputError
from svd3d.model import lora, tiny

NAME = "pytorch_lora_weights.safetensors"


def plain():
    """The same tiny UNet each time, without adapters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return tiny.unet().eval()


@pytest.fixture
def unet():
    return plain()


def views(unet):
    """What a UNet makes of one fixed input."""
    random = torch.Generator().manual_seed(0)
    sample = torch.randn(2, 2, unet.config.in_channels, 8, 8, generator=random)
    tokens, numbers = (
        torch.randn(2, 1, 32, generator=random),
        torch.rand(2, round(unet.add_embedding.linear_1.in_features / 32), generator=random),
    )
    with torch.no_grad():
        return unet(sample, 1.0, encoder_hidden_states=tokens, added_time_ids=numbers).sample


def train(unet, name, *, seed=0):
    """Stand-in for training: any B but zero."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in unet.named_parameters():
            if f".lora_B.{name}." in key:
                parameter.normal_(std=0.2, generator=random)


def with_adapter(unet, name="default", *, seed=0, **settings):
    lora.add(unet, **{"rank": 3, "name": name, "seed": seed, **settings})
    train(unet, name, seed=seed)
    return unet


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The file of a trained adapter (rank 3, alpha 6), and what the UNet makes of the input with it."""
    unet = with_adapter(plain(), alpha=6)
    return lora.save(unet, tmp_path_factory.mktemp("lora")), views(unet)


@pytest.mark.parametrize("where", ["all", "spatial", "temporal"])
def test_a_new_adapter_changes_nothing_and_can_be_removed(unet, where):
    before, state, random = views(unet), unet.state_dict(), torch.get_rng_state()
    lora.add(unet, rank=4, where=where)
    assert torch.equal(views(unet), before)
    assert torch.equal(torch.get_rng_state(), random)
    train(unet, "default")
    assert (views(unet) - before).abs().max() > 1e-3
    lora.remove(unet)
    assert torch.equal(views(unet), before)
    assert unet.state_dict().keys() == state.keys()


@pytest.mark.parametrize(("where", "count"), [("spatial", 128), ("temporal", 128), ("all", 256)])
def test_the_modules_of_the_real_model(where, count):
    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel(num_attention_heads=(5, 10, 20, 20))
    lora.add(unet.to("meta"), rank=16, where=where)
    adapted = [name.removesuffix(".lora_A") for name, _ in unet.named_modules() if name.endswith(".lora_A")]
    assert len(adapted) == count
    assert all(name.split(".")[-1] in ("to_q", "to_k", "to_v") or name[-8:] == "to_out.0" for name in adapted)
    assert all(name.split(".")[-3 - name.endswith(".0")].isdigit() for name in adapted)  # the block's number
    temporal = sum("temporal_transformer_blocks" in name for name in adapted)
    assert temporal == {"spatial": 0, "temporal": count, "all": count / 2}[where]


def test_gradients_flow_into_one_adapter_alone(unet):
    for name in ("zoom", "pan"):
        lora.add(unet, rank=2, name=name)
    found = lora.trainable(unet, name="pan")
    learning = {key for key, parameter in unet.named_parameters() if parameter.requires_grad}
    assert len(found) == len(learning) == 2 * 112  # A and B
    assert all(".pan." in key for key in learning)
    sample, tokens = torch.randn(1, 2, 32, 8, 8), torch.randn(1, 1, 32)
    output = unet(sample, 1.0, encoder_hidden_states=tokens, added_time_ids=torch.rand(1, 4)).sample
    output.square().sum().backward()
    gradients = {key for key, p in unet.named_parameters() if p.grad is not None and p.grad.any()}
    assert gradients <= learning
    assert any("attn1.to_q.lora_B" in key for key in gradients)


def test_an_adapter_trains_in_float32_on_a_network_in_float16(unet):
    lora.add(unet.to(torch.float16), rank=2)
    assert {parameter.dtype for parameter in lora.trainable(unet)} == {torch.float32}
    assert unet.conv_in.weight.dtype == torch.float16


def test_several_adapters_add_their_weighted_deltas(unet):
    """W + sum of weight * alpha / rank * B A, computed by hand into a plain UNet."""
    by_hand = plain()
    for name, seed in (("zoom", 1), ("pan", 2), ("unused", 3)):
        with_adapter(unet, name, seed=seed, rank=seed + 1, alpha=4, where="temporal")
    lora.set_weights(unet, {"zoom": 0.7, "pan": -0.3})
    with torch.no_grad():
        for key, layer in unet.named_modules():
            for name, weight in (("zoom", 0.7), ("pan", -0.3)):
                if isinstance(layer, lora.LoraLayer):
                    up, down = layer.lora_B[name].weight, layer.lora_A[name].weight
                    layer_by_hand = by_hand.get_submodule(key.replace(".base_layer", ""))
                    layer_by_hand.weight += weight * 4 / len(down) * up @ down
    torch.testing.assert_close(views(unet), views(by_hand), atol=1e-5, rtol=1e-5)
    lora.set_weights(unet, {})
    assert torch.equal(views(unet), views(plain()))


def test_removing_one_adapter_leaves_the_others_as_they_are(unet):
    with_adapter(unet, "zoom", seed=1)
    lora.set_weights(unet, {"zoom": 0.5})
    only_zoom = views(unet)
    with_adapter(unet, "pan", seed=2)
    with_adapter(unet, "idle", seed=3)
    lora.set_weights(unet, {"zoom": 0.5, "pan": 1.0})
    lora.remove(unet, "pan")
    assert torch.equal(views(unet), only_zoom)
    lora.set_weights(unet, {})
    lora.remove(unet, "zoom")
    assert torch.equal(views(unet), views(plain()))  # `idle` did not start by itself


def test_fused_adapters_compute_the_same_and_come_out_again(unet):
    weights = {key: value.clone() for key, value in unet.state_dict().items()}
    with_adapter(unet, "zoom", seed=1)
    with_adapter(unet, "pan", seed=2, where="temporal")
    lora.set_weights(unet, {"zoom": 0.7, "pan": 0.3})
    expected = views(unet)
    lora.fuse(unet)
    torch.testing.assert_close(views(unet), expected, atol=1e-5, rtol=1e-5)
    lora.unfuse(unet)
    torch.testing.assert_close(views(unet), expected, atol=1e-5, rtol=1e-5)
    lora.remove(unet)
    for key, value in unet.state_dict().items():  # to the rounding of an addition
        torch.testing.assert_close(value, weights[key], atol=2e-7, rtol=0)


def test_fused_adapters_stay_when_they_are_removed(unet):
    expected = views(with_adapter(unet))
    lora.fuse(unet)
    lora.remove(unet)
    assert unet.state_dict().keys() == tiny.unet().state_dict().keys()
    torch.testing.assert_close(views(unet), expected, atol=1e-5, rtol=1e-5)


def test_nothing_else_is_done_with_fused_adapters(unet, trained):
    lora.fuse(with_adapter(unet))
    for change in (
        lambda: lora.set_weights(unet, {"default": 0.5}),
        lambda: lora.add(unet, rank=1, name="other"),
        lambda: lora.load(unet, trained[0], name="other"),
        lambda: lora.remove(unet, "default"),
        lambda: lora.fuse(unet),
    ):
        with pytest.raises(ConfigError, match="fused into the weights; unfuse first"):
            change()


def test_an_adapter_that_is_not_finite_is_not_fused(unet):
    with_adapter(unet)
    expected = {key: value.clone() for key, value in unet.state_dict().items() if "base_layer" in key}
    last = [parameter for key, parameter in unet.named_parameters() if "lora_B" in key][-1]
    last.data[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        lora.fuse(unet)
    for key, value in expected.items():
        torch.testing.assert_close(unet.state_dict()[key], value, atol=2e-7, rtol=0)


# The file


@pytest.mark.parametrize("kind", ["file", "folder", "folder as text"])
def test_save_and_load(unet, trained, kind):
    file, expected = trained
    source = {"file": file, "folder": file.parent, "folder as text": str(file.parent)}[kind]
    lora.load(unet, source)
    assert torch.equal(views(unet), expected)


def test_the_weight_of_loading_scales(unet, trained):
    plain = views(unet)
    lora.load(unet, trained[0], name="off", weight=0.0)
    assert torch.equal(views(unet), plain)
    lora.load(unet, trained[0], name="on")
    assert torch.equal(views(unet), trained[1])


def contents(file):
    """Tensors as bytes, and the header; safetensors writes the entries of the header in any order."""
    with safe_open(file, framework="np") as content:
        tensors = {key: content.get_tensor(key).tobytes() for key in content.keys()}  # noqa: SIM118
        return tensors, content.metadata()


def test_loaded_adapters_save_to_the_same_file(unet, trained, tmp_path):
    lora.load(unet, trained[0], name="first")
    first = lora.save(unet, tmp_path / "a.safetensors", name="first")
    assert first == tmp_path / "a.safetensors"
    lora.load(unet, first, name="second")
    second = lora.save(unet, tmp_path / "b", name="second")
    assert second == tmp_path / "b" / NAME
    assert contents(first) == contents(second)


class DiffusersUNet(UNetSpatioTemporalConditionModel, PeftAdapterMixin):
    """The UNet as it would be if diffusers gave it its LoRA methods."""


def foreign():
    unet = DiffusersUNet.from_config(tiny.unet().config)
    unet.load_state_dict(plain().state_dict())
    return unet.eval()


def test_diffusers_reads_our_file(trained):
    unet = foreign()
    unet.load_lora_adapter(str(trained[0].parent), prefix="unet", weight_name=NAME)
    torch.testing.assert_close(views(unet), trained[1], atol=1e-6, rtol=1e-6)


def test_we_read_what_diffusers_writes(unet, trained, tmp_path):
    other = foreign()
    other.load_lora_adapter(str(trained[0].parent), prefix="unet", weight_name=NAME, adapter_name="it")
    StableDiffusionLoraLoaderMixin.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(other, adapter_name="it"),
        unet_lora_adapter_metadata=other.peft_config["it"].to_dict(),
    )
    other.save_lora_adapter(tmp_path / "bare", adapter_name="it")  # its keys have no prefix
    for number, folder in enumerate((tmp_path, tmp_path / "bare")):
        lora.load(unet, folder, name=f"n{number}")
        lora.set_weights(unet, {f"n{number}": 1.0})
        torch.testing.assert_close(views(unet), trained[1], atol=1e-6, rtol=1e-6)


def test_the_layout_is_that_of_diffusers(trained, tmp_path):
    unet = with_adapter(plain(), alpha=6)
    StableDiffusionLoraLoaderMixin.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=unet.peft_config["default"].to_dict(),
    )
    (ours, our_header), (theirs, their_header) = contents(trained[0]), contents(tmp_path / NAME)
    assert ours == theirs
    assert our_header.keys() == their_header.keys() == {"format", "lora_adapter_metadata"}
    about = [json.loads(header["lora_adapter_metadata"]) for header in (our_header, their_header)]
    assert about[0] == about[1]
    assert (about[0]["unet.r"], about[0]["unet.lora_alpha"]) == (3, 6)


def test_a_file_without_settings_has_the_factor_1(unet, trained, tmp_path):
    """As everywhere in diffusers; also in its older key naming."""
    state = load_file(trained[0])
    renamed = {
        key.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up."): value
        for key, value in state.items()
    }
    save_file(state, tmp_path / "a.safetensors")
    save_file(renamed, tmp_path / "b.safetensors")
    for name in ("a", "b"):
        lora.load(unet, tmp_path / f"{name}.safetensors", name=name)
        lora.set_weights(unet, {name: 2.0})  # alpha / rank was 2
        assert torch.equal(views(unet), trained[1])


def test_modules_may_have_their_own_ranks(unet, trained, tmp_path):
    state = {key: value for key, value in load_file(trained[0]).items() if "temporal" in key}
    narrow = sorted({key.rpartition(".lora_")[0] for key in state})[0]
    state[f"{narrow}.lora_A.weight"] = state[f"{narrow}.lora_A.weight"][:1].clone()
    state[f"{narrow}.lora_B.weight"] = state[f"{narrow}.lora_B.weight"][:, :1].clone()
    save_file(state, tmp_path / NAME)
    lora.load(unet, tmp_path)
    layer = unet.get_submodule(narrow.removeprefix("unet."))
    assert (layer.r, layer.scaling) == ({"default": 1}, {"default": 1.0})
    assert lora.save(unet, tmp_path / "again").exists()
    lora.load(unet, tmp_path / "again", name="again")
    assert layer.scaling["again"] == 1.0


def edit(change):
    """Break the tensors of a file, keeping its header."""

    def apply(file):
        state, header = change(load_file(file)), contents(file)[1]
        file.unlink()
        save_file(state, file, header)

    return apply


FIRST = "unet.down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_k.lora_A.weight"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            edit(lambda state: {f"other.{key}": value for key, value in state.items()}),
            r"no key is of this UNet \(other\.unet\.down_blocks.*expected such as .*lora_A\.weight\)",
        ),
        (edit(lambda _: {"x": torch.zeros(1)}), r"no key is of this UNet \(x, expected"),
        (edit(lambda _: {}), r"no key is of this UNet \(nothing, expected"),
        (
            edit(lambda state: {key: value for key, value in state.items() if key != FIRST}),
            rf"1 weights missing \['{FIRST.removeprefix('unet.')}'\], 0 without a place",
        ),
        (
            edit(lambda state: {key: value for key, value in state.items() if "temporal" in key}),
            r"112 weights missing .*, 0 without a place \[\]",
        ),
        (
            edit(lambda state: {**state, "text_encoder.lora_A.weight": torch.zeros(1, 1)}),
            r"0 weights missing \[\], 1 without a place \['text_encoder.lora_A.weight'\]",
        ),
        (
            edit(lambda state: {**state, FIRST: torch.zeros(3, 7)}),
            r"attn1.to_k has A \[3, 7\] and B \[96, 3\], expected \[\[3, 96\], \[96, 3\]\]",
        ),
        (edit(lambda state: {**state, FIRST: torch.zeros(5)}), r"attn1.to_k has A \[5\]"),
        (lambda file: file.write_bytes(b"version https://git-lfs"), "not a readable LoRA"),
        (lambda file: file.unlink(), "no such file"),
        (lambda file: file.rename(file.with_suffix(".bin")), "no such file"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_and_changes_nothing(unet, trained, tmp_path, break_it, message):
    file = tmp_path / NAME
    shutil.copy(trained[0], file)
    break_it(file)
    before = views(unet)
    with pytest.raises(CheckpointError, match=message) as caught:
        lora.load(unet, tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)
    assert not hasattr(unet, "peft_config")
    assert torch.equal(views(unet), before)


def test_a_pickle_is_refused_unread(unet, tmp_path):
    file = tmp_path / "pytorch_lora_weights.bin"
    torch.save({}, file)
    with pytest.raises(CheckpointError, match="not a safetensors file, and others may run code"):
        lora.load(unet, file)


def test_a_lora_of_another_model_is_refused(trained):
    other = UNetSpatioTemporalConditionModel.from_config(
        {**tiny.unet().config, "block_out_channels": (64, 64), "num_attention_heads": 2}
    )
    with pytest.raises(CheckpointError, match=r"expected \[\[3, 64\], \[64, 3\]\]; take a LoRA"):
        lora.load(other, trained[0])


def test_a_hub_id(unet, trained, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CheckpointError, match=r"somebody/zoom: no LoRA .*; pass a file, a folder, or a hub id"
    ):
        lora.load(unet, "somebody/zoom")
    stored = tmp_path / "models--somebody--zoom"
    for folder in ("refs", "snapshots/0"):
        (stored / folder).mkdir(parents=True)
    (stored / "refs/main").write_text("0")
    shutil.copy(trained[0], stored / "snapshots/0" / NAME)
    lora.load(unet, "somebody/zoom")
    assert torch.equal(views(unet), trained[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda unet: lora.add(unet, rank=0, name="x"), "LoRA of rank 0 and alpha None"),
        (lambda unet: lora.add(unet, rank=1, alpha=0, name="x"), "both must be above 0"),
        (
            lambda unet: lora.add(unet, rank=1),
            r"LoRA 'default': taken or not a plain word \(in use: default\)",
        ),
        (lambda unet: lora.add(unet, rank=1, name="a.b"), "LoRA 'a.b': taken or not a plain word"),
        (lambda unet: lora.set_weights(unet, {"zoom": 1}), r"LoRA 'zoom': not loaded \(loaded: default\)"),
        (lambda unet: lora.remove(unet, "zoom"), "LoRA 'zoom': not loaded"),
        (lambda unet: lora.trainable(unet, name="zoom"), "LoRA 'zoom': not loaded"),
        (lambda unet: lora.save(unet, Path("never"), name="zoom"), "LoRA 'zoom': not loaded"),
    ],
)
def test_wrong_calls_are_refused(call, message):
    unet = plain()
    lora.add(unet, rank=1)
    with pytest.raises(ConfigError, match=message):
        call(unet)


def test_a_place_that_cannot_be_written_is_named(unet, tmp_path):
    lora.add(unet, rank=1)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        lora.save(unet, tmp_path / "file" / "deeper")


def test_the_whole_pipeline_generates_with_an_adapter(pipeline, pictures, trained):
    options = {"num_views": 2, "num_inference_steps": 1, "latents": torch.zeros(1, 2, 16, 8, 8)}
    before = pipeline(pictures[0], generator=torch.Generator().manual_seed(0), **options).views
    lora.load(pipeline.unet, trained[0])
    with_it = pipeline(pictures[0], generator=torch.Generator().manual_seed(0), **options).views
    lora.remove(pipeline.unet)
    after = pipeline(pictures[0], generator=torch.Generator().manual_seed(0), **options).views
    assert np.abs(with_it - before).max() > 1e-3
    assert np.array_equal(after, before)
