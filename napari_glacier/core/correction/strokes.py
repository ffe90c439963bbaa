"""What an edit is made of: patches of tiles, gathered into strokes; and the fingerprint of a mask's pixels.

Patches are in tile coordinates, never in those of a scene, so they keep their meaning when the scene is
laid out anew, and replaying them twice gives the same pixels as replaying them once.
"""

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

MaskArray = npt.NDArray[np.uint8]

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


def net_changes(patches: Iterable[Patch], shape: tuple[int, ...]) -> tuple[MaskArray, npt.NDArray[np.bool_]]:
    """What patches of a tile, oldest first, changed in the end: what was drawn and taken back is no change.

    Patches that do not fit the shape are passed over.

    Returns
    -------
    uint8 array, bool array
        The values after the last patch, and where they differ from those before the first.
    """
    first_HW, last_HW, touched_HW = (np.zeros(shape, kind) for kind in (np.uint8, np.uint8, bool))
    for patch in patches:
        if patch.fits(shape):
            new_HW = patch.edited & ~touched_HW[patch.slices]
            first_HW[patch.slices][new_HW] = patch.before_HW[new_HW]
            patch.apply(last_HW)
            touched_HW[patch.slices] |= patch.edited
    return last_HW, touched_HW & (first_HW != last_HW)


def come_to_nothing(patches: Sequence[Patch]) -> bool:
    """Whether patches of a tile, oldest first, changed nothing in the end: what was drawn was taken back."""
    corners = np.array([(p.row, p.col, p.slices[0].stop, p.slices[1].stop) for p in patches], int).reshape(-1, 4)
    if not len(corners):
        return True
    # Of a large tile no more than what was drawn on.
    (row, col), (bottom, right) = corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)
    moved = [replace(patch, row=patch.row - row, col=patch.col - col) for patch in patches]
    return not net_changes(moved, (bottom - row, right - col))[1].any()


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
