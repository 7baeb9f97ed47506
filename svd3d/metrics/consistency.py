"""Whether views of one object agree with each other where their depth says that they show the same point."""

import numpy as np
from jaxtyping import Float, Int, UInt8

from svd3d import images as pictures
from svd3d.cameras import Cameras
from svd3d.errors import ImageError, InputError
from svd3d.metrics.images import psnr

NEIGHBOURS = 2
"""Views that each view is compared with: those with the most similar viewing direction."""
OCCLUSION_PIXELS = 3.0
"""A point is seen by a neighbour when its depth there is off by less than this many pixels' width at it."""


def reprojection_psnr(
    images: UInt8[np.ndarray, "v h w 4"], depth: Float[np.ndarray, "v h w"] | None, cameras: Cameras
) -> Float[np.ndarray, "v"]:
    """PSNR of each view against the colours that its two nearest neighbours show at the same points.

    dB, [0, 100], higher is better. Every pixel of a view with alpha above 0.5 is carried by the view's own
    depth (world units along the optical axis, 0: nothing) into a neighbour and read there bilinearly; it
    counts when all four pixels around it lie at the carried point's depth (within `OCCLUSION_PIXELS`), so
    what is hidden or outside there does not. Errors of both neighbours are pooled. Reading between pixels
    costs detail, and light that depends on the view costs more: compare with what the reference's views
    reach (36 dB for SyncDreamer's chicken at 256 px), not with 100. It says nothing about whether the views
    show the right object.

    Raises `InputError` when there is no depth or one view only, `ImageError` naming a view that shows
    nothing its neighbours see.
    """
    if depth is None:
        raise InputError("the views have no depth; reconstruct them or leave reprojection-psnr out")
    if len(images) < 2:
        raise InputError(
            f"{len(images)} view has no neighbour; give at least 2 or leave reprojection-psnr out"
        )
    colours = pictures.to_float(images[..., :3])
    solid = np.where(images[..., 3] > 127, depth, 0)
    scores = []
    for view, nearest in enumerate(_neighbours(cameras)):
        rows, columns = np.nonzero(solid[view])
        pixels = np.column_stack([columns, rows]) + 0.5
        points = cameras.view(view).unproject(pixels[None], solid[view, rows, columns][None])[0]
        found = [_read(points, colours[other], solid[other], cameras.view(other)) for other in nearest]
        own = colours[view, rows, columns][np.concatenate([seen for seen, _ in found])]
        if not len(own):
            raise ImageError(
                f"view {view}: shows nothing that its neighbours {', '.join(map(str, nearest))} see by their "
                "depth; use views that overlap, with depth in world units"
            )
        carried = np.concatenate([colour for _, colour in found])
        scores.append(psnr(carried[None, None], own[None, None])[0])
    return np.array(scores)


def _neighbours(cameras: Cameras) -> list[list[int]]:
    """For each view the others with the most similar viewing direction, the most similar first."""
    forward = -cameras.camera_to_world[:, :3, 2]
    likeness = (forward @ forward.T).round(9)  # both sides of a ring tie; the lower index comes first
    np.fill_diagonal(likeness, -np.inf)
    order = np.argsort(-likeness, axis=1, kind="stable")
    return [[int(other) for other in row[: min(NEIGHBOURS, len(cameras) - 1)]] for row in order]


def _read(
    points: Float[np.ndarray, "n 3"],
    colours: Float[np.ndarray, "h w 3"],
    depth: Float[np.ndarray, "h w"],
    camera: Cameras,
) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k 3"]]:
    """Which points a view sees, and the colours that it shows there."""
    pixels, distance = (each[0] for each in camera.project(points))
    corner = np.floor(pixels - 0.5)
    last = [camera.width - 1, camera.height - 1]
    framed = np.flatnonzero((distance > 0) & ((corner >= 0) & (corner < last)).all(axis=1))
    left, top = corner[framed].astype(np.int64).T
    right_part, low_part = (pixels[framed] - 0.5 - corner[framed]).T
    distance = distance[framed]
    tolerance = OCCLUSION_PIXELS * distance / camera.intrinsics[0, 0, 0]
    read, seen = np.zeros((len(framed), 3)), np.ones(len(framed), bool)
    for down, across in ((0, 0), (0, 1), (1, 0), (1, 1)):
        part = (low_part if down else 1 - low_part) * (right_part if across else 1 - right_part)
        place = (top + down) * camera.width + left + across
        read += part[:, None] * colours.reshape(-1, 3).take(place, axis=0)
        seen &= np.abs(depth.take(place) - distance) < tolerance
    return framed[seen], read[seen]
