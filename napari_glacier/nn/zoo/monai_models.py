"""Architectures of MONAI, an optional extra; the library is imported when one of them is built.

MONAI's residual U-Net (Kerfoot et al. 2018), the dynamic U-Net of nnU-Net (Isensee et al. 2021) with deep
supervision, SegResNet (Myronenko 2018) and Attention U-Net (Oktay et al. 2018), all on two spatial dimensions.
"""

from collections.abc import Sequence
from math import prod
from types import ModuleType
from typing import Any

import torch
from torch import nn

from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.zoo.network import PaddedNetwork


def monai_unet(
    in_channels: int,
    num_classes: int,
    *,
    widths: Sequence[int] = (16, 32, 64, 128, 256),
    residual_units: int = 2,
    dropout: float = 0.2,
    channel_names: Sequence[str] = (),
) -> nn.Module:
    """Build the residual U-Net, which halves the map between two levels.

    Parameters
    ----------
    in_channels, num_classes : int
    widths : sequence of int
        Channels of each level, shallowest first.
    residual_units : int
        Convolutions with a shortcut around them, per level.
    dropout : float
        Share of values dropped after each convolution while training.
    channel_names : sequence of str
        Not used: there are no pretrained weights.
    """
    strides = (2,) * (len(widths) - 1)
    body = _nets("monai_unet").UNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=num_classes,
        channels=tuple(widths),
        strides=strides,
        num_res_units=residual_units,
        dropout=dropout,
    )
    return PaddedNetwork(body, stride=prod(strides))


def monai_dynunet(
    in_channels: int,
    num_classes: int,
    *,
    widths: Sequence[int] = (64, 96, 128, 192, 256, 384, 512),
    auxiliary_weights: Sequence[float] = (0.5, 0.25, 0.125),
    channel_names: Sequence[str] = (),
) -> nn.Module:
    """Build the dynamic U-Net with deep supervision.

    Parameters
    ----------
    in_channels, num_classes : int
    widths : sequence of int
        Channels of each level, shallowest first.
    auxiliary_weights : sequence of float
        Weight of each supervised level below the output, which are fewer than the levels less two; halved from level
        to level, as in nnU-Net.
    channel_names : sequence of str
        Not used: there are no pretrained weights.
    """
    nets = _nets("monai_dynunet")
    strides = (1, *(2,) * (len(widths) - 1))
    body = nets.DynUNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=num_classes,
        kernel_size=(3,) * len(widths),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=tuple(widths),
        deep_supervision=bool(auxiliary_weights),
        deep_supr_num=max(len(auxiliary_weights), 1),
    )
    # MONAI names every block twice, and files of weights refuse tensors that share their memory.
    for name in ("input_block", "downsamples", "bottleneck", "upsamples", "deep_supervision_heads"):
        if hasattr(body, name):
            delattr(body, name)
    body.register_forward_hook(_forget_heads)
    return PaddedNetwork(body, stride=prod(strides), auxiliary_weights=auxiliary_weights)


def monai_segresnet(
    in_channels: int,
    num_classes: int,
    *,
    width: int = 16,
    blocks_down: Sequence[int] = (1, 2, 2, 4),
    blocks_up: Sequence[int] = (1, 1, 1),
    dropout: float = 0.2,
    channel_names: Sequence[str] = (),
) -> nn.Module:
    """Build SegResNet.

    Parameters
    ----------
    in_channels, num_classes : int
    width : int
        Channels of the first level, doubled from level to level; a multiple of 8, the groups of its normalisation.
    blocks_down, blocks_up : sequence of int
        Residual blocks of each level on the way down, and one fewer on the way up.
    dropout : float
        Share of values dropped after the first convolution while training.
    channel_names : sequence of str
        Not used: there are no pretrained weights.
    """
    body = _nets("monai_segresnet").SegResNet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=num_classes,
        init_filters=width,
        blocks_down=tuple(blocks_down),
        blocks_up=tuple(blocks_up),
        dropout_prob=dropout or None,
    )
    return PaddedNetwork(body, stride=2 ** (len(blocks_down) - 1))


def monai_attentionunet(
    in_channels: int,
    num_classes: int,
    *,
    widths: Sequence[int] = (16, 32, 64, 128, 256),
    dropout: float = 0.0,
    channel_names: Sequence[str] = (),
) -> nn.Module:
    """Build Attention U-Net, whose gates weigh every skip connection.

    Parameters
    ----------
    in_channels, num_classes : int
    widths : sequence of int
        Channels of each level, shallowest first.
    dropout : float
        Share of values dropped after each convolution while training.
    channel_names : sequence of str
        Not used: there are no pretrained weights.
    """
    strides = (2,) * (len(widths) - 1)
    body = _nets("monai_attentionunet").AttentionUnet(
        spatial_dims=2,
        in_channels=in_channels,
        out_channels=num_classes,
        channels=tuple(widths),
        strides=strides,
        dropout=dropout,
    )
    return PaddedNetwork(body, stride=prod(strides))


def _nets(name: str) -> ModuleType:
    try:
        from monai.networks import nets
    except ImportError as error:
        raise ConfigError(
            f'Model {name} needs MONAI, which is not installed. Install it with: pip install "napari-glacier[monai]".'
        ) from error
    networks: ModuleType = nets
    return networks


def _forget_heads(body: nn.Module, image: object, output: torch.Tensor) -> None:
    """Drop the auxiliary maps that MONAI keeps on the network; with their graph it could not be copied."""
    heads: Any = body.heads  # one list, which all levels share
    heads[:] = [output.new_zeros(1)] * len(heads)
