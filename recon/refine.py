"""Moving the vertices of a mesh until its pictures are the views: an optional last step after any method.

Which face a pixel sees is found by rasterizing (Embree, or PyTorch3D on a GPU that has it) and held; where
its ray meets that face follows the vertices, and so does the interpolated colour (as in nvdiffrast, Laine et
al. 2020, section 3.2). That says nothing of outlines: edges where the mesh turns away from the camera are
drawn across to the nearest outline of the view. Gradients are smoothed over the surface and one step length
holds for all vertices (as in Nicolet et al. 2021, Large Steps in Inverse Rendering), which keeps it whole.
"""

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from jaxtyping import Float, Int, UInt8
from scipy.spatial import KDTree
from skimage import measure
from torch import Tensor

from recon.grid import rays
from recon.raster import RayCaster
from recon.threads import device_of
from svd3d.cameras import OPENGL_TO_OPENCV, Cameras
from svd3d.images import to_float

log = logging.getLogger(__name__)

PIXELS = 1 << 17
"""Of the views that a step looks at, and one view at least."""
REPORTS = 4
"""How often it is said how far it has come."""
HUBER = 0.1
"""Errors of colour above this count linearly."""
GRAZING = 0.15
"""Faces under a smaller cosine tell nothing by their colour."""
OUTLINE = 0.02
"""Weight of the squared distance of outlines, in pixels, against the squared error of colours."""
REACH_PX = 3.0
"""Outlines farther apart do not belong together."""
ASIDE_PX = 0.25
"""So far outside an edge nothing of the mesh may be seen if it lies on its outline."""
STIFFNESS = 10.0
"""Weight of the squared bending of the displacement, in lengths of an edge."""
SMOOTHING = 8
"""How often a gradient is replaced by its mean over neighbours."""
RATE, LAST_RATE = 0.05, 0.1
"""Step of the vertex that moves most, in lengths of an edge, and the part of it that is left at the end."""
RATE_COLOUR = 0.02
"""Of the colours of vertices, in [0, 1], for Adam."""
BETA = 0.9
"""Of the mean of gradients."""


def refined(
    mesh: trimesh.Trimesh,
    images: UInt8[np.ndarray, "v h w 4"],
    cameras: Cameras,
    *,
    steps: int,
    seed: int = 0,
    device: str = "cpu",
    tell: Callable[[str], object] = log.info,
) -> trimesh.Trimesh:
    """The same faces on moved vertices. `device`: `auto` (a GPU if there is one), `cpu`, `cuda`."""
    device = device_of(device)
    start, faces = torch.from_numpy(mesh.vertices).float().to(device), torch.from_numpy(mesh.faces).to(device)
    views = [_View.of(images[view], cameras.view(view), device=device) for view in range(len(cameras))]
    sees = rasterizer(device)
    edge = float(mesh.edges_unique_length.mean())
    neighbours = _neighbour_mean(mesh).to(device)
    moved = torch.zeros_like(start, requires_grad=True)
    colours = _first_colours(views, [sees(start, faces, view.camera) for view in views], start, faces)
    painter = torch.optim.Adam([colours.requires_grad_()], lr=RATE_COLOUR)
    mean, square, errors = torch.zeros_like(start), 0.0, []
    together = max(1, PIXELS // (cameras.height * cameras.width))
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        caster = RayCaster((start + moved).detach().cpu().numpy(), mesh.faces)
        loss = STIFFNESS * ((neighbours @ moved - moved) / edge).square().sum()
        for index in torch.randperm(len(views), generator=generator)[:together].tolist():
            now, view = start + moved, views[index]
            face = sees(now.detach(), faces, view.camera)
            error = view.colour_error(now, faces, colours, face)
            errors.append(error.detach().square().mean())
            loss = loss + F.huber_loss(error, torch.zeros_like(error), delta=HUBER, reduction="sum")
            loss = loss + OUTLINE * view.outline_error(now, mesh, caster).square().sum()
        painter.zero_grad()
        (gradient,) = torch.autograd.grad(loss, [moved], retain_graph=True)
        (colours.grad,) = torch.autograd.grad(loss, [colours])
        painter.step()
        for _ in range(SMOOTHING):
            gradient = neighbours @ gradient
        mean = BETA * mean + (1 - BETA) * gradient
        square = max(BETA * square, float(gradient.square().sum(dim=1).max()))
        rate = RATE * LAST_RATE ** (step / steps)
        with torch.no_grad():
            moved -= rate * edge * mean / max(square**0.5, 1e-12)
        if (step + 1) * REPORTS % steps < REPORTS:
            tell(
                f"mesh: step {step + 1} of {steps}, {float(-10 * torch.stack(errors).mean().log10()):.1f} dB"
            )
            errors.clear()
    vertices = (start + moved).detach().cpu().numpy().astype(np.float64)
    return trimesh.Trimesh(vertices, mesh.faces, process=False, validate=False)


Rasterizer = Callable[[Float[Tensor, "n 3"], Int[Tensor, "f 3"], Cameras], Int[Tensor, "h w"]]
"""Vertices, faces and one camera to the face that the centre of each pixel sees; -1 for none."""


def rasterizer(device: str) -> Rasterizer:
    """PyTorch3D on a GPU where it is installed, Embree otherwise."""
    on_gpu = torch.device(device).type == "cuda"
    return by_pytorch3d if on_gpu and importlib.util.find_spec("pytorch3d") else by_embree


def by_embree(
    vertices: Float[Tensor, "n 3"], faces: Int[Tensor, "f 3"], camera: Cameras
) -> Int[Tensor, "h w"]:
    """A ray through the centre of each pixel."""
    origins, directions = camera.rays()
    lines = directions[0].reshape(-1, 3)
    hits = RayCaster(vertices.cpu().numpy(), faces.cpu().numpy()).first_hits(
        np.broadcast_to(origins[0], lines.shape), lines
    )
    seen = hits.face.astype(np.int64).reshape(camera.height, camera.width)
    return torch.from_numpy(seen).to(vertices.device)


def by_pytorch3d(
    vertices: Float[Tensor, "n 3"], faces: Int[Tensor, "f 3"], camera: Cameras
) -> Int[Tensor, "h w"]:
    """The rasterizer of PyTorch3D, on the device of the vertices."""
    from pytorch3d.renderer import MeshRasterizer, PerspectiveCameras, RasterizationSettings  # type: ignore
    from pytorch3d.structures import Meshes  # type: ignore

    rotation, translation = (
        torch.from_numpy(each).float() for each in camera.pytorch3d_rotation_translation()
    )
    intrinsics, size = torch.from_numpy(camera.intrinsics).float(), (camera.height, camera.width)
    cameras: Any = PerspectiveCameras(
        R=rotation,
        T=translation,
        focal_length=intrinsics[:, [0, 1], [0, 1]],
        principal_point=intrinsics[:, :2, 2],
        image_size=torch.tensor([size]),
        in_ndc=False,
        device=vertices.device,
    )
    settings = RasterizationSettings(image_size=size, blur_radius=0.0, faces_per_pixel=1)
    fragments = MeshRasterizer(cameras, settings)(Meshes(vertices[None], faces[None]))
    return fragments.pix_to_face[0, ..., 0]


@dataclass(frozen=True, eq=False)
class _View:
    """What a mesh is held against."""

    camera: Cameras
    colours: Float[Tensor, "h w 3"]
    opaque: Float[Tensor, "h w"]
    """1 where nothing of the background shows."""
    origin: Float[Tensor, "3"]
    directions: Float[Tensor, "h w 3"]
    outline: Float[np.ndarray, "o 2"]
    """Points where alpha is a half, in pixels."""
    across: Float[np.ndarray, "o 2"]
    """Unit normals there."""
    nearest: KDTree
    """Of the outline."""
    projection: Float[Tensor, "3 4"]
    """World to pixels."""

    @classmethod
    def of(cls, image: UInt8[np.ndarray, "h w 4"], camera: Cameras, *, device: str) -> "_View":
        rgba = to_float(image)
        contours = [each for each in measure.find_contours(np.pad(rgba[..., 3], 1), 0.5) if len(each) > 3]
        points = np.concatenate([each[:-1, ::-1] - 0.5 for each in contours] or [np.zeros((0, 2))])
        along = np.concatenate([_tangents(each[:-1, ::-1]) for each in contours] or [np.zeros((0, 2))])
        origins, directions = rays(camera)
        projection = camera.intrinsics[0] @ (OPENGL_TO_OPENCV @ camera.world_to_camera[0])[:3]
        return cls(
            camera,
            torch.from_numpy(rgba[..., :3]).to(device),
            torch.from_numpy((image[..., 3] == 255).astype(np.float32)).to(device),
            origins[0].to(device),
            directions[0].to(device),
            points,
            np.stack([along[:, 1], -along[:, 0]], axis=1),
            KDTree(points),
            torch.from_numpy(projection).float().to(device),
        )

    def met(
        self, vertices: Float[Tensor, "n 3"], faces: Int[Tensor, "f 3"], face: Int[Tensor, "h w"]
    ) -> tuple[Int[Tensor, "p 3"], Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
        """For opaque pixels that see a face: its corners, their weights where the ray meets it, the colour.

        The intersection is that of Moeller and Trumbore 1997, differentiable in the vertices.
        """
        chosen = (face >= 0) & (self.opaque > 0)
        corners = faces[face[chosen]]
        ahead = self.directions[chosen]
        first, second, third = vertices[corners].unbind(1)
        one, other = second - first, third - first
        facing = F.normalize(torch.linalg.cross(one, other).detach(), dim=1)
        steep = ((facing * ahead).sum(1).abs() > GRAZING).nonzero()[:, 0]
        corners, ahead, first, one, other = (
            each.index_select(0, steep) for each in (corners, ahead, first, one, other)
        )
        normal = torch.linalg.cross(ahead, other)
        scale = (one * normal).sum(1)
        back = self.origin - first
        u = (back * normal).sum(1) / scale
        v = (ahead * torch.linalg.cross(back, one)).sum(1) / scale
        weights = torch.stack([1 - u - v, u, v], dim=1)
        return corners, weights, self.colours[chosen].index_select(0, steep)

    def colour_error(
        self,
        vertices: Float[Tensor, "n 3"],
        faces: Int[Tensor, "f 3"],
        colours: Float[Tensor, "n 3"],
        face: Int[Tensor, "h w"],
    ) -> Float[Tensor, "p 3"]:
        """Interpolated colours less those of the view."""
        corners, weights, target = self.met(vertices, faces, face)
        return (colours[corners] * weights[..., None]).sum(dim=1) - target

    def outline_error(
        self, vertices: Float[Tensor, "n 3"], mesh: trimesh.Trimesh, caster: RayCaster
    ) -> Float[Tensor, "e"]:
        """Distance in pixels across the view's outline of each edge of the mesh that lies on its own."""
        if not len(self.outline):
            return vertices.new_zeros(0)
        place = vertices.detach().cpu().numpy()
        corners = place[mesh.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        ahead = corners[:, 0] - self.camera.positions[0]
        turning = ((ahead * normals).sum(axis=1) < 0)[mesh.face_adjacency].sum(axis=1) == 1
        ends = mesh.face_adjacency_edges[turning]
        outwards = normals[mesh.face_adjacency[turning]].sum(axis=1)
        outwards /= np.maximum(np.linalg.norm(outwards, axis=1, keepdims=True), 1e-20)
        ahead = place[ends].mean(axis=1) - self.camera.positions[0]
        pixel = np.linalg.norm(ahead, axis=1, keepdims=True) / self.camera.intrinsics[0, 1, 1]
        beside = ahead + ASIDE_PX * pixel * outwards
        origins = np.broadcast_to(self.camera.positions[0], beside.shape)
        ends = ends[~caster.blocked(origins, beside)]

        middle = vertices[torch.from_numpy(ends).to(vertices.device)].mean(dim=1)
        projected = F.pad(middle, (0, 1), value=1.0) @ self.projection.T
        pixels = projected[:, :2] / projected[:, 2:]
        distance, nearest = self.nearest.query(pixels.detach().cpu().numpy(), distance_upper_bound=REACH_PX)
        chosen = np.flatnonzero(np.isfinite(distance))
        at, across = (
            torch.from_numpy(each[nearest[chosen]]).to(pixels) for each in (self.outline, self.across)
        )
        return ((pixels[torch.from_numpy(chosen).to(pixels.device)] - at) * across).sum(dim=1)


def _tangents(loop: Float[np.ndarray, "o 2"]) -> Float[np.ndarray, "o 2"]:
    """Unit tangents of a closed line."""
    along = np.roll(loop, -1, axis=0) - np.roll(loop, 1, axis=0)
    return along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)


def _neighbour_mean(mesh: trimesh.Trimesh) -> Tensor:
    """A sparse matrix that gives each vertex the mean of itself and its neighbours."""
    count = len(mesh.vertices)
    itself = np.arange(count)[:, None].repeat(2, axis=1)
    ends = np.concatenate([mesh.edges_unique, mesh.edges_unique[:, ::-1], itself]).T
    share = 1 / np.bincount(ends[0], minlength=count)[ends[0]]
    return torch.sparse_coo_tensor(
        torch.from_numpy(ends), torch.from_numpy(share).float(), (count, count), check_invariants=True
    ).coalesce()


@torch.no_grad()
def _first_colours(
    views: list[_View], seen: list[Tensor], vertices: Float[Tensor, "n 3"], faces: Int[Tensor, "f 3"]
) -> Float[Tensor, "n 3"]:
    """The mean colour of the pixels around each vertex; grey where there are none."""
    total = vertices.new_full((len(vertices), 4), 1e-3)
    total[:, :3] *= 0.5
    for view, face in zip(views, seen, strict=True):
        corners, weights, colour = view.met(vertices, faces, face)
        weighted = F.pad(colour, (0, 1), value=1.0)[:, None] * weights.clamp(0, 1)[..., None]
        total.index_add_(0, corners.view(-1), weighted.view(-1, 4))
    return total[:, :3] / total[:, 3:]
