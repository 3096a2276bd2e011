"""Find a catalogue, tell what kind of file it is, and open it."""

import codecs
import gzip
import os
import re
import shutil
import tempfile
import textwrap
import unicodedata
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from tc3lib.catalogue.csv_rows import csv_header, csv_rows
from tc3lib.catalogue.excel_rows import excel_rows
from tc3lib.catalogue.html_rows import html_rows, web_page
from tc3lib.catalogue.json_rows import elements, first_keys, is_one_object, lines, objects
from tc3lib.catalogue.rows import Columns, Rows, Source, nfc
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
    codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
_PARQUET, _OLD_OFFICE = b"PAR1", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_SHEETS = {"xl/workbook.bin": "a binary Excel file (.xlsb)", "content.xml": "an OpenDocument file (.ods)"}
"""Files in an archive that identify a spreadsheet which is not .xlsx."""
_LINES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".tab", ".xlsx", ".xls")
_GOOGLE = (".gsheet", ".gdoc")
_README = re.compile(r"readme|licen[cs]e", re.IGNORECASE)
_PACKED = (b"PK\3\4", b"PK\5\6", b"PK\7\x08", b"\x1f\x8b")
_OBJECT_AFTER_LINE, _OBJECT_AFTER_COMMA = re.compile(rb"\}\s*\n\s*\{"), re.compile(rb"\}\s*,\s*\{")
_TABLES = {"CSV": csv_rows, "Excel": excel_rows, "HTML table": html_rows, "Parquet": parquet_rows}
_JSON = {"JSON array": elements, "JSON object": objects}


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
            yield from _JSON[kind](source) if kind in _JSON else lines(source, start, end)


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
    spellings = dict.fromkeys((path.name, nfc(path.name), unicodedata.normalize("NFD", path.name)))  # a Mac's is NFD
    candidates = [path.with_name(spelling + packed) for packed in ("", ".gz", ".zip") for spelling in spellings]
    if config.data.fallback_source and name == type(config.data).source:
        candidates.append(Path(config.data.fallback_source))
    found = next((candidate for candidate in candidates if os.path.exists(candidate)), None)
    if found is None:
        for link in (path.with_suffix(".gsheet"), path.with_name(f"{path.name}.gsheet")):
            if os.path.lexists(link):
                raise _google_link(link)
        raise Tc3Error(
            f"no {path.name} in {path.parent}: put your catalogue there (JSON Lines with `title` and `content`; `.gz` "
            "or `.zip` will do), or give its path as the setting `source`. TC3_PRESET=tiny runs on the embedded one."
        )
    if any((work / written).exists() and (work / written).samefile(found) for written in WRITES):
        raise Tc3Error(f"01_prepare would overwrite the catalogue {found}: rename the file, and set source.")
    return found


def _google_link(path: Path) -> Tc3Error:
    return Tc3Error(
        f"{path} is a link to a document on Google Drive, not a file: open it there and choose File, Download, "
        "Microsoft Excel (.xlsx), and give the path of that file."
    )


@contextmanager
def opened(path: Path, columns: Columns, header_row: int | None = None) -> Iterator[Source]:
    """Open a catalogue: JSON, CSV or Excel, as it is or in zip; JSON and CSV also in gzip; Parquet.

    The bytes decide, not the name. Only text that begins with neither `{` nor `[` is CSV if one of its first lines
    names the columns for title and content, or else if the file is called .csv, .tsv or .tab.

    Raises:
        Tc3Error: It is missing, empty, a folder, or another kind of file, which the message names; or two of the
            columns are the same.
    """
    if len(set(columns)) < len(columns):
        named = ", ".join(f"{setting}_column={name!r}" for setting, name in columns._asdict().items() if name)
        raise Tc3Error(f"{named}: title, content and uid must be three columns.")
    if path.is_dir():
        raise Tc3Error(f"{path} is a folder: give the path of the catalogue's file.")
    if path.suffix.lower() in _GOOGLE:
        raise _google_link(path)
    with ExitStack() as stack:
        with _naming(path, ""):
            raw = stack.enter_context(open(path, "rb", buffering=1 << 16))
        source, name = Source(path, columns, raw, raw, header_row=header_row), path.name
        head = _head(source)
        if head.startswith(b"PK") and not _is_excel(path, raw):
            member = stack.enter_context(_member(path, raw))
            source.packing, source.file, name = "zip", member, member.name
            head = _head(source)
            if head.startswith(b"PK"):  # openpyxl reads here and there in it
                source.file = stack.enter_context(tempfile.TemporaryFile())
                with _naming(path, "zip"):
                    shutil.copyfileobj(member, source.file)
        if head.startswith(b"PK") and _is_excel(path, source.file):
            source.kind = "Excel"
            yield source
            return
        if head.startswith(b"\x1f\x8b"):
            source.packing, source.file = source.packing or "gzip", stack.enter_context(gzip.open(source.file))
            head = _head(source)
        _refuse(path, head, source.packing)
        if head.startswith(codecs.BOM_UTF8):
            source.start = len(codecs.BOM_UTF8)
            head = head[source.start :]
        begin = head.lstrip()[:1]
        if head.startswith(_PARQUET):
            source.kind = "Parquet"
        elif _is_array(head):
            source.kind = "JSON array"
        elif begin == b"{":
            source.kind = "JSON object" if is_one_object(head, columns) else "JSON Lines"
        elif begin == b"<" and _looks_like_html(head):
            source.kind = "HTML table"
        elif begin != b"[":
            source.delimiter, source.header, named = csv_header(head, columns, header_row)
            suffixes = name.lower().removesuffix(".gz").removesuffix(".zip")
            if named or header_row or suffixes.endswith((".csv", ".tsv", ".tab")):
                source.kind = "CSV"
        if source.kind.startswith("JSON") and not "".join(filter(None, columns)).isascii():
            spelt = {nfc(key): key for key in first_keys(source)}
            source.columns = Columns(*(spelt.get(name, name) for name in columns))
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


def _is_excel(path: Path, file: IO[bytes]) -> bool:
    return "xl/workbook.xml" in _names(path, file)


def _names(path: Path, file: IO[bytes]) -> list[str]:
    """Return the names of a zip file's members, without what macOS adds."""
    try:
        names = zipfile.ZipFile(file).namelist()
    except Exception as error:  # zipfile has many
        raise _bad_zip(path, error) from None
    hidden = ("__MACOSX", ".DS_Store", "._")
    return [name for name in names if not name.endswith("/") and not any(p.startswith(hidden) for p in name.split("/"))]


def _bad_zip(path: Path, error: Exception) -> Tc3Error:
    return Tc3Error(f"{path} is a zip file that cannot be opened ({error}). Copy or download it again.")


def _member(path: Path, raw: IO[bytes]) -> IO[bytes]:
    """Open the catalogue in a zip file: `trn.json` or `trn.json.gz` in any folder of it, or the one catalogue."""
    names = _names(path, raw)
    found = (
        [name for name in names if PurePosixPath(name).name in ("trn.json", "trn.json.gz")]
        or [name for name in names if name.lower().removesuffix(".gz").endswith(_LINES)]
        or [name for name in names if name.lower().endswith(".txt") and not _README.search(name)]
    )
    if len(found) == 1:
        try:
            return zipfile.ZipFile(raw).open(found[0])
        except Exception as error:  # a password, for example
            raise _bad_zip(path, error) from None
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
    unmarked = "UTF-16" if head[:2].count(0) == 1 and b"\0\0" not in head[:4] else None
    wide = next((name for mark, name in _WIDE.items() if head.startswith(mark)), unmarked)
    archive = next((name for mark, name in _ARCHIVES.items() if head.startswith(mark)), None)
    if not head:
        raise Tc3Error(f"{path} is empty: copy or download it again.")
    if wide:
        raise Tc3Error(
            f"{path} is {wide} text; expected UTF-8. Save it again with the encoding UTF-8 (in Excel: CSV UTF-8)."
        )
    if head.startswith(_PACKED):
        raise Tc3Error(f"{path} is packed more than once; expected gzip, zip, or gzip in zip. Unpack it first.")
    if packing and head.startswith(_PARQUET):
        raise Tc3Error(f"{path} is a Parquet file in {packing}, which cannot be read in pieces: unpack it first.")
    if head.startswith(_OLD_OFFICE):
        raise Tc3Error(f"{path} is an old Excel file (.xls), or one with a password: save it as .xlsx without one.")
    if archive:
        raise Tc3Error(f"{path} is a {archive} file; expected JSON Lines, plain or in gzip or zip. Unpack it first.")
    if b"schemas-microsoft-com:office:spreadsheet" in text:
        raise Tc3Error(f"{path} is an Excel file of 2003 (XML): save it as .xlsx.")
    if text.startswith(b"<?xml") and b"<html" not in text:
        raise Tc3Error(f"{path} is an XML file: export the products as JSON Lines, CSV or Excel (.xlsx).")
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")) and not _looks_like_html(head):
        raise web_page(path, head[:4096])
    if b'"doc_id"' in text and (b"docs.google.com" in text or b"do not edit this file" in text):
        raise _google_link(path)
    if text.startswith(b"version https://git-lfs"):
        raise Tc3Error(f"{path} is a Git LFS pointer, not the file it stands for: fetch that with `git lfs pull`.")


def _looks_like_html(head: bytes) -> bool:
    """Tell HTML with a table in it from other text that begins with `<`."""
    text = head.lstrip(codecs.BOM_UTF8 + b" \t\r\n").lower()
    return text.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<meta", b"<style", b"<table", b"<?xml")) and (
        b"<tr" in text
    )


def _is_array(head: bytes) -> bool:
    """Tell a JSON array from JSON Lines whose damaged first line begins like one."""
    if not head.lstrip().startswith(b"["):
        return False
    return len(_OBJECT_AFTER_LINE.findall(head)) <= len(_OBJECT_AFTER_COMMA.findall(head))
