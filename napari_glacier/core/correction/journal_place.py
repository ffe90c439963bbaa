"""Where a data set's journal lies: in its folder, or in the user's data folder where that is read-only."""

import getpass
import hashlib
import os
import sys
from pathlib import Path

import psutil

_SPLITS = frozenset(("train", "val", "test"))
JOURNAL_NAME = "glacier.sqlite"
DATA_DIR_VARIABLE = "NAPARI_GLACIER_DATA_DIR"

# SQLite's write-ahead log needs memory shared between processes, which file systems over a wire do not give.
_NETWORK_TYPES = frozenset(
    (
        "9p",
        "afpfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "davfs",
        "davfs2",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs3",
        "nfs4",
        "panfs",
        "pvfs2",
        "smb",
        "smb2",
        "smb3",
        "smbfs",
        "webdav",
    )
)


def user_data_dir() -> Path:
    """Folder for what the plugin keeps for this user; the variable NAPARI_GLACIER_DATA_DIR overrides it."""
    chosen = os.environ.get(DATA_DIR_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Application Support"
    else:
        base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "napari-glacier"


def user_journal_path(root: Path) -> Path:
    """Where the journal of a data set goes whose own folder is read-only."""
    resolved = Path(root).resolve()
    digest = hashlib.sha256(str(resolved).encode()).hexdigest()[:12]
    return user_data_dir() / "journals" / f"{resolved.name}-{digest}.sqlite"


def is_writable_folder(folder: Path) -> bool:
    """Whether this process may create files in a folder."""
    if os.access in os.supports_effective_ids:
        return os.access(folder, os.W_OK | os.X_OK, effective_ids=True)
    return os.access(folder, os.W_OK | os.X_OK)


def is_network_path(path: Path) -> bool:
    """Whether a path lies on a network file system; False where that cannot be known."""
    resolved = Path(path).resolve()
    if sys.platform == "win32" and str(resolved).startswith("\\\\"):
        return True
    try:
        partitions = psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):
        return False
    holding = [part for part in partitions if resolved.is_relative_to(part.mountpoint)]
    if not holding:
        return False
    # Of several mounts on one point the last one covers the others.
    longest = max(len(Path(part.mountpoint).parts) for part in holding)
    part = [part for part in holding if len(Path(part.mountpoint).parts) == longest][-1]
    kind = part.fstype.lower()
    return kind in _NETWORK_TYPES or kind.startswith("fuse.sshfs") or "remote" in part.opts.split(",")


def user_name() -> str:
    """Name of the person at the machine, as far as it is known."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


def journal_root(root: Path) -> Path | None:
    """The data set folder whose journal speaks of the tiles in `root`, None where there is none; creates nothing.

    The journal of a folder serves its ``train``, ``val`` and ``test`` folders, too.
    """
    places = (root, root.parent) if root.name in _SPLITS else (root,)
    return next(
        (place for place in places if (place / JOURNAL_NAME).is_file() or user_journal_path(place).is_file()), None
    )
