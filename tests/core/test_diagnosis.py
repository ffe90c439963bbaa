"""The log file, and what is told of an error that nobody foresaw."""

import logging
import sys

import numpy as np
import pytest

from napari_glacier.core.classes import get_scheme
from napari_glacier.core.diagnosis import diagnosis, is_ours, sentence
from napari_glacier.core.log_file import last_lines, log_path, start_log

logger = logging.getLogger("napari_glacier.test")


@pytest.fixture(autouse=True)
def _log():
    start_log()
    yield
    # So that no file stays open behind the tests.
    parent = logging.getLogger("napari_glacier")
    for handler in [handler for handler in parent.handlers if hasattr(handler, "baseFilename")]:
        parent.removeHandler(handler)
        handler.close()


def _caught(call) -> BaseException:
    try:
        call()
    except Exception as error:  # noqa: BLE001 - it is what the test is about
        return error
    raise AssertionError("nothing was raised")


def test_lines_of_the_plugin_reach_the_file_once_and_those_of_others_do_not():
    start_log()
    logger.info("a tile was opened")
    logging.getLogger("somebody.else").error("not ours")
    text = log_path().read_text(encoding="utf-8")
    assert text.count("a tile was opened") == 1
    assert "not ours" not in text
    assert last_lines(1)[0].endswith("a tile was opened")


def test_the_file_stays_small(monkeypatch):
    monkeypatch.setattr("napari_glacier.core.log_file._MOST_BYTES", 2000)
    parent = logging.getLogger("napari_glacier")
    (handler,) = [handler for handler in parent.handlers if hasattr(handler, "baseFilename")]
    handler.maxBytes = 2000
    for number in range(400):
        logger.info("line %d of many", number)
    files = sorted(log_path().parent.iterdir())
    assert len(files) == 4
    assert all(path.stat().st_size <= 2000 for path in files)
    assert last_lines(1)[0].endswith("line 399 of many")


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NAPARI_GLACIER_DATA_DIR", str(tmp_path / "file"))
    start_log()
    logger.info("still alive")
    assert not last_lines()


def test_an_error_is_ours_if_it_passed_through_the_package():
    scheme = get_scheme("glacier4")
    ours = _caught(lambda: scheme.decode("no array"))  # type: ignore[arg-type]
    assert is_ours(ours)
    foreign = _caught(lambda: np.zeros(3).reshape(7))
    assert not is_ours(foreign)

    def passed_on() -> None:
        raise RuntimeError("wrapped") from ours

    assert is_ours(_caught(passed_on))


def test_the_report_says_what_was_open_the_versions_the_traceback_and_the_log():
    logger.warning("the disk is slow")
    error = _caught(lambda: {}["missing"])
    text = diagnosis(error, {"Data set": "/data/region (13 tiles)", "Model": "bundled"})
    assert text.startswith("KeyError: 'missing'")
    for part in (
        "Data set: /data/region (13 tiles)",
        "Model: bundled",
        f"Python {sys.version.split()[0]}",
        f"numpy {np.__version__}",
        "Traceback (most recent call last)",
        "in <lambda>",
        "the disk is slow",
        str(log_path()),
    ):
        assert part in text


def test_a_signals_wrapper_gives_the_words_of_its_cause():
    class EmitLoopError(Exception):
        pass

    def passed_on() -> None:
        raise EmitLoopError("long") from ValueError("short")

    assert sentence(_caught(passed_on)) == "ValueError: short"
    assert sentence(AssertionError()) == "AssertionError"
