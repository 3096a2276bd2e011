"""From a catalogue of products to fine-tuning records: every line is read once and accounted for."""

import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.synchronize import Condition
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from tc3lib.catalogue.cleaning import tidier
from tc3lib.catalogue.json_rows import first_keys
from tc3lib.catalogue.noticed import Noticed, is_placeholder, merge, notice
from tc3lib.catalogue.rows import Columns, Damaged, Rows, Source
from tc3lib.catalogue.source import find, opened, read
from tc3lib.catalogue.table_rows import missing
from tc3lib.errors import Tc3Error
from tc3lib.files import alone, blaming, replacing_all, write_json
from tc3lib.prompts import formatter
from tc3lib.settings import Settings

PARALLEL_FROM_BYTES = 64 << 20
RANGE_BYTES = 4 << 20
"""What a worker process converts before it waits for its turn to write."""
MANY_DAMAGED = 10_000
"""Damaged lines for which a worker waits for its turn before its range is done, so that memory stays bounded."""
FULL_LINES, FULL_USABLE = 2_248_619, 1_390_403
"""Lines of LF-AmazonTitles-1.3MM's `trn.json`, and those of them that the recipe's rule keeps."""

_encode_lines = msgspec.json.Encoder().encode_lines


@dataclass(frozen=True)
class PrepareReport:
    """What `prepare` did with every line (or element of an array): `read` is `kept` plus the sum of `dropped`."""

    read: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)
    """By reason: `blank_title`, `blank_content`, `blank_both`, `blank_after_cleaning`, `placeholder`, `empty_line`,
    `header` (a row that repeats the header), `damaged`."""
    seconds: float = 0.0
    noticed: Noticed = field(default_factory=dict)
    """What is odd in the kept rows: HTML, broken text, placeholders; nothing is looked for with `clean=False`."""
    remark: str = ""
    """Whether this is the whole catalogue of the Tech Challenge, if it has as many lines."""

    @property
    def examples(self) -> list[dict[str, Any]]:
        """Return the examples in `noticed`, a row for each."""
        return [
            {"what": kind, "rows": found["rows"], **example}
            for kind, found in self.noticed.items()
            for example in found["examples"]
        ]


class _Part(NamedTuple):
    """What became of some rows."""

    records: bytes
    """The kept ones as JSON Lines."""
    uids: bytes
    """Their uids, line for line."""
    damaged: Sequence[Damaged]
    counts: Counter[str]
    """`kept`, and the reasons of `PrepareReport.dropped`."""
    noticed: Noticed


Files = Sequence[IO[bytes]]
"""For records, uids and quarantine."""
Steps = Iterator[tuple[Counter[str], Noticed, int]]
"""The counts of some rows, once they are written, and how many bytes of the file on disk have been read."""


def prepare(config: Settings, work: Path) -> PrepareReport:
    """Turn the catalogue into fine-tuning records, dropping products without a title or without a description.

    Writes `trn_output.json` (JSON Lines of `instruction`, `input_text`, `response`); `trn_output.uid.jsonl`, whose n-th
    line is the uid of the n-th record; `quarantine.jsonl`, if lines could not be read, with number, byte offset (in the
    unpacked file; none in Excel and Parquet) and reason of each; and `prepare_report.json`. The first three are
    replaced together, or stay as they were. The bytes do not depend on the number of workers, nor, for JSON Lines,
    memory on the size of the file or of a line.

    Args:
        config: A run; its sections `data` and `prompting` are used.
        work: The work folder.

    Raises:
        Tc3Error: The catalogue is missing, not one, without the columns of the settings, too damaged or without a
            usable row, or a file cannot be written.
    """
    from tqdm.auto import tqdm

    path, start = find(config, work), time.monotonic()
    print(f"catalogue {path}")
    target, total, noticed = work / "trn_output.json", Counter(), {}
    targets = target, target.with_suffix(".uid.jsonl"), work / "quarantine.jsonl"
    with (
        alone(work), opened(path, Columns.of(config.data), config.data.header_row) as source, blaming(target),
        replacing_all(*targets) as files,
    ):  # fmt: skip
        workers = _number_of_workers(source, config.data.workers)
        if workers > 1:
            steps = _convert_in_workers(source, config, files, workers)
        else:
            steps = _convert_here(source, config, files)
        with closing(steps), tqdm(total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True) as bar:
            for counts, found, position in steps:
                total += counts
                merge(noticed, found)
                bar.set_postfix_str(f"{total.total():,} rows", refresh=False)
                bar.update(position - bar.n)
        _check(source, total, files, config.data.max_damaged)
    if not total["damaged"]:
        with blaming(targets[-1]):
            targets[-1].unlink(missing_ok=True)
    kept = total.pop("kept")
    dropped = {reason: count for reason, count in sorted(total.items()) if count}
    seconds = round(time.monotonic() - start, 3)
    report = PrepareReport(kept + total.total(), kept, dropped, seconds, noticed, _remark(kept, total))
    write_json(work / "prepare_report.json", report)
    if report.remark:
        print(report.remark)
    return report


def before_and_after(config: Settings, work: Path, rows: int = 5) -> list[dict[str, str]]:
    """Return titles and contents that cleaning changes: `uid`, `before` and `after` of some in the first 20,000 rows.

    At most `rows` are returned, of any length up to 300 characters if there are such.
    """
    changed, seen = [], 0
    with opened(find(config, work), Columns.of(config.data), config.data.header_row) as source:
        for batch in read(source):
            tidy = tidier(config.data, source.literal_breaks)  # known once the header has been read
            for product in batch.products:
                for text in filter(None, (product.title, product.content)):
                    if (after := tidy(text)) != text.strip():
                        changed.append({"uid": product.uid, "before": text, "after": after})
            seen += batch.read
            if seen >= 20_000:
                break
    changed.sort(key=lambda row: len(row["before"]))
    short = [row for row in changed if len(row["before"]) <= 300] or changed
    return short[:: max(1, len(short) // rows)][:rows]


def _convert(rows: Rows, config: Settings, literal_breaks: bool = False) -> _Part:
    """Tidy products and encode their records."""
    tidy, record = tidier(config.data, literal_breaks), formatter(config.prompting)
    records, uids, kept, dropped = [], [], [], []
    counts = Counter({"empty_line": rows.empty, "header": rows.headers, "damaged": len(rows.damaged)})
    for product in rows.products:
        title, content = product.title, product.content
        if title and content and (tidy_title := tidy(title)) and (tidy_content := tidy(content)):
            if config.data.drop_placeholders and (is_placeholder(tidy_title) or is_placeholder(tidy_content)):
                counts["placeholder"] += 1
                continue
            records.append(record(tidy_title, tidy_content))
            uids.append(product.uid)
            kept.append((product, tidy_title, tidy_content))
        else:
            dropped.append(_why_dropped(title, content))
    counts.update(dropped)
    counts["kept"] = len(records)
    # The user's rule alone stays as fast as it was.
    noticed = notice(kept) if config.data.clean else {}
    return _Part(_encode_lines(records), _encode_lines(uids), rows.damaged, counts, noticed)


def _why_dropped(title: str | None, content: str | None) -> str:
    if not title or not title.strip():
        return "blank_title" if content and content.strip() else "blank_both"
    return "blank_after_cleaning" if content and content.strip() else "blank_content"


def _write(part: _Part, files: Files, lines_before: int = 0) -> None:
    records, uids, quarantine = files
    records.write(part.records)
    uids.write(part.uids)
    for line, offset, reason in part.damaged:
        at = {"line": lines_before + line} | ({} if offset is None else {"offset": offset})
        quarantine.write(msgspec.json.encode(at | {"reason": reason}) + b"\n")


def _convert_here(source: Source, config: Settings, files: Files) -> Steps:
    for rows in read(source):
        part = _convert(rows, config, source.literal_breaks)
        _write(part, files)
        yield part.counts, part.noticed, source.position()


def _number_of_workers(source: Source, workers: int | None) -> int:
    if source.packing or source.kind != "JSON Lines":
        return 1
    if workers is None:
        large = source.path.stat().st_size >= PARALLEL_FROM_BYTES
        return min(4, len(os.sched_getaffinity(0))) if large else 1
    return workers


def _convert_in_workers(source: Source, config: Settings, files: Files, workers: int) -> Steps:
    """Convert plain JSON Lines range by range in worker processes, which take turns to write, in the file's order.

    The processes are forked: started in another way, they would import the caller's script, and one without
    `if __name__ == "__main__"`, such as a notebook's, would run again in each. A fork beside a kernel's threads is safe
    here because a worker only reads, converts and writes files. All processes share the files' positions, so each
    appends to what the others have written.
    """
    size = source.path.stat().st_size
    edges = [*range(0, size, RANGE_BYTES), size]
    context = multiprocessing.get_context("fork")
    job = _Job(source.path, source.columns, config, files, context.Condition(), context.Array("q", 2, lock=False))
    pool = ProcessPoolExecutor(workers, context, _start_worker, (job,))
    try:
        yield from pool.map(_convert_range, range(len(edges)), edges, edges[1:])
    except BrokenProcessPool:
        raise Tc3Error(
            "a worker of 01_prepare ended too early; mostly the system stops one for want of memory. Run the cell "
            "again, or set workers=1."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


class _Job(NamedTuple):
    path: Path
    columns: Columns
    config: Settings
    files: Files
    turn: Condition
    state: Any
    """Shared by all: number of the range whose turn it is to be written, and how many lines the ranges before had."""


def _start_worker(job: _Job) -> None:
    global _job
    _job = job
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the process that started this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    bytes(24 << 20)  # once such a block is freed, glibc keeps freed memory instead of asking for it again and again


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # otherwise a killed parent would leave its workers behind, and its lock on the folder with them


def _convert_range(number: int, start: int, end: int) -> tuple[Counter[str], Noticed, int]:
    parts, counts, noticed = [], Counter(), {}
    try:
        with opened(_job.path, _job.columns) as source:
            for rows in read(source, start, end):
                parts.append(_convert(rows, _job.config))
                counts += parts[-1].counts
                merge(noticed, parts[-1].noticed)
                if counts["damaged"] > MANY_DAMAGED:
                    _write_in_turn(number, parts)
        _write_in_turn(number, parts)
        return counts, noticed, end
    finally:
        with _job.turn:
            _job.turn.wait_for(lambda: _job.state[0] == number)
            _job.state[:] = number + 1, _job.state[1] + counts.total()
            _job.turn.notify_all()


def _write_in_turn(number: int, parts: list[_Part]) -> None:
    """Wait until the ranges before are written, then write and forget the parts."""
    with _job.turn:
        _job.turn.wait_for(lambda: _job.state[0] == number)
    for part in parts:
        _write(part, _job.files, _job.state[1])
    for file in _job.files:
        file.flush()
    parts.clear()


def _check(source: Source, total: Counter[str], files: Files, max_damaged: float) -> None:
    """Raise Tc3Error if the catalogue is too damaged, or nothing of it can be used."""
    path, read, damaged = source.path, total.total(), total["damaged"]
    files[-1].flush()
    with open(files[-1].name, encoding="utf-8") as quarantine:
        first = " ".join(line.strip() for line in islice(quarantine, 3))
    shown = f" The first: {first}" if first else ""
    if not total["kept"]:
        keys = ""
        if source.kind.startswith("JSON"):
            expected = f'JSON Lines such as {{"{source.columns.title}": "...", "{source.columns.content}": "..."}}'
            if names := first_keys(source):
                keys = missing(path, source.columns, names, "the keys of its first line are")
        else:
            expected = f"a row with both below the header of a {source.kind} file"
        raise Tc3Error(
            f"{path} has no row with a title and a content in {read} lines; expected {expected}.{shown}"
            + (f" {keys}" if keys else "")
        )
    if damaged > max_damaged * read:
        raise Tc3Error(
            f"{path}: {damaged:,} of {read:,} lines are damaged, {damaged / read:.1%}; at most {max_damaged:.1%} "
            f"(max_damaged) are allowed. Copy or download it again, or fix it.{shown}"
        )


def _remark(kept: int, dropped: Counter[str]) -> str:
    if kept + dropped.total() != FULL_LINES:
        return ""
    usable = kept + dropped["blank_after_cleaning"]
    if usable == FULL_USABLE:
        return f"This is the whole LF-AmazonTitles-1.3MM: {FULL_LINES:,} lines, {FULL_USABLE:,} usable before cleaning."
    return (
        f"As many lines as LF-AmazonTitles-1.3MM ({FULL_LINES:,}), but {usable:,} usable before cleaning, not "
        f"{FULL_USABLE:,}: it is another file, or a damaged one."
    )
