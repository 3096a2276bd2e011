"""Look up the product that a question is about in the prepared rows: the source of an answer."""

import string
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import nlargest
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import msgspec
from xxhash import xxh3_64_intdigest

from tc3lib.catalogue.cleaning import clean_text
from tc3lib.catalogue.sampling import offsets
from tc3lib.errors import Tc3Error
from tc3lib.files import check_folder
from tc3lib.prompts import RECIPE, description
from tc3lib.settings import PromptSettings

TRAINED = "in the training set"
NOT_TRAINED = "not in the training set"
ABSENT = "not in the catalogue"

CLOSE = 75
"""Minimum `rapidfuzz.fuzz.ratio` of a close title. `benchmarks/lookup.py` counts how many misspelt titles are found
with it among 1.39 million, and how many other texts."""
PART = 50
"""The same for a title that contains the whole question."""
NAMED = 0.5
"""Minimum share of the question's letters, without words of `FRAME`, that a title in it must have."""
LONGEST = 60
"""Words of a title that is looked for in a question."""
# What questions begin and end with, in English and Portuguese: no title is found by these words alone.
FRAME = frozenset(
    """
    a about an and are can cost describe do does for give how i in is it like made me much my of on please product say
    tell the this to used what what's when where which who with write you
    as com como custa da de descreva descrever diga dos e é em escreva esse esta este eu fala fale feita feito o os
    para por produto qual quais quanto que quem são se serve sobre um uma você
    """.split()  # noqa: SIM905
)
_EDGES = string.punctuation.replace("+", "").replace("#", "") + "“”‘’„«»‹›¿¡…–—"


@dataclass(frozen=True)
class Match:
    """A row of the catalogue."""

    uid: str
    """Empty if the catalogue has none."""
    title: str
    description: str
    mark: str
    """`TRAINED` if its title and description are among the rows trained on, else `NOT_TRAINED`."""
    score: float
    """Similarity of question and title, 0 to 100; 100 too if all other words of the question are in `FRAME`."""
    exact: bool
    """Whether the question is the title, apart from case, white space and HTML entities."""


@dataclass(frozen=True)
class Found:
    """Result of `Catalogue.find`, the best match first."""

    how: Literal["exact", "named", "part", "close", "none"]
    """exact: the question is the title. named: it contains the title. part: the title contains it. close: neither, but
    they are spelt alike. none: no title fits."""
    matches: tuple[Match, ...]
    total: int
    """Rows with this title (exact, named), or the number of matches."""

    @property
    def mark(self) -> str:
        """The first match's mark; `ABSENT` if there is none."""
        return self.matches[0].mark if self.matches else ABSENT


class _Record(msgspec.Struct):
    input_text: str
    response: str


class Catalogue:
    """The prepared rows by title.

    Titles are held in memory, in lower case and without punctuation, with their rows and the offsets of these: about
    300 bytes a row (`benchmarks/lookup.py`). Descriptions stay on the disk. Threads may share a catalogue.

    Args:
        work: The work folder with `trn_output.json`, `trn_output.uid.jsonl` and `train.jsonl`.
        template: With which they were prepared.

    Raises:
        Tc3Error: One of the three is missing or damaged, or they are of different runs.
    """

    def __init__(self, work: Path | str, template: PromptSettings = RECIPE) -> None:
        work, self._template = Path(work), template
        self._rows, self._uids, train = (
            work / name for name in ("trn_output.json", "trn_output.uid.jsonl", "train.jsonl")
        )
        check_folder(work)
        for path in (self._rows, self._uids, train):
            if not path.is_file():
                raise Tc3Error(f"no file {path}: the source of an answer is looked up in it. Run 01_prepare first.")
        self._trained = {_digest(record) for record, _ in _read(train)}
        self._keys: list[str] = []
        self._with_key: dict[str, list[int]] = {}
        lengths = array("Q")
        for row, (record, length) in enumerate(_read(self._rows)):
            key = _key(record.input_text)
            self._keys.append(key)
            self._with_key.setdefault(key, []).append(row)
            lengths.append(length)
        with _readable():
            self._starts, self._uid_starts = offsets(self._rows, lengths)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, question: str, limit: int = 3) -> Found:
        """Return the rows that the question is about, at most `limit`, those trained on first.

        Case, white space and HTML entities make no difference; nor does punctuation around words, if there is no exact
        match. The longest title in the question is preferred unless another's score is higher; then titles that
        contain the question, then those spelt alike.

        Raises:
            Tc3Error: A file cannot be read, or has changed since the catalogue was opened.
        """
        key = _key(question)
        if not key:
            return Found("none", (), 0)
        scored = ((row, 100.0) for row in self._with_key.get(key, ()))
        same = [match for match in self._matches(scored, question) if match.exact]
        if same:
            return Found("exact", _trained_first(same)[:limit], len(same))
        named = self._named(key)
        whole = named and named[0][1] == 100
        part = [] if whole else self._containing(key, limit)
        close = [] if whole or part else self._alike(key, limit)
        found = part or close
        if named and (not found or named[0][1] >= found[0][1]):
            matches = self._matches(named, question)
            return Found("named", _trained_first(matches)[:limit], len(matches))
        return Found("part" if part else "close" if close else "none", self._matches(found, question), len(found))

    def _named(self, key: str) -> list[tuple[int, float]]:
        """Return the rows of the longest title among the question's words, if it makes up most of the question."""
        words = key.split()
        upto = list(accumulate((0 if word in FRAME else len(word) for word in words), initial=0))
        spans = [
            (upto[last] - upto[first], last - first, first)
            for first in range(len(words))
            for last in range(first + 1, min(first + LONGEST, len(words)) + 1)
            if upto[last] - upto[first] >= NAMED * upto[-1] > 0
        ]
        for letters, length, first in sorted(spans, reverse=True):
            if rows := self._with_key.get(" ".join(words[first : first + length])):
                return [(row, 100 * letters / upto[-1]) for row in rows]
        return []

    def _containing(self, key: str, limit: int) -> list[tuple[int, float]]:
        """Return the rows whose title contains the question as whole words, with their scores."""
        from rapidfuzz import fuzz

        bare = _bare(key)
        rows = [row for row, title in enumerate(self._keys) if bare in title and f" {bare} " in f" {title} "]
        scores = ((row, fuzz.ratio(bare, self._keys[row], score_cutoff=PART)) for row in rows)
        return nlargest(limit, (pair for pair in scores if pair[1]), key=lambda pair: pair[1])

    def _alike(self, key: str, limit: int) -> list[tuple[int, float]]:
        """Return the rows whose titles are spelt most like the question, with or without the words of `FRAME`."""
        from rapidfuzz import fuzz, process

        bare = _bare(key)
        tries = [(fuzz.ratio, key), (fuzz.ratio, bare)]
        if " " in bare:
            tries.append((fuzz.token_sort_ratio, bare))  # ignores the order of words; five times as slow
        for scorer, asked in tries:
            found = process.extract(asked, self._keys, scorer=scorer, limit=limit, score_cutoff=CLOSE)
            if found:
                return [(row, score) for _, score, row in found]
        return []

    def _matches(self, scored: Iterable[tuple[int, float]], question: str) -> tuple[Match, ...]:
        """Read rows from the files."""
        matches = []
        try:
            with _readable(), open(self._rows, "rb") as file, open(self._uids, "rb") as uid_file:
                for row, score in scored:
                    file.seek(self._starts[row])
                    record = msgspec.json.decode(file.readline(), type=_Record)
                    uid_file.seek(self._uid_starts[row])
                    uid = msgspec.json.decode(uid_file.readline())
                    title, response = record.input_text, record.response
                    if _key(title) != self._keys[row]:
                        raise ValueError(title)
                    mark = TRAINED if _digest(record) in self._trained else NOT_TRAINED
                    text = description({"input_text": title, "response": response}, self._template)
                    exact = _tidy(title) == _tidy(question)
                    matches.append(Match(_shown(uid), title, text, mark, round(score, 1), exact))
        except (ValueError, msgspec.DecodeError):
            message = f"{self._rows}, or its uids, has changed since it was opened: open the catalogue again."
            raise Tc3Error(message) from None
        return tuple(matches)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Tc3Error(
            f"cannot read {error.filename or 'the catalogue'}: {error.strerror or error}. Run the settings cell again "
            "(it mounts Drive), or start the page again."
        ) from None


def _read(path: Path) -> Iterator[tuple[_Record, int]]:
    """Yield each line of a file, decoded, with its length in bytes; show a progress bar if it takes seconds."""
    from tqdm.auto import tqdm

    decode = msgspec.json.Decoder(_Record).decode
    with _readable(), open(path, "rb", buffering=1 << 20) as file:
        for number, line in enumerate(tqdm(file, desc=path.name, unit=" rows", unit_scale=True, delay=2), 1):
            try:
                yield decode(line), len(line)
            except (ValueError, msgspec.DecodeError) as error:
                raise Tc3Error(f"{path}, line {number}: {error}. Run 01_prepare again from the top.") from None


def _shown(uid: Any) -> str:
    if uid is None or isinstance(uid, str):
        return uid or ""
    return msgspec.json.encode(uid).decode()


def _tidy(text: str) -> str:
    return clean_text(text.encode(errors="replace").decode()).casefold()


def _key(text: str) -> str:
    """Return the words of a text in lower case, without the punctuation around them."""
    text = _tidy(text).replace("’", "'")
    return " ".join(filter(None, [word.strip(_EDGES) for word in text.split()])) or text


def _bare(key: str) -> str:
    """Return a question without the words of `FRAME` at both ends, unless there are no others."""
    words = key.split()
    meant = [place for place, word in enumerate(words) if word not in FRAME]
    return " ".join(words[meant[0] : meant[-1] + 1]) if meant else key


def _digest(record: _Record) -> int:
    return xxh3_64_intdigest(f"{record.input_text}\0{record.response}".encode())


def _trained_first(matches: Iterable[Match]) -> tuple[Match, ...]:
    return tuple(sorted(matches, key=lambda match: match.mark != TRAINED))
