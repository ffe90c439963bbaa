"""As much of an array as napari asks of a layer's data, giving copies only."""

from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.correction.strokes import MaskArray


class CopyingArray:
    """A uint8 array that is read by copy: writing into what it gives changes nothing.

    Parameters
    ----------
    index : uint8 array
        Held, not copied.
    lock : RLock
        Held while pixels are copied.
    """

    def __init__(self, index: MaskArray, lock: RLock) -> None:
        self._index = index
        self._lock = lock

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return self._index.shape

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """uint8."""
        return self._index.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._index.ndim

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self._index.size

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        return self._index.nbytes

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, key: Any) -> Any:
        with self._lock:
            selection = self._index[key]
            return selection.copy() if isinstance(selection, np.ndarray) else selection

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("These labels are only given as a copy. Ask with copy=True or copy=None.")
        with self._lock:
            return np.array(self._index, dtype=dtype, copy=True)

    def astype(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A copy of another type; napari's *Convert Data Type* asks for it."""
        return np.array(self, dtype=dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> MaskArray:
        # A duplicated layer gets a plain array: two layers must not edit the same tiles.
        return np.array(self._index, copy=True)
