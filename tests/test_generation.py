import pytest

from tc3lib import generation
from tc3lib.prompts import encode_prompt

TITLES = ["Steel Mug", "A Very Long Title of a Book about Lamps, Kettles and Other Things, Third Edition", "Mice"]
SOURCES = [{"uid": "B000000001", "input_text": "Steel Mug"}]


@pytest.fixture(scope="module")
def asked(config):
    """The base model in float32: low-precision sums differ with the padding, and greedy choices after them."""
    from tc3lib import models

    return models.load_base_model(config.change(dtype="float32", load_in_4bit=False).model)


def test_answers_come_in_the_titles_order_and_are_what_generate_wrote(asked, config):
    import torch

    model, tokenizer = asked
    answers = generation.generate(model, tokenizer, TITLES, config.generation)
    assert [answer.title for answer in answers] == TITLES
    for answer in answers:
        prompt = encode_prompt(tokenizer, answer.title)
        output = model.generate(
            input_ids=torch.tensor([prompt]), max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )[0, len(prompt) :].tolist()
        assert answer.eos == (tokenizer.eos_token_id in output)
        assert answer.tokens == len(output)
        assert answer.text == tokenizer.decode(output, skip_special_tokens=True).strip()


def test_a_batch_answers_as_single_titles_do(asked, config):
    together = generation.generate(*asked, TITLES, config.generation)
    alone = generation.generate(*asked, TITLES, config.change(generation_batch_size=1).generation)
    assert together == alone


def test_an_answer_ends_at_eos_and_padding_behind_it_does_not_count(asked):
    _, tokenizer = asked
    words = tokenizer("A mug.", add_special_tokens=False).input_ids
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    ended = generation._answer(tokenizer, "Mug", [*words, eos, pad, pad])
    assert (ended.text, ended.tokens, ended.eos) == ("A mug.", len(words) + 1, True)
    cut = generation._answer(tokenizer, "Mug", words)
    assert (cut.text, cut.tokens, cut.eos) == ("A mug.", len(words), False)


def test_streaming_prints_each_answer_with_its_source(asked, config, capsys):
    model, tokenizer = asked
    answers = generation.stream(model, tokenizer, TITLES[:2], config.generation, SOURCES)
    printed = capsys.readouterr().out
    assert "Steel Mug  [source: uid B000000001]\n" in printed
    assert f"{TITLES[1]}  [source: not in the catalogue]\n" in printed
    assert all(answer.text in printed for answer in answers)
    assert "### Input:" not in printed
    assert answers == generation.generate(model, tokenizer, TITLES[:1], config.generation) + answers[1:]


def test_one_title_may_be_given_as_a_string(asked, config):
    model, tokenizer = asked
    assert [a.title for a in generation.stream(model, tokenizer, "Steel Mug", config.generation)] == ["Steel Mug"]


def test_a_model_that_trains_with_checkpointing_answers_as_in_evaluation_mode(config):
    from tc3lib import models

    model, tokenizer = models.load_base_model(config.change(dtype="float32", load_in_4bit=False).model)
    model = models.add_lora(model, config.change(use_gradient_checkpointing="unsloth").lora).eval()
    expected = generation.generate(model, tokenizer, TITLES, config.generation)
    model.train()
    assert generation.generate(model, tokenizer, TITLES, config.generation) == expected
    assert generation.stream(model, tokenizer, TITLES, config.generation) == expected
    assert model.training


def test_no_titles_no_answers(asked, config):
    assert generation.generate(*asked, [], config.generation) == []
