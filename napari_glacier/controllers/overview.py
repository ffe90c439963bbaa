"""What is in the open dataset, in a few words. No Qt."""

from typing import Any

from napari_glacier.controllers.session import Session
from napari_glacier.core.findings import Finding, damaged_findings


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
        ("Tiles", f"{len(tiles)} of {size} px" + (f", {len(dataset.damaged)} damaged" if dataset.damaged else "")),
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
    scenes = [part.tile for tile in tiles for part in tile.parts] or tiles
    products = [tile.product for tile in scenes if tile.product is not None]
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


def known_findings(session: Session) -> list[Finding]:
    """What is known without reading every file: missing bands, assumptions, changes from outside."""
    assumed = session.dataset.assumed
    found = damaged_findings(session.dataset.damaged)
    found += [Finding("info" if text in assumed else "warning", None, text) for text in session.dataset.warnings]
    if session.assumed_scheme:
        found.append(
            Finding(
                "info",
                None,
                f"No tile has a mask: the classes of {session.scheme.name} are assumed.",
                "Write `scheme: glacier2` into dataset.yaml for others.",
            )
        )
    if session.read_only:
        found.append(Finding("warning", None, session.read_only))
    if session.conflicts:
        found.append(
            Finding(
                "warning",
                session.conflicts[0] if len(session.conflicts) == 1 else None,
                f"Masks of {', '.join(session.conflicts)} changed outside while corrections to them wait in the "
                "journal.",
            )
        )
    return found


def share_text(share: float) -> str:
    """A share for people: ``12.3 %``, ``< 0.1 %``, ``0 %``."""
    if share == 0:
        return "0 %"
    return "< 0.1 %" if share < 0.0005 else f"{100 * share:.1f} %"


def _unit(georef: Any) -> str:
    return "°" if georef.pixel_area_m2 is None else "m"
