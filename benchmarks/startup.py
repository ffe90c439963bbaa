"""What the plugin costs when napari starts, when a widget is opened, and when tiles are shown as a mosaic.

    sh scripts/with_display.sh --virtual python benchmarks/startup.py [--data DIR] [--rounds 3] [--quick] [--json FILE]

Each figure is taken in a fresh process with a napari window on screen, the best of the rounds; beside it stand the
processor time of that process over the same span and the load of the machine, which on a busy machine say more.
`--profile PART` (a widget, or mosaic) prints where its time goes. A copy of the tiles of `--data` is opened, else of
the real ones of NAPARI_GLACIER_REAL_DATA.
"""

import argparse
import compileall
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

WIDGETS = ("Start here", "Data", "Predict", "Correct", "Train", "Report")
# Five bands, two composites, the labels.
LAYERS = 8
IMPORT_LIMIT_MS, WIDGET_LIMIT_MS, MOSAIC_LIMIT_S = 150, 300, 1.5
_REAL = Path(os.environ.get("NAPARI_GLACIER_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def main() -> None:
    """Measure in processes of their own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=_REAL / "glacierhack" / "Train", help="tiles of one grid")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--profile", metavar="PART", help="where the time goes: a widget's name, or mosaic")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part or options.profile:
        with tempfile.TemporaryDirectory() as folder:
            _in_own_folders(Path(folder), options.part or options.profile, options.data, profile=options.part is None)
        return

    import napari_glacier

    # As an installer does.
    compileall.compile_dir(Path(napari_glacier.__file__).parent, quiet=1)
    rounds = 1 if options.quick else options.rounds
    figures: dict[str, Any] = {"widget_ms": {}}
    print(f"{'':28}{'best ms':>9}{'cpu ms':>9}{'limit':>8}   load")
    imports = _best("import", options.data, rounds)
    _line("import of the plugin", imports, IMPORT_LIMIT_MS)
    print(f"{'':28}torch is {'imported, too' if imports['torch'] else 'not imported'}")
    figures["import_ms"], figures["import_cpu_ms"] = imports["ms"], imports["cpu_ms"]
    for name in WIDGETS:
        found = _best(name, options.data, rounds)
        _line(f"widget {name}", found, WIDGET_LIMIT_MS)
        figures["widget_ms"][name] = found["ms"]
    if options.data.is_dir():
        mosaic = _best("mosaic", options.data, rounds)
        _line("mosaic to pixels", mosaic, 1000 * MOSAIC_LIMIT_S)
        print(f"{'':28}with its labels {mosaic['labels_ms']:.0f}, with every layer {mosaic['all_ms']:.0f}")
        figures["mosaic_to_pixels_s"] = mosaic["ms"] / 1000
        figures |= {f"mosaic_{what}_s": mosaic[f"{what}_ms"] / 1000 for what in ("labels", "all")}
    else:
        print(f"no tiles at {options.data}: opening a mosaic is not measured")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def _line(title: str, found: dict[str, Any], limit: float) -> None:
    print(f"{title:28}{found['ms']:9.0f}{found['cpu_ms']:9.0f}{limit:8.0f}   {found['load']:.1f}", flush=True)


def _best(part: str, data: Path, rounds: int) -> dict[str, Any]:
    # Without the folder of this file on the path, where a training.py lies.
    command = [sys.executable, "-P", __file__, "--part", part, "--data", str(data)]
    made = []
    for _ in range(rounds):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        made.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return min(made, key=lambda found: found["ms"])


def _in_own_folders(folder: Path, part: str, data: Path, *, profile: bool) -> None:
    """Open a window that knows nothing of whoever runs this, measure one thing in it, and print it as JSON."""
    os.environ["NAPARI_GLACIER_DATA_DIR"] = str(folder)
    os.environ["NAPARI_CONFIG"] = str(folder / "napari.yaml")
    import napari
    from qtpy.QtCore import QSettings

    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(folder))
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.window._qt_window.resize(1366, 768)
    _settle(1.5)
    print(json.dumps(_measure(viewer, part, data, folder, profile=profile)))
    viewer.close()


def _measure(viewer: Any, part: str, data: Path, folder: Path, *, profile: bool) -> dict[str, Any]:
    if part == "import":
        assert "napari_glacier" not in sys.modules
        found = _timed(_import)
        return found | {"torch": "torch" in sys.modules}
    if part == "mosaic":
        copy = folder / "tiles"
        shutil.copytree(data, copy, copy_function=shutil.copyfile)
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        return _profiled(lambda: _show(viewer, copy)) if profile else _timed(lambda: _show(viewer, copy))
    viewer.open_sample("napari-glacier", "region")
    _settle(3)
    return _profiled(lambda: _open(viewer, part)) if profile else _timed(lambda: _open(viewer, part))


def _timed(act: Callable[[], dict[str, float] | None]) -> dict[str, Any]:
    """Milliseconds of `act`, in place of which it may give finer ones."""
    cpu, start = time.process_time(), time.perf_counter()
    own = act()
    ms, cpu_ms = 1000 * (time.perf_counter() - start), 1000 * (time.process_time() - cpu)
    return {"ms": ms, "cpu_ms": cpu_ms, "load": os.getloadavg()[0]} | (own or {})


def _profiled(act: Callable[[], Any]) -> dict[str, Any]:
    import cProfile

    with cProfile.Profile() as profiler:
        act()
    profiler.print_stats("cumulative")
    return {}


def _import() -> None:
    import napari_glacier._reader
    import napari_glacier._sample_data
    import napari_glacier._widgets
    import napari_glacier._writer  # noqa: F401


def _open(viewer: Any, name: str) -> None:
    """Until the widget is painted; its tables may go on filling."""
    from qtpy.QtWidgets import QApplication

    _, widget = viewer.window.add_plugin_dock_widget("napari-glacier", name)
    QApplication.processEvents()
    widget.repaint()


def _show(viewer: Any, folder: Path) -> dict[str, float]:
    """Milliseconds until the canvas shows something in the middle, until the labels and until every layer is there."""
    from qtpy.QtWidgets import QApplication
    from vispy.gloo import read_pixels

    seen: list[float] = []
    start = time.perf_counter()

    def look(event: Any = None) -> None:
        if not seen:
            drawn_HW3 = read_pixels(alpha=False)
            rows, cols = drawn_HW3.shape[:2]
            if drawn_HW3[rows // 4 : -rows // 4, cols // 4 : -cols // 4].std() > 5:
                seen.append(time.perf_counter() - start)

    viewer.window._qt_viewer.canvas._scene_canvas.events.draw.connect(look, position="last")
    viewer.open(str(folder), plugin="napari-glacier")
    opened = time.perf_counter() - start
    while not seen or len(viewer.layers) < LAYERS:
        QApplication.processEvents()
    return {"ms": 1000 * seen[0], "labels_ms": 1000 * opened, "all_ms": 1000 * (time.perf_counter() - start)}


def _settle(seconds: float) -> None:
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    main()
