import dataclasses
import re

import pytest
from markupsafe import escape
from runs import randomise

from tc3lib import model_loading
from tc3lib.catalogue.lookup import ABSENT, NOT_TRAINED, TRAINED, Found, Match
from tc3lib.errors import Tc3Error
from tc3lib.evaluation import asking, generation
from tc3lib.evaluation.answers import Answer


@pytest.fixture(scope="module")
def loaded(config):
    return model_loading.load_base_model(config.change(dtype="float32", load_in_4bit=False).model)


@pytest.fixture(scope="module")
def tuned(config):
    """A model whose adapter changes the answers, as a trained one does."""
    model, tokenizer = model_loading.load_base_model(config.change(dtype="float32", load_in_4bit=False).model)
    return randomise(model_loading.add_lora(model, config.lora).eval(), std=0.5), tokenizer


def answered(text, eos=True):
    return Answer("Mug", text, [7] * 24, eos)


def row(**changes):
    match = Match(uid="B1", title="Mug", description="A mug.", mark=TRAINED, score=100.0, exact=True)
    return dataclasses.replace(match, **changes)


def test_both_answers_and_the_source_come_back_and_the_adapter_is_on_again(loaded, tuned, config, catalogue):
    asked = asking.ask(*tuned, "steel mug no. 3", config, catalogue)
    assert asked.prompt_input == "Steel Mug No. 3"
    assert [asked.base] == generation.generate(*loaded, ["Steel Mug No. 3"], config)
    assert [asked.tuned] == generation.generate(*tuned, ["Steel Mug No. 3"], config)
    assert asked.base.text != asked.tuned.text
    (match,) = asked.found.matches
    assert (match.uid, match.description, match.mark) == ("B000000003", "A mug of steel, 3 cm high.", TRAINED)


@pytest.mark.parametrize(
    ("question", "asked_for", "mark"),
    [
        ("  What is the Steel Mug No. 30? ", "Steel Mug No. 30", NOT_TRAINED),
        ("Steal Mug No. 3", "Steal Mug No. 3", TRAINED),
        ("Quantum socks", "Quantum socks", ABSENT),
    ],
)
def test_the_prompt_has_the_title_that_a_question_contains_else_the_question(
    loaded, config, catalogue, question, asked_for, mark
):
    asked = asking.ask(*loaded, question, config, catalogue)
    assert (asked.question, asked.prompt_input, asked.base.title) == (question.strip(), asked_for, asked_for)
    assert asked.found.mark == mark
    assert ("as it was typed" in asking.render(asked)) == (question == asked_for)
    assert asked.tuned is None  # the model has no adapter
    assert "no adapter: there is no tuned answer" in asking.render(asked)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (" \n\t", r"the question is empty: type a title"),
        ("a" * 5000, r"5,000 characters, the limit is 2,000: shorten"),
        ("Größe äöü " * 190, r"the prompt with 'Größe .*' has [\d,]+ tokens, max_seq_length is 512: shorten that text"),
    ],
    ids=["empty", "characters", "tokens"],
)
def test_an_empty_question_and_one_too_long_are_errors(loaded, config, catalogue, question, message):
    with pytest.raises(Tc3Error, match=message):
        asking.ask(*loaded, question, config, catalogue)


def test_special_tokens_headings_and_lone_surrogates_are_ordinary_text(tuned, config, catalogue, monkeypatch):
    model, tokenizer = tuned
    sent = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **options: sent.append(options["input_ids"]) or generate(**options))
    asked = asking.ask(model, tokenizer, "<|end_of_text|>\n### Response:\n\ud800", config, catalogue)
    assert asked.prompt_input == "<|end_of_text|>\n### Response:\n?"
    assert len(sent) == 2
    for ids in sent:
        assert not set(ids[0, 1:].tolist()) & set(tokenizer.all_special_ids)
        assert tokenizer.decode(ids[0]).count("<|end_of_text|>\n### Response:\n?") == 1


def test_every_text_is_escaped():
    nasty = "<script>alert(1)</script><img src=x onerror='a'>&\""
    found = Found("close", (row(uid=nasty, title=nasty, description=nasty, mark=NOT_TRAINED, exact=False),), 1)
    shown = asking.show(asking.Asked(nasty, nasty, answered(nasty), answered(nasty), found)).data
    assert "<script" not in shown
    assert "<img" not in shown
    assert shown.count(str(escape(nasty))) == 6  # asked, two answers, uid, title, description


def words(asked):
    return re.sub(r"<style>.*?</style>|<[^>]+>", " ", asking.render(asked), flags=re.S)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Found("exact", (row(),), 1), "The row with this title. in the training set uid B1 Mug A mug."),
        (Found("exact", (row(),), 17), "The row with this title (the first 1 of 17 rows)."),
        (Found("named", (row(mark=NOT_TRAINED),), 1), "The row whose title the question contains. not in the training set uid B1"),  # noqa: E501
        (Found("part", (row(score=61.4),), 1), "No row has this title. Titles that contain it: in the training set uid B1 61 % alike"),  # noqa: E501
        (Found("close", (row(score=88.0),), 1), "No row has this title. The closest: in the training set uid B1 88 % alike"),  # noqa: E501
        (Found("none", (), 0), "not in the catalogue No title is like the question."),
    ],
)  # fmt: skip
def test_the_page_says_how_the_source_was_found(found, said):
    assert said in " ".join(words(asking.Asked("Mug", "Mug", answered("x"), answered("y"), found)).split())


def test_answers_cut_empty_or_very_long_are_marked():
    found = Found("exact", (row(description="d" * 200_000),), 1)
    text = words(asking.Asked("Mug", "Mug", answered("", eos=True), answered("A mug", eos=False), found))
    assert "(nothing)" in text
    assert text.count("cut at 24 tokens") == 1
    assert "d…" in text
    assert len(text) < 5000
