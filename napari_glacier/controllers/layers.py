"""What a scene looks like in napari: composites, bands, labels, predictions, and where they lie.

Shapes: image_CHW float32, rgba_HW4 uint8, index_HW uint8. A stack of scenes has a leading axis N.

World coordinates are metres with axis 0 = minus northing and axis 1 = easting. napari draws axis 0
downwards, so minus northing keeps north up on every viewer, whatever else is open in it and without
turning its camera round.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_glacier.controllers.pictures import LazyBand, LazyComposite, band_limits, for_napari
from napari_glacier.core.bands import ALL_BANDS, TERRAIN_BANDS

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
# Roles of the layers that show a scene as it is.
PICTURES = ("composite", "band")


def tag_of(layer: Any) -> dict[str, Any]:
    """What the plugin wrote into a layer's metadata; empty for other people's layers."""
    tag = layer.metadata.get(KEY)
    return tag if isinstance(tag, dict) else {}


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
    layers = picture_layers(scenes, bands, tag)
    layers.append(
        (
            mask,
            {
                "name": "Labels",
                "opacity": LABELS_OPACITY,
                "colormap": class_colormap(scheme),
                "features": class_features(scheme),
                "metadata": {KEY: {**tag, "role": "labels"}},
                **placement_of(scenes),
            },
            "labels",
        )
    )
    return layers


def picture_layers(scenes: "Sequence[Mosaic]", bands: Sequence[str], tag: dict[str, Any]) -> list[LayerData]:
    """The bands and composites among them, named as `picture_names` says, bottom layer first."""
    place = placement_of(scenes)
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
                    "metadata": {KEY: {**tag, "role": "composite", "bands": chosen}},
                    **place,
                },
                "image",
            )
        )
    return layers


def placement_of(scenes: "Sequence[Mosaic]") -> dict[str, Any]:
    """Layer arguments that put a scene where it lies on the map; a stack has no such place."""
    stacked = len(scenes) > 1
    return world_placement(None if stacked else scenes[0].georef, 3 if stacked else 2)


def picture_names(bands: Sequence[str]) -> list[str]:
    """Names of the composites and of the bands of a scene, the uppermost first."""
    return [*reversed(_composites(bands)), *(_band_name(band) for band in sorted(bands, key=_band_order))]


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
