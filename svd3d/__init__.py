"""svd3d: objects to Blender orbits to a multi-view video model to meshes to metrics."""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Cameras": "svd3d.cameras",
    "Orbit": "svd3d.cameras",
    "Sample": "svd3d.sample",
    "SVDMVPipeline": "svd3d.model.pipeline",
    "evaluate": "svd3d.evaluate",
    "image_to_mesh": "svd3d.workflow",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Public names load on first use (PEP 562), so that importing svd3d loads neither torch nor bpy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'svd3d' has no attribute {name!r}; public names: {', '.join(__all__)}")
    module = importlib.import_module(_HOMES[name])
    return module if name == "evaluate" else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
