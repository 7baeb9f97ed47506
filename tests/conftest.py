"""Set-up and fixtures for all tests: checked shapes, one thread, an orbit, samples by a small ray caster."""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it loads: small tensors hate threads
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else the hub's library asks six times, over 23 seconds

import hypothesis
import jaxtyping
import numpy as np
import pytest
from jaxtyping._import_hook import _JaxtypingLoader

ROOT = Path(__file__).parents[1]

# Before any of our packages is imported. The pytest option of jaxtyping 0.3.11 cannot pass arguments to
# beartype, and without the numeric tower `elevation_deg=10` would be refused because 10 is an int.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
jaxtyping.install_import_hook(["svd3d", "render", "recon"], CHECKER)

# While one of our modules runs, jaxtyping 0.3.11 looks for compiled files under another name, so
# that all it imports, such as torch, is compiled anew: 10 s. Here this is so only for our own modules.
_JaxtypingLoader.exec_module = importlib.machinery.SourceFileLoader.exec_module
_JaxtypingLoader.get_code = lambda self, name: self.source_to_code(self.get_data(self.path), self.path)

hypothesis.settings.register_profile("dev", deadline=None, max_examples=40)
hypothesis.settings.register_profile("ci", parent=hypothesis.settings.get_profile("dev"), derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure(config):
    """Beartype checks one random item of a tuple, which hypothesis takes for a draw outside its control."""
    known = "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
    config.addinivalue_line("filterwarnings", known)


def pytest_runtest_setup(item):
    """One thread for torch, whatever the environment says; costs nothing where torch is not loaded."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


class DeclareNmsBeforeTorchvision(importlib.abc.MetaPathFinder):
    """Let a torchvision load whose compiled operators do not fit this torch (a CPU build beside a CUDA one).

    torchvision registers a shape function for `torchvision::nms` on import and fails when its own library,
    which declares the operator, could not be loaded. No test needs the operator itself.
    """

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(fullname)
            if spec is not None:
                self._declare(Path(spec.origin).parent)
            return spec
        return None

    def _declare(self, folder: Path) -> None:
        import torch

        try:
            for library in folder.glob("_C*.so"):
                torch.ops.load_library(library)
            if not hasattr(torch.ops.torchvision, "nms"):
                raise OSError("torchvision has no compiled operators")
        except (OSError, RuntimeError):
            self.library = torch.library.Library("torchvision", "DEF")  # lives as long as the declaration
            for name in ("nms", "qnms"):  # 0.28 registers shape functions for these two without asking
                self.library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


finder = DeclareNmsBeforeTorchvision()
sys.meta_path.insert(0, finder)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data beside the repository (objects, images, reference numbers); skips the test where it is absent."""
    folder = ROOT.parent / "shared/data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared data, which is not at {folder}")
    return folder


@pytest.fixture
def orbit():
    """Eight views at 20 degrees, far enough away for an object of size 1."""
    from svd3d import Orbit

    return Orbit.static(num_views=8, elevation_deg=20, distance=2.5)


@pytest.fixture
def cameras(orbit):
    """The cameras of `orbit` for pictures of 32 by 32."""
    return orbit.cameras(height=32, width=32)


def cast_sphere(origin, directions, radius=0.5):
    """Depth of a sphere around the origin along rays; infinite where they miss."""
    a = (directions**2).sum(-1)
    b = directions @ origin
    root = b**2 - a * (origin @ origin - radius**2)
    depth = (-b - np.sqrt(np.maximum(root, 0))) / a
    return np.where((root > 0) & (depth > 0), depth, np.inf)


def cast_box(origin, directions, low, high):
    """Depth of an axis-aligned box along rays; infinite where they miss."""
    with np.errstate(divide="ignore", invalid="ignore"):
        slabs = (np.stack([low, high])[:, None, None] - origin) / directions
    near, far = np.fmin(*slabs).max(-1), np.fmax(*slabs).min(-1)
    return np.where((near <= far) & (near > 0), near, np.inf)


BOXES = (
    (np.array([-0.5, -0.25, -0.4]), np.array([0.5, 0.25, -0.1]), (0.9, 0.5, 0.1)),
    (np.array([0.1, -0.25, -0.1]), np.array([0.5, 0.05, 0.4]), (0.1, 0.5, 0.9)),
)
"""A chair of two boxes without symmetry: corners and colour. Its bounding box is centred, longest side 1."""
LIGHT = np.array([0.36, 0.48, 0.8])


def cast_solid(solid, origin, directions):
    """Depth and colour of a solid along rays of shape (h, w, 3)."""
    if solid == "sphere":
        depth = cast_sphere(origin, directions)
        points = origin + np.where(np.isfinite(depth), depth, 0)[..., None] * directions
        stripes = np.where(np.floor(points[..., 2:] * 8) % 2, 0.3, 0.0)
        return depth, (0.5 + points) * (0.7 + stripes)
    depths = np.stack([cast_box(origin, directions, low, high) for low, high, _ in BOXES])
    nearest, depth = depths.argmin(0), depths.min(0)
    points = origin + np.where(np.isfinite(depth), depth, 0)[..., None] * directions
    low, high, colours = (np.array(each)[nearest] for each in zip(*BOXES, strict=True))
    offset = (points - (low + high) / 2) / (high - low)
    face = np.abs(offset).argmax(-1)
    normals = np.eye(3)[face] * np.sign(np.take_along_axis(offset, face[..., None], -1))
    return depth, colours * (0.6 + 0.4 * np.maximum(normals @ LIGHT, 0))[..., None]


@pytest.fixture(scope="session")
def make_sample():
    """A function that makes a sample of a coloured solid with exact depth, and writes it if it gets a folder.

    `solid` is "sphere" (radius 0.5, striped) or "boxes" (two boxes that make a chair, volume 0.21). Colours
    do not depend on the view. The object fills 0.9 of the frame in its widest view.
    """
    from svd3d import Orbit, Sample, sample

    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    points = {"sphere": corners, "boxes": corners * [1, 0.5, 0.8]}

    def make(
        folder: Path | None = None,
        *,
        solid: str = "sphere",
        num_views: int = 8,
        size: int = 48,
        elevation_deg: float = 20.0,
        azimuth_deg: float = 0.0,
        depth: bool = True,
        **fields,
    ) -> Sample:
        ring = Orbit.static(num_views=num_views, elevation_deg=elevation_deg, azimuth_deg=azimuth_deg)
        ring = ring.fitted(points[solid])
        cameras = ring.cameras(height=size, width=size)
        origins, directions = cameras.rays()
        casts = [cast_solid(solid, *ray) for ray in zip(origins, directions, strict=True)]
        depths = np.stack([each for each, _ in casts])
        hit = np.isfinite(depths)
        colours = np.stack([each for _, each in casts]).clip(0, 1) * hit[..., None]
        images = np.round(255 * np.concatenate([colours, hit[..., None]], -1)).astype(np.uint8)
        settings = {"uid": solid, "origin": "rendered", "object_to_world": np.eye(4), **fields}
        made = Sample(
            cameras=cameras,
            images=images,
            orbit=ring,
            depth=np.where(hit, depths, 0).astype(np.float32) if depth else None,
            **settings,
        )
        if folder is not None:
            sample.write(made, folder)
        return made

    return make
