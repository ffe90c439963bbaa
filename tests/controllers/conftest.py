from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from napari.components import ViewerModel

from napari_glacier.controllers.session import Session
from napari_glacier.controllers.workspace import Workspace, workspace_of


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
def two_scenes(workspace: Workspace, make_unequal_scenes: Callable[..., Path]) -> Session:
    """An open data set whose second scene is smaller than the first."""
    return workspace.open(make_unequal_scenes(2))
