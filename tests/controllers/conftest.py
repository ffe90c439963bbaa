from collections.abc import Iterator
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
