"""Each metric on answers whose score is known, and what may be said of a difference."""

import math

import pytest

from tc3lib.evaluation import copies, metrics
from tc3lib.settings import PromptSettings

REFERENCE = "The 'Blue Mug' is a mug of steel, 12 cm high."


def row(answer=REFERENCE, reference=REFERENCE, title="Blue Mug", eos=True, loss=2.0, tokens=4, new=9):
    return {
        "title": title, "answer": answer, "reference": reference, "eos": eos, "loss_sum": loss, "loss_tokens": tokens,
        "tokens": new,
    }  # fmt: skip


OTHER = row(reference="The 'Red Kettle' is a kettle for six cups.", title="Red Kettle")


def measure(name, *rows, trained=()):
    copied = copies.find(map(copies.own_words, rows), trained)
    return metrics.value(name, metrics.score(rows, copied)[name])


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        ("rougeL", REFERENCE, 1.0),
        ("chrf", REFERENCE, 100.0),
        ("loss", REFERENCE, 0.5),
        ("perplexity", REFERENCE, math.exp(0.5)),
        ("opening", REFERENCE, 1.0),
        ("opening", "A mug.", 0.0),
        ("length_ratio", "The 'Blue Mug' is a mug of steel", 4 / 7),
        ("repeated", "one two three four one two three four", 1 / 5),
        ("title_words", "The 'Blue Mug' is a mug", 0.5),
        ("html", "a mug &amp; a lid", 1.0),
        ("html", "<b>a mug</b>", 1.0),
        ("html", "a mug & a lid for < 5 and > 3", 0.0),
        ("invented_numbers", "12 cm", 0.0),
        ("invented_numbers", "13 cm", 1.0),
        ("copies", "a pan of iron, black all over, with a lid", 1.0),
        ("copies", "The 'Blue Mug' is a pan of iron, black all over, with a lid.", 1.0),
        ("copies", "a mug", 0.0),
        ("copies", "", 0.0),
        ("copies", "a mug of steel, 12 cm high", 1.0),
        ("copies_other", "a mug of steel, 12 cm high", 0.0),
        ("copies_other", "a pan of iron, black all over, with a lid", 1.0),
        ("copies_other", "a mug", 0.0),
    ],
)
def test_each_metric_on_one_answer(name, answer, expected):
    trained = ["a pan of iron, black all over, with a lid", "a book", "a mug of steel, 12 cm high."]
    assert measure(name, row(answer), trained=trained) == pytest.approx(expected)


def test_rouge_l_is_the_longest_common_subsequence_of_words_of_any_alphabet():
    assert metrics.rouge_l("the old mug was blue", "the mug is blue") == pytest.approx(2 / 3)
    assert metrics.rouge_l("Кружка синяя", "Кружка синяя.") == 1.0
    assert metrics.rouge_l("situação boa", "avaliação boa") == pytest.approx(0.5)
    assert metrics.rouge_l("situac\u0327a\u0303o boa", "situação boa") == 1.0
    assert metrics.rouge_l("नीली केतली", "नील केतली") == pytest.approx(0.5)
    assert metrics.rouge_l("这是一个蓝色的杯子。", "这是蓝色的杯子") == pytest.approx(14 / 16)
    assert metrics.rouge_l("マグ USB3 です", "マグ usb3") == pytest.approx(6 / 8)


def test_own_tells_an_answer_to_this_title_from_one_to_any():
    assert measure("own", row(), OTHER | {"answer": OTHER["reference"]}) > 0.5
    assert measure("own", row(answer=OTHER["reference"]), OTHER | {"answer": REFERENCE}) < 0


def test_sums_weigh_rows_by_what_they_are_divided_by():
    rows = [row(loss=1.0, tokens=1), row(loss=0.0, tokens=3, eos=False)]
    assert (measure("loss", *rows), measure("eos_rate", *rows)) == (0.25, 0.5)


def test_an_answer_that_was_cut_before_the_real_length_does_not_count_as_one_that_never_ends():
    rows = [row(), row(eos=False, tokens=30), row(eos=False, tokens=9)]
    assert [measure("eos_rate", *rows[:count]) for count in (1, 2, 3)] == [1.0, 1.0, 0.5]


def test_what_cannot_be_divided_is_not_measured():
    assert measure("repeated", row(answer="a mug")) is None
    found = metrics.compare("repeated", [(0, 0)], [(1, 2)])
    assert (found["before"], found["after"], found["low"], found["says"]) == (None, 0.5, None, "not measured")


def test_rows_that_are_not_numbers_are_counted_and_nothing_is_said_of_the_metric(tmp_path):
    """In memory they are NaN, in a file null."""
    assert math.isnan(metrics.score([row(loss=None)], [])["loss"][0][0])
    assert measure("loss", row(), row(loss=math.nan)) is None
    found = metrics.compare("loss", [(math.nan, 1), (1, 1), (math.inf, 1)], [(0.5, 1), (0.5, 1), (0.5, 1)])
    assert (found["before"], found["after"], found["says"]) == (None, 0.5, "not measured")
    assert found["not_numbers"] == {"before": 2, "after": 0}
    assert found["low"] is found["high"] is found["difference"] is None


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [("loss", -0.5, "better"), ("loss", 0.5, "worse"), ("rougeL", 0.5, "better"), ("rougeL", -0.5, "worse"),
     ("length_ratio", 0.5, "changed"), ("rougeL", 0.0, "no difference shown")],
)  # fmt: skip
def test_what_is_said_of_a_difference(name, change, says):
    before = [(1 + n % 5 / 10, 1) for n in range(40)]
    after = [(value + change + (n % 3 - 1) / 100, 1) for n, (value, _) in enumerate(before)]
    found = metrics.compare(name, before, after)
    assert found["says"] == says
    assert found["low"] <= found["difference"] <= found["high"]


def test_equal_answers_show_no_difference():
    pairs = [(n % 7, 3) for n in range(30)]
    found = metrics.compare("loss", pairs, pairs)
    assert (found["difference"], found["low"], found["high"], found["says"]) == (0, 0, 0, "no difference shown")


def test_under_ten_questions_nothing_is_said_and_no_interval_given():
    """Two rows that both got better have an interval of width 0, which says "better"."""
    for number, says in ((1, "too few questions"), (9, "too few questions"), (10, "better")):
        found = metrics.compare("rougeL", [(0.2, 1)] * number, [(0.4 + n / 100, 1) for n in range(number)])
        assert (found["says"], found["low"] is None) == (says, says != "better")
        assert found["difference"] > 0


def test_rows_that_do_not_count_are_no_questions():
    """The interval of one row's share among 99 that have nothing to divide by has no width."""
    pairs = [(1, 4)] * 9 + [(0, 0)] * 91
    assert metrics.compare("repeated", pairs, [(0, below) for _, below in pairs])["says"] == "too few questions"


def test_the_interval_is_that_of_the_paired_differences_mean():
    """Against the normal approximation, which a mean of many rows meets; unpaired it would be ten times as wide."""
    before = [(float(n % 50), 1) for n in range(400)]
    after = [(value + 1 + (1 if n % 2 else -1), 1) for n, (value, _) in enumerate(before)]
    found = metrics.compare("rougeL", before, after)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * 1 / math.sqrt(400), rel=0.1)
    assert found == metrics.compare("rougeL", before, after)


def test_the_opening_is_the_responses_that_is_set_and_is_not_measured_without_one():
    answers = [row("Blue Mug: a mug", "Blue Mug: a mug of steel"), row("a mug", "Red Kettle: a kettle", "Red Kettle")]
    found = metrics.score(answers, [], PromptSettings(response="{title}: {content}"))
    assert metrics.value("opening", found["opening"]) == 0.5
    assert found["length_ratio"] == [(2, 4), (2, 2)]
    bare = metrics.score(answers, [], PromptSettings(response="{content}"))["opening"]
    assert metrics.compare("opening", bare, bare)["says"] == "not measured"
