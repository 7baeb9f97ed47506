"""Gaussian splats from a finished mesh and its views: an optional last step, on a GPU by gsplat.

As in Kerbl et al. 2023, 3D Gaussian Splatting for Real-Time Radiance Field Rendering, but begun as flat discs
all over the mesh in the colours of its texture, so that none need be added or moved to where nothing is yet,
and with colours that are the same from all sides: those of few views would only repeat their faults.
"""

import contextlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from jaxtyping import Float, UInt8
from torch import Tensor
from trimesh.sample import sample_surface
from trimesh.triangles import points_to_barycentric

from recon.alignment import premultiplied
from recon.raster import colours_at, psnr
from recon.threads import device_of
from svd3d.cameras import Cameras, Orbit
from svd3d.errors import DependencyError, require
from svd3d.images import to_uint8

log = logging.getLogger(__name__)

SH_0 = 0.28209479177387814
"""The spherical harmonic of degree 0: 1 / (2 sqrt(pi))."""
REST = 45
"""Coefficients of degrees 1 to 3 that a file has for every splat, 0 here: some viewers want them all."""
PER_PIXEL = 0.25
"""Gaussians for each pixel that the surface would fill, at the distance of the object."""
FEWEST, MOST = 500, 200_000
"""Gaussians."""
RADIUS = 0.5
"""Of a disc at the start (its standard deviation), in sides of the square that each has for itself."""
FLAT = 0.1
"""Thickness of a disc at the start, in its radii."""
OPACITY = 0.8
"""Of a disc at the start."""
FAINT = 1 / 255
"""Less opaque ones are left out at the end: nothing draws them."""
ITERATIONS = 300
REPORTS = 4
"""How often it is said how far it has come."""
PIXELS = 1 << 20
"""Of the views that an iteration looks at, and one view at least."""
RATES = {"means": 2e-3, "log_scales": 2e-2, "quats": 5e-3, "logit_opacities": 5e-2, "sh0": 2e-2}
"""First learning rates; that of the means is in lengths of the object."""
LAST_RATE = 0.1
"""Part of the learning rates that is left at the end."""
EPS = 1e-2
"""Gradients well below this, as of splats that hardly any pixel sees, move nothing (Adam's epsilon)."""


@dataclass(frozen=True, eq=False)
class Gaussians:
    """Gaussians in the +Z up world, as they are fitted and stored."""

    means: Float[Tensor, "n 3"]
    log_scales: Float[Tensor, "n 3"]
    """Logarithms of the standard deviations along the Gaussian's own axes."""
    quats: Float[Tensor, "n 4"]
    """From its own axes to the world: w, x, y, z, of any length."""
    logit_opacities: Float[Tensor, "n"]
    sh0: Float[Tensor, "n 3"]
    """A colour in [0, 1] is 0.5 + SH_0 * sh0."""

    @classmethod
    def on_surface(cls, mesh: trimesh.Trimesh, *, count: int, seed: int = 0) -> "Gaussians":
        """Discs of equal size at random points of a textured mesh, in the colours there."""
        points, face, *_ = sample_surface(mesh, count, seed=seed)
        colours = colours_at(mesh, face, points_to_barycentric(mesh.triangles[face], points))
        radius = RADIUS * np.sqrt(mesh.area / count)
        x, y, z = mesh.face_normals[face].T
        quats = np.stack([1 + z, 1e-9 - y, x, np.zeros_like(x)], axis=1)  # the shortest turn of +Z
        columns = [
            points,
            np.broadcast_to(np.log(radius * np.array([1, 1, FLAT])), points.shape),
            quats / np.linalg.norm(quats, axis=1, keepdims=True),
            np.full(count, np.log(OPACITY / (1 - OPACITY))),
            (colours - 0.5) / SH_0,
        ]
        return cls(*(torch.tensor(column, dtype=torch.float32) for column in columns))

    def tensors(self) -> dict[str, Tensor]:
        """All that is fitted, by name."""
        return dict(vars(self))

    def render(self, cameras: Cameras) -> Float[Tensor, "v h w 4"]:
        """Premultiplied RGBA; differentiable in the splats."""
        device = self.means.device
        return rasterize(
            self.means,
            self.quats,
            self.log_scales.exp(),
            self.logit_opacities.sigmoid(),
            (0.5 + SH_0 * self.sh0).clamp_min(0),
            torch.from_numpy(cameras.opencv_world_to_camera()).float().to(device),
            torch.from_numpy(cameras.intrinsics).float().to(device),
            cameras.width,
            cameras.height,
        )

    def to_ply(self) -> bytes:
        """A file in the layout of Kerbl et al. 2023, which viewers of splats read; normals are 0 in it."""
        count = len(self.means)
        nothing = self.means.new_zeros(count, 3 + REST)
        columns = {
            "x y z": self.means,
            "nx ny nz": nothing[:, :3],
            "f_dc_0 f_dc_1 f_dc_2": self.sh0,
            " ".join(f"f_rest_{index}" for index in range(REST)): nothing[:, 3:],
            "opacity": self.logit_opacities[:, None],
            "scale_0 scale_1 scale_2": self.log_scales,
            "rot_0 rot_1 rot_2 rot_3": F.normalize(self.quats, dim=1),
        }
        header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
        header += [f"property float {name}" for names in columns for name in names.split()]
        table = torch.cat(list(columns.values()), dim=1).detach().cpu().numpy()
        return "\n".join([*header, "end_header\n"]).encode() + table.astype("<f4").tobytes()


@dataclass(frozen=True, eq=False)
class Splats:
    """Gaussians that were fitted to views, and how well they repeat these."""

    gaussians: Gaussians
    psnr_db: float
    """Mean over the views of the whole-image PSNR on white."""

    def details(self) -> dict[str, float]:
        """What recon.json says of them."""
        return {"count": len(self.gaussians.means), "psnr_db": round(self.psnr_db, 3)}


def fit(
    mesh: trimesh.Trimesh,
    images: UInt8[np.ndarray, "v h w 4"],
    cameras: Cameras,
    *,
    seed: int = 0,
    device: str = "auto",
    tell: Callable[[str], object] = log.info,
) -> Splats:
    """Splats that show a textured mesh as the views do. `device`: `auto`, `cuda`, `cuda:N`, see `check`.

    Sums on a GPU have no fixed order: the same views give nearly the same splats.
    """
    device = device_of(device)
    generator = torch.Generator().manual_seed(seed)
    _, depth = cameras.project(mesh.bounds.mean(axis=0)[None])
    pixel = float(np.median(depth) / np.median(cameras.intrinsics[:, [0, 1], [0, 1]]))
    count = int(np.clip(PER_PIXEL * mesh.area / pixel**2, FEWEST, MOST))
    start = Gaussians.on_surface(mesh, count=count, seed=seed)
    gaussians = Gaussians(
        **{name: each.to(device).requires_grad_() for name, each in start.tensors().items()}
    )
    rates = {**RATES, "means": RATES["means"] * float(mesh.extents.max())}
    optimiser = torch.optim.Adam(
        [{"params": [each], "lr": rates[name]} for name, each in gaussians.tensors().items()], eps=EPS
    )
    decay = torch.optim.lr_scheduler.ExponentialLR(optimiser, LAST_RATE ** (1 / ITERATIONS))
    pictures = torch.from_numpy(premultiplied(images)).to(device)
    together = max(1, PIXELS // (cameras.height * cameras.width))
    errors: list[Tensor] = []
    for iteration in range(1, ITERATIONS + 1):
        chosen = torch.randperm(len(cameras), generator=generator)[:together].tolist()
        error = gaussians.render(cameras.view(chosen)) - pictures[chosen]
        optimiser.zero_grad()
        (error.abs().sum() / len(chosen)).backward()
        optimiser.step()
        decay.step()
        errors.append(error.detach().square().mean())
        if iteration * REPORTS % ITERATIONS < REPORTS:
            psnr_db = float(-10 * torch.stack(errors).mean().log10())
            errors.clear()
            tell(f"splats: iteration {iteration} of {ITERATIONS}, {psnr_db:.1f} dB")
    kept = gaussians.logit_opacities.detach().sigmoid() > FAINT
    gaussians = Gaussians(**{name: each.detach()[kept] for name, each in gaussians.tensors().items()})
    repeated = np.concatenate([_picture(gaussians, cameras.view(view)) for view in range(len(cameras))])
    return Splats(gaussians, float(psnr(repeated, images).mean()))


def _picture(gaussians: Gaussians, camera: Cameras) -> UInt8[np.ndarray, "1 h w 4"]:
    """What one camera sees, as pictures are stored."""
    rgba = gaussians.render(camera).cpu().numpy()
    rgba[..., :3] /= np.maximum(rgba[..., 3:], 1e-6)
    return to_uint8(rgba)


def check(device: str) -> None:
    """Raise `DependencyError` unless gsplat can rasterize here. It compiles its kernels when first asked."""
    require("gsplat", extra="splats", reason="--splats")
    device = device_of(device)
    if torch.device(device).type != "cuda" or not torch.cuda.is_available():
        raise DependencyError(
            f"--splats: gsplat rasterizes on NVIDIA GPUs only, and the device is {device}; run it where "
            "torch sees a GPU, or leave --splats out"
        )
    one = Gaussians(*(torch.ones(shape, device=device) for shape in ((1, 3), (1, 3), (1, 4), (1,), (1, 3))))
    try:
        with contextlib.redirect_stdout(sys.stderr):  # gsplat tells there how it compiles
            one.render(Orbit.static(num_views=1).cameras(height=8, width=8))
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise DependencyError(
            f"--splats: gsplat is installed but its CUDA kernels cannot be used ({why}); install the CUDA "
            "toolkit of torch's version (nvcc) or a wheel of gsplat with kernels, or leave --splats out"
        ) from error


def rasterize(
    means: Float[Tensor, "n 3"],
    quats: Float[Tensor, "n 4"],
    scales: Float[Tensor, "n 3"],
    opacities: Float[Tensor, "n"],
    colours: Float[Tensor, "n 3"],
    world_to_camera: Float[Tensor, "v 4 4"],
    intrinsics: Float[Tensor, "v 3 3"],
    width: int,
    height: int,
) -> Float[Tensor, "v h w 4"]:
    """Premultiplied RGBA of Gaussians by gsplat; cameras as OpenCV defines them, all on one GPU."""
    from gsplat import rasterization  # type: ignore

    rgb, alpha, _ = rasterization(
        means, quats, scales, opacities, colours, world_to_camera, intrinsics, width, height, packed=False
    )
    return torch.cat([rgb, alpha], dim=-1)
