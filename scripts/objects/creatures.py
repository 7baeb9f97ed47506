"""Creatures and dolls: quadrupeds, birds, people, robots, fish and insects of round parts, facing +Z."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from objects import textures
from objects.base import Material, Object, box, disc, moved, revolve, turned
from objects.dress import DARK, dressed, palette
from objects.shapes import ball, superquadric, torus, tube

WHITE = (250, 250, 246)


def add_eyes(made: Object, centre: np.ndarray, half: np.ndarray, size: float) -> None:
    """Two eyes on an ellipsoid of a head, in front and above its middle."""
    direction = np.array([0.48, 0.3, 0.82])
    place = centre + direction / np.linalg.norm(direction) * half
    made.add(ball(place, size), "white", mirror=True)
    made.add(ball(place + np.array([0.1 * size, 0, 0.6 * size]), 0.62 * size), "dark", mirror=True)


def add_head(rng: np.random.Generator, made: Object, centre: np.ndarray, size: float, name: str) -> None:
    """An animal's head: eyes, snout, and ears or horns."""
    half = size * rng.uniform(0.8, 1.2, 3)
    made.add(ball(centre, half), name, mapping="part")
    add_eyes(made, centre, half, rng.uniform(0.16, 0.24) * size)
    long = rng.uniform(0.1, 0.8) * size
    start, end = (
        centre + np.array([0, -0.25 * size, 0.6 * half[2]]),
        centre + np.array([0, -0.35 * size, half[2] + long]),
    )
    made.add(tube([start, end], [0.5 * size, rng.uniform(0.25, 0.45) * size]), "second")
    made.add(ball(end + np.array([0, 0.15 * size, 0.32 * size]), 0.16 * size), "dark")
    root = centre + half * [0.5, 0.7, 0]
    kind = rng.choice(["round", "long", "floppy", "horns"])
    if kind == "round":
        made.add(
            ball(root + np.array([0.1 * size, 0.15 * size, 0]), (0.35 * size, 0.35 * size, 0.14 * size)),
            "third",
            mirror=True,
        )
    elif kind == "long":
        tip = root + size * np.array([rng.uniform(0, 0.4), rng.uniform(0.7, 1.3), -0.2])
        made.add(tube([root, tip], [0.24 * size, 0.12 * size]), "third", mirror=True)
    elif kind == "floppy":
        low = root + size * np.array([0.55, -0.9, 0.1])
        made.add(
            tube([root, root + np.array([0.35 * size, 0, 0]), low], [0.15 * size, 0.2 * size, 0.26 * size]),
            "third",
            mirror=True,
        )
    else:
        bend = root + size * np.array([0.4, 0.35, 0])
        made.add(
            tube(
                [root, bend, bend + np.array([0, 0.5 * size, 0.2 * size])],
                [0.18 * size, 0.14 * size, 0.06 * size],
            ),
            "third",
            mirror=True,
        )


def quadruped(rng: np.random.Generator, made: Object) -> None:
    """A dog, cow, giraffe or elephant of a kind."""
    length, wide, legs = rng.uniform(0.3, 0.5), rng.uniform(0.13, 0.24), rng.uniform(0.15, 0.45)
    y = legs + 0.7 * wide
    body = np.array([wide, wide * rng.uniform(0.85, 1.15), length])
    made.add(superquadric((0, y, 0), body, upright=0.8, around=0.8), "first", mapping="part")
    thick = rng.uniform(0.055, 0.09)
    for z in (-0.7 * length, 0.68 * length):
        made.add(
            tube([(0.65 * wide, y, z), (0.7 * wide, thick, z)], [1.2 * thick, thick]), "first", mirror=True
        )
        made.add(
            ball((0.7 * wide, 0.5 * thick, z + 0.2 * thick), (1.25 * thick, 0.6 * thick, 1.45 * thick)),
            "third",
            mirror=True,
        )
    neck = rng.choice([0.1, 0.2, 0.5])
    shoulder = np.array([0, y + 0.3 * wide, 0.75 * length])
    head = np.array([0, y + wide * 0.6 + neck, length + 0.12 + 0.2 * neck])
    made.add(tube([shoulder, head], [0.6 * wide, 0.4 * wide]), "first")
    add_head(rng, made, head, rng.uniform(0.12, 0.19), "first")
    back = np.array([0, y + 0.3 * wide, -length])
    path = [
        back + np.array([0, 0, 0.06]),
        back + np.array([0, rng.uniform(-0.2, 0.15), -0.14]),
        back + np.array([0, rng.uniform(-0.3, 0.3), -0.24]),
    ]
    made.add(tube(path, [0.05, 0.04, rng.uniform(0.03, 0.07)]), "third")


def bird(rng: np.random.Generator, made: Object) -> None:
    """A duck, chick or penguin."""
    half = np.array([rng.uniform(0.2, 0.28), rng.uniform(0.2, 0.4), rng.uniform(0.24, 0.4)])
    legs = rng.uniform(0.05, 0.25)
    y = legs + half[1]
    made.add(ball((0, y, 0), half), "first", mapping="part")
    size = rng.uniform(0.13, 0.2)
    neck = rng.choice([0.0, 0.25])
    head = np.array([0, y + half[1] + 0.4 * size + neck, 0.55 * half[2]])
    made.add(tube([(0, y, 0.3 * half[2]), head], [0.16, 0.6 * size]), "first")
    made.add(ball(head, size), "second", mapping="part")
    add_eyes(made, head, np.full(3, size), 0.22 * size)
    beak = rng.uniform(0.5, 1.2) * size
    bill = revolve([(0.5 * size, 0.0), (0.35 * size, 0.5 * beak), (0.04, beak)], (0, 0, 0), "z")
    made.add(
        moved(
            (bill[0] * [1, rng.uniform(0.4, 1.0), 1], bill[1]), head + np.array([0, -0.1 * size, 0.8 * size])
        ),
        "third",
    )
    wing = turned(ball((0, 0, 0), half * [0.22, 0.6, 0.75]), rng.uniform(-40, 40), "x")
    made.add(moved(wing, (0.98 * half[0], y + 0.05, -0.1 * half[2])), "second", mirror=True, mapping="part")
    tail = turned(ball((0, 0, 0), half * [0.5, 0.12, 0.5]), rng.uniform(20, 50), "x")
    made.add(moved(tail, (0, y + 0.3 * half[1], -half[2])), "second")
    made.add(tube([(0.1, legs + 0.08, 0), (0.1, 0.03, 0.02)], 0.035), "third", mirror=True)
    made.add(ball((0.1, 0.02, 0.08), (0.075, 0.03, 0.12)), "third", mirror=True)


def person(rng: np.random.Generator, made: Object) -> None:
    """A doll with hair or a hat, clothes, and arms in any pose."""
    hip, chest, wide = rng.uniform(0.3, 0.45), rng.uniform(0.28, 0.36), rng.uniform(0.12, 0.18)
    if rng.random() < 0.4:
        gown = [
            (0.01, 0.0),
            (wide * rng.uniform(1.5, 2.3), 0.0),
            (0.9 * wide, hip),
            (wide, hip + chest),
            (0.01, hip + chest),
        ]
        made.add(revolve(gown, (0, 0, 0), "y", 28), "first", mapping="round")
    else:
        made.add(
            tube([(0.55 * wide, hip + 0.03, 0), (0.65 * wide, 0.08, 0)], [0.085, 0.07]), "second", mirror=True
        )
        made.add(ball((0.65 * wide, 0.045, 0.05), (0.075, 0.05, 0.12)), "third", mirror=True)
        torso = superquadric(
            (0, hip + chest / 2, 0), (wide, chest / 2 + 0.04, 0.75 * wide), upright=0.4, around=0.7
        )
        made.add(torso, "first", mapping="part")
    shoulder = np.array([wide * 0.95, hip + chest - 0.05, 0])
    swing = np.radians(rng.uniform(-70, 60))
    elbow = shoulder + 0.17 * np.array([np.cos(swing), np.sin(swing), 0.1])
    hand = elbow + 0.17 * np.array([0.3, rng.uniform(-1, 1), rng.uniform(0, 0.9)])
    made.add(tube([shoulder, elbow, hand], [0.06, 0.05, 0.045]), "first", mirror=True)
    made.add(ball(hand, 0.058), "skin", mirror=True)
    size = rng.uniform(0.14, 0.2)
    head = np.array([0, hip + chest + 0.85 * size, 0])
    made.add(ball(head, size), "skin")
    add_eyes(made, head, np.full(3, size), 0.16 * size)
    made.add(ball(head + np.array([0, -0.1 * size, size]), 0.14 * size), "skin")
    made.add(
        box(head + np.array([0, -0.45 * size, 0.86 * size]), (0.6 * size, 0.12 * size, 0.1), 0.035 * size),
        "lips",
    )
    if rng.random() < 0.5:
        made.add(ball(head + np.array([0, 0.22 * size, -0.22 * size]), 1.02 * size), "third")
    else:
        brim, tall = size * rng.uniform(1.0, 1.7), size * rng.uniform(0.5, 1.3)
        hat = [
            (0.01, 0.0),
            (brim, 0.0),
            (brim, 0.03),
            (0.85 * size, 0.05),
            (size * rng.uniform(0.2, 0.9), tall),
            (0.01, tall),
        ]
        made.add(revolve(hat, head + np.array([0, 0.5 * size, 0]), "y", 28), "third", mapping="round")


def robot(rng: np.random.Generator, made: Object) -> None:
    """A robot of boxes, with a dial or text on its chest."""
    wide, tall, deep = rng.uniform(0.18, 0.28), rng.uniform(0.3, 0.45), rng.uniform(0.14, 0.22)
    legs = rng.uniform(0.12, 0.3)
    chest = legs + tall / 2
    made.add(box((0, chest, 0), (2 * wide, tall, 2 * deep), rng.uniform(0.02, 0.08)), "first", mapping="part")
    made.add(box((0, chest, deep), (1.2 * wide, 0.5 * tall, 0.04), 0.015), "sign", mapping="part")
    for z in (0.0,) if rng.random() < 0.6 else (-0.5 * deep, 0.5 * deep):
        made.add(tube([(0.55 * wide, legs + 0.05, z), (0.55 * wide, 0.06, z)], 0.05), "second", mirror=True)
        made.add(box((0.55 * wide, 0.04, z + 0.03), (0.17, 0.08, 0.2), 0.025), "third", mirror=True)
    shoulder = np.array([wide + 0.05, legs + 0.85 * tall, 0])
    made.add(ball(shoulder, 0.075), "third", mirror=True)
    hand = shoulder + np.array([rng.uniform(0.02, 0.2), rng.uniform(-0.3, 0.2), rng.uniform(0.0, 0.25)])
    made.add(tube([shoulder, hand], 0.045), "second", mirror=True)
    made.add(torus(hand, 0.06, 0.028, "x"), "third", mirror=True)
    size = np.array([rng.uniform(0.13, 0.2), rng.uniform(0.1, 0.16), 0.14])
    head = np.array([0, legs + tall + 0.04 + size[1], 0])
    made.add(tube([(0, legs + tall - 0.03, 0), head], 0.06), "third")
    made.add(box(head, tuple(2 * size), 0.035), "second", mapping="part")
    eye = rng.uniform(0.035, 0.055)
    made.add(disc((0.45 * size[0], head[1] + 0.02, size[2]), "z", eye, 0.03), "white", mirror=True)
    made.add(
        disc((0.45 * size[0], head[1] + 0.02, size[2] + 0.02), "z", 0.5 * eye, 0.03), "dark", mirror=True
    )
    made.add(box((0, head[1] - 0.55 * size[1], size[2]), (size[0], 0.03, 0.03), 0.01), "dark")
    x = rng.choice([0.0, 0.6]) * size[0]
    antenna = [(x, head[1] + size[1], 0), (x, head[1] + size[1] + 0.14, 0)]
    made.add(tube(antenna, 0.02), "third", mirror=bool(x))
    made.add(ball(antenna[1], 0.04), "first", mirror=bool(x))


def fish(rng: np.random.Generator, made: Object) -> None:
    """A fish on a stand."""
    half = np.array([rng.uniform(0.12, 0.2), rng.uniform(0.18, 0.32), rng.uniform(0.35, 0.5)])
    made.add(ball((0, 0, 0), half), "first", mapping="part")
    add_eyes(made, np.array([0, 0.05, 0.1]), half * [1.2, 0.8, 0.85], 0.06)
    made.add(torus((0, -0.1 * half[1], 0.93 * half[2]), 0.06, 0.03, "z"), "third")
    for turn in (-35, 35):
        lobe = turned(ball((0, 0, -0.15), (0.045, rng.uniform(0.07, 0.12), 0.22)), turn, "x")
        made.add(moved(lobe, (0, 0, -0.85 * half[2])), "second")
    made.add(ball((0, 0.9 * half[1], -0.1), (0.045, rng.uniform(0.1, 0.2), 0.2)), "second", mapping="part")
    side = turned(ball((0.1, 0, 0), (0.13, 0.035, 0.09)), rng.uniform(-50, 10), "z")
    made.add(moved(side, (0.8 * half[0], -0.2 * half[1], 0.05)), "second", mirror=True)
    made.add(tube([(0, -0.5 * half[1], 0), (0, -half[1] - 0.14, 0)], 0.035), "third")
    made.add(
        revolve([(0.01, 0), (0.2, 0), (0.17, 0.05), (0.01, 0.05)], (0, -half[1] - 0.18, 0), "y", 28), "third"
    )


def insect(rng: np.random.Generator, made: Object) -> None:
    """A beetle, bee, caterpillar or spider."""
    count = int(rng.integers(2, 6))
    sizes = rng.uniform(0.13, 0.2, count) * np.linspace(1.25, 0.95, count)
    z, places = 0.0, []
    for k, size in enumerate(sizes):
        z += size * 0.75
        places.append(np.array([0, 0.2 + 0.04 * np.sin(k), z]))
        z += size * 0.75
        made.add(ball(places[-1], size), "first" if k % 2 else "second", mapping="part")
    head, size = places[-1], float(sizes[-1])
    add_eyes(made, head, np.full(3, size), 0.26 * size)
    feeler = [head + np.array([0.04, 0.8 * size, 0.3 * size]), head + np.array([0.1, 1.7 * size, 0.9 * size])]
    made.add(tube(feeler, 0.02), "third", mirror=True)
    made.add(ball(feeler[1], 0.04), "third", mirror=True)
    for along in np.linspace(0.15, 0.8, int(rng.integers(3, 5))) * z:
        knee = (rng.uniform(0.28, 0.34), rng.uniform(0.18, 0.4), along)
        made.add(tube([(0.05, 0.18, along), knee, (0.38, 0.02, along)], 0.028), "third", mirror=True)
    if rng.random() < 0.5:
        wing = turned(ball((0.2, 0, 0), (0.24, 0.025, rng.uniform(0.1, 0.16))), rng.uniform(10, 50), "z")
        made.add(moved(wing, (0.02, 0.3, places[0][2])), "white", mirror=True)


KINDS: tuple[Callable[[np.random.Generator, Object], None], ...] = (
    quadruped,
    bird,
    person,
    robot,
    fish,
    insect,
)


def make(rng: np.random.Generator) -> Object:
    """One creature."""
    materials = dressed(rng, "first", "second", "third", plain=0.5)
    skin = [(244, 205, 170), (200, 150, 110), (130, 88, 60), (90, 60, 44)][rng.integers(4)]
    materials |= {"skin": Material(skin), "lips": Material((200, 60, 60))}
    materials |= {"white": Material(WHITE), "dark": Material(DARK)}
    materials["sign"] = Material(textures.decal(rng, palette(rng)))
    made = Object(materials, scale=0.5)
    KINDS[rng.integers(len(KINDS))](rng, made)
    return made.stand()
