"""What a report holds: areas with intervals, changes, tiles, and the arrays of its maps.

Quantities are the classes of the map and, where it has both, glacier and debris together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.inventory.borders import Lakes
from napari_glacier.core.inventory.calibration import Calibration
from napari_glacier.core.inventory.class_maps import ClassMap

Image = npt.NDArray[np.float32]
Index = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A class, or classes together, whose area is asked for."""

    name: str
    classes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Area:
    """Area of a quantity in km².

    Attributes
    ----------
    mapped : float
        Of the mask's pixels.
    expected : float or None
        Sum of probabilities times pixel areas; calibrated where `is_calibrated`.
    low, high : float or None
        The interval, or the envelope where probabilities are not calibrated; see docs/outlines.md.
    """

    name: str
    pixels: int
    mapped: float
    expected: float | None = None
    low: float | None = None
    high: float | None = None
    is_calibrated: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """What correction did to a quantity, in km², on the pixels that have labels."""

    name: str
    predicted: float
    corrected: float
    gained: float
    lost: float


@dataclass(frozen=True, slots=True)
class TileRow:
    """Figures of one tile; areas by the name of the quantity."""

    id: str
    review: str
    areas: Mapping[str, Area]
    interface_km: float | None
    changed_km2: float | None


@dataclass(frozen=True)
class Scene:
    """The arrays of one map, for figures; `compared_HW` is the map in the classes of the labels."""

    class_map: ClassMap
    index_HW: Index
    owner_HW: npt.NDArray[np.int32]
    area_HW: Image
    labels_HW: Index | None
    compared_HW: Index | None


@dataclass(frozen=True)
class Report:
    """All figures; see the attributes' own classes."""

    title: str
    scheme: ClassScheme
    level: float
    areas: Sequence[Area]
    changes: Sequence[Change]
    interface_km: float | None
    lakes: Lakes | None
    tiles: Sequence[TileRow]
    calibrations: Mapping[str, Calibration]
    scenes: Sequence[Scene]
    facts: Mapping[str, str]
    notes: Sequence[str] = field(default_factory=tuple)


def quantities_of(scheme: ClassScheme) -> tuple[Quantity, ...]:
    """Each class but the background, and glacier with debris where there are both."""
    single = [Quantity(name, (k,)) for k, name in enumerate(scheme.class_names) if k > 0]
    both = [Quantity("glacier + debris", scheme.interface)] if scheme.interface else []
    return (*single, *both)
