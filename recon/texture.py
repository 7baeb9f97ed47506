"""Colour from the views onto a mesh: unwrap, blend per texel, fill what no view saw, pad the borders.

A texel's colour is the mean of the views that see it, weighted by cos^4 of the angle between surface
normal and view direction and by how far the pixel is from an outline: pixels on an outline hold colour of
the background, or of another part, because the mesh is not exact there.
"""

from dataclasses import dataclass

import numpy as np
import trimesh
import xatlas
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from scipy import ndimage
from scipy.spatial import KDTree
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from recon.raster import RayCaster, render
from svd3d.cameras import Cameras
from svd3d.images import to_float, to_uint8

ANGLE_POWER = 4
"""Exponent of the cosine in the weight of a view."""
FEATHER = 3.0
"""Pixels from an outline over which a view's weight grows to its full value."""
MIN_COSINE = 0.1
"""Views at a more grazing angle are not used."""
PADDING = 12
"""Texels around a chart that repeat its border."""


@dataclass(frozen=True, eq=False)
class Chart:
    """A mesh cut open along seams: faces over (vertex of the mesh, texture coordinate) pairs."""

    vertex: Int[np.ndarray, "n"]
    """Vertex of the closed mesh for each vertex of the cut one."""
    faces: Int[np.ndarray, "f 3"]
    uv: Float[np.ndarray, "n 2"]
    """In [0, 1], v upwards."""


@dataclass(frozen=True, eq=False)
class Texels:
    """The texels that lie on the surface, as points in the world."""

    inside: Bool[np.ndarray, "h w"]
    """Which texels of the picture; the rest of the fields hold these in reading order."""
    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]


@dataclass(frozen=True, eq=False)
class Baked:
    """A textured mesh and how much of it some view saw."""

    mesh: trimesh.Trimesh
    seen: UInt8[np.ndarray, "h w"]
    """255 where some view saw the texel; 0 where it was filled in, or lies on no chart."""
    seen_share: float
    """Of the texels on charts; nearly share of the area, because charts keep their scale."""


def bake(
    surface: trimesh.Trimesh, images: UInt8[np.ndarray, "v h w 4"], cameras: Cameras, *, size: int
) -> Baked:
    """Give a closed mesh a `size` x `size` texture from views. The mesh is cut at seams, not moved."""
    chart = unwrap(surface, size=size)
    texels = texel_points(surface, chart, size=size)
    colour, seen = project(surface, texels, images, cameras)
    texture = np.zeros((size, size, 3), np.float32)
    texture[texels.inside] = fill_unseen(texels.points, colour, seen)
    texture = pad_charts(texture, texels.inside)
    material = PBRMaterial(
        name="baked",
        baseColorTexture=Image.fromarray(to_uint8(texture)),
        metallicFactor=0.0,
        roughnessFactor=1.0,
    )
    mesh = trimesh.Trimesh(
        surface.vertices[chart.vertex],
        chart.faces,
        vertex_normals=surface.vertex_normals[chart.vertex],
        visual=TextureVisuals(uv=chart.uv, material=material),
        process=False,
        validate=False,
    )
    mask = np.zeros((size, size), np.uint8)
    mask[texels.inside] = 255 * seen
    return Baked(mesh, mask, float(seen.mean()))


def unwrap(surface: trimesh.Trimesh, *, size: int) -> Chart:
    """Texture coordinates without overlap, by xatlas."""
    atlas = xatlas.Atlas()
    atlas.add_mesh(surface.vertices.astype(np.float32), surface.faces.astype(np.uint32))
    options = xatlas.PackOptions()
    options.resolution = size
    options.padding = 3
    options.bilinear = True
    atlas.generate(pack_options=options)
    vertex, faces, uv = atlas[0]
    return Chart(vertex.astype(np.int64), faces.astype(np.int64), uv.astype(np.float64))


def texel_points(surface: trimesh.Trimesh, chart: Chart, *, size: int) -> Texels:
    """Where the texel centres lie on the surface, found by rays onto the flat charts."""
    flat = np.column_stack([chart.uv * size, np.zeros(len(chart.uv))])
    x, y = np.meshgrid(np.arange(size) + 0.5, size - 0.5 - np.arange(size))
    origins = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1)
    down = np.broadcast_to(np.array([0.0, 0.0, -1.0]), origins.shape)
    hits = RayCaster(flat, chart.faces).first_hits(origins, down)
    hit = np.flatnonzero(hits.face >= 0)
    corners = chart.vertex[chart.faces[hits.face[hit]]]
    weights = hits.barycentric[hit]
    points = np.einsum("nc,nck->nk", weights, surface.vertices[corners].astype(np.float32))
    normals = np.einsum("nc,nck->nk", weights, surface.vertex_normals[corners].astype(np.float32))
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    return Texels((hits.face >= 0).reshape(size, size), points, normals)


def project(
    surface: trimesh.Trimesh, texels: Texels, images: UInt8[np.ndarray, "v h w 4"], cameras: Cameras
) -> tuple[Float[np.ndarray, "n 3"], Bool[np.ndarray, "n"]]:
    """Colour of each texel in [0, 1] and whether any view saw it (its colour is 0 otherwise).

    Pixels near outlines are used only for texels that no view sees better, such as those of thin parts.
    """
    caster = RayCaster(surface.vertices, surface.faces)
    _, depth = render(surface, cameras, samples_per_side=1)
    weights = np.stack([_pixel_weight(*pair, cameras) for pair in zip(images[..., 3], depth, strict=True)])
    colour, total = _blend(caster, texels.points, texels.normals, to_float(images), weights, cameras)
    missed = np.flatnonzero(total < 1e-3)
    if len(missed):
        opaque = (images[..., 3] > 200).astype(np.float32)
        colour[missed], total[missed] = _blend(
            caster, texels.points[missed], texels.normals[missed], to_float(images), opaque, cameras
        )
    seen = total > 1e-4
    colour[seen] /= total[seen, None]
    colour[~seen] = 0
    return colour, seen


def _pixel_weight(
    alpha: UInt8[np.ndarray, "h w"], depth: Float[np.ndarray, "h w"], cameras: Cameras
) -> Float[np.ndarray, "h w"]:
    """How far a pixel is from any outline, in [0, 1]: of the silhouette, or of a nearer part of the mesh."""
    high, low = ndimage.maximum_filter(depth, 3), ndimage.minimum_filter(depth, 3)
    pixel = depth / cameras.intrinsics[:, 0, 0].min()
    usable = (alpha > 242) & (depth > 0) & (high - low < 8 * pixel)
    from_outline = np.empty((usable.shape[0] + 2, usable.shape[1] + 2))
    ndimage.distance_transform_edt(np.pad(usable, 1), distances=from_outline)
    return ((from_outline[1:-1, 1:-1] - 0.5) / FEATHER).clip(0, 1)


def _blend(
    caster: RayCaster,
    points: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    images: Float[np.ndarray, "v h w 4"],
    weights: Float[np.ndarray, "v h w"],
    cameras: Cameras,
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n"]]:
    """Sums over the views of weight times colour, and of weight, for each point."""
    colour, total = np.zeros((len(points), 3), np.float32), np.zeros(len(points), np.float32)
    # weighted first, then interpolated: a pixel of weight 0 lends nothing to its neighbours
    weighted = np.concatenate([images[..., :3] * weights[..., None], weights[..., None]], -1).astype(
        np.float32
    )
    offset = points + 1e-3 * normals
    for view in range(len(cameras)):
        to_camera = cameras.positions[view].astype(np.float32) - points
        cosine = np.einsum("nk,nk->n", to_camera, normals) / np.linalg.norm(to_camera, axis=1)
        facing = np.flatnonzero(cosine > MIN_COSINE)
        pixels, depth = cameras.view(view).project(points[facing])
        sampled = _bilinear(weighted[view], pixels[0].astype(np.float32))
        useful = (sampled[:, 3] > 1e-3) & (depth[0] > 0)
        facing, sampled = facing[useful], sampled[useful]
        visible = ~caster.blocked(offset[facing], to_camera[facing])
        facing, sampled = facing[visible], sampled[visible]
        sampled *= cosine[facing, None] ** ANGLE_POWER
        colour[facing] += sampled[:, :3]
        total[facing] += sampled[:, 3]
    return colour, total


def _bilinear(
    picture: Float[np.ndarray, "h w c"], pixels: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n c"]:
    """Values at pixel coordinates; 0 outside the frame."""
    height, width, channels = picture.shape
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0))).reshape(-1, channels)
    x = (pixels[:, 0] + 0.5).clip(0, width + 0.999)
    y = (pixels[:, 1] + 0.5).clip(0, height + 0.999)
    left, top = x.astype(np.int32), y.astype(np.int32)
    part_x, part_y = (x - left)[:, None], (y - top)[:, None]
    corner, row = top * (width + 2) + left, width + 2
    upper = padded[corner] * (1 - part_x) + padded[corner + 1] * part_x
    lower = padded[corner + row] * (1 - part_x) + padded[corner + row + 1] * part_x
    return upper * (1 - part_y) + lower * part_y


def fill_unseen(
    points: Float[np.ndarray, "n 3"],
    colour: Float[np.ndarray, "n 3"],
    seen: Bool[np.ndarray, "n"],
    *,
    neighbours: int = 16,
    most: int = 40_000,
) -> Float[np.ndarray, "n 3"]:
    """Give unseen points the inverse-distance mean of the nearest seen ones; grey if none is seen."""
    if seen.all():
        return colour
    if not seen.any():
        return np.full_like(colour, 0.5)
    known = np.flatnonzero(seen)[:: 1 + int(seen.sum()) // most]
    count = min(neighbours, len(known))
    found = KDTree(points[known]).query(points[~seen], k=count)
    distance, index = (np.asarray(each).reshape(-1, count) for each in found)  # k = 1 drops the axis
    weight = (1 / np.maximum(distance, 1e-6)).astype(np.float32)
    filled = colour.copy()
    filled[~seen] = np.einsum("nk,nkc->nc", weight, colour[known[index]]) / weight.sum(axis=1, keepdims=True)
    return filled


def pad_charts(
    texture: Float[np.ndarray, "h w 3"], inside: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w 3"]:
    """Repeat chart borders outwards, so that interpolation at a seam meets no empty texel."""
    nearest = np.empty((2, *inside.shape), np.int32)
    distance = np.empty(inside.shape)
    ndimage.distance_transform_edt(~inside, return_indices=True, distances=distance, indices=nearest)
    padded = texture[nearest[0], nearest[1]]
    padded[distance > PADDING] = texture[inside].mean(axis=0)
    return padded
