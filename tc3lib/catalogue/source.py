"""Find a catalogue, tell what kind of file it is, and open it."""

import codecs
import gzip
import os
import re
import textwrap
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from tc3lib.catalogue.csv_rows import csv_delimiter, csv_rows
from tc3lib.catalogue.excel_rows import excel_rows
from tc3lib.catalogue.json_rows import elements, lines
from tc3lib.catalogue.rows import Columns, Rows, Source
from tc3lib.catalogue.table_rows import batches, parquet_rows
from tc3lib.errors import Tc3Error
from tc3lib.settings import Settings

WRITES = (
    "trn_output.json", "trn_output.uid.jsonl", "quarantine.jsonl", "prepare_report.json", "train.jsonl", "eval.jsonl",
    "questions.jsonl",
)  # fmt: skip
"""Files that notebook 01 writes into the work folder: none of them can be the catalogue."""

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
"""Files in an archive that identify a spreadsheet which is not .xlsx."""
_LINES = (".json", ".jsonl", ".csv", ".tsv")
_PACKED = (b"PK\3\4", b"PK\5\6", b"PK\7\x08", b"\x1f\x8b")
_OBJECT_AFTER_LINE, _OBJECT_AFTER_COMMA = re.compile(rb"\}\s*\n\s*\{"), re.compile(rb"\}\s*,\s*\{")
_TABLES = {"CSV": csv_rows, "Excel": excel_rows, "Parquet": parquet_rows}


def read(source: Source, start: int = 0, end: int | None = None) -> Iterator[Rows]:
    """Yield the catalogue's rows; of plain JSON Lines, those that begin in bytes `start` to `end`.

    Raises:
        Tc3Error: The file cannot be read, or not as the kind of file that it is.
    """
    kind = source.kind
    with _naming(source.path, source.packing or (kind if kind in ("Excel", "Parquet") else "")):
        if kind in _TABLES:
            yield from batches(_TABLES[kind](source))
        else:
            yield from elements(source) if kind == "JSON array" else lines(source, start, end)


@contextmanager
def _naming(path: Path, kind: str) -> Iterator[None]:
    """Raise a `Tc3Error` that names the file if it cannot be read; with `kind`, whatever a library raises."""
    try:
        yield
    except (Tc3Error, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise Tc3Error(f"cannot read {path}: {error.strerror}.") from None
        if not kind:
            raise  # a defect of ours, not of the file
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
        raise Tc3Error(f"{path} is a damaged {kind} file ({reason}). Copy or download it again.") from None


def find(config: Settings, work: Path) -> Path:
    """Return the catalogue to read: `source` in the work folder, `source` with `.gz` or `.zip`, else the preset's own.

    Raises:
        Tc3Error: There is none, or it is a file that notebook 01 writes.
    """
    name = config.data.source
    path = work / Path(name).expanduser()
    candidates = [path, path.with_name(f"{path.name}.gz"), path.with_name(f"{path.name}.zip")]
    if config.data.fallback_source and name == type(config.data).source:
        candidates.append(Path(config.data.fallback_source))
    found = next((candidate for candidate in candidates if os.path.exists(candidate)), None)
    if found is None:
        raise Tc3Error(
            f"no {path.name} in {path.parent}: put your catalogue there (JSON Lines with `title` and `content`; `.gz` "
            "or `.zip` will do), or give its path as the setting `source`. TC3_PRESET=tiny runs on the embedded one."
        )
    if any((work / written).exists() and (work / written).samefile(found) for written in WRITES):
        raise Tc3Error(f"01_prepare would overwrite the catalogue {found}: rename the file, and set source.")
    return found


@contextmanager
def opened(path: Path, columns: Columns) -> Iterator[Source]:
    """Open a catalogue: JSON Lines, a JSON array or CSV, as it is or in gzip, zip, or gzip in zip; Excel; Parquet.

    The bytes decide, not the name. Only text that begins with neither `{` nor `[` is CSV if its first line names the
    columns for title and content, or else if the file is called .csv or .tsv.

    Raises:
        Tc3Error: It is missing, empty, a folder, or another kind of file, which the message names; or two of the
            columns are the same.
    """
    if len(set(columns)) < len(columns):
        named = ", ".join(f"{setting}_column={name!r}" for setting, name in columns._asdict().items() if name)
        raise Tc3Error(f"{named}: title, content and uid must be three columns.")
    if path.is_dir():
        raise Tc3Error(f"{path} is a folder: give the path of the catalogue's file.")
    with ExitStack() as stack:
        with _naming(path, ""):
            raw = stack.enter_context(open(path, "rb", buffering=1 << 16))
        source, name = Source(path, columns, raw, raw), path.name
        head = _head(source)
        if head.startswith(b"PK"):
            member = _member(path, raw)
            if member is None:
                source.kind = "Excel"
                yield source
                return
            source.packing, source.file, name = "zip", stack.enter_context(member), member.name
            head = _head(source)
        if head.startswith(b"\x1f\x8b"):
            source.packing, source.file = source.packing or "gzip", stack.enter_context(gzip.open(source.file))
            head = _head(source)
        _refuse(path, head, source.packing)
        if head.startswith(codecs.BOM_UTF8):
            source.start = len(codecs.BOM_UTF8)
            head = head[source.start :]
        if head.startswith(_PARQUET):
            source.kind = "Parquet"
        elif _is_array(head):
            source.kind = "JSON array"
        elif not head.lstrip().startswith((b"{", b"[")):
            source.delimiter, named = csv_delimiter(head, columns)
            suffixes = name.lower().removesuffix(".gz").removesuffix(".zip")
            source.kind = "CSV" if named or suffixes.endswith((".csv", ".tsv")) else "JSON Lines"
        yield source


def _head(source: Source) -> bytes:
    """Return the first 64 KiB of the unpacked file."""
    with _naming(source.path, source.packing):
        source.file.seek(0)
        head = b""
        while len(head) < 1 << 16 and (more := source.file.read((1 << 16) - len(head))):
            head += more
        source.file.seek(0)
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
    """Raise a `Tc3Error` that says what the file is, if its first bytes are not those of a catalogue."""
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
    """Tell a JSON array from JSON Lines whose damaged first line begins like one."""
    if not head.lstrip().startswith(b"["):
        return False
    return len(_OBJECT_AFTER_LINE.findall(head)) <= len(_OBJECT_AFTER_COMMA.findall(head))
