"""Make the pictures of the documentation: the window with each widget, in the dark and the light theme.

    xvfb-run -a -s "-screen 0 1366x768x24" python scripts/screenshots.py                     the sample region
    xvfb-run -a -s "-screen 0 1366x768x24" python scripts/screenshots.py --data DIR --out DIR

A dataset given with --data is copied first; nothing is written into it. Pictures of data that may not be
redistributed belong in another folder than docs/images.
"""

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

SIZE_PX = (1366, 768)
_HALF = 0.4
# A script that failed ends all the same.
_FAILED_S = 300
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Parse, prepare folders of one's own, take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="dataset to show; default the bundled region")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--model", type=Path, help="checkpoint to predict with; default the bundled ensemble")
    parser.add_argument("--epochs", type=int, default=6, help="length of the training run shown")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # Settings and the sample's copy of whoever runs this stay as they are.
        os.environ["NAPARI_GLACIER_DATA_DIR"] = folder
        os.environ["NAPARI_CONFIG"] = str(Path(folder) / "napari.yaml")
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        data = _copied(options.data, Path(folder)) if options.data else None
        take_pictures(data, options.out, options.model, options.epochs)


def _copied(source: Path, folder: Path) -> Path:
    target = folder / source.resolve().name
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target


def take_pictures(data: Path | None, out: Path, model: Path | None, epochs: int) -> None:
    """Walk through the widgets with something in each, and save what the window shows."""
    import napari
    from napari.settings import get_settings
    from qtpy.QtCore import QSettings

    from napari_glacier.controllers.workspace import workspace_of

    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, os.environ["NAPARI_GLACIER_DATA_DIR"])
    get_settings().appearance.theme = "dark"
    viewer = napari.Viewer(show=True, show_welcome_screen=False)
    viewer.window._qt_window.resize(*SIZE_PX)
    _wait(1)
    shot = Camera(viewer, out)

    # Empty states first: what a person sees before anything is open.
    for name in ("Data", "Predict", "Correct", "Train", "Report"):
        with shot.docked(name):
            shot.take(f"empty_{name.lower()}")
    if data is None:
        _first_steps(shot, viewer)

    if data is None:
        viewer.open_sample("napari-glacier", "region")
    else:
        viewer.open(str(data), plugin="napari-glacier")
    workspace = workspace_of(viewer)
    with shot.docked("Data") as view:
        view.fly_to(view.tiles.model.rows[0].tile_id)
        viewer.reset_view()
        _until(lambda: view.tiles.settled)
        _wait(0.6)
        shot.take("data")
        view._facts.setCurrentWidget(view.check)
        view.check.run()
        _until(lambda: not view.check.running)
        if view.check.model.rows:
            view.check.table.selectRow(0)
        shot.take("data_check")

    _predict(shot, workspace, model)
    _report(shot, workspace)
    _correct(shot, workspace)
    _train(shot, epochs)
    viewer.close()


def _first_steps(shot: "Camera", viewer: Any) -> None:
    """The walk of Start here: before it, and in front of Predict."""
    from napari_glacier.controllers.workspace import workspace_of

    with shot.docked("Start here") as start:
        shot.take("start")
        start.go()
        _wait(1)
        predict = start.go()
        _wait(1)
        shot.take("start_predict")
        workspace_of(viewer).close_session()
        viewer.window.remove_dock_widget(predict.parent())
    _wait(0.5)


def _predict(shot: "Camera", workspace: Any, model: Path | None) -> None:
    with shot.docked("Predict") as view:
        if model is not None:
            view.use_model(model)
        view.choose(scope="all", device="cpu", keep_probabilities=True)
        workspace.labels_layer.visible = False
        half = Halfway(view.controller)
        view.run()
        _until(lambda: half.reached(view))
        shot.take("predict_running")
        half.go_on()
        _until(lambda: not view.running)
        shot.take("predict")
        shot.take_uncertainty(workspace)
        _ask_members(shot, workspace, view)
        workspace.labels_layer.visible = True
        workspace.prediction_layer.visible = False


def _report(shot: "Camera", workspace: Any) -> None:
    """Areas of the prediction, calibrated on the labelled tiles that its model has not learnt from."""
    with shot.docked("Report") as view:
        view.choose(maps=next((workspace.session.root / "predictions").iterdir()), truth="Tiles of val")
        view.run()
        _until(lambda: not view.running)
        shot.take("report")


def _ask_members(shot: "Camera", workspace: Any, view: Any) -> None:
    """Ask about the pixel of which the ensemble is least sure."""
    import numpy as np

    entropy_HW = workspace.uncertainty_layer.data
    row, col = np.unravel_index(np.nanargmax(entropy_HW), entropy_HW.shape)
    panel = view.votes_panel
    panel.button.click()
    panel.ask(workspace.prediction_layer.data_to_world((row, col)))
    _until(lambda: panel._answer.isVisibleTo(panel))
    shot.take("predict_votes")
    panel.button.click()


def _correct(shot: "Camera", workspace: Any) -> None:
    with shot.docked("Correct") as view:
        place = workspace.session.scenes[0].placements[-1]
        workspace.fly_to(place.row, place.col, place.tile.height, place.tile.width)
        view.controller.select_class(min(3, workspace.session.scheme.num_classes - 1))
        view.controller.lock(0, True)
        layer = workspace.labels_layer
        with layer.block_history():
            for step in range(0, 40, 4):
                layer.paint((place.row + 60 + step, place.col + 80 + step), layer.selected_label)
        _wait(0.6)
        shot.take("correct")
        view.controller.lock(0, False)
        _smart_fill(shot, workspace, view)
        _outline(shot, workspace, view)
        _compare_by_eye(shot, workspace, view)
        _look_back(shot, view)
        _learn(shot, workspace, view)
        view.save()
        workspace.viewer.reset_view()


def _look_back(shot: "Camera", view: Any) -> None:
    """The history of what was drawn, one stroke of it taken out."""
    dialog = view.show_history()
    _until(lambda: dialog._worker is None)
    dialog._table.selectRow(0)
    dialog.revert_stroke()
    _until(lambda: dialog._worker is None)
    shot.take_of(dialog, "history")
    dialog.close()


def _learn(shot: "Camera", workspace: Any, view: Any) -> None:
    """Two tiles are approved, and a copy of the model learns from them."""
    from qtpy.QtWidgets import QScrollArea

    review = view.controller.review
    workspace.viewer.reset_view()
    for _ in range(2):
        review.next()
        review.set_state("approved", "as on the image of 2019")
    view._adapt_panel.learn()
    _until(lambda: view.controller.adapting.state != "working", seconds=300)
    _wait(0.6)
    area = view.findChild(QScrollArea)
    area.ensureWidgetVisible(view._adapt_panel._keep, 0, 20)
    _wait(0.3)
    area.verticalScrollBar().setValue(area.verticalScrollBar().maximum())
    workspace.labels_layer.visible = False
    shot.take("learnt")
    workspace.labels_layer.visible = True
    view._adapt_panel.drop()


def _smart_fill(shot: "Camera", workspace: Any, view: Any) -> None:
    """What smart fill proposes in the region with most at stake."""
    window = view.controller.attention.next().window
    _wait(0.6)
    tools = view.controller.tools
    tools.select("smart fill")
    view.controller.select_class(1)
    valid = workspace.session.valid[window.slices]
    row, col = (int(k) for k in np.argwhere(valid)[np.count_nonzero(valid) // 2])
    tools.click(window.row + row, window.col + col)
    shot.take("correct_smart")
    tools.select("")


def _outline(shot: "Camera", workspace: Any, view: Any) -> None:
    """A line that a hand draws where debris should end, smoother than the outline it has."""
    from skimage.filters import gaussian
    from skimage.measure import find_contours

    tools, window = view.controller.tools, workspace.visible_window()
    tools.select("outline")
    view.controller.select_class(2)
    smooth_HW = gaussian(np.asarray(workspace.session.mask[window.slices]) == 2, 4)
    outline = np.add(max(find_contours(smooth_HW, 0.5), key=len), (window.row, window.col))
    line = [tuple(point) for point in outline[len(outline) // 2 :]]
    for step in range(2, len(line) + 1):
        tools.trace(line[:step])
    shot.take("correct_outline")
    tools.end_trace()
    tools.draw_line(line)
    tools.select("")


def _compare_by_eye(shot: "Camera", workspace: Any, view: Any) -> None:
    """The divider between prediction and labels; then what a second reviewer's masks say otherwise."""
    from napari_glacier.core.raster import write_mask

    session, controller = workspace.session, view.controller
    controller.seeing.toggle("swipe")
    _wait(0.3)
    view.scroll_to(view._seeing_box)
    shot.take("swipe")
    controller.seeing.end()
    with tempfile.TemporaryDirectory() as folder:
        theirs_HW = np.asarray(workspace.prediction_layer.data)
        for place in session.scenes[0].placements:
            path = Path(folder) / "second reviewer" / f"{place.tile.id}.tif"
            write_mask(path, theirs_HW[place.slices], session.scheme, place.tile.georef)
        controller.disagreement.choose_folder(Path(folder) / "second reviewer")
        controller.walk.next()
        _wait(0.6)
        shot.take("second_opinion")
        controller.disagreement.stop()
    view._scroll.verticalScrollBar().setValue(0)


def _train(shot: "Camera", epochs: int) -> None:
    """What a run will do and want, a run under way, and two runs with their curves over each other."""
    from qtpy.QtWidgets import QScrollArea

    with shot.docked("Train") as view:
        view.fill(recipe="smoke", epochs=epochs, device="cpu")
        _until(lambda: not view.form.split.busy)
        shot.take("train_start")
        _settings(shot, view)
        first = _trained(view, lambda: _run_under_way(shot, view))
        view.form.start_from.setCurrentText("Bundled ensemble")
        _trained(view)
        view.run_panel.lay_over(first)
        view.run_panel.log_toggle.setChecked(True)
        _wait(0.3)
        view.findChild(QScrollArea).verticalScrollBar().setValue(view.run_panel.parentWidget().y())
        shot.take("train")
        view.run_panel.log_toggle.setChecked(False)
        _compare(shot, view)


def _run_under_way(shot: "Camera", view: Any) -> None:
    from qtpy.QtWidgets import QScrollArea

    bar = view.findChild(QScrollArea).verticalScrollBar()
    bar.setValue(view.run_panel.parentWidget().y())
    shot.take("train_running")
    bar.setValue(0)


def _settings(shot: "Camera", view: Any) -> None:
    """The folded part of the form, with two settings changed; afterwards as before."""
    from qtpy.QtWidgets import QScrollArea

    panel, area = view.form.settings, view.findChild(QScrollArea)
    panel.header.click()
    panel.rows["loss.terms"].editor.setText("{focal: 0.5, dice: 0.3, boundary: 0.2}")
    panel.rows["loss.focal_gamma"].editor.setValue(3.0)
    _until(lambda: not view.form.split.busy)
    _wait(0.3)
    area.verticalScrollBar().setValue(panel.mapTo(area.widget(), panel.rect().topLeft()).y() - 60)
    panel._list.verticalScrollBar().setValue(panel.rows["loss.terms"].y() - 40)
    shot.take("train_settings")
    panel.reset_all.click()
    panel.header.click()
    area.verticalScrollBar().setValue(0)
    _until(lambda: not view.form.split.busy)


def _trained(view: Any, under_way: Callable[[], None] | None = None) -> Any:
    """Train as the form says; gives the run."""
    view.start()
    _until(lambda: len(view.controller.curves.epochs) >= 2 or not view.controller.active, seconds=300)
    if under_way is not None:
        under_way()
    _until(lambda: not view.controller.active, seconds=600)
    if view.controller.state != "done":
        raise RuntimeError(f"the training run shown did not finish:\n{view.controller.log_tail()}")
    return view.controller.run


def _compare(shot: "Camera", view: Any) -> None:
    """The new model against the bundled one, and the shelf."""
    from qtpy.QtWidgets import QScrollArea

    panel = view.compare_panel
    panel.compare()
    _until(lambda: not panel.running, seconds=300)
    if panel.controller.match is None:
        raise RuntimeError(f"the models were not compared: {view.notice}")
    _wait(1)
    view.findChild(QScrollArea).ensureWidgetVisible(panel)
    _wait(0.3)
    view.findChild(QScrollArea).ensureWidgetVisible(panel._back_button.parentWidget(), 0, 60)
    shot.take("compare")
    shelf = view.show_models()
    shot.take_of(shelf, "shelf")
    shelf.close()


class Halfway:
    """Has the next prediction wait when about half of it is done, so that a picture of it can be taken."""

    def __init__(self, controller: Any) -> None:
        self._make = controller.job
        self._waits, self._gone_on = threading.Event(), threading.Event()
        controller.job = self._job

    def reached(self, view: Any) -> bool:
        """Whether it waits, and the window has been told of all until there."""
        return self._waits.is_set() and view._last_step is not None and _done(view._last_step) >= _HALF

    def go_on(self) -> None:
        """Let it go on to its end."""
        self._gone_on.set()

    def _job(self, request: Any) -> Generator[Any, None, Any]:
        job = self._make(request)
        while True:
            try:
                step = next(job)
            except StopIteration as end:
                return end.value
            yield step
            if _HALF <= _done(step) < 1:
                self._waits.set()
                self._gone_on.wait(_FAILED_S)


def _done(step: Any) -> float:
    return step.done / step.total if step.total else 0.0


class Camera:
    """Takes pictures of the window in both themes."""

    def __init__(self, viewer: Any, out: Path) -> None:
        self._viewer = viewer
        self._out = out

    def docked(self, name: str) -> "_Docked":
        """One widget of the plugin, docked while the pictures are taken."""
        return _Docked(self._viewer, name)

    def take(self, name: str) -> None:
        """Save what the napari window shows, once for each theme."""
        self.take_of(self._viewer.window._qt_window, name)

    def take_of(self, widget: Any, name: str) -> None:
        """Save what a window shows, once for each theme."""
        for theme in ("dark", "light"):
            self._viewer.theme = theme
            _wait(0.8)
            path = self._out / f"{name}_{theme}.png"
            widget.grab().save(str(path))
            print(path)
        self._viewer.theme = "dark"

    def take_uncertainty(self, workspace: Any) -> None:
        """The uncertainty layer by itself."""
        workspace.prediction_layer.visible = False
        workspace.uncertainty_layer.visible = True
        self.take("uncertainty")
        workspace.uncertainty_layer.visible = False
        workspace.prediction_layer.visible = True


class _Docked:
    def __init__(self, viewer: Any, name: str) -> None:
        self._viewer, self._name = viewer, name

    def __enter__(self) -> Any:
        self._dock, view = self._viewer.window.add_plugin_dock_widget("napari-glacier", self._name)
        _wait(0.6)
        return view

    def __exit__(self, *exception: object) -> None:
        self._viewer.window.remove_dock_widget(self._dock)
        _wait(0.3)


def _wait(seconds: float) -> None:
    _until(lambda: False, seconds, strict=False)


def _until(done: Callable[[], bool], seconds: float = 180, strict: bool = True) -> None:
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        if done():
            return
        time.sleep(0.01)
    if strict:
        raise TimeoutError("the window did not come so far in time")


if __name__ == "__main__":
    main()
