"""The whole chain on a CPU, by its own commands: object, views, generated views, meshes, scores, page."""

import html
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trimesh

from recon.config import ReconConfig
from svd3d import cli, sample
from svd3d.model import tiny

pytestmark = [
    pytest.mark.bpy,
    pytest.mark.skipif(
        not (tiny.FOLDER / "model_index.json").exists(), reason="the tiny model is not built yet"
    ),
]


def run(*words: object) -> int:
    """The exit code of `svd3d WORDS` in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return int(ended.value.code or 0)


@dataclass(frozen=True)
class Coarse(ReconConfig):
    """Other defaults, for meshes in a second each."""

    resolution: int = 64
    faces: int = 4000
    texture_size: int = 256


@pytest.fixture(scope="module", autouse=True)
def _coarse_meshes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in ("recon.run", "recon.config"):  # in this order: the former imports from the latter
            patch.setattr(f"{module}.ReconConfig", Coarse)
        yield


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo at the smallest size that shows something."""
    out = tmp_path_factory.mktemp("flow") / "demo"
    assert run("demo", "--out", out, "--size", "48", "--samples", "4") == 0
    return out


def test_the_demo_makes_views_meshes_scores_and_a_page(demo: Path) -> None:
    rendered, generated = sample.read(demo / "views/toy_car"), sample.read(demo / "generated/toy_car")
    assert rendered.origin == "rendered"
    assert generated.origin == "generated"
    assert len(rendered) == len(generated) == 21
    assert generated.orbit == rendered.orbit
    for kind in ("rendered", "generated"):
        mesh = trimesh.load_mesh(
            demo / f"mesh_from_{kind}/mesh.glb", process=True, merge_tex=True, merge_norm=True
        )
        assert mesh.is_watertight
        assert 0.01 < abs(mesh.volume) < 0.5


def test_generated_views_beat_the_input_copied(demo: Path) -> None:
    (report,) = demo.glob("scores/*_svd-mv/*/report.json")
    methods = json.loads(report.read_text())["methods"]
    assert methods["generated"]["psnr"]["mean"] > methods["input-copied"]["psnr"]["mean"] + 2
    assert methods["generated"]["psnr"]["mean"] > methods["input-copied-mirrored"]["psnr"]["mean"] + 2


def test_the_mesh_of_the_rendered_views_is_the_object(demo: Path) -> None:
    reports = [
        json.loads(path.read_text()) for path in sorted(demo.glob("scores/*_mesh-world/*/report.json"))
    ]
    chamfer = {
        name: each["chamfer"]["mean"] for report in reports for name, each in report["methods"].items()
    }
    assert chamfer["from rendered views"] < 0.03
    assert chamfer["from generated views"] < 0.08


def test_the_page_needs_no_network_and_names_files_that_exist(demo: Path) -> None:
    page = (demo / "index.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) >= 9
    for link in links:
        assert (demo / link).is_file(), link
    for viewer in demo.glob("media/mesh_*.html"):
        assert not re.findall(r'(?:src|href)="https?://', viewer.read_text())
        assert viewer.read_text().count("renderer.outputEncoding=THREE.sRGBEncoding;") == 1


def test_every_command_on_the_page_parses(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = html.unescape((demo / "index.html").read_text())
    commands = re.findall(r"<td><code>(svd3d [^<]+)</code>", page)
    assert len(commands) >= 12
    for command in commands:
        assert run(*shlex.split(command)[1:], "--dry-run") == 0
    assert "svd3d: " not in capsys.readouterr().err


def test_running_the_demo_again_changes_no_result(demo: Path) -> None:
    made = {path: path.stat().st_mtime_ns for path in demo.rglob("*/transforms.json")}
    made |= {path: path.stat().st_mtime_ns for path in demo.rglob("mesh.glb")}
    assert made
    assert run("demo", "--out", demo, "--size", "48", "--samples", "4") == 0
    assert {path: path.stat().st_mtime_ns for path in made} == made


def test_other_settings_in_the_same_folder_are_refused(
    demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("demo", "--out", demo, "--size", "64", "--samples", "4") == 2
    assert "size was 48, now 64" in capsys.readouterr().err.splitlines()[-1]


def test_a_picture_becomes_a_mesh(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = demo / "views/toy_car/images/000.png"
    assert run("mesh", picture, "--out", tmp_path / "m", "--elevation-deg", "12", "--steps", "5") == 0
    (path,) = capsys.readouterr().out.splitlines()
    assert trimesh.load_mesh(Path(path)).volume != 0
