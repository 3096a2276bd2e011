"""The packages of this machine: what the requirement files pin, what is installed, what was imported too early."""

import re
import sys
from importlib import metadata
from pathlib import Path

from tc3lib.settings import ROOT

COLAB = ROOT / "requirements-colab.txt"
CPU = ROOT / "requirements-cpu.txt"


def pins(requirements: Path) -> dict[str, str]:
    """Return version by name of a file's lines `name==version`; empty if there is no such file."""
    if not requirements.is_file():
        return {}
    return dict(re.findall(r"^([\w.-]+)==([\w.!+]+)$", requirements.read_text(encoding="utf-8"), re.M))


def installed(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def imported_before(names: list[str]) -> list[str]:
    """Return "name version" of the packages that this process imported before another version was installed.

    Colab's kernel imports pandas before the first cell, and pandas imports pyarrow: what it imports of pyarrow later
    would come from the new version.
    """
    modules = {name: sys.modules.get(name.replace("-", "_")) for name in names}
    found = {name: getattr(module, "__version__", None) for name, module in modules.items()}
    return [f"{name} {old}" for name, old in found.items() if old and installed(name) not in (old, None)]
