"""Where a raster lies: coordinate reference system and affine transform, read from and written to GeoTIFF tags.

Tag and key numbers follow the OGC GeoTIFF standard 1.1 (19-008r4).
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from napari_glacier.core.errors import RasterError

PIXEL_SCALE, TIEPOINT, TRANSFORMATION = 33550, 33922, 34264
GEOKEYS, GEO_DOUBLES, GEO_ASCII = 34735, 34736, 34737
GEO_TAGS = (PIXEL_SCALE, TIEPOINT, TRANSFORMATION, GEOKEYS, GEO_DOUBLES, GEO_ASCII)

_MODEL_TYPE, _RASTER_TYPE, _GEOGRAPHIC, _PROJECTED = 1024, 1025, 2048, 3072
_MODEL_PROJECTED, _MODEL_GEOGRAPHIC = 1, 2
_LINEAR_UNIT, _METRE = 3076, 9001
# EPSG unit code -> metres: metre, foot, US survey foot
_UNITS_M = {_METRE: 1.0, 9002: 0.3048, 9003: 1200 / 3937}
_USER_DEFINED, _PIXEL_IS_AREA, _PIXEL_IS_POINT = 32767, 1, 2

# (tag, tifffile type letter, count, value), as tifffile takes extra tags
ExtraTag = tuple[int, str, int, Any]


@dataclass(frozen=True, slots=True)
class GeoRef:
    """Coordinate reference system and affine transform of a raster.

    Parameters
    ----------
    transform : tuple of six floats
        ``(a, b, c, d, e, f)`` with ``x = a*col + b*row + c`` and ``y = d*col + e*row + f``, in units of
        the CRS, where (0, 0) is the outer corner of the first pixel.
    epsg : int or None
        EPSG code, where the file states one.
    geokeys : tuple of int
        The GeoKey directory, kept so that a CRS without an EPSG code survives.
    doubles, ascii : the parameters that `geokeys` refers to
    """

    transform: tuple[float, float, float, float, float, float]
    epsg: int | None
    geokeys: tuple[int, ...] = ()
    doubles: tuple[float, ...] = ()
    ascii: str = ""

    @classmethod
    def from_epsg(
        cls, epsg: int, transform: tuple[float, float, float, float, float, float], geographic: bool = False
    ) -> "GeoRef":
        """Reference by EPSG code; `geographic` says that the code is one of degrees, not of metres."""
        keys = (
            (_MODEL_TYPE, 0, 1, _MODEL_GEOGRAPHIC if geographic else _MODEL_PROJECTED),
            (_RASTER_TYPE, 0, 1, _PIXEL_IS_AREA),
            (_GEOGRAPHIC if geographic else _PROJECTED, 0, 1, epsg),
        )
        directory = (1, 1, 0, len(keys), *(number for key in keys for number in key))
        return cls(transform, epsg, directory)

    @classmethod
    def from_tags(cls, tags: Mapping[int, Any]) -> "GeoRef | None":
        """Read the reference from TIFF tags (number -> value); None where there is no transform.

        Pixel-is-point files are brought to the pixel-is-area convention.
        """
        if TRANSFORMATION in tags:
            m = [float(v) for v in tags[TRANSFORMATION]]
            transform = (m[0], m[1], m[3], m[4], m[5], m[7])
        elif PIXEL_SCALE in tags and TIEPOINT in tags:
            # North is up whatever the sign, as GDAL has it.
            sx, sy = float(tags[PIXEL_SCALE][0]), abs(float(tags[PIXEL_SCALE][1]))
            col, row, _, x, y, _ = (float(v) for v in tags[TIEPOINT][:6])
            transform = (sx, 0.0, x - col * sx, 0.0, -sy, y + row * sy)
        else:
            return None
        directory = tuple(int(v) for v in tags.get(GEOKEYS, ()))
        keys = _short_keys(directory)
        if keys.get(_RASTER_TYPE) == _PIXEL_IS_POINT:
            a, b, c, d, e, f = transform
            transform = (a, b, c - (a + b) / 2, d, e, f - (d + e) / 2)
            directory = tuple(
                _PIXEL_IS_AREA if i % 4 == 3 and i > 4 and directory[i - 3] == _RASTER_TYPE else v
                for i, v in enumerate(directory)
            )
        code = keys.get(_PROJECTED) or keys.get(_GEOGRAPHIC)
        epsg = code if code and code != _USER_DEFINED else None
        doubles = tags.get(GEO_DOUBLES, ())
        return cls(
            transform,
            epsg,
            directory,
            tuple(float(v) for v in (doubles if isinstance(doubles, (tuple, list)) else (doubles,))),
            str(tags.get(GEO_ASCII, "")),
        )

    @property
    def crs_key(self) -> Hashable:
        """Equal for two rasters exactly when their coordinate reference system is the same."""
        return self.epsg if self.epsg is not None else (self.geokeys, self.doubles, self.ascii)

    @property
    def crs_name(self) -> str:
        """``EPSG:32643``, or what the file calls its system."""
        if self.epsg is not None:
            return f"EPSG:{self.epsg}"
        return self.ascii.split("|")[0] or "unnamed CRS"

    @property
    def is_geographic(self) -> bool:
        """Whether coordinates are degrees of longitude and latitude."""
        return _short_keys(self.geokeys).get(_MODEL_TYPE) == _MODEL_GEOGRAPHIC

    @property
    def pixel_area_m2(self) -> float | None:
        """Area of a pixel in square metres; None for degrees and for units that are not known."""
        unit_m = _UNITS_M.get(_short_keys(self.geokeys).get(_LINEAR_UNIT, _METRE))
        if self.is_geographic or unit_m is None:
            return None
        a, b, _, d, e, _ = self.transform
        return abs(a * e - b * d) * unit_m**2

    def same_grid(self, other: "GeoRef") -> bool:
        """Whether a pixel of this raster and of the other one lie in the same place, to a hundredth of a pixel."""
        if self.crs_key != other.crs_key or not self.same_pixels(other):
            return False
        row, col = self.pixel_of(other.transform[2], other.transform[5])
        return abs(row) < 0.01 and abs(col) < 0.01

    def position_of(self, other: "GeoRef") -> tuple[int, int] | None:
        """Row and column of another raster's first pixel on this one's grid; None where it lies on another grid."""
        if other.crs_key != self.crs_key or not self.same_pixels(other):
            return None
        row, col = self.pixel_of(other.transform[2], other.transform[5])
        # A hundredth of a pixel is rounding; more is another grid.
        if abs(row - round(row)) > 0.01 or abs(col - round(col)) > 0.01:
            return None
        return round(row), round(col)

    def same_pixels(self, other: "GeoRef") -> bool:
        """Whether the pixels have the same size and orientation, to rounding."""
        ours, theirs = self.transform, other.transform
        return all(math.isclose(ours[i], theirs[i], rel_tol=1e-9, abs_tol=1e-12) for i in (0, 1, 3, 4))

    def offset(self, row: int, col: int) -> "GeoRef":
        """Reference of a window whose first pixel is (row, col) of this raster."""
        a, b, c, d, e, f = self.transform
        moved = (a, b, a * col + b * row + c, d, e, d * col + e * row + f)
        return GeoRef(moved, self.epsg, self.geokeys, self.doubles, self.ascii)

    def refined(self, times: int) -> "GeoRef":
        """Reference of the same raster in pixels that are as many times smaller along a side."""
        a, b, c, d, e, f = self.transform
        return GeoRef(
            (a / times, b / times, c, d / times, e / times, f), self.epsg, self.geokeys, self.doubles, self.ascii
        )

    def pixel_of(self, x: float, y: float) -> tuple[float, float]:
        """Fractional (row, col) of a point of the CRS."""
        a, b, c, d, e, f = self.transform
        determinant = a * e - b * d
        if determinant == 0:
            raise RasterError(f"The transform {self.transform} cannot be inverted. Correct the file's georeference.")
        dx, dy = x - c, y - f
        return (a * dy - d * dx) / determinant, (e * dx - b * dy) / determinant

    def extra_tags(self) -> list[ExtraTag]:
        """The reference as TIFF tags."""
        a, b, c, d, e, f = self.transform
        tags: list[ExtraTag] = []
        if b == 0 and d == 0 and e < 0:
            tags.append((PIXEL_SCALE, "d", 3, (a, -e, 0.0)))
            tags.append((TIEPOINT, "d", 6, (0.0, 0.0, 0.0, c, f, 0.0)))
        else:
            matrix = (a, b, 0.0, c, d, e, 0.0, f, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
            tags.append((TRANSFORMATION, "d", 16, matrix))
        if self.geokeys:
            tags.append((GEOKEYS, "H", len(self.geokeys), self.geokeys))
        if self.doubles:
            tags.append((GEO_DOUBLES, "d", len(self.doubles), self.doubles))
        if self.ascii:
            tags.append((GEO_ASCII, "s", 0, self.ascii))
        return tags


def _short_keys(directory: Sequence[int]) -> dict[int, int]:
    """GeoKeys whose value stands in the directory itself."""
    return {directory[i]: directory[i + 3] for i in range(4, len(directory) - 3, 4) if directory[i + 1] == 0}
