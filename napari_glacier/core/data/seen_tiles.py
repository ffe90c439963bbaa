"""By what a model knows the tiles that it has learnt from: a fingerprint of pixels, whatever a file is called."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from napari_glacier.core.channels import required_bands
from napari_glacier.core.data.dataset import Dataset
from napari_glacier.core.data.tiles import Tile


def band_fingerprint(band_HW: npt.NDArray[Any]) -> str:
    """Digest of a band as `Dataset.read` gives it (float32, 0 on nodata)."""
    return hashlib.blake2b(band_HW.tobytes(), digest_size=6).hexdigest()


def deciding_band(channels: Sequence[str]) -> tuple[str, ...]:
    """The band that gives a tile its fingerprint for a model of these channels: the first that it looks at, if any."""
    return required_bands(channels)[:1]


def tile_fingerprint(dataset: Dataset, tile: Tile, band: Sequence[str]) -> str:
    """What a model's `ModelCard.seen_tiles` lists where it has learnt from this tile; reads the `deciding_band`."""
    return band_fingerprint(dataset.read(tile, band)[0])
