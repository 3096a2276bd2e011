"""Read and write files; what is written appears whole or not at all."""

import errno
import fcntl
import glob
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

import msgspec

from tc3lib.errors import Tc3Error

_SPACE = "Free some space there (Drive counts its bin too)"
_RESTART = "If it is on Drive, choose Runtime > Restart session and run the notebook again"
_MOUNT = "Run the settings cell again (it mounts Drive)"
ADVICE = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EIO: _RESTART,
    errno.ENOTCONN: _RESTART,
    errno.ENAMETOOLONG: "Give it a shorter name",
}
"""What helps where a file or folder cannot be read or written."""


def read_rows(path: Path | str, most: int | None = None) -> list[dict[str, Any]]:
    """Return the rows of a JSON Lines file that this library wrote, or the first ones.

    Raises:
        Tc3Error: The file is missing or cannot be read, or a line of it is damaged (file and line are named).
    """
    return [*islice(each_row(path), most)]


def each_row(path: Path | str) -> Iterator[dict[str, Any]]:
    """Yield what `read_rows` returns, one by one."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    advice = "Delete the file and run its notebook again."
                    raise Tc3Error(f"{path}, line {number}: {error}. {advice}") from None
    except FileNotFoundError:
        check_folder(Path(path).parent)
        raise Tc3Error(f"no file {path}: run the notebooks before this one first.") from None
    except OSError as error:
        advice = ADVICE.get(error.errno, "Make it readable")
        raise Tc3Error(f"cannot read {path}: {error.strerror}. {advice}.") from None


def check_folder(work: Path) -> None:
    """Raise Tc3Error if a work folder is gone, as on Drive once `runtime.finish` has unmounted it."""
    if not os.path.isdir(work):
        raise Tc3Error(f"there is no folder {work}. {_MOUNT}.")


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
    """Open a new file that replaces `path` when the block ends, and is removed if the block fails.

    Its name is hidden and begins with `path`'s. What a killed process left is removed by the next write of `path`.

    Raises:
        Tc3Error: The file cannot be written; `path` is unchanged.
    """
    with blaming(path), replacing_all(path) as (file,):
        yield file


@contextmanager
def replacing_all(*paths: Path) -> Iterator[list[IO[bytes]]]:
    """Replace several files that belong together: none before all are whole and on the disk."""
    with ExitStack() as stack:
        files = [stack.enter_context(_new_file(path)) for path in paths]
        yield files
        for path, file in zip(paths, files, strict=True):
            with blaming(path):
                file.flush()
                os.fsync(file.fileno())
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        for path, file in reversed([*zip(paths, files, strict=True)]):
            with blaming(path):
                os.replace(file.name, path)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Make a new folder that replaces `path` when the block ends; if the block fails, `path` stays as it was.

    Its parents are not made: where Drive was lost they would be made on this machine. A link stays one: what it leads
    to is replaced.
    """
    path = path.resolve()
    new, old = (path.with_name(f".{path.name}.{word}") for word in ("new", "old"))
    if old.exists() and not path.exists():  # an earlier call was broken off between its two renames
        old.rename(path)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _new_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file with a hidden name in `path`'s folder, which is removed unless it was renamed."""
    with blaming(path):
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}"):
            with suppress(OSError), open(leftover, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while another process writes it
                leftover.unlink()
        name = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        file = open(name, "xb", buffering=1 << 20)  # noqa: SIM115  (an error on closing must not hide the first)
    try:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file
    finally:
        with suppress(OSError):
            file.close()
        with suppress(OSError):
            name.unlink()


@contextmanager
def alone(folder: Path, target: Path | None = None) -> Iterator[None]:
    """Lock a folder against a second process that would write to it; do nothing where locks are not supported.

    Args:
        target: Lock this file alone, which need not be there yet, by one beside it, `<target>.lock.partial`.

    Raises:
        Tc3Error: Another process holds the lock, or there is no such folder.
    """
    locked, flags = folder, os.O_RDONLY | os.O_DIRECTORY
    if target:
        locked, flags = target.with_name(f"{target.name}.lock.partial"), os.O_RDWR | os.O_CREAT
    with blaming(locked):
        handle = os.open(locked, flags, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = target or folder
            raise Tc3Error(f"another run is writing to {what}: wait until it is done, or stop it.") from None
        except OSError:
            pass
        try:
            yield
        finally:
            if target:
                locked.unlink(missing_ok=True)
    finally:
        os.close(handle)


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Turn an `OSError` while writing into a `Tc3Error` that names `path` and says what to do."""
    try:
        yield
    except OSError as error:
        advice = _MOUNT if error.errno == errno.ENOENT else ADVICE.get(error.errno, "Make its folder writable")
        old = " The file that was there before is unchanged." if os.path.exists(path) else ""
        raise Tc3Error(
            f"cannot write {path}: {error.strerror or error}. {advice}, or choose another folder with TC3_HOME.{old}"
        ) from None
