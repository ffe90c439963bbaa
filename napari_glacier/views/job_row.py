"""Run and Cancel, with the progress of a job below them."""

from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget


class JobRow(QWidget):
    """What starts a job in a thread, says how far it is, and ends it."""

    run_asked = QtSignal()
    cancel_asked = QtSignal()

    def __init__(self) -> None:
        super().__init__()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        row = QHBoxLayout()
        self.run_button, self.cancel_button = QPushButton("Run"), QPushButton("Cancel")
        self.run_button.clicked.connect(self.run_asked)
        self.cancel_button.clicked.connect(self.cancel_asked)
        row.addWidget(self.run_button, 2)
        row.addWidget(self.cancel_button, 1)
        layout.addLayout(row)
        self.bar = QProgressBar()
        self._doing = QLabel()
        self._doing.setWordWrap(True)
        layout.addWidget(self.bar)
        layout.addWidget(self._doing)
        self.show_running(False)

    @property
    def said(self) -> str:
        """What the job was last said to do."""
        return self._doing.text()

    def begin(self, said: str) -> None:
        """A job has begun, of which no length is known yet."""
        self.bar.setMaximum(0)
        self._doing.setText(said)
        self.show_running(True)

    def show_running(self, running: bool, *, can_run: bool = True) -> None:
        """Offer what can be done: run, where there is something to run on, or cancel."""
        self.run_button.setEnabled(not running and can_run)
        self.cancel_button.setEnabled(running)
        self.bar.setVisible(running)
        self._doing.setVisible(running)

    def step(self, done: int, total: int, said: str) -> None:
        """Show how far the job is."""
        self.bar.setMaximum(total)
        self.bar.setValue(done)
        self._doing.setText(said)
