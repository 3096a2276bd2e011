"""Fetch a catalogue that people wrote: every package of this machine's Debian or Ubuntu, described in English.

The title is the synopsis, the content the long description, the uid the package's name: about 64,000 products of many
authors, under free licences. Nothing of it is in this repository.

Run: `python data/fetch_debian.py FILE`, as any user. apt-get fetches its lists (16 MB) into a folder of their own.
"""

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tc3lib.errors import Tc3Error, show_alone
from tc3lib.files import write_rows


def fetch(folder: Path) -> str:
    """Return apt's lists of English descriptions, fetched into `folder`; the machine's own stay as they are.

    Raises:
        Tc3Error: There is no apt-get, or it cannot fetch them.
    """
    if shutil.which("apt-get") is None:
        raise Tc3Error("there is no apt-get on this machine: it must be Debian, Ubuntu or the like.")
    (folder / "lists" / "partial").mkdir(parents=True)
    options = {"Dir::State::Lists": folder / "lists", "Dir::Cache": folder, "Acquire::Languages": "en"}
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    found = subprocess.run([*apt, "update"], capture_output=True, text=True)
    listed = [*apt, "indextargets", "--format", "$(FILENAME)", "Created-By: Translations"]
    paths = subprocess.run(listed, capture_output=True, text=True).stdout.splitlines()
    paths = [path for path in paths if Path(path).exists()]
    if not paths:
        reason = (found.stderr.strip() or "it has no list of English descriptions").splitlines()[-1]
        raise Tc3Error(f"apt-get cannot fetch the descriptions: {reason}")
    return "\n\n".join(  # apt may keep them compressed
        subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", path], capture_output=True, text=True, check=True).stdout
        for path in paths
    )


def products(text: str) -> Iterator[dict[str, str]]:
    """Yield a product for each paragraph of a list: `Package:`, and `Description-en:` with its indented lines."""
    for paragraph in text.split("\n\n"):
        package, _, rest = paragraph.partition("\nDescription-en: ")
        synopsis, *lines = rest.split("\n")
        content = "\n".join("" if line == " ." else line[1:] for line in lines)
        if rest:
            yield {
                "uid": package.partition("\n")[0].removeprefix("Package: "),
                "title": synopsis,
                "content": content.rstrip("\n"),
            }


def without_repeats(rows: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """Return each different row once: suites repeat one another."""
    return [dict(row) for row in dict.fromkeys(tuple(row.items()) for row in rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write Debian's packages and their descriptions as JSON Lines.")
    parser.add_argument("file", type=Path)
    target = parser.parse_args().file
    show_alone()
    with tempfile.TemporaryDirectory() as temporary:
        rows = without_repeats(products(fetch(Path(temporary))))
    write_rows(target, rows)
    print(f"{len(rows):,} products are in {target}")


if __name__ == "__main__":
    main()
