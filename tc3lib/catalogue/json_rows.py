"""Read JSON Lines, in bounded memory and at the speed of msgspec; read other JSON, as a whole."""

import ast
import io
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import IO, Any

import msgspec

from tc3lib.catalogue.rows import BATCH, LINE_BYTES, TOO_LONG, Columns, Damaged, Product, Rows, Source
from tc3lib.catalogue.table_rows import product, why
from tc3lib.errors import Tc3Error

BLOCK_BYTES = 1 << 16

_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)  # what a line of a file can make msgspec raise
_BYTE = re.compile(r" \(byte (\d+)\)$")
_NO_NUMBER = re.compile(
    rb"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|["'].*)|(-?)\b(?:(NaN|nan)|Infinity|inf)\b""", re.DOTALL
)
"""Text (an open quote's goes on to the end), or what Python writes for numbers that JSON does not have."""
_PYTHON = re.compile(rb"\s*\[?\s*\{\s*'")
_SEPARATORS = re.compile(rb"[\s,]*")
_SPLIT = re.compile(rb'\{\s*"columns"\s*:\s*\[')
"""`DataFrame.to_json(orient="split")`."""
_LIST_OF_OBJECTS = re.compile(rb'"\s*:\s*\[\s*\{')

Value = bytes | msgspec.Raw
Numbered = Iterable[tuple[int, int | None, Value]]
"""Line (or row), byte offset if there is one, and JSON of values."""


def lines(source: Source, start: int = 0, end: int | None = None) -> Iterator[Rows]:
    """Yield the rows of JSON Lines that begin in bytes `start` to `end` (None: the end), numbered from 1.

    A damaged line, or one over `LINE_BYTES`, costs itself alone.
    """
    decode, number = _decoder(source.columns), 1
    for offset, block in blocks(source.file, max(start, source.bom_length), end, skip=start > source.bom_length):
        try:
            yield Rows(list(map(decode, block)))
        except _ERRORS:
            yield _one_by_one(source.columns, numbered(block, number, offset))
        number += len(block)


def elements(source: Source) -> Iterator[Rows]:
    """Yield the elements of a JSON array. An element that is no product costs itself alone.

    Raises:
        Tc3Error: The array is not valid JSON; the message names line and byte.
    """
    source.file.seek(source.bom_length)
    text = _json(source.file.read())
    if _PYTHON.match(text):
        yield from _products(source, _encoded(_python(text)))
    else:
        yield from _products(source, _elements(text, source.bom_length, _raw_elements(source, text)))


def objects(source: Source) -> Iterator[Rows]:
    """Yield the products of JSON that is one object around them, or objects of several lines one after another.

    One object may hold a list of products, a product by each key, or columns, as pandas writes them.

    Raises:
        Tc3Error: It is not valid JSON, or several lists could be the products.
    """
    yield from _products(source, _objects(source))


def _products(source: Source, values: Numbered) -> Iterator[Rows]:
    values = iter(values)
    while batch := list(islice(values, BATCH)):
        yield _one_by_one(source.columns, batch)


def is_one_object(head: bytes, columns: Columns) -> bool:
    """Tell from the first bytes of a file with `{` whether `objects` reads it, and not `lines`."""
    head = _json(head.lstrip())
    rows = [line for line in head.splitlines(keepends=True) if not line.isspace()]
    try:
        found = msgspec.json.decode(rows[0].rstrip().removesuffix(b","), type=dict[str, msgspec.Raw])
        title = found.get(columns.title)
        nested = [bytes(value)[:1] in (b"{", b"[") for value in ([title] if title else found.values())]
        return len(rows) == 1 and any(nested)
    except _ERRORS:
        pass  # its first line is no object
    try:
        msgspec.json.decode(head, type=msgspec.Raw)
    except RecursionError:
        return False
    except _ERRORS as error:
        at = _BYTE.search(str(error))
        if at is None and len(rows) == 1:  # the line goes on
            wrapped, title = _LIST_OF_OBJECTS.search(head), f'"{columns.title}"'.encode()
            if _SPLIT.match(head) or re.search(re.escape(title) + rb"\s*:\s*[\[{]", head):
                return True
            return wrapped is not None and title not in head[: wrapped.start()]
        if at is None or len(rows) == 1:
            return at is None or "trailing characters" in str(error)
        first = len(rows[0]) if "trailing characters" in str(error) else sum(map(len, rows[:3]))
        return int(at[1]) > first + 1
    return True


def first_keys(source: Source) -> list[str]:
    """Return the keys of the first JSON object, none if it is damaged or not near the beginning of the file."""
    if source.kind == "JSON object":
        text = next((bytes(value) for _, _, value in _objects(source)), b"").decode(errors="replace")
    else:
        source.file.seek(source.bom_length)
        text = source.file.read(LINE_BYTES).decode(errors="replace")
    try:
        return list(json.JSONDecoder().raw_decode(text, text.find("{"))[0])
    except (ValueError, RecursionError):
        return []


@lru_cache
def _decoder(columns: Columns) -> Callable[[bytes], Product]:
    """Return a function that decodes a product; msgspec skips all other keys without building their values."""
    return _decoder_of(columns, str | None, str | int | None, None)


@lru_cache
def _raw_decoder(columns: Columns) -> Callable[[bytes], Any]:
    """Return a function that leaves title, content and uid as JSON."""
    return _decoder_of(columns, msgspec.Raw, msgspec.Raw, msgspec.Raw(b"null"))


def _decoder_of(columns: Columns, text: Any, uid: Any, missing: Any) -> Callable[[bytes], Any]:
    fields = [(field, uid if field == "uid" else text, missing) for field, name in columns._asdict().items() if name]
    names = {field: name for field, name in columns._asdict().items() if name}
    return msgspec.json.Decoder(msgspec.defstruct("Product", fields, rename=names, gc=False)).decode


def _one_by_one(columns: Columns, values: Numbered) -> Rows:
    decode = _decoder(columns)
    products, damaged, empty = [], [], 0
    for number, offset, value in values:
        try:
            products.append(decode(value))
            continue
        except _ERRORS as error:
            first = error
        text = bytes(value)
        try:
            if not text:
                damaged.append(Damaged(number, offset, TOO_LONG))
            elif text.isspace():
                empty += 1
            else:
                products.append(_loosely(columns, text, first))
        except RecursionError:
            damaged.append(Damaged(number, offset, "nested too deeply"))
        except _ERRORS as error:
            damaged.append(Damaged(number, offset, why(error)))
    return Rows(products, damaged, empty)


def _loosely(columns: Columns, text: bytes, error: Exception) -> Product:
    """Decode a product that msgspec refuses for its types, a comma after it, NaN, or Python's single quotes."""
    line = _json(text.rstrip().removesuffix(b","))
    if _PYTHON.match(line):
        (found,) = _python(line)
        return product(*(found.get(name) for name in columns))
    if not isinstance(error, msgspec.ValidationError) and line == text.rstrip():
        raise error
    found = _raw_decoder(columns)(line)
    values = (found.title, found.content if columns.content else b"null", found.uid)
    return product(*(json.loads(bytes(value).decode()) for value in values))


def _json(text: bytes) -> bytes:
    """Replace what JSON does not have, NaN by an empty text and infinity by its name, without moving other bytes."""
    return _NO_NUMBER.sub(_no_number, text) if b"NaN" in text or b"Infinity" in text else text


def _no_number(found: re.Match[bytes]) -> bytes:
    text, sign, nan = found.groups()
    return text or (b'""' if nan else b'"%binf"' % sign).ljust(len(found[0]))


def _python(text: bytes) -> list[dict[str, Any]]:
    """Return the dictionaries that Python's `print` or `str` wrote: one, or a list of them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a backslash that escapes nothing
            found = ast.literal_eval(_NO_NUMBER.sub(_no_number, text).decode().strip())
    except UnicodeDecodeError:
        raise
    except (ValueError, SyntaxError, TypeError, MemoryError):  # MemoryError: nested too deeply
        raise ValueError("Python's single quotes, and not only text and numbers: write it with json.dumps") from None
    found = found if isinstance(found, list) else [found]
    if not all(isinstance(item, dict) for item in found):
        raise ValueError("expected an object")
    return found


def _encoded(rows: Iterable[dict[str, Any]]) -> Numbered:
    return ((number, None, json.dumps(row, default=str).encode()) for number, row in enumerate(rows, 1))


def _objects(source: Source) -> Numbered:
    source.file.seek(source.bom_length)
    text = _json(source.file.read())
    values, at = [], 0
    while (at := _SEPARATORS.match(text, at).end()) < len(text):
        try:
            values.append(msgspec.json.decode(memoryview(text)[at:], type=msgspec.Raw))
            break
        except _ERRORS as error:
            if "trailing characters" not in str(error):
                raise _damaged(source, "JSON file", text, at, error) from None
            end = at + int(_BYTE.search(str(error))[1]) - 1  # it counts the one after
            values.append(text[at:end].rstrip())
            at = end
    if len(values) != 1:
        return _elements(text, source.bom_length, values)
    try:
        found = msgspec.json.decode(values[0], type=dict[str, msgspec.Raw])
    except _ERRORS as error:
        raise _damaged(source, "JSON file", text, 0, error) from None
    if (columns := _columns(found, source.columns)) is not None:
        return _encoded(columns)
    if _by_key(source, found):
        products = _elements(text, source.bom_length, [*found.values()])
        return (
            (number, offset, _with_uid(value, source.columns.uid, key))
            for (number, offset, value), key in zip(products, found, strict=True)
        )
    return _elements(text, source.bom_length, _inside(source, found) or values)


def _by_key(source: Source, found: dict[str, msgspec.Raw]) -> bool:
    """Tell whether an object has a product by each key."""
    values, title = list(found.values()), source.columns.title
    objects_alone = bool(values) and all(bytes(value).startswith(b"{") for value in values)
    return objects_alone and title not in found and title in _keys(values[0])


def _with_uid(value: msgspec.Raw, uid: str, key: str) -> Value:
    """Return a product's JSON with its key as its uid, unless it has one."""
    try:
        found = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    except _ERRORS:
        return value  # its reader says why
    return msgspec.json.encode(found | {uid: key}) if bytes(found.get(uid, b"null")) == b"null" else value


def _columns(found: dict[str, msgspec.Raw], columns: Columns) -> list[dict[str, Any]] | None:
    """Return the rows of an object that is columns, as `DataFrame.to_json` or `to_dict("list")` write them."""
    named = {name: json.loads(bytes(found[name]).decode()) for name in filter(None, columns) if name in found}
    title, content = named.get(columns.title), named.get(columns.content or columns.title)
    if isinstance(title, dict):
        return [{name: of.get(key) for name, of in named.items() if isinstance(of, dict)} for key in title]
    if isinstance(title, list) and isinstance(content, list) and len(title) == len(content):
        lists = [name for name, of in named.items() if isinstance(of, list) and len(of) == len(title)]
        return [dict(zip(lists, row, strict=True)) for row in zip(*map(named.get, lists), strict=True)]
    if {"columns", "data"} <= found.keys() and re.match(rb"\[\s*\[", bytes(found["data"])):
        names, rows = (json.loads(bytes(found[key]).decode()) for key in ("columns", "data"))
        return [dict(zip(names, row, strict=False)) for row in rows]
    return None


def _inside(source: Source, found: dict[str, msgspec.Raw]) -> list[msgspec.Raw]:
    """Return the products in an object; none if there are none, or if it is a product itself.

    Raises:
        Tc3Error: There are several lists of objects, and not just one has the title.
    """
    title = source.columns.title
    if title in found:
        return []
    lists = dict(_lists(found))
    fitting = {name: items for name, items in lists.items() if title in _keys(items[0])} or lists
    if len(fitting) > 1:
        raise Tc3Error(
            f"{source.path} is one JSON object with {len(fitting)} lists of objects ({', '.join(map(repr, fitting))}): "
            "save the list of the products as a file of its own."
        )
    return next(iter(fitting.values()), [])


def _lists(found: dict[str, msgspec.Raw]) -> Iterator[tuple[str, list[msgspec.Raw]]]:
    """Yield name and items of each list of objects in an object and the objects in it."""
    for name, value in found.items():
        if bytes(value).startswith(b"{"):
            yield from _lists(msgspec.json.decode(value, type=dict[str, msgspec.Raw]))
        elif re.match(rb"\[\s*\{", bytes(value)):
            yield name, msgspec.json.decode(value, type=list[msgspec.Raw])


def _keys(value: msgspec.Raw) -> set[str]:
    return set(msgspec.json.decode(value, type=dict[str, msgspec.Raw]))


def blocks(file: IO[bytes], start: int, end: int | None, skip: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the lines that begin in bytes `start` to `end`, many at once, with the first one's byte offset.

    A line over `LINE_BYTES` comes alone and as b"". With `skip`, a line begins at `start` only if one ends before it.
    """
    offset = start - skip
    file.seek(offset)
    if skip:  # no further than `end`: otherwise every range within one line of 1 GB would read all of it
        offset += _skip_line(file, None if end is None else end - offset)
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


def _skip_line(file: IO[bytes], most: int | None = None) -> int:
    """Read on to the end of a line, or a little over `most` bytes; return how many bytes that was."""
    size = 0
    while (most is None or size < most) and (piece := file.readline(BLOCK_BYTES)):
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
    except _ERRORS as error:
        raise _damaged(source, "JSON array", text, 0, error) from None


def _damaged(source: Source, kind: str, text: bytes, start: int, error: Exception) -> Tc3Error:
    """Return the error that names the line of JSON that cannot be read as a whole."""
    if isinstance(error, RecursionError):
        return Tc3Error(f"{source.path} is a damaged {kind}: nested too deeply.")
    at = _BYTE.search(str(error))
    unclosed = "the array is not closed" if kind == "JSON array" else "an object is not closed"
    byte, reason = (start + int(at[1]), str(error)[: at.start()]) if at else (len(text), unclosed)
    byte -= "trailing characters" in reason  # there msgspec counts the one after
    line = text.count(b"\n", 0, byte) + 1
    return Tc3Error(
        f"{source.path} is a damaged {kind}: {reason} at byte {source.bom_length + byte:,}, in line {line:,}. Fix it "
        "there, or save the products as JSON Lines, where a damaged line costs itself alone."
    )


def _elements(text: bytes, start: int, values: Sequence[Value]) -> Iterator[tuple[int, int, Value]]:
    """Yield line number, byte offset and JSON of each element."""
    line, at = 1, 0
    for value in values:
        begin = text.index(value, at)  # between two elements there is little else
        line, at = line + text.count(b"\n", at, begin), begin
        yield line, start + at, value
        end = begin + memoryview(value).nbytes
        line, at = line + text.count(b"\n", at, end), end
