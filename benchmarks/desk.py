"""How quickly the correction desk answers in a window: strokes, smart fill, scribbles, undo, and the longest stall.

    xvfb-run -a -s "-screen 0 1366x768x24" python benchmarks/desk.py [--rounds 15] [--json FILE] [--profile]

Makes a mosaic of 8192 x 8192 px with tiles in the middle and at the corners, opens it with the Correct widget, and
drives the canvas with mouse and keys. Milliseconds by the clock, from the event that asks to

`stroke_durable_ms`      a brush stroke being on the disk (from letting go of the button)
`smart_fill_ms`          a proposal being there; `smart_fill_first_ms` the first one of a view
`scribble_ms`            the same for a scribble over two classes; `scribble_first_ms` the first one of a view
`outline_ms`             an outline drawn anew by a zigzag over a third of the view being on the disk
`take_ms`, `undo_ms`     the labels having changed, on the disk and in the layer
`…_frame_ms`             the same until the canvas has drawn it, too (here without a graphics card)
`longest_stall_ms`       the longest time between two beats of a timer of 2 ms while all this is done, and while the
                         view is moved
`longest_stall_undrawn_ms`  the same without what Qt takes to draw the window: all of it by the processor, here
`napari_stall_…`         moving the view, strokes and undo in napari alone, with a picture and labels of this size
`machine_stall_ms`       the longest time that the machine itself stood still meanwhile: no program could run on a core

Medians, but for the stall. A machine that does other things as well stretches them: `load` tells. `…_cpu_ms` is what
the window's thread worked in the same time, whatever else the machine did.
"""

import argparse
import cProfile
import json
import os
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from napari_window import BLOCK, SIDE_PX, TILE_PX, Heart, Machine, Stall, Window

GOALS_MS = {
    "stroke_durable_ms": 20,
    "smart_fill_ms": 50,
    "scribble_ms": 200,
    "scribble_first_ms": 200,
    "outline_ms": 50,
    "undo_ms": 50,
    "longest_stall_ms": 50,
    "longest_stall_undrawn_ms": 50,
}


def main() -> None:
    """Parse, make the mosaic, drive the window, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--profile", action="store_true", help="print what took the time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NAPARI_GLACIER_DATA_DIR"] = folder
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "napari.yaml")
        root = write_mosaic(Path(folder) / "mosaic")
        figures = measure(root, options.rounds, options.profile)
    for name, value in figures.items():
        goal = f"   goal {GOALS_MS[name]}" if name in GOALS_MS else ""
        print(f"{name:<30}{value:>10.1f}{goal}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def write_mosaic(root: Path) -> Path:
    """Five bands and masks of smooth shapes with noise; small tiles at the corners stretch it to its size."""
    from scipy.ndimage import zoom

    from napari_glacier.core.classes import get_scheme
    from napari_glacier.core.raster import GeoRef, write_mask, write_raster

    rng = np.random.default_rng(0)
    scheme = get_scheme("glacier4")
    start = (SIDE_PX - BLOCK * TILE_PX) // 2
    places = [(start + row * TILE_PX, start + col * TILE_PX) for row in range(BLOCK) for col in range(BLOCK)]
    places += [(0, 0), (0, SIDE_PX - TILE_PX), (SIDE_PX - TILE_PX, 0), (SIDE_PX - TILE_PX, SIDE_PX - TILE_PX)]
    for number, (row, col) in enumerate(places):
        relief_HW = zoom(rng.random((9, 9)), TILE_PX / 9, order=3)[:TILE_PX, :TILE_PX]
        index_HW = np.clip(relief_HW * 4, 0, 3).astype(np.uint8)
        georef = GeoRef.from_epsg(32643, (30.0, 0.0, 500_000.0 + 30 * col, 0.0, -30.0, 3_800_000.0 - 30 * row))
        for k, band in enumerate(("B2", "B3", "B4", "B6", "B10")):
            noise_HW = rng.integers(0, 500, (TILE_PX, TILE_PX))
            plane_HW = 8_000 + 9_000.0 * index_HW * (1 - 0.1 * k) + noise_HW
            write_raster(root / f"Band{k + 1}" / f"{band}_{number:02d}.tif", plane_HW.astype(np.uint16), georef)
        write_mask(root / "label" / f"mask_{number:02d}.tif", index_HW, scheme, georef)
    # Or the first strokes wait until the disk has taken all of it.
    os.sync()
    return root


class Desk(Window):
    """A window with the mosaic and the Correct widget.

    Parameters
    ----------
    root : Path
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        super().__init__()

    def fill(self) -> Any:
        """Open the mosaic and the widget."""
        from npe2 import PluginManager, PluginManifest

        from napari_glacier.controllers.workspace import workspace_of

        manager = PluginManager.instance()
        manager.discover()
        if "napari-glacier" not in manager:
            manifest = Path(__file__).resolve().parents[1] / "napari_glacier" / "napari.yaml"
            manager.register(PluginManifest.from_file(manifest))
        self.viewer.open(str(self._root), plugin="napari-glacier")
        _, self.view = self.viewer.window.add_plugin_dock_widget("napari-glacier", "Correct")
        workspace = workspace_of(self.viewer)
        self.workspace = workspace
        self.mask, self.tools = workspace.session.mask, self.view.controller.tools
        # Hidden layers come in the window's spare time, and are a part of opening.
        number = -1
        while number != len(self.viewer.layers):
            number = len(self.viewer.layers)
            self.pump(1.0)
        return workspace.labels_layer

    def take_up(self, tool: str) -> None:
        """Take one of napari's own tools, as its button in the widget does."""
        self.view.controller.set_tool(tool)

    def choose(self, index: int) -> None:
        """Paint with a class from now on, as its button in the widget does."""
        self.view.controller.select_class(index)


class Stalls:
    """How long a window of napari stands still while the view is moved, and while strokes are drawn and undone.

    Parameters
    ----------
    window : Window
    rounds : int

    Attributes
    ----------
    stalls : dict of str to Stall
        The longest ones, for each thing that was done.
    """

    def __init__(self, window: Window, rounds: int) -> None:
        self.window, self.rounds = window, rounds
        self.stalls: dict[str, Stall] = {}
        self.heart = Heart()
        self._rng = np.random.default_rng(1)

    def views(self) -> None:
        """Nothing but moving the view."""
        window = self.window
        window.take_up("pan_zoom")
        window.pump(0.5)
        self.heart.rest()
        for _ in range(self.rounds):
            row, col = self._rng.uniform(0.4, 0.6, 2)
            window.drag((row, col), (row + 0.05, col + 0.05), (row, col))
            window.pump(0.05)
        self._end("view")
        window.look_at(SIDE_PX / 2, SIDE_PX / 2)

    def strokes(self) -> None:
        """Brush strokes, then Ctrl+Z for each."""
        window = self.window
        window.take_up("paint")
        window.layer.brush_size = 15
        window.pump(0.5)
        self.heart.rest()
        for k in range(self.rounds):
            window.choose(1 + k % 3)
            window.pump(0.03)
            row, col = self._rng.uniform(0.2, 0.8, 2)
            path = (row, col), (row + 0.1, col + 0.1)
            self._note("stroke_durable", lambda path=path: window.drag(*path))
        self._end("strokes")
        for _ in range(self.rounds):
            self._note("undo", lambda: window.key("Z", control=True))
        self._end("undo")

    def _note(self, name: str, ask: Callable[[], float]) -> None:
        ask()
        self.window.pump(0.05)

    def _end(self, name: str) -> None:
        self.stalls[name] = self.stalls.get(name, Stall()).or_longer(self.heart.rest())


class Measured(Stalls):
    """What is asked of a desk, and how long it took.

    Parameters
    ----------
    desk : Desk
    rounds : int
    profiler : cProfile.Profile or None
    """

    def __init__(self, desk: Desk, rounds: int, profiler: cProfile.Profile | None) -> None:
        super().__init__(desk, rounds)
        self.desk, self._profiler = desk, profiler
        self.spent: dict[str, list[float]] = {}
        self._num_recorded = 0
        desk.mask.recorded.append(self._count)
        self._journal = desk.workspace.session.journal.file

    def fills(self) -> None:
        """Smart fill at places of the view, every third one taken and taken back."""
        desk = self.desk
        desk.key("S")
        desk.pump(1.5)
        self.heart.rest()
        for k in range(self.rounds + 1):
            row, col = self._rng.uniform(0.15, 0.85, 2)
            name = "smart_fill" if k else "smart_fill_first"
            self._propose(name, lambda row=row, col=col: desk.click(row, col))
            if k % 3 == 2:
                self._note("take", lambda: desk.key("Return"))
                self._note("undo", lambda: desk.key("Z", control=True))
            else:
                desk.key("Escape")
        self._end("smart_fill")

    def scribbles(self) -> None:
        """Scribbles over two classes, in three views where nothing was done before."""
        desk = self.desk
        desk.key("D")
        for view in range(3):
            desk.look_at(SIDE_PX / 2 + 300 * (view - 1), SIDE_PX / 2 + 250 * (view - 1))
            desk.pump(1.5)
            self.heart.rest()
            for k in range(3):
                row = 0.2 + 0.2 * k
                desk.choose(1)
                desk.pump(0.03)
                desk.drag((row, 0.2), (row, 0.8))
                desk.pump(0.03)
                desk.choose(2)
                desk.pump(0.03)
                path = (row + 0.1, 0.2), (row + 0.1, 0.8)
                name = "scribble" if k else "scribble_first"
                self._propose(name, lambda path=path: desk.drag(*path))
            self._end("scribbles")
            desk.key("Escape")
            desk.pump(0.1)

    def outlines(self) -> None:
        """Outlines drawn anew, by lines that go to and fro over what is there, and taken back."""
        desk = self.desk
        desk.look_at(SIDE_PX / 2, SIDE_PX / 2)
        desk.tools.select("outline")
        desk.pump(1.5)
        self.heart.rest()
        for k in range(self.rounds):
            desk.choose(1 + k % 3)
            desk.pump(0.03)
            row, col = self._rng.uniform(0.2, 0.6, 2)
            path = [(row + 0.08 * (step % 2), col + 0.06 * step) for step in range(6)]
            before = self._num_recorded
            self._time(
                "outline",
                lambda path=path: desk.drag(*path),
                lambda before=before: self._num_recorded > before or "encloses nothing" in desk.view.notice,
            )
            if self._num_recorded > before:
                self._note("undo", lambda: desk.key("Z", control=True))
        self._end("outlines")

    def figures(self) -> dict[str, float]:
        """Medians, and the stalls."""
        found = {name: statistics.median(values) for name, values in sorted(self.spent.items())}
        longest = Stall()
        for stage, stall in self.stalls.items():
            found |= _named(f"stall_{stage}", stall)
            longest = longest.or_longer(stall)
        return found | _named("longest_stall", longest)

    def _note(self, name: str, ask: Callable[[], float]) -> None:
        before = self._num_recorded
        self._time(name, ask, lambda: self._num_recorded > before)

    def _propose(self, name: str, ask: Callable[[], float]) -> None:
        tools = self.desk.tools
        # What was proposed before stays on screen while the next is worked on.
        self._time(name, ask, lambda: tools.proposal is not None and not tools.busy)

    def _time(self, name: str, ask: Callable[[], float], done: Callable[[], bool]) -> None:
        if self._profiler is not None:
            self._profiler.enable()
        start, worked = ask(), self.desk.asked_cpu
        _until(done)
        # The window does not wait for the disk, so the time of this is no stall.
        on_disk = Thread(target=self._journal.wait_for_disk)
        on_disk.start()
        _until(lambda: not on_disk.is_alive())
        self.spent.setdefault(f"{name}_ms", []).append(1000 * (time.perf_counter() - start))
        self.spent.setdefault(f"{name}_cpu_ms", []).append(1000 * (time.thread_time() - worked))
        self.desk.canvas.update()
        self.desk.pump(0.0)
        self.spent.setdefault(f"{name}_frame_ms", []).append(1000 * (time.perf_counter() - start))
        if self._profiler is not None:
            self._profiler.disable()
        self.desk.pump(0.05)

    def _count(self, stroke_id: int) -> None:
        self._num_recorded += 1


def measure(root: Path, rounds: int, profile: bool) -> dict[str, float]:
    """Do everything `rounds` times, each at a place of its own."""
    Heart.listen()
    napari_alone = Stalls(Window(), rounds)
    for _ in range(2):
        # Of the second go: the first strokes of a bare window stall it for 0.2 s.
        napari_alone.stalls.clear()
        napari_alone.views()
        napari_alone.strokes()
    napari_alone.window.viewer.close()
    profiler = cProfile.Profile() if profile else None
    machine = Machine()
    measured = Measured(Desk(root), rounds, profiler)
    machine.rest()
    measured.views()
    measured.strokes()
    measured.fills()
    measured.scribbles()
    measured.outlines()
    stood_still = machine.rest()
    if profiler is not None:
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(70)
    measured.desk.viewer.close()
    figures = measured.figures()
    for stage, stall in napari_alone.stalls.items():
        figures |= _named(f"napari_stall_{stage}", stall)
    return figures | {"machine_stall_ms": stood_still, "load": os.getloadavg()[0]}


def _named(name: str, stall: Stall) -> dict[str, float]:
    return {f"{name}_ms": stall.clock, f"{name}_cpu_ms": stall.cpu, f"{name}_undrawn_ms": stall.undrawn}


def _until(done: Callable[[], bool]) -> None:
    from qtpy.QtWidgets import QApplication

    end = time.perf_counter() + 20
    while not done() and time.perf_counter() < end:
        QApplication.processEvents()


if __name__ == "__main__":
    main()
