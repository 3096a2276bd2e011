import pytest

from tc3lib import prompts
from tc3lib.errors import Tc3Error

TEMPLATE = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:\n{}"
)


def plain(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


def test_the_template_is_the_recipes_to_the_letter():
    assert prompts.PROMPT + "{}" == TEMPLATE
    assert prompts.INSTRUCTION == "Describe the product [input]"


def test_a_record_is_the_recipes():
    assert prompts.format_record("Mug", "A mug.") == {
        "instruction": "Describe the product [input]",
        "input_text": "Mug",
        "response": "The 'Mug' is A mug.",
    }


def test_the_description_comes_back_even_if_the_title_looks_like_the_pattern():
    assert prompts.description(prompts.format_record("a' is b", "The 'a' is c")) == "The 'a' is c"


def test_ids_and_mask_token_for_token(tokenizer):
    row = prompts.encode(tokenizer, prompts.format_record("Steel Mug", "A mug (12 oz)."))
    prompt = [
        tokenizer.bos_token_id,
        *plain(tokenizer, TEMPLATE.format("Describe the product [input]", "Steel Mug", "")),
    ]
    response = [*plain(tokenizer, "The 'Steel Mug' is A mug (12 oz)."), tokenizer.eos_token_id]
    assert row == {"input_ids": prompt + response, "completion_mask": [0] * len(prompt) + [1] * len(response)}


def test_a_tokenizer_without_bos_is_refused(tokenizer):
    class Bare:
        bos_token_id, eos_token_id, name_or_path = None, 2, "bare"

    with pytest.raises(Tc3Error, match="'bare' needs a bos and an eos token"):
        prompts.encode_prompt(Bare(), "Mug")


def test_a_preview_is_what_the_model_meets():
    records = [prompts.format_record("Mug", "A mug."), prompts.format_record("Pan", "A pan.")]
    first, second = prompts.preview(records).split(f"\n\n{'-' * 80}\n\n")
    assert first == prompts.PROMPT.format(prompts.INSTRUCTION, "Mug") + "The 'Mug' is A mug."
    assert second.endswith("### Input:\nPan\n\n### Response:\nThe 'Pan' is A pan.")


def test_token_lengths_are_those_of_training_uncut(config, tokenizer, rows):
    lengths = prompts.token_lengths(config.model.model_name, rows)
    assert lengths == [len(prompts.encode(tokenizer, row)["input_ids"]) for row in rows]


def test_the_tokenizer_alone_is_the_one_loaded_with_the_model(config, tokenizer, rows):
    alone = prompts.load_tokenizer(config.model.model_name)
    assert [prompts.encode(alone, row) for row in rows] == [prompts.encode(tokenizer, row) for row in rows]


def test_a_tokenizer_that_is_missing_is_named_and_costs_01_only_the_counts(rows, capsys):
    with pytest.raises(Tc3Error, match=r"cannot load the tokenizer of 'nobody/no-such-model' \(model_name\)"):
        prompts.load_tokenizer("nobody/no-such-model")
    assert prompts.token_lengths("nobody/no-such-model", rows) == []
    assert capsys.readouterr().out.startswith("tokens are not counted: cannot load the tokenizer")
