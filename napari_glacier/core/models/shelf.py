"""The models of a dataset with what their files say of themselves; reads headers alone, without torch."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from napari_glacier.core.errors import CheckpointError, DataError
from napari_glacier.core.models.promotion import MODELS_FOLDER, champion
from napari_glacier.core.plain_yaml import read_yaml
from napari_glacier.core.runfiles import RunFolder

_METADATA_KEY = "napari_glacier"
_ENSEMBLE_FILE = "ensemble.yaml"
_MAX_HEADER = 100_000_000
IMPORTED = "imported"

Kind = Literal["bundled", "champion", "kept", "run", "imported"]


@dataclass(frozen=True, slots=True)
class Card:
    """What a checkpoint says of itself, as far as people ask; unknown texts are empty, unknown numbers None."""

    name: str
    architecture: str
    encoder: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    data: str
    recipe: str
    val_mcc: float | None
    created: str
    synthetic: bool
    num_seen: int
    size_mb: float


@dataclass(frozen=True, slots=True)
class ShelfModel:
    """A model on the shelf.

    Attributes
    ----------
    title : str
    kind : {"bundled", "champion", "kept", "run", "imported"}
    source : Path or None
        What `resolve_models` takes; None is the bundled ensemble.
    members : tuple of (Card, float)
        With their weights, summing to 1.
    problem : str
        Why it cannot be read; empty where it can.
    """

    title: str
    kind: Kind
    source: Path | None
    members: tuple[tuple[Card, float], ...]
    problem: str = ""

    @property
    def size_mb(self) -> float:
        """Of all its checkpoints."""
        return sum(card.size_mb for card, _ in self.members)

    @property
    def val_mcc(self) -> float | None:
        """Of a single model, on the tiles that validated it."""
        return self.members[0][0].val_mcc if len(self.members) == 1 else None

    @property
    def created(self) -> str:
        """Day of its newest member."""
        return max((card.created[:10] for card, _ in self.members), default="")


def read_card_facts(path: Path) -> Card:
    """Read a checkpoint's card without its weights.

    Raises
    ------
    CheckpointError
        If it is no checkpoint of this program.
    """
    values = _header(path)
    try:
        arguments, scheme = values.get("arguments") or {}, values.get("scheme") or {}
        mcc = (values.get("metrics") or {}).get("val_mcc")
        return Card(
            name=str(values["name"]),
            architecture=str(values["architecture"]),
            encoder=str(arguments.get("encoder", "")),
            channels=tuple(map(str, values["channels"])),
            classes=tuple(map(str, scheme.get("class_names", ()))),
            data=str(values.get("training_data", "")),
            recipe=str(values.get("recipe") or ""),
            val_mcc=float(mcc) if isinstance(mcc, int | float) else None,
            created=str(values.get("created", "")),
            synthetic=bool(values.get("synthetic")),
            num_seen=len(values.get("seen_tiles") or ()),
            size_mb=path.stat().st_size / 1e6,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _no_checkpoint(path) from error


def first_member(model: Path) -> Path:
    """The checkpoint that training starts from, of a checkpoint, a run folder or an ensemble.

    Raises
    ------
    CheckpointError
        If an ensemble file cannot be read.
    """
    if model.is_file() and model.name != _ENSEMBLE_FILE:
        return model
    return _checkpoints(model if model.is_dir() else model.parent)[0][0]


def learnt_tiles(checkpoint: Path) -> frozenset[str]:
    """Fingerprints of the tiles that a model has learnt from; empty where that is not known.

    Raises
    ------
    CheckpointError
        If it is no checkpoint of this program.
    """
    return frozenset(map(str, _header(checkpoint).get("seen_tiles") or ()))


def _header(path: Path) -> Mapping[str, Any]:
    """What stands in a checkpoint's header, without its weights."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _MAX_HEADER:
                raise ValueError("no header")
            values = json.loads(json.loads(file.read(length))["__metadata__"][_METADATA_KEY])
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise _no_checkpoint(path) from error
    if not isinstance(values, dict):
        raise _no_checkpoint(path)
    return values


def _no_checkpoint(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is no checkpoint of napari-glacier. Import it, or choose another file.")


def find_models(root: Path | None, bundled: Path | None) -> list[ShelfModel]:
    """Models of a dataset: the bundled ensemble, what was kept with it, and its runs, newest first.

    Parameters
    ----------
    root : Path or None
        Of the dataset.
    bundled : Path or None
        Folder of the bundled ensemble.
    """
    found = [] if bundled is None else [_model("Bundled ensemble", "bundled", None, bundled)]
    if root is None:
        return found
    try:
        promoted = champion(root).path
    except DataError:
        promoted = None
    for file in sorted((root / MODELS_FOLDER).glob("*/ensemble.yaml"), reverse=True):
        model = _model(file.parent.name, "kept", file.parent, file.parent)
        kind: Kind = "champion" if file.parent == promoted else _kind(model)
        found.append(ShelfModel(model.title, kind, model.source, model.members, model.problem))
    runs = {path.parent for name in ("best.safetensors", "ensemble.yaml") for path in (root / "runs").glob(f"*/{name}")}
    for folder in sorted(runs, reverse=True):
        whole = (folder / "ensemble.yaml").is_file()
        source = folder if whole else RunFolder(folder).best_path
        found.append(_model(folder.name, "run", source, folder))
    return sorted(found, key=lambda model: model.kind != "champion")


def _kind(model: ShelfModel) -> Kind:
    return "imported" if any(card.recipe == IMPORTED for card, _ in model.members) else "kept"


def _model(title: str, kind: Kind, source: Path | None, folder: Path) -> ShelfModel:
    try:
        members = tuple((read_card_facts(path), weight) for path, weight in _checkpoints(folder))
    except (CheckpointError, OSError) as error:
        return ShelfModel(title, kind, source, (), str(error))
    total = sum(weight for _, weight in members) or 1.0
    return ShelfModel(title, kind, source, tuple((card, weight / total) for card, weight in members))


def _checkpoints(folder: Path) -> list[tuple[Path, float]]:
    file = folder / _ENSEMBLE_FILE
    if not file.is_file():
        return [(folder / "best.safetensors", 1.0)]
    try:
        entries = read_yaml(file.read_text(encoding="utf-8"))["members"]
        return [(folder / str(entry["path"]), float(entry.get("weight", 1.0))) for entry in entries]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file} is no ensemble file.") from error
