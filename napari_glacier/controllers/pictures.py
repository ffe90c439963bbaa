"""Pixels for napari's image layers, read when they are looked at.

Shapes: image_CHW float32, rgba_HW4 uint8. A stack of scenes has a leading axis N. A large scene comes as `levels`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.levels import AHEAD, Level, level_factors
from napari_glacier.core.tiling import Window

if TYPE_CHECKING:
    from napari_glacier.core.data.mosaic import Mosaic

# Percentiles from this many pixels differ from those of all pixels by less than a grey level.
_SAMPLE_PX = 400_000
_SAMPLE_WINDOWS = 24
_STRIP_PX = 1024
# Of a large scene few pixels are sampled from many places.
_LARGE_SAMPLE_PX, _LARGE_SAMPLE_ROWS = 256, 16
# What makes values of a window's bands and the pixels that carry data.
Paint = Callable[["Mosaic", npt.NDArray[np.float32], npt.NDArray[np.bool_]], npt.NDArray[Any]]


def stretch_limits(
    values: npt.NDArray[np.floating], valid: npt.NDArray[np.bool_], low: float = 2.0, high: float = 98.0
) -> tuple[float, float]:
    """Contrast limits of a band: two percentiles over its valid pixels.

    Parameters
    ----------
    values : float array, any shape
    valid : bool array, the same shape
    low, high : float
        Percentiles.

    Returns
    -------
    tuple of float
        Always finite and increasing, (0, 1) where nothing is valid.
    """
    inside = values[valid]
    inside = inside[np.isfinite(inside)]
    if inside.size == 0:
        return 0.0, 1.0
    if inside.size > _SAMPLE_PX:
        inside = inside[:: inside.size // _SAMPLE_PX + 1]
    bottom, top = (float(value) for value in np.percentile(inside, [low, high]))
    return (bottom, top) if top > bottom else (bottom, bottom + max(abs(bottom) * 1e-6, 1.0))


def composite_rgba(
    image_CHW: npt.NDArray[np.floating],
    valid_HW: npt.NDArray[np.bool_],
    limits: Sequence[tuple[float, float]] | None = None,
) -> npt.NDArray[np.uint8]:
    """Turn three bands into a picture.

    Parameters
    ----------
    image_CHW : float array, shape (3, ..., H, W)
        Red, green and blue.
    valid_HW : bool array, shape (..., H, W)
    limits : three pairs of float, optional
        Values drawn as 0 and 255; default 2-98 percentile over valid pixels, each band for itself.

    Returns
    -------
    uint8 array, shape (..., H, W, 4)
        Nodata is transparent.
    """
    rgba = np.empty((*valid_HW.shape, 4), np.uint8)
    for channel, band in enumerate(image_CHW):
        bottom, top = limits[channel] if limits is not None else stretch_limits(band, valid_HW)
        scaled = (band - np.float32(bottom)) * np.float32(255.0 / (top - bottom))
        scaled += np.float32(0.5)
        # Unlike clip these make zero of what is not a number.
        np.fmin(np.fmax(scaled, 0, out=scaled), 255, out=scaled)
        np.multiply(scaled, valid_HW, out=rgba[..., channel], casting="unsafe")
    np.multiply(valid_HW, 255, out=rgba[..., 3], casting="unsafe")
    return rgba


class _LazyLayer:
    """An array-like that reads a scene (or one of several equal ones) when napari first looks at it.

    Parameters
    ----------
    scenes : sequence of Mosaic
        One scene gives shape (H, W, …), more give (N, H, W, …).
    dtype : dtype
    tail : tuple of int
        Axes after the pixels, (4,) for a picture.
    """

    def __init__(self, scenes: "Sequence[Mosaic]", dtype: npt.DTypeLike, tail: tuple[int, ...] = ()) -> None:
        self._scenes = tuple(scenes)
        self._planes: dict[int, npt.NDArray[Any]] = {}
        self._coming: dict[int, Future[npt.NDArray[Any]]] = {}
        self._stacked = len(self._scenes) > 1
        lead = (len(self._scenes),) if self._stacked else ()
        self.dtype = np.dtype(dtype)
        self.shape: tuple[int, ...] = (*lead, *self._scenes[0].shape, *tail)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # As with a `Level`, the copies of a layer share what is read; none of them writes.
        return self

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    @property
    def is_read(self) -> bool:
        """Whether any of it has been read from files yet."""
        return bool(self._planes)

    def _read(self, scene: "Mosaic") -> npt.NDArray[Any]:
        raise TypeError(f"{type(self).__name__} does not say how it reads a scene")

    def read_ahead(self) -> None:
        """Begin to read what is looked at first, in another thread; whoever looks at it waits for the rest."""
        if not self._planes and not self._coming:
            self._coming[0] = AHEAD.submit(self._read, self._scenes[0])

    def _plane(self, number: int) -> npt.NDArray[Any]:
        if number not in self._planes:
            coming = self._coming.pop(number, None)
            self._planes[number] = self._read(self._scenes[number]) if coming is None else coming.result()
        return self._planes[number]

    def __getitem__(self, key: Any) -> Any:
        if not self._stacked:
            return self._plane(0)[key]
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is not Ellipsis and not isinstance(first, slice) and np.ndim(first) == 0:
            # The slider's way of asking: one scene is read, not all of them.
            return self._plane(range(self.shape[0])[int(first)])[tuple(rest)]
        return np.asarray(self)[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        planes = [self._plane(number) for number in range(len(self._scenes))]
        array = np.stack(planes) if self._stacked else planes[0]
        return np.array(array, dtype=dtype, copy=True) if copy else np.asarray(array, dtype=dtype)

    def astype(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A copy of another type; napari's *Convert to Labels* asks for it."""
        return np.array(self, dtype=dtype)


class LazyPainting(_LazyLayer):
    """What is made of some bands.

    Parameters
    ----------
    scenes : sequence of Mosaic
    bands : sequence of str
    paint : callable
        Given the scene, its bands (C, h, w) and the pixels that carry data (h, w), gives the values (h, w, …).
    dtype, tail : see `_LazyLayer`
    """

    def __init__(
        self,
        scenes: "Sequence[Mosaic]",
        bands: Sequence[str],
        paint: Paint,
        dtype: npt.DTypeLike,
        tail: tuple[int, ...] = (),
    ) -> None:
        super().__init__(scenes, dtype, tail)
        self._bands, self._paint, self._tail = tuple(bands), paint, tail

    def _read(self, scene: "Mosaic") -> npt.NDArray[Any]:
        height, width = scene.shape
        painted = np.empty((height, width, *self._tail), self.dtype)
        # Strips keep the floats of several bands out of memory.
        for row in range(0, height, _STRIP_PX):
            strip = Window(row, 0, min(_STRIP_PX, height - row), width)
            image_CHW, valid_HW = scene.read(strip, self._bands)
            painted[row : row + strip.height] = self._paint(scene, image_CHW, valid_HW)
        return painted

    def levels(self) -> "list[Any]":
        """The one scene at full size and from afar, the finest first."""
        (scene,) = self._scenes
        return [
            Level(scene, factor, partial(self._part, scene, factor), self.dtype, self._tail)
            for factor in level_factors(scene.shape)
        ]

    def _part(self, scene: "Mosaic", factor: int, window: Window) -> npt.NDArray[Any]:
        read = scene.read(window, self._bands) if factor == 1 else scene.read_reduced(factor, window, self._bands)
        return self._paint(scene, *read)


class LazyBand(LazyPainting):
    """One band, float32, shape (H, W) or (N, H, W).

    Parameters
    ----------
    scenes : sequence of Mosaic
    band : str
    """

    def __init__(self, scenes: "Sequence[Mosaic]", band: str) -> None:
        super().__init__(scenes, (band,), lambda scene, image_CHW, valid_HW: image_CHW[0], np.float32)


class LazyComposite(LazyPainting):
    """Three bands as a picture, uint8, shape (H, W, 4) or (N, H, W, 4).

    Parameters
    ----------
    scenes : sequence of Mosaic
    bands : three str
        Red, green and blue.
    limits : three pairs of float
        Values drawn as 0 and 255.
    """

    def __init__(self, scenes: "Sequence[Mosaic]", bands: Sequence[str], limits: Sequence[tuple[float, float]]) -> None:
        def paint(
            scene: "Mosaic", image_CHW: npt.NDArray[np.float32], valid_HW: npt.NDArray[np.bool_]
        ) -> npt.NDArray[np.uint8]:
            return composite_rgba(image_CHW, valid_HW, limits)

        super().__init__(scenes, bands, paint, np.uint8, (4,))


class LazyQuality(_LazyLayer):
    """Classes of the scenes' quality bands, uint8: indices into `QUALITY_CLASSES`."""

    def __init__(self, scenes: "Sequence[Mosaic]") -> None:
        super().__init__(scenes, np.uint8)

    def _classes(self, scene: "Mosaic", factor: int, window: Window) -> npt.NDArray[np.uint8]:
        return scene.read_quality(factor, window)

    def _read(self, scene: "Mosaic") -> npt.NDArray[np.uint8]:
        return self._classes(scene, 1, scene.whole)

    def levels(self) -> "list[Level]":
        """The one scene at full size and from afar, the finest first."""
        (scene,) = self._scenes
        return [
            Level(scene, factor, partial(self._classes, scene, factor), self.dtype)
            for factor in level_factors(scene.shape)
        ]


class LazySources(LazyQuality):
    """Which scene of a mosaic a pixel is of, uint8: 0 in gaps, else its number among `Tile.parts`, from 1 on."""

    def _classes(self, scene: "Mosaic", factor: int, window: Window) -> npt.NDArray[np.uint8]:
        return scene.read_sources(factor, window)


def for_napari(data: "LazyPainting | LazyQuality", scenes: "Sequence[Mosaic]") -> dict[str, Any]:
    """Arguments ``data`` and, for a large scene, ``multiscale`` of a napari layer."""
    if len(scenes) == 1 and scenes[0].is_large:
        return {"data": data.levels(), "multiscale": True}
    return {"data": data}


def samples(
    scenes: "Sequence[Mosaic]", bands: Sequence[str]
) -> "Iterator[tuple[Mosaic, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]":
    """Bands and validity of pixels spread evenly over scenes, enough for percentiles; of large ones no more is read.

    A large scene whose files hold reduced copies gives the coarsest view of it, which is looked at first anyway.
    """
    if len(scenes) == 1 and scenes[0].is_large and all(place.tile.reduced for place in scenes[0].placements):
        factor = level_factors(scenes[0].shape)[-1]
        height, width = scenes[0].reduced_shape(factor)
        thin = _thinned(height * width)
        image_CHW, valid_HW = scenes[0].read_reduced(factor, Window(0, 0, height, width), bands)
        yield scenes[0], image_CHW[thin], valid_HW[thin]
        return
    spread = _spread_windows(scenes)
    thin = _thinned(sum(window.height * window.width for _, window in spread))
    for scene, window in spread:
        if not scene.is_large:
            image_CHW, valid_HW = scene.read(window, bands)
        else:
            (place,) = scene.tiles_in(window)[:1]
            rows = window.row - place.row, window.row - place.row + window.height
            cols = window.col - place.col, window.col - place.col + window.width
            image_CHW, valid_HW = scene.dataset.read(place.tile, bands, rows, cols)
        # Copies, so that each window's memory serves the next one.
        yield scene, image_CHW[thin].copy(), valid_HW[thin].copy()


def _thinned(num_pixels: int) -> tuple[Any, slice, slice]:
    """Neighbours are alike: which rows and columns leave as many pixels as are enough."""
    step = max(math.isqrt(num_pixels // _SAMPLE_PX), 1)
    return ..., slice(None, None, step), slice(None, None, step)


def band_limits(scenes: "Sequence[Mosaic]", bands: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Contrast limits of every band: 2-98 percentile over the valid pixels of all scenes, of many over a sample."""
    read = list(samples(scenes, bands))
    if not read:
        return {}
    image_CN = np.concatenate([image_CHW.reshape(len(bands), -1) for _, image_CHW, _ in read], axis=1)
    valid_N = np.concatenate([valid_HW.ravel() for _, _, valid_HW in read])
    return {band: stretch_limits(image_CN[number], valid_N) for number, band in enumerate(bands)}


def _spread_windows(scenes: "Sequence[Mosaic]") -> "list[tuple[Mosaic, Window]]":
    every = []
    for scene in scenes:
        for place in scene.placements:
            height, width = place.tile.height, place.tile.width
            down, across = (512, 512)
            if scene.is_large and place.tile.blocked:
                down, across = _LARGE_SAMPLE_PX, _LARGE_SAMPLE_PX
            elif scene.is_large:
                down, across = _LARGE_SAMPLE_ROWS, width
            every += [
                (scene, Window(place.row + row, place.col + col, min(down, height - row), min(across, width - col)))
                for row in range(0, height, down)
                for col in range(0, width, across)
            ]
    step = -(-len(every) // _SAMPLE_WINDOWS)
    return every[:: max(step, 1)]
