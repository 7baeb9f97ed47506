"""Refining a surface as a signed distance on a grid, rendered as in NeuS.

NeuS (Wang et al. 2021), equation 13: between two samples of a ray with signed distances f_i and f_{i+1} the
opacity is max((S(f_i) - S(f_{i+1})) / S(f_i), 0) with S(f) = 1 / (1 + exp(-s f)), so that the weight along a
ray peaks on the first surface. A density may be a blurred cloud where views disagree; a distance stays one
surface.

Distances are in voxels, positive outside. Between rounds they are measured anew, which keeps their slope at 1
(what an eikonal loss is for) and moves the band of voxels that hold one along with the surface.

Where an object has one colour its surface could lie anywhere behind the outlines, and sinks; a small pull
towards the cameras holds it, but swells what is textured weakly. So the last round is done both ways, and
the caller chooses by the silhouettes.
"""

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

from recon import surface
from recon.field import sum_before
from recon.grid import Corners, Grid, rays
from recon.march import Samples, box_span, march
from recon.raster import RayCaster
from recon.unfinished import Unfinished
from recon.volume import Volume
from svd3d.cameras import Cameras
from svd3d.images import to_float

log = logging.getLogger(__name__)

OUTSIDE, INSIDE = 4, 3
"""Voxels on both sides of the surface that hold a distance; in one round it can move no further."""
ROUNDS = ((0.0, 0.5, False), (0.5, 1.0, False), (0.5, 1.0, True))
"""The part of the fit at which a round begins and ends, and whether it pulls the surface nearer. Both last
rounds go on from the first."""
ITERATIONS, RAYS = 120, 2048
"""Iterations of a round, and rays of each."""
STEP = 0.5
"""Of the samples along a ray, in voxels."""
SHARPNESS = (1.5, 5.0)
"""First and last s, per voxel."""
HUBER = 0.1
"""Errors above this count linearly: views that disagree do not pull harder the more they disagree."""
RATE_DISTANCE, RATE_COLOUR = 0.05, 0.1
"""Learning rates, in voxels and in logits."""
STIFFNESS, RELAXED_EVERY = 0.012, 2
"""Part of the bending (Laplacian of the Laplacian) that is taken off the distance, and how often."""
NEARER = (3e-3, 3e-5)
"""First and last loss per voxel by which a ray ends farther back, in the round that pulls."""
DARK = 1e-4
"""Samples of less weight have no colour."""


@dataclass(frozen=True, eq=False)
class Refined:
    """A surface that a signed distance was fitted to."""

    volume: Volume
    """0.5 on the surface; 1 and 0 are OUTSIDE voxels away from it."""
    nearest: Volume
    """The same of the surface that was pulled towards the cameras."""
    psnr_db: float
    """Of the last rays of `volume`, premultiplied RGBA."""


def fit(
    images: UInt8[np.ndarray, "v h w 4"],
    cameras: Cameras,
    *,
    start: Volume,
    level: float = 0.5,
    seed: int = 0,
    device: str = "cpu",
    tell: Callable[[str], object] = log.info,
    state: Path | None = None,
) -> Refined:
    """Move the level surface of a volume until the colours on it explain the views.

    `start` needs OUTSIDE empty samples around the object. `state`: a file from which a killed fit of the same
    views goes on with the round it was in, to the same result. Raises `MeshError` when nothing is above
    `level`.
    """
    premultiplied = to_float(images)
    premultiplied[..., :3] *= premultiplied[..., 3:]
    scene = _Scene(torch.from_numpy(premultiplied).to(device), *(each.to(device) for each in rays(cameras)))
    distances, colour = _distance_field(start, level), np.zeros((*start.values.shape, 3), np.float32)
    settings = [seed, level, ROUNDS, ITERATIONS, RAYS, NEARER]
    unfinished = Unfinished.of(state, settings, images, cameras.camera_to_world, start.values)
    done = _Round.restored(unfinished)
    begun: tuple[_Round, _Band] | None = None
    for number, (begin, end, pull) in list(enumerate(ROUNDS))[len(done) :]:
        before = done[0] if done else _Round(distances.values, colour, 0.0)
        volume = dataclasses.replace(distances, values=before.distance)
        if begun is None or begun[0] is not before:
            begun = before, _Band.around(volume, before.colour, scene)
        band = begun[1].copy()
        psnr_db = band.optimise(scene, seed=seed, part=(begin, end), nearer=NEARER if pull else None)
        tell(f"signed distance: round {number + 1} of {len(ROUNDS)}, {psnr_db:.1f} dB")
        distance = _distance_field(band.occupancy(volume), 0.5).values
        done.append(_Round(distance, band.colours(), psnr_db))
        _Round.save(done, unfinished)
    plain, nearest = (_occupancy(dataclasses.replace(distances, values=each.distance)) for each in done[1:])
    return Refined(plain, nearest, done[1].psnr_db)


@dataclass(frozen=True, eq=False)
class _Round:
    """What a round of the fit ends with."""

    distance: Float[np.ndarray, "x y z"]
    colour: Float[np.ndarray, "x y z 3"]
    psnr_db: float

    @staticmethod
    def save(rounds: list["_Round"], unfinished: Unfinished) -> None:
        """Keep all that `restored` needs."""
        tensors = {
            f"{name}.{number}": torch.from_numpy(getattr(each, name))
            for number, each in enumerate(rounds)
            for name in ("distance", "colour")
        }
        unfinished.save(tensors, psnr_db=[each.psnr_db for each in rounds])

    @classmethod
    def restored(cls, unfinished: Unfinished) -> list["_Round"]:
        """The rounds that were saved."""
        about, saved = unfinished.restored() or ({"psnr_db": []}, {})
        return [
            cls(saved[f"distance.{number}"].numpy(), saved[f"colour.{number}"].numpy(), psnr_db)
            for number, psnr_db in enumerate(about["psnr_db"])
        ]


@dataclass(frozen=True, eq=False)
class _Scene:
    """The views, premultiplied, and the rays of their pixels."""

    pictures: Float[Tensor, "v h w 4"]
    origins: Float[Tensor, "v 3"]
    directions: Float[Tensor, "v h w 3"]


@dataclass(frozen=True, eq=False)
class _Band:
    """Distance and colour near a surface, and the rays that pass there."""

    grid: Grid
    distance: Float[Tensor, "r 1"]
    colour: Float[Tensor, "r 3"]
    """Before a sigmoid."""
    smooth: Corners
    """The mean of each row and its neighbours."""
    bend: Corners
    """The Laplacian at each row."""
    pixel: Int[Tensor, "p"]
    """Pixels, counted through all views, whose ray comes near the surface."""
    near: Float[Tensor, "p"]
    far: Float[Tensor, "p"]

    @classmethod
    def around(cls, volume: Volume, colour: Float[np.ndarray, "x y z 3"], scene: _Scene) -> "_Band":
        """The band around the surface of a signed distance."""
        device = scene.origins.device
        grid = Grid.of(volume, (volume.values > -INSIDE - 1) & (volume.values < OUTSIDE)).to(device)
        distance = grid.gather(volume.values)
        distance[0] = OUTSIDE
        colours = torch.stack([grid.gather(np.ascontiguousarray(colour[..., c])) for c in range(3)], dim=1)
        smooth, bend = _neighbours(grid)
        return cls(grid, distance[:, None], colours, smooth, bend, *_spans(volume, grid, scene))

    def copy(self) -> "_Band":
        """The same band with distance and colour of its own."""
        return dataclasses.replace(self, distance=self.distance.clone(), colour=self.colour.clone())

    def optimise(
        self, scene: _Scene, *, seed: int, part: tuple[float, float], nearer: tuple[float, float] | None
    ) -> float:
        """Fit distance and colour in place, which is `part` of the whole fit; returns the PSNR at the end.

        `nearer`: first and last loss per voxel by which a ray ends farther back.
        """
        targets = scene.pictures.view(-1, 4)
        directions = scene.directions.view(-1, 3)
        per_view = len(targets) // len(scene.origins)
        tables = [self.distance.requires_grad_(), self.colour.requires_grad_()]
        rates = [RATE_DISTANCE, RATE_COLOUR]
        optimiser = torch.optim.Adam(
            [{"params": [table], "lr": rate} for table, rate in zip(tables, rates, strict=True)],
            fused=True,
        )
        errors = []
        for iteration, progress in enumerate(np.linspace(*part, ITERATIONS)):
            sharpness = SHARPNESS[0] * (SHARPNESS[1] / SHARPNESS[0]) ** progress
            generator = torch.Generator().manual_seed(hash((seed, part[0], iteration)))
            chosen = torch.randint(len(self.pixel), (RAYS,), generator=generator).to(self.pixel.device)
            pixel = self.pixel[chosen]
            samples = march(
                self.grid,
                scene.origins[pixel // per_view],
                directions[pixel],
                self.near[chosen],
                self.far[chosen],
                step=STEP,
            )
            corners = self.grid.corners(samples.points)
            weight = weights(corners.look_up(self.distance)[:, 0], samples, RAYS, sharpness=sharpness)
            lit = (weight.detach() > DARK).nonzero()[:, 0]
            colour = torch.sigmoid(corners.select(lit).look_up(self.colour))
            rgba = torch.cat([colour, torch.ones_like(colour[:, :1])], dim=1) * weight[lit, None]
            ours = torch.zeros_like(targets[pixel]).index_add(0, samples.ray[lit], rgba)
            optimiser.zero_grad()
            loss = F.huber_loss(ours, targets[pixel], delta=HUBER, reduction="sum")
            if nearer is not None:
                pull = nearer[0] * (nearer[1] / nearer[0]) ** (iteration / ITERATIONS)
                loss = loss + pull * depths(weight, samples, RAYS).sum() / self.grid.voxel_size
            loss.backward()
            with torch.no_grad():
                assert self.distance.grad is not None
                self.distance.grad = self.smooth.look_up(self.distance.grad)  # a Sobolev gradient
                optimiser.step()
                if iteration % RELAXED_EVERY == 0:
                    self.distance[1:] -= STIFFNESS * self.bend.look_up(self.bend.look_up(self.distance))[1:]
                self.distance[0] = OUTSIDE
                errors.append(float(F.mse_loss(ours, targets[pixel])))
        return float(-10 * np.log10(max(np.mean(errors[-ITERATIONS // 4 :]), 1e-10)))

    def occupancy(self, before: Volume) -> Volume:
        """The fitted surface as a field with level 0.5; deep inside it is as before."""
        values = self.grid.scatter(self.distance[:, 0]).values
        values[before.values <= -INSIDE - 1] = -OUTSIDE
        return _occupancy(Volume(values, before.origin, before.voxel_size))

    def colours(self) -> Float[np.ndarray, "x y z 3"]:
        """The fitted colour before its sigmoid, 0 away from the band."""
        return np.stack([self.grid.scatter(self.colour[:, c]).values for c in range(3)], axis=-1)


def weights(
    distance: Float[Tensor, "n"], samples: Samples, num_rays: int, *, sharpness: float
) -> Float[Tensor, "n"]:
    """Part of the light of its ray from each sample (NeuS, equations 11 and 13); distances in voxels."""
    passed = torch.exp(F.logsigmoid(sharpness * distance[1:]) - F.logsigmoid(sharpness * distance[:-1]))
    depth = -torch.log(passed.clamp(1e-6, 1)) * (samples.ray[1:] == samples.ray[:-1])
    depth = torch.cat([depth, torch.zeros_like(distance[:1])])
    return torch.exp(-sum_before(depth, samples.ray, num_rays)) * -torch.expm1(-depth)


def depths(weight: Float[Tensor, "n"], samples: Samples, num_rays: int) -> Float[Tensor, "n"]:
    """Terms of the mean distance at which the light of each ray ends, less what it is now.

    They sum to 0 on every ray. Their gradient is that of the mean alone: it says nothing about how much light
    ends on a ray, or outlines would grow.
    """
    with torch.no_grad():
        total, moment = (
            torch.zeros(num_rays, device=weight.device).index_add(0, samples.ray, each)
            for each in (weight, weight * samples.distance)
        )
        mean = (moment / total.clamp_min(1e-6)).index_select(0, samples.ray)
    return weight * (samples.distance - mean)


def _distance_field(volume: Volume, level: float) -> Volume:
    """Signed distance to the level surface in voxels, to a fraction of a voxel where the field is steep."""
    inside = volume.values > level
    away, deep = (np.empty(inside.shape), np.empty(inside.shape))
    ndimage.distance_transform_edt(~inside, distances=away)
    ndimage.distance_transform_edt(inside, distances=deep)
    away += np.where(inside, 0.5 - deep, -0.5)
    slope = np.linalg.norm(np.stack(np.gradient(volume.values)), axis=0)
    exact = (level - volume.values) / np.maximum(slope, 1e-6)
    near = (np.abs(away) < 1.2) & (np.abs(exact) < 1.5)
    values = ndimage.gaussian_filter(np.where(near, exact, away), 0.5).astype(np.float32)
    return Volume(values, volume.origin, volume.voxel_size)


def _occupancy(distance: Volume) -> Volume:
    """A signed distance as a field in [0, 1] with level 0.5."""
    values = (0.5 - distance.values / (2 * OUTSIDE)).clip(0, 1)
    return Volume(values, distance.origin, distance.voxel_size)


def _spans(
    distance: Volume, grid: Grid, scene: _Scene
) -> tuple[Int[Tensor, "p"], Float[Tensor, "p"], Float[Tensor, "p"]]:
    """The pixels whose ray comes near the surface, where it does, and where it is deep inside or leaves."""
    field = _occupancy(distance)
    outer = surface.extract(field, level=0.5 - (OUTSIDE - 1) / (2 * OUTSIDE))
    directions = scene.directions.reshape(-1, 3)
    origins = scene.origins.repeat_interleave(len(directions) // len(scene.origins), dim=0)
    lines = origins.cpu().numpy(), directions.cpu().numpy()
    first = RayCaster(outer.vertices, outer.faces).first_hits(*lines)
    last = np.full(len(directions), np.inf, np.float32)
    deep = 0.5 + INSIDE / (2 * OUTSIDE)
    if field.values.max() > deep:
        inner = surface.extract(field, level=deep)
        hits = RayCaster(inner.vertices, inner.faces).first_hits(*lines)
        last[hits.face >= 0] = hits.distance[hits.face >= 0]
    pixel = torch.from_numpy(np.flatnonzero(first.face >= 0)).to(origins.device)
    near, far = (torch.from_numpy(each).to(origins.device)[pixel] for each in (first.distance, last))
    _, end = box_span(grid, origins[pixel], directions[pixel])
    return pixel, near, torch.minimum(far, end)


def _neighbours(grid: Grid) -> tuple[Corners, Corners]:
    """Look-ups that give every row the mean of itself and its six neighbours, and its Laplacian.

    A neighbour without a row is replaced by the row itself.
    """
    rows = grid.rows
    index = (rows > 0).nonzero()
    own = rows[tuple(index.T)]
    found = [own, own]
    for axis in range(3):
        for step in (-1, 1):
            place = index.clone()
            place[:, axis] += step
            other = rows[tuple(place.T)]
            found.append(torch.where(other > 0, other, own))
    every = torch.cat([own.new_zeros(1, 8), torch.stack(found, dim=1)])
    mean = torch.tensor([0.25, 0.25] + [1 / 12] * 6, device=rows.device)
    laplacian = torch.tensor([-3.0, -3.0] + [1.0] * 6, device=rows.device)
    return Corners(every, mean.repeat(len(every), 1)), Corners(every, laplacian.repeat(len(every), 1))
