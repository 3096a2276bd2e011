"""Open a catalogue, however it is packed, and name what is none."""

import codecs
import gzip
import re
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from tc3lib import blocks
from tc3lib.blocks import Block, is_json
from tc3lib.errors import Tc3Error

_ARCHIVES = {
    b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "Zstandard", b"7z\xbc\xaf": "7-Zip", b"Rar!": "RAR",
    b"PAR1": "Parquet", b"SQLite": "SQLite", b"%PDF": "PDF",
}  # fmt: skip
_WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16", b"{\0": "UTF-16", b"\0{": "UTF-16", b"[\0": "UTF-16", b"\0[": "UTF-16",
}  # fmt: skip
_PACKED = (b"PK\3\4", b"PK\5\6", b"PK\7\x08", b"\x1f\x8b")
_OBJECT_AFTER_OBJECT, _OBJECT_AFTER_COMMA = re.compile(rb"\}\s*\n\s*\{"), re.compile(rb"\}\s*,\s*\{")


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
        return self.raw.tell()

    def blocks(self, start: int = 0, end: int | None = None) -> Iterator[Block]:
        """Yield what the file holds: the lines that begin in bytes `start` to `end`, or the elements of its array."""
        return blocks.elements(self) if self.array else blocks.lines(self, max(start, self.start), end)


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """Open a catalogue: JSON Lines or a JSON array, as it is or in gzip, zip, or gzip in zip; UTF-8.

    Raises:
        Tc3Error: It is missing, empty, a folder, or something else than a catalogue, which the message names.
    """
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
        source = Source(path, raw, raw)
        head = _head(source)
        if head.startswith(b"PK"):
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
    except Exception as error:  # zipfile has many
        raise Tc3Error(f"{path} is a zip file that cannot be opened ({error}). Copy or download it again.") from None
    listed = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
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
    if head.startswith(_PACKED):
        raise Tc3Error(f"{path} is packed more than once; expected gzip, zip, or gzip in zip. Unpack it first.")
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
