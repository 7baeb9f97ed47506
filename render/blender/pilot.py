"""Which way of rendering reaches the fidelity that was asked for, at the least cost, for the loaded object.

A few views are rendered by every way in question, cheapest first, and compared with some of their pixels
that were rendered by many paths. Objects differ: a scan needs 4 light paths per pixel where brushed
metal needs 64.
"""

import math
from typing import NamedTuple

import numpy as np

from render.blender import compose
from render.blender.passes import Light, Studio, Surface

PROBE_PATHS = 64
"""Light paths per probed pixel, in each of two independent halves."""
PILOT_VIEWS = 4
"""Views that are tried, evenly around the object: a flat one looks different from the side."""
PROBES = 1000
"""Pixels of the object that are probed per view, about."""
MARGIN_DB = 0.3
"""What the pilot asks above the target, because the probed pixels are not all."""


class Method(NamedTuple):
    """How a view is rendered."""

    oversampling: int
    """Camera rays for colour along each side of a pixel; 0: none, the whole picture is path traced."""
    paths: int
    """Light paths per pixel."""


LADDER = (
    *(Method(3, 4), Method(3, 8), Method(3, 16), Method(5, 8), Method(5, 16), Method(5, 32), Method(5, 64)),
    *(Method(0, 64), Method(0, 128), Method(0, 256), Method(0, 512)),
)
"""From cheap to dear, as measured on a CPU."""


class Shots:
    """Pictures of views by any method; what one method has rendered of a view, the next can use."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self._surfaces: dict[tuple[int, int], Surface] = {}
        self._lights: dict[tuple[int, int], Light] = {}

    def surface(self, view: int, k: int) -> Surface:
        """The surface with k x k camera rays per pixel."""
        if (view, k) not in self._surfaces:
            self._surfaces[view, k] = self.studio.surface(view, k)
        return self._surfaces[view, k]

    def light(self, view: int, paths: int) -> Light:
        """The light of some paths per pixel."""
        if (view, paths) not in self._lights:
            self._lights[view, paths] = self.studio.light(view, paths)
        return self._lights[view, paths]

    def picture(self, view: int, method: Method) -> np.ndarray:
        """Linear premultiplied RGBA of the view's box, [h, w, 4]."""
        if not method.oversampling:
            return self.studio.path(view, method.paths)
        surface, light = self.surface(view, method.oversampling), self.light(view, method.paths)
        noisy = compose.lit(surface.colour, light.colour, light.light, surface.emission)
        colour = np.clip(sum(surface.colour.values()), 0, 1)
        clean = self.studio.denoised(noisy, colour=colour, normal=surface.normal)
        return np.concatenate([clean, surface.alpha], axis=-1)

    def forget(self) -> None:
        """Free the memory of what was rendered."""
        self._surfaces.clear()
        self._lights.clear()


def choose(shots: Shots, *, min_psnr: float, ladder: tuple[Method, ...] = LADDER) -> tuple[Method, float]:
    """The cheapest method that reaches `min_psnr` on a few views, and the foreground PSNR that it reached.

    The last rung is taken when none does; its PSNR then says so.
    """
    views = sorted({len(shots.studio) * i // PILOT_VIEWS for i in range(PILOT_VIEWS)})
    references = [_Reference(shots, view, ladder[0].oversampling or 1) for view in views]
    rung = 0
    while True:
        method = ladder[rung]
        error = np.mean([each.error(shots.picture(each.view, method)) for each in references])
        psnr = -10 * math.log10(error)
        missing = min_psnr + MARGIN_DB - psnr
        if missing <= 0 or rung == len(ladder) - 1:
            return method, psnr
        rung = min(rung + (1 if missing < 2.5 else 2 if missing < 6 else 3), len(ladder) - 1)


class _Reference:
    """A few hundred pixels of one view, by many paths."""

    def __init__(self, shots: Shots, view: int, k: int) -> None:
        self.view, studio = view, shots.studio
        object_pixels = int((shots.surface(view, k).alpha > 0.01).sum())
        step = max(1, 2 * round((math.sqrt(object_pixels / PROBES) - 1) / 2) + 1)  # odd
        rows, columns = studio.box(view)
        probed = studio.probed(step)
        self._rows = (probed >= rows.start) & (probed < rows.stop)
        self._columns = (probed >= columns.start) & (probed < columns.stop)
        self._grid = np.ix_(probed[self._rows] - rows.start, probed[self._columns] - columns.start)
        self._halves = [studio.probe(view, PROBE_PATHS, step=step, seed=seed) for seed in (1, 2)]

    def error(self, picture: np.ndarray) -> float:
        """Mean squared foreground error of a picture of the view's box."""
        first, second = (half[self._rows][:, self._columns] for half in self._halves)
        return compose.foreground_error(picture[self._grid], first, second)
