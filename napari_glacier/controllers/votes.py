"""What each member says of a pixel that a person clicks on. No Qt.

A run keeps its class map, not what its members said: for a Landsat scene that would take gigabytes. A click asks
the same networks again, for the windows of the run's own grid that reach the pixel, so that the numbers are those
behind the map. What came of these windows is kept: the next click nearby is answered at once.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from psygnal import Signal

from napari_glacier.controllers.inference import InferenceController
from napari_glacier.controllers.layers import map_text
from napari_glacier.controllers.parts import Part, part_of
from napari_glacier.controllers.prediction_job import Made, Step
from napari_glacier.controllers.prediction_map import Area
from napari_glacier.core.data.mosaic import Mosaic
from napari_glacier.core.tiling import Window

if TYPE_CHECKING:
    from napari_glacier.core.classes import ClassScheme
    from napari_glacier.nn.store import Rows

# A press that moves no farther than this on the canvas is a click, not the beginning of a pan.
_CLICK_PX = 4


@dataclass(frozen=True, slots=True)
class Vote:
    """The class that a member gives, and how probable it holds it."""

    member: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Votes:
    """What an ensemble says of a pixel.

    Attributes
    ----------
    where : str
        The pixel, for people, in a line or two.
    shown_index : int
        The class that the Prediction layer shows.
    index : int
        The class of the mean.
    mean_K : tuple of float
        Probability of each class, averaged over members, views and windows.
    votes : tuple of Vote
    entropy, mutual_information : float
        Between 0 and 1.
    """

    where: str
    scheme: "ClassScheme"
    shown_index: int
    index: int
    mean_K: tuple[float, ...]
    votes: tuple[Vote, ...]
    entropy: float
    mutual_information: float


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A predicted pixel that carries data, and who predicted it."""

    made: Made
    scene: Mosaic
    number: int
    row: int
    col: int
    where: str

    @property
    def part(self) -> Part:
        """The pixel, in the windows of the scene's grid that reach it."""
        return part_of(self.number, self.scene, Window(self.row, self.col, 1, 1))


class Neighbourhood:
    """What the members said of the windows that reach a pixel.

    Parameters
    ----------
    question : Question
    """

    def __init__(self, question: Question) -> None:
        self.made, self.number = question.made, question.number
        self.names: tuple[str, ...] = ()
        self._around = _around(question.part)
        self._rows: list[Rows] = []

    def add(self, rows: "Rows") -> None:
        """Take finished rows of these windows; with the first, what was there is forgotten."""
        if rows.start == 0:
            self._rows.clear()
        self._rows.append(rows)

    def answers(self, question: Question) -> bool:
        """Whether just these windows reach the pixel that is asked about."""
        return (self.made, self.number) == (question.made, question.number) and self._around == _around(question.part)

    def votes(self, question: Question, shown_index: int) -> Votes:
        """What the members say of a pixel in it."""
        row, col = question.row - self._around.row, question.col - self._around.col
        (rows,) = (rows for rows in self._rows if 0 <= row - rows.start < len(rows.index_hW))
        row -= rows.start
        assert rows.votes_MhW is not None
        assert rows.vote_probabilities_MhW is not None
        voted = zip(self.names, rows.votes_MhW[:, row, col], rows.vote_probabilities_MhW[:, row, col], strict=True)
        return Votes(
            where=question.where,
            scheme=self.made.scheme,
            shown_index=shown_index,
            index=int(rows.index_hW[row, col]),
            mean_K=tuple(float(p) for p in rows.probabilities_KhW[:, row, col]),
            votes=tuple(Vote(name, int(index), float(p)) for name, index, p in voted),
            entropy=float(rows.entropy_hW[row, col]),
            mutual_information=float(rows.mutual_information_hW[row, col]),
        )


class VotesController:
    """Listens to clicks on the canvas and answers them.

    A click counts while `asking` is on and the active layer is one that is only looked at: with a painting tool in
    hand clicks paint, and a drag pans.

    Parameters
    ----------
    inference : InferenceController

    Signals
    -------
    clicked(position) : in world coordinates
    """

    clicked = Signal(object)

    def __init__(self, inference: InferenceController) -> None:
        self.inference = inference
        self.workspace = inference.workspace
        self._asking = False
        self._near: Neighbourhood | None = None
        self.workspace.viewer.mouse_drag_callbacks.append(self._on_press)
        self.workspace.session_changed.connect(self._on_session)

    @property
    def asking(self) -> bool:
        """Whether clicks are questions."""
        return self._asking

    @asking.setter
    def asking(self, on: bool) -> None:
        self._asking = on
        layer = self.workspace.prediction_layer
        if on and layer is not None:
            # The layer in hand is then one that no click can change.
            self.workspace.viewer.layers.selection.active = layer

    def question(self, position: npt.ArrayLike) -> Question | str:
        """What is asked by a click, or why nothing can be said there.

        Parameters
        ----------
        position : sequence of float
            In the viewer's world coordinates.
        """
        session, shown, layer = self.workspace.session, self.inference.prediction, self.workspace.prediction_layer
        if session is None or shown is None or layer is None:
            return "Nothing is predicted yet. Run a model first, then click on the map."
        point = np.asarray(position, float)
        *lead, row, col = (round(float(x)) for x in layer.world_to_data(point[-layer.ndim :]))
        number = lead[0] if session.stacked else session.scene_number
        if not (0 <= number < len(session.scenes)):
            return "There is no scene there. Click on the map."
        scene = session.scenes[number]
        height, width = scene.shape
        if not (0 <= row < height and 0 <= col < width):
            return "That is outside the scene. Click on the map."
        where = f"Row {row}, column {col}"
        georef = None if session.stacked else session.georef()
        where = f"{scene.name}, {where}" if session.stacked else where
        where += f"\n{map_text(georef, tuple(point))}" if georef is not None else ""
        area = shown.area_at(number, row, col)
        if area is None:
            return f"{where}\nNot predicted (yet)."
        silent = _why_silent(area, shown.is_known(number, row, col))
        if silent:
            return f"{where}\n{silent}"
        return Question(area.made, scene, number, row, col, where)

    def known(self, question: Question) -> Votes | None:
        """The answer, where the windows around the pixel were asked before."""
        near = self._near
        return self._votes(near, question) if near is not None and near.answers(question) else None

    def job(self, question: Question) -> Generator[Step, None, Neighbourhood]:
        """Ask the members about the windows around a pixel; in a worker thread, closed between steps to cancel.

        Raises
        ------
        GlacierError
            If the networks had to be loaded again and are not there, or memory runs out.
        """
        return (yield from self.inference.alone(_ask(question)))

    def keep(self, near: Neighbourhood, question: Question) -> Votes | None:
        """Remember what a job brought, and give the answer; None where the prediction is no longer shown."""
        shown = self.inference.prediction
        area = shown.area_at(question.number, question.row, question.col) if shown is not None else None
        if area is None or area.made is not question.made:
            return None
        self._near = near
        self.inference.keep_networks(question.made)
        return self._votes(near, question)

    def close(self) -> None:
        """Disconnect from the viewer and the workspace."""
        self._on_session(None)
        self.workspace.session_changed.disconnect(self._on_session, missing_ok=True)
        callbacks = self.workspace.viewer.mouse_drag_callbacks
        if self._on_press in callbacks:
            callbacks.remove(self._on_press)

    def _votes(self, near: Neighbourhood, question: Question) -> Votes | None:
        shown = self.inference.prediction
        if shown is None:
            return None
        return near.votes(question, shown.class_at(question.number, question.row, question.col))

    def _on_press(self, viewer: Any, event: Any) -> Generator[None, None, None]:
        layer = viewer.layers.selection.active
        if not self._asking or event.button != 1 or event.modifiers:
            return
        if layer is not None and str(layer.mode) != "pan_zoom":
            return
        position, start = tuple(event.position), np.asarray(event.pos, float)
        moved_px = 0.0
        yield
        while event.type == "mouse_move":
            moved_px = max(moved_px, float(np.abs(np.asarray(event.pos, float) - start).max()))
            yield
        if moved_px <= _CLICK_PX:
            self.clicked.emit(position)

    def _on_session(self, session: Any) -> None:
        self._near = None


def _why_silent(area: Area, known: bool) -> str:
    """Why nobody can be asked about a predicted pixel; empty where the networks can."""
    if not known:
        return "No data: the bands hold nothing there. The map calls it background without asking anyone."
    if area.made.folder is not None:
        return (
            f"This map was read from {area.made.folder.name}: there are no networks to ask. Predict the tile in the "
            "middle, then click again."
        )
    return ""


def _ask(question: Question) -> Generator[Step, None, Neighbourhood]:
    predictor = question.made.need_predictor()
    near = Neighbourhood(question)
    near.names = predictor.ensemble.member_names
    run = predictor.run(question.part.scene, votes=True, on_rows=near.add)
    count = len(predictor.ensemble.members)
    asked = "the member" if count == 1 else f"{count} members"
    try:
        for progress in run:
            total = 0 if progress.preparing else progress.total
            yield Step(progress.done, total, progress.message if progress.preparing else f"Asking {asked}…")
    finally:
        run.close()
    return near


def _around(part: Part) -> Window:
    top, left = part.target.row - part.inside.row, part.target.col - part.inside.col
    return Window(top, left, *part.scene.shape)
