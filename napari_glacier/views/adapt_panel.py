"""The part of the Correct widget that lets a copy of a model learn from what was just corrected."""

from collections.abc import Callable
from typing import Any

from qtpy.QtWidgets import QLabel, QProgressBar, QPushButton

from napari_glacier.controllers.adapting import AdaptController
from napari_glacier.views.desk_panel import DeskPanel
from napari_glacier.views.pieces import ShrinkingBox


class AdaptPanel(DeskPanel):
    """Choose a model, let it learn, see what would change, keep or drop.

    Parameters
    ----------
    controller : AdaptController
    attempt, tell : callable
        As of `DeskPanel`.
    """

    def __init__(
        self,
        controller: AdaptController,
        attempt: Callable[[Callable[[], Any]], Any],
        tell: Callable[[str], None],
    ) -> None:
        super().__init__(attempt, tell)
        self._adapting = controller
        self._titles: list[str] = []
        self._model = ShrinkingBox(8)
        self._model.setToolTip("The model that a copy is made of; it stays as it is")
        self._learn = QPushButton("Learn from me now")
        self._learn.setToolTip(
            "Let a copy of the model learn the corrected pixels, and repeat its old answers elsewhere. Labels stay."
        )
        self._learn.clicked.connect(self.learn)
        self._column.addWidget(self._model)
        self._column.addWidget(self._learn)
        self._said = QLabel()
        self._said.setWordWrap(True)
        self._column.addWidget(self._said)
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setFixedHeight(8)
        self._column.addWidget(self._bar)
        choices = self._add_row()
        self._take, self._keep, self._drop = (QPushButton(text) for text in ("Keep, take over", "Keep", "Drop"))
        self._take.setToolTip(
            "Add the new model to the list of models of this dataset, and give the labels what it would change; what "
            "was drawn or found right stays"
        )
        self._keep.setToolTip("Add the new model to the list of models of this dataset")
        self._drop.setToolTip("Delete the new model; nothing else changes")
        self._cancel = QPushButton("Cancel")
        self._take.clicked.connect(lambda: self._keep_by(self._adapting.keep_and_take_over))
        self._keep.clicked.connect(self.keep)
        self._drop.clicked.connect(self.drop)
        self._cancel.clicked.connect(lambda: self._attempt(self._adapting.cancel))
        for button in (self._take, self._keep, self._drop, self._cancel):
            button.setMinimumWidth(1)
            choices.addWidget(button)
        self.refresh()

    def refresh(self) -> None:
        """Show the models, how far learning is, and what came of it."""
        titles = [choice.title for choice in self._adapting.models()]
        if titles != self._titles:
            chosen = self._model.currentText()
            self._titles = titles
            self._model.clear()
            self._model.addItems(titles)
            self._model.setCurrentIndex(
                titles.index(chosen) if chosen in titles else min(self._adapting.usual_model, len(titles) - 1)
            )
        state = self._adapting.state
        done, total = self._adapting.progress
        said = self._adapting.sentence
        self._said.setText(f"⚠ {said}" if state == "failed" else said)
        self._said.setVisible(bool(said))
        self._bar.setVisible(state == "working")
        self._bar.setRange(0, total)
        self._bar.setValue(done)
        self._learn.setEnabled(state != "working" and bool(titles))
        self._model.setEnabled(state != "working")
        for button, where in (
            (self._take, "ready"),
            (self._keep, "ready"),
            (self._drop, "ready"),
            (self._cancel, "working"),
        ):
            button.setVisible(state == where)

    def learn(self) -> None:
        """Start learning with the model chosen."""
        choices = self._adapting.models()
        number = self._model.currentIndex()
        if 0 <= number < len(choices):
            self._attempt(lambda: self._adapting.start(choices[number]))

    def keep(self) -> None:
        """Keep the new model."""
        self._keep_by(self._adapting.keep)

    def _keep_by(self, way: Callable[[], str]) -> None:
        said = self._attempt(way)
        if said:
            self._tell(said)

    def drop(self) -> None:
        """Drop the new model."""
        self._attempt(self._adapting.drop)
        self._tell("Dropped; nothing changed.")
