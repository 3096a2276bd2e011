"""From a catalogue of products to the rows of a run: clean, format, split, sample. Streams; the file may be large."""

import codecs
import gzip
import hashlib
import heapq
import html
import json
import os
import re
import time
import unicodedata
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tc3lib.config import DataConfig
from tc3lib.errors import Tc3Error
from tc3lib.files import replacing, write_rows
from tc3lib.prompts import description, format_record

BLOCK_BYTES = 8 << 20
PARALLEL_FROM_BYTES = 256 << 20

# Amazon glued this note to the end of many book descriptions, without a space and sometimes without an edition.
_EDITION_NOTE = re.compile(
    r"\s*--\s*This text refers to (?:the|an?)(?:(?!--).){0,100}?(?:edition|title)\b[^.]{0,40}\.\s*$"
)


class _Product(msgspec.Struct):
    title: str | None
    content: str | None
    uid: Any = None


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did with every line: `read` is `kept` plus the sum of `dropped`."""

    read: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)
    """Lines by reason: `blank_title`, `blank_content`, `blank_both`, `empty_line`, `damaged`."""
    seconds: float = 0.0


@dataclass(frozen=True)
class SelectReport:
    """What `select` drew from the prepared rows."""

    rows: int
    train: int
    eval: int
    demo: int


def prepare(source: Path | str, target: Path | str, *, clean: bool = True, workers: int | None = None) -> PrepareReport:
    """Turn a catalogue into fine-tuning records, dropping products without a title or without a description.

    Writes `target` (JSON Lines of `instruction`, `input_text`, `response`); beside it `*.uid.jsonl`, whose n-th line
    is the uid of the n-th record, and `quarantine.jsonl`, with number and reason of each line that could not be read.
    Each file appears whole or not at all; the old one stays until then. The bytes do not depend on `workers`.

    Args:
        source: JSON Lines with `title`, `content` and, if there is one, `uid`; plain or gzip.
        target: The file to write.
        clean: Unescape HTML, tidy white space, drop glued edition notes. False: only strip both ends.
        workers: Processes. None: one, or one per core (at most 4) for a plain file over 256 MiB.

    Raises:
        Tc3Error: `source` is missing, damaged (gzip) or holds no usable row, or `target`'s folder cannot be written.
    """
    source, target, start = Path(source), Path(target), time.monotonic()
    if not source.is_file():
        raise Tc3Error(f"no file {source}: expected JSON Lines with `title` and `content`.")
    if workers is None:
        large = not _is_gzip(source) and source.stat().st_size >= PARALLEL_FROM_BYTES
        workers = min(4, os.cpu_count() or 1) if large else 1
    counts: Counter[str] = Counter()
    quarantined: list[bytes] = []
    with replacing(target) as records, replacing(target.with_suffix(".uid.jsonl")) as uids:
        for block in _in_order(_blocks(source), clean, workers):
            for number, reason in block.damaged:
                quarantined.append(msgspec.json.encode({"line": counts["read"] + number, "reason": reason}) + b"\n")
            counts.update(block.counts)
            records.write(block.records)
            uids.write(block.uids)
        if not counts["kept"]:
            lines = b"".join(quarantined[:3]).decode().replace("\n", " ")
            raise Tc3Error(
                f"{source} has no row with a title and a content in {counts['read']} lines; expected JSON Lines such "
                f'as {{"title": "...", "content": "..."}}. {lines}'.rstrip()
            )
    quarantine = target.with_name("quarantine.jsonl")
    if quarantined:
        with replacing(quarantine) as file:
            file.writelines(quarantined)
    else:
        quarantine.unlink(missing_ok=True)
    read, kept = counts.pop("read"), counts.pop("kept")
    return PrepareReport(read, kept, dict(sorted(counts.items())), round(time.monotonic() - start, 3))


def clean_text(text: str) -> str:
    """Return the text with HTML unescaped once, in NFC, runs of white space as one space, no glued edition note.

    References to C1 controls (`&#x92;`) become what browsers show for them; nothing else is added or removed.
    """
    text = html.unescape(text) if "&" in text else text
    text = " ".join(unicodedata.normalize("NFC", text).split())
    return _EDITION_NOTE.sub("", text) if "This text refers to" in text else text


def select(
    prepared: Path | str,
    folder: Path | str,
    config: DataConfig,
    *,
    train_rows: int | None = None,
    demo_titles: tuple[str, ...] = (),
) -> SelectReport:
    """Draw the run's rows from all prepared ones and write `train.jsonl`, `eval.jsonl` and `demo.jsonl`.

    A description's hash decides its side, so no description lies on both, whatever its title; a held-out row whose
    title is trained on, or held out already, is passed over. The rows with the smallest hashes are taken: a uniform
    sample, in an order that neither the file's order nor the platform changes. Exact duplicates are taken once.

    Args:
        prepared: The file that `prepare` wrote.
        folder: Where the three files go; each row has `uid`, `part` (`train`, `eval` or `demo`),
            `instruction`, `input_text`, `response`.
        config: `eval_rows`, `eval_share` and `sample_seed` are used, and `train_rows` before the argument.
        train_rows: Rows to train on; None: all.
        demo_titles: Titles whose row, if there is one, goes to `demo.jsonl`, whatever its side.

    Raises:
        Tc3Error: `prepared` is missing, or no row is left for one of the two sides.
    """
    prepared, folder = Path(prepared), Path(folder)
    train_rows = config.train_rows or train_rows
    uids_path = prepared.with_suffix(".uid.jsonl")
    for path in (prepared, uids_path):
        if not path.is_file():
            raise Tc3Error(f"no file {path}: run 01_prepare first.")
    key = str(config.sample_seed).encode()
    threshold = int(config.eval_share * 2**64)
    # Three times as many held-out candidates as asked for: those whose title is taken are passed over below.
    train, held_out = _Smallest(train_rows), _Smallest(3 * config.eval_rows)
    demo: dict[str, tuple[int, int, bytes]] = {}
    rows = offset = 0
    decode = msgspec.json.Decoder(dict[str, str]).decode
    try:
        with open(prepared, "rb") as records, open(uids_path, "rb") as uids:
            for line, uid in zip(records, uids, strict=True):
                record = decode(line)
                title, content = record["input_text"], description(record).encode()
                side = held_out if _hash(key, content) < threshold else train
                rank = _hash(key, title.encode() + b"\0" + content)
                side.add(rank, offset, uid)
                if title in demo_titles:
                    demo[title] = min(demo.get(title, (rank, offset, uid)), (rank, offset, uid))
                rows, offset = rows + 1, offset + len(line)
    except (ValueError, KeyError) as error:
        raise Tc3Error(f"{prepared}, line {rows + 1}: {error}. Run 01_prepare again from the top.") from None
    train_sample = _rows_at(prepared, train.sorted())
    seen = {row["input_text"] for row in train_sample}
    eval_sample = []
    for row in _rows_at(prepared, held_out.sorted()):
        if row["input_text"] not in seen and len(eval_sample) < config.eval_rows:
            seen.add(row["input_text"])
            eval_sample.append(row)
    if not train_sample or not eval_sample:
        raise Tc3Error(
            f"{prepared} has {rows} rows: {len(train_sample)} to train on and {len(eval_sample)} held out "
            f"(eval_share={config.eval_share}); both need at least one. Add rows or change eval_share."
        )
    demo_sample = _rows_at(prepared, [demo[title] for title in demo_titles if title in demo])
    for name, sample in (("train", train_sample), ("eval", eval_sample), ("demo", demo_sample)):
        write_rows(folder / f"{name}.jsonl", [{"uid": row.pop("uid"), "part": name, **row} for row in sample])
    return SelectReport(rows, len(train_sample), len(eval_sample), len(demo_sample))


@dataclass(frozen=True)
class _Block:
    """What became of some lines; numbers of damaged lines count from 1 within the block."""

    records: bytes
    uids: bytes
    counts: Counter[str]
    damaged: list[tuple[int, str]]


class _Smallest:
    """The `size` entries of smallest rank (None: all), each rank once."""

    def __init__(self, size: int | None):
        self.size = size
        self.heap: list[tuple[int, int, bytes]] = []
        self.ranks: set[int] = set()

    def add(self, rank: int, offset: int, uid: bytes) -> None:
        if self.size is not None and len(self.heap) == self.size and rank > -self.heap[0][0]:
            return
        if rank in self.ranks:
            return
        self.ranks.add(rank)
        if len(self.heap) == self.size:
            self.ranks.remove(-heapq.heappushpop(self.heap, (-rank, offset, uid))[0])
        else:
            heapq.heappush(self.heap, (-rank, offset, uid))

    def sorted(self) -> list[tuple[int, int, bytes]]:
        """Return rank, offset and uid, smallest rank first."""
        return sorted((-rank, offset, uid) for rank, offset, uid in self.heap)


def _hash(key: bytes, value: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(value, digest_size=8, key=key).digest(), "big")


def _rows_at(prepared: Path, entries: list[tuple[int, int, bytes]]) -> list[dict[str, Any]]:
    """Return the records at the entries' offsets, in that order, each with its uid."""
    rows = []
    with open(prepared, "rb") as file:
        for _, offset, uid in entries:
            file.seek(offset)
            rows.append({"uid": json.loads(uid), **json.loads(file.readline())})
    return rows


def _blocks(source: Path) -> Iterator[bytes]:
    """Yield the file in pieces of whole lines, with a progress bar over its bytes on disk."""
    from tqdm.auto import tqdm

    bar = tqdm(total=source.stat().st_size, unit="B", unit_scale=True, desc=source.name)
    try:
        with bar, open(source, "rb") as raw, gzip.open(raw) if _is_gzip(source) else raw as file:
            if file.read(3) != codecs.BOM_UTF8:
                file.seek(0)
            while block := file.read(BLOCK_BYTES):
                yield block + file.readline()
                bar.update(raw.tell() - bar.n)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Tc3Error(f"{source} is a damaged gzip file ({error}). Copy or download it again.") from None


def _is_gzip(source: Path) -> bool:
    with open(source, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _in_order(blocks: Iterable[bytes], clean: bool, workers: int) -> Iterator[_Block]:
    """Yield the converted blocks in the file's order; at most two a worker are held in memory."""
    if workers == 1:
        yield from (_convert(block, clean) for block in blocks)
        return
    with ProcessPoolExecutor(workers) as pool:
        pending: deque[Future[_Block]] = deque()
        for block in blocks:
            pending.append(pool.submit(_convert, block, clean))
            if len(pending) == 2 * workers:
                yield pending.popleft().result()
        yield from (future.result() for future in pending)


def _convert(block: bytes, clean: bool) -> _Block:
    """Turn lines of products into lines of records."""
    decode, encode = msgspec.json.Decoder(_Product).decode, msgspec.json.encode
    tidy = clean_text if clean else str.strip
    records, uids, damaged = bytearray(), bytearray(), []
    counts: Counter[str] = Counter()
    for number, line in enumerate(block.removesuffix(b"\n").split(b"\n"), 1):
        counts["read"] += 1
        try:
            product = decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            if not line.strip():
                counts["empty_line"] += 1
                continue
            counts["damaged"] += 1
            damaged.append((number, str(error)))
            continue
        title, content = tidy(product.title or ""), tidy(product.content or "")
        if title and content:
            counts["kept"] += 1
            records += encode(format_record(title, content)) + b"\n"
            uids += encode(product.uid) + b"\n"
        else:
            counts["blank_both" if not title and not content else "blank_title" if not title else "blank_content"] += 1
    return _Block(bytes(records), bytes(uids), counts, damaged)
