"""Checkpoints that survive: copied, read back, and committed by a manifest written last. Knows no torch.

Nothing promises that a rename is atomic on a mounted Drive, or that a folder's listing is up to date. So a checkpoint
gets a new folder, no file is ever written twice, and only a folder with a manifest that agrees with itself and with
every file counts.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

MANIFEST = "manifest.json"
NOT_KEPT = ("training_args.bin",)
"""Files of a checkpoint that nobody reads; this one is pickled."""
_CHUNK = 1 << 20
_FOLDER = re.compile(r"checkpoint-(\d+)(-[0-9a-f]{8}(?:\.(\d+))?)?")
"""Ours carry the run's identity; without it, it is transformers' own name: on this machine's disk, or another's."""


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


def seal(folder: Path, run: str, step: int, eval_loss: float | None) -> None:
    """Write the manifest of a checkpoint that is whole; files that are not kept and an older manifest go first.

    Raises:
        Damaged: A file cannot be read.
        OSError: The manifest cannot be written.
    """
    for name in (*NOT_KEPT, MANIFEST):
        (folder / name).unlink(missing_ok=True)
    files = {name: _measure(folder / name) for name in sorted(os.listdir(folder))}
    _write_manifest(folder, Manifest(run, step, None if eval_loss != eval_loss else eval_loss, files))  # NaN is no loss


def commit(source: Path, outputs: Path) -> Path:
    """Copy a sealed checkpoint to a new folder in `outputs`, read it back, commit it; return its folder.

    Raises:
        OSError: It could not be written.
        Damaged: It came back different, or the source is damaged. What was begun is gone again, if that can be.
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
    return folder


def restore(folder: Path, target: Path, run: str) -> Manifest:
    """Copy the files that the manifest vouches for, and no others, to the new folder `target`, checking each.

    Raises:
        Damaged: A file is missing, cannot be read or is not what was committed, or the checkpoint is another run's;
            `target` is gone again.
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
    """Return a checkpoint's manifest; its files are not looked at.

    Raises:
        Damaged: It is missing or does not agree with itself, or it is that of another run than `run`.
    """
    try:
        body = json.loads(b"".join(_read(folder / MANIFEST)))
        if body.pop("sha256") != _digest(body):
            raise ValueError
        files = {name: (size, file_digest) for name, (size, file_digest) in body["files"].items()}
        manifest = Manifest(body["run"], body["step"], body["eval_loss"], files)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(f"{MANIFEST} is damaged") from None
    if any("/" in name or name in ("", ".", "..") for name in files):
        raise Damaged(f"{MANIFEST} names a file outside the checkpoint")
    if run is not None and manifest.run != run:
        raise Damaged(f"it belongs to another run ({manifest.run})")
    return manifest


def checkpoints(outputs: Path) -> list[Path]:
    """Return the folders that are called as checkpoints are, the highest step first, committed or not."""
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
    """Remove all committed checkpoints of the run but the last `keep`, and the one with the lowest held-out loss.

    Args:
        outputs: The folder of the checkpoints.
        keep: None keeps all.
        run: Only this run's are counted or removed.
        damaged: Known to be so: they do not count, and go when `keep` good ones are there.
    """
    if keep is None:
        return
    good, bad = [], []
    for folder in checkpoints(outputs):
        with suppress(Damaged):
            (bad if folder in damaged else good).append((folder, read_manifest(folder, run).eval_loss))
            continue
        if f"-{run}" in folder.name and _cut_off(folder):  # half removed by a killed run, or saved and damaged
            bad.append((folder, None))
    if len(good) < keep:
        return
    measured = [(loss, folder) for folder, loss in good if loss is not None]
    best = min(measured, key=lambda pair: pair[0])[1] if measured else None  # of equals the last
    for folder, _ in [*good[keep:], *bad]:
        if folder != best:
            remove(folder)


def sweep(outputs: Path, saved: Collection[str]) -> None:
    """Remove what killed runs left: folders whose manifest is missing or cut off, that nobody called saved.

    Checkpoints under transformers' own names are left alone: they were not made here.

    Args:
        outputs: The folder of the checkpoints.
        saved: Names of folders that were committed once: if one has lost its manifest it is damaged, not litter.
    """
    for folder in checkpoints(outputs):
        if folder.name not in saved and _FOLDER.fullmatch(folder.name)[2] and _cut_off(folder):
            remove(folder)


def remove(folder: Path) -> None:
    """Delete a checkpoint as far as possible; each file is emptied first, since Drive keeps what is deleted.

    The manifest goes first, or nothing does: what is half removed is not a checkpoint.
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


def _new_folder(outputs: Path, name: str) -> Path:
    """Make a folder that was not there, in a folder that must be: on a lost mount it would be made in its place."""
    with suppress(FileExistsError):
        os.mkdir(outputs)
    for number in range(10**6):
        folder = outputs / (f"{name}.{number}" if number else name)
        with suppress(FileExistsError):
            os.mkdir(folder)
            return folder
    raise FileExistsError(f"{outputs} is full of folders called {name}")


def _copy(source: Path, target: Path) -> tuple[int, str]:
    """Copy a file to a new name, onto the disk; return size and SHA-256 of what was read.

    Raises:
        Damaged: The source cannot be read.
        OSError: The target cannot be written.
    """
    size, digest = 0, hashlib.sha256()
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for chunk in _read(source):
            size += len(chunk)
            digest.update(chunk)
            _write(handle, chunk)
        os.fsync(handle)
    finally:
        os.close(handle)
    return size, digest.hexdigest()


def _read(path: Path) -> Iterator[bytes]:
    """Yield a file's content, from the disk rather than from memory where that can be asked for."""
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
    content = json.dumps(body | {"sha256": _digest(body)}, indent=1) + "\n"
    handle = os.open(folder / MANIFEST, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _write(handle, content.encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(body: dict) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _cut_off(folder: Path) -> bool:
    """Whether the manifest is missing or ends too early; one that cannot be read may be whole."""
    try:
        return not b"".join(_read(folder / MANIFEST)).rstrip().endswith(b"\n}")
    except Damaged as error:
        return isinstance(error.__context__, FileNotFoundError)


def _check(name: str, found: tuple[int, str], expected: tuple[int, str]) -> None:
    if found[0] != expected[0]:
        raise Damaged(f"{name} has {found[0]:,} bytes instead of {expected[0]:,}")
    if found != expected:
        raise Damaged(f"{name} is not what was saved (its SHA-256 differs)")


def _measure(path: Path) -> tuple[int, str]:
    """Return a file's size in bytes and SHA-256."""
    size, digest = 0, hashlib.sha256()
    for chunk in _read(path):
        size += len(chunk)
        digest.update(chunk)
    return size, digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, where the file system can be asked to."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
