"""What one call of Cycles gives: surface colours without noise, noisy light, whole pictures, or probes.

All results are linear, premultiplied, float32, and cover the rectangle of the picture in which the
object lies (`Studio.box`); outside of it there is nothing.
"""

import contextlib
import itertools
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import bpy
import numpy as np

from render.blender import camera, compose, exr

LOBES = {"diffuse": "Diff", "glossy": "Gloss", "transmission": "Trans"}
"""What Cycles splits a picture into, and how its channels begin."""
LAYER = "View"
BACKGROUND_DEPTH = 1e9
"""Blender's depth is 1e10 where there is nothing."""
BAND_SAMPLES = 1_500_000
"""Point samples rendered at once; more would need gigabytes at high resolution."""
BAND_MARGIN = 2
"""Rows that the filter needs beyond a band: it reaches 1.5 pixels."""
POINT_FILTER = 0.01
"""Filter width that puts every ray through the centre of its pixel."""


class Surface(NamedTuple):
    """What the cameras see, without light: filtered pixels, and the point at the centre of each."""

    colour: dict[str, np.ndarray]
    """By lobe, [h, w, 3]."""
    emission: np.ndarray
    alpha: np.ndarray
    """[h, w, 1]"""
    normal: np.ndarray
    """World space, filtered (shorter than 1 at edges), [h, w, 3]."""
    centre_depth: np.ndarray
    """Along the optical axis, 0 where there is nothing, [h, w]."""
    centre_normal: np.ndarray
    """World space, unit length, 0 where there is nothing, [h, w, 3]."""


class Light(NamedTuple):
    """Light by lobe, with the colour that its paths met; each [h, w, 3]."""

    colour: dict[str, np.ndarray]
    light: dict[str, np.ndarray]


class Studio:
    """The loaded object under its light, with the cameras of an orbit."""

    def __init__(
        self,
        *,
        camera_to_world: Sequence[Sequence[Sequence[float]]],
        borders: Sequence[Sequence[int]],
        fov_deg: float,
        size: int,
        threads: int,
        gpu: bool,
        seed: int,
        light: dict[str, Any],
        folder: str,
    ) -> None:
        self.size, self._seed, self._poses, self._borders = size, seed, camera_to_world, borders
        self._tangent = math.tan(math.radians(fov_deg) / 2)
        self._file = os.path.join(folder, "passes.exr")
        self._eye = camera.add_camera()
        _set_up(threads=threads, gpu=gpu)
        self.denoiser = _has_denoiser()
        """Whether this Blender was built with OpenImageDenoise; Debian's is not."""
        camera.set_light(light)

    def __len__(self) -> int:
        return len(self._poses)

    def box(self, view: int) -> tuple[slice, slice]:
        """Rows and columns of the rectangle that holds the object."""
        left, top, right, bottom = self._borders[view]
        return slice(top, bottom), slice(left, right)

    def surface(self, view: int, k: int) -> Surface:
        """Colours, normals and depth from k x k camera rays per pixel (k odd), without any light.

        An edge that runs along the grid is worst: coverage is then off by up to half a row, 0.08 at k = 5.
        """
        left, top, right, bottom = self._borders[view]
        bands = max(1, math.ceil((right - left) * (bottom - top) * k * k / BAND_SAMPLES))
        edges = [top + (bottom - top) * i // bands for i in range(bands + 1)]
        parts = []
        with _without_light():
            for start, end in itertools.pairwise(edges):
                first, last = max(start - BAND_MARGIN, 0), min(end + BAND_MARGIN, self.size)
                passes = self.passes(
                    view,
                    (left, first, right, last),
                    k=k,
                    samples=1,
                    filter_width=POINT_FILTER,
                    wanted=("color", "emit", "normal", "z"),
                )
                rows = slice(start - first, end - first)
                parts.append([part[rows] for part in _pixels(passes, k)])
        joined = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
        colours = dict(zip(LOBES, joined[: len(LOBES)], strict=True))
        return Surface(colours, *joined[len(LOBES) :])

    def light(self, view: int, paths: int) -> Light:
        """Light by lobe from a few paths per pixel, divided by the colours that they met."""
        passes = self.passes(view, self._borders[view], samples=paths, wanted=("color", "direct", "indirect"))
        colour, light = {}, {}
        for lobe, short in LOBES.items():
            colour[lobe] = _rgb(passes, f"{short}Col")
            light[lobe] = _rgb(passes, f"{short}Dir") + _rgb(passes, f"{short}Ind")
        return Light(colour, light)

    def path(self, view: int, paths: int) -> np.ndarray:
        """The whole picture by plain path tracing, denoised by Cycles with its own guides: RGBA."""
        passes = self.passes(view, self._borders[view], samples=paths, denoise=self.denoiser)
        return rgba(passes)

    def probe(self, view: int, paths: int, *, step: int, seed: int) -> np.ndarray:
        """Raw RGBA of every `step`-th pixel of the whole picture (step odd), by many paths and no denoiser.

        Row r and column c is the picture's pixel `probed(step)`[r], [c]: a small picture of a wider or
        narrower view whose filter is as wide as one pixel of the large one.
        """
        count = len(self.probed(step))
        scale = count * step / self.size
        passes = self.passes(
            view,
            (0, 0, count, count),
            size=count,
            tangent=self._tangent * scale,
            samples=paths,
            filter_width=compose.FILTER_WIDTH / step,
            seed=seed,
        )
        return rgba(passes)

    def probed(self, step: int) -> np.ndarray:
        """The rows (and columns) of the picture that `probe` looks at; the outer ones may lie outside."""
        count = self.size // step
        count += (count * step - self.size) % 2
        return np.arange(count) * step + step // 2 - (count * step - self.size) // 2

    def passes(
        self,
        view: int,
        box: Sequence[int],
        *,
        samples: int,
        k: int = 1,
        size: int | None = None,
        tangent: float | None = None,
        filter_width: float = compose.FILTER_WIDTH,
        seed: int = 0,
        wanted: Sequence[str] = (),
        denoise: bool = False,
    ) -> dict[str, np.ndarray]:
        """The channels of one render of a rectangle, each [rows k, columns k]."""
        size = size or self.size
        scene, layer = bpy.context.scene, bpy.context.view_layer
        layer.name = LAYER
        layer.use_pass_z, layer.use_pass_normal = "z" in wanted, "normal" in wanted
        layer.use_pass_emit = "emit" in wanted
        for lobe in LOBES:
            for kind in ("color", "direct", "indirect"):
                setattr(layer, f"use_pass_{lobe}_{kind}", kind in wanted)
        camera.place(self._eye, self._poses[view], tangent=tangent or self._tangent)
        camera.set_border(box, size=size, oversampling=k)
        cycles = scene.cycles
        cycles.samples, cycles.filter_width, cycles.use_denoising = samples, filter_width, denoise
        cycles.seed = (self._seed + view + 7919 * seed) % 2**31
        scene.render.use_compositing, scene.render.filepath = False, self._file
        bpy.ops.render.render(write_still=True)
        passes = exr.read(self._file)
        left, top, right, bottom = box
        expected = ((bottom - top) * k, (right - left) * k)
        found = next(iter(passes.values())).shape
        if found != expected:
            raise ValueError(f"Blender rendered {found} pixels, expected {expected}")
        return passes

    def denoised(self, image: np.ndarray, *, colour: np.ndarray, normal: np.ndarray) -> np.ndarray:
        """RGB without noise, guided by colour and normals that have none: [h, w, 3].

        As it is in a Blender without a denoiser.
        """
        if not self.denoiser:
            return image
        scene = bpy.context.scene
        scene.use_nodes = True
        nodes, links = scene.node_tree.nodes, scene.node_tree.links
        nodes.clear()
        node = nodes.new("CompositorNodeDenoise")
        node.prefilter, node.use_hdr = "NONE", True
        if hasattr(node, "quality"):  # since Blender 4.4
            node.quality = "BALANCED"
        pictures = []
        for name, values in (("Image", image), ("Albedo", colour), ("Normal", normal)):
            source = nodes.new("CompositorNodeImage")
            source.image = _image(name, values)
            pictures.append(source.image)
            links.new(source.outputs["Image"], node.inputs[name])
        output = nodes.new("CompositorNodeComposite")
        links.new(node.outputs["Image"], output.inputs["Image"])
        height, width = image.shape[:2]
        settings = scene.render
        settings.resolution_x, settings.resolution_y = width, height
        settings.use_border, settings.use_compositing, settings.filepath = False, True, self._file
        bpy.ops.render.render(write_still=True)
        settings.use_compositing, scene.use_nodes = False, False
        for picture in pictures:
            bpy.data.images.remove(picture)
        passes = exr.read(self._file)
        return np.stack([next(v for name, v in passes.items() if name.endswith(f".{c}")) for c in "RGB"], -1)


def has_volume() -> bool:
    """Whether any material scatters light inside of the object, which the lobes do not hold."""
    trees = (material.node_tree for material in bpy.data.materials if material.use_nodes)
    outputs = (node for tree in trees for node in tree.nodes if node.type == "OUTPUT_MATERIAL")
    return any(node.inputs["Volume"].is_linked for node in outputs)


def _set_up(*, threads: int, gpu: bool) -> None:
    """Renderer settings that never change; what each costs and gives was measured (benchmark_render)."""
    scene = bpy.context.scene
    settings, cycles = scene.render, scene.cycles
    settings.engine = "CYCLES"
    settings.use_freestyle = False  # it runs scripts
    settings.resolution_percentage = 100
    settings.pixel_aspect_x = settings.pixel_aspect_y = 1
    settings.film_transparent = True
    settings.use_persistent_data = True
    settings.threads_mode, settings.threads = "FIXED", threads
    settings.use_sequencer = False
    image = settings.image_settings
    image.file_format, image.exr_codec, image.color_depth = "OPEN_EXR_MULTILAYER", "NONE", "32"
    cycles.device = "GPU" if gpu else "CPU"
    cycles.use_adaptive_sampling, cycles.use_animated_seed = False, False
    cycles.pixel_filter_type = "BLACKMAN_HARRIS"
    cycles.denoising_input_passes, cycles.denoising_prefilter = "RGB_ALBEDO_NORMAL", "FAST"
    if hasattr(cycles, "denoising_quality"):  # since Blender 4.2
        cycles.denoising_quality = "BALANCED"
    cycles.use_auto_tile = False
    cycles.film_transparent_glass = False


def _has_denoiser() -> bool:
    try:
        bpy.context.scene.cycles.denoiser = "OPENIMAGEDENOISE"
    except TypeError:  # it offers no such choice
        return False
    return True


@contextlib.contextmanager
def _without_light() -> Iterator[None]:
    """Camera rays only: no world, no bounce."""
    scene = bpy.context.scene
    world, bounces = scene.world, scene.cycles.max_bounces
    scene.world, scene.cycles.max_bounces = None, 0
    try:
        yield
    finally:
        scene.world, scene.cycles.max_bounces = world, bounces


def _pixels(passes: dict[str, np.ndarray], k: int) -> Iterator[np.ndarray]:
    """The fields of `Surface` in their order, from k x k samples per pixel."""
    normal = np.stack([passes[f"{LAYER}.Normal.{axis}"] for axis in "XYZ"], axis=-1)
    names = [f"{short}Col" for short in LOBES.values()]
    stacked = [*(_rgb(passes, name) for name in names), _rgb(passes, "Emit"), rgba(passes)[..., 3:], normal]
    filtered = compose.reduce(np.concatenate(stacked, axis=-1), k)
    yield from np.split(filtered, np.cumsum([part.shape[-1] for part in stacked])[:-1], axis=-1)
    depth = compose.centres(passes[f"{LAYER}.Depth.Z"], k)
    yield np.where(np.isfinite(depth) & (depth < BACKGROUND_DEPTH), depth, 0)
    centre = compose.centres(normal, k)
    length = np.linalg.norm(centre, axis=-1, keepdims=True)
    yield np.where(length > 0.5, centre / np.maximum(length, 1e-6), 0)


def _rgb(passes: dict[str, np.ndarray], name: str) -> np.ndarray:
    return np.stack([passes[f"{LAYER}.{name}.{channel}"] for channel in "RGB"], axis=-1)


def rgba(passes: dict[str, np.ndarray]) -> np.ndarray:
    """The whole picture among the channels of a render, [h, w, 4]."""
    return np.stack([passes[f"{LAYER}.Combined.{channel}"] for channel in "RGBA"], axis=-1)


def _image(name: str, values: np.ndarray) -> Any:
    """A picture inside Blender with these values, float32 [h, w, 3], taken as they are."""
    height, width = values.shape[:2]
    image = bpy.data.images.new(name, width, height, float_buffer=True)
    image.colorspace_settings.name = "Non-Color"
    pixels = np.ones((height, width, 4), np.float32)
    pixels[..., :3] = values[::-1]
    image.pixels.foreach_set(pixels.ravel())
    return image
