"""The Data widget's list, map and check, and the Report widget, in a real napari window."""

import gc
import time

import numpy as np
import pyogrio
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QFileDialog

from napari_glacier.controllers.session import Session
from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.core.raster import write_mask, write_raster
from napari_glacier.views.background import Background

pytestmark = pytest.mark.gui


def _dock(viewer, name):
    return viewer.window.add_plugin_dock_widget("napari-glacier", name)


def _settled(view):
    return view.tiles.settled


@pytest.fixture
def data(viewer, qtbot, make_dataset):
    _, view = _dock(viewer, "Data")
    view.open(make_dataset(splits=("train", "val")))
    qtbot.waitUntil(lambda: _settled(view))
    return view


def _shown(view):
    return [row.tile_id for row in view.tiles.model.rows]


def test_the_list_is_searched_filtered_and_sorted(data, qtbot):
    session = data.workspace.session
    assert _shown(data) == list(session.tile_ids)
    assert all(row.shares for row in data.tiles.model.rows), "every tile was counted"
    data.tiles.text.setText("val")
    assert len(_shown(data)) == 4
    assert data.tiles.count.text().startswith("4 of 8 tiles")
    data.tiles.text.clear()

    session.set_review(session.tile_ids[6], "approved")
    data.tiles.state.setCurrentText("approved")
    qtbot.waitUntil(lambda: _shown(data) == [session.tile_ids[6]])
    data.tiles.state.setCurrentIndex(0)
    assert "approved 1" in data.tiles.states.text()

    data.tiles.holds.setCurrentText("No labels")
    assert _shown(data) == []
    assert data.tiles.count.text() == "0 of 8 tiles. Change what is asked for above."
    data.tiles.holds.setCurrentText("With lake")
    data.tiles.table.sortByColumn(2, Qt.SortOrder.DescendingOrder)
    shares = [row.shares[3] for row in data.tiles.model.rows]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0


def test_tiles_in_sight_get_pictures(data, qtbot):
    first = data.tiles.model.rows[0].tile_id
    assert first not in data.tiles.model._pictures, "nothing was looked at yet"
    data.tiles.table.grab()
    qtbot.waitUntil(lambda: first in data.tiles.model._pictures)
    image = data.tiles.model._pictures[first].pixmap(28, 28).toImage()
    assert image.pixelColor(1, 1).alpha() == 0, "nodata is nothing"
    assert image.pixelColor(20, 20).alpha() == 255


def test_strokes_show_in_the_list_and_in_the_class_mix(data, qtbot):
    session = data.workspace.session
    before = data.tiles.model.rows[1].shares
    place = session.find(session.tile_ids[1])[1]
    session.mask[place.row : place.row + 40, place.col : place.col + 40] = 2
    session.commit()
    qtbot.waitUntil(lambda: _settled(data) and data.tiles.model.rows[1].shares != before)
    assert data.tiles.model.rows[1].unsaved == 1
    assert data.tiles.model.rows[1].shares[2] >= 1600 / 4096


def test_a_click_on_the_map_flies_to_the_tile(data, qtbot):
    session = data.workspace.session
    data.resize(340, 640)
    for tile_id in (session.tile_ids[0], session.tile_ids[-1]):
        middle = data.tiles.map.box_of(tile_id).center()
        qtbot.mouseClick(data.tiles.map, Qt.MouseButton.LeftButton, pos=QPoint(int(middle.x()), int(middle.y())))
        assert data.workspace.tile_under_view().tile.id == tile_id
        assert data.tiles.model.rows[data.tiles.table.currentIndex().row()].tile_id == tile_id


def test_arrow_keys_go_from_tile_to_tile_on_the_map(data, qtbot):
    workspace, tiles = data.workspace, data.tiles
    # The map alone holds the keys: the list is a way of its own.
    qtbot.keyClick(tiles.map, Qt.Key.Key_Right)
    here = workspace.tile_under_view()
    assert here.tile.id == workspace.session.tile_ids[0]
    qtbot.keyClick(tiles.map, Qt.Key.Key_Right)
    beside = workspace.tile_under_view()
    assert (beside.row, beside.col) == (here.row, here.col + here.tile.width)
    qtbot.keyClick(tiles.map, Qt.Key.Key_Down)
    below = workspace.tile_under_view()
    assert (below.row, below.col) == (beside.row + beside.tile.height, beside.col)
    assert tiles.model.rows[tiles.table.currentIndex().row()].tile_id == below.tile.id
    qtbot.keyClick(tiles.map, Qt.Key.Key_Up)
    qtbot.keyClick(tiles.map, Qt.Key.Key_Up)
    assert workspace.tile_under_view().tile.id == beside.tile.id


def test_the_doctor_lists_what_it_finds_and_flies_there(data, qtbot):
    session = data.workspace.session
    tile = session.dataset.tiles[3]
    write_raster(tile.mask_path, np.full((64, 64), 77, np.uint8), tile.georef)
    check = data.check
    check.run_button.click()
    assert check.running
    assert not check.run_button.isEnabled()
    qtbot.waitUntil(lambda: not check.running)

    assert check.findings[0].severity == "error"
    assert check._told.text().startswith("8 tiles read: ")
    row = next(n for n, one in enumerate(check.model.rows) if one.tile == tile.id)
    check.table.clicked.emit(check.model.index(row, 0))
    assert data.workspace.tile_under_view().tile.id == tile.id
    assert tile.id in check._detail.toPlainText()
    assert data._facts.tabText(1).startswith("Check (")
    data.fly_to(session.tile_ids[0])
    check.table.setCurrentIndex(check.model.index(row, 0))
    qtbot.keyClick(check.table, Qt.Key.Key_Return)
    assert data.workspace.tile_under_view().tile.id == tile.id
    check._kinds["error"].setChecked(False)
    assert all(one.severity != "error" for one in check.model.rows)


def test_a_cancelled_check_keeps_what_it_found(data, qtbot, monkeypatch):
    from napari_glacier.core import doctor

    real = doctor._examine_tile

    def slow(*arguments):
        time.sleep(0.05)
        yield from real(*arguments)

    monkeypatch.setattr(doctor, "_examine_tile", slow)
    data.check.run()
    task = data.check._task
    qtbot.waitUntil(lambda: data.check._num_tiles > 1)
    data.check.cancel_button.click()
    assert data.check._told.text().startswith("Cancelled. ")
    qtbot.waitUntil(lambda: not task.is_alive)
    assert data.check._num_tiles < 8


def test_what_was_opened_since_is_not_replaced_by_a_late_opening(viewer, qtbot, make_dataset):
    late, wanted = make_dataset("late"), make_dataset("wanted")
    _, view = _dock(viewer, "Data")
    view.open_later(late)
    view.open(wanted)
    qtbot.waitUntil(lambda: view._opening is None)
    assert view.workspace.session.root == wanted
    assert late.resolve() not in Session._open
    assert view._open_button.isEnabled()
    assert len(view.tiles.model.rows) == 4


def test_opening_goes_on_beside_the_window_and_says_what_is_wrong(viewer, qtbot, make_dataset, tmp_path):
    dock, view = _dock(viewer, "Data")
    view.open_later(make_dataset())
    assert view.notice.startswith("Opening ")
    qtbot.waitUntil(lambda: view.workspace.session is not None)
    assert len(view.tiles.model.rows) == 4
    assert view.workspace.labels_layer is not None

    view.open_later(tmp_path / "nowhere")
    qtbot.waitUntil(lambda: "does not exist" in view.notice)
    assert view._open_button.isEnabled()

    # A widget that is closed meanwhile leaves no dataset open behind it.
    other = make_dataset("other")
    view.open_later(other)
    task = view._opening
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not view._open)
    qtbot.waitUntil(lambda: not task.is_alive)
    assert other.resolve() not in Session._open


def test_a_scene_that_cannot_be_read_is_told_and_the_one_before_stays(viewer, qtbot, make_unequal_scenes):
    root = make_unequal_scenes(2, masks=False)
    _, view = _dock(viewer, "Data")
    view.open(root)
    qtbot.waitUntil(lambda: _settled(view))
    shown, centre = list(viewer.layers), viewer.scene.camera.center
    next(root.glob("Band1/*_00_01.tif")).unlink()
    for show in (lambda: view.tiles.scene_chosen.emit(1), lambda: view.fly_to(view.workspace.session.tile_ids[1])):
        view.tell("")
        view.tiles.scene.setCurrentIndex(1)
        show()
        assert "does not exist" in view.notice
        assert view.tiles.scene.currentIndex() == view.workspace.session.scene_number == 0
        assert list(viewer.layers) == shown
        assert viewer.scene.camera.center == centre
    view.tiles.scene_chosen.emit(0)
    assert not view.notice


def test_jobs_do_not_set_off_collections_of_all_objects(viewer, qtbot):
    _, view = _dock(viewer, "Data")
    seen, done = [], []

    def job():
        seen.append(gc.get_freeze_count())
        yield

    task = Background(view, job(), lambda _: None, done.append, view.fail)
    qtbot.waitUntil(lambda: bool(done) and not task.is_alive)
    assert seen[0] > 10_000
    assert gc.get_freeze_count() < seen[0]


@pytest.fixture
def report(viewer, qtbot, make_dataset):
    root = make_dataset(grid=(1, 3))
    viewer.open(str(root), plugin="napari-glacier")
    session = workspace_of(viewer).session
    rng = np.random.default_rng(0)
    for tile in session.dataset.tiles:
        index_HW = session.dataset.read_mask(tile)
        share_KHW = rng.dirichlet(np.full(4, 0.3), index_HW.shape).transpose(2, 0, 1)
        share_KHW = 0.45 * np.eye(4)[index_HW].transpose(2, 0, 1) + 0.55 * share_KHW
        write_mask(
            root / "predictions" / "m" / tile.name, share_KHW.argmax(0).astype("u1"), session.scheme, tile.georef
        )
        write_raster(root / "predictions" / "m" / "probabilities" / tile.name, share_KHW.astype("f4"), tile.georef)
    _, view = _dock(viewer, "Report")
    return view


def test_a_report_is_made_shown_and_outlined(report, qtbot, tmp_path, monkeypatch):
    root = report.workspace.session.root
    assert not report._result.isVisibleTo(report)
    report.choose(maps=root / "predictions" / "m", truth="All labelled")
    report._job.run_button.click()
    assert report.running
    assert report._job.cancel_button.isEnabled()
    qtbot.waitUntil(lambda: not report.running, timeout=60_000)

    assert report.notice.startswith("Written to reports/m-")
    assert report._result.isVisibleTo(report)
    assert report._areas_box.title() == "Areas (95 % intervals)"
    assert not report._star.isVisibleTo(report)
    changes = {change.name: change for change in report.made.report.changes}
    cells = [
        [report._changes.itemAtPosition(row, column).widget() for column in range(3)]
        for row in range(report._changes.rowCount())
    ]
    assert [cell.text() for cell in cells[0]] == ["Labels change, km²", "gained", "lost"]
    for name, gained, lost in cells[1:]:
        change = changes.pop(name.text())
        assert float(gained.text()) == pytest.approx(change.gained, abs=0.005)
        assert float(lost.text().replace("−", "-")) == pytest.approx(-change.lost, abs=0.005)
    assert not any(change.gained or change.lost for change in changes.values())
    assert len({cell.height() for row in cells for cell in row}) == 1, "no cell takes two lines"
    opened = []
    monkeypatch.setattr(QDesktopServices, "openUrl", lambda url: bool(opened.append(url.toLocalFile())) or True)
    report._page_button.click()
    assert opened == [str(report.made.page)]

    target = tmp_path / "ice"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *_: (str(target), "GeoJSON (*.geojson)"))
    report._merge.setChecked(True)
    report._outline_button.click()
    qtbot.waitUntil(lambda: not report.running, timeout=60_000)
    classes = pyogrio.raw.read(target.with_suffix(".geojson"), columns=["class"])[3][0]
    assert set(classes) == {"glacier", "lake"}
    assert "polygons written to ice.geojson" in report.notice


def test_tiles_to_calibrate_on_stay_chosen_when_more_are_approved(report):
    session = report.workspace.session
    session.set_review(session.tile_ids[0], "approved")
    report.choose(maps=session.root / "predictions" / "m", truth="Approved tiles")
    assert report._truth.currentText() == "Approved tiles (1)"
    session.set_review(session.tile_ids[1], "approved")
    assert report._truth.currentText() == "Approved tiles (2)"
    for tile_id in session.tile_ids[:2]:
        session.set_review(tile_id, "todo")
    assert report._truth.currentText() == "Nothing (envelope only)"


def test_what_cannot_be_reported_on_is_said_and_cancelling_writes_nothing(report, qtbot):
    root = report.workspace.session.root
    report.choose(maps=root / "predictions" / "m")
    report.run()
    report.cancel()
    assert report.notice == "Cancelled. Nothing was written."
    assert not list(root.glob("reports/*"))

    next((root / "predictions" / "m" / "probabilities").glob("*.tif")).write_bytes(b"damaged")
    report.run()
    qtbot.waitUntil(lambda: not report.running, timeout=60_000)
    assert report.notice.startswith("⚠")
    assert report._job.run_button.isEnabled()
    assert not report._result.isVisibleTo(report)


def test_what_can_be_reported_on_grows_as_it_is_made(viewer, make_dataset):
    root = make_dataset(masks=False, grid=(1, 2))
    viewer.open(str(root), plugin="napari-glacier")
    _, view = _dock(viewer, "Report")
    assert not view._job.run_button.isEnabled()
    workspace = workspace_of(viewer)
    session, layer = workspace.session, workspace.labels_layer
    layer.selected_label = 1
    layer.paint((30, 30), 1)
    session.save()
    assert view._job.run_button.isEnabled()
    assert [view._maps.itemText(number) for number in range(view._maps.count())] == ["The saved labels"]

    (tile,) = [tile for tile in session.dataset.tiles if tile.mask_path is not None]
    target = root / "predictions" / "m"
    write_mask(target / tile.name, session.dataset.read_mask(tile), session.scheme, tile.georef)
    share_KHW = np.full((4, tile.height, tile.width), 0.25, np.float32)
    write_raster(target / "probabilities" / tile.name, share_KHW, tile.georef)
    workspace.predicted.emit()
    view.choose(maps=target)
    assert view._maps.currentText() == "Prediction of m"
    session.set_review(tile.id, "approved")
    assert view._truth.findText("Approved tiles (1)") >= 0
    workspace.close_session()
    assert view._maps.count() == 0
