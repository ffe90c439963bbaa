"""What is known about the pixels of a window: spectrum and predicted probability, as one space of features.

Shapes: C bands, K classes, F features (C + K, or C where there is no prediction).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from napari_glacier.core.tiling import Window

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# Two pixels whose predicted classes share no probability are as far apart as this many standard deviations.
PROBABILITY_WEIGHT = 1.5


@dataclass(frozen=True)
class Evidence:
    """Standardised bands and predicted probabilities of a window.

    Attributes
    ----------
    window : Window
        Where in the scene.
    spectrum_CHW : float32 array
        Standard deviations from the scene's mean; 0 on nodata.
    valid_HW : bool array
    probability_KHW : float32 array or None
        None where nothing was predicted.
    """

    window: Window
    spectrum_CHW: FloatArray
    valid_HW: BoolArray
    probability_KHW: FloatArray | None = None

    @cached_property
    def features(self) -> FloatArray:
        """Smoothed features, float32 (F, H, W); 0 on nodata.

        The squared distance of two pixels is the mean over bands of their squared difference in standard deviations,
        plus `PROBABILITY_WEIGHT` squared times the squared Hellinger distance of their probabilities.
        """
        import cv2

        height, width = self.valid_HW.shape
        # Noise of single pixels would tear regions apart; nodata must not bleed into its neighbours.
        weight_HW = cv2.blur(self.valid_HW.astype(np.float32), (3, 3))
        np.maximum(weight_HW, 1 / 9, out=weight_HW)
        planes = [(band_HW, 1 / np.sqrt(len(self.spectrum_CHW))) for band_HW in self.spectrum_CHW]
        if self.probability_KHW is not None:
            planes += [(np.sqrt(p_HW), PROBABILITY_WEIGHT / np.sqrt(2)) for p_HW in self.probability_KHW]
        features_FHW = np.empty((len(planes), height, width), np.float32)
        for number, (values_HW, scale) in enumerate(planes):
            known_HW = np.where(self.valid_HW, values_HW, np.float32(0))
            np.multiply(cv2.blur(known_HW, (3, 3)), np.float32(scale) / weight_HW, out=features_FHW[number])
        features_FHW[:, ~self.valid_HW] = 0
        return features_FHW

    @cached_property
    def edges(self) -> FloatArray:
        """Strength of the edge at each pixel, float32 (H, W); 0 on nodata.

        The length of the features' gradient by central differences.
        """
        squared_HW = np.zeros(self.valid_HW.shape, np.float32)
        for plane_HW in self.features:
            for axis in (0, 1):
                if plane_HW.shape[axis] > 1:
                    squared_HW += np.gradient(plane_HW, axis=axis) ** 2
        edge_HW = np.sqrt(squared_HW)
        edge_HW[~self.valid_HW] = 0
        return edge_HW


def standardise(
    image_CHW: npt.NDArray[np.floating], valid_HW: BoolArray, mean_C: npt.ArrayLike, std_C: npt.ArrayLike
) -> FloatArray:
    """Bands in standard deviations from their mean, float32; 0 on nodata.

    Values beyond five standard deviations (saturated snow, dead pixels) count as five.
    """
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (mean_C, std_C))
    scale = np.where(std > 0, std, np.float32(1)).astype(np.float32)
    scaled_CHW: FloatArray = ((np.asarray(image_CHW, np.float32) - mean) / scale).astype(np.float32, copy=False)
    np.clip(np.nan_to_num(scaled_CHW, copy=False), -5.0, 5.0, out=scaled_CHW)
    return np.where(valid_HW, scaled_CHW, np.float32(0))


def soft_labels(index_HW: npt.NDArray[np.uint8], entropy_HW: npt.NDArray[np.floating], num_classes: int) -> FloatArray:
    """Probabilities where only the likeliest class and the entropy were kept.

    The likeliest class gets ``1 - entropy`` (entropy divided by log K, so between 0 and 1) and an equal share of the
    rest, as the other classes do.

    Returns
    -------
    float32 array, shape (K, H, W)
        Sums to 1 over classes.
    """
    rest_HW = np.clip(np.asarray(entropy_HW, np.float32), 0, 1)
    probability_KHW: FloatArray = np.repeat((rest_HW / num_classes)[np.newaxis], num_classes, axis=0)
    chosen_HW = np.minimum(index_HW, num_classes - 1)[np.newaxis].astype(np.intp)
    np.put_along_axis(
        probability_KHW, chosen_HW, np.take_along_axis(probability_KHW, chosen_HW, 0) + (1 - rest_HW), axis=0
    )
    return probability_KHW


def balanced(probability_KHW: FloatArray, label: int, least: float) -> npt.NDArray[np.uint8]:
    """One class wherever it has at least a given probability, and the likeliest other class elsewhere, uint8 (H, W).

    For a place where a model is too fond of a class, or too wary of it.
    """
    others_KHW = probability_KHW.copy()
    others_KHW[label] = -1
    other_HW = others_KHW.argmax(axis=0)
    return np.where(probability_KHW[label] >= least, label, other_HW).astype(np.uint8)
