"""What catalogues that are tables have in common: rows to lines of JSON with the columns' names as keys."""

import difflib
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import msgspec

from tc3lib.catalogue.json_rows import BLOCK_BYTES, COLUMNS, LINE_BYTES, TOO_LONG, Block, Columns
from tc3lib.errors import Tc3Error

CSV, EXCEL, PARQUET = "CSV", "Excel", "Parquet"
BATCH = 1000


class Table(Protocol):
    """What is read: `sources.Source`."""

    path: Path
    raw: IO[bytes]
    columns: Columns
    start: int
    delimiter: str
    at: int | None

    def read(self, size: int) -> bytes: ...
    def seek(self, offset: int) -> None: ...


class Row(NamedTuple):
    number: int
    """Line of a CSV file, row of a sheet, or row of a Parquet file, from 1."""
    offset: int | None
    cells: Sequence[Any]
    """Title, content and uid; none at all in an empty line."""
    reason: str = ""
    """Why the row cannot be read."""


def packed(rows: Iterator[Row], columns: Columns) -> Iterator[Block]:
    found: list[bytes] = []
    starts: list[tuple[int, int | None]] = []
    size = 0
    for row in rows:
        line, reason = (b"", row.reason) if row.reason else _line(row.cells, columns)
        if found and (reason or len(found) == BATCH or size > BLOCK_BYTES):
            yield Block(found, starts[0][1] or 0, starts)
            found, starts, size = [], [], 0
        if reason:
            yield Block([b""], row.offset or 0, [(row.number, row.offset)], reason)
        else:
            found.append(line)
            starts.append((row.number, row.offset))
            size += len(line)
    if found:
        yield Block(found, starts[0][1] or 0, starts)


def text(value: Any) -> str | None:
    """Return a cell's value as the text that a person reads in it; None: it is empty.

    Whole numbers have no decimal point (1984, not 1984.0), days no time.

    Raises:
        ValueError: It is no text, number, day or time.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Exception):  # why a library could not give the value
        raise ValueError(str(value))
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        if value != value:  # NaN, which pandas writes for what is missing
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 1e16 else repr(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, datetime) and value.tzinfo is None and value == datetime.combine(value.date(), time()):
        return str(value.date())
    if isinstance(value, int | Decimal | date | time | timedelta):
        return str(value)
    raise ValueError(f"expected text, got `{type(value).__name__}`")


def missing(path: Path, columns: Columns, names: Sequence[str], where: str = "its columns are") -> str:
    """Return a sentence that says which of the columns for title and content are not among `names`, or nothing."""
    absent = [setting for setting in ("title", "content") if getattr(columns, setting) not in (None, *names)]
    if columns.uid != COLUMNS.uid and columns.uid not in names:  # somebody has asked for it
        absent.append("uid")
    if not absent:
        return ""
    told = []
    for setting in absent:
        wanted = getattr(columns, setting)
        folded = {name.casefold(): name for name in reversed(names)}
        close = difflib.get_close_matches(wanted.casefold(), folded, n=1)
        advice = f"Did you mean {folded[close[0]]!r}? " if close else ""
        told.append(f"no column {wanted!r}. {advice}Set {setting}_column to the name of the right one")
    listed = ", ".join(map(repr, names[:30])) + (", ..." if len(names) > 30 else "")
    return f"{path} has {'; '.join(told)}: {where} {listed or 'none'}."


def places(source: Table, names: Sequence[Any]) -> list[int | None]:
    """Return where title, content and uid stand in the rows; None: there is no uid.

    Raises:
        Tc3Error: There is no such column, or two have the name.
    """
    names = [(text(name) or "").strip() for name in names]
    if absent := missing(source.path, source.columns, names):
        raise Tc3Error(absent)
    for name in source.columns:
        if names.count(name) > 1:
            raise Tc3Error(f"{source.path} has {names.count(name)} columns {name!r}: rename all but one.")
    return [names.index(name) if name in names else None for name in source.columns]


def pick(cells: Sequence[Any], places: list[int | None]) -> list[Any]:
    """Return title, content and uid of a row; what a short row lacks is empty."""
    return [cells[place] if place is not None and place < len(cells) else None for place in places]


def _line(cells: Sequence[Any], columns: Columns) -> tuple[bytes, str]:
    """Return a row as JSON, or why that cannot be."""
    if not cells:
        return b"\n", ""
    try:
        title, content, uid = text(cells[0]), text(cells[1]), cells[2]
        if type(uid) is not int or not -(2**63) <= uid < 2**64:
            uid = text(uid)
        row = {columns.title: title, columns.content or "": content, columns.uid: uid}
        line = msgspec.json.encode(row)
    except UnicodeEncodeError as error:
        code = ord(error.object[error.start])
        if 0xDC80 <= code <= 0xDCFF:  # what `surrogateescape` makes of a byte
            return b"", not_utf8(code - 0xDC00)
        return b"", "half of a surrogate pair"
    except UnicodeDecodeError as error:
        return b"", not_utf8(error.object[error.start])
    except ValueError as error:
        return b"", str(error)
    if "\0" in (title or "") or "\0" in (content or ""):
        return b"", "a NUL character"
    return (line, "") if len(line) <= LINE_BYTES else (b"", TOO_LONG)


def not_utf8(byte: int) -> str:
    return f"not UTF-8 (byte 0x{byte:02x}): save the file again with the encoding UTF-8 (in Excel: CSV UTF-8)"
