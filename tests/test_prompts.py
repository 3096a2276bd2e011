from pathlib import Path
from types import SimpleNamespace

import families
import pytest
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from tc3lib import prompts
from tc3lib.errors import Tc3Error
from tc3lib.settings import PromptSettings
from tc3lib.training import check_rows

TEMPLATE = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:\n{}"
)


def plain(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


def test_the_template_is_the_recipes_to_the_letter():
    assert prompts.PROMPT + "{}" == TEMPLATE
    assert prompts.RECIPE.instruction == "Describe the product [input]"


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
    backend.add_tokens([AddedToken(text, normalized=False) if isinstance(text, str) else text for text in added])
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
    encoded = prompts.encode_rows(tokenizer, rows)
    assert check_rows.check(tokenizer, Path("train.jsonl"), rows, encoded, 2048, prompts.RECIPE) == 0
    found = check_rows.summary(tokenizer, 2, 0, 0, 2048, prompts.RECIPE)
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
        prompts.encode(made(bos_token="<s>"), prompts.format_record("Mug", "A mug."))


LLAMA_3 = """{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}
{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n<|eot_id|>" }}
{%- for message in messages %}
{{- "<|start_header_id|>" + message.role + "<|end_header_id|>\\n\\n" + message.content | trim + "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}{%- endif %}"""
CHATML = """{% for message in messages %}{{ "<|im_start|>" + message.role + "\\n" + message.content + "<|im_end|>\\n" }}
{%- endfor %}{% if add_generation_prompt %}{{ "<|im_start|>assistant\\n" }}
{%- if enable_thinking is defined and enable_thinking is false %}{{ "<think>\\n\\n</think>\\n\\n" }}{% endif %}
{%- endif %}"""
GEMMA = """{{ bos_token }}{% for message in messages %}
{%- if message.role == "system" %}{{ raise_exception("System role not supported") }}{% endif %}
{%- set role = "model" if message.role == "assistant" else message.role %}
{{- "<start_of_turn>" + role + "\\n" + message.content | trim + "<end_of_turn>\\n" }}{% endfor %}
{%- if add_generation_prompt %}{{ "<start_of_turn>model\\n" }}{% endif %}"""
PHI_3 = """{% for message in messages %}{{ "<|" + message.role + "|>\\n" + message.content + "<|end|>\\n" }}{% endfor %}
{%- if add_generation_prompt %}{{ "<|assistant|>\\n" }}{% else %}{{ eos_token }}{% endif %}"""
LLAMA_2 = """{{ bos_token }}{% for message in messages %}{% if message.role == "user" %}
{{- "[INST] " + message.content + " [/INST]" }}{% else %}{{ " " + message.content + " " + eos_token }}{% endif %}
{%- endfor %}"""
CHATS = {
    "llama 3": (
        made(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", chat_template=LLAMA_3,
             added=["<|start_header_id|>", "<|end_header_id|>"]),
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "qwen 3": (
        made(eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML,
             added=["<|im_start|>", "<think>", "</think>"]),
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|im_end|>",
    ),
    "gemma": (
        made(bos_token="<bos>", eos_token="<eos>", chat_template=GEMMA,
             added=["<start_of_turn>", "<end_of_turn>", "\n\n", "▁▁"]),
        "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>",
    ),
    "phi 3": (
        made(bos_token="<s>", eos_token="<|endoftext|>", chat_template=PHI_3,
             added=[AddedToken(f"<|{role}|>", rstrip=True) for role in ("user", "assistant", "end")]),
        "<|user|>\n{}<|end|>\n<|assistant|>\n",
        "<|end|>",
    ),
    "llama 2": (made(bos_token="<s>", eos_token="</s>", chat_template=LLAMA_2), "<s>[INST] {} [/INST]", "</s>"),
}  # fmt: skip
CHAT = PromptSettings(prompt="chat", instruction="Descreva o produto", response="{content}")


@pytest.mark.parametrize(("tokenizer", "text", "end"), CHATS.values(), ids=CHATS)
def test_a_chat_is_the_tokenizers_own_template_of_which_only_the_end_is_learned(tokenizer, text, end):
    """Whatever a title holds: only the template's own tokens are special."""
    usual = {"add_generation_prompt": True, "enable_thinking": False, "date_string": "26 Jul 2024"}
    for title in ["Caneca de aço", "x {title} {content}", *tokenizer.get_added_vocab(), text]:
        user = f"Descreva o produto\n\n{title}"
        record = prompts.format_record(title, f"Uma caneca. {title}", CHAT)
        ids = prompts.encode_prompt(tokenizer, title, CHAT)
        row = prompts.encode(tokenizer, record, template=CHAT)
        assert prompts.prompt_text(tokenizer, title, CHAT) == text.format(user)
        if title.startswith(("C", "x")):
            turns = [{"role": "user", "content": user}]
            assert ids == tokenizer.apply_chat_template(turns, **usual).input_ids
        response, special = row["input_ids"][len(ids) : -1], {*tokenizer.added_tokens_decoder}
        blank = {number for number, token in tokenizer.added_tokens_decoder.items() if not token.content.strip("\n▁")}
        assert row["input_ids"][: len(ids)] == ids
        assert tokenizer.decode(response) == record["response"] == f"Uma caneca. {title}"
        assert special.isdisjoint({*response} - blank)
        framing = [number for number in ids if number in special - blank]
        assert framing == [number for number in prompts.encode_prompt(tokenizer, "", CHAT) if number in special - blank]
        assert row["input_ids"][-1] == prompts.end_id(tokenizer, CHAT) == tokenizer.convert_tokens_to_ids(end)
        assert row["completion_mask"] == [0] * len(ids) + [1] * (len(response) + 1)
        check_rows.check(tokenizer, Path("train.jsonl"), [record], [row], 2048, CHAT)


@pytest.mark.parametrize("name", ["llama2", "smollm2", "qwen2.5"])
def test_chat_programs_ask_with_the_prompt_of_the_training(name, tmp_path):
    """An instruct model's own template would ask what was neither trained nor proved."""
    tokenizer = families.make_tokenizer(families.FAMILIES[name])
    tokenizer.chat_template = own = "{{ messages[0].content | upper }}"
    before = tokenizer.backend_tokenizer.to_str()
    for instruction in (prompts.RECIPE.instruction, "Say \"a\", 'b', {c}, {{ d }}, {% e %}, \\n, \\ and 🙂\n"):
        template = PromptSettings(instruction=instruction)
        prompts.save_tokenizer(tokenizer, tmp_path, template)
        saved = prompts.load_tokenizer(str(tmp_path))
        for title in ("Enamel Kettle, 2 Liter", 'A "mug" {{ 7 * 7 }} \\ 🙂'):
            asked = {"role": "user", "content": title}
            earlier = [{"role": role, "content": "x"} for role in ("system", "user", "assistant")]
            for turns in ([asked], [*earlier, asked]):
                ids = saved.apply_chat_template(turns, add_generation_prompt=True).input_ids
                assert ids == prompts.encode_prompt(saved, title, template)
                assert ids == prompts.encode_prompt(tokenizer, title, template)
    assert (tokenizer.chat_template, tokenizer.backend_tokenizer.to_str()) == (own, before)


def test_a_chat_needs_a_template_that_takes_a_question_and_its_answer(monkeypatch):
    for template, reason in (
        (None, "has no chat template, which prompt='chat' needs: choose an instruct model"),
        ("{{ raise_exception('no\nuser') }}", r"does not take one question and its answer \(no user\)"),
        ("{{ messages[0].content | upper }}", r"\(it changes what is said\): choose an instruct model"),
        ("{{ what.is.this }}", r"\('what' is undefined\)"),
    ):
        with pytest.raises(Tc3Error, match=reason):
            prompts.encode_prompt(made(eos_token="</s>", chat_template=template), "Mug", CHAT)


def test_a_chat_is_previewed_with_its_template_where_that_is_at_hand(monkeypatch, capsys):
    records = [prompts.format_record("Mug", "A mug.", CHAT)]
    assert prompts.preview("nobody/no-such-model", records, CHAT) == "Descreva o produto\n\nMug\n\nA mug."
    assert capsys.readouterr().out.startswith("the chat template is not shown: cannot load the tokenizer")
    monkeypatch.setattr(prompts, "load_tokenizer", lambda name: CHATS["gemma"][0])
    assert prompts.preview("gemma", records, CHAT) == CHATS["gemma"][1].format("Descreva o produto\n\nMug") + "A mug."
    assert prompts.token_lengths("gemma", records, CHAT) == [
        len(prompts.encode(CHATS["gemma"][0], records[0], template=CHAT)["input_ids"])
    ]


@pytest.mark.parametrize("response", ["{content}", "'{title}': {content} ({title})", "A {content}"])
def test_a_response_is_what_is_set_and_gives_the_description_back(response):
    template = PromptSettings(instruction="Descreva", response=response)
    record = prompts.format_record("a {content}", "b {title}", template)
    assert record["instruction"] == "Descreva"
    assert record["response"] == response.replace("{content}", "\1").replace("{title}", "a {content}").replace(
        "\1", "b {title}"
    )
    assert prompts.description(record, template) == "b {title}"


def test_a_preview_is_what_the_model_meets():
    records = [prompts.format_record("Mug", "A mug."), prompts.format_record("Pan", "A pan.")]
    first, second = prompts.preview("", records).split(f"\n\n{'-' * 80}\n\n")
    assert first == prompts.PROMPT.format(prompts.RECIPE.instruction, "Mug") + "The 'Mug' is A mug."
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
