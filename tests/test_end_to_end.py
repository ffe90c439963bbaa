"""The whole way round: sample, predict, accept, correct, save, approve, train, close napari meanwhile, reopen,
reattach, compare, promote, predict with the new champion.
"""

import numpy as np
import psutil
import pytest
from qtpy.QtCore import QSettings, QTimer
from qtpy.QtWidgets import QApplication, QMessageBox

from napari_glacier.controllers.session import Session
from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.core.raster import read_raster
from napari_glacier.nn.checkpoint import read_card

pytestmark = [pytest.mark.gui, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _own_settings(tmp_path):
    QSettings.setPath(QSettings.Format.IniFormat, QSettings.Scope.UserScope, str(tmp_path / "settings"))


@pytest.mark.timeout(600)
def test_from_the_sample_to_a_model_of_ones_own(make_napari_viewer, qtbot):
    viewer = make_napari_viewer()

    def dock(name):
        return viewer.window.add_plugin_dock_widget("napari-glacier", name)[1]

    # Open the sample, as File > Open Sample does.
    viewer.open_sample("napari-glacier", "region")
    workspace = workspace_of(viewer)
    session = workspace.session
    labels = workspace.labels_layer
    assert session.scheme.name == "glacier4"
    assert len(session.dataset.tiles) >= 4
    originals = {tile.id: read_raster(tile.mask_path)[0] for tile in session.dataset.tiles}

    # Predict the tile in the middle of the view with the bundled ensemble.
    predict = dock("Predict")
    place = session.scenes[0].placements[-1]
    workspace.fly_to(place.row, place.col, place.tile.height, place.tile.width)
    assert predict.model is not None
    assert predict.model.source is None
    predict.choose(scope="tile", tta="off", device="cpu")
    predict.run()
    qtbot.waitUntil(lambda: not predict.running, timeout=120_000)
    assert predict.notice.startswith("Predicted with"), predict.notice
    predicted = workspace.prediction_layer.data[place.slices].copy()
    assert len(np.unique(predicted)) > 1, "the bundled ensemble tells classes apart"

    # Accept it and correct it by hand.
    predict.accept()
    valid = session.valid[place.slices]
    assert np.array_equal(np.asarray(labels.data)[place.slices], np.where(valid, predicted, 0))
    correct = dock("Correct")
    correct.controller.select_class(3)
    correct.controller.set_brush(9)
    inside = valid.copy()
    inside[:10] = inside[-10:] = inside[:, :10] = inside[:, -10:] = False
    row, col = (int(axis[0]) for axis in np.nonzero(inside))
    with labels.block_history():
        labels.paint((place.row + row, place.col + col), 3)
    assert labels.data[place.row + row, place.col + col] == 3
    qtbot.waitUntil(correct._save_button.isEnabled)

    # Save: exactly the corrected tile's file changes.
    correct.save()
    assert "written" in correct.notice
    for tile in session.dataset.tiles:
        on_disk = read_raster(tile.mask_path)[0]
        if tile.id == place.tile.id:
            assert np.array_equal(on_disk, session.scheme.encode(np.asarray(labels.data)[place.slices]))
        else:
            assert np.array_equal(on_disk, originals[tile.id])
    kept = session.root / "labels_original" / place.tile.mask_path.relative_to(session.root)
    assert np.array_equal(read_raster(kept)[0], originals[place.tile.id])

    # The tile is right now, and approved.
    assert correct.controller.review.tile_id == place.tile.id
    correct.controller.review.approve()
    assert session.review(place.tile.id) == "approved"

    # Train a model of seconds in a process of its own, and close napari as soon as it is at work.
    train = dock("Train")
    qtbot.waitUntil(lambda: train.form.data.text() == str(session.root))
    train.fill(recipe="smoke", epochs=2, device="cpu")
    run = train.start()
    assert run is not None, train.notice
    qtbot.waitUntil(run.is_alive, timeout=120_000)
    # Held still until the second window is there: on a fast machine it would be done by then.
    trainer = psutil.Process(run._process()["pid"])
    trainer.suspend()
    viewer.layers.clear()
    assert session.closed
    viewer.close()
    del predict, correct, train, workspace, labels, session
    assert run.is_alive(), "training outlives the window"

    # Another window: the run is found again and followed to its end.
    viewer = make_napari_viewer()
    viewer.open_sample("napari-glacier", "region")
    workspace = workspace_of(viewer)
    session = workspace.session
    assert session.review(place.tile.id) == "approved"
    train = dock("Train")
    assert train.controller.run.path == run.path
    assert train.controller.active
    trainer.resume()
    qtbot.waitUntil(lambda: not train.controller.active, timeout=240_000)
    assert train.controller.state == "done", train.controller.log_tail()
    # The widget looks for news twice a second.
    qtbot.waitUntil(lambda: train.controller.curves.epochs == [1, 2])
    qtbot.waitUntil(train.run_panel.predict_button.isEnabled)
    assert read_card(run.best_path).scheme.name == "glacier4"

    # Compare it with the bundled ensemble on tiles that neither has learnt from.
    panel = train.compare_panel
    qtbot.waitUntil(lambda: panel._challenger.currentData().source == run.best_path)
    assert panel._champion.currentData().source is None
    panel._compare_button.click()
    qtbot.waitUntil(lambda: not panel.running, timeout=120_000)
    match = panel.controller.match
    assert match is not None, train.notice
    learnt = {tile.id for tile in session.dataset.split("train")}
    assert match.comparison.tiles
    assert not learnt & {tile.tile for tile in match.comparison.tiles}

    # A person promotes it, whatever the figures say.
    def agree():
        box = QApplication.activeModalWidget()
        assert isinstance(box, QMessageBox)
        next(button for button in box.buttons() if button.text().startswith("Promote")).click()

    QTimer.singleShot(200, agree)
    panel._promote_button.click()
    qtbot.waitUntil(lambda: not panel.running, timeout=60_000)
    champion = panel.controller.champion
    assert champion.entry is not None, train.notice
    assert champion.path.is_relative_to(session.root)

    # Predict offers the new champion first, and its map is another one than the bundled ensemble's.
    predict = dock("Predict")
    assert predict.model.source == champion.path
    assert predict.model.title.startswith("★")
    workspace.fly_to(place.row, place.col, place.tile.height, place.tile.width)
    predict.choose(scope="tile", tta="off", device="cpu")
    predict.run()
    qtbot.waitUntil(lambda: not predict.running, timeout=120_000)
    assert predict.notice.startswith("Predicted with"), predict.notice
    assert not np.array_equal(workspace.prediction_layer.data[place.slices], predicted)
    assert len(list((session.root / "predictions").glob("*/*.tif"))) == 2

    viewer.layers.clear()
    assert session.closed
    assert not Session._open
