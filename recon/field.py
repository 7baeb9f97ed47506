"""The NeRF: density and colour on a grid, seen by volume rendering.

Light along a ray is summed front to back (Max 1995; Mildenhall et al. 2020, equation 3):
C = sum_i T_i (1 - exp(-s_i)) c_i with T_i = exp(-sum_{j<i} s_j), where s_i is density times step length.
Both tables hold values before their activation and are interpolated before it (Sun et al. 2022, DVGO,
section 4.1), which lets a surface lie between samples.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from recon.grid import Grid, rays
from recon.march import Samples, box_span, march
from recon.volume import Volume
from svd3d.cameras import Cameras
from svd3d.errors import CameraError, InputError
from svd3d.images import to_uint8
from svd3d.runs import input_path, write_file

FORMAT = 1
"""Version of the file."""
BIAS = -8.0
"""Added to stored density: a row of 0 is all but empty."""
STEP = 0.5
"""Length of a step through the field, in voxels."""
OPAQUE = 1e-3
"""Colour is not looked up where less than this part of the light is left."""
CHUNK = 1 << 14
"""Rays that are rendered at once; bounds the memory."""


@dataclass(frozen=True, eq=False)
class Traced:
    """What rays met: differentiable sums, and the samples that they are made of."""

    rgba: Float[Tensor, "r 4"]
    """Premultiplied colour and alpha, in [0, 1]."""
    samples: Samples
    left: Float[Tensor, "n"]
    """Part of the light that reaches each sample: T_i."""
    depth: Float[Tensor, "n"]
    """Optical depth of the step around each sample: s_i."""
    weight: Float[Tensor, "n"]
    """Part of the light that each sample stops: T_i (1 - exp(-s_i))."""

    @torch.no_grad()
    def halfway(self, *, step_length: float) -> Float[Tensor, "r"]:
        """Distance at which half of the light is gone; 0 for rays on which more comes through."""
        rest = np.log(2) + self.left.log()
        crossing = ((rest >= 0) & (rest < self.depth)).nonzero()[:, 0]
        within = rest[crossing] / self.depth[crossing] - 0.5
        along = self.samples.distance[crossing] + within * step_length
        return torch.zeros_like(self.rgba[:, 0]).index_add(0, self.samples.ray[crossing], along)

    def spread(self, num_rays: int) -> Float[Tensor, "n"]:
        """Terms of sum_ij w_i w_j |t_i - t_j|: how far apart the light of a ray is stopped."""
        distance, ray = self.samples.distance, self.samples.ray
        before = sum_before(self.weight, ray, num_rays)
        moment = sum_before(self.weight * distance, ray, num_rays)
        return 2 * self.weight * (distance * before - moment)


@dataclass(frozen=True, eq=False)
class Field:
    """Density and colour, the same from all sides, of an object in the world frame."""

    grid: Grid
    density: Float[Tensor, "r 1"]
    """softplus(value + BIAS) is the optical depth of one voxel."""
    colour: Float[Tensor, "r 3"]
    """sigmoid(value) is sRGB."""
    light: Float[Tensor, "r"]
    """Largest part of the light, over the rays of the fit, that reached the sample; near 0 inside."""

    def to(self, device: str | torch.device) -> "Field":
        """The same field on a device."""
        tables = (each.to(device) for each in (self.density, self.colour, self.light))
        return Field(self.grid.to(device), *tables)

    def trace(
        self,
        origins: Float[Tensor, "r 3"],
        directions: Float[Tensor, "r 3"],
        *,
        step: float = STEP,
        offset: float | Float[Tensor, "r"] = 0.5,
        span: tuple[Float[Tensor, "r"], Float[Tensor, "r"]] | None = None,
    ) -> Traced:
        """Volume rendering along rays of unit direction, differentiable in both tables.

        `step` in voxels, `offset` in steps: where in its step a sample lies. `span`: first and last distance
        that is looked at; the whole grid by default.
        """
        near, far = box_span(self.grid, origins, directions) if span is None else span
        samples = march(self.grid, origins, directions, near, far, step=step, offset=offset)
        corners = self.grid.corners(samples.points)
        depth = step * F.softplus(corners.look_up(self.density)[:, 0] + BIAS)
        before = sum_before(depth, samples.ray, len(origins))
        left = torch.exp(-before)
        weight = left * -torch.expm1(-depth)
        bright = (left.detach() > OPAQUE).nonzero()[:, 0]
        colour = torch.sigmoid(corners.select(bright).look_up(self.colour))
        lit = (
            torch.cat([colour, colour.new_ones(len(bright), 1)], dim=1)
            * weight.index_select(0, bright)[:, None]
        )
        rgba = origins.new_zeros(len(origins), 4).index_add(0, samples.ray.index_select(0, bright), lit)
        return Traced(rgba, samples, left, depth, weight)

    @torch.no_grad()
    def render(self, cameras: Cameras) -> tuple[UInt8[np.ndarray, "v h w 4"], Float[np.ndarray, "v h w"]]:
        """Pictures with straight alpha; depth along the optical axis in world units, 0 where nothing is."""
        images, depths = [], []
        for view in range(len(cameras)):
            camera = cameras.view(view)
            origins, directions = (each.to(self.density.device) for each in rays(camera))
            flat = directions.reshape(-1, 3)
            traced = [self.trace(origins.expand(len(part), 3), part) for part in flat.split(CHUNK)]
            rgba = torch.cat([each.rgba for each in traced]).cpu().numpy()
            straight = np.concatenate([rgba[:, :3] / np.maximum(rgba[:, 3:], 1e-6), rgba[:, 3:]], axis=1)
            images.append(to_uint8(straight).reshape(camera.height, camera.width, 4))
            forward = torch.from_numpy(-camera.camera_to_world[0, :3, 2]).to(flat)
            distance = [each.halfway(step_length=STEP * self.grid.voxel_size) for each in traced]
            depth = torch.cat(distance) * (flat @ forward)
            depths.append(depth.cpu().numpy().reshape(camera.height, camera.width))
        return np.stack(images), np.stack(depths)

    def volume(self) -> Volume:
        """The part of the light that does not get through each sample, in the view that sees it best.

        On the outside that is the alpha of one voxel, 1 - exp(-density * voxel_size). The inside, which no
        ray reaches and whose density is therefore not known, is 1.
        """
        stopped = 1 - self.light * torch.exp(-F.softplus(self.density[:, 0] + BIAS))
        stopped[0] = 0
        return self.grid.scatter(stopped)

    def save(self, path: Path, cameras: Cameras) -> None:
        """Write the field and the cameras of its views into one safetensors file, atomically."""
        tensors = {
            "rows": self.grid.rows,
            "density": self.density,
            "colour": self.colour,
            "light": self.light,
            "camera_to_world": torch.from_numpy(cameras.camera_to_world),
            "intrinsics": torch.from_numpy(cameras.intrinsics),
        }
        about = {
            "format": FORMAT,
            "low": self.grid.low.tolist(),
            "voxel_size": self.grid.voxel_size,
            "height": cameras.height,
            "width": cameras.width,
        }
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_file(path, to_bytes(content, metadata={"svd3d.field": json.dumps(about)}))

    @classmethod
    def load(cls, path: Path) -> tuple["Field", Cameras]:
        """Read a field and the cameras of its views.

        Raises `InputError` for a missing or damaged file, one of another kind or of another version.
        """
        advice = "pass the field.safetensors of svd3d reconstruct --method nerf"
        try:
            with safe_open(input_path(path, what="field"), framework="pt") as file:
                about = json.loads((file.metadata() or {})["svd3d.field"])
                if about["format"] != FORMAT:
                    raise InputError(
                        f"{path}: format is {about['format']!r}, this version reads {FORMAT}; fit it again"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            grid = Grid(np.array(about["low"]), about["voxel_size"], tensors["rows"])
            camera_to_world, intrinsics = tensors["camera_to_world"].numpy(), tensors["intrinsics"].numpy()
            field = cls(grid, *(tensors[name] for name in ("density", "colour", "light")))
            field._check()
            return field, Cameras(camera_to_world, intrinsics, about["height"], about["width"])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError, CameraError) as error:
            raise InputError(f"{path}: not a field ({error}); {advice}") from error

    def _check(self) -> None:
        """Raise `ValueError` unless the tables fit the grid."""
        rows = self.grid.num_rows
        found = tuple(tuple(each.shape) for each in (self.density, self.colour, self.light))
        if found != ((rows, 1), (rows, 3), (rows,)) or int(self.grid.rows.min()) < 0:
            raise ValueError(f"tables of shapes {found} for {rows} rows")


def sum_before(depth: Float[Tensor, "n"], ray: Int[Tensor, "n"], num_rays: int) -> Float[Tensor, "n"]:
    """For each sample the sum of `depth` over the samples of its ray in front of it."""
    total = depth.double().cumsum(0)
    count = torch.bincount(ray, minlength=num_rays)
    first = count.cumsum(0) - count
    exclusive = total - depth
    return (exclusive - exclusive.index_select(0, first.index_select(0, ray))).to(depth)
