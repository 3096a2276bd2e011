import json
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from runs import randomise
from transformers import GPTNeoXConfig, OPTConfig

from tc3lib import model_loading, settings
from tc3lib.errors import Tc3Error
from tc3lib.evaluation import generation
from tc3lib.evaluation.answers import read_answer
from tc3lib.prompts import encode_prompt

TITLES = ["Steel Mug", "A Very Long Title of a Book about Lamps, Kettles and Other Things, Third Edition", "Mice"]
SOURCES = [{"uid": "B000000001", "input_text": "Steel Mug", "response": "A mug."}]


def load(config):
    """Load the base model in float32: in low precision sums depend on the padding, and greedy choices on the sums."""
    return model_loading.load_base_model(config.change(dtype="float32", load_in_4bit=False).model)


@pytest.fixture(scope="module")
def asked(config):
    return load(config)


def test_answers_come_in_the_titles_order_and_are_what_generate_wrote(asked, config):
    model, tokenizer = asked
    answers = generation.generate(model, tokenizer, TITLES, config)
    assert [answer.title for answer in answers] == TITLES
    assert generation.generate(model, tokenizer, [], config) == []
    for answer in answers:
        prompt = encode_prompt(tokenizer, answer.title)
        output = model.generate(
            input_ids=torch.tensor([prompt], device=model.device),
            max_new_tokens=24,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )[0, len(prompt) :].tolist()
        assert answer.eos == (tokenizer.eos_token_id in output)
        assert answer.tokens == len(output)
        assert answer.text == tokenizer.decode(output, skip_special_tokens=True).strip()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_answers_as_single_titles_do(asked, config, side):
    """To the last token in float32, on a GPU as well, whatever side the tokenizer pads on by default."""
    rows = [json.loads(line) for line in (settings.EMBEDDED / "trn.json").read_text(encoding="utf-8").splitlines()]
    titles = TITLES + [row["title"] for row in rows if row["title"]][:600:30]
    asked[1].padding_side = side
    together = generation.generate(*asked, titles, config.change(max_new_tokens=16))
    alone = generation.generate(*asked, titles, config.change(max_new_tokens=16, generation_batch_size=1))
    assert together == alone
    assert len({answer.text for answer in together}) > 15


def test_a_base_model_brings_no_decoding_of_its_own(asked, config, tmp_path):
    """Qwen2.5-Instruct has a penalty on repetitions, which vLLM, Ollama and the merged weights do not get."""
    shutil.copytree(config.model.model_name, tmp_path / "base")
    decoding = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3, "max_length": 40, "eos_token_id": 1}
    (tmp_path / "base" / "generation_config.json").write_text(json.dumps(decoding))
    model, tokenizer = load(config.change(model_name=str(tmp_path / "base")))
    assert model.generation_config.eos_token_id == 1
    assert generation.generate(model, tokenizer, TITLES, config) == generation.generate(*asked, TITLES, config)


def test_a_prompt_that_would_be_cut_is_an_error(asked, config):
    """On a GPU unsloth cuts the end off a prompt of more than max_seq_length tokens, of every prompt in its batch."""
    short = config.change(max_seq_length=66)
    for ask in (generation.generate, generation.stream):
        with pytest.raises(Tc3Error, match=r"with 'A Very Long .* has 87 tokens, max_seq_length is 66: shorten"):
            ask(*asked, TITLES, short)


def test_an_answer_ends_at_eos_and_padding_after_it_does_not_count(asked):
    _, tokenizer = asked
    words = tokenizer("A mug.", add_special_tokens=False).input_ids
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    ended = read_answer(tokenizer, "Mug", [*words, eos, pad, pad], [eos])
    assert (ended.text, ended.tokens, ended.eos) == ("A mug.", len(words) + 1, True)
    cut = read_answer(tokenizer, "Mug", words, [eos])
    assert (cut.text, cut.tokens, cut.eos) == ("A mug.", len(words), False)


def test_what_the_generation_config_names_ends_an_answer_too_if_it_is_an_added_token(asked, config, monkeypatch):
    model, tokenizer = asked
    [whole] = generation.generate(model, tokenizer, TITLES[:1], config)
    stop = whole.ids[2]
    monkeypatch.setattr(model.generation_config, "eos_token_id", [tokenizer.eos_token_id, stop])
    assert generation.generate(model, tokenizer, TITLES[:1], config) == [whole]  # a word
    added = {**tokenizer.added_tokens_decoder, stop: None}
    monkeypatch.setattr(type(tokenizer), "added_tokens_decoder", property(lambda _: added))
    [found] = generation.generate(model, tokenizer, TITLES[:1], config)
    assert (found.ids, found.eos) == (whole.ids[: whole.ids.index(stop) + 1], True)
    assert found.text == tokenizer.decode(found.ids[:-1]).strip()


def test_streaming_prints_each_answer_with_its_source(asked, config, capsys):
    model, tokenizer = asked
    same_title = {**SOURCES[0], "uid": "B000000099"}  # of a later question
    answers = generation.stream(model, tokenizer, TITLES[:2], config, [*SOURCES, same_title])
    printed = capsys.readouterr().out
    assert "Steel Mug  [source: uid B000000001]\n" in printed
    assert f"{TITLES[1]}  [source: not in the catalogue]\n" in printed
    assert all(answer.text in printed for answer in answers)
    assert "### Input:" not in printed
    assert answers == generation.generate(model, tokenizer, TITLES[:2], config)
    assert generation.stream(model, tokenizer, TITLES[0], config) == answers[:1]  # one title as a string


def test_a_model_that_trains_with_checkpointing_answers_as_in_evaluation_mode(config):
    model, tokenizer = load(config)
    model = model_loading.add_lora(model, config.change(use_gradient_checkpointing="unsloth").lora).eval()
    expected = generation.generate(model, tokenizer, TITLES, config)
    model.train()
    assert generation.generate(model, tokenizer, TITLES, config) == expected
    assert generation.stream(model, tokenizer, TITLES, config) == expected
    assert model.training


@pytest.fixture
def batches(monkeypatch):
    """The sizes of the batches in order; `fail` returns the error of a batch, or None."""
    seen, answer = [], generation._answer_batch

    def ask(model, tokenizer, prompts, config):
        seen.append(len(prompts))
        if error := ask.fail(len(seen), len(prompts)):
            raise error
        return answer(model, tokenizer, prompts, config)

    ask.fail = lambda number, size: None
    ask.seen = seen
    monkeypatch.setattr(generation, "_answer_batch", ask)
    return ask


def test_where_memory_runs_out_batches_are_halved_and_no_answer_is_lost(asked, config, batches, capsys):
    titles = [f"Mug {n}" for n in range(10)]
    batches.fail = lambda number, size: torch.OutOfMemoryError() if size > 3 else None
    found = generation.generate(*asked, titles, config.change(generation_batch_size=8, max_new_tokens=4))
    assert [answer.title for answer in found] == titles
    assert batches.seen == [8, 4, 2, 2, 2, 2, 2]
    assert "out of memory with 8 titles at once: 4 from here on" in capsys.readouterr().out


def test_a_title_that_memory_cannot_hold_is_an_error(asked, config, batches):
    batches.fail = lambda number, size: torch.OutOfMemoryError()
    with pytest.raises(Tc3Error, match=r"does not hold the answer to one title of \d+ tokens: lower max_new_tokens"):
        generation.generate(*asked, ["Mug"], config)


def interrupted(asked, config, batches, kept, titles):
    """Interrupt a call in its third batch of two titles."""
    settings = config.change(generation_batch_size=2, max_new_tokens=4)
    batches.fail = lambda number, size: KeyboardInterrupt() if number == 3 else None
    with pytest.raises(KeyboardInterrupt):
        generation.generate(*asked, titles, settings, kept)
    batches.fail = lambda number, size: None
    batches.seen.clear()
    return settings


@pytest.mark.parametrize(("lost", "there", "asked_again"), [(0, 4, [2, 2]), (5, 3, [1, 2, 2])])
def test_after_an_interruption_only_what_is_missing_is_asked(
    asked, config, batches, tmp_path, capsys, lost, there, asked_again
):
    """Of a file that was cut short only the last line is missing."""
    titles, kept = [f"Mug {n}" for n in range(8)], tmp_path / "kept"
    settings = interrupted(asked, config, batches, kept, titles)
    content = kept.read_bytes()
    kept.write_bytes(content[: len(content) - lost])
    found = generation.generate(*asked, titles, settings, kept)
    assert batches.seen == asked_again
    assert f"{there} of 8 answers were there already" in capsys.readouterr().out
    assert found == generation.generate(*asked, titles, settings)


@pytest.mark.parametrize("change", ["titles", "settings", "adapter", "adapter off", "not ours"])
def test_kept_answers_to_anything_else_are_not_used(config, batches, tmp_path, change):
    model, tokenizer = load(config)
    model = model_loading.add_lora(model, config.lora).eval()
    titles, kept = [f"Mug {n}" for n in range(8)], tmp_path / "kept"
    settings = interrupted((model, tokenizer), config, batches, kept, titles)
    with model.disable_adapter() if change == "adapter off" else nullcontext():
        if change == "titles":
            titles = [f"Cup {n}" for n in range(8)]
        elif change == "settings":
            settings = settings.change(max_new_tokens=5)
        elif change == "adapter":
            next(weight for name, weight in model.named_parameters() if "lora_B" in name).data += 1
        elif change == "not ours":
            kept.write_bytes(b"\xff[1, 2]\n")
        generation.generate(model, tokenizer, titles, settings, kept)
    assert batches.seen == [2, 2, 2, 2]


def test_a_kept_file_that_cannot_be_written_stops_before_the_first_answer(asked, config, batches, tmp_path):
    with pytest.raises(Tc3Error, match=r"cannot write .*gone/kept: .* Run the settings cell again"):
        generation.generate(*asked, ["Mug"], config, tmp_path / "gone" / "kept")
    assert batches.seen == []


def test_with_the_adapter_off_the_base_model_is_streamed(config):
    model, tokenizer = load(config)
    expected = generation.stream(model, tokenizer, TITLES, config)
    model = randomise(model_loading.add_lora(model, config.lora).eval(), std=0.3)
    tuned = generation.stream(model, tokenizer, TITLES, config)
    assert tuned != expected
    assert generation.stream(model, tokenizer, TITLES, config, adapter=False) == expected
    assert generation.stream(model, tokenizer, TITLES, config) == tuned


def test_answers_at_once_depend_on_memory_and_on_the_longest_of_them():
    shape = SimpleNamespace(
        num_hidden_layers=32, hidden_size=4096, intermediate_size=14_336, vocab_size=128_256, num_attention_heads=32,
        num_key_value_heads=8,
    )  # fmt: skip
    config = settings.get("llama3_8b").generation
    at_once = [
        generation.answers_at_once([100] * 999, config, shape, gib * generation.GIB) for gib in (1, 3, 8, 16, 70)
    ]
    assert at_once[0] == 1  # one title is tried in any case
    assert at_once[0] < at_once[1] < at_once[2] < at_once[3] < at_once[4] == generation.MOST_ANSWERS
    assert 10 < generation.answers_at_once([100] * 10 + [1500] * 200, config, shape, 16 * generation.GIB) < at_once[3]
    assert generation.answers_at_once([100] * 999, config, shape, None) == 32
    for older in (GPTNeoXConfig(), OPTConfig()):  # without num_key_value_heads, or intermediate_size
        assert generation.answers_at_once([100] * 999, config, older, 70 * generation.GIB) > 1


def test_a_chat_is_asked_as_it_was_learned_and_the_end_of_its_turn_ends_the_answer(asked, config, monkeypatch):
    model, tokenizer = asked
    turns = "{% for turn in messages %}{{ turn.role + ': ' + turn.content + '<|eot_id|>' }}{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", turns + "{% if add_generation_prompt %}assistant: {% endif %}")
    chat = config.change(prompt="chat", instruction="Describe")
    end, sent, generate = tokenizer.convert_tokens_to_ids("<|eot_id|>"), [], model.generate

    def ended(**options):
        sent.append(options["input_ids"][0].tolist())
        return torch.cat([generate(**options)[:, :-1], torch.tensor([[end]])], dim=1)

    monkeypatch.setattr(model, "generate", ended)
    [answer] = generation.generate(model, tokenizer, ["Mug <|eot_id|>"], chat)
    [streamed] = generation.stream(model, tokenizer, ["Mug <|eot_id|>"], chat)
    assert sent == [encode_prompt(tokenizer, "Mug <|eot_id|>", chat.prompting)] * 2
    assert tokenizer.decode(sent[0]) == "user: Describe\n\nMug <|eot_id|><|eot_id|>assistant: "
    assert sent[0].count(end) == 1
    assert streamed == answer
    assert answer.ids[-1] == end
    assert answer.eos
    assert generation.stops(model, tokenizer, chat)[:2] == [end, tokenizer.eos_token_id]
    assert generation.made_by(model, tokenizer, chat)["prompt"].startswith("user: Describe\n\n{title}<|eot_id|>")
