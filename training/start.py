"""What a run starts from: checked data, a resolved configuration, and weights that may come from elsewhere.

Everything here happens before a device is touched, so that a wrong path or class order costs seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from napari_glacier.core.channels import Normalisation
from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.config import RunConfig
from napari_glacier.core.errors import ConfigError
from napari_glacier.nn.checkpoint import LoadedModel, is_foreign, load_foreign_state_dict
from napari_glacier.nn.device import pick_device
from napari_glacier.nn.ensemble import Ensemble, resolve_models
from napari_glacier.nn.weights import load_matching
from napari_glacier.nn.zoo import build_model, default_encoder
from napari_glacier.nn.zoo.stages import freeze_stages
from training.distill import load_teachers
from training.export import check_save_path
from training.loggers import check_loggers
from training.losses import build_loss
from training.pixels import check_describes
from training.sampler import check_target_mix
from training.source import Notes, TrainingData, open_training_data

_FOREIGN_SUFFIXES = {".pth", ".pt", ".h5"}
_OUR_SUFFIXES = {".safetensors", ".yaml", ".yml"}


@dataclass(frozen=True, slots=True)
class Start:
    """A run that can begin.

    Attributes
    ----------
    config : RunConfig
        With the architecture of the checkpoint to start from, where there is one, and the tiles held out.
    data : TrainingData
    normalisation : Normalisation or None
        Given by the configuration or the checkpoint; None: pooled over the training pixels.
    weights : state dict or None
    teachers : Ensemble or None
        To distil from.
    seen_tiles : tuple of str
        Fingerprints of the tiles that the weights have been trained on before.
    resuming : bool
        The weights come from the run folder.
    notes : Notes
    """

    config: RunConfig
    data: TrainingData
    normalisation: Normalisation | None
    weights: Mapping[str, torch.Tensor] | None
    teachers: Ensemble | None
    seen_tiles: tuple[str, ...]
    resuming: bool
    notes: Notes

    def build_model(self) -> nn.Module:
        """Build the network on the CPU, seeded, with the starting weights."""
        return self.build_and_compare()[0]

    def build_and_compare(self) -> tuple[nn.Module, tuple[str, ...]]:
        """As `build_model`; and the names of the tensors that the starting weights lack."""
        torch.manual_seed(self.config.seed)
        arguments = model_arguments(self.config)
        if self.resuming or self.weights is not None:
            # All weights come from elsewhere; the file may be gone, or a download away.
            arguments.pop("encoder_weights", None)
        model = build_model(
            self.config.model.name,
            channels=self.config.data.channels,
            num_classes=self.data.scheme.num_classes,
            **arguments,
        )
        left_out = load_matching(model, self.weights) if self.weights is not None else ()
        freeze_stages(model, self.config.model.frozen_stages)
        return model, left_out


def model_arguments(config: RunConfig) -> dict[str, object]:
    """Keyword arguments of the architecture's builder, as plain values for a checkpoint's card."""
    model = config.model
    weights = {"encoder_weights": model.encoder_weights} if model.encoder_weights else {}
    encoder = {"encoder": model.encoder} if model.encoder is not None else {}
    return {**encoder, **weights, **model.arguments}


def _with_default_encoder(config: RunConfig) -> RunConfig:
    """Write the encoder down where the architecture takes one: a default may be another one some day."""
    encoder = config.model.encoder or default_encoder(config.model.name)
    return config.model_copy(update={"model": config.model.model_copy(update={"encoder": encoder})})


def prepare(config: RunConfig, resuming: bool = False) -> Start:
    """Check a configuration against its data and the checkpoint it starts from.

    Parameters
    ----------
    config : RunConfig
    resuming : bool
        The weights come from the run folder; the checkpoint it once started from may be gone.

    Raises
    ------
    GlacierError
        With one sentence on what does not fit.
    """
    pick_device(config.device)
    check_loggers(config.loggers)
    if config.save_path is not None:
        check_save_path(config.save_path)
    source = load_start(config.model.init_from) if config.model.init_from is not None and not resuming else None
    seen = source.card.seen_tiles if isinstance(source, LoadedModel) else ()
    data = open_training_data(config, seen)
    num_classes = data.scheme.num_classes
    build_loss(config.loss, data.scheme)
    teachers = None
    if config.distill is not None:
        teachers = load_teachers(config.distill, data.scheme, config.data.channels)
    check_target_mix(config.sampling.target_mix, num_classes)
    normalisation, weights = None, None if isinstance(source, LoadedModel) else source
    if isinstance(source, LoadedModel):
        _check_fit(config, data.scheme, source)
        data.notes.messages += _overruled(config, source)
        config = _with_architecture(config, source)
        normalisation, weights = source.card.normalisation, source.model.state_dict()
        data.notes.messages.append(f"Starts from {source.card.name}; its statistics are kept.")
    if config.data.mean is not None and config.data.std is not None:
        normalisation = Normalisation(tuple(config.data.mean), tuple(config.data.std))
    if data.held_out:
        # Written into the run's configuration: drawn again, the choice would follow the masks as they are corrected.
        config = config.model_copy(update={"data": config.data.model_copy(update={"val_tiles": list(data.held_out)})})
    config = _with_default_encoder(config)
    start = Start(config, data, normalisation, weights, teachers, seen, resuming, data.notes)
    _check_network(start)
    return start


def _check_network(start: Start) -> None:
    """Build the network once, which is cheap: finds a wrong encoder or argument, and weights that fit in part."""
    model_config = start.config.model
    if model_config.encoder_weights == "imagenet":
        # Fetching pretrained weights can wait; they change no name or shape.
        model_config = model_config.model_copy(update={"encoder_weights": None})
    model, left_out = replace(start, config=start.config.model_copy(update={"model": model_config})).build_and_compare()
    if start.config.sampling.pixels_per_crop is not None:
        check_describes(model, start.config.model.name)
    if left_out:
        total = sum(not key.endswith("num_batches_tracked") for key in model.state_dict())
        listed = ", ".join(left_out[:6]) + (", …" if len(left_out) > 6 else "")
        start.notes.warnings.append(
            f"{len(left_out)} of {total} tensors were not found in {start.config.model.init_from}: {listed}. "
            "They start as in a new network."
        )


def load_start(source: str) -> LoadedModel | dict[str, torch.Tensor]:
    """Load what `model.init_from` names: one of our models, or a plain state dict of another program."""
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    if suffix in _FOREIGN_SUFFIXES or (path.is_file() and (suffix not in _OUR_SUFFIXES or is_foreign(path))):
        return load_foreign_state_dict(path)
    members = resolve_models([str(path) if path.exists() else source]).members
    return members[0]


def _check_fit(config: RunConfig, scheme: ClassScheme, source: LoadedModel) -> None:
    card, where = source.card, config.model.init_from
    if card.scheme.class_names != scheme.class_names:
        raise ConfigError(
            f"{where} knows the classes {', '.join(card.scheme.class_names)}; the training masks hold "
            f"{', '.join(scheme.class_names)}. Choose a checkpoint of the same classes, or leave model.init_from out. "
            "Only where the masks were taken for classes that they do not hold, data.scheme names the right ones."
        )
    if tuple(card.channels) != tuple(config.data.channels):
        raise ConfigError(
            f"{where} takes the channels {', '.join(card.channels)}, in this order; data.channels is "
            f"{', '.join(config.data.channels)}. Set data.channels to those of the checkpoint."
        )


def _overruled(config: RunConfig, source: LoadedModel) -> list[str]:
    """Say what the configuration asks of the network and the checkpoint decides otherwise."""
    card, model = source.card, config.model
    asked = {key: getattr(model, key) for key in ("name", "encoder") if key in model.model_fields_set} | model.arguments
    decided = {"name": card.architecture, **card.arguments}
    other = [f"{key} {decided.get(key)} and not {value}" for key, value in asked.items() if value != decided.get(key)]
    return [f"The network is that of {card.name}: {', '.join(other)}."] if other else []


def _with_architecture(config: RunConfig, source: LoadedModel) -> RunConfig:
    card = source.card
    arguments = {key: value for key, value in card.arguments.items() if key != "encoder_weights"}
    encoder = arguments.pop("encoder", None)
    model = config.model.model_copy(
        update={"name": card.architecture, "encoder": encoder, "arguments": arguments, "encoder_weights": None}
    )
    return config.model_copy(update={"model": model})
