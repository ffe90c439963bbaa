"""The frame all architectures share: padding to the stride, encoder, decoder, dropout, head.

`SegmentationNetwork` puts the parts together; `PaddedNetwork` frames a network that is whole already.

Shapes: image_NCHW, logits_NKHW, features are lists of tensors of falling resolution.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional


def pad_to_stride(image_NCHW: torch.Tensor, stride: int, least: int = 2) -> torch.Tensor:
    """Pad at the bottom and the right so that both sides are multiples of `stride`, at least `least` of them.

    Mirrors the image where it is large enough, else repeats its last row and column. Two strides keep
    the deepest map larger than one pixel, which normalisation needs to train on a batch of one.
    """
    height, width = image_NCHW.shape[-2:]
    bottom = max(-(-height // stride), least) * stride - height
    right = max(-(-width // stride), least) * stride - width
    if not bottom and not right:
        return image_NCHW
    mode = "reflect" if bottom < height and right < width else "replicate"
    return functional.pad(image_NCHW, (0, right, 0, bottom), mode=mode)


class SegmentationNetwork(nn.Module):
    """Encoder, decoder, optional dropout and head; takes images of any size.

    Parameters
    ----------
    encoder : nn.Module
        Image to list of feature maps.
    decoder : nn.Module
        List of feature maps to one map.
    segmentation_head : nn.Module
        That map to logits at the padded image's resolution.
    stride : int
        Both sides of what the encoder gets are multiples of it.
    least : int
        How many strides a side has at least.
    dropout : float
        Share of whole channels dropped before the head while training.

    The submodules carry the names that segmentation-models-pytorch uses, so state dicts travel both ways.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        segmentation_head: nn.Module,
        *,
        stride: int,
        least: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.segmentation_head = segmentation_head
        self.dropout: nn.Module = nn.Dropout2d(dropout) if dropout else nn.Identity()
        self.stride = stride
        self.least = least

    @classmethod
    def from_smp(cls, model: Any, dropout: float = 0.0, least: int = 2) -> "SegmentationNetwork":
        """Take the parts of a model of segmentation-models-pytorch."""
        return cls(
            model.encoder,
            model.decoder,
            model.segmentation_head,
            stride=int(model.encoder.output_stride),
            least=least,
            dropout=dropout,
        )

    def forward(self, image_NCHW: torch.Tensor) -> torch.Tensor:
        """Return logits, shape (N, num_classes, H, W), for images of any H and W."""
        height, width = image_NCHW.shape[-2:]
        features = self.encoder(pad_to_stride(image_NCHW, self.stride, self.least))
        logits: torch.Tensor = self.segmentation_head(self.dropout(self.decoder(features)))
        return logits[..., :height, :width]


class PaddedNetwork(nn.Module):
    """A whole network of another library, for images of any size.

    Parameters
    ----------
    body : nn.Module
        Image (N, C, H, W) to logits (N, K, H, W); with `auxiliary_weights`, while training, to a tensor
        (N, 1 + A, K, H, W) with the outputs of A auxiliary heads after the logits.
    stride : int
        Both sides of what the body gets are multiples of it.
    auxiliary_weights : sequence of float
        Weight of each auxiliary output in the loss, where that of the logits is 1.
    """

    def __init__(self, body: nn.Module, *, stride: int, auxiliary_weights: Sequence[float] = ()) -> None:
        super().__init__()
        self.body = body
        self.stride = stride
        self.auxiliary_weights = tuple(auxiliary_weights)

    def forward(self, image_NCHW: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Return logits, shape (N, num_classes, H, W); while training with auxiliary heads, a tuple of them all."""
        height, width = image_NCHW.shape[-2:]
        output: torch.Tensor = self.body(pad_to_stride(image_NCHW, self.stride))[..., :height, :width]
        return output.unbind(dim=1) if self.training and self.auxiliary_weights else output
