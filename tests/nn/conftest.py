"""Small networks and scenes held in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.channels import Normalisation
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.tiling import Window
from napari_glacier.nn.checkpoint import LoadedModel, ModelCard

torch.set_num_threads(1)


@dataclass
class ArrayScene:
    """A scene in memory."""

    image_CHW: np.ndarray
    valid_HW: np.ndarray
    name: str = "scene"

    @property
    def shape(self) -> tuple[int, int]:
        return self.valid_HW.shape

    def read(self, window: Window, bands: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        planes = [CANONICAL_BANDS.index(band) for band in bands]
        return self.image_CHW[planes][:, *window.slices].copy(), self.valid_HW[window.slices].copy()


class TinyNetwork(nn.Module):
    """Two seeded convolutions: looks at neighbours, does not know its place."""

    def __init__(self, channels: int, num_classes: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(
                nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, num_classes, 3, padding=1)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.layers(x)


@pytest.fixture
def make_scene() -> Callable[..., ArrayScene]:
    """Maker of a random standard-normal scene; the first column block of width `gap_px` is nodata."""

    def make(height: int = 64, width: int = 64, gap_px: int = 0, seed: int = 0) -> ArrayScene:
        rng = np.random.default_rng(seed)
        image_CHW = rng.normal(size=(5, height, width)).astype(np.float32)
        valid_HW = np.ones((height, width), bool)
        valid_HW[:, :gap_px] = False
        return ArrayScene(image_CHW * valid_HW, valid_HW)

    return make


@pytest.fixture
def make_card() -> Callable[..., ModelCard]:
    """Maker of a card for standard-normal input."""

    def make(channels: Sequence[str] = CANONICAL_BANDS, scheme: str = "glacier4", **values: object) -> ModelCard:
        count = len(channels)
        usual = {
            "name": "tiny",
            "architecture": "ba_unet",
            "arguments": {},
            "channels": channels,
            "normalisation": Normalisation((0.0,) * count, (1.0,) * count),
            "scheme": get_scheme(scheme),
        }
        return ModelCard(**(usual | values))

    return make


@pytest.fixture
def make_member(make_card: Callable[..., ModelCard]) -> Callable[..., LoadedModel]:
    """Maker of a loaded model around a tiny network (or the network given)."""

    def make(
        seed: int = 0,
        network: nn.Module | None = None,
        channels: Sequence[str] = CANONICAL_BANDS,
        scheme: str = "glacier4",
        **values: object,
    ) -> LoadedModel:
        card = make_card(channels, scheme, **values)
        return LoadedModel(network or TinyNetwork(len(channels), card.scheme.num_classes, seed).eval(), card)

    return make
