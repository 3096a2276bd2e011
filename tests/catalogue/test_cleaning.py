"""Cleaning takes away what its docstring names and nothing else."""

import html
import random
import re
import unicodedata

import pytest

from tc3lib.catalogue.cleaning import clean_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tom &amp; Jerry&#8217;s &mdash; it&#x92;s", "Tom & Jerry’s — it’s"),
        ("&#145;x&#x99;", "‘x™"),
        ("&amp;lt;3", "&lt;3"),
        ("ages 2-8 years <3 a<b>c", "ages 2-8 years <3 a<b>c"),
        ("  two\u00a0 spaces&#xA0;\n here ", "two spaces here"),
        ("cafe\u0301", "café"),
        ("Good.--This text refers to theHardcoveredition.", "Good."),
        ("word " * 500 + "--This text refers to theHardcoveredition.", ("word " * 500).strip()),
        ("Good. --This text refers to the Paperback edition.", "Good."),
        ("Good.--This text refers to an out of print or unavailable edition of this title.", "Good."),
        (
            "He wrote--This text refers to the war. It ends well.",
            "He wrote--This text refers to the war. It ends well.",
        ),
        (
            "It says--This text refers to the first edition. It goes on with much more.",
            "It says--This text refers to the first edition. It goes on with much more.",
        ),
    ],
)
def test_cleaning_tidies_and_loses_nothing(text, expected):
    assert clean_text(text) == expected


PLAIN = re.compile(r"\s*--\s*This text refers to (?:the|an?)(?:(?!--).){0,100}?(?:edition|title)\b[^.]{0,40}\.\s*$")


def plainly(text):
    """The same rule without a thought for speed."""
    text = " ".join(unicodedata.normalize("NFC", html.unescape(text)).split())
    return PLAIN.sub("", text)


PIECES = [
    " ", "  ", "\t", "\n", "\u00a0", "\u2003", "\u3000", "\x85", "\x1c", "\x00", "\ufeff", "\u200b", "a", "b.", ".",
    "--", "-", "&nbsp;", "&#xA0;", "&amp;", "&amp;lt;", "&#x92;", "&mdash;", "&", ";", "<3", "<b>", "e\u0301", "\u212b",
    "\u2000", "😀", "This text refers to ", "--This text refers to the", "Hardcover", "edition", "edition.", "title.",
    "of this title.",
]  # fmt: skip


def test_the_fast_rule_is_the_plain_one_on_random_texts():
    draw = random.Random(0)
    for _ in range(20_000):
        text = "".join(draw.choices(PIECES, k=draw.randrange(12)))
        assert clean_text(text) == plainly(text), repr(text)


@pytest.mark.parametrize(
    "text", ["\x00", "\ufeff", "\u200b", "a\u200db", "\ue000", "&#0;", "&bogus;", "&#xD800;", "\x7f"]
)
def test_no_character_is_lost_but_white_space(text):
    assert clean_text(text) == html.unescape(text)


def test_long_texts_are_brought_into_nfc_and_endless_marks_are_left_alone():
    word = "cafe\u0301 "
    assert clean_text(word * 1000) == ("café " * 1000).strip()
    marks = "a" + "\u0301" * 250_000 + "\u0323" * 250_000
    assert clean_text(marks) == marks


def test_a_reference_with_more_digits_than_python_reads_is_no_character():
    assert clean_text("a&#" + "1" * 5000 + ";b &amp; c") == "a\ufffdb & c"
    assert clean_text("a&#x" + "1" * 5000 + ";b") == "a\ufffdb"
