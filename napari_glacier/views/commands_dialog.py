"""Commands to copy into a terminal."""

from qtpy.QtGui import QFontDatabase
from qtpy.QtWidgets import QApplication, QDialog, QHBoxLayout, QPlainTextEdit, QPushButton, QVBoxLayout, QWidget

_SIZE_PX = (760, 430)


class CommandsDialog(QDialog):
    """Shows commands, and puts them on the clipboard.

    Parameters
    ----------
    text : str
    parent : QWidget
    """

    def __init__(self, text: str, parent: QWidget) -> None:
        super().__init__(parent)
        self.setWindowTitle("Commands")
        self.resize(*_SIZE_PX)
        layout = QVBoxLayout(self)
        self._text = QPlainTextEdit(text)
        self._text.setReadOnly(True)
        self._text.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont))
        layout.addWidget(self._text)
        row = QHBoxLayout()
        copy, close = QPushButton("Copy"), QPushButton("Close")
        copy.setToolTip("What is selected, else everything")
        copy.clicked.connect(self.copy)
        close.clicked.connect(self.close)
        row.addStretch(1)
        row.addWidget(copy)
        row.addWidget(close)
        layout.addLayout(row)

    def copy(self) -> None:
        """Put what is selected, else everything, on the clipboard."""
        selected = self._text.textCursor().selection().toPlainText()
        clipboard = QApplication.clipboard()
        assert clipboard is not None
        clipboard.setText(selected or self._text.toPlainText())
