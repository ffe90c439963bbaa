import ast
import subprocess
import sys
from pathlib import Path

import napari_glacier.core.tools as package

IMPORTS = (ast.Import, ast.ImportFrom)


def imports_inside_functions():
    for path in Path(package.__file__).parent.glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                yield from (ast.unparse(node) for node in ast.walk(function) if isinstance(node, IMPORTS))


def test_nothing_is_left_to_be_loaded_in_the_middle_of_a_stroke():
    statements = sorted(set(imports_inside_functions()))
    assert "import cv2" in statements
    script = [
        "import sys",
        "from napari_glacier.core.tools import load_libraries",
        "load_libraries()",
        "loaded = set(sys.modules)",
        *statements,
        "print(*sorted(set(sys.modules) - loaded))",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(script)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
