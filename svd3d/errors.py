"""The errors a user can meet.

    Svd3dError                 anything the command line reports in one line
    ├── ConfigError            a recipe, flag or setting is wrong
    ├── InputError             a path, image or folder cannot be used
    │   ├── OutputError        a result cannot be written: disk full, read-only, in use
    │   ├── ImageError         not an image, broken, empty
    │   ├── SampleError        a sample folder breaks its contract
    │   ├── ObjectError        a 3-D file is broken, empty or refused
    │   └── VideoError         not a video, broken, empty or refused
    ├── CameraError            cameras that cannot exist
    ├── CheckpointError        a model folder is missing parts or of another kind
    ├── TrainingError          training cannot go on, such as losses that are not finite
    ├── MeshError              a surface that cannot be measured or made
    ├── RenderError            Blender failed on an object that looked right
    └── DependencyError        an optional package is not installed

A message says *where: what is wrong, with the value; what to do next.*
"""

import importlib
from types import ModuleType


class Svd3dError(Exception):
    """Base of all errors with a message meant for the user; the command line exits with 2."""


class ConfigError(Svd3dError):
    """A recipe, flag or setting is wrong."""


class InputError(Svd3dError):
    """A path, image or folder cannot be used."""


class OutputError(InputError):
    """A result cannot be written: disk full, quota, read-only, in use by another process.

    Never the fault of one object, so a batch stops instead of counting it as failed.
    """


class ImageError(InputError):
    """Not an image, a broken image, or an image without an object."""


class SampleError(InputError):
    """A sample folder breaks its contract."""


class ObjectError(InputError):
    """A 3-D file is broken, empty or refused. `kind` is the class under which a ledger counts it."""

    def __init__(self, message: str, *, kind: str = "invalid") -> None:
        super().__init__(message)
        self.kind = kind


class VideoError(InputError):
    """Not a video, a broken or empty one, or one that is refused.

    `kind` is the class under which a ledger counts it.
    """

    def __init__(self, message: str, *, kind: str = "damaged") -> None:
        super().__init__(message)
        self.kind = kind


class CameraError(Svd3dError):
    """Cameras that cannot exist: not a rotation, no field of view, behind the object."""


class CheckpointError(Svd3dError):
    """A model folder is missing, incomplete or of another kind."""


class TrainingError(Svd3dError):
    """Training cannot go on."""


class MeshError(Svd3dError):
    """A surface that cannot be made or measured."""


class RenderError(Svd3dError):
    """Blender failed on an object that looked right; the message carries its last words.

    `kind` is the class under which a ledger counts it.
    """

    def __init__(self, message: str, *, kind: str = "refused") -> None:
        super().__init__(message)
        self.kind = kind


class DependencyError(Svd3dError):
    """An optional package is not installed."""


def require(module: str, *, extra: str, reason: str) -> ModuleType:
    """Import an optional package at first use, or say which extra brings it.

    Raises `DependencyError` when the package is not installed. An installed package that fails to
    load raises its own error, because installing the extra again would not help.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise DependencyError(
            f"{reason} needs the package {module}, which is not installed; "
            f"install it with: pip install 'svd3d[{extra}]'"
        ) from error
