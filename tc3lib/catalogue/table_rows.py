"""What catalogues that are tables have in common, columns and cells as text; Parquet, read with pyarrow."""

import difflib
import os
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tc3lib.catalogue.rows import BATCH, Columns, Damaged, Product, Rows, Source
from tc3lib.errors import Tc3Error


class Row(NamedTuple):
    number: int
    """Line of a CSV file, or row of a sheet or of a Parquet file, from 1."""
    offset: int | None
    cells: Sequence[Any]
    """Title, content and uid; none in an empty line."""
    reason: str = ""
    """Why the row cannot be read."""


def batches(rows: Iterator[Row]) -> Iterator[Rows]:
    """Turn rows of a table into products."""
    while batch := list(islice(rows, BATCH)):
        products, damaged, empty = [], [], 0
        for number, offset, cells, reason in batch:
            try:
                if reason:
                    raise ValueError(reason)
                if cells:
                    products.append(_product(*cells))
                else:
                    empty += 1
            except ValueError as error:
                damaged.append(Damaged(number, offset, _reason(error)))
        yield Rows(products, damaged, empty)


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
    """Return a cell's value as a person reads it, None if it is empty: 1984 for 1984.0, a day without its midnight.

    Raises:
        ValueError: It is neither text, number, day nor time, or it stands for an error.
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
    raise ValueError(f"expected text, got `{type(value).__name__}`")


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
    names = [(text(name) or "").strip() for name in names]
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


def _product(title: Any, content: Any, uid: Any) -> Product:
    if type(uid) is not int or not -(2**63) <= uid < 2**64:  # larger ones are no JSON numbers for msgspec
        uid = text(uid)
    product = Product(text(title), text(content), uid)
    for value in (product.title, product.content, uid):
        if isinstance(value, str):
            value.encode()  # raises where a byte or a surrogate has no character
    if "\0" in (product.title or "") or "\0" in (product.content or ""):
        raise ValueError("a NUL character")
    return product


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return not_utf8(error.object[error.start])
    if isinstance(error, UnicodeEncodeError):
        code = ord(error.object[error.start])
        # The codec error handler `surrogateescape` makes these of bytes that are not UTF-8.
        return not_utf8(code - 0xDC00) if 0xDC80 <= code <= 0xDCFF else "half of a surrogate pair"
    return str(error)
