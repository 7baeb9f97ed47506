"""The other starts of training in the SVD paper, section 4.5: the image prior, and no prior at all."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor

from svd3d.errors import CheckpointError
from svd3d.model import checkpoints, original
from svd3d.model.checkpoints import Checkpoint, Weights

FRAMES = 14
"""Of the videos that the paper's first video models learn from (appendix D.2)."""
INTERPOLATED_FRAMES = 5
"""First and last are given, three are filled in (appendix D.5)."""


def is_stable_diffusion(folder: Path) -> bool:
    """Whether a diffusers folder holds an image model."""
    return checkpoints.unet_class(folder) == UNet2DConditionModel.__name__


def from_stable_diffusion(folder: Path, *, image_encoder: str, seed: int = 0) -> Checkpoint:
    """A diffusers folder of Stable Diffusion 2.1 as the spatial layers of SVD (the paper's image prior).

    At the start every view is computed by the spatial layers alone: temporal layers, the image latents and
    the vector condition add zero, and all of them learn. (diffusers adds 1e-6 in some normalizations of
    spatio-temporal blocks where it adds 1e-5 in two-dimensional ones: about 1e-4 apart.) `image_encoder` is
    the hub id or folder of a pipeline whose CLIP tower is taken; its token replaces the text.

    The autoencoder's `post_quant_conv`, which SVD's does not have, is folded into the decoder's first layer:
    exact but for the outermost ring of latents, where its bias meets the padding. The time embedding stays
    that of 1000 discrete steps; the paper trains it anew for EDM's noise levels (appendix D).
    """
    checkpoints.expect_unet(folder, UNet2DConditionModel)
    unet, vae = _image_networks(folder)
    networks, weights = _moving(unet, vae, pictures=True, seed=seed)
    return _seeing(networks, weights, image_encoder=image_encoder, where=folder)


def text_to_video(folder: Path, *, seed: int = 0) -> Checkpoint:
    """A diffusers folder of Stable Diffusion 2.1 as the start of text-to-video (SVD paper, appendix D.2).

    As `from_stable_diffusion`, but no picture is seen, and the text encoder stays: at the start each of the
    paper's 14 frames is what the image model gives, at its size.
    """
    checkpoints.expect_unet(folder, UNet2DConditionModel)
    unet, vae = _image_networks(folder)
    networks, weights = _moving(unet, vae, pictures=False, seed=seed)
    networks["unet"].register_to_config(num_frames=FRAMES, sample_size=unet.config["sample_size"])
    return Checkpoint("svd", networks, weights, checkpoints.scheduler(), None, text=folder)


def image_to_video(checkpoint: Checkpoint, *, image_encoder: str) -> Checkpoint:
    """A text-to-video model as the start of image-to-video (SVD paper, section 4.3).

    The latents of the picture add zero at the start, and its token from `image_encoder`, as for
    `from_stable_diffusion`, takes the place of the text.
    """
    return _shown(checkpoint, 0, image_encoder=image_encoder)


def interpolation(checkpoint: Checkpoint, *, image_encoder: str) -> Checkpoint:
    """A text-to-video model as the start of one that fills in frames (SVD paper, section 4.4), of 5 frames.

    As `image_to_video`, but the UNet is shown both ends and a channel that marks them.
    """
    made = _shown(checkpoint, 1, image_encoder=image_encoder)
    made.networks["unet"].register_to_config(num_frames=INTERPOLATED_FRAMES)
    return made


def _shown(checkpoint: Checkpoint, marks: int, *, image_encoder: str) -> Checkpoint:
    """A text-to-video model that takes latents of pictures and `marks` more channels, all with zeros."""
    assert checkpoint.text is not None, "asked only of text-to-video"
    unet, weights = checkpoint.networks["unet"], checkpoint.weights["unet"]
    config = {**unet.config, "in_channels": 2 * unet.config["out_channels"] + marks}
    stem = checkpoints.zero_padded(weights["conv_in.weight"], config["in_channels"])
    return _seeing(
        {**checkpoint.networks, "unet": checkpoints.empty("unet", config)},
        {**checkpoint.weights, "unet": {**weights, "conv_in.weight": stem}},
        image_encoder=image_encoder,
        where=checkpoint.text,
    )


def _seeing(
    networks: dict[str, Any], weights: dict[str, Weights], *, image_encoder: str, where: Path
) -> Checkpoint:
    """An image-to-video model of these networks and the image encoder of another pipeline."""
    clip = checkpoints.fetch(image_encoder, only="image_encoder")
    config = checkpoints.read_json(clip / "image_encoder" / "config.json")
    encoder = checkpoints.empty("image_encoder", config)
    token, context = encoder.config.projection_dim, networks["unet"].config["cross_attention_dim"]
    if token != context:
        raise CheckpointError(
            f"{where}: its cross-attention reads tokens of {context} numbers, those of {image_encoder} have "
            f"{token}; take Stable Diffusion 2.1 and CLIP ViT-H/14, which have 1024 both"
        )
    return Checkpoint(
        "svd",
        {**networks, "image_encoder": encoder},
        {**weights, "image_encoder": checkpoints.folder_weights(clip, "image_encoder")},
        checkpoints.scheduler(),
        checkpoints.feature_extractor(),
    )


def _image_networks(folder: Path) -> tuple[Any, Any]:
    """UNet and autoencoder of Stable Diffusion, from safetensors."""
    try:
        unet = UNet2DConditionModel.from_pretrained(str(folder), subfolder="unet", use_safetensors=True)
        vae = AutoencoderKL.from_pretrained(str(folder), subfolder="vae", use_safetensors=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{folder}: cannot be loaded ({reason}); pass a whole folder with safetensors weights"
        ) from error
    return unet, vae


def _moving(unet: Any, vae: Any, *, pictures: bool, seed: int) -> tuple[dict[str, Any], dict[str, Weights]]:
    """UNet and autoencoder with temporal layers that change nothing, and room for a picture, or not."""
    channels = vae.config["latent_channels"]
    config = _video_unet_config(unet.config, latent_channels=channels, pictures=pictures)
    networks = {"unet": checkpoints.empty("unet", config), "vae": checkpoints.empty("vae", dict(vae.config))}
    weights = {name: checkpoints.still_weights(each, seed=seed) for name, each in networks.items()}
    weights["unet"].update(_as_spatial(unet.state_dict()))
    weights["unet"]["conv_in.weight"] = checkpoints.zero_padded(unet.conv_in.weight, config["in_channels"])
    for name in ("add_embedding.linear_2.weight", "add_embedding.linear_2.bias"):
        weights["unet"][name].zero_()
    weights["vae"].update(_as_spatial(_without_post_quant_conv(vae.state_dict())))
    return networks, weights


def scratch(checkpoint: Checkpoint, *, seed: int) -> Checkpoint:
    """The same pipeline with a UNet of random weights; the autoencoder and the CLIP tower stay."""
    unet = checkpoints.random_weights(checkpoint.networks["unet"], seed=seed)
    return replace(checkpoint, weights={**checkpoint.weights, "unet": unet}, remainder={})


def full_size(*, seed: int) -> Checkpoint:
    """All of SVD at its real size with random weights: to measure time and memory without any download."""
    networks = {name: checkpoints.empty(name, config) for name, config in original.FULL_SIZE.items()}
    weights = {name: checkpoints.random_weights(network, seed=seed) for name, network in networks.items()}
    return Checkpoint("svd", networks, weights, checkpoints.scheduler(), checkpoints.feature_extractor())


def _video_unet_config(config: Mapping[str, Any], *, latent_channels: int, pictures: bool) -> dict[str, Any]:
    """The configuration of a spatio-temporal UNet with the spatial layers of a 2-D one."""
    kept = ("block_out_channels", "layers_per_block", "cross_attention_dim", "transformer_layers_per_block")
    return {
        **{key: config[key] for key in kept},
        "in_channels": 2 * latent_channels if pictures else latent_channels,
        "out_channels": latent_channels,
        "down_block_types": tuple(
            kind.replace("2D", "SpatioTemporal") for kind in config["down_block_types"]
        ),
        "up_block_types": tuple(kind.replace("2D", "SpatioTemporal") for kind in config["up_block_types"]),
        "num_attention_heads": config["num_attention_heads"] or config["attention_head_dim"],
    }


def _as_spatial(weights: Mapping[str, Tensor]) -> Weights:
    """Names of a 2-D network in a spatio-temporal one. Its encoder, if it has one, stays two-dimensional."""
    return {
        name
        if name.startswith("encoder.")
        else re.sub(r"(resnets\.\d+)\.", r"\1.spatial_res_block.", name): each
        for name, each in weights.items()
    }


def _without_post_quant_conv(weights: Mapping[str, Tensor]) -> Weights:
    """W (P z + p) + b = (W P) z + (W p + b), for the 1 x 1 convolution P, p before the decoder's W, b."""
    rest = dict(weights)
    mix, shift = rest.pop("post_quant_conv.weight")[:, :, 0, 0], rest.pop("post_quant_conv.bias")
    kernel = rest["decoder.conv_in.weight"]
    rest["decoder.conv_in.weight"] = torch.einsum("ocxy,cd->odxy", kernel, mix)
    rest["decoder.conv_in.bias"] = rest["decoder.conv_in.bias"] + torch.einsum("ocxy,c->o", kernel, shift)
    return rest
