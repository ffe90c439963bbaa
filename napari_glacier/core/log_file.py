"""The log file in the user's data folder: what happened before something went wrong."""

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

from napari_glacier.core.correction.journal_place import user_data_dir

_MOST_BYTES = 1_000_000
_NUM_OLD = 3
_FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"

logger = logging.getLogger("napari_glacier")


class _LogFile(RotatingFileHandler):
    def doRollover(self) -> None:  # noqa: N802 - the library's name
        """Begin a new file; where another napari holds the old one open (Windows), go on writing into it."""
        try:
            super().doRollover()
        except OSError:
            self.stream = self._open()


def log_path() -> Path:
    """The log file of this user."""
    return user_data_dir() / "logs" / "napari-glacier.log"


def start_log() -> None:
    """Write what the plugin logs into the log file, too; once, however often it is called.

    A folder that cannot be written is no reason to fail: then nothing is kept.
    """
    path = log_path()
    for handler in [handler for handler in logger.handlers if isinstance(handler, _LogFile)]:
        if handler.baseFilename == str(path.absolute()):
            return
        logger.removeHandler(handler)
        handler.close()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Opened with the first line, so that whoever has nothing to tell leaves no empty file.
        handler = _LogFile(path, maxBytes=_MOST_BYTES, backupCount=_NUM_OLD, encoding="utf-8", delay=True)
    except OSError as error:
        logger.warning("No log is kept in %s: %s", path.parent, error)
        return
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def last_lines(most: int = 60) -> list[str]:
    """The end of the log file; empty where there is none."""
    try:
        return log_path().read_text(encoding="utf-8", errors="replace").splitlines()[-most:]
    except OSError:
        return []
