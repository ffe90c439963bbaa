"""Architectures taken as they are from segmentation-models-pytorch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import segmentation_models_pytorch as smp
from torch import nn

from napari_glacier.nn.zoo.encoders import load_encoder_weights, size_arguments
from napari_glacier.nn.zoo.network import SegmentationNetwork
from napari_glacier.nn.zoo.stages import settle_idle

_FULL_DEPTH = 5  # of every encoder in the library


@dataclass(frozen=True, slots=True)
class _Model:
    """A class of the library, and what it needs here.

    Attributes
    ----------
    build : callable
    depth : int
        Stages of the encoder that it uses by default.
    least : int
        Strides on the smallest side that it takes.
    follows_depth : bool
        Its head upsamples from the deepest map, not from stride 4.
    """

    build: Any
    depth: int = _FULL_DEPTH
    least: int = 2
    follows_depth: bool = False


_MODELS = MappingProxyType(
    {
        "unet": _Model(smp.Unet),
        "unetplusplus": _Model(smp.UnetPlusPlus),
        "manet": _Model(smp.MAnet),
        "linknet": _Model(smp.Linknet),
        "fpn": _Model(smp.FPN),
        "pspnet": _Model(smp.PSPNet, depth=3, follows_depth=True),
        # Its attention halves the deepest map three times.
        "pan": _Model(smp.PAN, least=8),
        "deeplabv3": _Model(smp.DeepLabV3),
        "deeplabv3plus": _Model(smp.DeepLabV3Plus),
        "segformer": _Model(smp.Segformer),
        "upernet": _Model(smp.UPerNet),
    }
)


def smp_builders() -> dict[str, Callable[..., nn.Module]]:
    """Return a builder for each of the library's architectures, by name."""
    return {name: _builder(model) for name, model in _MODELS.items()}


def _builder(model: _Model) -> Callable[..., nn.Module]:
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
        depth = int(arguments.get("encoder_depth", model.depth))
        if model.follows_depth:
            arguments = {"upsampling": 2**depth, **arguments}
        arguments = {**size_arguments(encoder), **arguments}
        built = model.build(encoder, encoder_weights=None, in_channels=in_channels, classes=num_classes, **arguments)
        settle_idle(built.encoder, remove=depth < _FULL_DEPTH)
        if encoder_weights is not None:
            load_encoder_weights(built.encoder, encoder, encoder_weights, channel_names)
        return SegmentationNetwork.from_smp(built, dropout, model.least)

    return build
