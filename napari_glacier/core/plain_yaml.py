"""YAML as people write it: the scalars of YAML 1.2's core schema.

PyYAML reads YAML 1.1, where ``02_07`` is the octal number 135, ``off`` is False and ``1e-4`` is a text.
"""

import re
from typing import Any

import yaml


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


def read_yaml(text: str) -> Any:
    """Plain values of a YAML text; `yaml.YAMLError` where it is none."""
    return yaml.load(text, Loader=_Loader)
