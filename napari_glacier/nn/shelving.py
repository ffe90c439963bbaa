"""Putting models on a dataset's shelf: the files of one that is there already, and foreign weights."""

import tempfile
from pathlib import Path
from typing import Any

from napari_glacier.core.channels import Normalisation
from napari_glacier.core.errors import SaveError
from napari_glacier.core.models.promotion import MODELS_FOLDER, ModelFiles, keep
from napari_glacier.nn.checkpoint import read_card
from napari_glacier.nn.ensemble import recipe_of
from napari_glacier.nn.importing import Wanted, import_weights


def model_files(asked: str | Path, title: str) -> ModelFiles:
    """The checkpoints of what `resolve_models` takes, and what its ensemble file says, to be kept under a title.

    Raises
    ------
    CheckpointError, ConfigError
        As `resolve_models`; weights are not read.
    """
    recipe = recipe_of(asked)
    for path, _ in recipe.members:
        read_card(path)
    settings: dict[str, Any] = {"average": recipe.average} if recipe.average != "probability" else {}
    settings |= {key: value for key in ("thresholds", "tta", "scales") if (value := getattr(recipe, key))}
    return ModelFiles(title, recipe.members, settings)


def shelve_import(path: Path, wanted: Wanted, normalisation: Normalisation, root: Path, name: str) -> Path:
    """Import weights into the dataset's folder ``models``; gives the model's folder.

    Raises
    ------
    CheckpointError
        If the weights do not fill the network wholly.
    SaveError
        If the dataset's folder cannot be written.
    """
    shelf = Path(root) / MODELS_FOLDER
    try:
        shelf.mkdir(exist_ok=True)
        # On the same disk, so that the checkpoint is linked and not written twice.
        with tempfile.TemporaryDirectory(dir=shelf, prefix=".importing-") as folder:
            made = Path(folder) / "model.safetensors"
            import_weights(path, wanted, normalisation, made, name=name)
            return keep(root, ModelFiles(name, [(made, 1.0)]))
    except OSError as error:
        raise SaveError(f"{shelf} could not be written ({error.strerror or error}). Make it writable.") from error
