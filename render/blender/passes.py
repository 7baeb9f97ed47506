"""Pictures and depth of the loaded object: Cycles on the CPU, denoised, with a transparent background."""

import os
from collections.abc import Callable
from typing import Any

import bpy
import numpy as np

from render.blender import camera

BACKGROUND_DEPTH = 1e9
"""Blender's depth is 1e10 where there is nothing."""
ADAPTIVE_THRESHOLD = 0.03
"""Noise at which a pixel stops early; it takes effect from about 100 samples upwards (measured)."""


def render(request: dict[str, Any], *, progress: Callable[[int], None]) -> dict[str, Any]:
    """Render all views of a request into its folder: `000.png` (RGBA, straight alpha) and `000.npy` (depth).

    Depth is along the optical axis in world units, float32 [h, w], 0 where there is nothing.
    """
    size, folder = request["size"], request["folder"]
    set_up(size=size, samples=request["samples"], threads=request["threads"])
    camera.set_light(request["light"])
    eye = camera.add_camera(fov_deg=request["fov_deg"])
    depth_file = _write_depth(folder) if request["depth"] else None
    scene = bpy.context.scene
    for view, matrix in enumerate(request["camera_to_world"]):
        camera.place(eye, matrix)
        camera.set_border(request["borders"][view], size=size)
        scene.cycles.seed = request["seed"] + view
        scene.render.filepath = os.path.join(folder, f"{view:03d}.png")
        bpy.ops.render.render(write_still=True)
        if depth_file is not None:
            np.save(os.path.join(folder, f"{view:03d}.npy"), _read_depth(depth_file, size))
        progress(view)
    return {"views": len(request["camera_to_world"]), "device": scene.cycles.device}


def set_up(*, size: int, samples: int, threads: int) -> None:
    """Renderer settings; what each costs and gives was measured (README, benchmark_render)."""
    scene = bpy.context.scene
    settings, cycles = scene.render, scene.cycles
    settings.engine = "CYCLES"
    settings.use_freestyle = False  # it runs scripts
    settings.resolution_x = settings.resolution_y = size
    settings.resolution_percentage = 100
    settings.pixel_aspect_x = settings.pixel_aspect_y = 1
    settings.film_transparent = True
    settings.use_persistent_data = True
    settings.threads_mode, settings.threads = "FIXED", threads
    settings.dither_intensity = 0
    settings.use_compositing, settings.use_sequencer = True, False
    settings.image_settings.file_format = "PNG"
    settings.image_settings.color_mode, settings.image_settings.color_depth = "RGBA", "8"
    settings.image_settings.compression = 15
    scene.view_settings.view_transform = "Standard"
    scene.view_settings.look = "None"
    scene.view_settings.exposure, scene.view_settings.gamma = 0, 1
    cycles.device = "CPU"
    cycles.samples = samples
    cycles.use_adaptive_sampling, cycles.adaptive_threshold = True, ADAPTIVE_THRESHOLD
    cycles.use_animated_seed = False
    cycles.pixel_filter_type, cycles.filter_width = "BLACKMAN_HARRIS", 1.5
    cycles.use_denoising, cycles.denoiser = True, "OPENIMAGEDENOISE"
    cycles.denoising_input_passes = "RGB_ALBEDO_NORMAL"
    cycles.denoising_prefilter, cycles.denoising_quality = "FAST", "BALANCED"
    cycles.use_auto_tile = False
    cycles.film_transparent_glass = False


def _write_depth(folder: str) -> str:
    """Let the compositor write the depth of every render to one file; returns its path."""
    scene = bpy.context.scene
    bpy.context.view_layer.use_pass_z = True
    scene.use_nodes = True
    nodes, links = scene.node_tree.nodes, scene.node_tree.links
    nodes.clear()
    layers, final = nodes.new("CompositorNodeRLayers"), nodes.new("CompositorNodeComposite")
    links.new(layers.outputs["Image"], final.inputs["Image"])
    output = nodes.new("CompositorNodeOutputFile")
    output.base_path = folder
    output.file_slots[0].path = "depth_"
    output.format.file_format, output.format.color_depth = "OPEN_EXR", "32"
    output.format.exr_codec = "NONE"
    links.new(layers.outputs["Depth"], output.inputs[0])
    return os.path.join(folder, f"depth_{scene.frame_current:04d}.exr")


def _read_depth(path: str, size: int) -> np.ndarray:
    image = bpy.data.images.load(path)
    try:
        if tuple(image.size) != (size, size):
            raise ValueError(f"the depth picture has {tuple(image.size)} pixels, expected {size}")
        values = np.empty(size * size * image.channels, np.float32)
        image.pixels.foreach_get(values)
    finally:
        bpy.data.images.remove(image)
        os.remove(path)
    depth = values.reshape(size, size, -1)[::-1, :, 0]
    return np.where(np.isfinite(depth) & (depth < BACKGROUND_DEPTH), depth, 0).astype(np.float32)
