"""Convert a catalogue, in this process or in several that read and write the files themselves.

A worker is this module run by a fresh interpreter: it shares no memory with a notebook's kernel and does not import
the caller's script again. Orders and answers are JSON, a line each, on its standard input and output. Ranges of the
catalogue go to the workers in turn; where a range's records begin is known when the range before it is converted.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import cycle, pairwise
from pathlib import Path
from typing import IO

import msgspec

from tc3lib.catalogue.json_rows import Columns
from tc3lib.catalogue.records import Converted, convert
from tc3lib.catalogue.source import Source, opened
from tc3lib.errors import Tc3Error

RANGE_BYTES = 4 << 20
_DAMAGED = 1000
"""Damaged lines after which a worker answers before its range is done, so that none has to hold many of them."""
_MODULE = "tc3lib.catalogue.workers"


class _Task(msgspec.Struct):
    clean: bool
    files: tuple[int, int]
    """Descriptors of the files for records and uids."""
    columns: Columns


class _Order(msgspec.Struct):
    """Write what the last answer told of at these offsets, then convert this range; None: no more."""

    write_at: tuple[int, int] = (0, 0)
    range: tuple[int, int | None] | None = None


class _Answer(msgspec.Struct):
    converted: Converted = msgspec.field(default_factory=Converted)
    """Without the bytes, which the worker keeps until it is told where they go."""
    sizes: tuple[int, int] = (0, 0)
    rest: tuple[int, int | None] | None = None
    """What is left of the range."""
    error: str = ""
    errno: int = 0


def convert_here(source: Source, clean: bool, files: tuple[IO[bytes], IO[bytes]]) -> Iterator[tuple[Converted, int]]:
    """Convert a catalogue in this process, block by block.

    Yields:
        What became of some lines, and up to which byte the file on disk has been read.
    """
    line, written, started = 1, 0, 0
    _keep_freed_memory()
    for block in source.blocks():
        converted = convert(block, clean, line, source.columns)
        files[0].write(converted.records)
        files[1].write(converted.uids)
        line, written = line + converted.read, written + len(converted.records)
        if written - started >= RANGE_BYTES:
            files[0].flush()
            _start_writing_out(files[0].fileno(), started, written - started)
            started = written
        yield converted, source.position()


def convert_in_workers(
    path: Path, clean: bool, files: tuple[IO[bytes], IO[bytes]], workers: int, columns: Columns
) -> Iterator[tuple[Converted, int]]:
    """Convert a catalogue of plain JSON Lines in several processes; yields what `convert_here` does.

    Raises:
        Tc3Error: A worker could not read the catalogue, or ended before its work was done.
        OSError: A worker could not write.
    """
    size = path.stat().st_size
    edges = [*range(0, size, RANGE_BYTES), None]
    ranges = iter(list(pairwise(edges)))
    task = _Task(clean, (files[0].fileno(), files[1].fileno()), columns)
    with ExitStack() as stack:
        team = [stack.enter_context(_Worker(path, task)) for _ in range(workers)]
        for worker in team:
            worker.send(_Order(range=next(ranges, None)))
        line, at = 1, (0, 0)
        for worker, (_, end) in zip(cycle(team), pairwise(edges), strict=False):
            answer = _Answer(rest=(0, 0))
            while answer.rest:
                answer = worker.receive()
                worker.send(_Order(at, answer.rest or next(ranges, None)))
                done = answer.converted
                done.damaged = [(line - 1 + number, offset, reason) for number, offset, reason in done.damaged]
                line, at = line + done.read, (at[0] + answer.sizes[0], at[1] + answer.sizes[1])
                yield done, answer.rest[0] if answer.rest else end or size
        for worker in team:
            worker.receive()


class _Worker:
    """A process that converts ranges."""

    def __init__(self, source: Path, task: _Task):
        command = [sys.executable, "-m", _MODULE, str(source.absolute()), msgspec.json.encode(task).decode()]
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}  # the same modules as here, no others
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=task.files, env=environment
            )
        except OSError as error:
            raise Tc3Error(f"cannot start a worker of 01_prepare: {error.strerror}. Set workers=1.") from None

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.communicate()

    def send(self, order: _Order) -> None:
        try:
            self.process.stdin.write(msgspec.json.encode(order) + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # `receive` says why

    def receive(self) -> _Answer:
        line = self.process.stdout.readline()
        if not line:
            raise Tc3Error(
                f"a worker of 01_prepare ended too early (exit status {self.process.wait()}; -9 means that the system "
                "stopped it, mostly for want of memory). Run the cell again, or set workers=1."
            )
        answer = msgspec.json.decode(line, type=_Answer)
        if answer.errno:
            raise OSError(answer.errno, answer.error)
        if answer.error:
            raise Tc3Error(answer.error)
        return answer


def _work(path: Path, task: _Task, orders: IO[bytes], answers: IO[bytes]) -> None:
    """Do what a worker does until the orders end or the process that gives them is gone."""
    held = (b"", b"")
    _keep_freed_memory()
    with opened(path, task.columns) as source:
        for line in orders:
            order = msgspec.json.decode(line, type=_Order)
            answer = _Answer()
            try:
                for file, data, offset in zip(task.files, held, order.write_at, strict=True):
                    _write_at(file, data, offset)
                held = (b"", b"")
                if order.range:
                    converted, held, rest = _convert_range(source, task.clean, *order.range)
                    answer = _Answer(converted, (len(held[0]), len(held[1])), rest)
            except OSError as error:
                answer = _Answer(error=error.strerror or str(error), errno=error.errno or 5)
            except Tc3Error as error:
                answer = _Answer(error=str(error).encode(errors="backslashreplace").decode())
            except Exception as error:
                answer = _Answer(error=f"a defect of tc3lib, please report it: {type(error).__name__}: {error}")
            answers.write(msgspec.json.encode(answer) + b"\n")
            answers.flush()


def _convert_range(
    source: Source, clean: bool, start: int, end: int | None
) -> tuple[Converted, tuple[bytearray, bytearray], tuple[int, int | None] | None]:
    """Return what became of the lines of a range, their records and uids, and what is left of the range."""
    whole, records, uids = Converted(), bytearray(), bytearray()
    for block in source.blocks(start, end):
        if len(whole.damaged) >= _DAMAGED:
            return whole, (records, uids), (block.offset, end)
        part = convert(block, clean, whole.read + 1, source.columns)
        records += part.records
        uids += part.uids
        whole.add(part)
    return whole, (records, uids), None


def _keep_freed_memory() -> None:
    """Keep the C library from handing memory back to the system after every block, only to ask for it again.

    glibc raises its thresholds for that when a large block, which it got from the system as such, is freed.
    """
    bytes(24 << 20)


def _write_at(file: int, data: bytes, offset: int) -> None:
    view, at = memoryview(data), offset
    while view:
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written
    _start_writing_out(file, offset, len(data))


def _start_writing_out(file: int, offset: int, length: int) -> None:
    """Let the system write to the disk while we compute, so that little is left for the `fsync` in the end.

    On Linux this advice begins the writing of pages that are not on the disk yet; those stay in memory.
    """
    if length:
        os.posix_fadvise(file, offset, length, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that gives the orders decides
    with suppress(BrokenPipeError):  # it is gone
        _work(Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=_Task), sys.stdin.buffer, sys.stdout.buffer)
