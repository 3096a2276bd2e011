"""What is learned of a row, and what is not, whatever its title and description hold."""

import pytest

from tc3lib import files, models, prompts, training
from tc3lib.errors import Tc3Error
from tc3lib.prompts import encode, format_record

PLACES = {"start": "{}steel mug", "middle": "steel {} mug", "inside a word": "st{}eel mug", "end": "steel mug{}"}
LOOKALIKES = ["### Response:", "### Response:\n", "\n\n### Response:\n", "### Instruction:\n", "\n\n### Input:\n"]


def hostile(tokenizer):
    """Every token that is more than text to the tokenizer, and the template's own headings."""
    return [*dict.fromkeys([*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()]), *LOOKALIKES]


def special_ids(tokenizer):
    return {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}


def hostile_records(tokenizer, place):
    texts = [place.format(text) for text in hostile(tokenizer)]
    plain = "steel mug"
    pairs = [(title, content) for text in texts for title, content in ((text, plain), (plain, text), (text, text))]
    return [format_record(title, content) for title, content in pairs]


def prompt_text(record):
    return prompts.PROMPT.format(prompts.INSTRUCTION, record["input_text"])


def decode(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def expected_labels(tokenizer, record, max_length=None):
    row = encode(tokenizer, record, max_length)
    start = len(prompts.encode_prompt(tokenizer, record["input_text"]))
    return row["input_ids"], [-100] * start + row["input_ids"][start:]


def test_the_embedded_tokenizer_has_special_tokens_to_try(tokenizer):
    assert {"<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", tokenizer.pad_token} <= set(hostile(tokenizer))
    assert len(special_ids(tokenizer)) >= 256
    assert all(tokenizer.convert_tokens_to_ids(text) in special_ids(tokenizer) for text in hostile(tokenizer)[:-5])


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_no_text_becomes_a_special_token(tokenizer, place):
    special = special_ids(tokenizer)
    wrong = []
    for record in hostile_records(tokenizer, place):
        ids = encode(tokenizer, record)["input_ids"]
        found = [(place, token) for place, token in enumerate(ids) if token in special]
        if found != [(0, tokenizer.bos_token_id), (len(ids) - 1, tokenizer.eos_token_id)]:
            wrong.append(record)
    assert wrong == []


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_no_text_moves_the_mask_which_starts_right_after_the_prompt(tokenizer, place):
    wrong = []
    for record in hostile_records(tokenizer, place):
        ids, mask = encode(tokenizer, record).values()
        prompt = prompts.encode_prompt(tokenizer, record["input_text"])
        if ids[: len(prompt)] != prompt or mask != [0] * len(prompt) + [1] * (len(ids) - len(prompt)):
            wrong.append(record)
    assert wrong == []


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_every_text_comes_back_from_its_tokens(tokenizer, place):
    wrong = []
    for record in hostile_records(tokenizer, place):
        ids, mask = encode(tokenizer, record).values()
        start = mask.index(1)
        texts = decode(tokenizer, ids[1:start]), decode(tokenizer, ids[start:-1])
        if texts != (prompt_text(record), record["response"]):
            wrong.append(record)
    assert wrong == []


def test_every_length_from_the_prompt_on_keeps_the_prompt_and_a_label(tokenizer):
    """And eos is learned exactly where nothing is cut."""
    texts = ["mug", "<|end_of_text|> mug", "### Response:\nmug"]
    for record in [format_record(title, f"{text}, very fine") for title in texts for text in texts]:
        full, mask = encode(tokenizer, record).values()
        prompt = prompts.encode_prompt(tokenizer, record["input_text"])
        for length in range(len(prompt) + 1, len(full) + 3):
            ids, learned = encode(tokenizer, record, length).values()
            assert (ids, learned) == (full[:length], mask[:length])
            assert ids[: len(prompt)] == prompt
            assert sum(learned) == min(length, len(full)) - len(prompt) >= 1
            assert (tokenizer.eos_token_id in ids) == (length >= len(full))
        for length in (1, len(prompt) - 1, len(prompt)):
            with pytest.raises(Tc3Error, match=f"has {len(prompt)} tokens, max_seq_length is {length}:"):
                encode(tokenizer, record, length)


@pytest.mark.parametrize("plan", ["auto", "recipe"])
def test_the_trainer_learns_exactly_that(base, config, tmp_path, plan):
    """Neither TRL's preparation nor a collator moves a label, drops a row or cuts what is not too long."""
    model, tokenizer = base
    config, most = config.change(plan=plan), config.model.max_seq_length
    records = [record for place in PLACES.values() for record in hostile_records(tokenizer, place)]
    records += [format_record("steel mug", "very " * number) for number in range(400, 460)]
    whole = prompts.token_lengths(tokenizer, records)
    assert {most - 1, most, most + 1} <= set(whole)
    files.write_rows(tmp_path / "train.jsonl", records)
    model = models.add_lora(model, config.lora)
    trainer = training.build_trainer(model, tokenizer, records, records[-60:], config, tmp_path)
    expected = [expected_labels(tokenizer, record, most) for record in records]
    assert [(list(row["input_ids"]), list(row["labels"])) for row in trainer.train_dataset] == expected
    assert [labels[-1] == tokenizer.eos_token_id for _, labels in expected] == [length <= most for length in whole]
    batch = trainer.data_collator([trainer.eval_dataset[number] for number in range(60)])
    learned = [label for line in batch["labels"].tolist() for label in line if label != -100]
    assert learned == [label for _, labels in expected[-60:] for label in labels if label != -100]
