"""Metrics by trained networks: LPIPS and CLIP-S. Two stacks of views in, one value per view out.

- LPIPS 0.1 (Zhang et al. 2018, equation 1) by the package `lpips`, on the ImageNet weights that torchvision
  publishes. Those come as pickles: only the published file is opened, which is known by its digest.
- CLIP-S is the cosine of the image embeddings of CLIP (Radford et al. 2021), from safetensors.

Evaluation reads files only: nothing is downloaded here. Whatever hinders a network is a `DependencyError`
that says how to get it.
"""

import functools
import hashlib
import importlib.metadata
import json
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float

from svd3d import hub, runs
from svd3d.errors import ConfigError, DependencyError, ImageError, require

PIXELS_AT_ONCE = 2**20
"""Of one stack, in a batch of LPIPS: with VGG-16 they need about 2 GB."""
VIEWS_AT_ONCE = 32
"""In a batch of CLIP, whose pictures all have one size."""
VIEWS_REMEMBERED = 4096
"""Embeddings kept, so that a reference is embedded once for all methods."""
ROUNDING = 1e-5
"""How far colours may leave [0, 1]."""


@dataclass(frozen=True)
class Networks:
    """Where the weights are, and where they compute."""

    lpips: Path | None = None
    """Folder with the weights of AlexNet and VGG-16; None: the one that torchvision downloads to."""
    clip_b32: str = "openai/clip-vit-base-patch32"
    """Folder of CLIP ViT-B/32, or a hub id that is in the hub's cache."""
    clip_l14: str = "openai/clip-vit-large-patch14"
    """Folder of CLIP ViT-L/14, or a hub id that is in the hub's cache."""
    device: str = "cpu"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""


@dataclass(frozen=True)
class _Backbone:
    """A network below LPIPS."""

    net: str
    """Its name in the package `lpips`."""
    name: str
    """Its name in torchvision."""
    file: str
    """Its weights in torchvision; the name ends in the first digits of the SHA-256."""
    smallest: int
    """Pixels across below which a layer has nothing left."""


BACKBONES = {
    "lpips-alex": _Backbone("alex", "alexnet", "alexnet-owt-7be5be79.pth", 31),
    "lpips-vgg": _Backbone("vgg", "vgg16", "vgg16-397923af.pth", 16),
}
PATCHES = {"clip-s-b32": 32, "clip-s-l14": 14}
"""Pixels across a patch, by which the two CLIPs are told apart."""
METRICS = (*BACKBONES, *PATCHES)
"""All metrics of this module."""
CLIP_FILES = ("config.json", "preprocessor_config.json", "model.safetensors")


@dataclass(frozen=True, eq=False)
class Measure:
    """A metric with its network in memory."""

    metric: str
    facts: Mapping[str, Any]
    """What a report must say: network, source, SHA-256 of each file of weights, treatment of the pictures,
    device, versions. Plain JSON types."""
    smallest: int
    """Pixels across the smallest picture that can be measured."""
    compare: Callable[..., Any]
    """The arithmetic, without the checks."""

    def __call__(
        self, prediction: Float[np.ndarray, "v h w 3"], reference: Float[np.ndarray, "v h w 3"]
    ) -> Float[np.ndarray, "v"]:
        """One value per view: LPIPS, at least 0 and lower is better; CLIP-S in [-1, 1], higher is better.

        Colours in [0, 1], over a background. Raises `ImageError` for stacks of two shapes, for values
        outside the range or not finite, and for pictures that are too small.
        """
        if prediction.shape != reference.shape:
            raise ImageError(
                f"{self.metric}: views of shape {prediction.shape} cannot be compared with views of shape "
                f"{reference.shape}; resize them or choose as many"
            )
        height, width = reference.shape[1:3]
        if min(height, width) < self.smallest:
            raise ImageError(
                f"{self.metric}: needs at least {self.smallest} x {self.smallest} pixels, these views have "
                f"{width} x {height}; leave {self.metric} out or use larger pictures"
            )
        for name, stack in (("prediction", prediction), ("reference", reference)):
            for view, image in enumerate(stack):
                if not (image.min() >= -ROUNDING and image.max() <= 1 + ROUNDING):  # also where one is NaN
                    raise ImageError(
                        f"{self.metric}: {name}: view {view} holds values that are not finite or not in "
                        "[0, 1]; make it again"
                    )
        return self.compare(prediction, reference)


@functools.cache
def load(metric: str, networks: Networks) -> Measure:
    """One of `METRICS`, ready to measure; loaded once per process. The random state stays as it is.

    Raises `DependencyError` with the reason and what to do when a package or the weights are absent, and
    `ConfigError` for a device that is not there.
    """
    torch = require("torch", extra="metrics", reason=metric)
    with torch.random.fork_rng(devices=[]):  # networks draw weights before they get theirs
        return _lpips(metric, networks) if metric in BACKBONES else _clip(metric, networks)


def _lpips(metric: str, networks: Networks) -> Measure:
    import torch

    backbone, package = BACKBONES[metric], _imported("lpips", metric)
    folder = networks.lpips or Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / backbone.file
    if not path.is_file():
        raise DependencyError(
            f"{metric}: {folder} holds no {backbone.file}, the weights of its network; put it there, name "
            "its folder with --lpips-weights, or download it: python -c 'from torchvision.models import "
            f'{backbone.name}; {backbone.name}(weights="DEFAULT")\''
        )
    digest = runs.sha256(path)
    if not path.stem.endswith(f"-{digest[:8]}"):
        raise DependencyError(
            f"{metric}: {path} is not the published file (its SHA-256 begins with {digest[:8]}) and is not "
            "opened; download it again"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lpips calls torchvision in a manner that is out of date
        network = package.LPIPS(net=backbone.net, pnet_rand=True, verbose=False)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    layers = {name: name.split(".", 1)[1] for name in network.net.state_dict()}  # slice2.3.bias is layer 3
    network.net.load_state_dict({name: weights[f"features.{layer}"] for name, layer in layers.items()})
    device = next(_placed(network, networks.device).parameters()).device

    def compare(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
        count, height, width = reference.shape[:3]
        step = max(1, PIXELS_AT_ONCE // (height * width))
        chunks = [slice(start, start + step) for start in range(0, count, step)]
        with torch.inference_mode():
            values = [
                network(_tensor(prediction[few], device), _tensor(reference[few], device), normalize=True)
                for few in chunks
            ]
        return torch.cat(values).flatten().double().cpu().numpy()

    linear = Path(str(package.__file__)).parent / "weights" / "v0.1" / f"{backbone.net}.pth"
    facts = {
        "network": f"LPIPS 0.1 on {backbone.name} of torchvision, ImageNet",
        "source": str(path),
        "sha256": {backbone.file: digest, f"lpips/{linear.name}": runs.sha256(linear)},
        "pictures": "[-1, 1], not resized",
        "device": str(device),
        "versions": _versions("lpips", "torch", "torchvision"),
    }
    return Measure(metric, facts, backbone.smallest, compare)


def _clip(metric: str, networks: Networks) -> Measure:
    clip = _imported("transformers.models.clip.modeling_clip", metric)
    import safetensors.torch  # transformers brings it

    source = networks.clip_b32 if metric == "clip-s-b32" else networks.clip_l14
    folder = hub.cached(source, files=CLIP_FILES, what=metric, extra="metrics")
    try:
        preparation = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        mean, std = preparation["image_mean"], preparation["image_std"]
        config = clip.CLIPVisionConfig.from_pretrained(folder)
        network = clip.CLIPVisionModelWithProjection(config)
        weights = safetensors.torch.load_file(folder / "model.safetensors")  # of the text, too
        network.load_state_dict({name: weights[name] for name in network.state_dict()})
    except KeyError as error:
        raise DependencyError(f"{metric}: {folder} lacks {error}; get the whole model") from error
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise DependencyError(
            f"{metric}: {folder} cannot be read as CLIP ({_line(error)}); get the whole model"
        ) from error
    if config.patch_size != PATCHES[metric]:
        raise DependencyError(
            f"{metric}: {folder} has patches of {config.patch_size} pixels, expected {PATCHES[metric]}; pass "
            "the CLIP that the metric names"
        )
    embedder = _Embedder(_placed(network, networks.device), mean, std)
    facts = {
        "network": f"CLIP ViT, patches of {config.patch_size}, width {config.hidden_size}, "
        f"{config.num_hidden_layers} layers",
        "source": source if folder == Path(source) else f"{source}, revision {folder.name}",
        "sha256": {"model.safetensors": runs.sha256(folder / "model.safetensors")},
        "pictures": f"shortest side to {config.image_size} (bicubic, antialiased), centre crop, "
        f"less {mean}, over {std}",
        "device": str(network.device),
        "versions": _versions("transformers", "torch"),
    }
    return Measure(metric, facts, 1, embedder.cosine)


class _Embedder:
    """Image embeddings of CLIP, of length 1; those of pictures seen lately are remembered."""

    def __init__(self, network: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        self.network = network
        self.mean, self.std = mean, std
        self.known: dict[Any, np.ndarray] = {}

    def cosine(self, prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """The cosine of the embeddings of each pair of views."""
        return (self.embed(prediction) * self.embed(reference)).sum(axis=-1).clip(-1, 1)

    def embed(self, views: Float[np.ndarray, "v h w 3"]) -> Float[np.ndarray, "v d"]:
        """The embedding of each view, in double precision."""
        keys = [(view.shape, view.dtype, hashlib.sha256(view.tobytes()).digest()) for view in views]
        new = {key: view for key, view in zip(keys, views, strict=True) if key not in self.known}
        waiting = list(new)
        for start in range(0, len(waiting), VIEWS_AT_ONCE):
            few = waiting[start : start + VIEWS_AT_ONCE]
            embeddings = self._embed(np.stack([new[key] for key in few]))
            self.known.update(zip(few, embeddings, strict=True))
        found = np.stack([self.known[key] for key in keys])
        for key in list(self.known)[:-VIEWS_REMEMBERED]:
            del self.known[key]
        return found

    def _embed(self, views: np.ndarray) -> np.ndarray:
        import torch

        height, width = views.shape[1:3]
        size = self.network.config.image_size
        shape = [int(size * each / min(height, width)) for each in (height, width)]
        top, left = ((each - size) // 2 for each in shape)
        with torch.inference_mode():
            pictures = torch.nn.functional.interpolate(
                _tensor(views, self.network.device), shape, mode="bicubic", antialias=True
            )
            pictures = pictures[..., top : top + size, left : left + size].clamp(0, 1)
            mean, std = (pictures.new_tensor(each)[:, None, None] for each in (self.mean, self.std))
            embeddings = self.network((pictures - mean) / std).image_embeds.double()
        return torch.nn.functional.normalize(embeddings, dim=-1).cpu().numpy()


def _imported(module: str, metric: str) -> ModuleType:
    """A package that needs torchvision, or uses one that it finds."""
    try:
        return require(module, extra="metrics", reason=metric)
    except (ImportError, OSError, RuntimeError) as error:
        raise DependencyError(
            f"{metric}: {module.split('.')[0]} is installed but does not load ({_line(error)}); install the "
            "torchvision that belongs to this torch"
        ) from error


def _tensor(views: np.ndarray, device: Any) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(views, np.float32)).movedim(-1, 1).to(device)


def _placed(network: Any, name: str) -> Any:
    """The network on a device of that name."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return network.eval().to(name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {name}: not usable here ({_line(error)}); use --device cpu") from error


def _line(error: Exception) -> str:
    """The reason of a library in one line."""
    return textwrap.shorten(str(error), 160, placeholder=" …")


def _versions(*packages: str) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in packages}
