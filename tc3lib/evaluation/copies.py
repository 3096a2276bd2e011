"""Find the answers that copy a description of the training set, which is read once, some rows at a time."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
from rapidfuzz import fuzz, process
from scipy.spatial.distance import cdist
from tqdm.auto import tqdm

from tc3lib.catalogue.near_twins import letter_counts
from tc3lib.files import each_row
from tc3lib.prompts import RECIPE, description, opening
from tc3lib.settings import PromptSettings

COPIED = 90
"""Least similarity of a copy, 0 to 100: `rapidfuzz.fuzz.ratio` of the texts without their opening."""
ROWS = 1000
"""Descriptions that are compared at once."""


def own_words(row: Mapping[str, Any], template: PromptSettings = RECIPE) -> str:
    """Return an answer without its opening."""
    return row["answer"].removeprefix(opening(row["title"], template)).strip()


def copying(rows: Iterable[Mapping[str, Any]], work: Path, template: PromptSettings = RECIPE) -> set[str]:
    """Return the answers, without their opening, that copy a description of `train.jsonl`.

    Raises:
        Tc3Error: There is no `train.jsonl`.
    """
    trained = tqdm(each_row(work / "train.jsonl"), desc="looking for copies", unit=" rows", leave=False)
    return find([own_words(row, template) for row in rows], (description(row, template) for row in trained))


def find(texts: Iterable[str], trained: Iterable[str]) -> set[str]:
    """Return the texts that are a copy of one of the descriptions.

    Two texts differ by at least as many letters as their counts of letters do, which leaves few to compare.
    """
    texts, trained, found = [*filter(None, dict.fromkeys(texts))], iter(trained), set()
    counts, lengths = letter_counts(texts).T.astype(float), _lengths(texts)
    while some := [*islice(trained, ROWS)]:
        most = (1 - COPIED / 100) * (lengths[:, None] + _lengths(some))
        possible = numpy.nonzero(cdist(counts, letter_counts(some).T, "cityblock") <= most + 1e-6)
        pairs = [(texts[one], some[other]) for one, other in zip(*possible, strict=True) if texts[one] not in found]
        alike = process.cpdist(*zip(*pairs, strict=True), scorer=fuzz.ratio, score_cutoff=COPIED) if pairs else ()
        found.update(text for (text, _), likeness in zip(pairs, alike, strict=True) if likeness)
    return found


def _lengths(texts: Sequence[str]) -> numpy.ndarray:
    return numpy.array([len(text) for text in texts])
