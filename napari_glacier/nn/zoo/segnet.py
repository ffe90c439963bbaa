"""SegNet (Badrinarayanan et al. 2017): VGG16 with batch normalisation, and a decoder that puts maxima back.

The encoder remembers where in each 2x2 window the maximum stood; the mirrored decoder puts every value back
there and fills the zeros between by convolutions. 29.5 million parameters.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from napari_glacier.nn.zoo.encoders import load_encoder_weights
from napari_glacier.nn.zoo.network import SegmentationNetwork

_STRIDE = 32
# Widths of the convolutions of VGG16 per stage (configuration D of Simonyan and Zisserman 2015); a 2x2 maximum
# follows each stage.
_ENCODER = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Widths of the decoder's convolutions per stage, deepest first: the encoder read backwards.
_DECODER = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64, 64))


class VggEncoder(nn.Module):
    """The thirteen convolutions of VGG16-BN; gives the map after each of five poolings, and its indices.

    The layers keep the names of torchvision (``features.0`` …), so its weight files fit.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for widths in _ENCODER:
            for width in widths:
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        pooled = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                x, indices = functional.max_pool2d(x, 2, return_indices=True)
                pooled.append((x, indices))
            else:
                x = layer(x)
        return pooled


def unpool(x_NCHW: torch.Tensor, indices_NCHW: torch.Tensor) -> torch.Tensor:
    """Undo a 2x2 maximum: every value back to where it stood, zeros elsewhere.

    Parameters
    ----------
    x_NCHW : tensor, shape (N, C, H, W)
    indices_NCHW : tensor of int64, same shape
        Places within the (2H, 2W) plane, as ``max_pool2d`` gives them.

    Returns
    -------
    tensor, shape (N, C, 2H, 2W)

    `torch.nn.functional.max_unpool2d` computes the same, but cannot be exported and counts as
    non-deterministic; the windows do not overlap, so a scatter is safe.
    """
    batch, channels, height, width = x_NCHW.shape
    planes = x_NCHW.new_zeros(batch, channels, 4 * height * width)
    filled = planes.scatter(2, indices_NCHW.flatten(2), x_NCHW.flatten(2))
    return filled.reshape(batch, channels, 2 * height, 2 * width)


class UnpoolDecoder(nn.Module):
    """The encoder read backwards, every pooling replaced by its `unpool`."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        inputs = _DECODER[0][0]
        for widths in _DECODER:
            layers: list[nn.Module] = []
            for width in widths:
                layers += [
                    nn.Conv2d(inputs, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                inputs = width
            self.stages.append(nn.Sequential(*layers))

    def forward(self, pooled: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        x = pooled[-1][0]
        for stage, (_, indices) in zip(self.stages, reversed(pooled), strict=True):
            x = stage(unpool(x, indices))
        return x


def segnet(
    in_channels: int,
    num_classes: int,
    *,
    dropout: float = 0.0,
    encoder_weights: str | Path | None = None,
    channel_names: Sequence[str] = (),
) -> nn.Module:
    """Build the network.

    Parameters
    ----------
    in_channels, num_classes : int
    dropout : float
        Share of whole channels dropped before the head while training.
    encoder_weights : str or Path, optional
        ``"imagenet"`` or a local file with the weights of vgg16_bn; see `load_encoder_weights`.
    channel_names : sequence of str
        Names of the channels, for adapting pretrained weights.
    """
    encoder = VggEncoder(in_channels)
    if encoder_weights is not None:
        load_encoder_weights(encoder, "vgg16_bn", encoder_weights, channel_names)
    head = nn.Conv2d(_DECODER[-1][-1], num_classes, 3, padding=1)
    return SegmentationNetwork(encoder, UnpoolDecoder(), head, stride=_STRIDE, dropout=dropout)
