"""The multi-view model: Stable Video Diffusion in diffusers classes, conditioned on elevation.

This module itself is light: it imports no torch.
"""

import os
from pathlib import Path

TINY_FOLDER = Path(__file__).resolve().parents[1] / "assets" / "tiny"
"""The trained weights of `tiny`, a diffusers folder."""


def local_folder(model: str) -> Path | None:
    """The folder that a `--model` names; None when it names none, so that it can only be a hub id."""
    folder = TINY_FOLDER if model == "tiny" else Path(model)
    return folder if os.path.isdir(folder) else None
