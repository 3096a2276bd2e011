"""What every reader of a catalogue takes and yields, whatever the format of the file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

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
        return cls(config.title_column, config.content_column, config.uid_column)


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
    """JSON Lines, JSON array, CSV, Excel or Parquet."""
    start: int = 0
    """Length of the byte order mark."""
    delimiter: str = ""
    done: float | None = None
    """Share of the rows read so far; None: see how far `raw` has been read."""

    def position(self) -> int:
        """Return how many bytes of the file on disk have been read."""
        return self.raw.tell() if self.done is None else int(self.done * self.path.stat().st_size)


class Product(msgspec.Struct, gc=False):
    title: str | None
    content: str | None
    uid: str | int | float | bool | None = None


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

    @property
    def read(self) -> int:
        return len(self.products) + len(self.damaged) + self.empty
