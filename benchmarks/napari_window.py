"""A bare window of napari as large as a mosaic, a mouse and a keyboard over its canvas, and how long it stands still.

What `desk.py` measures the Correct widget with, and against.
"""

import multiprocessing
import os
import time
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

# The mosaic: tiles in the middle and at the corners.
SIDE_PX, TILE_PX = 8192, 512
# Tiles along each side of the block in the middle; a view of 1024 px lies within.
BLOCK = 4


class Stall(NamedTuple):
    """A time in which the window did not answer, in milliseconds.

    Attributes
    ----------
    clock : float
        How long it was.
    cpu : float
        How long the window's thread worked in it.
    undrawn : float
        How long it was without Qt's drawing of the window.
    """

    clock: float = 0.0
    cpu: float = 0.0
    undrawn: float = 0.0

    def or_longer(self, other: "Stall") -> "Stall":
        """The longest of two in each respect."""
        return Stall(*map(max, self, other))


class Heart:
    """A timer on the GUI thread; the longest time between two beats is how long the window stood still."""

    # How long Qt drew windows so far, in seconds.
    drawn_s = 0.0

    def __init__(self) -> None:
        from qtpy.QtCore import Qt, QTimer

        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.setInterval(2)
        self._timer.timeout.connect(self._beat)
        self._longest = Stall()
        self._last = self._now()
        self._timer.start()

    @classmethod
    def listen(cls) -> None:
        """Time the drawing of all napari windows that are opened from now on."""
        from napari._qt.qt_main_window import _QtMainWindow
        from qtpy.QtCore import QEvent

        event_of_napari = _QtMainWindow.event

        def event(window: Any, event: Any) -> bool:
            start = time.perf_counter()
            done: bool = event_of_napari(window, event)
            if event.type() == QEvent.Type.UpdateRequest:
                cls.drawn_s += time.perf_counter() - start
            return done

        _QtMainWindow.event = event

    @classmethod
    def _now(cls) -> tuple[float, float, float]:
        clock = time.perf_counter()
        return clock, time.thread_time(), clock - cls.drawn_s

    def _beat(self) -> None:
        now = self._now()
        stall = Stall(*(1000 * (late - early) for late, early in zip(now, self._last, strict=True)))
        self._longest, self._last = self._longest.or_longer(stall), now

    def rest(self) -> Stall:
        """The longest stall so far; begins anew."""
        longest, self._longest, self._last = self._longest, Stall(), self._now()
        return longest


class Machine:
    """How long the machine itself stood still: a process for each core, which comes before all others, naps for 2 ms.

    Virtual machines stand still where their host has other work. Without the right to come before all others (Linux,
    root) the processes wait for their turn as well.
    """

    def __init__(self) -> None:
        spawned = multiprocessing.get_context("spawn")
        self._longest = [spawned.Value("d", 0.0) for _ in range(os.cpu_count() or 1)]
        for core, longest in enumerate(self._longest):
            spawned.Process(target=_nap, args=(core, longest), daemon=True).start()

    def rest(self) -> float:
        """The longest time so far in milliseconds; begins anew."""
        found = max(longest.value for longest in self._longest)
        for longest in self._longest:
            longest.value = 0.0
        return 1000 * float(found)


def _nap(core: int, longest: Any) -> None:
    with suppress(AttributeError, OSError):
        os.sched_setaffinity(0, {core})
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    last = time.perf_counter()
    while True:
        time.sleep(0.002)
        now = time.perf_counter()
        longest.value = max(longest.value, now - last)
        last = now


class Window:
    """A window of napari, and a mouse and a keyboard over its canvas."""

    def __init__(self) -> None:
        import napari
        from qtpy.QtCore import QSettings

        QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, os.environ["NAPARI_GLACIER_DATA_DIR"])
        self.viewer = napari.Viewer(show=True, show_welcome_screen=False)
        self.viewer.window._qt_window.resize(1366, 768)
        self.layer = self.fill()
        # What the window's thread had worked when something was last asked for.
        self.asked_cpu = 0.0
        self.canvas = self.viewer.window._qt_viewer.canvas.native
        self.pump(1.5)
        self.look_at(SIDE_PX / 2, SIDE_PX / 2)

    def fill(self) -> Any:
        """A picture and labels as large as the mosaic; gives the layer that is drawn on."""
        rng = np.random.default_rng(0)
        middle = slice((SIDE_PX - BLOCK * TILE_PX) // 2, (SIDE_PX + BLOCK * TILE_PX) // 2)
        picture_HW4 = np.full((SIDE_PX, SIDE_PX, 4), 255, np.uint8)
        picture_HW4[middle, middle, :3] = rng.integers(0, 256, (BLOCK * TILE_PX, BLOCK * TILE_PX, 3))
        labels_HW = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
        labels_HW[middle, middle] = np.kron(rng.integers(0, 4, (BLOCK * 16, BLOCK * 16)), np.ones((32, 32)))
        self.viewer.add_image(picture_HW4, rgb=True, scale=(30, 30))
        return self.viewer.add_labels(labels_HW, scale=(30, 30), opacity=0.5)

    def take_up(self, tool: str) -> None:
        """Take one of napari's own tools."""
        self.layer.mode = tool

    def choose(self, index: int) -> None:
        """Paint with a class from now on."""
        self.layer.selected_label = index

    def pump(self, seconds: float) -> None:
        """Let the window live for a while."""
        from qtpy.QtWidgets import QApplication

        end = time.perf_counter() + seconds
        QApplication.processEvents()
        while time.perf_counter() < end:
            QApplication.processEvents()
            time.sleep(0.001)

    def look_at(self, row: float, col: float) -> None:
        """A pixel in the middle of the canvas, one pixel for one on screen."""
        camera = self.viewer.scene.camera
        camera.zoom = 1 / 30
        centre = self.layer.data_to_world((row, col))
        camera.center = (0.0, float(centre[0]), float(centre[1]))
        self.pump(1.5)

    def point(self, down: float, across: float) -> Any:
        """A place on the canvas, in shares of its height and width."""
        from qtpy.QtCore import QPoint

        return QPoint(round(self.canvas.width() * across), round(self.canvas.height() * down))

    def drag(self, *path: tuple[float, float]) -> float:
        """Press, move along, let go; gives when the button was let go."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        points = [self.point(*place) for place in path]
        left, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        QTest.mousePress(self.canvas, left, none, points[0])
        for first, last in pairwise(points):
            for step in range(1, 9):
                QTest.mouseMove(self.canvas, first + (last - first) * (step / 8))
                # The window lives on while the hand moves: its beats tell of work, not of the hand.
                self.pump(0.012)
        start, self.asked_cpu = time.perf_counter(), time.thread_time()
        QTest.mouseRelease(self.canvas, left, none, points[-1])
        return start

    def click(self, down: float, across: float) -> float:
        """A click, the button held for a moment as by a hand; gives when it was let go."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        button, none, place = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, self.point(down, across)
        QTest.mousePress(self.canvas, button, none, place)
        self.pump(0.04)
        start, self.asked_cpu = time.perf_counter(), time.thread_time()
        QTest.mouseRelease(self.canvas, button, none, place)
        return start

    def key(self, key: str, control: bool = False) -> float:
        """A key on the canvas; gives when it was pressed."""
        from qtpy.QtCore import Qt
        from qtpy.QtTest import QTest

        start, self.asked_cpu = time.perf_counter(), time.thread_time()
        modifier = Qt.KeyboardModifier.ControlModifier if control else Qt.KeyboardModifier.NoModifier
        QTest.keyClick(self.canvas, getattr(Qt.Key, f"Key_{key}"), modifier)
        return start
