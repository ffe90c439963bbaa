"""Which models there are to choose from; looks at names only, so that no list waits for torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from napari_glacier.core.errors import CheckpointError
from napari_glacier.core.runfiles import RunFolder

# Kept models of a dataset, each a folder with an ensemble file.
MODELS_FOLDER = "models"
_SUFFIXES = frozenset((".safetensors", ".yaml", ".yml", ".pth", ".pt"))


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A line of a model list; `source` is what `resolve_models` takes, None for the bundled ensemble."""

    title: str
    source: Path | None
    note: str = ""


def known_models(session: Any, picked: Sequence[ModelChoice] = ()) -> list[ModelChoice]:
    """The bundled ensemble, what a person picked, and kept models and runs of the open dataset, newest first.

    Parameters
    ----------
    session : Session or None
    picked : sequence of ModelChoice
    """
    choices = list(picked)
    if has_bundled():
        choices.insert(0, ModelChoice("Bundled ensemble", None, "Trained on synthetic scenes, for a first look."))
    if session is not None:
        known = {choice.source for choice in choices}
        kept = sorted((session.root / MODELS_FOLDER).glob("*/ensemble.yaml"), reverse=True)
        choices += [ModelChoice(path.parent.name, path.parent) for path in kept if path.parent not in known]
        for checkpoint in sorted((session.root / "runs").glob("*/best.safetensors"), reverse=True):
            path = RunFolder(checkpoint.parent).best_path
            if path not in known:
                choices.append(ModelChoice(model_title(path), path))
    return choices


def model_path(path: str | Path) -> Path:
    """The path of a model that a person named, if there is one.

    Raises
    ------
    CheckpointError
        If there is no checkpoint, run folder or ensemble at that place.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        usable = any((path / name).is_file() for name in ("best.safetensors", "ensemble.yaml")) or any(
            path.glob("*.safetensors")
        )
    else:
        usable = path.is_file() and path.suffix.lower() in _SUFFIXES
    if not usable:
        raise CheckpointError(
            f"{path} is no model. Choose a .safetensors checkpoint, a run folder or an ensemble.yaml."
        )
    return path


def model_title(path: Path) -> str:
    """What a model is called in lists."""
    if path.name in {"best.safetensors", "last.safetensors", "ensemble.yaml"}:
        return path.parent.name if path.name != "last.safetensors" else f"{path.parent.name} (last)"
    return path.stem if path.is_file() else path.name


def has_bundled() -> bool:
    """Whether the package brought its ensemble."""
    try:
        return (resources.files("napari_glacier._sample") / "ensemble").is_dir()
    except ModuleNotFoundError:
        return False
