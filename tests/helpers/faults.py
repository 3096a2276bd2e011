"""A disk that fails on demand: what `tc3lib.checkpoints.store` then sees instead of the module `os`.

And small real ones: a file system in memory, mounted where no other process sees it.
"""

import errno
import os
import shutil
import subprocess
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

OPERATIONS = "mkdir", "open", "write", "fsync", "close", "read", "stat", "listdir", "truncate", "unlink", "rmdir"
CODES = errno.ENOSPC, errno.EIO, errno.ENOTCONN, errno.EDQUOT, errno.EROFS

_UNSHARE = "unshare", "--user", "--map-root-user", "--mount"


def mounts():
    """Return the kinds of small disks that tests may mount here; where that is forbidden, one that says so."""
    may = shutil.which("unshare") and subprocess.run([*_UNSHARE, "true"], capture_output=True).returncode == 0
    return ["full", "read-only"] if may else ["NO-RIGHT-TO-MOUNT"]


def on_small_disk(folder, size, fill, mount, command):
    """Run a command where `folder` is a disk of that size on which the shell command `fill` was run before."""
    script = f"mount -t tmpfs -o size={size} tmpfs {folder}; {fill}; "
    script += f"mount -o remount,ro {folder}; " if mount == "read-only" else ""
    whole = [*_UNSHARE, "sh", "-ec", script + 'exec "$@"', "sh", *map(str, command)]
    return subprocess.run(whole, capture_output=True, text=True, cwd=Path(__file__).parents[2])


class Killed(BaseException):
    """The process is gone: whatever still runs does nothing on the disk."""


class Disk:
    """Calls `os`, notes each call's name and path in `calls`, and fails at the n-th of those that count.

    Args:
        at: Which of the calls that count fails, from 1 on. None: none.
        operations: The calls that count.
        where: Only those on a path count of which this name is a part.
        code: The error that is raised. None: the process is killed, so this call and all later ones raise Killed.
        when: Whether that is "before" or "after" the call took effect; or "half" way, for a write.
        lasting: Whether every later call that counts fails too.
        short: Most bytes that a single write takes.
        stale: What a listing says, by folder.
        slow: Seconds that a listing takes.
        flip: The path of a file that reads back wrong, and which of its bits.

    Attributes:
        hit: The first call that failed. None: none did.
    """

    def __init__(
        self, at=None, operations=OPERATIONS, *, where=None, code=None, when="before", lasting=False,
        short=None, stale=(), slow=0.0, flip=(None, 0),
    ):  # fmt: skip
        self.at, self.operations, self.where = at, operations, where
        self.code, self.when, self.lasting = code, when, lasting
        self.short, self.stale, self.slow, self.flip = short, dict(stale), slow, flip
        self.calls, self.count, self.hit, self.dead = [], 0, None, False
        self.paths, self.offsets = {}, {}

    def __getattr__(self, name):
        return partial(self._call, name) if name in OPERATIONS else getattr(os, name)

    def of(self, *operations):
        """Return the calls of these operations so far."""
        return [call for call in self.calls if call[0] in operations]

    def _call(self, operation, target, *arguments):
        if self.dead:
            if operation == "close":  # a dead process holds no file open
                return os.close(target)
            raise Killed
        path = self.paths[target] if isinstance(target, int) else Path(target)
        self.calls.append((operation, path))
        do = partial(getattr(self, f"_{operation}", getattr(os, operation)), target, *arguments)
        counts = operation in self.operations and self.where in (None, *path.parts)
        self.count += counts
        if not counts or self.at is None or self.count < self.at or (self.count > self.at and not self.lasting):
            return do()
        self.hit = self.hit or (operation, path)
        self.dead = self.code is None
        if operation == "write" and self.when == "half":
            os.write(target, arguments[0][: len(arguments[0]) // 2])
        elif operation == "close" or self.when == "after":
            with suppress(OSError):
                handle = do()
                if operation == "open":
                    os.close(handle)
        raise Killed if self.dead else OSError(self.code, os.strerror(self.code), str(path))

    def _open(self, path, *arguments):
        handle = os.open(path, *arguments)
        self.paths[handle], self.offsets[handle] = Path(path), 0
        return handle

    def _read(self, handle, size):
        content, start = bytearray(os.read(handle, size)), self.offsets[handle]
        self.offsets[handle] += len(content)
        path, bit = self.flip
        if self.paths[handle] == path and start <= bit // 8 < self.offsets[handle]:
            content[bit // 8 - start] ^= 1 << bit % 8
        return bytes(content)

    def _write(self, handle, content):
        return os.write(handle, content[: self.short])

    def _listdir(self, path):
        time.sleep(self.slow)
        return list(self.stale[path]) if path in self.stale else os.listdir(path)
