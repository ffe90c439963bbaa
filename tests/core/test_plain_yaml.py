import json

import pytest

from napari_glacier.core.plain_yaml import read_yaml, write_line


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
