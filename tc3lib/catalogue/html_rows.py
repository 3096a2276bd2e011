"""Read catalogues that are a table of HTML: what many shops call `.xls`."""

import re
from collections.abc import Iterator
from pathlib import Path

from tc3lib.catalogue.rows import Source
from tc3lib.catalogue.table_rows import Row, below_header, find_header, has_columns, not_utf8
from tc3lib.errors import Tc3Error

_CHARSET = re.compile(rb"<meta[^>]*charset=[\"']?([\w-]+)", re.IGNORECASE)


def html_rows(source: Source) -> Iterator[Row]:
    """Yield the rows of an HTML table after its header; the whole file is held in memory."""
    from selectolax.lexbor import LexborHTMLParser

    source.file.seek(source.bom_length)
    content = source.file.read()
    charset = _CHARSET.search(content[: 1 << 12])
    try:
        text = content.decode(charset[1].decode() if charset else "utf-8")
    except LookupError:
        raise Tc3Error(f"{source.path} is HTML in an unknown encoding, {charset[1].decode()!r}.") from None
    except UnicodeDecodeError as error:
        raise Tc3Error(f"{source.path}: {not_utf8(content[error.start])}.") from None
    tree = LexborHTMLParser(text)
    for line_break in tree.css("br"):
        line_break.insert_before("\n")
    rows = []
    for row in tree.css("tr"):
        cells = []
        for cell in row.css("td,th"):
            cells += [cell.text().strip(), *[""] * (_span(cell.attributes.get("colspan")) - 1)]
        rows.append(cells)
    header, names = find_header(enumerate(rows, 1), source.columns, source.header_row)
    if not has_columns(names, source.columns) and not source.path.name.lower().endswith(".xls"):
        raise web_page(source.path, content[: 1 << 12])
    below = (Row(number, None, cells, _reason(cells, names)) for number, cells in enumerate(rows, 1) if number > header)
    yield from below_header(source, names, below)


def _reason(cells: list[str], names: list[str]) -> str:
    if len(cells) >= len(names) or not any(cells):
        return ""
    return f"{len(cells)} cells, but the header has {len(names)}: split the cells that span several rows (rowspan)"


def _span(value: str | None) -> int:
    return min(int(value), 1000) if value and value.isdecimal() else 1


def web_page(path: Path, head: bytes) -> Tc3Error:
    """Return the error for HTML that is no catalogue."""
    title = re.search(rb"<title[^>]*>([^<]*)", head.lower())
    named = f" with the title {title[1].decode(errors='replace').strip()!r}" if title else ""
    return Tc3Error(
        f"{path} is an HTML page{named}, not a catalogue: the download gave a page of the site, as Google Drive does "
        "when a quota is exceeded. Open the link in a browser and download the file itself."
    )
