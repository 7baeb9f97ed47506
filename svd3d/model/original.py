"""The names that Stability's own files use, and the way to diffusers' names and back.

`svd.safetensors`, `svd_xt.safetensors`, `sv3d_u.safetensors` and `sv3d_p.safetensors` are state dicts of
`DiffusionEngine` in github.com/Stability-AI/generative-models (package `sgm`). The rules below follow the
order in which these modules are built:

- the UNet: `sgm/modules/diffusionmodules/video_model.py`, `VideoUNet`, and `sgm/modules/video_attention.py`;
- the decoder: `sgm/modules/autoencoding/temporal_ae.py`, `VideoDecoder`. `sv3d_u` has a plain image decoder
  (`scripts/sampling/configs/sv3d_u.yaml`);
- the encoder: the conditioner's own copy of the image autoencoder, embedder 3 of SVD and 1 of SV3D (the
  order of `emb_models` in the configurations), because only that copy has the `quant_conv` that diffusers'
  autoencoder holds;
- the image tower: OpenCLIP's ViT-H/14, embedder 0.

The rules rename ours to theirs; one table serves both directions, so that each is the inverse of the other.
What a file holds besides (text side of CLIP, second encoder, image decoder of the conditioner) has no place
in diffusers and is carried as a remainder.
"""

# pyright: reportPrivateImportUsage=false, reportArgumentType=false
# (diffusers exports its names lazily, where pyright does not see them, and types all tuples as of length 1)

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from svd3d.errors import CheckpointError

Kind = Literal["svd", "svd-mv", "sv3d_u", "sv3d_p"]
KINDS: dict[int, Kind] = {768: "svd", 1024: "svd-mv", 256: "sv3d_u", 1280: "sv3d_p"}
"""By the width of the vector condition (`adm_in_channels`): sinusoids of 256 numbers, and of 512 for
polar and azimuth of `sv3d_p`. `svd-mv` is ours: the order of `svd` with the elevation behind it."""
TIME_EMBED_DIM = 256
UNET_HEAD, CLIP_HEAD = 64, 80
"""Channels of an attention head, which weights do not tell: `num_head_channels` of all configurations, and
1280 / 16 of ViT-H/14."""
FULL_SIZE: dict[str, dict[str, Any]] = {
    "unet": {},  # diffusers' defaults are SVD's
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "layers_per_block": 2,
        "sample_size": 768,
    },
    "image_encoder": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "projection_dim": 1024,
        "hidden_act": "gelu",
    },
}
"""Configurations of the released models, as `build` reads them from their files."""

UNET, VAE, CLIP = "model.diffusion_model.", "first_stage_model.", "conditioner.embedders.0.open_clip.model."
TEMPORAL_DECODER = f"{VAE}decoder.conv_out.time_mix_conv.weight"
"""Only a decoder with temporal layers has it."""

Rule = tuple[str, str | Callable[..., str]]
"""A pattern in our name, and the original text: fixed, or a function of the numbers in the pattern."""
RESNET: list[Rule] = [
    (r"(?<=res_block\.)norm1", "in_layers.0"),
    (r"(?<=res_block\.)conv1", "in_layers.2"),
    (r"(?<=res_block\.)time_emb_proj", "emb_layers.1"),
    (r"(?<=res_block\.)norm2", "out_layers.0"),
    (r"(?<=res_block\.)conv2", "out_layers.3"),
    (r"(?<=res_block\.)conv_shortcut", "skip_connection"),
    (r"temporal_res_block", "time_stack"),
    (r"spatial_res_block\.", ""),
]
CLIP_RULES: list[Rule] = [
    (r"^vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding", "visual.conv1"),
    (r"^vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm", "visual.ln_pre"),
    (r"^vision_model\.post_layernorm", "visual.ln_post"),
    (r"^visual_projection\.weight", "visual.proj"),
    (r"^vision_model\.encoder\.layers", "visual.transformer.resblocks"),
    (r"layer_norm([12])", "ln_{}".format),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"self_attn\.[qkv]_proj\.", "attn.in_proj_"),
    (r"self_attn\.out_proj", "attn.out_proj"),
    (r"^", CLIP),
]


def _unet_rules(unet: Any) -> list[Rule]:
    """`input_blocks` and `output_blocks` count through all levels: layers, and between levels a resampler."""
    config = unet.config
    layers = config["layers_per_block"]
    attends = [name.startswith("CrossAttn") for name in config["up_block_types"]]
    return [
        *RESNET,
        (r"^down_blocks\.(\d+)\.resnets\.(\d+)", lambda b, i: f"input_blocks.{1 + b * (layers + 1) + i}.0"),
        (
            r"^down_blocks\.(\d+)\.attentions\.(\d+)",
            lambda b, i: f"input_blocks.{1 + b * (layers + 1) + i}.1",
        ),
        (
            r"^down_blocks\.(\d+)\.downsamplers\.0\.conv",
            lambda b: f"input_blocks.{(b + 1) * (layers + 1)}.0.op",
        ),
        (r"^mid_block\.resnets\.(\d+)", lambda i: f"middle_block.{2 * i}"),
        (r"^mid_block\.attentions\.0", "middle_block.1"),
        (r"^up_blocks\.(\d+)\.resnets\.(\d+)", lambda b, i: f"output_blocks.{b * (layers + 1) + i}.0"),
        (r"^up_blocks\.(\d+)\.attentions\.(\d+)", lambda b, i: f"output_blocks.{b * (layers + 1) + i}.1"),
        (
            r"^up_blocks\.(\d+)\.upsamplers\.0",
            lambda b: f"output_blocks.{b * (layers + 1) + layers}.{1 + attends[b]}",
        ),
        (r"temporal_transformer_blocks", "time_stack"),
        (r"time_pos_embed\.linear_([12])", lambda i: f"time_pos_embed.{2 * i - 2}"),
        (r"^time_embedding\.linear_([12])", lambda i: f"time_embed.{2 * i - 2}"),
        (r"^add_embedding\.linear_([12])", lambda i: f"label_emb.0.{2 * i - 2}"),
        (r"^conv_in", "input_blocks.0.0"),
        (r"^conv_norm_out", "out.0"),
        (r"^conv_out", "out.2"),
        (r"^", UNET),
    ]


def _vae_rules(vae: Any, embedder: int) -> list[Rule]:
    """`decoder.up` counts from fine to coarse, against the order of computation."""
    last = len(vae.config["block_out_channels"]) - 1
    return [
        (r"spatial_res_block\.", ""),
        *RESNET,
        (r"time_mixer\.", ""),
        (r"down_blocks\.(\d+)\.resnets\.(\d+)", "down.{}.block.{}".format),
        (r"down_blocks\.(\d+)\.downsamplers\.0", "down.{}.downsample".format),
        (r"mid_block\.resnets\.(\d+)", lambda i: f"mid.block_{i + 1}"),
        (r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda b, i: f"up.{last - b}.block.{i}"),
        (r"up_blocks\.(\d+)\.upsamplers\.0", lambda b: f"up.{last - b}.upsample"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"mid_block\.attentions\.0\.to_", "mid.attn_1."),
        (r"conv_norm_out", "norm_out"),
        (r"time_conv_out", "conv_out.time_mix_conv"),
        (r"^(?=encoder|quant_conv)", f"conditioner.embedders.{embedder}.encoder."),
        (r"^(?=decoder)", VAE),
    ]


@dataclass(frozen=True)
class Place:
    """Where one tensor of an original file lives in ours: in three tensors when it stacks q, k and v."""

    network: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    """In the original file."""


def places(networks: Mapping[str, Any], kind: Kind) -> dict[str, Place]:
    """Original name to place, for every parameter of the three networks."""
    rules = {
        "unet": _unet_rules(networks["unet"]),
        "vae": _vae_rules(networks["vae"], _vae_embedder(kind)),
        "image_encoder": CLIP_RULES,
    }
    found: dict[str, Place] = {}
    for network, module in networks.items():
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        for name in sorted(shapes, key=_query_key_value):
            original = _rename(name, rules[network])
            names = (*found[original].names, name) if original in found else (name,)
            found[original] = Place(network, names, _original_shape(original, shapes[name], len(names)))
    return found


def _rename(name: str, rules: list[Rule]) -> str:
    for pattern, new in rules:
        name = re.sub(
            pattern, new if isinstance(new, str) else lambda m, f=new: f(*map(int, m.groups())), name
        )
    return name


def _query_key_value(name: str) -> int:
    """Order of what is stacked; a stable sort leaves the rest as it is."""
    found = re.search(r"self_attn\.([qkv])_proj", name)
    return "qkv".index(found[1]) if found else 0


def _original_shape(original: str, shape: tuple[int, ...], stacked: int) -> tuple[int, ...]:
    if original.endswith("visual.proj"):  # x @ proj there, a linear layer here
        return shape[::-1]
    if re.search(r"attn_1\.(q|k|v|proj_out)\.weight$", original):  # convolutions of 1 x 1 there
        return (*shape, 1, 1)
    return (stacked * shape[0], *shape[1:]) if stacked > 1 else shape


def _vae_embedder(kind: Kind) -> int:
    return 3 if kind in ("svd", "svd-mv") else 1


def to_ours(original: str, place: Place, tensor: Tensor) -> dict[str, Tensor]:
    """One tensor of an original file under its names and in its shapes of diffusers."""
    if original.endswith("visual.proj"):
        tensor = tensor.T
    elif len(place.shape) == 4 and "attn_1." in original:
        tensor = tensor[:, :, 0, 0]
    return dict(zip(place.names, tensor.chunk(len(place.names)), strict=True))


def to_original(original: str, place: Place, weights: Mapping[str, Tensor]) -> Tensor:
    """The inverse of `to_ours`, from the weights of the network of the place."""
    parts = [weights[name] for name in place.names]
    tensor = torch.cat(parts) if len(parts) > 1 else parts[0]
    return (tensor.T if original.endswith("visual.proj") else tensor).reshape(place.shape)


def is_remainder(original: str, kind: Kind) -> bool:
    """Whether a tensor of an original file belongs to what diffusers has no place for.

    The text side of OpenCLIP without its transformer (`FrozenOpenCLIPImageEmbedder` deletes only that), the
    encoder of the first stage, and the decoder of the conditioner's autoencoder: sampling reads none of them.
    """
    copy = re.escape(f"conditioner.embedders.{_vae_embedder(kind)}.encoder.")
    text = r"(logit_scale|positional_embedding|text_projection|token_embedding\.|ln_final\.)"
    patterns = (rf"{re.escape(VAE)}encoder\.", rf"{copy}(decoder|post_quant_conv)\.", re.escape(CLIP) + text)
    return any(re.match(pattern, original) for pattern in patterns)


def recognize(shapes: Mapping[str, tuple[int, ...]], *, where: str) -> Kind:
    """Which released model a file of these tensors is; a `CheckpointError` says what it is instead."""
    advice = "pass svd, svd_xt, sv3d_u or sv3d_p.safetensors, or a diffusers folder"
    names = list(shapes)
    if any("lora" in name.lower() for name in names):
        raise CheckpointError(f"{where}: holds LoRA adapters, not a whole model; {advice}")
    if any(name.startswith(UNET) for name in names):
        if not any(".time_stack." in name for name in names if name.startswith(UNET)):
            is_xl = any(name.startswith("conditioner.embedders.1.model.") for name in names)
            what = "Stable Diffusion XL" if is_xl else "an image model like Stable Diffusion"
            raise CheckpointError(f"{where}: is {what}, without temporal layers; {advice}")
        if f"{VAE}post_quant_conv.weight" in shapes:
            raise CheckpointError(
                f"{where}: has the image decoder of Stable Diffusion, which needs a post_quant_conv that "
                "this pipeline lacks; pass svd or svd_xt.safetensors, which hold the same UNet"
            )
        width = shapes.get(f"{UNET}label_emb.0.0.weight", (0, 0))[1]
        if width not in KINDS:
            known = ", ".join(f"{value} ({kind})" for value, kind in KINDS.items())
            raise CheckpointError(
                f"{where}: its vector condition is {width} wide, expected {known}; {advice}"
            )
        return KINDS[width]
    if any(re.match(r"(down_blocks|mid_block|vision_model)\.", name) for name in names):
        raise CheckpointError(f"{where}: is one network of a diffusers folder; pass the whole folder")
    if names and all(
        re.match(rf"({re.escape(VAE)}|encoder|decoder|quant|post_quant)", name) for name in names
    ):
        raise CheckpointError(f"{where}: is an autoencoder (VAE) only, without a UNet; {advice}")
    first = ", ".join(sorted(names)[:3]) or "nothing"
    raise CheckpointError(
        f"{where}: 0 of {len(names)} weights have names of Stability's files ({first}); {advice}"
    )


def build(shapes: Mapping[str, tuple[int, ...]], kind: Kind, *, where: str) -> dict[str, Any]:
    """The three networks that a file of these tensors is for, on the meta device (no weights).

    Their sizes are read from the shapes. Raises `CheckpointError` where a shape that tells them is missing.
    """
    try:
        with torch.device("meta"):
            return {"unet": _unet(shapes), "vae": _vae(shapes, kind), "image_encoder": _image_encoder(shapes)}
    except KeyError as error:
        raise CheckpointError(
            f"{where}: is a {kind} model without {error.args[0]}; download the whole file again"
        ) from error


def _unet(shapes: Mapping[str, tuple[int, ...]]) -> Any:
    blocks = _count(shapes, f"{UNET}input_blocks.")
    downs = [i for i in range(blocks) if f"{UNET}input_blocks.{i}.0.op.weight" in shapes]
    layers = (downs[0] if downs else blocks) - 1
    first = [1 + level * (layers + 1) for level in range(len(downs) + 1)]
    channels = tuple(shapes[f"{UNET}input_blocks.{i}.0.out_layers.3.weight"][0] for i in first)
    attends = [f"{UNET}input_blocks.{i}.1.norm.weight" in shapes for i in first]
    depth = _count(shapes, f"{UNET}middle_block.1.transformer_blocks.")
    stem = shapes[f"{UNET}input_blocks.0.0.weight"]
    return UNetSpatioTemporalConditionModel(
        in_channels=stem[1],
        out_channels=shapes[f"{UNET}out.2.weight"][0],
        down_block_types=tuple("CrossAttn" * has + "DownBlockSpatioTemporal" for has in attends),
        up_block_types=tuple("CrossAttn" * has + "UpBlockSpatioTemporal" for has in reversed(attends)),
        block_out_channels=channels,
        addition_time_embed_dim=TIME_EMBED_DIM,
        projection_class_embeddings_input_dim=shapes[f"{UNET}label_emb.0.0.weight"][1],
        layers_per_block=layers,
        cross_attention_dim=shapes[f"{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight"][1],
        transformer_layers_per_block=depth,
        num_attention_heads=tuple(max(width // UNET_HEAD, 1) for width in channels),
    )


def _vae(shapes: Mapping[str, tuple[int, ...]], kind: Kind) -> Any:
    encoder = f"conditioner.embedders.{_vae_embedder(kind)}.encoder.encoder."
    levels = _count(shapes, f"{encoder}down.")
    return AutoencoderKLTemporalDecoder(
        in_channels=shapes[f"{encoder}conv_in.weight"][1],
        out_channels=shapes[f"{VAE}decoder.conv_out.weight"][0],
        down_block_types=("DownEncoderBlock2D",) * levels,
        block_out_channels=tuple(shapes[f"{encoder}down.{i}.block.0.conv2.weight"][0] for i in range(levels)),
        layers_per_block=_count(shapes, f"{encoder}down.0.block."),
        latent_channels=shapes[f"{VAE}decoder.conv_in.weight"][1],
        sample_size=768,  # as diffusers' folder of SVD has it
        scaling_factor=0.18215,  # `scale_factor` of all configurations
    )


def _image_encoder(shapes: Mapping[str, tuple[int, ...]]) -> Any:
    width, _, patch, _ = shapes[f"{CLIP}visual.conv1.weight"]
    tokens = shapes[f"{CLIP}visual.positional_embedding"][0]
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=shapes[f"{CLIP}visual.transformer.resblocks.0.mlp.c_fc.weight"][0],
        num_hidden_layers=_count(shapes, f"{CLIP}visual.transformer.resblocks."),
        num_attention_heads=max(width // CLIP_HEAD, 1),
        image_size=patch * math.isqrt(tokens - 1),
        patch_size=patch,
        projection_dim=shapes[f"{CLIP}visual.proj"][1],
        hidden_act="gelu",
    )
    return CLIPVisionModelWithProjection(config)


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """How many numbered children are under a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})


def is_temporal_decoder(original: str) -> bool:
    """Whether a tensor of an original file belongs to a temporal layer of the decoder."""
    return original.startswith(VAE) and bool(re.search(r"time_stack|mix_factor|time_mix_conv", original))
