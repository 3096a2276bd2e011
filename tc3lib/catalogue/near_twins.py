"""Find out whether a text has a near twin among those that are trained on: another colour or size of one product."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy

ALIKE = 90
"""Minimum similarity of near twins, 0 to 100: `rapidfuzz.fuzz.ratio` of the descriptions without their digits."""
MOST_LOOKED_AT = 500_000_000
"""Rows of like length that are looked at for all held-out rows together; it bounds the time where all have twins."""
_BINS = 32

Read = Callable[[Sequence[int]], Iterator[str]]
"""Returns the descriptions of rows by their numbers."""


class Trained:
    """The descriptions that are trained on: their lengths and how often each letter occurs, sorted by length.

    Two texts differ by at least as many letters as their counts of letters do. This leaves a few rows to compare with
    rapidfuzz, and passes over no near twin.

    Args:
        rows: Their numbers, an array.
        read: How to read them.
    """

    def __init__(self, rows: "numpy.ndarray", read: Read):
        import numpy

        self.read, self.looked_at = read, 0
        rows = numpy.sort(rows)  # as they stand in the file
        lengths, letters = [], numpy.empty((_BINS, len(rows)), "i4")
        for start in range(0, len(rows), 1000):
            texts = [without_digits(text) for text in read(rows[start : start + 1000])]
            lengths += map(len, texts)
            letters[:, start : start + len(texts)] = letter_counts(texts)
        lengths = numpy.array(lengths)
        order = numpy.argsort(lengths, kind="stable")
        self.rows, self.lengths, self.letters = rows[order], lengths[order], letters[:, order]

    def near_twin(self, text: str) -> bool:
        """Return whether one of them is a near twin of `text`."""
        import numpy
        from rapidfuzz import fuzz, process

        text = without_digits(text)
        most = 1 - ALIKE / 100  # of the letters of both may be in one alone
        shortest, longest = (len(text) * part for part in ((1 - most) / (1 + most), (1 + most) / (1 - most)))
        start, end = numpy.searchsorted(self.lengths, (shortest - 1, longest + 1))
        self.looked_at += int(end - start)
        differ = numpy.zeros(end - start, "i4")
        counts = letter_counts([text])
        for here, there in zip(self.letters[:, start:end], counts, strict=True):  # bin by bin: in the cache
            differ += numpy.abs(here - there[0])
        possible = numpy.flatnonzero(differ <= most * (self.lengths[start:end] + len(text)) + 1e-6)
        possible = possible[numpy.argsort(differ[possible], kind="stable")]
        first, size = 0, 16  # a twin is mostly among the first
        while first < len(possible):
            some = self.read(self.rows[start:end][possible[first : first + size]])
            texts = [without_digits(other) for other in some]
            if process.cdist(texts, [text], scorer=fuzz.ratio, score_cutoff=ALIKE, workers=-1).any():
                return True
            first, size = first + size, min(4 * size, 4096)
        return False


def without_digits(text: str) -> str:
    """Return a text as it is compared: sizes and numbers of parts do not make it another."""
    return text.encode().translate(None, b"0123456789").decode()  # many times faster than re


def letter_counts(texts: Sequence[str]) -> "numpy.ndarray":
    """Return how often each letter occurs in each text, a line for each bin of letters."""
    import numpy

    letters = numpy.frombuffer("".join(texts).encode("utf-32-le"), "u4") % _BINS
    text = numpy.repeat(numpy.arange(len(texts)), [len(text) for text in texts])
    return numpy.bincount(text * _BINS + letters, minlength=len(texts) * _BINS).reshape(-1, _BINS).T.astype("i4")
