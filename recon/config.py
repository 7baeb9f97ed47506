"""Settings of `svd3d reconstruct`. Nothing heavy is imported here: `--help` must answer at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from svd3d.config import check


@dataclass(frozen=True)
class ReconConfig:
    """A watertight, textured mesh from the views of a sample folder."""

    sample: Positional[Path]
    """A sample folder (views with cameras and transparency), or a folder of sample folders."""
    out: Path
    """Folder for mesh.glb, recon.json and renders/; for a folder of samples each gets OUT/<uid>/."""
    method: Literal["fast"] = "fast"
    """How the surface is found. `fast`: carving by silhouettes, seconds on one core."""
    resolution: int = 128
    """Voxels along the longest side of the object."""
    faces: int = 20_000
    """Triangles of the mesh at most; a surface that would tear keeps more."""
    texture_size: int = 1024
    """Height and width of the texture in texels."""
    views_from: tuple[Path, ...] = ()
    """Other samples of the same object (or folders of them, by uid) whose cameras are rendered as well."""

    def __post_init__(self) -> None:
        check(
            16 <= self.resolution <= 1024, f"resolution must lie between 16 and 1024; got {self.resolution}"
        )
        check(self.faces >= 100, f"faces must be at least 100; got {self.faces}")
        check(
            64 <= self.texture_size <= 8192,
            f"texture_size must lie between 64 and 8192; got {self.texture_size}",
        )
        names = [path.resolve().name for path in self.views_from]
        check(
            len(set(names)) == len(names),
            f"views_from: folder names must differ, because they name renders-NAME; got {', '.join(names)}",
        )
