"""Architectures taken as they are from segmentation-models-pytorch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
from torch import nn

from napari_glacier.nn.zoo.encoders import load_encoder_weights
from napari_glacier.nn.zoo.network import SegmentationNetwork

# The library's DeepLabV3(+), PAN and PSPNet normalise a one-pixel map by batch and so cannot train on a batch
# of one; they are left out.
_MODELS: dict[str, Any] = {
    "unet": smp.Unet,
    "unetplusplus": smp.UnetPlusPlus,
    "manet": smp.MAnet,
    "linknet": smp.Linknet,
    "fpn": smp.FPN,
    "segformer": smp.Segformer,
}


def smp_builders() -> dict[str, Callable[..., nn.Module]]:
    """Return a builder for each of the library's architectures, by name."""
    return {name: _builder(model) for name, model in _MODELS.items()}


def _builder(model: Any) -> Callable[..., nn.Module]:
    def build(
        in_channels: int,
        num_classes: int,
        *,
        encoder: str = "resnet34",
        dropout: float = 0.0,
        encoder_weights: str | Path | None = None,
        channel_names: Sequence[str] = (),
        **arguments: Any,
    ) -> nn.Module:
        built = model(encoder, encoder_weights=None, in_channels=in_channels, classes=num_classes, **arguments)
        if encoder_weights is not None:
            load_encoder_weights(built.encoder, encoder, encoder_weights, channel_names)
        return SegmentationNetwork.from_smp(built, dropout)

    return build
