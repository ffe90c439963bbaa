"""Errors that nobody foresaw: one window with what happened, what to do, and the details to copy.

All of them come here through napari's own notifications, from slots, threads and workers alike. Those that never
touched the plugin's code are left to napari alone; those that a person can mend are sentences in the widgets.
"""

import logging
import weakref
from collections.abc import Mapping
from typing import Any, Protocol

from qtpy.QtCore import QObject, Qt, QUrl
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtGui import QDesktopServices, QFontDatabase
from qtpy.QtWidgets import (
    QApplication,
    QDialog,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QStyle,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.core.diagnosis import diagnosis, is_ours, sentence
from napari_glacier.core.errors import GlacierError
from napari_glacier.core.log_file import log_path

logger = logging.getLogger(__name__)

_SIZE_PX = (720, 420)
_ICON_PX = 32
_MEND = (
    "This should not have happened. What you drew is safe in the journal, and a training run goes on. Try once more; "
    "if it happens again, restart napari, and send the details to whoever maintains the plugin. They hold no pixels, "
    "but paths of this machine."
)


class Witness(Protocol):
    """Who can tell what was open when something went wrong."""

    def facts(self) -> Mapping[str, str]:
        """Names and values for the report."""
        ...

    def window(self) -> QWidget:
        """The window over which to tell of it."""
        ...


class ErrorDialog(QDialog):
    """One error, or the same one several times.

    Parameters
    ----------
    parent : QWidget
    """

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Something went wrong")
        self.resize(*_SIZE_PX)
        self._sentence = ""
        self._times = 0
        layout = QVBoxLayout(self)
        top = QHBoxLayout()
        icon = QLabel()
        style = self.style()
        if style is not None:
            warning = style.standardIcon(QStyle.StandardPixmap.SP_MessageBoxWarning)
            icon.setPixmap(warning.pixmap(_ICON_PX, _ICON_PX))
        self.said = QLabel()
        self.said.setWordWrap(True)
        self.said.setTextFormat(Qt.TextFormat.PlainText)
        self.said.setStyleSheet("QLabel { font-weight: bold; }")
        self.said.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        top.addWidget(icon, 0, Qt.AlignmentFlag.AlignTop)
        top.addWidget(self.said, 1)
        layout.addLayout(top)
        mend = QLabel(_MEND)
        mend.setWordWrap(True)
        layout.addWidget(mend)
        self.details = QPlainTextEdit()
        self.details.setReadOnly(True)
        self.details.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.details.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        layout.addWidget(self.details, 1)
        row = QHBoxLayout()
        self.copy_button, self.folder_button, close = (
            QPushButton("Copy details"),
            QPushButton("Open log folder"),
            QPushButton("Close"),
        )
        self.copy_button.setToolTip("Put the text above on the clipboard")
        self.folder_button.setToolTip(str(log_path().parent))
        self.copy_button.clicked.connect(self.copy)
        self.folder_button.clicked.connect(self.open_folder)
        close.clicked.connect(self.close)
        close.setDefault(True)
        row.addWidget(self.copy_button)
        row.addWidget(self.folder_button)
        row.addStretch(1)
        row.addWidget(close)
        layout.addLayout(row)

    def report(self, error: BaseException, facts: Mapping[str, str]) -> None:
        """Show an error; the same one again is counted, another one takes its place."""
        said = sentence(error)
        same = self.isVisible() and said == self._sentence
        self._times = self._times + 1 if same else 1
        self._sentence = said
        self.said.setText(said if self._times == 1 else f"{said}\n({self._times} times)")
        if not same:
            self.details.setPlainText(diagnosis(error, facts))
        self.show()
        self.raise_()

    def copy(self) -> None:
        """Put the details on the clipboard."""
        clipboard = QApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(self.details.toPlainText())
            self.copy_button.setText("Copied")

    def open_folder(self) -> None:
        """Show the folder of the log file in the system's file manager."""
        folder = log_path().parent
        if not folder.is_dir() or not QDesktopServices.openUrl(QUrl.fromLocalFile(str(folder))):
            self.folder_button.setText(str(folder))


class _Watch(QObject):
    """Listens to napari's notifications as long as a widget of the plugin is open."""

    # Errors come from any thread; a window is shown from one.
    caught = QtSignal(object)

    def __init__(self) -> None:
        super().__init__()
        # A window that is closed destroys its widgets without a word to them.
        self._witnesses: list[weakref.ref[Witness]] = []
        self.dialog: ErrorDialog | None = None
        self.caught.connect(self._show)

    def add(self, witness: Witness) -> None:
        self._witnesses.append(weakref.ref(witness))

    def remove(self, witness: Witness) -> None:
        self._witnesses = [known for known in self._witnesses if known() not in (witness, None)]

    @property
    def idle(self) -> bool:
        return not self._witnesses

    def listen(self, notification: Any) -> None:
        error = getattr(notification, "exception", None)
        if isinstance(error, BaseException) and not isinstance(error, GlacierError) and is_ours(error):
            logger.error("unexpected: %s", sentence(error), exc_info=error)
            self.caught.emit(error)

    def _show(self, error: BaseException) -> None:
        window: QWidget | None = None
        facts: dict[str, str] = {}
        for witness in [witness for known in self._witnesses if (witness := known()) is not None]:
            try:
                window = witness.window()
                facts.update(witness.facts())
            except RuntimeError:
                # Qt has destroyed it.
                self.remove(witness)
        if window is None:
            return
        if self.dialog is None or self.dialog.parent() is not window:
            self.drop_dialog()
            self.dialog = ErrorDialog(window)
            self.dialog.destroyed.connect(self._forget_dialog)
        self.dialog.report(error, facts)

    def drop_dialog(self) -> None:
        dialog = self.dialog
        self._forget_dialog()
        if dialog is not None:
            dialog.destroyed.disconnect(self._forget_dialog)
            dialog.close()
            dialog.deleteLater()

    def _forget_dialog(self) -> None:
        self.dialog = None


_watches: list[_Watch] = []


def watch(witness: Witness) -> None:
    """Tell of errors over this witness's window, until it is released or gone."""
    if not _watches:
        from napari.utils.notifications import notification_manager

        _watches.append(_Watch())
        notification_manager.notification_ready.connect(_watches[0].listen)
    _watches[0].add(witness)


def release(witness: Witness) -> None:
    """Ask this witness no more; with the last one the watch ends."""
    if not _watches:
        return
    _watches[0].remove(witness)
    if _watches[0].idle:
        from napari.utils.notifications import notification_manager

        ended = _watches.pop()
        notification_manager.notification_ready.disconnect(ended.listen)
        ended.drop_dialog()


def error_dialog() -> ErrorDialog | None:
    """The window of the last error, if one was shown."""
    return _watches[0].dialog if _watches else None
