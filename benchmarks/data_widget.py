"""How long the Data widget keeps the window waiting with thousands of tiles.

    sh scripts/with_display.sh --virtual python benchmarks/data_widget.py [--tiles 2000] [--folder DIR]

Makes a dataset of small tiles (64 x 64, five bands, masks), opens it, docks the widget and does what a person does. A
timer ticks every few milliseconds; the longest time between two ticks is what the window was frozen for.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

SIDE_PX = 64
_TICK_MS = 2


def write_tiles(root: Path, number: int) -> None:
    """Abutting tiles with noise in five bands and blocks of four classes."""
    from napari_glacier.core.bands import CANONICAL_BANDS
    from napari_glacier.core.classes import get_scheme
    from napari_glacier.core.raster import write_mask, write_raster
    from napari_glacier.core.raster.georef import GeoRef

    rng, columns = np.random.default_rng(0), 50
    for k in range(number):
        row, col = divmod(k, columns)
        place = (30.0, 0.0, 5e5 + 30 * SIDE_PX * col, 0.0, -30.0, 3.8e6 - 30 * SIDE_PX * row)
        georef, tile = GeoRef.from_epsg(32643, place), f"{row:03d}_{col:03d}"
        for number_of_band, band in enumerate(CANONICAL_BANDS, 1):
            values_HW = rng.integers(5_000, 30_000, (SIDE_PX, SIDE_PX)).astype(np.uint16)
            write_raster(root / f"Band{number_of_band}" / f"{band}_{tile}.tif", values_HW, georef, nodata=0)
        index_HW = np.kron(rng.integers(0, 4, (4, 4)), np.ones((SIDE_PX // 4, SIDE_PX // 4))).astype(np.uint8)
        write_mask(root / "label" / f"mask_{tile}.tif", index_HW, get_scheme("glacier4"), georef)


class Watch:
    """The longest time between two ticks of the window's own clock."""

    def __init__(self) -> None:
        from qtpy.QtCore import QTimer

        self._last, self.longest_ms = time.perf_counter(), 0.0
        self._timer = QTimer()
        self._timer.timeout.connect(self._tick)
        self._timer.start(_TICK_MS)

    def _tick(self) -> None:
        now = time.perf_counter()
        self.longest_ms = max(self.longest_ms, 1000 * (now - self._last))
        self._last = now

    def during(self, title: str, act: Callable[[], Any], done: Callable[[], bool], seconds: float = 300) -> None:
        """Do something, wait until it is done, and print how long the window was frozen at most."""
        from qtpy.QtWidgets import QApplication

        for _ in range(20):
            QApplication.processEvents()
        self._last, self.longest_ms = time.perf_counter(), 0.0
        start = time.perf_counter()
        act()
        self._tick()
        in_call_ms = 1000 * (time.perf_counter() - start)
        while not done() or time.perf_counter() - start < 0.3:
            QApplication.processEvents()
            time.sleep(0.001)
            if time.perf_counter() - start > seconds:
                raise TimeoutError(title)
        took = time.perf_counter() - start
        print(f"  {title:<38} {in_call_ms:8.1f} ms in the call, frozen {self.longest_ms:7.1f} ms, done {took:6.2f} s")


def main() -> None:
    """Make the tiles, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where the tiles are made and kept (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "tiles"
        if not folder.is_dir():
            write_tiles(folder, options.tiles)
        os.environ["NAPARI_GLACIER_DATA_DIR"] = temporary
        os.environ["NAPARI_CONFIG"] = str(Path(temporary) / "napari.yaml")
        measure(folder, temporary)


def measure(folder: Path, settings: str) -> None:
    """What a person does with the widget."""
    import napari
    from qtpy.QtCore import QSettings

    from napari_glacier.controllers.session import Session
    from napari_glacier.views.data_view import DataView

    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, settings)
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.window._qt_window.resize(1366, 768)
    view = DataView(viewer)
    viewer.window.add_dock_widget(view, name="Data")
    watch = Watch()
    opened: list[Session] = []
    on_opened = view._on_opened
    view._on_opened = opened.append  # type: ignore[method-assign]
    watch.during("open (files' headers, in a thread)", lambda: view.open_later(folder), lambda: bool(opened))
    (session,) = opened

    def settled() -> bool:
        return bool(view.tiles.settled)

    watch.during("napari's layers and first picture", lambda: on_opened(session), settled)
    watch.during("nothing (what the machine does itself)", lambda: None, settled)
    watch.during("find 'text'", lambda: view.tiles.text.setText("1_04"), settled)
    watch.during("find nothing", lambda: view.tiles.text.setText(""), settled)
    watch.during("only tiles with lakes", lambda: view.tiles.holds.setCurrentIndex(4), settled)
    watch.during("all tiles again", lambda: view.tiles.holds.setCurrentIndex(0), settled)
    watch.during("sort by class mix", lambda: view.tiles.table.sortByColumn(2, _descending()), settled)
    watch.during("scroll to the end", view.tiles.table.scrollToBottom, settled)
    watch.during("a review state", lambda: session.set_review(session.tile_ids[7], "approved"), settled)
    watch.during("a stroke", lambda: _stroke(session), settled)
    watch.during("fly to a tile", lambda: view.fly_to(session.tile_ids[-1]), settled)
    watch.during("check every file", view.check.run, lambda: not view.check.running, 600)
    watch.during("check again (libraries are loaded)", view.check.run, lambda: not view.check.running, 600)
    watch.during("a finding's kind off and on", view.check._kinds["info"].toggle, settled)
    viewer.close()


def _descending() -> Any:
    from qtpy.QtCore import Qt

    return Qt.SortOrder.DescendingOrder


def _stroke(session: Any) -> None:
    session.mask[100:140, 100:140] = 2
    session.commit()


if __name__ == "__main__":
    main()
