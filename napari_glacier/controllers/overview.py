"""What is in the open dataset, in a few words and a table of its tiles. No Qt."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from napari_glacier.controllers.session import Session
from napari_glacier.core.validity import LazyValidity

_SAMPLE_PX = 4_000_000
# Where the sample has to be read from files first.
_LAZY_SAMPLE_PX = 250_000


@dataclass(frozen=True, slots=True)
class TileRow:
    """A line of the tile list."""

    tile_id: str
    split: str
    labels: str
    unsaved: int
    review: str


def summary(session: Session) -> list[tuple[str, str]]:
    """Names and texts of the facts a person looks for first."""
    dataset = session.dataset
    tiles = dataset.tiles
    counts = {split: sum(tile.split == split for tile in tiles) for split in dict.fromkeys(t.split for t in tiles)}
    splits = ", ".join(f"{count} {split}" for split, count in counts.items() if split != "all")
    sizes = sorted({(tile.height, tile.width) for tile in tiles})
    size = " / ".join(f"{height} × {width}" for height, width in sizes[:3]) + (" …" if len(sizes) > 3 else "")
    labelled = sum(tile.mask_path is not None for tile in tiles)
    rows = [
        ("Tiles", f"{len(tiles)} of {size} px"),
        *([("Splits", splits)] if splits else []),
        ("Masks", "all tiles" if labelled == len(tiles) else f"{labelled} of {len(tiles)} tiles"),
        ("Bands", ", ".join(dataset.bands)),
        ("Classes", session.scheme.name + (" (assumed, there are no masks)" if session.assumed_scheme else "")),
    ]
    georef = session.scenes[0].georef
    if georef is None:
        rows.append(("Place", "not georeferenced"))
    else:
        rows.append(("Place", f"{georef.crs_name}, {abs(georef.transform[0]):g} {_unit(georef)} pixels"))
    rows += _product_rows(session)
    shown = "one mosaic" if len(session.scenes) == 1 else ("a stack" if session.stacked else "one tile at a time")
    if len(tiles) > 1:
        rows.append(("Shown as", shown))
    return rows


def _product_rows(session: Session) -> list[tuple[str, str]]:
    """What the scenes on screen say of themselves: sensor, days, clouds, units."""
    tiles = [place.tile for scene in session.current_scenes for place in scene.placements]
    products = [tile.product for tile in tiles if tile.product is not None]
    if not products:
        return []
    sensors = list(dict.fromkeys(f"{product.sensor}, {product.level}" for product in products))
    rows = [("Scene", "; ".join(sensors))]
    days = sorted({product.date for product in products if product.date})
    if days:
        rows.append(("Acquired", ", ".join(days) if len(days) < 4 else f"{days[0]} to {days[-1]}, {len(days)} days"))
    cover = [product.cloud_percent for product in products if product.cloud_percent is not None]
    if cover:
        share = f"{min(cover):.0f}" if len(cover) == 1 else f"{min(cover):.0f} to {max(cover):.0f}"
        rows.append(("Clouds", f"{share} % of the scene"))
    known = {one.quantity for product in products for one in product.calibration.values()}
    units = [
        unit for unit, quantity in (("reflectance", "reflectance"), ("kelvin", "temperature")) if quantity in known
    ]
    rows.append(("Units", ", ".join(units) or "not known"))
    return rows


def class_shares(session: Session) -> list[tuple[str, str, float]]:
    """Colour, name and share of each class over the valid pixels on screen."""
    # A large scene is sampled: the shares are for the eye.
    valid = session.valid
    lazy = isinstance(valid, LazyValidity)
    step = max(1, round((session.mask.size / (_LAZY_SAMPLE_PX if lazy else _SAMPLE_PX)) ** 0.5))
    every = (..., slice(None, None, step), slice(None, None, step))
    valid_HW = valid.sampled(step) if isinstance(valid, LazyValidity) else valid[every]
    counts = np.bincount(session.mask[every][valid_HW], minlength=session.scheme.num_classes)
    total = max(int(counts.sum()), 1)
    scheme = session.scheme
    return [
        (scheme.colors[index], scheme.class_names[index], float(counts[index]) / total)
        for index in range(scheme.num_classes)
    ]


def findings(session: Session) -> list[str]:
    """What a person should know before working: missing bands, assumptions, changes from outside."""
    found = list(session.dataset.warnings)
    if session.assumed_scheme:
        found.append(
            f"No tile has a mask: the classes of {session.scheme.name} are assumed. "
            "Write `scheme: glacier2` into dataset.yaml for others."
        )
    if session.read_only:
        found.append(session.read_only)
    if session.conflicts:
        found.append(
            f"Masks of {', '.join(session.conflicts)} changed outside while corrections to them wait in the journal."
        )
    return found


def tile_rows(session: Session) -> list[TileRow]:
    """The tile list, in the dataset's order."""
    unsaved = session.unsaved()
    rows = []
    for tile in session.dataset.tiles:
        count = unsaved.get(tile.id, 0)
        labels = "mask" if tile.mask_path is not None else ("new" if count else "none")
        rows.append(TileRow(tile.id, tile.split, labels, count, session.review(tile.id)))
    return rows


def share_text(share: float) -> str:
    """A share for people: ``12.3 %``, ``< 0.1 %``, ``0 %``."""
    if share == 0:
        return "0 %"
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def _unit(georef: Any) -> str:
    return "°" if georef.pixel_area_m2 is None else "m"
