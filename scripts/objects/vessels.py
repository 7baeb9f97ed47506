"""Vessels: turned on a lathe, some with handles, spouts, lids and feet, some with text or an emblem."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from objects import textures
from objects.base import TEXTURE_PIXELS, Material, Object, Solid, revolve
from objects.dress import dressed, finish, palette
from objects.shapes import ball, lathe, superquadric, torus, tube

Profile = list[tuple[float, float]]
SEGMENTS = 32
DECAL = 0.3  # share of the vessels with text or an emblem on the belly


def turned_on_lathe(profile: Profile) -> Solid:
    """A smooth solid of revolution around the vertical."""
    return revolve(lathe(profile), (0, 0, 0), "y", SEGMENTS)


def hollow(outside: Profile, wall: float) -> Profile:
    """The profile of a vessel open at its top: down again inside, a wall's thickness away."""
    inside = [(max(radius - wall, 0.01), max(height, wall)) for radius, height in outside[:0:-1]]
    top_radius, top = outside[-1]
    return [(0.01, 0.0), *outside, (top_radius - wall / 2, top + wall / 4), *inside, (0.01, 1.2 * wall)]


def belly(rng: np.random.Generator, height: float, *, mouth: float, foot: float) -> Profile:
    """Radii that wander between a foot and a mouth."""
    rows = [(foot, 0.0)]
    for along in np.linspace(0, 1, int(rng.integers(3, 6)))[1:-1]:
        middle = foot + (mouth - foot) * along
        rows.append((middle * rng.uniform(0.75, 1.7), float(along) * height))
    return [*rows, (mouth, height)]


def radius_at(profile: Profile, height: float) -> float:
    """The outer radius at a height."""
    radii, heights = np.transpose(profile)
    return float(np.interp(height, heights, radii))


def handle(profile: Profile, low: float, high: float, reach: float, thickness: float) -> Solid:
    """A bent tube at the right from one height of the wall to another."""
    inner_low, inner_high = radius_at(profile, low) * 0.96, radius_at(profile, high) * 0.96
    out = max(inner_low, inner_high) + reach
    rise = (high - low) * 0.12
    path = [(inner_low, low, 0), (out, low + rise, 0), (out, high - rise, 0), (inner_high, high, 0)]
    return tube(path, thickness)


def cup(rng: np.random.Generator, made: Object) -> None:
    """A mug or tea cup, perhaps on a saucer."""
    height, mouth = rng.uniform(0.6, 1.1), rng.uniform(0.38, 0.55)
    profile = [
        (mouth * rng.uniform(0.55, 1.0), 0.0),
        (mouth * rng.uniform(0.85, 1.1), 0.5 * height),
        (mouth, height),
    ]
    made.add(turned_on_lathe(hollow(profile, 0.06)), "body", mapping="round")
    low, high = rng.uniform(0.15, 0.3) * height, rng.uniform(0.7, 0.9) * height
    made.add(handle(profile, low, high, rng.uniform(0.15, 0.28), rng.uniform(0.035, 0.06)), "trim")
    if rng.random() < 0.3:
        saucer = [(0.01, -0.09), (0.35, -0.09), (0.75, 0.0), (0.78, 0.02), (0.4, -0.02), (0.01, -0.01)]
        made.add(turned_on_lathe(saucer), "lid", mapping="round")


def pot(rng: np.random.Generator, made: Object) -> None:
    """A teapot or coffee pot."""
    height, wide = rng.uniform(0.6, 1.2), rng.uniform(0.42, 0.6)
    mouth = wide * rng.uniform(0.4, 0.75)
    profile = [(wide * 0.7, 0.0), (wide, height * rng.uniform(0.3, 0.6)), (mouth, height)]
    made.add(turned_on_lathe([(0.01, 0.0), *profile, (0.01, height * 1.01)]), "body", mapping="round")
    dome = rng.uniform(0.05, 0.2)
    lid = [
        (0.01, height - 0.02),
        (mouth * 0.95, height),
        (mouth * 0.6, height + dome),
        (0.01, height + 1.2 * dome),
    ]
    made.add(turned_on_lathe(lid), "lid", mapping="round")
    made.add(ball((0, height + 1.2 * dome + 0.05, 0), rng.uniform(0.06, 0.09)), "trim")
    made.add(handle(profile, 0.2 * height, 0.9 * height, rng.uniform(0.18, 0.3), 0.05), "trim")
    start, lip = 0.35 * height, rng.uniform(0.85, 1.05) * height
    path = [(-0.7 * wide, start, 0), (-1.25 * wide, 0.55 * (start + lip), 0), (-1.55 * wide, lip, 0)]
    made.add(tube(path, [0.13, 0.085, 0.05]), "body")


def bottle(rng: np.random.Generator, made: Object) -> None:
    """A bottle or flask with a cap and perhaps a label."""
    height, wide, neck = rng.uniform(1.0, 1.6), rng.uniform(0.22, 0.45), rng.uniform(0.08, 0.13)
    shoulder = rng.uniform(0.45, 0.7) * height
    profile = [(wide, 0.0), (wide * rng.uniform(0.85, 1.1), 0.5 * shoulder), (wide, shoulder)]
    profile += [(neck, shoulder + rng.uniform(0.35, 0.7) * (height - shoulder)), (neck, height)]
    made.add(turned_on_lathe([(0.01, 0.0), *profile, (0.01, height)]), "body", mapping="round")
    cap = [
        (0.01, height - 0.1),
        (neck * 1.35, height - 0.1),
        (neck * 1.35, height + 0.06),
        (0.01, height + 0.07),
    ]
    made.add(revolve(cap, (0, 0, 0), "y", SEGMENTS), "trim")
    if rng.random() < 0.6:
        low, high = 0.2 * shoulder, 0.85 * shoulder
        band = [
            (0.01, low),
            *((radius_at(profile, h) + 0.015, h) for h in np.linspace(low, high, 6)),
            (0.01, high),
        ]
        made.add(revolve(band, (0, 0, 0), "y", SEGMENTS), "lid", mapping="round")


def vase(rng: np.random.Generator, made: Object) -> None:
    """A vase or amphora, with up to two handles or a pair of rings."""
    height = rng.uniform(0.8, 1.5)
    profile = belly(rng, height, mouth=rng.uniform(0.15, 0.4), foot=rng.uniform(0.15, 0.35))
    made.add(turned_on_lathe(hollow(profile, 0.045)), "body", mapping="round")
    kind = rng.random()
    if kind < 0.4:
        low, high = rng.uniform(0.35, 0.55) * height, rng.uniform(0.75, 0.95) * height
        made.add(handle(profile, low, high, rng.uniform(0.05, 0.2), 0.04), "trim", mirror=True)
    elif kind < 0.6:
        made.add(torus((0, 0.6 * height, 0), radius_at(profile, 0.6 * height), 0.05), "trim")
    if rng.random() < 0.4:
        base = rng.uniform(1.1, 1.5) * profile[0][0]
        made.add(turned_on_lathe([(0.01, -0.12), (base, -0.12), (base * 0.8, -0.02), (0.01, 0.02)]), "lid")


def bowl(rng: np.random.Generator, made: Object) -> None:
    """A bowl, dish or goblet, perhaps with balls in it."""
    stem = rng.choice([0.0, rng.uniform(0.3, 0.7)])
    height, mouth = rng.uniform(0.25, 0.6), rng.uniform(0.4, 0.7)
    cupped = [(0.12, stem), (mouth * rng.uniform(0.6, 0.95), stem + 0.35 * height), (mouth, stem + height)]
    rows = [(0.01, stem), *cupped, (mouth - 0.05, stem + height), (cupped[1][0] - 0.06, stem + 0.4 * height)]
    made.add(turned_on_lathe([*rows, (0.01, stem + 0.09)]), "body", mapping="round")
    foot = rng.uniform(0.2, 0.38)
    rows = [
        (0.01, -0.06),
        (foot, -0.06),
        (foot * 0.8, 0.0),
        (0.06, 0.08),
        (0.06, stem + 0.04),
        (0.01, stem + 0.05),
    ]
    made.add(turned_on_lathe(rows), "trim", mapping="round")
    if rng.random() < 0.5:
        for turn in np.arange(3) * 2 * np.pi / 3 + rng.random():
            size = 0.3 * mouth * rng.uniform(0.8, 1.1)
            centre = (
                0.42 * mouth * np.sin(turn),
                stem + 0.75 * height + size / 2,
                0.42 * mouth * np.cos(turn),
            )
            made.add(ball(centre, size), "lid")


def lamp(rng: np.random.Generator, made: Object) -> None:
    """A table lamp: a turned foot and a shade."""
    height = rng.uniform(0.5, 0.9)
    profile = belly(rng, height, mouth=0.07, foot=rng.uniform(0.15, 0.3))
    made.add(turned_on_lathe([(0.01, 0.0), *profile, (0.01, height)]), "trim", mapping="round")
    low, top = rng.uniform(0.35, 0.55), rng.uniform(0.15, 0.4)
    tall = rng.uniform(0.35, 0.6)
    rim, edge = (low, height), (top, height + tall)  # twice, so that the edges stay sharp
    made.add(
        revolve([(0.01, height), rim, rim, edge, edge, (0.01, height + tall)], (0, 0, 0), "y", SEGMENTS),
        "body",
        mapping="round",
    )
    made.add(tube([(0, height - 0.05, 0), (0, height + tall + 0.08, 0)], 0.035), "lid")


def jar(rng: np.random.Generator, made: Object) -> None:
    """A rounded box of a jar with a lid and a knob."""
    half = rng.uniform(0.3, 0.55, 3)
    around, upright = rng.uniform(0.2, 1.0, 2)
    made.add(
        superquadric((0, half[1], 0), half, upright=0.6 * upright, around=around), "body", mapping="round"
    )
    top = 2 * half[1]
    made.add(superquadric((0, top, 0), half * [0.7, 0.2, 0.7], around=around), "lid", mapping="round")
    made.add(ball((0, top + 0.2 * half[1] + 0.04, 0), rng.uniform(0.05, 0.1)), "trim")


KINDS: tuple[Callable[[np.random.Generator, Object], None], ...] = (cup, pot, bottle, vase, bowl, lamp, jar)


def make(rng: np.random.Generator) -> Object:
    """One vessel."""
    materials = dressed(rng, "body", "trim", "lid")
    if rng.random() < DECAL:
        halves = np.tile(textures.decal(rng, palette(rng))[:, ::2], (1, 2, 1))  # one in front, one behind
        materials["body"] = Material(np.roll(halves, TEXTURE_PIXELS // 4, axis=1), *finish(rng))
    made = Object(materials, scale=0.25)
    KINDS[rng.integers(len(KINDS))](rng, made)
    return made.stand()
