"""Who may import whom: the floors of the house, read from the source, and a proof that each rule can fail."""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("svd3d", "render", "recon")
FLOORS = ("ground", "workers", "stages", "roof")
SVD3D = {
    "roof": (
        "__main__",
        "cli",
        "workflow",
        "app",
        "doctor",
        "demo_page",
        "launch",
        "benchmark",
        "benchmark_plan",
        "benchmark_page",
    ),
    "stages": ("cache", "convert", "train", "proof", "generate", "evaluate", "curate", "video"),
    "workers": ("data", "model", "metrics", "tracking", "curation", "cutout"),
    "ground": (
        "__init__",
        "errors",
        "console",
        "config",
        "runs",
        "hub",
        "cameras",
        "images",
        "sample",
        "settings",
    ),
}
TORCH = {"torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "torchmetrics", "lpips"}
BLENDER = {"bpy", "bmesh", "mathutils"}
BLENDER_MAY = {"numpy", *BLENDER, *sys.stdlib_module_names}


@dataclass(frozen=True)
class Import:
    """One import statement: the module it names, where, and when it runs."""

    module: str
    line: int
    when: str
    """`at once` when the file is imported, `later` inside a function, `never` under TYPE_CHECKING."""


def floor(module: str) -> str:
    """The floor of one of our modules; a KeyError for a module that nobody has given a floor."""
    package, _, rest = module.partition(".")
    room = rest.split(".")[0] or "__init__"
    if package == "svd3d":
        return next((name for name, rooms in SVD3D.items() if room in rooms), "") or _no_floor(module)
    stages = dict.fromkeys(("run", "download", "select"), "stages")
    return {"config": "ground", "__init__": "ground", **stages}.get(room, "workers")


def _no_floor(module: str) -> str:
    raise KeyError(f"{module} has no floor yet: give it one in design.md and in tests/test_floors.py")


def room(module: str) -> str:
    """What may import each other: a subpackage of svd3d, or the ground floor or the roof of a package."""
    package, _, rest = module.partition(".")
    if package != "svd3d" or floor(module) in ("ground", "roof"):
        return f"{package} {floor(module)}"
    return f"svd3d.{rest.split('.')[0]}"


def imports(module: str, source: str, known: frozenset[str]) -> list[Import]:
    """All imports of a module, also inside functions and by name through `require` or importlib."""
    found = []
    is_package = f"{module}.__init__" in known
    for node, when in _walk(ast.parse(source), when="at once"):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, *([base] if base else [])])
            names = [f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("require", "import_module", "__import__"):
                names = [str(node.args[0].value)]
        found += [Import(name, getattr(node, "lineno", 0), when) for name in names]
    return found


def _walk(node: ast.AST, *, when: str) -> Iterator[tuple[ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        yield child, when
        inner = when
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            inner = "never"
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) and when == "at once":
            inner = "later"
        yield from _walk(child, when=inner)


def violations(sources: Mapping[str, str]) -> list[str]:
    """Every broken rule in `sources` (module name to text), one sentence each."""
    known = frozenset(sources) | {f"{name}.__init__" for name in sources if _is_package(name, sources)}
    broken, edges = [], {name: set() for name in sources}
    for module, source in sources.items():
        for item in imports(module, source, known):
            where = f"{module}:{item.line}"
            top = item.module.split(".")[0]
            broken += [f"{where}: {reason}" for reason in _foreign(module, top)]
            if top in PACKAGES:
                broken += [f"{where}: {reason}" for reason in _own(module, item)]
                if item.when != "never":
                    edges[module].add(item.module)
    return broken + [f"cycle: {' -> '.join(cycle)}" for cycle in cycles(edges)]


def _is_package(name: str, sources: Mapping[str, str]) -> bool:
    return any(other.startswith(f"{name}.") for other in sources)


def _foreign(module: str, top: str) -> Iterator[str]:
    in_blender = module.startswith("render.blender")
    if top in BLENDER and not in_blender:
        yield f"imports {top} outside render/blender/"
    if top in TORCH and (floor(module) == "ground" or module.split(".")[0] == "render"):
        yield f"imports {top} on the ground floor or in render"
    if in_blender and top not in BLENDER_MAY and top not in PACKAGES:
        yield f"imports {top}: render/blender/ runs in any Blender, which has the standard library and numpy"


def _own(module: str, item: Import) -> Iterator[str]:
    mine, theirs = floor(module), floor(item.module)
    package, other = module.split(".")[0], item.module.split(".")[0]
    if module.startswith("render.blender") and not item.module.startswith("render.blender"):
        yield f"imports {item.module}: render/blender/ knows only itself"
    elif {package, other} == {"render", "recon"}:
        yield f"imports {item.module}: render and recon do not know each other"
    elif package != "svd3d" and other == "svd3d" and theirs != "ground":
        yield f"imports {item.module}: {package} sees only the ground floor of svd3d"
    elif FLOORS.index(theirs) > FLOORS.index(mine):
        yield f"imports {item.module}: up from {mine} to {theirs}"
    elif theirs == mine and room(module) != room(item.module) and not (mine == "ground" and other == "svd3d"):
        yield f"imports {item.module}: another room of the same floor ({mine})"
    elif mine == "roof" and theirs in ("workers", "stages") and item.when == "at once":
        yield f"imports {item.module} at the top: the roof imports it inside functions"


def cycles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """The circular imports among modules, each as the path that closes."""
    found, done = [], set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for target in sorted(edges.get(module, ())):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(edges):
        visit(module, [])
    return found


def our_sources() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text("utf-8")
    return found


def test_imports_go_down_only():
    assert violations(our_sources()) == []


def test_every_module_has_a_floor():
    assert {floor(module) for module in our_sources()} <= set(FLOORS)
    with pytest.raises(KeyError, match="has no floor yet"):
        floor("svd3d.misc")


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("svd3d.runs", "import torch", "imports torch on the ground floor"),
        ("svd3d.runs", "def f():\n    from torch import nn", "imports torch on the ground floor"),
        ("svd3d.runs", "require('diffusers', extra='model')", "imports diffusers on the ground floor"),
        ("svd3d.runs", "if TYPE_CHECKING:\n    import torch", "imports torch on the ground floor"),
        ("recon.config", "import torch.nn", "imports torch on the ground floor"),
        ("render.plan", "import torch", "imports torch on the ground floor or in render"),
        ("render.pool", "import bpy", "imports bpy outside render/blender/"),
        ("svd3d.model.unet", "importlib.import_module('bpy')", "imports bpy outside render/blender/"),
        ("render.blender.scene", "import PIL", "runs in any Blender"),
        ("render.blender.scene", "from svd3d import cameras", "knows only itself"),
        ("render.blender.scene", "import render.config", "knows only itself"),
        ("render.pool", "import recon.config", "do not know each other"),
        ("recon.volume", "def f():\n    import render.plan", "do not know each other"),
        ("recon.volume", "from svd3d.metrics import images", "sees only the ground floor"),
        ("render.run", "import svd3d.workflow", "sees only the ground floor"),
        ("svd3d.images", "from svd3d.metrics import images", "up from ground to workers"),
        ("svd3d.metrics.images", "import svd3d.evaluate", "up from workers to stages"),
        ("svd3d.train", "from svd3d import workflow", "up from stages to roof"),
        ("render.plan", "from render.run import run", "up from workers to stages"),
        ("svd3d.train", "from svd3d import generate", "another room of the same floor (stages)"),
        ("svd3d.metrics.images", "from svd3d.model import vae", "another room of the same floor (workers)"),
        ("svd3d.metrics.images", "from recon import surface", "another room of the same floor (workers)"),
        ("svd3d.settings", "import render.config", "another room of the same floor (ground)"),
        ("svd3d.cli", "from svd3d import train", "the roof imports it inside functions"),
        ("svd3d.workflow", "import render.run", "the roof imports it inside functions"),
        ("svd3d.model.unet", "from ..evaluate import run", "up from workers to stages"),
    ],
)
def test_a_broken_floor_is_noticed(module, source, reason):
    house = dict.fromkeys(
        [*our_sources(), "svd3d.workflow", "svd3d.evaluate", "svd3d.train", "svd3d.generate"], ""
    )
    (found,) = violations({**house, "svd3d.model.vae": "", "recon.surface": "", module: source})
    assert reason in found
    assert found.startswith(f"{module}:")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("svd3d.cli", "from svd3d import console\ndef main():\n    from svd3d import train, workflow"),
        ("svd3d.workflow", "def f():\n    import render.run, recon.run"),
        ("svd3d.workflow", "if TYPE_CHECKING:\n    from svd3d.metrics.report import MetricReport"),
        ("svd3d.train", "import torch\nfrom svd3d.model import unet\nfrom svd3d import runs"),
        ("render.run", "from render import pool\nfrom svd3d import sample"),
        ("render.config", "from svd3d.config import check"),
        ("recon.volume", "import torch\nfrom recon import hull"),
        ("render.blender.scene", "import bpy, numpy, json\nfrom render.blender import passes"),
        ("svd3d.model.unet", "from . import edm\nfrom ..errors import CheckpointError"),
    ],
)
def test_what_the_design_allows_is_allowed(module, source):
    assert violations({"svd3d.model": "", "svd3d.model.edm": "", "svd3d.errors": "", module: source}) == []


def test_a_cycle_is_noticed():
    found = violations({"recon.a": "from recon import b", "recon.b": "def f():\n    import recon.a"})
    assert found == ["cycle: recon.a -> recon.b -> recon.a"]
