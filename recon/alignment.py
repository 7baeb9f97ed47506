"""What generated views get wrong as a whole: each may be shifted, brighter or darker than the others.

Shifts that a move of the object would cause in all views cannot be observed, nor can a gain or an offset
that all views share; both are projected out.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from scipy import ndimage
from torch import Tensor

from svd3d.cameras import Cameras
from svd3d.images import to_float, to_uint8

SMALL_SHIFT_PX = 0.15
"""Views whose shifts have a smaller root mean square are not resampled: views without fault show that."""
SMALL_GAIN = 0.02
"""The same for gains (difference from 1) and offsets."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """A shift, a gain and an offset for each view, as tensors to fit."""

    shifts_px: Float[Tensor, "v 2"]
    """How far right and down a view shows the object from where its camera says."""
    log_gains: Float[Tensor, "v"]
    offsets: Float[Tensor, "v"]
    """A view's colour is gain * colour + offset."""
    moves: Float[Tensor, "v2 3"]
    """Orthonormal columns: the shifts, flattened, that moves of the object cause."""

    @classmethod
    def none(cls, cameras: Cameras, centre: Float[np.ndarray, "3"], *, device: str = "cpu") -> "Alignment":
        """Views without fault, of an object around `centre`."""
        views = len(cameras)
        moves = np.linalg.qr(pixel_moves(cameras, centre).reshape(-1, 3))[0]
        return cls(
            torch.zeros(views, 2, device=device),
            torch.zeros(views, device=device),
            torch.zeros(views, device=device),
            torch.from_numpy(moves).to(device, torch.float32),
        )

    def parameters(self) -> dict[str, Tensor]:
        """What is fitted, by name."""
        return {"shifts_px": self.shifts_px, "log_gains": self.log_gains, "offsets": self.offsets}

    def targets(
        self,
        pictures: Float[Tensor, "v h w 4"],
        view: Int[Tensor, "n"],
        x: Int[Tensor, "n"],
        y: Int[Tensor, "n"],
    ) -> Float[Tensor, "n 4"]:
        """The aligned views at pixels, premultiplied; differentiable in everything that is fitted."""
        shift = self.shifts_px[view]
        found = _bilinear(pictures, view, x + shift[:, 0], y + shift[:, 1])
        colour, alpha = found[:, :3], found[:, 3:]
        colour = (colour - self.offsets[view, None] * alpha) * torch.exp(-self.log_gains[view, None])
        return torch.cat([colour, alpha], dim=1)

    @torch.no_grad()
    def project_(self) -> None:
        """Remove what cannot be observed, in place."""
        flat = self.shifts_px.view(-1)
        flat.sub_(self.moves @ (self.moves.T @ flat))
        self.log_gains.sub_(self.log_gains.mean())
        self.offsets.sub_(self.offsets.mean())

    def corrected(self, images: UInt8[np.ndarray, "v h w 4"]) -> UInt8[np.ndarray, "v h w 4"]:
        """The views as they would be without their faults; untouched when all faults are small."""
        shifts, offsets = (each.detach().cpu().numpy() for each in (self.shifts_px, self.offsets))
        gains = np.exp(self.log_gains.detach().cpu().numpy())
        faults = [np.sqrt((each**2).mean()) for each in (shifts, gains - 1, offsets)]
        if faults[0] < SMALL_SHIFT_PX and max(faults[1:]) < SMALL_GAIN:
            return images
        moved = premultiplied(images)
        for view, (x, y) in enumerate(shifts):
            for channel in range(4):
                moved[view, ..., channel] = ndimage.shift(moved[view, ..., channel], (-y, -x), order=3)
        alpha = moved[..., 3:].clip(0, 1)
        colour = moved[..., :3] / np.maximum(alpha, 1e-3)
        colour = (colour - offsets[:, None, None, None]) / gains[:, None, None, None]
        return to_uint8(np.concatenate([colour, alpha], axis=-1))


def pixel_moves(cameras: Cameras, centre: Float[np.ndarray, "3"]) -> Float[np.ndarray, "v 2 3"]:
    """How the pixel of a point moves in each view when the point moves: d(pixel) / d(world)."""
    extrinsics = cameras.opencv_world_to_camera()
    x, y, z = (extrinsics[:, :3, :3] @ centre + extrinsics[:, :3, 3]).T
    zero, one = np.zeros_like(z), np.ones_like(z)
    by_camera = np.stack([one, zero, -x / z, zero, one, -y / z], axis=-1).reshape(-1, 2, 3) / z[:, None, None]
    return cameras.intrinsics[:, :2, :2] @ by_camera @ extrinsics[:, :3, :3]


def premultiplied(images: UInt8[np.ndarray, "v h w 4"]) -> Float[np.ndarray, "v h w 4"]:
    """Colour times alpha, and alpha, in [0, 1]."""
    result = to_float(images)
    result[..., :3] *= result[..., 3:]
    return result


def _bilinear(
    pictures: Float[Tensor, "v h w c"], view: Int[Tensor, "n"], x: Float[Tensor, "n"], y: Float[Tensor, "n"]
) -> Float[Tensor, "n c"]:
    """Pictures between their pixels (whole numbers are pixel centres); differentiable in the place."""
    _, height, width, channels = pictures.shape
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.detach().floor().clamp_max(width - 2), y.detach().floor().clamp_max(height - 2)
    part_x, part_y = (x - left)[:, None], (y - top)[:, None]
    corner = (view * height + top.long()) * width + left.long()
    flat = pictures.view(-1, channels)
    upper = torch.lerp(flat[corner], flat[corner + 1], part_x)
    lower = torch.lerp(flat[corner + width], flat[corner + width + 1], part_x)
    return torch.lerp(upper, lower, part_y)
