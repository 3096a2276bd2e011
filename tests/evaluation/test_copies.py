"""Copies are exactly the answers that comparing each with every description of the training set finds."""

import random
import tracemalloc

import pytest
from rapidfuzz import fuzz

from tc3lib.evaluation import copies
from tc3lib.files import write_rows
from tc3lib.prompts import format_record


@pytest.mark.parametrize(
    "alphabet", ["abcdefghijklmnopqrstuvwxyz 0123456789", "абвгдежзийклмнопрстуфхцч", "猫犬鳥魚山川"]
)
def test_exactly_those_are_copies_that_comparing_every_pair_finds(alphabet, monkeypatch):
    monkeypatch.setattr(copies, "ROWS", 7)
    draw = random.Random(2)
    trained = ["".join(draw.choices(alphabet, k=draw.randrange(1, 300))) for _ in range(60)] + [""]

    def changed(text):
        share = draw.uniform(0, 0.25)
        return "".join(draw.choice(("", "q", letter + "1")) if draw.random() < share else letter for letter in text)

    answers = [changed(draw.choice(trained)) for _ in range(150)] + ["", "x"]
    expected = {text for text in answers if text and any(fuzz.ratio(text, other) >= copies.COPIED for other in trained)}
    assert 40 < len(expected) < 130
    assert copies.find(iter(answers), iter(trained)) == expected


def test_openings_are_left_aside_and_memory_does_not_grow_with_the_training_set(tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "ROWS", 2)
    content = "A mug of steel for cold days on the road."
    rows = [format_record(f"Mug {number}", content + " It is heavy." * 2500) for number in range(300)]
    write_rows(tmp_path / "train.jsonl", [*rows, format_record("Mug", content)])
    rows = [{"title": "Pot", "answer": text} for text in (f"The 'Pot' is {content}", "The 'Pot' is a pot.", content)]
    tracemalloc.start()
    try:
        assert copies.copying(rows, tmp_path) == {content}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "train.jsonl").stat().st_size > 9e6 > 2 * peak
    assert copies.copying([], tmp_path) == set()
