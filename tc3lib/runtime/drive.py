"""Google Drive in Colab: mount it, find out what is in its place, send everything. The only import of google.colab."""

import errno
import os
import sys
import textwrap
from pathlib import Path

from tc3lib.errors import Tc3Error

MOUNT = Path("/content/drive")

_RESTART = "choose Runtime > Restart session and run the notebook again"
_OUTSIDE = "set TC3_HOME to a folder outside Drive, which is lost when the session ends"
_ADVICE = {
    "timeout": "Run this cell again. If that does not help, move files from the top of your Drive into folders",
    "unsupported": f"Open the notebook in Colab itself, or {_OUTSIDE}",
    "": f"Run this cell again and allow everything it asks for, with this notebook's account, or {_OUTSIDE}",
}


def in_colab() -> bool:
    """Return whether this is a Colab kernel, which has google.colab loaded before the first cell runs."""
    return "google.colab" in sys.modules


def holds(folder: Path) -> bool:
    """Return whether the folder is on Drive, perhaps behind a link."""
    return in_colab() and (folder.is_relative_to(MOUNT) or folder.resolve().is_relative_to(MOUNT))


def mount() -> None:
    """Mount Drive, and make sure that it is neither a local folder of that name nor a mount that has died.

    Raises:
        Tc3Error: It is not mounted; what to do depends on google.colab's own error.
    """
    from google.colab import drive

    try:
        drive.mount(str(MOUNT), force_remount=_is_stale())
    except Exception as error:
        reason = _reason(error)
        if "already contain files" in reason:
            raise Tc3Error(_shadow()) from None
        advice = next(text for word, text in _ADVICE.items() if word in reason.lower())
        raise Tc3Error(f"cannot mount Google Drive at {MOUNT}: {reason}. {advice}.") from None
    if _is_stale():
        raise Tc3Error(f"Google Drive, mounted again at {MOUNT}, does not answer: {_RESTART}, or {_OUTSIDE}.")
    if not os.path.ismount(MOUNT):
        raise Tc3Error(_shadow())
    if not (MOUNT / "MyDrive").is_dir():
        raise Tc3Error(f"Google Drive is mounted at {MOUNT} but there is no MyDrive in it: {_RESTART}.")


def flush(work: Path) -> str:
    """Wait until Drive has everything, unmount it, and return what to tell the user.

    Raises:
        Tc3Error: Drive may lack some of what was written to `work`.
    """
    from google.colab import drive

    mounted, problem = os.path.ismount(MOUNT), os.strerror(errno.ENOTCONN) if _is_stale() else ""
    try:
        drive.flush_and_unmount()
    except Exception as error:
        problem = _reason(error)
    if problem:
        raise Tc3Error(
            f"Google Drive may lack some of what was written to {work} ({problem}): do not disconnect. Check on "
            "drive.google.com that the newest files are there and complete and that there is space left, then run the "
            "settings cell and this one again."
        )
    if not os.path.ismount(MOUNT) and _files_left():
        raise Tc3Error(_shadow())
    return "Drive has everything: safe to disconnect" if mounted else "Drive is not mounted: there is nothing to send"


def _is_stale() -> bool:
    """Return whether Drive is still mounted but its process has died."""
    try:
        os.stat(MOUNT)
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def _files_left() -> list[str]:
    """Return the files below the mount point although Drive is not mounted, as paths relative to it."""
    return sorted(str(Path(folder, name).relative_to(MOUNT)) for folder, _, names in os.walk(MOUNT) for name in names)


def _shadow() -> str:
    """Return the error for a Drive that is not mounted: what is in its place."""
    left = _files_left() or (sorted(os.listdir(MOUNT)) if MOUNT.is_dir() else [])
    if not left:
        return f"Google Drive is not mounted at {MOUNT}, and Colab gave no error: {_RESTART}."
    return (
        f"Google Drive is not mounted: {MOUNT} must be empty for that and holds {', '.join(left[:3])} ({len(left)} in "
        "all), written while Drive was away. They are on this machine only: move them with "
        f"`!mv {MOUNT} {MOUNT}-kept`, {_RESTART}, then copy what you need of them to Drive."
    )


def _reason(error: Exception) -> str:
    """Return an error of google.colab as one short line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200).rstrip(":. ")
