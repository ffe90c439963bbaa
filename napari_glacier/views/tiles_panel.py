"""The tiles of the open dataset: a list to search, filter and sort, and a map of where they lie."""

from collections.abc import Generator
from typing import Any

from qtpy.QtCore import QTimer
from qtpy.QtCore import Signal as QtSignal  # type: ignore[attr-defined]
from qtpy.QtWidgets import QHBoxLayout, QLabel, QLineEdit, QVBoxLayout, QWidget

from napari_glacier.controllers.footprints import REVIEW_COLORS, Footprints, footprints
from napari_glacier.controllers.gallery import Gallery, Seen, class_shares
from napari_glacier.controllers.tile_list import Filter, Key, TileList
from napari_glacier.core.correction.journal_schema import REVIEW_STATES
from napari_glacier.core.wording import counted
from napari_glacier.views.background import Background
from napari_glacier.views.base import hint
from napari_glacier.views.footprint_map import FootprintMap
from napari_glacier.views.pieces import ShrinkingBox
from napari_glacier.views.tile_table import EDITS, TileTable, make_table

# What is counted in the background is shown so often, not at every tile.
_SHOW_MS = 250


class TilesPanel(QWidget):
    """Lists the tiles and shows where they lie; pictures and counts are made in a thread.

    Signals
    -------
    tile_chosen(str), scene_chosen(int), failed(BaseException)
    counted() : more is known of `shares`
    """

    tile_chosen = QtSignal(str)
    scene_chosen = QtSignal(int)
    counted = QtSignal()
    failed = QtSignal(object)

    def __init__(self) -> None:
        super().__init__()
        self._session: Any = None
        self._tiles: TileList | None = None
        self._gallery: Gallery | None = None
        self._looking: Background | None = None
        self._placing: Background | None = None
        self._wanted: set[str] = set()
        self._order: tuple[Key, bool] = ("tile", False)

        tiles = QVBoxLayout(self)
        tiles.setContentsMargins(0, 4, 0, 0)
        tiles.setSpacing(4)
        self.scene = ShrinkingBox()
        self.scene.setToolTip("The tiles differ in size, so one is shown at a time")
        self.scene.activated.connect(self.scene_chosen.emit)
        tiles.addWidget(self.scene)
        tiles.addLayout(self._make_filters())
        self.model = TileTable(self, self._want_picture, self._sort)
        self.table = make_table(self.model)
        # By the mouse, or by Enter.
        for chosen in (self.table.clicked, self.table.activated):
            chosen.connect(lambda index: self.tile_chosen.emit(self.model.rows[index.row()].tile_id))
        tiles.addWidget(self.table, 1)
        self.count = QLabel()
        tiles.addWidget(self.count)
        self.map = FootprintMap()
        self.map.clicked.connect(self._fly_from_map)
        tiles.addWidget(self.map)
        self._map_note = hint("")
        self._map_note.setVisible(False)
        tiles.addWidget(self._map_note)
        self.states = hint("")
        tiles.addWidget(self.states)

        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_SHOW_MS)
        self._soon.timeout.connect(self._show_counts)
        self._due = QTimer(self)
        self._due.setSingleShot(True)
        self._due.timeout.connect(self._look)

    def _make_filters(self) -> QHBoxLayout:
        row = QHBoxLayout()
        self.text = QLineEdit()
        self.text.setPlaceholderText("Find…")
        self.text.setClearButtonEnabled(True)
        self.text.setMinimumWidth(60)
        self.text.textChanged.connect(self._filter)
        self.state = ShrinkingBox(6)
        self.state.setToolTip("Only tiles in this review state")
        self.state.addItem("Any state", "")
        for state in REVIEW_STATES:
            self.state.addItem(state, state)
        self.holds = ShrinkingBox(6)
        self.holds.setToolTip("Only tiles that hold a class, or that nobody has labelled")
        for box in (self.state, self.holds):
            box.currentIndexChanged.connect(self._filter)
        for widget in (self.text, self.state, self.holds):
            row.addWidget(widget, 1)
        return row

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to count, to paint or to show."""
        busy = self._looking is not None or self._placing is not None
        return not busy and not self._soon.isActive() and not self._due.isActive()

    def show_session(self, session: Any) -> None:
        """Begin with a dataset, or with none."""
        self.stop()
        self._session = session
        self._wanted.clear()
        self.map.show_prints(None)
        if session is None:
            self._tiles = self._gallery = None
            self.model.forget((), ())
            return
        self._tiles, self._gallery = TileList(session), Gallery(session)
        self.model.forget(session.scheme.colors, session.scheme.class_names)
        self._fill_holds(session.scheme.class_names)
        self.table.setColumnHidden(1, len(session.dataset.splits) < 2)
        one_by_one = len(session.scenes) > 1 and not session.stacked
        self.scene.setVisible(one_by_one)
        self.scene.clear()
        if one_by_one:
            self.scene.addItems([scene.name for scene in session.scenes])
            self.scene.setCurrentIndex(session.scene_number)
        self._placing = Background(self, _place(session.dataset.tiles), _no_steps, self._show_map, self.failed.emit)

    def stop(self) -> None:
        """End what is done in threads, without a word."""
        self._soon.stop()
        self._due.stop()
        for task in (self._looking, self._placing):
            if task is not None:
                task.cancel()
        self._looking = self._placing = None

    def refresh(self) -> None:
        """The journal has changed: strokes, review states, saving."""
        if self._tiles is None or self._gallery is None:
            return
        self._gallery.recount(self._tiles.refresh(self._gallery.counts))
        self._show_rows()
        self._look()

    def shares(self) -> list[tuple[str, str, float]]:
        """Colour, name and share of each class in the tiles that have labels; none where no tile has."""
        if self._tiles is None or self._gallery is None:
            return []
        labelled = self._tiles.labelled()
        return class_shares(self._session.scheme, self._gallery.total(labelled)) if labelled else []

    def choose(self, tile_id: str) -> None:
        """Mark a tile on the map."""
        self.map.choose(tile_id)

    def _fill_holds(self, class_names: tuple[str, ...]) -> None:
        self.holds.blockSignals(True)
        self.holds.clear()
        self.holds.addItem("All tiles", None)
        self.holds.addItem("No labels", -1)
        for index, name in enumerate(class_names[1:], 1):
            self.holds.addItem(f"With {name}", index)
        self.holds.blockSignals(False)

    def _show_counts(self) -> None:
        """More tiles have been counted."""
        if self._session is None or self._session.closed or self._tiles is None or self._gallery is None:
            return
        self._tiles.refresh(self._gallery.counts)
        self._show_rows()

    def _show_rows(self) -> None:
        assert self._tiles is not None
        key, descending = self._order
        rows = self._tiles.shown(self._chosen_filter(), key, descending)
        self.model.show_rows(rows)
        # Its room is the names'.
        self.table.setColumnHidden(EDITS, not any(row.unsaved for row in self._tiles.rows))
        total = len(self._tiles.rows)
        shown = f"{len(rows):,} of {total:,} tiles." if len(rows) < total else f"{counted(total, 'tile')}."
        self.count.setText(f"{shown} {'Click one to fly to it.' if rows else 'Change what is asked for above.'}")
        self.map.show_states(
            {row.tile_id: row.review for row in self._tiles.rows}, frozenset(row.tile_id for row in rows)
        )
        self.states.setText(
            "&nbsp; ".join(
                f"<span style='color: {REVIEW_COLORS[state]}'>■</span> {state} {number:,}"
                for state, number in self._tiles.states().items()
            )
        )
        self.counted.emit()

    def _chosen_filter(self) -> Filter:
        holds = self.holds.currentData()
        return Filter(
            self.text.text(),
            self.state.currentData() or "",
            holds if holds is not None and holds > 0 else None,
            unlabelled=holds == -1,
        )

    def _filter(self) -> None:
        if self._tiles is not None:
            self._show_rows()
            self.table.scrollToTop()

    def _sort(self, key: Key, descending: bool) -> None:
        self._order = (key, descending)
        self._filter()

    def _want_picture(self, tile_id: str) -> None:
        """A tile came into sight; asked for from within painting, so the work begins a moment later."""
        self._wanted.add(tile_id)
        if not self._due.isActive():
            self._due.start()

    def _look(self) -> None:
        """Make pictures and counts in a thread, until there is nothing to do."""
        if self._gallery is None:
            return
        self._gallery.want(self._wanted)
        self._wanted.clear()
        if self._looking is None and not self._gallery.idle:
            self._looking = Background(self, self._gallery.job(), self._on_seen, self._on_looked, self._on_look_error)

    def _on_seen(self, seen: Seen) -> None:
        if seen.picture is not None:
            self.model.show_picture(seen.tile_id, seen.picture)
        elif not self._soon.isActive():
            self._soon.start()

    def _on_looked(self, _: Any) -> None:
        self._looking = None
        # Something may have come in between the last look and now.
        self._look()

    def _on_look_error(self, error: BaseException) -> None:
        self._looking = None
        self.failed.emit(error)

    def _show_map(self, prints: Footprints) -> None:
        self._placing = None
        self.map.show_prints(prints)
        self._map_note.setText(prints.note)
        self._map_note.setVisible(bool(prints.note))

    def _fly_from_map(self, tile_id: str) -> None:
        number = self.model.number_of(tile_id)
        if number is not None:
            self.table.selectRow(number)
        self.tile_chosen.emit(tile_id)


def _place(tiles: Any) -> Generator[None, None, Footprints]:
    yield
    return footprints(tiles)


def _no_steps(_: Any) -> None:
    """A step says nothing by itself."""
