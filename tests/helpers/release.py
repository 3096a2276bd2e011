"""The library as a release of it is, for the tests of the set-up cell."""

import shutil
import tarfile
import tomllib
from pathlib import Path

import jupytext

import tc3lib

ROOT = Path(__file__).parents[2]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
URL = f"{REPOSITORY.replace('github.com', 'raw.githubusercontent.com')}/v{tc3lib.__version__}/requirements-colab.txt"
"""What the set-up cell installs."""
CELL = next(
    cell.source for cell in jupytext.read(ROOT / "notebooks" / "01_prepare.py").cells if cell.cell_type == "code"
)


def pack(folder: Path, version: str = tc3lib.__version__, drive: Path = Path("/content/drive")) -> Path:
    """Return the library as GitHub packs a release: a .tar.gz with one folder. Its Colab mounts Drive at `drive`."""
    source = folder / f"tc3lib-{version}"
    source.mkdir()
    for name in ("tc3lib", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("requirements-*.txt"), *map(ROOT.joinpath, ("pyproject.toml", "README.md", "LICENSE"))]:
        shutil.copy(path, source)
    for name, old, new in (
        ("__init__.py", f'"{tc3lib.__version__}"', f'"{version}"'),
        ("runtime/drive.py", '"/content/drive"', repr(str(drive))),
    ):
        text = (source / "tc3lib" / name).read_text()
        assert text.count(old) == 1
        (source / "tc3lib" / name).write_text(text.replace(old, new))
    with tarfile.open(folder / f"v{version}.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    return folder / f"v{version}.tar.gz"
