"""Camera and light in Blender, exactly as the caller computed them."""

import math
from collections.abc import Sequence
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix


def add_camera() -> Any:
    """A camera; pose and field of view are set by `place`."""
    data = bpy.data.cameras.new("camera")
    data.sensor_fit = "VERTICAL"
    camera = bpy.data.objects.new("camera", data)
    bpy.context.scene.collection.objects.link(camera)
    bpy.context.scene.camera = camera
    return camera


def place(camera: Any, camera_to_world: Sequence[Sequence[float]], *, tangent: float) -> None:
    """Set the pose directly (Blender's cameras have OpenGL axes, as ours), and half the field of view."""
    camera.matrix_world = Matrix(camera_to_world)
    camera.data.angle_y = 2 * math.atan(tangent)
    distance = float(np.linalg.norm(np.array(camera_to_world)[:3, 3]))
    camera.data.clip_start, camera.data.clip_end = distance * 1e-3, distance * 10


def set_border(box: Sequence[int], *, size: int, oversampling: int = 1) -> None:
    """Render only a rectangle (left, top, right, bottom in pixels of a picture of `size`), and only it.

    Blender rounds down the fractions it is given; a quarter of a sample keeps them on the right side.
    """
    settings = bpy.context.scene.render
    whole = size * oversampling
    settings.resolution_x = settings.resolution_y = whole
    left, top, right, bottom = ((edge * oversampling + 0.25) / whole for edge in box)
    settings.use_border, settings.use_crop_to_border = True, True
    settings.border_min_x, settings.border_max_x = left, right
    settings.border_min_y, settings.border_max_y = 1 - bottom + 0.5 / whole, 1 - top + 0.5 / whole


def set_light(light: dict[str, Any]) -> None:
    """Light the scene by `{"kind": "sky", mean, slope}` or `{"kind": "hdri", path, turn_deg}`.

    The middle of an environment picture is at azimuth turn_deg (counter-clockwise from +X), its top is +Z.
    """
    world = bpy.data.worlds.new("light")
    bpy.context.scene.world = world
    world.use_nodes = True
    nodes, links = world.node_tree.nodes, world.node_tree.links
    background = next(node for node in nodes if node.type == "BACKGROUND")
    direction = nodes.new("ShaderNodeTexCoord").outputs["Generated"]  # of a world: the unit direction
    if light["kind"] == "sky":
        slope, mean = nodes.new("ShaderNodeVectorMath"), nodes.new("ShaderNodeMath")
        slope.operation, mean.operation = "DOT_PRODUCT", "ADD"
        slope.inputs[1].default_value, mean.inputs[1].default_value = light["slope"], light["mean"]
        links.new(direction, slope.inputs[0])
        links.new(slope.outputs["Value"], mean.inputs[0])
        links.new(mean.outputs["Value"], background.inputs["Strength"])
        background.inputs["Color"].default_value = (1, 1, 1, 1)
    else:
        turn, picture = nodes.new("ShaderNodeMapping"), nodes.new("ShaderNodeTexEnvironment")
        turn.inputs["Rotation"].default_value = (0, 0, -math.radians(light["turn_deg"]))
        picture.image = bpy.data.images.load(light["path"])
        links.new(direction, turn.inputs["Vector"])
        links.new(turn.outputs["Vector"], picture.inputs["Vector"])
        links.new(picture.outputs["Color"], background.inputs["Color"])
