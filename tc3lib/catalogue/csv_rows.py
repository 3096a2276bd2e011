"""Catalogues in CSV.

They are read with Python's own `csv`: pandas 3.1 pads a row that is too short in silence, passes over one that is too
long, and after a line break in a cell tells the wrong line of it.
"""

import csv
import io
import re
from collections import deque
from collections.abc import Iterator

from tc3lib.catalogue import json_rows as blocks
from tc3lib.catalogue.json_rows import LINE_BYTES, TOO_LONG, Block, Columns
from tc3lib.catalogue.table_rows import Row, Table, missing, not_utf8, packed, pick, places
from tc3lib.errors import Tc3Error

_DELIMITERS = (",", ";", "\t", "|")
_SEP = re.compile(r'"?sep=(.)"?\r?\n')
"""The line with which Excel is told the delimiter."""
_TRIES = 10
"""Rows found damaged only lines after their first, in lines once found so, until each line has to be whole by itself:
where the quotes of all lines are wrong, reading on to the longest allowed row from each would take hours."""
_CSV_ERRORS = {
    "expected after": 'a quote (") in a quoted cell must be doubled ("")',
    "unexpected end": 'the quote (") that a cell begins with is not closed',
    "new-line character": "a carriage return without a line feed after it",
}


def csv_rows(source: Table) -> Iterator[Block]:
    """Yield the rows of a CSV file after its header; quoted cells may hold line breaks.

    A row that cannot be read costs its first line; reading goes on at the next. So that the rest of such a row is not
    taken for rows, none that is short, which may lack only empty cells, counts until a whole one has come.
    """
    return packed(_csv_rows(source), source.columns)


def csv_delimiter(head: bytes, columns: Columns) -> tuple[str, bool]:
    """Return the delimiter of a CSV file, and whether its header names the columns for title and content.

    The header tells, not the prose below it: a delimiter is right if it splits the header into these names; if none
    does, it is the one that makes most cells.
    """
    text = head.decode(errors="surrogateescape")
    named = _SEP.match(text)
    tried = (named[1],) if named else _DELIMITERS
    text = text[named.end() :] if named else text
    headers = {delimiter: _header(text, delimiter) for delimiter in tried}
    for delimiter, names in headers.items():
        if columns.title in names and columns.content in (None, *names):
            return delimiter, True
    return max(headers, key=lambda delimiter: len(headers[delimiter])), False


def _header(text: str, delimiter: str) -> list[str]:
    """Return the cells of the first line that is not blank, with nothing around them."""
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            if any(map(str.strip, cells)):
                return [cell.strip() for cell in cells]
    except csv.Error:
        pass  # with another delimiter it may be read; if with none, `_csv_rows` says why
    return []


class _Lines:
    """Lines of a CSV file, for `csv.reader`, which come again from the second one on if a row of them is damaged."""

    def __init__(self, source: Table):
        self._blocks = blocks.lines(source, source.start, None)
        self._waiting: deque[tuple[int, int, bytes, str]] = deque()
        self._taken: list[tuple[int, int, bytes, str]] = []
        self._size = self._number = 0
        self.single = 0
        """Number of the last line that has to be a row by itself."""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if not self._waiting:
            block = next(self._blocks)
            for (_, offset), line in zip(block.positions(0), block.lines, strict=True):
                self._number += 1
                self._waiting.append((self._number, offset, line, block.reason))
        self._taken.append(self._waiting.popleft())
        _, _, line, reason = self._taken[-1]
        self._size += len(line)
        if reason or self._size > LINE_BYTES:
            raise csv.Error(reason or TOO_LONG)
        if len(self._taken) > 1 and self._taken[0][0] <= self.single:
            raise csv.Error("unexpected end of data")
        return line.decode(errors="surrogateescape")

    def begin(self) -> None:
        """Begin a row."""
        self._taken.clear()
        self._size = 0

    def first(self) -> tuple[int, int]:
        """Return line number and byte offset of the row."""
        return self._taken[0][:2]

    def again(self) -> int:
        """Let the row's lines but for the first come again; return how many these are."""
        self._waiting.extendleft(reversed(self._taken[1:]))
        return len(self._taken) - 1


def _csv_rows(source: Table) -> Iterator[Row]:
    csv.field_size_limit(max(csv.field_size_limit(), LINE_BYTES))
    lines, width, trusted = _Lines(source), 0, True
    doubtful = tries = 0  # the last line that a damaged row has reached, and how many such rows there were on the way
    at: list[int | None] = []
    reader = csv.reader(lines, delimiter=source.delimiter, strict=True)
    while True:
        lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            reason = next((told for mark, told in _CSV_ERRORS.items() if mark in str(error)), str(error))
            if not at:
                raise Tc3Error(f"{source.path}, line {lines.first()[0]}: the header is damaged: {reason}.") from None
            number, offset = lines.first()
            tries, trusted = 0 if number > doubtful else tries, False
            if (more := lines.again()) and number > lines.single:
                doubtful, tries = max(doubtful, number + more), tries + 1
                lines.single = doubtful if tries >= _TRIES else lines.single
            yield Row(number, offset, (), reason)
            reader = csv.reader(lines, delimiter=source.delimiter, strict=True)
            continue
        number, offset = lines.first()
        if at:
            reason, trusted = "", trusted or (len(cells) >= width and number > doubtful)
            if any(cells[width:]) or (0 < len(cells) < width and not trusted):
                reason = f"{len(cells)} cells, but the header has {width}: quote a cell that holds {source.delimiter!r}"
            yield Row(number, offset, pick(cells, at) if cells else (), reason)
        elif any(map(str.strip, cells)) and not (number == 1 and cells[0].startswith("sep=")):
            broken = "".join(cells).encode(errors="surrogateescape")
            try:
                broken.decode()
            except UnicodeDecodeError as error:
                raise Tc3Error(f"{source.path}, line {number}: {not_utf8(broken[error.start])}.") from None
            at, width = places(source, cells), len(cells)
    if not at:
        raise Tc3Error(missing(source.path, source.columns, []))
