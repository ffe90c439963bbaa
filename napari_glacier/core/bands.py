"""The bands, the names they go by on disk, and the identity of a tile in a file name."""

import re

CANONICAL_BANDS = ("B2", "B3", "B4", "B6", "B10")
# Metres and degrees, or whatever the files hold: known of a place, whether or not the satellite saw it.
TERRAIN_BANDS = ("elevation", "slope")
# Of tiles that are pictures; grey is the mean of the three colours.
PICTURE_BANDS = ("grey", "red", "green", "blue")
BAND_GROUPS = (CANONICAL_BANDS, TERRAIN_BANDS, PICTURE_BANDS)
# In this order everywhere, so that a tile's first band is one that the satellite saw.
ALL_BANDS = (*CANONICAL_BANDS, *TERRAIN_BANDS, *PICTURE_BANDS)

# Band1..Band5 are positions in the canonical order, not Landsat numbers: the competition's naming.
_ALIASES = (
    {band.lower(): band for band in CANONICAL_BANDS}
    | {f"band{position}": band for position, band in enumerate(CANONICAL_BANDS, start=1)}
    | {band: band for band in TERRAIN_BANDS}
    | {"dem": "elevation"}
)

# Words in file names that say what kind of file it is, never which tile.
_KIND_TOKENS = frozenset(
    {
        "y",
        "x",
        "output",
        "resized",
        "masked",
        "mask",
        "masks",
        "label",
        "labels",
        "image",
        "img",
        "tile",
        "truth",
        "gt",
    }
) | frozenset(_ALIASES)

_BAND_PREFIX = re.compile(r"^(?:(?:b|band)\d{1,2}a?[_\-. ]+)+(?=.)", re.IGNORECASE)


def band_of_folder(folder_name: str) -> str | None:
    """Canonical band that a folder of this name holds (``B10``, ``Band5``, ``dem``), or None."""
    return _ALIASES.get(folder_name.lower())


def exact_identity(stem: str) -> str:
    """Identity of a tile as the file's stem without a leading band prefix or kind word.

    ``B2_B2_masked_02_07`` gives ``masked_02_07``: bands of one naming pair by this.
    """
    tokens = stem.split("_")
    while len(tokens) > 1 and tokens[0].lower() in _ALIASES:
        tokens = tokens[1:]
    return "_".join(tokens)


def plain_identity(stem: str) -> str:
    """Identity without any word that says what kind of file it is.

    ``B2_B2_masked_02_07`` and ``Y_output_resized_02_07`` both give ``02_07``.
    """
    kept = [token for token in re.split(r"[_\-. ]+", stem) if token and token.lower() not in _KIND_TOKENS]
    return "_".join(kept)


def number_identity(stem: str) -> str:
    """Identity as the trailing numbers alone: ``img001`` and ``mask001`` both give ``001``.

    The number of a band, by whatever sensor, is none of them: ``B1_00_07`` gives ``00_07``.
    """
    match = re.search(r"\d+(?:[_\-. ]\d+)*$", _BAND_PREFIX.sub("", stem))
    return re.sub(r"[\-. ]", "_", match.group()) if match else ""
