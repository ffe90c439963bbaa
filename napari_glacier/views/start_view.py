"""Start here: five short steps on a copy of the sample region, each ticked when it was really done."""

from typing import Any

from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import (
    QDockWidget,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QMainWindow,
    QPushButton,
    QSizePolicy,
    QTabBar,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.controllers.first_steps import DONE_TEXT, STEPS, FirstStep, FirstSteps
from napari_glacier.views.base import MARGIN_PX, GlacierView, hint

_LOOK_MS = 1000


class StartView(GlacierView):
    """Walk through predicting, fixing and retraining.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    title = "Start here"
    # It stays in sight above the widget that a step is done in.
    is_tabbed = False

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.steps = FirstSteps(self.workspace)
        self._shown: tuple[Any, ...] = ()
        self._marks: dict[str, QLabel] = {}
        self._titles: dict[str, QLabel] = {}
        grid = QGridLayout()
        grid.setHorizontalSpacing(8)
        grid.setVerticalSpacing(1)
        grid.setColumnStretch(1, 1)
        for row, step in enumerate(STEPS):
            mark, title = QLabel(), hint("")
            mark.setAlignment(Qt.AlignmentFlag.AlignHCenter)
            mark.setMinimumWidth(18)
            self._marks[step.key], self._titles[step.key] = mark, title
            grid.addWidget(mark, row, 0)
            grid.addWidget(title, row, 1)
        self.body.addLayout(grid)
        self.body.addWidget(self._make_current())
        self.body.addStretch(1)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Minimum)

        self.listen(self.steps.changed, self.refresh)
        self.on_close(self.steps.close)
        self.every(_LOOK_MS, self.steps.look)
        content = self.body.parentWidget()
        assert content is not None
        content.installEventFilter(self)
        self.refresh()

    def _share_place(self, dock: QDockWidget) -> None:
        """Lie above what is docked already: Qt lays a new dock below."""
        window = dock.parent()
        if not isinstance(window, QMainWindow) or dock.isFloating():
            return
        area = window.dockWidgetArea(dock)
        docked = [one for one in window.findChildren(QDockWidget) if not (one.isHidden() or one.isFloating())]
        others = [other for other in docked if other is not dock and window.dockWidgetArea(other) == area]
        bars = window.findChildren(QTabBar, options=Qt.FindChildOption.FindDirectChildrenOnly)
        titles = [bar.tabText(number) for bar in bars for number in range(bar.count())]
        others.sort(key=lambda other: titles.index(other.windowTitle()) if other.windowTitle() in titles else -1)
        in_front = [other for other in others if not other.visibleRegion().isEmpty()]
        # They follow below one another; those that were tabs of one place are so again.
        tabs = {other: window.tabifiedDockWidgets(other) for other in others}
        lowest = dock
        for number, other in enumerate(others):
            beside = next((one for one in others[:number] if one in tabs[other]), None)
            if beside is not None:
                window.tabifyDockWidget(beside, other)
            else:
                window.splitDockWidget(lowest, other, Qt.Orientation.Vertical)
                lowest = other
        for other in in_front:
            QTimer.singleShot(0, other, other.raise_)

    def _make_current(self) -> QWidget:
        current = QWidget()
        layout = QVBoxLayout(current)
        layout.setContentsMargins(0, 2, 0, 0)
        layout.setSpacing(4)
        self._text = hint("")
        layout.addWidget(self._text)
        row = QHBoxLayout()
        self._button = QPushButton()
        self._button.clicked.connect(self.go)
        self._again_button = QPushButton("Begin again")
        self._again_button.setToolTip("Take a fresh copy of the region; the one before is kept under another name")
        self._again_button.clicked.connect(lambda: self._attempt(self.steps.begin_again))
        row.addWidget(self._button, 2)
        row.addWidget(self._again_button, 1)
        layout.addLayout(row)
        return current

    def go(self) -> Any:
        """Do what the button of the current step says; gives the widget that was opened."""
        step = self.steps.current
        if step is None:
            return self.show_widget("Train")
        if step.key == "open":
            self._attempt(self.steps.open)
            return None
        widget = self.show_widget(step.widget)
        self._make_ready(step, widget)
        return widget

    def _make_ready(self, step: FirstStep, widget: Any) -> None:
        """Set what a beginner would have to look for."""
        if step.key == "predict":
            widget.choose(scope="all", tta="own")
            widget.use_bundled()
        elif step.key == "accept":
            widget.choose(region="unlabelled")
            widget.show_take_over()
        elif step.key == "fix":
            self.steps.show_unmapped()
        elif step.key == "train":
            widget.fill(recipe="quick")

    def _attempt(self, call: Any) -> None:
        self.tell("")
        self.attempt(call)
        self.refresh()

    def refresh(self) -> None:
        """Show which steps are done, and what the next one asks for."""
        done, current, news = self.steps.done, self.steps.current, self.steps.news
        shown = (done, current, news, self.steps.begun)
        if shown == self._shown:
            return
        self._shown = shown
        for number, step in enumerate(STEPS, 1):
            is_done = step.key in done
            self._marks[step.key].setText("✓" if is_done else str(number))
            self._titles[step.key].setText(f"<b>{step.title}</b>" if step is current else step.title)
            for label in (self._marks[step.key], self._titles[step.key]):
                label.setEnabled(is_done or step is current)
        self._text.setText(f"{current.text} {news}".strip() if current is not None else DONE_TEXT)
        self._button.setText(current.button if current is not None else "Go to Train")
        if current is STEPS[0] and self.steps.begun:
            self._button.setText("Open it and go on")
        self._again_button.setVisible(self.steps.begun)
        # How high it is now is known once the window has laid it out.
        QTimer.singleShot(0, self._post, self._fit)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """A theme that comes later makes the button higher."""
        if event.type() == QEvent.Type.LayoutRequest:
            QTimer.singleShot(0, self._post, self._fit)
        return False

    def resizeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Another width breaks the lines elsewhere."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        """Be as high as the text: what is left belongs to the widget below."""
        content = self.body.parentWidget()
        if content is None or not self._open:
            return
        height = (
            self.body.heightForWidth(self.width()) if self.body.hasHeightForWidth() else content.sizeHint().height()
        )
        notice = self._notice.heightForWidth(self.width() - 12) + 12 if self._notice.isVisibleTo(self) else 0
        # The empty foot and the notice keep their margins.
        self.setFixedHeight(height + notice + 4 * MARGIN_PX + 4)
