"""The code that travels with a bundle: the modules that map, found by what they import, under a name of their own."""

import ast
import re
from pathlib import Path

PACKAGE = "glacier_bundle"
_ROOT = "napari_glacier"
_ENTRY = f"{_ROOT}.nn.solution"
_FOLDER = Path(__file__).resolve().parents[1]
# What the copied code imports of libraries that a bundle has not, and what it imports there instead.
_STAND_INS = (
    (r"import (cv2|imagecodecs|psutil)", rf"from {_ROOT}.nn import stand_ins as \2"),
    (r"from scipy import (ndimage)", rf"from {_ROOT}.nn import stand_ins as \2"),
    (r"from scipy\.ndimage import (\w+)", rf"from {_ROOT}.nn.stand_ins import \2"),
)


def code_modules() -> dict[str, Path]:
    """Modules of this package that a bundle needs, with everything that they import, and their files."""
    found: dict[str, Path] = {}
    due = [_ENTRY]
    while due:
        module = due.pop()
        if module in found or not module.startswith(_ROOT) or (path := _source_of(module)) is None:
            continue
        found[module] = path
        due.append(module.rpartition(".")[0])
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                due += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
            elif isinstance(node, ast.Import):
                due += [name.name for name in node.names]
    return dict(sorted(found.items()))


def rewritten(source: str) -> str:
    """Source of a module as the bundle has it: imports go to the bundle's package and to its stand-ins."""
    for statement, stand_in in _STAND_INS:
        source = re.sub(rf"^(\s*){statement}$", rf"\1{stand_in}", source, flags=re.MULTILINE)
    return re.sub(rf"^(\s*)(from|import) {_ROOT}\b", rf"\1\2 {PACKAGE}", source, flags=re.MULTILINE)


def _source_of(module: str) -> Path | None:
    """File of a module; None for a name in a module."""
    path = _FOLDER.joinpath(*module.split(".")[1:])
    if (path / "__init__.py").is_file():
        return path / "__init__.py"
    path = path.with_suffix(".py")
    return path if path.is_file() else None


def write_code(folder: Path) -> None:
    """Copy the modules that a bundle needs to a folder, rewritten to live there."""
    for module, source in code_modules().items():
        parts = module.split(".")[1:]
        target = folder.joinpath(*parts, "__init__.py") if source.name == "__init__.py" else folder.joinpath(*parts)
        target = target.with_suffix(".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        text = rewritten(source.read_text(encoding="utf-8"))
        if module == f"{_ROOT}.nn":
            # It loads triton for the sake of windows; here there is none, and older tritons lack what they import.
            text = '"""Networks and the predictor."""\n'
        target.write_text(text, encoding="utf-8")
