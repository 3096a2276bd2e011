"""Open a catalogue, however it is packed, and name what is none."""

import codecs
import gzip
import re
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from tc3lib.catalogue import csv_rows as delimited
from tc3lib.catalogue import excel_rows as workbooks
from tc3lib.catalogue import json_rows as blocks
from tc3lib.catalogue import table_rows as tables
from tc3lib.catalogue.json_rows import COLUMNS, Block, Columns, is_json
from tc3lib.errors import Tc3Error

_ARCHIVES = {
    b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "Zstandard", b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR",
    b"PARE": "encrypted Parquet", b"SQLite": "SQLite", b"%PDF": "PDF",
}  # fmt: skip
_WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16", b"{\0": "UTF-16", b"\0{": "UTF-16", b"[\0": "UTF-16", b"\0[": "UTF-16",
}  # fmt: skip
_PARQUET, _OLD_OFFICE = b"PAR1", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_SHEETS = {"xl/workbook.bin": "a binary Excel file (.xlsb)", "content.xml": "an OpenDocument file (.ods)"}
"""Members of a zip file that tell a spreadsheet of another kind than .xlsx."""
_LINES = (".json", ".jsonl", ".csv", ".tsv")
_PACKED = (b"PK\3\4", b"PK\5\6", b"PK\7\x08", b"\x1f\x8b")
_OBJECT_AFTER_OBJECT, _OBJECT_AFTER_COMMA = re.compile(rb"\}\s*\n\s*\{"), re.compile(rb"\}\s*,\s*\{")


class Source:
    """An opened catalogue, unpacked as it is read. Every error of reading is a `Tc3Error` that names the file."""

    def __init__(self, path: Path, raw: IO[bytes], file: IO[bytes], columns: Columns, packing: str = ""):
        self.path, self.raw, self.file, self.columns, self.packing = path, raw, file, columns, packing
        self.start = 0
        self.array = False
        self.table = ""
        """Which of the kinds in `tables` it is, if it is one."""
        self.delimiter = ""
        self.at: int | None = None

    def read(self, size: int) -> bytes:
        """Return the next bytes, `size` at most; none at the end."""
        try:
            return self.file.read(size)
        except Exception as error:  # each way of packing has errors of its own
            if isinstance(error, OSError) and error.errno:
                raise Tc3Error(f"cannot read {self.path}: {error.strerror}.") from None
            if not self.packing:
                raise  # a defect of ours, not of the file
            message = f"{self.path} is a damaged {self.packing} file ({error}). Copy or download it again."
            raise Tc3Error(message) from None

    def seek(self, offset: int) -> None:
        """Go to a byte of the unpacked file."""
        self.file.seek(offset)

    def position(self) -> int:
        """Return how many bytes of the file on disk have been read."""
        return self.raw.tell() if self.at is None else self.at

    def blocks(self, start: int = 0, end: int | None = None) -> Iterator[Block]:
        """Yield what the file holds: the lines that begin in bytes `start` to `end`, or the whole array or table."""
        if self.table == tables.CSV:
            return delimited.csv_rows(self)
        if self.table:
            return workbooks.excel_rows(self) if self.table == tables.EXCEL else workbooks.parquet_rows(self)
        return blocks.elements(self) if self.array else blocks.lines(self, max(start, self.start), end)


@contextmanager
def opened(path: Path, columns: Columns = COLUMNS) -> Iterator[Source]:
    """Open a catalogue: JSON Lines, a JSON array or CSV, as it is or in gzip, zip, or gzip in zip; Excel; Parquet.

    The bytes tell what it is. Text that begins with neither `{` nor `[` is CSV if its first line names the columns of
    title and content, or if the file is called so.

    Args:
        path: The file; text is UTF-8.
        columns: What it calls title, content and uid.

    Raises:
        Tc3Error: It is missing, empty, a folder, or something else than a catalogue, which the message names; or two
            of the columns are the same.
    """
    if len(set(columns)) < len(columns):
        named = ", ".join(f"{setting}_column={name!r}" for setting, name in columns._asdict().items() if name)
        raise Tc3Error(f"{named}: title, content and uid must be three columns.")
    try:
        if path.is_dir():
            raise Tc3Error(f"{path} is a folder: give the path of the catalogue's file.")
        if not path.is_file():
            raise Tc3Error(f"no file {path}: expected JSON Lines with `title` and `content`.")
    except (OSError, ValueError) as error:
        raise Tc3Error(f"cannot read {path}: {error}.") from None
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(open(path, "rb", buffering=0))
        except OSError as error:
            raise Tc3Error(f"cannot read {path}: {error.strerror}.") from None
        source, name = Source(path, raw, raw, columns), path.name
        head = _head(source)
        if head.startswith(b"PK"):
            member = _member(path, raw)
            if member is None:
                source.table = tables.EXCEL
                yield source
                return
            source, name = Source(path, raw, stack.enter_context(member), columns, "zip"), member.name
            head = _head(source)
        if head.startswith(b"\x1f\x8b"):
            unpacked = stack.enter_context(gzip.open(source.file))
            source = Source(path, raw, unpacked, columns, source.packing or "gzip")
            head = _head(source)
        _refuse(path, head, source.packing)
        source.start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
        source.array = _is_array(head[source.start :])
        if head.startswith(_PARQUET):
            source.table = tables.PARQUET
        elif not head[source.start :].lstrip().startswith((b"{", b"[")):
            source.delimiter, named = delimited.csv_delimiter(head[source.start :], columns)
            called = name.lower().removesuffix(".gz").removesuffix(".zip").endswith((".csv", ".tsv"))
            source.table = tables.CSV if named or called else ""
        source.seek(0)
        yield source


def _head(source: Source) -> bytes:
    source.seek(0)
    head = source.read(1 << 16)
    while len(head) < 1 << 16 and (more := source.read(1 << 16)):
        head += more
    source.seek(0)
    return head


def _member(path: Path, raw: IO[bytes]) -> IO[bytes] | None:
    """Open the catalogue in a zip file: `trn.json` or `trn.json.gz` in any folder of it, or the one JSON or CSV file.

    None: it is an Excel file.
    """
    try:
        archive = zipfile.ZipFile(raw)
        names = [name for name in archive.namelist() if not name.endswith("/")]
        found = [name for name in names if Path(name).name in ("trn.json", "trn.json.gz")] or [
            name for name in names if name.lower().removesuffix(".gz").endswith(_LINES)
        ]
        if "xl/workbook.xml" in names:
            return None
        if len(found) == 1:
            return archive.open(found[0])
    except Exception as error:  # zipfile has many
        raise Tc3Error(f"{path} is a zip file that cannot be opened ({error}). Copy or download it again.") from None
    for member, kind in _SHEETS.items():
        if member in names:
            raise Tc3Error(f"{path} is {kind}: save it as .xlsx or as CSV UTF-8.")
    listed = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
    raise Tc3Error(
        f"{path} is a zip file with {len(found)} catalogues in it; expected one, trn.json or trn.json.gz. It holds "
        f"{listed or 'no file'}. Unpack it and give the path of the catalogue."
    )


def _refuse(path: Path, head: bytes, packing: str) -> None:
    """Raise Tc3Error if the first bytes show that this is no catalogue, and say what it is."""
    text = head[:4096].lstrip(codecs.BOM_UTF8 + b" \t\r\n").lower()
    wide = next((name for mark, name in _WIDE.items() if head.startswith(mark)), None)
    archive = next((name for mark, name in _ARCHIVES.items() if head.startswith(mark)), None)
    if not head:
        raise Tc3Error(f"{path} is empty: copy or download it again.")
    if wide:
        raise Tc3Error(f"{path} is {wide} text; expected UTF-8. Save it again with the encoding UTF-8.")
    if head.startswith(_PACKED):
        raise Tc3Error(f"{path} is packed more than once; expected gzip, zip, or gzip in zip. Unpack it first.")
    if packing and head.startswith(_PARQUET):
        raise Tc3Error(f"{path} is a Parquet file in {packing}, which cannot be read in pieces: unpack it first.")
    if head.startswith(_OLD_OFFICE):
        raise Tc3Error(f"{path} is an old Excel file (.xls), or one with a password: save it as .xlsx without one.")
    if archive:
        raise Tc3Error(f"{path} is a {archive} file; expected JSON Lines, plain or in gzip or zip. Unpack it first.")
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        title = re.search(rb"<title[^>]*>([^<]*)", text)
        named = f" with the title {title[1].decode(errors='replace').strip()!r}" if title else ""
        raise Tc3Error(
            f"{path} is an HTML page{named}, not a catalogue: the download gave a page of the site, as Google Drive "
            "does when a quota is exceeded. Open the link in a browser and download the file itself."
        )
    if text.startswith(b"version https://git-lfs"):
        raise Tc3Error(f"{path} is a Git LFS pointer, not the file it stands for: fetch that with `git lfs pull`.")


def _is_array(head: bytes) -> bool:
    """Tell a JSON array from JSON Lines whose first line happens to begin like one."""
    text = head.lstrip()
    if not text.startswith(b"["):
        return False
    line, _, rest = text.partition(b"\n")
    if is_json(line) and rest.lstrip().startswith(b"{"):
        return False
    return len(_OBJECT_AFTER_OBJECT.findall(text)) <= len(_OBJECT_AFTER_COMMA.findall(text))
