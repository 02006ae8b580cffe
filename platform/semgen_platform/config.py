"""Configuration: frozen pydantic models filled from a packaged recipe, a file and `--set`, each value with its origin.

Order of precedence: defaults of the model < recipe YAML < file < `--set key=value` (DESIGN.md section 5).
An unknown key is refused with the nearest right one.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from semgen_platform.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


ConfigT = TypeVar("ConfigT", bound=Config)


def recipe_names(stage: str) -> list[str]:
    """Names of the packaged recipes of a stage, e.g. "pretrain": files recipes/<stage>/<name>.yaml."""
    folder = resources.files("semgen_platform") / "recipes" / stage
    return (
        sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))
        if folder.is_dir()
        else []
    )


def load_config(
    model: type[ConfigT], *, stage: str = "", recipe: str | None = None, settings: Sequence[str] = ()
) -> tuple[ConfigT, dict[str, str]]:
    """(configuration, origin of each dotted key) from a recipe name or file and `key=value` settings.

    `recipe` is the name of a packaged recipe of `stage`, or the path of a YAML file. Raises ConfigError.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if recipe is not None:
        _merge(values, _read_recipe(stage, recipe), origins, recipe)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {setting} is not key=value; write e.g. --set seed=3")
        nested: Any = _parse_yaml(text, f"--set {setting}")
        for part in reversed(key.split(".")):
            nested = {part: nested}
        _merge(values, nested, origins, "--set")
    try:
        config = model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_first_fault(model, error)) from None
    return config, {key: origins.get(key, "default") for key, _ in flatten(config.model_dump(mode="json"))}


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of a nested mapping."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _read_recipe(stage: str, recipe: str) -> dict[str, Any]:
    if recipe in recipe_names(stage):
        text = (resources.files("semgen_platform") / "recipes" / stage / f"{recipe}.yaml").read_text(encoding="utf-8")
    elif Path(recipe).is_file():
        text = Path(recipe).read_text(encoding="utf-8")
    else:
        known = recipe_names(stage)
        raise ConfigError(f"no recipe {recipe} for {stage}; there are {', '.join(known)}{_nearest(recipe, known)}")
    values = _parse_yaml(text, f"recipe {recipe}") or {}
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {recipe} is not a mapping of keys to values")
    return values


def _parse_yaml(text: str, place: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{place} is no YAML: {str(error).splitlines()[0]}") from None


def _merge(
    into: dict[str, Any], values: Mapping[str, Any], origins: dict[str, str], origin: str, prefix: str = ""
) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value, origins, origin, f"{prefix}{key}.")
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value
            leaves = flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
            origins.update((leaf, origin) for leaf, _ in leaves)


def _nearest(name: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {match[0]}?" if match else ""


def _first_fault(model: type[BaseModel], error: ValidationError) -> str:
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        keys = [k for k, _ in flatten(_fields(model))]
        return f"unknown configuration key {key}{_nearest(key, keys)}"
    message = fault["msg"].removeprefix("Value error, ")
    return f"configuration key {key} is {fault['input']!r}: {message}" if key else message


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        inner = info.annotation
        out[name] = _fields(inner) if isinstance(inner, type) and issubclass(inner, BaseModel) else None
    return out
