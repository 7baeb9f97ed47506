"""Settings of the stages. Nothing heavy is imported here: `--help` must answer at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from svd3d.config import check

Method = Literal["fast", "nerf", "sdf", "nerfstudio"]


@dataclass(frozen=True)
class ReconConfig:
    """A watertight, textured mesh from the views of a sample folder."""

    sample: Positional[Path]
    """A sample folder (views with cameras and transparency), a nerfstudio, NeRF-synthetic or SyncDreamer
    folder, or a folder of such folders."""
    out: Path
    """Folder for mesh.glb, recon.json and renders/; for a folder of samples each gets OUT/<uid>/."""
    method: Method = "fast"
    """How the surface is found. `fast`: carving by silhouettes, seconds on one core. `nerf`: a density field,
    and its surface or that of a signed distance fitted after it, whichever fits the silhouettes better;
    a minute on one core. `sdf`: always the signed distance. `nerfstudio`: an installed nerfstudio."""
    resolution: int = 128
    """Voxels along the longest side of the object."""
    faces: int = 20_000
    """Triangles of the mesh at most; a surface that would tear keeps more."""
    texture_size: int = 1024
    """Height and width of the texture in texels."""
    refine_steps: int = 0
    """Steps in which the mesh is moved, at the end, until its pictures are the views; 40 are much. A step
    takes about a quarter of a second on one core."""
    splats: bool = False
    """Also fit Gaussian splats to the views, beginning on the mesh: splats.ply. Needs gsplat and a GPU."""
    seed: int = 0
    """Seed of the rays that a field is fitted to."""
    device: str = "auto"
    """Where a field is fitted: `auto` (a GPU if there is one), `cpu`, `cuda`."""
    nerfstudio: Path | None = None
    """Folder of the programs ns-train and ns-export for method nerfstudio; those on PATH by default."""
    nerfstudio_method: str = "nerfacto"
    """What ns-train trains: nerfacto, neus-facto, …"""
    nerfstudio_steps: int = 30_000
    """Iterations of ns-train. Its default is made for a GPU: on a CPU one takes about a second."""
    views_from: tuple[Path, ...] = ()
    """Other samples of the same object (or folders of them, by uid) whose cameras are rendered as well."""

    def __post_init__(self) -> None:
        check(
            16 <= self.resolution <= 1024, f"resolution must lie between 16 and 1024; got {self.resolution}"
        )
        check(self.nerfstudio_steps >= 1, f"nerfstudio_steps must be at least 1; got {self.nerfstudio_steps}")
        check(self.refine_steps >= 0, f"refine_steps must not be negative; got {self.refine_steps}")
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


@dataclass(frozen=True)
class RenderFieldConfig:
    """Pictures, depth and a film of a saved field, from any orbit or from the cameras of a sample."""

    field: Positional[Path]
    """A field.safetensors of svd3d reconstruct."""
    out: Path
    """A sample folder with depth, and orbit.mp4."""
    cameras_from: Path | None = None
    """A sample folder whose cameras are rendered, so that svd3d evaluate can compare; replaces the orbit."""
    views: int = 21
    """Views of the orbit."""
    elevation_deg: float = 10.0
    """Elevation of the orbit; its distance and field of view are those of the views that were fitted."""
    azimuth_deg: float = 0.0
    """Azimuth of view 0."""
    size: int | None = None
    """Height and width in pixels; by default those of the views that were fitted."""
    device: str = "auto"
    """`auto` (a GPU if there is one), `cpu`, `cuda`."""

    def __post_init__(self) -> None:
        check(self.views >= 1, f"views must be at least 1; got {self.views}")
        check(
            -90 <= self.elevation_deg <= 90,
            f"elevation_deg must lie between -90 and 90; got {self.elevation_deg}",
        )
        check(
            self.size is None or 8 <= self.size <= 4096, f"size must lie between 8 and 4096; got {self.size}"
        )
