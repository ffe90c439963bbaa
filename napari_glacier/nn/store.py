"""Where the finished rows of a scene's maps go: into memory, or into a folder from which a job goes on.

Legend: K classes, M members, H x W the scene, h the rows of one call.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from napari_glacier.core.errors import SaveError
from napari_glacier.core.files import write_text_atomically

AnyArray = npt.NDArray[Any]

# Above this many pixels measures are kept as float16: half a gigabyte for a Landsat scene.
_LARGE_SCENE_PX = 24_000_000
_JOB_FILE = "job.json"


@dataclass(frozen=True, slots=True)
class Rows:
    """Finished rows of all maps, from row `start` on; see `Prediction` for what they are.

    The votes, and how probable each member holds the class that it votes for, are there where they were asked for.
    """

    start: int
    index_hW: npt.NDArray[np.uint8]
    valid_hW: npt.NDArray[np.bool_]
    probabilities_KhW: npt.NDArray[np.float32]
    entropy_hW: npt.NDArray[np.float32]
    mutual_information_hW: npt.NDArray[np.float32]
    votes_MhW: npt.NDArray[np.uint8] | None = None
    vote_probabilities_MhW: npt.NDArray[np.float32] | None = None


class Maps(NamedTuple):
    """The maps of a scene; see `Prediction` for what they are."""

    index_HW: AnyArray
    valid_HW: AnyArray
    probabilities_KHW: AnyArray
    entropy_HW: AnyArray
    mutual_information_HW: AnyArray
    votes_MHW: AnyArray | None = None


class MemoryStore:
    """Maps in memory.

    Parameters
    ----------
    num_classes, height, width : int
    num_voters : int
        Members whose votes are kept; 0 where nobody asked for them.

    Attributes
    ----------
    rows_done : int
        Rows at the top that need not be made again.
    """

    def __init__(self, num_classes: int, height: int, width: int, *, num_voters: int = 0) -> None:
        self.rows_done = 0
        kind = measure_dtype(height, width)
        self._maps = Maps(
            np.zeros((height, width), np.uint8),
            np.zeros((height, width), bool),
            np.zeros((num_classes, height, width), kind),
            np.zeros((height, width), kind),
            np.zeros((height, width), kind),
            np.zeros((num_voters, height, width), np.uint8) if num_voters else None,
        )

    def put(self, rows: Rows) -> None:
        """Take finished rows."""
        where = slice(rows.start, rows.start + len(rows.index_hW))
        self._maps.index_HW[where] = rows.index_hW
        self._maps.valid_HW[where] = rows.valid_hW
        self._maps.probabilities_KHW[:, where] = rows.probabilities_KhW
        self._maps.entropy_HW[where] = rows.entropy_hW
        self._maps.mutual_information_HW[where] = rows.mutual_information_hW
        if self._maps.votes_MHW is not None:
            self._maps.votes_MHW[:, where] = rows.votes_MhW

    def maps(self) -> Maps:
        """All rows so far; 0 in the others."""
        return self._maps


class JobFolder:
    """Maps in files of a folder, so that memory holds none of them and an interrupted job goes on.

    Rows are on disk before they count as done, so that what a crash leaves is whole.

    Parameters
    ----------
    path : Path
        Made where it is missing; of an interrupted job with another fingerprint nothing is kept.
    fingerprint : mapping
        Plain values that decide the pixels: scene, models, settings.
    num_classes, height, width : int
    num_voters : int
        Members whose votes are kept; 0 where nobody asked for them.

    Raises
    ------
    SaveError
        If the folder cannot be written.
    """

    def __init__(
        self,
        path: Path,
        fingerprint: Mapping[str, Any],
        num_classes: int,
        height: int,
        width: int,
        *,
        num_voters: int = 0,
    ) -> None:
        self.path = path
        # Rows that were made without votes are not done for a job that is to have them, and the other way round.
        voters = {"num_voters": num_voters} if num_voters else {}
        self._fingerprint = json.loads(json.dumps({**fingerprint, **voters}))
        kind = np.dtype(measure_dtype(height, width))
        self._arrays: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "index": ((height, width), np.dtype(np.uint8)),
            "valid": ((height, width), np.dtype(bool)),
            "probabilities": ((num_classes, height, width), kind),
            "entropy": ((height, width), kind),
            "mutual_information": ((height, width), kind),
        }
        if num_voters:
            self._arrays["votes"] = ((num_voters, height, width), np.dtype(np.uint8))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.rows_done = self._rows_of_before()
            if not self.rows_done:
                self._begin()
        except OSError as error:
            raise self._refused(error) from error

    def put(self, rows: Rows) -> None:
        """Write finished rows; they count from now on."""
        pieces: dict[str, AnyArray] = {
            "index": rows.index_hW[None],
            "valid": rows.valid_hW[None],
            "probabilities": rows.probabilities_KhW,
            "entropy": rows.entropy_hW[None],
            "mutual_information": rows.mutual_information_hW[None],
        }
        if "votes" in self._arrays:
            assert rows.votes_MhW is not None
            pieces["votes"] = rows.votes_MhW
        try:
            for name, piece_KhW in pieces.items():
                shape, kind = self._arrays[name]
                height, width = shape[-2:]
                with self._file(name).open("rb+") as file:
                    for k, plane_hW in enumerate(piece_KhW):
                        file.seek((k * height + rows.start) * width * kind.itemsize)
                        file.write(np.ascontiguousarray(plane_hW, kind).tobytes())
                    file.flush()
                    os.fsync(file.fileno())
            self.rows_done = rows.start + len(rows.index_hW)
            self._note()
        except OSError as error:
            raise self._refused(error) from error

    def maps(self) -> Maps:
        """All rows so far; 0 in the others. Classes and validity are in memory, measures are read when looked at."""
        return Maps(
            np.array(self._mapped("index")),
            np.array(self._mapped("valid")),
            self._mapped("probabilities"),
            self._mapped("entropy"),
            self._mapped("mutual_information"),
            self._mapped("votes") if "votes" in self._arrays else None,
        )

    def _mapped(self, name: str) -> AnyArray:
        shape, kind = self._arrays[name]
        return np.memmap(self._file(name), kind, "r", shape=shape)

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.raw"

    def _num_bytes(self, name: str) -> int:
        shape, kind = self._arrays[name]
        return int(np.prod(shape, dtype=np.int64)) * kind.itemsize

    def _begin(self) -> None:
        self.rows_done = 0
        self._note()
        for name in self._arrays:
            with self._file(name).open("wb") as file:
                file.truncate(self._num_bytes(name))

    def _note(self) -> None:
        note = {"rows_done": self.rows_done, "fingerprint": self._fingerprint}
        write_text_atomically(self.path / _JOB_FILE, json.dumps(note) + "\n")

    def _rows_of_before(self) -> int:
        try:
            note = json.loads((self.path / _JOB_FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return 0
        sizes = {
            name: int(np.prod(shape, dtype=np.int64)) * kind.itemsize for name, (shape, kind) in self._arrays.items()
        }
        whole = all(self._file(n).is_file() and self._file(n).stat().st_size == size for n, size in sizes.items())
        return int(note["rows_done"]) if whole and note.get("fingerprint") == self._fingerprint else 0

    def _refused(self, error: OSError) -> SaveError:
        return SaveError(
            f"{self.path} could not be written ({error.strerror or error}); what was done before is kept. Free disk "
            "space or choose another folder, then start the same prediction again: it goes on from there."
        )


Store = MemoryStore | JobFolder


def measure_dtype(height: int, width: int) -> type[np.floating[Any]]:
    """Type in which probabilities and uncertainty of a scene are kept."""
    return np.float16 if height * width > _LARGE_SCENE_PX else np.float32
