"""HRNet for segmentation (HRNetV2, Wang et al. 2020): four resolutions kept side by side, then fused.

The encoder is timm's; all its maps (strides 4, 8, 16, 32) are upsampled to the finest, concatenated, and
mixed by one 1x1 convolution as wide as they are together, before the head. 65.8 million parameters with hrnet_w48.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional

from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.zoo.encoders import load_encoder_weights
from napari_glacier.nn.zoo.network import SegmentationNetwork

_STRIDE = 32
_FINEST = 4  # stride of the finest map


class FuseResolutions(nn.Module):
    """All maps at the size of the first, concatenated, through 1x1 convolution, batch normalisation and ReLU."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.width = sum(channels)
        self.mix = nn.Sequential(
            nn.Conv2d(self.width, self.width, 1, bias=False), nn.BatchNorm2d(self.width), nn.ReLU(inplace=True)
        )

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        size = features[0].shape[-2:]
        coarse = [functional.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in features[1:]]
        fused: torch.Tensor = self.mix(torch.cat([features[0], *coarse], dim=1))
        return fused


def hrnet_w48(
    in_channels: int,
    num_classes: int,
    *,
    encoder: str = "hrnet_w48",
    dropout: float = 0.0,
    encoder_weights: str | Path | None = None,
    channel_names: Sequence[str] = (),
) -> nn.Module:
    """Build the network.

    Parameters
    ----------
    in_channels, num_classes : int
    encoder : str
        An HRNet of timm: ``hrnet_w48``, or a lighter one such as ``hrnet_w18_small``.
    dropout : float
        Share of whole channels dropped before the head while training.
    encoder_weights : str or Path, optional
        ``"imagenet"`` or a local file; see `load_encoder_weights`.
    channel_names : sequence of str
        Names of the channels, for adapting pretrained weights.

    Raises
    ------
    ConfigError
        If timm has no such HRNet.
    """
    known = timm.list_models("hrnet_*")
    if encoder not in known:
        raise ConfigError(f"There is no HRNet {encoder!r}. Choose the encoder from: {', '.join(known)}.")
    # The bare maps of the last stage (feature_location ""), without the classification head's widening.
    backbone: Any = timm.create_model(
        encoder,
        pretrained=False,
        features_only=True,
        feature_location="",
        out_indices=(1, 2, 3, 4),
        in_chans=in_channels,
    )
    if encoder_weights is not None:
        load_encoder_weights(backbone, f"tu-{encoder}", encoder_weights, channel_names)
    decoder = FuseResolutions(backbone.feature_info.channels())
    head = nn.Sequential(
        nn.Conv2d(decoder.width, num_classes, 1),
        nn.Upsample(scale_factor=_FINEST, mode="bilinear", align_corners=False),
    )
    return SegmentationNetwork(backbone, decoder, head, stride=_STRIDE, dropout=dropout)
