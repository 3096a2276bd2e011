"""Near twins are found wherever they differ: exactly those that comparing every pair with rapidfuzz finds."""

import random

import numpy
import pytest
from rapidfuzz import fuzz

from tc3lib.catalogue.near_twins import ALIKE, Trained

COLOURS = ["red", "navy blue", "forest green", "off-white"]
MIDDLE = "Woven from cotton by hand, soft after the first wash and made to last for many years of use"


def trained(texts):
    return Trained(numpy.arange(len(texts)), lambda rows: (texts[row] for row in rows))


def sentence(draw, words, alphabet="abcdefghijklmnopqrstuvwxyz"):
    return " ".join("".join(draw.choices(alphabet, k=draw.randrange(2, 9))) for _ in range(words))


@pytest.mark.parametrize("template", ["{} towel. " + MIDDLE, MIDDLE + ", in {}, and " + MIDDLE, MIDDLE + ": {}"])
def test_another_colour_is_a_near_twin_wherever_it_stands(template):
    found = trained([template.format("red"), "A pan of iron.", "", "12"])
    assert all(found.near_twin(template.format(colour)) for colour in COLOURS)
    assert not found.near_twin("A kettle for six cups, with a whistle and a handle that stays cold.")


def test_numbers_are_left_aside():
    found = trained(["Screw, 12345 mm, 1200 pieces", "100"])
    assert found.near_twin("Screw, 7 mm, 8 pieces")
    assert found.near_twin("22")
    assert not found.near_twin("Screw of brass, 12345 mm, 1200 pieces")


@pytest.mark.parametrize("alphabet", ["abcdefghijklmnopqrstuvwxyz", "абвгдежзийклмнопрстуфхцчшщ", "猫犬鳥魚山川空海"])
def test_exactly_those_are_found_that_comparing_every_pair_finds(alphabet):
    """Texts with 0 to 20 % of their letters changed, so that many lie on either side of the threshold."""
    draw = random.Random(1)
    texts = [sentence(draw, draw.randrange(3, 80), alphabet) for _ in range(150)]

    def changed(text):
        share = draw.uniform(0, 0.2)
        kinds = [lambda letter: "", lambda letter: letter + "q", lambda letter: "z"]
        return "".join(draw.choice(kinds)(letter) if draw.random() < share else letter for letter in text)

    asked = [changed(text) for text in texts] + [sentence(draw, 20, alphabet) for _ in range(50)]
    expected = [any(fuzz.ratio(text, other) >= ALIKE for other in texts) for text in asked]
    assert 40 < sum(expected) < 140
    found = trained(texts)
    assert [found.near_twin(text) for text in asked] == expected
