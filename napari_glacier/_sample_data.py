"""File > Open Sample > Glacier region: the bundled synthetic region as layers."""

import logging
from typing import Any

logger = logging.getLogger(__name__)


def open_region() -> list[tuple[Any, dict[str, Any], str]]:
    """Layers of a writable copy of the synthetic region, in the user's data folder.

    A copy that is there already is opened with the corrections made to it.
    """
    from napari_glacier._reader import read_layers
    from napari_glacier.controllers.exchange import sample_copy, sample_folder

    folder = sample_copy(sample_folder())
    logger.info("The sample region lies in %s.", folder)
    return read_layers(str(folder))
