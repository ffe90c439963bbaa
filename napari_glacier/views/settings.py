"""What a person chose last, kept from one sitting to the next: for all datasets, or with one of them."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from qtpy.QtCore import QSettings

Kept = TypeVar("Kept", str, int)

RECENT = "data/recent"
_MOST_RECENT = 8
# Read once, for those who opened their folder before there was a list.
_LAST_FOLDER = "data/folder"

# Qt waits until the disk has what it writes, now and then for half a second: a thread writes in the window's place.
_disk = ThreadPoolExecutor(1, thread_name_prefix="settings to disk")
_waiting: dict[str, str | int] = {}
_waiting_lock = Lock()


def settings() -> QSettings:
    """Where the widgets keep what a person chose last."""
    # One format on every system: a text file, not the registry.
    return QSettings(QSettings.Format.IniFormat, QSettings.Scope.UserScope, "napari-glacier", "napari-glacier")


def kept(key: str, default: Kept) -> Kept:
    """What a person chose last, or `default` where nothing (or nothing of its kind) is kept."""
    with _waiting_lock:
        waiting = _waiting.get(key)
    store = settings() if waiting is None else None
    if store is not None and not store.contains(key):
        return default
    text = str(waiting if store is None else store.value(key, "", str))
    if isinstance(default, str):
        return text
    try:
        # Qt itself would read any other word as 0.
        return int(text)
    except ValueError:
        return default


def keep(key: str, value: str | int) -> None:
    """Keep a choice."""
    keep_all({key: value})


def keep_all(choices: Mapping[str, str | int]) -> None:
    """Keep several choices: at hand at once, in the file as soon as the disk has taken them."""
    if not choices:
        return
    with _waiting_lock:
        _waiting.update(choices)
    try:
        _disk.submit(_write)
    except RuntimeError:
        # Python is ending, and starts no thread any more.
        _write()


def _write() -> None:
    with _waiting_lock:
        written = dict(_waiting)
    if not written:
        # An earlier turn took it.
        return
    store = settings()
    for key, value in written.items():
        store.setValue(key, value)
    # It writes when it goes, and lets the window live on meanwhile; its `sync` would not.
    del store
    with _waiting_lock:
        for key, value in written.items():
            if _waiting.get(key) is value:
                del _waiting[key]


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
