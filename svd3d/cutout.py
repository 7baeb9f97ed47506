"""What of a picture is the object: all of it, all but a plain background, or what a network (rembg) finds."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from svd3d import images
from svd3d.errors import ConfigError, ImageError, require
from svd3d.settings import Background

MIN_SIDE = 16
"""Pixels; also the fewest pixels that count as an object."""


CutOut = Callable[..., UInt8[np.ndarray, "h w 4"]]
"""`cut(rgba, where=...)` gives a picture an alpha that is the object's; `where` names it in errors."""


def choose(background: Background, *, network: str) -> CutOut:
    """The way to cut objects out of their pictures.

    `keep` changes nothing; `plain` removes a background of one colour; `rembg` asks that library's `network`,
    whose weights it looks for in the folder $U2NET_HOME, or downloads. A picture that comes with transparency
    keeps its own. All raise `ImageError` for a picture that is too small or shows no object.

    Raises `DependencyError` when rembg is asked for and absent, and later, when the first
    picture comes, `ConfigError` if its network cannot be loaded.
    """
    cut: CutOut = images.cut_out
    if background == "keep":
        cut = _keep
    elif background == "rembg":
        require("onnxruntime", extra="cutout", reason="--background rembg")  # else rembg ends the process
        cut = _by_network(require("rembg", extra="cutout", reason="--background rembg"), network)

    def checked(rgba: UInt8[np.ndarray, "h w 4"], *, where: str) -> UInt8[np.ndarray, "h w 4"]:
        height, width = rgba.shape[:2]
        if min(height, width) < MIN_SIDE:
            raise ImageError(f"{where}: {width} x {height} pixels; pass one of at least {MIN_SIDE} each way")
        return cut(rgba, where=where)

    return checked


def _keep(rgba: UInt8[np.ndarray, "h w 4"], *, where: str) -> UInt8[np.ndarray, "h w 4"]:
    if not rgba[..., 3].any():
        raise ImageError(f"{where}: no object found, it is fully transparent; pass another image")
    return rgba


def _by_network(rembg: Any, network: str) -> CutOut:
    """The network is loaded when the first opaque picture comes, and kept."""

    @functools.cache
    def session() -> Any:
        try:
            return rembg.new_session(network)
        except (OSError, ValueError, RuntimeError) as error:  # unknown, not downloadable, broken
            reason = " ".join(str(error).split())[:300]
            advice = f"choose another --cutout-network, or put {network}.onnx into the folder $U2NET_HOME"
            raise ConfigError(f"rembg {network}: cannot be loaded ({reason}); {advice}") from error

    def cut(rgba: UInt8[np.ndarray, "h w 4"], *, where: str) -> UInt8[np.ndarray, "h w 4"]:
        if images.has_transparency(rgba):
            return images.cut_out(rgba, where=where)
        mask: Any = rembg.remove(Image.fromarray(rgba[..., :3]), session=session(), only_mask=True)
        alpha = np.asarray(mask.convert("L"))
        if (alpha > 127).sum() < MIN_SIDE:
            raise ImageError(f"{where}: rembg {network} found no object; try another --cutout-network")
        return np.dstack([rgba[..., :3], alpha])

    return cut
