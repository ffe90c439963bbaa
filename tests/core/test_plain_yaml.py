import json

import pytest
import yaml

from napari_glacier.core.errors import ConfigError
from napari_glacier.core.plain_yaml import read_pairs, read_yaml, write_line


@pytest.mark.parametrize(
    "value",
    [
        *(
            "02_07",
            "off",
            "1e-4",
            "null",
            "~",
            "true",
            "12",
            "a: b",
            "[x",
            "it's",
            "",
            " ",
            "é",
            "a\nb",
            "#",
            "/a b/c",
            "-",
        ),
        *(None, True, False, 0, -3, 0.5, 1e-7, 5e-4, 1e16, [], {}, ["B2", None, [1.0, "x, y"]]),
        {"ce": {"steps": {1: 0.3, 20: 0.2}}, "a: b": {"start": 0.0075}, "7": "7"},
    ],
    ids=json.dumps,
)
def test_what_is_written_on_a_line_is_read_back(value):
    line = write_line(value)
    assert "\n" not in line
    found = read_yaml(line)
    assert (found, type(found)) == (value, type(value))
    assert read_yaml(f"{{key: [{line}]}}") == {"key": [value]}


@pytest.mark.parametrize(
    "text",
    [
        *("!!int abc", "!!int ''", "!!float x", "!!float ''", "!!bool x", "!!binary é"),
        *("!!timestamp x", "!!timestamp 2024-99-99"),
        *("1" * 5000, "!!int 0x" + "f" * 5000, "[" * 3000, "[*a", "{[a]: 1}"),
    ],
    ids=lambda text: text[:12],
)
def test_what_no_value_can_be_made_of_is_no_yaml(text):
    with pytest.raises(yaml.YAMLError):
        read_yaml(text)


def test_a_text_of_thousands_of_digits_stays_a_text():
    assert read_yaml(write_line("1" * 5000)) == "1" * 5000


def test_pairs_are_read_as_values_or_left_as_texts():
    assert read_pairs(["width = [16, 8]", "name=02_07", "end=a=b"]) == {"width": [16, 8], "name": "02_07", "end": "a=b"}
    assert read_pairs(["stem=01", "head= x "], values=False) == {"stem": "01", "head": "x"}


@pytest.mark.parametrize(
    ("text", "said"), [("width", "not of the form"), ("=3", "not of the form"), ("width=[16", "cannot be read as YAML")]
)
def test_a_pair_that_cannot_be_read_is_named(text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        read_pairs(["good=1", text])
    assert repr(text) in str(caught.value)
