"""FCN (Long et al. 2015) and DeepLabV3 (Chen et al. 2017) on a dilated ResNet-50, as torchvision builds them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torchvision.models import ResNet, resnet50
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from napari_glacier.nn.zoo.encoders import load_encoder_weights
from napari_glacier.nn.zoo.network import SegmentationNetwork

_OUTPUT_STRIDE = 8


class ResNetFeatures(nn.Module):
    """The convolutional part of a ResNet, with its own names for the layers; gives one map a stage."""

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            resnet.layer1,
            resnet.layer2,
            resnet.layer3,
            resnet.layer4,
        )

    def forward(self, image_NCHW: torch.Tensor) -> list[torch.Tensor]:
        maps = [self.relu(self.bn1(self.conv1(image_NCHW)))]
        maps.append(self.layer1(self.maxpool(maps[-1])))
        for layer in (self.layer2, self.layer3, self.layer4):
            maps.append(layer(maps[-1]))
        return maps


class _OnLastMap(nn.Module):
    """A head of torchvision, which reads the deepest of the encoder's maps."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self.head(maps[-1])
        return logits


def fcn_resnet50(
    in_channels: int,
    num_classes: int,
    *,
    encoder_weights: str | Path | None = None,
    channel_names: Sequence[str] = (),
) -> nn.Module:
    """Build FCN at stride 8, without the auxiliary classifier.

    Parameters
    ----------
    in_channels, num_classes : int
    encoder_weights : str or Path, optional
        ``"imagenet"`` or a local file, of a ResNet-50 or of this whole network; see `load_encoder_weights`.
    channel_names : sequence of str
        Names of the channels, for adapting pretrained weights.
    """
    return _on_resnet50(FCNHead(2048, num_classes), in_channels, encoder_weights, channel_names)


def deeplabv3_resnet50(
    in_channels: int,
    num_classes: int,
    *,
    atrous_rates: Sequence[int] = (12, 24, 36),
    encoder_weights: str | Path | None = None,
    channel_names: Sequence[str] = (),
) -> nn.Module:
    """Build DeepLabV3 at stride 8, without the auxiliary classifier.

    Parameters
    ----------
    in_channels, num_classes : int
    atrous_rates : sequence of int
        Dilations of the pyramid's branches, in pixels of the stride-8 map.
    encoder_weights, channel_names
        As for `fcn_resnet50`.
    """
    head = DeepLabHead(2048, num_classes, tuple(atrous_rates))
    return _on_resnet50(head, in_channels, encoder_weights, channel_names)


def _on_resnet50(
    head: nn.Module, in_channels: int, encoder_weights: str | Path | None, channel_names: Sequence[str]
) -> nn.Module:
    resnet = resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
    resnet.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(resnet.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    encoder = ResNetFeatures(resnet)
    if encoder_weights is not None:
        load_encoder_weights(encoder, "resnet50", encoder_weights, channel_names)
    upsampling = nn.Upsample(scale_factor=_OUTPUT_STRIDE, mode="bilinear", align_corners=False)
    return SegmentationNetwork(encoder, _OnLastMap(head), upsampling, stride=_OUTPUT_STRIDE)
