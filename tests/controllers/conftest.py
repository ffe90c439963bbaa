from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_glacier.controllers.session import Session
from napari_glacier.controllers.workspace import Workspace, workspace_of
from napari_glacier.core.raster import read_raster, write_raster


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


@pytest.fixture
def workspace(viewer: Any) -> Iterator[Workspace]:
    workspace = workspace_of(viewer)
    yield workspace
    workspace.close()
    assert not Session._open, "a session outlived its window"


@pytest.fixture
def two_scenes(workspace: Workspace, make_dataset: Any) -> Session:
    """An open data set whose second scene, of 48 x 40 pixels, is smaller than the first."""
    root = make_dataset(georeferenced=False, grid=(1, 2))
    for folder in [*sorted(root.glob("Band*")), root / "label"]:
        path = sorted(folder.glob("*.tif"))[1]
        pixels = np.asarray(read_raster(path)[0])[:48, :40]
        path.unlink()
        write_raster(path, pixels)
    return workspace.open(root)
