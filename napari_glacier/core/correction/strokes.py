"""What an edit is made of: patches of tiles, gathered into strokes; and the fingerprint of a mask's pixels.

Patches are in tile coordinates, never in those of a scene, so they keep their meaning when the scene is
laid out anew, and replaying them twice gives the same pixels as replaying them once.
"""

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

MaskArray = npt.NDArray[np.uint8]

# Tools that draw nothing new: they go back and forth along what was drawn.
REVERT = "revert"
MOVES = frozenset(("undo", "redo", REVERT))

# The base fingerprint of a tile that has no mask file.
ABSENT = "absent"


def within(slices: tuple[slice, slice], shape: tuple[int, ...]) -> bool:
    """Whether rows and columns lie in a tile of this shape."""
    return bool(slices[0].stop <= shape[0] and slices[1].stop <= shape[1])


@dataclass(frozen=True, slots=True)
class Patch:
    """A rectangle of a tile before and after an edit; a pixel was edited where the two differ.

    Parameters
    ----------
    tile_id : str
    row, col : int
        The rectangle's first pixel in the tile.
    before_HW, after_HW : uint8 arrays of one shape
        Class indices.
    """

    tile_id: str
    row: int
    col: int
    before_HW: MaskArray
    after_HW: MaskArray

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns of the tile that the patch covers."""
        height, width = self.before_HW.shape
        return slice(self.row, self.row + height), slice(self.col, self.col + width)

    @property
    def edited(self) -> npt.NDArray[np.bool_]:
        """Pixels that the edit changed, of the patch's shape."""
        return np.not_equal(self.before_HW, self.after_HW)

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether it lies in a tile of this shape: a tile may have been exchanged for a smaller one since."""
        return within(self.slices, shape)

    def apply(self, index_HW: MaskArray) -> None:
        """Write the values after the edit into a mask of the tile, in place."""
        np.copyto(index_HW[self.slices], self.after_HW, where=self.edited)


class NetChanges:
    """What patches of a tile come to, counted as they are added, oldest first: drawn and taken back is no change.

    Parameters
    ----------
    shape : (int, int)
        What is kept of the tile from its corner on, at least; it grows where a patch reaches beyond.

    Attributes
    ----------
    num_px : int
        Pixels whose value after the last patch differs from that before the first.
    first_HW, last_HW : uint8 arrays
        Values before the first and after the last patch of what is kept, from `corner` on; 0 where nothing was drawn.
    """

    def __init__(self, shape: tuple[int, int] = (0, 0)) -> None:
        self.num_px = 0
        self.corner = (0, 0)
        self.first_HW, self.last_HW = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        self._touched_HW = np.zeros(shape, bool)

    def add(self, patches: Sequence[Patch]) -> None:
        """Add later patches."""
        self._reach(patches)
        top, left = self.corner
        for patch in patches:
            height, width = patch.before_HW.shape
            where = np.s_[patch.row - top : patch.row - top + height, patch.col - left : patch.col - left + width]
            first_HW, last_HW, touched_HW = self.first_HW[where], self.last_HW[where], self._touched_HW[where]
            edited_HW = patch.edited
            before = np.count_nonzero(first_HW != last_HW)
            np.copyto(first_HW, patch.before_HW, where=edited_HW & ~touched_HW)
            np.copyto(last_HW, patch.after_HW, where=edited_HW)
            touched_HW |= edited_HW
            self.num_px += int(np.count_nonzero(first_HW != last_HW) - before)

    def _reach(self, patches: Sequence[Patch]) -> None:
        """Keep as much of the tile as these patches need; no more, as a tile may be a whole scene."""
        if not patches:
            return
        corners = np.array([(p.row, p.col, p.slices[0].stop, p.slices[1].stop) for p in patches])
        low_2, high_2 = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
        kept_2 = np.array(self.corner if self.first_HW.size else low_2)
        low_2, high_2 = np.minimum(low_2, kept_2), np.maximum(high_2, kept_2 + self.first_HW.shape)
        around_22 = np.stack([kept_2 - low_2, high_2 - kept_2 - self.first_HW.shape], axis=1)
        self.corner = int(low_2[0]), int(low_2[1])
        if around_22.any():
            self.first_HW, self.last_HW, self._touched_HW = (
                np.pad(kept_HW, around_22) for kept_HW in (self.first_HW, self.last_HW, self._touched_HW)
            )


def net_changes(patches: Iterable[Patch], shape: tuple[int, int]) -> tuple[MaskArray, npt.NDArray[np.bool_]]:
    """What patches of a tile, oldest first, changed in the end: what was drawn and taken back is no change.

    Patches that do not fit the shape are passed over.

    Returns
    -------
    uint8 array, bool array
        The values after the last patch, and where they differ from those before the first.
    """
    net = NetChanges(shape)
    net.add([patch for patch in patches if patch.fits(shape)])
    return net.last_HW, net.first_HW != net.last_HW


def come_to_nothing(patches: Sequence[Patch]) -> bool:
    """Whether patches of a tile, oldest first, changed nothing in the end: what was drawn was taken back."""
    net = NetChanges()
    net.add(patches)
    return not net.num_px


@dataclass(frozen=True, slots=True)
class Stroke:
    """One edit as a person made it, perhaps over several tiles."""

    id: int
    group: str
    tool: str
    author: str
    time: str
    model: str | None
    patches: tuple[Patch, ...]


@dataclass(frozen=True, slots=True)
class StrokeInfo:
    """A stroke without its pixels, for lists.

    Attributes
    ----------
    unsaved : bool
        A tile of it still waits to be saved.
    discarded : bool
        It was given up as a whole.
    """

    id: int
    group: str
    tool: str
    author: str
    time: str
    model: str | None
    tile_ids: tuple[str, ...]
    unsaved: bool
    discarded: bool = False


def utc_now() -> str:
    """The time as the journal keeps it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def fingerprint(index_HW: MaskArray) -> str:
    """Fingerprint of a mask's decoded pixels and shape.

    It stays the same when a file is compressed or tagged anew, and changes with any pixel.
    """
    digest = hashlib.sha256(f"{index_HW.shape[0]}x{index_HW.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(index_HW, np.uint8).data)
    return digest.hexdigest()


def pack(index_HW: MaskArray) -> bytes:
    """Compress a small mask; the fastest level, since labels are runs."""
    return zlib.compress(np.ascontiguousarray(index_HW).tobytes(), level=1)


def unpack(packed: bytes, height: int, width: int) -> MaskArray | None:
    """The mask that `pack` compressed, read-only; None where the disk spoilt it."""
    try:
        return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, width)
    except (zlib.error, ValueError):
        return None


Packed = tuple[str, int, int, int, int, bytes, bytes]


def pack_patch(patch: Patch) -> Packed:
    """A patch as the journal keeps it: tile, row, column, height, width, and the packed masks before and after."""
    height, width = patch.before_HW.shape
    return patch.tile_id, patch.row, patch.col, height, width, pack(patch.before_HW), pack(patch.after_HW)


def seal_patch(packed: Packed, stroke_id: int) -> Packed:
    """The same with a checksum of everything behind the mask after: a spoilt place would be believed else.

    Who does not know of the checksum reads the mask all the same.
    """
    *place, after = packed
    return *place, after + _checksum(stroke_id, *place)  # type: ignore[return-value]  # mypy counts no stars


def unpack_patch(stroke_id: int, *packed: Any) -> Patch | None:
    """A patch as the journal kept it; None where the disk spoilt it. Those of older journals have no checksum."""
    tile_id, row, col, height, width, before, after = packed
    try:
        stream = zlib.decompressobj()
        after_HW = np.frombuffer(stream.decompress(after), np.uint8).reshape(height, width)
        before_HW = unpack(before, height, width)
        sound = stream.eof and stream.unused_data in (b"", _checksum(stroke_id, *packed[:-1]))
    except (zlib.error, ValueError, TypeError):
        return None
    return Patch(tile_id, row, col, before_HW, after_HW) if sound and before_HW is not None else None


def _checksum(stroke_id: int, *place: Any) -> bytes:
    *where, before = place
    return zlib.crc32(before, zlib.crc32(" ".join(map(str, (stroke_id, *where))).encode())).to_bytes(4)
