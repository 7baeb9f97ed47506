"""Vehicles other than cars: aeroplanes, helicopters, boats, locomotives, tractors, lorries, rockets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from objects import textures
from objects.base import Material, Object, Solid, box, disc, loft, moved, prism, revolve, turned
from objects.dress import DARK, dressed, finish, palette
from objects.shapes import ball, lathe, torus, tube

DECAL = 0.35  # share with text or an emblem on the body
GLASS = Material((120, 178, 214), 0.25, 0.0)


def along_z(profile: list[tuple[float, float]], centre: tuple[float, float, float]) -> Solid:
    """A smooth solid of revolution from back to front."""
    return revolve(lathe(profile), centre, "z", 28)


def wheel(made: Object, x: float, z: float, radius: float, width: float) -> None:
    """A tyre and hub at x and, as its twin, at -x, standing on y = 0."""
    rows = [(0.3, 0), (0.85, 0), (1, 0.15), (1, 0.85), (0.85, 1), (0.3, 1)]
    tyre = revolve([(r * radius, (w - 0.5) * width) for r, w in rows], (x, radius, z), "x", 24)
    made.add(tyre, "tyre", mirror=True)
    made.add(disc((x + width / 2 - 0.005, radius, z), "x", 0.62 * radius, 0.03), "third", mirror=True)


def blade(corners: list[tuple[float, float]], thickness: float) -> Solid:
    """A level plate: a convex planform of (x, z) around y = 0."""
    return prism(np.array(corners), -thickness / 2, thickness / 2, 0.4 * thickness, "y")


def fin(corners: list[tuple[float, float]], thickness: float) -> Solid:
    """An upright plate: a convex outline of (y, z) around x = 0."""
    return turned(blade(corners, thickness), 90, "z")


def wing(root: float, span: float, chord: float, sweep: float, thickness: float) -> Solid:
    """The wing at the right, from x = 0 outwards; its front edge starts at z = root."""
    tip = 0.55 * chord
    return blade([(0, root - chord), (span, root - sweep - tip), (span, root - sweep), (0, root)], thickness)


def aeroplane(rng: np.random.Generator, made: Object) -> None:
    """Propeller planes, biplanes and jets."""
    wide, nose = rng.uniform(0.11, 0.16), rng.uniform(0.4, 0.5)
    hull = [(0.03, -0.55), (wide * 0.7, -0.2), (wide, 0.1), (wide * 0.9, nose - 0.12), (0.02, nose)]
    made.add(along_z(hull, (0, 0, 0)), "first", mapping="part")
    span, chord, sweep = rng.uniform(0.42, 0.65), rng.uniform(0.18, 0.28), rng.uniform(-0.02, 0.25)
    lift = rng.choice([-0.06, 0.0, 0.1])
    main = wing(rng.uniform(0.1, 0.25), span, chord, sweep, 0.045)
    made.add(moved(main, (0, lift, 0)), "second", mirror=True, mapping="part")
    made.add(moved(wing(-0.36, 0.24, 0.15, 0.08, 0.04), (0, 0.03, 0)), "second", mirror=True)
    made.add(fin([(0, -0.55), (0.24, -0.58), (0.24, -0.46), (0, -0.34)], 0.045), "third")
    made.add(ball((0, 0.6 * wide, 0.18), (0.7 * wide, 0.6 * wide, 0.14)), "glass")
    kind = rng.choice(["propeller", "biplane", "jet"])
    if kind == "jet":
        for x in rng.choice([0.4, 0.55, 0.7], rng.integers(1, 3), replace=False) * span:
            engine = [(0.04, -0.13), (0.06, 0.0), (0.055, 0.1), (0.01, 0.1)]
            made.add(along_z(engine, (x, lift - 0.06, 0.02 - sweep * x / span)), "third", mirror=True)
        return
    for turn in np.arange(3) * 120 + rng.uniform(0, 120):
        made.add(turned(box((0.09, 0, nose + 0.01), (0.2, 0.05, 0.03), 0.012), turn, "z"), "third")
    made.add(ball((0, 0, nose + 0.01), 0.045), "tyre")
    made.add(tube([(0.06, -0.06, 0.2), (0.12, -0.2, 0.22)], 0.022), "tyre", mirror=True)
    made.add(torus((0.12, -0.22, 0.22), 0.045, 0.025, "x"), "tyre", mirror=True)
    if kind == "biplane":
        made.add(moved(main, (0, lift + 0.3, 0.03)), "second", mirror=True, mapping="part")
        made.add(tube([(0.7 * span, lift, 0.04), (0.7 * span, lift + 0.3, 0.07)], 0.02), "third", mirror=True)


def helicopter(rng: np.random.Generator, made: Object) -> None:
    """A cabin under a rotor, with a tail boom and skids."""
    half = np.array([rng.uniform(0.15, 0.22), rng.uniform(0.17, 0.23), rng.uniform(0.25, 0.36)])
    made.add(ball((0, 0, 0), half), "first", mapping="part")
    made.add(ball((0, 0.25 * half[1], 0.35 * half[2]), half * [0.88, 0.72, 0.7]), "glass")
    boom = rng.uniform(0.6, 0.8)
    made.add(tube([(0, 0.05, -0.1), (0, 0.1, -boom)], [0.1, 0.04]), "second")
    made.add(
        fin([(0.02, -boom - 0.02), (0.28, -boom - 0.08), (0.28, -boom + 0.04), (0.02, -boom + 0.1)], 0.05),
        "third",
    )
    made.add(tube([(0, 0.1, 0), (0, half[1] + 0.12, 0)], 0.04), "tyre")
    blades, reach = int(rng.integers(2, 6)), rng.uniform(0.5, 0.68)
    for turn in np.arange(blades) * 360 / blades + rng.uniform(0, 90):
        rotor = box((reach / 2, half[1] + 0.12, 0), (reach, 0.04, 0.09), 0.015)
        made.add(turned(rotor, turn, "y"), "third")
    for z in (-0.12, 0.14):
        made.add(tube([(0.08, -0.7 * half[1], z), (0.17, -half[1] - 0.08, z)], 0.02), "tyre", mirror=True)
    made.add(tube([(0.17, -half[1] - 0.08, -0.27), (0.17, -half[1] - 0.08, 0.3)], 0.025), "tyre", mirror=True)


def boat(rng: np.random.Generator, made: Object) -> None:
    """Sailing boats, tugs and ships."""
    length, wide, deep = rng.uniform(0.5, 0.62), rng.uniform(0.15, 0.25), rng.uniform(0.14, 0.22)
    rings = []
    for z in np.linspace(-1, 1, 9):
        beam = wide * (1 - max(z, 0) ** 2.2 * 0.93) * (1 if z > -0.8 else 0.9)
        floor = -deep * (1 - 0.75 * max(z, 0) ** 3)
        rise = 0.12 * max(z, 0) ** 2
        half = np.array([(0, floor), (0.6 * beam, 0.85 * floor), (0.95 * beam, 0.3 * floor), (beam, rise)])
        outline = np.concatenate([half, half[:0:-1] * [-1, 1]])
        rings.append(np.column_stack([outline, np.full(len(outline), z * length)]))
    made.add(loft(np.array(rings)), "first", flat=True, mapping="part")
    made.add(box((0, 0.0, -0.1 * length), (1.6 * wide, 0.05, 1.4 * length), 0.015), "second", mapping="part")
    if rng.random() < 0.45:
        tall, foot = rng.uniform(0.75, 1.1), 0.08
        made.add(tube([(0, 0, 0.05), (0, tall + 0.05, 0.05)], 0.025), "third")
        sail = np.array([(foot, 0.02), (foot, -0.85 * length), (0.95 * tall, 0.02)])
        made.add(fin([tuple(each) for each in sail], 0.04), "second", mapping="part")
        made.add(fin([(foot, 0.1), (0.8 * tall, 0.1), (foot, 0.85 * length)], 0.04), "third", mapping="part")
        return
    height, floors = 0.0, int(rng.integers(1, 4))
    size = np.array([1.3 * wide, rng.uniform(0.13, 0.2), rng.uniform(0.4, 0.8) * length])
    for _ in range(floors):
        made.add(box((0, height + size[1] / 2, -0.15 * length), tuple(size), 0.02), "third", mapping="object")
        band = size * [1.03, 0.35, 1.03]
        made.add(box((0, height + 0.55 * size[1], -0.15 * length), tuple(band), 0.01), "glass")
        height += size[1]
        size *= [0.8, 1.0, 0.75]
    for z in np.linspace(-0.25, -0.05, int(rng.integers(1, 3))) * length:
        made.add(tube([(0, height - 0.05, z), (0, height + 0.2, z - 0.03)], [0.07, 0.055]), "first")


def locomotive(rng: np.random.Generator, made: Object) -> None:
    """A steam engine, perhaps with a tender."""
    radius, wide, length = rng.uniform(0.085, 0.1), 0.17, rng.uniform(0.42, 0.52)
    made.add(box((0, 2 * radius, 0), (2 * wide, 0.07, 2 * length), 0.02), "third")
    boiler = rng.uniform(0.12, 0.15)
    y = 2 * radius + 0.02 + boiler
    rows = [
        (0.01, -0.15),
        (boiler, -0.15),
        (boiler, length - 0.06),
        (0.8 * boiler, length - 0.02),
        (0.01, length),
    ]
    made.add(revolve(rows, (0, y, 0), "z", 28), "first", mapping="part")
    tall = rng.uniform(0.34, 0.44)
    made.add(
        box((0, 2 * radius + tall / 2, -length + 0.14), (2 * wide, tall, 0.28), 0.02),
        "second",
        mapping="part",
    )
    made.add(
        box((0, 2 * radius + 0.7 * tall, -length + 0.14), (2 * wide + 0.02, 0.3 * tall, 0.16), 0.01), "glass"
    )
    made.add(box((0, 2 * radius + tall, -length + 0.13), (2 * wide + 0.07, 0.045, 0.36), 0.015), "third")
    flare = rng.uniform(0.05, 0.09)
    chimney = [
        (0.01, 0.0),
        (0.045, 0.0),
        (0.045, boiler + 0.08),
        (flare, boiler + 0.16),
        (0.01, boiler + 0.16),
    ]
    made.add(revolve(chimney, (0, y, length - 0.16), "y", 20), "third")
    for z in (0.02, 0.16)[: rng.integers(1, 3)]:
        made.add(ball((0, y + boiler, z), 0.055), "second")
    made.add(disc((0, y, length), "z", 0.045, 0.02), "lamp")
    for z in np.linspace(-length + 0.15, length - 0.12, int(rng.integers(3, 5))):
        wheel(made, wide, float(z), radius, 0.05)
    plough = [(-wide, length), (wide, length), (0.06, length + 0.12), (-0.06, length + 0.12)]
    made.add(prism(np.array(plough), 0.02, 0.14, 0.02, "y"), "second")


def tractor(rng: np.random.Generator, made: Object) -> None:
    """A tractor with big wheels behind."""
    back, front = rng.uniform(0.24, 0.3), rng.uniform(0.12, 0.17)
    wide, long = rng.uniform(0.1, 0.14), rng.uniform(0.34, 0.45)
    wheel(made, wide + 0.11, -0.2, back, rng.uniform(0.11, 0.16))
    wheel(made, wide + 0.08, long - 0.13, front, 0.09)
    y = rng.uniform(0.26, 0.32)
    made.add(box((0, y, long / 2 - 0.03), (2 * wide, 0.2, long + 0.14), 0.03), "first", mapping="part")
    made.add(box((0, y, long + 0.04), (1.5 * wide, 0.13, 0.03), 0.01), "tyre")
    made.add(disc((0.7 * wide, y + 0.06, long + 0.05), "z", 0.03, 0.02), "lamp", mirror=True)
    made.add(box((0, y - 0.03, -0.2), (2 * wide + 0.08, 0.2, 0.32), 0.03), "first")
    tall = rng.uniform(0.28, 0.36)
    made.add(box((0, y + tall / 2, -0.17), (2 * wide + 0.04, tall, 0.26), 0.03), "glass")
    made.add(box((0, y + tall, -0.17), (2 * wide + 0.1, 0.05, 0.34), 0.02), "second", mapping="part")
    made.add(tube([(0.5 * wide, y, 0.25), (0.5 * wide, y + 0.3, 0.25)], 0.022), "third")
    guard = box((wide + 0.11, 2 * back + 0.03, -0.2), (0.16, 0.05, 1.1 * back), 0.02)
    made.add(guard, "second", mirror=True)


def lorry(rng: np.random.Generator, made: Object) -> None:
    """A lorry with a box, a tank or a tipper."""
    radius, wide, length = rng.uniform(0.085, 0.11), rng.uniform(0.16, 0.2), rng.uniform(0.5, 0.65)
    made.add(box((0, 1.5 * radius, 0), (1.7 * wide, 0.06, 2 * length), 0.02), "tyre")
    cab, tall = rng.uniform(0.2, 0.28), rng.uniform(0.28, 0.36)
    y, z = 1.5 * radius, length - cab / 2
    made.add(box((0, y + tall / 2, z), (2 * wide, tall, cab), 0.04), "first")
    made.add(box((0, y + 0.68 * tall, z + 0.01), (2 * wide + 0.01, 0.36 * tall, cab - 0.03), 0.03), "glass")
    made.add(box((0, y + 0.12 * tall, length), (1.6 * wide, 0.05, 0.03), 0.01), "third")
    made.add(disc((0.75 * wide, y + 0.28 * tall, length), "z", 0.032, 0.015), "lamp", mirror=True)
    room = 2 * length - cab - 0.04
    back = -length + room / 2
    high = rng.uniform(0.3, 0.52)
    if rng.random() < 0.25:
        rows = [(0.01, -room / 2), (wide * 0.9, -room / 2 + 0.03), (wide, room / 2 - 0.03), (0.01, room / 2)]
        made.add(revolve(rows, (0, y + wide + 0.03, back), "z", 28), "load", mapping="part")
    else:
        made.add(
            box((0, y + 0.03 + high / 2, back), (2.06 * wide, high, room), 0.025), "load", mapping="part"
        )
    for place in (length - cab * 0.55, -length + 0.14, -length + 0.38)[: rng.integers(2, 4)]:
        wheel(made, wide, place, radius, 0.08)


def rocket(rng: np.random.Generator, made: Object) -> None:
    """A rocket or a capsule upright on its fins."""
    height, wide = rng.uniform(0.8, 1.3), rng.uniform(0.14, 0.25)
    rows = [
        (0.01, 0.1),
        (0.7 * wide, 0.1),
        (wide, 0.35 * height),
        (0.9 * wide, 0.65 * height),
        (0.01, height),
    ]
    made.add(revolve(lathe(rows), (0, 0, 0), "y", 32), "first", mapping="round")
    made.add(
        revolve([(0.01, 0.0), (0.6 * wide, 0.0), (0.4 * wide, 0.15), (0.01, 0.15)], (0, 0, 0), "y"), "third"
    )
    fins, out = int(rng.integers(3, 6)), wide + rng.uniform(0.12, 0.25)
    shape = [(-0.1, 0.7 * out), (0.02, out), (0.22, out), (0.5 * height, 0.0), (0.1, 0.0)]
    for k in range(fins):
        made.add(turned(fin(shape, 0.05), 360 * k / fins, "y"), "second", mapping="part")
    for y in np.linspace(0.5, 0.72, int(rng.integers(1, 3))) * height:
        made.add(disc((0, y, 0.9 * wide), "z", 0.38 * wide, 0.03), "third")
        made.add(disc((0, y, 0.9 * wide + 0.02), "z", 0.27 * wide, 0.025), "glass")
    tip = [(0.6 * wide, 0.84 * height), (0.02, height + 0.03)]
    made.add(revolve([(0.01, tip[0][1]), *tip], (0, 0, 0), "y", 28), "second")


KINDS: tuple[Callable[[np.random.Generator, Object], None], ...] = (
    aeroplane,
    helicopter,
    boat,
    locomotive,
    tractor,
    lorry,
    rocket,
)


def make(rng: np.random.Generator) -> Object:
    """One vehicle."""
    materials = dressed(rng, "first", "second", "third", "load", plain=0.5)
    materials |= {"tyre": Material(DARK), "glass": GLASS, "lamp": Material((255, 240, 170))}
    if rng.random() < DECAL:
        materials[str(rng.choice(["first", "load"]))] = Material(
            textures.decal(rng, palette(rng)), *finish(rng)
        )
    made = Object(materials, scale=2.0)
    KINDS[rng.integers(len(KINDS))](rng, made)
    return made.stand()
