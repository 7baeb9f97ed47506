"""Furniture: mostly chairs, armchairs and sofas, nearly mirror-symmetric, each in two or three colours."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from objects import textures
from objects.base import Material, Object, Solid, beam, box, loft, moved, prism, revolve, rounded_quad, turned
from objects.colours import paint, second_paint

WOODS = ((222, 178, 120), (186, 122, 66), (140, 82, 44), (104, 60, 38), (205, 140, 92))
PAINTED = ((244, 240, 230), (52, 54, 62), (198, 202, 206))


def cloth(rng: np.random.Generator, colours: tuple) -> Material:
    """Plain, striped or chequered fabric."""
    kind = rng.choice(["plain", "upright", "across", "checks"], p=[0.4, 0.25, 0.15, 0.2])
    if kind == "plain":
        return Material(colours[0])
    if kind == "checks":
        return Material(textures.checks(rng, colours, int(rng.integers(4, 7))))
    return Material(textures.stripes(rng, colours, int(rng.integers(4, 8)), upright=kind == "upright"))


def style(rng: np.random.Generator) -> dict[str, Material]:
    """Frame, cloth and accent of one piece."""
    first = paint(rng)
    second = second_paint(rng, first)
    choice = rng.random()
    if choice < 0.6:
        frame = Material(textures.wood(rng, WOODS[rng.integers(len(WOODS))]))
    else:
        frame = Material(PAINTED[rng.integers(len(PAINTED))] if choice < 0.8 else paint(rng))
    return {"frame": frame, "cloth": cloth(rng, (first, second)), "accent": Material(second)}


def rectangle(half: float, low: float, high: float, rounding: float) -> np.ndarray:
    """An outline [24, 2] from -half to half and low to high with rounded corners."""
    return rounded_quad([(half, low), (half, high), (-half, high), (-half, low)], rounding, 6)


def ellipse(half_x: float, half_y: float) -> np.ndarray:
    """An outline [32, 2] around the origin."""
    turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    return np.stack([half_x * np.cos(turn), half_y * np.sin(turn)], axis=1)


def leg(top: tuple, foot: tuple, top_radius: float, foot_radius: float, *, square: bool) -> Solid:
    """A leg between two points, tapered, cut level at both ends."""
    section = rectangle(1.0, -1.0, 1.0, 0.3) if square else ellipse(1.0, 1.0)[::2]
    rings = []
    for along, shrink in ((0.0, 0.85), (0.01, 1.0), (0.5, 1.0), (1.0, 1.0)):
        x, y, z = (1 - along) * np.asarray(foot) + along * np.asarray(top)
        outline = section * shrink * ((1 - along) * foot_radius + along * top_radius)
        rings.append(np.column_stack([x + outline[:, 0], np.full(len(section), y), z + outline[:, 1]]))
    return loft(np.array(rings))


def add_legs(
    piece: Object, rng: np.random.Generator, *, half_x: float, half_z: float, top: float, radius: float
) -> None:
    """Four legs inside half_x by half_z: straight, tapered, or splayed; round or square."""
    splay = rng.choice([0.0, 0.0, rng.uniform(0.02, 0.06)])
    taper = rng.uniform(0.7, 1.0)
    square = bool(rng.random() < 0.5)
    x = half_x - radius
    for side in (-1, 1):
        z = side * (half_z - radius)
        knee, foot = (x - splay, top, z - side * splay), (x, 0.0, z)
        piece.add(leg(knee, foot, radius, taper * radius, square=square), "frame", mirror=True)
    if rng.random() < 0.3 and top > 0.3:
        y = rng.uniform(0.25, 0.5) * top
        reach = x - splay * y / top
        rail = (1.3 * radius, 1.3 * radius, 2 * (half_z - radius) * 0.97)
        piece.add(box((reach, y, 0), rail, 0.3 * radius), "frame", mirror=True)
        piece.add(box((0, y, 0), (2 * reach, 1.3 * radius, 1.3 * radius), 0.3 * radius), "frame")


class Rim(NamedTuple):
    """What a chair's back has to fill: from the seat up to `top`, upright on z = 0 before it is leaned."""

    width: float
    seat: float
    top: float
    radius: float  # half the thickness of its wood

    @property
    def tall(self) -> float:
        return self.top - self.seat


Placed = tuple[Solid, str, bool]  # a solid, its material, and whether it has a twin at -x


def posts(rim: Rim, x: float, top: float) -> Placed:
    """Two uprights from the seat to `top`."""
    ends = (x, rim.seat - rim.radius, 0), (x, top, 0)
    return beam(*ends, 2 * rim.radius, 2 * rim.radius, 0.5 * rim.radius), "frame", True


def solid_back(rng: np.random.Generator, rim: Rim) -> list[Placed]:
    """A board, bare, upholstered, or with a pad in front."""
    kind = rng.choice(["board", "cloth", "pad"], p=[0.25, 0.5, 0.25])
    thick, low = 1.5 * rim.radius, rim.seat - 0.5 * rim.radius
    gap = rng.choice([0.0, 0.25]) * rim.tall
    rounding = rng.uniform(0.03, 0.16)
    board = prism(rectangle(rim.width / 2, low + gap, rim.top, rounding), -thick / 2, thick / 2, 0.3 * thick)
    parts: list[Placed] = [(board, "cloth" if kind == "cloth" else "frame", False)]
    if kind == "pad":
        edge = 0.1 * rim.tall
        outline = rectangle(0.4 * rim.width, low + gap + edge, rim.top - edge, 0.8 * rounding)
        parts.append((prism(outline, 0.0, thick, 0.4 * thick), "cloth", False))
    if gap:
        parts.append(posts(rim, 0.42 * rim.width - rim.radius, low + gap + 0.05))
    return parts


def oval_back(rng: np.random.Generator, rim: Rim) -> list[Placed]:
    """An upholstered oval on two posts."""
    half, thick = rng.uniform(0.34, 0.42) * rim.tall, 1.5 * rim.radius
    rim_outline, pad = (
        ellipse(share * rim.width / 2, share * half) + np.array([0, rim.top - half]) for share in (1.0, 0.78)
    )
    return [
        (prism(rim_outline, -thick / 2, thick / 2, 0.3 * thick), "frame", False),
        (prism(pad, -0.9 * thick, 0.9 * thick, 0.3 * thick), "cloth", False),
        posts(rim, 0.28 * rim.width, rim.top - 1.4 * half),
    ]


def open_back(rng: np.random.Generator, rim: Rim, filling: str) -> list[Placed]:
    """Two posts and a head rail, filled with ladder rails, upright slats, or one splat."""
    radius, x = rim.radius, rim.width / 2 - rim.radius
    head = rng.uniform(0.1, 0.22) * rim.tall
    accent = str(rng.choice(["frame", "accent"], p=[0.6, 0.4]))
    rail = box((0, rim.top - head / 2, 0), (rim.width, head, 1.8 * radius), 0.4 * radius)
    parts = [posts(rim, x, rim.top), (rail, accent, False)]
    end = rim.top - head / 2
    if filling == "ladder":
        count = int(rng.integers(1, 4))
        size = (2 * x, rng.uniform(0.3, 0.5) * rim.tall / (count + 1), 1.3 * radius)
        for k in range(count):
            y = rim.seat + (k + 0.7) / (count + 0.7) * (rim.tall - head)
            parts.append((box((0, y, 0), size, 0.4 * radius), "frame", False))
    elif filling == "slats":
        foot = rim.seat + 0.15 * rim.tall
        parts.append((box((0, foot, 0), (2 * x, 2.4 * radius, 1.6 * radius), 0.4 * radius), "frame", False))
        count = max(3, round(rim.width / 0.15))
        for place in np.linspace(-0.64 * x, 0.64 * x, count):
            slat = beam((place, foot, 0), (place, end, 0), 1.8 * radius, 1.3 * radius, 0.3 * radius)
            parts.append((slat, "frame", False))
    else:
        low, high = rng.uniform(0.1, 0.2) * rim.width, rng.uniform(0.12, 0.3) * rim.width
        outline = np.array([(low, rim.seat - radius), (high, end), (-high, end), (-low, rim.seat - radius)])
        parts.append((prism(outline, -0.7 * radius, 0.7 * radius, 0.3 * radius), accent, False))
    return parts


def back_parts(rng: np.random.Generator, rim: Rim) -> list[Placed]:
    """A back of some kind; wide ones are solid, ladders or slats."""
    kind = rng.choice(["solid", "oval", "ladder", "slats", "splat"], p=[0.44, 0.12, 0.2, 0.12, 0.12])
    if kind == "solid":
        return solid_back(rng, rim)
    if rim.width > 0.8:
        return open_back(rng, rim, "ladder" if kind == "ladder" else "slats")
    return oval_back(rng, rim) if kind == "oval" else open_back(rng, rim, str(kind))


def chair(rng: np.random.Generator, *, seats: int = 1, back: bool = True) -> Object:
    """A chair, a bench of several seats, or without a back a stool."""
    piece = Object(style(rng))
    width = rng.uniform(0.42, 0.54) + (seats - 1) * rng.uniform(0.36, 0.46)
    depth, seat = rng.uniform(0.4, 0.5), rng.uniform(0.4, 0.5)
    radius = rng.uniform(0.022, 0.03) + 0.008 * (seats - 1)
    board = rng.uniform(0.045, 0.065)
    outline = rectangle(width / 2, -depth / 2, depth / 2, rng.uniform(0.02, 0.2))
    add_legs(piece, rng, half_x=0.47 * width, half_z=0.47 * depth, top=seat - board / 2, radius=radius)
    cushion = rng.random() < 0.65
    wooden = "frame" if cushion else str(rng.choice(["cloth", "accent"]))
    piece.add(prism(outline, seat - board, seat, 0.3 * board, "y"), wooden)
    if cushion:
        thick = rng.uniform(0.04, 0.08)
        piece.add(prism(0.94 * outline, seat - 0.01, seat + thick, 0.45 * thick, "y"), "cloth")
    if not back:
        return piece
    top = seat + rng.uniform(0.36, 0.62) * (0.85 if seats > 1 else 1.0)
    rim = Rim(width=width * rng.uniform(0.9, 1.0), seat=seat, top=top, radius=radius)
    rear, lean = -depth / 2 + radius, rng.uniform(2, 13)
    for solid, material, mirror in back_parts(rng, rim):
        leaned = turned(moved(solid, (0, 0, rear)), -lean, "x", (0, seat, rear))
        piece.add(leaned, material, mirror=mirror)
    if rng.random() < 0.35:
        add_arms(piece, rng, rim, x=width / 2 + 0.2 * radius, under=seat - board, rear=rear, lean=lean)
    return piece


def add_arms(
    piece: Object, rng: np.random.Generator, rim: Rim, *, x: float, under: float, rear: float, lean: float
) -> None:
    """Arm rests from the leaning back to posts that stand at the sides of the seat."""
    up, width = rng.uniform(0.18, 0.24), 2 * rim.radius
    z = -rear * rng.uniform(-0.3, 0.7)
    rest = rim.seat + up
    piece.add(beam((x, under, z), (x, rest, z), width, width, 0.25 * width), "frame", mirror=True)
    back = (x, rest, rear - up * np.tan(np.radians(lean)))
    material = str(rng.choice(["frame", "accent"]))
    piece.add(beam(back, (x, rest, z + rim.radius), width, 1.3 * width, 0.25 * width), material, mirror=True)


def sofa(rng: np.random.Generator, *, seats: int = 1) -> Object:
    """An armchair, or a sofa of several seats."""
    piece = Object(style(rng))
    inner, depth = seats * rng.uniform(0.52, 0.64), rng.uniform(0.7, 0.9)
    arm, rest = rng.uniform(0.12, 0.22), rng.uniform(0.52, 0.66)
    foot, seat = rng.uniform(0.05, 0.16), rng.uniform(0.4, 0.46)
    top, thick, lean = rng.uniform(0.74, 1.0), rng.uniform(0.16, 0.24), rng.uniform(0, 10)
    half, rear = inner / 2 + arm, (thick - depth) / 2
    body = "cloth" if rng.random() < 0.6 else "accent"
    cushions = "accent" if body == "cloth" and rng.random() < 0.5 else "cloth"

    def leaned(solid: Solid) -> Solid:
        return turned(solid, -lean, "x", (0, seat, rear))

    radius, square = rng.uniform(0.03, 0.045), bool(rng.random() < 0.5)
    for z in (-0.42 * depth, 0.42 * depth):
        stub = leg((0.86 * half, foot + 0.03, z), (0.9 * half, 0, z), radius, 0.7 * radius, square=square)
        piece.add(stub, "frame", mirror=True)
    base = seat - 0.13
    piece.add(box((0, (foot + base) / 2, 0), (2 * half - 0.04, base - foot, depth - 0.03), 0.02), body)
    wide = 2 * half if rng.random() < 0.4 else inner + 0.02
    piece.add(leaned(box((0, (foot + top) / 2 + 0.02, rear), (wide, top - foot - 0.04, thick), 0.06)), body)
    rolled = rng.random() < 0.4
    height = rest - 0.4 * arm if rolled else rest
    size = (arm * (0.8 if rolled else 1.0), height - foot, depth)
    piece.add(
        box((half - arm / 2, (foot + height) / 2, 0), size, 0.03 if rolled else 0.05), body, mirror=True
    )
    if rolled:
        rows = [(0.1, 0.0), (0.5, 0.0), (0.58, 0.02), (0.62, 0.08)]
        rows += [(r, 1 - along) for r, along in reversed(rows)]
        profile = [(r * arm, (along - 0.5) * (depth + 0.02)) for r, along in rows]
        piece.add(revolve(profile, (half - arm / 2, height, 0), "z"), body, mirror=True)
    front, share = rear + thick / 2, inner / seats
    deep, tall = depth / 2 - front, top - seat
    for x in (np.arange(seats) - (seats - 1) / 2) * share:
        size = (share - 0.015, 0.15, deep)
        piece.add(box((x, seat - 0.06, front + deep / 2 + 0.01), size, 0.045), cushions)
        size = (share - 0.02, 0.84 * tall, 0.15)
        piece.add(leaned(box((x, seat + 0.44 * tall + 0.02, front + 0.05), size, 0.055)), cushions)
    if rng.random() < 0.4:
        side = rng.uniform(0.26, 0.36)
        place = (inner / 2 - 0.16 if seats > 1 else 0.0, seat + side / 2 + 0.01, front + 0.19)
        pillow = turned(box((0, 0, 0), (side, side, 0.13), 0.06), rng.uniform(-20, 20), "z")
        material = "accent" if cushions == "cloth" else "cloth"
        piece.add(moved(turned(pillow, -lean - 12, "x"), place), material, mirror=seats > 1)
    return piece


def stool(rng: np.random.Generator) -> Object:
    """A pouffe, a round stool, or a chair without a back."""
    if rng.random() < 0.4:
        return chair(rng, back=False)
    piece = Object(style(rng))
    radius, seat = rng.uniform(0.19, 0.27), rng.uniform(0.36, 0.62)
    if rng.random() < 0.4:
        bulge, tall = rng.uniform(1.0, 1.15), 0.8 * seat
        rows = [(0.3, 0), (0.9, 0), (1.0, 0.08), (bulge, 0.5), (1.0, 0.92), (0.9, 1.0), (0.3, 1.0)]
        piece.add(revolve([(r * radius, y * tall) for r, y in rows], (0, 0, 0), "y", 24), "cloth")
        rows = [(0.2, -0.03), (0.9, -0.03), (0.9, 0.03), (0.7, 0.05), (0.2, 0.05)]
        piece.add(revolve([(r * radius, y) for r, y in rows], (0, tall, 0), "y", 24), "accent")
        return piece
    half = 0.75 * radius
    add_legs(piece, rng, half_x=half, half_z=half, top=seat, radius=rng.uniform(0.018, 0.026))
    rows = [
        (0.3, -0.05),
        (0.95, -0.05),
        (1.0, -0.035),
        (1.0, 0.02),
        (0.93, 0.045),
        (0.6, 0.055),
        (0.2, 0.055),
    ]
    piece.add(revolve([(r * radius, y) for r, y in rows], (0, seat, 0), "y", 24), "cloth")
    return piece


def table(rng: np.random.Generator) -> Object:
    """A round or four-cornered table on four legs or a pedestal, perhaps with a bowl."""
    piece = Object(style(rng))
    width, height, thick = rng.uniform(0.7, 1.4), rng.uniform(0.4, 0.76), rng.uniform(0.04, 0.06)
    circular = rng.random() < 0.4
    depth = width if circular else rng.uniform(0.55, 0.9) * width
    corners = rectangle(width / 2, -depth / 2, depth / 2, rng.uniform(0.02, 0.2))
    face = str(rng.choice(["frame", "accent", "cloth"], p=[0.35, 0.25, 0.4]))
    outline = ellipse(width / 2, width / 2) if circular else corners
    piece.add(prism(outline, height - thick, height, 0.3 * thick, "y"), face)
    under = height - thick
    if rng.random() < (0.6 if circular else 0.2):
        foot, neck = rng.uniform(0.28, 0.42) * depth, rng.uniform(0.04, 0.07)
        profile = [(0.3 * foot, 0), (foot, 0), (foot, 0.03), (0.6 * foot, 0.06), (neck, 0.14)]
        profile += [(neck, height - 0.1), (2 * neck, under + 0.01), (neck, under + 0.01)]
        piece.add(revolve(profile, (0, 0, 0), "y", 24), "frame")
    else:
        radius, share = rng.uniform(0.03, 0.045), 0.33 if circular else 0.46
        half_x, half_z = share * width, share * depth
        add_legs(piece, rng, half_x=half_x, half_z=half_z, top=height - thick / 2, radius=radius)
        apron = (2 * half_x - 4 * radius, 0.08, 2 * half_z - 4 * radius)
        piece.add(box((0, under - 0.03, 0), apron, 0.012), "frame")
    if rng.random() < 0.4:
        size = rng.uniform(0.1, 0.16)
        rows = [
            (0.2, 0),
            (0.5, 0),
            (0.55, 0.1),
            (0.85, 0.4),
            (1.0, 0.8),
            (0.92, 0.8),
            (0.7, 0.45),
            (0.2, 0.3),
        ]
        profile = [(r * size, y * size) for r, y in rows]
        piece.add(revolve(profile, (0, height, 0), "y", 24), "cloth" if face == "accent" else "accent")
    return piece


def desk(rng: np.random.Generator) -> Object:
    """A desk with drawers on one side or both."""
    piece = Object(style(rng))
    width, depth, height = rng.uniform(1.0, 1.4), rng.uniform(0.5, 0.7), rng.uniform(0.7, 0.8)
    chest, top = rng.uniform(0.3, 0.4), 0.05
    body, middle = height - top, (height - top) / 2
    both = bool(rng.random() < 0.5)
    x, side = width / 2 - chest / 2 - 0.03, rng.choice([-1, 1])
    piece.add(box((0, height - top / 2, 0), (width, top, depth), 0.015), str(rng.choice(["frame", "accent"])))
    piece.add(box((0, 0.62 * height, -0.42 * depth), (width - 0.1, 0.5 * height, 0.04), 0.01), "frame")
    piece.add(box((side * x, middle, 0), (chest, body, 0.92 * depth), 0.012), "frame", mirror=both)
    if not both:
        piece.add(box((-side * (width / 2 - 0.05), middle, 0), (0.05, body, 0.92 * depth), 0.012), "frame")
    fronts, drawers = str(rng.choice(["accent", "cloth"])), int(rng.integers(2, 5))
    tall = (body - 0.08) / drawers
    for y in 0.06 + (np.arange(drawers) + 0.5) * tall:
        place = (side * x, y, 0.46 * depth)
        piece.add(box(place, (chest - 0.05, tall - 0.03, 0.04), 0.01), fronts, mirror=both)
        handle = moved(box(place, (0.1, 0.035, 0.04), 0.012), (0, 0, 0.03))
        piece.add(handle, "frame", mirror=both)
    return piece


def cupboard(rng: np.random.Generator) -> Object:
    """Doors or drawers in columns and rows, or open shelves with boxes, on feet or a plinth."""
    piece = Object(style(rng))
    width, depth, height = rng.uniform(0.6, 1.2), rng.uniform(0.34, 0.46), rng.uniform(0.7, 1.5)
    foot, wall = rng.uniform(0.06, 0.16), 0.028 * max(width, height) + 0.01
    if rng.random() < 0.6:
        for z in (-0.4 * depth, 0.4 * depth):
            stub = leg((0.42 * width, foot + 0.02, z), (0.44 * width, 0, z), 0.035, 0.026, square=False)
            piece.add(stub, "frame", mirror=True)
    else:
        piece.add(box((0, foot / 2 + 0.01, 0), (0.92 * width, foot + 0.02, 0.86 * depth), 0.012), "accent")
    columns, rows = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    cell_x, cell_y = (width - 2 * wall) / columns, (height - foot - 2 * wall) / rows
    cells = [
        ((column - (columns - 1) / 2) * cell_x, foot + wall + (row + 0.5) * cell_y, row)
        for column in range(columns)
        for row in range(rows)
    ]
    middle, tall = (foot + height) / 2, height - foot
    if rng.random() < 0.65:
        piece.add(box((0, middle, 0), (width, tall, depth), 0.02), "frame")
        fronts, knob = rng.choice(["cloth", "accent"], size=2), rng.uniform(0.04, 0.06)
        for x, y, row in cells:
            door = box((x, y, depth / 2), (cell_x - 0.03, cell_y - 0.03, 0.04), 0.012)
            piece.add(door, str(fronts[row % 2]))
            inwards = 0.0 if cell_x > 1.3 * cell_y else -np.sign(x) * 0.34 * cell_x
            piece.add(box((x + inwards, y, depth / 2 + 0.03), (knob, knob, 0.05), 0.3 * knob), "frame")
        return piece
    piece.add(box(((width - wall) / 2, middle, 0), (wall, tall, depth), 0.01), "frame", mirror=True)
    piece.add(box((0, middle, (wall - depth) / 2), (width - wall, tall - wall, wall), 0.01), "accent")
    for y in foot + wall / 2 + np.arange(rows + 1) * (tall - wall) / rows:
        piece.add(box((0, y, 0), (width - 0.5 * wall, wall, depth), 0.01), "frame")
    for x, y, _ in cells:
        if rng.random() < 0.7:
            size = (cell_x * rng.uniform(0.45, 0.8), cell_y * rng.uniform(0.4, 0.75), 0.7 * depth)
            floor = y - cell_y / 2 + 0.3 * wall
            material = str(rng.choice(["cloth", "accent"], p=[0.75, 0.25]))
            piece.add(box((x, floor + size[1] / 2, 0.02), size, 0.02), material)
    return piece


def bed(rng: np.random.Generator) -> Object:
    """A single or double bed: head to -Z, foot to +Z, a blanket over most of it."""
    piece = Object(style(rng) | {"sheet": Material((244, 242, 236))})
    double = bool(rng.random() < 0.5)
    width = rng.uniform(1.3, 1.6) if double else rng.uniform(0.85, 1.05)
    length, foot, seat = rng.uniform(1.8, 2.0), rng.uniform(0.1, 0.2), rng.uniform(0.42, 0.54)
    for z in (-0.46 * length, 0.46 * length):
        stub = leg((0.45 * width, foot + 0.05, z), (0.46 * width, 0, z), 0.05, 0.04, square=True)
        piece.add(stub, "frame", mirror=True)
    low = foot + 0.14
    piece.add(box((0, foot + 0.09, 0), (width, 0.18, length), 0.02), "frame")
    piece.add(box((0, (low + seat) / 2, 0), (width - 0.06, seat - low, length - 0.06), 0.06), "sheet")
    cover = rng.uniform(0.55, 0.72) * length
    place = (0, (low + seat + 0.03) / 2, (length - cover) / 2 - 0.015)
    piece.add(box(place, (width - 0.02, seat - low + 0.06, cover), 0.07), "cloth")
    place = (0.25 * width if double else 0.0, seat + 0.05, 0.28 - length / 2)
    pillow = box(place, (0.42 * width if double else 0.7 * width, 0.14, 0.36), 0.06)
    piece.add(turned(pillow, 10, "x", place), str(rng.choice(["sheet", "accent"])), mirror=double)
    ends = [(rng.uniform(0.8, 1.15), -length / 2, rng.uniform(0.04, 0.3))]
    if rng.random() < 0.5:
        ends.append((rng.uniform(0.5, 0.7), length / 2, 0.04))
    for top, z, rounding in ends:
        board = prism(rectangle(width / 2, 0.08, top, rounding), -0.04, 0.04, 0.02)
        piece.add(moved(board, (0, 0, z)), "frame")
    return piece


KINDS: dict[str, tuple[float, Callable[[np.random.Generator], Object]]] = {
    "chair": (0.32, chair),
    "armchair": (0.16, sofa),
    "sofa": (0.14, lambda rng: sofa(rng, seats=int(rng.integers(2, 4)))),
    "bench": (0.05, lambda rng: chair(rng, seats=int(rng.integers(2, 4)), back=bool(rng.random() < 0.7))),
    "stool": (0.06, stool),
    "table": (0.11, table),
    "desk": (0.05, desk),
    "cupboard": (0.07, cupboard),
    "bed": (0.04, bed),
}


def make(rng: np.random.Generator) -> Object:
    """One piece of furniture in metres, matte, standing on the floor, its front to +Z."""
    kind = rng.choice(list(KINDS), p=[share for share, _ in KINDS.values()])
    return KINDS[kind][1](rng).stand()
