"""What a run leaves in its folder for people and for the window: events, history, curves, metrics, log.

On a terminal there is also a progress bar over the updates of an epoch; elsewhere plain lines only.
"""

import csv
import io
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from napari_glacier.core.files import write_text_atomically
from napari_glacier.core.runfiles import RunFolder
from training.curves import draw_curves, loss_components
from training.loggers import RunLogger

logger = logging.getLogger("training")

# At most this often; a step of a small network takes a few milliseconds.
_SECONDS_BETWEEN_STEP_EVENTS = 0.3
# Drawing takes a third of a second, as long as a short epoch.
_SECONDS_BETWEEN_DRAWINGS = 5.0
_SCORES = {"mcc": "MCC", "iou": "IoU", "f1": "F1"}
_TABLE_COLUMNS = ("precision", "recall", "f1", "iou", "mcc")
_COUNTED = {"all_pixels": "all pixels", "valid_pixels": "valid pixels"}

Row = dict[str, Any]


class Reporter:
    """Writes the run folder; on all processes but the first it writes nothing.

    Parameters
    ----------
    folder : RunFolder
    active : bool
        Whether this process is the one that writes.
    loggers : sequence of RunLogger
        Started ones, from `training.loggers.make_loggers`.
    terminal : text stream, optional
        Where the progress bar is drawn; None: standard error, if that is a terminal.
    """

    def __init__(
        self, folder: RunFolder, active: bool, loggers: Sequence[RunLogger] = (), terminal: TextIO | None = None
    ) -> None:
        self._folder = folder
        self._active = active
        self.loggers = list(loggers) if active else []
        self._terminal = terminal if terminal is not None else sys.stderr if sys.stderr.isatty() else None
        self._bar: EpochBar | None = None
        self._epoch_s: float | None = None
        self._best_line = ""
        self._last_step_event = 0.0
        self._last_drawing = 0.0

    def event(self, kind: str, **fields: Any) -> None:
        """Append an event."""
        if self._active:
            self._folder.append_event(kind, **fields)

    def message(self, text: str, kind: str = "log") -> None:
        """Say something in the log and to whoever follows; `kind` is log or warning."""
        if self._active:
            logger.log(logging.WARNING if kind == "warning" else logging.INFO, text)
            self.event(kind, message=text)

    def step_due(self) -> bool:
        """Whether enough time has passed for another step event."""
        return self._active and time.monotonic() - self._last_step_event >= _SECONDS_BETWEEN_STEP_EVENTS

    def step(self, *, epochs: int | None = None, **fields: Any) -> None:
        """Append a step event, and move the progress bar; with the number of `epochs` it tells the run's end, too."""
        self._last_step_event = time.monotonic()
        self.event("step", **fields)
        if not self._active or self._terminal is None:
            return
        if self._bar is None or self._bar.epoch != fields["epoch"]:
            self._close_bar()
            self._bar = EpochBar(self._terminal, fields["epoch"], epochs, fields["step"], fields["steps"])
        self._bar.move(fields["step"], fields.get("loss"), fields.get("samples_per_s"), self._epoch_s)

    def epoch(self, rows: Sequence[Row]) -> None:
        """Record the newest epoch, and rewrite history and curves; `rows` are all epochs so far."""
        if not self._active:
            return
        row = rows[-1]
        self._close_bar()
        self._epoch_s = row.get("seconds")
        self.event("epoch", **row)
        write_history(self._folder.history_path, rows)
        if time.monotonic() - self._last_drawing >= _SECONDS_BETWEEN_DRAWINGS:
            self.draw(rows)
        logger.info(epoch_line(row))
        if self._best_line and self._terminal is not None:
            tqdm.write(self._best_line, file=self._terminal)
        self._best_line = ""
        for run_logger in self.loggers:
            run_logger.epoch(row)

    def catch_up(self, rows: Sequence[Row]) -> None:
        """Write what a process killed between the resume file and the last event still owed."""
        if not self._active:
            return
        recorded = {event["epoch"] for event in self._folder.events() if event["event"] == "epoch"}
        for row in rows:
            if row["epoch"] not in recorded:
                self.event("epoch", **row)
            for run_logger in self.loggers:
                run_logger.epoch(row)  # which knows what it has already
        write_history(self._folder.history_path, rows)

    def draw(self, rows: Sequence[Row]) -> None:
        """Draw the curves of the epochs so far."""
        if self._active and rows:
            draw_curves(self._folder.curves_path, rows)
            self._last_drawing = time.monotonic()

    def metrics(self, values: Mapping[str, Any]) -> None:
        """Write the metrics of the best epoch, and its per-class table."""
        if not self._active:
            return
        write_text_atomically(self._folder.metrics_path, json.dumps(values, indent=2, allow_nan=False) + "\n")
        write_per_class(self._folder.per_class_path, values)
        classes = values["all_pixels"]["per_class"].items()
        scores = ", ".join(f"{name} {_cell(scores['iou'])}" for name, scores in classes)
        self._best_line = f"         best so far; IoU by class: {scores}"

    def finish(self, kind: str, message: str, **fields: Any) -> None:
        """Write the last event of a run, done or stopped, and show the best epoch's per-class table."""
        if self._active:
            self._close_bar()
            self._show_classes()
            logger.info(message)
            self.event(kind, message=message, **fields)

    def close(self) -> None:
        """Put the terminal in order and end the loggers; however a run ends."""
        self._close_bar()
        for run_logger in self.loggers:
            run_logger.finish()
        self.loggers = []

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show_classes(self) -> None:
        # From the file: the best epoch may be that of an earlier process.
        if self._folder.metrics_path.is_file():
            values = json.loads(self._folder.metrics_path.read_text(encoding="utf-8"))
            # Scores of a cross-validation are of no single epoch.
            first = f"Epoch {values['epoch']}, " if "epoch" in values else ""
            for key, title in _COUNTED.items():
                logger.info(class_table(f"{first}{title}", values[key]))


class EpochBar:
    """A progress bar over the updates of an epoch.

    Parameters
    ----------
    terminal : text stream
    epoch : int
    epochs : int or None
        Of the run; None: not known.
    step, steps : int
        Updates made when the bar appears, and in all.
    """

    def __init__(self, terminal: TextIO, epoch: int, epochs: int | None, step: int, steps: int) -> None:
        self.epoch, self._epochs, self._steps = epoch, epochs, steps
        self._first, self._started = step, time.monotonic()
        total = f"/{epochs}" if epochs else ""
        self._bar = _QuietTqdm(
            total=steps,
            initial=step,
            desc=f"epoch {epoch}{total}",
            file=terminal,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
        )

    def move(self, step: int, loss: float | None, samples_per_s: float | None, epoch_s: float | None) -> None:
        """Show the newest update; `epoch_s` is how long the epoch before took, with its validation."""
        parts = [f"loss {loss:.4f}" if loss is not None else "loss not finite"]
        if samples_per_s is not None:
            parts.append(f"{samples_per_s:.1f} samples/s")
        if step > self._first:
            pace_s = (time.monotonic() - self._started) / (step - self._first)
            left_s = pace_s * (self._steps - step)
            parts.append(f"epoch {_clock(left_s)} left")
            if self._epochs:
                each_s = epoch_s if epoch_s is not None else pace_s * self._steps
                parts.append(f"run {_clock(left_s + each_s * (self._epochs - self.epoch))} left")
        self._bar.n = step
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        """Clear the bar's line."""
        self._bar.close()


class _QuietTqdm(tqdm):  # type: ignore[type-arg]
    # Otherwise a thread watches bars that stand still.
    monitor_interval = 0


def epoch_line(row: Row) -> str:
    """An epoch in a line: training / validation."""
    parts = [f"epoch {row['epoch']}/{row['epochs']}", f"loss {_both(row, 'loss')}"]
    components = loss_components(row)
    if len(components) > 1:
        # One alone is the loss itself but for its weight.
        parts.append(f"({', '.join(f'{name} {_both(row, name)}' for name in components)})")
    parts += [f"{label} {_both(row, key)}" for key, label in _SCORES.items()]
    parts += [f"lr {row['lr']:.2e}", f"{row['seconds']:.1f} s"]
    return "  ".join(parts) + ("  *" if row["best"] else "")


def class_rows(summary: Mapping[str, Any]) -> list[Row]:
    """Rows of a per-class table, then the mean over the classes present; None where a class is absent.

    Parameters
    ----------
    summary : mapping
        As `ConfusionMatrix.summary` gives it.
    """
    classes = summary["per_class"]
    rows = [{"class": name} | {c: scores[c] for c in (*_TABLE_COLUMNS, "pixels")} for name, scores in classes.items()]
    mean: Row = {"class": "mean"}
    for column in _TABLE_COLUMNS:
        present = [scores[column] for scores in classes.values() if scores[column] is not None]
        mean[column] = sum(present) / len(present) if present else None
    return [*rows, mean | {"pixels": sum(scores["pixels"] for scores in classes.values())}]


def class_table(title: str, summary: Mapping[str, Any]) -> str:
    """A per-class table for people to read."""
    labels = "".join(f"{_SCORES.get(column, column):>11}" for column in _TABLE_COLUMNS)
    lines = [f"{title}: multiclass MCC {summary['mcc']:.4f}, accuracy {summary['accuracy']:.4f}"]
    lines.append(f"  {'class':<12}{labels}{'pixels':>14}")
    for row in class_rows(summary):
        scores = "".join(f"{_cell(row[column]):>11}" for column in _TABLE_COLUMNS)
        lines.append(f"  {row['class']:<12}{scores}{row['pixels']:>14,}")
    return "\n".join(lines)


def write_per_class(path: Path, values: Mapping[str, Any]) -> None:
    """Write the per-class tables over all and over valid pixels as one CSV.

    The row ``overall`` holds the multiclass MCC (R_K); ``mean`` holds means over the classes present.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, ["counted", "class", *_TABLE_COLUMNS, "pixels"], restval="", lineterminator="\n")
    writer.writeheader()
    for key in _COUNTED:
        rows = class_rows(values[key])
        overall = {"class": "overall", "mcc": values[key]["mcc"], "pixels": rows[-1]["pixels"]}
        writer.writerows({"counted": key} | row for row in (*rows, overall))
    write_text_atomically(path, text.getvalue())


def write_history(path: Path, rows: Sequence[Row]) -> None:
    """Write one line an epoch; numbers in full, so that two runs can be compared bit for bit.

    A resumed run of a newer version may know more columns than the epochs before.
    """
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, fieldnames=columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomically(path, text.getvalue())


@contextmanager
def logging_to(path: Path | None, quiet: bool = False) -> Iterator[None]:
    """Send the log to stderr and, where a path is given, to that file too; `quiet` leaves only warnings."""
    handlers: list[logging.Handler] = [_AboveTheBar()]
    if path is not None:
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


class _AboveTheBar(logging.StreamHandler[TextIO]):
    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(self.stream):
            super().emit(record)


def _both(row: Row, name: str) -> str:
    return f"{row[f'train_{name}']:.4f} / {row[f'val_{name}']:.4f}"


def _cell(value: float | None) -> str:
    return "absent" if value is None else f"{value:.4f}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
