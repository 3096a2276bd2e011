"""Read and write JSON Lines; what is written appears whole or not at all."""

import errno
import fcntl
import glob
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import msgspec

from tc3lib.errors import Tc3Error

_ADVICE = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space",
    errno.ENOENT: "Make that folder",
    errno.ENAMETOOLONG: "Give it a shorter name",
}
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)


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


def read_json(path: Path | str) -> dict[str, Any]:
    """Return a JSON object, an empty one if the file is missing or damaged."""
    try:
        value = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


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
    """Open a new file for bytes that takes `path`'s place when the block ends well, and is gone when it does not.

    While it is written it has no name where the file system can do that (Linux's `O_TMPFILE`), so that a process that
    is killed leaves nothing. Elsewhere its name is hidden and begins with `path`'s; what a killed process left there
    goes when the next one writes the same file.

    Raises:
        Tc3Error: The file cannot be written; `path` is as it was.
    """
    with blaming(path), replacing_all(path) as (file,):
        yield file


@contextmanager
def replacing_all(*paths: Path, keep_empty: bool = True) -> Iterator[list[IO[bytes]]]:
    """Do what `replacing` does for several files of one folder that belong together.

    None takes its place before all are whole and on the disk. With `keep_empty=False` the last one, if nothing was
    written to it, takes the old file away instead.
    """
    with ExitStack() as stack:
        files: list[IO[bytes]] = []
        names: list[str] = []
        for path in paths:
            with blaming(path):
                _sweep(path)
                files.append(stack.enter_context(_unnamed(path, names)))
        yield files
        for path, file in zip(paths, files, strict=True):
            with blaming(path):
                file.flush()
                os.fsync(file.fileno())
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # From here to the end takes microseconds: only a kill in between can leave a hidden name, for `_sweep`.
        for index, (path, file) in enumerate(zip(paths, files, strict=True)):
            with blaming(path):
                names[index] = names[index] or _link(path, file, stack)
        for path, file, name in reversed([*zip(paths, files, names, strict=True)]):
            with blaming(path):
                if keep_empty or path != paths[-1] or os.fstat(file.fileno()).st_size:
                    os.replace(name, path)
                else:
                    path.unlink(missing_ok=True)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a second process from writing into the same folder; where the file system knows no locks, do nothing.

    Raises:
        Tc3Error: Another one is at work there; its process is named where the system tells it.
    """
    handle = None
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            if handle is not None:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Tc3Error(f"{_holder(handle)} is writing to {folder}: wait until it is done, or stop it.") from None
        except OSError:
            pass
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _holder(handle: int) -> str:
    """Return who holds the lock of an open folder."""
    with suppress(OSError, IndexError):
        for fields in map(str.split, Path("/proc/locks").read_text().splitlines()):
            if fields[1] == "FLOCK" and fields[5].endswith(f":{os.fstat(handle).st_ino}") and int(fields[4]) > 0:
                return f"another run (process {fields[4]})"
    return "another run"


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into a `Tc3Error` that names `path` and what to do."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno, "Make its folder writable")
        old = " The file that was there before is unchanged." if os.path.exists(path) else ""
        raise Tc3Error(
            f"cannot write {path}: {error.strerror or error}. {advice}, or choose another folder with TC3_HOME.{old}"
        ) from None


@contextmanager
def _unnamed(path: Path, names: list[str]) -> Iterator[IO[bytes]]:
    """Open a new file beside `path`, without a name or, where that cannot be, with one, which is added to `names`."""
    name = ""
    try:
        handle = os.open(path.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError as error:
        if error.errno not in _NO_TMPFILE or not path.parent.is_dir():
            raise
        name = _new_name(path)
        handle = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    names.append(name)
    file = open(handle, "wb", buffering=1 << 20)  # noqa: SIM115  (closing it must not hide why it is closed)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # tells `_sweep` that somebody is at work
        yield file
    finally:
        with suppress(OSError):
            file.close()
        if name:
            _discard(name)


def _new_name(path: Path) -> str:
    return str(path.with_name(f".{path.name}.{secrets.token_hex(4)}"))


def _link(path: Path, file: IO[bytes], stack: ExitStack) -> str:
    """Give a file without a name one beside `path`, which goes with the stack, and return it."""
    name = _new_name(path)
    folder = os.open(path.parent, os.O_DIRECTORY)
    try:
        os.link(f"/proc/self/fd/{file.fileno()}", os.path.basename(name), dst_dir_fd=folder)
        stack.callback(_discard, name)
    finally:
        os.close(folder)
    return name


def _discard(name: str) -> None:
    with suppress(OSError):
        os.unlink(name)


def _sweep(path: Path) -> None:
    """Remove what a killed process left of an earlier attempt to write `path`."""
    for name in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}"):
        with suppress(OSError), open(name, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            name.unlink()
