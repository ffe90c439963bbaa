"""Model files that explain themselves: weights with everything needed to use them.

A checkpoint is a safetensors file; its metadata hold one JSON text under `METADATA_KEY`. Nothing in it
can run code, and the header is read without touching the weights.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from napari_glacier.core.channels import Normalisation, check_channels
from napari_glacier.core.classes import ClassScheme, get_scheme
from napari_glacier.core.errors import CheckpointError, GlacierError
from napari_glacier.core.files import replacing
from napari_glacier.nn.weights import load_foreign_state_dict, looks_like_pickle
from napari_glacier.nn.zoo import build_model, model_names

__all__ = [
    "FORMAT_VERSION",
    "LoadedModel",
    "ModelCard",
    "is_foreign",
    "load_checkpoint",
    "load_foreign_state_dict",
    "read_card",
    "save_checkpoint",
]

METADATA_KEY = "napari_glacier"
FORMAT_VERSION = 1
_REQUIRED = ("version", "name", "architecture", "arguments", "channels", "normalisation", "scheme")
_HALF_MAX = 65504.0  # largest float16


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a checkpoint says about its model.

    Parameters
    ----------
    name : str
        For people.
    architecture : str
        A name of the zoo.
    arguments : mapping
        Keyword arguments of the architecture's builder, as plain values.
    channels : tuple of str
    normalisation : Normalisation
        One mean and standard deviation a channel, in the data's own units.
    scheme : ClassScheme
        A name of a known scheme is taken too.
    recipe, training_data, training_data_fingerprint : str
    metrics : mapping of str to number
    epoch : int
    created : str
        ISO time, now when empty.
    synthetic : bool
        The model was trained on synthetic scenes and is for demonstration.
    val_tiles : tuple of str
        Ids of the tiles that validated.
    seen_tiles : tuple of str
        Fingerprints of the tiles that the model has learnt from, also before it was trained on; empty where that is
        not known.
    upright : bool
        It has learnt from the scenes as they lie, neither turned nor mirrored: light comes from where it came from.
    version : int
        Of the file's format.
    """

    name: str
    architecture: str
    arguments: Mapping[str, Any]
    channels: tuple[str, ...]
    normalisation: Normalisation
    scheme: ClassScheme
    recipe: str | None = None
    training_data_fingerprint: str = ""
    training_data: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    epoch: int = 0
    created: str = ""
    synthetic: bool = False
    val_tiles: tuple[str, ...] = ()
    seen_tiles: tuple[str, ...] = ()
    upright: bool = False
    version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if isinstance(self.scheme, str):
            object.__setattr__(self, "scheme", get_scheme(self.scheme))
        if not self.created:
            object.__setattr__(self, "created", datetime.now(UTC).isoformat(timespec="seconds"))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "version": self.version,
            "name": self.name,
            "architecture": self.architecture,
            "arguments": dict(self.arguments),
            "channels": list(self.channels),
            "normalisation": self.normalisation.as_dict(),
            "scheme": {
                "name": self.scheme.name,
                "class_names": list(self.scheme.class_names),
                "codes": list(self.scheme.codes),
                "colors": list(self.scheme.colors),
            },
            "recipe": self.recipe,
            "training_data_fingerprint": self.training_data_fingerprint,
            "training_data": self.training_data,
            "metrics": dict(self.metrics),
            "epoch": self.epoch,
            "created": self.created,
            "synthetic": self.synthetic,
            "val_tiles": list(self.val_tiles),
            "seen_tiles": list(self.seen_tiles),
            "upright": self.upright,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the checkpoint") -> "ModelCard":
        """Inverse of `as_dict`; `CheckpointError` says what does not fit, naming `source`."""
        version = values.get("version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise CheckpointError(
                f"{source} was written by a newer napari-glacier (format {version}; this one reads up to "
                f"{FORMAT_VERSION}). Update napari-glacier."
            )
        missing = [key for key in _REQUIRED if key not in values]
        if missing:
            raise CheckpointError(
                f"{source} lacks {', '.join(missing)} in its metadata. Save it again with this program."
            )
        if values["architecture"] not in model_names():
            raise CheckpointError(
                f"{source} holds the architecture {values['architecture']!r}, which is not known here "
                f"(known: {', '.join(model_names())}). Update napari-glacier, or choose another model."
            )
        try:
            card = cls(
                name=str(values["name"]),
                architecture=values["architecture"],
                arguments=dict(values["arguments"]),
                channels=check_channels([str(name) for name in values["channels"]]),
                normalisation=Normalisation.from_dict(values["normalisation"]),
                scheme=_scheme(values["scheme"]),
                recipe=values.get("recipe"),
                training_data_fingerprint=str(values.get("training_data_fingerprint", "")),
                training_data=str(values.get("training_data", "")),
                metrics=dict(values.get("metrics") or {}),
                epoch=int(values.get("epoch", 0)),
                created=str(values.get("created", "")),
                synthetic=bool(values.get("synthetic", False)),
                val_tiles=tuple(map(str, values.get("val_tiles") or ())),
                seen_tiles=tuple(map(str, values.get("seen_tiles") or ())),
                upright=bool(values.get("upright", False)),
                version=int(values["version"]),
            )
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            reason = error if isinstance(error, GlacierError) else f"{type(error).__name__}: {error}"
            raise CheckpointError(
                f"The metadata of {source} are damaged ({reason}). Copy or save the file again."
            ) from error
        sizes = {len(card.channels), len(card.normalisation.mean), len(card.normalisation.std)}
        if len(sizes) > 1:
            raise CheckpointError(
                f"{source} names {len(card.channels)} channels, but {len(card.normalisation.mean)} means and "
                f"{len(card.normalisation.std)} standard deviations. Save it again with one of each per channel."
            )
        return card


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A network in evaluation mode, what it says about itself, and the file it came from."""

    model: nn.Module
    card: ModelCard
    path: Path | None = None


def save_checkpoint(path: str | Path, model: nn.Module, card: ModelCard, half: bool = False) -> None:
    """Write a model so that `load_checkpoint` needs nothing else; the file is whole or the old one stays.

    Parameters
    ----------
    path : str or Path
    model : nn.Module
        The bare network (of a DistributedDataParallel, its ``module``).
    card : ModelCard
    half : bool
        Store convolution weights as float16. Biases and normalisation layers stay float32: they are small,
        and running variances leave float16's range.

    Raises
    ------
    CheckpointError
        If the card holds values that JSON cannot, or a mean or standard deviation short of its channels.
    """
    path = Path(path)
    ModelCard.from_dict(card.as_dict(), source=f"The card of {path.name}")
    try:
        text = json.dumps(card.as_dict(), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"The card of {path.name} cannot be written as JSON ({error}). Use plain finite numbers, texts, lists."
        ) from error
    state = {key: _stored(value.detach().to("cpu"), half).contiguous() for key, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(state, temporary, metadata={METADATA_KEY: text, "format": "pt"})


def is_foreign(path: Path) -> bool:
    """Whether a file holds weights of another program: a readable safetensors file that says nothing of itself."""
    try:
        with safe_open(path, framework="pt") as file:
            return METADATA_KEY not in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read_card(path: str | Path) -> ModelCard:
    """Read what a checkpoint says about itself, without its weights.

    Raises
    ------
    CheckpointError
        If the file is missing, a pickle, cut short, foreign, or of a newer format.
    """
    path = _checked_path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    return _card(path, metadata)


def load_checkpoint(path: str | Path) -> LoadedModel:
    """Load a model in evaluation mode, on the CPU, in float32.

    Raises
    ------
    CheckpointError
        As `read_card`; also if the weights do not fit the architecture that the file names.
    """
    path = _checked_path(path)
    try:
        with safe_open(path, framework="pt") as file:
            card = _card(path, file.metadata() or {})
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    try:
        # The weights are in the file: pretrained ones are neither needed nor looked for.
        arguments = {**card.arguments, "encoder_weights": None}
        model = build_model(card.architecture, channels=card.channels, num_classes=card.scheme.num_classes, **arguments)
        model.load_state_dict(state)
    except (GlacierError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"The weights in {path} do not fit the architecture {card.architecture} that it names ({reason}). "
            "The file was altered, or written by another version: save it again."
        ) from error
    return LoadedModel(model.eval(), card, path)


def _stored(value: torch.Tensor, half: bool) -> torch.Tensor:
    if not half or not value.is_floating_point() or value.ndim < 2 or value.abs().amax() > _HALF_MAX:
        return value
    return value.half()


def _scheme(values: Mapping[str, Any]) -> ClassScheme:
    """Read a scheme; a known one of that name with the same codes is returned as the known object."""
    scheme = ClassScheme(
        name=str(values["name"]),
        class_names=tuple(map(str, values["class_names"])),
        codes=tuple(map(int, values["codes"])),
        colors=tuple(map(str, values["colors"])),
    )
    try:
        known = get_scheme(scheme.name)
    except GlacierError:
        return scheme
    same = (known.class_names, known.codes) == (scheme.class_names, scheme.codes)
    return known if same else scheme


def _card(path: Path, metadata: Mapping[str, str]) -> ModelCard:
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path} is a safetensors file of another program: it does not say which model, channels and classes "
            "it holds. Name it as model.init_from of a training run to start from its weights."
        )
    try:
        values = json.loads(metadata[METADATA_KEY])
    except json.JSONDecodeError as error:
        raise CheckpointError(f"The metadata of {path} are damaged. Copy or save the file again.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"The metadata of {path} are damaged. Copy or save the file again.")
    return ModelCard.from_dict(values, source=str(path))


def _checked_path(path: str | Path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder. Name the checkpoint in it, such as {path / 'best.safetensors'}.")
    if not path.is_file():
        raise CheckpointError(f"There is no model file {path}. Check the path.")
    if looks_like_pickle(path):
        raise CheckpointError(
            f"{path} is a pickle or a torch.save file, whatever its name says; loading one can run foreign code, so "
            "it is refused. Use a .safetensors file made by napari-glacier, or start a training run from its plain "
            "state dict with model.init_from."
        )
    return path


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
    if len(head) == 8 and 0 < struct.unpack("<Q", head)[0] < 100_000_000 and path.suffix == ".safetensors":
        return CheckpointError(f"{path} is cut short or damaged ({size} bytes; {error}). Copy or download it again.")
    return CheckpointError(f"{path} is not a model file of napari-glacier ({error}). Choose a .safetensors checkpoint.")
