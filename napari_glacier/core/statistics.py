"""Exact statistics of a data set in one streaming pass."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.channels import Normalisation

# Relative to the mean: below the spacing of float32 numbers, a spread is what rounding leaves of a constant.
_ROUNDING = 1e-7


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
