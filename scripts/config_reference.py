"""Write docs/configuration.md, the reference of the training configuration: python scripts/config_reference.py

Made of the pydantic models in `core/config.py`, so that the page says what the program checks; a test holds the two
together.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from napari_glacier.core.config import RunConfig
from napari_glacier.core.files import write_text_atomically

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"

_HEADING = """\
# Configuration of a training run

<!-- Written by scripts/config_reference.py from napari_glacier/core/config.py. Change it there. -->

A YAML file with these keys, or `--set key=value` with a dot between section and key (`train.epochs=20`); the recipes
are such files, and [training](training.md) explains the choices. What is left out has its default; a key that is not
listed here is refused. The smallest file is `data: {train: DATASET}`.
"""
_WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "yes or no"}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def main() -> None:
    """Write the page."""
    write_text_atomically(PAGE, reference())
    print(PAGE)


def reference() -> str:
    """The page's text, as Markdown."""
    schema = RunConfig.model_json_schema()
    parts = [_HEADING, *_section("The whole run", schema, schema["$defs"], "")]
    for key, field in schema["properties"].items():
        name = _model_of(field)
        if name is not None:
            model = schema["$defs"][name]
            parts += _section(f"`{key}`", model, schema["$defs"], f"{model['description']}\n")
    for name in ("Ramp", "Steps"):
        model = schema["$defs"][name]
        parts += _section(f"{name}, a weight in `loss.terms`", model, schema["$defs"], f"{model['description']}\n")
    return "\n".join(parts)


def _section(title: str, model: Mapping[str, Any], models: Mapping[str, Any], said: str) -> Iterator[str]:
    yield f"## {title}\n"
    if said:
        yield said
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    required = model.get("required", ())
    for key, field in model["properties"].items():
        meaning = field.get("description", "")
        if _model_of(field) is not None:
            yield f"| `{key}` | section | | {meaning.rstrip('.')}: [`{key}`](#{key}) |"
            continue
        default = _value(field["default"]) if "default" in field else "**needed**" if key in required else "empty"
        yield f"| `{key}` | {_kind(field, models)} | {default} | {meaning.replace('|', chr(92) + '|')} |"
    yield ""


def _model_of(field: Mapping[str, Any]) -> str | None:
    """Name of the section that a field is, or may be."""
    choices = [field, *field.get("anyOf", ()), *field.get("allOf", ())]
    references = [choice["$ref"].rsplit("/", 1)[1] for choice in choices if "$ref" in choice]
    return references[0] if len(references) == 1 else None


def _kind(field: Mapping[str, Any], models: Mapping[str, Any]) -> str:  # noqa: PLR0911 - a table of cases
    """What a value may be, in words."""
    if "anyOf" in field:
        kinds = [_kind(choice, models) for choice in field["anyOf"] if choice.get("type") != "null"]
        return " or ".join(kinds)
    if "$ref" in field:
        return field["$ref"].rsplit("/", 1)[1].lower()
    if "const" in field:
        return _value(field["const"])
    if "enum" in field:
        return " or ".join(_value(value) for value in field["enum"])
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])} numbers"
    if field.get("type") == "array":
        inner = _kind(field["items"], models)
        return f"list of: {inner}"
    if field.get("type") == "object":
        inner = field.get("additionalProperties")
        return f"name: {_kind(inner, models)}" if isinstance(inner, dict) else "names and values"
    if field.get("format") == "path":
        return "path"
    bounds = ", ".join(f"{sign} {field[key]:g}" for key, sign in _BOUNDS.items() if key in field)
    return " ".join(part for part in (_WORDS[field["type"]], bounds) if part)


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`"


if __name__ == "__main__":
    main()
