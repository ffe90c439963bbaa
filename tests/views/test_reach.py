"""What can be seen and reached: whole names, main buttons in sight, the order of Tab, a name for every control."""

from itertools import pairwise

import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractScrollArea,
    QAbstractSpinBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QPushButton,
    QTabBar,
    QTabWidget,
    QWidget,
)

from napari_glacier.views.base import WIDTH_PX
from napari_glacier.views.correct_view import CorrectView
from napari_glacier.views.data_view import DataView
from napari_glacier.views.pieces import ShrinkingBox
from napari_glacier.views.predict_view import PredictView
from napari_glacier.views.report_view import ReportView
from napari_glacier.views.train_view import TrainView

pytestmark = pytest.mark.gui
NAMES = ("Data", "Predict", "Correct", "Train", "Report")


@pytest.fixture
def views(viewer, qtbot, make_dataset):
    """All widgets as tabs of a small laptop's window, a dataset open."""
    viewer.window.resize(1366, 768)
    viewer.show()
    viewer.open(str(make_dataset(splits=("train", "val"))), plugin="napari-glacier")
    found = {name: viewer.window.add_plugin_dock_widget("napari-glacier", name)[1] for name in NAMES}
    qtbot.waitUntil(lambda: not found["Train"].form.split.busy)
    qtbot.wait(300)
    return found


def _to_front(view, qtbot):
    view.parent().raise_()
    qtbot.waitUntil(lambda: not view.visibleRegion().isEmpty())
    qtbot.wait(100)


def _chain(view):
    """The controls that Tab reaches, in its order."""
    found, at = [], view.nextInFocusChain()
    while at is not view:
        inner = isinstance(at.parent(), QComboBox | QAbstractSpinBox)
        by_tab = at.isEnabled() and at.focusPolicy() & Qt.FocusPolicy.TabFocus
        if view.isAncestorOf(at) and at.isVisibleTo(view) and by_tab and not inner:
            found.append(at)
        at = at.nextInFocusChain()
    return found


def test_tabs_and_buttons_show_their_whole_words(viewer, qtbot, views):
    bars = [bar for bar in viewer.window._qt_window.findChildren(QTabBar) if bar.count() == len(NAMES)]
    assert [bars[0].tabText(number) for number in range(len(NAMES))] == list(NAMES)
    for name, view in views.items():
        _to_front(view, qtbot)
        buttons = [button for button in view.findChildren(QAbstractButton) if button.isVisibleTo(view)]
        cut = [
            button.text() for button in buttons if button.text() and button.minimumSizeHint().width() > button.width()
        ]
        assert not cut, name


def test_the_main_button_is_in_sight_without_scrolling(viewer, qtbot, views):
    viewer.window.add_plugin_dock_widget("napari-glacier", "Start here")
    qtbot.wait(300)
    main = {"Data": "Open…", "Predict": "Run", "Correct": "Save", "Train": "Start training", "Report": "Run"}
    for name, view in views.items():
        _to_front(view, qtbot)
        (button,) = [one for one in view.findChildren(QPushButton) if one.text() == main[name]]
        assert button.visibleRegion().boundingRect() == button.rect(), name


@pytest.mark.parametrize("kind", [DataView, PredictView, CorrectView, TrainView, ReportView])
def test_every_control_has_a_name_and_tab_goes_from_top_to_bottom(viewer, qtbot, make_dataset, kind):
    viewer.open(str(make_dataset(splits=("train", "val"))), plugin="napari-glacier")
    # By itself: in the window Tab goes on into napari's own parts.
    view = kind(viewer)
    qtbot.addWidget(view)
    view.resize(WIDTH_PX, 1200)
    view.show()
    qtbot.wait(300)
    try:
        buddies = {label.buddy() for label in view.findChildren(QLabel)}
        chain = [one for one in _chain(view) if not isinstance(one, QAbstractScrollArea | QTabBar | QTabWidget)]
        assert chain
        for one in chain:
            said = one.accessibleName() or one.toolTip()
            said = said or (one.text() if isinstance(one, QAbstractButton) else "")
            said = said or (one.placeholderText() if isinstance(one, QLineEdit) else "")
            assert said or one in buddies, one
        # What stays below the part that scrolls comes after what it belongs to.
        tops = [one.mapTo(view, one.rect().center()).y() for one in chain if view._scroll.isAncestorOf(one)]
        # What spans two rows lies beside both.
        assert all(after > before - 20 for before, after in pairwise(tops)), tops
    finally:
        view.shut_down()


def test_a_list_opens_as_wide_as_its_longest_entry(qtbot):
    window = QWidget()
    qtbot.addWidget(window)
    box = ShrinkingBox(6)
    box.setParent(window)
    box.addItems(["short", "a name that is a good deal longer than the place it has been given"])
    box.setFixedWidth(90)
    window.show()
    box.showPopup()
    qtbot.waitUntil(lambda: box.view().isVisible())
    assert box.view().viewport().width() >= box.fontMetrics().horizontalAdvance(box.itemText(1))
    box.hidePopup()


def test_starting_a_run_brings_it_into_sight(viewer, qtbot, views, monkeypatch):
    train = views["Train"]
    _to_front(train, qtbot)
    train.fill(recipe="smoke", epochs=1, device="cpu")
    run = train.start()
    assert run is not None
    try:
        qtbot.waitUntil(lambda: not train.run_panel.status.visibleRegion().isEmpty())
    finally:
        train.stop()
        qtbot.waitUntil(lambda: not train.controller.active, timeout=120_000)


def test_enter_on_a_row_of_the_history_flies_there(viewer, qtbot, views):
    dialog = views["Correct"].show_history()
    qtbot.waitUntil(lambda: dialog._worker is None)
    default = [button for button in dialog.findChildren(QPushButton) if button.isDefault()]
    assert [button.text() for button in default] == ["Show"]
    dialog.close()
