"""What a benchmark is about, checked before anything is written: objects, methods, protocols."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from svd3d import runs, sample
from svd3d.config import did_you_mean
from svd3d.errors import ConfigError, InputError
from svd3d.settings import BenchmarkConfig

if TYPE_CHECKING:
    from render.config import RenderConfig
    from render.objects import Source3D
    from svd3d.metrics.protocols import Protocol

SPLITS = Path(__file__).resolve().parent / "assets" / "splits"
"""Lists of objects, one name a line; README.md there tells where each is from."""
DISK = "disk"
"""The split that is whatever the folder holds."""
TRUE_VIEWS = "true-views"
"""The method whose meshes are made of the reference views: the best that this reconstruction can reach."""
ELEVATION_DEG = (-5.0, 30.0)
"""Of reference orbits where the protocol names none: the range of the SVD paper."""
NAMED = 5
"""Objects that a message names."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
_HINTS = {
    "syncdreamer-30": "; these are SyncDreamer's own short names, of which only chicken is known in full, "
    "CHICKEN_NESTING: name the folders so, or pass a list of your own",
}


@dataclass(frozen=True)
class Split:
    """Which objects count."""

    name: str
    objects: "tuple[Source3D, ...]"

    @property
    def uids(self) -> tuple[str, ...]:
        """Names of the objects' folders."""
        return tuple(each.uid for each in self.objects)

    @property
    def digest(self) -> str:
        """SHA-256 of the sorted uids, one a line."""
        return hashlib.sha256("".join(f"{uid}\n" for uid in sorted(self.uids)).encode()).hexdigest()


@dataclass(frozen=True)
class Method:
    """One row of the table: a model that is run here, or a peer whose views exist."""

    name: str
    model: str | None = None
    """Hub id or folder; None for a peer."""
    folder: Path | None = None
    """Of a peer: where its views are."""
    views: Mapping[str, Path] = field(default_factory=dict)
    """Of a peer: the folder of each object, by uid."""


@dataclass(frozen=True)
class Plan:
    """A benchmark that can begin."""

    config: BenchmarkConfig
    split: Split
    methods: tuple[Method, ...]
    views: "Protocol"
    meshes: "Protocol | None"
    """None if only views are compared."""
    reference: "RenderConfig"

    def text(self) -> str:
        """What would be done, for --dry-run."""
        orbit, (low, high) = self.reference, self.reference.elevation_deg
        done = sum(sample.is_sample(orbit.out / uid) for uid in self.split.uids)
        methods = [f"{each.name} ({each.model or 'views given'})" for each in self.methods]
        protocols = [each.name for each in (self.views, self.meshes) if each]
        return (
            f"{len(self.split.uids)} objects (split {self.split.name}, SHA-256 {self.split.digest[:16]}), "
            f"reference views of {done} are there: {orbit.views} on {orbit.orbit} orbits, {orbit.size} px, "
            f"elevation {low:g} to {high:g} degrees; methods: {', '.join(methods) or 'baselines only'}; "
            f"protocols: {', '.join(protocols)}"
        )


def plan(config: BenchmarkConfig) -> Plan:
    """Find the objects, the methods and the protocols.

    Raises `ConfigError` for a wrong setting, `CheckpointError` for a model that is none, and `InputError` for
    objects or peers' views that are not there: how many, and the first names.
    """
    from render.config import RenderConfig
    from svd3d.metrics import protocols

    views = protocols.get(config.protocol)
    meshes = None if config.views_only else protocols.get(config.mesh_protocol)
    for protocol, kind in ((views, "views"), (meshes, "meshes")):
        if protocol and protocol.kind != kind:
            raise ConfigError(f"protocol {protocol.name} compares {protocol.kind}; choose one for {kind}")
    split = find_split(config.split, config.objects)
    methods = tuple(_methods(config, split))
    orbit = config.orbit or ("dynamic" if views.orbit == "dynamic" else "static")
    if orbit != "static" and (models := [each.name for each in methods if each.model]):
        raise ConfigError(
            f"model {', '.join(models)}: svd3d generate makes static orbits, these are {orbit} ones; "
            "enter other methods with --pred"
        )
    reference = RenderConfig(
        source=config.out / "objects.jsonl",
        out=config.out / "reference",
        orbit=orbit,
        views=views.num_views or RenderConfig.views,
        size=config.size or views.size or RenderConfig.size,
        elevation_deg=views.elevation_deg or ELEVATION_DEG,
        samples=config.samples,
        seed=config.seed,
        blender=config.blender,
        workers=config.workers,
    )
    return Plan(config, split, methods, views, meshes, reference)


def find_split(name: str, folder: Path) -> Split:
    """The objects of a split in a folder, as `svd3d download gso` leaves it or any other with 3-D files.

    `name` is `disk`, a list that ships, or a text file with one object a line. Objects meet by folder or file
    name, capitals or not. Raises `InputError` that counts and names the objects that are not there.
    """
    from render import objects

    listed = folder / "objects.jsonl"
    found = objects.find(listed if listed.is_file() else folder)
    if name == DISK:
        return Split(name, tuple(found))
    wanted = _names(name)
    by_key = {objects.uid_of(Path(each.uid)): each for each in found}
    keys = {each: objects.uid_of(Path(each)) for each in wanted}
    if missing := [each for each, key in keys.items() if key not in by_key]:
        file = path if (path := SPLITS / f"{name}.txt").is_file() else name
        advice = _HINTS.get(name, f"; fetch them with: svd3d download gso --uids {file} --out DIR")
        raise InputError(
            f"{folder}: {len(missing)} of the {len(wanted)} objects of split {name} are not there: "
            f"{some(missing)}{advice}"
        )
    return Split(name, tuple(by_key[key] for key in keys.values()))


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are.

    >>> some(["a", "b", "c", "d", "e", "f"])
    'a, b, c, d, e and 1 more'
    """
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _names(split: str) -> list[str]:
    """The names of a list that ships, or of a file."""
    known = sorted(path.stem for path in SPLITS.glob("*.txt"))
    path = SPLITS / f"{split}.txt" if split in known else Path(split)
    if not path.is_file():
        raise ConfigError(
            f"split: {split!r} is neither a file nor a list that ships. {did_you_mean(split, [DISK, *known])}"
        )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); pass a text file with one name a line"
        ) from error
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise InputError(f"{path}: names no object; write one a line")
    return names


def _methods(config: BenchmarkConfig, split: Split) -> Iterator[Method]:
    from svd3d.metrics import scoring
    from svd3d.model import local_folder

    taken = {TRUE_VIEWS}
    entries = [(entry, True) for entry in config.model] + [(entry, False) for entry in config.pred]
    for entry, is_model in entries:
        name, equals, source = entry.partition("=")
        if not equals or Path(entry).exists():
            name, source = Path(entry).name, entry
        if not NAME.fullmatch(name):
            raise ConfigError(f"method {name!r}: use up to 64 letters, digits, _ . + -, as in NAME={source}")
        if name in taken:
            raise ConfigError(f"method {name}: is there twice or is a name of ours; write NAME={source}")
        taken.add(name)
        scoring.check_methods([name])
        if is_model:
            local_folder(source)
            yield Method(name, model=source)
        else:
            folder = Path(source).expanduser()
            yield Method(name, folder=folder, views=_peer(name, folder, split))


def _peer(name: str, folder: Path, split: Split) -> dict[str, Path]:
    """A peer's views of every object of the split, by uid."""
    from render import objects
    from svd3d.metrics import inputs

    runs.input_path(folder, what=f"folder of the views of {name}")
    found = inputs.find_views(folder, what="prediction").objects
    by_key = {objects.uid_of(Path(each)): path for each, path in found.items()}
    views = {uid: by_key.get(objects.uid_of(Path(uid))) for uid in split.uids}
    if missing := [uid for uid, path in views.items() if path is None]:
        raise InputError(
            f"{folder}: {name} has no views of {len(missing)} of {len(views)} objects: {some(missing)}; a "
            "method is scored on all objects of a split"
        )
    return {uid: path for uid, path in views.items() if path is not None}
