"""Read JSON Lines, in bounded memory and at the speed of msgspec; read a JSON array, as a whole."""

import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from typing import IO

import msgspec

from tc3lib.catalogue.rows import BATCH, LINE_BYTES, TOO_LONG, Columns, Damaged, Product, Rows, Source
from tc3lib.errors import Tc3Error

BLOCK_BYTES = 1 << 16

_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)  # what a line of a file can make msgspec raise
_BYTE = re.compile(r" \(byte (\d+)\)$")


def lines(source: Source, start: int = 0, end: int | None = None) -> Iterator[Rows]:
    """Yield the rows of JSON Lines that begin in bytes `start` to `end` (None: the end), numbered from 1.

    A damaged line, or one over `LINE_BYTES`, costs itself alone.
    """
    decode, number = _decoder(source.columns), 1
    for offset, block in blocks(source.file, max(start, source.start), end, skip=start > source.start):
        try:
            yield Rows(list(map(decode, block)))
        except _ERRORS:
            yield _one_by_one(decode, numbered(block, number, offset))
        number += len(block)


def elements(source: Source) -> Iterator[Rows]:
    """Yield the elements of a JSON array. An element that is no product costs itself alone.

    Raises:
        Tc3Error: The array is not valid JSON; the message names line and byte.
    """
    source.file.seek(source.start)
    text = source.file.read()
    decode, found = _decoder(source.columns), _elements(text, source.start, _raw_elements(source, text))
    while batch := list(islice(found, BATCH)):
        yield _one_by_one(decode, batch)


def first_keys(source: Source) -> list[str]:
    """Return the keys of the first JSON object, none if it is damaged or not near the beginning of the file."""
    source.file.seek(source.start)
    text = source.file.read(LINE_BYTES).decode(errors="replace")
    try:
        return list(json.JSONDecoder().raw_decode(text, text.find("{"))[0])
    except (ValueError, RecursionError):
        return []


@lru_cache
def _decoder(columns: Columns) -> Callable[[bytes], Product]:
    """Return a function that decodes a product; msgspec skips all other keys without building their values.

    The title is required only where contents are read too.
    """
    title = ("title", str | None) if columns.content else ("title", str | None, None)
    content = [("content", str | None)] if columns.content else []
    uid = ("uid", str | int | float | bool | None, None)
    names = {field: name for field, name in columns._asdict().items() if name}
    return msgspec.json.Decoder(msgspec.defstruct("Product", [title, *content, uid], rename=names, gc=False)).decode


def _one_by_one(decode: Callable[[bytes], Product], values: Iterable[tuple[int, int, bytes]]) -> Rows:
    products, damaged, empty = [], [], 0
    for number, offset, value in values:
        try:
            products.append(decode(value))
        except RecursionError:
            damaged.append(Damaged(number, offset, "nested too deeply"))
        except _ERRORS as error:
            if not value:
                damaged.append(Damaged(number, offset, TOO_LONG))
            elif isinstance(value, bytes) and value.isspace():
                empty += 1
            else:
                damaged.append(Damaged(number, offset, str(error)))
    return Rows(products, damaged, empty)


def blocks(file: IO[bytes], start: int, end: int | None, skip: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the lines that begin in bytes `start` to `end`, many at once, with the first one's byte offset.

    A line over `LINE_BYTES` comes alone and as b"". With `skip`, a line begins at `start` only if one ends before it.
    """
    offset = start - skip
    file.seek(offset)
    if skip:
        offset += _skip_line(file)
    while end is None or offset < end:
        block = file.read(BLOCK_BYTES if end is None else min(BLOCK_BYTES, end - offset))
        if not block:
            return
        found = io.BytesIO(block).readlines()
        if not found[-1].endswith(b"\n"):
            found[-1] += file.readline(LINE_BYTES + 1)
        too_long = found.pop() if len(found[-1].removesuffix(b"\n")) > LINE_BYTES else b""
        if found:
            yield offset, found
            offset += sum(map(len, found))
        if too_long:
            yield offset, [b""]
            offset += len(too_long) if too_long.endswith(b"\n") else len(too_long) + _skip_line(file)


def _skip_line(file: IO[bytes]) -> int:
    """Read on to the end of a line; return how many bytes that was."""
    size = 0
    while piece := file.readline(BLOCK_BYTES):
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size


def numbered(block: list[bytes], number: int, offset: int) -> Iterator[tuple[int, int, bytes]]:
    for line in block:
        yield number, offset, line
        number, offset = number + 1, offset + len(line)


def _raw_elements(source: Source, text: bytes) -> list[msgspec.Raw]:
    try:
        return msgspec.json.decode(text, type=list[msgspec.Raw])
    except RecursionError:
        raise Tc3Error(f"{source.path} is a damaged JSON array: nested too deeply.") from None
    except _ERRORS as error:
        at = _BYTE.search(str(error))
        byte, reason = (int(at[1]), str(error)[: at.start()]) if at else (len(text), "the array is not closed")
        byte -= "trailing characters" in reason  # there msgspec counts the one after
        line = text.count(b"\n", 0, byte) + 1
        raise Tc3Error(
            f"{source.path} is a damaged JSON array: {reason} at byte {source.start + byte:,}, in line {line:,}. Fix "
            "it there, or save the products as JSON Lines, where a damaged line costs itself alone."
        ) from None


def _elements(text: bytes, start: int, values: list[msgspec.Raw]) -> Iterator[tuple[int, int, msgspec.Raw]]:
    """Yield line number, byte offset and JSON of each element."""
    line, at = 1, 0
    for value in values:
        begin = text.index(value, at)  # between two elements there are only commas and white space
        line, at = line + text.count(b"\n", at, begin), begin
        yield line, start + at, value
        end = begin + memoryview(value).nbytes
        line, at = line + text.count(b"\n", at, end), end
