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
