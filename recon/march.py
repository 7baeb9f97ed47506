"""Sample points along rays, only where a grid stores something."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from recon.grid import Grid


@dataclass(frozen=True, eq=False)
class Samples:
    """Points along rays, ray by ray from front to back; rays that meet nothing have none."""

    ray: Int[Tensor, "n"]
    distance: Float[Tensor, "n"]
    """From the origin of the ray, in lengths of its direction."""
    points: Float[Tensor, "n 3"]


def box_span(
    grid: Grid, origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"]
) -> tuple[Float[Tensor, "r"], Float[Tensor, "r"]]:
    """Where rays enter and leave the box of a grid; those that miss it leave before they enter."""
    low, high = _box(grid, origins)
    crossing = torch.stack([(low - origins) / directions, (high - origins) / directions])
    near = crossing.amin(dim=0).nan_to_num(-torch.inf).amax(dim=-1).clamp_min(0)
    far = crossing.amax(dim=0).nan_to_num(torch.inf).amin(dim=-1)
    return near, far


def march(
    grid: Grid,
    origins: Float[Tensor, "r 3"],
    directions: Float[Tensor, "r 3"],
    near: Float[Tensor, "r"],
    far: Float[Tensor, "r"],
    *,
    step: float,
    offset: float | Float[Tensor, "r"] = 0.5,
) -> Samples:
    """The points from `near` to `far`, both within the box, whose nearest sample has a row.

    They lie at steps of a fraction of a voxel along directions of length 1, `offset` steps (0 to 1) behind
    the start of each step.
    """
    length = step * grid.voxel_size
    count = ((far - near) / length).clamp_min(0).ceil().long()
    ray = torch.repeat_interleave(count)
    first = count.cumsum(0) - count
    number = torch.arange(len(ray), device=ray.device) - first.index_select(0, ray)
    distance = (near + offset * length).index_select(0, ray) + number * length
    # the nearest sample, from places in voxels: cheaper than the points of all the empty steps
    place = ((origins - _box(grid, origins)[0]) / grid.voxel_size + 1.5).index_select(0, ray)
    ahead = directions.index_select(0, ray)
    x, y, z = place.addcmul(ahead, distance[:, None], value=1 / grid.voxel_size).unbind(1)
    _, y2, z2 = grid.rows.shape
    index = (x.int() * y2 + y.int()) * z2 + z.int()
    stored = (grid.rows.view(-1).index_select(0, index) > 0).nonzero()[:, 0]
    ray, distance = ray.index_select(0, stored), distance.index_select(0, stored)
    points = origins.index_select(0, ray).addcmul(directions.index_select(0, ray), distance[:, None])
    return Samples(ray, distance, points)


def _box(grid: Grid, like: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.from_numpy(grid.low).to(like)
    return low, low + grid.voxel_size * (torch.tensor(grid.shape).to(like) - 1)
