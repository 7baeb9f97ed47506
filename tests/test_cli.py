"""The command line: one line and exit 2 for every mistake, results on stdout, everything else on stderr."""

import importlib
import json
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from tyro.conf import Positional

from svd3d import cli, config
from svd3d.settings import GenerateConfig


def run(*words: object) -> int:
    """The exit code of `svd3d WORDS` in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return int(ended.value.code or 0)


@pytest.fixture
def bad(tmp_path: Path) -> dict[str, Path]:
    """Files that no stage can use."""
    files = {
        name: tmp_path / name for name in ("missing.glb", "renamed.glb", "empty.glb", "clear.png", "text.png")
    }
    Image.new("RGB", (8, 8)).save(files["renamed.glb"], format="PNG")
    files["empty.glb"].touch()
    Image.fromarray(np.zeros((32, 32, 4), np.uint8)).save(files["clear.png"])
    files["text.png"].write_text("<html>404</html>")
    (tmp_path / "typo.yaml").write_text("stepz: 3\n")
    files["typo.yaml"] = tmp_path / "typo.yaml"
    files["in_the_way"] = tmp_path / "in_the_way"
    files["in_the_way"].write_text("a file")
    picture = np.zeros((32, 32, 4), np.uint8)
    picture[8:24, 8:24] = (200, 30, 30, 255)
    files["square.png"] = tmp_path / "square.png"
    Image.fromarray(picture).save(files["square.png"])
    return files


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["render", "missing.glb", "--out", "OUT"], "no such"),
        (["render", "renamed.glb", "--out", "OUT"], "PNG"),
        (["render", "empty.glb", "--out", "OUT"], "empty"),
        (["render", "renamed.glb", "--out", "in_the_way"], "PNG"),
        (["generate", "clear.png", "--out", "OUT"], "no object found"),
        (["generate", "text.png", "--out", "OUT"], "not an image"),
        (["generate", "missing.glb", "--out", "OUT"], "no such image"),
        (["generate", "typo.yaml", "clear.png", "--out", "OUT"], "Did you mean 'steps'?"),
        (["generate", "clear.png", "--out", "OUT", "--step", "3"], "--steps"),
        (["generate", "clear.png", "--out", "OUT", "--steps", "many"], "--steps"),
        (["generate", "clear.png", "--out", "OUT", "--steps", "0"], "steps must be at least 1"),
        (["generate", "clear.png"], "--out"),
        (["generate", "square.png", "--out", "OUT", "--model", "nowhere"], "no such model folder"),
        (["demo", "--model", "nowhere", "--out", "OUT"], "no such model folder"),
        (["reconstruct", "missing.glb", "--out", "OUT"], "no such"),
        (["evaluate", "--pred", "missing.glb", "--ref", "clear.png", "--out", "OUT"], "missing.glb"),
        (["evaluate", "--pred", "a", "--ref", "b", "--out", "OUT", "--protocol", "svd"], "svd-mv"),
        (["demo", "--object", "empty.glb", "--out", "OUT"], "empty"),
        (["demo", "--object", "renamed.glb", "--out", "OUT"], "PNG"),
        (["rendr"], "Did you mean 'render'?"),
        (["download"], "needs one of: objaverse, gso"),
        (["download", "gsa", "--out", "OUT"], "needs one of: objaverse, gso; got gsa"),
        (["render", "status", "missing.glb"], "no such"),
        (["render", "cup.glb", "--out", "OUT", "--shard", "3", "2"], "shard must be I N"),
        (["render", "cup.glb", "--out", "OUT", "--min-psnr", "400"], "min_psnr must lie between"),
    ],
)
def test_a_mistake_is_one_line_and_exit_two_and_leaves_nothing(
    words: list[str], said: str, bad: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "OUT"
    code = run(*(bad.get(word, out if word == "OUT" else word) for word in words))
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1, captured.err
    assert said in captured.err
    assert captured.err.startswith("svd3d: ")
    assert not out.exists()


def test_an_output_that_cannot_be_made_is_refused_before_any_work(
    bad: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("generate", bad["square.png"], "--out", bad["in_the_way"] / "below") == 2
    captured = capsys.readouterr().err
    assert len(captured.splitlines()) == 1
    assert "is a file" in captured


def test_a_flag_overrides_the_recipe_and_the_recipe_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "quick.yaml"
    recipe.write_text("steps: 7\nmin_guidance: 2e0\n")
    cup = tmp_path / "cup.png"
    Image.new("RGB", (32, 32)).save(cup)
    assert run("generate", recipe, cup, "--out", tmp_path / "o", "--steps", "9", "--dry-run") == 0
    resolved = config.build(GenerateConfig, yaml.safe_load(capsys.readouterr().out), where="stdout")
    assert (resolved.steps, resolved.min_guidance, resolved.size) == (9, 2.0, None)
    assert not (tmp_path / "o").exists()


def test_an_interruption_says_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(settings: object, output: object) -> int:
        raise KeyboardInterrupt

    stage = cli.STAGES["doctor"]
    monkeypatch.setitem(cli.STAGES, "doctor", cli.Stage(stage.settings, stage.summary, interrupt))
    assert run("doctor") == 130
    assert capsys.readouterr().err == "interrupted; resume with the same command: svd3d doctor\n"


def test_an_internal_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_(settings: object, output: object) -> int:
        raise ZeroDivisionError

    stage = cli.STAGES["doctor"]
    monkeypatch.setitem(cli.STAGES, "doctor", cli.Stage(stage.settings, stage.summary, break_))
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


def test_doctor_finds_what_this_suite_runs_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--json") == 0
    found = {line["name"]: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert found["python"]["ok"]
    assert found["packages"]["ok"]
    assert "CPU cores" in found["device"]["finding"]


def test_every_command_has_help_that_names_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    overview = capsys.readouterr().out
    for name, stage in cli.STAGES.items():
        assert f"  {name}" in overview
        assert run(*name.split(), "--help") == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: svd3d {name} ")
        module, _, settings = stage.settings.partition(":")
        hints = typing.get_type_hints(getattr(importlib.import_module(module), settings), include_extras=True)
        for field, kind in hints.items():
            assert Positional[int].__metadata__[0] in getattr(kind, "__metadata__", ()) or (
                f"--{field.replace('_', '-')}" in shown
            ), (name, field)


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from svd3d import cli\n"
        "heavy = {'torch', 'bpy', 'trimesh', 'scipy', 'diffusers'}\n"
        "try: cli.main(['generate', '--help'])\n"
        "except SystemExit: sys.exit(bool(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("recipe", sorted((Path(__file__).parents[1] / "configs").glob("*/*.yaml")), ids=str)
def test_every_recipe_that_ships_is_valid(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "cup.png"  # that it is there is all that a dry run asks for
    source.touch()
    command = "train" if recipe.parent.name.startswith("tiny") else recipe.parent.name
    named = ["--data"] if command == "train" else []
    assert run(command, recipe, *named, source, "--out", "out", "--dry-run") == 0
    resolved = yaml.safe_load(capsys.readouterr().out)
    for key, value in yaml.safe_load(recipe.read_text()).items():
        assert resolved[key] == value
    assert f"`{recipe.parent.name}/{recipe.name}`" in (recipe.parents[1] / "README.md").read_text()
