"""What `benchmark_recon.py` reconstructs: shapes, rendered objects, and what spoils their views."""

import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import trimesh
from scipy import ndimage
from scipy.spatial import KDTree

from recon import captures, raster
from recon.surface import extract
from recon.volume import Volume
from svd3d import images, sample
from svd3d.cameras import Cameras, Orbit
from svd3d.metrics import geometry
from svd3d.sample import Sample

ELEVATION_DEG = 10.0
"""Of the orbit that is reconstructed from."""
HELD_OUT_ELEVATIONS_DEG = (-20.0, 55.0)
HELD_OUT_VIEWS = 16
REFERENCE_RESOLUTION = 128
"""Samples along the longest side of the grid that a closed-form shape is meshed on."""
BAND = 0.05
"""How far from its surface a closed-form shape is told."""
SUPERSAMPLING = 3
"""Rays along a side of a pixel of a closed-form shape."""
LIGHT = np.array([0.36, 0.48, 0.8])

Points = np.ndarray
"""World positions [n, 3]."""


@dataclass(frozen=True)
class Scene:
    """One object: what is reconstructed from, and what the result is held against."""

    name: str
    views: Sample
    held_out: Sample | None
    reference: geometry.Surface


@dataclass(frozen=True)
class Solid:
    """A closed-form shape: signed distance (positive inside) and colour in [0, 1] at world positions."""

    distance: Callable[[Points], np.ndarray]
    colour: Callable[[Points], np.ndarray]


def torus_knot() -> Solid:
    """A standing (2, 3) torus knot in colours that vary slowly."""
    t = np.linspace(0, 2 * math.pi, 6000, endpoint=False)
    ring, tube = 2 + np.cos(3 * t), 0.7
    curve = np.stack([ring * np.cos(2 * t), -np.sin(3 * t), ring * np.sin(2 * t)], axis=1)
    scale = 1 / float((np.ptp(curve, axis=0) + 2 * tube).max())
    tree = KDTree((curve - (curve.min(axis=0) + curve.max(axis=0)) / 2) * scale)

    def distance(points: Points) -> np.ndarray:
        nearest, _ = tree.query(points, distance_upper_bound=tube * scale + BAND)
        return tube * scale - np.asarray(nearest)

    def colour(points: Points) -> np.ndarray:
        return 0.5 + 0.4 * np.sin(2 * math.pi * points + [0.0, 2.0, 4.0])

    return Solid(distance, colour)


def box_and_ball() -> Solid:
    """A box with a round hole through it and a ball on top, in a three-dimensional checker pattern."""

    def distance(points: Points) -> np.ndarray:
        outside = np.abs(points - [0, 0, -0.2]) - [0.5, 0.3, 0.25]
        box = -np.linalg.norm(np.maximum(outside, 0), axis=1) - np.minimum(outside.max(axis=1), 0)
        hole = 0.16 - np.linalg.norm(points[:, [0, 2]] - [-0.2, -0.2], axis=1)
        ball = 0.25 - np.linalg.norm(points - [0.2, 0.0, 0.2], axis=1)
        return np.maximum(np.minimum(box, -hole), ball)

    def colour(points: Points) -> np.ndarray:
        odd = np.floor(points * 6 + 0.4).sum(axis=1) % 2 == 1
        return np.where(odd[:, None], [0.85, 0.35, 0.2], [0.2, 0.45, 0.8])

    return Solid(distance, colour)


SOLIDS = {"torus knot": torus_knot, "box and ball": box_and_ball}
"""The first is the smooth one."""


def closed_form(name: str, *, size: int) -> Scene:
    """A closed-form shape, its views and its mesh."""
    solid = SOLIDS[name]()
    grid = Volume.covering(np.full(3, -0.52), np.full(3, 0.52), resolution=REFERENCE_RESOLUTION)
    index = np.stack(np.meshgrid(*map(np.arange, grid.values.shape), indexing="ij"), axis=-1)
    values = 1 + solid.distance(grid.points(index.reshape(-1, 3))).clip(-BAND, BAND) / BAND
    field = replace(grid, values=values.reshape(grid.values.shape))
    mesh = extract(field, level=1.0)  # outside a volume counts as 0
    slopes = -np.stack(np.gradient(field.values))
    orbits = (
        Orbit.static(elevation_deg=ELEVATION_DEG),
        Orbit.random(
            np.random.default_rng(0), elevation_range_deg=HELD_OUT_ELEVATIONS_DEG, num_views=HELD_OUT_VIEWS
        ),
    )

    def colours(points: Points) -> np.ndarray:
        index = ((points - field.origin) / field.voxel_size).T
        outward = np.stack([ndimage.map_coordinates(each, index, order=1) for each in slopes], axis=1)
        cosine = (outward @ LIGHT) / np.maximum(np.linalg.norm(outward, axis=1), 1e-12)
        return solid.colour(points) * (0.6 + 0.4 * np.maximum(cosine, 0))[:, None]

    samples = []
    for orbit in orbits:
        ring = orbit.fitted(np.asarray(mesh.vertices))
        cameras = ring.cameras(height=size, width=size)
        rgba = np.concatenate([pictured(mesh, colours, cameras.view(view)) for view in range(len(cameras))])
        samples.append(Sample(name.replace(" ", "-"), cameras, rgba, "rendered", orbit=ring))
    reference = geometry.Surface(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    return Scene(name, samples[0], samples[1], reference)


def pictured(mesh: trimesh.Trimesh, colours: Callable[[Points], np.ndarray], camera: Cameras) -> np.ndarray:
    """A view as RGBA [1, h, w, 4] of a surface whose colour depends on the position alone."""
    fine = camera.resized(height=SUPERSAMPLING * camera.height, width=SUPERSAMPLING * camera.width)
    _, depth = raster.render(mesh, fine, samples_per_side=1)
    origins, directions = fine.rays()
    hit = depth > 0
    points = (origins[:, None, None] + depth[..., None] * directions)[hit]
    rgba = np.zeros((*depth.shape, 4), np.float32)
    rgba[hit] = np.concatenate([colours(points), np.ones((len(points), 1))], axis=1)
    parts = (1, camera.height, SUPERSAMPLING, camera.width, SUPERSAMPLING, 4)
    return straight(rgba.reshape(parts).mean(axis=(2, 4)))


def rendered(name: str, path: Path, *, size: int, work: Path) -> Scene:
    """An object file, rendered by `svd3d render` into `work`, where finished views are found again."""
    low, high = HELD_OUT_ELEVATIONS_DEG
    held_out = ["--orbit", "random", "--views", HELD_OUT_VIEWS, "--elevation-deg", low, high]
    wishes = {
        "orbit": ["--elevation-deg", ELEVATION_DEG, ELEVATION_DEG],
        "held-out": held_out,
    }
    svd3d = shutil.which("svd3d", path=str(Path(sys.executable).parent)) or "svd3d"
    found = []
    for part, wish in wishes.items():
        folder = work / f"{name.replace(' ', '-')}-{size}" / part
        command = [svd3d, "render", path, "--out", folder, "--size", size, "--depth", False, *wish]
        done = subprocess.run([str(each) for each in command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{path}: {done.stderr[-2000:]}")
        found.append(sample.read(sample.find(folder)[0]))
    return Scene(name, found[0], found[1], geometry.read(path))


def captured(name: str, folder: Path, reference: Path, *, yaw_deg: float) -> Scene:
    """Views that somebody made, with the mesh of their object turned by `yaw_deg` about the vertical."""
    surface = geometry.read(reference)
    cosine, sine = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    turned = surface.vertices @ np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    return Scene(name, captures.read(folder), None, replace(surface, vertices=turned))


def spoilt(views: Sample, kind: str, *, seed: int) -> Sample:
    """The same views as a generator might get them wrong.

    `clean`: as they are. `shifted`: each view moved by up to 2 pixels in x and in y, blurred by up to 1.4
    pixels, brightened or darkened by up to 6 % and offset by up to 3 %. `warped`: each view bent by a smooth
    random flow of 1 pixel RMS. Pixels mean those of a picture of 128; larger pictures move further.
    """
    if kind == "clean":
        return views
    drawn = np.random.default_rng(seed)
    pixel = views.cameras.height / 128
    change = {"shifted": shifted, "warped": warped}[kind]
    return replace(
        views, images=np.stack([change(image, drawn, pixel) for image in views.images]), depth=None
    )


def shifted(rgba: np.ndarray, drawn: np.random.Generator, pixel: float) -> np.ndarray:
    """One view, moved and blurred as a whole, and with other contrast."""
    move = drawn.uniform(-2, 2, 2) * pixel
    blur = drawn.uniform(0, 1.4) * pixel
    gain, offset = 1 + drawn.uniform(-0.06, 0.06), drawn.uniform(-0.03, 0.03)
    moved = ndimage.shift(premultiplied(rgba), (*move, 0), order=3).clip(0, 1)
    soft = ndimage.gaussian_filter(moved, (blur, blur, 0))
    soft[..., :3] = soft[..., :3] * gain + offset * soft[..., 3:]
    return straight(soft)


def warped(rgba: np.ndarray, drawn: np.random.Generator, pixel: float) -> np.ndarray:
    """One view, bent smoothly: the flow is noise filtered over an eighth of the picture."""
    height, width = rgba.shape[:2]
    flow = ndimage.gaussian_filter(drawn.normal(size=(2, height, width)), (0, height / 8, width / 8))
    flow *= pixel / np.sqrt((flow**2).sum(axis=0).mean())
    at = np.mgrid[:height, :width] + flow
    channels = np.moveaxis(premultiplied(rgba), -1, 0)
    return straight(np.stack([ndimage.map_coordinates(each, at, order=3) for each in channels], axis=-1))


def premultiplied(rgba: np.ndarray) -> np.ndarray:
    """Colour times alpha, and alpha, in [0, 1]."""
    image = images.to_float(rgba)
    image[..., :3] *= image[..., 3:]
    return image


def straight(image: np.ndarray) -> np.ndarray:
    """The inverse of `premultiplied`."""
    image = image.clip(0, 1)
    return images.to_uint8(
        np.concatenate([image[..., :3] / np.maximum(image[..., 3:], 1e-6), image[..., 3:]], axis=-1)
    )
