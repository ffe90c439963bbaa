"""What all preparation shares: settings noted in the output, progress, names that stay inside a folder."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_glacier.core.errors import DataError, SaveError
from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.raster.archives import file_of
from napari_glacier.core.raster.georef import GeoRef
from napari_glacier.core.tiling import Window

STATE_FOLDER = ".prepare"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a preparation is: windows done and in all, and what is being done."""

    done: int
    total: int
    what: str


class State:
    """What was done in an output folder and with which settings, so that a run that was stopped goes on.

    A part is done when its record is written, after everything that belongs to it.

    Raises
    ------
    SaveError
        If the folder holds what other settings made.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self._folder = out / STATE_FOLDER
        path, text = self._folder / "settings.json", json.dumps(dict(settings), indent=1, sort_keys=True) + "\n"
        if path.is_file():
            if path.read_text(encoding="utf-8") != text:
                raise SaveError(
                    f"{out} was prepared with other settings ({path} lists them). Give another --out, or remove the "
                    "folder to make it anew."
                )
            _drop_half_written(out)
            return
        if out.exists() and any(child.name != STATE_FOLDER for child in out.iterdir()):
            raise SaveError(f"{out} is not empty, and nothing in it is written over. Give a new folder with --out.")
        self._folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(path, text)

    def find(self, name: str, source: Any) -> Any:
        """What was noted of a part that is done; None where it is not, or its source has changed."""
        try:
            record = json.loads((self._folder / f"part_{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record["result"] if isinstance(record, dict) and record.get("source") == source else None

    def note(self, name: str, source: Any, result: Any) -> None:
        """Note that a part is done."""
        text = json.dumps({"source": source, "result": result}) + "\n"
        write_text_atomically(self._folder / f"part_{name}.json", text)


def _drop_half_written(out: Path) -> None:
    """Remove the hidden files that a killed run was writing (see `files.replacing`)."""
    for path in out.rglob(".*-*"):
        if path.suffix in (".npy", ".tif") and path.is_file():
            path.unlink()


def signature(path: Path) -> list[int]:
    """By which a changed file (of a member: its archive) is noticed: size and time of its last change."""
    stat = file_of(path).stat()
    return [stat.st_size, stat.st_mtime_ns]


def safe_name(text: str) -> str:
    """A file name made of a text: letters, digits, dots, signs; nothing that leads to another folder."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._")
    return name or "scene"


def distinct_names(paths: list[Path]) -> dict[str, Path]:
    """Scenes by the names that their tiles take.

    Raises
    ------
    DataError
        If two would take the same.
    """
    names: dict[str, Path] = {}
    for path in paths:
        name = safe_name(path.stem)
        other = names.setdefault(name, path)
        if other != path:
            raise DataError(f"{other} and {path} would both be cut into tiles named {name}_…. Rename one of them.")
    return names


def north_up(georef: GeoRef, height: int) -> tuple[GeoRef, bool]:
    """The reference of a raster with row 0 in the north, and whether its rows are to be turned round for it."""
    a, b, c, d, e, f = georef.transform
    if e > 0 and b == 0 and d == 0:
        return GeoRef((a, b, c, d, -e, f + e * height), georef.epsg, georef.geokeys, georef.doubles, georef.ascii), True
    return georef, False


def file_window(window: Window, height: int, turned: bool) -> Window:
    """Where a window of the north-up raster lies in its file."""
    row = height - window.row - window.height if turned else window.row
    return Window(row, window.col, window.height, window.width)
