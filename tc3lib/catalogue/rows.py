"""What every reader of a catalogue takes and yields, whatever the format of the file."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from tc3lib.settings import DataSettings

LINE_BYTES = 1 << 20
"""A longer line is damaged, so that memory stays bounded: the longest text of the real catalogue has 0.2 MB."""
TOO_LONG = f"longer than {LINE_BYTES:,} bytes"
BATCH = 1000
"""Rows that a reader of arrays or tables yields together."""


class Columns(NamedTuple):
    """Names of the three columns (or JSON keys) that are read; content None: titles are enough."""

    title: str = "title"
    content: str | None = "content"
    uid: str = "uid"

    @classmethod
    def of(cls, config: DataSettings) -> "Columns":
        return cls(*map(nfc, (config.title_column, config.content_column, config.uid_column)))


def nfc(name: str) -> str:
    """Return a name with its accents composed; a Mac decomposes them in names of files."""
    return unicodedata.normalize("NFC", name)


@dataclass
class Source:
    """An opened catalogue, unpacked as it is read."""

    path: Path
    columns: Columns
    raw: IO[bytes]
    """The file on disk."""
    file: IO[bytes]
    """The same, unpacked."""
    packing: str = ""
    """gzip, zip or nothing."""
    kind: str = "JSON Lines"
    """JSON Lines, JSON array, JSON object (around a list, or one after another), CSV, Excel, HTML table or Parquet."""
    bom_length: int = 0
    """Bytes of the byte order mark."""
    delimiter: str = ""
    header_row: int | None = None
    """The setting. None: the first row that has the columns is the header."""
    header: int = 0
    """Line of a CSV file that its header begins in."""
    literal_breaks: bool = False
    r"""The header is WooCommerce's, which writes a line break as the two characters `\n`."""
    done: float | None = None
    """Share of the rows read so far; None: see how far `raw` has been read."""

    def position(self) -> int:
        """Return how many bytes of the file on disk have been read."""
        return self.raw.tell() if self.done is None else int(self.done * self.path.stat().st_size)


class Product(msgspec.Struct, gc=False):
    title: str | None
    content: str | None
    uid: Any = None
    """Any JSON value."""


class Damaged(NamedTuple):
    line: int
    """Line of a text file, row of a sheet or of a Parquet file, from 1."""
    offset: int | None
    """Byte of the unpacked text file; None in Excel and Parquet."""
    reason: str


class Rows(NamedTuple):
    """Some rows of a catalogue, in the file's order."""

    products: list[Product]
    damaged: Sequence[Damaged] = ()
    empty: int = 0
    """Blank lines."""
    headers: int = 0
    """Rows after the header that are headers too."""

    @property
    def read(self) -> int:
        return len(self.products) + len(self.damaged) + self.empty + self.headers
