"""What was open the last time: datasets, and the widgets in their places."""

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QEvent, QRect, Qt, QTimer
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QApplication, QDockWidget, QHBoxLayout, QMainWindow, QPushButton, QToolButton, QWidget

from napari_glacier.views.settings import keep_of, keep_opened, kept_of
from napari_glacier.views.window_bound import WindowBound

if TYPE_CHECKING:
    from napari_glacier.views.base import GlacierView

_WIDGETS = "window/widgets"
_AREAS = {
    "left": Qt.DockWidgetArea.LeftDockWidgetArea,
    "right": Qt.DockWidgetArea.RightDockWidgetArea,
    "top": Qt.DockWidgetArea.TopDockWidgetArea,
    "bottom": Qt.DockWidgetArea.BottomDockWidgetArea,
}
_AREA_NAMES = {area: name for name, area in _AREAS.items()}
# A new dock has found its usual place by then.
_SETTLED_MS = 60
# Opening a widget does not wait for the disk.
_REST_MS = 500
_MARGIN_PX = 6


class LastTime(WindowBound):
    """Keeps which datasets and which widgets are open, and opens the widgets of the last time when it is asked to.

    By themselves they stay closed, as those of every plugin do.
    """

    def __init__(self, window: QWidget, viewer: Any) -> None:
        super().__init__(window, viewer)
        found = kept_of(_WIDGETS)
        # As it was before this window has anything to keep.
        self._before = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        self._views: dict[str, GlacierView] = {}
        self._rest = QTimer(self)
        self._rest.setSingleShot(True)
        self._rest.setInterval(_REST_MS)
        self._rest.timeout.connect(self.write)
        window.installEventFilter(self)
        if self.workspace is not None:
            self.workspace.session_changed.connect(_keep_session)
            _keep_session(self.workspace.session)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """See the window's close event while its docks are still there."""
        if event.type() == QEvent.Type.Close and watched is self.window:
            self.write()
        return False

    def add(self, view: "GlacierView") -> None:
        """A widget has found its place in the window."""
        self._views[type(view).title] = view
        self._rest.start()
        self._show_offers()

    def remove(self, view: "GlacierView") -> None:
        """A widget was closed."""
        if self._views.get(type(view).title) is view:
            del self._views[type(view).title]

    @property
    def offered(self) -> list[str]:
        """Titles of the widgets of the last time, until there is a second one open."""
        titles = [str(one.get("title")) for one in self._before]
        num_open = sum(view.is_tabbed for view in self._views.values())
        return titles if num_open < 2 and set(titles) - set(self._views) else []

    def forget(self) -> None:
        """Offer nothing more in this window."""
        self._before = []
        self._show_offers()

    def _show_offers(self) -> None:
        for view in self._views.values():
            view.offer.show_titles(self.offered)

    def restore(self, view: "GlacierView") -> None:
        """Open the widgets of the last time, and lay them where they were."""
        places = self._before
        self.forget()
        docks = []
        for place in places:
            try:
                widget = view.show_widget(str(place.get("title")))
            except (KeyError, ValueError):
                # Another version of the plugin had it.
                continue
            dock = widget.parent()
            if isinstance(dock, QDockWidget):
                docks.append((dock, place))
        QTimer.singleShot(_SETTLED_MS, self, lambda: self._lay(docks))

    def write(self) -> None:
        """Keep which widgets are open, and where."""
        window = self.window
        if not isinstance(window, QMainWindow):
            return
        places: list[dict[str, Any]] = []
        for title, view in self._views.items():
            dock = view.parent()
            if not isinstance(dock, QDockWidget) or dock.isHidden():
                continue
            place = dock.geometry()
            places.append(
                {
                    "title": title,
                    "area": _AREA_NAMES.get(window.dockWidgetArea(dock), "right"),
                    # Of tabs the one that is seen.
                    "front": not dock.visibleRegion().isEmpty(),
                    "floating": dock.isFloating(),
                    "place": [place.x(), place.y(), place.width(), place.height()],
                }
            )
        keep_of(_WIDGETS, places)

    def _lay(self, docks: list[tuple[QDockWidget, dict[str, Any]]]) -> None:
        """Move what has opened in its usual place, as a tab at the right, to where it was."""
        window = self.window
        if not isinstance(window, QMainWindow):
            return
        first: dict[Any, QDockWidget] = {}
        for dock, place in docks:
            area = _AREAS.get(str(place.get("area")), Qt.DockWidgetArea.RightDockWidgetArea)
            rect = _rect_of(place.get("place"))
            if place.get("floating") and _is_on_a_screen(rect):
                dock.setFloating(True)
                dock.setGeometry(rect)
            elif window.dockWidgetArea(dock) != area:
                window.addDockWidget(area, dock)
                if area in first:
                    window.tabifyDockWidget(first[area], dock)
                else:
                    first[area] = dock
                    lies_flat = place.get("area") in {"top", "bottom"}
                    orientation = Qt.Orientation.Vertical if lies_flat else Qt.Orientation.Horizontal
                    window.resizeDocks([dock], [rect.height() if lies_flat else rect.width()], orientation)
            if place.get("front"):
                # At once it would do nothing: Qt makes tabs with its next layout.
                QTimer.singleShot(0, dock, dock.raise_)
        self._rest.start()


class OfferRow(QWidget):
    """A row that offers the widgets of the last time, or to be left alone."""

    taken = QtSignal()
    declined = QtSignal()

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        row = QHBoxLayout(self)
        row.setContentsMargins(_MARGIN_PX, _MARGIN_PX, _MARGIN_PX, 0)
        row.setSpacing(2)
        self.button = QPushButton("Open the widgets of last time")
        self.button.clicked.connect(self.taken)
        no = QToolButton()
        no.setText("×")
        no.setAutoRaise(True)
        no.setToolTip("Not now")
        no.clicked.connect(self.declined)
        row.addWidget(self.button, 1)
        row.addWidget(no)
        self.setVisible(False)

    def show_titles(self, titles: list[str]) -> None:
        """Offer these widgets; nothing, where there are none."""
        self.button.setToolTip(f"{', '.join(titles)}, where they lay")
        self.setVisible(bool(titles))


def _rect_of(kept: Any) -> QRect:
    """A place as it was kept; an empty one where the settings file holds something else."""
    match kept:
        case [int(x), int(y), int(width), int(height)]:
            return QRect(x, y, width, height)
    return QRect()


def _is_on_a_screen(rect: QRect) -> bool:
    return any(screen.availableGeometry().intersects(rect) for screen in QApplication.screens())


def _keep_session(session: Any) -> None:
    if session is not None:
        keep_opened(session.root)
