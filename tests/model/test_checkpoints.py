"""Foreign weights: every name of Stability's files accounted for, bit for bit, and the priors of the paper.

`sgm_shapes` states the original names a second time, by walking through the constructors of the package sgm
(github.com/Stability-AI/generative-models) in their order; the library goes the other way, from diffusers.
"""

import copy
import itertools
import json
import pickle
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from PIL import Image
from safetensors.torch import load_file, save_file

from svd3d.errors import CheckpointError
from svd3d.model import checkpoints, original, priors, tiny
from svd3d.model.pipeline import NETWORKS, SVDMVPipeline


@dataclass(frozen=True)
class Sgm:
    """What the configurations in scripts/sampling/configs say; by default a small one of the same family."""

    adm: int = 768
    embedder: int = 3
    channels: int = 64
    mult: tuple[int, ...] = (1, 2)
    attends: tuple[bool, ...] = (True, False)
    layers: int = 1
    context: int = 64
    ch: int = 32
    ch_mult: tuple[int, ...] = (1, 2)
    vae_layers: int = 2
    clip_width: int = 160
    clip_layers: int = 2
    patch: int = 56
    token: int = 64
    vocabulary: int = 7
    temporal_decoder: bool = True
    first_stage_encoder: bool = True


SMALL = {
    "svd": Sgm(),
    "sv3d_u": Sgm(adm=256, embedder=1, temporal_decoder=False, first_stage_encoder=False),
    "sv3d_p": Sgm(adm=1280, embedder=1, first_stage_encoder=False),
}
REAL = {
    kind: Sgm(
        adm=small.adm,
        embedder=small.embedder,
        channels=320,
        mult=(1, 2, 4, 4),
        attends=(True, True, True, False),
        layers=2,
        context=1024,
        ch=128,
        ch_mult=(1, 2, 4, 4),
        vae_layers=2,
        clip_width=1280,
        clip_layers=32,
        patch=14,
        token=1024,
        vocabulary=49408,
        temporal_decoder=small.temporal_decoder,
        first_stage_encoder=small.first_stage_encoder,
    )
    for kind, small in SMALL.items()
}
Shapes = dict[str, tuple[int, ...]]


def layer(name: str, outputs: int, *inputs: int, bias: bool = True) -> Shapes:
    """A linear layer or convolution; without inputs a normalization."""
    return {f"{name}.weight": (outputs, *inputs), **({f"{name}.bias": (outputs,)} if bias else {})}


def res_block(name: str, inputs: int, outputs: int, kernel: tuple[int, ...], embedding: int) -> Shapes:
    """sgm/modules/diffusionmodules/openaimodel.py, ResBlock."""
    return {
        **layer(f"{name}.in_layers.0", inputs),
        **layer(f"{name}.in_layers.2", outputs, inputs, *kernel),
        **(layer(f"{name}.emb_layers.1", outputs, embedding) if embedding else {}),
        **layer(f"{name}.out_layers.0", outputs),
        **layer(f"{name}.out_layers.3", outputs, outputs, *kernel),
        **(layer(f"{name}.skip_connection", outputs, inputs, 1, 1) if inputs != outputs else {}),
    }


def video_res_block(name: str, inputs: int, outputs: int, embedding: int) -> Shapes:
    """sgm/modules/diffusionmodules/video_model.py, VideoResBlock with video_kernel_size [3, 1, 1]."""
    return {
        **res_block(name, inputs, outputs, (3, 3), embedding),
        **res_block(f"{name}.time_stack", outputs, outputs, (3, 1, 1), embedding),
        f"{name}.time_mixer.mix_factor": (1,),
    }


def attention(name: str, width: int, context: int) -> Shapes:
    return {
        **layer(f"{name}.to_q", width, width, bias=False),
        **layer(f"{name}.to_k", width, context, bias=False),
        **layer(f"{name}.to_v", width, context, bias=False),
        **layer(f"{name}.to_out.0", width, width),
    }


def feed_forward(name: str, width: int) -> Shapes:
    return {**layer(f"{name}.net.0.proj", 8 * width, width), **layer(f"{name}.net.2", width, 4 * width)}


def video_transformer(name: str, width: int, context: int) -> Shapes:
    """sgm/modules/video_attention.py, SpatialVideoTransformer of depth 1 with extra_ff_mix_layer."""
    shapes = {
        **layer(f"{name}.norm", width),
        **layer(f"{name}.proj_in", width, width),
        **layer(f"{name}.proj_out", width, width),
        **layer(f"{name}.time_pos_embed.0", 4 * width, width),
        **layer(f"{name}.time_pos_embed.2", width, 4 * width),
        f"{name}.time_mixer.mix_factor": (1,),
        **layer(f"{name}.time_stack.0.norm_in", width),
        **feed_forward(f"{name}.time_stack.0.ff_in", width),
    }
    for block in (f"{name}.transformer_blocks.0", f"{name}.time_stack.0"):
        shapes |= attention(f"{block}.attn1", width, width) | attention(f"{block}.attn2", width, context)
        shapes |= feed_forward(f"{block}.ff", width)
        shapes |= (
            layer(f"{block}.norm1", width) | layer(f"{block}.norm2", width) | layer(f"{block}.norm3", width)
        )
    return shapes


def unet_shapes(sgm: Sgm) -> Shapes:
    """sgm/modules/diffusionmodules/video_model.py, VideoUNet."""
    embedding = 4 * sgm.channels
    shapes = {
        **layer("time_embed.0", embedding, sgm.channels),
        **layer("time_embed.2", embedding, embedding),
        **layer("label_emb.0.0", embedding, sgm.adm),
        **layer("label_emb.0.2", embedding, embedding),
        **layer("input_blocks.0.0", sgm.channels, 8, 3, 3),
    }
    width, skips, counter = sgm.channels, [sgm.channels], itertools.count(1)
    for level, mult in enumerate(sgm.mult):
        for _ in range(sgm.layers):
            name = f"input_blocks.{next(counter)}"
            shapes |= video_res_block(f"{name}.0", width, mult * sgm.channels, embedding)
            width = mult * sgm.channels
            if sgm.attends[level]:
                shapes |= video_transformer(f"{name}.1", width, sgm.context)
            skips.append(width)
        if level != len(sgm.mult) - 1:
            shapes |= layer(f"input_blocks.{next(counter)}.0.op", width, width, 3, 3)
            skips.append(width)
    shapes |= video_res_block("middle_block.0", width, width, embedding)
    shapes |= video_transformer("middle_block.1", width, sgm.context)
    shapes |= video_res_block("middle_block.2", width, width, embedding)
    counter = itertools.count()
    for level, mult in reversed(list(enumerate(sgm.mult))):
        for i in range(sgm.layers + 1):
            name, children = f"output_blocks.{next(counter)}", itertools.count(1)
            shapes |= video_res_block(f"{name}.0", width + skips.pop(), mult * sgm.channels, embedding)
            width = mult * sgm.channels
            if sgm.attends[level]:
                shapes |= video_transformer(f"{name}.{next(children)}", width, sgm.context)
            if level and i == sgm.layers:
                shapes |= layer(f"{name}.{next(children)}.conv", width, width, 3, 3)
    return shapes | layer("out.0", width) | layer("out.2", 4, width, 3, 3)


def vae_res_block(name: str, inputs: int, outputs: int, *, temporal: bool) -> Shapes:
    """sgm/modules/diffusionmodules/model.py, ResnetBlock, and temporal_ae.py, VideoResBlock."""
    shapes = {
        **layer(f"{name}.norm1", inputs),
        **layer(f"{name}.conv1", outputs, inputs, 3, 3),
        **layer(f"{name}.norm2", outputs),
        **layer(f"{name}.conv2", outputs, outputs, 3, 3),
        **(layer(f"{name}.nin_shortcut", outputs, inputs, 1, 1) if inputs != outputs else {}),
    }
    if temporal:
        shapes |= res_block(f"{name}.time_stack", outputs, outputs, (3, 1, 1), 0)
        shapes |= {f"{name}.mix_factor": (1,)}
    return shapes


def vae_middle(name: str, width: int, *, temporal: bool) -> Shapes:
    shapes = vae_res_block(f"{name}.block_1", width, width, temporal=temporal)
    shapes |= layer(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= layer(f"{name}.attn_1.{part}", width, width, 1, 1)
    return shapes | vae_res_block(f"{name}.block_2", width, width, temporal=temporal)


def encoder_shapes(sgm: Sgm) -> Shapes:
    shapes, width = layer("conv_in", sgm.ch, 3, 3, 3), sgm.ch
    for level, mult in enumerate(sgm.ch_mult):
        for block in range(sgm.vae_layers):
            shapes |= vae_res_block(f"down.{level}.block.{block}", width, mult * sgm.ch, temporal=False)
            width = mult * sgm.ch
        if level != len(sgm.ch_mult) - 1:
            shapes |= layer(f"down.{level}.downsample.conv", width, width, 3, 3)
    shapes |= vae_middle("mid", width, temporal=False)
    return shapes | layer("norm_out", width) | layer("conv_out", 8, width, 3, 3)


def decoder_shapes(sgm: Sgm, *, temporal: bool) -> Shapes:
    width = sgm.ch_mult[-1] * sgm.ch
    shapes = layer("conv_in", width, 4, 3, 3) | vae_middle("mid", width, temporal=temporal)
    for level, mult in reversed(list(enumerate(sgm.ch_mult))):
        for block in range(sgm.vae_layers + 1):
            shapes |= vae_res_block(f"up.{level}.block.{block}", width, mult * sgm.ch, temporal=temporal)
            width = mult * sgm.ch
        if level:
            shapes |= layer(f"up.{level}.upsample.conv", width, width, 3, 3)
    shapes |= layer("norm_out", width) | layer("conv_out", 3, width, 3, 3)
    return shapes | (layer("conv_out.time_mix_conv", 3, 3, 3, 1, 1) if temporal else {})


def clip_shapes(sgm: Sgm) -> Shapes:
    """open_clip's CLIP without its text transformer (sgm/modules/encoders/modules.py deletes that)."""
    width = sgm.clip_width
    shapes = {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((224 // sgm.patch) ** 2 + 1, width),
        "visual.proj": (width, sgm.token),
        **layer("visual.conv1", width, 3, sgm.patch, sgm.patch, bias=False),
        **layer("visual.ln_pre", width),
        **layer("visual.ln_post", width),
        "positional_embedding": (77, sgm.token),
        "text_projection": (sgm.token, sgm.token),
        "logit_scale": (),
        **layer("token_embedding", sgm.vocabulary, sgm.token, bias=False),
        **layer("ln_final", sgm.token),
    }
    for i in range(sgm.clip_layers):
        block = f"visual.transformer.resblocks.{i}"
        shapes |= layer(f"{block}.ln_1", width) | layer(f"{block}.ln_2", width)
        shapes |= {
            f"{block}.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.in_proj_bias": (3 * width,),
        }
        shapes |= layer(f"{block}.attn.out_proj", width, width)
        shapes |= layer(f"{block}.mlp.c_fc", 4 * width, width) | layer(
            f"{block}.mlp.c_proj", width, 4 * width
        )
    return shapes


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


def sgm_shapes(sgm: Sgm) -> Shapes:
    """All of a file."""
    copy = f"conditioner.embedders.{sgm.embedder}.encoder."
    return {
        **under("model.diffusion_model.", unet_shapes(sgm)),
        **under("first_stage_model.decoder.", decoder_shapes(sgm, temporal=sgm.temporal_decoder)),
        **(under("first_stage_model.encoder.", encoder_shapes(sgm)) if sgm.first_stage_encoder else {}),
        **under("conditioner.embedders.0.open_clip.model.", clip_shapes(sgm)),
        **under(f"{copy}encoder.", encoder_shapes(sgm)),
        **under(f"{copy}decoder.", decoder_shapes(sgm, temporal=False)),
        **under(copy, layer("quant_conv", 8, 8, 1, 1) | layer("post_quant_conv", 4, 4, 1, 1)),
    }


def random_weights(shapes: Shapes, *, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def files() -> dict[str, dict[str, torch.Tensor]]:
    """A small file of each released kind."""
    return {kind: random_weights(sgm_shapes(sgm)) for kind, sgm in SMALL.items()}


@pytest.fixture(scope="module")
def converted(files) -> dict[str, checkpoints.Checkpoint]:
    """The same, as pipelines."""
    return {kind: checkpoints.from_original(tensors, where=kind) for kind, tensors in files.items()}


def picture() -> Image.Image:
    return Image.radial_gradient("L").resize((32, 32)).convert("RGB")


# the real size, on meta


@pytest.mark.parametrize("kind", list(REAL))
def test_every_name_and_shape_of_the_real_files_has_its_place_in_both_directions(kind):
    shapes = sgm_shapes(REAL[kind])
    networks = original.build(shapes, kind, where=kind)
    places = original.places(networks, kind)
    for name, config in original.FULL_SIZE.items():
        for key, value in config.items():
            assert getattr(networks[name].config, key) == value
    carried = {name for name in shapes if original.is_remainder(name, kind)}
    invented = set() if REAL[kind].temporal_decoder else set(filter(original.is_temporal_decoder, places))
    assert places.keys() - invented == shapes.keys() - carried
    assert all(places[name].shape == shapes[name] for name in places if name not in invented)
    ours = [(place.network, name) for place in places.values() for name in place.names]
    there = [(network, name) for network in networks for name in networks[network].state_dict()]
    assert sorted(ours) == sorted(there)


def test_the_names_and_shapes_are_those_of_the_released_file_to_the_byte():
    """The published svd.safetensors and svd_xt.safetensors have 9,559,625,980 bytes each.

    The header, which holds every name and shape, is part of that.
    """
    header, end = {}, 0
    for name, shape in sorted(sgm_shapes(REAL["svd"]).items()):
        start, end = end, end + 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
    length = len(json.dumps(header, separators=(",", ":")))
    assert 8 + length + -length % 8 + end == 9_559_625_980


def test_the_unet_has_as_many_parameters_as_the_stock_one():
    unet = sum(torch.Size(shape).numel() for shape in unet_shapes(REAL["svd"]).values())
    with torch.device("meta"):
        stock = NETWORKS["unet"]()
    assert unet == 1_524_623_082 == sum(each.numel() for each in stock.parameters())


def test_the_widened_unet_has_one_more_sinusoid_of_columns():
    networks = original.build(sgm_shapes(REAL["svd"]), "svd", where="svd")
    meta = {name: network.state_dict() for name, network in networks.items()}
    stock = checkpoints.Checkpoint("svd", networks, meta, tiny.scheduler(), None)
    wide = checkpoints.multi_view(stock)
    assert sum(each.numel() for each in wide.weights["unet"].values()) == 1_524_623_082 + 256 * 1280
    assert wide.kind == "svd-mv"
    assert wide.networks["unet"].config["sample_size"] == 72


# small files, with all weights


@pytest.mark.parametrize("kind", list(SMALL))
def test_there_and_back_through_a_folder_is_bit_for_bit(kind, files, converted, tmp_path):
    made = converted[kind]
    if kind != "svd":
        checkpoints.write(made, tmp_path / "folder")
        made = checkpoints.from_folder(tmp_path / "folder")
        assert made.kind == kind
    back = checkpoints.original_weights(made)
    assert back.keys() == files[kind].keys()
    assert all(torch.equal(back[name], files[kind][name]) for name in back)


def test_a_widened_model_goes_back_with_wider_labels_and_returns(files):
    wide = checkpoints.multi_view(checkpoints.from_original(files["svd"], where="svd"), size=32)
    back = checkpoints.original_weights(wide)
    labels = back.pop("model.diffusion_model.label_emb.0.0.weight")
    assert torch.equal(labels[:, :768], files["svd"]["model.diffusion_model.label_emb.0.0.weight"])
    assert labels.shape[1] == 1024
    assert not labels[:, 768:].any()
    assert all(torch.equal(back[name], files["svd"][name]) for name in back)
    again = checkpoints.from_original(
        {**back, "model.diffusion_model.label_emb.0.0.weight": labels}, where=""
    )
    assert again.kind == "svd-mv"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            "unet.down_blocks.0.resnets.0.spatial_res_block.time_emb_proj.bias",
            "input_blocks.1.0.emb_layers.1.bias",
        ),
        (
            "unet.down_blocks.0.resnets.0.temporal_res_block.norm1.bias",
            "input_blocks.1.0.time_stack.in_layers.0.bias",
        ),
        (
            "unet.down_blocks.0.resnets.0.temporal_res_block.conv1.bias",
            "input_blocks.1.0.time_stack.in_layers.2.bias",
        ),
        (
            "unet.down_blocks.0.resnets.0.temporal_res_block.norm2.bias",
            "input_blocks.1.0.time_stack.out_layers.0.bias",
        ),
        (
            "unet.down_blocks.0.resnets.0.temporal_res_block.conv2.bias",
            "input_blocks.1.0.time_stack.out_layers.3.bias",
        ),
        ("unet.down_blocks.0.resnets.0.time_mixer.mix_factor", "input_blocks.1.0.time_mixer.mix_factor"),
        ("unet.down_blocks.0.attentions.0.time_mixer.mix_factor", "input_blocks.1.1.time_mixer.mix_factor"),
        (
            "unet.down_blocks.0.attentions.0.temporal_transformer_blocks.0.ff_in.net.2.bias",
            "input_blocks.1.1.time_stack.0.ff_in.net.2.bias",
        ),
        (
            "unet.down_blocks.0.attentions.0.time_pos_embed.linear_2.bias",
            "input_blocks.1.1.time_pos_embed.2.bias",
        ),
        (
            "unet.mid_block.resnets.1.temporal_res_block.conv2.bias",
            "middle_block.2.time_stack.out_layers.3.bias",
        ),
        ("unet.up_blocks.0.upsamplers.0.conv.bias", "output_blocks.1.1.conv.bias"),
        ("unet.up_blocks.1.resnets.1.time_mixer.mix_factor", "output_blocks.3.0.time_mixer.mix_factor"),
        ("unet.add_embedding.linear_2.bias", "label_emb.0.2.bias"),
        ("vae.decoder.mid_block.resnets.1.time_mixer.mix_factor", "decoder.mid.block_2.mix_factor"),
        ("vae.decoder.up_blocks.0.resnets.1.time_mixer.mix_factor", "decoder.up.1.block.1.mix_factor"),
        (
            "vae.decoder.up_blocks.1.resnets.0.temporal_res_block.conv2.bias",
            "decoder.up.0.block.0.time_stack.out_layers.3.bias",
        ),
        ("vae.decoder.time_conv_out.bias", "decoder.conv_out.time_mix_conv.bias"),
    ],
)
def test_temporal_layers_are_where_the_published_mapping_has_them(ours, theirs, files, converted):
    """Pairs from diffusers' scripts/convert_svd_to_diffusers.py and from the constructors of sgm."""
    network, _, name = ours.partition(".")
    prefix = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}[network]
    assert torch.equal(converted["svd"].weights[network][name], files["svd"][prefix + theirs])


def test_spatial_layers_are_where_diffusers_own_conversion_puts_them(files, converted):
    """The foreign oracle: the library converts the image half of a file; it knows no temporal layers."""
    made = converted["svd"].weights
    half = {name: each for name, each in files["svd"].items() if not re.search("time_(stack|mix|pos)", name)}
    half = {name: each for name, each in half.items() if not name.endswith("mix_factor")}
    unet = convert_ldm_unet_checkpoint(dict(half), {"layers_per_block": 1, "class_embed_type": "projection"})
    unet = {name.replace("class_embedding", "add_embedding"): each for name, each in unet.items()}
    assert_spatial(made["unet"], unet)

    copy = "conditioner.embedders.3.encoder."
    pairs = {
        "encoder.": {k.removeprefix(copy): v for k, v in half.items() if k.startswith(copy)},
        "decoder.": {
            k.removeprefix("first_stage_model."): v for k, v in half.items() if "first_stage_model" in k
        },
    }
    for side, weights in pairs.items():
        whole = {**pairs["encoder."], **weights}
        converted = convert_ldm_vae_checkpoint(whole, {"down_block_types": [0, 0], "up_block_types": [0, 0]})
        assert_spatial(made["vae"], {name: each for name, each in converted.items() if name.startswith(side)})
    assert torch.equal(made["vae"]["quant_conv.weight"], half[f"{copy}quant_conv.weight"])


def assert_spatial(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert len(theirs) > 50
    for name, expected in theirs.items():
        spatial = name if name in ours else re.sub(r"(resnets\.\d+)\.", r"\1.spatial_res_block.", name)
        assert torch.equal(ours[spatial], expected), name


def open_clip_tower(weights: dict[str, torch.Tensor], image: torch.Tensor, *, heads: int) -> torch.Tensor:
    """open_clip's VisionTransformer, stated again with torch's own multi-head attention."""
    x = F.conv2d(image, weights["conv1.weight"], stride=weights["conv1.weight"].shape[-1]).flatten(2).mT
    x = (
        torch.cat([weights["class_embedding"].expand(len(x), 1, -1), x], dim=1)
        + weights["positional_embedding"]
    )

    def normalized(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = normalized(x, "ln_pre")
    for i in range(sum(name.endswith("ln_1.bias") for name in weights)):
        block = f"transformer.resblocks.{i}"
        attention = torch.nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
        prefix = f"{block}.attn."
        state = {name.removeprefix(prefix): each for name, each in weights.items() if name.startswith(prefix)}
        attention.load_state_dict(state)
        y = normalized(x, f"{block}.ln_1")
        x = x + attention(y, y, y, need_weights=False)[0]
        y = F.linear(
            normalized(x, f"{block}.ln_2"),
            weights[f"{block}.mlp.c_fc.weight"],
            weights[f"{block}.mlp.c_fc.bias"],
        )
        x = x + F.linear(
            F.gelu(y), weights[f"{block}.mlp.c_proj.weight"], weights[f"{block}.mlp.c_proj.bias"]
        )
    return normalized(x[:, 0], "ln_post") @ weights["proj"]


@torch.no_grad()
def test_the_image_tower_gives_what_open_clip_gives(files, converted):
    prefix = "conditioner.embedders.0.open_clip.model.visual."
    weights = {
        name.removeprefix(prefix): each for name, each in files["svd"].items() if name.startswith(prefix)
    }
    image = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    ours = loaded(converted["svd"], "image_encoder")(image).image_embeds
    torch.testing.assert_close(ours, open_clip_tower(weights, image, heads=2), rtol=1e-4, atol=1e-4)


def loaded(checkpoint: checkpoints.Checkpoint, name: str) -> torch.nn.Module:
    """A network with its weights."""
    network = copy.deepcopy(checkpoint.networks[name]).to_empty(device="cpu")
    network.load_state_dict(checkpoint.weights[name])
    if name == "image_encoder":  # a buffer, which the meta device left undefined
        embeddings = network.vision_model.embeddings
        embeddings.position_ids = torch.arange(embeddings.num_positions)[None]
    return network.eval()


@pytest.mark.parametrize("kind", list(SMALL))
def test_a_converted_file_loads_and_generates(kind, files, tmp_path):
    made = checkpoints.multi_view(checkpoints.from_original(files[kind], where=kind))
    checkpoints.write(made, tmp_path / "folder")
    pipeline = SVDMVPipeline.load(str(tmp_path / "folder"))
    assert pipeline.conditioning == ("svd-mv" if kind == "svd" else kind)
    assert pipeline.scheduler.config.sigma_max == 700
    assert (pipeline.size, pipeline.unet.config.num_frames) == (576, 21)
    pipeline.set_progress_bar_config(disable=True)
    small = {"num_views": 2, "height": 32, "width": 32, "num_inference_steps": 1}
    views = pipeline(picture(), elevation_deg=20.0, **small).views
    assert views.shape == (1, 2, 32, 32, 3)
    for name in NETWORKS:
        state = getattr(pipeline, name).state_dict()
        assert all(torch.equal(state[key], each) for key, each in made.weights[name].items())


@torch.no_grad()
def test_the_start_of_svd_mv_is_stock_whatever_the_elevation(files):
    stock = loaded(checkpoints.from_original(files["svd"], where="svd"), "unet")
    wide = loaded(
        checkpoints.multi_view(checkpoints.from_original(files["svd"], where="svd"), size=32), "unet"
    )
    generator = torch.Generator().manual_seed(2)
    noisy = torch.randn(1, 3, 8, 16, 16, generator=generator)
    token = torch.randn(1, 1, 64, generator=generator)
    ids = torch.tensor([[6.0, 127.0, 0.02]])
    expected = stock(noisy, 0.5, encoder_hidden_states=token, added_time_ids=ids).sample
    for elevation_deg in (0.0, 25.0):
        more = torch.cat([ids, torch.tensor([[elevation_deg]])], dim=1)
        given = wide(noisy, 0.5, encoder_hidden_states=token, added_time_ids=more).sample
        torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_plain_image_decoder_decodes_view_by_view(files, converted):
    """The foreign oracle: diffusers' image autoencoder with the same file. Temporal layers change nothing."""
    video = loaded(converted["sv3d_u"], "vae")
    image = small_image_vae()
    prefixes = ("first_stage_model.", "conditioner.embedders.1.encoder.")
    weights: dict[str, torch.Tensor] = {}
    for prefix, side in zip(prefixes, ("decoder.", "encoder."), strict=True):
        weights |= {
            name.removeprefix(prefix): each
            for name, each in files["sv3d_u"].items()
            if name.startswith(prefix + side)
        }
    state = convert_ldm_vae_checkpoint(weights, {"down_block_types": [0, 0], "up_block_types": [0, 0]})
    image.load_state_dict(state, strict=False)
    torch.nn.init.dirac_(image.post_quant_conv.weight)
    torch.nn.init.zeros_(image.post_quant_conv.bias)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(video.decode(latents, num_frames=3).sample, image.decode(latents).sample)


# the paper's other priors


def small_image_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 64),
        layers_per_block=2,
    )


@pytest.fixture(scope="module")
def sd21(tmp_path_factory) -> Path:
    """A small Stable Diffusion 2.1 as diffusers saves it, with the parts that matter."""
    folder = tmp_path_factory.mktemp("sd21")
    torch.manual_seed(4)
    unet = UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=[2, 4],
        use_linear_projection=True,
    )
    unet.save_pretrained(folder / "unet")
    small_image_vae().save_pretrained(folder / "vae")
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def image_prior(sd21, converted, tmp_path_factory) -> checkpoints.Checkpoint:
    clip = tmp_path_factory.mktemp("clip") / "folder"
    checkpoints.write(converted["sv3d_u"], clip)
    return priors.from_stable_diffusion(sd21, image_encoder=str(clip), seed=5)


@torch.no_grad()
def test_the_image_prior_starts_as_stable_diffusion_on_each_view(sd21, image_prior):
    image_unet = UNet2DConditionModel.from_pretrained(sd21, subfolder="unet").eval()
    unet = loaded(checkpoints.multi_view(copy.deepcopy(image_prior), size=32), "unet")
    for name, norm in image_unet.named_modules():
        if ".norm" in name and "resnets" in name:  # where the library's own numbers differ: 1e-5 and 1e-6
            norm.eps = unet.get_submodule(name.replace(".norm", ".spatial_res_block.norm")).eps
    generator = torch.Generator().manual_seed(6)
    noisy, latents = torch.randn(2, 1, 3, 4, 16, 16, generator=generator)
    token = torch.randn(1, 1, 64, generator=generator)
    expected = image_unet(noisy[0], 500, encoder_hidden_states=token.expand(3, 1, 64)).sample
    ids = torch.tensor([[6.0, 127.0, 0.02, 20.0]])
    given = unet(
        torch.cat([noisy, latents], dim=2), 500, encoder_hidden_states=token, added_time_ids=ids
    ).sample
    torch.testing.assert_close(given[0], expected, rtol=0, atol=1e-5)


def test_every_temporal_layer_of_the_image_prior_learns(image_prior):
    unet = loaded(image_prior, "unet").train()
    noisy = torch.randn(1, 2, 8, 16, 16, generator=torch.Generator().manual_seed(7))
    ids = torch.tensor([[6.0, 127.0, 0.02]])
    unet(
        noisy, 0.5, encoder_hidden_states=noisy.new_ones(1, 1, 64), added_time_ids=ids
    ).sample.square().sum().backward()
    still = [name for name, _ in unet.named_parameters() if checkpoints.STILL.search(name)]
    gradients = dict(unet.named_parameters())
    asleep = [name for name in still if not gradients[name].grad.any() and "mix_factor" not in name]
    assert len(still) > 50
    assert asleep == []


@torch.no_grad()
def test_the_image_prior_decodes_as_stable_diffusion_inside_the_outermost_ring(sd21, image_prior):
    image = AutoencoderKL.from_pretrained(sd21, subfolder="vae").eval()
    video = loaded(image_prior, "vae")
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    expected = image.decoder.conv_in(image.post_quant_conv(latents))
    given = video.decoder.conv_in(latents)
    torch.testing.assert_close(given[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    assert not torch.allclose(given, expected)
    rest = {name: each for name, each in image.state_dict().items() if "conv_in" not in name}
    assert_spatial(video.state_dict(), {name: rest[name] for name in rest if "post_quant" not in name})


def test_an_image_encoder_of_another_width_is_refused(sd21):
    with pytest.raises(CheckpointError, match=r"tokens of 64 numbers, those of .* have 32"):
        priors.from_stable_diffusion(sd21, image_encoder="tiny")


def test_scratch_keeps_all_but_the_unet_and_depends_on_the_seed():
    trained = checkpoints.from_folder(tiny.FOLDER)
    first, again, other = (priors.scratch(trained, seed=seed) for seed in (1, 1, 2))
    same = [torch.equal(each, again.weights["unet"][name]) for name, each in first.weights["unet"].items()]
    assert all(same)
    assert not torch.equal(first.weights["unet"]["conv_in.weight"], other.weights["unet"]["conv_in.weight"])
    assert first.weights["vae"] is trained.weights["vae"]


# what is refused


def without(tensors: dict[str, torch.Tensor], pattern: str) -> dict[str, torch.Tensor]:
    return {name: each for name, each in tensors.items() if not re.search(pattern, name)}


def only(tensors: dict[str, torch.Tensor], pattern: str) -> dict[str, torch.Tensor]:
    return {name: each for name, each in tensors.items() if re.search(pattern, name)}


ONE = torch.zeros(1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: without(t, r"block_1\.norm1\.bias|out\.2"), r"is a svd model without .*out\.2\.weight"),
        (
            lambda t: without(t, r"middle_block.*norm1\.bias"),
            r"svd \(svd\): 2 of \d+ weights are missing \(model",
        ),
        (lambda t: {**t, "model_ema.decay": ONE}, r"1 of \d+ weights are unknown \(model_ema\.decay\)"),
        (lambda t: {**t, "model.diffusion_model.out.0.bias": ONE}, r"out\.0\.bias \(1,\), expected \(64,\)"),
        (lambda t: {**t, "lora_unet_down.lora_up.weight": ONE}, "holds LoRA adapters"),
        (lambda t: without(t, "time_stack"), "an image model like Stable Diffusion, without temporal layers"),
        (
            lambda t: {**without(t, "time_stack"), "conditioner.embedders.1.model.logit_scale": ONE},
            "is Stable Diffusion XL",
        ),
        (lambda t: only(t, "^first_stage_model"), r"an autoencoder \(VAE\) only"),
        (lambda t: {"down_blocks.0.resnets.0.norm1.weight": ONE}, "one network of a diffusers folder"),
        (
            lambda t: {"a.weight": ONE, "b.weight": ONE},
            r"0 of 2 weights have names .* \(a\.weight, b\.weight\)",
        ),
        (lambda t: {}, "0 of 0 weights"),
        (lambda t: {**t, "first_stage_model.post_quant_conv.weight": ONE}, "has the image decoder"),
        (
            lambda t: {**t, "model.diffusion_model.label_emb.0.0.weight": torch.zeros(256, 512)},
            r"vector condition is 512 wide, expected 768 \(svd\), 1024",
        ),
    ],
)
def test_another_kind_of_file_is_told_as_such(change, said, files):
    with pytest.raises(CheckpointError, match=said) as refused:
        checkpoints.from_original(change(files["svd"]), where="svd")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps({"state_dict": 1}), "is a pickle"),
        (b"PK\x03\x04 and the rest of a file by torch.save", "is a pickle"),
        (b"", "not a whole safetensors file"),
        (b"<html>404</html>", "not a whole safetensors file"),
    ],
)
def test_a_pickle_or_a_broken_download_is_refused_whatever_its_name(content, said, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        checkpoints.read(path)


def test_a_folder_of_pickles_or_of_another_pipeline_is_refused(sd21, tmp_path):
    with pytest.raises(
        CheckpointError, match="its UNet is UNet2DConditionModel, expected UNetSpatioTemporal"
    ):
        checkpoints.from_folder(sd21)
    with pytest.raises(
        CheckpointError, match="its UNet is UNetSpatioTemporalConditionModel, expected UNet2D"
    ):
        priors.from_stable_diffusion(tiny.FOLDER, image_encoder="tiny")
    shutil.copytree(tiny.FOLDER, tmp_path / "folder")
    weights = tmp_path / "folder/unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match=r"holds diffusion_pytorch_model\.bin, not"):
        checkpoints.from_folder(tmp_path / "folder")


def test_a_folder_lacking_a_weight_is_refused_and_half_precision_and_shards_are_read(tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(tiny.FOLDER, folder)
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    path.rename(path.with_name("diffusion_pytorch_model.fp16.safetensors"))
    whole = checkpoints.from_folder(folder).weights["unet"]
    path.with_name("diffusion_pytorch_model.fp16.safetensors").unlink()
    names = sorted(tensors)
    for i, part in enumerate((names[:100], names[100:]), start=1):
        shard = path.with_name(f"diffusion_pytorch_model-0000{i}-of-00002.safetensors")
        save_file({name: tensors[name] for name in part}, shard)
    sharded = checkpoints.from_folder(folder).weights["unet"]
    assert whole.keys() == sharded.keys()
    assert all(torch.equal(whole[name], sharded[name]) for name in whole)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"unet: \d+ of \d+ weights are missing"):
        checkpoints.from_folder(folder)


def test_numbers_too_large_for_half_precision_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"w: holds numbers too large for torch\.float16"):
        checkpoints.write_weights({"w": torch.tensor([1e5])}, tmp_path / "w.safetensors", dtype=torch.float16)


def test_a_model_of_another_architecture_does_not_go_back():
    with pytest.raises(CheckpointError, match=r"addition_time_embed_dim is 32, and readers .* for 256"):
        checkpoints.original_weights(checkpoints.from_folder(tiny.FOLDER))
