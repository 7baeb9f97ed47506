"""Silhouette carving as a continuous field.

The field at a point is the k-th smallest, over the views, of the silhouette's alpha where the point
projects. Alpha is interpolated, so the level 0.5 is known to a fraction of a voxel. k = 1 is the visual
hull; a larger k forgives k - 1 views that disagree. What lies outside a frame counts as outside.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from recon.volume import Volume
from svd3d.cameras import OPENGL_TO_OPENCV, Cameras
from svd3d.errors import MeshError

LEVEL = 0.5
"""Alpha on the outline of a silhouette, and so the level of the surface."""
CELL = 4
"""Voxels along a side of the cells that are decided whole."""
CHUNK = 1 << 16
"""Points that are projected at once; bounds the memory."""


@dataclass(frozen=True, eq=False)
class Silhouettes:
    """Alpha of all views with a border of nothing, ready for look-ups at world points."""

    padded: Float[np.ndarray, "v h2 w2"]
    world_to_pixel: Float[np.ndarray, "v 3 4"]
    focal: float
    """The largest focal length in pixels."""

    @classmethod
    def of(cls, alpha: Float[np.ndarray, "v h w"], cameras: Cameras) -> "Silhouettes":
        """Silhouettes of views; alpha in [0, 1]."""
        matrices = cameras.intrinsics @ (OPENGL_TO_OPENCV @ cameras.world_to_camera)[:, :3]
        padded = np.pad(alpha.astype(np.float32), ((0, 0), (1, 1), (1, 1)))
        return cls(padded, matrices.astype(np.float32), float(cameras.intrinsics[:, [0, 1], [0, 1]].max()))

    def filtered(self, radius: int) -> tuple["Silhouettes", "Silhouettes"]:
        """Lower and upper bounds of alpha within `radius` pixels."""
        size = (1, 2 * radius + 1, 2 * radius + 1)
        lower = ndimage.minimum_filter(self.padded, size, mode="constant")
        upper = ndimage.maximum_filter(self.padded, size, mode="constant")
        return (
            Silhouettes(lower, self.world_to_pixel, self.focal),
            Silhouettes(upper, self.world_to_pixel, self.focal),
        )

    def kth_smallest(self, points: Float[np.ndarray, "n 3"], k: int) -> Float[np.ndarray, "n"]:
        """The k-th smallest alpha over the views at world points; k starts at 1."""
        result = np.empty(len(points), np.float32)
        for start in range(0, len(points), CHUNK):
            part = points[start : start + CHUNK].astype(np.float32)
            smallest = [np.full(len(part), np.inf, np.float32) for _ in range(k)]
            for view in range(len(self.padded)):
                value = self._alpha(view, part)
                for rank in range(k):  # insertion into a sorted list, for all points at once
                    value, smallest[rank] = (
                        np.maximum(smallest[rank], value),
                        np.minimum(smallest[rank], value),
                    )
            result[start : start + CHUNK] = smallest[-1]
        return result

    def _alpha(self, view: int, points: np.ndarray) -> np.ndarray:
        matrix, alpha = self.world_to_pixel[view], self.padded[view]
        projected = points @ matrix[:, :3].T + matrix[:, 3]
        depth = np.maximum(projected[:, 2], 1e-6)
        height, width = alpha.shape
        # pixel (0, 0) has its centre at (0.5, 0.5) and lies at index (1, 1) of the padded picture
        x = (projected[:, 0] / depth + 0.5).clip(0, width - 1.001)
        y = (projected[:, 1] / depth + 0.5).clip(0, height - 1.001)
        left, top = x.astype(np.int32), y.astype(np.int32)
        right_part, low_part = x - left, y - top
        corner, flat = top * width + left, alpha.ravel()
        upper = flat[corner] * (1 - right_part) + flat[corner + 1] * right_part
        lower = flat[corner + width] * (1 - right_part) + flat[corner + width + 1] * right_part
        value = upper * (1 - low_part) + lower * low_part
        value[projected[:, 2] <= 0] = 0
        return value


def check_silhouettes(alpha: Float[np.ndarray, "v h w"]) -> None:
    """Refuse views that cannot be carved with: a single one, empty ones, ones without transparency."""
    if len(alpha) < 2:
        raise MeshError("one view alone has no shape; make an orbit of at least 3 views")
    inside = (alpha > LEVEL).mean(axis=(1, 2))
    if empty := [str(view) for view in np.flatnonzero(inside == 0)]:
        raise MeshError(
            f"the silhouette of {len(empty)} of {len(alpha)} views is empty (view {', '.join(empty[:5])}"
            f"{', …' if len(empty) > 5 else ''}); look at the images and make the sample again"
        )
    if inside.min() == 1:
        raise MeshError(
            "the views have no transparent background, so there is no silhouette to carve with; "
            "cut the object out of every view first"
        )


def frustum_box(cameras: Cameras) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """A cube around the point that the cameras look at, as large as the widest frame there.

    The point is the nearest to all optical axes; where they leave it open, the nearest to the origin.
    """
    axes = -cameras.camera_to_world[:, :3, 2]
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]
    weight = 1e-6 * len(cameras)
    right_side = np.einsum("vij,vj->i", across, cameras.positions)
    centre = np.linalg.solve(across.sum(axis=0) + weight * np.eye(3), right_side)
    distance = np.einsum("vi,vi->v", centre - cameras.positions, axes)
    if distance.min() <= 0:
        raise MeshError(
            f"view {int(distance.argmin())} looks away from what the other views look at; "
            "check the convention of the cameras (OpenGL, camera_to_world)"
        )
    half_x = np.maximum(cameras.intrinsics[:, 0, 2], cameras.width - cameras.intrinsics[:, 0, 2])
    half_y = np.maximum(cameras.intrinsics[:, 1, 2], cameras.height - cameras.intrinsics[:, 1, 2])
    tangent = np.maximum(half_x / cameras.intrinsics[:, 0, 0], half_y / cameras.intrinsics[:, 1, 1])
    half = float((distance * tangent).max())
    return centre - half, centre + half


def carve(
    silhouettes: Silhouettes,
    cameras: Cameras,
    low: Float[np.ndarray, "3"],
    high: Float[np.ndarray, "3"],
    *,
    resolution: int,
    k: int = 1,
) -> Volume:
    """The k-th smallest alpha on a grid over the box, `resolution` points along its longest side.

    Cells of CELL voxels that a bound proves empty or full are not looked at closer; the result is the same.
    """
    volume = Volume.covering(low, high, resolution=resolution)
    cells = -(-np.array(volume.values.shape) // CELL)
    index = np.stack(np.meshgrid(*map(np.arange, cells), indexing="ij"), axis=-1).reshape(-1, 3)
    centres = volume.points(index * CELL + (CELL - 1) / 2)
    half_diagonal = volume.voxel_size * CELL * np.sqrt(3) / 2
    to_middle = np.linalg.norm(cameras.positions - (low + high) / 2, axis=1).min()
    nearest = max(float(to_middle - np.linalg.norm(high - low) / 2), half_diagonal)
    radius = int(np.ceil(half_diagonal * silhouettes.focal / nearest)) + 1
    lower, upper = silhouettes.filtered(radius)
    full = lower.kth_smallest(centres, k) > 0.999
    open_cells = (upper.kth_smallest(centres, k) > 0.001) & ~full

    blocks = np.repeat(full.astype(np.float32), CELL**3).reshape(*cells, CELL, CELL, CELL)
    inside = np.stack(np.meshgrid(*[np.arange(CELL)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    points = volume.points((index[open_cells, None] * CELL + inside).reshape(-1, 3))
    blocks.reshape(-1, CELL**3)[open_cells] = silhouettes.kth_smallest(points, k).reshape(-1, CELL**3)
    values = blocks.transpose(0, 3, 1, 4, 2, 5).reshape(cells * CELL)
    x, y, z = volume.values.shape
    return Volume(np.ascontiguousarray(values[:x, :y, :z]), volume.origin, volume.voxel_size)


def object_box(
    silhouettes: Silhouettes, cameras: Cameras, *, k: int, resolution: int = 48, margin: float = 1.5
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]]:
    """The box around what `k` leaves of the space that the cameras see, widened by `margin` coarse voxels.

    Raises `MeshError` when nothing is left.
    """
    low, high = frustum_box(cameras)
    # a coarse point stands for its cell: alpha is taken as the largest within the cell's footprint
    voxel_size = float((high - low).max()) / (resolution - 1)
    distance = float(np.linalg.norm(cameras.positions - (low + high) / 2, axis=1).min())
    _, upper = silhouettes.filtered(int(np.ceil(voxel_size * silhouettes.focal / distance)))
    box = carve(upper, cameras, low, high, resolution=resolution, k=k).occupied_box(LEVEL)
    if box is None:
        raise MeshError(
            "carving left nothing: the silhouettes of the views have no common object; "
            "check that the cameras belong to these views and use the convention of svd3d"
        )
    return np.maximum(box[0] - margin * voxel_size, low), np.minimum(box[1] + margin * voxel_size, high)
