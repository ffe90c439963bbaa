"""What all docked widgets share: scrolling, a line for messages, and letting go when they are closed."""

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QEvent, QObject, Qt, QTimer
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import (
    QApplication,
    QDockWidget,
    QFrame,
    QGroupBox,
    QLabel,
    QLayout,
    QMainWindow,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.controllers.workspace import Workspace, workspace_of
from napari_glacier.core.errors import GlacierError
from napari_glacier.core.log_file import start_log
from napari_glacier.views import errors
from napari_glacier.views.last_time import LastTime, OfferRow
from napari_glacier.views.windows import look_after

MARGIN_PX = 6
# Wide enough for a row of tool buttons, narrow enough to leave a laptop's canvas its room.
WIDTH_PX = 330


class _Post(QObject):
    """Runs callables on the GUI thread, whichever thread posts them."""

    posted = QtSignal(object)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.posted.connect(self._run)

    def _run(self, call: Callable[[], None]) -> None:
        call()


class GlacierView(QWidget):
    """A docked widget of the plugin.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        napari passes itself under this name.
    """

    # As the manifest has it.
    title = ""
    # Whether it lies as a tab beside the plugin's other widgets.
    is_tabbed = True

    def __init__(self, napari_viewer: Any) -> None:
        # Qt sends the first events from within its own constructor.
        self._open = False
        super().__init__()
        self.workspace: Workspace = workspace_of(napari_viewer)
        self._post = _Post(self)
        self._undo: list[Callable[[], None]] = []
        self._open = True

        # An empty line keeps its place: the tools would jump, and all be drawn again, whenever something is said.
        self._silence = " " if self.is_tabbed else ""
        self._notice = QLabel(self._silence)
        self._notice.setWordWrap(True)
        self._notice.setVisible(self.is_tabbed)
        self._notice.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self._notice.setObjectName("glacier_notice")

        content = QWidget()
        self.body = QVBoxLayout(content)
        self.body.setContentsMargins(MARGIN_PX, MARGIN_PX, MARGIN_PX, MARGIN_PX)
        self.body.setSpacing(MARGIN_PX)
        self._scroll = QScrollArea()
        self._scroll.setWidgetResizable(True)
        self._scroll.setFrameShape(QFrame.Shape.NoFrame)
        self._scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._scroll.setWidget(content)

        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        self.offer = OfferRow(self)
        # The newcomer's panel is just as high as its text.
        self._labels_back = self._make_labels_back()
        if self.is_tabbed:
            outer.addWidget(self.offer)
            outer.addWidget(self._labels_back)
        outer.addWidget(self._scroll, 1)
        # What must stay in sight goes below the part that scrolls.
        self.foot = QVBoxLayout()
        self.foot.setContentsMargins(MARGIN_PX, MARGIN_PX, MARGIN_PX, MARGIN_PX)
        outer.addLayout(self.foot)
        notice_margin = QVBoxLayout()
        notice_margin.setContentsMargins(MARGIN_PX, 0, MARGIN_PX, MARGIN_PX)
        notice_margin.addWidget(self._notice)
        outer.addLayout(notice_margin)
        self.setMinimumWidth(WIDTH_PX)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Expanding)

        app = QApplication.instance()
        if app is not None:
            app.aboutToQuit.connect(self.shut_down)
        start_log()
        errors.watch(self)
        self._last_time = look_after(napari_viewer)
        if self._last_time is not None:
            self._tie(self._last_time)
        self.on_close(lambda: errors.release(self))

    def _make_labels_back(self) -> QWidget:
        """What is shown in every widget while the Labels layer is missing."""
        part = QWidget(self)
        row = QVBoxLayout(part)
        row.setContentsMargins(MARGIN_PX, MARGIN_PX, MARGIN_PX, 0)
        row.addWidget(hint("The layer <i>Labels</i> was removed from the layer list. What was drawn is kept."))
        button = QPushButton("Bring Labels back")
        button.clicked.connect(lambda: self.attempt(self.workspace.bring_labels_back))
        row.addWidget(button)
        part.setVisible(self.is_tabbed and self.workspace.labels_taken_away)
        self.listen(self.workspace.session_changed, self._on_other_session)
        self.listen(self.workspace.layers_changed, self._offer_labels)
        return part

    def _offer_labels(self) -> None:
        missing = self.workspace.labels_taken_away
        if self._labels_back.isVisibleTo(self) and not missing:
            # They are back: what could not be done without them can be.
            self.tell("")
        self._labels_back.setVisible(self.is_tabbed and missing)

    def _on_other_session(self, session: Any) -> None:
        # What was said was said of the dataset before.
        self.tell("")
        self._offer_labels()

    def _tie(self, last_time: LastTime) -> None:
        self.offer.taken.connect(lambda: last_time.restore(self))
        self.offer.declined.connect(last_time.forget)
        self.on_close(lambda: last_time.remove(self))

    def facts(self) -> dict[str, str]:
        """What a report on an error should say of this widget: names and values."""
        session = self.workspace.session
        if session is None:
            return {"Data set": "none is open"}
        scene = session.current_scenes[0]
        shape = " x ".join(map(str, scene.shape))
        return {
            "Data set": f"{session.root} ({len(session.tile_ids)} tiles, {session.scheme.name})",
            "Scene on screen": f"{scene.name}, {shape} px",
        }

    def listen(self, signal: Any, slot: Callable[..., None]) -> Callable[[], None]:
        """Call `slot` on the GUI thread whenever a controller's signal fires, until the widget closes.

        The signal may fire in any thread. What is returned ends it earlier.
        """

        def forward(*arguments: Any) -> None:
            self.later(lambda: slot(*arguments))

        def end() -> None:
            signal.disconnect(forward, missing_ok=True)
            if end in self._undo:
                self._undo.remove(end)

        signal.connect(forward)
        self._undo.append(end)
        return end

    def later(self, call: Callable[[], None]) -> None:
        """Call something on the GUI thread: at once when asked from there, else as soon as it is free."""
        if self._open:
            self._post.posted.emit(lambda: call() if self._open else None)

    def every(self, milliseconds: int, slot: Callable[[], None]) -> QTimer:
        """Call `slot` again and again until the widget closes."""
        timer = QTimer(self)
        timer.setInterval(milliseconds)
        timer.timeout.connect(slot)
        timer.start()
        self._undo.append(timer.stop)
        return timer

    def on_close(self, call: Callable[[], None]) -> None:
        """Have something undone when the widget closes."""
        self._undo.append(call)

    def tell(self, text: str, *, error: bool = False) -> None:
        """Show a sentence at the foot of the widget; an empty one takes it away."""
        # Colour is not the only sign: an error starts with a mark that colour-blind people see.
        said = f"⚠ {text}" if error else text or self._silence
        style = "QLabel { color: #e06c3c; font-weight: bold; }" if error else ""
        self._notice.setText(said)
        self._notice.setVisible(bool(said))
        # Qt lays a styled widget out anew, be the style the same.
        if style != self._notice.styleSheet():
            self._notice.setStyleSheet(style)

    def show_widget(self, name: str) -> Any:
        """Open another widget of the plugin, or bring it to the front; gives it."""
        dock, widget = self.workspace.viewer.window.add_plugin_dock_widget("napari-glacier", name)
        # A dock that was hidden is given back hidden.
        dock.show()
        dock.raise_()
        return widget

    def empty_state(self, text: str, *buttons: tuple[str, str]) -> QWidget:
        """What stands in an empty widget: a sentence, and buttons (text, widget) that open other widgets.

        Without `buttons`, those that lead to a dataset.
        """
        empty = QWidget()
        layout = QVBoxLayout(empty)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(MARGIN_PX)
        layout.addWidget(hint(text))
        for title, name in buttons or (("Open a dataset…", "Data"), ("Start here, with a sample", "Start here")):
            button = QPushButton(title)
            button.setToolTip(f"Opens the widget {name}")
            button.clicked.connect(lambda _=False, name=name: self.show_widget(name))
            layout.addWidget(button)
        return empty

    def scroll_to(self, part: QWidget) -> None:
        """Bring a part of the widget into sight, its beginning first."""
        self._scroll.ensureWidgetVisible(part, 0, 2 * MARGIN_PX)
        content = self._scroll.widget()
        if content is not None and part.height() > self._scroll.height():
            bar = self._scroll.verticalScrollBar()
            bar.setValue(part.mapTo(content, part.rect().topLeft()).y())

    def make_desk(self, text: str, *buttons: tuple[str, str]) -> QVBoxLayout:
        """An empty state (see `empty_state`), and where the tools go that `show_desk` shows in its place."""
        self._empty = self.empty_state(text, *buttons)
        self._desk = QWidget()
        desk = QVBoxLayout(self._desk)
        desk.setContentsMargins(0, 0, 0, 0)
        self.body.addWidget(self._empty)
        self.body.addWidget(self._desk)
        self.body.addStretch(1)
        return desk

    def show_desk(self, ready: bool) -> None:
        """Show the tools where there is something to work on, else what to do."""
        self._empty.setVisible(not ready)
        self._desk.setVisible(ready)

    @property
    def notice(self) -> str:
        """The sentence at the foot of the widget."""
        return self._notice.text().strip()

    def attempt(self, call: Callable[[], Any]) -> Any:
        """Do what a person asked for; an error they can mend is told in the widget, others in a window (`errors`)."""
        try:
            return call()
        except GlacierError as error:
            self.tell(str(error), error=True)
        except OSError as error:
            self.tell(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), error=True)
        return None

    def fail(self, error: BaseException) -> None:
        """Show what a worker thread ended with: a sentence, or for what nobody foresaw the window of errors."""
        if isinstance(error, GlacierError):
            self.tell(str(error), error=True)
            return
        from napari.utils.notifications import notification_manager

        self.tell(f"{type(error).__name__}: {error}", error=True)
        notification_manager.receive_error(type(error), error, error.__traceback__)

    def event(self, event: QEvent) -> bool:
        """Closing a dock never sends a close event: it only takes the widget out of the dock."""
        if event.type() == QEvent.Type.ParentChange and self._open:
            # Docking and floating change the parent, too; a moment later it is clear which it was.
            QTimer.singleShot(0, self._post, self._settle_in)
        return bool(super().event(event))

    def _settle_in(self) -> None:
        dock = self.parent()
        if dock is None and not self.isVisible():
            self.shut_down()
        elif isinstance(dock, QDockWidget):
            # Tabs bear it; with the plugin's name behind it, it would be cut where there are several.
            dock.setWindowTitle(self.title)
            self._share_place(dock)
            if self._last_time is not None:
                self._last_time.add(self)

    def _share_place(self, dock: QDockWidget) -> None:
        """Lie as a tab beside the plugin's other docks: one above another they would each be too low for a laptop."""
        window = dock.parent()
        if not self.is_tabbed or not isinstance(window, QMainWindow) or window.tabifiedDockWidgets(dock):
            return
        area = window.dockWidgetArea(dock)
        for other in window.findChildren(QDockWidget):
            widget = other.widget()
            is_ours = isinstance(widget, GlacierView) and widget.is_tabbed
            if other is not dock and is_ours and not other.isHidden() and window.dockWidgetArea(other) == area:
                window.tabifyDockWidget(other, dock)
                # At once it would do nothing: Qt makes the tab with its next layout, with the old dock in front.
                QTimer.singleShot(0, dock, dock.raise_)
                return

    def shut_down(self) -> None:
        """Stop timers and workers and disconnect from everything that lives longer."""
        if not self._open:
            return
        self._open = False
        while self._undo:
            self._undo.pop()()
        app = QApplication.instance()
        if app is not None:
            app.aboutToQuit.disconnect(self.shut_down)


def group(title: str, layout: QLayout) -> QGroupBox:
    """A compact group box."""
    box = QGroupBox(title)
    layout.setContentsMargins(MARGIN_PX, MARGIN_PX + 2, MARGIN_PX, MARGIN_PX)
    layout.setSpacing(4)
    box.setLayout(layout)
    return box


def hint(text: str) -> QLabel:
    """A sentence that says what to do."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.RichText)
    return label
