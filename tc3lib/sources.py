"""Open a catalogue, however it is packed, and cut it into lines in bounded memory, whatever its size."""

import codecs
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from tc3lib.errors import Tc3Error

BLOCK_BYTES = 1 << 17
LINE_BYTES = 4 << 20
"""A longer line is damaged: the longest of the real catalogue has 0.2 MB."""

_TOO_LONG = f"the line is longer than {LINE_BYTES:,} bytes"
_ARCHIVES = {
    b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "Zstandard", b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR",
    b"PAR1": "Parquet", b"SQLite": "SQLite", b"%PDF": "PDF",
}  # fmt: skip
_WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16", b"{\0": "UTF-16", b"\0{": "UTF-16", b"[\0": "UTF-16", b"\0[": "UTF-16",
}  # fmt: skip
_TOKEN = re.compile(r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"|,\s*\{|[\[\]{}"]')
_NEXT_OBJECT = re.compile(r",\s*(?=\{)")
_OVERLAP = 4096  # more white space than stands between two elements
_SEPARATOR = re.compile(r"[\s,]*")


class Block(NamedTuple):
    """Some lines of a catalogue, or elements of its array, in the file's order."""

    lines: list[bytes]
    offset: int
    """Of the first line, in bytes of the unpacked file."""
    starts: list[tuple[int, int]] | None = None
    """Line number and offset of each element of an array; None: the lines follow one another."""
    reason: str = ""
    """Why the one line of this block cannot be read, if it is too long to be held."""

    def positions(self, first_line: int) -> list[tuple[int, int]]:
        """Return number (the first line has `first_line`) and byte offset of every line."""
        if self.starts is not None:
            return self.starts
        offsets = accumulate(map(len, self.lines), initial=self.offset)
        return [(first_line + index, offset) for index, offset in zip(range(len(self.lines)), offsets, strict=False)]


class Source:
    """An opened catalogue, unpacked as it is read. Every error of reading is a `Tc3Error` that names the file."""

    def __init__(self, path: Path, raw: IO[bytes], file: IO[bytes], packing: str = ""):
        self.path, self.raw, self.file, self.packing = path, raw, file, packing
        self.start = 0
        self.array = False

    def read(self, size: int) -> bytes:
        """Return the next bytes, `size` at most; none at the end."""
        try:
            return self.file.read(size)
        except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
            message = f"{self.path} is a damaged {self.packing} file ({error}). Copy or download it again."
            raise Tc3Error(message) from None
        except (OSError, RuntimeError, NotImplementedError) as error:
            raise Tc3Error(f"cannot read {self.path}: {getattr(error, 'strerror', None) or error}.") from None

    def seek(self, offset: int) -> None:
        """Go to a byte of the unpacked file."""
        self.file.seek(offset)

    def position(self) -> int:
        """Return how many bytes of the file on disk have been read."""
        return self.raw.tell()

    def blocks(self, start: int = 0, end: int | None = None) -> Iterator[Block]:
        """Yield what the file holds: the lines that begin in bytes `start` to `end`, or the elements of its array."""
        return _elements(self) if self.array else _lines(self, max(start, self.start), end)


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Open a catalogue: JSON Lines or a JSON array, as it is or in gzip, zip, or gzip in zip; UTF-8.

    Raises:
        Tc3Error: It is missing, empty, a folder, or something else than a catalogue, which the message names.
    """
    if path.is_dir():
        raise Tc3Error(f"{path} is a folder: give the path of the catalogue's file.")
    if not path.is_file():
        raise Tc3Error(f"no file {path}: expected JSON Lines with `title` and `content`.")
    with ExitStack() as stack:
        try:
            raw = stack.enter_context(open(path, "rb", buffering=0))
        except OSError as error:
            raise Tc3Error(f"cannot read {path}: {error.strerror}.") from None
        source = Source(path, raw, raw)
        head = _head(source)
        if head.startswith(b"PK\x03\x04"):
            source = Source(path, raw, stack.enter_context(_member(path, raw)), "zip")
            head = _head(source)
        if head.startswith(b"\x1f\x8b"):
            source = Source(path, raw, stack.enter_context(gzip.open(source.file)), source.packing or "gzip")
            head = _head(source)
        _refuse(path, head)
        source.start = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
        source.array = _is_array(head[source.start :])
        source.seek(0)
        yield source


def _head(source: Source) -> bytes:
    source.seek(0)
    head = source.read(1 << 16)
    while len(head) < 1 << 16 and (more := source.read(1 << 16)):
        head += more
    source.seek(0)
    return head


def _member(path: Path, raw: IO[bytes]) -> IO[bytes]:
    """Open the catalogue in a zip file: `trn.json` or `trn.json.gz` in any folder of it, or the one JSON file."""
    try:
        archive = zipfile.ZipFile(raw)
        names = [name for name in archive.namelist() if not name.endswith("/")]
        found = [name for name in names if Path(name).name in ("trn.json", "trn.json.gz")] or [
            name for name in names if name.endswith((".json", ".jsonl", ".json.gz", ".jsonl.gz"))
        ]
        if len(found) == 1:
            return archive.open(found[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, zlib.error) as error:
        raise Tc3Error(f"{path} is a zip file that cannot be opened ({error}). Copy or download it again.") from None
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    raise Tc3Error(
        f"{path} is a zip file with {len(found)} catalogues in it; expected one, trn.json or trn.json.gz. It holds "
        f"{listed or 'no file'}. Unpack it and give the path of the catalogue."
    )


def _refuse(path: Path, head: bytes) -> None:
    """Raise Tc3Error if the first bytes show that this is no catalogue, and say what it is."""
    text = head[:4096].lstrip(codecs.BOM_UTF8 + b" \t\r\n").lower()
    wide = next((name for mark, name in _WIDE.items() if head.startswith(mark)), None)
    archive = next((name for mark, name in _ARCHIVES.items() if head.startswith(mark)), None)
    if not head:
        raise Tc3Error(f"{path} is empty: copy or download it again.")
    if wide:
        raise Tc3Error(f"{path} is {wide} text; expected UTF-8. Save it again with the encoding UTF-8.")
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
    """Tell a JSON array from JSON Lines whose first line happens to be an array."""
    if not head.lstrip().startswith(b"["):
        return False
    line, _, rest = head.lstrip().partition(b"\n")
    return not _is_json(line) or not rest.strip()


def _lines(source: Source, start: int, end: int | None) -> Iterator[Block]:
    """Yield the lines that begin in bytes `start` to `end`; one over `LINE_BYTES` is named and passed over."""
    skipping = start > source.start
    offset = start - skipping  # the byte before `start` tells whether a line begins there
    source.seek(offset)
    rest = b""
    while end is None or offset < end:
        lines = io.BytesIO(source.read(BLOCK_BYTES)).readlines()
        if not lines:
            if rest:
                yield Block([rest], offset)
            return
        if skipping:  # to the end of a line that was too long, or that began before `start`
            skipping = not lines[0].endswith(b"\n")
            offset += len(lines.pop(0))
        elif rest:
            lines[0] = rest + lines[0]
        rest = b"" if not lines or lines[-1].endswith(b"\n") else lines.pop()
        if lines and len(lines[0]) > LINE_BYTES + len(b"\n"):
            yield Block([b""], offset, reason=_TOO_LONG)
            offset += len(lines.pop(0))
        if len(rest) > LINE_BYTES:
            yield Block([b""], offset, reason=_TOO_LONG)
            skipping, offset, rest = True, offset + len(rest), b""
        if end is not None and offset + sum(map(len, lines)) > end:
            starts = accumulate(map(len, lines), initial=offset)
            lines = [line for line, begin in zip(lines, starts, strict=False) if begin < end]
        if lines:
            yield Block(lines, offset)
            offset += sum(map(len, lines))


def _elements(source: Source) -> Iterator[Block]:
    """Yield the elements of a JSON array. A damaged one ends where the next object seems to begin."""
    source.seek(source.start)
    text = ""
    while "[" not in text:
        text += source.read(1 << 16).decode("latin-1")  # a character is a byte, so positions are offsets
    here = text.index("[") + 1
    base, line, counted, ended, skipping = source.start, 1, 0, False, False
    found: list[bytes] = []
    starts: list[tuple[int, int]] = []
    while True:
        if len(text) - here < LINE_BYTES and not ended:
            if found:
                yield Block(found, starts[0][1], starts)
                found, starts = [], []
            line += text.count("\n", counted, here)
            base, text, here, counted = base + here, text[here:], 0, 0
            piece = source.read(1 << 20)
            text, ended = text + piece.decode("latin-1"), not piece
            continue
        if skipping:  # an element that is too long, to what looks like its end
            step = _NEXT_OBJECT.search(text, here)
            skipping, here = not step, step.start() if step else max(here, len(text) - _OVERLAP)
            if step or not ended:
                continue
            here = len(text.rstrip().removesuffix("]"))
        here = _SEPARATOR.match(text, here).end()
        line, counted = line + text.count("\n", counted, here), here
        if ended and (here == len(text) or (text[here] == "]" and not text[here + 1 :].strip())):
            break
        start = here
        here = _object_end(text, start)
        if here is None:
            step = _NEXT_OBJECT.search(text, start)
            here, skipping = step.start() if step else len(text), not step and not ended
        if skipping or here - start > LINE_BYTES:
            if found:
                yield Block(found, starts[0][1], starts)
                found, starts = [], []
            yield Block([b""], base + start, [(line, base + start)], _TOO_LONG.replace("line", "element"))
        else:
            found.append(text[start:here].encode("latin-1"))
            starts.append((line, base + start))
    if found:
        yield Block(found, starts[0][1], starts)
    if here == len(text):
        yield Block([b""], base + here, [(line, base + here)], "the array is not closed: the file is cut short")


def _object_end(text: str, start: int) -> int | None:
    """Return where the object that begins at `start` ends, or None if there is none, or a damaged one."""
    if text[start] != "{":
        return None
    closers = []
    for token in _TOKEN.finditer(text, start, start + LINE_BYTES):
        kind = token[0][-1]
        if kind == '"':
            if len(token[0]) == 1:
                return None
        elif kind in "{[":
            if closers and closers[-1] == "}" and token[0][0] == ",":
                return None  # the next element: this one lacks its end
            closers.append("}" if kind == "{" else "]")
        elif kind != closers.pop():
            return None
        elif not closers:
            return token.end() if _is_json(text[start : token.end()].encode("latin-1")) else None
    return None


def _is_json(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True
