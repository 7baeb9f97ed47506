"""Which level of a field is the surface: the one whose silhouettes agree best with those of the views.

A constant level is no answer: where views are blurred or disagree, so does the field, and its surface at a
fixed level shrinks. The silhouette of the surface at level l, {field > l}, holds exactly the pixels whose ray
meets a value above l, so the largest value along each ray gives the silhouettes of all levels at once.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from recon.grid import Grid, look_up, rays
from recon.march import box_span, march
from recon.volume import Volume
from svd3d.cameras import Cameras

LEVELS = np.linspace(0.02, 0.98, 97)
"""Levels that are compared, of fields in [0, 1]."""
OUTLINE_PX = 4
"""Pixels on both sides of the outline of a view whose rays are marched; the others are safe."""
CHUNK = 1 << 13
"""Rays that are marched at once; bounds the memory."""


@dataclass(frozen=True)
class Level:
    """The level of a field that is its surface."""

    value: float
    iou: float
    """Mean over the views of the IoU of its silhouettes with theirs."""


def choose(
    volume: Volume, alpha: UInt8[np.ndarray, "v h w"], cameras: Cameras, *, device: str = "cpu"
) -> Level:
    """The level whose silhouettes, pixel centre by pixel centre, have the largest mean IoU with the views.

    What lies farther than OUTLINE_PX from the outline of a view is taken to be right. Among equals the middle
    one is chosen.
    """
    inside = alpha > 127
    side = 2 * OUTLINE_PX + 1
    near = ndimage.maximum_filter(inside, (1, side, side)) > ndimage.minimum_filter(inside, (1, side, side))
    highest = np.zeros(inside.shape, np.float32)
    highest[near] = _largest_along(volume, cameras, near, device=device)
    iou = np.zeros(len(LEVELS))
    for view in range(len(inside)):
        values = highest[view][near[view]]
        theirs = inside[view][near[view]]
        safe = int((inside[view] & ~near[view]).sum())
        ours = values[:, None] > LEVELS
        both, either = (ours & theirs[:, None]).sum(axis=0), (ours | theirs[:, None]).sum(axis=0)
        iou += (safe + both) / np.maximum(safe + either, 1) / len(inside)
    best = np.flatnonzero(iou >= iou.max() - 1e-9)
    middle = int(best[len(best) // 2])
    return Level(float(LEVELS[middle]), float(iou[middle]))


def _largest_along(
    volume: Volume, cameras: Cameras, chosen: Bool[np.ndarray, "v h w"], *, device: str
) -> Float[np.ndarray, "n"]:
    """The largest value of a volume along the rays of the chosen pixels, at steps of half a voxel."""
    grid = Grid.of(volume, ndimage.maximum_filter(volume.values, 3) > LEVELS[0]).to(device)
    table = grid.gather(volume.values)[:, None]
    positions, direction = (each.to(device) for each in rays(cameras))
    view = torch.from_numpy(np.nonzero(chosen)[0]).to(device)
    direction = direction[torch.from_numpy(chosen).to(device)]
    largest = torch.zeros(len(view), device=device)
    for part in torch.arange(len(view), device=device).split(CHUNK):
        origins, directions = positions[view[part]], direction[part]
        near, far = box_span(grid, origins, directions)
        samples = march(grid, origins, directions, near, far, step=0.5)
        values = look_up(table, grid, samples.points)[:, 0]
        largest[part] = largest[part].scatter_reduce(0, samples.ray, values, "amax")
    return largest.cpu().numpy()
