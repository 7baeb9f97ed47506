"""What lies at a path: views or meshes of one object or many; which prediction meets which reference."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svd3d import images as pictures
from svd3d import runs, sample
from svd3d.errors import ImageError, InputError
from svd3d.metrics import geometry
from svd3d.metrics.pairing import Views
from svd3d.sample import Sample

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_BESIDE_COLOUR = re.compile(r"[-_.](depth|normals?|mask|alpha)$", re.IGNORECASE)
"""Names of pictures that lie beside views in public data sets but are no views."""


@dataclass(frozen=True)
class Found:
    """Objects at a path, by name."""

    path: Path
    objects: dict[str, Path]
    single: bool
    """The path is one object itself, so its name need not match anything."""


@dataclass(frozen=True)
class Match:
    """A prediction and its reference."""

    object: str
    prediction: Path
    reference: Path


def find_views(path: Path, *, what: str) -> Found:
    """Sample folders or plain folders of pictures at a path or one level below.

    A reconstruction counts as its `renders`. Raises `InputError` when there are none, or when one is
    unfinished.
    """
    runs.input_path(path, what=what)
    if geometry.is_mesh_file(path):
        raise InputError(f"{path}: a mesh; compare meshes with: --protocol mesh")
    if not path.is_dir():
        raise InputError(f"{path}: not a folder; pass a sample folder, a folder of samples or of images")
    if (own := _sample_folder(path)) is not None:
        return Found(path, {path.resolve().name: own}, single=True)
    children = _folders(path)
    samples = {child.name: folder for child in children if (folder := _sample_folder(child)) is not None}
    if samples:
        rest = [child for child in children if child.name not in samples]
        unfinished = [child for child in rest if (child / "images").is_dir()]
        if unfinished:
            raise InputError(
                f"{unfinished[0]}: has images but no transforms.json, so it is unfinished; make it again"
            )
        return Found(path, samples, single=False)
    if picture_files(path):
        return Found(path, {path.resolve().name: path}, single=True)
    plain = {child.name: child for child in children if picture_files(child)}
    if not plain:
        raise InputError(f"{path}: holds neither sample folders nor images; pass the {what}'s folder")
    return Found(path, plain, single=False)


def find_meshes(path: Path, *, what: str) -> Found:
    """Mesh files at a path or one level below; a reconstruction counts as its `mesh.glb`.

    Raises `InputError` when there are none, or two of one name.
    """
    runs.input_path(path, what=what)
    if path.is_file() and not geometry.is_mesh_file(path):
        raise InputError(f"{path}: not a mesh; use one of {', '.join(geometry.SUFFIXES)}")
    if (own := _mesh_file(path)) is not None:
        name = path.resolve().name if own.stem in ("mesh", "model") and path.is_dir() else own.stem
        return Found(path, {name: own}, single=True)
    objects: dict[str, Path] = {}
    for child in sorted(path.iterdir()):
        if child.name.startswith(".") or (mesh := _mesh_file(child)) is None:
            continue
        name = child.stem if child.is_file() else child.name
        if name in objects:
            raise InputError(f"{path}: two meshes of {name}: {objects[name].name}, {mesh.name}; keep one")
        objects[name] = mesh
    if not objects:
        raise InputError(f"{path}: holds no meshes; to compare views: --protocol svd-mv or views")
    return Found(path, objects, single=False)


def match(prediction: Found, reference: Found) -> list[Match]:
    """Predictions and references of the same objects, by folder name or else by uid, sorted by reference.

    Raises `InputError` naming the objects when one side lacks some: scores of a subset look like scores of
    the whole.
    """
    if len(prediction.objects) == len(reference.objects) == 1 and (prediction.single or reference.single):
        (name, target), (source,) = next(iter(reference.objects.items())), prediction.objects.values()
        return [Match(_uid(target) or name, source, target)]
    left = dict(prediction.objects)
    found = {name: left.pop(name) for name in reference.objects if name in left}
    by_uid = {_uid(path) or name: name for name, path in left.items()}
    for name, target in reference.objects.items():
        source = by_uid.get(name) or by_uid.get(_uid(target) or name)
        if name not in found and source in left:
            found[name] = left.pop(source)
    unmatched = [name for name in reference.objects if name not in found]
    for role, side, missing in (("prediction", prediction, unmatched), ("reference", reference, list(left))):
        if missing:
            named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise InputError(f"{side.path}: no {role} for {named}; both sides must hold the same objects")
    return [Match(name, found[name], target) for name, target in reference.objects.items()]


def read_views(folder: Path) -> Sample | Views:
    """A sample, or the pictures of a plain folder in natural order of their names; view 0 is the condition.

    Raises `SampleError` or `ImageError` naming the file.
    """
    if sample.is_sample(folder):
        return sample.read(folder)
    files = picture_files(folder)
    images = [pictures.read(file) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            found, first = (f"{each.shape[1]} x {each.shape[0]}" for each in (image, images[0]))
            raise ImageError(f"{file}: is {found}, {files[0].name} is {first}; all views must have one size")
    return Views(np.stack(images))


def picture_files(folder: Path) -> Sequence[Path]:
    """Pictures in a folder in natural order (2 before 10); depth, normal and mask pictures are left out."""
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in PICTURE_SUFFIXES
        and not file.name.startswith(".")
        and not _BESIDE_COLOUR.search(file.stem)
    ]
    return sorted(files, key=lambda file: _natural(file.stem))


def _natural(name: str) -> list[int | str]:
    """Numbers inside a name as numbers; `re.split` alternates them with text, so lists stay comparable."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _folders(path: Path) -> list[Path]:
    return sorted(child for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))


def _sample_folder(folder: Path) -> Path | None:
    return next((place for place in (folder, folder / "renders") if sample.is_sample(place)), None)


def _mesh_file(path: Path) -> Path | None:
    """The mesh that a path stands for: itself, `mesh.glb` inside, or the only mesh inside."""
    if not path.is_dir():
        return path if geometry.is_mesh_file(path) else None
    if (path / "mesh.glb").is_file():
        return path / "mesh.glb"
    inside = [
        file for file in path.iterdir() if geometry.is_mesh_file(file) and not file.name.startswith(".")
    ]
    return inside[0] if len(inside) == 1 else None


def _uid(path: Path) -> str | None:
    return sample.read(path).uid if sample.is_sample(path) else None
