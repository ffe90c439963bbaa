"""The spectra behind the classes: what a pixel is compared with when a person asks why."""

import numpy as np
import numpy.typing as npt

from napari_glacier.core.correction.strokes import MaskArray
from napari_glacier.core.tools.evidence import BoolArray


def class_means(
    image_CHW: npt.NDArray[np.floating], index_HW: MaskArray, valid_HW: BoolArray, num_classes: int
) -> npt.NDArray[np.float64]:
    """Mean of each band over each class's valid pixels, shape (K, C); NaN for a class without pixels."""
    index_N = index_HW[valid_HW]
    counts_K = np.bincount(index_N, minlength=num_classes)[:num_classes]
    sums_CK = np.stack(
        [np.bincount(index_N, band_HW[valid_HW], minlength=num_classes)[:num_classes] for band_HW in image_CHW]
    )
    with np.errstate(invalid="ignore"):
        means_KC: npt.NDArray[np.float64] = (sums_CK / np.where(counts_K > 0, counts_K, np.nan)).T
    return means_KC
