"""Shapes for the tests of recon, and the programs of nerfstudio."""

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

FACE_COLOURS = {
    (1, 0, 0): (255, 0, 0),
    (0, 1, 0): (0, 255, 0),
    (0, 0, 1): (0, 0, 255),
    (-1, 0, 0): (0, 255, 255),
    (0, -1, 0): (255, 0, 255),
    (0, 0, -1): (255, 255, 0),
}
"""Colour of the side of a cube that looks along an axis: red is +X, green +Y, blue +Z."""


@pytest.fixture(scope="session")
def ell():
    """A standing L without symmetry: foot towards +X, back at -X, a bump towards +Y. Height 1."""
    foot = trimesh.creation.box(bounds=[[-0.4, -0.1, -0.5], [0.4, 0.1, -0.3]])
    back = trimesh.creation.box(bounds=[[-0.4, -0.1, -0.3], [-0.2, 0.1, 0.5]])
    bump = trimesh.creation.box(bounds=[[-0.4, 0.1, -0.5], [-0.2, 0.3, -0.3]])
    return trimesh.util.concatenate([foot, back, bump])


@pytest.fixture(scope="session")
def coloured_cube():
    """A textured cube of side 1, one colour per side; the texture has the six colours in a row."""
    vertices, faces, uv = [], [], []
    for column, normal in enumerate(FACE_COLOURS):
        axis = np.flatnonzero(normal)[0]
        one, two = np.roll(np.eye(3), 1, axis=1)[axis] * 0.5, np.roll(np.eye(3), 2, axis=1)[axis] * 0.5
        one = one * sum(normal)  # keeps the corners counter-clockwise seen from outside
        centre = 0.5 * np.array(normal)
        faces += [[len(vertices) + k for k in triple] for triple in ((0, 1, 2), (0, 2, 3))]
        vertices += [centre - one - two, centre + one - two, centre + one + two, centre - one + two]
        uv += [[(column + 0.5) / 6, 0.5]] * 4
    texture = np.repeat(np.array(list(FACE_COLOURS.values()), np.uint8)[None].repeat(8, 0), 8, axis=1)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(texture))
    visual = trimesh.visual.TextureVisuals(uv=np.array(uv), material=material)
    return trimesh.Trimesh(np.array(vertices), faces, visual=visual, process=False)


@pytest.fixture(scope="session")
def colour_of_side():
    """The colour in [0, 255] of a side of `coloured_cube`, by its outward direction."""
    return lambda direction: FACE_COLOURS[tuple(round(x) for x in direction)]


@pytest.fixture(scope="session")
def programs(tmp_path_factory) -> Path:
    """A folder with stand-ins for the programs of nerfstudio, and the mesh they make: a ball, inside out."""
    folder = tmp_path_factory.mktemp("bin")
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    ball.invert()
    ball.export(folder / "mesh.ply")
    ball.update_faces(np.zeros(len(ball.faces), bool))
    ball.export(folder / "empty.ply")
    source = Path(__file__).with_name("fake_nerfstudio.py").read_text()
    for name in ("ns-train", "ns-export", "ns-render"):
        script = folder / f"{name}.py"
        script.write_text(source)
        start = shlex.join([sys.executable, str(script)])  # a shebang cannot hold a path with a space
        (folder / name).write_text(f'#!/bin/sh\nexec {start} "$@"\n')
        (folder / name).chmod(0o755)
    return folder
