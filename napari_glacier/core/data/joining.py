"""Which scenes are joined into one raster, and by which rule; how its pixels are read is in `joined`.

Scenes are joined where they overlap or touch, lie on one grid, and their numbers mean the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from napari_glacier.core.data.tiles import Placement, Tile
from napari_glacier.core.errors import DataError
from napari_glacier.core.scenes.products import Product

# A mosaic of tiles strewn over a country would be mostly gap; beyond this they open one by one.
MAX_MOSAIC_PIXELS = 40_000 * 40_000

NEWEST_CLEAR, NEWEST, NAME, APART = "newest-clear", "newest", "name", "apart"
# What a pixel is taken from, for people.
RULES = {
    NEWEST_CLEAR: "each pixel is of the newest scene that saw it without cloud or shadow, else of the newest at all",
    NEWEST: "each pixel is of the newest scene that saw it, clouds included",
    NAME: "each pixel is of the first scene by name that saw it",
    APART: "every scene by itself",
}
NO_SCENE = 255
# Where `predict` keeps, beside the mask of a mosaic, which scene each pixel is of.
SOURCES_FOLDER = "sources"
_MOST_PARTS = NO_SCENE
# Scenes that share more of their area are dates of one place, not neighbours.
_SAME_PLACE_SHARE = 0.5

# Rows and columns: the first, and the one after the last.
Span = tuple[int, int]


def check_rule(rule: str, said_by: str) -> str:
    """The rule, if it is one; `DataError` lists those that are."""
    if rule not in RULES:
        raise DataError(f"{said_by} says mosaic: {rule!r}. Known are: {', '.join(RULES)}. Correct the line.")
    return rule


@dataclass(frozen=True, slots=True)
class Joined:
    """Tiles after joining, and what a person should know of it."""

    tiles: tuple[Tile, ...]
    notes: tuple[str, ...] = ()


def join_tiles(tiles: Sequence[Tile], rule: str | None, mask_folder: Path) -> Joined:
    """Join scenes that overlap or touch; the others stay as they are.

    Parameters
    ----------
    tiles : sequence of Tile
    rule : str or None
        One of `RULES`. None: neighbours among a satellite's scenes are joined by `NEWEST_CLEAR`, if none of them has
        labels; several dates of one place are not.
    mask_folder : Path
        Where the mask of a mosaic goes.

    Raises
    ------
    DataError
        If a rule was named and nothing can be joined by it.
    """
    placed = [tile for tile in tiles if tile.georef is not None and not tile.is_picture]
    may = [tile for tile in placed if rule is not None or tile.product is not None]
    if rule == APART or len(may) < 2:
        return Joined(tuple(tiles), (_nothing(tiles, rule),) if rule not in (None, APART) else ())
    notes: list[str] = []
    mosaics: dict[str, Tile] = {}
    inside: dict[str, str] = {}
    groups, apart = _groups(may)
    for group in groups:
        for neighbours in _touching(group):
            if len(neighbours) < 2:
                continue
            reason = _why_not(neighbours, rule)
            if reason:
                if rule is not None:
                    raise DataError(reason)
                notes.append(reason)
                continue
            mosaic = _mosaic(neighbours, rule or NEWEST_CLEAR, mask_folder, [tile.id for tile in mosaics.values()])
            mosaics[mosaic.parts[0].tile.id] = mosaic
            notes.append(_statement(mosaic))
            inside.update((part.tile.id, mosaic.parts[0].tile.id) for part in mosaic.parts)
    notes += apart
    if rule is not None and not mosaics:
        notes.append(_nothing(tiles, rule))
    done: dict[str, Tile] = {}
    for tile in tiles:
        key = inside.get(tile.id, tile.id)
        done.setdefault(key, mosaics.get(key, tile))
    return Joined(tuple(done.values()), tuple(notes))


def _nothing(tiles: Sequence[Tile], rule: str | None) -> str:
    return (
        f"mosaic: {rule} was asked for, and none of the {len(tiles)} tile(s) overlaps or touches another one on one "
        "grid. They open one by one."
    )


def _groups(tiles: Sequence[Tile]) -> tuple[list[list[tuple[Tile, int, int]]], list[str]]:
    """Tiles of one grid, bands and units, with their position on the grid; and why groups are several."""
    groups: list[list[tuple[Tile, int, int]]] = []
    notes: list[str] = []
    for tile in tiles:
        reasons = []
        for group in groups:
            reason, position = _fit(group[0][0], tile)
            if position is not None:
                group.append((tile, *position))
                break
            reasons.append(f"{tile.id} is not joined with {group[0][0].id}: {reason}.")
        else:
            groups.append([(tile, 0, 0)])
            notes += reasons[:1]
    return groups, notes


def _fit(first: Tile, other: Tile) -> tuple[str, tuple[int, int] | None]:
    """Position of a tile on the grid of the first one of a group, or why it is of another group."""
    assert first.georef is not None
    assert other.georef is not None
    if other.georef.crs_key != first.georef.crs_key:
        return f"it lies in {other.georef.crs_name}, that one in {first.georef.crs_name}", None
    position = first.georef.position_of(other.georef)
    if position is None:
        return "its pixels have another size, or lie between that one's", None
    if tuple(first.bands) != tuple(other.bands):
        return f"it has the bands {', '.join(other.bands)}, that one {', '.join(first.bands)}", None
    ours, theirs = first.product, other.product
    if (ours is None) != (theirs is None) or (ours and theirs and _meaning(ours) != _meaning(theirs)):
        return (
            "its numbers mean something else (Level 1 numbers depend on the sun's height; take Level 2 of one maker)",
            None,
        )
    return "", position


def _meaning(product: Product) -> object:
    """What has to be equal for the numbers of two scenes to be comparable."""
    return product.sensor.split()[0].split("-")[0], product.level, dict(product.calibration), product.complete


def _touching(group: Sequence[tuple[Tile, int, int]]) -> list[list[tuple[Tile, int, int]]]:
    """A group's tiles by clusters that overlap or abut."""
    waiting, clusters = list(group), []
    while waiting:
        cluster = [waiting.pop(0)]
        for member in cluster:
            near = [other for other in waiting if _overlap_px(member, other, margin=1)]
            waiting = [other for other in waiting if other not in near]
            cluster += near
        clusters.append(cluster)
    return clusters


def _overlap_px(first: tuple[Tile, int, int], second: tuple[Tile, int, int], margin: int = 0) -> int:
    (a, row, col), (b, other_row, other_col) = first, second
    rows = min(row + a.height, other_row + b.height) - max(row, other_row) + margin
    cols = min(col + a.width, other_col + b.width) - max(col, other_col) + margin
    return max(rows, 0) * max(cols, 0)


def _why_not(tiles: Sequence[tuple[Tile, int, int]], rule: str | None) -> str:
    """Why neighbours are not joined, with what would; empty where they are."""
    names = [tile.id for tile, _, _ in tiles]
    listed = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
    height, width = _extent(tiles)
    if height * width > MAX_MOSAIC_PIXELS or len(tiles) > _MOST_PARTS:
        return f"{listed} overlap, and would make a mosaic of {height} x {width} pixels. Open fewer at a time."
    labelled = [tile.id for tile, _, _ in tiles if tile.mask_path is not None]
    if labelled:
        return (
            f"{listed} overlap, and {labelled[0]} has labels of its own, which a mosaic does not show. They stay "
            f"apart (write `mosaic: {APART}` into dataset.yaml to say so), or take the labels away to join them."
        )
    if rule is None and any(_same_place(first, second) for k, first in enumerate(tiles) for second in tiles[k + 1 :]):
        return (
            f"{listed} are several dates of one place and open one by one. To have one image of them, write "
            f"`mosaic: {NEWEST_CLEAR}` into dataset.yaml in their folder; `mosaic: {APART}` keeps them apart."
        )
    return ""


def _same_place(first: tuple[Tile, int, int], second: tuple[Tile, int, int]) -> bool:
    places = [tile.product.place if tile.product is not None else "" for tile in (first[0], second[0])]
    if all(places):
        return places[0] == places[1]
    smaller = min(tile.height * tile.width for tile in (first[0], second[0]))
    return _overlap_px(first, second) > _SAME_PLACE_SHARE * smaller


def _extent(tiles: Sequence[tuple[Tile, int, int]]) -> Span:
    return (
        max(row + tile.height for tile, row, _ in tiles) - min(row for _, row, _ in tiles),
        max(col + tile.width for tile, _, col in tiles) - min(col for _, _, col in tiles),
    )


def _mosaic(tiles: Sequence[tuple[Tile, int, int]], rule: str, mask_folder: Path, taken: Sequence[str]) -> Tile:
    top, left = min(row for _, row, _ in tiles), min(col for _, _, col in tiles)
    ordered = sorted(tiles, key=lambda one: one[0].id)
    if rule != NAME:
        # Stable: scenes of one day keep the order of their names; those without a date come last.
        ordered.sort(key=lambda one: _date(one[0]), reverse=True)
    parts = tuple(Placement(tile, row - top, col - left) for tile, row, col in ordered)
    first = parts[0].tile
    assert first.georef is not None
    name = f"mosaic_{first.georef.epsg}" if first.georef.epsg is not None else "mosaic"
    name = next(n for n in (name, *(f"{name}_{k}" for k in range(2, len(taken) + 3))) if n not in taken)
    target = mask_folder / f"{name}.tif"
    height, width = _extent(tiles)
    return replace(
        first,
        id=name,
        height=height,
        width=width,
        georef=first.georef.offset(-parts[0].row, -parts[0].col),
        bands={band: replace(source, nodata=_nodata(parts, band)) for band, source in first.bands.items()},
        mask_path=target if target.is_file() else None,
        new_mask_path=target,
        product=_product(name, [part.tile for part in parts]),
        blocked=all(part.tile.blocked for part in parts),
        reduced=all(part.tile.reduced for part in parts),
        parts=parts,
        rule=rule,
    )


def _statement(mosaic: Tile) -> str:
    """Of which scenes a mosaic is, and by which rule."""
    told = ", ".join(f"{_date(part.tile) or 'no date'} {part.tile.id}" for part in mosaic.parts[:6])
    told += ", …" if len(mosaic.parts) > 6 else ""
    return (
        f"{mosaic.id} is a mosaic of {len(mosaic.parts)} scenes: {RULES[mosaic.rule]}. In order: {told}. Another rule, "
        f"or `mosaic: {APART}`, goes into dataset.yaml."
    )


def _nodata(parts: Sequence[Placement], band: str) -> float:
    """What stands for nodata in a band of a mosaic: the first value that a part names, or 0."""
    return next((value for part in parts if (value := part.tile.bands[band].nodata) is not None), 0.0)


def _date(tile: Tile) -> str:
    return tile.product.date if tile.product is not None else ""


def _product(name: str, tiles: Sequence[Tile]) -> Product | None:
    """What the scenes have in common; dates that differ are each pixel's own (see `joined`)."""
    products = [tile.product for tile in tiles if tile.product is not None]
    if not products:
        return None
    days = list(dict.fromkeys(product.date for product in products))
    covers = [product.cloud_percent for product in products]
    return replace(
        products[0],
        name=name,
        sensor=" and ".join(sorted({product.sensor for product in products})),
        date=days[0] if len(days) == 1 else "",
        # Clouds of the scenes say little of those that are left.
        cloud_percent=covers[0] if len(covers) == 1 else None,
        quality=next((product.quality for product in products if product.quality is not None), None),
        notes=tuple(dict.fromkeys(note for product in products for note in product.notes)),
        place="",
    )
