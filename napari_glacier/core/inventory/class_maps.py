"""Class maps to take outlines and areas from: masks that abut, seen as one raster.

Where masks overlap, a pixel takes the class that the mask gives it in which it lies further from the edge.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from napari_glacier.core.classes import IGNORE_INDEX, ClassScheme
from napari_glacier.core.errors import DataError
from napari_glacier.core.raster import read_mask_codes, read_mask_validity, read_raster
from napari_glacier.core.raster.georef import GeoRef

# Numbers of days, uint8 (H, W), and the days (YYYY-MM-DD); a number beyond them is of no day.
Days = Callable[[], tuple[npt.NDArray[np.uint8], tuple[str, ...]]]

# More than any depth.
_SEEN = 1 << 16


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask and what is known of it.

    Attributes
    ----------
    id : str
        The tile's, where the file or the data set states it; else what is left of the file's name.
    relative : Path
        Its path below the folder it was found in.
    tags : mapping of str to str
        The file's GDAL metadata items.
    probabilities : Path or None
        Raster of class probabilities that was predicted with it.
    review : str
        Review state of its tile; empty where no data set is given.
    split : str
    days : callable or None
        Of a mosaic of scenes: which of some days each of its pixels is of, uint8 (H, W), and these days.
    number : int or None
        Its position where the file is a stack of masks.
    """

    id: str
    path: Path
    relative: Path
    height: int
    width: int
    georef: GeoRef
    tags: Mapping[str, str]
    probabilities: Path | None = None
    review: str = ""
    split: str = ""
    days: Days | None = None
    number: int | None = None

    def read_seen(self) -> npt.NDArray[np.bool_] | None:
        """Pixels that carry data, bool (H, W); None where neither the mask nor its probabilities tell."""
        seen_HW = read_mask_validity(self.path)
        if seen_HW is None and self.probabilities is not None:
            seen_HW = ~np.isnan(read_raster(self.probabilities)[0])
        return seen_HW


@dataclass(frozen=True, slots=True)
class Part:
    """A mask and the position of its first pixel in the map."""

    mask: MaskFile
    row: int
    col: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the map that the mask covers."""
        return slice(self.row, self.row + self.mask.height), slice(self.col, self.col + self.mask.width)


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Masks on one grid that touch, as one raster."""

    name: str
    scheme: ClassScheme
    georef: GeoRef
    parts: tuple[Part, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (
            max(part.row + part.mask.height for part in self.parts),
            max(part.col + part.mask.width for part in self.parts),
        )

    def read(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Class indices, and the number of the part that gave each pixel (-1 in gaps), both of shape (H, W).

        Raises
        ------
        SchemeError
            If a mask holds a value outside the scheme.
        """
        owner_HW = self._owners()
        index_HW = np.zeros(self.shape, np.uint8)
        for number, part in enumerate(self.parts):
            codes_HW = read_mask_codes(part.mask.path, part.mask.number, self.scheme.codes)
            decoded_HW = self.scheme.decode(codes_HW, source=str(part.mask.path))
            own_HW = owner_HW[part.slices] == number
            index_HW[part.slices][own_HW] = decoded_HW[own_HW]
        return index_HW, owner_HW

    @property
    def has_probabilities(self) -> bool:
        """Whether every mask has its raster of probabilities."""
        return all(part.mask.probabilities is not None for part in self.parts)

    def read_probability(
        self, classes: Sequence[int], owner_HW: npt.NDArray[np.int32] | None = None
    ) -> npt.NDArray[np.float32]:
        """Probability that a pixel is of one of the classes, shape (H, W); nan on nodata and in gaps.

        Raises
        ------
        DataError
            If a raster of probabilities is missing, or has another size or number of bands.
        """
        owner_HW = self._owners() if owner_HW is None else owner_HW
        total_HW = np.full(self.shape, np.nan, np.float32)
        for number, part in enumerate(self.parts):
            own_HW = owner_HW[part.slices] == number
            total_HW[part.slices][own_HW] = self._probability_of(part.mask, classes)[own_HW]
        return total_HW

    def read_seen(self, owner_HW: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
        """Pixels that carry data as far as the masks tell, shape (H, W), of the parts that `read` named."""
        seen_HW = np.zeros(self.shape, bool)
        for number, part in enumerate(self.parts):
            own_HW = owner_HW[part.slices] == number
            told_HW = part.mask.read_seen()
            seen_HW[part.slices] |= own_HW if told_HW is None else own_HW & told_HW
        return seen_HW

    def read_other(self, masks: Iterable[MaskFile], scheme: ClassScheme) -> npt.NDArray[np.uint8]:
        """Class indices of other masks (labels) on this map's grid, shape (H, W); `IGNORE_INDEX` where there is none.

        Masks on another grid are left out.
        """
        height, width = self.shape
        index_HW = np.full(self.shape, IGNORE_INDEX, np.uint8)
        for mask in masks:
            position = self.georef.position_of(mask.georef)
            if position is None:
                continue
            row, col = position
            top, left = max(row, 0), max(col, 0)
            bottom, right = min(row + mask.height, height), min(col + mask.width, width)
            if top >= bottom or left >= right:
                continue
            codes_HW = read_mask_codes(mask.path, mask.number, scheme.codes)
            decoded_HW = scheme.decode(codes_HW, source=str(mask.path))
            index_HW[top:bottom, left:right] = decoded_HW[top - row : bottom - row, left - col : right - col]
        return index_HW

    def _probability_of(self, mask: MaskFile, classes: Sequence[int]) -> npt.NDArray[np.float32]:
        if mask.probabilities is None:
            raise DataError(f"{mask.path} has no probabilities beside it. Predict with --probabilities.")
        raster = read_raster(mask.probabilities)
        if raster.shape != (self.scheme.num_classes, mask.height, mask.width):
            raise DataError(
                f"{mask.probabilities} has the shape {raster.shape}; {self.scheme.num_classes} bands (a class each) of "
                f"{mask.height} x {mask.width} are needed. Predict again with --probabilities."
            )
        return np.asarray(raster[list(classes)].sum(axis=0), np.float32)

    def _owners(self) -> npt.NDArray[np.int32]:
        owner_HW = np.full(self.shape, -1, np.int32)
        depth_HW = np.zeros(self.shape, np.uint32)
        shared_N = self._share_ground()
        for number, part in enumerate(self.parts):
            depth = _depth(part.mask.height, part.mask.width).astype(np.uint32)
            seen_HW = part.mask.read_seen() if shared_N[number] else None
            # What one saw comes before what another, deeper in its rectangle, did not.
            depth += np.uint32(_SEEN) if seen_HW is None else np.where(seen_HW, np.uint32(_SEEN), np.uint32(0))
            deeper = depth > depth_HW[part.slices]
            owner_HW[part.slices][deeper] = number
            depth_HW[part.slices][deeper] = depth[deeper]
        return owner_HW

    def _share_ground(self) -> npt.NDArray[np.bool_]:
        """Whether another part reaches into each one, bool (parts,)."""
        top_N, left_N = (np.array([getattr(part, key) for part in self.parts]) for key in ("row", "col"))
        bottom_N = top_N + [part.mask.height for part in self.parts]
        right_N = left_N + [part.mask.width for part in self.parts]
        counts = [
            np.count_nonzero((top_N < bottom) & (top < bottom_N) & (left_N < right) & (left < right_N))
            for top, bottom, left, right in zip(top_N, bottom_N, left_N, right_N, strict=True)
        ]
        # Each reaches into itself.
        return np.array(counts) > 1


def _depth(height: int, width: int) -> npt.NDArray[np.uint16]:
    """How many pixels a pixel lies from the nearest edge, from 1 on."""
    rows = np.minimum(np.arange(1, height + 1), np.arange(height, 0, -1))
    cols = np.minimum(np.arange(1, width + 1), np.arange(width, 0, -1))
    return np.minimum(rows[:, None], cols[None, :]).clip(max=65535).astype(np.uint16)
