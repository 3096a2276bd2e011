"""What is learned of a row, and what is not, whatever its title and description hold."""

import html
import shutil
from pathlib import Path

import pytest
import trl
from runs import prepared
from steps import rows_of

from tc3lib import prompts, training
from tc3lib.errors import Tc3Error
from tc3lib.prompts import RECIPE, encode, format_record
from tc3lib.training import check_rows

PLACES = {"start": "{}steel mug", "middle": "steel {} mug", "inside a word": "st{}eel mug", "end": "steel mug{}"}
LOOKALIKES = [
    "### Response:", "### Response:\n", "\n\n### Response:\n", "### Instruction:\n", "\n\n### Input:\n",
    "The 'x' is y", "{} {0}", "né “q” 🙂",
]  # fmt: skip


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
    return prompts.PROMPT.format(RECIPE.instruction, record["input_text"])


def decode(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def expected_labels(tokenizer, record, max_length=None):
    row = encode(tokenizer, record, max_length)
    start = len(prompts.encode_prompt(tokenizer, record["input_text"]))
    return row["input_ids"], [-100] * start + row["input_ids"][start:]


def test_the_embedded_tokenizer_has_special_tokens_to_try(tokenizer):
    assert {"<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", tokenizer.pad_token} <= set(hostile(tokenizer))
    assert len(special_ids(tokenizer)) >= 256
    assert all(
        tokenizer.convert_tokens_to_ids(text) in special_ids(tokenizer)
        for text in hostile(tokenizer)[: -len(LOOKALIKES)]
    )


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_no_text_becomes_a_special_token_or_moves_the_mask_and_each_comes_back(tokenizer, place):
    """The mask starts right after the prompt that generation sends."""
    special = special_ids(tokenizer)
    for record in hostile_records(tokenizer, place):
        ids, mask = encode(tokenizer, record).values()
        prompt = prompts.encode_prompt(tokenizer, record["input_text"])
        start = len(prompt)
        assert [at for at, token in enumerate(ids) if token in special] == [0, len(ids) - 1]
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert (ids[:start], mask) == (prompt, [0] * start + [1] * (len(ids) - start))
        assert decode(tokenizer, ids[1:start]) == prompt_text(record)
        assert decode(tokenizer, ids[start:-1]) == record["response"]


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
            assert prompts.encode_rows(tokenizer, [record], length) == [None]
            with pytest.raises(Tc3Error, match=f"fills max_seq_length={length}: raise max_seq_length"):
                encode(tokenizer, record, length)


@pytest.mark.parametrize("plan", ["auto", "recipe"])
def test_the_trainer_learns_exactly_that(tokenizer, config, tmp_path, plan):
    """Neither TRL's preparation nor a collator moves a label, drops a row or cuts what is not too long."""
    config, most = config.change(plan=plan), config.model.max_seq_length
    records = [record for place in PLACES.values() for record in hostile_records(tokenizer, place)]
    records += [format_record("steel mug", "very " * number) for number in range(400, 460)]
    whole = [len(row["input_ids"]) for row in prompts.encode_rows(tokenizer, records)]
    assert {most - 1, most, most + 1} <= set(whole)
    trainer = training.build_trainer(prepared(config, records[-60:] + records[:-60], tmp_path, held_out=60))
    expected = [expected_labels(tokenizer, record, most) for record in records]
    learned_rows = [(row["input_ids"], labels_of(row)) for row in trainer.train_dataset]
    assert learned_rows == expected[-60:] + expected[:-60]
    assert [labels[-1] == tokenizer.eos_token_id for _, labels in expected] == [length <= most for length in whole]
    batch = trainer.data_collator([trainer.eval_dataset[number] for number in range(60)])
    assert rows_of(batch) == expected[-60:]
    assert (batch["labels"] != -100).sum() == sum(label != -100 for _, labels in expected[-60:] for label in labels)
    assert (type(trainer) is trl.SFTTrainer) == (plan == "recipe")


def labels_of(row):
    """TRL puts labels into its rows, ours have the mask alone."""
    if "labels" in row:
        return row["labels"]
    return [token if on else -100 for token, on in zip(row["input_ids"], row["completion_mask"], strict=True)]


def check(tokenizer, rows, max_length, encoded=None):
    encoded = encoded or prompts.encode_rows(tokenizer, rows, max_length)
    return check_rows.check(tokenizer, Path("train.jsonl"), rows, encoded, max_length, RECIPE)


def test_a_sound_tokenizer_passes_and_the_rows_are_counted(tokenizer, rows):
    long = prompts.format_record("Mug", "very " * 500)
    too_long = prompts.format_record("very " * 500, "A mug.")
    assert check(tokenizer, [*rows, long, too_long], 200) == 1
    assert check_rows.summary(tokenizer, 33, 1, 0, 200, RECIPE) == (
        "33 rows: each has one bos and the prompt that generation sends; 32 end in a learned eos, "
        "1 were cut at 200 tokens"
    )


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"add_special_tokens": True}, str, "has not the special tokens of its prompt"),
        ({"split_special_tokens": False}, str, "has not the special tokens of its prompt"),
        ({"split_special_tokens": True}, str.lower, "has a prompt that does not read back as it was written"),
    ],
)
def test_a_tokenizer_that_adds_reads_or_loses_something_is_found(tokenizer, monkeypatch, options, change, message):
    row = prompts.format_record("Mug", "A mug.<|end_of_text|> More.")
    check(tokenizer, [row], 512)
    options = {"add_special_tokens": False} | options
    monkeypatch.setattr(
        prompts, "_ids", lambda tokenizer, texts: tokenizer([change(text) for text in texts], **options).input_ids
    )
    with pytest.raises(Tc3Error, match=rf"train\.jsonl, row 1 \('Mug'\) {message}"):
        check(tokenizer, [row], 512)


def test_training_and_generation_that_disagree_are_found(tokenizer, rows, monkeypatch):
    monkeypatch.setattr(check_rows, "encode_prompts", lambda tokenizer, rows, template: [[1, 2, 3]] * len(rows))
    with pytest.raises(Tc3Error, match="has another prompt than generation sends"):
        check(tokenizer, rows, 512)


def test_a_missing_bos_eos_or_label_is_found(tokenizer, rows):
    encoded = prompts.encode_rows(tokenizer, rows, 512)
    bare = [{name: values[1:] for name, values in row.items()} for row in encoded]
    with pytest.raises(Tc3Error, match="has not the special tokens of its prompt"):
        check(tokenizer, rows, 512, bare)
    cut = [{name: values[:-1] for name, values in row.items()} for row in encoded]
    with pytest.raises(Tc3Error, match="does not end in a learned eos"):
        check(tokenizer, rows, 512, cut)
    unlearned = [row | {"completion_mask": [0] * len(row["input_ids"])} for row in encoded]
    with pytest.raises(Tc3Error, match="has no label"):
        check(tokenizer, rows, 512, unlearned)


def test_what_is_shown_marks_prompt_completion_and_end_and_escapes_text(tokenizer):
    rows = [
        {"uid": "B1", **prompts.format_record("<b>Mug</b>", "A <i>mug</i> & more.")},
        {"uid": "B2", **prompts.format_record("Pan", "very " * 500)},
    ]
    page = check_rows.show(tokenizer, rows, prompts.encode_rows(tokenizer, rows, 200), RECIPE).data
    first, second = page.split("<pre>")[1:]
    prompt = prompts.PROMPT.format(RECIPE.instruction, "<b>Mug</b>")
    assert f"<span class='prompt'>{html.escape(tokenizer.bos_token + prompt)}</span>" in first
    assert (
        "<span class='learned'>The &#x27;&lt;b&gt;Mug&lt;/b&gt;&#x27; is A &lt;i&gt;mug&lt;/i&gt; &amp; more.</span>"
        in first
    )
    assert "<span class='eos'>&lt;|end_of_text|&gt;</span>" in first
    assert "<span class='cut'>cut at 200 tokens</span>" in second
    assert "class='eos'" not in second
    start = prompts.encode(tokenizer, rows[0])["completion_mask"].index(1)
    assert f"uid B1: {start} tokens of prompt," in page


def test_a_chat_is_learned_recorded_and_saved_with_the_end_of_its_turn(config, tmp_path):
    """As `encode` has it, by the trainer; and programs that open the adapter's folder end where it ends."""
    turns = "{{ bos_token }}{% for turn in messages %}{{ turn.role + ': ' + turn.content + '<|eot_id|>' }}{% endfor %}"
    base = shutil.copytree(config.model.model_name, tmp_path / "base")
    (base / "chat_template.jinja").write_text(turns + "{% if add_generation_prompt %}assistant: {% endif %}")
    config = config.change(model_name=str(base), prompt="chat", instruction="Descreva", response="{content}")
    texts = [f"Caneca {number} <|eot_id|>" for number in range(12)]
    records = [format_record(text, f"Uma {text}", config.prompting) for text in texts]
    run = prepared(config, records, tmp_path / "work", held_out=4)
    assert run.record["prompt"] == "<|begin_of_text|>user: Descreva\n\n{title}<|eot_id|>assistant: "
    assert run.record["end"] == "<|eot_id|>"
    assert "each has the chat template and the prompt that generation sends; 12 end in a learned eos" in str(run)
    trainer = training.build_trainer(run)
    rows = [encode(run.tokenizer, record, 512, config.prompting) for record in records]
    expected = [(row["input_ids"], labels_of(row)) for row in rows]
    assert [(row["input_ids"], labels_of(row)) for row in trainer.train_dataset] == expected
    with pytest.raises(Tc3Error, match=r"row 1 .* has another instruction or response than is set: run 01_prepare"):
        check_rows.check(run.tokenizer, Path("train.jsonl"), records, rows, 512, RECIPE)
    prompts.save_tokenizer(run.tokenizer, tmp_path / "saved", config.prompting)
    saved = prompts.load_tokenizer(str(tmp_path / "saved"))
    assert (saved.eos_token, saved("a").input_ids) == ("<|eot_id|>", prompts._ids(saved, ["a"])[0])
    assert encode(saved, records[0], 512, config.prompting) == rows[0]
