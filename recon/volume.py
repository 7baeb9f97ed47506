"""A scalar field on a regular grid of world points: what carving fills and what surfaces are cut from."""

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import ndimage


@dataclass(frozen=True, eq=False)
class Volume:
    """Samples at the points `origin + voxel_size * (i, j, k)`; above the level is inside the object."""

    values: Float[np.ndarray, "x y z"]
    origin: Float[np.ndarray, "3"]
    """World position of values[0, 0, 0]: a sample point, not the corner of a cell."""
    voxel_size: float

    @classmethod
    def covering(
        cls, low: Float[np.ndarray, "3"], high: Float[np.ndarray, "3"], *, resolution: int
    ) -> "Volume":
        """An empty volume whose points span the box, `resolution` of them along its longest side."""
        voxel_size = float((high - low).max()) / (resolution - 1)
        shape = np.maximum(np.ceil((high - low) / voxel_size - 1e-6).astype(int) + 1, 2)
        origin = (low + high) / 2 - voxel_size * (shape - 1) / 2
        return cls(np.zeros(shape, np.float32), origin, voxel_size)

    def points(self, index: np.ndarray) -> Float[np.ndarray, "*n 3"]:
        """World positions of grid indices [..., 3]."""
        return self.origin + self.voxel_size * index

    def padded(self, cells: int = 1) -> "Volume":
        """The volume with a border of empty samples; what is inside does not move."""
        return Volume(np.pad(self.values, cells), self.origin - cells * self.voxel_size, self.voxel_size)

    def smoothed(self, sigma: float) -> "Volume":
        """Gaussian-filtered values; `sigma` in voxels."""
        if sigma == 0:
            return self
        return dataclasses.replace(self, values=ndimage.gaussian_filter(self.values, sigma, mode="constant"))

    def occupied_box(self, level: float) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"]] | None:
        """Bounding box of the sample points above `level`, or None when there are none."""
        inside = self.values > level
        if not inside.any():
            return None
        spans = [np.flatnonzero(inside.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        low, high = (np.array([span[end] for span in spans], dtype=np.float64) for end in (0, -1))
        return self.points(low), self.points(high)
