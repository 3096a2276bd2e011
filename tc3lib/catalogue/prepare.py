"""From a catalogue of products to fine-tuning records: every line is read once and accounted for."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tc3lib.catalogue.cleaning import clean_text
from tc3lib.catalogue.json_rows import COLUMNS, Columns
from tc3lib.catalogue.records import Converted, decode_each
from tc3lib.catalogue.source import Source, opened
from tc3lib.catalogue.table_rows import missing
from tc3lib.catalogue.workers import convert_here, convert_in_workers
from tc3lib.errors import Tc3Error
from tc3lib.files import alone, blaming, replacing_all
from tc3lib.settings import DataSettings

PARALLEL_FROM_BYTES = 64 << 20
FULL_LINES, FULL_USABLE = 2_248_619, 1_390_403
"""Lines of LF-AmazonTitles-1.3MM's `trn.json`, and those of them that the recipe's rule keeps."""


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did with every line (or element of an array): `read` is `kept` plus the sum of `dropped`."""

    read: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)
    """By reason: `blank_title`, `blank_content`, `blank_both`, `blank_after_cleaning`, `empty_line`, `damaged`."""
    seconds: float = 0.0
    remark: str = ""
    """Whether this is the whole catalogue of the Tech Challenge, if it has as many lines."""


def columns(config: DataSettings) -> Columns:
    """Return what the settings say the catalogue calls title, content and uid."""
    return Columns(config.title_column, config.content_column, config.uid_column)


def prepare(
    source: Path | str,
    target: Path | str,
    *,
    clean: bool = True,
    max_damaged: float = 0.01,
    workers: int | None = None,
    columns: Columns = COLUMNS,
) -> PrepareReport:
    """Turn a catalogue into fine-tuning records, dropping products without a title or without a description.

    Writes `target` (JSON Lines of `instruction`, `input_text`, `response`); beside it `*.uid.jsonl`, whose n-th line
    is the uid of the n-th record, and `quarantine.jsonl`, with line number, byte offset (in the unpacked file) and
    reason of each line that could not be read; a row of Excel or Parquet has a number and no offset. Each file appears
    whole or not at all; the old one stays until then.
    The bytes do not depend on `workers`. Memory does not depend on the size of the catalogue or of its lines.

    Args:
        source: JSON Lines, a JSON array or a table of `title`, `content` and, if there is one, `uid`; other keys are
            passed over. UTF-8, plain or packed with gzip or zip; tables are CSV, packed or not, Excel or Parquet.
        target: The file to write.
        clean: Tidy title and content with `clean_text`. False: only strip both ends.
        max_damaged: Largest share of damaged lines that is put up with.
        workers: Processes. None: as many as there are cores, 4 at most, for plain JSON Lines from 64 MiB on, else
            one. What is packed, an array or a table is always read by one.
        columns: What the catalogue calls the three.

    Raises:
        Tc3Error: `source` is missing, not a catalogue, without these columns, too damaged or without a usable row, or
            a file cannot be written.
    """
    source, target, start = Path(source), Path(target), time.monotonic()
    if workers is not None and (not isinstance(workers, int) or workers < 1):
        raise Tc3Error(f"workers={workers!r}: expected 1 or more, or None to let the file's size decide.")
    if not target.name or "\0" in str(target) or target.name in ("quarantine.jsonl", "quarantine.json"):
        raise Tc3Error(f"{str(target)!r} cannot be the file to write: give another name, such as trn_output.json.")
    uids, quarantine = target.with_suffix(".uid.jsonl"), target.with_name("quarantine.jsonl")
    total, first = Converted(), []
    with alone(target.parent), opened(source, columns) as opened_source, blaming(target):
        _keep_apart(source, (target, uids, quarantine))
        with replacing_all(target, uids, quarantine, keep_empty=False) as (records, names, damaged):
            if (workers := _workers(opened_source, workers)) > 1:
                parts = convert_in_workers(source, clean, (records, names), workers, columns)
            else:
                parts = convert_here(opened_source, clean, (records, names))
            for part in _with_progress(parts, source):
                for line, offset, reason in part.damaged:
                    at = {"line": line} if offset is None else {"line": line, "offset": offset}
                    row = msgspec.json.encode({**at, "reason": reason})
                    damaged.write(row + b"\n")
                    if len(first) < 3:
                        first.append(row.decode())
                part.damaged.clear()
                total.add(part)
            _check(opened_source, total, first, max_damaged)
    seconds = round(time.monotonic() - start, 3)
    return PrepareReport(total.read, total.kept, dict(sorted(total.dropped.items())), seconds, _remark(total))


def before_and_after(
    source: Path | str, rows: int = 5, among: int = 20_000, columns: Columns = COLUMNS
) -> list[dict[str, Any]]:
    """Return titles and contents that cleaning changes: `uid`, `before` and `after` of some in the first rows.

    Args:
        source: The catalogue.
        rows: How many to return, at most: some of any length up to 300 characters, if there are such.
        among: Lines to look at.
        columns: What it calls title, content and uid.
    """
    changed, seen = [], 0
    with opened(Path(source), columns) as catalogue:
        for block in catalogue.blocks():
            for product in decode_each(block, 1, columns)[0]:
                for text in filter(None, (product.title, product.content)):
                    if (tidy := clean_text(text)) != text.strip():
                        changed.append({"uid": product.uid, "before": text, "after": tidy})
            seen += len(block.lines)
            if seen >= among:
                break
    changed.sort(key=lambda row: len(row["before"]))
    short = [row for row in changed if len(row["before"]) <= 300] or changed
    return short[:: max(1, len(short) // rows)][:rows]


def _keep_apart(source: Path, written: tuple[Path, ...]) -> None:
    for path in written:
        with suppress(FileNotFoundError):
            if path.samefile(source):
                raise Tc3Error(f"{path} would overwrite the catalogue: give another target, or rename the catalogue.")


def _workers(source: Source, workers: int | None) -> int:
    if source.packing or source.array or source.table:
        return 1
    if workers is None:
        large = source.path.stat().st_size >= PARALLEL_FROM_BYTES
        return min(4, len(os.sched_getaffinity(0))) if large else 1
    return workers


def _with_progress(parts: Iterator[tuple[Converted, int]], source: Path) -> Iterator[Converted]:
    """Pass the parts on under a progress bar: bytes of the file on disk, rows a second, time left."""
    from tqdm.auto import tqdm

    rows, start, size = 0, time.monotonic(), source.stat().st_size
    form = "{desc}: {percentage:3.0f}%|{bar}|{postfix} [{elapsed}<{remaining}]"
    with tqdm(total=size, desc=source.name, bar_format=form) as bar:
        for part, position in parts:
            rows += part.read
            if position - bar.n > size / 1000 or position >= size:
                speed = rows / max(time.monotonic() - start, 1e-3)
                bar.set_postfix_str(f"{rows:,} rows, {speed:,.0f} rows/s", refresh=False)
                bar.update(position - bar.n)
            yield part


def _check(source: Source, total: Converted, first: list[str], max_damaged: float) -> None:
    """Raise Tc3Error if the catalogue is too damaged, or nothing of it can be used."""
    path = source.path
    damaged = total.dropped.get("damaged", 0)
    shown = f" The first: {' '.join(first)}" if first else ""
    if not total.kept:
        expected = f"a row with both below the header of a {source.table} file"
        if not source.table:
            expected = f'JSON Lines such as {{"{source.columns.title}": "...", "{source.columns.content}": "..."}}'
        raise Tc3Error(
            f"{path} has no row with a title and a content in {total.read} lines; expected {expected}.{shown}"
            f"{_other_keys(source)}"
        )
    if damaged > max_damaged * total.read:
        raise Tc3Error(
            f"{path}: {damaged:,} of {total.read:,} lines are damaged, {damaged / total.read:.1%}; at most "
            f"{max_damaged:.1%} (max_damaged) are put up with. Copy or download it again, or mend it.{shown}"
        )


def _other_keys(source: Source) -> str:
    """Say which keys a line of JSON has, if those that were looked for are not among them."""
    block = next(source.blocks(), None)
    for line in block.lines if block and not source.table else []:
        with suppress(msgspec.MsgspecError, RecursionError, UnicodeError):
            if isinstance(found := msgspec.json.decode(line), dict):
                told = missing(source.path, source.columns, list(found), "the keys of its first line are")
                return told and f" {told}"
    return ""


def _remark(total: Converted) -> str:
    if total.read != FULL_LINES:
        return ""
    usable = total.kept + total.dropped.get("blank_after_cleaning", 0)
    if usable == FULL_USABLE:
        return f"This is the whole LF-AmazonTitles-1.3MM: {FULL_LINES:,} lines, {FULL_USABLE:,} usable before cleaning."
    return (
        f"As many lines as LF-AmazonTitles-1.3MM ({FULL_LINES:,}), but {usable:,} usable before cleaning, not "
        f"{FULL_USABLE:,}: it is another file, or a damaged one."
    )
