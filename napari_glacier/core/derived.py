"""What can be made of a tile's bands to look at: indices, reflectance, temperature. Pure arithmetic.

Indices are taken of reflectance where the units are known, else of the numbers in the files, which shifts them
(Collection-2 numbers have an offset) and is said. NDSI: Dozier 1989; NDWI with SWIR-1 for the near infrared, as in
`channels`; red / SWIR: the band ratio that maps clean ice, with a threshold near 2 (Paul et al. 2002).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from napari_glacier.core.channels import normalised_difference, ratio
from napari_glacier.core.errors import DataError
from napari_glacier.core.products import REFLECTIVE_BANDS, THERMAL_BAND, Calibration

# Products count in thousands; reflectance and the like, in a file of floats, do not reach this.
_LEAST_NUMBER = 50.0


@dataclass(frozen=True, slots=True)
class Derived:
    """A layer made of bands.

    Attributes
    ----------
    key : str
        What it is asked for by.
    title : str
    bands : tuple of str
    kind : {"difference", "ratio", "reflectance", "temperature"}
    limits : pair of float or None
        Values drawn darkest and brightest; None for those of the scene.
    """

    key: str
    title: str
    bands: tuple[str, ...]
    kind: Literal["difference", "ratio", "reflectance", "temperature"]
    limits: tuple[float, float] | None

    @property
    def needs_units(self) -> bool:
        """Whether it means nothing without the bands' units."""
        return self.kind in ("reflectance", "temperature")


DERIVED = (
    Derived("NDSI", "NDSI (snow and ice)", ("B3", "B6"), "difference", (-0.5, 1.0)),
    Derived("NDWI", "NDWI (water)", ("B2", "B6"), "difference", (-0.5, 1.0)),
    Derived("ratio", "Red / SWIR ratio", ("B4", "B6"), "ratio", (0.0, 8.0)),
    Derived("temperature", "Temperature (K)", (THERMAL_BAND,), "temperature", None),
    *(
        Derived(f"reflectance {band}", f"Reflectance {band}", (band,), "reflectance", (0.0, 1.0))
        for band in REFLECTIVE_BANDS
    ),
)


def derived(key: str) -> Derived:
    """The layer of that key; `DataError` shows the keys that exist."""
    for one in DERIVED:
        if one.key == key:
            return one
    raise DataError(f"There is no layer {key!r}. Choose from: {', '.join(one.key for one in DERIVED)}.")


def derive(
    wanted: Derived,
    image_CHW: npt.NDArray[np.float32],
    valid_HW: npt.NDArray[np.bool_],
    calibration: Mapping[str, Calibration],
) -> npt.NDArray[np.float32]:
    """Values of a derived layer, shape (H, W); NaN on nodata and where the formula has no answer.

    Parameters
    ----------
    wanted : Derived
    image_CHW : float32 array, shape (len(wanted.bands), H, W)
        The numbers of its bands as they are in the files.
    valid_HW : bool array, shape (H, W)
    calibration : mapping of band to Calibration
        Of the bands whose units are known.

    Raises
    ------
    DataError
        If reflectance or temperature is wanted and the units are not known.
    """
    known = all(band in calibration for band in wanted.bands)
    if wanted.needs_units and not known:
        raise DataError(f"The units of {', '.join(wanted.bands)} are not known, so {wanted.title} cannot be given.")
    planes = [
        calibration[band].apply(plane) if known else plane for band, plane in zip(wanted.bands, image_CHW, strict=True)
    ]
    with np.errstate(invalid="ignore"):
        if wanted.kind == "difference":
            # Reflectance below 0, which atmospheric correction leaves in deep shade, would send the index to infinity.
            values_HW = normalised_difference(*(np.maximum(plane, 0) for plane in planes))
        elif wanted.kind == "ratio":
            values_HW = ratio(*planes)
        else:
            values_HW = planes[0]
    return np.where(valid_HW, values_HW, np.float32(np.nan))


def check_numbers(values: npt.NDArray[np.floating], band: str) -> None:
    """Refuse values that cannot be a product's own numbers, such as reflectance that somebody has made of them.

    Raises
    ------
    DataError
    """
    if values.size and float(np.percentile(np.abs(values), 98)) < _LEAST_NUMBER:
        raise DataError(
            f"Band {band} has values up to {np.abs(values).max():g}: these are not the product's digital numbers, "
            "which its metadata would turn into units. Open the files as they were delivered."
        )
