"""The reconstruction stage: sample folders to watertight, textured meshes."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Literal

from recon.config import Method, ReconConfig
from svd3d import images, runs, sample
from svd3d.errors import MeshError, OutputError, SampleError, Svd3dError, require
from svd3d.sample import Sample

for _package in ("trimesh", "scipy", "skimage", "xatlas", "fast_simplification", "embreex"):
    require(_package, extra="recon", reason="reconstructing a mesh")

from recon import captures, export, fast, texture  # noqa: E402
from recon.fast import silhouette_iou  # noqa: E402
from recon.raster import psnr  # noqa: E402
from recon.result import Reconstruction, Stopwatch, rendered  # noqa: E402

MAY_CHANGE = ("sample", "out", "views_from", "device")
"""Settings that may differ when a command is run again; a changed sample is found by its digest."""


@dataclass(frozen=True)
class Reconstructed:
    """What became of one sample."""

    uid: str
    folder: Path | None
    """Holds mesh.glb, seen.png, recon.json and renders/, and field.safetensors and splats.ply if they were
    fitted; None if it failed."""
    status: Literal["done", "skipped", "failed"]
    message: str
    """Why it failed, or what is noteworthy; empty if nothing is."""
    seconds: float
    psnr_db: float | None = None
    """Self-check: mean whole-image PSNR on white of the mesh at the input's cameras."""


def count(config: ReconConfig) -> int:
    """How many samples `run` will report."""
    return len(captures.find(config.sample))


def reconstruct(
    views: Sample,
    *,
    method: Method = "fast",
    resolution: int = 128,
    faces: int = 20_000,
    texture_size: int = 1024,
    refine_steps: int = 0,
    splats: bool = False,
    seed: int = 0,
    device: str = "auto",
    nerfstudio: Path | None = None,
    nerfstudio_method: str = "nerfacto",
    nerfstudio_steps: int = 30_000,
    work: Path | None = None,
) -> Reconstruction:
    """A textured mesh from the views of one sample, in memory. See `ReconConfig` for the options.

    `work` is the folder in which a long fit keeps what it resumes from. Raises `MeshError` when silhouettes
    are empty, missing, or have no common object, and `DependencyError` when splats cannot be fitted here.
    """
    if splats:
        _check_splats(device)
    watch = Stopwatch()
    if method == "fast":
        shape = fast.shape(views, resolution=resolution, faces=faces, watch=watch)
    elif method == "nerfstudio":
        from recon import nerfstudio as foreign

        shape = foreign.shape(
            views,
            method=nerfstudio_method,
            place=nerfstudio,
            steps=nerfstudio_steps,
            resolution=resolution,
            faces=faces,
            device=device,
            work=work,
            watch=watch,
        )
    else:
        require("torch", extra="model", reason=f"method {method}")
        from recon import fitted

        shape = fitted.shape(
            views,
            method=method,
            resolution=resolution,
            faces=faces,
            seed=seed,
            device=device,
            work=work,
            watch=watch,
        )
    if refine_steps:
        require("torch", extra="model", reason="refining a mesh")
        from recon import refine

        with watch("refine"):
            closed = refine.refined(
                shape.surface, shape.images, views.cameras, steps=refine_steps, seed=seed, device=device
            )
        shape = replace(shape, surface=closed, details={**shape.details, "refine_steps": refine_steps})
    with watch("texture"):
        baked = texture.bake(shape.surface, shape.images, views.cameras, size=texture_size)
    with watch("export"):
        glb = export.to_glb(baked.mesh)
        mesh = export.from_glb(glb, where=f"{views.uid}: exported GLB")
    with watch("check"):
        renders = rendered(mesh, views, uid=views.uid)
        silhouettes = [each[..., 3] > 127 for each in (renders.images, shape.images)]
    fitted_splats = None
    if splats:
        from recon import splat

        with watch("splats"):
            fitted_splats = splat.fit(mesh, shape.images, views.cameras, seed=seed, device=device)
    return Reconstruction(
        uid=views.uid,
        method=method,
        shape=shape,
        mesh=mesh,
        glb=glb,
        seen=baked.seen,
        seen_share=baked.seen_share,
        renders=renders,
        silhouette_iou=silhouette_iou(*silhouettes),
        psnr_db=float(psnr(renders.images, shape.images).mean()),
        splats=fitted_splats,
        seconds=watch.seconds,
    )


def run(config: ReconConfig) -> Iterator[Reconstructed]:
    """Reconstruct one sample into OUT, or a folder of samples into OUT/<uid>/; running it again resumes.

    Yields one result per sample. In a folder of samples a bad one is a failed result and the others go on;
    a single bad sample raises, and leaves no output. What is wrong with the paths is raised here, before
    any output exists.
    """
    folders = captures.find(config.sample)
    if not folders:
        raise SampleError(
            f"{config.sample}: holds no sample (a folder with transforms.json); make one with: svd3d render"
        )
    for path in config.views_from:
        if not sample.find(path):
            raise SampleError(f"{path}: holds no sample to take cameras from; check --views-from")
    if config.splats:
        _check_splats(config.device)
    alone = captures.read(config.sample) if captures.is_capture(config.sample) else None
    if alone is not None:
        _extra_views(config, alone.uid)
    return _run(config, folders, alone=alone)


def _run(config: ReconConfig, folders: list[Path], *, alone: Sample | None) -> Iterator[Reconstructed]:
    existed = runs.nearest_parent(config.out)
    out = runs.output_folder(config.out)
    start = monotonic()
    with runs.lock(out):
        runs.same_settings(out, config, ignore=MAY_CHANGE)
        for folder in folders:
            begin = monotonic()
            try:
                done = _one(config, folder, alone=alone)
            except OutputError:
                raise
            except Svd3dError as error:
                if alone is not None:
                    if existed != out and not _begun(out):
                        shutil.rmtree(out)
                    raise
                yield Reconstructed(folder.name, None, "failed", str(error), monotonic() - begin)
            else:
                yield done
        if alone is None:
            runs.write_manifest(
                out, stage="reconstruct", config=config, seconds={"reconstruct": monotonic() - start}
            )


def _check_splats(device: str) -> None:
    """Raise `DependencyError` unless splats can be fitted, before the long work."""
    require("torch", extra="model", reason="--splats")
    from recon import splat

    splat.check(device)


def _begun(out: Path) -> bool:
    """Whether a fit left something there that it can resume from."""
    return any(path.name != "config.yaml" and not path.name.startswith(".") for path in out.iterdir())


def _one(config: ReconConfig, source: Path, *, alone: Sample | None) -> Reconstructed:
    """Reconstruct one capture, or add what its result lacks. `recon.json` is written last."""
    start = monotonic()
    views = captures.read(source) if alone is None else alone
    folder = config.out / views.uid if alone is None else config.out
    digest = runs.sha256(source)
    extra = _extra_views(config, views.uid)
    if (folder / "recon.json").exists():
        psnr_db = _finished(folder, views.uid, digest)
        missing = {path: like for path, like in extra.items() if not sample.is_sample(folder / path)}
        if missing:
            mesh = export.read_glb(folder / "mesh.glb")
            added = {path: rendered(mesh, like, uid=views.uid) for path, like in missing.items()}
            _write_renders(folder, added)
        message = f"added {', '.join(missing)}" if missing else "already reconstructed"
        return Reconstructed(views.uid, folder, "skipped", message, monotonic() - start, psnr_db)

    try:
        made = reconstruct(
            views,
            method=config.method,
            resolution=config.resolution,
            faces=config.faces,
            texture_size=config.texture_size,
            refine_steps=config.refine_steps,
            splats=config.splats,
            seed=config.seed,
            device=config.device,
            nerfstudio=config.nerfstudio,
            nerfstudio_method=config.nerfstudio_method,
            nerfstudio_steps=config.nerfstudio_steps,
            work=folder,
        )
    except MeshError as error:
        raise MeshError(f"{source}: {error}") from error
    others = {path: rendered(made.mesh, like, uid=views.uid) for path, like in extra.items()}
    runs.output_folder(folder)
    runs.write_file(folder / "mesh.glb", made.glb)
    images.write_png(folder / "seen.png", made.seen)
    if made.shape.field:
        made.shape.field.save(folder / "field.safetensors", views.cameras)
    if made.splats:
        runs.write_file(folder / "splats.ply", made.splats.gaussians.to_ply())
    _write_renders(folder, {"renders": made.renders, **others})
    licence = views.about.get("licence")
    runs.write_manifest(
        folder,
        stage="reconstruct",
        config=config,
        inputs={"sample": source},
        licences=[licence] if isinstance(licence, str) else [],
        seconds=made.seconds,
    )
    runs.write_json(folder / "recon.json", {**made.report(), "sample_sha256": digest})
    return Reconstructed(views.uid, folder, "done", made.shape.message, monotonic() - start, made.psnr_db)


def _extra_views(config: ReconConfig, uid: str) -> dict[str, Sample]:
    """The samples of `views_from` that belong to an object, by the name of the folder for their renders."""
    found = {}
    for path in config.views_from:
        folder = path if sample.is_sample(path) else path / uid
        if not sample.is_sample(folder):
            raise SampleError(f"{path}: holds no sample {uid} to take cameras from; check --views-from")
        found[f"renders-{path.resolve().name}"] = sample.read(folder)
    return found


def _finished(folder: Path, uid: str, digest: str) -> float:
    """Self-check PSNR of a finished folder; refuses one that was made from other views."""
    path = folder / "recon.json"
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
        found, same, psnr_db = made["uid"], made["sample_sha256"] == digest, made["self_check"]["mean_db"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path}: not readable ({error}); delete the folder and run again") from error
    if found != uid or not same:
        raise OutputError(f"{folder}: made from other views (of {found}); choose another --out")
    return float(psnr_db)


def _write_renders(folder: Path, renders: dict[str, Sample]) -> None:
    for name, each in renders.items():
        with runs.atomic_folder(folder / name) as temporary:
            sample.write(each, temporary)
