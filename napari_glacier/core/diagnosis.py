"""What a developer needs to know of an error that nobody foresaw."""

import os
import platform
import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from napari_glacier import __version__
from napari_glacier.core.log_file import last_lines, log_path

_PACKAGES = (
    "napari",
    "PySide6_Essentials",
    "PyQt6",
    "PyQt5",
    "numpy",
    "torch",
    "openvino",
    "rasterio",
    "tifffile",
    "segmentation-models-pytorch",
)
_OURS = str(Path(__file__).resolve().parents[1]) + os.sep


def is_ours(error: BaseException) -> bool:
    """Whether an error passed through the plugin's own code, or was caused by one that did."""
    return any(
        str(Path(frame.f_code.co_filename).resolve()).startswith(_OURS)
        for link in _chain(error)
        for frame, _ in traceback.walk_tb(link.__traceback__)
    )


def sentence(error: BaseException) -> str:
    """Kind and words of an error; of one that a signal passed on, those of its cause."""
    if type(error).__name__ == "EmitLoopError" and error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".rstrip(": ")


def diagnosis(error: BaseException, facts: Mapping[str, str]) -> str:
    """Versions, machine, `facts` (data set, model), traceback and the end of the log, as one text.

    Parameters
    ----------
    error : BaseException
    facts : mapping of str to str
        What was open and chosen; shown in its order.
    """
    lines = [
        sentence(error),
        "",
        f"napari-glacier {__version__}, Python {platform.python_version()} ({sys.platform})",
        f"{platform.platform()}, {os.cpu_count()} processors",
        ", ".join(_versions()),
        *(f"{name}: {value}" for name, value in facts.items()),
        "",
        "".join(traceback.format_exception(error)).rstrip(),
    ]
    log = last_lines()
    if log:
        lines += ["", f"The end of {log_path()}:", *log]
    return "\n".join(lines)


def _versions() -> Iterator[str]:
    # Read from their metadata: nothing is imported for a report on what may not be importable.
    for name in _PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            continue


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__
