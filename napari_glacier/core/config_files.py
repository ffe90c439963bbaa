"""Configurations as files: the shipped recipes, reading with overrides, writing, and errors as sentences."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from napari_glacier.core.config import RunConfig
from napari_glacier.core.errors import ConfigError
from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.plain_yaml import read_yaml


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the trainer."""
    folder = _recipe_folder()
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def recipe_path(name: str) -> Path:
    """Path of a shipped recipe; `ConfigError` lists the known ones."""
    if name not in recipe_names():
        raise ConfigError(f"There is no recipe {name!r}. Give a YAML file or one of: {', '.join(recipe_names())}.")
    return Path(str(_recipe_folder() / f"{name}.yaml"))


def load_config(path_or_recipe: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read and validate a configuration.

    Parameters
    ----------
    path_or_recipe : str or Path
        A YAML file, or the name of a shipped recipe.
    overrides : sequence of str
        ``key.sub=value`` with the value read as YAML, applied over the file.

    Raises
    ------
    ConfigError
        One sentence for every key or value that is wrong.
    """
    path = Path(path_or_recipe)
    if path.is_dir() and (path / "run.yaml").is_file():
        path = path / "run.yaml"
    if not path.is_file():
        if path.suffix in {".yaml", ".yml"} or len(path.parts) > 1:
            raise ConfigError(f"The configuration {path} does not exist. Give a YAML file or a recipe's name.")
        path = recipe_path(str(path_or_recipe))
    try:
        tree = read_yaml(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable as YAML: {str(error).splitlines()[0]}. Correct the file.") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}; a configuration is a mapping of keys to values.")
    for override in overrides:
        _apply_override(tree, override)
    return parse_config(tree, source=str(path))


def parse_config(tree: dict[str, Any], source: str = "the configuration") -> RunConfig:
    """Validate a tree of plain values; `ConfigError` has one sentence a problem."""
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, source)) from error


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same with paths that hold wherever the run goes on from; names of models stay names."""

    def place(path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path is not None else None

    def model(name: str | None) -> str | None:
        return str(place(Path(name))) if name is not None and Path(name).expanduser().exists() else name

    data, network, distill = config.data, config.model, config.distill
    places = {key: place(getattr(data, key)) for key in ("train", "val", "train_masks", "val_masks", "splits")}
    models = {key: model(getattr(network, key)) for key in ("init_from", "encoder_weights")}
    if distill is not None:
        distill = distill.model_copy(update={"teachers": [model(name) for name in distill.teachers]})
    return config.model_copy(
        update={
            "output": place(config.output),
            "save_path": place(config.save_path),
            "data": data.model_copy(update=places),
            "model": network.model_copy(update=models),
            "distill": distill,
        }
    )


def save_config(config: RunConfig, path: Path) -> None:
    """Write a configuration as YAML, atomically; it loads back to an equal one."""
    write_text_atomically(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _recipe_folder() -> Any:
    return resources.files("training.recipes")


def _apply_override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override!r} is not of the form key.sub=value.")
    *parents, leaf = key.strip().split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {parent} is a value, not a section.")
        node = child
    try:
        node[leaf] = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not readable as YAML.") from error


def _explain(error: ValidationError, source: str) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "the configuration"
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown key {key}; {_nearest_key(problem['loc'])}")
        elif problem["type"] == "missing":
            lines.append(f"{key} is missing")
        elif problem["type"] == "value_error" and isinstance(problem["input"], dict):
            # Of parts that do not fit together; the message names them.
            lines.append(problem["msg"].removeprefix("Value error, "))
        else:
            lines.append(f"{key} is {problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}")
    return f"{source}: " + "; ".join(lines) + "."


def _nearest_key(location: tuple[int | str, ...]) -> str:
    model: Any = RunConfig
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            break
        model = field.annotation
    return f"known here are {', '.join(model.model_fields)}"
