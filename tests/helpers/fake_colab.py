"""A stand-in for `google.colab`: `drive` mounts, refuses and forgets, `userdata` gives secrets, as the real ones do."""

import errno
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


class FakeDrive(ModuleType):
    """`google.colab.drive` over local folders: mounting moves `MyDrive` from `cloud` to the mount point.

    Like the real one it takes Drive for mounted if there is a folder `My Drive` (another name of `MyDrive`) at the
    mount point, even a local one.

    Attributes:
        point: The mount point.
        mounted, stale: Whether Drive is there, and whether its process has died under it.
        fails: Raised by the next call that gets that far: a refusal, a timeout.
        stays_stale: A new mount is dead too.
        empty: What is mounted has no `MyDrive`.
        mounts: `force_remount` of every call of `mount`.
        flushes: Number of calls of `flush_and_unmount`.
    """

    def __init__(self, point: Path, cloud: Path):
        super().__init__("google.colab.drive")
        self.point, self.cloud = point, cloud
        self.mounted = self.stale = self.stays_stale = self.empty = False
        self.fails: Exception | None = None
        self.mounts: list[bool] = []
        self.flushes = 0
        (cloud / "MyDrive").mkdir(parents=True, exist_ok=True)

    def mount(self, mountpoint, force_remount=False, timeout_ms=120000, readonly=False):
        point = Path(mountpoint)
        assert point == self.point
        self.mounts.append(force_remount)
        if " " in mountpoint:
            raise ValueError("Mountpoint must not contain a space.")
        if not force_remount and os.path.isdir(point / "My Drive"):
            print(
                f"Drive already mounted at {point}; to attempt to forcibly remount, call "
                f'drive.mount("{point}", force_remount=True).'
            )
            return
        self.vanish()
        if point.is_symlink():
            raise ValueError("Mountpoint must not be a symlink")
        if point.is_dir() and list(point.iterdir()):
            raise ValueError("Mountpoint must not already contain files")
        if not point.is_dir() and point.exists():
            raise ValueError("Mountpoint must either be a directory or not exist")
        if not point.parent.exists():
            raise ValueError("Mountpoint must be in a directory that exists")
        self._fail()
        point.mkdir(exist_ok=True)
        self.mounted, self.stale = True, self.stays_stale
        if not self.empty:
            (self.cloud / "MyDrive").rename(point / "MyDrive")
            (point / "My Drive").symlink_to("MyDrive")
        print(f"Mounted at {point}")

    def flush_and_unmount(self, timeout_ms=24 * 60 * 60 * 1000):
        self.flushes += 1
        if not self.mounted:
            print("Drive not mounted, so nothing to flush and unmount.")
            return
        self._fail()
        self.vanish()

    def die(self):
        """Let Drive's process die: it stays mounted and nothing below it can be reached."""
        self.stale = True

    def vanish(self):
        """Unmount Drive: the mount point is an empty folder."""
        if self.mounted and not self.empty:
            (self.point / "My Drive").unlink()
            (self.point / "MyDrive").rename(self.cloud / "MyDrive")
        self.mounted = self.stale = False

    def _fail(self):
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error


class ColabError(Exception):
    """The real `google.colab.errors.Error`."""


class FakeUserdata(ModuleType):
    """`google.colab.userdata` with some secrets.

    Attributes:
        secrets: Value by name; an exception is raised.
        asked: The names that were asked for; the real one may ask the user each time.
    """

    class SecretNotFoundError(ColabError):
        """The real one derives from `google.colab.errors.Error`."""

    class NotebookAccessError(Exception):
        """The real one does not."""

    def __init__(self):
        super().__init__("google.colab.userdata")
        self.secrets: dict[str, str | Exception] = {}
        self.asked: list[str] = []

    def get(self, key):
        self.asked.append(key)
        value = self.secrets.get(key, self.SecretNotFoundError(f"Secret {key} does not exist."))
        if isinstance(value, Exception):
            raise value
        return value


def install(monkeypatch, point: Path, cloud: Path) -> FakeDrive:
    """Make this a Colab kernel whose Drive goes to `point`; return its `google.colab.drive`."""
    drive, colab = FakeDrive(point, cloud), ModuleType("google.colab")
    colab.drive, colab.userdata, colab.errors = drive, FakeUserdata(), ModuleType("google.colab.errors")
    colab.errors.Error = ColabError
    google = ModuleType("google")
    google.colab = colab
    google.__path__ = colab.__path__ = []
    for module in (google, colab, drive, colab.userdata, colab.errors):
        # Libraries that look whether this is Colab ask for it by `importlib.util.find_spec`.
        module.__spec__ = ModuleSpec(module.__name__, None, is_package=module in (google, colab))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    real_ismount = os.path.ismount

    def reaching(real):
        def call(path, *args, **kwargs):
            if drive.stale and not isinstance(path, int) and Path(os.fsdecode(path)).is_relative_to(point):
                raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))
            return real(path, *args, **kwargs)

        return call

    def ismount(path):
        if not isinstance(path, int) and Path(os.fsdecode(path)) == point:
            return drive.mounted and not drive.stale
        return real_ismount(path)

    monkeypatch.setattr(os, "stat", reaching(os.stat))
    monkeypatch.setattr(os.path, "ismount", ismount)
    return drive
