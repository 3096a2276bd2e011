"""Read catalogues in CSV and TSV, with Python's `csv`.

Not with pandas: version 3.1 pads a row that is too short without a word, skips one that is too long, and reports the
wrong line after a line break in a cell.
"""

import csv
import re
from collections.abc import Iterable, Iterator

from tc3lib.catalogue.json_rows import blocks, numbered
from tc3lib.catalogue.rows import LINE_BYTES, TOO_LONG, Columns, Source, nfc
from tc3lib.catalogue.table_rows import (
    SEARCHED,
    Row,
    below_header,
    find_header,
    has_columns,
    header_names,
    missing,
    not_utf8,
)  # fmt: skip
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


def csv_header(head: bytes, columns: Columns, header_row: int | None) -> tuple[str, int, bool]:
    """Return delimiter and line of a CSV file's header, and whether it names the columns for title and content.

    A delimiter is right if it splits a line into these names. If none does, it is the one that gives most cells,
    and of several the one whose header comes first.
    """
    text = head.decode(errors="surrogateescape")
    named = _SEP.match(text)
    title, begin = re.escape(columns.title), nfc(text[:10_000])
    beside = re.findall(rf'{title}"?([^\w\s"])', begin) + re.findall(rf'([^\w\s"])"?{title}', begin)
    lines = text.split("\n")[: max(SEARCHED, header_row or 0)]
    found = {}
    for delimiter in (named[1],) if named else dict.fromkeys((*_DELIMITERS, *beside)):
        rows = ((number, _cells(lines[number - 1 :], delimiter)) for number in range(1 + bool(named), len(lines) + 1))
        number, names = find_header(rows, columns, header_row)
        found[delimiter] = not has_columns(names, columns), number, -sum(map(bool, names))
    absent = min(absent for absent, *_ in found.values())
    delimiter = min(found, key=lambda mark: (found[mark][2], found[mark][1]) if absent else found[mark])
    first = next((number for number, line in enumerate(lines, 1) if number > bool(named) and line.strip()), 1)
    if header_row or not (absent and not _cells(lines[first - 1 :], delimiter)):
        first = found[delimiter][1] or header_row or first
    return delimiter, first, not absent


def _cells(lines: list[str], delimiter: str) -> list[str]:
    """Return the cells of the row that begins in the first line; none if it cannot be read."""
    try:
        return next(_reader((f"{line}\n" for line in lines), delimiter), [])
    except csv.Error:
        return []  # another delimiter may do; if none does, `csv_rows` says why


def _reader(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """Return a reader that knows `"title", "content"` too, with a space before the quote."""
    return csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=delimiter != " ")


def csv_rows(source: Source) -> Iterator[Row]:
    """Yield the rows of a CSV file after its header; quoted cells may hold line breaks.

    A line that `csv` refuses costs itself alone.

    Raises:
        Tc3Error: `csv` refuses a row of several lines, so that it is unclear where a quote should have been closed.
    """
    rows = _rows(source)
    for header in rows:
        if any(map(str.strip, header.cells)):
            break
    else:
        raise Tc3Error(missing(source.path, source.columns, []))
    broken = "".join(header.cells).encode(errors="surrogateescape")
    try:
        broken.decode()
    except UnicodeDecodeError as error:
        raise Tc3Error(f"{source.path}, line {header.number}: {not_utf8(broken[error.start])}.") from None
    yield from below_header(source, header_names(header.cells), _of_width(len(header.cells), source.delimiter, rows))


def _of_width(width: int, delimiter: str, rows: Iterator[Row]) -> Iterator[Row]:
    """Mark rows with more cells than the header as damaged.

    A short row lacks empty cells at its end. After a damaged row it may be the rest of that one, so short rows are
    damaged too until one is whole.
    """
    after_damage = False
    for row in rows:
        if row.reason:
            after_damage = True
            yield row
            continue
        cells = row.cells
        after_damage = after_damage and len(cells) < width
        if any(cells[width:]) or (0 < len(cells) < width and after_damage):
            reason = f"{len(cells)} cells, but the header has {width}: quote a cell that holds {delimiter!r}"
            row = row._replace(reason=reason)
        yield row


def _rows(source: Source) -> Iterator[Row]:
    """Yield every row from the header's line on, with all its cells."""
    csv.field_size_limit(max(csv.field_size_limit(), LINE_BYTES))
    unread, row = _lines(source), []

    def next_line() -> str:
        number, offset, line = next(unread)
        row.append((number, offset))
        if not line:
            raise csv.Error(TOO_LONG)
        return line.decode(errors="surrogateescape")

    reader = _reader(iter(next_line, None), source.delimiter)
    header = True
    while True:
        row.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            number, offset = row[0]
            reason = next((text for mark, text in _REASONS.items() if mark in str(error)), str(error))
            if header:
                raise Tc3Error(f"{source.path}, line {number}: the header is damaged: {reason}.") from None
            if len(row) > 1:
                raise Tc3Error(
                    f"{source.path}, line {number}: the row that begins here cannot be read (read on to line "
                    f"{row[-1][0]}): {reason}. Correct its quotes."
                ) from None
            yield Row(number, offset, (), reason)
            continue
        header = header and not any(map(str.strip, cells))
        yield Row(*row[0], cells)


def _lines(source: Source) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, byte offset and text of each line from the header's on, b"" for one that is too long."""
    number = 1
    for offset, block in blocks(source.file, source.bom_length, None):
        yield from (line for line in numbered(block, number, offset) if line[0] >= source.header)
        number += len(block)
