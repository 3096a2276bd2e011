"""Read catalogues in Excel (.xlsx), row by row with openpyxl."""

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tc3lib.catalogue.rows import BATCH, Source
from tc3lib.catalogue.table_rows import Row, below_header, find_header, missing
from tc3lib.errors import Tc3Error

if TYPE_CHECKING:
    from openpyxl.cell import Cell
    from openpyxl.worksheet._read_only import ReadOnlyWorksheet


def excel_rows(source: Source) -> Iterator[Row]:
    """Yield the rows, after the header, of the sheet that has the columns. Formulas count as their last result."""
    import openpyxl

    path, columns = source.path, source.columns
    source.file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about styles that openpyxl does not know
        book = openpyxl.load_workbook(source.file, read_only=True, data_only=True, keep_links=False)
    most = {sheet.title: sheet.max_row for sheet in book.worksheets}
    headers = {sheet.title: _header(sheet, source) for sheet in book.worksheets}
    fitting = [title for title, (_, names) in headers.items() if not missing(path, columns, names)]
    if len(fitting) > 1:
        raise Tc3Error(
            f"{path} has the columns in {len(fitting)} sheets ({', '.join(map(repr, fitting))}): put the "
            "products into one, or save the one that you mean as a file of its own."
        )
    # Where none fits, the message is about the widest: the others may be instructions.
    chosen = max(fitting or headers, key=lambda title: sum(map(bool, headers[title][1])))
    header, names = headers[chosen]
    if not header:
        raise Tc3Error(f"{path} has no sheet with anything in it.")
    yield from below_header(source, names, _rows(source, book[chosen], header, most[chosen]))
    source.done = 1.0


def _rows(source: Source, sheet: "ReadOnlyWorksheet", header: int, most: int | None) -> Iterator[Row]:
    for number, row in enumerate(sheet.iter_rows(), 1):
        if number > header:
            cells = [_value(cell) for cell in row]
            yield Row(number, None, () if all(cell is None for cell in cells) else cells)
        if number % BATCH == 0 and most:
            source.done = min(1.0, number / most)


def _header(sheet: "ReadOnlyWorksheet", source: Source) -> tuple[int, list[str]]:
    sheet.reset_dimensions()  # some programs write wrong ones, and openpyxl would read no further
    rows = enumerate(([cell.value for cell in row] for row in sheet.iter_rows()), 1)
    return find_header(rows, source.columns, source.header_row)


def _value(cell: "Cell") -> Any:
    from openpyxl.utils.escape import unescape

    if cell.data_type == "e":
        return ValueError(f"the cell holds the error {cell.value}")
    return unescape(cell.value) if isinstance(cell.value, str) and "_x" in cell.value else cell.value
