"""What every family of procedural objects is built from: closed solids, materials, one atlas, one GLB.

Objects are built in glTF axes (+Y up, the front points to +Z) and stand on y = 0. A family module has one
function `make(rng) -> Object`. A solid is a pair of vertices [n, 3] and triangles [f, 3]; solids may overlap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import trimesh
from PIL import Image
from trimesh.exchange.gltf import export_glb
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

PALETTE_CELLS, PALETTE_PIXELS = 8, 4  # an object of plain colours only: a palette of 8 x 8 cells
TEXTURE_PIXELS, GUTTER = 128, 2  # side of a texture in the atlas; its border is repeated around it
MATTE = (0.6, 0.0)  # roughness and metallic of paint, cloth and wood

Solid = tuple[np.ndarray, np.ndarray]  # vertices [n, 3], faces [f, 3]
Colour = tuple[int, int, int]  # sRGB 0..255
Point = Sequence[float] | np.ndarray  # x, y, z
Mapping = Literal["object", "part", "round"]


@dataclass(frozen=True)
class Material:
    """A colour or a texture uint8 [TEXTURE_PIXELS, TEXTURE_PIXELS, 3], row 0 its top; both sRGB 0..255."""

    colour: Colour | np.ndarray
    roughness: float = MATTE[0]
    metallic: float = MATTE[1]

    @property
    def plain(self) -> bool:
        """One colour everywhere."""
        return not isinstance(self.colour, np.ndarray)

    @property
    def matte(self) -> bool:
        """The finish of paint, cloth and wood."""
        return (self.roughness, self.metallic) == MATTE


@dataclass(frozen=True)
class Part:
    """A closed, outward part in modelling units and what it is painted with."""

    vertices: np.ndarray  # [n, 3]
    normals: np.ndarray  # [n, 3]
    faces: np.ndarray  # [f, 3]
    material: str
    mapping: Mapping | np.ndarray


@dataclass
class Object:
    """Parts that share one atlas; `scale` is the metres of one modelling unit."""

    materials: dict[str, Material]
    scale: float = 1.0
    parts: list[Part] = field(default_factory=list)

    def add(
        self,
        solid: Solid,
        material: str,
        *,
        mirror: bool = False,
        flat: bool = False,
        mapping: Mapping | np.ndarray = "object",
    ) -> None:
        """Append a solid, turned outward, with area-weighted normals; `mirror` adds its twin at -x.

        `flat` gives each triangle its own normal. Where the material is a texture, `mapping` lays it on:
        "object" projects along the main axis of each triangle so that the texture spans the longest side of
        the object once, "part" so that it spans this solid, and "round" wraps it once around the vertical
        through the solid's middle; an array [n, 2] says where in the texture each vertex lies, (0, 0) its
        lower left corner and (1, 1) its upper right.
        """
        vertices, faces = solid
        corners = vertices[faces]
        if np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) < 0:
            faces = faces[:, ::-1]
        if flat:
            mapping = mapping if isinstance(mapping, str) else mapping[faces.reshape(-1)]
            vertices, faces = vertices[faces].reshape(-1, 3), np.arange(faces.size).reshape(-1, 3)
        corners = vertices[faces]
        area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals = np.zeros_like(vertices)
        for corner in range(3):
            np.add.at(normals, faces[:, corner], area)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        self.parts.append(Part(vertices, normals, faces, material, mapping))
        if mirror:
            self.add((vertices * [-1, 1, 1], faces), material, mapping=mapping)

    def stand(self) -> Object:
        """The same object, centred in x and z, its lowest point on y = 0."""
        low, high = self.bounds()
        shift = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
        self.parts = [replace(part, vertices=part.vertices - shift) for part in self.parts]
        return self

    def bounds(self) -> np.ndarray:
        """Lowest and highest corner [2, 3] in modelling units."""
        vertices = np.concatenate([part.vertices for part in self.parts])
        return np.stack([vertices.min(axis=0), vertices.max(axis=0)])

    def mesh(self) -> trimesh.Trimesh:
        """One mesh in metres with one PBR material, whose textures have a cell for each of `materials`."""
        names = sorted(self.materials)
        materials = [self.materials[name] for name in names]
        plain = all(material.plain for material in materials)
        cells = PALETTE_CELLS if plain else math.ceil(math.sqrt(len(names)))
        if len(names) > cells**2:
            raise ValueError(
                f"materials: {len(names)} plain colours; merge some, the palette has {cells**2} cells"
            )
        bounds = self.bounds()
        vertices, normals, faces, uvs, offset = [], [], [], [], 0
        for part in self.parts:
            row, column = divmod(names.index(part.material), cells)
            source = np.arange(len(part.vertices))
            part_faces, uv = part.faces, np.full((len(source), 2), 0.5)
            if not self.materials[part.material].plain:
                if isinstance(part.mapping, str):
                    source, part_faces, uv = unwrap(part, bounds)
                else:
                    uv = part.mapping
                uv = (GUTTER + uv * TEXTURE_PIXELS) / (TEXTURE_PIXELS + 2 * GUTTER)
            uvs.append(np.stack([(column + uv[:, 0]) / cells, 1 - (row + 1 - uv[:, 1]) / cells], axis=1))
            vertices.append(part.vertices[source])
            normals.append(part.normals[source])
            faces.append(part_faces + offset)
            offset += len(source)
        return trimesh.Trimesh(
            vertices=np.concatenate(vertices) * self.scale,
            faces=np.concatenate(faces),
            vertex_normals=np.concatenate(normals),
            visual=TextureVisuals(uv=np.concatenate(uvs), material=pbr(materials, cells)),
            process=False,
        )


def unwrap(part: Part, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices split where the mapping is cut: old index [n], faces [f, 3], place in the texture [n, 2]."""
    low, high = bounds if part.mapping == "object" else (part.vertices.min(axis=0), part.vertices.max(axis=0))
    corners = part.vertices[part.faces]  # [f, 3, 3]
    if part.mapping == "round":
        across, _, along = np.moveaxis(corners - (low + high) / 2, -1, 0)  # [f, 3]
        turn = np.arctan2(across, along) / (2 * np.pi) + 0.5  # the middle of the texture faces the front
        middle = np.arctan2(across.sum(axis=1), along.sum(axis=1))[:, None] / (2 * np.pi) + 0.5
        on_axis = np.hypot(across, along) < 1e-6 * (high - low).max()
        turn = np.where(on_axis, middle, turn - np.round(turn - middle))
        uv = np.stack([turn, (corners[..., 1] - low[1]) / (high[1] - low[1])], axis=-1)
    else:
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        main = np.abs(normal).argmax(axis=1)
        sign = np.where(np.take_along_axis(normal, main[:, None], axis=1) < 0, -1.0, 1.0)  # [f, 1]
        middle = corners - (low + high) / 2
        across = np.where(main[:, None] == 0, -sign * middle[..., 2], middle[..., 0])
        across = np.where(main[:, None] == 2, sign * across, across)
        up = np.where(main[:, None] == 1, -sign * middle[..., 2], middle[..., 1])
        uv = np.stack([across, up], axis=-1) / (high - low).max() + 0.5
    keys = np.column_stack([part.faces.reshape(-1), np.round(np.clip(uv, 0, 1).reshape(-1, 2), 9)])
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    return unique[:, 0].astype(np.int64), inverse.reshape(-1, 3), unique[:, 1:]


def pbr(materials: list[Material], cells: int) -> PBRMaterial:
    """The material of an object: base colours in a grid of cells and, unless all is matte, finishes too."""
    plain = all(material.plain for material in materials)
    size = PALETTE_PIXELS if plain else TEXTURE_PIXELS + 2 * GUTTER
    base, finish = (np.zeros((cells, size, cells, size, 3), np.uint8) for _ in range(2))
    for index, material in enumerate(materials):
        row, column = divmod(index, cells)
        colour = np.asarray(material.colour, np.uint8)
        if not material.plain:
            colour = np.pad(colour, ((GUTTER, GUTTER), (GUTTER, GUTTER), (0, 0)), mode="edge")
        base[row, :, column] = colour
        finish[row, :, column] = 0, round(255 * material.roughness), round(255 * material.metallic)
    base, finish = (Image.fromarray(grid.reshape(cells * size, cells * size, 3)) for grid in (base, finish))
    made = PBRMaterial(name="palette" if plain else "atlas", baseColorTexture=base)
    made.roughnessFactor, made.metallicFactor = MATTE
    if not all(material.matte for material in materials):
        made.metallicRoughnessTexture = finish
        made.roughnessFactor = made.metallicFactor = 1.0  # factors of the texture
    return made


def to_glb(thing: Object, *, name: str) -> bytes:
    """The object as GLB bytes, with its normals; equal objects give equal bytes.

    Where all is matte there is no specular lobe; otherwise the finishes are a metallic-roughness texture.
    """
    scene = trimesh.Scene()
    scene.add_geometry(thing.mesh(), node_name=name, geom_name=name)
    matte = all(material.matte for material in thing.materials.values())
    finish = without_gloss if matte else None
    return export_glb(scene, include_normals=True, tree_postprocessor=finish)


def without_gloss(tree: dict) -> None:
    """Take the specular lobe from the materials of a glTF tree: every renderer then shows matte paint."""
    for material in tree["materials"]:
        material["extensions"] = {"KHR_materials_specular": {"specularFactor": 0.0}}
    tree["extensionsUsed"] = ["KHR_materials_specular"]


def loft(rings: np.ndarray) -> Solid:
    """Closed surface through rings [s, m, 3], capped with a fan at both ends."""
    count, size = rings.shape[:2]
    vertices = np.concatenate([rings.reshape(-1, 3), rings[[0, -1]].mean(axis=1)])
    index = np.arange(size)
    following = (index + 1) % size
    faces = []
    for row in range(count - 1):
        low, high = row * size, (row + 1) * size
        faces.append(np.stack([low + index, low + following, high + following], axis=1))
        faces.append(np.stack([low + index, high + following, high + index], axis=1))
    first, last = count * size, count * size + 1
    faces.append(np.stack([np.full(size, first), following, index], axis=1))
    top = (count - 1) * size
    faces.append(np.stack([np.full(size, last), top + index, top + following], axis=1))
    return vertices, np.concatenate(faces)


def rounded_quad(
    corners: Sequence[Sequence[float]] | np.ndarray, radius: float, segments: int = 4
) -> np.ndarray:
    """A polygon [4 * segments, d] from four corners in order, each rounded to a curve of size `radius`."""
    points = np.asarray(corners, dtype=np.float64)
    outline = []
    for k in range(4):
        here, before, after = points[k], points[k - 1], points[(k + 1) % 4]
        start = here + (before - here) * min(0.5, radius / max(np.linalg.norm(before - here), 1e-9))
        end = here + (after - here) * min(0.5, radius / max(np.linalg.norm(after - here), 1e-9))
        pull = 0.72 * here + 0.14 * (start + end)  # a conic close to a circle
        for t in np.linspace(0.0, 1.0, segments):
            outline.append((1 - t) ** 2 * start + 2 * t * (1 - t) * pull + t**2 * end)
    return np.array(outline)


def hull_of_stations(stations: np.ndarray, radius: float, bevel: float) -> Solid:
    """Loft along +Z through rows (z, y_low, y_high, half_width_low, half_width_high) with rounded ends."""
    turn = np.linspace(0.15, np.pi / 2, 5)
    z_low, z_high = stations[0, 0], stations[-1, 0]
    inner = stations[(stations[:, 0] > z_low + bevel * 1.05) & (stations[:, 0] < z_high - bevel * 1.05)]
    rows = [(z_low + bevel * (1 - np.cos(a)), bevel * (1 - np.sin(a))) for a in turn]
    rows += [(z, 0.0) for z in inner[:, 0]]
    rows += sorted((z_low + z_high - z, m) for z, m in rows[:5])
    rings = []
    for z, margin in rows:
        y_low, y_high, w_low, w_high = (np.interp(z, stations[:, 0], stations[:, k]) for k in range(1, 5))
        y_low, y_high, w_low, w_high = y_low + margin, y_high - margin, w_low - margin, w_high - margin
        outline = rounded_quad([(w_low, y_low), (w_high, y_high), (-w_high, y_high), (-w_low, y_low)], radius)
        rings.append(np.column_stack([outline, np.full(len(outline), z)]))
    return loft(np.array(rings))


def box(centre: Point, size: Point, bevel: float) -> Solid:
    """A box with rounded edges; centre and full size in (x, y, z)."""
    x, y, z = centre
    half_x, half_y, half_z = (s / 2 for s in size)
    rows = np.array([[e, y - half_y, y + half_y, half_x, half_x] for e in (z - half_z, z + half_z)])
    vertices, faces = hull_of_stations(rows, bevel, bevel)
    return vertices + np.array([x, 0, 0]), faces


def revolve(profile: Sequence[tuple[float, float]], centre: Point, axis: str, segments: int = 18) -> Solid:
    """A solid of revolution about an axis through `centre`; profile rows are (radius, offset along it)."""
    turn = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    rings = []
    for radius, offset in profile:
        ring = {"u": radius * np.cos(turn), "v": radius * np.sin(turn), "w": np.full(segments, offset)}
        order = {"x": "wuv", "y": "uwv", "z": "uvw"}[axis]
        rings.append(np.stack([ring[k] for k in order], axis=1))
    vertices, faces = loft(np.array(rings))
    return vertices + np.asarray(centre), faces


def disc(centre: Point, axis: str, radius: float, thickness: float, *, outward: float = 1.0) -> Solid:
    """A lens-like button lying at `centre` and bulging `thickness` along `outward` times the axis."""
    rows = [(radius, -thickness), (radius, 0.35 * thickness), (0.9 * radius, 0.75 * thickness)]
    rows += [(0.65 * radius, 0.95 * thickness), (0.3 * radius, thickness)]
    return revolve([(r, o * outward) for r, o in rows], centre, axis)


def panel(
    corners: Sequence[Sequence[float]] | np.ndarray, radius: float, height: float, depth: float = 0.02
) -> Solid:
    """A plate on a planar quad [4, 3], standing `height` out of it (counter-clockwise seen from outside)."""
    points = np.asarray(corners, dtype=np.float64)
    outline = rounded_quad(points, radius)
    normal = np.cross(points[1] - points[0], points[2] - points[0])
    normal /= np.linalg.norm(normal)
    centre = outline.mean(axis=0)
    inset = outline + (centre - outline) * (
        0.6 * height / np.linalg.norm(centre - outline, axis=1, keepdims=True)
    )
    return loft(
        np.stack([outline - depth * normal, outline + 0.5 * height * normal, inset + height * normal])
    )


def on_quad(corners: np.ndarray, low: tuple[float, float], high: tuple[float, float]) -> np.ndarray:
    """The sub-quad [4, 3] between two (along, up) fractions; corners start low-left, counter-clockwise."""
    a, b, c, d = corners

    def at(s: float, t: float) -> np.ndarray:
        return (1 - t) * ((1 - s) * a + s * b) + t * ((1 - s) * d + s * c)

    return np.array([at(low[0], low[1]), at(high[0], low[1]), at(high[0], high[1]), at(low[0], high[1])])


def prism(outline: np.ndarray, low: float, high: float, bevel: float, axis: str = "z") -> Solid:
    """A convex outline [n, 2] in (x, y), or (x, z) for axis "y", from `low` to `high` with rounded edges."""
    centre = (outline.min(axis=0) + outline.max(axis=0)) / 2
    half = np.maximum((outline.max(axis=0) - outline.min(axis=0)) / 2, 1e-9)
    rings = []
    for turn in np.linspace(0.15, np.pi - 0.15, 10):
        inner = centre + (outline - centre) * (1 - bevel * (1 - np.sin(turn)) / half)
        place = low + bevel * (1 - np.cos(turn)) if turn < np.pi / 2 else high - bevel * (1 + np.cos(turn))
        flat = np.full(len(outline), place)
        rings.append(np.column_stack([inner, flat] if axis == "z" else [inner[:, 0], flat, inner[:, 1]]))
    return loft(np.array(rings))


def beam(start: Sequence[float], end: Sequence[float], width: float, depth: float, bevel: float) -> Solid:
    """A box with rounded edges from one point to another; its depth lies across, nearest to the z axis."""
    first, last = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    length = float(np.linalg.norm(last - first))
    along = (last - first) / length
    helper = np.array([0.0, 0.0, 1.0]) if abs(along[2]) < 0.9 else np.array([0.0, 1.0, 0.0])
    side = np.cross(along, helper)
    side /= np.linalg.norm(side)
    vertices, faces = box((0, 0, length / 2), (width, depth, length), bevel)
    return vertices @ np.stack([side, np.cross(along, side), along]) + first, faces


def turned(solid: Solid, degrees: float, axis: Literal["x", "y", "z"], centre: Point = (0, 0, 0)) -> Solid:
    """A solid turned counter-clockwise about an axis through `centre`."""
    vertices, faces = solid
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = np.eye(3)
    matrix[[first, first, second, second], [first, second, first, second]] = cos, -sin, sin, cos
    return (vertices - centre) @ matrix.T + centre, faces


def moved(solid: Solid, shift: Point) -> Solid:
    """A solid shifted by (x, y, z)."""
    return solid[0] + np.asarray(shift), solid[1]
