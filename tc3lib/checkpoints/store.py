"""Checkpoints that survive: copied, read back, committed by a manifest written last, and noted in a journal.

A mounted Drive promises neither atomic renames nor up-to-date listings. So a checkpoint gets a new folder, no file of
it is written twice, and a folder counts only with a manifest that agrees with itself and with every file.

The journal, `committed.jsonl` in the same folder, has a line for each one that was ever committed. It tells a
checkpoint that lost its manifest, which is reported as damaged, from one that was never finished, which is removed.
A line that is lost costs no more than that: what can be resumed is decided by the manifests alone.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MANIFEST = "manifest.json"
JOURNAL = "committed.jsonl"
_CHUNK = 1 << 20
_FOLDER = re.compile(r"checkpoint-(\d+)(-[0-9a-f]{8}(?:\.(\d+))?)?")
"""Ours end in the run's identity; without it, it is transformers' own name: on the local disk, or another program's."""


class Damaged(Exception):
    """What is wrong with a checkpoint: the file and how it differs from what was committed."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a checkpoint consists of."""

    run: str
    """The run's identity (`run.json`), 8 hexadecimal digits."""
    step: int
    eval_loss: float | None
    """Held-out loss after that step, if it was measured."""
    files: dict[str, tuple[int, str]]
    """Size in bytes and SHA-256 by name."""


def begin(outputs: Path) -> None:
    """Make the checkpoints' folder and its journal; where there is a journal, remove what killed runs left unfinished.

    Without a journal nothing is removed: the folder is new, or another program's.

    Raises:
        OSError: The folder cannot be read or written.
    """
    with suppress(FileExistsError):
        os.mkdir(outputs)
    if (saved := journal(outputs)) is None:
        with _written(outputs / JOURNAL):
            return
    for folder in checkpoints(outputs):
        if folder.name not in saved and _FOLDER.fullmatch(folder.name)[2] and _cut_off(folder):
            remove(folder)


def journal(outputs: Path) -> list[str] | None:
    """Return the names of the folders that were ever committed, removed ones included; None if there is no journal."""
    try:
        lines = (outputs / JOURNAL).read_bytes().splitlines()
    except FileNotFoundError:
        return None
    names = []
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            names.append(json.loads(line)["folder"])
    return names


def seal(folder: Path, run: str, step: int, eval_loss: float | None) -> None:
    """Write the manifest of a checkpoint that is complete, in the place of an older one.

    Raises:
        Damaged: A file cannot be read.
        OSError: The manifest cannot be written.
    """
    for name in ("training_args.bin", MANIFEST):  # nobody reads the first, which is pickled
        (folder / name).unlink(missing_ok=True)
    files = {name: _measure(folder / name) for name in sorted(os.listdir(folder))}
    _write_manifest(folder, Manifest(run, step, None if eval_loss != eval_loss else eval_loss, files))  # NaN is no loss


def commit(source: Path, outputs: Path) -> Path:
    """Copy a sealed checkpoint to a new folder in `outputs`, read it back, commit it; return its folder.

    Raises:
        OSError: It could not be written.
        Damaged: It came back different, or the source is damaged. The new folder is removed again, if that is possible.
    """
    manifest = read_manifest(source)
    folder = _new_folder(outputs, f"checkpoint-{manifest.step}-{manifest.run}")
    try:
        for name, expected in manifest.files.items():
            _check(name, _copy(source / name, folder / name), expected)
            if _measure(folder / name) != expected:
                raise Damaged(f"{name} came back different from what was written to {folder}")
        _sync_folder(folder)
        _write_manifest(folder, manifest)
        if read_manifest(folder) != manifest:
            raise Damaged(f"{MANIFEST} came back different from what was written to {folder}")
        _sync_folder(folder)
        _sync_folder(outputs)
    except BaseException:
        remove(folder)
        raise
    _note(outputs, {"step": manifest.step, "folder": folder.name})
    return folder


def restore(folder: Path, target: Path, run: str) -> Manifest:
    """Copy the files that the manifest lists, and no others, to the new folder `target`, checking each.

    Raises:
        Damaged: A file is missing, cannot be read or is not what was committed, or the checkpoint is another run's;
            `target` is removed again.
        OSError: `target` cannot be written.
    """
    manifest = read_manifest(folder, run)
    target.mkdir(parents=True)
    try:
        for name, expected in manifest.files.items():
            _check(name, _copy(folder / name, target / name), expected)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return manifest


def read_manifest(folder: Path, run: str | None = None) -> Manifest:
    """Return a checkpoint's manifest without looking at its files.

    Raises:
        Damaged: It is missing or does not agree with itself, or it is that of another run than `run`.
    """
    try:
        body = json.loads(b"".join(_read(folder / MANIFEST)))
        if body.pop("sha256") != _digest(body):
            raise ValueError
        files = {name: (size, sha256) for name, (size, sha256) in body["files"].items()}
        manifest = Manifest(body["run"], body["step"], body["eval_loss"], files)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(f"{MANIFEST} is damaged") from None
    if any("/" in name or name in ("", ".", "..") for name in files):
        raise Damaged(f"{MANIFEST} names a file outside the checkpoint")
    if run is not None and manifest.run != run:
        raise Damaged(f"it belongs to another run ({manifest.run})")
    return manifest


def checkpoints(outputs: Path) -> list[Path]:
    """Return the folders that are named like checkpoints, the highest step first, committed or not."""
    try:
        names = os.listdir(outputs)
    except FileNotFoundError:
        return []
    found = [(match, name) for name in names if (match := _FOLDER.fullmatch(name))]
    found.sort(key=lambda pair: (int(pair[0][1]), int(pair[0][3] or 0)), reverse=True)
    return [outputs / name for _, name in found]


def committed(outputs: Path) -> list[Path]:
    """Return the checkpoints that have a manifest, damaged or not, the highest step first."""
    return [folder for folder in checkpoints(outputs) if (folder / MANIFEST).exists()]


def rotate(outputs: Path, keep: int | None, run: str, damaged: Collection[Path] = ()) -> None:
    """Remove the run's checkpoints but the last `keep` committed ones and the one with the lowest held-out loss.

    Args:
        outputs: The folder of the checkpoints.
        keep: None keeps all.
        run: Only this run's are counted or removed.
        damaged: Known to be damaged: not counted, and removed once there are `keep` good ones.
    """
    if keep is None:
        return
    good, bad = [], []
    for folder in checkpoints(outputs):
        with suppress(Damaged):
            (bad if folder in damaged else good).append((folder, read_manifest(folder, run).eval_loss))
            continue
        if f"-{run}" in folder.name and _cut_off(folder):  # half removed by a killed run, or committed and damaged
            bad.append((folder, None))
    if len(good) < keep:
        return
    measured = [(loss, folder) for folder, loss in good if loss is not None]
    best = min(measured, key=lambda pair: pair[0])[1] if measured else None  # of equals the last
    for folder, _ in [*good[keep:], *bad]:
        if folder != best:
            remove(folder)


def remove(folder: Path) -> None:
    """Delete a checkpoint, as far as possible. Files are emptied first, since Drive keeps deleted files in its trash.

    The manifest is deleted first: a folder without one is no checkpoint. If that fails, the other files stay.
    """
    with suppress(OSError):
        for name in (MANIFEST, *os.listdir(folder)):
            with suppress(OSError):
                os.truncate(folder / name, 0)
            with suppress(OSError):
                os.unlink(folder / name)
            if name == MANIFEST and not _cut_off(folder):
                return
        os.rmdir(folder)


def step(folder: Path) -> int:
    """Return the optimiser step that a checkpoint was saved after."""
    return int(_FOLDER.fullmatch(folder.name)[1])


def _note(outputs: Path, entry: dict) -> None:
    """Append a line to the journal, which must exist: on a lost mount it would be made in the folder left behind."""
    with suppress(OSError), _written(outputs / JOURNAL, os.O_APPEND) as handle:
        _write(handle, b"\n" + json.dumps(entry).encode())  # a line that was cut off ends here


def _new_folder(outputs: Path, name: str) -> Path:
    """Make a folder with that name, or with the next number after it that is free."""
    with suppress(FileExistsError):
        os.mkdir(outputs)
    for number in range(10**6):
        folder = outputs / (f"{name}.{number}" if number else name)
        with suppress(FileExistsError):
            os.mkdir(folder)
            return folder
    raise FileExistsError(f"{outputs} is full of folders named {name}")


@contextmanager
def _written(path: Path, how: int = os.O_CREAT | os.O_EXCL) -> Iterator[int]:
    """Open a file to write, by default one that did not exist; what was written is on the disk when the block ends."""
    handle = os.open(path, os.O_WRONLY | how, 0o666)
    try:
        yield handle
        os.fsync(handle)
    finally:
        os.close(handle)


def _copy(source: Path, target: Path) -> tuple[int, str]:
    """Copy a file to a new name, onto the disk; return size and SHA-256 of what was read."""
    with _written(target) as handle:
        return _measure(source, handle)


def _measure(path: Path, copy: int | None = None) -> tuple[int, str]:
    """Return a file's size in bytes and SHA-256; write its content to the file handle `copy` as well, if given."""
    size, digest = 0, hashlib.sha256()
    for chunk in _read(path):
        size += len(chunk)
        digest.update(chunk)
        if copy is not None:
            _write(copy, chunk)
    return size, digest.hexdigest()


def _read(path: Path) -> Iterator[bytes]:
    """Yield a file's content, from the disk rather than from the page cache where the system allows it."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            with suppress(OSError):
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            while chunk := os.read(handle, _CHUNK):
                yield chunk
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise Damaged(f"{path.name} is missing") from None
    except OSError as error:
        raise Damaged(f"{path.name}: {error.strerror or error}") from None


def _write(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    body = dataclasses.asdict(manifest)
    with _written(folder / MANIFEST) as handle:
        _write(handle, (json.dumps(body | {"sha256": _digest(body)}, indent=1) + "\n").encode())


def _digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _cut_off(folder: Path) -> bool:
    """Return whether the manifest is missing or ends too early; one that cannot be read may be whole."""
    try:
        return not b"".join(_read(folder / MANIFEST)).rstrip().endswith(b"\n}")
    except Damaged as error:
        return isinstance(error.__context__, FileNotFoundError)


def _check(name: str, found: tuple[int, str], expected: tuple[int, str]) -> None:
    if found != expected:
        raise Damaged(f"{name} is not what was saved: its size or SHA-256 differs")


def _sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, where the file system supports that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
