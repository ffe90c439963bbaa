"""napari's reader: a dataset folder, a scene, a five-band TIFF or a dataset.yaml becomes layers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

LayerTuple = tuple[Any, dict[str, Any], str]


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[LayerTuple]] | None:
    """A reader for what is ours, None for anything else; decided from names and one header.

    Parameters
    ----------
    path : str or list of str
        One path; a list (a stack of files) is never ours.
    """
    if isinstance(path, list):
        return None
    target = Path(path)
    return read_layers if _is_ours(target) else None


def read_layers(path: str | list[str]) -> list[LayerTuple]:
    """Open the dataset and give its layers, bottom first.

    Raises
    ------
    GlacierError
        If the dataset is damaged; says which file and what to do.
    """
    import napari

    from napari_glacier.controllers.session import Session
    from napari_glacier.controllers.workspace import workspace_of

    target = Path(path[0] if isinstance(path, list) else path)
    session = Session.open(target.parent if target.name == "dataset.yaml" else target)
    viewer = napari.current_viewer()
    if viewer is not None and workspace_of(viewer).shows(session):
        # Two Labels layers on one mask would each show what the other does not.
        napari.utils.notifications.show_info(f"{session.root.name} is open in this window already.")
        return [(None,)]  # type: ignore[list-item]  # napari's way to say: nothing to add
    if viewer is not None:
        from napari_glacier.views.windows import look_after

        # From here on the layers are followed, whether or not a widget is open.
        workspace_of(viewer)
        look_after(viewer)
    if session.recovered is not None and not session.read_only:
        from napari.utils.notifications import show_info

        show_info(f"{session.recovered.sentence} (Plugins > Glacier > Correct)")
    try:
        layers = session.layer_data()
    except BaseException:
        # Unless a window shows it nobody would give back the dataset's lock.
        session.release(session)
        raise
    return layers if viewer is None else workspace_of(viewer).opening.picture_first(layers)


def _is_ours(path: Path) -> bool:
    from napari_glacier.core.data.dataset import is_dataset

    if path.is_dir():
        # A folder without any file is nobody's picture; opening it says what a dataset looks like.
        return is_dataset(path) or not any(child.is_file() for child in path.iterdir())
    if path.name == "dataset.yaml":
        return is_dataset(path.parent)
    if is_dataset(path):
        return True
    if path.suffix.lower() in {".tif", ".tiff"} and path.is_file():
        from napari_glacier.core.errors import RasterError
        from napari_glacier.core.raster import read_info

        try:
            # Fewer bands are anyone's picture.
            return read_info(path).count >= 5
        except RasterError:
            return False
    return False
