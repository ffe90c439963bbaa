"""Writing files so that a crash leaves the whole old one or the whole new one."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it is synced to disk and takes the place of `path`.

    On any error the temporary file is removed and the old file stays as it was. OSError where none can be made
    there; it names `path`, which is what a person asked for.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes private files; a replaced file keeps its mode, a new one gets the usual one.
        temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        _move_over(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def file_name_of(title: str, usual: str) -> str:
    """A title as a part of a path on any system; `usual` where nothing of it can be."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in title).strip("._") or usual


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text so that `path` holds the old or the new text, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _move_over(temporary: Path, path: Path) -> None:
    # Windows refuses while a reader has the old file open (a spreadsheet, somebody polling); most let go at once.
    for attempt in range(10):
        try:
            temporary.replace(path)
            return
        except PermissionError:
            if os.name != "nt" or attempt == 9:
                raise
            time.sleep(0.1)


def _umask() -> int:
    # The process's umask can only be read by setting it; 0o22 is what practically everyone has.
    current = os.umask(0o22)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    # A rename is durable once the folder is; Windows has no such call and needs none.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
