"""Turn lines of a catalogue into fine-tuning records, at the speed of the JSON library."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from tc3lib.catalogue.cleaning import clean_text
from tc3lib.catalogue.json_rows import Block, Columns
from tc3lib.prompts import INSTRUCTION, RESPONSE

_BEFORE, _BETWEEN, _AFTER = RESPONSE.split("{}")


class _Record(msgspec.Struct, gc=False, tag_field="instruction", tag=INSTRUCTION):
    """What `prompts.format_record` returns, in the same order."""

    input_text: str
    response: str


@dataclass
class Converted:
    """What became of some lines: `read` is `kept` plus the sum of `dropped`."""

    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """By reason, as in `data.PrepareReport`."""
    damaged: list[tuple[int, int | None, str]] = field(default_factory=list)
    """Line number, byte offset (None where there are no lines) and reason of each line that could not be read."""
    records: bytes = b""
    """The kept ones as JSON Lines."""
    uids: bytes = b""
    """Their uids, line for line."""

    def add(self, other: "Converted") -> None:
        """Count what became of more lines; records and uids stay as they are."""
        self.read += other.read
        self.kept += other.kept
        self.damaged += other.damaged
        for reason, count in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count


_encode_lines = msgspec.json.Encoder().encode_lines
_DAMAGE = (msgspec.MsgspecError, ValueError, RecursionError)


@lru_cache
def _decoder(columns: Columns) -> Callable[[bytes], Any]:
    """Return what reads `title`, `content` and `uid` of a line; msgspec passes over all other keys."""
    product = msgspec.defstruct(
        "Product",
        [("title", str | None), ("content", str | None), ("uid", str | int | float | bool | None, None)],
        rename=columns._asdict(),
        gc=False,
    )
    return msgspec.json.Decoder(product).decode


def convert(block: Block, clean: bool, first_line: int, columns: Columns) -> Converted:
    """Decode, tidy and encode lines; one that is damaged costs itself alone.

    Args:
        block: The lines.
        clean: Tidy title and content with `clean_text`. False: only strip both ends.
        first_line: Number of the block's first line in the file, from 1.
        columns: The keys of title, content and uid.
    """
    damaged, empty = [], 0
    try:
        products = list(map(_decoder(columns), block.lines))
    except _DAMAGE:
        products, damaged, empty = decode_each(block, first_line, columns)
    tidy = clean_text if clean else str.strip
    records, uids = [], []
    no_title = no_content = neither = emptied = 0
    for product in products:
        title, content = product.title, product.content
        if title and content:
            tidy_title, tidy_content = tidy(title), tidy(content)
            if tidy_title and tidy_content:
                records.append(_Record(tidy_title, f"{_BEFORE}{tidy_title}{_BETWEEN}{tidy_content}{_AFTER}"))
                uids.append(product.uid)
                continue
            title, content = title.strip(), content.strip()
        if title and title.strip():
            if content and content.strip():
                emptied += 1
            else:
                no_content += 1
        elif content and content.strip():
            no_title += 1
        else:
            neither += 1
    dropped = {
        "blank_title": no_title, "blank_content": no_content, "blank_both": neither, "blank_after_cleaning": emptied,
        "empty_line": empty, "damaged": len(damaged),
    }  # fmt: skip
    return Converted(
        len(block.lines), len(records), {reason: count for reason, count in dropped.items() if count}, damaged,
        _encode_lines(records), _encode_lines(uids),
    )  # fmt: skip


def decode_each(
    block: Block, first_line: int, columns: Columns
) -> tuple[list[Any], list[tuple[int, int | None, str]], int]:
    """Return the products of the lines that can be read, position and reason of the others, and how many are empty."""
    decode, products, damaged, empty = _decoder(columns), [], [], 0
    for line, position in zip(block.lines, block.positions(first_line), strict=True):
        try:
            products.append(decode(line))
        except _DAMAGE as error:
            if line and not line.strip():
                empty += 1
            else:
                reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
                damaged.append((*position, block.reason or reason))
    return products, damaged, empty
