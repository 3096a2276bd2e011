"""Catalogues in Excel, read with openpyxl, and in Parquet, read with pyarrow: both in pieces."""

import os
import textwrap
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tc3lib.catalogue.json_rows import Block
from tc3lib.catalogue.table_rows import BATCH, EXCEL, PARQUET, Row, Table, missing, packed, pick, places, text
from tc3lib.errors import Tc3Error

_EXCEL_ROWS = 1 << 20
_EXCEL_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, SyntaxError,
    TypeError, ValueError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What openpyxl lets through of a damaged file: it has no error of its own for that."""


def parquet_rows(source: Table) -> Iterator[Block]:
    """Yield the rows of a Parquet file, which is read batch by batch."""
    return packed(_parquet_rows(source), source.columns)


def excel_rows(source: Table) -> Iterator[Block]:
    """Yield the rows, after the header, of the sheet that has the columns. Formulas count as what they last gave."""
    return packed(_excel_rows(source), source.columns)


def _parquet_rows(source: Table) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    source.at = 0
    errors = (pyarrow.ArrowException, OSError)
    with _damage(source, PARQUET, errors):
        opened = pyarrow.OSFile(os.fspath(source.path))
        file = parquet.ParquetFile(opened, pre_buffer=False, buffer_size=1 << 20)
    with opened, file:
        names, total = file.schema_arrow.names, file.metadata.num_rows
        at = places(source, names)
        wanted = [None if place is None else names[place] for place in at]
        batches = file.iter_batches(BATCH, columns=[name for name in wanted if name is not None], use_threads=False)
        number = 0
        for batch in _guarded(batches, source, PARQUET, errors):
            columns = [[None] * len(batch) if name is None else _values(batch.column(name)) for name in wanted]
            for cells in zip(*columns, strict=True):
                number += 1
                yield Row(number, None, cells)
            source.at = source.path.stat().st_size * number // total


def _values(column: Any) -> list[Any]:
    """Return an Arrow array's values; in place of one that Python cannot hold, the error."""
    try:
        return column.to_pylist()
    except (ArithmeticError, ValueError):
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes()
    except (ArithmeticError, ValueError) as error:
        return error


def _excel_rows(source: Table) -> Iterator[Row]:
    import openpyxl

    source.at = 0  # where such a file is read says little about how much of it is done
    source.raw.seek(0)
    with _damage(source, EXCEL, _EXCEL_ERRORS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles that it does not know
        book = openpyxl.load_workbook(source.raw, read_only=True, data_only=True, keep_links=False)
    size = source.path.stat().st_size
    rows_told = {sheet.title: sheet.max_row for sheet in book.worksheets}
    headers = {sheet.title: _excel_header(source, sheet) for sheet in book.worksheets}
    fitting = [name for name, (_, names) in headers.items() if not missing(source.path, source.columns, names)]
    if len(fitting) > 1:
        raise Tc3Error(
            f"{source.path} has the columns in {len(fitting)} sheets ({', '.join(map(repr, fitting))}): put the "
            "products into one, or save the one that you mean as a file of its own."
        )
    chosen = fitting[0] if fitting else next((name for name, (row, _) in headers.items() if row), None)
    if chosen is None:
        raise Tc3Error(f"{source.path} has no sheet with anything in it.")
    header, names = headers[chosen]
    at = places(source, names)
    sheet = book[chosen]
    for number, row in enumerate(_guarded(sheet.iter_rows(), source, EXCEL, _EXCEL_ERRORS), 1):
        if number > _EXCEL_ROWS:
            raise Tc3Error(f"{source.path} is a damaged Excel file: it has a row after {_EXCEL_ROWS:,}.")
        if number > header:
            cells = [_excel_value(cell) for cell in row]
            empty = all(cell is None for cell in cells)
            yield Row(number, None, () if empty else pick(cells, at))
        if number % BATCH == 0 and (rows_told[chosen] or 0) >= number:
            source.at = size * number // rows_told[chosen]
    source.at = size


def _excel_header(source: Table, sheet: Any) -> tuple[int, list[str]]:
    """Return number and cells of a sheet's first row that is not blank; 0 if there is none."""
    sheet.reset_dimensions()  # some programs write wrong ones, and openpyxl would read no further
    for number, row in enumerate(_guarded(sheet.iter_rows(), source, EXCEL, _EXCEL_ERRORS), 1):
        names = [(text(cell.value) or "").strip() for cell in row]
        if any(names):
            return number, names
    return 0, []


def _excel_value(cell: Any) -> Any:
    from openpyxl.utils.escape import unescape

    if cell.data_type == "e":
        return ValueError(f"the cell holds the error {cell.value}")
    return unescape(cell.value) if isinstance(cell.value, str) and "_x" in cell.value else cell.value


@contextmanager
def _damage(source: Table, kind: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Turn a library's refusal to read into a `Tc3Error`."""
    try:
        yield
    except errors as error:
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        raise Tc3Error(f"{source.path} is a damaged {kind} file ({reason}). Copy or download it again.") from None


def _guarded(items: Iterator[Any], source: Table, kind: str, errors: tuple[type[Exception], ...]) -> Iterator[Any]:
    """Pass items on, with `_damage` around their making alone."""
    items, end = iter(items), object()
    while True:
        with _damage(source, kind, errors):
            item = next(items, end)
        if item is end:
            return
        yield item
