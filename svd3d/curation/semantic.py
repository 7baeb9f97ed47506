"""What pictures show, by CLIP: their embeddings, how well a caption fits them, and how well they look.

- CLIP (Radford et al. 2021) from safetensors; the similarity of a text is the cosine of the embeddings.
- The aesthetic score is by LAION's improved aesthetic predictor: five linear layers without activations,
  which are one linear map, on the embedding of CLIP ViT-L/14; trained on ratings from 1 to 10.

Nothing is downloaded. Whatever hinders a network is a `DependencyError` that says how to get it.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from svd3d import hub
from svd3d.curation import networks
from svd3d.errors import DependencyError, require

CLIP_FILES = ("config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors")
PICTURES_AT_ONCE = 32
AESTHETIC_LAYERS = (0, 2, 4, 6, 7)
"""Numbers of the linear layers in LAION's file; between them were dropouts."""
AESTHETIC_WIDTHS = (1024, 128, 64, 16, 1)
"""Their outputs."""
PICKLES = (b"PK\x03\x04", b"\x80")
"""First bytes of what `torch.save` writes."""


class Clip:
    """CLIP's two towers, with the preparation that its folder asks for."""

    def __init__(self, network: Any, pictures: Any, tokens: Any) -> None:
        self.network, self.pictures, self.tokens = network, pictures, tokens

    @classmethod
    def load(cls, source: str, *, device: str = "cpu") -> "Clip":
        """CLIP of a folder, or of a hub id in the hub's cache.

        Raises `DependencyError` with the reason and what to do, and `ConfigError` for a device that is not
        there. The random state stays as it is.
        """
        folder = hub.cached(source, files=CLIP_FILES, what="clip_score", extra="curation")
        transformers = networks.transformers("clip_score")
        with networks.reading("clip_score", source):
            network = networks.read(transformers.CLIPModel, folder)
            pictures = transformers.CLIPImageProcessorPil.from_pretrained(folder)
            tokens = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return cls(networks.placed(network.float(), device), pictures, tokens)

    @property
    def width(self) -> int:
        """Numbers in an embedding."""
        return self.network.config.projection_dim

    def embed(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Float32[np.ndarray, "n d"]:
        """The embedding of each RGB picture, of length 1."""
        import torch

        found = [np.empty((0, self.width), np.float32)]
        for start in range(0, len(images), PICTURES_AT_ONCE):
            few = [np.asarray(image) for image in images[start : start + PICTURES_AT_ONCE]]
            prepared = self.pictures(few, return_tensors="pt").to(self.network.device)
            with torch.inference_mode():
                found.append(_directions(self.network.get_image_features(**prepared)))
        return np.concatenate(found)

    def similarity(self, embeddings: Float[np.ndarray, "n d"], text: str) -> list[float]:
        """The cosine, -1 to 1, of each embedding of length 1 with that of a text, which may be cut."""
        import torch

        prepared = self.tokens([text], truncation=True, max_length=self._longest, return_tensors="pt")
        with torch.inference_mode():
            (direction,) = _directions(self.network.get_text_features(**prepared.to(self.network.device)))
        return (embeddings.astype(np.float64) @ direction.astype(np.float64)).clip(-1, 1).tolist()

    @property
    def _longest(self) -> int:
        return self.network.config.text_config.max_position_embeddings


class Aesthetic:
    """LAION's improved aesthetic predictor on embeddings of CLIP ViT-L/14."""

    def __init__(self, weights: Float[np.ndarray, "d"], bias: float) -> None:
        self.weights, self.bias = weights, bias

    @classmethod
    def load(cls, path: Path | None, *, width: int) -> "Aesthetic":
        """The predictor in a safetensors file, for embeddings of so many numbers.

        Raises `DependencyError` for None, for a pickle, such as the released .pth (the message has the
        command that converts it without running it), and for any other network.
        """
        if path is None:
            raise DependencyError(
                "aesthetic: no predictor is named; pass --aesthetic FILE, LAION's improved aesthetic "
                "predictor (sac+logos+ava1-l14-linearMSE.pth) as safetensors"
            )
        tensors = _tensors(path)
        shapes, inputs = {}, width
        for layer, outputs in zip(AESTHETIC_LAYERS, AESTHETIC_WIDTHS, strict=True):
            shapes |= {f"layers.{layer}.weight": (outputs, inputs), f"layers.{layer}.bias": (outputs,)}
            inputs = outputs
        if (found := {name: each.shape for name, each in tensors.items()}) != shapes:
            wrong = sorted(name for name in shapes | found if shapes.get(name) != found.get(name))
            raise DependencyError(
                f"aesthetic: {path} is not the linear predictor on embeddings of {width} numbers: "
                f"{wrong[0]} is {found.get(wrong[0], 'missing')}, expected {shapes.get(wrong[0], 'none')}; "
                "pass sac+logos+ava1-l14-linearMSE with CLIP ViT-L/14"
            )
        weights, bias = np.eye(width), np.zeros(width)
        for layer in AESTHETIC_LAYERS:
            matrix = tensors[f"layers.{layer}.weight"].astype(np.float64)
            weights, bias = matrix @ weights, matrix @ bias + tensors[f"layers.{layer}.bias"]
        return cls(weights[0], float(bias[0]))

    def score(self, embeddings: Float[np.ndarray, "n d"]) -> list[float]:
        """The score of each embedding of length 1: about 1 (worst) to 10, not clamped."""
        return (embeddings.astype(np.float64) @ self.weights + self.bias).tolist()


def _tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file."""
    safetensors = require("safetensors", extra="curation", reason="aesthetic")
    from safetensors import numpy as files

    if not path.is_file():
        raise DependencyError(f"aesthetic: {path} is not a file; pass the predictor as safetensors")
    with open(path, "rb") as file:
        if file.read(4).startswith(PICKLES):
            target = path.with_suffix(".safetensors")
            program = (
                "import sys, torch, safetensors.torch as s; "
                's.save_file(torch.load(sys.argv[1], map_location="cpu", weights_only=True), sys.argv[2])'
            )
            command = shlex.join(["python", "-c", program, str(path), str(target)])
            raise DependencyError(
                f"aesthetic: {path} is a pickle, which may run any code when it is read; convert it, which "
                f"runs none, with: {command}"
            )
    try:
        return files.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise DependencyError(
            f"aesthetic: {path} is not a whole safetensors file ({networks.line(error)}); convert it again"
        ) from error


def _directions(features: Any) -> np.ndarray:
    """Features of a tower at length 1."""
    import torch

    features = getattr(features, "pooler_output", features).float()
    return torch.nn.functional.normalize(features, dim=-1).cpu().numpy()
