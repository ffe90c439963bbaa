"""What a data set's `dataset.yaml` says: classes and units; and how classes are told where it says nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from napari_glacier.core.classes import SCHEMES, ClassScheme, get_scheme, scheme_of_masks
from napari_glacier.core.data.joining import check_rule
from napari_glacier.core.data.layouts import DESCRIPTION_FILE
from napari_glacier.core.data.tiles import Tile
from napari_glacier.core.errors import DataError, RasterError, SaveError, SchemeError
from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.plain_yaml import read_yaml
from napari_glacier.core.raster import read_mask_codes
from napari_glacier.core.raster.arrays import is_array, read_mask_arrays
from napari_glacier.core.scenes.landsat import UNITS
from napari_glacier.core.scenes.products import Calibration


def choose_scheme(
    root: Path, tiles: Sequence[Tile], name: str | None, *, without_damaged: bool = False
) -> tuple[ClassScheme | None, tuple[str, ...]]:
    """Class scheme of a data set's masks, and what a person should know of the choice.

    Parameters
    ----------
    root : Path
    tiles : sequence of Tile
        Their masks are read where neither `name` nor the data set's description decides.
    name : str or None
    without_damaged : bool
        Let masks pass that cannot be decoded: whoever reads them is told.

    Returns
    -------
    scheme : ClassScheme or None
        None where there is no mask under bands; pictures are salt data, with masks or without.
    notes : tuple of str
    """
    if name is not None:
        return get_scheme(name), ()
    written = described_scheme(root)
    if written is not None:
        if written not in SCHEMES:
            raise SchemeError(
                f"{Path(root) / DESCRIPTION_FILE} says scheme: {written!r}. Known are: {', '.join(SCHEMES)}. Correct "
                "the line."
            )
        return get_scheme(written), ()
    masks = [tile.mask_path for tile in tiles if tile.mask_path is not None]
    pictures = any(tile.is_picture for tile in tiles)
    if not masks:
        return (get_scheme("salt2") if pictures else None), ()
    values: dict[float, Path] = {}
    for mask in dict.fromkeys(masks):
        try:
            codes = read_mask_arrays(mask) if is_array(mask) else read_mask_codes(mask)
        except RasterError:
            if not without_damaged:
                raise
            continue
        for value in np.unique(codes).tolist():
            values.setdefault(float(value), mask)
    if pictures:
        listed = f"[{', '.join(f'{v:g}' for v in sorted(values)[:8])}{', …' if len(values) > 8 else ''}]"
        return get_scheme("salt2"), (
            f"The masks of the pictures hold {listed}: read as salt data (salt2), where any value but 0 is salt. "
            "If that is not meant, write `scheme: NAME` into dataset.yaml (at the terminal also --scheme NAME).",
        )
    return scheme_of_masks(values) if values else (None, ())


def read_otherwise(root: Path, scheme: ClassScheme) -> tuple[str, ...]:
    """A note where a scheme gives a value another class than the one that a data set's `dataset.yaml` states."""
    written = described_scheme(root)
    if written is None or written not in SCHEMES or scheme.any_nonzero:
        return ()
    stated, names = get_scheme(written), dict(zip(scheme.codes, scheme.class_names, strict=True))
    for code, its_name in zip(stated.codes, stated.class_names, strict=True):
        if names.get(code, its_name) != its_name:
            return (
                f"{Path(root) / DESCRIPTION_FILE} says scheme: {written}. The masks are read as {scheme.name}, as was "
                f"asked for: {code} is {names[code]} then, not {its_name}.",
            )
    return ()


def described_scheme(root: Path) -> str | None:
    """Name of the scheme that a data set's `dataset.yaml` states, or None."""
    scheme = _description(Path(root) / DESCRIPTION_FILE).get("scheme")
    return str(scheme) if scheme else None


def described_units(root: Path) -> Mapping[str, Calibration]:
    """How numbers become units by a data set's `dataset.yaml`; empty where it says nothing of it.

    Raises
    ------
    DataError
        If it names units that are not known.
    """
    name = _description(Path(root) / DESCRIPTION_FILE).get("units")
    if name is None:
        return {}
    if name not in UNITS:
        raise DataError(
            f"{Path(root) / DESCRIPTION_FILE} says units: {name!r}. Known are: {', '.join(UNITS)}. Correct the line."
        )
    return UNITS[name]


def described_mosaic(root: Path) -> str | None:
    """How overlapping scenes are joined by a data set's `dataset.yaml`; None where it says nothing of it.

    Raises
    ------
    DataError
        If it names a rule that is not known.
    """
    path = Path(root) / DESCRIPTION_FILE
    rule = _description(path).get("mosaic")
    return None if rule is None else check_rule(str(rule), str(path))


def write_scheme(root: Path, scheme: ClassScheme) -> None:
    """Write the scheme down in `dataset.yaml`, so that it is never guessed again; other keys stay.

    Without it a four-class data set whose only masks hold background and lake (0 and 255) would read as two classes.

    Raises
    ------
    SaveError
        If the file cannot be written.
    """
    path = Path(root) / DESCRIPTION_FILE
    described = {**_description(path), "scheme": scheme.name}
    try:
        write_text_atomically(path, yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise SaveError(f"The class scheme could not be noted in {path} ({error.strerror}).") from error


def _description(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        described = read_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not readable as YAML. Correct or remove it.") from error
    return described if isinstance(described, dict) else {}
