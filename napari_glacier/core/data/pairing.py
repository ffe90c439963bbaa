"""Which files belong to one tile: pairing by what is left of their names."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from napari_glacier.core.bands import exact_identity, number_identity, plain_identity
from napari_glacier.core.errors import PairingError

# From the strictest idea of a tile's identity to the loosest; the first that fits is used for all files.
_IDENTITIES: tuple[Callable[[str], str], ...] = (exact_identity, plain_identity, number_identity)


def pair_files(
    bands: Mapping[str, Sequence[Path]], masks: Sequence[Path] = ()
) -> tuple[dict[str, dict[str, Path]], dict[str, Path]]:
    """Pair band files with each other and with masks.

    Parameters
    ----------
    bands : mapping of band name to its files
    masks : sequence of mask files

    Returns
    -------
    bands_of_tile : {tile id: {band: path}}
        A tile may lack a band; the caller decides what that means.
    mask_of_tile : {tile id: path}

    Raises
    ------
    PairingError
        If two files of one folder have the same identity, if no two bands share a tile, or if a mask
        belongs to no tile; shows the candidates.
    """
    groups = [list(files) for files in bands.values()] + ([list(masks)] if masks else [])
    best: tuple[int, Callable[[str], str]] | None = None
    for identity in _IDENTITIES:
        keyed = [[identity(path.stem) for path in files] for files in groups]
        if any("" in keys or len(set(keys)) < len(keys) for keys in keyed):
            continue
        sets = [set(keys) for keys in keyed]
        tiles = set().union(*sets[: len(bands)])
        # How many files stand alone: bands that their tile lacks, and masks without a tile.
        missing = sum(len(tiles - keys) for keys in sets[: len(bands)])
        lost = len(sets[-1] - tiles) if masks else 0
        score = missing + lost
        if best is None or score < best[0]:
            best = (score, identity)
    if best is None:
        raise PairingError(_ambiguous(groups))
    identity = best[1]
    bands_of_tile: dict[str, dict[str, Path]] = {}
    for band, files in bands.items():
        for path in files:
            bands_of_tile.setdefault(identity(path.stem), {})[band] = path
    if len(bands) > 1 and all(len(found) == 1 for found in bands_of_tile.values()):
        examples = ", ".join(files[0].name for files in groups[: len(bands)] if files)
        raise PairingError(
            f"No two bands share a tile: {examples} have nothing in common in their names. "
            "Name the files of one tile alike, as in B2_02_07.tif and B3_02_07.tif."
        )
    mask_of_tile = {identity(path.stem): path for path in masks}
    lost_masks = sorted(set(mask_of_tile) - set(bands_of_tile))
    if lost_masks:
        listed = ", ".join(mask_of_tile[key].name for key in lost_masks[:5])
        known = ", ".join(sorted(bands_of_tile)[:8])
        raise PairingError(
            f"{len(lost_masks)} mask(s) belong to no tile: {listed}. Tiles found: {known}. "
            "Rename each mask after its tile, or move it out of the label folder."
        )
    return dict(sorted(bands_of_tile.items())), mask_of_tile


def pair_extras(tiles: Mapping[str, Path], extras: Sequence[Path]) -> dict[str, Path]:
    """Pair files that tiles may have (elevation) with the tiles; those of other tiles are passed over.

    Parameters
    ----------
    tiles : {tile id: one of its files}
    extras : sequence of files

    Returns
    -------
    {tile id: path}
        By the idea of identity that finds most tiles, the strictest of these; empty where none does.
    """
    best: dict[str, Path] = {}
    for identity in _IDENTITIES:
        file_of = {identity(path.stem): path for path in extras}
        keys = [identity(path.stem) for path in tiles.values()]
        if len(file_of) < len(extras) or len(set(keys)) < len(keys) or "" in file_of:
            continue
        found = {tile_id: file_of[key] for tile_id, key in zip(tiles, keys, strict=True) if key in file_of}
        if len(found) > len(best):
            best = found
    return best


def _ambiguous(groups: Sequence[Sequence[Path]]) -> str:
    for identity in (plain_identity, exact_identity):
        for files in groups:
            seen: dict[str, Path] = {}
            for path in files:
                key = identity(path.stem)
                if key in seen:
                    return (
                        f"{seen[key].name} and {path.name} in {path.parent} cannot be told apart (both read as "
                        f"{key or 'nameless'!r}). Give every tile a name or number of its own."
                    )
                seen[key] = path
    return "The files' names hold nothing that tells one tile from another. Number them, as in B2_02_07.tif."
