"""The tools, driven the way a person does: mouse and keys on the canvas, buttons in the widget."""

import numpy as np
import pytest
from napari.utils.key_bindings import coerce_keybinding
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QKeySequence, QWheelEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QFileDialog, QPushButton

from napari_glacier.controllers import toolbox
from napari_glacier.controllers.layers import KEY, class_features, world_placement
from napari_glacier.controllers.workspace import workspace_of
from napari_glacier.core.tiling import Window
from napari_glacier.core.tools.components import Area
from napari_glacier.views.keys_dialog import KeysDialog, to_napari, to_qt, use_kept_keys
from napari_glacier.views.settings import kept, settings
from napari_glacier.views.tool_panel import shown_key

SHIFT = Qt.KeyboardModifier.ShiftModifier


class Hand:
    """A mouse and a keyboard over a viewer's canvas."""

    def __init__(self, viewer, qtbot):
        self.viewer, self.qtbot = viewer, qtbot
        self.canvas = viewer.window._qt_viewer.canvas.native

    def at(self, row, col):
        layer = workspace_of(self.viewer).labels_layer
        world = layer.data_to_world((row, col))
        camera, (height, width) = self.viewer.scene.camera, self.viewer.window._qt_viewer.canvas.size
        down, right = ((world[k] - camera.center[k + 1]) * camera.zoom for k in (0, 1))
        return QPoint(round(width / 2 + right), round(height / 2 + down))

    def click(self, row, col, modifier=Qt.KeyboardModifier.NoModifier):
        self.qtbot.mouseClick(self.canvas, Qt.MouseButton.LeftButton, modifier, self.at(row, col))
        self._rest()

    def _rest(self):
        self.qtbot.waitUntil(lambda: not self.view.controller.tools.busy)

    def drag(self, path, modifier=Qt.KeyboardModifier.NoModifier, at_each=lambda: None):
        points = [self.at(*place) for place in path]
        self.qtbot.mousePress(self.canvas, Qt.MouseButton.LeftButton, modifier, points[0])
        for point in points[1:]:
            QTest.mouseMove(self.canvas, point)
            QApplication.processEvents()
            at_each()
        self.qtbot.mouseRelease(self.canvas, Qt.MouseButton.LeftButton, modifier, points[-1])
        self._rest()

    def wheel(self, steps, place, modifier=SHIFT):
        point = QPointF(self.at(*place))
        event = QWheelEvent(
            point,
            QPointF(self.canvas.mapToGlobal(point.toPoint())),
            QPoint(0, 0),
            QPoint(0, 120 * steps),
            Qt.MouseButton.NoButton,
            modifier,
            Qt.ScrollPhase.NoScrollPhase,
            False,
        )
        QApplication.sendEvent(self.canvas, event)

    def key(self, key, modifier=Qt.KeyboardModifier.NoModifier):
        self.qtbot.keyClick(self.canvas, key, modifier)


@pytest.fixture
def hand(viewer, qtbot, make_dataset):
    viewer.open(str(make_dataset()), plugin="napari-glacier")
    viewer.window.resize(1100, 700)
    viewer.show()
    _, view = viewer.window.add_plugin_dock_widget("napari-glacier", "Correct")
    qtbot.wait(100)
    viewer.reset_view()
    qtbot.wait(50)
    hand = Hand(viewer, qtbot)
    hand.view = view
    hand.layer = workspace_of(viewer).labels_layer
    return hand


def _labels(hand):
    return np.asarray(hand.layer.data)


def _predict(hand):
    workspace = workspace_of(hand.viewer)
    session = workspace.session
    place, tag = world_placement(session.georef()), {"session": session}
    entropy = np.zeros(session.mask.shape, np.float32)
    entropy[80:100, 80:100] = 0.9
    entropy[90:110, 20:30] = 0.7
    index = np.full(session.mask.shape, 3, np.uint8)
    hand.viewer.add_image(entropy, name="Uncertainty", metadata={KEY: {**tag, "role": "uncertainty"}}, **place)
    hand.viewer.add_labels(
        index,
        name="Prediction",
        features=class_features(session.scheme),
        metadata={KEY: {**tag, "role": "prediction", "model": "tiny", "known": index > 0}},
        **place,
    )
    hand.viewer.layers.selection.active = hand.layer


def test_keys_of_the_tools_are_not_naparis(hand):
    from napari.utils.shortcuts import _default_shortcuts

    # Viewer and Labels keys; keys of other kinds of layers do not meet ours.
    taken = set()
    for action, keys in _default_shortcuts.items():
        of_other_layers = any(word in action for word in ("points", "shapes", "vertex", "add_", "surface", "image_"))
        if not of_other_layers:
            taken |= {str(key) for key in keys}
    bound_here = {str(key) for key in type(hand.layer).class_keymap} | {str(key) for key in hand.viewer.keymap}
    ours = {key for name, key in toolbox.DEFAULT_KEYS.items() if name not in ("take", "drop")}
    assert not {key.replace("-", "+") for key in ours} & bound_here
    letters = {key for key in ours if len(key) == 1}
    assert not letters & set("EPFLZMXBV1234567-=[]")
    assert len(set(toolbox.DEFAULT_KEYS.values())) == len(toolbox.DEFAULT_KEYS)


def test_smart_fill_by_key_click_wheel_and_enter(hand):
    before = _labels(hand)
    hand.key(Qt.Key.Key_S)
    tools = hand.view.controller.tools
    assert tools.tool == toolbox.SMART_FILL
    assert hand.view._tool_panel._buttons[toolbox.SMART_FILL].isChecked()
    assert not any(button.isChecked() for button in hand.view._tool_buttons.values())
    hand.key(Qt.Key.Key_3, Qt.KeyboardModifier.AltModifier)
    assert tools.tool == toolbox.SMART_FILL

    hand.click(100, 100)
    assert tools.proposal is not None
    assert tools.proposal.area.holds(100, 100)
    zoom, strength = hand.viewer.scene.camera.zoom, tools.options.strength
    hand.wheel(2, (100, 100))
    assert tools.options.strength == strength + 3
    assert hand.view._tool_panel._strength.value() == strength + 3
    assert hand.viewer.scene.camera.zoom == zoom
    assert np.array_equal(_labels(hand), before)

    hand.key(Qt.Key.Key_Escape)
    assert tools.proposal is None
    hand.click(100, 100)
    where = tools.proposal.area.where_HW.copy()
    window = tools.proposal.area.window
    hand.key(Qt.Key.Key_Return)
    assert (_labels(hand)[window.slices][where] == 3).all()
    assert "Smart fill" in hand.view.notice
    assert "1 tile" in hand.view._status.text() or "tiles" in hand.view._status.text()

    hand.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert np.array_equal(_labels(hand), before)
    hand.key(Qt.Key.Key_Escape)
    assert tools.tool == ""
    assert hand.view._tool_buttons["pan_zoom"].isChecked()


def test_the_second_click_takes(hand):
    hand.key(Qt.Key.Key_S)
    hand.key(Qt.Key.Key_3, Qt.KeyboardModifier.AltModifier)
    hand.click(100, 100)
    hand.click(100, 100)
    assert _labels(hand)[100, 100] == 3
    assert (hand.viewer.layers["Proposed change"].data == 255).all()


def test_dragging_with_a_click_tool_moves_the_view_and_changes_nothing(hand):
    before, centre = _labels(hand), hand.viewer.scene.camera.center
    hand.key(Qt.Key.Key_R)
    hand.drag([(100, 100), (90, 90), (70, 80)])
    assert np.array_equal(_labels(hand), before)
    assert hand.viewer.scene.camera.center != centre


def _button(hand, text):
    panel = hand.view._tool_panel
    return next(one for one in panel.findChildren(QPushButton) if one.text() == text and one.isVisibleTo(panel))


def test_scribbles_are_drawn_and_solved(hand):
    before, centre = _labels(hand), hand.viewer.scene.camera.center
    hand.key(Qt.Key.Key_D)
    hand.key(Qt.Key.Key_0, Qt.KeyboardModifier.AltModifier)
    hand.drag([(70, 30), (70, 60), (70, 100)])
    assert "another class" in hand.view.notice
    take, drop = (_button(hand, text) for text in ("Take", "Drop"))
    assert (take.isEnabled(), drop.isEnabled()) == (False, True)
    drop.click()
    assert not drop.isEnabled()
    assert (hand.viewer.layers["Proposed change"].data == 255).all()
    hand.drag([(70, 30), (70, 60), (70, 100)])
    hand.key(Qt.Key.Key_3, Qt.KeyboardModifier.AltModifier)
    hand.drag([(115, 30), (115, 60), (115, 100)])
    assert hand.viewer.scene.camera.center == centre, "drawing does not move the view"
    assert np.array_equal(_labels(hand), before)
    take.click()
    labels = _labels(hand)
    assert (labels[115, 35:95] == 3).all()
    assert not labels[70, 35:95].any()
    hand.drag([(60, 60), (80, 80)], SHIFT)
    assert hand.viewer.scene.camera.center != centre
    assert np.array_equal(_labels(hand), labels)


def test_sam_2_by_key_click_box_and_enter(hand, qtbot, tiny_sam, monkeypatch):
    before = _labels(hand)
    hand.key(Qt.Key.Key_S, SHIFT)
    tools = hand.view.controller.tools
    assert tools.tool == toolbox.SAM
    hand.click(100, 100)
    assert "needs weights on this computer" in hand.view.notice
    monkeypatch.setattr(QFileDialog, "getExistingDirectory", lambda *_: str(tiny_sam))
    hand.view._tool_panel._pages[toolbox.SAM].findChild(QPushButton).click()
    assert kept("correct/sam2", "") == str(tiny_sam)
    hand.key(Qt.Key.Key_3, Qt.KeyboardModifier.AltModifier)
    hand.click(100, 100)
    assert tools.proposal is not None
    hand.drag([(40, 40), (40, 90), (80, 90)], SHIFT)
    proposed = tools.proposal.area
    assert proposed.num_px
    assert np.array_equal(_labels(hand), before)
    hand.key(Qt.Key.Key_Return)
    expected = before.copy()
    expected[proposed.window.slices][proposed.where_HW] = 3
    assert np.array_equal(_labels(hand), expected)


def test_loops_and_clicks_accept_the_prediction(hand, qtbot):
    _predict(hand)
    hand.key(Qt.Key.Key_A)
    before, centre = _labels(hand), hand.viewer.scene.camera.center
    hand.drag([(70, 70), (70, 90), (95, 90), (95, 70)], SHIFT)
    labels = _labels(hand)
    changed = labels != before
    assert hand.viewer.scene.camera.center == centre
    assert (labels[72:93, 72:88] == 3).all()
    assert not changed[:69].any()
    assert not changed[:, 92:].any()
    hand.view._tool_panel._confidence.setValue(99)
    hand.click(20, 100)
    assert (_labels(hand)[80:100, 90:100] == labels[80:100, 90:100]).all(), "too uncertain to be accepted"
    assert _labels(hand)[20, 100] == 3


@pytest.mark.parametrize("tool", [tool.name for tool in toolbox.TOOLS])
def test_a_tool_has_one_name_on_its_button_in_messages_and_in_the_history(hand, tool):
    button = hand.view._tool_panel._buttons[tool].text().splitlines()[0]
    told = []
    tools = hand.view.controller.tools
    tools.told.connect(told.append)
    area = Area(Window(90, 90, 10, 10), np.ones((10, 10), bool))
    tools.write_area(tool, area, (_labels(hand)[90:100, 90:100] + 1) % 4)
    assert told[-1] == f"{button}: 100 pixels changed."
    assert hand.view.show_history()._table.item(0, 2).text() == button
    hand.view._history.close()


@pytest.mark.parametrize(("key", "tool"), [(Qt.Key.Key_C, "component"), (Qt.Key.Key_Q, "erase area")])
def test_a_click_changes_a_whole_patch_on_screen_too(hand, key, tool):
    before = _labels(hand)
    hand.key(key)
    hand.key(Qt.Key.Key_3, Qt.KeyboardModifier.AltModifier)
    row, col = next((r, c) for r in range(70, 120) for c in range(70, 120) if before[r, c] in (1, 2))
    hand.click(row, col)
    expected = 3 if tool == "component" else 0
    assert _labels(hand)[row, col] == expected
    assert (_labels(hand) != before).sum() > 1
    assert np.array_equal(hand.layer._slice.image.raw, _labels(hand))
    assert workspace_of(hand.viewer).session.journal.history(1)[0].tool == tool


def test_an_outline_shows_while_it_is_drawn_and_changes_what_it_encloses(hand):
    session = workspace_of(hand.viewer).session
    session.mask[64:128, 64:128] = 0
    session.mask[90:128, 64:128] = 1
    session.mask[80:90, 76:90] = 1
    expected = _labels(hand).copy()
    expected[80:90, 76:90] = 0
    hand.view._class_buttons[1].click()
    hand.key(Qt.Key.Key_O, SHIFT)
    assert hand.view.controller.tools.tool == toolbox.OUTLINE
    centre, shown = hand.viewer.scene.camera.center, []

    def look():
        proposed = hand.viewer.layers["Proposed change"]
        assert np.array_equal(proposed._slice.image.raw, proposed.data), "what is drawn is on the screen"
        shown.append(int((proposed.data == 253).sum()))

    hand.drag([(90, 72), (90, 80), (90, 88), (90, 95)], at_each=look)
    assert 0 < shown[0] < shown[1] < shown[2]
    assert (hand.viewer.layers["Proposed change"].data == 255).all()
    assert hand.viewer.scene.camera.center == centre
    assert (_labels(hand) != expected).sum() == 0
    assert (hand.layer._slice.image.raw[80:90, 76:90] == 0).all(), "it is on the screen, too"
    assert hand.view.notice.startswith("Outline: 140 pixels changed")
    hand.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert (_labels(hand)[80:90, 76:90] == 1).all()
    # With Shift the view moves; a click by itself says what is missing.
    hand.drag([(90, 72), (90, 80), (90, 88), (90, 95)], SHIFT)
    assert hand.viewer.scene.camera.center != centre
    assert (_labels(hand)[80:90, 76:90] == 1).all()
    hand.click(90, 80)
    assert "encloses nothing" in hand.view.notice


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_line_that_is_left_for_another_layer_is_dropped(hand, comes_back):
    session = workspace_of(hand.viewer).session
    session.mask[64:128, 64:128] = 0
    session.mask[90:128, 64:128] = 1
    session.mask[80:90, 76:90] = 1
    before = _labels(hand)
    hand.view._class_buttons[1].click()
    hand.key(Qt.Key.Key_O, SHIFT)
    shown, layers = [], hand.viewer.layers

    def leave():
        shown.append(bool((layers["Proposed change"].data != 255).any()))
        if len(shown) == 2:
            layers.selection.active = layers["True colour"]
        if len(shown) == 3 and comes_back:
            layers.selection.active = hand.layer

    hand.drag([(90, 72), (90, 80), (90, 84), (90, 88), (90, 95)], at_each=leave)
    assert shown == [True, True, False, False]
    assert not (layers["Proposed change"].data != 255).any()
    assert np.array_equal(_labels(hand), before)
    # The next line is drawn as ever.
    layers.selection.active = hand.layer
    hand.drag([(90, 72), (90, 80), (90, 88), (90, 95)])
    assert not (_labels(hand)[80:90, 76:90] == 1).any()


def test_loops_and_scribbles_show_while_they_are_drawn(hand):
    shown = []

    def look():
        shown.append(hand.viewer.layers["Proposed change"].data.copy())

    hand.view._class_buttons[2].click()
    hand.key(Qt.Key.Key_D)
    hand.drag([(70, 70), (70, 90), (80, 90)], at_each=look)
    assert set(np.unique(shown[-1])) == {2, 255}
    assert (shown[-1] == 2).sum() > (shown[0] == 2).sum() > 0
    hand.key(Qt.Key.Key_Escape)
    hand.key(Qt.Key.Key_C)
    hand.drag([(70, 70), (70, 90), (95, 90)], SHIFT, at_each=look)
    assert set(np.unique(shown[-1])) == {253, 254, 255}
    assert (hand.viewer.layers["Proposed change"].data == 255).all()
    # Another tool taken in the middle: nothing of the line is left, and nothing changes.
    before, steps = _labels(hand).copy(), iter(range(9))
    hand.key(Qt.Key.Key_O, SHIFT)
    hand.drag([(70, 70), (70, 80), (70, 90), (95, 90)], at_each=lambda: next(steps) == 1 and hand.key(Qt.Key.Key_S))
    assert hand.view.controller.tools.tool == toolbox.SMART_FILL
    assert (hand.viewer.layers["Proposed change"].data == 255).all()
    assert np.array_equal(_labels(hand), before)
    assert hand.layer.mouse_pan, "the new tool leaves the view to the mouse"
    # Escape in the middle drops the line; once more puts the tool down, and the mouse moves the view again.
    for key, modifier in ((Qt.Key.Key_D, Qt.KeyboardModifier.NoModifier), (Qt.Key.Key_O, SHIFT)):
        steps = iter(range(9))
        hand.key(key, modifier)
        hand.drag(
            [(70, 70), (70, 80), (70, 90), (95, 90)],
            at_each=lambda steps=steps: next(steps) == 1 and hand.key(Qt.Key.Key_Escape),
        )
        assert (hand.viewer.layers["Proposed change"].data == 255).all()
        assert not hand.view.controller.tools.busy
        hand.key(Qt.Key.Key_Escape)
        assert hand.view.controller.tools.tool == ""
        assert hand.layer.mouse_pan
    assert np.array_equal(_labels(hand), before)


def test_a_proposal_stays_while_the_view_is_moved_and_a_click_fails(hand):
    hand.key(Qt.Key.Key_S)
    hand.click(100, 100)
    shown = hand.viewer.layers["Proposed change"].data.copy()
    assert (shown != 255).any()
    hand.drag([(90, 72), (90, 80), (90, 88)])
    hand.drag([(90, 88), (90, 80), (90, 72)], SHIFT)
    hand.click(4, 4)
    assert "no data" in hand.view.notice
    assert np.array_equal(hand.viewer.layers["Proposed change"].data, shown)


def test_a_line_beside_the_scene_and_one_of_a_pixel_change_nothing(hand):
    hand.viewer.scene.camera.zoom /= 3
    before = _labels(hand).copy()
    hand.view._class_buttons[1].click()
    hand.key(Qt.Key.Key_O, SHIFT)
    hand.drag([(20, 250), (40, 250), (60, 250)])
    assert "outside the scene" in hand.view.notice
    hand.drag([(80, 80), (81, 80)])
    assert "encloses nothing" in hand.view.notice
    hand.key(Qt.Key.Key_D)
    hand.drag([(-12, 60), (20, 60), (40, 60)])
    assert "outside the scene" in hand.view.notice
    assert (hand.viewer.layers["Proposed change"].data == 255).all()
    assert np.array_equal(_labels(hand), before)


def test_what_a_tool_said_goes_when_another_is_taken(hand):
    hand.key(Qt.Key.Key_C)
    hand.view.controller.select_class(2)
    hand.click(100, 100)
    assert hand.view.notice.startswith("Flip:")
    hand.key(Qt.Key.Key_R)
    assert not hand.view.notice
    # The same for napari's own tools, by key and by button.
    for leave in (lambda: hand.key(Qt.Key.Key_P), hand.view._tool_buttons["fill"].click):
        hand.key(Qt.Key.Key_R)
        hand.click(100, 100)
        assert hand.view.notice.startswith("Remove:")
        leave()
        assert not hand.view.notice
    # Undo is no other tool: what it says stays.
    hand.key(Qt.Key.Key_P)
    hand.view.tell("kept")
    hand.view.controller.undo()
    assert hand.view.notice == "kept"


def test_errors_are_told_in_the_widget(hand):
    hand.key(Qt.Key.Key_A)
    hand.click(100, 100)
    assert "Run a model first" in hand.view.notice
    hand.key(Qt.Key.Key_S)
    hand.click(4, 4)
    assert "no data" in hand.view.notice
    hand.layer.selected_label = 9
    for key, modifier in ((Qt.Key.Key_D, Qt.KeyboardModifier.NoModifier), (Qt.Key.Key_O, SHIFT)):
        hand.key(key, modifier)
        hand.drag([(70, 70), (70, 90), (80, 90)])
        assert "no class of this dataset" in hand.view.notice


def test_naparis_own_tools_take_over(hand):
    hand.key(Qt.Key.Key_S)
    hand.click(100, 100)
    hand.key(Qt.Key.Key_P)
    assert hand.view.controller.tools.tool == ""
    assert (hand.viewer.layers["Proposed change"].data == 255).all()
    assert hand.view._tool_buttons["paint"].isChecked()
    hand.key(Qt.Key.Key_G)
    assert str(hand.layer.mode) == "pan_zoom"
    hand.view._tool_buttons["pan_zoom"].click()
    assert hand.view.controller.tools.tool == ""
    assert hand.layer.mouse_pan


def test_a_stroke_with_a_rest_in_it_is_undone_as_one(hand, qtbot):
    session = workspace_of(hand.viewer).session
    before = _labels(hand).copy()
    hand.view._class_buttons[3].click()
    hand.view._tool_buttons["paint"].click()
    hand.drag([(100, 60), (100, 64)])
    apart = _labels(hand).copy()
    # The hand rests with the button held until what it drew is on the disk.
    hand.drag([(70, 60), (70, 70), (70, 90)], at_each=lambda: qtbot.waitUntil(lambda: not session.mask.has_pending))
    drawn = _labels(hand).copy()
    assert session.mask.dirty_tiles
    assert len(session.journal.history(10)) > 2, "the rest was long enough for a part to be recorded"

    hand.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    np.testing.assert_array_equal(_labels(hand), apart)
    hand.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier | SHIFT)
    np.testing.assert_array_equal(_labels(hand), drawn)
    for left in (apart, before):
        hand.key(Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
        np.testing.assert_array_equal(_labels(hand), left)


def test_the_pixel_is_explained(hand, qtbot):
    _predict(hand)
    hand.key(Qt.Key.Key_I)
    hand.click(90, 90)
    panel = hand.view._tool_panel
    assert "predicted <b>lake</b>, 10% sure" in panel._pixel_text.text()
    picture = panel._plot.grab().toImage()
    colors = {picture.pixelColor(x, y).name() for x in range(picture.width()) for y in range(picture.height())}
    assert len(colors) > 20, "lines are drawn"


def test_the_queue_leads_on(hand, qtbot):
    _predict(hand)
    panel = hand.view._next_panel
    qtbot.waitUntil(lambda: "2 regions left" in panel._said.text())
    hand.key(Qt.Key.Key_W)
    assert "This one: 0.32 km², 90% uncertain" in panel._said.text()
    hand.key(Qt.Key.Key_Y)
    assert (_labels(hand)[80:100, 80:100] == 3).all()
    assert "1 regions left" not in panel._said.text()
    assert "1 region left" in panel._said.text()
    panel._buttons["fixed"].click()
    assert "Nothing uncertain is left" in panel._said.text()
    assert not panel._buttons["skip"].isEnabled()


def test_keys_can_be_changed_and_are_remembered(hand, viewer, qtbot):
    dialog = KeysDialog(hand.view.controller.pointer, hand.view)
    dialog.fill({toolbox.SMART_FILL: "D"})
    dialog.accept()
    assert "already" in dialog._problem.text()
    dialog.fill({toolbox.SMART_FILL: "Shift-K"})
    dialog.accept()
    assert kept("keys/smart fill", "") == "Shift-K"
    hand.view._show_tools()
    assert hand.view._tool_panel._buttons[toolbox.SMART_FILL].text() == "Smart fill\nShift+K"
    hand.key(Qt.Key.Key_S)
    assert hand.view.controller.tools.tool == ""
    hand.key(Qt.Key.Key_K, SHIFT)
    assert hand.view.controller.tools.tool == toolbox.SMART_FILL

    _, again = viewer.window.add_plugin_dock_widget("napari-glacier", "Correct")
    assert again.controller.pointer.keys[toolbox.SMART_FILL] == "Shift-K"
    qtbot.wait(50)


@pytest.mark.parametrize(
    ("qt", "napari"),
    [
        (",", ","),
        ("Ctrl+,", "Control-,"),
        ("+", "+"),
        ("Ctrl++", "Control-+"),
        ("-", "-"),
        ("Ctrl+Shift+-", "Control-Shift--"),
        ("Shift+N", "Shift-N"),
        ("Ctrl+PgUp", "Control-PageUp"),
        ("Del", "Delete"),
        ("Return", "Enter"),
        ("", ""),
    ],
)
def test_keys_are_written_the_way_qt_does_and_back(qt, napari):
    assert to_napari(qt) == napari
    assert to_qt(napari) == qt
    assert QKeySequence(qt).toString(QKeySequence.SequenceFormat.PortableText) == qt


@pytest.mark.parametrize(
    ("strokes", "first"), [("Ctrl+K, Ctrl+C", "Control-K"), (",, A", ","), ("Ctrl++, +", "Control-+")]
)
def test_of_several_strokes_the_first_is_the_key(strokes, first):
    assert to_napari(strokes) == first


def test_keys_that_were_not_changed_stay(hand):
    pointer = hand.view.controller.pointer
    KeysDialog(pointer, hand.view).accept()
    assert pointer.keys == toolbox.DEFAULT_KEYS
    assert kept("keys/previous tile", "") == ","


def test_actions_may_be_without_a_key(hand):
    pointer = hand.view.controller.pointer
    dialog = KeysDialog(pointer, hand.view)
    for name in ("swipe", "skip", "take", toolbox.SMART_FILL):
        dialog._edits[name].clear()
    dialog.accept()
    assert pointer.keys["swipe"] == pointer.keys["skip"] == pointer.keys["take"] == ""
    hand.key(Qt.Key.Key_S)
    assert hand.view.controller.tools.tool == ""
    hand.key(Qt.Key.Key_C)
    hand.key(Qt.Key.Key_C)
    assert not any(not key.parts for key in hand.layer.keymap)
    use_kept_keys(pointer)
    assert pointer.keys["swipe"] == ""
    pointer.set_keys(toolbox.DEFAULT_KEYS)
    hand.key(Qt.Key.Key_S)
    assert hand.view.controller.tools.tool == toolbox.SMART_FILL


def test_a_kept_key_that_cannot_be_used_costs_no_other(hand):
    pointer = hand.view.controller.pointer
    settings().setValue("keys/swipe", "Control-Z")
    settings().setValue("keys/skip", "Shift-K")
    use_kept_keys(pointer)
    assert pointer.keys == {**toolbox.DEFAULT_KEYS, "skip": "Shift-K"}


@pytest.mark.parametrize(("key", "shown"), [("Shift-N", "Shift+N"), ("-", "-"), ("Control--", "Control+-"), ("", "")])
def test_keys_are_shown_as_people_write_them(key, shown):
    assert shown_key(key) == shown


def test_keys_of_classes_and_of_undo_are_kept_for_them(hand):
    pointer, keymap = hand.view.controller.pointer, hand.layer.keymap
    own = {str(coerce_keybinding(key)) for key in pointer.keys.values()}
    others = [str(key) for key in keymap if str(key) not in own]
    assert {"Ctrl+Z", "Ctrl+Shift+Z", "Alt+0", "Alt+3"} <= set(others)
    before = dict(keymap)
    for key in (*others, "Shift-Control-Z", "alt-1", "Alt-9"):
        with pytest.raises(ValueError, match='already; "Divider between two pictures" needs another one'):
            pointer.set_keys({"swipe": key.replace("+", "-")})
    assert dict(keymap).keys() == before.keys()


@pytest.mark.parametrize("key", ["Foo", "Ctrl", "Shift", "Control-Foo", "+", "Alt-Alt", "A B", " "])
def test_a_key_that_napari_does_not_know_is_refused_before_anything_changes(hand, key):
    pointer = hand.view.controller.pointer
    before = dict(hand.layer.keymap)
    with pytest.raises(ValueError, match='"Divider between two pictures" needs a letter, a digit'):
        pointer.set_keys({"next": "V", "swipe": key})
    assert pointer.keys == toolbox.DEFAULT_KEYS
    assert dict(hand.layer.keymap) == before


def test_keys_are_compared_however_they_are_written(hand):
    with pytest.raises(ValueError, match='key of "Look at this region later" already'):
        hand.view.controller.pointer.set_keys({"swipe": "Shift-Control-A", "skip": "Control-Shift-A"})


def test_a_closed_widget_lets_go_of_mouse_and_keys(hand, viewer, qtbot):
    hand.key(Qt.Key.Key_C)
    before = _labels(hand)
    dock = hand.view.parent()
    viewer.window.remove_dock_widget(dock)
    qtbot.waitUntil(lambda: not hand.view._open)
    hand.click(100, 100)
    hand.key(Qt.Key.Key_S)
    assert np.array_equal(_labels(hand), before)
    assert hand.layer.mouse_pan
    assert "Proposed change" not in viewer.layers
