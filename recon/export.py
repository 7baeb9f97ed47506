"""GLB files of textured meshes. This is the border between our +Z up world and glTF's +Y up."""

import io
from pathlib import Path

import numpy as np
import trimesh

from svd3d import runs
from svd3d.cameras import GLTF_TO_WORLD
from svd3d.errors import ObjectError


def to_glb(mesh: trimesh.Trimesh) -> bytes:
    """GLB bytes of a mesh in the +Z up world: positions, normals, texture coordinates, PBR material."""
    turned = mesh.copy()
    turned.apply_transform(np.linalg.inv(GLTF_TO_WORLD))
    data = turned.export(file_type="glb", include_normals=True)
    assert isinstance(data, bytes), f"trimesh exported {type(data).__name__} instead of bytes"
    return data


def from_glb(data: bytes, *, where: str = "GLB") -> trimesh.Trimesh:
    """The mesh of a GLB in the +Z up world; vertices stay split at seams. `where` names it in errors."""
    if data[:8] != b"glTF\x02\x00\x00\x00":
        raise ObjectError(f"{where}: not a GLB of version 2 (it starts with {data[:8]!r}); export it again")
    try:
        loaded = trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False)
        mesh = loaded.to_mesh()
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ObjectError(f"{where}: not a readable GLB ({error}); export it again") from error
    if len(mesh.faces) == 0:
        raise ObjectError(f"{where}: holds no triangles; export it again")
    mesh.apply_transform(GLTF_TO_WORLD)
    return mesh


def write_glb(path: Path, mesh: trimesh.Trimesh) -> None:
    """Write a mesh of the +Z up world as GLB, atomically."""
    runs.write_file(path, to_glb(mesh))


def read_glb(path: Path) -> trimesh.Trimesh:
    """Read a GLB into the +Z up world. Raises `ObjectError` when it is not one."""
    try:
        data = runs.input_path(path, what="GLB file").read_bytes()
    except OSError as error:
        raise ObjectError(f"{path}: cannot be read ({error.strerror}); pass a GLB file") from error
    return from_glb(data, where=str(path))
