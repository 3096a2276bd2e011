"""Read catalogues in CSV and TSV, with Python's `csv`.

Not with pandas: version 3.1 pads a row that is too short without a word, skips one that is too long, and reports the
wrong line after a line break in a cell.
"""

import csv
import io
import re
from collections.abc import Iterator

from tc3lib.catalogue.json_rows import blocks, numbered
from tc3lib.catalogue.rows import LINE_BYTES, TOO_LONG, Columns, Source
from tc3lib.catalogue.table_rows import Row, missing, not_utf8, pick, places
from tc3lib.errors import Tc3Error

_DELIMITERS = (",", ";", "\t", "|")
_SEP = re.compile(r'"?sep=(.)"?\r?\n')
"""A first line that tells Excel the delimiter."""
_REASONS = {
    "expected after": 'a quote (") in a quoted cell must be doubled ("")',
    "unexpected end": 'the quote (") that a cell begins with is not closed',
    "new-line character": "a carriage return without a line feed after it",
    "field larger": TOO_LONG,
}


def csv_delimiter(head: bytes, columns: Columns) -> tuple[str, bool]:
    """Return the delimiter of a CSV file, and whether its header names the columns for title and content.

    A delimiter is right if it splits the header into these names. If none does, it is the one that gives most cells.
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
    """Return the stripped cells of the first line that is not blank."""
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
            if any(map(str.strip, cells)):
                return [cell.strip() for cell in cells]
    except csv.Error:
        pass  # another delimiter may do; if none does, `csv_rows` says why
    return []


def csv_rows(source: Source) -> Iterator[Row]:
    """Yield the rows of a CSV file after its header; quoted cells may hold line breaks.

    A line that `csv` refuses costs itself alone.

    Raises:
        Tc3Error: `csv` refuses a row of several lines, so that it is unclear where a quote should have been closed.
    """
    csv.field_size_limit(max(csv.field_size_limit(), LINE_BYTES))
    unread, row = _lines(source), []

    def next_line() -> str:
        number, offset, line = next(unread)
        row.append((number, offset))
        if not line:
            raise csv.Error(TOO_LONG)
        return line.decode(errors="surrogateescape")

    reader = csv.reader(iter(next_line, None), delimiter=source.delimiter, strict=True)
    at: list[int | None] = []  # positions of title, content and uid
    width = 0
    after_damage = False
    while True:
        row.clear()
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            number, offset = row[0]
            reason = next((text for mark, text in _REASONS.items() if mark in str(error)), str(error))
            if not at:
                raise Tc3Error(f"{source.path}, line {number}: the header is damaged: {reason}.") from None
            if len(row) > 1:
                raise Tc3Error(
                    f"{source.path}, line {number}: the row that begins here cannot be read (read on to line "
                    f"{row[-1][0]}): {reason}. Correct its quotes."
                ) from None
            yield Row(number, offset, (), reason)
            after_damage = True
            continue
        number, offset = row[0]
        if at:
            # A row may lack empty cells at its end. After a damaged one it may be the rest of that, until one is whole.
            after_damage = after_damage and len(cells) < width
            reason = ""
            if any(cells[width:]) or (0 < len(cells) < width and after_damage):
                reason = f"{len(cells)} cells, but the header has {width}: quote a cell that holds {source.delimiter!r}"
            yield Row(number, offset, pick(cells, at) if cells else (), reason)
        elif any(map(str.strip, cells)) and not (number == 1 and cells[0].startswith("sep=")):
            broken = "".join(cells).encode(errors="surrogateescape")
            try:
                broken.decode()
            except UnicodeDecodeError as error:
                raise Tc3Error(f"{source.path}, line {number}: {not_utf8(broken[error.start])}.") from None
            at, width = places(source.path, source.columns, cells), len(cells)
    if not at:
        raise Tc3Error(missing(source.path, source.columns, []))


def _lines(source: Source) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, byte offset and text of each line, b"" for one that is too long."""
    number = 1
    for offset, block in blocks(source.file, source.start, None):
        yield from numbered(block, number, offset)
        number += len(block)
