"""Exact statistics of a data set in one streaming pass."""

from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.channels import Normalisation


class PooledStatistics:
    """Mean and standard deviation per channel over all valid pixels of a data set.

    Each update's mean and sum of squared deviations are merged by the pairwise formula of Chan, Golub
    and LeVeque (1979), in float64: equal to a two-pass computation, unlike a mean of per-tile deviations.
    """

    def __init__(self, num_channels: int) -> None:
        self.count = 0
        self.mean: npt.NDArray[np.float64] = np.zeros(num_channels)
        self._squares: npt.NDArray[np.float64] = np.zeros(num_channels)

    def update(self, image_CHW: npt.NDArray[Any], valid_HW: npt.NDArray[np.bool_]) -> None:
        """Add the valid pixels of an image, shape (C, H, W)."""
        pixels_CN = image_CHW[:, valid_HW].astype(np.float64)
        if pixels_CN.shape[1] == 0:
            return
        part = PooledStatistics(len(self.mean))
        part.count = pixels_CN.shape[1]
        part.mean = pixels_CN.mean(axis=1)
        part._squares = ((pixels_CN - part.mean[:, None]) ** 2).sum(axis=1)
        self.merge(part)

    def merge(self, other: "PooledStatistics") -> None:
        """Add the pixels that another instance has seen."""
        total = self.count + other.count
        if total == 0:
            return
        delta = other.mean - self.mean
        self.mean = self.mean + delta * (other.count / total)
        self._squares = self._squares + other._squares + delta**2 * (self.count * other.count / total)
        self.count = total

    @property
    def std(self) -> npt.NDArray[np.float64]:
        """Population standard deviation per channel."""
        return np.sqrt(self._squares / max(self.count, 1))

    def normalisation(self) -> Normalisation:
        """The statistics as a model's normalisation."""
        return Normalisation(tuple(self.mean.tolist()), tuple(self.std.tolist()))
