"""What lies at a path: views or meshes of one object or many; which prediction meets which reference."""

import re
from collections.abc import Collection, Mapping, Sequence
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
    """What each method predicted for an object, and its reference."""

    object: str
    predictions: dict[str, Path]
    """By method."""
    reference: Path

    def paths(self) -> dict[str, Path]:
        """Everything that is read for this object, by the key that a report's digests have."""
        return {
            f"reference/{self.object}": self.reference,
            **{f"{method}/{self.object}": path for method, path in self.predictions.items()},
        }


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


def match(
    predictions: Mapping[str, Found], reference: Found, *, only: Collection[str] | None = None
) -> list[Match]:
    """Predictions by method and references of the same objects, by folder name or uid, at last in any case.

    Sorted by reference. Raises `InputError` naming the objects when one side lacks some: scores of a subset
    look like scores of the whole. With `only` (names or uids) the other objects of all sides are left out.
    """
    if only is not None:
        predictions = {method: _chosen(found, only) for method, found in predictions.items()}
        reference = _chosen(reference, only)
    sources = {method: _sources(found, reference) for method, found in predictions.items()}
    alone = len(reference.objects) == 1 and any(each.single for each in (reference, *predictions.values()))
    return [
        Match(
            (_uid(target) if alone else None) or name,
            {method: paths[name] for method, paths in sources.items()},
            target,
        )
        for name, target in reference.objects.items()
    ]


def _chosen(found: Found, only: Collection[str]) -> Found:
    """Some of the objects at a path, by name or uid without regard to case; all of them must be there."""
    names = {
        known.casefold(): name
        for name, path in found.objects.items()
        for known in (_uid(path), name)
        if known
    }
    missing = [name for name in only if name.casefold() not in names]
    if missing:
        raise InputError(f"{found.path}: holds no {', '.join(missing[:5])}; all chosen objects must be there")
    chosen = {names[name.casefold()] for name in only}
    objects = {name: path for name, path in found.objects.items() if name in chosen}
    return Found(found.path, objects, found.single)


def _sources(prediction: Found, reference: Found) -> dict[str, Path]:
    """The prediction of every object of the reference, by the reference's name."""
    if len(prediction.objects) == len(reference.objects) == 1 and (prediction.single or reference.single):
        return dict(zip(reference.objects, prediction.objects.values(), strict=True))
    left = dict(prediction.objects)
    found = {name: left.pop(name) for name in reference.objects if name in left}
    for key in (str, str.casefold):
        named = {key(known): name for name, path in left.items() for known in (name, _uid(path)) if known}
        for name, target in reference.objects.items():
            source = named.get(key(name)) or named.get(key(_uid(target) or name))
            if name not in found and source in left:
                found[name] = left.pop(source)
    unmatched = [name for name in reference.objects if name not in found]
    for role, side, missing in (("prediction", prediction, unmatched), ("reference", reference, list(left))):
        if missing:
            named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise InputError(f"{side.path}: no {role} for {named}; both sides must hold the same objects")
    return found


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
    """The uid of a sample, without reading its pictures."""
    if not sample.is_sample(path):
        return None
    facts = path / "transforms.json"
    block = sample.entry(sample.read_json(facts), "svd3d", dict, where=str(facts))
    return sample.entry(block, "uid", str, where=str(facts))
