"""A model is asked which way rows may pass through it; whatever is wrong is found, and is no error."""

from contextlib import nullcontext

import pytest
import torch
from families import make

from tc3lib import model_loading, prompts, settings
from tc3lib.prompts import format_record
from tc3lib.training import packed_attention, ways

RECORDS = [format_record("Mug", "Steel. " * many) for many in (1, 2, 3, 9)]


def choose(model, rows, share_prefix):
    return ways.choose(model, rows, [len(row["input_ids"]) for row in rows], share_prefix)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Return a loader of base models in float32, each with rows of its tokens."""

    def load(name):
        folder = make(name, tmp_path_factory.mktemp(name) / name)
        config = settings.get("tiny").change(model_name=str(folder), load_in_4bit=False, dtype="float32")
        model, tokenizer = model_loading.load_base_model(config.model)
        return model, prompts.encode_rows(tokenizer, RECORDS)

    return load


@pytest.fixture
def llama(load):
    return load("llama3")


@pytest.fixture
def gemma2(load, monkeypatch):
    """As if there were a GPU: without one padding-free is never tried."""
    loaded = load("gemma2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return loaded


def test_a_line_that_does_not_mean_its_rows_is_found_by_its_logits(llama, monkeypatch):
    assert choose(*llama, share_prefix=True) == choose(*llama, share_prefix=False) == "packed"
    monkeypatch.setattr(ways, "shared_prefix", lambda *_: nullcontext())  # rows do not see the prefix
    assert choose(*llama, share_prefix=True) == "padded"


def test_a_window_is_tried_with_the_longest_row(load, monkeypatch):
    model, rows = load("mistral")
    assert choose(model, rows, share_prefix=True) == "packed"
    attend = packed_attention.attend
    monkeypatch.setattr(
        packed_attention, "attend", lambda *line, **named: attend(*line, **named | {"window_size": None})
    )
    assert choose(model, rows, share_prefix=True) == "padded"
    model.config.sliding_window = max(len(row["input_ids"]) for row in rows)
    assert choose(model, rows, share_prefix=True) == "packed"


def test_a_soft_cap_is_computed_and_takes_trls_padding_free_way(gemma2):
    model, rows = gemma2
    assert model.config._attn_implementation == "eager"
    assert choose(model, rows, share_prefix=True) == "padding-free"


def test_where_padding_free_is_not_right_either_rows_are_padded(gemma2, monkeypatch):
    model, rows = gemma2
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda position_ids=None, **inputs: forward(**inputs))
    assert choose(model, rows, share_prefix=True) == "padded"


@pytest.mark.parametrize("error", [TypeError("packed_seq_lengths"), AssertionError()])
def test_a_model_that_cannot_even_be_asked_is_no_error(gemma2, monkeypatch, error):
    def forward(**_):
        raise error

    model, rows = gemma2
    monkeypatch.setattr(model, "forward", forward)
    assert choose(model, rows, share_prefix=True) == "padded"


def out_of_memory_above(model, monkeypatch, most):
    """Let a pass of more tokens than `most` fail; return the tokens of all passes."""
    forward, asked = model.forward, []

    def limited(input_ids, **inputs):
        asked.append(input_ids.numel())
        if asked[-1] > most:
            raise torch.OutOfMemoryError
        return forward(input_ids=input_ids, **inputs)

    monkeypatch.setattr(model, "forward", limited)
    return asked


@pytest.mark.parametrize("load_name", ["llama3", "gemma2"])
def test_where_memory_is_short_shorter_rows_answer(load, monkeypatch, capsys, load_name):
    """A row is cut, but not so that it has no label; it is still found out what the model can."""
    model, tokens = load(load_name)
    rows = [*tokens, {name: values[:-1] + values[-1:] * 1000 for name, values in tokens[0].items()}]
    asked = out_of_memory_above(model, monkeypatch, 400)
    found = choose(model, rows, share_prefix=True)
    assert found == ("packed" if load_name == "llama3" else "padded")
    assert asked[0] > 1000 and max(asked[1:]) < asked[0]
    assert "too little memory" not in capsys.readouterr().out


def test_where_not_even_short_rows_can_be_tried_memory_is_named(llama, monkeypatch, capsys):
    asked = out_of_memory_above(llama[0], monkeypatch, 0)
    assert choose(*llama, share_prefix=True) == "padded"
    assert len(asked) > 0
    assert capsys.readouterr().out.startswith("too little memory to find out")


def test_a_row_is_not_cut_to_where_a_window_does_not_matter(load, monkeypatch, capsys):
    model, rows = load("mistral")
    window, longest = model.config.sliding_window, max(len(row["input_ids"]) for row in rows)
    assert window < longest
    asked = out_of_memory_above(model, monkeypatch, window)
    assert choose(model, rows, share_prefix=True) == "padded"
    assert all(count > window for count in asked)
    assert "too little memory" in capsys.readouterr().out


def test_logits_that_are_not_numbers_and_dropout_in_the_attention_are_not_packed(llama):
    model, rows = llama
    model.config.attention_dropout = 0.1
    assert choose(model, rows, share_prefix=True) == "padded"
    model.config.attention_dropout = 0.0
    assert choose(model, rows, share_prefix=True) == "packed"
    model.lm_head.weight.data[0, 0] = torch.nan
    assert choose(model, rows, share_prefix=True) == "padded"


def test_several_processes_take_the_way_that_is_right_in_all(llama, monkeypatch):
    monkeypatch.setattr(ways.processes, "gather", lambda found: [found, "padded"])
    assert choose(*llama, share_prefix=True) == "padded"


def test_asking_draws_no_random_number(llama):
    before = torch.get_rng_state()
    choose(*llama, share_prefix=True)
    assert torch.equal(torch.get_rng_state(), before)
