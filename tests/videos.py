"""What the tests of video models share: small CLIP text encoders and models that are told texts."""

# pyright: reportPrivateImportUsage=false
# (diffusers exports its names lazily, where pyright does not see them)

import json
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from svd3d.model import tiny
from svd3d.model.video_pipeline import TextToVideoPipeline
from tests.trainings import small_unet

WIDTH = 24
"""Of hidden states."""
LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
WORDS = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{each}</w>" for each in LETTERS)]


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's tokenizer with letters for words, in the files of Stable Diffusion."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return CLIPTokenizer.from_pretrained(folder)


def text_encoder(*, width: int = WIDTH) -> CLIPTextModel:
    """With random weights; of two layers, for those letters."""
    tokens = {"vocab_size": len(WORDS), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    sizes = {"hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPTextModel(CLIPTextConfig(**sizes, **tokens)).eval()


def text_model(folder: Path, *, seed: int = 0, **parts: Any) -> TextToVideoPipeline:
    """A small model that is told texts, of `tiny`'s autoencoder; `folder` is for its tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        everything = {
            "vae": tiny.vae().eval(),
            "text_encoder": text_encoder(),
            "tokenizer": write_tokenizer(folder),
            "unet": small_unet(
                time_ids=3,
                in_channels=tiny.LATENT_CHANNELS,
                cross_attention_dim=WIDTH,
                num_frames=3,
            ).eval(),
            "scheduler": tiny.scheduler(),
        }
    pipeline = TextToVideoPipeline(**{**everything, **parts})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
