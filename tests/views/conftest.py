from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qtpy.QtCore import QSettings

from napari_glacier.controllers.session import Session


@pytest.fixture(autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
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


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Maker of a small network with seeded, untrained weights."""

    def make(name: str = "tiny", scheme: str = "glacier4", folder: Path = tmp_path) -> Path:
        import torch

        from napari_glacier.core.bands import CANONICAL_BANDS
        from napari_glacier.core.channels import Normalisation
        from napari_glacier.core.classes import get_scheme
        from napari_glacier.nn.checkpoint import ModelCard, save_checkpoint
        from napari_glacier.nn.zoo import build_model

        torch.set_num_threads(1)
        torch.manual_seed(3)
        arguments = {"encoder": "tu-mobilenetv3_small_050", "decoder_channels": [16, 16, 16, 16, 16]}
        model = build_model("unet", channels=CANONICAL_BANDS, num_classes=get_scheme(scheme).num_classes, **arguments)
        card = ModelCard(
            name=name,
            architecture="unet",
            arguments=arguments,
            channels=CANONICAL_BANDS,
            normalisation=Normalisation((20_000.0,) * 5, (9_000.0,) * 5),
            scheme=get_scheme(scheme),
        )
        path = folder / f"{name}.safetensors"
        save_checkpoint(path, model, card)
        return path

    return make
