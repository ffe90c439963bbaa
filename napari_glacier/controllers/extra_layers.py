"""Layers on request: indices, reflectance, temperature, clouds, removed pictures; or why one cannot be made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.layers import (
    KEY,
    LABELS_OPACITY,
    LayerData,
    picture_layers,
    picture_names,
    placement_of,
)
from napari_glacier.controllers.pictures import (
    LazyPainting,
    LazyQuality,
    LazySources,
    for_napari,
    samples,
    stretch_limits,
)
from napari_glacier.core.derived import DERIVED, Derived, check_numbers, derive, derived
from napari_glacier.core.errors import DataError
from napari_glacier.core.scenes.products import QUALITY_CLASSES, Calibration

if TYPE_CHECKING:
    from napari_glacier.controllers.session import Session
    from napari_glacier.core.data.mosaic import Mosaic

# Of `QUALITY_CLASSES`: seen on snow and on rock, and told apart by colour-blind people.
_QUALITY_COLORS = ("transparent", "#e69f00", "#f0e442", "#3d2b7a", "#d6278a")
_QUALITY, _SOURCES = "quality", "sources"


@dataclass(frozen=True, slots=True)
class Extra:
    """A layer that can be added on request, or why it cannot."""

    key: str
    title: str
    reason: str


def extra_layers(session: "Session") -> list[Extra]:
    """What can be added to the scene on screen: indices, reflectance, temperature, clouds; and its own pictures."""
    scenes = session.current_scenes
    found = [Extra(wanted.key, wanted.title, _why_not(scenes, wanted)) for wanted in DERIVED]
    found.append(Extra(_QUALITY, "Clouds and shadows", _why_no_quality(scenes)))
    if not _why_no_sources(scenes):
        found.append(Extra(_SOURCES, "Scenes and dates", ""))
    return [*found, *(Extra(name, name, "") for name in picture_names(session.dataset.bands))]


def extra_layer(session: "Session", key: str) -> LayerData:
    """One of `extra_layers` for napari.

    Raises
    ------
    DataError
        If it cannot be made of these data; says why, and the mend.
    """
    tag = {"session": session, "role": ""}
    if key == _QUALITY:
        return _quality_layer(session.current_scenes, tag)
    if key == _SOURCES:
        return _sources_layer(session.current_scenes, tag)
    if key in picture_names(session.dataset.bands):
        pictures = picture_layers(session.current_scenes, session.dataset.bands, tag)
        return next(picture for picture in pictures if picture[1]["name"] == key)
    return _derived_layer(session.current_scenes, derived(key), tag)


def _derived_layer(scenes: "Sequence[Mosaic]", wanted: Derived, tag: dict[str, Any]) -> LayerData:
    """Layer data tuple of an index, reflectance or temperature.

    Raises
    ------
    DataError
        If a band is missing, its units are not known but needed, or its values cannot be what the product delivers.
    """
    reason = _why_not(scenes, wanted)
    if reason:
        raise DataError(reason)
    values = []
    for scene, image_CHW, valid_HW in samples(scenes, wanted.bands):
        for band, plane_HW in zip(wanted.bands, image_CHW, strict=True):
            if band in _calibration_of(scene):
                check_numbers(plane_HW[valid_HW], band)
        values_HW = derive(wanted, image_CHW, valid_HW, _calibration_of(scene))
        values.append(values_HW[np.isfinite(values_HW)])
    found = np.concatenate(values) if values else np.zeros(0, np.float32)
    limits = wanted.limits or stretch_limits(found, np.ones(found.shape, bool))
    title = wanted.title
    if wanted.kind == "temperature":
        names = {p.tile.product.temperature_name for s in scenes for p in s.placements if p.tile.product is not None}
        title = f"{names.pop() if len(names) == 1 else 'Temperature'} (K)"
    elif not all(band in _calibration_of(scene) for scene in scenes for band in wanted.bands):
        title = f"{title.split(' (')[0]} (raw numbers)"

    def paint(
        scene: "Mosaic", image_CHW: npt.NDArray[np.float32], valid_HW: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        return derive(wanted, image_CHW, valid_HW, _calibration_of(scene))

    image = for_napari(LazyPainting(scenes, wanted.bands, paint, np.float32), scenes)
    arguments = {
        "name": title,
        "colormap": {"temperature": "inferno", "reflectance": "gray"}.get(wanted.kind, "viridis"),
        "contrast_limits": limits,
        "metadata": {KEY: {**tag, "role": f"derived {wanted.key}"}},
        **placement_of(scenes),
    }
    return image.pop("data"), {**arguments, **image}, "image"


def _quality_layer(scenes: "Sequence[Mosaic]", tag: dict[str, Any]) -> LayerData:
    """Layer data tuple of the clouds, shadows and saturated pixels that the scenes' makers found.

    Raises
    ------
    DataError
        If the scenes have no quality bands.
    """
    reason = _why_no_quality(scenes)
    if reason:
        raise DataError(reason)
    from napari.utils.colormaps import DirectLabelColormap

    colors: dict[int | None, str] = dict(enumerate(_QUALITY_COLORS))
    image = for_napari(LazyQuality(scenes), scenes)
    arguments = {
        "name": "Clouds and shadows",
        "opacity": LABELS_OPACITY,
        "colormap": DirectLabelColormap(color_dict={**colors, None: "transparent"}),
        "features": {"index": list(range(len(QUALITY_CLASSES))), "class": list(QUALITY_CLASSES)},
        "metadata": {KEY: {**tag, "role": "quality"}},
        **placement_of(scenes),
    }
    return image.pop("data"), {**arguments, **image}, "labels"


def _sources_layer(scenes: "Sequence[Mosaic]", tag: dict[str, Any]) -> LayerData:
    """Layer data tuple of which scene, of which day, each pixel of a mosaic is of.

    Raises
    ------
    DataError
        If there is no such mosaic among the scenes.
    """
    reason = _why_no_sources(scenes)
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
        **placement_of(scenes),
    }
    return image.pop("data"), {**arguments, **image}, "labels"


def _why_no_sources(scenes: "Sequence[Mosaic]") -> str:
    """Why it cannot be shown which scene a pixel is of; empty where it can."""
    if len(scenes) == 1 and scenes[0].placements[0].tile.parts:
        return ""
    return "The pixels are all of one scene. Scenes that overlap are joined as docs/scenes.md says."


def _why_not(scenes: "Sequence[Mosaic]", wanted: Derived) -> str:
    """Why a layer cannot be made of these scenes, with the mend; empty where it can."""
    tiles = [place.tile for scene in scenes for place in scene.placements]
    lacking = [band for band in wanted.bands if not any(band in tile.bands for tile in tiles)]
    if lacking:
        return f"{wanted.title} needs the band {' and '.join(lacking)}, which is not there."
    if not wanted.needs_units or all(band in _calibration_of(scene) for scene in scenes for band in wanted.bands):
        return ""
    said = next((tile.product.uncalibrated for tile in tiles if tile.product and tile.product.uncalibrated), "")
    return said or (
        f"What the numbers of {', '.join(wanted.bands)} mean is not known: tiles carry no scaling. If they are cut "
        "from Landsat Collection-2 Level-2 scenes, write `units: landsat-c2-l2` into dataset.yaml."
    )


def _why_no_quality(scenes: "Sequence[Mosaic]") -> str:
    """Why no clouds can be shown, with the mend; empty where they can."""
    if any(place.tile.product and place.tile.product.quality for scene in scenes for place in scene.placements):
        return ""
    return "There is no quality band: QA_PIXEL of Landsat, or SCL of Sentinel-2 Level 2A. Put it beside the bands."


def _calibration_of(scene: "Mosaic") -> Mapping[str, Calibration]:
    """Bands of a scene whose units are known; of a mosaic, those that its tiles share."""
    return scene.dataset.calibration(scene.placements[0].tile)
