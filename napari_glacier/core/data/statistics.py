"""Exact statistics of a data set in one streaming pass."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.channels import Normalisation

# Relative to the mean: below the spacing of float32 numbers, a spread is what rounding leaves of a constant.
_ROUNDING = 1e-7
# Values kept apart before they are rounded; more than the 65,536 of 16-bit data.
_MAX_VALUES = 1 << 18
# Bits of the fraction that rounded values keep: their relative error is at most 2^-13.
_FRACTION_BITS = 12


class PooledStatistics:
    """Mean and standard deviation per channel over all valid pixels of a data set.

    Each update's mean and sum of squared deviations are merged by the pairwise formula of Chan, Golub
    and LeVeque (1979), in float64: equal to a two-pass computation, unlike a mean of per-tile deviations.
    """

    def __init__(self, num_channels: int) -> None:
        self.counts_C: npt.NDArray[np.int64] = np.zeros(num_channels, np.int64)
        self.mean: npt.NDArray[np.float64] = np.zeros(num_channels)
        self._squares: npt.NDArray[np.float64] = np.zeros(num_channels)

    @property
    def count(self) -> int:
        """Pixels seen of the channel that most images have."""
        return int(self.counts_C.max(initial=0))

    def update(
        self, image_CHW: npt.NDArray[Any], valid_HW: npt.NDArray[np.bool_], present: Sequence[bool] | None = None
    ) -> None:
        """Add the valid pixels of an image.

        Parameters
        ----------
        image_CHW : array, shape (C, H, W)
        valid_HW : bool array, shape (H, W)
        present : sequence of bool, optional
            Which channels the image really has; a band that is missing and filled with zeros is not counted.
        """
        pixels_CN = image_CHW[:, valid_HW].astype(np.float64)
        if pixels_CN.shape[1] == 0:
            return
        part = PooledStatistics(len(self.mean))
        part.counts_C[:] = pixels_CN.shape[1] if present is None else np.where(present, pixels_CN.shape[1], 0)
        part.mean = pixels_CN.mean(axis=1)
        part._squares = ((pixels_CN - part.mean[:, None]) ** 2).sum(axis=1)
        self.merge(part)

    def merge(self, other: "PooledStatistics") -> None:
        """Add the pixels that another instance has seen."""
        total_C = self.counts_C + other.counts_C
        divisor_C = np.maximum(total_C, 1)
        delta_C = other.mean - self.mean
        self.mean = self.mean + delta_C * (other.counts_C / divisor_C)
        theirs_C = np.where(other.counts_C > 0, other._squares, 0.0)
        self._squares = self._squares + theirs_C + delta_C**2 * (self.counts_C * other.counts_C / divisor_C)
        self.counts_C = total_C

    @property
    def std(self) -> npt.NDArray[np.float64]:
        """Population standard deviation per channel."""
        return np.sqrt(self._squares / np.maximum(self.counts_C, 1))

    @property
    def is_constant(self) -> npt.NDArray[np.bool_]:
        """Channels that were seen with one value only."""
        return np.asarray((self.counts_C > 0) & (self.std <= _ROUNDING * np.abs(self.mean)))

    def normalisation(self) -> Normalisation:
        """The statistics as a model's normalisation; a constant or unseen channel is shifted, not scaled."""
        scale_C = np.where(self.is_constant | (self.counts_C == 0), 1.0, self.std)
        return Normalisation(tuple(self.mean.tolist()), tuple(scale_C.tolist()))


class Quantiles:
    """Quantiles of one channel over all valid pixels of a data set, from counts of its values.

    Exact while the channel has at most 262,144 different values, as any 8- or 16-bit data have. Where there are
    more, values are rounded to a relative error of at most 2^-13 (0.012 %).
    """

    def __init__(self) -> None:
        self._values: npt.NDArray[np.float64] = np.empty(0)
        self._counts: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._rounded = False

    def update(self, values: npt.NDArray[Any]) -> None:
        """Add values, of any shape."""
        fresh, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
        self._merge(fresh, counts)
        if len(self._values) > _MAX_VALUES and not self._rounded:
            self._rounded = True
            self._merge(np.empty(0), np.empty(0, np.int64))

    def at(self, share: float) -> float:
        """Value below which a share of all values lies, between two values in proportion (as numpy's default).

        Raises
        ------
        ValueError
            If no value was seen.
        """
        if not len(self._values):
            raise ValueError("There are no values to take a quantile of.")
        ends = self._counts.cumsum()
        place = share * (int(ends[-1]) - 1)
        below = int(np.floor(place))
        low = self._values[np.searchsorted(ends, below, side="right")]
        high = self._values[np.searchsorted(ends, min(below + 1, int(ends[-1]) - 1), side="right")]
        return float(low + (high - low) * (place - below))

    def _merge(self, fresh: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> None:
        values, totals = np.concatenate([self._values, fresh]), np.concatenate([self._counts, counts])
        if self._rounded:
            fraction, exponent = np.frexp(values)
            values = np.ldexp(np.round(fraction * 2.0 ** (_FRACTION_BITS + 1)), exponent - _FRACTION_BITS - 1)
        self._values, where = np.unique(values, return_inverse=True)
        self._counts = np.bincount(where, weights=totals, minlength=len(self._values)).astype(np.int64)
