"""Which models there are to choose from; looks at names only, so that no list waits for torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from napari_glacier.core.errors import CheckpointError, DataError
from napari_glacier.core.models.promotion import MODELS_FOLDER, champion
from napari_glacier.core.runfiles import RunFolder

_SUFFIXES = frozenset((".safetensors", ".yaml", ".yml", ".pth", ".pt"))


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A line of a model list; `source` is what `resolve_models` takes, None for the bundled ensemble."""

    title: str
    source: Path | None
    note: str = ""


def known_models(session: Any, picked: Sequence[ModelChoice] = ()) -> list[ModelChoice]:
    """The dataset's champion, the bundled ensemble, what a person picked, kept models, and runs, newest first.

    Parameters
    ----------
    session : Session or None
    picked : sequence of ModelChoice
    """
    choices = list(picked)
    if has_bundled():
        choices.insert(0, ModelChoice("Bundled ensemble", None, "Trained on synthetic scenes, for a first look."))
    if session is not None:
        promoted = promoted_choice(session)
        if promoted is not None:
            choices = [promoted, *(choice for choice in choices if choice.source != promoted.source)]
        known = {choice.source for choice in choices}
        kept = sorted((session.root / MODELS_FOLDER).glob("*/ensemble.yaml"), reverse=True)
        choices += [ModelChoice(path.parent.name, path.parent) for path in kept if path.parent not in known]
        for checkpoint in sorted((session.root / "runs").glob("*/best.safetensors"), reverse=True):
            path = RunFolder(checkpoint.parent).best_path
            if path not in known:
                choices.append(ModelChoice(model_title(path), path))
    return choices


def promoted_choice(session: Any) -> ModelChoice | None:
    """The model that was promoted for a dataset; None where there is none, or its files are not there."""
    try:
        found = champion(session.root)
    except DataError:
        return None
    if found.path is None or found.entry is None:
        return None
    note = f"Promoted on {found.entry.time[:10]} by {found.entry.who}: what this dataset works with."
    return ModelChoice(f"★ {found.title}", found.path, note)


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
    return bundled_path() is not None


def bundled_path() -> Path | None:
    """Folder of the ensemble that the package brought, if it did."""
    try:
        folder = Path(str(resources.files("napari_glacier._sample"))) / "ensemble"
    except ModuleNotFoundError:
        return None
    return folder if folder.is_dir() else None
