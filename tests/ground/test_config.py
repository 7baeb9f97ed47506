"""Recipes: strict, with the file, the key and the value in every refusal; and the way back to YAML."""

import dataclasses
import doctest
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from svd3d import config
from svd3d.errors import ConfigError
from svd3d.settings import EvaluateConfig, GenerateConfig


@dataclass(frozen=True)
class Light:
    kind: Literal["sky", "studio"] = "sky"
    strength: float = 1.0

    def __post_init__(self) -> None:
        config.check(self.strength > 0, f"strength must be above 0; got {self.strength}")


@dataclass(frozen=True)
class Recipe:
    views: int = 21
    rate: float = 1e-4
    name: str = "run"
    half: bool = False
    out: Path = Path("out")
    seed: int | None = None
    size: tuple[int, int] = (64, 64)
    elevations: tuple[float, ...] = ()
    light: Light = Light()
    levels: tuple[Literal["low", "high"], ...] = ("low",)
    device: int | str = "auto"
    scale: Annotated[float, "a note for the command line"] = 1.0


def build(**content) -> Recipe:
    return config.build(Recipe, content, where="r.yaml")


@pytest.mark.parametrize(
    ("content", "field", "value"),
    [
        ({"views": 3}, "views", 3),
        ({"views": "3"}, "views", 3),
        ({"views": 3.0}, "views", 3),
        ({"views": "1e3"}, "views", 1000),
        ({"seed": "12345678901234567"}, "seed", 12345678901234567),
        ({"seed": None}, "seed", None),
        ({"rate": "1e-5"}, "rate", 1e-5),
        ({"rate": 1}, "rate", 1.0),
        ({"size": [32, "48"]}, "size", (32, 48)),
        ({"elevations": [0, "1e1", -5.5]}, "elevations", (0.0, 10.0, -5.5)),
        ({"out": "views/a"}, "out", Path("views/a")),
        ({"out": "~/views"}, "out", Path.home() / "views"),
        ({"light": {"kind": "studio"}}, "light", Light("studio")),
        ({"light": Light("studio")}, "light", Light("studio")),
        ({"levels": ["high", "low"]}, "levels", ("high", "low")),
        ({"device": 1}, "device", 1),
        ({"device": "cpu"}, "device", "cpu"),
        ({"half": True}, "half", True),
        ({"scale": "2"}, "scale", 2.0),
        ({}, "views", 21),
    ],
)
def test_values_take_the_type_of_their_field(content, field, value):
    found = getattr(build(**content), field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"veiws": 3}, "r.yaml: unknown key 'veiws' in Recipe. Did you mean 'views'?"),
        (
            {"zzz": 3},
            "r.yaml: unknown key 'zzz' in Recipe. Known: views, rate, name, half, out, seed, size, ",
        ),
        ({3: 3}, "r.yaml: unknown key 3 in Recipe."),
        ({"views": "many"}, "r.yaml: views must be a whole number; got 'many'"),
        ({"views": 2.5}, "r.yaml: views must be a whole number; got 2.5"),
        ({"views": True}, "r.yaml: views must be a whole number; got True"),
        ({"views": None}, "r.yaml: views must be a whole number; got None"),
        ({"views": float("inf")}, "r.yaml: views must be a whole number; got inf"),
        ({"rate": "1e"}, "r.yaml: rate must be a number; got '1e'"),
        ({"rate": False}, "r.yaml: rate must be a number; got False"),
        ({"rate": float("nan")}, "r.yaml: rate must be a number; got nan"),
        ({"rate": "inf"}, "r.yaml: rate must be a number; got 'inf'"),
        ({"rate": 10**400}, "r.yaml: rate must be a number; got 1000"),
        ({"name": 3}, "r.yaml: name must be text; got 3"),
        ({"half": "yes"}, "r.yaml: half must be true or false; got 'yes'"),
        ({"half": 1}, "r.yaml: half must be true or false; got 1"),
        ({"out": 3}, "r.yaml: out must be a path; got 3"),
        ({"size": 3}, "r.yaml: size must be a list; got 3"),
        ({"size": [1, 2, 3]}, "r.yaml: size must be a list of 2; got [1, 2, 3]"),
        ({"size": [1, "x"]}, "r.yaml: size[1] must be a whole number; got 'x'"),
        ({"size": "12"}, "r.yaml: size must be a list; got '12'"),
        ({"elevations": [0, "up"]}, "r.yaml: elevations[1] must be a number; got 'up'"),
        ({"levels": ["middle"]}, "r.yaml: levels[0] must be one of low, high; got 'middle'"),
        ({"light": {"knd": "sky"}}, "r.yaml: light: unknown key 'knd' in Light. Did you mean 'kind'?"),
        ({"light": {"kind": "moon"}}, "r.yaml: light: kind must be one of sky, studio; got 'moon'"),
        ({"light": {"strength": 0}}, "r.yaml: light: strength must be above 0; got 0.0"),
        ({"light": "sky"}, "r.yaml: light: expected keys and values for Light, got 'sky'"),
        ({"seed": "x"}, "r.yaml: seed must be a whole number; got 'x'"),
        ({"device": [1]}, "r.yaml: device must be text; got [1]"),
    ],
)
def test_a_wrong_recipe_is_refused_with_file_key_and_value(content, message):
    with pytest.raises(ConfigError) as caught:
        config.build(Recipe, content, where="r.yaml")
    assert str(caught.value).startswith(message)


def test_a_value_out_of_range_is_refused_with_the_file():
    content = {"image": "a.png", "out": "o", "steps": 0}
    with pytest.raises(ConfigError, match=r"^r\.yaml: steps must be at least 1; got 0$"):
        config.build(GenerateConfig, content, where="r.yaml")


def test_missing_keys_are_all_named():
    with pytest.raises(ConfigError, match=r"r\.yaml: GenerateConfig needs image, out; add the missing keys"):
        config.build(GenerateConfig, {}, where="r.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("views: [1", "not valid YAML (line 1: expected ',' or ']', but got '<stream end>'); fix the file"),
        ("- 1\n- 2", "expected keys and values for Recipe, got [1, 2]"),
        ("just text", "expected keys and values for Recipe, got 'just text'"),
        ("views: 1\nviews: 2", "not valid YAML (line 1: key 'views' is set twice); fix the file"),
        (
            "light:\n  kind: sky\n  kind: sky",
            "not valid YAML (line 2: key 'kind' is set twice); fix the file",
        ),
        ("views: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("views: \x00", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_with_its_name(text, message, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        config.read_recipe(Recipe, path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_a_recipe_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"x\.yaml: no such recipe; the recipes that ship are in configs/"):
        config.read_recipe(Recipe, tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.read_recipe(Recipe, tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match=r"b\.yaml: cannot be read"):
        config.read_recipe(Recipe, tmp_path / "b.yaml")


def test_an_empty_recipe_changes_nothing(tmp_path):
    (tmp_path / "r.yaml").write_text("# nothing yet\n")
    assert config.read_recipe(Recipe, tmp_path / "r.yaml") == {}


def test_a_recipe_gives_only_what_it_sets(tmp_path):
    (tmp_path / "r.yaml").write_text("views: 4\nrate: 1e-5\nlight: {kind: studio}\n")
    found = config.read_recipe(Recipe, tmp_path / "r.yaml")
    assert found == {"views": 4, "rate": 1e-5, "light": Light("studio")}


finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12)
recipes = st.builds(
    Recipe,
    views=st.integers(),
    rate=finite,
    name=text,
    half=st.booleans(),
    out=text.filter(lambda word: not word.startswith("~")).map(Path),
    seed=st.none() | st.integers(),
    size=st.tuples(st.integers(), st.integers()),
    elevations=st.lists(finite, max_size=4).map(tuple),
    light=st.builds(Light, st.sampled_from(["sky", "studio"]), st.floats(1e-300, 1e300)),
    levels=st.lists(st.sampled_from(["low", "high"])).map(tuple),
)


@given(recipes)
def test_a_configuration_survives_the_way_through_yaml(made):
    content = yaml.safe_load(config.to_yaml(made))
    assert config.build(Recipe, content, where="x") == made
    assert config.to_yaml(config.build(Recipe, content, where="x")) == config.to_yaml(made)


def test_the_settings_survive_the_way_through_yaml():
    made = EvaluateConfig(("a",), Path("b"), Path("c"), metrics=("psnr", "ssim"))
    assert config.build(EvaluateConfig, yaml.safe_load(config.to_yaml(made)), where="x") == made


def test_computed_fields_stay_out_of_the_recipe():
    @dataclass(frozen=True)
    class Derived:
        views: int = 2
        step_deg: float = dataclasses.field(init=False, default=180.0)

    assert config.plain(Derived()) == {"views": 2}


@pytest.mark.parametrize("module", ["config", "console"])
def test_examples_in_docstrings_are_true(module):
    found = doctest.testmod(importlib.import_module(f"svd3d.{module}"))
    assert found.attempted > 0
    assert found.failed == 0
