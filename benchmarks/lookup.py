"""Measure finding the source of an answer in a catalogue of the real one's size.

    python benchmarks/lookup.py [ROWS]

writes the catalogue (see catalogue.py), prepares it, opens it, asks for titles as they are, inside a question, and
misspelt (three letters exchanged for others), and prints tables in Markdown.
"""

import random
import resource
import statistics
import string
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from catalogue import ROWS, write_catalogue

from tc3lib import settings
from tc3lib.catalogue import prepare, select
from tc3lib.catalogue.lookup import Catalogue
from tc3lib.files import read_rows

ASKED = 50


def gib() -> float:
    """Return the memory that this process has now, not its peak."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


def misspelt(title: str, draw: random.Random) -> str:
    """Exchange three letters."""
    letters = list(title)
    for place in draw.sample([place for place, letter in enumerate(letters) if letter.isalpha()], 3):
        letters[place] = draw.choice([letter for letter in string.ascii_lowercase if letter != letters[place].lower()])
    return "".join(letters)


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    draw = random.Random(0)
    with TemporaryDirectory() as name:
        work = Path(name)
        write_catalogue(work / "trn.json", rows)
        config = settings.get("llama3_8b")
        prepare(config, work)
        (work / "trn.json").unlink()
        select(config, work)
        before, start = gib(), time.perf_counter()
        catalogue = Catalogue(work)
        print(f"\nOpened {len(catalogue):,} of {rows:,} rows in {time.perf_counter() - start:.1f} s; ", end="")
        print(f"they take {gib() - before:.2f} GiB.\n")
        titles = [row["input_text"] for row in read_rows(work / "eval.jsonl") if 20 <= len(row["input_text"]) <= 120]
        titles = [title for title in titles if sum(map(str.isalpha, title)) > 9][:ASKED]
        questions = {
            "the title": titles,
            "a question with the title in it": [f"What can you tell me about {title}?" for title in titles],
            "the title misspelt": [misspelt(title, draw) for title in titles],
            "letters that are no title": ["".join(draw.choices(string.ascii_lowercase, k=40)) for _ in titles],
        }
        print("| asked | of | found | ms, median | ms, longest |\n| --- | ---: | ---: | ---: | ---: |")
        for kind, texts in questions.items():
            took, hits = [], 0
            for title, text in zip(titles, texts, strict=True):
                start = time.perf_counter()
                found = catalogue.find(text)
                took.append(1000 * (time.perf_counter() - start))
                hits += any(match.title == title for match in found.matches)
            print(f"| {kind} | {len(texts)} | {hits} | {statistics.median(took):.1f} | {max(took):.1f} |")


if __name__ == "__main__":
    main()
