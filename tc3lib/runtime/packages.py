"""Run by the set-up cell of every notebook: puts the pinned packages on top of Colab's own."""

import importlib
import re
import subprocess
import sys
import textwrap
import time
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
REQUIREMENTS = REPOSITORY / "requirements-colab.txt"

if __name__ == "__main__" and str(REPOSITORY) not in sys.path:
    sys.path.insert(0, str(REPOSITORY))  # from now on the kernel finds `import tc3lib`, as this file does below

from tc3lib import __version__
from tc3lib.errors import Tc3Error

RESTART = "choose Runtime > Restart session and run all again"
_CAUSES = {
    r"No space left on device|Errno 28|Disk quota": "the disk is full: delete files that you no longer need, or choose "
    "Runtime > Disconnect and delete runtime for a new machine, and run this cell again",
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ConnectionError|Network is unreachable": "the "
    "package index does not answer: run this cell again in a minute",
    r"No matching distribution|ResolutionImpossible|Could not find a version": "the package index lacks a version for "
    "this Python: open the notebook of the newest release from its badge",
}


def install(requirements: Path = REQUIREMENTS) -> str:
    """Install what is not there in the pinned version, and return one line that says what was done.

    pip runs once, without requirements of its own (`--no-deps`) and from wheels alone; where everything is there it
    does not run, so no network is needed.

    Args:
        requirements: Lines `name==version`.

    Raises:
        Tc3Error: This session has imported another tc3lib before, pip failed, or something in the way hides what it
            installed.
    """
    if (other := Path(sys.modules["tc3lib"].__file__ or "").resolve().parents[1]) != REPOSITORY:
        raise Tc3Error(
            f"this session has imported tc3lib {__version__} from {other}, not from {REPOSITORY}: {RESTART}."
        )
    wanted, start = pins(requirements), time.monotonic()
    new = differing(wanted)
    if new:
        options = ["--quiet", "--no-color", "--no-deps", "--only-binary=:all:", "--retries=2"]
        options += ["--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "install", *options, "-r", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Tc3Error(f"the packages of {requirements} were not installed: {_reason(done.stdout + done.stderr)}")
        importlib.invalidate_caches()
        if hidden := differing(wanted):
            found = ", ".join(f"{name} {version}" for name, version in hidden.items())
            raise Tc3Error(f"pip installed {requirements}, and Python still finds {found}: {RESTART}.")
    did = f"{len(new)} packages installed in {time.monotonic() - start:.0f} s" if new else "all packages are there"
    line = f"tc3lib {__version__}: {did}"
    if old := in_use(wanted):
        line += f"; {', '.join(old)} was in use before: 02 to 04 need a restart now, {RESTART}"
    return line


def pins(requirements: Path) -> dict[str, str]:
    """Return version by name of a file's lines `name==version`; of none if there is no such file."""
    if not requirements.is_file():
        return {}
    return dict(re.findall(r"^([\w.-]+)==([\w.!+]+)$", requirements.read_text(encoding="utf-8"), re.M))


def installed(name: str) -> str | None:
    """Return the version of a package on this machine, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def differing(wanted: dict[str, str]) -> dict[str, str | None]:
    """Return what is there, by name, of packages that are not there in the version wanted."""
    return {name: found for name, version in wanted.items() if (found := installed(name)) != version}


def in_use(wanted: dict[str, str]) -> list[str]:
    """Return "name version" of packages that this process imported before another version was put in their place.

    Colab's kernel imports pandas before the first cell, and pandas imports pyarrow: the rest of pyarrow would come
    from the new version.
    """
    loaded = {name: sys.modules.get(name.replace("-", "_")) for name in wanted}
    found = {name: getattr(module, "__version__", None) for name, module in loaded.items()}
    return [f"{name} {version}" for name, version in found.items() if version and version != installed(name)]


def _reason(said: str) -> str:
    """Return pip's last error as one line, and what to do about it."""
    errors = re.findall(r"^(?:ERROR|OSError|PermissionError): *(.+)$", said, re.M) or said.splitlines() or ["no word"]
    advice = next((text for cause, text in _CAUSES.items() if re.search(cause, said)), "run this cell again")
    return f"{textwrap.shorten(errors[-1], 200)} ({advice})"


if __name__ == "__main__":
    print(install())
