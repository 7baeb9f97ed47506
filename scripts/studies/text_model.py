"""A small text-to-video model before any training, with a tokenizer to which each word is one token."""

# pyright: reportPrivateImportUsage=false, reportArgumentType=false
# (diffusers exports its names lazily, where pyright does not see them, and types all tuples as of length 1)

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from svd3d import runs
from svd3d.model import checkpoints, saving, tiny
from svd3d.model.video_pipeline import TextToVideoPipeline

VOCABULARY = 1000
"""Tokens at most: of bytes, and of all parts of the words."""
TEXT_WIDTH = 64
"""Of hidden states."""
HEAD_WIDTH = 32
TIME_IDS = 3
"""Frame rate, motion and noise in the picture, as in stock SVD."""


def make(folder: Path, captions: Sequence[str], *, widths: tuple[int, int], frames: int) -> None:
    """A folder of `TextToVideoPipeline` with the autoencoder of `tiny`; it reads captions as long as these.

    The text encoder has random weights, which stay: so few words need not be understood, only told apart.
    """
    tokenizer = make_tokenizer(captions)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = TextToVideoPipeline(
            vae=AutoencoderKLTemporalDecoder.from_pretrained(tiny.FOLDER, subfolder="vae"),
            text_encoder=text_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=unet(widths, frames=frames),
            scheduler=tiny.scheduler(),
        )
    with runs.atomic_folder(folder) as place:
        pipeline.save_pretrained(place)


def make_start(model: Path, folder: Path, *, seed: int) -> None:
    """The same model with random weights of its UNet; layers across frames change nothing yet."""
    network = checkpoints.from_folder(model).networks["unet"]
    with runs.atomic_folder(folder) as place:
        saving.link_frozen(model, place, learns="unet")
        network.save_config(place / "unet")
        weights = checkpoints.still_weights(network, seed=seed)
        checkpoints.write_weights(weights, place / saving.weights("unet"))


def make_tokenizer(captions: Sequence[str]) -> CLIPTokenizer:
    """CLIP's tokenizer with merges up to whole words; it pads texts to the longest of the captions."""
    tokenizer = CLIPTokenizer().train_new_from_iterator(captions, vocab_size=VOCABULARY, show_progress=False)
    tokenizer.model_max_length = max(len(tokenizer(each).input_ids) for each in captions)
    return tokenizer


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text encoder in two small layers."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=TEXT_WIDTH // HEAD_WIDTH,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()


def unet(widths: tuple[int, int], *, frames: int) -> UNetSpatioTemporalConditionModel:
    """SVD's UNet on two levels, of which the coarse one attends and is told the text."""
    embedding = 32
    return UNetSpatioTemporalConditionModel(
        sample_size=tiny.SIZE // 8,
        in_channels=tiny.LATENT_CHANNELS,
        out_channels=tiny.LATENT_CHANNELS,
        down_block_types=("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"),
        up_block_types=("CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
        block_out_channels=widths,
        addition_time_embed_dim=embedding,
        projection_class_embeddings_input_dim=embedding * TIME_IDS,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        num_attention_heads=tuple(width // HEAD_WIDTH for width in widths),
        num_frames=frames,
    )
