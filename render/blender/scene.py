"""From a file to one clean, centred object in an otherwise empty scene.

Axes: glTF stores +Y up, and Blender's importer turns it to +Z up, (x, y, z) to (x, -z, y). FBX files
name their axes and are turned to +Z up by the importer. OBJ, PLY and STL name none: they are imported as
stored, so that stored Z is world Z (Google Scanned Objects are stored that way).
"""

import os
from pathlib import Path
from typing import Any

import bpy
import numpy as np
from mathutils import Matrix

from render.blender.refusal import Refusal

SMALLEST, LARGEST = 1e-12, 1e12
"""Longest sides outside of this range are broken files: garbage floats are near 1e-39 or 1e38."""
SURFACES = {"MESH", "CURVE", "SURFACE", "FONT", "META"}


def version() -> str:
    """Blender's version, such as 4.5.15."""
    return bpy.app.version_string


def cycles() -> Any:
    """The preferences of Cycles, by which devices are chosen."""
    return bpy.context.preferences.addons["cycles"].preferences


def load(path: str, folder: str, *, max_faces: int) -> dict[str, Any]:
    """Import a file alone, centre it, scale its longest side to 1, and write its vertices.

    `folder/points.npy` gets the vertices of all faces in the world, float32 [n, 3]. Returns counts and
    `imported_to_world`, the 4 x 4 matrix from Blender's coordinates right after import. Raises `Refusal`
    for files without surface or size, that are too large or look outside their folder, and `RuntimeError`
    for those that cannot be imported.
    """
    bpy.ops.wm.read_factory_settings(use_empty=True)
    preferences = bpy.context.preferences
    preferences.filepaths.use_scripts_auto_execute = False
    if hasattr(preferences.system, "use_online_access"):
        preferences.system.use_online_access = False
    _import(path)
    missing = _textures(Path(path))
    parts = _flatten()
    faces = sum(len(mesh.loops) - 2 * len(mesh.polygons) for mesh, _ in parts)
    if not faces:
        raise Refusal("no_mesh", "it shows no surface (only points, lines, or hidden things)")
    if faces > max_faces:
        raise Refusal("too_large", f"{faces} triangles are more than max_faces {max_faces}")
    normalize = _normalization(parts)
    points = []
    for mesh, matrix in parts:
        placed = normalize @ matrix
        mesh.transform(Matrix(placed.tolist()))
        if np.linalg.det(placed[:3, :3]) < 0:
            mesh.flip_normals()
        bpy.context.collection.objects.link(bpy.data.objects.new(mesh.name, mesh))
        points.append(_vertices(mesh))
    _show_vertex_colours()
    np.save(os.path.join(folder, "points.npy"), np.concatenate(points))
    return {
        "faces": faces,
        "vertices": sum(len(part) for part in points),
        "extent": 1 / float(normalize[0, 0]),
        "imported_to_world": normalize.tolist(),
        "materials": len(bpy.data.materials),
        "missing_textures": missing,
        "blender": version(),
    }


def _import(path: str) -> None:
    """Import a file by the importer that this Blender has: those in C++ came with 3.6 (PLY) and 4.1 (STL)."""
    as_stored = {"forward_axis": "Y", "up_axis": "Z"}
    match Path(path).suffix.lower():
        case ".glb" | ".gltf":
            if not hasattr(np, "bool"):
                np.bool = bool  # the importer of Blender 3.4 needs it, and numpy 1.24 to 1.26 lack it
            known = bpy.ops.import_scene.gltf.get_rna_type().properties
            bare = {"disable_bone_shape": True} if "disable_bone_shape" in known else {}
            bpy.ops.import_scene.gltf(filepath=path, **bare)
        case ".obj":
            bpy.ops.wm.obj_import(filepath=path, **as_stored)
        case ".ply" if "ply_import" in dir(bpy.ops.wm):
            bpy.ops.wm.ply_import(filepath=path, **as_stored)
        case ".ply":
            bpy.ops.import_mesh.ply(filepath=path)
        case ".stl" if "stl_import" in dir(bpy.ops.wm):
            bpy.ops.wm.stl_import(filepath=path, **as_stored)
        case ".stl":
            bpy.ops.import_mesh.stl(filepath=path, axis_forward="Y", axis_up="Z")
        case ".fbx":
            bpy.ops.import_scene.fbx(filepath=path, use_anim=False, use_image_search=False)
        case suffix:
            raise Refusal("unreadable", f"unknown kind {suffix!r}")


def _textures(path: Path) -> list[str]:
    """Names of textures that cannot be loaded (Blender shows them magenta).

    Raises `Refusal` for a texture that exists outside the object's folder.
    """
    folder, missing = path.resolve().parent, []
    for image in bpy.data.images:
        if image.source != "FILE" or image.packed_file is not None:
            continue
        place = Path(bpy.path.abspath(image.filepath)).resolve()
        if place.exists() and not place.is_relative_to(folder):
            raise Refusal(
                "outside",
                f"texture {image.filepath[:60]!r} lies outside the object's folder, which is refused",
            )
        if not place.is_file() or 0 in tuple(image.size):
            missing.append(image.name)
    return missing


def _flatten() -> list[tuple[Any, np.ndarray]]:
    """Replace the scene by plain meshes as they are seen: modifiers, poses and instances applied.

    Lights, cameras, hidden things and everything that could move are dropped. Returns meshes with their
    placement, float64 [4, 4].
    """
    scene = bpy.context.scene
    for thing in [*bpy.data.objects, *bpy.data.armatures, *bpy.data.materials, *bpy.data.shape_keys]:
        thing.animation_data_clear()
    bpy.context.view_layer.update()
    graph = bpy.context.evaluated_depsgraph_get()
    parts = []
    for instance in graph.object_instances:
        thing = instance.object
        if thing.type in SURFACES and instance.show_self and not thing.original.hide_render:
            mesh = bpy.data.meshes.new_from_object(thing, preserve_all_data_layers=True, depsgraph=graph)
            mesh.name = thing.name
            if mesh.polygons:
                parts.append((mesh, np.array(instance.matrix_world, dtype=np.float64)))
    for thing in list(bpy.data.objects):
        bpy.data.objects.remove(thing)
    for world in list(bpy.data.worlds):
        bpy.data.worlds.remove(world)
    for material in bpy.data.materials:
        material.use_fake_user = False
    scene.frame_set(1)
    return parts


def _vertices(mesh: Any) -> np.ndarray:
    """Vertices that belong to a face, float32 [n, 3]; loose ones are never seen."""
    corners = np.empty(len(mesh.loops), np.int32)
    mesh.loops.foreach_get("vertex_index", corners)
    points = np.empty(len(mesh.vertices) * 3, np.float32)
    mesh.vertices.foreach_get("co", points)
    used = np.zeros(len(mesh.vertices), bool)
    used[corners] = True
    return points.reshape(-1, 3)[used]


def _normalization(parts: list[tuple[Any, np.ndarray]]) -> np.ndarray:
    """The matrix that centres the bounding box of all parts and makes its longest side 1."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    with np.errstate(all="ignore"):  # broken files hold anything; the bounds are checked below
        for mesh, matrix in parts:
            points = _vertices(mesh).astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
            low, high = np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0))
        longest = float(np.max(high - low))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise Refusal("degenerate", "its vertices are not finite numbers, the file is broken")
    if not SMALLEST < longest < LARGEST:
        raise Refusal(
            "degenerate", f"its longest side is {longest:.3g}, so it has no usable size; the file is broken"
        )
    matrix = np.diag([1 / longest, 1 / longest, 1 / longest, 1.0])
    matrix[:3, 3] = (low + high) / (-2 * longest)
    return matrix


def _show_vertex_colours() -> None:
    """Give meshes without any material one that shows their vertex colours, if they have them."""
    for thing in bpy.context.scene.objects:
        mesh = thing.data
        if any(mesh.materials) or not mesh.color_attributes:
            continue
        material = bpy.data.materials.new("vertex colours")
        material.use_nodes = True
        nodes, links = material.node_tree.nodes, material.node_tree.links
        colour = nodes.new("ShaderNodeVertexColor")
        colour.layer_name = mesh.color_attributes[0].name
        surface = next(node for node in nodes if node.type == "BSDF_PRINCIPLED")
        links.new(colour.outputs["Color"], surface.inputs["Base Color"])
        mesh.materials.clear()
        mesh.materials.append(material)
