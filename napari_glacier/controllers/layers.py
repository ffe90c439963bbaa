"""What a scene looks like in napari: composites, bands, labels, predictions, and where they lie.

Shapes: image_CHW float32, rgba_HW4 uint8, index_HW uint8. A stack of scenes has a leading axis N.

World coordinates are metres with axis 0 = minus northing and axis 1 = easting. napari draws axis 0
downwards, so minus northing keeps north up on every viewer, whatever else is open in it and without
turning its camera round.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.pictures import (
    LazyBand,
    LazyComposite,
    LazyPainting,
    LazyQuality,
    LazySources,
    band_limits,
    for_napari,
    samples,
    stretch_limits,
)
from napari_glacier.core.bands import ALL_BANDS, TERRAIN_BANDS
from napari_glacier.core.derived import Derived, check_numbers, derive
from napari_glacier.core.errors import DataError
from napari_glacier.core.scenes.products import QUALITY_CLASSES, Calibration

if TYPE_CHECKING:
    from napari.utils.colormaps import DirectLabelColormap

    from napari_glacier.controllers.session import Session
    from napari_glacier.core.classes import ClassScheme
    from napari_glacier.core.data.mosaic import Mosaic
    from napari_glacier.core.raster import GeoRef

KEY = "napari_glacier"
# What napari's readers give for a layer: data, keyword arguments, type.
LayerData = tuple[Any, dict[str, Any], str]

# Drawn in this order: the last one lies on top and is the one shown first.
COMPOSITES: dict[str, tuple[str, ...]] = {
    "SWIR-green-blue": ("B6", "B3", "B2"),
    "True colour": ("B4", "B3", "B2"),
    "Picture": ("red", "green", "blue"),
}
BAND_TITLES = {"B2": "blue", "B3": "green", "B4": "red", "B6": "SWIR", "B10": "thermal"}
LABELS_OPACITY = 0.55
# Of `QUALITY_CLASSES`: seen on snow and on rock, and told apart by colour-blind people.
QUALITY_COLORS = ("transparent", "#e69f00", "#f0e442", "#3d2b7a", "#d6278a")


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


def say_where(layer: Any, session: "Session") -> Callable[[], None]:
    """Let napari's status bar speak of easting and northing over one of our layers; gives the undo."""
    original = layer.get_status

    def get_status(position: Any = None, **arguments: Any) -> dict[str, str]:
        status: dict[str, str] = original(position, **arguments)
        if position is None or not arguments.get("world"):
            return status
        if session.stacked:
            number = min(max(round(float(position[-session.mask.ndim])), 0), len(session.scenes) - 1)
            where = f"tile {session.scenes[number].name} {status['coords']}"
        else:
            georef = session.georef(0)
            if georef is None:
                return status
            where = map_text(georef, position)
        # The plain text stands where napari puts its bracketed coordinates; value and class name stay behind it.
        rest = status["coordinates"].removeprefix(status["coords"]).rstrip(": ")
        return {**status, "coords": where, "coordinates": where + rest}

    layer.get_status = get_status

    def undo() -> None:
        del layer.get_status

    return undo


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
) -> list[LayerData]:
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
    place = _placement(scenes)
    limits = band_limits(scenes, bands)
    composites = _composites(bands)

    layers: list[LayerData] = []
    for band in sorted(bands, key=_band_order, reverse=True):
        image = for_napari(LazyBand(scenes, band), scenes)
        layers.append(
            (
                image.pop("data"),
                {
                    **image,
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
        image = for_napari(LazyComposite(scenes, chosen, [limits[band] for band in chosen]), scenes)
        layers.append(
            (
                image.pop("data"),
                {
                    **image,
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


def derived_layer(scenes: "Sequence[Mosaic]", wanted: Derived, tag: dict[str, Any]) -> LayerData:
    """Layer data tuple of an index, reflectance or temperature.

    Raises
    ------
    DataError
        If a band is missing, its units are not known but needed, or its values cannot be what the product delivers.
    """
    reason = why_not(scenes, wanted)
    if reason:
        raise DataError(reason)
    values = []
    for scene, image_CHW, valid_HW in samples(scenes, wanted.bands):
        for band, plane_HW in zip(wanted.bands, image_CHW, strict=True):
            if band in calibration_of(scene):
                check_numbers(plane_HW[valid_HW], band)
        values_HW = derive(wanted, image_CHW, valid_HW, calibration_of(scene))
        values.append(values_HW[np.isfinite(values_HW)])
    found = np.concatenate(values) if values else np.zeros(0, np.float32)
    limits = wanted.limits or stretch_limits(found, np.ones(found.shape, bool))
    title = wanted.title
    if wanted.kind == "temperature":
        names = {p.tile.product.temperature_name for s in scenes for p in s.placements if p.tile.product is not None}
        title = f"{names.pop() if len(names) == 1 else 'Temperature'} (K)"
    elif not all(band in calibration_of(scene) for scene in scenes for band in wanted.bands):
        title = f"{title.split(' (')[0]} (raw numbers)"

    def paint(
        scene: "Mosaic", image_CHW: npt.NDArray[np.float32], valid_HW: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        return derive(wanted, image_CHW, valid_HW, calibration_of(scene))

    image = for_napari(LazyPainting(scenes, wanted.bands, paint, np.float32), scenes)
    arguments = {
        "name": title,
        "colormap": {"temperature": "inferno", "reflectance": "gray"}.get(wanted.kind, "viridis"),
        "contrast_limits": limits,
        "metadata": {KEY: {**tag, "role": f"derived {wanted.key}"}},
        **_placement(scenes),
    }
    return image.pop("data"), {**arguments, **image}, "image"


def quality_layer(scenes: "Sequence[Mosaic]", tag: dict[str, Any]) -> LayerData:
    """Layer data tuple of the clouds, shadows and saturated pixels that the scenes' makers found.

    Raises
    ------
    DataError
        If the scenes have no quality bands.
    """
    reason = why_no_quality(scenes)
    if reason:
        raise DataError(reason)
    from napari.utils.colormaps import DirectLabelColormap

    colors: dict[int | None, str] = dict(enumerate(QUALITY_COLORS))
    image = for_napari(LazyQuality(scenes), scenes)
    arguments = {
        "name": "Clouds and shadows",
        "opacity": LABELS_OPACITY,
        "colormap": DirectLabelColormap(color_dict={**colors, None: "transparent"}),
        "features": {"index": list(range(len(QUALITY_CLASSES))), "class": list(QUALITY_CLASSES)},
        "metadata": {KEY: {**tag, "role": "quality"}},
        **_placement(scenes),
    }
    return image.pop("data"), {**arguments, **image}, "labels"


def sources_layer(scenes: "Sequence[Mosaic]", tag: dict[str, Any]) -> LayerData:
    """Layer data tuple of which scene, of which day, each pixel of a mosaic is of.

    Raises
    ------
    DataError
        If there is no such mosaic among the scenes.
    """
    reason = why_no_sources(scenes)
    if reason:
        raise DataError(reason)
    from napari.utils.colormaps import label_colormap

    parts = scenes[0].placements[0].tile.parts
    days = [part.tile.product.date if part.tile.product is not None else "" for part in parts]
    image = for_napari(LazySources(scenes), scenes)
    arguments = {
        "name": "Scenes and dates",
        "opacity": LABELS_OPACITY,
        "colormap": label_colormap(len(parts) + 1, seed=0.5, background_value=0),
        "features": {
            "index": list(range(len(parts) + 1)),
            "scene": ["none", *(part.tile.id for part in parts)],
            "day": ["", *days],
        },
        "metadata": {KEY: {**tag, "role": "sources"}},
        **_placement(scenes),
    }
    return image.pop("data"), {**arguments, **image}, "labels"


def why_no_sources(scenes: "Sequence[Mosaic]") -> str:
    """Why it cannot be shown which scene a pixel is of; empty where it can."""
    if len(scenes) == 1 and scenes[0].placements[0].tile.parts:
        return ""
    return "The pixels are all of one scene. Scenes that overlap are joined as docs/scenes.md says."


def why_not(scenes: "Sequence[Mosaic]", wanted: Derived) -> str:
    """Why a layer cannot be made of these scenes, with the mend; empty where it can."""
    tiles = [place.tile for scene in scenes for place in scene.placements]
    lacking = [band for band in wanted.bands if not any(band in tile.bands for tile in tiles)]
    if lacking:
        return f"{wanted.title} needs the band {' and '.join(lacking)}, which is not there."
    if not wanted.needs_units or all(band in calibration_of(scene) for scene in scenes for band in wanted.bands):
        return ""
    said = next((tile.product.uncalibrated for tile in tiles if tile.product and tile.product.uncalibrated), "")
    return said or (
        f"What the numbers of {', '.join(wanted.bands)} mean is not known: tiles carry no scaling. If they are cut "
        "from Landsat Collection-2 Level-2 scenes, write `units: landsat-c2-l2` into dataset.yaml."
    )


def why_no_quality(scenes: "Sequence[Mosaic]") -> str:
    """Why no clouds can be shown, with the mend; empty where they can."""
    if any(place.tile.product and place.tile.product.quality for scene in scenes for place in scene.placements):
        return ""
    return "There is no quality band: QA_PIXEL of Landsat, or SCL of Sentinel-2 Level 2A. Put it beside the bands."


def calibration_of(scene: "Mosaic") -> Mapping[str, Calibration]:
    """Bands of a scene whose units are known; of a mosaic, those that its tiles share."""
    return scene.dataset.calibration(scene.placements[0].tile)


def _placement(scenes: "Sequence[Mosaic]") -> dict[str, Any]:
    stacked = len(scenes) > 1
    return world_placement(None if stacked else scenes[0].georef, 3 if stacked else 2)


def composite_bands(bands: Sequence[str]) -> tuple[str, ...]:
    """The three bands of the composite that lies on top."""
    return list(_composites(bands).values())[-1]


def _composites(bands: Sequence[str]) -> dict[str, tuple[str, ...]]:
    possible = {name: chosen for name, chosen in COMPOSITES.items() if set(chosen) <= set(bands)}
    seen = [band for band in bands if band not in TERRAIN_BANDS]
    return possible or {"Composite": tuple((seen * 3)[:3])}


def _band_order(band: str) -> int:
    return ALL_BANDS.index(band)


def _band_name(band: str) -> str:
    return f"{band} {BAND_TITLES[band]}" if band in BAND_TITLES else band
