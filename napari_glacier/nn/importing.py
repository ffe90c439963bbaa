"""Weights of another program made into a checkpoint that explains itself.

The file says neither which network it is of, nor what the network looked at: a person says so, and is told which
tensors then find their place. Nothing in the file is ever run (see `load_foreign_state_dict`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from napari_glacier.core.channels import Normalisation, assemble_channels, check_channels, required_bands
from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.data.dataset import Dataset
from napari_glacier.core.data.statistics import PooledStatistics
from napari_glacier.core.errors import CheckpointError, DataError
from napari_glacier.core.models.shelf import IMPORTED
from napari_glacier.core.wording import listed
from napari_glacier.nn.checkpoint import ModelCard, save_checkpoint
from napari_glacier.nn.weights import load_foreign_state_dict
from napari_glacier.nn.zoo import build_model, default_encoder

_LISTED = 6


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person says of the weights.

    Attributes
    ----------
    architecture : str
        A name of the zoo.
    channels : tuple of str
        What the network looked at, in its order.
    scheme : ClassScheme
        In the order of its outputs.
    arguments : mapping
        Of the architecture: encoder, decoder_channels …
    renames : mapping of str to str
        Beginnings of names in the file, and what the network calls them.
    """

    architecture: str
    channels: tuple[str, ...]
    scheme: ClassScheme
    arguments: Mapping[str, Any]
    renames: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Fit:
    """Which tensors found their place.

    Attributes
    ----------
    fitting : int
        Tensors of the network that the file fills.
    missing : tuple of str
        Tensors of the network that the file lacks.
    unused : tuple of str
        Tensors of the file that the network has not.
    reshaped : tuple of str
        Tensors of another shape, with both shapes.
    stripped : str
        A beginning that all names in the file had in common and that was dropped.
    """

    fitting: int
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    reshaped: tuple[str, ...]
    stripped: str

    @property
    def is_whole(self) -> bool:
        """Whether the network is filled wholly and the file used up."""
        return not (self.missing or self.unused or self.reshaped)

    def lines(self) -> list[str]:
        """The fit in sentences."""
        said = [f"{self.fitting} tensors fit."]
        if self.stripped:
            said.append(f"The beginning {self.stripped!r} of all names was dropped.")
        for title, names in (
            ("Of another shape", self.reshaped),
            ("Missing in the file", self.missing),
            ("Not known to the network", self.unused),
        ):
            if names:
                said.append(f"{title} ({len(names)}): {listed(names, _LISTED)}.")
        return said


def outline(path: str | Path) -> list[str]:
    """What the tensors of a file tell of its network: how many there are, the first and the last convolution.

    Raises
    ------
    CheckpointError
        If the file holds more than plain weights, or none.
    """
    state = load_foreign_state_dict(path)
    said = [f"{len(state)} tensors, {sum(value.numel() for value in state.values()) / 1e6:.1f} M numbers."]
    convolutions = [(key, value) for key, value in state.items() if value.ndim == 4]
    if convolutions:
        (first, into), (last, out) = convolutions[0], convolutions[-1]
        likely = ""
        if Path(path).suffix == ".safetensors":
            # In the order of the alphabet, not of the network. Depthwise convolutions have one channel in.
            many = [(key, value) for key, value in convolutions if value.shape[1] > 1] or convolutions
            first, into = min(many, key=lambda pair: pair[1].shape[1])
            last, out = min(many, key=lambda pair: pair[1].shape[0])
            likely = " (likely)"
        said.append(f"First convolution{likely}: {first}, {into.shape[1]} channels in.")
        said.append(f"Last convolution{likely}: {last}, {out.shape[0]} outputs (classes, if it is the head).")
    said.append(f"Names begin: {', '.join(list(state)[:4])}.")
    return said


def examine(path: str | Path, wanted: Wanted) -> Fit:
    """See which tensors of a file fit a network.

    Raises
    ------
    CheckpointError
        If the file holds more than plain weights, or none.
    ConfigError
        If the network cannot be built.
    """
    return _match(path, wanted)[2]


def statistics_of(dataset: Dataset, channels: Sequence[str]) -> Normalisation:
    """Mean and standard deviation of channels over the valid pixels of a data set, for weights that came without.

    Raises
    ------
    DataError
        If a band is missing everywhere, or there is no valid pixel.
    """
    bands = required_bands(check_channels(list(channels)))
    statistics = PooledStatistics(len(channels))
    for tile in dataset.tiles:
        if set(bands) <= set(tile.bands):
            image_CHW, valid_HW = dataset.read(tile, bands)
            statistics.update(assemble_channels(image_CHW, bands, valid_HW, channels), valid_HW)
    if not statistics.count:
        raise DataError(
            f"No valid pixel of {dataset.root} has all of {', '.join(bands)}. Give the mean and the deviation of each "
            "channel that the network was trained with."
        )
    return statistics.normalisation()


def import_weights(path: str | Path, wanted: Wanted, normalisation: Normalisation, out: Path, *, name: str) -> Fit:
    """Write a checkpoint of a foreign state dict.

    Raises
    ------
    CheckpointError
        If the weights do not fill the network wholly; says which tensors are in the way.
    SaveError
        If the checkpoint cannot be written.
    """
    model, state, fit = _match(path, wanted)
    if not fit.is_whole:
        raise CheckpointError(
            f"{Path(path).name} does not fit {wanted.architecture} as described. {' '.join(fit.lines())} Correct the "
            "architecture, its arguments, the channels or the classes, or rename beginnings of names."
        )
    model.load_state_dict(state)
    card = ModelCard(
        name=name,
        architecture=wanted.architecture,
        arguments=dict(wanted.arguments),
        channels=wanted.channels,
        normalisation=normalisation,
        scheme=wanted.scheme,
        recipe=IMPORTED,
        training_data=f"unknown; weights of {Path(path).name}",
    )
    save_checkpoint(out, model, card)
    return fit


def with_default_encoder(architecture: str, encoder: str | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with the encoder written down where the architecture takes one."""
    chosen = encoder or default_encoder(architecture)
    return {**({"encoder": chosen} if chosen else {}), **arguments}


def _match(path: str | Path, wanted: Wanted) -> tuple[nn.Module, dict[str, torch.Tensor], Fit]:
    arguments = {**wanted.arguments, "encoder_weights": None}
    model = build_model(
        wanted.architecture, channels=wanted.channels, num_classes=wanted.scheme.num_classes, **arguments
    )
    network = model.state_dict()
    state = {_renamed(key, wanted.renames): value for key, value in load_foreign_state_dict(path).items()}
    stripped = _common_beginning(state, network)
    state = {key.removeprefix(stripped): value for key, value in state.items()}
    # How many batches were seen does nothing in a trained network, and not every program writes it.
    for key, value in network.items():
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, value)
    same = [key for key in network if key in state and network[key].shape == state[key].shape]
    reshaped = [
        f"{key} {tuple(state[key].shape)} for {tuple(network[key].shape)}"
        for key in network
        if key in state and network[key].shape != state[key].shape
    ]
    missing, unused = [key for key in network if key not in state], [key for key in state if key not in network]
    fit = Fit(len(same), tuple(missing), tuple(unused), tuple(reshaped), stripped)
    return model, {key: state[key].float() if state[key].is_floating_point() else state[key] for key in same}, fit


def _renamed(key: str, renames: Mapping[str, str]) -> str:
    for old, new in renames.items():
        if key.startswith(old):
            return new + key[len(old) :]
    return key


def _common_beginning(state: Mapping[str, Any], network: Mapping[str, Any]) -> str:
    """A beginning such as ``model.`` that all names share and without which more of them are known; else empty."""
    parts = next(iter(state)).split(".")
    beginnings = [".".join(parts[:k]) + "." for k in range(1, len(parts))]
    beginnings = [start for start in beginnings if all(key.startswith(start) for key in state)]
    return max(["", *beginnings], key=lambda start: sum(key.removeprefix(start) in network for key in state))
