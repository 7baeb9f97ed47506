"""Recipes: strict YAML that overrides the defaults of frozen dataclasses.

A dataclass is the schema, the command line and the help text at once. A recipe may set any subset of
its fields; an unknown key, a wrong type or a value out of range is refused with the file, the key and
the value. PyYAML reads `1e-5` as a string, so numeric strings are accepted for float fields.
"""

import contextlib
import dataclasses
import difflib
import math
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from svd3d.errors import ConfigError

T = TypeVar("T")


def read_recipe(cls: type, path: Path) -> dict[str, Any]:
    """Read a YAML recipe for dataclass `cls`; returns checked constructor arguments, not an instance."""
    try:
        content = _StrictLoader(path.read_text(encoding="utf-8")).get_single_data()
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such recipe; the recipes that ship are in configs/") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); pass a YAML file") from error
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        reason = f"line {mark.line + 1}: {problem}" if mark and problem else " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML ({reason}); fix the file") from error
    return arguments(cls, content if content is not None else {}, where=str(path))


class _StrictLoader(yaml.SafeLoader):
    """Plain YAML in which a key may be set only once (PyYAML would keep the last one silently)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.MarkedYAMLError(problem=f"key {key!r} is set twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep=deep)


def arguments(cls: type, content: Any, *, where: str) -> dict[str, Any]:
    """Check a mapping against dataclass `cls` and convert its values; nested dataclasses are built."""
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: expected keys and values for {cls.__name__}, got {content!r}")
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    checked = {}
    for key, value in content.items():
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise ConfigError(f"{where}: unknown key {key!r} in {cls.__name__}. {hint}")
        checked[key] = _convert(hints[key], value, where=f"{where}: {key}")
    return checked


def build(cls: type[T], content: Any, *, where: str) -> T:
    """A `cls` from a plain mapping; missing keys take their defaults.

    >>> from svd3d.settings import GenerateConfig
    >>> build(GenerateConfig, {"image": "cup.png", "out": "o", "steps": "25"}, where="recipe.yaml").steps
    25
    """
    values = arguments(cls, content, where=where)
    required = [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.init and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in values]
    if missing:
        raise ConfigError(f"{where}: {cls.__name__} needs {', '.join(missing)}; add the missing keys")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def plain(config: Any) -> dict[str, Any]:
    """The configuration as plain YAML types, every default resolved."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config) if f.init}


def to_yaml(config: Any) -> str:
    """The resolved configuration as a recipe; `build` of it gives the same configuration."""
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)


def did_you_mean(word: str, known: list[str]) -> str:
    """The end of an error message: the nearest known word, or all of them.

    >>> did_you_mean("veiws", ["views", "size"])
    "Did you mean 'views'?"
    """
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."


def check(condition: bool, message: str) -> None:
    """Raise `ConfigError(message)` unless the condition holds; for `__post_init__` of configurations."""
    if not condition:
        raise ConfigError(message)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return plain(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _convert(hint: Any, value: Any, *, where: str) -> Any:
    """`value` as type `hint`, or a `ConfigError` that names the key, the value and the type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _convert(parts[0], value, where=where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        options = [part for part in parts if part is not type(None)]
        for option in options:
            try:
                return _convert(option, value, where=where)
            except ConfigError:
                if option is options[-1]:
                    raise
    if origin is Literal:
        if value not in parts:
            raise ConfigError(f"{where} must be one of {', '.join(map(str, parts))}; got {value!r}")
        return value
    if origin is tuple:
        return _convert_tuple(parts, value, where=where)
    if dataclasses.is_dataclass(hint):
        kind = typing.cast(type, hint)
        return value if isinstance(value, kind) else build(kind, value, where=where)
    if hint is Path and isinstance(value, str):
        return Path(value).expanduser()
    if hint in (int, float):
        return _number(hint, value, where=where)
    if hint is Any or (isinstance(hint, type) and isinstance(value, hint)):
        return value
    raise ConfigError(f"{where} must be {_name(hint)}; got {value!r}")


def _convert_tuple(parts: tuple[Any, ...], value: Any, *, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} must be a list; got {value!r}")
    if len(parts) == 2 and parts[1] is Ellipsis:
        return tuple(_convert(parts[0], item, where=f"{where}[{i}]") for i, item in enumerate(value))
    if len(parts) != len(value):
        raise ConfigError(f"{where} must be a list of {len(parts)}; got {value!r}")
    pairs = enumerate(zip(parts, value, strict=True))
    return tuple(_convert(part, item, where=f"{where}[{i}]") for i, (part, item) in pairs)


def _number(hint: type, value: Any, *, where: str) -> int | float:
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            if hint is int and not isinstance(value, float):
                return int(value)  # exact, where the way through a float would round a large seed
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)
            if math.isfinite(number) and (hint is float or number.is_integer()):
                return hint(number)
    raise ConfigError(f"{where} must be {_name(hint)}; got {value!r}")


def _name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
