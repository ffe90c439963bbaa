"""The best weights under a name of the user's choice."""

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from napari_glacier.core.errors import ConfigError
from napari_glacier.core.files import replacing
from napari_glacier.core.runfiles import RunFolder

_PLAIN_SUFFIXES = {".pth", ".pt", ".h5"}


def check_save_path(save_path: Path) -> None:
    """Find out before the training whether its result can be put there; makes no folder.

    Raises
    ------
    ConfigError
    """
    path = save_path.expanduser().absolute()
    if path.is_dir():
        raise ConfigError(f"save_path is {save_path}, a folder. Name a file in it, as in {path / 'mine.safetensors'}.")
    folder = next(parent for parent in path.parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"save_path is {save_path}, but nothing can be written in {folder}. Name another place.")


def export_weights(folder: RunFolder, save_path: Path) -> None:
    """Copy a run's best checkpoint to `save_path`, as ``.safetensors``; nothing where no epoch has finished.

    A name that ends in ``.pth``, ``.pt`` or ``.h5`` gets a plain state dict (a torch file, also under
    ``.h5``) for other programs, and the checkpoint is put beside it.
    """
    if not folder.best_path.is_file():
        return
    save_path = save_path.expanduser()
    save_path.parent.mkdir(parents=True, exist_ok=True)
    if save_path.suffix.lower() in _PLAIN_SUFFIXES:
        with replacing(save_path) as temporary:
            torch.save(load_file(folder.best_path), temporary)
    checkpoint_path = save_path.with_suffix(".safetensors")
    with replacing(checkpoint_path) as temporary:
        shutil.copyfile(folder.best_path, temporary)
