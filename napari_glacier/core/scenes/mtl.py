"""The metadata file of a Landsat scene (``*_MTL.txt`` or ``*_MTL.json``): groups of keys and values."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from napari_glacier.core.errors import DataError
from napari_glacier.core.raster.archives import read_text
from napari_glacier.core.raster.georef import GeoRef

MTL_NAME = re.compile(r"^(?P<scene>.+)_MTL\.(?:txt|json)$", re.IGNORECASE)

# Antarctica is delivered in this polar stereographic projection.
_ANTARCTIC = 3031
_GRID_TOLERANCE_M = 1e-3


@dataclass(frozen=True, slots=True)
class Metadata:
    """Groups of a metadata file, in its order; of two groups of one name the last counts."""

    path: Path
    groups: Mapping[str, Mapping[str, str]]

    def text(self, key: str, *groups: str) -> str | None:
        """A value as text, from the first of these groups (of all, where none is named) that has the key."""
        for name in groups or self.groups:
            if key in self.groups.get(name, {}):
                return self.groups[name][key]
        return None

    def texts(self, key: str) -> set[str]:
        """The values that a key has in all groups."""
        return {values[key] for values in self.groups.values() if key in values}

    def number(self, key: str, *groups: str) -> float | None:
        """A value as a finite number; None where it is missing.

        Raises
        ------
        DataError
            If it is something else.
        """
        text = self.text(key, *groups)
        if text is None:
            return None
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"{self.path} says {key} = {text[:40]!r}, which is no number. Download the file again.")
        return number


def read_mtl(path: Path) -> Metadata:
    """Read a metadata file, as text or JSON.

    Raises
    ------
    DataError
        If it is cut short or is something else.
    """
    text = read_text(path)
    groups = _json_groups(path, text) if path.suffix.lower() == ".json" else _odl_groups(path, text)
    if not groups:
        raise DataError(f"{path} holds no Landsat metadata. Download it again, or take it away to open without units.")
    return Metadata(path, groups)


def _odl_groups(path: Path, text: str) -> dict[str, dict[str, str]]:
    groups: dict[str, dict[str, str]] = {}
    open_groups: list[str] = []
    ended = False
    for line in text.replace("\0", "").splitlines():
        key, equals, value = (piece.strip() for piece in line.partition("="))
        if key == "END" and not equals:
            ended = True
            break
        if not equals:
            continue
        value = value.strip('"')
        if key == "GROUP":
            open_groups.append(value)
            groups[value] = {}
        elif key == "END_GROUP":
            if not open_groups or open_groups.pop() != value:
                raise DataError(f"{path} is damaged: its group {value[:40]!r} ends where it did not begin. {_MEND}")
        elif open_groups:
            groups[open_groups[-1]][key] = value
    if not ended or open_groups:
        raise DataError(f"{path} is cut short: it has no END. {_MEND}")
    return groups


_MEND = "Download it again, or take it away to open the scene without units."


def _json_groups(path: Path, text: str) -> dict[str, dict[str, str]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged or cut short ({error}). {_MEND}") from error
    groups: dict[str, dict[str, str]] = {}

    def gather(entries: Mapping[str, Any]) -> None:
        for name, entry in entries.items():
            if isinstance(entry, dict):
                groups[name] = {key: str(value) for key, value in entry.items() if not isinstance(value, (dict, list))}
                gather(entry)

    if isinstance(content, dict):
        gather(content)
    return groups


def georef_of(metadata: Metadata, shape: tuple[int, int]) -> GeoRef | str:
    """Where a band of this shape lies by its corners in the metadata (centres of the corner pixels), or why unknown.

    Returns
    -------
    GeoRef or str
        A sentence where the projection is none that Landsat products come in, or the band is of another size.

    Raises
    ------
    DataError
        If a number in the metadata is none.
    """
    corners = {
        f"{corner}_{axis}": metadata.number(f"CORNER_{corner}_PROJECTION_{axis}_PRODUCT")
        for corner in ("UL", "LR")
        for axis in ("X", "Y")
    }
    left, top, right, bottom = (corners[key] for key in ("UL_X", "UL_Y", "LR_X", "LR_Y"))
    pixel_m = metadata.number("GRID_CELL_SIZE_REFLECTIVE")
    if left is None or top is None or right is None or bottom is None or not pixel_m or pixel_m <= 0:
        return f"{metadata.path.name} names no corners, so the scene's place is not known."
    expected = (round((top - bottom) / pixel_m) + 1, round((right - left) / pixel_m) + 1)
    if expected != shape:
        return (
            f"{metadata.path.name} speaks of {expected[0]} x {expected[1]} pixels, the bands are {shape[0]} x "
            f"{shape[1]} and carry no georeference: their place is not known. Cut scenes with a tool that keeps it."
        )
    if abs((right - left) - (expected[1] - 1) * pixel_m) > _GRID_TOLERANCE_M:
        return f"The corners in {metadata.path.name} do not fit its pixel size, so the scene's place is not known."
    epsg = _epsg(metadata)
    if epsg is None:
        return f"{metadata.path.name} names a projection that is not known here, so the scene's place is not known."
    return GeoRef.from_epsg(epsg, (pixel_m, 0.0, left - pixel_m / 2, 0.0, -pixel_m, top + pixel_m / 2))


def _epsg(metadata: Metadata) -> int | None:
    if metadata.text("DATUM") not in ("WGS84", None):
        return None
    if metadata.text("MAP_PROJECTION") == "UTM":
        # Landsat keeps to the northern zones everywhere: south of the equator its northings are negative.
        zone = metadata.number("UTM_ZONE")
        return 32600 + int(zone) if zone is not None and zone in range(1, 61) else None
    if metadata.text("MAP_PROJECTION") == "PS":
        pole, latitude = metadata.number("VERTICAL_LON_FROM_POLE"), metadata.number("TRUE_SCALE_LAT")
        return _ANTARCTIC if pole == 0 and latitude == -71 else None
    return None
