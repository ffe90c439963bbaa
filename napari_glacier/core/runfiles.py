"""A run folder: the files through which the window and the trainer meet.

The trainer writes `events.jsonl` (a JSON object a line) and its process identity; whoever follows reads
them, and asks for a stop by putting a file there. Neither side holds a connection to the other.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from napari_glacier.core.files import write_text_atomically

RunState = Literal["new", "running", "done", "stopped", "failed"]


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
        self.best_path = self.path / "best.safetensors"
        self.last_path = self.path / "last.safetensors"
        self.resume_path = self.path / "resume.pt"
        self.log_path = self.path / "train.log"
        self._process_path = self.path / "process.json"
        self._stop_path = self.path / "stop"

    @classmethod
    def create(cls, output_root: Path, name: str) -> "RunFolder":
        """Make a new folder named after the time and `name`; never one that is there already."""
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
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
        record = {"event": kind, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
        with self.events_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")

    def events(self, after: int = 0) -> list[dict[str, Any]]:
        """Events from number `after` on; a last line that is still being written is left for later."""
        if not self.events_path.is_file():
            return []
        lines = self.events_path.read_text(encoding="utf-8").split("\n")
        records = []
        for line in lines[after:-1]:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                # A process killed in the middle of a line; the resumed run begins a fresh one.
                records.append({"event": "damaged"})
        return records

    def truncate_events(self, epoch: int) -> None:
        """Drop what was recorded of epochs later than `epoch`, and how the run ended."""
        kept = [
            record
            for record in self.events()
            if record.get("epoch", 0) <= epoch and record["event"] not in {"done", "stopped", "failed", "damaged"}
        ]
        write_text_atomically(self.events_path, "".join(json.dumps(record) + "\n" for record in kept))

    def write_process(self) -> None:
        """Record this process as the run's trainer."""
        process = psutil.Process()
        write_text_atomically(self._process_path, json.dumps({"pid": process.pid, "created": process.create_time()}))

    def is_alive(self) -> bool:
        """Whether the trainer that was recorded still runs (a reused process number does not count)."""
        try:
            record = json.loads(self._process_path.read_text(encoding="utf-8"))
            process = psutil.Process(record["pid"])
            same = abs(process.create_time() - record["created"]) < 1.0
            return bool(same and process.status() != psutil.STATUS_ZOMBIE)
        except (OSError, ValueError, KeyError, psutil.Error):
            return False

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
        ends: dict[str, RunState] = {"done": "done", "stopped": "stopped", "failed": "failed"}
        events = self.events()
        for record in reversed(events):
            if record["event"] in ends:
                return ends[record["event"]]
        if self.is_alive():
            return "running"
        return "failed" if events else "new"
