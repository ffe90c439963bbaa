"""Rows of an SQLite file read page by page, so that a damaged page costs what lies on it and nothing else.

SQLite itself reaches a page through others: where one of these is damaged, or the header is, it gives none of the rows
behind it. The format is that of https://www.sqlite.org/fileformat2.html.
"""

from collections.abc import Iterator

Value = int | float | str | bytes | None
Values = tuple[Value, ...]

_INDEX_INNER, _TABLE_INNER, _INDEX_LEAF = 2, 5, 10
_FILE_HEADER, _LOG_HEADER, _FRAME_HEADER = 100, 32, 24
_WIDTHS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
# What reading senseless bytes ends with.
_NONSENSE = (IndexError, ValueError)


class Pages:
    """The pages of an SQLite file, numbered from 1.

    Parameters
    ----------
    content : bytes
        The file, without a write-ahead log beside it.
    size : int
        Bytes of a page.
    """

    def __init__(self, content: bytes, size: int) -> None:
        self._content = content
        self._size = size
        self.num_bytes = len(content)
        self.numbers = range(1, -(-len(content) // size) + 1)

    def rows(self, number: int) -> Iterator[tuple[int, Values]]:
        """Id and values of each row of a table on a page; its kind may be damaged, too, so it is not asked."""
        for place in self._places(number, 8):
            try:
                length, at = _varint(self._content, place)
                row_id, at = _varint(self._content, at)
                yield _signed(row_id), self._record(at, length, self._size - 35)
            except _NONSENSE:
                continue

    def entries(self, number: int) -> Iterator[Values]:
        """What an index has on a page: the columns, then the row's id."""
        kind = self._kind(number)
        if kind not in (_INDEX_LEAF, _INDEX_INNER):
            return
        inner = kind == _INDEX_INNER
        for place in self._places(number, 12 if inner else 8):
            try:
                length, at = _varint(self._content, place + 4 * inner)
                yield self._record(at, length, (self._size - 12) * 64 // 255 - 23)
            except _NONSENSE:
                continue

    def tree(self, root: int) -> set[int]:
        """The pages of a table or an index, as far as they can be reached."""
        reached: set[int] = set()
        waiting = [root]
        while waiting:
            number = waiting.pop()
            if number not in self.numbers or number in reached:
                continue
            reached.add(number)
            if self._kind(number) in (_INDEX_INNER, _TABLE_INNER):
                places = [self._start(number) + 8, *self._places(number, 12)]
                waiting += [int.from_bytes(self._content[at : at + 4]) for at in places]
        return reached

    def _start(self, number: int) -> int:
        return _FILE_HEADER if number == 1 else (number - 1) * self._size

    def _kind(self, number: int) -> int:
        start = self._start(number)
        return int.from_bytes(self._content[start : start + 1])

    def _places(self, number: int, header: int) -> list[int]:
        """Where the cells of a page begin."""
        start, first = self._start(number), (number - 1) * self._size
        stop = min(first + self._size, len(self._content))
        count = int.from_bytes(self._content[start + 3 : start + 5])
        pointers = range(start + header, min(start + header + 2 * count, stop - 1), 2)
        places = (first + int.from_bytes(self._content[at : at + 2]) for at in pointers)
        return [at for at in places if start + header <= at < stop]

    def _record(self, at: int, length: int, most: int) -> Values:
        """The record at a place, which may go on elsewhere; `most` bytes of it fit on a page."""
        if length <= most:
            if at % self._size + length > self._size:
                raise ValueError("It reaches beyond its page.")
            return _values(self._content[at : at + length])
        if length > len(self._content):
            raise ValueError("It is longer than the file.")
        least = (self._size - 12) * 32 // 255 - 23
        here = least + (length - least) % (self._size - 4)
        here = here if here <= most else least
        parts = [self._content[at : at + here]]
        left, at = length - here, at + here
        while left > 0:
            number = int.from_bytes(self._content[at : at + 4])
            if number not in self.numbers or number == 1:
                raise ValueError("It goes on nowhere.")
            at = (number - 1) * self._size
            parts.append(self._content[at + 4 : at + 4 + min(left, self._size - 4)])
            left -= self._size - 4
        return _values(b"".join(parts))


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A whole number of one to nine bytes, and where it ends."""
    value = 0
    for k in range(8):
        byte = content[at + k]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + k + 1
    return value << 8 | content[at + 8], at + 9


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _values(record: bytes) -> Values:
    """The columns of a record; ValueError or IndexError where it is none."""
    stop, at = _varint(record, 0)
    kinds = []
    while at < stop:
        kind, at = _varint(record, at)
        kinds.append(kind)
    values: list[Value] = []
    for kind in kinds:
        if kind in (0, 8, 9):
            values.append(None if kind == 0 else kind - 8)
            continue
        width = _WIDTHS.get(kind, (kind - 12) // 2)
        part = record[at : at + width]
        if width < 0 or len(part) != width:
            raise ValueError("It is cut short.")
        at += width
        if kind in _WIDTHS:
            values.append(int.from_bytes(part, signed=True))
        else:
            values.append(part.decode(errors="replace") if kind % 2 else part)
    if at != len(record):
        raise ValueError("More follows than its columns.")
    return tuple(values)


def with_log(content: bytes, log: bytes, size: int) -> bytes:
    """A file with the pages that its write-ahead log has of finished transactions, in their places."""
    joined, waiting = bytearray(content), dict[int, bytes]()
    for at in range(_LOG_HEADER, len(log) - _FRAME_HEADER - size + 1, _FRAME_HEADER + size):
        # What lies behind the end of the log is of an earlier one.
        if log[at + 8 : at + 16] != log[16:24]:
            break
        waiting[int.from_bytes(log[at : at + 4])] = log[at + _FRAME_HEADER : at + _FRAME_HEADER + size]
        num_pages = int.from_bytes(log[at + 4 : at + 8])
        if num_pages and max(waiting) <= num_pages:
            joined.extend(bytes(max(0, num_pages * size - len(joined))))
            for number, page in waiting.items():
                joined[(number - 1) * size : number * size] = page
            waiting.clear()
    return bytes(joined)
