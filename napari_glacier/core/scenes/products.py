"""What a satellite product says of its pixels: sensor, date, physical units, and quality bits. Pure arithmetic.

Formulas: Landsat 8-9 Collection 2 Level 1 and Level 2 Data Format Control Books (LSDS-1822, LSDS-1328), the
Landsat 7 one (LSDS-1336), and the Sentinel-2 Products Specification Document 14.9 (S2-PDGS-TAS-DI-PSD).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.data.band_source import BandSource

REFLECTIVE_BANDS = CANONICAL_BANDS[:4]
THERMAL_BAND = CANONICAL_BANDS[4]

# Under which a mask's file keeps the day of the scene it was made of, as in Landsat's metadata.
DATE_TAG = "DATE_ACQUIRED"

# What `Quality.classes` gives.
QUALITY_CLASSES = ("clear", "cloud", "cirrus", "cloud shadow", "saturated")
# Those that hide the ground; a saturated pixel is bright, and seen.
HIDING_CLASSES = (1, 2, 3)

# QA_PIXEL of Collection 2: fill, dilated cloud, cirrus, cloud, cloud shadow.
_FILL, _CLOUD, _CIRRUS, _SHADOW = 1 << 0, 1 << 1 | 1 << 3, 1 << 2, 1 << 4
# Scene classification of Sentinel-2 Level 2A: no data, saturated or defective, shadow, clouds, thin cirrus.
_SCL_FILL, _SCL_SATURATED, _SCL_SHADOW, _SCL_CLOUD, _SCL_CIRRUS = 0, 1, 3, (8, 9), 10


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a band's numbers become reflectance (no unit) or temperature (kelvin).

    ``gain * number + offset`` is the reflectance or the temperature itself; with `k1` and `k2` it is the radiance
    (W m-2 sr-1 um-1) that Planck's law turns into a brightness temperature, ``k2 / ln(k1 / radiance + 1)``.
    """

    quantity: Literal["reflectance", "temperature"]
    gain: float
    offset: float
    k1: float | None = None
    k2: float | None = None

    def apply(self, numbers: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Physical values of a band's numbers; NaN where a radiance is not positive."""
        values = np.asarray(numbers, np.float64) * self.gain + self.offset
        if self.k1 is not None and self.k2 is not None:
            positive = values > 0
            values = np.where(positive, values, 1.0)
            values = np.where(positive, self.k2 / np.log(self.k1 / values + 1.0), np.nan)
        return values.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality bands of a scene: which pixels are fill, cloud, shadow, saturated.

    Attributes
    ----------
    kind : {"QA_PIXEL", "SCL"}
        Bits of Landsat Collection 2, or the scene classification of Sentinel-2.
    pixel : BandSource or None
    saturation : BandSource or None
        QA_RADSAT of Landsat.
    saturation_bits : int
        Those of its bits that speak of the bands in use.
    """

    kind: Literal["QA_PIXEL", "SCL"]
    pixel: BandSource | None
    saturation: BandSource | None = None
    saturation_bits: int = 0

    def fill(self, pixel_HW: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Where the quality band says that nothing was seen."""
        if self.kind == "SCL":
            return np.asarray(pixel_HW == _SCL_FILL)
        return np.asarray((pixel_HW & _FILL) != 0)

    def classes(
        self, pixel_HW: npt.NDArray[Any] | None, saturation_HW: npt.NDArray[Any] | None
    ) -> npt.NDArray[np.uint8]:
        """Indices into `QUALITY_CLASSES`; a cloud hides its shadow, and both hide saturation. Fill is clear."""
        planes = [plane for plane in (saturation_HW, pixel_HW) if plane is not None]
        classes_HW = np.zeros(planes[0].shape, np.uint8)
        if saturation_HW is not None:
            classes_HW[(saturation_HW & self.saturation_bits) != 0] = 4
        if pixel_HW is None:
            return classes_HW
        if self.kind == "SCL":
            classes_HW[pixel_HW == _SCL_SATURATED] = 4
            classes_HW[pixel_HW == _SCL_SHADOW] = 3
            classes_HW[pixel_HW == _SCL_CIRRUS] = 2
            classes_HW[np.isin(pixel_HW, _SCL_CLOUD)] = 1
            return classes_HW
        for bits, index in ((_SHADOW, 3), (_CIRRUS, 2), (_CLOUD, 1)):
            classes_HW[(pixel_HW & bits) != 0] = index
        # Outside the image the other bits mean nothing.
        classes_HW[self.fill(pixel_HW)] = 0
        return classes_HW


@dataclass(frozen=True, slots=True)
class Product:
    """A scene as its maker delivered it.

    Attributes
    ----------
    name : str
        Product or scene id.
    sensor, level : str
        ``Landsat 8``, ``Level 2``.
    date : str
        Day of acquisition, ISO 8601; empty where neither the metadata nor the name tells.
    cloud_percent : float or None
    calibration : mapping of band to Calibration
        Bands whose units are known.
    uncalibrated : str
        Why other bands' units are not known, with the mend.
    quality : Quality or None
    complete : tuple of str
        Bands that all have to carry data for a pixel to be valid: fill is 0 in these and never a measurement, so
        a gap in one of them (the stripes of Landsat 7 after May 2003, the ragged border of a scene) is a gap.
    notes : tuple of str
        What a person should know.
    place : str
        Path and row of Landsat, tile of Sentinel-2; empty where the name does not tell. Scenes of one place differ in
        their dates.
    above_air : bool
        The thermal band of a Level-2 scene is that above the air, as in Collection 1.
    """

    name: str
    sensor: str
    level: str
    date: str = ""
    cloud_percent: float | None = None
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    uncalibrated: str = ""
    quality: Quality | None = None
    complete: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    place: str = ""
    above_air: bool = False

    @property
    def temperature_name(self) -> str:
        """What the thermal band holds once it is in kelvin."""
        return "Surface temperature" if self.level == "Level 2" and not self.above_air else "Brightness temperature"
