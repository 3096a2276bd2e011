"""Score answers: each metric is a ratio of two sums over rows, so that the bootstrap can draw rows again."""

import math
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy
import regex
from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq
from sacrebleu.metrics import CHRF
from scipy.stats import bootstrap
from tqdm.auto import tqdm

from tc3lib.evaluation.copies import COPIED, own_words
from tc3lib.prompts import RECIPE, opening
from tc3lib.settings import PromptSettings

RESAMPLES = 9_999
"""Draws of the bootstrap."""
CONFIDENCE = 0.95
FEWEST = 10
"""Questions below which nothing is said of a difference: the bootstrap's interval is too narrow there."""

_NO_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_WORD = regex.compile(rf"[{_NO_SPACES}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}_]--[{_NO_SPACES}]]+", regex.V1)
"""A word, or a character in scripts that are written without spaces."""
_NUMBER = regex.compile(r"\d+(?:[.,]\d+)*")
_HTML = regex.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|[a-zA-Z]\w*);|</?[a-zA-Z][^<>]*>")


@dataclass(frozen=True)
class Metric:
    """How a number is shown and read."""

    label: str
    better: Literal["higher", "lower"] | None
    """None: neither direction is better as such."""
    digits: int
    transform: Callable[[Any], Any] = lambda ratio: ratio
    """From the ratio of sums, or an array of them, to the number shown."""


METRICS = {
    "loss": Metric("Loss of the real description, nats a token", "lower", 4),
    "perplexity": Metric("Perplexity of the real description", "lower", 3, numpy.exp),
    "rougeL": Metric("ROUGE-L F1 against the real description, 0 to 1", "higher", 4),
    "chrf": Metric("chrF against the real description, 0 to 100", "higher", 2),
    "own": Metric("ROUGE-L against its own description minus that against another product's", "higher", 4),
    "eos_rate": Metric("Share of answers that the model ended itself, those cut too early aside", "higher", 4),
    "opening": Metric("Share of answers that open as the descriptions do", "higher", 4),
    "length_ratio": Metric("Words of the answers per word of the real descriptions", None, 3),
    "repeated": Metric("Share of 4-word sequences that repeat an earlier one of the answer", "lower", 4),
    "title_words": Metric("Share of the title's words that are in the answer after its opening", None, 4),
    "html": Metric("Share of answers with leftover HTML", "lower", 4),
    "invented_numbers": Metric("Share of answers with a number that is neither in title nor real text", "lower", 4),
    "copies": Metric("Share of answers that copy a whole training description", None, 4),
    "copies_other": Metric("Share of answers that copy another product's whole training description", "lower", 4),
}
"""ROUGE-L: Lin 2004, over words of any script in lower case, no stemming. chrF: Popovic 2015, `sacrebleu`, the mean
over answers. Ended: an answer that `max_new_tokens` cut before the real description's length says nothing and does not
count. Repeated sequences: Welleck et al. 2020 (seq-rep-4), pooled over answers."""

Pairs = Sequence[tuple[float, float]]
"""Of a metric, each row's part of the two sums: what is counted, and what it is divided by."""


def labels() -> dict[str, str]:
    """Return each metric's label by its name."""
    return {name: metric.label for name, metric in METRICS.items()}


def score(
    rows: Sequence[Mapping[str, Any]], copied: Collection[str], template: PromptSettings = RECIPE
) -> dict[str, Pairs]:
    """Score answers row by row; return the pairs of each metric.

    Args:
        rows: Rows of `questions.answer`, all with a `reference`.
        copied: Answers that are copies, from `copies.copying`.
        template: With which the rows were prepared.
    """
    chrf = CHRF()
    sums: dict[str, list[tuple[float, float]]] = {name: [] for name in METRICS}
    for number, row in enumerate(tqdm(rows, desc="scoring", leave=False)):
        title, answer, reference = row["title"], row["answer"], row["reference"]
        loss = math.nan if row["loss_sum"] is None else row["loss_sum"]  # JSON has no NaN
        begin, other = opening(title, template), rows[(number + 1) % len(rows)]
        own, real = own_words(row, template), reference.removeprefix(begin).strip()
        others = other["reference"].removeprefix(opening(other["title"], template)).strip()
        words = _words(own)
        fours = [tuple(words[at : at + 4]) for at in range(len(words) - 3)]
        of_title = set(_words(title))
        known = set(_NUMBER.findall(f"{title} {reference}"))
        found = {
            "loss": (loss, row["loss_tokens"]),
            "perplexity": (loss, row["loss_tokens"]),
            "rougeL": (rouge_l(answer, reference), 1),
            "chrf": (chrf.sentence_score(answer, [reference]).score, 1),
            "own": (rouge_l(own, real) - rouge_l(own, others), 1),
            "eos_rate": (row["eos"], row["eos"] or row["tokens"] >= row["loss_tokens"]),
            "opening": (bool(begin) and answer.startswith(begin), bool(begin)),
            "length_ratio": (len(words), len(_words(real))),
            "repeated": (len(fours) - len(set(fours)), len(fours)),
            "title_words": (len(of_title & set(words)), len(of_title)),
            "html": (_HTML.search(answer) is not None, 1),
            "invented_numbers": (not known.issuperset(_NUMBER.findall(answer)), 1),
            "copies": (own in copied, 1),
            "copies_other": (own in copied and fuzz.ratio(own, real) < COPIED, 1),
        }
        for name, pair in found.items():
            sums[name].append((float(pair[0]), float(pair[1])))
    return sums


def rouge_l(answer: str, reference: str) -> float:
    """Return ROUGE-L F1, 0 to 1."""
    answered, real = _words(answer), _words(reference)
    return 2 * LCSseq.similarity(answered, real) / (len(answered) + len(real) or 1)


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def value(name: str, pairs: Pairs) -> float | None:
    """Return a metric over rows, None if there is nothing to divide by or a row is not a number."""
    above, below = (sum(parts) for parts in zip(*pairs, strict=True))
    return float(METRICS[name].transform(above / below)) if below and math.isfinite(above) else None


def compare(name: str, before: Pairs, after: Pairs) -> dict[str, Any]:
    """Return a metric before and after, their difference with its interval, and what may be said of it.

    The interval is that of a paired percentile bootstrap (Efron 1979): a row is drawn with both its answers.

    Returns:
        `before`, `after`, `difference`, `low`, `high`, and `says`: "better", "worse" or, where neither direction is
        better as such, "changed", if the interval excludes 0; else "no difference shown". Where there was nothing to
        divide by, numbers are None and `says` is "not measured"; so too where rows are not numbers, and `not_numbers`
        says how many are so `before` and `after`. With less than `FEWEST` rows that count (none with 0 to divide by)
        there is no interval, and `says` is "too few questions".
    """
    values = [value(name, pairs) for pairs in (before, after)]
    bad = [sum(not math.isfinite(above) for above, _ in pairs) for pairs in (before, after)]
    if None in values or any(bad):
        empty = dict.fromkeys(("difference", "low", "high"))
        found = {"before": values[0], "after": values[1], **empty, "says": "not measured"}
        return found | {"not_numbers": dict(zip(("before", "after"), bad, strict=True))} if any(bad) else found
    metric, difference = METRICS[name], values[1] - values[0]
    found = {"before": values[0], "after": values[1], "difference": difference}
    if min(sum(below > 0 for _, below in pairs) for pairs in (before, after)) < FEWEST:
        return {**found, "low": None, "high": None, "says": "too few questions"}
    low, high = interval(differences(name, before, after))
    says = "no difference shown"
    if low > 0 or high < 0:
        says = "changed" if metric.better is None else "better" if (low > 0) == (metric.better == "higher") else "worse"
    return {**found, "low": low, "high": high, "says": says}


def differences(name: str, before: Pairs, after: Pairs, seed: int = 0) -> numpy.ndarray:
    """Return the difference in each draw of the bootstrap, an array of `RESAMPLES`."""
    transform = METRICS[name].transform

    def difference(above, below, new_above, new_below, axis=-1):
        with numpy.errstate(invalid="ignore", divide="ignore"):  # a draw may hold nothing to divide by
            old = transform(above.sum(axis=axis) / below.sum(axis=axis))
            return transform(new_above.sum(axis=axis) / new_below.sum(axis=axis)) - old

    columns = [*zip(*before, strict=True), *zip(*after, strict=True)]
    found = bootstrap(
        columns, difference, paired=True, vectorized=True, n_resamples=RESAMPLES, method="percentile",
        batch=1000, rng=numpy.random.default_rng(seed),
    )  # fmt: skip
    return found.bootstrap_distribution


def interval(draws: numpy.ndarray) -> tuple[float, float]:
    """Return the bounds of the middle `CONFIDENCE` of the draws."""
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = numpy.nanpercentile(draws, [tail, 100 - tail])
    return float(low), float(high)
