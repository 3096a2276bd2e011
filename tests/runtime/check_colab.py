"""Check requirements-colab.txt against the packages that Colab has already.

`--no-deps` lets pip put anything anywhere, so what pip would have resolved is judged here: every requirement of every
pin, and of what those need in turn, is met by a pin or by Colab, for Colab's Python, from wheels alone.

    python tests/runtime/check_colab.py            judge from tests/runtime/colab/lock.json, without a network
    python tests/runtime/check_colab.py --remake   ask the package index for that file's contents, write it, then judge
    python tests/runtime/check_colab.py --list     print the packages of a notebook in Colab that this Python can have,
                                                   without those for a GPU, for `pip install --no-deps`

`make check-colab` does all three, and runs the notebooks with what the last one prints.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parents[2]
PINS = ROOT / "requirements-colab.txt"
IMAGE = ROOT / "tests" / "runtime" / "colab" / "pip-freeze.gpu.txt"
LOCK = ROOT / "tests" / "runtime" / "colab" / "lock.json"

PYTHON = (3, 13)
GLIBC = 35  # Ubuntu 22.04 has glibc 2.35
ENVIRONMENT = {
    "implementation_name": "cpython", "implementation_version": "3.13.0", "os_name": "posix",
    "platform_machine": "x86_64", "platform_python_implementation": "CPython", "platform_release": "",
    "platform_system": "Linux", "platform_version": "", "python_full_version": "3.13.0", "python_version": "3.13",
    "sys_platform": "linux",
}  # fmt: skip
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(GLIBC, 4, -1)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64", "linux_x86_64"]

# What tc3lib and the notebooks import of Colab's own; a test compares it with their import lines.
USED = (
    "gradio", "httpx", "ipython", "ipywidgets", "jinja2", "matplotlib", "numpy", "pandas", "safetensors", "scipy",
    "torch", "tqdm", "xxhash",
    "huggingface-hub", "markupsafe", "openpyxl", "psutil", "pyyaml", "regex",
)  # fmt: skip
# What runs notebooks outside Colab, for --list: Colab's versions too.
TOOLS = ("ipykernel", "nbclient", "nbconvert")

# What --list leaves out: only a GPU uses it.
GPU_ONLY = re.compile(r"nvidia-|cuda-|triton$|xformers$|torch$|torchvision$")

# Requirements that are not met and need not be: (who asks, what for) and why. One that is met has to go.
EXCEPTIONS = {
    ("unsloth", "certifi"): "a newer list of certificate authorities than some indexes hold; Colab's own will do",
    ("unsloth-zoo", "certifi"): "as for unsloth",
}


@dataclass(frozen=True)
class Verdict:
    """What does not fit (a user's run would fail), and what our pins break of Colab's own that a notebook uses."""

    violations: list[str]
    warnings: list[str]


def read_pins(text: str) -> dict[str, str]:
    """Return version by canonical name of lines `name==version`, the library's own and comments left out.

    Raises:
        ValueError: There is any other line.
    """
    pins: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith(("#", "tc3lib @ ")):
            continue
        match = re.fullmatch(r"([\w.-]+)==([\w.!+]+)", line.strip())
        if match is None:
            raise ValueError(f"{line!r} is not an exact pin: write name==version")
        name = canonicalize_name(match[1])
        if name in pins:
            raise ValueError(f"{name} is pinned twice")
        pins[name] = match[2]
    return pins


def read_image(text: str) -> dict[str, str | None]:
    """Return version by canonical name of a `pip freeze`; None for what was not installed from the index."""
    found = re.findall(r"^([\w.-]+)(?:==(\S+)| @ .*)$", text, re.M)
    return {canonicalize_name(name): version or None for name, version in found}


def needs(entry: dict[str, Any], extra: str) -> Iterator[Requirement]:
    """Yield the requirements of a package that hold in Colab, those of one extra ("": of none)."""
    for text in entry["requires"]:
        requirement = Requirement(text)
        if requirement.marker is None:
            if not extra:
                yield requirement
        elif requirement.marker.evaluate({**ENVIRONMENT, "extra": extra}):
            yield requirement


def walk(lock: dict[str, dict[str, Any]], roots: list[str]) -> Iterator[tuple[str, Requirement]]:
    """Yield (who asks, requirement) for the roots and all that they need which the lock knows."""
    queue, seen = [(name, "") for name in roots], set()
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen or name not in lock:
            continue
        seen.add((name, extra))
        for requirement in needs(lock[name], extra):
            yield name, requirement
            target = canonicalize_name(requirement.name)
            queue += [(target, asked) for asked in ("", *sorted(requirement.extras))]


def fits(wheel: str) -> bool:
    """Tell whether Colab can install the wheel of this file name."""
    return not supported().isdisjoint(parse_wheel_filename(wheel)[3])


def supported() -> set[Tag]:
    """Return the tags of wheels that Colab's Python takes."""
    tags = [*cpython_tags(PYTHON, abis=[f"cp{PYTHON[0]}{PYTHON[1]}"], platforms=PLATFORMS)]
    return {*tags, *compatible_tags(PYTHON, f"cp{PYTHON[0]}{PYTHON[1]}", PLATFORMS)}


def judge(
    pins: dict[str, str],
    image: dict[str, str | None],
    lock: dict[str, dict[str, Any]],
    exceptions: dict[tuple[str, str], str] = EXCEPTIONS,
) -> Verdict:
    """Return what does not fit when the pins are put on top of the image.

    Args:
        pins: What `read_pins` returned.
        image: What `read_image` returned.
        lock: Metadata by package: `version`, `requires_python`, `wheel` (file name) and `requires`.
        exceptions: As `EXCEPTIONS`.
    """
    there = {**image, **pins}
    violations, warnings, excused = [], [], set()
    for name, version in pins.items():
        if name not in lock or lock[name]["version"] != version:
            violations.append(f"{name} {version}: not in lock.json, run make check-colab")
            continue
        if not fits(lock[name]["wheel"]):
            violations.append(f"{name} {version}: {lock[name]['wheel']} does not fit Colab's Python")
        if image.get(name) == version:
            warnings.append(f"{name} {version} is what Colab has: the pin is not needed")
    for name, entry in lock.items():
        if name not in there:
            violations.append(f"{name} is in lock.json and nowhere else: run make check-colab")
        elif there[name] is not None and public(there[name]) != public(entry["version"]):
            violations.append(f"{name}: lock.json has {entry['version']}, Colab {there[name]}, run make check-colab")
        if name in pins and not SpecifierSet(entry["requires_python"] or "").contains(
            ENVIRONMENT["python_full_version"]
        ):
            violations.append(f"{name} {entry['version']} wants Python {entry['requires_python']}")
    for name, requirement in walk(lock, [*pins, *USED]):
        target = canonicalize_name(requirement.name)
        if target in there:
            version = there[target]
            if version is None or requirement.specifier.contains(version, prereleases=True):
                if target not in lock and version is not None:
                    violations.append(f"{target}, which {name} needs, is not in lock.json: run make check-colab")
                continue
        line = f"{name} {there.get(name)} needs {requirement.name}{requirement.specifier}, there is {there.get(target)}"
        if name in pins and (name, target) in exceptions:
            excused.add((name, target))
        elif name in pins:
            violations.append(line)
        elif target in pins:
            warnings.append(line)
    violations += [f"{name} needs no {target} that Colab lacks: the exception has to go"
                   for name, target in exceptions.keys() - excused]  # fmt: skip
    return Verdict(sorted(set(violations)), sorted(set(warnings)))


def public(version: str) -> str:
    """Return a version without its local part: 2.11.0+cu128 is 2.11.0 in the index."""
    return version.partition("+")[0]


def fetch(wanted: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the lock's entries of packages by version, as pip reads them from the index for Colab's Python.

    A package of which the index has no wheel for it is left out.
    """
    if not wanted:
        return {}
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed",
            "--only-binary=:all:", "--python-version", ".".join(map(str, PYTHON)), *platforms, "--target", folder,
            "--ignore-requires-python", "--report", str(report),  # older pips take their own; `judge` compares
            *(f"{name}=={version}" for name, version in wanted.items()),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode and len(wanted) > 1:
            halves = [*wanted.items()]
            return fetch(dict(halves[: len(halves) // 2])) | fetch(dict(halves[len(halves) // 2 :]))
        if done.returncode:
            if "No matching distribution" not in done.stderr:
                raise RuntimeError(done.stderr)
            print(f"no wheel of {wanted} for Colab's Python", file=sys.stderr)
            return {}
        installs = json.loads(report.read_text())["install"]
    return {
        canonicalize_name(found["metadata"]["name"]): {
            "version": found["metadata"]["version"],
            "requires_python": found["metadata"].get("requires_python"),
            "wheel": found["download_info"]["url"].rpartition("/")[2],
            "requires": found["metadata"].get("requires_dist", []),
        }
        for found in installs
    }


def remake(pins: dict[str, str], image: dict[str, str | None]) -> dict[str, dict[str, Any]]:
    """Return the whole lock: the pins, what a notebook uses of Colab's own, and all that those need."""
    there, lock, missing = {**image, **pins}, {}, set()
    wanted = {name for name in (*pins, *USED, *TOOLS) if name in there}
    while wanted:
        new = fetch({name: public(there[name]) for name in sorted(wanted)})
        missing |= wanted - new.keys()
        lock |= new
        targets = {canonicalize_name(requirement.name) for _, requirement in walk(lock, [*pins, *USED, *TOOLS])}
        wanted = {name for name in targets if there.get(name)} - lock.keys() - missing
    asked: dict[str, set[str]] = {name: set() for name in lock}
    for name, requirement in walk(lock, [*pins, *USED, *TOOLS]):
        asked[name].add(str(requirement))
    return {name: lock[name] | {"requires": sorted(asked[name])} for name in sorted(lock)}


def main() -> int:
    """Do what the arguments ask; return 1 if something does not fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--remake", action="store_true", help="write lock.json anew, from the package index")
    parser.add_argument("--list", action="store_true", help="print the packages of a notebook in Colab")
    arguments = parser.parse_args()
    pins, image = read_pins(PINS.read_text()), read_image(IMAGE.read_text())
    if arguments.remake:
        LOCK.write_text(json.dumps(remake(pins, image), indent=1) + "\n")
    lock = json.loads(LOCK.read_text())
    if arguments.list:
        here = platform.python_version()
        for name, entry in lock.items():
            if not GPU_ONLY.match(name) and SpecifierSet(entry["requires_python"] or "").contains(here):
                print(f"{name}=={entry['version']}")
        return 0
    verdict = judge(pins, image, lock)
    for line in verdict.violations:
        print(f"does not fit: {line}")
    for line in verdict.warnings:
        print(f"warning: {line}")
    for (name, target), why in EXCEPTIONS.items():
        print(f"allowed: {name} needs a newer {target}: {why}")
    print(f"{len(pins)} pins on {len(image)} packages of Colab, {len(verdict.violations)} do not fit")
    return bool(verdict.violations)


if __name__ == "__main__":
    sys.exit(main())
