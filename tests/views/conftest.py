from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import QSettings

from napari_glacier.controllers.session import Session
from napari_glacier.views import settings


@pytest.fixture(autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    # What the test before kept belongs into its own folder.
    settings._disk.submit(lambda: None).result()
    folder = tmp_path_factory.mktemp("settings")
    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(folder))


@pytest.fixture
def viewer(make_napari_viewer: Any, _plugin: None) -> Iterator[Any]:
    """A napari window that knows the plugin; nothing of ours may outlive it."""
    viewer = make_napari_viewer()
    yield viewer
    viewer.layers.clear()
    assert not Session._open, "a session outlived its layers"


@pytest.fixture
def _plugin() -> None:
    """The manifest of this working tree, whichever version is installed."""
    from npe2 import PluginManager, PluginManifest

    manager = PluginManager.instance()
    if "napari-glacier" not in manager:
        manifest = Path(__file__).resolve().parents[2] / "napari_glacier" / "napari.yaml"
        manager.register(PluginManifest.from_file(manifest))
