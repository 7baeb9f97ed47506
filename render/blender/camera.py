"""Camera and light in Blender, exactly as the caller computed them."""

import math
from collections.abc import Sequence
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix


def add_camera(*, fov_deg: float) -> Any:
    """A camera with a square picture; its matrix is set per view by `place`."""
    data = bpy.data.cameras.new("camera")
    data.sensor_fit = "VERTICAL"
    data.angle_y = math.radians(fov_deg)
    camera = bpy.data.objects.new("camera", data)
    bpy.context.scene.collection.objects.link(camera)
    bpy.context.scene.camera = camera
    return camera


def place(camera: Any, camera_to_world: Sequence[Sequence[float]]) -> None:
    """Set the pose directly; Blender's cameras have OpenGL axes, as ours."""
    camera.matrix_world = Matrix(camera_to_world)
    distance = float(np.linalg.norm(np.array(camera_to_world)[:3, 3]))
    camera.data.clip_start, camera.data.clip_end = distance * 1e-3, distance * 10


def set_border(border: Sequence[int], *, size: int) -> None:
    """Render only a rectangle in pixels (left, top, right, bottom); the rest stays transparent."""
    settings = bpy.context.scene.render
    left, top, right, bottom = (edge / size for edge in border)
    settings.use_border, settings.use_crop_to_border = True, False
    settings.border_min_x, settings.border_max_x = left, right
    settings.border_min_y, settings.border_max_y = 1 - bottom, 1 - top


def set_light(light: dict[str, Any]) -> None:
    """Light the scene by `{"kind": "sky", mean, slope}` or `{"kind": "hdri", path, turn_deg}`."""
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
        turn.inputs["Rotation"].default_value = (0, 0, math.radians(light["turn_deg"]))
        picture.image = bpy.data.images.load(light["path"])
        links.new(direction, turn.inputs["Vector"])
        links.new(turn.outputs["Vector"], picture.inputs["Vector"])
        links.new(picture.outputs["Color"], background.inputs["Color"])
