"""Files inside tar archives, read where they lie: ``scene.tar/scene_B2.TIF`` is a path as any other.

USGS delivers Landsat scenes as plain tar files, whose members are whole and uncompressed, one after another: a
member is a stretch of the archive, and nothing needs to be unpacked.
"""

import tarfile
from functools import lru_cache
from pathlib import Path

from napari_glacier.core.errors import RasterError

ARCHIVE_SUFFIXES = (".tar",)
_PACKED_SUFFIXES = (".gz", ".tgz", ".bz2", ".xz", ".zip", ".z", ".7z")
_BLOCK = 512
# Metadata files of scenes have a few kilobytes to a megabyte.
_MAX_TEXT_BYTES = 32 << 20


def is_archive(path: Path) -> bool:
    """Whether a path names a tar file, from its name alone."""
    return path.suffix.lower() in ARCHIVE_SUFFIXES


def is_packed(path: Path) -> bool:
    """Whether a path names a compressed archive, which is not read in place."""
    return path.suffix.lower() in _PACKED_SUFFIXES


def file_of(path: Path) -> Path:
    """The file on disk that holds what a path names: the archive of a member, else the path itself."""
    for parent in path.parents:
        if is_archive(parent) and parent.is_file():
            return parent
    return path


def gdal_name(path: Path) -> str:
    """What GDAL calls a path: members of archives go through its virtual file system."""
    archive = file_of(path)
    return str(path) if archive == path else f"/vsitar/{archive.absolute()}/{path.relative_to(archive).as_posix()}"


def members(archive: Path) -> list[Path]:
    """Paths of the files in an archive, in its order.

    Raises
    ------
    RasterError
        If it is no tar file, is compressed, is cut short, or may not be read.
    """
    return [archive / name for name in _spans(archive, *_state(archive))]


def span(path: Path) -> tuple[Path, int, int] | None:
    """Archive, first byte and number of bytes of a member; None for a path that is a file by itself.

    Raises
    ------
    RasterError
        As `members`, and if the archive has no such member.
    """
    archive = file_of(path)
    if archive == path:
        return None
    name = path.relative_to(archive).as_posix()
    spans = _spans(archive, *_state(archive))
    if name not in spans:
        raise RasterError(f"{archive} holds no {name}. Download the archive again.")
    return (archive, *spans[name])


def read_text(path: Path) -> str:
    """Text of a file, or of a member of an archive; what is not UTF-8 comes as replacement characters.

    Raises
    ------
    RasterError
        As `span`, and if the file cannot be read or is far too large for a text.
    """
    where = span(path)
    try:
        size = path.stat().st_size if where is None else where[2]
        if size > _MAX_TEXT_BYTES:
            raise RasterError(f"{path} has {size:,} bytes, far more than such a file has. Download it again.")
        with (path if where is None else where[0]).open("rb") as file:
            file.seek(0 if where is None else where[1])
            return file.read(size).decode("utf-8", errors="replace")
    except OSError as error:
        raise RasterError(f"{path} cannot be read ({error.strerror}). Check the path and its permissions.") from error


def _state(archive: Path) -> tuple[int, int]:
    try:
        stat = archive.stat()
    except OSError as error:
        raise RasterError(
            f"{archive} cannot be read ({error.strerror}). Check the path and its permissions."
        ) from error
    return stat.st_size, stat.st_mtime_ns


# Size and time are arguments so that an archive that was replaced is looked at again.
@lru_cache(maxsize=64)
def _spans(archive: Path, size: int, time_ns: int) -> dict[str, tuple[int, int]]:
    del time_ns
    cut = f"{archive} is cut short ({size:,} bytes). Download it again."
    try:
        with tarfile.open(archive, "r:") as tar:
            found = {member.name: (member.offset_data, member.size) for member in tar if member.isreg()}
        with archive.open("rb") as file:
            file.seek(max(size - _BLOCK, 0))
            last = file.read()
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise RasterError(
            f"{archive} is not a plain, whole tar file ({error}). Download it again; if it is compressed, unpack it."
        ) from error
    except OSError as error:
        raise RasterError(f"{archive} cannot be read ({error.strerror or error}). Download it again.") from error
    if any(start < 0 or length < 0 or start + length > size for start, length in found.values()):
        raise RasterError(cut)
    # A tar file ends with blocks of zeros; one that was cut between two members does not.
    if not found or last.strip(b"\0"):
        raise RasterError(cut)
    return found
