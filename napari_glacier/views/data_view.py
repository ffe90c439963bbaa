"""The Data widget: open a dataset, see what is in it, find its tiles, check it, fly to what matters."""

from collections.abc import Generator
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QPushButton,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from napari_glacier.controllers.exchange import sample_copy, sample_folder
from napari_glacier.controllers.extra_layers import extra_layers
from napari_glacier.controllers.overview import known_findings, share_text, summary
from napari_glacier.controllers.session import Session
from napari_glacier.views.background import Background
from napari_glacier.views.base import GlacierView, group, hint
from napari_glacier.views.check_panel import CheckPanel
from napari_glacier.views.pieces import Legend, ShareBar, ShrinkingBox, literal
from napari_glacier.views.settings import recent_folders
from napari_glacier.views.tiles_panel import TilesPanel

FILE_FILTER = "Scenes and tiles (*.tar *_MTL.txt *_MTL.json MTD_MSIL*.xml *.tif *.tiff *.TIF);;All files (*)"
# Longer paths are cut in the menu.
_MENU_LETTERS = 48


class DataView(GlacierView):
    """Open a dataset and look through its tiles.

    Parameters
    ----------
    napari_viewer : napari.Viewer
    """

    title = "Data"

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self._session: Any = None
        self._followed: list[tuple[Any, Any]] = []
        self._opening: Background | None = None
        self._given_up = Event()

        self.body.addWidget(self._make_opening())
        self.body.addWidget(self._make_empty())
        self.body.addWidget(self._make_facts(), 1)
        self.body.addStretch(0)
        self.listen(self.workspace.session_changed, self._on_session)
        self.on_close(self._leave)
        self.on_close(self._give_up)
        self._path.setText(next(iter(recent_folders()), ""))
        self._on_session(self.workspace.session)

    def _make_opening(self) -> QWidget:
        opening = QVBoxLayout()
        row = QHBoxLayout()
        self._path = QLineEdit()
        self._path.setPlaceholderText("Folder of tiles or scene, or a .tar")
        self._path.textChanged.connect(self._path.setToolTip)
        self._path.returnPressed.connect(lambda: self.open_later(self._path.text()))
        self._open_button = QPushButton("Open…")
        menu = QMenu(self._open_button)
        menu.addAction("Folder…", self._choose)
        menu.addAction("File: .tar, MTL, .tif…", self._choose_file)
        self._recent = menu.addSection("Opened before")
        menu.aboutToShow.connect(self._list_recent)
        self._open_button.setMenu(menu)
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
                "is a Landsat or Sentinel-2 scene as it was downloaded. A .tar of Landsat opens without unpacking."
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
        # In a dark theme it would be a white line.
        self._facts.tabBar().setDrawBase(False)
        self.tiles = TilesPanel()
        self.tiles.tile_chosen.connect(self.fly_to)
        self.tiles.scene_chosen.connect(self._show_scene)
        self.tiles.counted.connect(self._show_shares)
        self.tiles.failed.connect(self.fail)
        self._facts.addTab(self.tiles, "Tiles")
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
        self._extra = ShrinkingBox()
        self._extra.setToolTip(
            "Indices, reflectance, temperature and clouds, below the labels, read as you look; and pictures and bands "
            "that were removed from the layer list"
        )
        self._extra.activated.connect(self._say_why_not)
        self._add_extra = QPushButton("Add layer")
        self._add_extra.clicked.connect(self.add_extra)
        row.addWidget(self._extra, 1)
        row.addWidget(self._add_extra)
        return group("More layers", row)

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
        if self._given_up.is_set():
            # Once more: it may have been opened just before nobody waited for it any more.
            session.release(self._given_up)
            return
        self.tell("")
        self.attempt(lambda: self.workspace.show(session))
        if self.workspace.session is session:
            self._welcome(session)

    def _on_not_opened(self, error: BaseException) -> None:
        self._opening = None
        self._open_button.setEnabled(True)
        if self._given_up.is_set():
            return
        if isinstance(error, OSError):
            self.tell(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), error=True)
        else:
            self.fail(error)

    def _give_up(self) -> None:
        self._given_up.set()
        if self._opening is not None:
            self._opening.cancel()

    def _welcome(self, session: Any) -> None:
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
        self.tiles.choose(tile_id)
        if not session.stacked and number != session.scene_number:
            self._show_scene(number)
            if number != session.scene_number:
                return
        self.workspace.fly_to(place.row, place.col, place.tile.height, place.tile.width, plane=number)

    def _choose(self) -> None:
        start = self._path.text() or str(Path.home())
        folder = QFileDialog.getExistingDirectory(self, "Open a dataset folder", start)
        if folder:
            self.open_later(folder)

    def _list_recent(self) -> None:
        """Offer the datasets that were opened before, the last one first, but the one that is open."""
        menu = self._open_button.menu()
        if menu is None:
            return
        for action in menu.actions()[menu.actions().index(self._recent) + 1 :]:
            menu.removeAction(action)
        now = str(self._session.root) if self._session is not None else ""
        folders = [folder for folder in recent_folders() if folder != now]
        self._recent.setVisible(bool(folders))
        for folder in folders:
            action = menu.addAction(literal(_shortened(folder)))
            action.triggered.connect(partial(self._open_again, folder))
            action.setToolTip(folder)

    def _open_again(self, folder: str, _: bool = False) -> None:
        self.open_later(folder)

    def _choose_file(self) -> None:
        start = self._path.text() or str(Path.home())
        path, _ = QFileDialog.getOpenFileName(self, "Open a scene or a file of tiles", start, FILE_FILTER)
        if path:
            self.open_later(path)

    def _show_scene(self, number: int) -> None:
        self.tell("")
        self.attempt(lambda: self.workspace.show_scene(number))
        if self._session is not None:
            # Where the scene cannot be read, the one before stays.
            self.tiles.scene.setCurrentIndex(self._session.scene_number)
            self._show_summary(self._session)

    def _fly_from_finding(self, tile_id: str) -> None:
        self.tell("")
        if self._session is None or tile_id in self._session.dataset.damaged:
            # It is not shown; why stands below the findings.
            return
        self.attempt(lambda: self.fly_to(tile_id))

    def _leave(self) -> None:
        for signal, slot in self._followed:
            signal.disconnect(slot, missing_ok=True)
        self._followed = []
        self.check.stop()
        self.tiles.stop()

    def _on_session(self, session: Any) -> None:
        if session is self._session and session is not None:
            return
        self._leave()
        self._session = session
        if self._opening is not None and session is not None:
            # Opened since, by a drop or napari's menu: that is what the person wants to see.
            self._given_up.set()
            self.tell("")
        self._empty.setVisible(session is None)
        self._facts.setVisible(session is not None)
        self.tiles.show_session(session)
        if session is None:
            self.check.show_session(None, ())
            return
        self._path.setText(str(session.root))
        for signal in (session.edited, session.reviewed):
            slot = self._forward_refresh
            signal.connect(slot)
            self._followed.append((signal, slot))
        self._show_summary(session)
        self.check.show_session(session, known_findings(session))
        self._refresh()

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
        for number, extra in enumerate(extra_layers(session)):
            self._extra.addItem(extra.title if not extra.reason else f"{extra.title} – not here", extra.key)
            self._extra.setItemData(number, extra.reason or None, Qt.ItemDataRole.ToolTipRole)
        self._extra.setCurrentIndex(max(self._extra.findData(chosen), 0))

    def _forward_refresh(self, *_: Any) -> None:
        # May come from the journal's idle timer, which is another thread.
        self.later(self._refresh)

    def _refresh(self) -> None:
        """The journal has changed: strokes, review states, saving."""
        session = self.workspace.session
        if session is None or session.closed:
            return
        self.check.show_known(known_findings(session))
        self.tiles.refresh()

    def _show_shares(self) -> None:
        shares = self.tiles.shares()
        self._bar.show_shares([(color, share) for color, _, share in shares])
        rows = [(color, name, share_text(share)) for color, name, share in shares]
        self._legend.show_rows(rows)
        self._bar.setVisible(bool(rows))

    def _title_check(self) -> None:
        number = sum(finding.severity != "info" for finding in self.check.findings)
        self._facts.setTabText(1, f"Check ({number})" if number else "Check")


def _opened(path: Path, given_up: Event) -> Generator[None, None, Session]:
    """Open a dataset; where nobody waits for it any more, it is closed again."""
    yield
    session = Session.open(path)
    if given_up.is_set():
        session.release(given_up)
    return session


def _shortened(folder: str) -> str:
    """The last parts of a path, which tell datasets apart."""
    parts = Path(folder).parts
    return folder if len(folder) <= _MENU_LETTERS else f"…/{'/'.join(parts[-2:])}"


def _no_steps(_: Any) -> None:
    """A step says nothing by itself."""
