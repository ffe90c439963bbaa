"""What a run says: progress bar, epoch lines, per-class tables, curves."""

import csv
import io
import json
import logging
import os
import re

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef, precision_recall_fscore_support

from napari_glacier.core.metrics import ConfusionMatrix
from napari_glacier.core.runfiles import RunFolder
from training.reporting import Reporter, class_table, epoch_line, logging_to

NAMES = ("background", "glacier", "debris", "lake")


class Terminal(io.StringIO):
    """Keeps everything that was drawn."""

    def isatty(self) -> bool:
        return True


def _row(epoch: int, **more) -> dict:
    row = {"epoch": epoch, "epochs": 3, "lr": 5e-4, "seconds": 4.0, "best": epoch != 2}
    for split, value in (("train", 0.5), ("val", 0.25)):
        row |= {f"{split}_{name}": value for name in ("loss", "focal", "dice", "mcc", "iou", "f1")}
    return row | more


def _tables(seed: int = 0) -> tuple[dict, np.ndarray, np.ndarray]:
    """Metrics as the trainer hands them over, with no lake anywhere, and the pixels they were counted from."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (40, 50)).astype(np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 3, truth.shape)).astype(np.uint8)
    matrix = ConfusionMatrix(4)
    matrix.update(predicted, truth)
    summary = matrix.summary(NAMES)
    return {"epoch": 2, "checkpoint_mb": 3.1, "all_pixels": summary, "valid_pixels": summary}, truth, predicted


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path)


def test_the_bar_tells_loss_pace_and_both_ends(folder, monkeypatch):
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr("training.reporting.time.monotonic", lambda: float(next(clock)))
    terminal = Terminal()
    report = Reporter(folder, True, terminal=terminal)
    for step in (10, 20, 30):
        report.step(epoch=1, epochs=3, step=step, steps=40, loss=0.75, lr=1e-3, samples_per_s=12.34)
    drawn = terminal.getvalue().split("\r")[-1]
    assert "epoch 1/3" in drawn
    assert "30/40" in drawn
    assert "loss 0.7500" in drawn
    assert "12.3 samples/s" in drawn
    # Monotonic time goes by 2 s a look: whatever the pace, two more epochs of 40 updates and these 10 are 9 x 10.
    epoch_s, run_s = (60 * int(m) + int(s) for m, s in re.findall(r"(\d+):(\d+) left", drawn))
    assert epoch_s > 0
    assert run_s == pytest.approx(9 * epoch_s, abs=5)
    report.close()
    assert [e["step"] for e in folder.events()] == [10, 20, 30]
    assert terminal.getvalue().endswith("\r")  # the bar's line is cleared


def test_a_loss_that_is_not_finite_is_said_and_an_unknown_end_is_left_out(folder):
    terminal = Terminal()
    report = Reporter(folder, True, terminal=terminal)
    report.step(epoch=1, step=1, steps=2, loss=None, lr=1e-3, samples_per_s=1.0)
    assert "loss not finite" in terminal.getvalue()
    assert " left" not in terminal.getvalue()
    report.close()


def test_the_length_of_the_epoch_before_counts_validation_in(folder):
    terminal = Terminal()
    report = Reporter(folder, True, terminal=terminal)
    report.epoch([_row(1, seconds=600.0)])
    for step in (1, 2):
        report.step(epoch=2, epochs=3, step=step, steps=2, loss=0.5, lr=1e-3, samples_per_s=1.0)
    assert "run 10:00 left" in terminal.getvalue()
    report.close()


def test_log_lines_go_above_the_bar(folder, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with logging_to(folder.path / "train.log"):
        report = Reporter(folder, True)  # standard error is a terminal
        report.step(epoch=1, epochs=3, step=1, steps=4, loss=0.5, lr=1e-3, samples_per_s=1.0)
        report.message("Something to know.")
        report.close()
    drawn = terminal.getvalue()
    line = drawn[drawn.rindex("\r", 0, drawn.index("Something")) + 1 :].splitlines()[0]
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO Something to know\.", line)
    assert drawn.index("Something") < drawn.rindex("epoch 1/3")  # drawn again below
    assert "%|" not in (folder.path / "train.log").read_text()


def test_without_a_terminal_there_are_plain_lines_only(folder, capsys):
    with logging_to(folder.log_path):
        report = Reporter(folder, True)
        report.step(epoch=1, epochs=3, step=1, steps=4, loss=0.5, lr=1e-3, samples_per_s=1.0)
        report.metrics(_tables()[0])
        report.epoch([_row(1)])
        report.finish("done", "All done.")
        report.close()
    err = capsys.readouterr().err
    assert "\r" not in err
    assert " INFO epoch 1/3  loss" in err.splitlines()[0]
    assert err.splitlines()[-1].endswith("INFO All done.")
    assert err == folder.log_path.read_text()


def test_a_real_terminal_gets_a_bar(folder):
    termios = pytest.importorskip("termios")
    ours, theirs = os.openpty()
    os.set_blocking(ours, False)
    termios.tcsetwinsize(theirs, (24, 80))
    with os.fdopen(theirs, "w") as terminal:
        report = Reporter(folder, True, terminal=terminal)
        report.step(epoch=2, epochs=3, step=3, steps=4, loss=0.5, lr=1e-3, samples_per_s=1.0)
        report.close()
        drawn = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "epoch 2/3  75%|" in drawn


def test_an_epoch_is_a_line_with_scores_and_components():
    line = epoch_line(_row(1))
    assert "epoch 1/3  loss 0.5000 / 0.2500  (focal 0.5000 / 0.2500, dice 0.5000 / 0.2500)" in line
    for label in ("MCC", "IoU", "F1"):
        assert f"{label} 0.5000 / 0.2500" in line
    assert line.endswith("lr 5.00e-04  4.0 s  *")
    alone = {key: value for key, value in _row(2).items() if "dice" not in key}
    assert "(" not in epoch_line(alone)
    assert not epoch_line(alone).endswith("*")


def test_a_new_best_is_shown_on_the_terminal_below_its_epoch(folder, caplog):
    terminal = Terminal()
    report = Reporter(folder, True, terminal=terminal)
    values, *_ = _tables()
    report.metrics(values)
    assert "best" not in terminal.getvalue()
    with caplog.at_level(logging.INFO, "training"):
        report.epoch([_row(1)])
        report.epoch([_row(1), _row(2)])
    iou = values["all_pixels"]["per_class"]["glacier"]["iou"]
    assert terminal.getvalue().count("best so far") == 1
    assert f"glacier {iou:.4f}, debris" in terminal.getvalue()
    assert "lake absent" in terminal.getvalue()
    report.close()


def test_the_per_class_file_agrees_with_scikit_learn(folder):
    values, truth, predicted = _tables()
    Reporter(folder, True).metrics(values)
    assert json.loads(folder.metrics_path.read_text()) == values
    with (folder.path / "per_class.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["counted"], row["class"]) for row in rows] == [
        (counted, name) for counted in ("all_pixels", "valid_pixels") for name in (*NAMES, "mean", "overall")
    ]
    scores = np.array(precision_recall_fscore_support(truth.ravel(), predicted.ravel(), labels=[0, 1, 2]))
    mcc = [matthews_corrcoef(truth.ravel() == k, predicted.ravel() == k) for k in range(3)]
    for k in range(3):
        ours = [float(rows[k][column]) for column in ("precision", "recall", "f1")]
        np.testing.assert_allclose(ours, scores[:3, k], atol=1e-9)
        assert float(rows[k]["mcc"]) == pytest.approx(mcc[k], abs=1e-9)
        assert int(rows[k]["pixels"]) == scores[3, k]
    lake, mean, overall = rows[3:6]
    assert (lake["precision"], lake["iou"], lake["pixels"]) == ("", "", "0")
    np.testing.assert_allclose([float(mean[c]) for c in ("precision", "recall", "f1")], scores[:3].mean(1), atol=1e-9)
    assert float(mean["mcc"]) == pytest.approx(np.mean(mcc), abs=1e-9)
    assert float(overall["mcc"]) == pytest.approx(matthews_corrcoef(truth.ravel(), predicted.ravel()), abs=1e-9)
    assert overall["iou"] == ""
    assert int(overall["pixels"]) == truth.size


def test_the_table_is_shown_at_the_end_of_a_run_that_another_process_began(folder, caplog):
    values, *_ = _tables()
    Reporter(folder, True).metrics(values)
    with caplog.at_level(logging.INFO, "training"):
        Reporter(folder, True).finish("done", "All done.", best_epoch=2)
    shown = [record.getMessage() for record in caplog.records]
    assert shown == [
        class_table("Epoch 2, all pixels", values["all_pixels"]),
        class_table("Epoch 2, valid pixels", values["valid_pixels"]),
        "All done.",
    ]
    lines = shown[0].splitlines()
    assert lines[1].split() == ["class", "precision", "recall", "F1", "IoU", "MCC", "pixels"]
    assert lines[5].split() == ["lake", *["absent"] * 5, "0"]
    assert lines[6].split()[0] == "mean"
    assert len({len(line) for line in lines[1:]}) == 1
    assert folder.events()[-1]["best_epoch"] == 2


def test_scores_of_no_single_epoch_are_shown_too(folder, caplog):
    values = {key: value for key, value in _tables()[0].items() if key != "epoch"}
    folder.metrics_path.write_text(json.dumps(values))
    with caplog.at_level(logging.INFO, "training"):
        Reporter(folder, True).finish("done", "All done.")
    assert caplog.records[0].getMessage() == class_table("all pixels", values["all_pixels"])


def test_loggers_get_every_epoch_and_their_end(folder):
    class Kept:
        def __init__(self):
            self.calls = []

        def epoch(self, row):
            self.calls.append(row["epoch"])

        def finish(self):
            self.calls.append("end")

    kept, unused = Kept(), Kept()
    report = Reporter(folder, True, [kept])
    report.catch_up([_row(1), _row(2)])
    report.epoch([_row(1), _row(2), _row(3)])
    report.close()
    report.close()
    assert kept.calls == [1, 2, 3, "end"]
    assert [e["epoch"] for e in folder.events()] == [1, 2, 3]
    other = Reporter(folder, False, [unused])
    other.epoch([_row(1)])
    other.close()
    assert unused.calls == []


@pytest.mark.parametrize("num_epochs", [1, 30])
def test_curves_are_drawn_with_learning_rate_and_components(folder, num_epochs, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    original = Axes.plot

    def plot(self, x, y, **style):
        drawn.append((self.get_title(), style.get("label"), list(x), list(y)))
        return original(self, x, y, **style)

    monkeypatch.setattr(Axes, "plot", plot)
    rows = [_row(epoch, lr=1e-3 / epoch) for epoch in range(1, num_epochs + 1)]
    Reporter(folder, True).draw(rows)
    assert folder.curves_path.read_bytes().startswith(b"\x89PNG")
    epochs = list(range(1, num_epochs + 1))
    titles = {title for title, *_ in drawn}
    assert titles == {"Loss", "Loss components, unweighted", "Scores", "Learning rate"}
    labels = {label for _, label, *_ in drawn}
    assert {"train loss", "val loss", "train focal", "val dice", "val MCC", "train mean IoU", "val F1"} <= labels
    rate = next(entry for entry in drawn if entry[0] == "Learning rate")
    assert rate[2:] == (epochs, [1e-3 / epoch for epoch in epochs])
