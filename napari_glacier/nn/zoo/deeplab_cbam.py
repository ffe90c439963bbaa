"""DeepLabV3+ with attention: CBAM on the encoder's features, and a pyramid that weighs its branches.

- DeepLabV3+: Chen et al. 2018, atrous spatial pyramid pooling (ASPP) at stride 16, joined with stride 4.
- CBAM: Woo et al. 2018. Channel attention sigmoid(MLP(avg) + MLP(max)), then spatial attention
  sigmoid(conv7x7([mean, max over channels])); here on both feature maps that the decoder reads.
- Attention-weighted ASPP: a 1x1 convolution over all five branches gives every pixel a softmax over the
  branches, so each place chooses its own scale; times five, so that equal weights change nothing.

The image-level branch is normalised by groups, not batches: its map is one pixel, on which batch
normalisation cannot train with a batch of one, and whose statistics are poor with any batch.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn
from torch.nn import functional

from napari_glacier.nn.zoo.encoders import load_encoder_weights
from napari_glacier.nn.zoo.network import SegmentationNetwork
from napari_glacier.nn.zoo.stages import settle_idle

_OUTPUT_STRIDE = 16
_LOW_LEVEL_CHANNELS = 48  # as in the DeepLabV3+ paper


class Cbam(nn.Module):
    """Convolutional block attention (Woo et al. 2018): channels first, then places."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=False)
        )
        self.spatial = nn.Conv2d(2, 1, kernel_size=7, padding=3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        average, peak = x.mean(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
        x = x * torch.sigmoid(self.mlp(average) + self.mlp(peak))
        summary = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        weighted: torch.Tensor = x * torch.sigmoid(self.spatial(summary))
        return weighted


def _conv_bn_relu(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    if kernel == 1:
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 1, bias=False)]
    else:  # depthwise separable, as in the paper's decoder
        layers = [
            nn.Conv2d(inputs, inputs, kernel, padding=dilation, dilation=dilation, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
        ]
    return nn.Sequential(*layers, nn.BatchNorm2d(outputs), nn.ReLU())


class AttentionAspp(nn.Module):
    """Five branches of growing field of view, weighted per pixel by a softmax over the branches."""

    def __init__(self, inputs: int, outputs: int, rates: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [_conv_bn_relu(inputs, outputs), *(_conv_bn_relu(inputs, outputs, 3, rate) for rate in rates)]
        )
        groups = next(count for count in (32, 16, 8, 4, 2, 1) if outputs % count == 0)
        self.image_level = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.GroupNorm(groups, outputs) if outputs // groups > 1 else nn.Identity(),
            nn.ReLU(),
        )
        num_branches = len(self.branches) + 1
        self.gate = nn.Conv2d(num_branches * outputs, num_branches, 1)
        self.project = nn.Sequential(_conv_bn_relu(num_branches * outputs, outputs), nn.Dropout(dropout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = [branch(x) for branch in self.branches]
        maps.append(self.image_level(x).expand_as(maps[0]))
        weights = torch.softmax(self.gate(torch.cat(maps, dim=1)), dim=1) * len(maps)
        weighted = [feature * weights[:, k : k + 1] for k, feature in enumerate(maps)]
        projected: torch.Tensor = self.project(torch.cat(weighted, dim=1))
        return projected


class CbamDecoder(nn.Module):
    """Attention on two encoder maps, the pyramid on the deep one, and their fusion at stride 4."""

    def __init__(
        self, encoder_channels: Sequence[int], channels: int, rates: Sequence[int], aspp_dropout: float
    ) -> None:
        super().__init__()
        self.attend_deep = Cbam(encoder_channels[-1])
        self.attend_low = Cbam(encoder_channels[2])
        self.aspp = AttentionAspp(encoder_channels[-1], channels, rates, aspp_dropout)
        self.refine_deep = _conv_bn_relu(channels, channels, 3)
        self.reduce_low = _conv_bn_relu(encoder_channels[2], _LOW_LEVEL_CHANNELS)
        self.fuse = _conv_bn_relu(channels + _LOW_LEVEL_CHANNELS, channels, 3)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        deep = self.refine_deep(self.aspp(self.attend_deep(features[-1])))
        low = self.reduce_low(self.attend_low(features[2]))
        deep = functional.interpolate(deep, size=low.shape[-2:], mode="bilinear", align_corners=False)
        fused: torch.Tensor = self.fuse(torch.cat([deep, low], dim=1))
        return fused


def deeplab_cbam(
    in_channels: int,
    num_classes: int,
    *,
    encoder: str = "resnet34",
    decoder_channels: int | Sequence[int] = 256,
    atrous_rates: Sequence[int] = (6, 12, 18),
    dropout: float = 0.2,
    aspp_dropout: float = 0.1,
    encoder_weights: str | Path | None = None,
    channel_names: Sequence[str] = (),
) -> nn.Module:
    """Build the network.

    Parameters
    ----------
    in_channels, num_classes : int
    encoder : str
        An encoder of segmentation-models-pytorch that can be dilated to stride 16.
    decoder_channels : int
        Width of the pyramid and the decoder (of a sequence, its first entry).
    atrous_rates : sequence of int
        Dilations of the pyramid's branches, in pixels of the stride-16 map; the paper's for stride 16.
    dropout, aspp_dropout : float
        Before the head (whole channels) and after the pyramid.
    encoder_weights, channel_names
        As for `ba_unet`.
    """
    width = int(decoder_channels if isinstance(decoder_channels, int) else decoder_channels[0])
    backbone = get_encoder(encoder, in_channels=in_channels, depth=5, weights=None, output_stride=_OUTPUT_STRIDE)
    decoder = CbamDecoder(backbone.out_channels, width, tuple(atrous_rates), aspp_dropout)
    head = SegmentationHead(width, num_classes, kernel_size=1, upsampling=4)
    initialize_decoder(decoder)
    initialize_head(head)
    if encoder_weights is not None:
        load_encoder_weights(backbone, encoder, encoder_weights, channel_names)
    settle_idle(backbone, remove=False)
    return SegmentationNetwork(backbone, decoder, head, stride=_OUTPUT_STRIDE, dropout=dropout)
