"""A fast ray caster for textured objects on a CPU; its light and cameras are those of `svd3d render`.

The world is that of `svd3d.cameras`: +Z up, the object centred, its longest side 1. The light is a sky of
radiance mean + slope . direction. Surfaces are Lambertian with one diffuse bounce; those with a
metallic-roughness texture also reflect the sky, with the split sum of Karis ("Real Shading in Unreal Engine
4", 2013), his fit of the environment BRDF ("Physically Based Shading on Mobile", 2014) and the energy that
Fdez-Aguera ("A Multiple-Scattering Microfacet Model for Real-Time Image-based Lighting", 2019) gives back.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from render import light as renderer_light
from svd3d.cameras import GLTF_TO_WORLD, Cameras
from svd3d.errors import ObjectError
from svd3d.runs import input_path

SUPERSAMPLE = 3
"""Rays per pixel along each axis."""
FILTER_WIDTH_PX = 3.0
"""Of the Blackman-Harris filter of Cycles, whose setting 1.5 spans three pixels."""
CELL = 0.04
"""Side of a cell in which the light is smoothed, in world units."""
LIGHT_POINTS = 2500
"""At which the light is gathered, per object."""
LIGHT_RAYS = 24
"""By which it is gathered at each point."""
DIELECTRIC_REFLECTANCE = 0.04
"""At normal incidence; glTF's value for everything that is no metal."""
OFFSET = 1e-4
"""By which secondary rays start above the surface, in world units."""
SRGB_TO_LINEAR = np.array(
    [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.arange(256) / 255], np.float32
)


@dataclass(frozen=True)
class Sky:
    """Radiance mean + slope . d, for a unit direction d in the world."""

    mean: np.ndarray
    """RGB [3]."""
    slope: np.ndarray
    """[3, 3]: one row per colour, none longer than its mean."""

    @classmethod
    def fixed(cls) -> Sky:
        """The neutral sky of `svd3d render`."""
        sky = renderer_light.sky()
        return cls(np.full(3, sky["mean"], np.float32), np.tile(np.float32(sky["slope"]), (3, 1)))

    @classmethod
    def random(cls, generator: np.random.Generator) -> Sky:
        """A sky that is brightest in some direction of the upper half, with a slight tint at both ends."""
        height, turn = generator.uniform(0.0, 1.0), generator.uniform(0, 2 * np.pi)
        around = np.sqrt(1 - height**2)
        brightest = np.array([around * np.cos(turn), around * np.sin(turn), height])
        warmth = generator.uniform(-0.12, 0.12, 2)[:, None] * [1.0, 0.0, -1.0]
        mean, slope = generator.uniform(0.55, 0.85), generator.uniform(0.2, 0.85)
        ends = mean * (1 + slope * np.array([[1.0], [-1.0]])) * (1 + warmth)
        return cls(
            ends.mean(axis=0).astype(np.float32),
            np.outer((ends[0] - ends[1]) / 2, brightest).astype(np.float32),
        )

    def radiance(self, direction: np.ndarray, sharpness: float | np.ndarray = 1.0) -> np.ndarray:
        """RGB [n, 3] from directions [n, 3]; a sharpness below 1 averages over a lobe around each."""
        return self.mean + sharpness * (direction @ self.slope.T)

    def irradiance(self, normal: np.ndarray) -> np.ndarray:
        """RGB [n, 3] over pi on surfaces that see the whole sky (Ramamoorthi and Hanrahan 2001, eq. 7, 8)."""
        return self.radiance(normal, 2 / 3)

    def turned(self, rotation: np.ndarray) -> Sky:
        """The sky as a body sees it that was turned by a rotation [3, 3]."""
        return Sky(self.mean, (self.slope @ rotation).astype(np.float32))

    def about(self) -> dict[str, object]:
        """For the story of a sample, as JSON; without colour, it is as `render.light.sky`."""
        if np.ptp(self.mean) == 0:
            return {"kind": "sky", "mean": float(self.mean[0]), "slope": self.slope[0].tolist()}
        return {"kind": "sky", "mean": self.mean.tolist(), "slope": self.slope.tolist()}


@dataclass(frozen=True)
class Solid:
    """A textured triangle mesh in the world."""

    vertices: np.ndarray
    """[n, 3]"""
    normals: np.ndarray
    """[n, 3], unit length."""
    faces: np.ndarray
    """[f, 3]"""
    uv: np.ndarray
    """[n, 2] in texture space, v up."""
    colour: np.ndarray
    """Linear RGB texture [h, w, 3]."""
    surface: np.ndarray | None
    """Texture [h, w, 2] of roughness and metalness; None: matte everywhere."""
    object_to_world: np.ndarray
    """[4, 4]: from the file's axes."""

    @functools.cached_property
    def table(self) -> np.ndarray:
        """Position, normal and uv of the vertices [n, 8]: one table is faster to interpolate."""
        return np.concatenate([self.vertices, self.normals, self.uv], axis=1)

    @functools.cached_property
    def scene(self) -> EmbreeScene:
        """The triangles, ready for rays."""
        scene = EmbreeScene()
        TriangleMesh(scene, self.vertices[self.faces])
        return scene

    def moved(self, vertices: np.ndarray) -> Solid:
        """The same surface with its vertices elsewhere, with area-weighted normals."""
        corners = vertices[self.faces]
        area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals = np.zeros_like(vertices)
        for corner in range(3):
            for axis in range(3):
                normals[:, axis] += np.bincount(self.faces[:, corner], area[:, axis], len(vertices))
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        return replace(self, vertices=vertices, normals=normals)


@dataclass(frozen=True)
class Hits:
    """First hits of some rays on a solid."""

    ray: np.ndarray
    """[n] index of the ray."""
    corners: np.ndarray
    """[n, 3] vertices of the triangle hit."""
    shares: np.ndarray
    """[n, 3] barycentric weights of the corners."""

    def on(self, solid: Solid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Position [n, 3], unit normal [n, 3] and uv [n, 2] on a solid, in the pose that it is given in."""
        values = self._mix(solid.table)
        return values[:, :3], unit(values[:, 3:6]), values[:, 6:]

    def _mix(self, attribute: np.ndarray) -> np.ndarray:
        """A value per vertex [v, k], interpolated at the hits [n, k]."""
        parts = (np.take(attribute, self.corners[:, k], axis=0) * self.shares[:, k, None] for k in range(3))
        return functools.reduce(np.add, parts)


@dataclass(frozen=True)
class Seen:
    """What the rays of one picture hit."""

    pixel: np.ndarray
    """[n] index into the supersampled picture [h, w]."""
    directions: np.ndarray
    """[n, 3], unit length."""
    hits: Hits


def read(path: Path) -> Solid:
    """The one textured mesh of a GLB, brought into the world: +Z up, centred, longest side 1.

    Its parts are closed and turned outward. Raises `ObjectError` for a mesh without a PBR texture.
    """
    mesh = trimesh.load_mesh(input_path(path, what="object"), process=False)
    visual = mesh.visual
    if not (isinstance(visual, TextureVisuals) and isinstance(visual.material, PBRMaterial)):
        raise ObjectError(f"{path}: has no PBR texture; make objects with scripts/make_objects.py")
    texture, surface = visual.material.baseColorTexture, visual.material.metallicRoughnessTexture
    if texture is None:
        raise ObjectError(f"{path}: has no base colour texture; make objects with scripts/make_objects.py")
    axes = GLTF_TO_WORLD[:3, :3]
    turned = np.asarray(mesh.vertices) @ axes.T
    low, high = turned.min(axis=0), turned.max(axis=0)
    scale = 1 / (high - low).max()
    object_to_world = np.eye(4)
    object_to_world[:3, :3] = scale * axes
    object_to_world[:3, 3] = -scale * (low + high) / 2
    return Solid(
        vertices=((turned - (low + high) / 2) * scale).astype(np.float32),
        normals=(np.asarray(mesh.vertex_normals) @ axes.T).astype(np.float32),
        faces=np.asarray(mesh.faces),
        uv=np.asarray(visual.uv, np.float32),
        colour=SRGB_TO_LINEAR[np.asarray(texture.convert("RGB"))],
        surface=surface and np.asarray(surface.convert("RGB"), np.float32)[..., 1:] / 255,
        object_to_world=object_to_world,
    )


def trace(solid: Solid, origins: np.ndarray, directions: np.ndarray) -> Hits:
    """First hits of rays [n, 3]."""
    found = solid.scene.run(origins.astype(np.float32), directions.astype(np.float32), output=True)
    ray = np.flatnonzero(found["primID"] >= 0)
    u, v = found["u"][ray], found["v"][ray]
    return Hits(ray, solid.faces[found["primID"][ray]], np.stack([1 - u - v, u, v], axis=1))


def sample_texture(texture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Bilinear values [n, c] of a texture [h, w, c] at uv [n, 2] (v up), repeated beyond its edges."""
    height, width = texture.shape[:2]
    x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
    left, top = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    right_share, low_share = (x - left)[:, None], (y - top)[:, None]
    left, right = left % width, (left + 1) % width
    upper, lower = top % height * width, (top + 1) % height * width
    flat = texture.reshape(-1, texture.shape[2])

    def row(start: np.ndarray) -> np.ndarray:
        first, second = (np.take(flat, start + column, axis=0) for column in (left, right))
        return first + right_share * (second - first)

    above, below = row(upper), row(lower)
    return above + low_share * (below - above)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [n, 3] at length 1."""
    length = np.sqrt(np.einsum("ni,ni->n", vectors, vectors))
    return vectors / np.maximum(length, 1e-20)[:, None]


def hemisphere(count: int) -> np.ndarray:
    """Stratified cosine-weighted directions [count, 3] about +Z."""
    index = np.arange(count) + 0.5
    radius, turn = np.sqrt(index / count), np.pi * (3 - np.sqrt(5)) * index
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), np.sqrt(1 - index / count)], axis=1)


def frames(normal: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Orthonormal frames [n, 3, 3] (columns tangent, bitangent, normal), each turned by some radians."""
    helper = np.where(np.abs(normal[:, 2:3]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    tangent = unit(np.cross(helper, normal))
    bitangent = np.cross(normal, tangent)
    cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
    return np.stack([cos * tangent + sin * bitangent, cos * bitangent - sin * tangent, normal], axis=2)


class LightGrid:
    """Values smoothed over a grid of cells, apart for the six main directions of the normal."""

    def __init__(self, point: np.ndarray, normal: np.ndarray, value: np.ndarray, *, default: float) -> None:
        """Spread values [n, c] over the cells around their points; cells without any hold `default`."""
        self.size = int(np.ceil(1.0 / CELL)) + 3
        cells, shares = (np.concatenate(parts) for parts in zip(*self._corners(point, normal), strict=True))
        weighted = np.tile(np.column_stack([value, np.ones(len(value))]), (8, 1)) * shares
        sums = [np.bincount(cells, part, 6 * self.size**3) for part in weighted.T]
        faint = 1e-6 * np.array([*[default] * value.shape[1], 1])
        self.sums = (np.stack(sums, axis=1) + faint).astype(np.float32)

    def read(self, point: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """Smoothed values [n, c]."""
        parts = (np.take(self.sums, cell, axis=0) * share for cell, share in self._corners(point, normal))
        sums = functools.reduce(np.add, parts)
        return sums[:, :-1] / sums[:, -1:]

    def _corners(self, point: np.ndarray, normal: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The eight cells [n] around each point, and how much each counts [n, 1]."""
        place = np.clip((point + 0.5) / CELL + 1.0, 0.0, self.size - 1.001)
        base = place.astype(np.int32)
        part = place - base
        main = np.abs(normal).argmax(axis=1)
        side = 2 * main + (normal[np.arange(len(normal)), main] > 0)
        start = ((side * self.size + base[:, 0]) * self.size + base[:, 1]) * self.size + base[:, 2]
        shares = np.stack([1 - part, part])
        for x, y, z in itertools.product((0, 1), repeat=3):
            share = shares[x, :, 0] * shares[y, :, 1] * shares[z, :, 2]
            yield start + (x * self.size + y) * self.size + z, share[:, None]


@dataclass(frozen=True)
class Light:
    """What of the sky's light arrives on a solid, with occlusion and one bounce."""

    sky: Sky
    solid: Solid
    """In the pose in which the light was baked; hits on another pose of it are looked up by their corners."""
    grid: LightGrid

    def share(self, hits: Hits) -> np.ndarray:
        """RGB irradiance [n, 3] at hits, as a share of what the open sky would give."""
        point, normal, _ = hits.on(self.solid)
        return self.grid.read(point, normal)


def bake(solid: Solid, seen: Sequence[Hits], sky: Sky, generator: np.random.Generator) -> Light:
    """The light on a solid, from some of its points that are seen."""
    corners, shares = (
        np.concatenate([getattr(each, name) for each in seen]) for name in ("corners", "shares")
    )
    chosen = generator.permutation(len(corners))[:LIGHT_POINTS]
    hits = Hits(chosen, corners[chosen], shares[chosen])
    a, b, c = (solid.vertices[hits.corners[:, k]] for k in range(3))
    point, normal, _ = hits.on(solid)
    count = len(point)
    turned = frames(normal, generator.uniform(0, 2 * np.pi, count))
    start = point + OFFSET * unit(np.cross(b - a, c - a))
    directions = (turned @ hemisphere(LIGHT_RAYS).T).transpose(0, 2, 1).reshape(-1, 3)
    radiance = sky.radiance(directions)
    whole = radiance.reshape(count, LIGHT_RAYS, 3).sum(axis=1)
    second = trace(solid, np.repeat(start, LIGHT_RAYS, axis=0), directions)
    radiance[second.ray] = 0
    visible = LightGrid(
        point, normal, radiance.reshape(count, LIGHT_RAYS, 3).sum(axis=1) / whole, default=0.3
    )
    place, facing, uv = second.on(solid)
    reflected = sample_texture(solid.colour, uv) * sky.irradiance(facing)
    radiance[second.ray] = reflected * visible.read(place, facing)
    arriving = radiance.reshape(count, LIGHT_RAYS, 3).sum(axis=1) / whole
    return Light(sky, solid, LightGrid(point, normal, arriving, default=1.0))


def shade(solid: Solid, seen: Seen, light: Light) -> np.ndarray:
    """Linear RGB [n, 3] of what is seen of a solid: that of the light, or another pose of it."""
    _, normal, uv = seen.hits.on(solid)
    share = light.share(seen.hits)
    albedo = sample_texture(solid.colour, uv)
    diffuse = albedo * light.sky.irradiance(normal)
    if solid.surface is None:
        return diffuse * share
    roughness, metalness = np.split(sample_texture(solid.surface, uv), 2, axis=1)
    toward = np.maximum(-np.einsum("ni,ni->n", seen.directions, normal), 0)[:, None]
    mirrored = seen.directions + 2 * toward * normal
    scale, bias = environment_brdf(roughness, toward)
    reflectance = DIELECTRIC_REFLECTANCE * (1 - metalness) + albedo * metalness
    mirror = light.sky.radiance(mirrored, 1 - roughness / 3)  # a lobe as wide as the cosine has two thirds
    again = 1 + reflectance * (1 / (scale + bias) - 1)  # light that a rough surface reflects twice
    transmitted = (1 - metalness) * (1 - DIELECTRIC_REFLECTANCE * scale - bias)
    return (diffuse * transmitted + mirror * (reflectance * scale + bias) * again) * share


def environment_brdf(roughness: np.ndarray, cosine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and bias of the reflectance at normal incidence (Karis 2014), from the angle to the normal."""
    part = np.minimum((1 - roughness) ** 2, 2 ** (-9.28 * cosine)) * (1 - roughness)
    part += 0.0425 - 0.0275 * roughness
    return 1.04 - 0.572 * roughness - 1.04 * part, 1.04 * part + 0.022 * roughness - 0.04


def look(solid: Solid, camera: Cameras) -> Seen:
    """Cast SUPERSAMPLE x SUPERSAMPLE rays per pixel of one camera at a solid, which lies in front of it."""
    fine = camera.resized(height=camera.height * SUPERSAMPLE, width=camera.width * SUPERSAMPLE)
    (corners,), _ = fine.project(solid.vertices)
    size = np.array([fine.width, fine.height])
    start = np.clip(np.floor(corners.min(axis=0)), 0, size - 1).astype(int)
    stop = np.clip(np.ceil(corners.max(axis=0)), start + 1, size).astype(int)
    (origin,), (toward,) = cropped(fine, start, stop).rays()
    directions = unit(toward.reshape(-1, 3).astype(np.float32))
    hits = trace(solid, np.broadcast_to(origin, directions.shape), directions)
    row, column = np.divmod(hits.ray, stop[0] - start[0])
    return Seen((row + start[1]) * fine.width + column + start[0], directions[hits.ray], hits)


def cropped(camera: Cameras, start: np.ndarray, stop: np.ndarray) -> Cameras:
    """The camera of the part of a picture between two corners (x, y), whose centres stay where they were."""
    intrinsics = camera.intrinsics.copy()
    intrinsics[:, :2, 2] -= start
    width, height = (stop - start).tolist()
    return replace(camera, intrinsics=intrinsics, height=height, width=width)


@functools.cache
def filter_matrix(size: int) -> np.ndarray:
    """Weights [size, size * SUPERSAMPLE] that average samples to pixels as Cycles' Blackman-Harris filter."""
    samples = (np.arange(size * SUPERSAMPLE) + 0.5) / SUPERSAMPLE
    place = (samples - np.arange(size)[:, None] - 0.5) / FILTER_WIDTH_PX + 0.5
    phase = 2 * np.pi * place
    weights = 0.35875 - 0.48829 * np.cos(phase) + 0.14128 * np.cos(2 * phase) - 0.01168 * np.cos(3 * phase)
    weights = np.where((place > 0) & (place < 1), weights, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def to_pixels(fine: np.ndarray) -> np.ndarray:
    """Filter samples [s * h, s * w, c] to pixels [h, w, c]; at the border over those that there are."""
    down, across = (filter_matrix(side // SUPERSAMPLE) for side in fine.shape[:2])
    return np.einsum("ij,jkc,lk->ilc", down, fine, across, optimize=True)


def to_rgba(premultiplied: np.ndarray) -> np.ndarray:
    """uint8 sRGB with straight alpha from linear premultiplied [..., 4]."""
    alpha = np.clip(premultiplied[..., 3:], 0, 1)
    straight = np.clip(premultiplied[..., :3] / np.maximum(alpha, 1e-6), 0, 1)
    straight = np.where(straight <= 0.0031308, straight * 12.92, 1.055 * straight ** (1 / 2.4) - 0.055)
    rgba = np.concatenate([np.where(alpha > 0.5 / 255, straight, 0), alpha], axis=-1)
    return (rgba * 255 + 0.5).astype(np.uint8)


def develop(layers: Iterable[tuple[Seen, np.ndarray]], *, height: int, width: int) -> np.ndarray:
    """Linear premultiplied [h, w, 4] of what is seen, with its colours [n, 3]: the farthest layer first."""
    fine = np.zeros((SUPERSAMPLE * height * SUPERSAMPLE * width, 4), np.float32)
    for seen, colour in layers:
        fine[seen.pixel] = np.column_stack([colour, np.ones(len(colour), np.float32)])
    return to_pixels(fine.reshape(SUPERSAMPLE * height, SUPERSAMPLE * width, 4))


def render(solid: Solid, cameras: Cameras, *, sky: Sky, seed: int) -> np.ndarray:
    """Pictures uint8 [v, h, w, 4] (sRGB, straight alpha); the seed is that of the light's rays."""
    looks = [look(solid, cameras.view(view)) for view in range(len(cameras))]
    light = bake(solid, [seen.hits for seen in looks], sky, np.random.default_rng(seed))
    layers = ((seen, shade(solid, seen, light)) for seen in looks)
    size = {"height": cameras.height, "width": cameras.width}
    return np.stack([to_rgba(develop([layer], **size)) for layer in layers])
