"""A run folder: the files through which the window and the trainer meet.

The trainer writes `events.jsonl` (a JSON object a line) and its process identity; whoever follows reads
them, and asks for a stop by putting a file there. Neither side holds a connection to the other.
"""

import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
from filelock import FileLock, Timeout

from napari_glacier.core.errors import ConfigError
from napari_glacier.core.files import file_name_of, write_text_atomically

RunState = Literal["new", "running", "done", "stopped", "failed"]

_ENDS: dict[str, RunState] = {"done": "done", "stopped": "stopped", "failed": "failed"}
_TAIL_BYTES = 1 << 16
# A run of another host that has written nothing for so long may be dead; nothing else tells.
_SILENT_S = 900.0


class RunFolder:
    """Names and small files of a run folder.

    Parameters
    ----------
    path : Path
        The folder; see `create` for a new one.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.config_path = self.path / "run.yaml"
        self.events_path = self.path / "events.jsonl"
        self.history_path = self.path / "history.csv"
        self.curves_path = self.path / "curves.png"
        self.metrics_path = self.path / "metrics.json"
        self.per_class_path = self.path / "per_class.csv"
        self.best_path = self.path / "best.safetensors"
        self.last_path = self.path / "last.safetensors"
        self.resume_path = self.path / "resume.pt"
        self.log_path = self.path / "train.log"
        self._process_path = self.path / "process.json"
        self._stop_path = self.path / "stop"

    @classmethod
    def create(cls, output_root: Path, name: str) -> "RunFolder":
        """Make a new folder named after the time and `name`; never one that is there already."""
        stamp, name = datetime.now().strftime("%Y%m%d-%H%M%S"), file_name_of(name, "run")
        output_root = Path(output_root)
        output_root.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 1000):
            path = output_root / (f"{stamp}-{name}" if attempt == 1 else f"{stamp}-{name}-{attempt}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return cls(path)
        raise FileExistsError(f"{output_root} already holds 999 runs of {stamp}.")

    def append_event(self, kind: str, **fields: Any) -> None:
        """Append one event, written out at once."""
        self._append({"event": kind, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields})

    def _append(self, record: dict[str, Any]) -> None:
        with self.events_path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            if size and (file.seek(size - 1), file.read(1))[1] != b"\n":
                # A process killed in the middle of a line left its half.
                file.write(b"\n")
            file.write((json.dumps(record, allow_nan=False) + "\n").encode())

    def events(self) -> list[dict[str, Any]]:
        """All events; a last line that is still being written is left for later."""
        return EventReader(self).read()[1]

    def truncate_events(self, epoch: int) -> None:
        """Drop what was recorded of epochs later than `epoch`, and how the run ended."""
        self._keep_events(lambda event: event.get("epoch", 0) <= epoch and event["event"] not in {*_ENDS, "damaged"})

    def drop_end_events(self) -> None:
        """Forget how the run ended, because it goes on."""
        if any(event["event"] in _ENDS for event in self._last_events()):
            self._keep_events(lambda event: event["event"] not in _ENDS)

    def put_back(self, end: dict[str, Any]) -> None:
        """Have ended as before: it did not go on after all."""
        self._append(end)

    @contextmanager
    def claim(self) -> Iterator[dict[str, Any] | None]:
        """Be the run's only trainer; its end of an earlier time is forgotten, and given for `put_back`.

        Raises
        ------
        ConfigError
            If another process trains in this folder.
        """
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(
                f"{self.path} is being trained by process {self._process().get('pid', 'unknown')}. "
                "Stop it first, or start a run of its own."
            ) from None
        try:
            self.write_process()
            last = self._last_events()[-1:]
            self.drop_end_events()
            yield last[0] if last and last[0]["event"] in _ENDS else None
        finally:
            lock.release()

    def write_process(self) -> None:
        """Record this process as the run's trainer."""
        process = psutil.Process()
        record = {"pid": process.pid, "created": process.create_time(), "host": platform.node()}
        write_text_atomically(self._process_path, json.dumps(record))

    @property
    def other_host(self) -> str | None:
        """The host that trains, where it is not this one: a folder on a shared disk, or a copy."""
        host = self._process().get("host")
        return str(host) if host and host != platform.node() else None

    def is_alive(self) -> bool:
        """Whether the trainer that was recorded still runs on this host (a reused process number does not count)."""
        record = self._process()
        try:
            process = psutil.Process(record["pid"])
            same = abs(process.create_time() - record["created"]) < 1.0
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except (KeyError, psutil.Error):
            return False

    def silence_s(self) -> float:
        """Seconds since the trainer last wrote anything."""
        written = (self.events_path, self.log_path, self._process_path)
        times = [path.stat().st_mtime for path in written if path.exists()]
        return max(time.time() - max(times), 0.0) if times else math.inf

    def request_stop(self) -> None:
        """Ask the trainer to finish its step, checkpoint and exit."""
        self._stop_path.touch()

    def stop_requested(self) -> bool:
        """Whether a stop was asked for."""
        return self._stop_path.exists()

    def clear_stop(self) -> None:
        """Forget a stop asked for earlier."""
        self._stop_path.unlink(missing_ok=True)

    def state(self) -> RunState:
        """What the run is doing, from its events and its process."""
        last = self._last_events()
        if last and last[-1]["event"] in _ENDS:
            return _ENDS[last[-1]["event"]]
        if self.is_alive():
            return "running"
        return "failed" if last else "new"

    def state_from_afar(self) -> RunState | Literal["silent"]:
        """The same for whoever only follows: whether a trainer on another host lives is told by what it writes."""
        last = self._last_events()
        if self.other_host is None or (last and last[-1]["event"] in _ENDS) or self.is_alive():
            return self.state()
        return "running" if self.silence_s() < _SILENT_S else "silent"

    def _process(self) -> dict[str, Any]:
        try:
            record = json.loads(self._process_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return record if isinstance(record, dict) else {}

    def _last_events(self) -> list[dict[str, Any]]:
        """The events at the end of the file, without reading the hours before them."""
        try:
            with self.events_path.open("rb") as file:
                start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
                file.seek(start)
                lines = file.read().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        return [_event(line) for line in (lines[1:] if start else lines) if line]

    def _keep_events(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        kept = [event for event in self.events() if wanted(event)]
        write_text_atomically(self.events_path, "".join(json.dumps(event) + "\n" for event in kept))


class EventReader:
    """Reads a run's events as they are written, each once.

    Parameters
    ----------
    folder : RunFolder
    """

    def __init__(self, folder: RunFolder) -> None:
        self._path = folder.events_path
        self._offset = 0
        self._identity: tuple[int, int] | None = None

    def read(self) -> tuple[bool, list[dict[str, Any]]]:
        """Whether the file was replaced (a resumed run starts it anew), and the events not read yet.

        After a replacement the events are all those of the new file. A line still being written is left for later.
        """
        try:
            with self._path.open("rb") as file:
                stat = os.fstat(file.fileno())
                identity = (stat.st_dev, stat.st_ino)
                replaced = self._identity is not None and (identity != self._identity or stat.st_size < self._offset)
                if replaced:
                    self._offset = 0
                self._identity = identity
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return False, []
        complete = text[: text.rfind(b"\n") + 1]
        self._offset += len(complete)
        return replaced, [_event(line) for line in complete.splitlines() if line]


def _event(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {"event": "damaged"}
    return record if isinstance(record, dict) and "event" in record else {"event": "damaged"}
