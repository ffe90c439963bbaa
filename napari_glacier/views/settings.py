"""What a person chose last, kept from one sitting to the next: for all datasets, or with one of them."""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from qtpy.QtCore import QSettings

Kept = TypeVar("Kept", str, int)

RECENT = "data/recent"
_MOST_RECENT = 8
# Read once, for those who opened their folder before there was a list.
_LAST_FOLDER = "data/folder"


def settings() -> QSettings:
    """Where the widgets keep what a person chose last."""
    # One format on every system: a text file, not the registry.
    return QSettings(QSettings.Format.IniFormat, QSettings.Scope.UserScope, "napari-glacier", "napari-glacier")


def kept(key: str, default: Kept) -> Kept:
    """What a person chose last, or `default` where nothing (or nothing of its kind) is kept."""
    store = settings()
    if not store.contains(key):
        return default
    text = str(store.value(key, "", str))
    if isinstance(default, str):
        return text
    try:
        # Qt itself would read any other word as 0.
        return int(text)
    except ValueError:
        return default


def keep(key: str, value: str | int) -> None:
    """Keep a choice."""
    settings().setValue(key, value)


def kept_of(key: str) -> Any:
    """What `keep_of` kept: plain values, or None where nothing readable is kept."""
    try:
        return json.loads(kept(key, "null"))
    except ValueError:
        return None


def keep_of(key: str, value: Any) -> None:
    """Keep several values under one key: lists, and mappings of texts and numbers."""
    keep(key, json.dumps(value))


def of_dataset(root: str | Path, name: str) -> str:
    """The key of what belongs to one dataset; its folder goes by a hash, which every system takes for a key."""
    folder = str(Path(root).expanduser().resolve())
    return f"datasets/{hashlib.sha256(folder.encode()).hexdigest()[:16]}/{name}"


def recent_folders() -> list[str]:
    """Datasets that were opened, the last one first; the disk is not asked whether they are there."""
    folders = kept_of(RECENT)
    if not isinstance(folders, list):
        folders = [kept(_LAST_FOLDER, "")]
    return [folder for folder in folders if isinstance(folder, str) and folder]


def keep_opened(folder: str | Path) -> None:
    """Put a dataset first among those that were opened."""
    others = [one for one in recent_folders() if one != str(folder)]
    keep_of(RECENT, [str(folder), *others][:_MOST_RECENT])
