"""Models that predict together, and the names under which people ask for them."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from napari_glacier.core.channels import KNOWN_CHANNELS
from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.errors import CheckpointError, ConfigError
from napari_glacier.nn.checkpoint import LoadedModel, load_checkpoint
from napari_glacier.nn.postprocess import resolve_thresholds

BUNDLED = "bundled"
ENSEMBLE_FILE = "ensemble.yaml"
_SUFFIX = ".safetensors"


class Ensemble:
    """Models of one class scheme whose probabilities are averaged.

    Parameters
    ----------
    members : sequence of LoadedModel
        They may differ in architecture, channels and normalisation.
    weights : sequence of float, optional
        One a member, equal by default; scaled to sum to 1.
    name : str, optional
        The only member's name, or a count, by default.
    thresholds : mapping of class name to probability, optional
        With which its probabilities become classes where nobody asks for others; see `classify`.

    Attributes
    ----------
    thresholds : dict of str to float
        Empty where each pixel takes its most probable class.

    Raises
    ------
    ConfigError
        If there is no member, the weights or thresholds do not fit, or the members know different classes.
    """

    def __init__(
        self,
        members: Sequence[LoadedModel],
        weights: Sequence[float] | None = None,
        name: str | None = None,
        thresholds: Mapping[str, float] | None = None,
    ) -> None:
        if not members:
            raise ConfigError("An ensemble needs at least one model. Name a checkpoint, or 'bundled'.")
        weights = [1.0] * len(members) if weights is None else [float(weight) for weight in weights]
        if len(weights) != len(members) or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
            raise ConfigError(
                f"The weights {weights} do not fit {len(members)} models. Give each model one weight of 0 or more."
            )
        first = members[0].card
        for other in members[1:]:
            if other.card.scheme.class_names != first.scheme.class_names:
                raise ConfigError(
                    f"{first.name} knows the classes {', '.join(first.scheme.class_names)}, {other.card.name} "
                    f"{', '.join(other.card.scheme.class_names)}. Put models of the same classes together."
                )
        self.members = list(members)
        self.weights = [weight / sum(weights) for weight in weights]
        self.name = name or (first.name if len(members) == 1 else f"ensemble of {len(members)}")
        resolve_thresholds(thresholds, first.scheme)
        self.thresholds = dict(thresholds or {})

    @property
    def scheme(self) -> ClassScheme:
        """The classes that the members know."""
        return self.members[0].card.scheme

    @property
    def channels(self) -> tuple[str, ...]:
        """Every channel that some member takes."""
        wanted = {channel for member in self.members for channel in member.card.channels}
        return tuple(channel for channel in KNOWN_CHANNELS if channel in wanted)


def resolve_models(names_or_paths: Sequence[str | Path] | str | Path | None = None) -> Ensemble:
    """Load the models that a person named.

    Parameters
    ----------
    names_or_paths : sequence of str or Path, optional
        Each one of: ``bundled`` (the default: the small ensemble that comes with the plugin); a ``.safetensors``
        checkpoint; a run folder (its best checkpoint); a folder of checkpoints or of run folders; an ensemble
        file ``{name: …, members: [{path: …, weight: …}, …], thresholds: {class: probability}}``, paths relative to
        it, the thresholds optional. They hold for that ensemble alone, and not where more models are named beside it.

    Raises
    ------
    CheckpointError
        If a model is not there or cannot be loaded.
    ConfigError
        If an ensemble file is wrong or the models do not fit together.
    """
    if names_or_paths is None:
        names_or_paths = [BUNDLED]
    elif isinstance(names_or_paths, str | Path):
        names_or_paths = [names_or_paths]
    found: list[tuple[Path, float]] = []
    names = []
    thresholds: dict[str, float] = {}
    for asked in names_or_paths:
        name, members, thresholds = _members_of(asked)
        names.append(name)
        # Each thing named counts alike, however many members it has; within it, its own weights count.
        total = sum(weight for _, weight in members)
        if total <= 0:
            raise ConfigError(f"The weights in {asked} sum to {total:g}. Give at least one member a weight.")
        found += [(path, weight / total) for path, weight in members]
    name = names[0] if len(names) == 1 else None
    members_found = [load_checkpoint(path) for path, _ in found]
    return Ensemble(members_found, [w for _, w in found], name, thresholds if len(names) == 1 else None)


def bundled_folder() -> Path:
    """Folder of the ensemble that comes with the plugin.

    Raises
    ------
    CheckpointError
        If this installation has none.
    """
    try:
        folder = Path(str(resources.files("napari_glacier._sample"))) / "ensemble"
    except ModuleNotFoundError:
        folder = Path("napari_glacier") / "_sample" / "ensemble"
    if not folder.is_dir():
        raise CheckpointError(
            "This installation carries no bundled models. Reinstall napari-glacier from its wheel, "
            "or name a checkpoint."
        )
    return folder


def _members_of(asked: str | Path) -> tuple[str | None, list[tuple[Path, float]], dict[str, float]]:
    """Name (None: the model's own), members and thresholds of one thing that was asked for."""
    if str(asked) == BUNDLED:
        return _members_of(bundled_folder())
    path = Path(asked).expanduser()
    if path.is_file():
        return _members_of_file(path) if path.suffix in {".yaml", ".yml"} else (None, [(path, 1.0)], {})
    if not path.is_dir():
        raise CheckpointError(
            f"There is no model {asked}. Name '{BUNDLED}', a {_SUFFIX} checkpoint, a run folder, a folder of "
            "checkpoints, or an ensemble file."
        )
    if (path / ENSEMBLE_FILE).is_file():
        return _members_of_file(path / ENSEMBLE_FILE)
    if (path / f"best{_SUFFIX}").is_file():
        return None, [(path / f"best{_SUFFIX}", 1.0)], {}
    # A process killed while it wrote leaves a hidden file, which may be half a model.
    checkpoints = sorted(p for p in path.glob(f"*{_SUFFIX}") if not p.name.startswith("."))
    checkpoints = checkpoints or sorted(path.glob(f"*/best{_SUFFIX}"))
    if not checkpoints:
        raise CheckpointError(
            f"{path} holds no {_SUFFIX} checkpoint. If it is a run folder, its first epoch has not ended yet."
        )
    name = path.resolve().name if len(checkpoints) > 1 else None
    return name, [(checkpoint, 1.0) for checkpoint in checkpoints], {}


def _members_of_file(path: Path) -> tuple[str, list[tuple[Path, float]], dict[str, float]]:
    wrong = f"{path} must read as 'members: [{{path: a.safetensors, weight: 0.5}}, …]'"
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{wrong}, and it is not YAML ({' '.join(str(error).split())}).") from error
    entries = content.get("members") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{wrong}; it lists no members.")
    members = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise ConfigError(f"{wrong}; {entry!r} is no such member.")
        weight = entry.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise ConfigError(f"{wrong}; the weight {weight!r} of {entry['path']} is not 0 or more.")
        members.append((path.parent / Path(entry["path"]).expanduser(), float(weight)))
    thresholds = content.get("thresholds") or {}
    if not isinstance(thresholds, dict) or not all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in thresholds.values()
    ):
        raise ConfigError(f"{wrong}; its thresholds {thresholds!r} are not of the form {{lake: 0.4}}.")
    named = {str(key): float(value) for key, value in thresholds.items()}
    return str(content.get("name") or path.resolve().parent.name), members, named
