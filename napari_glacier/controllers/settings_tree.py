"""The settings of a run that the form does not ask for: a recipe's values, and what a person changed. No Qt, no torch.

The entries are read off `RunConfig` itself: a new field of the configuration appears by itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from napari_glacier.controllers.training_plans import FORM_KEYS
from napari_glacier.core.config import RunConfig
from napari_glacier.core.config_files import load_config, recipe_path
from napari_glacier.core.errors import ConfigError
from napari_glacier.core.plain_yaml import read_yaml, write_line

Kind = Literal["whole", "number", "choice", "line"]

_RUN = "run"
# A configuration needs data; which ones is for the form to say.
_SOME_DATA = "data.train=."


@dataclass(frozen=True, slots=True)
class Setting:
    """One field of the configuration.

    Attributes
    ----------
    key : str
        As ``--set`` takes it: ``optim.lr``.
    group : str
        Its section; ``run`` for those of the whole run.
    name : str
        Its last part.
    kind : str
        ``whole`` or ``number`` (within `least` and `most`), ``choice`` (one of `choices`), or ``line``: any YAML.
    help : str
        The field's own description.
    choices : tuple
    least, most : float or None
        Bounds, where there are any. One that is itself not allowed (above 0) is told by validating.
    is_long : bool
        Texts, lists, mappings and paths want a whole line to be read.
    section : str or None
        The section that may be missing altogether, of which this is a part.
    """

    key: str
    group: str
    name: str
    kind: Kind
    help: str
    choices: tuple[Any, ...] = ()
    least: float | None = None
    most: float | None = None
    is_long: bool = False
    section: str | None = None

    @property
    def range(self) -> str:
        """Its bounds in words; nothing where there are none."""
        if self.least is None or self.most is None:
            return f"from {self.least:g}" if self.least is not None else ""
        return f"{self.least:g} to {self.most:g}"


@dataclass(frozen=True, slots=True)
class SettingGroup:
    """The settings of one section, with what the section is for."""

    name: str
    help: str
    settings: tuple[Setting, ...]


def setting_groups() -> tuple[SettingGroup, ...]:
    """All fields of the configuration but those that the form asks for, by section, in the configuration's order.

    What must be given comes after what may be: the form has asked for the heart of it.
    """
    own, sections = [], []
    for name, field in sorted(RunConfig.model_fields.items(), key=lambda item: item[1].is_required()):
        model = _section_of(field)
        if model is None:
            own.append(_setting(_RUN, name, name, field))
            continue
        optional = name if NoneType in get_args(field.annotation) else None
        found = tuple(
            setting
            for part, inner in model.model_fields.items()
            if (setting := _setting(name, f"{name}.{part}", part, inner, optional)).key not in FORM_KEYS
        )
        sections.append(SettingGroup(name, _first_line(model), found))
    asked = tuple(setting for setting in own if setting.key not in FORM_KEYS)
    return (*sections, SettingGroup(_RUN, _first_line(RunConfig), asked))


class SettingsTree:
    """A recipe's settings, with those that a person changed.

    A change is kept when another recipe is taken, except of a section that the other recipe does not have.

    Parameters
    ----------
    recipe : str
    """

    def __init__(self, recipe: str) -> None:
        self.groups = setting_groups()
        self._settings = {setting.key: setting for group in self.groups for setting in group.settings}
        self._texts: dict[str, str] = {}
        self._problem = ""
        self.recipe = recipe
        self._config = load_config(recipe, [_SOME_DATA])

    def __iter__(self) -> Iterator[Setting]:
        return iter(self._settings.values())

    def take_recipe(self, recipe: str) -> None:
        """Show another recipe's values; `ConfigError` where there is no such recipe."""
        config = load_config(recipe, [_SOME_DATA])
        gone = {
            setting.section
            for setting in self
            if setting.section is not None
            and getattr(self._config, setting.section) is not None
            and getattr(config, setting.section) is None
        }
        self._texts = {key: text for key, text in self._texts.items() if self._settings[key].section not in gone}
        self.recipe, self._config = recipe, config
        self._check()

    def recipe_value(self, key: str) -> Any:
        """What the recipe says, as YAML has it: lists for tuples, texts for paths; None in a section it has not."""
        value: Any = self._config
        for part in key.split("."):
            value = getattr(value, part, None)
        return _plain(value)

    def recipe_text(self, key: str) -> str:
        """The same on one line of YAML; nothing for none."""
        return _text(self.recipe_value(key))

    def text(self, key: str) -> str:
        """What a setting is now, on one line of YAML; nothing for none."""
        return self._texts.get(key, self.recipe_text(key))

    def value(self, key: str) -> Any:
        """What a setting is now, as plain values.

        Raises
        ------
        yaml.YAMLError
            If a person has written what is no YAML.
        """
        return read_yaml(self._texts[key]) if key in self._texts else self.recipe_value(key)

    def set_text(self, key: str, text: str) -> None:
        """Change a setting to what is written: any YAML; nothing is none."""
        if key not in self._settings:
            raise KeyError(key)
        self._texts[key] = text.strip()
        self._check()

    def set_value(self, key: str, value: Any) -> None:
        """Change a setting to a plain value."""
        self.set_text(key, _text(value))

    def reset(self, *keys: str) -> None:
        """Go back to what the recipe says; of all settings where none is named."""
        for key in keys or tuple(self._texts):
            self._texts.pop(key, None)
        self._check()

    def is_changed(self, key: str) -> bool:
        """Whether a setting is another than the recipe's."""
        if key not in self._texts:
            return False
        try:
            value = read_yaml(self._texts[key])
        except yaml.YAMLError:
            return True
        recipes = self.recipe_value(key)
        # To Python 1 equals true.
        return bool(value != recipes) or isinstance(value, bool) != isinstance(recipes, bool)

    @property
    def overrides(self) -> tuple[str, ...]:
        """What is changed, as ``--set`` takes it: ``key=value``."""
        return tuple(
            f"{setting.key}={self._texts[setting.key] or 'null'}" for setting in self if self.is_changed(setting.key)
        )

    @property
    def problem(self) -> str:
        """What is wrong with the changes, in a sentence; empty where nothing is."""
        return self._problem

    def matching(self, words: str) -> frozenset[str]:
        """Keys of the settings in whose key or description every word occurs."""
        wanted = words.casefold().split()
        return frozenset(
            setting.key
            for setting in self
            if all(word in f"{setting.key} {setting.help}".casefold() for word in wanted)
        )

    def _check(self) -> None:
        self._problem = ""
        if not self.overrides:
            return
        try:
            load_config(self.recipe, [_SOME_DATA, *self.overrides])
        except ConfigError as error:
            # Which file the recipe is in helps nobody here.
            self._problem = str(error).removeprefix(f"{recipe_path(self.recipe)}: ")


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field is, or may be."""
    choices = [field.annotation, *get_args(field.annotation)]
    models = [choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)]
    return models[0] if len(models) == 1 and get_origin(field.annotation) is not dict else None


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().splitlines()[0].rstrip(".")


def _setting(group: str, key: str, name: str, field: FieldInfo, section: str | None = None) -> Setting:
    kind, choices = _kind(field.annotation)
    if section is not None and kind != "choice":
        # Numbers of a section that is missing are none, too.
        kind = "line"
    least, most = _bounds(field)
    is_long = kind == "line" and _is_long(field.annotation)
    return Setting(key, group, name, kind, field.description or "", choices, least, most, is_long, section)


def _kind(annotation: Any) -> tuple[Kind, tuple[Any, ...]]:
    if annotation is int:
        return "whole", ()
    if annotation is float:
        return "number", ()
    parts = get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)
    none = (None,) if NoneType in parts else ()
    rest = [part for part in parts if part is not NoneType]
    if len(rest) == 1 and rest[0] is bool:
        return "choice", (*none, True, False)
    if len(rest) == 1 and get_origin(rest[0]) is Literal:
        return "choice", (*none, *get_args(rest[0]))
    return "line", ()


def _is_long(annotation: Any) -> bool:
    parts = [annotation, *get_args(annotation)]
    return any(part in {str, Path} or get_origin(part) in {list, dict, tuple} for part in parts)


def _bounds(field: FieldInfo) -> tuple[float | None, float | None]:
    """Least and most of a number, as its constraints say."""
    least = most = None
    for rule in field.metadata:
        for name in ("ge", "gt"):
            least = getattr(rule, name, least)
        for name in ("le", "lt"):
            most = getattr(rule, name, most)
    return least, most


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _text(value: Any) -> str:
    return "" if value is None else write_line(value)
