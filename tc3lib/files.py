"""Read and write JSON Lines; what is written appears whole or not at all."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from tc3lib.errors import Tc3Error


def read_rows(path: Path | str) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines file that this library wrote.

    Raises:
        Tc3Error: The file is missing, or a line of it is damaged (file and line are named).
    """
    if not Path(path).is_file():
        raise Tc3Error(f"no file {path}: run the notebooks before this one first.")
    rows = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise Tc3Error(f"{path}, line {number}: {error}. Delete the file and run its notebook again.") from None
    return rows


def write_rows(path: Path | str, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON Lines; the file appears whole or not at all."""
    with replacing(Path(path)) as file:
        file.writelines(msgspec.json.encode(row) + b"\n" for row in rows)


def write_json(path: Path | str, value: Any) -> None:
    """Write an indented JSON document; the file appears whole or not at all. Dataclasses become objects."""
    with replacing(Path(path)) as file:
        file.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file for bytes that takes `path`'s place when the block ends well, and is gone when it does not."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise Tc3Error(f"cannot write {path}: {error.strerror}. Choose another folder with TC3_HOME.") from None
    try:
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
