"""What all trained networks of curation share: how they are read from a folder, and where they compute."""

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from svd3d.errors import ConfigError, DependencyError, require


def transformers(what: str) -> ModuleType:
    """The package transformers with torch. Raises `DependencyError` where one is missing or does not load."""
    require("torch", extra="curation", reason=what)
    return require("transformers", extra="curation", reason=what)


@contextlib.contextmanager
def reading(what: str, source: str) -> Iterator[None]:
    """Turn what libraries raise about a network's folder into a `DependencyError`."""
    import safetensors  # transformers brings it

    wrong = (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError)
    try:
        yield
    except (*wrong, safetensors.SafetensorError) as error:
        raise DependencyError(
            f"{what}: {source} cannot be read ({line(error)}); get the whole model, with safetensors"
        ) from error


def read(kind: Any, folder: Path, **settings: Any) -> Any:
    """A network of transformers, from safetensors only. Raises `ValueError` where weights are missing.

    The random state stays as it is.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        network, story = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **settings,
        )
    if missing := sorted(story["missing_keys"]):
        raise ValueError(f"{len(missing)} weights are missing, such as {missing[0]}")
    return network


def placed(network: Any, device: str) -> Any:
    """The network, ready to infer, on cpu, cuda, cuda:N, or auto: a GPU if there is one.

    Raises `ConfigError` for a device that is not there.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return network.eval().to(device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device}: not usable here ({line(error)}); use --device cpu") from error


def line(error: Exception) -> str:
    """The reason of a library in one line."""
    return textwrap.shorten(str(error), 160, placeholder=" …")
