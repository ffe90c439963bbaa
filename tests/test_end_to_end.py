"""The whole way round in one window: sample, predict, accept, correct, save, train, predict again."""

import numpy as np
import pytest
from qtpy.QtCore import QSettings

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
    predicted = workspace.prediction_layer.data[place.slices]
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

    # Train a model of seconds in a process of its own.
    train = dock("Train")
    qtbot.waitUntil(lambda: train._data.text() == str(session.root))
    train.fill(recipe="smoke", epochs=2, device="cpu")
    run = train.start()
    assert run is not None, train.notice
    qtbot.waitUntil(lambda: not train.controller.active, timeout=240_000)
    assert train.controller.state == "done", train.controller.log_tail()
    # The widget looks for news twice a second.
    qtbot.waitUntil(lambda: train.controller.curves.epochs == [1, 2])
    qtbot.waitUntil(train._predict_button.isEnabled)
    assert run.history_path.is_file()
    assert read_card(run.best_path).scheme.name == "glacier4"

    # Hand its checkpoint to Predict and see its map.
    train._predict_button.click()
    assert predict.model.source == run.best_path
    before = workspace.prediction_layer.data.copy()
    predict.choose(scope="tile", tta=2, device="cpu")
    predict.run()
    qtbot.waitUntil(lambda: not predict.running, timeout=120_000)
    assert predict.notice.startswith("Predicted with"), predict.notice
    assert not np.array_equal(workspace.prediction_layer.data, before)
    assert len(list((session.root / "predictions").glob("*/*.tif"))) == 2

    viewer.layers.clear()
    assert session.closed
    assert not Session._open
