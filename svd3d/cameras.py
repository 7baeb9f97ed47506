"""Cameras and orbits. Frames and units, said once for the whole project.

- World: right-handed, **+Z up**. The object's bounding box is centred on the origin and its longest
  side is 1.
- Camera: OpenGL, +X right, +Y up, looking along -Z. Matrices are `camera_to_world`.
- Pixels: x right, y down, the centre of pixel (0, 0) is at (0.5, 0.5). Intrinsics are in pixels.
- Angles are degrees at every door (`_deg`). Azimuth is counter-clockwise seen from above, from +X;
  elevation is up from the horizon. The field of view is vertical.
- Depth is along the optical axis, in world units, positive in front of the camera.
- An orbit has 21 views by default; view k is at azimuth + 360 k / 21, and view 0 is the condition.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from svd3d.errors import CameraError

DEFAULT_VIEWS = 21
"""Views of an orbit (SVD paper, appendix D.6)."""
DEFAULT_FOV_DEG = 33.8
"""Vertical field of view (SV3D paper, appendix B)."""
DEFAULT_FILL = 0.9
"""Part of the half frame that the object reaches in its widest view."""
SINUSOIDS = 3
"""Sinusoids in the elevation of a dynamic orbit (the paper gives no number)."""
SINUSOID_PERIODS = (1, 5)
"""Fewest and most whole periods of a sinusoid around the orbit (SV3D paper, appendix B)."""
SINUSOID_AMPLITUDE_DEG = (0.5, 10.0)
"""Smallest and largest amplitude of a sinusoid (SV3D paper, appendix B)."""
AZIMUTH_NOISE = 0.25
"""Largest noise on the azimuths of a dynamic orbit, in steps between views (the paper says "small")."""

GLTF_TO_WORLD = np.array([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
"""glTF is +Y up; the world is +Z up: (x, y, z) becomes (x, -z, y). Blender's importer does the same."""
OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
"""Camera axes: OpenCV looks along +Z with y down."""
OPENGL_TO_PYTORCH3D = np.diag([-1.0, 1.0, -1.0, 1.0])
"""Camera axes: PyTorch3D looks along +Z with x left."""


@dataclass(frozen=True)
class Orbit:
    """Views of a ring of cameras around the origin, as a person asks for them."""

    azimuths_deg: tuple[float, ...]
    elevations_deg: tuple[float, ...]
    distance: float
    """From the origin to every camera, in world units."""
    fov_deg: float = DEFAULT_FOV_DEG

    def __post_init__(self) -> None:
        if not self.azimuths_deg or len(self.azimuths_deg) != len(self.elevations_deg):
            raise CameraError(
                f"orbit: {len(self.azimuths_deg)} azimuths and {len(self.elevations_deg)} elevations; "
                "give one of each per view"
            )
        for name, angles, limit in (
            ("azimuth", self.azimuths_deg, math.inf),
            ("elevation", self.elevations_deg, 90.0),
        ):
            for view, angle in enumerate(angles):
                if not (math.isfinite(angle) and abs(angle) <= limit):
                    raise CameraError(f"orbit: view {view}: {name} {angle} degrees is not possible")
        if not (math.isfinite(self.distance) and self.distance > 0):
            raise CameraError(f"orbit: distance {self.distance} must be above 0")
        if not 0 < self.fov_deg < 180:
            raise CameraError(f"orbit: field of view {self.fov_deg} degrees must lie between 0 and 180")

    @classmethod
    def static(
        cls,
        *,
        num_views: int = DEFAULT_VIEWS,
        azimuth_deg: float = 0.0,
        elevation_deg: float = 10.0,
        distance: float = 2.0,
        fov_deg: float = DEFAULT_FOV_DEG,
    ) -> "Orbit":
        """Evenly spaced views at one elevation (the static orbit of SVD and SV3D)."""
        azimuths = tuple((azimuth_deg + 360.0 * k / num_views) % 360.0 for k in range(num_views))
        return cls(azimuths, (elevation_deg,) * num_views, distance, fov_deg)

    @classmethod
    def dynamic(
        cls,
        generator: np.random.Generator,
        *,
        elevation_range_deg: tuple[float, float],
        num_views: int = DEFAULT_VIEWS,
        azimuth_deg: float = 0.0,
        distance: float = 2.0,
        fov_deg: float = DEFAULT_FOV_DEG,
    ) -> "Orbit":
        """Uneven azimuths and smoothly varying elevations that close into a loop (SV3D's dynamic orbit).

        The SV3D paper (section 3, appendix B) states: a static orbit, small noise on its azimuths, and added
        to its elevation sinusoids of 1 to 5 whole periods, amplitudes of 0.5 to 10 degrees and random phases;
        the sum is smoothed and clamped at 89 degrees. Our choices: three sinusoids; noise of at most a
        quarter of a step, so that views keep their order, and none on view 0; instead of smoothing and
        clamping, the middle elevation is drawn so that the whole curve lies in the range, and a curve that is
        larger than the range is scaled down.
        """
        static = cls.static(num_views=num_views, azimuth_deg=azimuth_deg, distance=distance, fov_deg=fov_deg)
        low, high = _elevation_range(elevation_range_deg)
        noise = generator.uniform(-AZIMUTH_NOISE, AZIMUTH_NOISE, num_views) * 360 / num_views
        noise[0] = 0
        periods = generator.integers(*SINUSOID_PERIODS, SINUSOIDS, endpoint=True)
        amplitudes = generator.uniform(*SINUSOID_AMPLITUDE_DEG, SINUSOIDS)
        turn = generator.uniform(0, 1, SINUSOIDS) + np.arange(num_views)[:, None] / num_views * periods
        curve = np.sin(2 * np.pi * turn) @ amplitudes
        curve *= min(1.0, (high - low) / max(np.ptp(curve), 1e-9))
        middle = generator.uniform(low - curve.min(), max(high - curve.max(), low - curve.min()))
        azimuths = (np.array(static.azimuths_deg) + noise) % 360
        elevations = _thousandths(middle + curve, low, high)
        return dataclasses.replace(static, azimuths_deg=tuple(azimuths.tolist()), elevations_deg=elevations)

    @classmethod
    def random(
        cls,
        generator: np.random.Generator,
        *,
        elevation_range_deg: tuple[float, float],
        num_views: int = DEFAULT_VIEWS,
        azimuth_deg: float = 0.0,
        distance: float = 2.0,
        fov_deg: float = DEFAULT_FOV_DEG,
    ) -> "Orbit":
        """Views spread evenly by area over the part of the sphere between two elevations, in no order.

        View 0 is at `azimuth_deg`. Not in the papers: for tests of novel views.
        """
        low, high = _elevation_range(elevation_range_deg)
        azimuths = np.concatenate([[azimuth_deg % 360], generator.uniform(0, 360, num_views)[1:]])
        lowest, highest = np.sin(np.radians([low, high]))  # area goes with the sine of the elevation
        heights = generator.uniform(lowest, highest, num_views)
        elevations = _thousandths(np.degrees(np.arcsin(heights)), low, high)
        return cls(tuple(azimuths.tolist()), elevations, distance, fov_deg)

    def subsampled(self, *, num_views: int = DEFAULT_VIEWS, start: int = 0) -> "Orbit":
        """Every k-th view around the circle, from `start`, which becomes view 0.

        SV3D renders 84 views and trains on every 4th from any of them (appendix B). What is left of a static
        orbit is static. Raises `CameraError` unless `num_views` divides the views there are.
        """
        chosen = every(self.num_views, num_views=num_views, start=start)
        return dataclasses.replace(
            self,
            azimuths_deg=tuple(self.azimuths_deg[view] for view in chosen),
            elevations_deg=tuple(self.elevations_deg[view] for view in chosen),
        )

    @property
    def num_views(self) -> int:
        """Number of views."""
        return len(self.azimuths_deg)

    def rotations(self) -> Float[np.ndarray, "v 3 3"]:
        """Camera axes in world space, one per column: right, up, back. Defined at the poles too."""
        azimuth, elevation = np.radians(self.azimuths_deg), np.radians(self.elevations_deg)
        zero = np.zeros_like(azimuth)
        right = np.stack([-np.sin(azimuth), np.cos(azimuth), zero], axis=-1)
        horizontal = np.stack([np.cos(azimuth), np.sin(azimuth), zero], axis=-1)
        pole = np.array([0.0, 0.0, 1.0])
        back = np.cos(elevation)[:, None] * horizontal + np.sin(elevation)[:, None] * pole
        up = np.cos(elevation)[:, None] * pole - np.sin(elevation)[:, None] * horizontal
        return np.stack([right, up, back], axis=-1)

    def fitted(self, points: Float[np.ndarray, "n 3"], *, fill: float = DEFAULT_FILL) -> "Orbit":
        """The same orbit at the smallest distance from which no view clips the points.

        The widest view reaches `fill` of the half frame of a square picture; all views share the distance
        (SV3D paper, appendix B). A point p with camera axes r, u, b lies inside the frame when
        max(|r.p|, |u.p|) <= fill * tan(fov / 2) * (distance - b.p).
        """
        if not 0 < fill <= 1:
            raise CameraError(f"orbit: fill {fill} must be above 0 and at most 1")
        if not (len(points) and np.isfinite(points).all()):
            raise CameraError(f"orbit: cannot fit {len(points)} points; they must be finite and at least one")
        across = fill * math.tan(math.radians(self.fov_deg) / 2)
        local = points @ self.rotations()
        needed = np.abs(local[..., :2]).max(axis=-1) / across + local[..., 2]
        return dataclasses.replace(self, distance=float(needed.max()))

    def cameras(self, *, height: int, width: int) -> "Cameras":
        """The cameras of all views for pictures of `height` by `width` pixels."""
        rotations = self.rotations()
        matrices = np.tile(np.eye(4), (self.num_views, 1, 1))
        matrices[:, :3, :3] = rotations
        matrices[:, :3, 3] = rotations[:, :, 2] * self.distance
        focal = height / (2 * math.tan(math.radians(self.fov_deg) / 2))
        intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        return Cameras(matrices, np.tile(intrinsics, (self.num_views, 1, 1)), height, width)


@dataclass(frozen=True, eq=False)
class Cameras:
    """A batch of pinhole cameras with one picture size. See the module for frames and units.

    Raises `CameraError`, naming the view, for a matrix that is not a rigid motion or intrinsics without
    focal length.
    """

    camera_to_world: Float[np.ndarray, "v 4 4"]
    intrinsics: Float[np.ndarray, "v 3 3"]
    height: int
    width: int

    def __post_init__(self) -> None:
        for view, matrix in enumerate(self.camera_to_world):
            rotation = matrix[:3, :3]
            if not np.isfinite(matrix).all():
                raise CameraError(f"view {view}: camera_to_world holds numbers that are not finite")
            determinant = float(np.linalg.det(rotation))
            if abs(determinant - 1) > 1e-4 or not np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-4):
                raise CameraError(
                    f"view {view}: camera_to_world is not a rotation (determinant {determinant:.3f}); "
                    "was it written in another convention, or scaled?"
                )
            if not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-8):
                raise CameraError(f"view {view}: the last row of camera_to_world is {matrix[3]}, not 0 0 0 1")
        for view, matrix in enumerate(self.intrinsics):
            if not (np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0):
                raise CameraError(
                    f"view {view}: focal lengths {matrix[0, 0]}, {matrix[1, 1]} pixels must be above 0"
                )
            if matrix[0, 1] or matrix[1, 0] or not np.array_equal(matrix[2], [0, 0, 1]):
                raise CameraError(f"view {view}: intrinsics are not of the form fx 0 cx, 0 fy cy, 0 0 1")
        if self.height < 1 or self.width < 1:
            raise CameraError(f"cameras: picture size {self.width} x {self.height} must be at least 1 x 1")

    @classmethod
    def from_opencv(
        cls,
        world_to_camera: Float[np.ndarray, "v 4 4"],
        intrinsics: Float[np.ndarray, "v 3 3"],
        *,
        height: int,
        width: int,
    ) -> "Cameras":
        """Cameras from extrinsics of OpenCV, COLMAP or gsplat; the inverse of `opencv_world_to_camera`."""
        return cls(_rigid_inverse(OPENGL_TO_OPENCV @ world_to_camera), intrinsics, height, width)

    @classmethod
    def from_pytorch3d(
        cls,
        rotation: Float[np.ndarray, "v 3 3"],
        translation: Float[np.ndarray, "v 3"],
        intrinsics: Float[np.ndarray, "v 3 3"],
        *,
        height: int,
        width: int,
    ) -> "Cameras":
        """Cameras from PyTorch3D's `R, T`; the inverse of `pytorch3d_rotation_translation`."""
        extrinsics = np.tile(np.eye(4), (len(rotation), 1, 1))
        extrinsics[:, :3, :3] = rotation.transpose(0, 2, 1)
        extrinsics[:, :3, 3] = translation
        return cls(_rigid_inverse(OPENGL_TO_PYTORCH3D @ extrinsics), intrinsics, height, width)

    def __len__(self) -> int:
        return len(self.camera_to_world)

    @property
    def world_to_camera(self) -> Float[np.ndarray, "v 4 4"]:
        """Inverse of `camera_to_world`, computed as that of a rigid motion."""
        return _rigid_inverse(self.camera_to_world)

    @property
    def positions(self) -> Float[np.ndarray, "v 3"]:
        """Camera centres in world space."""
        return self.camera_to_world[:, :3, 3]

    def view(self, index: int | Sequence[int]) -> "Cameras":
        """The camera or cameras of some views, in the order asked."""
        chosen = [index] if isinstance(index, int) else list(index)
        return dataclasses.replace(
            self, camera_to_world=self.camera_to_world[chosen], intrinsics=self.intrinsics[chosen]
        )

    def resized(self, *, height: int, width: int) -> "Cameras":
        """The same cameras for pictures of another size."""
        scale = np.diag([width / self.width, height / self.height, 1.0])
        return Cameras(self.camera_to_world, scale @ self.intrinsics, height, width)

    def project(
        self, points: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, "v n 2"], Float[np.ndarray, "v n"]]:
        """World points to pixel coordinates and depth.

        Points behind a camera have depth below 0; those at depth 0 have no pixel (infinite or NaN).
        """
        extrinsics = self.opencv_world_to_camera()
        local = points @ extrinsics[:, :3, :3].transpose(0, 2, 1) + extrinsics[:, None, :3, 3]
        depth = local[..., 2]
        pixels = local @ self.intrinsics.transpose(0, 2, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return pixels[..., :2] / pixels[..., 2:], depth

    def unproject(
        self, pixels: Float[np.ndarray, "v n 2"], depth: Float[np.ndarray, "v n"]
    ) -> Float[np.ndarray, "v n 3"]:
        """Pixel coordinates and depth to world points; the inverse of `project`."""
        homogeneous = np.concatenate([pixels, np.ones((*pixels.shape[:2], 1))], axis=2)
        local = np.einsum("vij,vnj->vni", np.linalg.inv(self.intrinsics), homogeneous) * depth[..., None]
        camera_to_world = self.camera_to_world @ OPENGL_TO_OPENCV
        return np.einsum("vij,vnj->vni", camera_to_world[:, :3, :3], local) + self.positions[:, None]

    def rays(self) -> tuple[Float[np.ndarray, "v 3"], Float[np.ndarray, "v h w 3"]]:
        """Ray origins and directions through all pixel centres, in world space.

        A direction has length 1 along the optical axis (not unit length), so origin + depth * direction is
        the point at that depth.
        """
        x, y = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        pixels = np.stack([x, y, np.ones_like(x)], axis=-1)
        rotations = (self.camera_to_world @ OPENGL_TO_OPENCV)[:, :3, :3]
        directions = np.einsum("vij,hwj->vhwi", rotations @ np.linalg.inv(self.intrinsics), pixels)
        return self.positions, directions

    def opencv_world_to_camera(self) -> Float[np.ndarray, "v 4 4"]:
        """Extrinsics as OpenCV, COLMAP and gsplat define them."""
        return OPENGL_TO_OPENCV @ self.world_to_camera

    def pytorch3d_rotation_translation(self) -> tuple[Float[np.ndarray, "v 3 3"], Float[np.ndarray, "v 3"]]:
        """`R, T` for `pytorch3d.renderer.PerspectiveCameras`: row vectors, x_camera = x_world R + T."""
        extrinsics = OPENGL_TO_PYTORCH3D @ self.world_to_camera
        return extrinsics[:, :3, :3].transpose(0, 2, 1), extrinsics[:, :3, 3]


def _rigid_inverse(matrices: Float[np.ndarray, "v 4 4"]) -> Float[np.ndarray, "v 4 4"]:
    """Inverses of rotations with translations."""
    rotation = matrices[:, :3, :3].transpose(0, 2, 1)
    inverse = np.tile(np.eye(4), (len(matrices), 1, 1))
    inverse[:, :3, :3] = rotation
    inverse[:, :3, 3] = -np.einsum("vij,vj->vi", rotation, matrices[:, :3, 3])
    return inverse


def every(views: int, *, num_views: int, start: int) -> list[int]:
    """Indices of `num_views` evenly spaced views out of a ring of `views`, beginning with `start`.

    Raises `CameraError` when they do not come out even.

    >>> every(6, num_views=3, start=5)
    [5, 1, 3]
    """
    if num_views < 1 or views % num_views:
        raise CameraError(f"orbit: {views} views do not thin out to {num_views}; choose a divisor of {views}")
    if not 0 <= start < views:
        raise CameraError(f"orbit: start {start} is not a view; choose one from 0 to {views - 1}")
    return [(start + view) % views for view in range(0, views, views // num_views)]


def _elevation_range(elevations_deg: tuple[float, float]) -> tuple[float, float]:
    low, high = elevations_deg
    if not -90 <= low <= high <= 90:
        raise CameraError(
            f"orbit: elevations from {low} to {high} degrees; give two from -90 to 90, the lower one first"
        )
    return low, high


def _thousandths(angles_deg: Float[np.ndarray, "v"], low: float, high: float) -> tuple[float, ...]:
    """Angles rounded to 0.001 degrees within a range, so that no machine's last bit of a sine matters."""
    return tuple(angles_deg.round(3).clip(low, high).tolist())
