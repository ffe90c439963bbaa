"""What a run leaves in its folder for people and for the window: events, history, curves, metrics, log."""

import csv
import io
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from napari_glacier.core.files import replacing, write_text_atomically
from napari_glacier.core.runfiles import RunFolder

logger = logging.getLogger("training")

# At most this often; a step of a small network takes a few milliseconds.
_SECONDS_BETWEEN_STEP_EVENTS = 0.3
# Drawing takes a third of a second, as long as a short epoch.
_SECONDS_BETWEEN_DRAWINGS = 5.0

Row = dict[str, Any]


class Reporter:
    """Writes the run folder; on all processes but the first it writes nothing.

    Parameters
    ----------
    folder : RunFolder
    active : bool
        Whether this process is the one that writes.
    """

    def __init__(self, folder: RunFolder, active: bool) -> None:
        self._folder = folder
        self._active = active
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

    def step(self, **fields: Any) -> None:
        """Append a step event."""
        self._last_step_event = time.monotonic()
        self.event("step", **fields)

    def epoch(self, rows: Sequence[Row]) -> None:
        """Record the newest epoch, and rewrite history and curves; `rows` are all epochs so far."""
        if not self._active:
            return
        row = rows[-1]
        self.event("epoch", **row)
        write_history(self._folder.history_path, rows)
        if time.monotonic() - self._last_drawing >= _SECONDS_BETWEEN_DRAWINGS:
            self.draw(rows)
        logger.info(
            "epoch %d/%d  loss %.4f / %.4f  MCC %.4f / %.4f  IoU %.4f / %.4f  lr %.2e  %.1f s%s",
            row["epoch"],
            row["epochs"],
            row["train_loss"],
            row["val_loss"],
            row["train_mcc"],
            row["val_mcc"],
            row["train_iou"],
            row["val_iou"],
            row["lr"],
            row["seconds"],
            "  *" if row["best"] else "",
        )

    def catch_up(self, rows: Sequence[Row]) -> None:
        """Write what a process killed between the resume file and the last event still owed."""
        if not self._active:
            return
        recorded = {event["epoch"] for event in self._folder.events() if event["event"] == "epoch"}
        for row in rows:
            if row["epoch"] not in recorded:
                self.event("epoch", **row)
        write_history(self._folder.history_path, rows)

    def draw(self, rows: Sequence[Row]) -> None:
        """Draw the curves of the epochs so far."""
        if self._active and rows:
            draw_curves(self._folder.curves_path, rows)
            self._last_drawing = time.monotonic()

    def metrics(self, values: Mapping[str, Any]) -> None:
        """Write the metrics of the best epoch."""
        if self._active:
            write_text_atomically(self._folder.metrics_path, json.dumps(values, indent=2, allow_nan=False) + "\n")

    def finish(self, kind: str, message: str, **fields: Any) -> None:
        """Write the last event of a run: done or stopped."""
        if self._active:
            logger.info(message)
            self.event(kind, message=message, **fields)


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


def draw_curves(path: Path, rows: Sequence[Row]) -> None:
    """Draw loss, scores and learning rate over the epochs as a PNG."""
    # The object interface: pyplot would pick a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, score_axes, rate_axes = figure.subplots(1, 3)
    epochs = [row["epoch"] for row in rows]

    def curve(axes: Any, key: str, label: str, color: str, style: str = "-") -> None:
        axes.plot(epochs, [row.get(key) for row in rows], style, color=color, label=label, marker=".", markersize=3)

    for split, style in (("train", "--"), ("val", "-")):
        curve(loss_axes, f"{split}_loss", f"{split} loss", "#0072b2", style)
        for (metric, label), color in zip(
            (("mcc", "MCC"), ("iou", "mean IoU"), ("f1", "F1")), ("#0072b2", "#d55e00", "#009e73"), strict=True
        ):
            curve(score_axes, f"{split}_{metric}", f"{split} {label}", color, style)
    best = max((row["epoch"] for row in rows if row["best"]), default=None)
    if best is not None:
        score_axes.axvline(best, color="#888888", linewidth=0.8, label=f"best: {best}")
    curve(rate_axes, "lr", "learning rate", "#0072b2")
    rate_axes.set_yscale("log")
    for axes, title in ((loss_axes, "Loss"), (score_axes, "Scores"), (rate_axes, "Learning rate")):
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small")
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


@contextmanager
def logging_to(path: Path | None, quiet: bool = False) -> Iterator[None]:
    """Send the log to stderr and, where a path is given, to that file too; `quiet` leaves only warnings."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
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
