"""Areas of the open dataset: what can be reported on, and the report and the outlines made of it. No Qt.

The figures are those of `napari-glacier report`: the same functions make them.
"""

from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_glacier import __version__
from napari_glacier.controllers.session import Session
from napari_glacier.controllers.steps import Step, as_steps
from napari_glacier.core.correction.journal_place import is_writable_folder, user_data_dir
from napari_glacier.core.data.predictions import PREDICTIONS_FOLDER, PROBABILITY_FOLDER, folders_of_masks, holds_masks
from napari_glacier.core.errors import ConfigError, DataError, GlacierError
from napari_glacier.core.files import file_name_of
from napari_glacier.core.wording import counted

if TYPE_CHECKING:
    from napari_glacier.core.inventory.map_source import MapSource
    from napari_glacier.core.inventory.report_data import Report

REPORTS = "reports"

# What the terminal's options are called in the window.
_IN_THE_WINDOW = (
    (
        "Name labelled tiles that the model has not learnt from with --labels and --calibrate-on.",
        "Choose labelled tiles that the model has not learnt from under Calibrate on.",
    ),
    ("Predict with --probabilities.", "Tick Keep probabilities in the Predict widget and run it again."),
    ("Predict again with --probabilities.", "Tick Keep probabilities in the Predict widget and run it again."),
    (
        "Predict with --probabilities to have them.",
        "Tick Keep probabilities in the Predict widget and run it again to have them.",
    ),
    (" with --labels.", "."),
    ("Give it with --date YYYY-MM-DD.", "Give it under Image date."),
    ("Check the masks, --classes and --min-area.", "Check the masks and the smallest area."),
    ("leave them out of --calibrate-on.", "choose others under Calibrate on."),
    ("Name others with --calibrate-on.", "Choose others under Calibrate on."),
)


@dataclass(frozen=True, slots=True)
class MapChoice:
    """Class maps that a report can be made of; `path` is None for the labels of the dataset."""

    title: str
    path: Path | None
    has_probabilities: bool = False


@dataclass(frozen=True, slots=True)
class TruthChoice:
    """Labelled tiles to calibrate on; no names: no calibration."""

    title: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OutlineWish:
    """How outlines are wanted; see `core.inventory.outlines.OutlineOptions`."""

    smooth: bool = False
    merge_debris: bool = False
    min_area_km2: float = 0.0
    src_date: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What is reported on, fixed when Run is pressed."""

    root: Path
    maps: MapChoice
    calibrate_on: tuple[str, ...]
    scheme: str | None
    level: float
    out: Path


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A report that was made and written."""

    request: Request
    report: "Report"
    source: "MapSource"
    page: Path
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AreaLine:
    """A line of the table of areas, as text."""

    color: str
    name: str
    mapped: str
    expected: str
    interval: str


@dataclass(frozen=True, slots=True)
class ChangeLine:
    """A line of the table of what the labels change in a prediction, in km², as text."""

    name: str
    gained: str
    lost: str


class ReportController:
    """Finds what can be reported on and makes the report in whichever thread runs the job.

    Parameters
    ----------
    workspace : Workspace
    """

    def __init__(self, workspace: Any) -> None:
        self.workspace = workspace
        self._picked: list[Path] = []

    @property
    def session(self) -> Session | None:
        """The open dataset."""
        session = self.workspace.session
        return session if isinstance(session, Session) else None

    def maps(self) -> list[MapChoice]:
        """The labels, the dataset's predictions (newest first), and folders that a person picked."""
        session = self.session
        if session is None:
            return []
        choices = [MapChoice("The saved labels", None)] if _labelled(session) else []
        for path, _ in folders_of_masks(session.root / PREDICTIONS_FOLDER):
            with suppress(OSError):
                choices.append(_choice(f"Prediction of {path.name}", path))
        for path in self._picked:
            # A disk may have been taken away since.
            with suppress(OSError):
                choices.append(_choice(f"{path.parent.name}/{path.name}", path))
        return choices

    def pick(self, path: Path) -> MapChoice:
        """Add a folder of masks that lies elsewhere.

        Raises
        ------
        DataError
            If it holds no masks.
        """
        if not path.is_dir() or not holds_masks(path):
            raise DataError(f"{path} holds no masks (no TIFF). Choose a folder that a prediction was written to.")
        if path not in self._picked:
            self._picked.append(path)
        return _choice(f"{path.parent.name}/{path.name}", path)

    def truths(self, maps: MapChoice | None) -> list[TruthChoice]:
        """On which labelled tiles a prediction's probabilities can be calibrated; the first choice is on none."""
        none = TruthChoice("Nothing (no interval)")
        session = self.session
        if session is None or maps is None or maps.path is None:
            return [none]
        none = TruthChoice("Nothing (envelope only)") if maps.has_probabilities else none
        if not maps.has_probabilities:
            return [none]
        labelled = _labelled(session)
        choices = [none]
        splits = list(dict.fromkeys(tile.split for tile in labelled))
        for split in splits if len(splits) > 1 else []:
            number = sum(tile.split == split for tile in labelled)
            choices.append(TruthChoice(f"Tiles of {split} ({number})", (split,)))
        reviews = session.journal.review_states()
        approved = tuple(tile.id for tile in labelled if reviews.get(tile.id) == "approved")
        if approved:
            choices.append(TruthChoice(f"Approved tiles ({len(approved)})", approved))
        if labelled:
            choices.append(TruthChoice(f"All labelled tiles ({len(labelled)})", ("all",)))
        return choices

    def request(self, maps: MapChoice | None, truth: TruthChoice, level: float = 0.95) -> Request:
        """What a job needs to know.

        Raises
        ------
        ConfigError
            If no dataset is open, or there is nothing to report on.
        """
        session = self.session
        if session is None:
            raise ConfigError("No dataset is open. Open one in Data.")
        if maps is None:
            raise ConfigError("There are no labels and no predictions yet. Predict, or label some tiles and save.")
        home = session.root if is_writable_folder(session.root) else user_data_dir() / session.root.name
        name = file_name_of(maps.path.name, "map") if maps.path is not None else "labels"
        out = home / REPORTS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
        scheme = None if session.assumed_scheme else session.scheme.name
        return Request(session.root, maps, truth.names, scheme, level, out)

    def job(self, request: Request) -> Generator[Step, None, Made]:
        """Make the report and write it to a folder of its own; to be closed between steps to cancel.

        Raises
        ------
        GlacierError
            If masks, labels and probabilities do not fit together.
        """
        return as_steps(lambda tell: _in_words(lambda: _make(request, tell)))

    def outline_job(self, made: Made, path: Path, wish: OutlineWish) -> Generator[Step, None, tuple[Path, str]]:
        """Write the outlines of what was reported on; gives the file and what there is to say.

        The person has agreed that a file of that name is replaced.

        Raises
        ------
        GlacierError
            If there is nothing to outline, or the file cannot be written.
        """
        return as_steps(lambda tell: _in_words(lambda: _outline(made, path, wish, tell)))


def area_lines(report: "Report") -> list[AreaLine]:
    """The table of areas in km², as people read it."""
    color_of = dict(zip(report.scheme.class_names, report.scheme.colors, strict=True))
    lines = []
    for area in report.areas:
        interval = "" if area.low is None or area.high is None else f"{_km2(area.low)} – {_km2(area.high)}"
        if interval and not area.is_calibrated:
            interval += " *"
        expected = "" if area.expected is None else _km2(area.expected)
        lines.append(AreaLine(color_of.get(area.name, "#9aa5b1"), area.name, _km2(area.mapped), expected, interval))
    return lines


def further_facts(report: "Report") -> list[tuple[str, str]]:
    """Borders and lakes, a name and a text each."""
    facts = []
    if report.interface_km is not None:
        facts.append(("Ice–debris border", f"{report.interface_km:,.1f} km"))
    if report.lakes is not None:
        lakes = report.lakes
        facts.append(("Lakes", f"{lakes.count:,}, {lakes.touching:,} at a glacier"))
    return facts


def change_lines(report: "Report") -> list[ChangeLine]:
    """What the labels change in the map, for classes of which they change something."""
    return [
        ChangeLine(change.name, f"+{_km2(change.gained)}", f"−{_km2(change.lost)}")
        for change in report.changes
        if change.gained or change.lost
    ]


def _make(request: Request, tell: Callable[[int, int, str], None]) -> Made:
    from napari_glacier.core.inventory.map_source import open_maps
    from napari_glacier.core.inventory.report import make_report
    from napari_glacier.core.inventory.report_files import write_report

    tell(0, 0, "Looking for masks")
    labels = None
    if request.maps.path is None:
        source = open_maps(request.root, request.scheme)
    else:
        source = open_maps(request.maps.path, data=request.root)
        labels = _labels(request)
    glacier_classes: tuple[str, ...] = ()
    if labels is not None and labels.scheme.num_classes == 2 and source.scheme.interface is not None:
        glacier_classes = ("glacier", "debris")
    report = make_report(
        source, labels, request.calibrate_on, request.level, on_progress=tell, glacier_classes=glacier_classes
    )
    tell(0, 0, "Drawing the page")
    page, *_ = write_report(request.out, report, __version__, date.today().isoformat())
    notes = [_plain(note) for note in report.notes]
    if glacier_classes:
        notes.append("The labels have one class of glacier: it was compared with glacier and debris together.")
    return Made(request, report, source, page, tuple(notes))


def _labels(request: Request) -> "MapSource | None":
    """The dataset's labels, where there are any on the map."""
    from napari_glacier.core.inventory.map_source import open_maps

    try:
        return open_maps(request.root, request.scheme)
    except DataError:
        if request.calibrate_on:
            raise
        return None


def _outline(made: Made, path: Path, wish: OutlineWish, tell: Callable[[int, int, str], None]) -> tuple[Path, str]:
    from napari_glacier.core.inventory.outline_files import check_target, write_outlines
    from napari_glacier.core.inventory.outlines import OutlineOptions, outline_maps

    check_target(path, overwrite=True)
    merge = ("glacier", "debris") if wish.merge_debris and made.source.scheme.interface else ()
    options = OutlineOptions(
        smooth_px=1.0 if wish.smooth else 0.0,
        min_area_km2=wish.min_area_km2,
        merge=merge,
        src_date=wish.src_date,
        level=made.request.level,
    )
    calibrations = made.report.calibrations
    outlined = [name for name in made.source.scheme.class_names[1:] if name not in merge]
    outlined += [" + ".join(merge)] if merge else []
    # Half calibrated, one column would hold two different things.
    whole = bool(calibrations) and set(outlined) <= set(calibrations)
    outlines = outline_maps(
        made.source,
        options,
        calibrate=(lambda name, values: calibrations[name].curve(values)) if whole else None,
        on_progress=tell,
    )
    tell(0, 0, f"Writing {path.name}")
    description = {"made_by": f"napari-glacier {__version__}", "source": made.report.title, "options": str(options)}
    write_outlines(path, outlines, overwrite=True, description=description)
    notes = [note for note in outlines.notes if note not in made.source.notes]
    said = " ".join(_plain(note) for note in notes)
    return path, f"{counted(len(outlines.polygons), 'polygon')} written to {path.name}. {said}".strip()


def _in_words(work: Callable[[], Any]) -> Any:
    """Errors speak of the window's choices, not of the terminal's options."""
    try:
        return work()
    except GlacierError as error:
        raise type(error)(_plain(str(error))) from error


def _plain(text: str) -> str:
    for terminal, window in _IN_THE_WINDOW:
        text = text.replace(terminal, window)
    return text


def _labelled(session: Session) -> list[Any]:
    return [tile for tile in session.dataset.tiles if tile.mask_path is not None]


def _choice(title: str, path: Path) -> MapChoice:
    return MapChoice(title, path, any(True for _ in (path / PROBABILITY_FOLDER).rglob("*.tif")))


def _km2(value: float) -> str:
    """Three figures that count, no more than metres squared can bear."""
    return f"{value:,.0f}" if value >= 10_000 else f"{value:,.1f}" if value >= 100 else f"{value:,.2f}"
