"""SAM 2 on what is on screen: it looks at a composite once, in a thread, and is then asked by clicks. No Qt.

The library is an optional extra, and the weights lie where a person says; see `nn.prompting`.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.desk import Desk, Point
from napari_glacier.controllers.layers import composite_bands
from napari_glacier.controllers.pictures import composite_rgba
from napari_glacier.core.errors import DataError
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.components import Area

if TYPE_CHECKING:
    from napari_glacier.nn.prompting import PromptedSam, SeenPicture


@dataclass
class _Prompt:
    """What was pointed at in a window so far, in its own rows and columns."""

    window: Window
    inside: list[Point] = field(default_factory=list)
    outside: list[Point] = field(default_factory=list)
    box: tuple[float, float, float, float] | None = None


class Prompting:
    """Turns clicks and boxes into areas, by a model that looks at the view.

    Parameters
    ----------
    desk : Desk

    Attributes
    ----------
    folder : Path or None
        Where the weights lie; None where nobody said.
    """

    def __init__(self, desk: Desk) -> None:
        self.folder: Path | None = None
        self._desk = desk
        self._executor: ThreadPoolExecutor | None = None
        self._model: tuple[Path, Future[PromptedSam]] | None = None
        self._seen: tuple[Any, Future[SeenPicture]] | None = None
        self._prompt: _Prompt | None = None

    @property
    def model(self) -> str:
        """What strokes are noted with as their model."""
        return f"SAM 2 ({self.folder.name})" if self.folder is not None else ""

    def prepare(self, window: Window) -> "Future[SeenPicture]":
        """Begin to look at a window, in a thread, unless that was done.

        Raises
        ------
        DataError
            If nobody said where the weights are.
        """
        loaded = self._load()
        scene, plane = self._desk.source.scene(), self._desk.workspace.plane
        key = self.folder, scene.name, plane, window
        if self._seen is None or self._seen[0] != key:
            bands = composite_bands(self._desk.source.bands_in(window))

            def look() -> "SeenPicture":
                image_CHW, valid_HW = scene.read(window, bands)
                return loaded.result().look(composite_rgba(image_CHW, valid_HW)[..., :3])

            self._seen = key, self._submit(look)
        return self._seen[1]

    def point(self, row: int, col: int, *, inside: bool) -> "Future[Area]":
        """Say that a pixel belongs to the object, or does not; gives what that means, and all that was said before."""
        window = self._desk.window_around(row, col)
        self._load_again()
        if self._prompt is None or not self._prompt.window.holds(row, col):
            self._prompt = _Prompt(window)
        points = self._prompt.inside if inside else self._prompt.outside
        points.append((row - self._prompt.window.row + 0.5, col - self._prompt.window.col + 0.5))
        return self._ask(self._prompt)

    def box(self, vertices: Sequence[Point]) -> "Future[Area]":
        """Say that the object lies within the corners of a loop; gives what that means."""
        self._load_again()
        top, left = np.min(vertices, axis=0)
        bottom, right = np.max(vertices, axis=0)
        window = self._desk.window_around(round((top + bottom) / 2), round((left + right) / 2))
        corners = np.array([top, left, bottom, right]) - np.array([window.row, window.col] * 2) + 0.5
        corners = np.clip(corners, 0, [window.height, window.width] * 2)
        self._prompt = _Prompt(window, box=tuple(corners.tolist()))
        return self._ask(self._prompt)

    def everything(self, window: Window) -> "Future[tuple[Window, npt.NDArray[np.int32]]]":
        """Objects anywhere in a window, numbered from 1; 0 where there is none, and on nodata."""
        self._load_again()
        looked, loaded = self.prepare(window), self._load()
        valid_HW = self._desk.valid(window)
        return self._submit(
            lambda: (window, np.where(valid_HW, loaded.result().masks_of_all(looked.result()), np.int32(0)))
        )

    def forget(self) -> None:
        """Begin anew with the next click."""
        self._prompt = None

    def close(self) -> None:
        """End the thread, as soon as it has done what it is at."""
        self.forget()
        self._model = self._seen = None
        if self._executor is not None:
            # A picture takes seconds to look at; nobody waits for it any more.
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    def _ask(self, prompt: _Prompt) -> "Future[Area]":
        window, inside, outside, box = prompt.window, list(prompt.inside), list(prompt.outside), prompt.box
        looked, loaded = self.prepare(window), self._load()
        valid_HW = self._desk.valid(window)
        return self._submit(lambda: Area(window, loaded.result().ask(looked.result(), inside, outside, box) & valid_HW))

    def _load_again(self) -> None:
        """Load the weights where that failed before: whoever asks may have mended it. A view that rests does not."""
        if self._model is not None and self._model[1].done() and self._model[1].exception() is not None:
            self._model = self._seen = None
        self._load()

    def _load(self) -> "Future[PromptedSam]":
        folder = self.folder
        if folder is None:
            raise DataError(
                "SAM 2 needs weights on this computer. Choose the folder that holds its config.json and "
                "model.safetensors (Weights…)."
            )
        if self._model is None or self._model[0] != folder:

            def load() -> "PromptedSam":
                from napari_glacier.nn.prompting import PromptedSam

                return PromptedSam.load(folder)

            self._model = folder, self._submit(load)
        return self._model[1]

    def _submit(self, make: Callable[[], Any]) -> "Future[Any]":
        if self._executor is None:
            # One thread takes what it is given in order: what an answer needs is there by then.
            self._executor = ThreadPoolExecutor(1, "sam2")
        return self._executor.submit(make)
