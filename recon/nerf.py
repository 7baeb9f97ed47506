"""Fitting a field to views that may disagree.

From coarse to fine grids. On the coarsest one a shift, a gain and an offset of each view are found as well;
the finer ones fit the views corrected by these. The targets are shifted, not the rays, so that no gradient
in space is needed. Errors count by Huber: views that disagree do not pull harder the more they disagree.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from scipy import ndimage
from torch import Tensor

from recon.alignment import Alignment, premultiplied
from recon.field import BIAS, CHUNK, Field, Traced
from recon.grid import Grid, rays
from recon.march import box_span, march
from recon.threads import fastest_threads
from recon.unfinished import Unfinished
from recon.volume import Volume
from svd3d.cameras import Cameras
from svd3d.errors import MeshError
from svd3d.sample import Sample

log = logging.getLogger(__name__)

COARSEST = 64
"""A grid of more samples than this along a side is fitted after one of half as many."""
ITERATIONS = 200
"""Of each level."""
REPORTS = 4
"""How often a level says where it is, keeps its best state and can be resumed from."""
RAYS = 2816
"""Of one iteration."""
STEP = 1.0
"""Along a ray, in voxels."""
RATE_DENSITY, RATE_COLOUR, RATE_SHIFT, RATE_GAIN = 0.3, 0.3, 0.4, 0.005
"""First learning rates: of the tables, of shifts in pixels, of gains and offsets."""
LAST_RATE = 0.1
"""Part of the learning rate that is left at the end of a level."""
BETAS = (0.9, 0.99)
"""Of Adam."""
EPS = 1e-3
"""Gradients well below this, as of samples that hardly any ray tells about, move nothing (Adam's epsilon)."""
DELTA = 0.1
"""Errors above this count linearly."""
PRIOR = 0.2
"""Weight of squared gains and offsets: what colours that change around the object explain as well."""
COMPACT = 1e-3
"""Weight of the distances between the places where a ray's light is stopped, in voxels: against haze."""
START = 0.2
"""Optical depth of a voxel within the bound before anything is known."""
EMPTY = 0.1
"""Less than this in the bound or in a coarser volume is empty."""
DARK = 0.01
"""A finer level looks no further than where less than this part of the light is left."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A field, and what had to be assumed about the views to fit it."""

    field: Field
    images: UInt8[np.ndarray, "v h w 4"]
    """The views without their shifts, gains and offsets; as they came if these are small."""
    shifts_px: Float[np.ndarray, "v 2"]
    """How far right and down each view shows the object from where its camera says."""
    gains: Float[np.ndarray, "v"]
    offsets: Float[np.ndarray, "v"]
    """A view's colour is gain * colour + offset."""
    residuals: Float[np.ndarray, "v"]
    """Root mean square error of each view, premultiplied RGBA in [0, 1]: which views to distrust."""
    psnr_db: float
    """The field against `images`: premultiplied RGBA of all pixels that the object may touch."""


def fit(
    views: Sample,
    *,
    bound: Volume,
    resolution: int,
    seed: int = 0,
    device: str = "cpu",
    tell: Callable[[str], object] = log.info,
    state: Path | None = None,
) -> Fitted:
    """Fit a field of `resolution` samples along the longest side of what `bound` (above 0) leaves.

    `state`: a file from which a killed fit of the same views goes on, to the same result on the same number
    of threads, and at once when it had ended. Raises `MeshError` when the bound is empty.
    """
    scene = _Scene.of(views.cameras, device=device)
    sides = _sides(resolution)
    unfinished = Unfinished.of(
        state,
        [resolution, seed, ITERATIONS, REPORTS, RAYS, STEP, RATE_DENSITY, RATE_COLOUR, LAST_RATE],
        views.images,
        views.cameras.camera_to_world,
        views.cameras.intrinsics,
        bound.values,
    )
    level = _Level.restored(unfinished, scene) or _Level.first(scene, views, bound, side=sides[0])
    on_cpu = torch.device(device).type == "cpu"
    with fastest_threads(lambda: level.loss(seed).backward()) if on_cpu else contextlib.nullcontext():
        level.optimise(seed, tell=tell, unfinished=unfinished)
        for side in sides[level.number + 1 :]:
            level = level.finer(side)
            level.optimise(seed, tell=tell, unfinished=unfinished)
        residuals, psnr_db = level.survey()
    shifts_px, log_gains, offsets = (
        each.detach().cpu().numpy() for each in level.alignment.parameters().values()
    )
    return Fitted(level.field, level.images, shifts_px, np.exp(log_gains), offsets, residuals, psnr_db)


@dataclass(frozen=True, eq=False)
class _Scene:
    """The rays of all pixels of all views."""

    cameras: Cameras
    origins: Float[Tensor, "v 3"]
    directions: Float[Tensor, "n 3"]

    @classmethod
    def of(cls, cameras: Cameras, *, device: str) -> "_Scene":
        origins, directions = (each.to(device) for each in rays(cameras))
        return cls(cameras, origins, directions.reshape(-1, 3))

    def view(self, pixel: Int[Tensor, "r"]) -> Int[Tensor, "r"]:
        return pixel // (self.cameras.height * self.cameras.width)

    def through(self, pixel: Int[Tensor, "r"]) -> tuple[Float[Tensor, "r 3"], Float[Tensor, "r 3"]]:
        return self.origins.index_select(0, self.view(pixel)), self.directions.index_select(0, pixel)


@dataclass(frozen=True, eq=False)
class _Spans:
    """The pixels whose rays meet rows of a grid, and between which distances."""

    pixel: Int[Tensor, "n"]
    """Index among all pixels of all views."""
    near: Float[Tensor, "n"]
    far: Float[Tensor, "n"]

    @classmethod
    def of(cls, scene: _Scene, grid: Grid) -> "_Spans":
        """Of all pixels."""
        pixel = torch.arange(len(scene.directions), device=scene.directions.device)
        near = torch.zeros_like(pixel, dtype=torch.float32)
        return cls(pixel, near, torch.full_like(near, torch.inf)).tightened(scene, grid)

    def tightened(self, scene: _Scene, grid: Grid, *, coarse: Field | None = None) -> "_Spans":
        """Within these, where rays meet rows of a grid; as far as light gets through a coarser field."""
        found = []
        chunks = (each.split(CHUNK) for each in (self.pixel, self.near, self.far))
        for pixel, near, far in zip(*chunks, strict=True):
            ray = scene.through(pixel)
            end = far if coarse is None else far.minimum(_darkness(coarse, *ray, near, far))
            enter, leave = box_span(grid, *ray)
            samples = march(grid, *ray, enter.maximum(near), leave.minimum(end), step=1.0)
            first = torch.full_like(near, torch.inf).scatter_reduce(0, samples.ray, samples.distance, "amin")
            last = torch.zeros_like(far).scatter_reduce(0, samples.ray, samples.distance, "amax")
            met = (last > 0).nonzero()[:, 0]
            found.append((pixel[met], first[met] - 0.5 * grid.voxel_size, last[met]))
        return _Spans(*(torch.cat(each) for each in zip(*found, strict=True)))


@torch.no_grad()
def _darkness(
    field: Field, origins: Tensor, directions: Tensor, near: Float[Tensor, "r"], far: Float[Tensor, "r"]
) -> Float[Tensor, "r"]:
    """Up to where light gets through a field, and a little further."""
    traced = field.trace(origins, directions, step=1.0, span=(near, far))
    lit = (traced.left > DARK).nonzero()[:, 0]
    ray, distance = traced.samples.ray[lit], traced.samples.distance[lit]
    return torch.zeros_like(far).scatter_reduce(0, ray, distance, "amax") + 1.5 * field.grid.voxel_size


@dataclass(eq=False)
class _Level:
    """The fit on one grid, between iterations."""

    number: int
    scene: _Scene
    images: UInt8[np.ndarray, "v h w 4"]
    field: Field
    alignment: Alignment
    spans: _Spans
    iteration: int = 0
    best_db: float = -np.inf

    def __post_init__(self) -> None:
        self.pictures = torch.from_numpy(premultiplied(self.images)).to(self.scene.origins)
        groups = {"density": RATE_DENSITY, "colour": RATE_COLOUR}
        if self.number == 0:
            groups |= {"shifts_px": RATE_SHIFT, "log_gains": RATE_GAIN, "offsets": RATE_GAIN}
        learned = self.tables() | self.alignment.parameters()
        self.learned = {name: learned[name].requires_grad_() for name in groups}
        self.best = {name: tensor.detach().clone() for name, tensor in self.learned.items()}
        self.optimiser = torch.optim.Adam(
            [{"params": [self.learned[name]], "lr": rate, "first_lr": rate} for name, rate in groups.items()],
            betas=BETAS,
            eps=EPS,
            fused=True,
        )

    def tables(self) -> dict[str, Tensor]:
        return {"density": self.field.density, "colour": self.field.colour}

    @classmethod
    def first(cls, scene: _Scene, views: Sample, bound: Volume, *, side: int) -> "_Level":
        """The coarsest level: the same density wherever the bound allows any, and grey."""
        grid = _grid(bound, side=side, margin=2).to(scene.origins.device)
        depth = torch.full((grid.num_rows,), START, device=scene.origins.device)
        field = Field(grid, _stored(depth), depth.new_zeros(len(depth), 3), torch.zeros_like(depth))
        low, high = grid.low, grid.low + grid.voxel_size * (np.array(grid.shape) - 1)
        alignment = Alignment.none(scene.cameras, (low + high) / 2, device=str(depth.device))
        return cls(0, scene, views.images, field, alignment, _Spans.of(scene, grid))

    def finer(self, side: int) -> "_Level":
        """The next level, on the views corrected by what this one found."""
        self.survey()
        coarse = self.field
        grid = _grid(coarse.volume(), side=side, margin=1).to(coarse.density.device)
        corners = coarse.grid.corners(grid.points())
        shrink = grid.voxel_size / coarse.grid.voxel_size
        depth = shrink * F.softplus(corners.look_up(coarse.density)[:, 0] + BIAS)
        depth = torch.cat([depth.new_zeros(1), depth])
        colour = torch.cat([depth.new_zeros(1, 3), corners.look_up(coarse.colour)])
        field = Field(grid, _stored(depth), colour, torch.zeros_like(depth))
        images = self.alignment.corrected(self.images) if self.number == 0 else self.images
        spans = self.spans.tightened(self.scene, grid, coarse=coarse)
        return _Level(self.number + 1, self.scene, images, field, self.alignment, spans)

    def optimise(self, seed: int, *, tell: Callable[[str], object], unfinished: Unfinished) -> None:
        """Iterate to the end of the level, and go back to the best state met."""
        errors: list[Tensor] = []
        while self.iteration < ITERATIONS:
            for group in self.optimiser.param_groups:
                group["lr"] = group["first_lr"] * LAST_RATE ** (self.iteration / ITERATIONS)
            self.optimiser.zero_grad()
            loss = self.loss(seed, errors)
            loss.backward()
            self.optimiser.step()
            if self.number == 0:
                self.alignment.project_()
            self.iteration += 1
            if self.iteration * REPORTS % ITERATIONS < REPORTS:
                psnr_db = float(-10 * torch.stack(errors).mean().log10())
                errors.clear()
                if psnr_db > self.best_db:
                    self.best_db = psnr_db
                    self.best = {name: tensor.detach().clone() for name, tensor in self.learned.items()}
                side = max(self.field.grid.shape)
                tell(f"field of {side}: iteration {self.iteration} of {ITERATIONS}, {psnr_db:.1f} dB")
                self.save(unfinished)
        for name, tensor in self.learned.items():
            tensor.requires_grad_(False).copy_(self.best[name])

    def loss(self, seed: int, errors: list[Tensor] | None = None) -> Tensor:
        """Of the rays drawn by the number of the iteration; appends their mean square error to `errors`."""
        generator = torch.Generator().manual_seed((seed << 32) + (self.number << 24) + self.iteration)
        device = self.spans.pixel.device
        chosen = torch.randint(len(self.spans.pixel), (RAYS,), generator=generator).to(device)
        offset = torch.rand(RAYS, generator=generator).to(device)
        rgba, target, traced = self.compare(chosen, offset=offset)
        if errors is not None:
            errors.append(F.mse_loss(rgba.detach(), target.detach()))
        loss = F.huber_loss(rgba, target, delta=DELTA, reduction="sum") / DELTA
        # Barron et al. 2022 (mip-NeRF 360), equation 15
        loss = loss + COMPACT * traced.spread(RAYS).sum() / self.field.grid.voxel_size
        if self.number == 0:
            loss = loss + RAYS * PRIOR * (self.alignment.log_gains**2 + self.alignment.offsets**2).mean()
        return loss

    def compare(
        self, chosen: Int[Tensor, "r"], *, offset: float | Float[Tensor, "r"] = 0.5, whole: bool = False
    ) -> tuple[Float[Tensor, "r 4"], Float[Tensor, "r 4"], Traced]:
        """What rays meet in the field, within their spans or on the whole grid, and what the views show."""
        pixel = self.spans.pixel[chosen]
        view, width, height = self.scene.view(pixel), self.scene.cameras.width, self.scene.cameras.height
        if self.number == 0:
            target = self.alignment.targets(self.pictures, view, pixel % width, pixel // width % height)
        else:
            target = self.pictures.view(-1, 4).index_select(0, pixel)
        span = None if whole else (self.spans.near[chosen], self.spans.far[chosen])
        traced = self.field.trace(*self.scene.through(pixel), step=STEP, offset=offset, span=span)
        return traced.rgba, target, traced

    @torch.no_grad()
    def survey(self) -> tuple[Float[np.ndarray, "v"], float]:
        """Error of each view over all rays, and the PSNR; notes in the field what light reached its rows."""
        views = len(self.scene.origins)
        total, count = torch.zeros(views, dtype=torch.float64), torch.zeros(views)
        light = torch.full_like(self.field.light, -1)
        for chosen in torch.arange(len(self.spans.pixel), device=light.device).split(CHUNK):
            rgba, target, traced = self.compare(chosen, whole=True)
            view = self.scene.view(self.spans.pixel[chosen]).cpu()
            total.index_add_(0, view, ((rgba - target) ** 2).mean(dim=1).double().cpu())
            count += torch.bincount(view, minlength=views)
            rows = self.field.grid.corners(traced.samples.points).rows
            light.scatter_reduce_(0, rows.view(-1), traced.left.repeat_interleave(8), "amax")
        light = torch.where(light < 0, 1, light)  # no ray comes near: at the border, not inside
        self.field = dataclasses.replace(self.field, light=light)
        residuals = (total / count.clamp_min(1)).sqrt().numpy()
        return residuals, float(-10 * (total.sum() / count.sum()).log10())

    def save(self, unfinished: Unfinished) -> None:
        """Keep all that `restored` needs."""
        grid = self.field.grid
        tensors = {
            "images": torch.from_numpy(self.images),
            "rows": grid.rows,
            "moves": self.alignment.moves,
            **{f"span.{name}": getattr(self.spans, name) for name in ("pixel", "near", "far")},
            **{
                f"learned.{name}": tensor
                for name, tensor in (self.tables() | self.alignment.parameters()).items()
            },
            **{f"best.{name}": tensor for name, tensor in self.best.items()},
        }
        for name, tensor in self.learned.items():
            tensors |= {f"adam.{part}.{name}": value for part, value in self.optimiser.state[tensor].items()}
        unfinished.save(
            tensors,
            number=self.number,
            iteration=self.iteration,
            best_db=self.best_db,
            low=grid.low.tolist(),
            voxel_size=grid.voxel_size,
        )

    @classmethod
    def restored(cls, unfinished: Unfinished, scene: _Scene) -> "_Level | None":
        """The level as it was saved, if it was."""
        found = unfinished.restored()
        if found is None:
            return None
        about, saved = found
        device = scene.origins.device
        saved = {name: tensor.to(device) for name, tensor in saved.items()}
        grid = Grid(np.array(about["low"]), about["voxel_size"], saved["rows"])
        density = saved["learned.density"]
        field = Field(grid, density, saved["learned.colour"], torch.zeros_like(density[:, 0]))
        shifts_px, log_gains, offsets = (
            saved[f"learned.{name}"] for name in ("shifts_px", "log_gains", "offsets")
        )
        alignment = Alignment(shifts_px, log_gains, offsets, saved["moves"])
        spans = _Spans(*(saved[f"span.{name}"] for name in ("pixel", "near", "far")))
        level = cls(
            about["number"],
            scene,
            saved["images"].cpu().numpy(),
            field,
            alignment,
            spans,
            about["iteration"],
            about["best_db"],
        )
        for name, tensor in level.learned.items():
            level.best[name] = saved[f"best.{name}"]
            parts = ("step", "exp_avg", "exp_avg_sq")
            level.optimiser.state[tensor] = {part: saved[f"adam.{part}.{name}"] for part in parts}
        return level


def _sides(resolution: int) -> list[int]:
    """Samples along the longest side of each level's grid, the coarsest first; at least two levels."""
    sides = [-(-resolution // 2), resolution]
    while sides[0] > COARSEST:
        sides.insert(0, -(-sides[0] // 2))
    return sides


def _grid(volume: Volume, *, side: int, margin: int) -> Grid:
    """A grid with rows wherever a volume is not empty, and `margin` samples of the volume around it."""
    padded = volume.padded(margin)
    near = ndimage.binary_dilation(padded.values > EMPTY, iterations=margin)
    wide = dataclasses.replace(padded, values=near.astype(np.float32))
    box = wide.occupied_box(0.5)
    if box is None:
        raise MeshError("nothing is left to fit a field in; look at the silhouettes of the views")
    fine = Volume.covering(*box, resolution=side)
    index = np.stack(np.meshgrid(*map(np.arange, fine.values.shape), indexing="ij"), axis=-1)
    nearest = np.round((fine.points(index) - wide.origin) / wide.voxel_size).astype(np.int64)
    nearest = nearest.clip(0, np.array(near.shape) - 1)
    return Grid.of(fine, near[tuple(np.moveaxis(nearest, -1, 0))])


def _stored(depth: Float[Tensor, "r"]) -> Float[Tensor, "r 1"]:
    """Optical depths of a voxel as a field stores them; the empty row 0 stays 0."""
    column = torch.log(torch.expm1(depth.clamp_min(1e-5))) - BIAS
    column[0] = 0
    return column[:, None]
