"""The demo: the bundled synthetic region with its prediction, ready to correct, or a walk through the whole job.

Two tiles of the region come without their masks, as if nobody had mapped them yet: the prediction is accepted
there, corrected, saved and learned from. Their true masks serve to say how good each step was.
"""

import html
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_glacier.controllers.exchange import UNMAPPED_TILES, sample_copy
from napari_glacier.core.classes import get_scheme
from napari_glacier.core.errors import GlacierError
from napari_glacier.core.evaluation import evaluate_folders
from napari_glacier.core.raster import read_raster

logger = logging.getLogger(__name__)

WINDOW_SIZE = (1366, 768)
# Of a slow machine that converts three networks for the first time; a walk that hangs ends all the same.
_PATIENCE_S = 1800.0


def open_demo(out: Path) -> int:
    """Open the sample region in napari, predict it with the bundled ensemble, and leave the window to a person."""
    import napari

    data, _ = prepare(out)
    viewer = _open_window(data)
    predict = _dock(viewer, "Predict")
    _dock(viewer, "Correct")
    predict.choose(scope="all", tta="off")
    predict.run()
    print(f"The region is a copy in {data}: paint, save and train as you like.")
    napari.run()
    return 0


def walk_demo(out: Path) -> int:
    """Open, predict, correct, save, retrain and predict again, with pictures, masks and a summary in `out`."""
    from qtpy.QtCore import QSettings

    walk = _Walk(out, *prepare(out))
    # What the walk chooses is not what a person chose last.
    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(walk.out.absolute() / "settings"))
    try:
        walk.open()
        walk.predict()
        walk.correct()
        walk.save()
        walk.retrain()
        walk.predict_again()
    finally:
        walk.close()
    summary = walk.write_summary()
    print(f"The whole job took {walk.seconds:.0f} s. Summary: {summary}")
    return 0


def prepare(out: Path) -> tuple[Path, Path]:
    """Make a fresh copy of the region under `out` without the masks of `UNMAPPED_TILES`.

    An earlier copy (with what a person did in it) is kept aside under another name.

    Returns
    -------
    data, truth : Path
        The dataset's folder, and a folder with the masks that were left out.
    """
    out = Path(out).absolute()
    data = sample_copy(out, fresh=True, without_masks=UNMAPPED_TILES)
    truth = out / "truth_of_unmapped_tiles"
    truth.mkdir(exist_ok=True)
    with resources.as_file(resources.files("napari_glacier._sample") / "region") as region:
        for tile in UNMAPPED_TILES:
            shutil.copyfile(region / "train_masks" / f"mask_{tile}.tif", truth / f"mask_{tile}.tif")
    return data, truth


@dataclass
class _Step:
    """A line of the summary: what was done, how long it took, and a picture of it."""

    title: str
    text: str
    picture: str
    seconds: float


@dataclass
class _Walk:
    """The whole job, done by calling the widgets as a person would."""

    out: Path
    data: Path
    truth: Path
    steps: list[_Step] = field(default_factory=list)
    scores: list[tuple[str, dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    seconds: float = 0.0

    def open(self) -> None:
        """Open the region as one mosaic."""
        started = time.monotonic()
        self.out = Path(self.out).absolute()
        self.viewer = _open_window(self.data)
        self.data_view = _dock(self.viewer, "Data")
        self._note(
            "Open",
            "A folder of 13 tiles with five bands each opens as one mosaic in metres, with natural colours, an "
            "editable Labels layer, and the doctor's findings. Two tiles have no mask yet.",
            "1_open.png",
            started,
        )

    def predict(self) -> None:
        """Predict everything with the bundled ensemble."""
        started = time.monotonic()
        self.data_view.parent().hide()
        self.predict_view = _dock(self.viewer, "Predict")
        self.predict_view.choose(scope="all", tta=6)
        self._run_prediction()
        self._score("bundled ensemble")
        self._note(
            "Predict",
            "The bundled ensemble of three small networks, with six views, lays its class mask over the scene. "
            f"{_said(self.predict_view)}",
            "2_predict.png",
            started,
        )

    def correct(self) -> None:
        """Accept the prediction where nothing is mapped, and paint over its largest mistakes."""
        started = time.monotonic()
        accepted = self.predict_view.controller.accept("unlabelled")
        self.predict_view.parent().hide()
        self.correct_view = _dock(self.viewer, "Correct")
        workspace = self.predict_view.workspace
        layer = workspace.labels_layer
        layer.brush_size = 5
        strokes = 0
        for tile in UNMAPPED_TILES:
            _, place = workspace.session.find(tile)
            truth_HW = get_scheme("glacier4").decode(read_raster(self.truth / f"mask_{tile}.tif")[0])
            for row, col, index in _mistakes(np.asarray(layer.data)[place.slices], truth_HW, most=60):
                # The very call that napari makes for a brush under the mouse, and what it does on letting go.
                with layer.block_history():
                    layer.paint((row + place.row, col + place.col), index)
                strokes += 1
        layer.events.paint(value=[])
        workspace.fly_to(place.row, place.col, place.tile.height, place.tile.width)
        _settle(0.5)
        self._note(
            "Correct",
            f"The prediction was accepted in the two unmapped tiles ({accepted:,} pixels), and {strokes} dabs of a "
            "brush mended its largest mistakes. Every stroke is in the journal as soon as it is drawn.",
            "3_correct.png",
            started,
        )

    def save(self) -> None:
        """Write the corrected masks into the tiles' own files."""
        started = time.monotonic()
        self.correct_view.save()
        _settle(0.3)
        self._score_labels()
        self._note("Save", f"{_said(self.correct_view)}", "4_save.png", started)

    def retrain(self) -> None:
        """Fine-tune a member on the corrected dataset, in a process of its own."""
        from napari_glacier.nn.checkpoint import read_card

        started = time.monotonic()
        self.correct_view.parent().hide()
        self.train_view = _dock(self.viewer, "Train")
        self.train_view.fill(recipe="quick")
        run = self.train_view.start()
        if run is None:
            raise GlacierError(f"Training did not start: {self.train_view.notice}")
        controller = self.train_view.controller
        _wait_until(lambda: controller.poll() is not None and not controller.active, "training")
        controller.poll()
        if controller.state != "done":
            raise GlacierError(f"Training ended as {controller.state}. Its log: {run.log_path}")
        _settle(0.5)
        self.run = run
        before = read_card(Path(str(resources.files("napari_glacier._sample") / "ensemble" / "member_0.safetensors")))
        self._note(
            "Retrain",
            "The trainer ran as a process of its own with the recipe <i>quick</i>, starting from the first member of "
            f"the ensemble (validation MCC {before.metrics['val_mcc']:.3f}). {html.escape(controller.status)}",
            "5_train.png",
            started,
        )

    def predict_again(self) -> None:
        """Predict with the new model."""
        started = time.monotonic()
        self.train_view.parent().hide()
        self.predict_view = _dock(self.viewer, "Predict")
        self.predict_view.use_model(self.run.best_path)
        self.predict_view.choose(scope="all", tta=6)
        self.viewer.reset_view()
        self._run_prediction()
        self._score("retrained model")
        self._note("Predict again", _said(self.predict_view), "6_predict_again.png", started)

    def close(self) -> None:
        """Close the window and let the dataset go."""
        from napari_glacier.controllers.workspace import workspace_of

        workspace_of(self.viewer).close_session()
        self.viewer.close()
        _settle(0.1)

    def write_summary(self) -> Path:
        """Write the one-page summary and give its path."""
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td>{_score_cells(val)}{_score_cells(unmapped)}</tr>"
            for name, val, unmapped in self.scores
        )
        figures = "".join(
            f"<figure><img src='{step.picture}' alt=''><figcaption><b>{step.title}</b> ({step.seconds:.0f} s). "
            f"{step.text}</figcaption></figure>"
            for step in self.steps
        )
        page = _PAGE.format(rows=rows, figures=figures, seconds=self.seconds, tiles=" and ".join(UNMAPPED_TILES))
        path = self.out / "summary.html"
        path.write_text(page, encoding="utf-8")
        return path

    def _run_prediction(self) -> None:
        self.predict_view.run()
        _wait_until(lambda: not self.predict_view.running, "the prediction")
        if not self.predict_view.controller.has_prediction:
            raise GlacierError(f"The prediction failed: {self.predict_view.notice}")
        _settle(0.5)

    def _score(self, name: str) -> None:
        """Compare the prediction just written with the truth of the val block and of the unmapped tiles."""
        folder = max((self.data / "predictions").iterdir(), key=lambda path: path.stat().st_mtime)
        target = self.out / "masks" / name.replace(" ", "_")
        val = [tile.name for tile in self._dataset().split("val")]
        unmapped = [self._dataset().tile(tile).name for tile in UNMAPPED_TILES]
        for kind, names in (("val", val), ("unmapped", unmapped)):
            for mask in names:
                found = next(folder.rglob(mask))
                (target / kind).mkdir(parents=True, exist_ok=True)
                (target / kind / mask).write_bytes(found.read_bytes())
        self.scores.append((name, *self._against_truth(target / "val", target / "unmapped")))

    def _score_labels(self) -> None:
        target = self.out / "masks" / "corrected_labels"
        target.mkdir(parents=True, exist_ok=True)
        for tile in UNMAPPED_TILES:
            path = self._dataset().tile(tile).new_mask_path
            (target / path.name).write_bytes(path.read_bytes())
        self.scores.append(("corrected labels", *self._against_truth(None, target)))

    def _against_truth(self, val: Path | None, unmapped: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        of_val = evaluate_folders(val, self.data / "val_masks", scheme="glacier4")["all_pixels"] if val else {}
        return of_val, evaluate_folders(unmapped, self.truth, scheme="glacier4")["all_pixels"]

    def _dataset(self) -> Any:
        from napari_glacier.core.data.dataset import open_dataset

        return open_dataset(self.data)

    def _note(self, title: str, text: str, picture: str, started: float) -> None:
        _settle(0.3)
        self.viewer.screenshot(str(self.out / picture), canvas_only=False, flash=False)
        seconds = time.monotonic() - started
        self.seconds += seconds
        self.steps.append(_Step(title, text, picture, seconds))
        print(f"{title}: {seconds:.0f} s", flush=True)


def _open_window(data: Path) -> Any:
    import napari

    viewer = napari.Viewer(title="napari-glacier: synthetic sample region")
    viewer.window.resize(*WINDOW_SIZE)
    viewer.open(str(data), plugin="napari-glacier")
    viewer.layers.selection.active = viewer.layers["Labels"]
    viewer.reset_view()
    return viewer


def _dock(viewer: Any, name: str) -> Any:
    _, widget = viewer.window.add_plugin_dock_widget("napari-glacier", name)
    widget.parent().show()
    _settle(0.3)
    # The dock took some of the canvas.
    viewer.reset_view()
    return widget


def _mistakes(
    labels_HW: npt.NDArray[np.uint8], truth_HW: npt.NDArray[np.uint8], most: int
) -> list[tuple[int, int, int]]:
    """Centres of what is wrong, widest first: (row, col, right class) where a small brush hits mistakes alone."""
    from scipy.ndimage import distance_transform_cdt

    found = []
    wrong_HW = labels_HW != truth_HW
    for _ in range(most):
        depth_HW = np.zeros(labels_HW.shape, np.int32)
        for index in range(4):
            here_HW = wrong_HW & (truth_HW == index)
            depth_HW = np.maximum(depth_HW, distance_transform_cdt(np.pad(here_HW, 1))[1:-1, 1:-1])
        row, col = np.unravel_index(depth_HW.argmax(), depth_HW.shape)
        if depth_HW[row, col] < 3:
            break
        found.append((int(row), int(col), int(truth_HW[row, col])))
        wrong_HW[max(row - 2, 0) : row + 3, max(col - 2, 0) : col + 3] = False
    return found


def _wait_until(done: Callable[[], bool], what: str) -> None:
    """Let the window live until something is done."""
    deadline = time.monotonic() + _PATIENCE_S
    while not done():
        if time.monotonic() > deadline:
            raise GlacierError(
                f"Waited {_PATIENCE_S / 60:.0f} min for {what} in vain. Run it again while the machine has less to do: "
                "networks that were converted are kept."
            )
        _settle(0.1)


def _settle(seconds: float) -> None:
    """Process the window's events for a while."""
    from qtpy.QtWidgets import QApplication

    deadline = time.monotonic() + seconds
    while True:
        QApplication.processEvents()
        if time.monotonic() >= deadline:
            return
        time.sleep(0.02)


def _said(view: Any) -> str:
    return html.escape(view.notice)


def _score_cells(metrics: dict[str, Any]) -> str:
    return "".join(f"<td>{metrics[key]:.3f}</td>" if metrics else "<td>–</td>" for key in ("mcc", "iou"))


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>napari-glacier demo</title>
<style>
 body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #20262e; }}
 figure {{ margin: 1.6em 0; }} img {{ width: 100%; border: 1px solid #c5ccd6; }}
 table {{ border-collapse: collapse; }} td, th {{ padding: .25em .9em; border-bottom: 1px solid #dde2e9; }}
 td {{ text-align: right; }} td:first-child {{ text-align: left; }}
</style>
<h1>napari-glacier: the whole job on the sample region</h1>
<p><b>The region and everything the models learned are synthetic.</b> The figures say that the loop works, not how
well a real glacier is mapped. All six steps together took {seconds:.0f} s.</p>
<table>
<tr><th></th><th colspan="2">val block</th><th colspan="2">unmapped tiles {tiles}</th></tr>
<tr><th></th><th>MCC</th><th>mean IoU</th><th>MCC</th><th>mean IoU</th></tr>
{rows}
</table>
<p>The retrained model is one network, the bundled ensemble three. It learned from the corrected tiles, so its score
there is no test; the val block was never trained on, but the best epoch is chosen on it. Masks are GeoTIFFs in
<code>masks/</code>; the dataset with its journal, predictions and run folder is in <code>glacier-sample/</code>.</p>
{figures}
</html>
"""
