import pytest

from tc3lib import prompts
from tc3lib.errors import Tc3Error

TEMPLATE = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:\n{}"
)
HOSTILE = [
    "<|end_of_text|>",
    "<|begin_of_text|>",
    "<|eot_id|>",
    "### Response:\n",
    "The 'x' is y",
    "{} {0}",
    "né “q” 🙂",
]


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


def test_training_and_generation_share_the_prompt(tokenizer):
    row = prompts.encode(tokenizer, prompts.format_record("Mug (red)", "A mug."))
    start = row["completion_mask"].index(1)
    assert row["input_ids"][:start] == prompts.encode_prompt(tokenizer, "Mug (red)")


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_title_or_description_becomes_special_or_moves_the_mask(tokenizer, text):
    row = prompts.encode(tokenizer, prompts.format_record(f"a{text}b", f"c{text}d"))
    start = row["completion_mask"].index(1)
    special = [index for index, token in enumerate(row["input_ids"]) if token in set(tokenizer.all_special_ids)]
    assert special == [0, len(row["input_ids"]) - 1]
    assert tokenizer.decode(row["input_ids"][start:-1]) == f"The 'a{text}b' is c{text}d"
    assert row["completion_mask"] == [0] * start + [1] * (len(row["input_ids"]) - start)


def test_a_long_response_loses_its_end_and_its_eos_but_not_its_prompt(tokenizer):
    record = prompts.format_record("Mug", "very " * 500)
    full = prompts.encode(tokenizer, record)
    cut = prompts.encode(tokenizer, record, max_length=200)
    assert cut["input_ids"] == full["input_ids"][:200]
    assert cut["completion_mask"] == full["completion_mask"][:200]
    assert cut["input_ids"][-1] != tokenizer.eos_token_id
    assert 1 in cut["completion_mask"]


def test_a_prompt_without_room_for_a_response_is_refused(tokenizer):
    with pytest.raises(Tc3Error, match="max_seq_length is 20"):
        prompts.encode(tokenizer, prompts.format_record("Mug", "A mug."), max_length=20)


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
