"""Superpixels and the graph between them: what makes a random walk over a screenful of pixels take milliseconds."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from napari_glacier.core.tools.evidence import Evidence, FloatArray

SIZE_PX = 8
_LEVELS = 255
# scipy's image foresting transform counts its markers in 32 bits and their costs in 16.
_GREATEST = 99.0


@dataclass(frozen=True)
class Superpixels:
    """An over-segmentation of a window, whose borders follow spectral edges.

    Attributes
    ----------
    label_HW : int32 array
        Superpixel of each pixel, from 0.
    features_NF : float32 array
        Mean features of each superpixel.
    valid_N : bool array
        Superpixels that carry data.
    first_E, second_E : int arrays
        Neighbouring superpixels, each pair once.
    border_E : float32 array
        Length of their common border in pixel sides.
    """

    label_HW: npt.NDArray[np.int32]
    features_NF: FloatArray
    valid_N: npt.NDArray[np.bool_]
    first_E: npt.NDArray[np.intp]
    second_E: npt.NDArray[np.intp]
    border_E: FloatArray

    @property
    def count(self) -> int:
        """Number of superpixels."""
        return len(self.valid_N)


def superpixels(evidence: Evidence, size_px: int = SIZE_PX) -> Superpixels:
    """Cut a window into superpixels of about `size_px` by `size_px` pixels.

    Seeds on a regular grid flood the edge strength (an image foresting transform, Falcao et al. 2004); nodata is apart
    from everything else.

    Parameters
    ----------
    evidence : Evidence
    size_px : int
    """
    from scipy import ndimage

    height, width = evidence.valid_HW.shape
    rows, cols = (np.arange(min(size_px // 2, length - 1), length, size_px) for length in (height, width))
    marker_HW = np.zeros((height, width), np.int32)
    marker_HW[np.ix_(rows, cols)] = np.arange(1, rows.size * cols.size + 1).reshape(rows.size, cols.size)
    top = float(np.percentile(evidence.edges[::4, ::4], _GREATEST)) or 1.0
    level_HW = np.minimum(evidence.edges * np.float32(_LEVELS / top), _LEVELS).astype(np.uint8)
    label_HW = ndimage.watershed_ift(level_HW, marker_HW) - 1
    count = rows.size * cols.size
    if not evidence.valid_HW.all():
        # The nodata part of a superpixel becomes one of its own: nothing walks through nodata.
        label_HW, count = _apart(label_HW, evidence.valid_HW)
    flat = label_HW.ravel()
    sizes_N = np.maximum(np.bincount(flat, minlength=count), 1)
    features_NF = np.stack(
        [np.bincount(flat, plane_HW.ravel(), minlength=count) / sizes_N for plane_HW in evidence.features], axis=1
    )
    valid_N = np.zeros(count, bool)
    valid_N[flat[evidence.valid_HW.ravel()]] = True
    return Superpixels(label_HW, features_NF.astype(np.float32), valid_N, *_borders(label_HW, count))


def _apart(label_HW: npt.NDArray[np.int32], valid_HW: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int32], int]:
    used, compact = np.unique(np.where(valid_HW, 2 * label_HW, 2 * label_HW + 1), return_inverse=True)
    return compact.reshape(label_HW.shape).astype(np.int32), len(used)


def _borders(
    label_HW: npt.NDArray[np.int32], count: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], FloatArray]:
    from scipy import sparse

    sides = []
    for one_HW, other_HW in ((label_HW[:, :-1], label_HW[:, 1:]), (label_HW[:-1], label_HW[1:])):
        differ_HW = one_HW != other_HW
        one, other = one_HW[differ_HW], other_HW[differ_HW]
        sides.append((np.minimum(one, other), np.maximum(one, other)))
    first, second = (np.concatenate([side[k] for side in sides]) for k in (0, 1))
    # Adding up doubles in a sparse matrix is several times faster than sorting them.
    border = sparse.coo_matrix((np.ones(first.size, np.float32), (first, second)), shape=(count, count)).tocsr()
    pairs = border.tocoo()
    return pairs.row.astype(np.intp), pairs.col.astype(np.intp), pairs.data
