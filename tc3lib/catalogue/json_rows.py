"""Cut a catalogue into blocks: of lines, or of the elements of a JSON array. Memory is bounded, time is linear."""

import io
import re
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple, Protocol

import msgspec

BLOCK_BYTES = 1 << 16
LINE_BYTES = 1 << 20
"""A longer line, or element of an array, is damaged: the longest text of the real catalogue has 0.2 MB."""

TOO_LONG = f"longer than {LINE_BYTES:,} bytes"
_NOT_CLOSED = "the array is not closed: the file is cut short"
_SEPARATOR = re.compile(rb"[\s,]*")
_BOUNDARY = re.compile(rb"[,}\n]\s*(?=\{)")
_BYTE = re.compile(r"\(byte (\d+)\)$")
_TRIES = 50

_raw = msgspec.json.Decoder(msgspec.Raw).decode


class Columns(NamedTuple):
    """What a catalogue calls the three things that are read of it; content None: only titles are wanted."""

    title: str = "title"
    content: str | None = "content"
    uid: str = "uid"


COLUMNS = Columns()


class Block(NamedTuple):
    """Some lines of a catalogue, or elements of its array, in the file's order."""

    lines: list[bytes]
    offset: int
    """Of the first line, in bytes of the unpacked file."""
    starts: list[tuple[int, int | None]] | None = None
    """Line number and offset of each element of an array, or row of a table; None: the lines follow one another."""
    reason: str = ""
    """Why the one line of this block, which is left out, cannot be read."""

    def positions(self, first_line: int) -> list[tuple[int, int | None]]:
        """Return number (the first line has `first_line`) and byte offset of every line."""
        if self.starts is not None:
            return self.starts
        offsets = accumulate(map(len, self.lines), initial=self.offset)
        return [(first_line + index, offset) for index, offset in zip(range(len(self.lines)), offsets, strict=False)]


class Readable(Protocol):
    """What is cut: `sources.Source`."""

    start: int

    def read(self, size: int) -> bytes: ...
    def seek(self, offset: int) -> None: ...


def lines(source: Readable, start: int, end: int | None) -> Iterator[Block]:
    """Yield the lines that begin in bytes `start` to `end` (None: the end); one over `LINE_BYTES` is passed over."""
    skipping = start > source.start
    offset = start - skipping  # the byte before `start` tells whether a line begins there
    source.seek(offset)
    rest = b""
    while end is None or offset < end:
        found = io.BytesIO(source.read(BLOCK_BYTES)).readlines()
        if not found:
            if rest:
                yield Block([rest], offset)
            return
        if skipping:  # to the end of a line that was too long, or that began before `start`
            skipping = not found[0].endswith(b"\n")
            offset += len(found.pop(0))
        elif rest:
            found[0] = rest + found[0]
        rest = b"" if not found or found[-1].endswith(b"\n") else found.pop()
        if found and len(found[0]) > LINE_BYTES + len(b"\n"):
            yield Block([b""], offset, reason=TOO_LONG)
            offset += len(found.pop(0))
        if len(rest) > LINE_BYTES:
            yield Block([b""], offset, reason=TOO_LONG)
            skipping, offset, rest = True, offset + len(rest), b""
        size = sum(map(len, found))
        if end is not None and offset + size > end:
            starts = accumulate(map(len, found), initial=offset)
            found = [line for line, begin in zip(found, starts, strict=False) if begin < end]
        if found:
            yield Block(found, offset)
            offset += size


def elements(source: Readable) -> Iterator[Block]:
    """Yield the elements of a JSON array.

    msgspec says where each value ends. After one that is damaged reading goes on at the next object: the first that
    is whole, or else the first behind the damage. Elements need not be separated by commas.
    """
    source.seek(source.start)
    text, here, ended, opened, skipping = b"", 0, False, False, False
    base, line, counted, last, reason = source.start, 1, 0, -1, ""
    found: list[bytes] = []
    starts: list[tuple[int, int]] = []
    while True:
        if not ended and len(text) - here <= LINE_BYTES:
            piece = source.read(LINE_BYTES)
            line += text.count(b"\n", counted, here)
            base, text, here, counted = base + here, text[here:] + piece, 0, 0
            ended = not piece
            last = len(text.rstrip()) - 1 if ended else -1  # where the closing bracket should be
            continue
        if not opened:
            here, opened = text.index(b"[") + 1, True
            continue
        if skipping:  # the rest of an element that is too long
            step = _BOUNDARY.search(text, here)
            skipping = not step and not ended
            here = step.end() if step else _tail(text, here) if skipping else _array_end(text, here)
        else:
            here = _SEPARATOR.match(text, here).end()
        if not ended and len(text) - here <= LINE_BYTES:
            continue  # to read on: a value must not be taken for damaged because it is not here yet
        line, counted = line + text.count(b"\n", counted, here), here
        if here >= len(text) or (here == last and text[here:].startswith(b"]")):
            break
        end, damage, reason = _value_end(text, here, ended)
        if reason:
            next_object = _next_object(text, here, damage)
            skipping = next_object is None and not ended
            end = next_object or (_tail if skipping else _array_end)(text, here + 1)
        if found and (reason or len(found) == 1000 or base + here - starts[0][1] > BLOCK_BYTES):
            yield Block(found, starts[0][1], starts)
            found, starts = [], []
        if reason:
            yield Block([b""], base + here, [(line, base + here)], reason)
        else:
            found.append(text[here:end])
            starts.append((line, base + here))
        here = end
    if found:
        yield Block(found, starts[0][1], starts)
    if here != last and not reason:
        yield Block([b""], base + here, [(line, base + here)], _NOT_CLOSED)


def _tail(text: bytes, here: int) -> int:
    """Return from where on the text may still hold the beginning of what `_BOUNDARY` matches, but not before `here`."""
    return max(here, len(text.rstrip()) - 1, len(text) - LINE_BYTES)


def _array_end(text: bytes, here: int) -> int:
    """Return where the closing bracket is, or the end of a text that has none; not before `here`."""
    return max(here, len(text.rstrip().removesuffix(b"]")) if text.rstrip().endswith(b"]") else len(text))


def _value_end(text: bytes, start: int, ended: bool) -> tuple[int, int, str]:
    """Return where the JSON value that begins at `start` ends; or where, and why, it is damaged."""
    end, damage, reason = len(text), 0, ""
    try:
        _raw(memoryview(text)[start:])
    except RecursionError:
        damage, reason = start, "nested too deeply"
    except msgspec.MsgspecError as error:
        reason = str(error)
        at = _BYTE.search(reason)
        damage = start + int(at[1]) if at else len(text)
        if "trailing characters" in reason:  # the value is whole; this counts the character after it
            end, reason = damage - 1, ""
        elif not at and not ended:
            reason = TOO_LONG
    if not reason:
        end = start + len(text[start:end].rstrip())
    if not reason and not text.startswith(b"{", start) and b"{" in text[start:end]:
        damage, reason = start, "expected an object"  # maybe a string that a stray quote has opened
    if not reason and end - start > LINE_BYTES:
        damage, reason = end, TOO_LONG
    return end, damage, reason


def _next_object(text: bytes, start: int, damage: int) -> int | None:
    """Return where to read on after what begins at `start` and is damaged at `damage`; None: not in this text."""
    if not text.startswith(b"{", start):
        here = text.find(b"{", start)
        return here if here >= 0 else None
    for tries, step in enumerate(_BOUNDARY.finditer(text, start + 1)):
        here = step.end()
        if here > damage or tries == _TRIES or not _value_end(text, here, ended=True)[2]:
            return here
    return None


def is_json(text: bytes) -> bool:
    """Tell whether this is one whole JSON value."""
    try:
        _raw(text)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True
