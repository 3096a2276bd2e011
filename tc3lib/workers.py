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
from contextlib import ExitStack
from itertools import cycle, pairwise
from pathlib import Path
from typing import IO

import msgspec

from tc3lib.errors import Tc3Error
from tc3lib.records import Converted, convert
from tc3lib.sources import Source, opened

RANGE_BYTES = 8 << 20
_MODULE = "tc3lib.workers"


class _Task(msgspec.Struct):
    path: str
    clean: bool
    files: tuple[int, int]
    """Descriptors of the files for records and uids."""


class _Order(msgspec.Struct):
    """Write what the last answer told of at these offsets, then convert this range; None: no more."""

    write_at: tuple[int, int] = (0, 0)
    range: tuple[int, int | None] | None = None


class _Answer(msgspec.Struct):
    converted: Converted = msgspec.field(default_factory=Converted)
    """Without the bytes, which the worker keeps until it is told where they go."""
    sizes: tuple[int, int] = (0, 0)
    error: str = ""
    errno: int = 0


def convert_here(source: Source, clean: bool, files: tuple[IO[bytes], IO[bytes]]) -> Iterator[tuple[Converted, int]]:
    """Convert a catalogue in this process, block by block.

    Yields:
        What became of some lines, and up to which byte the file on disk has been read.
    """
    line = 1
    _keep_freed_memory()
    for block in source.blocks():
        converted = convert(block, clean, line)
        files[0].write(converted.records)
        files[1].write(converted.uids)
        line += converted.read
        yield converted, source.position()


def convert_in_workers(
    path: Path, clean: bool, files: tuple[IO[bytes], IO[bytes]], workers: int
) -> Iterator[tuple[Converted, int]]:
    """Convert a catalogue of plain JSON Lines in several processes; yields what `convert_here` does.

    Raises:
        Tc3Error: A worker could not read the catalogue, or ended before its work was done.
        OSError: A worker could not write.
    """
    size = path.stat().st_size
    edges = [*range(0, size, RANGE_BYTES), None]
    ranges = iter(list(pairwise(edges)))
    task = _Task(str(path.absolute()), clean, (files[0].fileno(), files[1].fileno()))
    with ExitStack() as stack:
        team = [stack.enter_context(_Worker(task)) for _ in range(workers)]
        for worker in team:
            worker.send(_Order(range=next(ranges, None)))
        line, at = 1, (0, 0)
        for worker, (_, end) in zip(cycle(team), pairwise(edges), strict=False):
            answer = worker.receive()
            worker.send(_Order(at, next(ranges, None)))
            converted = answer.converted
            converted.damaged = [(line - 1 + number, offset, reason) for number, offset, reason in converted.damaged]
            line, at = line + converted.read, (at[0] + answer.sizes[0], at[1] + answer.sizes[1])
            yield converted, end or size
        for worker in team:
            worker.receive()


class _Worker:
    """A process that converts ranges."""

    def __init__(self, task: _Task):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", _MODULE, msgspec.json.encode(task).decode()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=task.files, env=environment,
        )  # fmt: skip

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


def _work(task: _Task, orders: IO[bytes], answers: IO[bytes]) -> None:
    """Do what a worker does until the orders end or the process that gives them is gone."""
    held = (b"", b"")
    _keep_freed_memory()
    with opened(Path(task.path)) as source:
        for line in orders:
            order = msgspec.json.decode(line, type=_Order)
            answer = _Answer()
            try:
                for file, data, offset in zip(task.files, held, order.write_at, strict=True):
                    _write_at(file, data, offset)
                held = (b"", b"")
                if order.range:
                    converted, held = _convert_range(source, task.clean, *order.range)
                    answer = _Answer(converted, (len(held[0]), len(held[1])))
            except OSError as error:
                answer = _Answer(error=error.strerror or str(error), errno=error.errno or 5)
            except Tc3Error as error:
                answer = _Answer(error=str(error))
            answers.write(msgspec.json.encode(answer) + b"\n")
            answers.flush()


def _convert_range(source: Source, clean: bool, start: int, end: int | None) -> tuple[Converted, tuple[bytes, bytes]]:
    whole, records, uids = Converted(), [], []
    for block in source.blocks(start, end):
        part = convert(block, clean, whole.read + 1)
        records.append(part.records)
        uids.append(part.uids)
        part.records = part.uids = b""
        whole.add(part)
    return whole, (b"".join(records), b"".join(uids))


def _keep_freed_memory() -> None:
    """Keep the C library from handing memory back to the system after every block, only to ask for it again.

    glibc raises its thresholds for that when a large block, which it got from the system as such, is freed.
    """
    bytes(24 << 20)


def _write_at(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that gives the orders decides
    _work(msgspec.json.decode(sys.argv[1], type=_Task), sys.stdin.buffer, sys.stdout.buffer)
