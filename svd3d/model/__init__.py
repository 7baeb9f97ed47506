"""The multi-view model: Stable Video Diffusion in diffusers classes, conditioned on elevation.

This module itself is light: it imports no torch.
"""

import os
import re
from pathlib import Path

from svd3d.errors import CheckpointError

TINY_FOLDER = Path(__file__).resolve().parents[1] / "assets" / "tiny"
"""The trained weights of `tiny`, a diffusers folder."""
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def local_folder(model: str) -> Path | None:
    """The diffusers folder that a `--model` names; None when it is a hub id.

    Raises `CheckpointError` for what can be neither, before anything is loaded or written.
    """
    folder = TINY_FOLDER if model == "tiny" else Path(model)
    if os.path.isfile(folder):
        raise CheckpointError(
            f"{folder}: a file, not a diffusers folder; turn a .safetensors checkpoint into one with: "
            "svd3d convert (pickles such as .ckpt, .pt and .bin are never opened)"
        )
    if not os.path.isdir(folder):
        if HUB_ID.fullmatch(model):
            return None
        raise CheckpointError(
            f"{model}: no such model folder, and not a hub id like owner/name; check --model"
        )
    if not (folder / "model_index.json").is_file():
        raise CheckpointError(
            f"{folder}: holds no model_index.json, so not a diffusers pipeline; pass a folder that does"
        )
    return folder
