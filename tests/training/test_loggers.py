"""TensorBoard and Weights & Biases: what they keep of a run, and what they may not do to it."""

import json
import logging
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from napari_glacier.core.config_files import load_config
from napari_glacier.core.errors import ConfigError
from napari_glacier.core.runfiles import RunFolder
from training import loggers as module
from training.loggers import Guarded, check_loggers, make_loggers, wandb_mode

# Their packages warn of their own dependencies at import, so they run in a process of their own.
LOG = """
import sys
from pathlib import Path
from napari_glacier.core.config_files import load_config
from napari_glacier.core.runfiles import RunFolder
from training.loggers import make_loggers

name, path, count, first, last = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
folder = RunFolder(path)
rows = [
    {"epoch": e, "epochs": 9, "lr": 1e-3, "train_loss": 1 / e, "val_loss": 2 / e, "val_mcc": e / 10,
     "mix_debris": 0.4, "samples_per_s": 5.0, "seconds": 1.0, "eta_s": 1.0, "best": True}
    for e in range(1, last + 1)
]
folder.truncate_events(count)
for row in rows[len([e for e in folder.events()]) : count]:
    folder.append_event("epoch", **row)
(run_logger,) = make_loggers([name], folder, load_config("smoke", ["data.train=tiles"]))
for row in rows[first - 1 :]:
    run_logger.epoch(row)
run_logger.finish()
"""
READ_TENSORBOARD = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

found = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0}).Reload()
scalars = {tag: [[e.step, e.value] for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}
(config,) = [e.tensor_proto.string_val[0].decode() for e in found.Tensors("config/text_summary")]
print(json.dumps([scalars, config]))
"""
# A .wandb file is a log of protobuf records in blocks of 32 KiB, as LevelDB's, after a header of 7 bytes.
READ_WANDB = """
import json, struct, sys
from pathlib import Path
from wandb.proto import wandb_internal_pb2

def records(data):
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        if left < 7 or kind == 0:
            at += left
            continue
        whole = data[at + 7 : at + 7 + length] if kind in (1, 2) else whole + data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole

steps, config, run_id = [], {}, None
for data in records(Path(sys.argv[1]).read_bytes()):
    record = wandb_internal_pb2.Record()
    record.ParseFromString(data)
    if record.HasField("history"):
        values = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        steps.append([values["_step"], values["val_mcc"], "eta_s" in values])
    if record.HasField("run"):
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        run_id = record.run.run_id
print(json.dumps([run_id, steps, config["recipe"]]))
"""


def _python(code: str, *arguments: object) -> str:
    login = {"WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"}
    environment = {key: value for key, value in os.environ.items() if key not in login} | {"NETRC": os.devnull}
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "left out from now on" not in result.stderr
    return result.stdout


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs the extra tensorboard")
def test_tensorboard_reads_every_epoch_once(tmp_path):
    _python(LOG, "tensorboard", tmp_path, 2, 1, 2)
    _python(LOG, "tensorboard", tmp_path, 2, 1, 4)  # goes on, and is told the old epochs again
    scalars, config = json.loads(_python(READ_TENSORBOARD, tmp_path / "tensorboard"))
    assert scalars["loss/train"] == [[e, pytest.approx(1 / e)] for e in (1, 2, 3, 4)]
    assert scalars["loss/val"] == [[e, pytest.approx(2 / e)] for e in (1, 2, 3, 4)]
    assert set(scalars) == {"loss/train", "loss/val", "mcc/val", "mix/debris", "lr", "samples_per_s", "seconds"}
    assert "recipe: smoke" in config
    _python(LOG, "tensorboard", tmp_path, 0, 1, 1)  # begun anew
    scalars, _ = json.loads(_python(READ_TENSORBOARD, tmp_path / "tensorboard"))
    assert [step for step, _ in scalars["mcc/val"]] == [1]


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs the extra wandb")
def test_wandb_without_a_login_logs_offline_and_goes_on_under_its_id(tmp_path):
    out = _python(LOG, "wandb", tmp_path, 2, 1, 2)
    assert out == ""  # standard output is the trainer's
    first = json.loads((tmp_path / "wandb.json").read_text())
    assert first["epoch"] == 2
    _python(LOG, "wandb", tmp_path, 2, 1, 3)
    assert json.loads((tmp_path / "wandb.json").read_text()) == {"id": first["id"], "epoch": 3}
    files = sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    read = [json.loads(_python(READ_WANDB, path)) for path in files]
    assert read == [
        [first["id"], [[1, 0.1, False], [2, 0.2, False]], "smoke"],
        [first["id"], [[3, 0.3, False]], "smoke"],
    ]
    _python(LOG, "wandb", tmp_path, 0, 1, 1)  # begun anew
    anew = json.loads((tmp_path / "wandb.json").read_text())
    assert anew["epoch"] == 1
    assert anew["id"] != first["id"]


def test_wandb_is_online_only_with_a_login(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert wandb_mode() == "offline"  # or it would ask for a key
    netrc.write_text("machine api.wandb.ai login user password secret\n")
    netrc.chmod(0o600)
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8443")
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() == "disabled"


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_package_that_is_not_there_is_bad_input(name, tmp_path, monkeypatch):
    check_loggers([])
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=rf'pip install "napari-glacier\[{name}\]"'):
        check_loggers([name])
    with pytest.raises(ConfigError, match="not installed"):
        make_loggers([name], RunFolder(tmp_path), load_config("smoke", ["data.train=tiles"]))


@pytest.mark.parametrize("fails", ["start", "epoch", "finish"])
def test_a_logger_that_fails_warns_once_and_ends_nothing(fails, tmp_path, caplog):
    calls = []

    class Broken:
        def start(self, config, folder):
            self.call("start")

        def epoch(self, row):
            self.call("epoch")

        def finish(self):
            self.call("finish")

        def call(self, name):
            calls.append(name)
            if name == fails:
                raise ConnectionError("no\nnetwork")

    guarded = Guarded("wandb", Broken())
    with caplog.at_level(logging.WARNING, "training"):
        guarded.start(load_config("smoke", ["data.train=tiles"]), RunFolder(tmp_path))
        guarded.epoch({"epoch": 1})
        guarded.epoch({"epoch": 2})
        guarded.finish()
    all_calls = ["start", "epoch", "epoch", "finish"]
    assert calls == all_calls[: all_calls.index(fails) + 1]
    assert [record.getMessage() for record in caplog.records] == [
        "The logger wandb has failed and is left out from now on: no network"
    ]


def test_a_folder_that_cannot_be_written_does_not_stop_a_run(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda _: True)
    blocked = tmp_path / "run"
    blocked.write_text("a file, no folder")
    monkeypatch.setitem(module._KINDS, "tensorboard", lambda: _Writes(blocked))
    config = load_config("smoke", ["data.train=x"])
    with caplog.at_level(logging.WARNING, "training"):
        (run_logger,) = make_loggers(["tensorboard", "tensorboard"], RunFolder(tmp_path), config)
        run_logger.epoch({"epoch": 1})
    assert len(caplog.records) == 1


class _Writes:
    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, config, folder) -> None:
        (self._path / "events").write_text("")

    def epoch(self, row) -> None:
        raise AssertionError("a logger that did not start is not told of epochs")

    def finish(self) -> None:
        raise AssertionError("nor of the end")
