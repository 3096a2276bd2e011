"""What catalogues that are tables have in common, columns and cells as text; Parquet, read with pyarrow."""

import difflib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tc3lib.catalogue.rows import BATCH, Columns, Damaged, Product, Rows, Source, nfc
from tc3lib.errors import Tc3Error

SEARCHED = 50
"""Rows that the header is looked for in."""
_WOOCOMMERCE = ({"Visibility in catalog", "Short description"}, {"Visibilidade no catálogo", "Descrição curta"})


class Row(NamedTuple):
    number: int
    """Line of a CSV file, or row of a sheet or of a Parquet file, from 1."""
    offset: int | None
    cells: Sequence[Any]
    """Title, content and uid; none in an empty line."""
    reason: str = ""
    """Why the row cannot be read."""
    header: bool = False
    """Whether it is another header row."""


def batches(rows: Iterator[Row]) -> Iterator[Rows]:
    """Turn rows of a table into products."""
    while batch := list(islice(rows, BATCH)):
        products, damaged, empty, headers = [], [], 0, 0
        for number, offset, cells, reason, header in batch:
            try:
                if reason:
                    raise ValueError(reason)
                if header:
                    headers += 1
                elif cells:
                    products.append(product(*cells))
                else:
                    empty += 1
            except ValueError as error:
                damaged.append(Damaged(number, offset, why(error)))
        yield Rows(products, damaged, empty, headers)


def parquet_rows(source: Source) -> Iterator[Row]:
    """Yield the rows of a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    with pyarrow.OSFile(os.fspath(source.path)) as opened, parquet.ParquetFile(opened, buffer_size=1 << 20) as file:
        names, total = file.schema_arrow.names, file.metadata.num_rows
        read = [None if place is None else names[place] for place in places(source.path, source.columns, names)]
        number = 0
        for batch in file.iter_batches(BATCH, columns=[name for name in read if name], use_threads=False):
            columns = [batch.column(name).to_pylist() if name else [None] * len(batch) for name in read]
            for cells in zip(*columns, strict=True):
                number += 1
                yield Row(number, None, cells)
            source.done = number / total


def text(value: Any) -> str | None:
    """Return a value as a person reads it, None if it is empty: 1984 for 1984.0, a day without its midnight.

    A list is its items, one a line.

    Raises:
        ValueError: It is neither text, number, day, time nor a list of them, or it stands for an error.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Exception):  # why a library could not give the value
        raise ValueError(str(value))
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float):
        if value != value:  # pandas writes NaN for what is missing
            return None
        return str(int(value)) if value.is_integer() and abs(value) < 1e16 else repr(value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, datetime) and value.tzinfo is None and value == datetime.combine(value.date(), time()):
        return str(value.date())
    if isinstance(value, int | Decimal | date | time | timedelta):
        return str(value)
    if isinstance(value, list) and not any(isinstance(item, list) for item in value):
        return "\n".join(filter(None, map(text, value)))
    raise ValueError(f"expected text, got `{type(value).__name__}`")


def find_header(
    rows: Iterable[tuple[int, Sequence[Any]]], columns: Columns, header_row: int | None
) -> tuple[int, list[str]]:
    """Return number and names of a table's header, 0 if there is none.

    It is `header_row`, or else the first row with the columns for title and content. If no row has them, it is the
    first with the most frequent number of cells, so that an error can list its names.
    """
    found = []
    for number, cells in islice(rows, max(SEARCHED, header_row or 0)):
        names = header_names(cells)
        if any(names) if header_row is None else number == header_row:
            if header_row or has_columns(names, columns):
                return number, names
            found.append((number, names))
    if header_row or not found:
        return 0, []
    widths = Counter(sum(map(bool, names)) for _, names in found)
    usual = max(widths, key=lambda width: (widths[width], width))
    return next((number, names) for number, names in found if sum(map(bool, names)) == usual)


def header_names(cells: Iterable[Any]) -> list[str]:
    """Return the names in a header's cells, on one line and with composed accents."""
    names = ["" if isinstance(cell, Exception | list | dict) else text(cell) or "" for cell in cells]
    return [nfc(" ".join(name.split())) for name in names]


def has_columns(names: Sequence[str], columns: Columns) -> bool:
    """Tell whether the columns for title and content are among the names."""
    return columns.title in names and columns.content in (None, *names)


def below_header(source: Source, names: Sequence[str], rows: Iterable[Row]) -> Iterator[Row]:
    """Yield the rows below a header with title, content and uid alone, and mark those that are headers too.

    Raises:
        Tc3Error: The header lacks a column, or has one twice.
    """
    at = places(source.path, source.columns, names)
    source.literal_breaks = any(header <= set(names) for header in _WOOCOMMERCE)
    title, content, _ = source.columns
    for row in rows:
        if row.reason or not row.cells:
            yield row
            continue
        cells = pick(row.cells, at)
        yield row._replace(cells=cells, header=cells[0] == title and cells[1] == content)


def missing(path: Path, columns: Columns, names: Sequence[str], where: str = "its columns are") -> str:
    """Return a sentence that says which of the columns are not among `names`, or nothing. The uid may be missing."""
    absent = [setting for setting in ("title", "content") if getattr(columns, setting) not in (None, *names)]
    if columns.uid not in ("uid", *names):  # a name that somebody has chosen
        absent.append("uid")
    if not absent:
        return ""
    sentences = []
    for setting in absent:
        name = getattr(columns, setting)
        folded = {name.casefold(): name for name in reversed(names)}
        close = difflib.get_close_matches(name.casefold(), folded, n=1)
        advice = f"Did you mean {folded[close[0]]!r}? " if close else ""
        sentences.append(f"no column {name!r}. {advice}Set {setting}_column to the name of the right one")
    listed = ", ".join(map(repr, names[:30])) + (", ..." if len(names) > 30 else "")
    return f"{path} has {'; '.join(sentences)}: {where} {listed or 'none'}."


def places(path: Path, columns: Columns, names: Sequence[Any]) -> list[int | None]:
    """Return the positions of title, content and uid among the header's `names`; None for one that is not read.

    Raises:
        Tc3Error: There is no such column, or two have the name.
    """
    names = header_names(names)
    if sentence := missing(path, columns, names):
        raise Tc3Error(sentence)
    for name in columns:
        if names.count(name) > 1:
            raise Tc3Error(f"{path} has {names.count(name)} columns {name!r}: rename all but one.")
    return [names.index(name) if name in names else None for name in columns]


def pick(cells: Sequence[Any], at: list[int | None]) -> list[Any]:
    """Return title, content and uid of a row; cells that a short row lacks are empty."""
    return [cells[place] if place is not None and place < len(cells) else None for place in at]


def not_utf8(byte: int) -> str:
    return f"not UTF-8 (byte 0x{byte:02x}): save the file again with the encoding UTF-8 (in Excel: CSV UTF-8)"


def product(title: Any, content: Any, uid: Any) -> Product:
    """Return a product of values of any type.

    Raises:
        ValueError: Title or content is no text and cannot be one, or holds what no UTF-8 text does.
    """
    found = Product(text(title), text(content), _uid(uid))
    for value in (found.title, found.content, found.uid):
        if isinstance(value, str):
            value.encode()  # raises where a byte or a surrogate has no character
    if "\0" in (found.title or "") or "\0" in (found.content or ""):
        raise ValueError("a NUL character")
    return found


def _uid(value: Any) -> Any:
    """Return a uid as JSON can hold it: 5 for 5.0, as pandas makes of whole numbers beside empty cells."""
    if isinstance(value, float) and value == value and abs(value) < 1e16:
        return int(value) if value.is_integer() else value
    if isinstance(value, bool) or (isinstance(value, int) and -(2**63) <= value < 2**64):
        return value  # larger ones are no JSON numbers for msgspec
    if isinstance(value, dict | list):
        encoded = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
        try:
            msgspec.json.encode(value := json.loads(encoded))
        except OverflowError:
            return encoded
        return value
    return text(value) or None


def why(error: ValueError) -> str:
    """Return the reason of damage that an error of reading a value stands for."""
    if isinstance(error, UnicodeDecodeError):
        return not_utf8(error.object[error.start])
    if isinstance(error, UnicodeEncodeError):
        code = ord(error.object[error.start])
        # The codec error handler `surrogateescape` makes these of bytes that are not UTF-8.
        return not_utf8(code - 0xDC00) if 0xDC80 <= code <= 0xDCFF else "half of a surrogate pair"
    return str(error)
