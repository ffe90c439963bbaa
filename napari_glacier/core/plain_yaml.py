"""YAML as people write it: the scalars of YAML 1.2's core schema.

PyYAML reads YAML 1.1, where ``02_07`` is the octal number 135, ``off`` is False and ``1e-4`` is a text.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

import yaml

from napari_glacier.core.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """A safe loader with the resolvers of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:(?:\.[0-9]+|(?:0|[1-9][0-9]*)\.[0-9]*)(?:[eE][-+]?[0-9]+)?|(?:0|[1-9][0-9]*)[eE][-+]?[0-9]+)$"
    ),
    list("-+.0123456789"),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])


def _whole(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    value = int(loader.construct_yaml_int(node))
    # Python reads hexadecimal numbers of any length, but refuses to say those of thousands of digits.
    str(value)
    return value


_Loader.add_constructor("tag:yaml.org,2002:int", _whole)

# What PyYAML's constructors raise where a text is well-formed and its value cannot be made: of `!!int abc`,
# `!!bool x`, `!!float ''`, `!!timestamp x`.
_NOT_MADE = (ValueError, LookupError, AttributeError, TypeError)
_PLAIN = re.compile(r"[\w./~][\w./~-]*")


def read_yaml(text: str) -> Any:
    """Plain values of a YAML text; `yaml.YAMLError` where it is none, or its values cannot be made."""
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError as error:
        raise yaml.YAMLError("it is nested too deeply") from error
    except _NOT_MADE as error:
        raise yaml.YAMLError("a value does not fit its tag, or is a number of too many digits") from error


def read_pairs(texts: Iterable[str], *, values: bool = True) -> dict[str, Any]:
    """``key=value`` texts as a mapping, values read as YAML, or left as texts.

    Raises
    ------
    ConfigError
        If one is not of this form, or a value cannot be read.
    """
    pairs: dict[str, Any] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise ConfigError(f"{text!r} is not of the form key=value.")
        try:
            pairs[key.strip()] = read_yaml(value) if values else value.strip()
        except yaml.YAMLError as error:
            raise ConfigError(f"{text!r}: the value cannot be read as YAML. Put a text in quotes.") from error
    return pairs


def write_line(value: Any) -> str:
    """Plain values as YAML on one line, which `read_yaml` reads back to the same; quotes only where they are needed."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _line_of(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{write_line(key)}: {write_line(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(write_line, value))}]"
    return repr(value)


def _line_of(text: str) -> str:
    if _PLAIN.fullmatch(text) and _is_read_back(text):
        return text
    return "'" + text.replace("'", "''") + "'" if text.isprintable() else json.dumps(text)


def _is_read_back(text: str) -> bool:
    try:
        return bool(read_yaml(text) == text)
    except yaml.YAMLError:
        # Thousands of digits are no number.
        return False
