"""Toy cars: five body types, mirror-symmetric, coloured so that the back can be guessed from the front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from objects.base import (
    Material,
    Object,
    box,
    disc,
    hull_of_stations,
    loft,
    on_quad,
    panel,
    revolve,
    rounded_quad,
)
from objects.colours import paint, second_paint

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
    low = (length * feet[0][0], length * feet[0][1])
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


def add_wheels(car: Object, shape: Shape) -> None:
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
        car.add(revolve([(r * radius, x * width) for r, x in tyre], centre, "x", 22), "tyre", mirror=True)
        car.add(disc((outside, radius, z), "x", 0.6 * radius, 0.012), "hub", mirror=True)
        car.add(disc((outside + 0.01, radius, z), "x", 0.2 * radius, 0.012), "accent", mirror=True)
        turn = np.linspace(0, np.pi, 18)
        arch = 1.14 * radius
        y = np.clip(radius + arch * np.sin(turn), shape.y_low + 0.012, shape.top(z) - 0.036)
        outline = np.stack([np.full(18, 0.0), y, z + arch * np.cos(turn)], axis=1)
        foot = np.array([[0, shape.y_low + 0.012, z - arch], [0, shape.y_low + 0.012, z + arch]])
        outline = np.concatenate([outline, foot])
        x = shape.half_width
        rings = np.stack([outline + np.array([out, 0, 0]) for out in (x - 0.03, x + 0.004)])
        car.add(loft(rings), "arch", mirror=True)


def add_cabin(car: Object, shape: Shape, colour: str) -> None:
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
    car.add(loft(np.array(rings)), colour)

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
        car.add(panel(on_quad(side, (left, start), (right, end)), 0.03, 0.006), "glass", mirror=True)
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
    car.add(panel(on_quad(front, (0.11, start), (0.89, end)), 0.03, 0.006), "glass")
    car.add(panel(on_quad(rear, (0.13, start + 0.05), (0.87, end)), 0.03, 0.006), "glass")


def add_lights(car: Object, shape: Shape, rng: np.random.Generator) -> None:
    """Headlights, tail lights, grille, plates and bumpers."""
    nose = shape.top(shape.front - 0.02)
    height = nose - shape.y_low
    x = shape.half_width * 0.66
    size = rng.uniform(0.036, 0.046) * (0.85 if shape.kind == "racer" else 1.0)
    y = shape.y_low + 0.62 * height
    car.add(disc((x, y, shape.front - 0.006), "z", 1.22 * size, 0.014), "chrome", mirror=True)
    car.add(disc((x, y, shape.front + 0.004), "z", size, 0.014), "headlight", mirror=True)
    grille = shape.half_width * rng.uniform(0.5, 0.66)
    car.add(box((0, y, shape.front - 0.005), (grille, 0.058, 0.035), 0.012), "arch")
    tail = 0.035 if shape.kind == "pickup" else 0.045
    y_tail = shape.y_low + 0.64 * (shape.y_belt - shape.tail_drop - shape.y_low)
    car.add(box((x * 1.04, y_tail, shape.rear), (0.06, tail * 1.6, 0.028), 0.01), "taillight", mirror=True)
    car.add(box((0, y_tail - 0.012, shape.rear), (0.13, 0.045, 0.02), 0.006), "plate")
    bumper_y = shape.y_low + 0.032
    for z in (shape.front - 0.015, shape.rear + 0.015):
        size_xyz = (2 * shape.half_width * 0.97, 0.052, 0.085)
        car.add(box((0, bumper_y, z), size_xyz, 0.022), "bumper")


def add_extras(car: Object, shape: Shape, rng: np.random.Generator, cabin_colour: str) -> None:
    """Mirrors, handles and what the car carries; all of it shows from the front."""
    width, belt = shape.half_width, shape.y_belt
    mirror_z = shape.cabin_low[1] - 0.06
    car.add(box((width * 0.97, belt + 0.035, mirror_z), (0.065, 0.045, 0.035), 0.012), "body", mirror=True)
    handle_z = (shape.cabin_low[0] + shape.cabin_low[1]) / 2 - (0.02 if shape.kind != "pickup" else 0.05)
    if shape.kind != "racer":
        car.add(
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
            car.add((vertices + np.array([offset, 0, 0]), faces), "second")
            size = (2 * half, 0.02, roof_length - 0.06)
            car.add(box((offset, shape.y_roof - 0.005, roof_z), size, 0.006), "second")
    elif stripe < 0.5:
        cut = shape.y_low + 0.42 * (belt - shape.y_low)
        rows = body_stations(shape, half_width=width + 0.004, grow=0.004, low=shape.y_low - 0.003, high=cut)
        car.add(hull_of_stations(rows, 0.02, shape.bevel), "second")
    if shape.kind == "racer":
        y_wing = belt + 0.1
        z_wing = shape.rear + 0.065
        car.add(box((0, y_wing, z_wing), (2 * width * 0.98, 0.022, 0.11), 0.01), "second")
        car.add(box((width * 0.55, belt + 0.04, z_wing), (0.025, 0.12, 0.06), 0.008), "body", mirror=True)
        middle = (shape.wheel_z[0] + shape.wheel_z[1]) / 2
        y_disc = shape.y_low + 0.52 * (belt - shape.y_low)
        car.add(disc((width * 0.985, y_disc, middle), "x", 0.062, 0.012), "plate", mirror=True)
        car.add(disc((width * 0.985 + 0.009, y_disc, middle), "x", 0.028, 0.009), "accent", mirror=True)
        return
    if shape.kind == "hatchback" and choice < 0.35:
        z = top_rear - 0.01
        car.add(box((0, shape.y_roof - 0.008, z), (2 * roof_half * 0.92, 0.025, 0.1), 0.01), cabin_colour)
    elif choice < 0.55 and shape.kind != "pickup":
        bar = (2 * roof_half * 0.9, 0.02, 0.024)
        for z in (roof_z - 0.3 * roof_length, roof_z + 0.3 * roof_length):
            car.add(box((0, shape.y_roof + 0.012, z), bar, 0.008), "chrome")
        rail = (0.022, 0.022, 0.85 * roof_length)
        car.add(box((roof_half * 0.8, shape.y_roof + 0.026, roof_z), rail, 0.008), "chrome", mirror=True)
        if choice < 0.45:
            size = (roof_half * 1.25, 0.07, roof_length * rng.uniform(0.4, 0.65))
            car.add(box((0, shape.y_roof + 0.06, roof_z), size, 0.016), "luggage")
    elif choice < 0.72:
        car.add(box((0, shape.y_roof + 0.004, roof_z), (0.13, 0.03, 0.06), 0.01), "chrome")
        rows = [(0.03, -0.02), (0.03, 0.022), (0.026, 0.036), (0.015, 0.044)]
        if rng.random() < 0.5:
            car.add(revolve(rows, (0, shape.y_roof + 0.01, roof_z), "y"), "beacon")
        else:
            car.add(box((0, shape.y_roof + 0.035, roof_z), (0.15, 0.05, 0.055), 0.016), "beacon")
    if shape.kind == "pickup":
        wall_z = (shape.rear + shape.bevel * 0.6, shape.cabin_low[0])
        middle, depth = sum(wall_z) / 2, wall_z[1] - wall_z[0]
        y_wall, height = belt - 0.04, 0.09
        car.add(
            box((width - 0.026, y_wall, middle), (0.04, height, depth + 0.03), 0.012), "body", mirror=True
        )
        car.add(box((0, y_wall, shape.rear + 0.03), (2 * width * 0.9, height, 0.04), 0.012), "body")
        car.add(box((0, belt - 0.063, middle), (2 * width * 0.84, 0.02, depth), 0.004), "bed")
        if choice < 0.45:
            size = (width * rng.uniform(0.8, 1.2), rng.uniform(0.12, 0.19), depth * rng.uniform(0.45, 0.7))
            car.add(box((0, belt - 0.055 + size[1] / 2, middle), size, 0.016), "luggage")


def make(rng: np.random.Generator) -> Object:
    """One toy car: matte, of plain colours."""
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
    red, green, blue = (int(c + rng.integers(-8, 9)) for c in colours["glass"])
    colours["glass"] = (red, green, blue)
    cabin_colour = "second" if rng.random() < 0.35 and shape.kind != "racer" else "body"

    car = Object({name: Material(colour) for name, colour in colours.items()}, scale=TOY_LENGTH_M)
    rows = body_stations(shape, half_width=shape.half_width, grow=0.0, low=shape.y_low, high=None)
    car.add(hull_of_stations(rows, 0.045, shape.bevel), "body")
    add_wheels(car, shape)
    add_cabin(car, shape, cabin_colour)
    add_lights(car, shape, rng)
    add_extras(car, shape, rng, cabin_colour)
    return car
