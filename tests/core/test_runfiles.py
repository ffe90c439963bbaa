import json
import os
import subprocess
import sys

import psutil
import pytest

from napari_glacier.core.errors import ConfigError
from napari_glacier.core.runfiles import EventReader, RunFolder


def test_folders_of_the_same_second_do_not_collide(tmp_path):
    runs = [RunFolder.create(tmp_path, "a") for _ in range(3)]
    assert len({run.path for run in runs}) == 3
    assert all(run.path.is_dir() for run in runs)
    assert runs[0].state() == "new"


def test_a_half_written_line_is_left_for_later(tmp_path):
    run = RunFolder.create(tmp_path, "a")
    run.append_event("epoch", epoch=1, train_loss=0.5)
    with run.events_path.open("a") as file:
        file.write('{"event": "epoch", "epo')
    assert [event["event"] for event in run.events()] == ["epoch"]
    with run.events_path.open("a") as file:
        file.write('ch": 2}\n')
    assert [event["epoch"] for event in run.events()] == [1, 2]


def test_a_reader_gets_every_event_once_and_notices_a_file_that_starts_anew(tmp_path):
    run = RunFolder.create(tmp_path, "a")
    reader = EventReader(run)
    assert reader.read() == (False, [])
    for epoch in (1, 2, 3):
        run.append_event("epoch", epoch=epoch)
    assert [event["epoch"] for event in reader.read()[1]] == [1, 2, 3]
    with run.events_path.open("a") as file:
        file.write('{"event": "epo')
    assert reader.read() == (False, [])
    run.truncate_events(1)
    run.append_event("epoch", epoch=2)
    replaced, events = reader.read()
    assert replaced
    assert [event["epoch"] for event in events] == [1, 2]


def test_an_event_after_a_torn_line_is_whole(tmp_path):
    run = RunFolder.create(tmp_path, "a")
    run.events_path.write_text('{"event": "epoch", "epo')
    run.append_event("failed", message="why")
    assert [event["event"] for event in run.events()] == ["damaged", "failed"]
    assert run.state() == "failed"


def test_a_run_has_one_trainer(tmp_path):
    run = RunFolder.create(tmp_path, "a")
    run.append_event("stopped", message="")
    with run.claim():
        assert run.state() == "running"
        with pytest.raises(ConfigError, match=f"is being trained by process {os.getpid()}"), run.claim():
            pass
    with run.claim():
        pass


def test_the_state_of_a_long_run_is_read_from_its_end(tmp_path):
    run = RunFolder.create(tmp_path, "a")
    line = json.dumps({"event": "step", "epoch": 1, "filler": "x" * 200}) + "\n"
    run.events_path.write_text(line * 2000)
    run.append_event("done", message="")
    assert run.state() == "done"


def test_truncating_drops_later_epochs_and_the_end(tmp_path):
    run = RunFolder.create(tmp_path, "a")
    run.append_event("start")
    for epoch in (1, 2, 3):
        run.append_event("epoch", epoch=epoch)
    run.append_event("stopped", message="")
    assert run.state() == "stopped"
    run.truncate_events(2)
    assert [event.get("epoch") for event in run.events()] == [None, 1, 2]


def test_alive_means_the_very_process(tmp_path):
    run = RunFolder.create(tmp_path, "a")
    assert not run.is_alive()
    run.write_process()
    assert run.is_alive()
    assert run.state() == "running"
    record = {"pid": os.getpid(), "created": psutil.Process().create_time() - 1000}
    (run.path / "process.json").write_text(json.dumps(record))
    assert not run.is_alive()
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    (run.path / "process.json").write_text(json.dumps({"pid": int(ended.stdout), "created": 0}))
    assert not run.is_alive()
    run.append_event("start")
    assert run.state() == "failed"


def test_a_stop_is_asked_for_and_forgotten(tmp_path):
    run = RunFolder.create(tmp_path, "a")
    assert not run.stop_requested()
    run.request_stop()
    run.request_stop()
    assert run.stop_requested()
    run.clear_stop()
    assert not run.stop_requested()
