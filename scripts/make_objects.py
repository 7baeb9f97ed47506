"""Procedural toy cars: a narrow, seeded family of objects to train and test on without a download.

Every car is bilaterally symmetric and coloured so that its back can be guessed from its front. Cars are
built in glTF axes (+Y up, metres, the front points to +Z) out of closed parts that share one palette texture.

    python scripts/make_objects.py --count 100 --seed 0 --out data
"""

from __future__ import annotations

import argparse
import colorsys
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

SOURCE = "svd3d/scripts/make_objects.py"
LICENCE = "CC0-1.0"
PALETTE_CELLS, CELL_PIXELS = 8, 4
TOY_LENGTH_M = 0.14  # one modelling unit is about one car length
BODY_TYPES = ("sedan", "hatchback", "van", "pickup", "racer")
BODY_WEIGHTS = (0.25, 0.22, 0.2, 0.18, 0.15)
FIXED_COLOURS = {
    "tyre": (38, 38, 42),
    "arch": (26, 26, 30),
    "chrome": (196, 199, 204),
    "headlight": (255, 240, 170),
    "taillight": (205, 28, 28),
    "plate": (240, 240, 232),
    "glass": (34, 58, 104),
}
PAINTS = (
    (0.000, 0.85, 0.85),
    (0.040, 0.88, 0.95),
    (0.085, 0.90, 0.97),
    (0.135, 0.85, 0.97),
    (0.250, 0.70, 0.75),
    (0.350, 0.75, 0.62),
    (0.480, 0.75, 0.72),
    (0.550, 0.75, 0.90),
    (0.610, 0.82, 0.82),
    (0.740, 0.60, 0.75),
    (0.920, 0.55, 0.93),
)  # hue, saturation, value

Solid = tuple[np.ndarray, np.ndarray]  # vertices [n, 3], faces [f, 3]


@dataclass
class Parts:
    """Closed triangle parts with one colour each, in modelling units."""

    vertices: list[np.ndarray] = field(default_factory=list)  # [n, 3]
    normals: list[np.ndarray] = field(default_factory=list)  # [n, 3]
    faces: list[np.ndarray] = field(default_factory=list)  # [f, 3]
    colours: list[str] = field(default_factory=list)

    def add(self, part: Solid, colour: str, *, mirror: bool = False) -> None:
        """Append a part, turned outward, with area-weighted smooth normals; `mirror` adds its twin at -x."""
        vertices, faces = part
        corners = vertices[faces]
        if np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) < 0:
            faces = faces[:, ::-1]
            corners = vertices[faces]
        area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals = np.zeros_like(vertices)
        for corner in range(3):
            np.add.at(normals, faces[:, corner], area)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        self.vertices.append(vertices)
        self.normals.append(normals)
        self.faces.append(faces)
        self.colours.append(colour)
        if mirror:
            self.add((vertices * [-1, 1, 1], faces), colour)


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


def rounded_quad(corners: Sequence[Sequence[float]], radius: float, segments: int = 4) -> np.ndarray:
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


def box(centre: Sequence[float], size: Sequence[float], bevel: float) -> Solid:
    """A box with rounded edges; centre and full size in (x, y, z)."""
    x, y, z = centre
    half_x, half_y, half_z = (s / 2 for s in size)
    rows = np.array([[e, y - half_y, y + half_y, half_x, half_x] for e in (z - half_z, z + half_z)])
    vertices, faces = hull_of_stations(rows, bevel, bevel)
    return vertices + np.array([x, 0, 0]), faces


def revolve(
    profile: Sequence[tuple[float, float]], centre: Sequence[float], axis: str, segments: int = 18
) -> Solid:
    """A solid of revolution about an axis through `centre`; profile rows are (radius, offset along it)."""
    turn = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    rings = []
    for radius, offset in profile:
        ring = {"u": radius * np.cos(turn), "v": radius * np.sin(turn), "w": np.full(segments, offset)}
        order = {"x": "wuv", "y": "uwv", "z": "uvw"}[axis]
        rings.append(np.stack([ring[k] for k in order], axis=1))
    vertices, faces = loft(np.array(rings))
    return vertices + np.asarray(centre), faces


def disc(
    centre: Sequence[float], axis: str, radius: float, thickness: float, *, outward: float = 1.0
) -> Solid:
    """A lens-like button lying at `centre` and bulging `thickness` along `outward` times the axis."""
    rows = [(radius, -thickness), (radius, 0.35 * thickness), (0.9 * radius, 0.75 * thickness)]
    rows += [(0.65 * radius, 0.95 * thickness), (0.3 * radius, thickness)]
    return revolve([(r, o * outward) for r, o in rows], centre, axis)


def panel(corners: Sequence[Sequence[float]], radius: float, height: float, depth: float = 0.02) -> Solid:
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


def paint(rng: np.random.Generator) -> tuple[int, int, int]:
    """A saturated paint near one of the named ones, sRGB 0..255."""
    hue, saturation, value = PAINTS[rng.integers(len(PAINTS))]
    hue = (hue + rng.uniform(-0.02, 0.02)) % 1.0
    saturation = np.clip(saturation + rng.uniform(-0.08, 0.08), 0, 1)
    value = np.clip(value + rng.uniform(-0.08, 0.05), 0, 1)
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def second_paint(rng: np.random.Generator, first: tuple[int, int, int]) -> tuple[int, int, int]:
    """A paint that stands out against the first: cream, charcoal, or another hue."""
    choice = rng.random()
    if choice < 0.55:
        return (245, 240, 225)
    if choice < 0.7:
        return (58, 60, 68)
    others = [paint(rng) for _ in range(4)]
    return max(others, key=lambda colour: sum(abs(p - q) for p, q in zip(colour, first, strict=True)))


@dataclass(frozen=True)
class Shape:
    """Measures of one car in modelling units; z positions are absolute, y from the ground."""

    kind: str
    length: float
    half_width: float
    wheel_radius: float
    wheel_z: tuple[float, float]  # rear, front
    y_low: float
    y_belt: float
    y_roof: float
    nose_drop: float
    tail_drop: float
    cabin_low: tuple[float, float]  # z of the rear and front foot of the cabin
    cabin_top: tuple[float, float]
    bevel: float

    @property
    def rear(self) -> float:
        return -self.length / 2

    @property
    def front(self) -> float:
        return self.length / 2

    def top(self, z: float) -> float:
        """Height of the lower body at z."""
        foot_rear, foot_front = self.cabin_low
        keys = [self.rear, foot_rear, foot_front, self.front]
        return float(
            np.interp(
                z,
                keys,
                [self.y_belt - self.tail_drop, self.y_belt, self.y_belt, self.y_belt - self.nose_drop],
            )
        )


def draw_shape(rng: np.random.Generator) -> Shape:
    """Body type and measures."""
    kind = str(rng.choice(BODY_TYPES, p=BODY_WEIGHTS))
    length = {"sedan": 1.0, "hatchback": 0.86, "van": 0.98, "pickup": 1.04, "racer": 1.0}[kind]
    length *= rng.uniform(0.95, 1.05)
    height = {"sedan": 0.19, "hatchback": 0.2, "van": 0.22, "pickup": 0.21, "racer": 0.155}[kind]
    cabin = {"sedan": 0.16, "hatchback": 0.17, "van": 0.22, "pickup": 0.17, "racer": 0.105}[kind]
    radius = rng.uniform(0.098, 0.12)
    y_low = radius * rng.uniform(0.64, 0.8)
    y_belt = y_low + height * rng.uniform(0.93, 1.1)
    slant = rng.uniform(-0.02, 0.02)
    feet = {
        "sedan": ((-0.34, 0.2), (-0.22, 0.06)),
        "hatchback": ((-0.47, 0.2), (-0.37, 0.06)),
        "van": ((-0.485, 0.4), (-0.465, 0.28)),
        "pickup": ((-0.08, 0.25), (-0.05, 0.13)),
        "racer": ((-0.26, 0.1), (-0.13, -0.02)),
    }[kind]
    low = tuple(length * f for f in feet[0])
    top = (length * feet[1][0], length * (feet[1][1] + slant))
    rear_wheel = {"racer": -0.29}.get(kind, -0.285)
    return Shape(
        kind=kind,
        length=length,
        half_width=rng.uniform(0.215, 0.25) * (1.06 if kind == "racer" else 1.0),
        wheel_radius=radius,
        wheel_z=(length * rear_wheel, length * rng.uniform(0.275, 0.3)),
        y_low=y_low,
        y_belt=y_belt,
        y_roof=y_belt + cabin * rng.uniform(0.92, 1.12),
        nose_drop={"van": 0.01, "racer": 0.06}.get(kind, 0.03) * rng.uniform(0.8, 1.3),
        tail_drop={"sedan": 0.02, "racer": 0.0}.get(kind, 0.0),
        cabin_low=low,
        cabin_top=top,
        bevel=rng.uniform(0.05, 0.07),
    )


def body_stations(
    shape: Shape, *, half_width: float, grow: float, low: float, high: float | None
) -> np.ndarray:
    """Stations of the lower body, inflated by `grow`; `high` cuts it off at a height."""
    bed_front = shape.cabin_low[0]
    keys = np.linspace(shape.rear, shape.front, 12)
    rows = []
    if shape.kind == "pickup":
        keys = np.concatenate([keys[np.abs(keys - bed_front) > 0.02], [bed_front - 0.006, bed_front + 0.006]])
        keys.sort()
    for z in keys:
        top = shape.top(float(z))
        if shape.kind == "pickup" and z < bed_front:
            top = shape.y_belt - 0.06
        top = top + grow if high is None else min(top + grow, high)
        stretch = 1 + 2 * grow / shape.length
        rows.append((z * stretch, low, top, half_width, half_width * 0.965))
    return np.array(rows)


def add_wheels(parts: Parts, shape: Shape) -> None:
    """Tyres, hubcaps and dark wheel arches on both sides."""
    radius, width = shape.wheel_radius, 0.095
    outside = shape.half_width + 0.022
    for z in shape.wheel_z:
        tyre = [
            (0.3, 0),
            (0.85, 0),
            (0.95, 0.06),
            (1.0, 0.2),
            (1.0, 0.8),
            (0.95, 0.94),
            (0.85, 1.0),
            (0.3, 1.0),
        ]
        centre = (outside - width, radius, z)
        parts.add(revolve([(r * radius, x * width) for r, x in tyre], centre, "x", 22), "tyre", mirror=True)
        parts.add(disc((outside, radius, z), "x", 0.6 * radius, 0.012), "hub", mirror=True)
        parts.add(disc((outside + 0.01, radius, z), "x", 0.2 * radius, 0.012), "accent", mirror=True)
        turn = np.linspace(0, np.pi, 18)
        arch = 1.14 * radius
        y = np.clip(radius + arch * np.sin(turn), shape.y_low + 0.012, shape.top(z) - 0.036)
        outline = np.stack([np.full(18, 0.0), y, z + arch * np.cos(turn)], axis=1)
        foot = np.array([[0, shape.y_low + 0.012, z - arch], [0, shape.y_low + 0.012, z + arch]])
        outline = np.concatenate([outline, foot])
        x = shape.half_width
        rings = np.stack([outline + np.array([out, 0, 0]) for out in (x - 0.03, x + 0.004)])
        parts.add(loft(rings), "arch", mirror=True)


def add_cabin(parts: Parts, shape: Shape, colour: str) -> None:
    """Greenhouse with glass on all four sides."""
    (low_rear, low_front), (top_rear, top_front) = shape.cabin_low, shape.cabin_top
    y_low, y_top = shape.y_belt - 0.02, shape.y_roof
    wide, narrow = shape.half_width * 0.93, shape.half_width * (0.86 if shape.kind == "van" else 0.76)
    rings = []
    steps = [(t, 0.0) for t in np.linspace(0, 1, 5)[:-1]]
    rounding = 0.035
    steps += [
        (1 - rounding * (1 - np.sin(a)) / (y_top - y_low), rounding * (1 - np.cos(a)))
        for a in np.linspace(0, np.pi / 2 - 0.15, 5)
    ]
    for t, inset in steps:
        z_rear = low_rear + t * (top_rear - low_rear) + inset
        z_front = low_front + t * (top_front - low_front) - inset
        half = wide + t * (narrow - wide) - inset
        corners = [(half, z_rear), (half, z_front), (-half, z_front), (-half, z_rear)]
        outline = rounded_quad(corners, 0.05)
        rings.append(
            np.stack([outline[:, 0], np.full(16, y_low + t * (y_top - y_low)), outline[:, 1]], axis=1)
        )
    parts.add(loft(np.array(rings)), colour)

    def corner(x: float, y: float, z: float) -> np.ndarray:
        return np.array([x, y, z])

    start = 0.2 if shape.kind != "van" else 0.18
    end = 0.8
    side = np.array(
        [
            corner(wide, y_low, low_front),
            corner(wide, y_low, low_rear),
            corner(narrow, y_top, top_rear),
            corner(narrow, y_top, top_front),
        ]
    )
    count = {"van": 4, "pickup": 1, "racer": 1}.get(shape.kind, 2)
    edges = np.linspace(0.1, 0.9, count + 1)
    gap = 0.022
    for k in range(count):
        left = edges[k] + (gap if k else 0)
        right = edges[k + 1] - (gap if k + 1 < count else 0)
        parts.add(panel(on_quad(side, (left, start), (right, end)), 0.03, 0.006), "glass", mirror=True)
    front = np.array(
        [
            corner(-wide, y_low, low_front),
            corner(wide, y_low, low_front),
            corner(narrow, y_top, top_front),
            corner(-narrow, y_top, top_front),
        ]
    )
    rear = np.array(
        [
            corner(wide, y_low, low_rear),
            corner(-wide, y_low, low_rear),
            corner(-narrow, y_top, top_rear),
            corner(narrow, y_top, top_rear),
        ]
    )
    parts.add(panel(on_quad(front, (0.11, start), (0.89, end)), 0.03, 0.006), "glass")
    parts.add(panel(on_quad(rear, (0.13, start + 0.05), (0.87, end)), 0.03, 0.006), "glass")


def add_lights(parts: Parts, shape: Shape, rng: np.random.Generator) -> None:
    """Headlights, tail lights, grille, plates and bumpers."""
    nose = shape.top(shape.front - 0.02)
    height = nose - shape.y_low
    x = shape.half_width * 0.66
    size = rng.uniform(0.036, 0.046) * (0.85 if shape.kind == "racer" else 1.0)
    y = shape.y_low + 0.62 * height
    parts.add(disc((x, y, shape.front - 0.006), "z", 1.22 * size, 0.014), "chrome", mirror=True)
    parts.add(disc((x, y, shape.front + 0.004), "z", size, 0.014), "headlight", mirror=True)
    grille = shape.half_width * rng.uniform(0.5, 0.66)
    parts.add(box((0, y, shape.front - 0.005), (grille, 0.058, 0.035), 0.012), "arch")
    tail = 0.035 if shape.kind == "pickup" else 0.045
    y_tail = shape.y_low + 0.64 * (shape.y_belt - shape.tail_drop - shape.y_low)
    parts.add(box((x * 1.04, y_tail, shape.rear), (0.06, tail * 1.6, 0.028), 0.01), "taillight", mirror=True)
    parts.add(box((0, y_tail - 0.012, shape.rear), (0.13, 0.045, 0.02), 0.006), "plate")
    bumper_y = shape.y_low + 0.032
    for z in (shape.front - 0.015, shape.rear + 0.015):
        size_xyz = (2 * shape.half_width * 0.97, 0.052, 0.085)
        parts.add(box((0, bumper_y, z), size_xyz, 0.022), "bumper")


def add_extras(parts: Parts, shape: Shape, rng: np.random.Generator, cabin_colour: str) -> None:
    """Mirrors, handles and what the car carries; all of it shows from the front."""
    width, belt = shape.half_width, shape.y_belt
    mirror_z = shape.cabin_low[1] - 0.06
    parts.add(box((width * 0.97, belt + 0.035, mirror_z), (0.065, 0.045, 0.035), 0.012), "body", mirror=True)
    handle_z = (shape.cabin_low[0] + shape.cabin_low[1]) / 2 - (0.02 if shape.kind != "pickup" else 0.05)
    if shape.kind != "racer":
        parts.add(
            box((width * 0.975, belt - 0.05, handle_z), (0.014, 0.016, 0.055), 0.005), "chrome", mirror=True
        )
    top_rear, top_front = shape.cabin_top
    roof_length, roof_z = top_front - top_rear, (top_front + top_rear) / 2
    roof_half = shape.half_width * (0.86 if shape.kind == "van" else 0.76)
    choice = rng.random()
    stripe = rng.random()
    if shape.kind == "racer" or stripe < 0.22:
        offsets = (0.0,) if stripe < 0.5 else (-0.04, 0.04)
        half = 0.045 if len(offsets) == 1 else 0.022
        for offset in offsets:
            rows = body_stations(shape, half_width=half, grow=0.005, low=shape.y_low + 0.02, high=None)
            vertices, faces = hull_of_stations(rows, 0.008, shape.bevel)
            parts.add((vertices + np.array([offset, 0, 0]), faces), "second")
            size = (2 * half, 0.02, roof_length - 0.06)
            parts.add(box((offset, shape.y_roof - 0.005, roof_z), size, 0.006), "second")
    elif stripe < 0.5:
        cut = shape.y_low + 0.42 * (belt - shape.y_low)
        rows = body_stations(shape, half_width=width + 0.004, grow=0.004, low=shape.y_low - 0.003, high=cut)
        parts.add(hull_of_stations(rows, 0.02, shape.bevel), "second")
    if shape.kind == "racer":
        y_wing = belt + 0.1
        z_wing = shape.rear + 0.065
        parts.add(box((0, y_wing, z_wing), (2 * width * 0.98, 0.022, 0.11), 0.01), "second")
        parts.add(box((width * 0.55, belt + 0.04, z_wing), (0.025, 0.12, 0.06), 0.008), "body", mirror=True)
        middle = (shape.wheel_z[0] + shape.wheel_z[1]) / 2
        y_disc = shape.y_low + 0.52 * (belt - shape.y_low)
        parts.add(disc((width * 0.985, y_disc, middle), "x", 0.062, 0.012), "plate", mirror=True)
        parts.add(disc((width * 0.985 + 0.009, y_disc, middle), "x", 0.028, 0.009), "accent", mirror=True)
        return
    if shape.kind == "hatchback" and choice < 0.35:
        z = top_rear - 0.01
        parts.add(box((0, shape.y_roof - 0.008, z), (2 * roof_half * 0.92, 0.025, 0.1), 0.01), cabin_colour)
    elif choice < 0.55 and shape.kind != "pickup":
        bar = (2 * roof_half * 0.9, 0.02, 0.024)
        for z in (roof_z - 0.3 * roof_length, roof_z + 0.3 * roof_length):
            parts.add(box((0, shape.y_roof + 0.012, z), bar, 0.008), "chrome")
        rail = (0.022, 0.022, 0.85 * roof_length)
        parts.add(box((roof_half * 0.8, shape.y_roof + 0.026, roof_z), rail, 0.008), "chrome", mirror=True)
        if choice < 0.45:
            size = (roof_half * 1.25, 0.07, roof_length * rng.uniform(0.4, 0.65))
            parts.add(box((0, shape.y_roof + 0.06, roof_z), size, 0.016), "luggage")
    elif choice < 0.72:
        parts.add(box((0, shape.y_roof + 0.004, roof_z), (0.13, 0.03, 0.06), 0.01), "chrome")
        rows = [(0.03, -0.02), (0.03, 0.022), (0.026, 0.036), (0.015, 0.044)]
        if rng.random() < 0.5:
            parts.add(revolve(rows, (0, shape.y_roof + 0.01, roof_z), "y"), "beacon")
        else:
            parts.add(box((0, shape.y_roof + 0.035, roof_z), (0.15, 0.05, 0.055), 0.016), "beacon")
    if shape.kind == "pickup":
        wall_z = (shape.rear + shape.bevel * 0.6, shape.cabin_low[0])
        middle, depth = sum(wall_z) / 2, wall_z[1] - wall_z[0]
        y_wall, height = belt - 0.04, 0.09
        parts.add(
            box((width - 0.026, y_wall, middle), (0.04, height, depth + 0.03), 0.012), "body", mirror=True
        )
        parts.add(box((0, y_wall, shape.rear + 0.03), (2 * width * 0.9, height, 0.04), 0.012), "body")
        parts.add(box((0, belt - 0.063, middle), (2 * width * 0.84, 0.02, depth), 0.004), "bed")
        if choice < 0.45:
            size = (width * rng.uniform(0.8, 1.2), rng.uniform(0.12, 0.19), depth * rng.uniform(0.45, 0.7))
            parts.add(box((0, belt - 0.055 + size[1] / 2, middle), size, 0.016), "luggage")


def make_toy_car(seed: int) -> trimesh.Trimesh:
    """One toy car: glTF axes (+Y up, front to +Z), metres, standing on y = 0, one palette texture."""
    rng = np.random.default_rng([seed, 20240401])
    shape = draw_shape(rng)
    first = paint(rng)
    second = second_paint(rng, first)
    colours = dict(FIXED_COLOURS)
    colours |= {"body": first, "second": second, "accent": second if rng.random() < 0.5 else first}
    colours["hub"] = [(205, 207, 210), (238, 234, 222), (238, 205, 80)][rng.choice(3, p=[0.5, 0.35, 0.15])]
    colours["bumper"] = [(196, 199, 204), (60, 61, 66)][rng.integers(2)]
    colours["beacon"] = [(40, 105, 225), (245, 150, 30)][rng.integers(2)]
    colours["luggage"] = [(150, 95, 55), (200, 150, 95), (120, 60, 50)][rng.integers(3)]
    colours["bed"] = (70, 62, 56)
    colours["glass"] = tuple(int(c + rng.integers(-8, 9)) for c in colours["glass"])
    cabin_colour = "second" if rng.random() < 0.35 and shape.kind != "racer" else "body"

    parts = Parts()
    rows = body_stations(shape, half_width=shape.half_width, grow=0.0, low=shape.y_low, high=None)
    parts.add(hull_of_stations(rows, 0.045, shape.bevel), "body")
    add_wheels(parts, shape)
    add_cabin(parts, shape, cabin_colour)
    add_lights(parts, shape, rng)
    add_extras(parts, shape, rng, cabin_colour)
    return assemble(parts, colours)


def assemble(parts: Parts, colours: dict[str, tuple[int, int, int]]) -> trimesh.Trimesh:
    """Concatenate the parts; every part reads one cell of the palette."""
    names = sorted(colours)
    image = np.zeros((PALETTE_CELLS, PALETTE_CELLS, 3), np.uint8)
    for cell, name in enumerate(names):
        image[cell // PALETTE_CELLS, cell % PALETTE_CELLS] = colours[name]
    image = image.repeat(CELL_PIXELS, axis=0).repeat(CELL_PIXELS, axis=1)
    faces, uvs, offset = [], [], 0
    for vertices, part_faces, colour in zip(parts.vertices, parts.faces, parts.colours, strict=True):
        row, column = divmod(names.index(colour), PALETTE_CELLS)
        uv = ((column + 0.5) / PALETTE_CELLS, 1 - (row + 0.5) / PALETTE_CELLS)
        faces.append(part_faces + offset)
        uvs.append(np.tile(uv, (len(vertices), 1)))
        offset += len(vertices)
    material = trimesh.visual.material.PBRMaterial(
        name="palette", baseColorTexture=Image.fromarray(image), roughnessFactor=0.6, metallicFactor=0.0
    )
    return trimesh.Trimesh(
        vertices=np.concatenate(parts.vertices) * TOY_LENGTH_M,
        faces=np.concatenate(faces),
        vertex_normals=np.concatenate(parts.normals),
        visual=trimesh.visual.TextureVisuals(uv=np.concatenate(uvs), material=material),
        process=False,
    )


def without_gloss(tree: dict) -> None:
    """Take the specular lobe from the materials of a glTF tree: every renderer then shows matte paint."""
    for material in tree["materials"]:
        material["extensions"] = {"KHR_materials_specular": {"specularFactor": 0.0}}
    tree["extensionsUsed"] = ["KHR_materials_specular"]


def to_glb(mesh: trimesh.Trimesh, *, name: str) -> bytes:
    """The mesh as GLB bytes, with its normals; equal meshes give equal bytes."""
    scene = trimesh.Scene()
    scene.add_geometry(mesh, node_name=name, geom_name=name)
    return scene.export(file_type="glb", include_normals=True, tree_postprocessor=without_gloss)


def write_objects(*, count: int, seed: int, out: Path) -> Path:
    """Write `count` cars with seeds seed, seed + 1, ... and their objects.jsonl; returns the list's path."""
    (out / "objects").mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(seed, seed + count):
        uid = f"toycar-{number:06d}"
        data = to_glb(make_toy_car(number), name=uid)
        path = Path("objects") / f"{uid}.glb"
        (out / path).write_bytes(data)
        row = {"uid": uid, "path": path.as_posix(), "sha256": hashlib.sha256(data).hexdigest()}
        row |= {"bytes": len(data), "licence": LICENCE, "source": SOURCE, "seed": number}
        lines.append(json.dumps(row))
        if len(lines) % 100 == 0:
            sys.stderr.write(f"{len(lines)} of {count} objects\n")
    listing = out / "objects.jsonl"
    partial = listing.with_name(f"{listing.name}.part")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(partial, listing)
    return listing


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write procedural toy cars as GLB files and an objects.jsonl."
    )
    parser.add_argument("--count", type=int, required=True, help="number of cars")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first car; the next ones count up")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    args = parser.parse_args()
    listing = write_objects(count=args.count, seed=args.seed, out=args.out)
    sys.stderr.write(f"wrote {args.count} objects and {listing}\nnext: scripts/make_orbits.py {listing}\n")


if __name__ == "__main__":
    main()
