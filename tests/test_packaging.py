"""What a user installs: the three packages with their assets, and nothing heavy on import."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("svd3d", "render", "recon")
HEAVY = ("torch", "bpy", "diffusers", "transformers", "trimesh", "scipy", "skimage", "imageio")


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory):
    """Names in a wheel, built from a copy (in place, old files linger) beside folders that must stay out."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (*PACKAGES, "tests", "scripts"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("renders", "recon_out", "tests", "scripts"):
        (source / name).mkdir(exist_ok=True)
        (source / name / "__init__.py").touch()
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run([*pip_wheel, "--wheel-dir", out, source], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = out.glob("svd3d-*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel_files):
    tops = {name.split("/")[0] for name in wheel_files}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_the_wheel_holds_every_module_and_every_asset(wheel_files):
    modules = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assets = [path for path in (ROOT / "svd3d/assets").rglob("*") if path.is_file()]
    assert {path.relative_to(ROOT).as_posix() for path in modules + assets} - wheel_files == set()


def heavy_modules_after(statement: str, cwd: Path = ROOT) -> set[str]:
    code = f"import sys; {statement}; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", [*PACKAGES, "svd3d.cli"])
def test_importing_loads_nothing_heavy(module):
    assert heavy_modules_after(f"import {module}") == set()


def test_a_heavy_import_would_be_noticed(tmp_path):
    (tmp_path / "svd3d").mkdir()
    (tmp_path / "svd3d/__init__.py").write_text("import torch\n")
    (tmp_path / "torch.py").touch()
    assert heavy_modules_after("import svd3d", cwd=tmp_path) == {"torch"}


def test_help_needs_no_extra():
    code = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({HEAVY}))  # importing any of them now fails
sys.argv = ["svd3d", "--help"]
runpy.run_module("svd3d", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "render" in done.stdout + done.stderr
