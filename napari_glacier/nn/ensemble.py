"""Models that predict together, and the names under which people ask for them.

Legend: M members, K classes, H x W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import yaml

from napari_glacier.core.channels import KNOWN_CHANNELS
from napari_glacier.core.classes import ClassScheme
from napari_glacier.core.errors import CheckpointError, ConfigError
from napari_glacier.nn.augment_tta import TtaMode, views
from napari_glacier.nn.checkpoint import LoadedModel, load_checkpoint
from napari_glacier.nn.postprocess import resolve_thresholds

BUNDLED = "bundled"
ENSEMBLE_FILE = "ensemble.yaml"
_SUFFIX = ".safetensors"

Average = Literal["probability", "logit"]
_FILE_KEYS = ("name", "members", "thresholds", "average", "tta", "scales")
_MEMBER_KEYS = ("path", "weight")


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
    average : "probability" or "logit"
        What is averaged over the members; see `combine`.
    tta : "off", 2, 6 or 8, optional
        Views of each image where nobody asks for others; see `views`.
    scales : sequence of float, optional
        Scales of these views, likewise.

    Attributes
    ----------
    thresholds : dict of str to float
        Empty where each pixel takes its most probable class.
    average : str
    tta : str or int, or None
    scales : tuple of float, or None
        None, as for `tta`, where the ensemble asks for none in particular.

    Raises
    ------
    ConfigError
        If there is no member, the weights, thresholds, average, views or scales do not fit, or the members know
        different classes.
    """

    def __init__(
        self,
        members: Sequence[LoadedModel],
        weights: Sequence[float] | None = None,
        name: str | None = None,
        thresholds: Mapping[str, float] | None = None,
        *,
        average: Average = "probability",
        tta: TtaMode | str | None = None,
        scales: Sequence[float] | None = None,
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
        _check_average(average)
        views("off" if tta is None else tta, (1.0,) if scales is None else scales)
        self.average: Average = average
        self.tta = tta
        self.scales = None if scales is None else tuple(float(scale) for scale in scales)

    @property
    def scheme(self) -> ClassScheme:
        """The classes that the members know."""
        return self.members[0].card.scheme

    @property
    def member_names(self) -> tuple[str, ...]:
        """A name for each member; where several are called the same, they are numbered."""
        names = [member.card.name for member in self.members]
        return tuple(
            f"{name} ({names[: k + 1].count(name)})" if names.count(name) > 1 else name for k, name in enumerate(names)
        )

    @property
    def channels(self) -> tuple[str, ...]:
        """Every channel that some member takes."""
        wanted = {channel for member in self.members for channel in member.card.channels}
        return tuple(channel for channel in KNOWN_CHANNELS if channel in wanted)


def combine(
    probabilities_MKHW: torch.Tensor, weights: Sequence[float] | torch.Tensor, average: Average = "probability"
) -> torch.Tensor:
    """Average the class probabilities of an ensemble's members.

    Parameters
    ----------
    probabilities_MKHW : tensor, shape (M, K, …)
        Each member's probabilities, summing to 1 over the classes.
    weights : sequence of float or tensor, shape (M,)
        Summing to 1, as `Ensemble.weights` do.
    average : "probability" or "logit"
        ``probability``: the weighted mean, a mixture of the members (linear opinion pool).
        ``logit``: the softmax of the weighted mean of the log-probabilities, which is the weighted geometric mean,
        normalised (logarithmic opinion pool; Genest & Zidek 1986, "Combining probability distributions",
        Statistical Science 1). A class that one member all but excludes is out, so that the result is surer.
        Logits themselves would give the same: they differ from log-probabilities by what the softmax takes out.

    Returns
    -------
    tensor, shape (K, …)

    Raises
    ------
    ConfigError
        For any other average.
    """
    _check_average(average)
    if len(probabilities_MKHW) == 1:
        # A member by itself is its own average, without the rounding of a logarithm.
        return probabilities_MKHW[0]
    weights_M = torch.as_tensor(weights, dtype=probabilities_MKHW.dtype, device=probabilities_MKHW.device)
    weights_M111 = weights_M.reshape(-1, *(1,) * (probabilities_MKHW.ndim - 1))
    if average == "probability":
        mean_KHW: torch.Tensor = (probabilities_MKHW * weights_M111).sum(0)
        return mean_KHW
    # Members that exclude each other's classes entirely must not leave a pixel without any.
    least = torch.finfo(probabilities_MKHW.dtype).tiny
    log_KHW = (probabilities_MKHW.clamp_min(least).log() * weights_M111).sum(0)
    return torch.softmax(log_KHW, dim=0)


def resolve_models(names_or_paths: Sequence[str | Path] | str | Path | None = None) -> Ensemble:
    """Load the models that a person named.

    Parameters
    ----------
    names_or_paths : sequence of str or Path, optional
        Each one of: ``bundled`` (the default: the small ensemble that comes with the plugin); a ``.safetensors``
        checkpoint; a run folder (its best checkpoint); a folder of checkpoints or of run folders; an ensemble
        file ``{name: …, members: [{path: …, weight: …}, …], thresholds: {class: probability}, average: …, tta: …,
        scales: […]}``, paths relative to it, all but the members optional; see `Ensemble`. Thresholds, average and
        views hold for that ensemble alone, and not where more models are named beside it.

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
    recipes = []
    for asked in names_or_paths:
        recipe = recipe_of(asked)
        recipes.append(recipe)
        # Each thing named counts alike, however many members it has; within it, its own weights count.
        total = sum(weight for _, weight in recipe.members)
        if total <= 0:
            raise ConfigError(f"The weights in {asked} sum to {total:g}. Give at least one member a weight.")
        found += [(path, weight / total) for path, weight in recipe.members]
    chosen = recipes[0] if len(recipes) == 1 else Recipe([])
    return Ensemble(
        [load_checkpoint(path) for path, _ in found],
        [weight for _, weight in found],
        chosen.name,
        chosen.thresholds,
        average=chosen.average,
        tta=chosen.tta,
        scales=chosen.scales,
    )


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


@dataclass(frozen=True, slots=True)
class Recipe:
    """An ensemble whose members are not loaded yet; without a `name`, it has the one member's or a count."""

    members: list[tuple[Path, float]]
    name: str | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    average: Average = "probability"
    tta: TtaMode | str | None = None
    scales: list[float] | None = None


def recipe_of(asked: str | Path) -> Recipe:
    """Members of one thing that was asked for, and what its file says of them."""
    if str(asked) == BUNDLED:
        return recipe_of(bundled_folder())
    if not str(asked):
        # An empty path would be the folder that one is in.
        raise CheckpointError(
            "The name of a model is empty. Where a variable of the shell stands for it, the training that was to fill "
            "it has failed: see what it said."
        )
    path = Path(asked).expanduser()
    if path.is_file():
        return _recipe_of_file(path) if path.suffix in {".yaml", ".yml"} else Recipe([(path, 1.0)])
    if not path.is_dir():
        raise CheckpointError(
            f"There is no model {asked}. Name '{BUNDLED}', a {_SUFFIX} checkpoint, a run folder, a folder of "
            "checkpoints, or an ensemble file."
        )
    if (path / ENSEMBLE_FILE).is_file():
        return _recipe_of_file(path / ENSEMBLE_FILE)
    if (path / f"best{_SUFFIX}").is_file():
        return Recipe([(path / f"best{_SUFFIX}", 1.0)])
    # A process killed while it wrote leaves a hidden file, which may be half a model.
    checkpoints = sorted(p for p in path.glob(f"*{_SUFFIX}") if not p.name.startswith("."))
    checkpoints = checkpoints or sorted(path.glob(f"*/best{_SUFFIX}"))
    if not checkpoints:
        raise CheckpointError(
            f"{path} holds no {_SUFFIX} checkpoint. If it is a run folder, its first epoch has not ended yet."
        )
    if checkpoints[0].parent != path and (path / "run.yaml").is_file():
        raise CheckpointError(
            f"{path} holds {len(checkpoints)} trained model(s), and is not finished: it has no {ENSEMBLE_FILE}. Resume "
            f"it (python -m training.run --resume {path}), or name one of its runs, such as {checkpoints[0].parent}."
        )
    name = path.resolve().name if len(checkpoints) > 1 else None
    return Recipe([(checkpoint, 1.0) for checkpoint in checkpoints], name)


def _recipe_of_file(path: Path) -> Recipe:
    wrong = f"{path} must read as 'members: [{{path: a.safetensors, weight: 0.5}}, …]'"
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{wrong}, and it is not YAML ({' '.join(str(error).split())}).") from error
    entries = content.get("members") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{wrong}; it lists no members.")
    _refuse_unknown(content, _FILE_KEYS, wrong)
    members = []
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
            raise ConfigError(f"{wrong}; {entry!r} is no such member.")
        _refuse_unknown(entry, _MEMBER_KEYS, f"{wrong}; in the member {entry['path']}")
        weight = entry.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight < 0:
            raise ConfigError(f"{wrong}; the weight {weight!r} of {entry['path']} is not 0 or more.")
        members.append((path.parent / Path(entry["path"]).expanduser(), float(weight)))
    thresholds = content.get("thresholds") or {}
    if not isinstance(thresholds, dict) or not all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in thresholds.values()
    ):
        raise ConfigError(f"{wrong}; its thresholds {thresholds!r} are not of the form {{lake: 0.4}}.")
    scales = content.get("scales")
    if scales is not None and not isinstance(scales, list):
        raise ConfigError(f"{wrong}; its scales {scales!r} are not of the form [0.75, 1, 1.25].")
    tta = content.get("tta")
    recipe = Recipe(
        members=members,
        name=str(content.get("name") or path.resolve().parent.name),
        thresholds={str(key): float(value) for key, value in thresholds.items()},
        average=content.get("average", "probability"),
        # YAML reads a bare `off` as false.
        tta="off" if tta is False else tta,
        scales=scales,
    )
    try:
        _check_average(recipe.average)
        views("off" if recipe.tta is None else recipe.tta, [1.0] if scales is None else scales)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return recipe


def _refuse_unknown(mapping: Mapping[Any, Any], known: Sequence[str], where: str) -> None:
    unknown = [str(key) for key in mapping if key not in known]
    if unknown:
        raise ConfigError(f"{where}; {', '.join(unknown)} is not known there. Known are {', '.join(known)}.")


def _check_average(average: object) -> None:
    if average not in get_args(Average):
        raise ConfigError(f"The average {average!r} is not known. Use {' or '.join(get_args(Average))}.")
