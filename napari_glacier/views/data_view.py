"""The Data widget: open a dataset, see what is in it, find its tiles, check it, fly to what matters."""

from collections.abc import Generator
from pathlib import Path
from threading import Event
from typing import Any

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.controllers.exchange import sample_copy, sample_folder
from napari_glacier.controllers.footprints import REVIEW_COLORS, Footprints, footprints
from napari_glacier.controllers.gallery import Gallery, Seen, class_shares
from napari_glacier.controllers.overview import known_findings, share_text, summary
from napari_glacier.controllers.session import Session
from napari_glacier.controllers.tile_list import Filter, Key, TileList
from napari_glacier.core.correction.journal import REVIEW_STATES
from napari_glacier.views.background import Background
from napari_glacier.views.base import GlacierView, group, hint
from napari_glacier.views.check_panel import CheckPanel
from napari_glacier.views.footprint_map import FootprintMap
from napari_glacier.views.pieces import Legend, ShareBar
from napari_glacier.views.settings import kept, settings
from napari_glacier.views.tile_table import TileTable, make_table

# What is counted in the background is shown so often, not at every tile.
_SHOW_MS = 250


def _let_shrink(box: QComboBox) -> None:
    """A box as wide as its place, not as its longest entry."""
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(14)


class DataView(GlacierView):
    """Open a dataset and look through its tiles.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._session: Any = None
        self._followed: list[tuple[Any, Any]] = []
        self._tiles: TileList | None = None
        self._gallery: Gallery | None = None
        self._opening: Background | None = None
        self._given_up = Event()
        self._looking: Background | None = None
        self._placing: Background | None = None
        self._wanted: set[str] = set()
        self._order: tuple[Key, bool] = ("tile", False)

        self.body.addWidget(self._make_opening())
        self.body.addWidget(self._make_empty())
        self.body.addWidget(self._make_facts(), 1)
        self.body.addStretch(0)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_SHOW_MS)
        self._soon.timeout.connect(self._show_counts)
        self._due = QTimer(self)
        self._due.setSingleShot(True)
        self._due.timeout.connect(self._look)

        self.listen(self.workspace.session_changed, self._on_session)
        self.on_close(self._leave)
        self.on_close(self._give_up)
        self.on_close(self._soon.stop)
        self.on_close(self._due.stop)
        self._path.setText(kept("data/folder", ""))
        self._on_session(self.workspace.session)

    def _make_opening(self) -> QWidget:
        opening = QVBoxLayout()
        row = QHBoxLayout()
        self._path = QLineEdit()
        self._path.setPlaceholderText("Folder of tiles or scene, or a .tar")
        self._path.returnPressed.connect(lambda: self.open_later(self._path.text()))
        self._open_button = QPushButton("Open…")
        self._open_button.clicked.connect(self._choose)
        row.addWidget(self._path, 1)
        row.addWidget(self._open_button)
        opening.addLayout(row)
        return group("Dataset", opening)

    def _make_empty(self) -> QWidget:
        self._empty = QWidget()
        empty = QVBoxLayout(self._empty)
        empty.setContentsMargins(0, 0, 0, 0)
        empty.addWidget(
            hint(
                "<b>No dataset is open.</b><br>Choose a folder above, or drop one on the window. It holds a folder "
                "for each band (B2, B3, B4, B6, B10, or Band1 to Band5), and one for the masks if there are any; or it "
                "is a Landsat or Sentinel-2 scene as it was downloaded. A .tar of Landsat opens without unpacking: "
                "drop it, or type its path."
            )
        )
        self._sample_button = QPushButton("Open the sample region")
        self._sample_button.setToolTip("A synthetic glacier region with masks, copied to your own folder")
        self._sample_button.clicked.connect(self.open_sample)
        empty.addWidget(self._sample_button)
        start = QPushButton("Start here")
        start.setToolTip("Five short steps through predicting, fixing and retraining")
        start.clicked.connect(lambda: self.show_widget("Start here"))
        empty.addWidget(start)
        return self._empty

    def _make_facts(self) -> QWidget:
        self._facts = QTabWidget()
        self._facts.setDocumentMode(True)
        self._facts.addTab(self._make_tiles(), "Tiles")
        self.check = CheckPanel()
        self.check.tile_chosen.connect(self._fly_from_finding)
        self.check.changed.connect(self._title_check)
        self.check.failed.connect(self.fail)
        self._facts.addTab(self.check, "Check")
        about_tab = QWidget()
        facts = QVBoxLayout(about_tab)
        facts.setContentsMargins(0, 4, 0, 0)
        self._form = QFormLayout()
        self._form.setHorizontalSpacing(10)
        self._form.setVerticalSpacing(2)
        about = QVBoxLayout()
        about.addLayout(self._form)
        self._bar = ShareBar()
        self._legend = Legend()
        about.addWidget(self._bar)
        about.addWidget(self._legend)
        facts.addWidget(group("What is in it", about))
        facts.addWidget(self._make_extras())
        facts.addStretch(1)
        self._facts.addTab(about_tab, "About")
        return self._facts

    def _make_extras(self) -> QWidget:
        row = QHBoxLayout()
        self._extra = QComboBox()
        self._extra.setToolTip("Indices, reflectance, temperature and clouds; below the labels, read as you look")
        self._extra.activated.connect(self._say_why_not)
        _let_shrink(self._extra)
        self._add_extra = QPushButton("Add layer")
        self._add_extra.clicked.connect(self.add_extra)
        row.addWidget(self._extra, 1)
        row.addWidget(self._add_extra)
        return group("More layers", row)

    def _make_tiles(self) -> QWidget:
        tab = QWidget()
        tiles = QVBoxLayout(tab)
        tiles.setContentsMargins(0, 4, 0, 0)
        tiles.setSpacing(4)
        self._scene = QComboBox()
        self._scene.setToolTip("The tiles differ in size, so one is shown at a time")
        self._scene.activated.connect(self._show_scene)
        _let_shrink(self._scene)
        tiles.addWidget(self._scene)
        row = QHBoxLayout()
        self._text = QLineEdit()
        self._text.setPlaceholderText("Find…")
        self._text.setClearButtonEnabled(True)
        self._text.setMinimumWidth(60)
        self._text.textChanged.connect(self._filter)
        self._state = QComboBox()
        self._state.setToolTip("Only tiles in this review state")
        self._state.addItem("Any state", "")
        for state in REVIEW_STATES:
            self._state.addItem(state, state)
        self._holds = QComboBox()
        self._holds.setToolTip("Only tiles that hold a class, or that nobody has labelled")
        for box in (self._state, self._holds):
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
            box.setMinimumContentsLength(6)
            box.currentIndexChanged.connect(self._filter)
        row.addWidget(self._text, 1)
        row.addWidget(self._state, 1)
        row.addWidget(self._holds, 1)
        tiles.addLayout(row)
        self._model = TileTable(self, self._want_picture, self._sort)
        self._table = make_table(self._model)
        self._table.clicked.connect(lambda index: self.fly_to(self._model.rows[index.row()].tile_id))
        tiles.addWidget(self._table, 1)
        self._count = QLabel()
        tiles.addWidget(self._count)
        self._map = FootprintMap()
        self._map.clicked.connect(self._fly_from_map)
        tiles.addWidget(self._map)
        self._map_note = hint("")
        self._map_note.setVisible(False)
        tiles.addWidget(self._map_note)
        self._states = hint("")
        tiles.addWidget(self._states)
        return tab

    def open(self, path: str | Path) -> None:
        """Open a dataset in this window, at once."""
        self.tell("")
        session = self.attempt(lambda: self.workspace.open(path))
        if session is not None:
            self._welcome(session)

    def open_later(self, path: str | Path) -> None:
        """The same, reading the headers of its files in a thread: of thousands that takes a while."""
        if not str(path).strip():
            self._choose()
            return
        if self._opening is not None:
            return
        self.tell(f"Opening {Path(path).name}…")
        self._open_button.setEnabled(False)
        self._given_up = Event()
        self._opening = Background(
            self, _opened(Path(path), self._given_up), _no_steps, self._on_opened, self._on_not_opened
        )

    def _on_opened(self, session: Any) -> None:
        self._opening = None
        self._open_button.setEnabled(True)
        self.tell("")
        self.attempt(lambda: self.workspace.show(session))
        if self.workspace.session is session:
            self._welcome(session)

    def _on_not_opened(self, error: BaseException) -> None:
        self._opening = None
        self._open_button.setEnabled(True)
        if isinstance(error, OSError):
            self.tell(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), error=True)
        else:
            self.fail(error)

    def _give_up(self) -> None:
        self._given_up.set()
        if self._opening is not None:
            self._opening.cancel()

    def _welcome(self, session: Any) -> None:
        settings().setValue("data/folder", str(session.root))
        # The signal comes later on the GUI thread; a person who clicks sees the answer at once.
        self._on_session(session)
        if session.recovered is not None:
            self.tell(f"{session.recovered.sentence} (Correct widget)")

    def open_sample(self) -> None:
        """Open a copy of the bundled region."""
        folder = self.attempt(lambda: sample_copy(sample_folder()))
        if folder is not None:
            self.open(folder)

    def add_extra(self) -> None:
        """Show the layer that is chosen; where it cannot be made, say why."""
        key = self._extra.currentData()
        if key is not None:
            self.tell("")
            self.attempt(lambda: self.workspace.add_extra(key))

    def _say_why_not(self) -> None:
        self.tell(self._extra.currentData(Qt.ItemDataRole.ToolTipRole) or "")

    def fly_to(self, tile_id: str) -> None:
        """Bring a tile to the middle of the view."""
        session = self.workspace.session
        if session is None:
            return
        number, place = session.find(tile_id)
        self._map.choose(tile_id)
        if not session.stacked and number != session.scene_number:
            self._show_scene(number)
        self.workspace.fly_to(place.row, place.col, place.tile.height, place.tile.width, plane=number)

    def _choose(self) -> None:
        start = self._path.text() or str(Path.home())
        folder = QFileDialog.getExistingDirectory(self, "Open a dataset folder", start)
        if folder:
            self.open_later(folder)

    def _show_scene(self, number: int) -> None:
        self.attempt(lambda: self.workspace.show_scene(number))
        self._scene.setCurrentIndex(number)
        if self._session is not None:
            self._show_summary(self._session)

    def _fly_from_finding(self, tile_id: str) -> None:
        self.tell("")
        self.attempt(lambda: self.fly_to(tile_id))

    def _fly_from_map(self, tile_id: str) -> None:
        number = self._model.number_of(tile_id)
        if number is not None:
            self._table.selectRow(number)
        self.fly_to(tile_id)

    def _leave(self) -> None:
        for signal, slot in self._followed:
            signal.disconnect(slot, missing_ok=True)
        self._followed = []
        self.check.stop()
        for task in (self._looking, self._placing):
            if task is not None:
                task.cancel()
        self._looking = self._placing = None

    def _on_session(self, session: Any) -> None:
        if session is self._session and session is not None:
            return
        self._leave()
        self._session = session
        self._wanted.clear()
        self._empty.setVisible(session is None)
        self._facts.setVisible(session is not None)
        self._map.show_prints(None)
        if session is None:
            self._tiles = self._gallery = None
            self._model.forget((), ())
            self.check.show_session(None, ())
            return
        self._path.setText(str(session.root))
        for signal in (session.edited, session.reviewed):
            slot = self._forward_refresh
            signal.connect(slot)
            self._followed.append((signal, slot))
        self._tiles, self._gallery = TileList(session), Gallery(session)
        self._model.forget(session.scheme.colors, session.scheme.class_names)
        self._fill_holds(session)
        self._show_summary(session)
        self.check.show_session(session, known_findings(session))
        self._table.setColumnHidden(1, len(session.dataset.splits) < 2)
        one_by_one = len(session.scenes) > 1 and not session.stacked
        self._scene.setVisible(one_by_one)
        self._scene.clear()
        if one_by_one:
            self._scene.addItems([scene.name for scene in session.scenes])
            self._scene.setCurrentIndex(session.scene_number)
        self._placing = Background(self, _place(session.dataset.tiles), _no_steps, self._show_map, self.fail)
        self._refresh()

    def _fill_holds(self, session: Any) -> None:
        self._holds.blockSignals(True)
        self._holds.clear()
        self._holds.addItem("All tiles", None)
        self._holds.addItem("No labels", -1)
        for index, name in enumerate(session.scheme.class_names[1:], 1):
            self._holds.addItem(f"With {name}", index)
        self._holds.blockSignals(False)

    def _show_summary(self, session: Any) -> None:
        while self._form.rowCount():
            self._form.removeRow(0)
        for name, text in summary(session):
            label = QLabel(text)
            label.setWordWrap(True)
            self._form.addRow(QLabel(name), label)
        self._show_extras(session)

    def _show_extras(self, session: Any) -> None:
        chosen = self._extra.currentData()
        self._extra.clear()
        for number, extra in enumerate(session.extra_layers()):
            self._extra.addItem(extra.title if not extra.reason else f"{extra.title} – not here", extra.key)
            self._extra.setItemData(number, extra.reason or None, Qt.ItemDataRole.ToolTipRole)
        self._extra.setCurrentIndex(max(self._extra.findData(chosen), 0))

    def _forward_refresh(self, *_: Any) -> None:
        # May come from the journal's idle timer, which is another thread.
        self.later(self._refresh)

    def _refresh(self) -> None:
        """The journal has changed: strokes, review states, saving."""
        session = self.workspace.session
        if session is None or session.closed or self._tiles is None or self._gallery is None:
            return
        self._gallery.recount(self._tiles.refresh(self._gallery.counts))
        self.check.show_known(known_findings(session))
        self._show_rows()
        self._look()

    def _show_counts(self) -> None:
        """More tiles have been counted."""
        if self._session is None or self._session.closed or self._tiles is None or self._gallery is None:
            return
        self._tiles.refresh(self._gallery.counts)
        self._show_rows()

    def _show_rows(self) -> None:
        assert self._tiles is not None
        assert self._gallery is not None
        key, descending = self._order
        rows = self._tiles.shown(self._chosen_filter(), key, descending)
        self._model.show_rows(rows)
        total = len(self._tiles.rows)
        shown = f"{len(rows):,} of {total:,} tiles." if len(rows) < total else f"{total:,} tiles."
        self._count.setText(f"{shown} Click one to fly to it.")
        self._map.show_states(
            {row.tile_id: row.review for row in self._tiles.rows}, frozenset(row.tile_id for row in rows)
        )
        self._states.setText(
            "&nbsp; ".join(
                f"<span style='color: {REVIEW_COLORS[state]}'>■</span> {state} {number:,}"
                for state, number in self._tiles.states().items()
            )
        )
        shares = class_shares(self._session.scheme, self._gallery.total())
        self._bar.show_shares([(color, share) for color, _, share in shares])
        self._legend.show_rows([(color, name, share_text(share)) for color, name, share in shares])

    def _chosen_filter(self) -> Filter:
        holds = self._holds.currentData()
        return Filter(
            self._text.text(),
            self._state.currentData() or "",
            holds if holds is not None and holds > 0 else None,
            unlabelled=holds == -1,
        )

    def _filter(self) -> None:
        if self._tiles is not None and self._session is not None:
            self._show_rows()
            self._table.scrollToTop()

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
            self._model.show_picture(seen.tile_id, seen.picture)
        elif not self._soon.isActive():
            self._soon.start()

    def _on_looked(self, _: Any) -> None:
        self._looking = None
        # Something may have come in between the last look and now.
        self._look()

    def _on_look_error(self, error: BaseException) -> None:
        self._looking = None
        self.fail(error)

    def _show_map(self, prints: Footprints) -> None:
        self._placing = None
        self._map.show_prints(prints)
        self._map_note.setText(prints.note)
        self._map_note.setVisible(bool(prints.note))

    def _title_check(self) -> None:
        number = sum(finding.severity != "info" for finding in self.check.findings)
        self._facts.setTabText(1, f"Check ({number})" if number else "Check")


def _place(tiles: Any) -> Generator[None, None, Footprints]:
    yield
    return footprints(tiles)


def _opened(path: Path, given_up: Event) -> Generator[None, None, Session]:
    """Open a dataset; where nobody waits for it any more, it is closed again."""
    yield
    session = Session.open(path)
    if given_up.is_set():
        session.release(given_up)
    return session


def _no_steps(_: Any) -> None:
    """A step says nothing by itself."""
