"""What a person chose last, kept from one sitting to the next."""

from typing import TypeVar

from qtpy.QtCore import QSettings

Kept = TypeVar("Kept", str, int)


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
