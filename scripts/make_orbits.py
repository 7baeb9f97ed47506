"""Fast CPU orbits of the toy cars, to train the tiny model; light and cameras are the Blender renderer's.

World axes are +Z up; the object's bounding box is centred and its longest side is 1. Cameras are OpenGL and
look at the origin. The light is a sky of radiance a + b.direction, fixed in the world; paint is Lambertian.

    python scripts/make_orbits.py data/objects.jsonl --out data/orbits --size 64 --views 21 --seed 0
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

VERTICAL_FOV_DEG = 33.8
FILL = 0.9  # share of the half-frame that the object may use
SKY_MEAN = 0.7
SKY_SLOPE = 0.55 * np.array([0.35, -0.5, 0.8]) / np.linalg.norm([0.35, -0.5, 0.8])
GLTF_TO_WORLD = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
SUPERSAMPLE = 3
FILTER_WIDTH_PIXELS = 3.0  # Blackman-Harris, as Cycles, whose setting 1.5 spans three pixels
ELEVATION_DEG = (0.0, 25.0)
AZIMUTH_DEG = (-65.0, -30.0)  # view 0: the front (-Y) at an angle, with the side at +X
CELL = 0.04  # grid in which light is smoothed, in object sizes
LIGHT_POINTS = 6000
LIGHT_RAYS = 32
SHARD_OBJECTS = 100
OFFSET = 1e-4


@dataclass(frozen=True)
class Solid:
    """A mesh in the world: centred, longest side 1, linear albedo per vertex."""

    vertices: np.ndarray  # [n, 3]
    normals: np.ndarray  # [n, 3]
    faces: np.ndarray  # [f, 3]
    albedo: np.ndarray  # [n, 3]


@dataclass(frozen=True)
class Hits:
    """First hits of some rays."""

    ray: np.ndarray  # [n] index of the ray
    point: np.ndarray  # [n, 3], nudged off the surface
    normal: np.ndarray  # [n, 3], shading normal towards the ray's origin
    albedo: np.ndarray  # [n, 3]


def srgb_to_linear(value: np.ndarray) -> np.ndarray:
    """Linear value of sRGB 0..1."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(value: np.ndarray) -> np.ndarray:
    """Linear to sRGB 0..1, clipped."""
    value = np.clip(value, 0.0, 1.0)
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)


def to_solid(mesh: trimesh.Trimesh) -> Solid:
    """Bring a textured glTF mesh (+Y up) into the world (+Z up), centred, longest side 1."""
    vertices = np.asarray(mesh.vertices) @ GLTF_TO_WORLD.T
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    vertices = (vertices - (low + high) / 2) / (high - low).max()
    image = np.asarray(mesh.visual.material.baseColorTexture.convert("RGB"))
    height, width = image.shape[:2]
    uv = np.asarray(mesh.visual.uv)
    column = np.clip((uv[:, 0] * width).astype(int), 0, width - 1)
    row = np.clip(((1 - uv[:, 1]) * height).astype(int), 0, height - 1)
    albedo = srgb_to_linear(image[row, column] / 255.0)
    normals = np.asarray(mesh.vertex_normals) @ GLTF_TO_WORLD.T
    return Solid(vertices=vertices, normals=normals, faces=np.asarray(mesh.faces), albedo=albedo)


def camera_axes(azimuth_deg: np.ndarray, elevation_deg: float) -> np.ndarray:
    """Rows right, up, back [v, 3, 3] of OpenGL cameras that look at the origin."""
    azimuth, elevation = np.deg2rad(azimuth_deg), np.deg2rad(elevation_deg)
    zero = np.zeros_like(azimuth)
    right = np.stack([-np.sin(azimuth), np.cos(azimuth), zero], axis=1)
    back = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), zero + np.sin(elevation)],
        axis=1,
    )
    return np.stack([right, np.cross(back, right), back], axis=1)


def fit_distance(vertices: np.ndarray, axes: np.ndarray) -> float:
    """The smallest distance at which every vertex of every view lies inside FILL of the half-frame."""
    local = np.einsum("vij,nj->vni", axes, vertices)
    slope = FILL * np.tan(np.deg2rad(VERTICAL_FOV_DEG) / 2)
    return float((np.abs(local[..., :2]).max(axis=-1) / slope + local[..., 2]).max())


def trace(scene: EmbreeScene, solid: Solid, origins: np.ndarray, directions: np.ndarray) -> Hits:
    """First hits of rays [n, 3]."""
    result = scene.run(origins.astype(np.float32), directions.astype(np.float32), output=True)
    ray = np.flatnonzero(result["primID"] >= 0)
    corners = solid.faces[result["primID"][ray]]
    u, v = result["u"][ray][:, None], result["v"][ray][:, None]
    a, b, c = (solid.vertices[corners[:, k]] for k in range(3))
    point = a + u * (b - a) + v * (c - a)
    na, nb, nc = (solid.normals[corners[:, k]] for k in range(3))
    normal = na + u * (nb - na) + v * (nc - na)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    flat = np.cross(b - a, c - a)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-20)
    away = np.einsum("ni,ni->n", flat, directions[ray]) > 0
    flat[away], normal[away] = -flat[away], -normal[away]
    return Hits(ray=ray, point=point + OFFSET * flat, normal=normal, albedo=solid.albedo[corners[:, 0]])


def open_sky(normal: np.ndarray) -> np.ndarray:
    """Irradiance / pi [n] under the whole sky."""
    return SKY_MEAN + 2 / 3 * normal @ SKY_SLOPE


def hemisphere(count: int) -> np.ndarray:
    """Stratified cosine-weighted directions [count, 3] about +Z."""
    index = np.arange(count) + 0.5
    radius, turn = np.sqrt(index / count), np.pi * (3 - np.sqrt(5)) * index
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), np.sqrt(1 - index / count)], axis=1)


def frames(normal: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Orthonormal frames [n, 3, 3] (columns tangent, bitangent, normal), each turned by some radians."""
    helper = np.where(np.abs(normal[:, 2:3]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    tangent = np.cross(helper, normal)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    bitangent = np.cross(normal, tangent)
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    return np.stack([cos * tangent + sin * bitangent, cos * bitangent - sin * tangent, normal], axis=2)


class LightGrid:
    """Values smoothed over a grid of cells, apart for the six main directions of the normal."""

    def __init__(self, channels: int) -> None:
        self.size = int(np.ceil(1.0 / CELL)) + 3
        self.total = np.zeros((6 * self.size**3, channels))
        self.weight = np.zeros(6 * self.size**3)

    def corners(self, point: np.ndarray, normal: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Eight (cell index [n], weight [n]) pairs around each point."""
        place = np.clip((point + 0.5) / CELL + 1.0, 0.0, self.size - 1.001)
        base = place.astype(np.int64)
        part = place - base
        main = np.abs(normal).argmax(axis=1)
        side = 2 * main + (np.take_along_axis(normal, main[:, None], axis=1)[:, 0] > 0)
        start = ((side * self.size + base[:, 0]) * self.size + base[:, 1]) * self.size + base[:, 2]
        pairs = []
        for x in (0, 1):
            for y in (0, 1):
                for z in (0, 1):
                    weight = (
                        np.abs(1 - x - part[:, 0]) * np.abs(1 - y - part[:, 1]) * np.abs(1 - z - part[:, 2])
                    )
                    pairs.append((start + (x * self.size + y) * self.size + z, weight))
        return pairs

    def add(self, point: np.ndarray, normal: np.ndarray, value: np.ndarray) -> None:
        """Spread values [n, channels] to the cells around their points."""
        for index, weight in self.corners(point, normal):
            self.weight += np.bincount(index, weight, len(self.weight))
            for channel in range(value.shape[1]):
                self.total[:, channel] += np.bincount(index, weight * value[:, channel], len(self.weight))

    def read(self, point: np.ndarray, normal: np.ndarray, *, default: float) -> np.ndarray:
        """Smoothed values [n, channels]; `default` where nothing was added."""
        total, weight = np.full((len(point), self.total.shape[1]), 1e-6 * default), np.full(len(point), 1e-6)
        for index, share in self.corners(point, normal):
            total += share[:, None] * self.total[index]
            weight += share * self.weight[index]
        return total / weight[:, None]


def bake_light(scene: EmbreeScene, solid: Solid, hits: Hits, generator: np.random.Generator) -> LightGrid:
    """RGB irradiance relative to the open sky, with occlusion and one bounce, from some visible points."""
    chosen = generator.permutation(len(hits.ray))[:LIGHT_POINTS]
    point, normal = hits.point[chosen], hits.normal[chosen]
    turn = generator.uniform(0, 2 * np.pi, len(chosen))
    directions = np.einsum("nij,kj->nki", frames(normal, turn), hemisphere(LIGHT_RAYS)).reshape(-1, 3)
    radiance = SKY_MEAN + directions @ SKY_SLOPE
    second = trace(scene, solid, np.repeat(point, LIGHT_RAYS, axis=0), directions)
    unblocked = radiance.copy()
    unblocked[second.ray] = 0.0
    whole = radiance.reshape(len(chosen), LIGHT_RAYS).sum(axis=1)
    visible = LightGrid(1)
    visible.add(point, normal, (unblocked.reshape(len(chosen), LIGHT_RAYS).sum(axis=1) / whole)[:, None])
    bounced = open_sky(second.normal)[:, None] * visible.read(second.point, second.normal, default=0.3)
    incoming = np.repeat(unblocked[:, None], 3, axis=1)
    incoming[second.ray] = second.albedo * bounced
    light = LightGrid(3)
    light.add(point, normal, incoming.reshape(len(chosen), LIGHT_RAYS, 3).sum(axis=1) / whole[:, None])
    return light


def filter_pixels(fine: np.ndarray, size: int) -> np.ndarray:
    """Average samples [v, s, s, c] to pixels [v, size, size, c] with Cycles' Blackman-Harris filter."""
    reach = int(FILTER_WIDTH_PIXELS / 2 * SUPERSAMPLE)
    offsets = np.arange(-reach, reach + 1)
    phase = 2 * np.pi * (offsets / SUPERSAMPLE / FILTER_WIDTH_PIXELS + 0.5)
    weights = 0.35875 - 0.48829 * np.cos(phase) + 0.14128 * np.cos(2 * phase) - 0.01168 * np.cos(3 * phase)
    weights = (weights / weights.sum()).astype(fine.dtype)
    middle = SUPERSAMPLE // 2
    for axis in (1, 2):
        pad = [(0, 0)] * fine.ndim
        pad[axis] = (reach, reach)
        padded = np.moveaxis(np.pad(fine, pad), axis, 0)
        rows = sum(
            weight * padded[middle + reach + offset :: SUPERSAMPLE][:size]
            for weight, offset in zip(weights, offsets, strict=True)
        )
        fine = np.moveaxis(rows, 0, axis)
    return fine


def render_orbit(
    mesh: trimesh.Trimesh, *, azimuth_deg: float, elevation_deg: float, views: int, size: int, seed: int = 0
) -> tuple[np.ndarray, float]:
    """Views uint8 [views, size, size, 4] (straight alpha, sRGB) of a glTF mesh, and the camera distance."""
    solid = to_solid(mesh)
    axes = camera_axes(azimuth_deg + 360.0 * np.arange(views) / views, elevation_deg)
    distance = fit_distance(solid.vertices, axes)
    scene = EmbreeScene()
    TriangleMesh(scene, solid.vertices[solid.faces].astype(np.float32))

    fine = size * SUPERSAMPLE
    slope = np.tan(np.deg2rad(VERTICAL_FOV_DEG) / 2)
    ticks = ((np.arange(fine) + 0.5) / fine * 2 - 1) * slope
    local = np.einsum("vij,nj->vni", axes, solid.vertices)
    screen = local[..., :2] / (distance - local[..., 2:])
    low, high = screen.min(axis=1), screen.max(axis=1)
    inside_x = (ticks >= low[:, :1]) & (ticks <= high[:, :1])
    inside_y = (-ticks >= low[:, 1:]) & (-ticks <= high[:, 1:])
    view, row, column = np.nonzero(inside_y[:, :, None] & inside_x[:, None, :])
    toward = np.stack([ticks[column], -ticks[row], np.full(len(row), -1.0)], axis=1)
    directions = np.empty_like(toward)
    for k in range(views):
        mine = slice(*np.searchsorted(view, [k, k + 1]))
        directions[mine] = toward[mine] @ axes[k]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    hits = trace(scene, solid, distance * axes[view, 2], directions)

    light = bake_light(scene, solid, hits, np.random.default_rng(seed))
    relative = light.read(hits.point, hits.normal, default=1.0)
    colour = hits.albedo * relative * open_sky(hits.normal)[:, None]
    image = np.zeros((views, fine, fine, 4), np.float32)
    image[view[hits.ray], row[hits.ray], column[hits.ray]] = np.column_stack([colour, np.ones(len(colour))])
    image = filter_pixels(image, size)
    alpha = image[..., 3:]
    straight = linear_to_srgb(image[..., :3] / np.maximum(alpha, 1e-6))
    rgba = np.concatenate([np.where(alpha > 0.5 / 255, straight, 0.0), alpha], axis=-1)
    return np.clip(rgba * 255 + 0.5, 0, 255).astype(np.uint8), distance


def load_glb(path: Path) -> trimesh.Trimesh:
    """The one textured mesh of a GLB, glTF axes."""
    return trimesh.load(path, force="mesh", process=False)


def write_shard(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Save a compressed shard so that it appears whole or not at all."""
    partial = path.with_name(f".{path.name}.part")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(partial, path)


def write_orbits(listing: Path, *, out: Path, size: int, views: int, seed: int, limit: int | None) -> None:
    """Render every object of objects.jsonl in shards; shards that exist are kept."""
    rows = [json.loads(line) for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()][
        :limit
    ]
    out.mkdir(parents=True, exist_ok=True)
    started, made = time.monotonic(), 0
    for first in range(0, len(rows), SHARD_OBJECTS):
        path = out / f"orbits-{first // SHARD_OBJECTS:05d}.npz"
        if path.exists():
            sys.stderr.write(f"{path}: exists, kept\n")
            continue
        images, cameras, uids = [], [], []
        for index, row in enumerate(rows[first : first + SHARD_OBJECTS], start=first):
            rng = np.random.default_rng([seed, index])
            elevation, azimuth = rng.uniform(*ELEVATION_DEG), rng.uniform(*AZIMUTH_DEG)
            mesh = load_glb(listing.parent / row["path"])
            rgba, distance = render_orbit(
                mesh, azimuth_deg=azimuth, elevation_deg=elevation, views=views, size=size, seed=index
            )
            images.append(rgba)
            cameras.append((elevation, azimuth, distance))
            uids.append(row["uid"])
            made += 1
        camera = np.array(cameras, dtype=np.float32)
        arrays = {"rgba": np.stack(images), "uid": np.array(uids)}
        arrays |= {"elevation_deg": camera[:, 0], "azimuth_deg": camera[:, 1], "distance": camera[:, 2]}
        write_shard(path, arrays)
        pace = (time.monotonic() - started) / made
        left = len(rows) - first - len(uids)
        sys.stderr.write(f"{path}: {len(uids)} objects, {pace:.2f} s each, {left * pace / 60:.1f} min left\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Render toy-car GLBs to orbit shards (npz) by CPU ray casting."
    )
    parser.add_argument("objects", type=Path, help="objects.jsonl; mesh paths are relative to its folder")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--size", type=int, default=64, help="image side in pixels")
    parser.add_argument("--views", type=int, default=21, help="views per orbit")
    parser.add_argument("--seed", type=int, default=0, help="seed of the camera draws")
    parser.add_argument("--limit", type=int, default=None, help="only the first N objects")
    args = parser.parse_args()
    write_orbits(
        args.objects, out=args.out, size=args.size, views=args.views, seed=args.seed, limit=args.limit
    )


if __name__ == "__main__":
    main()
