"""napari's own Save for Labels layers: one georeferenced GeoTIFF with the scheme's codes."""

from pathlib import Path
from typing import Any


def write_labels(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Write a Labels layer as a mask.

    A layer of the plugin keeps its scheme's codes and its place on the map; any other one is written
    without a place, with the scheme that its values fit.

    Parameters
    ----------
    path : str
        A `.tif`; the ending is added where it lacks.
    data : array-like of class indices, shape (H, W) or (N, H, W)
    attributes : dict
        The layer's attributes as napari gives them.

    Returns
    -------
    list of str
        What was written: one file, or one for each scene of a stack.

    Raises
    ------
    GlacierError
        If a value fits no class, or the file cannot be written.
    """
    from napari_glacier.controllers.exchange import write_layer

    target = Path(path)
    if target.suffix.lower() not in {".tif", ".tiff"}:
        target = target.with_name(f"{target.name}.tif")
    return [str(written) for written in write_layer(target, data, attributes.get("metadata", {}))]
