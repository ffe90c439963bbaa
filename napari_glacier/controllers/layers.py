"""What a scene looks like in napari: composites, bands, labels, predictions, and where they lie.

Shapes: image_CHW float32, rgba_HW4 uint8, index_HW uint8. A stack of scenes has a leading axis N.

World coordinates are metres with axis 0 = minus northing and axis 1 = easting. napari draws axis 0
downwards, so minus northing keeps north up on every viewer, whatever else is open in it and without
turning its camera round.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_glacier.core.bands import ALL_BANDS, TERRAIN_BANDS
from napari_glacier.core.tiling import Window

if TYPE_CHECKING:
    from napari.utils.colormaps import DirectLabelColormap

    from napari_glacier.core.classes import ClassScheme
    from napari_glacier.core.mosaic import Mosaic
    from napari_glacier.core.raster import GeoRef

KEY = "napari_glacier"

# Drawn in this order: the last one lies on top and is the one shown first.
COMPOSITES: dict[str, tuple[str, ...]] = {
    "SWIR-green-blue": ("B6", "B3", "B2"),
    "True colour": ("B4", "B3", "B2"),
    "Picture": ("red", "green", "blue"),
}
BAND_TITLES = {"B2": "blue", "B3": "green", "B4": "red", "B6": "SWIR", "B10": "thermal"}
LABELS_OPACITY = 0.55

# Percentiles from this many pixels differ from those of all pixels by less than a grey level.
_SAMPLE_PX = 400_000
_SAMPLE_WINDOWS = 24
_STRIP_PX = 1024


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
    rgba = np.zeros((*valid_HW.shape, 4), np.uint8)
    for channel, band in enumerate(image_CHW):
        bottom, top = limits[channel] if limits is not None else stretch_limits(band, valid_HW)
        scaled = (band - np.float32(bottom)) * np.float32(255.0 / (top - bottom))
        rgba[..., channel] = np.clip(np.nan_to_num(scaled) + 0.5, 0.0, 255.0)
    rgba[~valid_HW] = 0
    rgba[..., 3] = np.where(valid_HW, 255, 0)
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
        self._stacked = len(self._scenes) > 1
        lead = (len(self._scenes),) if self._stacked else ()
        self.dtype = np.dtype(dtype)
        self.shape: tuple[int, ...] = (*lead, *self._scenes[0].shape, *tail)

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

    def _plane(self, number: int) -> npt.NDArray[Any]:
        if number not in self._planes:
            self._planes[number] = self._read(self._scenes[number])
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


class LazyBand(_LazyLayer):
    """One band, float32, shape (H, W) or (N, H, W).

    Parameters
    ----------
    scenes : sequence of Mosaic
    band : str
    """

    def __init__(self, scenes: "Sequence[Mosaic]", band: str) -> None:
        super().__init__(scenes, np.float32)
        self._band = band

    def _read(self, scene: "Mosaic") -> npt.NDArray[np.float32]:
        image_CHW, _ = scene.read(Window(0, 0, *scene.shape), (self._band,))
        band_HW: npt.NDArray[np.float32] = image_CHW[0]
        return band_HW


class LazyComposite(_LazyLayer):
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
        super().__init__(scenes, np.uint8, (4,))
        self._bands = tuple(bands)
        self._limits = tuple(limits)

    def _read(self, scene: "Mosaic") -> npt.NDArray[np.uint8]:
        height, width = scene.shape
        rgba_HW4 = np.empty((height, width, 4), np.uint8)
        # Strips keep the floats of a whole Landsat scene (0.7 GB) out of memory.
        for row in range(0, height, _STRIP_PX):
            strip = Window(row, 0, min(_STRIP_PX, height - row), width)
            image_CHW, valid_HW = scene.read(strip, self._bands)
            rgba_HW4[row : row + strip.height] = composite_rgba(image_CHW, valid_HW, self._limits)
        return rgba_HW4


def band_limits(scenes: "Sequence[Mosaic]", bands: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Contrast limits of every band: 2-98 percentile over the valid pixels of all scenes.

    More than a few million pixels are sampled by evenly spread windows.
    """
    spread = _spread_windows(scenes)
    read = [scene.read(window, bands) for scene, window in spread]
    if not read:
        return {}
    image_CN = np.concatenate([image_CHW.reshape(len(bands), -1) for image_CHW, _ in read], axis=1)
    valid_N = np.concatenate([valid_HW.ravel() for _, valid_HW in read])
    return {band: stretch_limits(image_CN[number], valid_N) for number, band in enumerate(bands)}


def _spread_windows(scenes: "Sequence[Mosaic]") -> "list[tuple[Mosaic, Window]]":
    every = []
    for scene in scenes:
        for place in scene.placements:
            height, width = place.tile.height, place.tile.width
            every += [
                (
                    scene,
                    Window(place.row + row, place.col + col, min(512, height - row), min(512, width - col)),
                )
                for row in range(0, height, 512)
                for col in range(0, width, 512)
            ]
    step = -(-len(every) // _SAMPLE_WINDOWS)
    return every[:: max(step, 1)]


def world_placement(georef: "GeoRef | None", ndim: int = 2) -> dict[str, Any]:
    """Layer arguments that put pixels where they lie on the map.

    Parameters
    ----------
    georef : GeoRef or None
        None gives pixels as they are.
    ndim : int
        3 for a stack, whose first axis counts scenes.

    Returns
    -------
    dict
        ``scale``, ``translate`` and ``units`` for a north-up grid, ``affine`` and ``units`` for a turned one.
    """
    if georef is None or ndim != 2:
        return {}
    a, b, c, d, e, f = georef.transform
    # napari's pixel (0, 0) is a centre, a raster's transform speaks of corners.
    east, north = c + (a + b) / 2, f + (d + e) / 2
    units = (world_unit(georef),) * 2
    if b == 0 and d == 0:
        return {"scale": (-e, a), "translate": (-north, east), "units": units}
    return {"affine": np.array([[-e, -d, -north], [b, a, east], [0.0, 0.0, 1.0]]), "units": units}


def world_unit(georef: "GeoRef") -> str:
    """The unit of the map: degree for a geographic system, else metre."""
    geographic = georef.is_geographic
    return "degree" if geographic else "metre"


def world_to_map(position: Sequence[float]) -> tuple[float, float]:
    """Easting and northing of a position in napari's world coordinates."""
    return float(position[-1]), -float(position[-2])


def map_text(georef: "GeoRef", position: Sequence[float]) -> str:
    """Easting and northing for people: ``E 567 960  N 3 771 840  EPSG:32643``."""
    east, north = world_to_map(position)
    if world_unit(georef) == "degree":
        text = f"lon {east:.5f}°  lat {north:.5f}°"
    else:
        text = f"E {east:,.0f} m  N {north:,.0f} m".replace(",", "\u202f")
    return f"{text}  EPSG:{georef.epsg}" if georef.epsg else text


def class_colormap(scheme: "ClassScheme") -> "DirectLabelColormap":
    """The scheme's colours for a Labels layer; background and unknown values are transparent."""
    from napari.utils.colormaps import DirectLabelColormap

    colors: dict[int | None, str] = {index: color for index, color in enumerate(scheme.colors) if index}
    return DirectLabelColormap(color_dict={**colors, 0: "transparent", None: "transparent"})


def class_features(scheme: "ClassScheme") -> dict[str, list[Any]]:
    """What napari's status bar says of a label value: the class name."""
    return {"index": list(range(scheme.num_classes)), "class": list(scheme.class_names)}


def scene_layers(
    scenes: "Sequence[Mosaic]", mask: Any, scheme: "ClassScheme", bands: Sequence[str], tag: dict[str, Any]
) -> list[tuple[Any, dict[str, Any], str]]:
    """Layer data tuples of a scene (or a stack of equal scenes), bottom layer first.

    Parameters
    ----------
    scenes : sequence of Mosaic
    mask : EditableMask
        What the Labels layer edits.
    scheme : ClassScheme
    bands : sequence of str
        The bands that the data have.
    tag : dict
        Kept in each layer's ``metadata["napari_glacier"]``, with the layer's role added.

    Returns
    -------
    list of (data, keyword arguments, layer type)
    """
    stacked = len(scenes) > 1
    place = world_placement(None if stacked else scenes[0].georef, 3 if stacked else 2)
    limits = band_limits(scenes, bands)
    composites = _composites(bands)

    layers: list[tuple[Any, dict[str, Any], str]] = []
    for band in sorted(bands, key=_band_order, reverse=True):
        layers.append(
            (
                LazyBand(scenes, band),
                {
                    "name": _band_name(band),
                    "colormap": "gray",
                    "contrast_limits": limits[band],
                    "visible": False,
                    "metadata": {KEY: {**tag, "role": "band", "band": band}},
                    **place,
                },
                "image",
            )
        )
    for name, chosen in composites.items():
        layers.append(
            (
                LazyComposite(scenes, chosen, [limits[band] for band in chosen]),
                {
                    "name": name,
                    "rgb": True,
                    "visible": name == list(composites)[-1],
                    "metadata": {KEY: {**tag, "role": "composite"}},
                    **place,
                },
                "image",
            )
        )
    layers.append(
        (
            mask,
            {
                "name": "Labels",
                "opacity": LABELS_OPACITY,
                "colormap": class_colormap(scheme),
                "features": class_features(scheme),
                "metadata": {KEY: {**tag, "role": "labels"}},
                **place,
            },
            "labels",
        )
    )
    return layers


def _composites(bands: Sequence[str]) -> dict[str, tuple[str, ...]]:
    possible = {name: chosen for name, chosen in COMPOSITES.items() if set(chosen) <= set(bands)}
    seen = [band for band in bands if band not in TERRAIN_BANDS]
    return possible or {"Composite": tuple((seen * 3)[:3])}


def _band_order(band: str) -> int:
    return ALL_BANDS.index(band)


def _band_name(band: str) -> str:
    return f"{band} {BAND_TITLES[band]}" if band in BAND_TITLES else band
