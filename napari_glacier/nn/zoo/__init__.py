"""Architectures by name.

Every network takes (N, C, H, W) of any height and width and gives logits (N, K, H, W): it pads to its
own stride and crops back. While training, one with ``auxiliary_weights`` gives a tuple: the logits, then
an auxiliary output of the same size for each weight. A new architecture is one file and one line here.
"""

import inspect
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn

from napari_glacier.core.errors import ConfigError, GlacierError
from napari_glacier.nn.zoo.ba_unet import ba_unet
from napari_glacier.nn.zoo.deeplab_cbam import deeplab_cbam
from napari_glacier.nn.zoo.glavitu import glavitu
from napari_glacier.nn.zoo.hrnet import hrnet_w48
from napari_glacier.nn.zoo.monai_models import monai_attentionunet, monai_dynunet, monai_segresnet, monai_unet
from napari_glacier.nn.zoo.norm import with_patient_norms
from napari_glacier.nn.zoo.sam2 import sam2
from napari_glacier.nn.zoo.segnet import segnet
from napari_glacier.nn.zoo.smp_models import smp_builders
from napari_glacier.nn.zoo.stages import ARCHITECTURE
from napari_glacier.nn.zoo.surroundings import surroundings
from napari_glacier.nn.zoo.torchvision_models import deeplabv3_resnet50, fcn_resnet50
from napari_glacier.nn.zoo.unets import advanced_unet, plain_unet

_BUILDERS = MappingProxyType[str, Callable[..., nn.Module]](
    {
        "ba_unet": ba_unet,
        "deeplab_cbam": deeplab_cbam,
        "glavitu": glavitu,
        "plain_unet": plain_unet,
        "advanced_unet": advanced_unet,
        **smp_builders(),
        "fcn_resnet50": fcn_resnet50,
        "deeplabv3_resnet50": deeplabv3_resnet50,
        "segnet": segnet,
        "hrnet_w48": hrnet_w48,
        "monai_unet": monai_unet,
        "monai_dynunet": monai_dynunet,
        "monai_segresnet": monai_segresnet,
        "monai_attentionunet": monai_attentionunet,
        "sam2": sam2,
        "surroundings": surroundings,
    }
)


def model_names() -> tuple[str, ...]:
    """Names that `build_model` knows, those that need an optional extra included."""
    return tuple(_BUILDERS)


def default_encoder(name: str) -> str | None:
    """Encoder that an architecture is built on where none is named; None for one with an encoder of its own."""
    parameter = inspect.signature(_builder(name)).parameters.get("encoder")
    return None if parameter is None else str(parameter.default)


def takes_encoder(name: str) -> bool:
    """Whether an architecture can be built on different encoders, named by its argument ``encoder``."""
    return default_encoder(name) is not None


def optional_extra(name: str) -> str | None:
    """Extra of this package that an architecture needs (``monai``, ``sam2``), or None for one that always builds."""
    _builder(name)
    return "sam2" if name == "sam2" else "monai" if name.startswith("monai_") else None


def _builder(name: str) -> Callable[..., nn.Module]:
    if name not in _BUILDERS:
        raise ConfigError(f"There is no model {name!r}. Choose from: {', '.join(_BUILDERS)}.")
    return _BUILDERS[name]


def build_model(name: str, *, channels: Sequence[str] | int, num_classes: int, **arguments: Any) -> nn.Module:
    """Build a network with fresh weights (or pretrained encoder weights, where ``encoder_weights`` says so).

    Parameters
    ----------
    name : str
        One of `model_names`.
    channels : sequence of str, or int
        The input channels by name, or just how many.
    num_classes : int
    **arguments
        Those of the architecture: ``encoder``, ``decoder_channels``, ``dropout``, ``encoder_weights`` …

    Raises
    ------
    ConfigError
        If the name, an argument or the encoder is unknown, or the extra that the model needs is not installed.
    """
    build = _builder(name)
    channel_names = ("",) * channels if isinstance(channels, int) else tuple(channels)
    if not channel_names or num_classes < 2:
        raise ConfigError(
            f"A model needs at least one channel and two classes; {len(channel_names)} and {num_classes} "
            "were given. Background counts as a class."
        )
    if arguments.get("encoder_weights") in ("none", ""):
        arguments["encoder_weights"] = None
    if "encoder_weights" not in inspect.signature(build).parameters and arguments.get("encoder_weights", 0) is None:
        del arguments["encoder_weights"]  # asked for none, and there are none to be had
    try:
        network = build(len(channel_names), num_classes, channel_names=channel_names, **arguments)
    except GlacierError:
        raise
    except (TypeError, LookupError, RuntimeError, ValueError, NotImplementedError, AssertionError) as error:
        # Encoder names and arguments are checked by the libraries, each with its own exception.
        reason = next(iter(str(error.args[0] if error.args else error).splitlines()), type(error).__name__)
        if len(reason) > 300:  # smp lists all its hundreds of encoders
            reason = reason[:300] + " …"
        raise ConfigError(
            f"Model {name} cannot be built with {arguments or 'its defaults'}: {reason} "
            "Check model.encoder and model.arguments."
        ) from error
    setattr(network, ARCHITECTURE, name)
    return with_patient_norms(network)
