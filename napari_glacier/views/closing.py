"""A question before a window is closed with strokes that are in no mask file yet."""

from typing import Any

from qtpy.QtCore import QEvent, Qt, QThread
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QApplication, QMessageBox, QWidget

from napari_glacier.controllers.session import Session
from napari_glacier.core.errors import GlacierError
from napari_glacier.core.wording import counted
from napari_glacier.views.window_bound import WindowBound


class ClosingQuestion(WindowBound):
    """Sees a window's close event before the window does, and asks where strokes are not saved."""

    def __init__(self, window: QWidget, viewer: Any) -> None:
        super().__init__(window, viewer)
        self._asking = False
        window.installEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 - Qt's name
        """Hold a close event back where the person wants to stay."""
        if event.type() != QEvent.Type.Close or not isinstance(watched, QWidget) or not _somebody_is_there():
            return False
        if self._asking:
            # The question is on screen already.
            event.ignore()
            return True
        if self._may_close(watched):
            return False
        event.ignore()
        return True

    def _may_close(self, window: QWidget) -> bool:
        session = self.workspace.session if self.workspace is not None else None
        if session is None or session.closed or session.read_only:
            return True
        self._asking = True
        try:
            try:
                session.commit()
            except GlacierError as error:
                return _ask_to_lose(window, error)
            waiting = session.unsaved()
            if not waiting:
                return True
            answer = _ask(window, session, len(waiting))
        finally:
            self._asking = False
        if answer == QMessageBox.StandardButton.Save:
            return _save(window, session)
        return answer == QMessageBox.StandardButton.Discard


def _somebody_is_there() -> bool:
    """Whether the window is in a person's hands: a script that closes its own viewer runs no event loop then."""
    thread = QThread.currentThread()
    return thread is not None and thread.loopLevel() > 0


def _ask_to_lose(window: QWidget, error: GlacierError) -> bool:
    """Whether to close though the last strokes could not be recorded."""
    answer = QMessageBox.warning(
        window,
        "The last strokes are not recorded",
        f"{error}\n\nClosing now loses what was drawn since. Close all the same?",
        QMessageBox.StandardButton.Close | QMessageBox.StandardButton.Cancel,
        QMessageBox.StandardButton.Cancel,
    )
    return bool(answer == QMessageBox.StandardButton.Close)


def _ask(window: QWidget, session: Session, num_tiles: int) -> QMessageBox.StandardButton:
    box = QMessageBox(window)
    box.setIcon(QMessageBox.Icon.Question)
    box.setWindowTitle("Save corrections?")
    has = "has" if num_tiles == 1 else "have"
    box.setText(
        f"{counted(num_tiles, 'tile')} of {session.root.name} {has} corrections that are not in the mask files yet."
    )
    box.setInformativeText(
        "They are safe either way: the journal keeps every stroke, and the next opening brings them back. "
        "Saving writes them into the mask files, where training and other programs see them."
    )
    box.addButton(QMessageBox.StandardButton.Save)
    anyway = box.addButton(QMessageBox.StandardButton.Discard)
    box.addButton(QMessageBox.StandardButton.Cancel)
    if anyway is not None:
        # Nothing is discarded: neither the word nor the picture of a dustbin would be true.
        anyway.setText("Close anyway")
        anyway.setIcon(QIcon())
    box.setDefaultButton(QMessageBox.StandardButton.Save)
    box.setEscapeButton(QMessageBox.StandardButton.Cancel)
    return QMessageBox.StandardButton(box.exec())


def _save(window: QWidget, session: Session) -> bool:
    """Write the mask files; where one cannot be written, say so and stay."""
    # The desk is no matter of whoever only looks at data.
    from napari_glacier.controllers.correction import summarise

    QApplication.setOverrideCursor(Qt.CursorShape.WaitCursor)
    try:
        summarise(session.save())
    except (GlacierError, OSError) as error:
        QApplication.restoreOverrideCursor()
        QMessageBox.warning(window, "Not saved", f"{error}\n\nThe strokes stay in the journal.")
        return False
    QApplication.restoreOverrideCursor()
    return True
