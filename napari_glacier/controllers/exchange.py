"""What napari's Save and Open Sample do: a Labels layer as GeoTIFF, the bundled region as a folder of one's own."""

import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast

import numpy as np

from napari_glacier.controllers.layers import KEY
from napari_glacier.core.classes import IGNORE_INDEX, ClassScheme, get_scheme
from napari_glacier.core.correction.journal_place import user_data_dir
from napari_glacier.core.errors import DataError, SchemeError
from napari_glacier.core.raster import write_mask

SAMPLE_NAME = "glacier-sample"
# Tiles of the region that are shown as if nobody had mapped them yet.
UNMAPPED_TILES = ("01_01", "00_02")
# Layers whose values are classes of a scheme, and what some others show.
_MASKS = ("labels", "prediction")
_SHOWN = {
    "quality": "clouds and shadows",
    "sources": "which scene each pixel is of",
    "changes": "what has changed",
    "adapted": "what would change",
    "second opinion": "where somebody sees it otherwise",
    "preview": "a proposed change",
}


def write_layer(path: Path, data: Any, metadata: dict[str, Any]) -> list[Path]:
    """Write a Labels layer; see `napari_glacier._writer.write_labels`.

    Raises
    ------
    DataError
        If it is a layer of the plugin that shows something else than classes, or its values or axes do not fit.
    """
    tag = metadata.get(KEY, {})
    if tag.get("role", "labels") not in _MASKS:
        raise DataError(
            f"This layer shows {_SHOWN.get(tag.get('role'), 'something else')}, not classes: in a georeferenced mask "
            "its values would be taken for glacier, debris and lake. Save it with napari's own writer: choose the file "
            "type 'napari builtins labels'."
        )
    index = np.asarray(data)
    session = tag.get("session")
    scheme = _scheme_of(tag) or _fitting_scheme(index)
    if index.ndim == 2:
        georef = session.georef() if session is not None and _same_size(session, index) else None
        write_mask(path, index.astype(np.uint8), scheme, georef)
        return [path]
    if index.ndim != 3:
        raise DataError(f"The layer has {index.ndim} axes; a mask has rows and columns, or scenes, rows and columns.")
    written = []
    for number, index_HW in enumerate(index):
        scene = session.scenes[number] if session is not None and number < len(session.scenes) else None
        name = scene.name.replace("/", "_") if scene is not None else f"{number:03d}"
        target = path.with_name(f"{path.stem}_{name}{path.suffix}")
        write_mask(target, index_HW.astype(np.uint8), scheme, scene.georef if scene is not None else None)
        written.append(target)
    return written


def _scheme_of(tag: dict[str, Any]) -> ClassScheme | None:
    """The classes of a layer, in the data set's codes where it has the same classes; None for other people's."""
    session, own = tag.get("session"), tag.get("scheme")
    if session is None or (own is not None and own.class_names != session.scheme.class_names):
        return own
    return cast(ClassScheme, session.scheme)


def _same_size(session: Any, index: np.ndarray) -> bool:
    return bool(session.current_scenes[0].shape == index.shape)


def _fitting_scheme(index: np.ndarray) -> ClassScheme:
    values = set(np.unique(index).tolist()) - {IGNORE_INDEX}
    for name in ("glacier2", "glacier4"):
        scheme = get_scheme(name)
        if values <= set(range(scheme.num_classes)):
            return scheme
    raise SchemeError(
        f"The layer holds the values {sorted(values)[:12]}; class indices go from 0 to 3. "
        "Save other labels with napari's own writer."
    )


def sample_copy(folder: Path, fresh: bool = False, without_masks: Sequence[str] = ()) -> Path:
    """A copy of the bundled synthetic region that may be painted on; the package is never touched.

    Parameters
    ----------
    folder : Path
        Where the copy goes, under the name `SAMPLE_NAME`.
    fresh : bool
        Keep the copy that is there already (with its corrections) aside and make a new one.
    without_masks : sequence of str
        Tiles whose masks a new copy does not get.

    Returns
    -------
    Path
        The dataset's folder.

    Raises
    ------
    DataError
        If the package holds no region, which a broken installation does.
    """
    source = resources.files("napari_glacier._sample") / "region"
    if not source.is_dir():
        raise DataError(
            "The bundled region is missing from this installation. Reinstall napari-glacier, or make it with "
            "python sample_data/generate.py."
        )
    target = folder / SAMPLE_NAME
    if target.is_dir() and not fresh:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        number = 1
        while (aside := folder / f"{SAMPLE_NAME}-{number}").exists():
            number += 1
        target.rename(aside)
    # Copied beside and renamed, so that a copy broken off half-way is not taken for a region.
    partial = folder / f".{SAMPLE_NAME}-partial"
    shutil.rmtree(partial, ignore_errors=True)
    with resources.as_file(source) as here:
        shutil.copytree(here, partial, copy_function=shutil.copyfile)
    for tile_id in without_masks:
        for path in partial.glob(f"*_masks/mask_{tile_id}.tif*"):
            path.unlink()
    partial.rename(target)
    return target


def sample_folder() -> Path:
    """The user's folder in which the copy of the region lies."""
    return user_data_dir() / "samples"
