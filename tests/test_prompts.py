from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from tc3lib import prompts
from tc3lib.errors import Tc3Error
from tc3lib.training import check_rows

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


def made(added=(), **special):
    """Return a tokenizer of bytes with the tokens that a family has."""
    backend = Tokenizer(BPE({character: at for at, character in enumerate(sorted(ByteLevel.alphabet()))}, []))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False, use_regex=False), decoders.ByteLevel()
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in added])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


FAMILIES = {
    "bos, eos, pad": made(bos_token="<s>", eos_token="</s>", pad_token="<pad>"),
    "no bos": made(eos_token="<|im_end|>", pad_token="<|endoftext|>", added=["<think>", "</think>", "<tool_call>"]),
    "no pad": made(bos_token="<s>", eos_token="</s>"),
    "pad is eos": made(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"),
    "all one": made(bos_token="<|end|>", eos_token="<|end|>", pad_token="<|end|>", added=["<fim>", "\n\n\n", "▁▁"]),
}


@pytest.mark.parametrize("tokenizer", FAMILIES.values(), ids=FAMILIES)
def test_any_tokenizer_learns_response_and_eos_after_the_prompt_that_generation_sends(tokenizer):
    hostile = " ".join([*tokenizer.get_added_vocab(), "### Response:\n", "mug"])
    record = prompts.format_record(hostile, f"A mug. {hostile}")
    row = prompts.encode(tokenizer, record)
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    prompt = TEMPLATE.format("Describe the product [input]", hostile, "")
    ids = prompts.encode_prompt(tokenizer, hostile)
    assert ids[: len(bos)] == bos
    assert tokenizer.decode(ids[len(bos) :]) == prompt
    assert row["input_ids"][: len(ids)] == ids
    assert tokenizer.decode(row["input_ids"][len(ids) : -1]) == record["response"]
    assert row["input_ids"][-1] == tokenizer.eos_token_id
    assert row["completion_mask"] == [0] * len(ids) + [1] * (len(row["input_ids"]) - len(ids))
    blank = {number for number, token in tokenizer.added_tokens_decoder.items() if not token.content.strip(" ▁\n")}
    assert {*tokenizer.get_added_vocab().values()} & {*row["input_ids"][len(bos) : -1]} == blank
    rows = [record, prompts.format_record("Mug", "A mug.")]
    assert check_rows.check(tokenizer, Path("train.jsonl"), rows, prompts.encode_rows(tokenizer, rows), 2048) == 0
    found = check_rows.found(tokenizer, 2, 0, 0, 2048)
    assert found.startswith(
        f"2 rows: each has {'one' if bos else 'no'} bos and the prompt that generation sends; 2 end"
    )
    processor = SimpleNamespace(tokenizer=tokenizer)
    assert prompts.encode(processor, record) == row
    assert prompts.encode_prompt(processor, hostile) == ids


def test_an_ordinary_tokenizer_encodes_as_transformers_does_and_stays_as_it_was(tokenizer, rows):
    before = tokenizer.backend_tokenizer.to_str()
    texts = [row["response"] for row in rows] + ["<|eot_id|> é 🙂\n\n\n  x", ""]
    assert prompts._ids(tokenizer, texts) == [plain(tokenizer, text) for text in texts]
    assert tokenizer.backend_tokenizer.to_str() == before


def test_a_tokenizer_without_eos_is_refused():
    with pytest.raises(Tc3Error, match="has no eos token, with which a model ends its answer"):
        prompts.encode_prompt(made(bos_token="<s>"), "Mug")


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
