"""Rays against a mesh (Embree), and textured pictures made of them: unlit, because the light is baked in."""

from dataclasses import dataclass

import numpy as np
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from trimesh.visual import TextureVisuals

from svd3d.cameras import OPENGL_TO_OPENCV, Cameras
from svd3d.images import composite, to_uint8

RAYS = 1 << 20
"""Rays that are cast at once; bounds the memory."""


@dataclass(frozen=True, eq=False)
class Hits:
    """First hits of rays: `face` is -1 where nothing was hit, `distance` in lengths of the direction."""

    face: Int[np.ndarray, "n"]
    distance: Float[np.ndarray, "n"]
    barycentric: Float[np.ndarray, "n 3"]
    """Weights of the three corners of the face."""


class RayCaster:
    """A triangle mesh prepared for rays."""

    def __init__(self, vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "f 3"]) -> None:
        self._scene = EmbreeScene()
        self._mesh = TriangleMesh(
            self._scene,
            np.ascontiguousarray(vertices, np.float32),
            np.ascontiguousarray(faces, np.int32),
        )

    def first_hits(self, origins: Float[np.ndarray, "n 3"], directions: Float[np.ndarray, "n 3"]) -> Hits:
        """The nearest intersection of each ray, both sides of a face count."""
        found = self._scene.run(
            np.ascontiguousarray(origins, np.float32),
            np.ascontiguousarray(directions, np.float32),
            output=True,
        )
        u, v = found["u"], found["v"]
        return Hits(found["primID"], found["tfar"], np.stack([1 - u - v, u, v], axis=1))

    def blocked(
        self, origins: Float[np.ndarray, "n 3"], directions: Float[np.ndarray, "n 3"]
    ) -> Bool[np.ndarray, "n"]:
        """Whether a ray hits anything at all."""
        hit = self._scene.run(
            np.ascontiguousarray(origins, np.float32),
            np.ascontiguousarray(directions, np.float32),
            query="OCCLUDED",
        )
        return hit != -1


def texture_of(mesh: trimesh.Trimesh) -> tuple[Float[np.ndarray, "n 2"], UInt8[np.ndarray, "h w 3"]] | None:
    """Texture coordinates (v upwards) and base colour picture of a mesh, or None when it has no texture."""
    visual = mesh.visual
    if not isinstance(visual, TextureVisuals) or visual.uv is None:
        return None
    material = visual.material
    picture = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if not isinstance(picture, Image.Image):
        return None
    return np.asarray(visual.uv, dtype=np.float64), np.asarray(picture.convert("RGB"))


def sample_texture(
    texture: UInt8[np.ndarray, "h w 3"], uv: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n 3"]:
    """Bilinear look-up in [0, 1]; v points up, coordinates outside [0, 1] are clamped to the border."""
    height, width = texture.shape[:2]
    x = (uv[:, 0] * width - 0.5).clip(0, width - 1)
    y = ((1 - uv[:, 1]) * height - 0.5).clip(0, height - 1)
    left, top = x.astype(np.int64), y.astype(np.int64)
    right, low = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    part_x, part_y = (x - left)[:, None].astype(np.float32), (y - top)[:, None].astype(np.float32)
    upper = texture[top, left] * (1 - part_x) + texture[top, right] * part_x
    lower = texture[low, left] * (1 - part_x) + texture[low, right] * part_x
    return (upper * (1 - part_y) + lower * part_y) / np.float32(255)


def render(
    mesh: trimesh.Trimesh, cameras: Cameras, *, samples_per_side: int = 3
) -> tuple[UInt8[np.ndarray, "v h w 4"], Float[np.ndarray, "v h w"]]:
    """Pictures and depth of a mesh: straight RGBA with alpha = coverage, depth at the pixel centres.

    `samples_per_side` squared rays per pixel, an odd number so that one goes through the centre. A mesh
    without texture is grey. Depth is along the optical axis, 0 where the central ray hits nothing.
    """
    assert samples_per_side % 2 == 1, (
        f"an even number of samples ({samples_per_side}) misses the pixel centre"
    )
    caster = RayCaster(mesh.vertices, mesh.faces)
    shape = (len(cameras), cameras.height, cameras.width)
    images, depths = np.zeros((*shape, 4), np.uint8), np.zeros(shape, np.float32)
    for view in range(len(cameras)):
        x0, y0, x1, y1 = _frame_box(mesh, cameras.view(view))
        rows = max(1, RAYS // max(1, (x1 - x0) * samples_per_side**2))
        for top in range(y0, y1, rows):
            low = min(top + rows, y1)
            rgba, depth = _render_window(
                mesh, caster, cameras.view(view), (x0, top, x1, low), samples_per_side
            )
            images[view, top:low, x0:x1], depths[view, top:low, x0:x1] = rgba, depth
    return images, depths


def _frame_box(mesh: trimesh.Trimesh, camera: Cameras) -> tuple[int, int, int, int]:
    """The part of the frame that the bounding box of a mesh can cover: left, top, right, bottom."""
    pixels, depth = camera.project(np.asarray(mesh.bounding_box.vertices, dtype=np.float64))
    if depth.min() <= 0:
        return 0, 0, camera.width, camera.height
    frame = [camera.width, camera.height]
    low = np.floor(pixels[0].min(axis=0) - 1).clip(0, frame).astype(int)
    high = np.ceil(pixels[0].max(axis=0) + 1).clip(0, frame).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _render_window(
    mesh: trimesh.Trimesh, caster: RayCaster, camera: Cameras, window: tuple[int, int, int, int], side: int
) -> tuple[UInt8[np.ndarray, "h w 4"], Float[np.ndarray, "h w"]]:
    x0, y0, x1, y1 = window
    if x0 >= x1 or y0 >= y1:
        return np.zeros((y1 - y0, x1 - x0, 4), np.uint8), np.zeros((y1 - y0, x1 - x0), np.float32)
    shape = (y1 - y0, side, x1 - x0, side)
    directions = _directions(camera, window, side)
    hits = caster.first_hits(
        np.broadcast_to(camera.positions.astype(np.float32), directions.shape), directions
    )
    hit = np.flatnonzero(hits.face >= 0)
    colour = np.zeros((len(directions), 4), np.float32)
    colour[hit, :3] = colours_at(mesh, hits.face[hit], hits.barycentric[hit])
    colour[hit, 3] = 1
    mean = colour.reshape(*shape, 4).mean(axis=(1, 3))
    mean[..., :3] /= np.maximum(mean[..., 3:], 1e-6)
    middle = side // 2
    depth = np.where(hits.face >= 0, hits.distance, 0).reshape(shape)[:, middle, :, middle]
    return to_uint8(mean), depth.astype(np.float32)


def _directions(camera: Cameras, window: tuple[int, int, int, int], side: int) -> Float[np.ndarray, "n 3"]:
    """Directions of length 1 along the optical axis through `side` x `side` points of each pixel."""
    x0, y0, x1, y1 = window
    x, y = np.meshgrid(
        x0 + (np.arange((x1 - x0) * side) + 0.5) / side, y0 + (np.arange((y1 - y0) * side) + 0.5) / side
    )
    pixels = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1)
    rotation = (camera.camera_to_world[0] @ OPENGL_TO_OPENCV)[:3, :3]
    return (pixels @ (rotation @ np.linalg.inv(camera.intrinsics[0])).T).astype(np.float32)


def colours_at(
    mesh: trimesh.Trimesh, faces: Int[np.ndarray, "n"], barycentric: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """Colours in [0, 1] of points of a textured mesh; grey without a texture."""
    textured = texture_of(mesh)
    if textured is None:
        return np.full((len(faces), 3), 0.7, np.float32)
    uv, texture = textured
    corners = uv[mesh.faces[faces]]
    return sample_texture(texture, np.einsum("nc,nck->nk", barycentric, corners))


def psnr(ours: UInt8[np.ndarray, "v h w 4"], theirs: UInt8[np.ndarray, "v h w 4"]) -> Float[np.ndarray, "v"]:
    """Whole-image PSNR on white of each view, in dB; 100 for equal pictures."""
    pairs = zip(ours, theirs, strict=True)  # one by one: as floats, all views together fill the memory
    error = [((composite(one) - composite(other)) ** 2).mean(dtype=np.float64) for one, other in pairs]
    return -10 * np.log10(np.maximum(error, 1e-10))
