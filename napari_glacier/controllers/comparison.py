"""Champion against challenger: which models, on which tiles, and what the figures mean. No Qt."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from psygnal import Signal

from napari_glacier.controllers.layers import KEY, class_colormap, class_features, world_placement
from napari_glacier.controllers.models import ModelChoice, known_models
from napari_glacier.controllers.workspace import Workspace
from napari_glacier.core.errors import DataError
from napari_glacier.core.models.comparison import CHANGES, Row
from napari_glacier.core.models.promotion import (
    BUNDLED,
    HISTORY_FILE,
    Champion,
    Entry,
    champion,
    promote,
    roll_back,
    standing,
)
from napari_glacier.core.wording import counted, listed

if TYPE_CHECKING:
    from napari_glacier.controllers.session import Session
    from napari_glacier.nn.comparing import Match
    from napari_glacier.nn.prediction import Progress

_ROLE = "changes"


@dataclass(frozen=True, slots=True, eq=False)
class Contest:
    """Two models that are to be compared on the labels of a dataset."""

    session: "Session"
    champion: ModelChoice
    challenger: ModelChoice
    device: str


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table, as texts; `sign` is 1 where the challenger is clearly better, -1 worse, else 0."""

    title: str
    champion: str
    challenger: str
    difference: str
    interval: str
    sign: int


class ComparisonController:
    """Decides what the champion and challenger part of the Train widget does.

    Parameters
    ----------
    workspace : Workspace

    Signals
    -------
    changed() : another result, or none any more
    """

    changed = Signal()

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.match: Match | None = None
        self.contest: Contest | None = None
        workspace.session_changed.connect(self._on_session)

    def choices(self) -> list[ModelChoice]:
        """Models that can be compared: those that the Predict widget offers."""
        return known_models(self.workspace.session)

    def prepare(self, champion: ModelChoice, challenger: ModelChoice, device: str) -> Contest:
        """Fix what is to be compared.

        Raises
        ------
        DataError
            If no dataset is open, or a model would be compared with itself.
        """
        session = self.workspace.session
        if session is None:
            raise DataError("No dataset is open. Open one first (Data widget).")
        if champion.source == challenger.source:
            raise DataError("Champion and challenger are the same model. Choose two.")
        return Contest(session, champion, challenger, device)

    @staticmethod
    def job(contest: Contest) -> "Generator[Progress, None, Match]":
        """Predict and compare; in a worker thread, closed between steps to cancel.

        Raises
        ------
        GlacierError
            If there is no tile that neither model has learnt from, or a model does not fit.
        """
        from napari_glacier.nn.comparing import compare_models
        from napari_glacier.nn.ensemble import resolve_models
        from napari_glacier.nn.prediction import Progress

        yield Progress(0, 0, "Loading the models", preparing=True)
        ensembles = [
            resolve_models(choice.source) if choice.source is not None else resolve_models()
            for choice in (contest.champion, contest.challenger)
        ]
        return (yield from compare_models(contest.session.dataset, *ensembles, device=contest.device))

    def take(self, contest: Contest, match: "Match") -> None:
        """Keep a result and show the pixels that changed; on the GUI thread."""
        if self.workspace.session is not contest.session:
            return
        self.contest, self.match = contest, match
        self.show_changes()
        self.changed.emit()

    def lines(self, pixel_set: str, score: str) -> list[Line]:
        """The MCC and one score of each class, over one set of pixels."""
        if self.match is None:
            return []
        comparison = self.match.comparison
        rows = [row for row in comparison.rows[pixel_set] if row.score in ("mcc", score)]
        return [_line(row, comparison.is_clear(row)) for row in rows]

    def legend(self) -> list[tuple[str, str, str]]:
        """Colour, meaning and number of pixels of each kind of change."""
        if self.match is None:
            return []
        tiles = self.match.comparison.tiles
        right, wrong = sum(tile.right for tile in tiles), sum(tile.wrong for tile in tiles)
        numbers = (right, wrong, sum(tile.changed for tile in tiles) - right - wrong)
        named = zip(CHANGES.colors[1:], CHANGES.class_names[1:], numbers, strict=True)
        return [(color, name, f"{number:,} px") for color, name, number in named]

    def cautions(self) -> list[str]:
        """What to keep in mind of the figures, the gravest first."""
        if self.match is None or self.contest is None:
            return []
        comparison = self.match.comparison
        said = [*self.match.warnings, comparison.caution()]
        ids = [tile.tile for tile in comparison.tiles]
        waiting = [tile_id for tile_id in self.contest.session.unsaved() if tile_id in ids]
        if waiting:
            said.insert(0, f"The mask files are the truth: corrections of {listed(waiting)} are not in them yet.")
        return said

    def tiles_text(self) -> str:
        """On which tiles the models were compared."""
        if self.match is None:
            return ""
        ids = [tile.tile for tile in self.match.comparison.tiles]
        return f"Compared on {counted(len(ids), 'tile')}: {listed(ids, 6)}."

    def show_changes(self) -> bool:
        """Lay the map of changed pixels over the scene on screen; whether any of its tiles were compared."""
        session, match = self.workspace.session, self.match
        self._remove_layer()
        if session is None or match is None:
            return False
        stacked = session.stacked
        changes = np.zeros(session.mask.shape, np.uint8)
        there = False
        for number, scene in enumerate(session.current_scenes):
            for place in scene.placements:
                if place.tile.id in match.changes:
                    changes[((number,) if stacked else ()) + place.slices] = match.changes[place.tile.id]
                    there = True
        if not there:
            return False
        viewer = self.workspace.viewer
        layer = viewer.add_labels(
            changes,
            name="Changed pixels",
            colormap=class_colormap(CHANGES),
            features=class_features(CHANGES),
            opacity=0.9,
            metadata={KEY: {"session": session, "role": _ROLE}},
            **world_placement(None if stacked else session.georef(), 3 if stacked else 2),
        )
        layer.editable = False
        # Above the labels, so that it is seen; what is painted on stays the same.
        viewer.layers.selection.active = self.workspace.labels_layer
        return True

    # -- promotion

    @property
    def champion(self) -> Champion | None:
        """The model that the open dataset works with; None where no dataset is open or its history is damaged."""
        session = self.workspace.session
        try:
            return champion(session.root) if session is not None else None
        except DataError:
            return None

    @property
    def champion_text(self) -> str:
        """What the dataset works with, since when and by whom; or what is wrong with its history."""
        session = self.workspace.session
        if session is None:
            return ""
        try:
            found = champion(session.root)
        except DataError as error:
            return f"⚠ {error}"
        if found.entry is None:
            return "This dataset works with the bundled ensemble."
        return f"This dataset works with {found.title}, promoted on {found.entry.time[:10]} by {found.entry.who}."

    @property
    def can_promote(self) -> bool:
        """Whether the challenger of the last comparison can take over."""
        return self.contest is not None

    @property
    def can_roll_back(self) -> bool:
        """Whether there is a champion to go back from."""
        session = self.workspace.session
        try:
            return session is not None and bool(standing(session.root))
        except DataError:
            return False

    def promotion_text(self) -> str:
        """What a person should know before they promote the challenger; a warning where a class gets worse."""
        assert self.match is not None
        assert self.contest is not None
        now, against = self.champion, self.contest.champion
        said = [self.match.comparison.warning()]
        if now is not None and now.path != against.source:
            said.append(f"It was compared with {against.title}, while the champion is {now.title}.")
        said.append(self.match.comparison.caution())
        return "\n\n".join(text for text in said if text)

    def promote_job(self) -> Generator[None, None, Entry]:
        """Keep the challenger with the dataset and make it the champion; in a worker thread.

        Raises
        ------
        GlacierError
            If its files do not load, or the dataset's folder cannot be written.
        """
        assert self.match is not None
        assert self.contest is not None
        contest, figures = self.contest, self.match.as_dict()
        from napari_glacier.nn.shelving import model_files

        yield
        source, title = contest.challenger.source, contest.challenger.title.removeprefix("★ ")
        return promote(contest.session.root, None if source is None else model_files(source, title), figures)

    def promoted(self, entry: Entry) -> str:
        """Tell everyone of a promotion; on the GUI thread. Gives a sentence."""
        self.workspace.models_changed.emit()
        self.changed.emit()
        return f"{entry.title} is the champion now; Roll back takes it back. It is noted in {HISTORY_FILE}."

    def roll_back(self) -> str:
        """Go back to the champion before; gives a sentence.

        Raises
        ------
        GlacierError
            If there is none, or the dataset's folder cannot be written.
        """
        session = self.workspace.session
        if session is None:
            raise DataError("No dataset is open. Open one first (Data widget).")
        entry = roll_back(session.root)
        self.workspace.models_changed.emit()
        self.changed.emit()
        stays = "" if entry.before == BUNDLED else f" The model before stays in {entry.before}."
        return f"The dataset works with {entry.title} again.{stays}"

    def close(self) -> None:
        """Disconnect from the workspace."""
        self.workspace.session_changed.disconnect(self._on_session, missing_ok=True)

    def _remove_layer(self) -> None:
        for layer in [layer for layer in self.workspace.viewer.layers if _is_ours(layer)]:
            self.workspace.remove_layer(layer)

    def _on_session(self, session: Any) -> None:
        self.match = self.contest = None
        self.changed.emit()


def _is_ours(layer: Any) -> bool:
    tag = layer.metadata.get(KEY)
    return isinstance(tag, dict) and tag.get("role") == _ROLE


def _line(row: Row, clear: bool) -> Line:
    sign = 0 if row.difference is None or not clear else 1 if row.difference > 0 else -1
    return Line(
        row.class_name or "MCC",
        _number(row.champion),
        _number(row.challenger),
        difference="" if row.difference is None else f"{row.difference:+.3f}".replace("-", "−"),
        interval="" if row.low is None or row.high is None else f"{row.low:+.3f} … {row.high:+.3f}".replace("-", "−"),
        sign=sign,
    )


def _number(value: float | None) -> str:
    return "absent" if value is None else f"{value:.3f}"
