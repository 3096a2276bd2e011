"""The embedded catalogue and base model: ours, remade from their scripts, like the real ones in what matters."""

import importlib.util
import json
import re
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from tc3lib import settings
from tc3lib.catalogue.cleaning import clean_text
from tc3lib.settings import Settings

DATA = Path(__file__).parents[2] / "data"


def load(name):
    """Import a script of data/, which is not a package."""
    sys.path.insert(0, str(DATA))
    try:
        spec = importlib.util.spec_from_file_location(name, DATA / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(DATA))


@pytest.fixture(scope="module")
def rows():
    return [json.loads(line) for line in (DATA / "trn.json").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def usable(rows):
    return [row for row in rows if row["title"].strip() and row["content"].strip()]


def percentile(values, share):
    return sorted(values)[int(share * (len(values) - 1))]


def test_the_script_remakes_the_catalogue_byte_for_byte(tmp_path, monkeypatch):
    module = load("make_catalogue")
    monkeypatch.setattr(sys, "argv", ["make_catalogue.py", "--out", str(tmp_path / "trn.json")])
    module.main()
    assert (tmp_path / "trn.json").read_bytes() == (DATA / "trn.json").read_bytes()


def test_rows_have_the_real_files_form(rows):
    assert len(rows) >= 2000
    assert all(list(row) == ["uid", "title", "content"] for row in rows)
    assert all(re.fullmatch(r"\d{10}|B0[A-Z0-9]{8}", row["uid"]) for row in rows)
    assert len({row["uid"] for row in rows}) == len(rows)


def test_the_demo_titles_have_rows(usable):
    assert set(settings.get("llama3_8b").generation.demo_titles) <= {row["title"] for row in usable}


def test_traits_come_in_the_real_files_proportions(rows, usable):
    def share(rows, trait):
        return sum(bool(trait(row)) for row in rows) / len(rows)

    def repeated(name):
        return 1 - len({row[name] for row in usable}) / len(usable)

    books = [row for row in usable if row["uid"].isdigit()]
    shares = {
        "blank content": (0.30, share(rows, lambda row: not row["content"].strip()), 0.37),  # 33.3 % in the real file
        "blank title": (0.045, share(rows, lambda row: not row["title"].strip()), 0.067),  # 5.6 %
        "usable": (0.58, len(usable) / len(rows), 0.65),  # 61.8 %
        "entities": (
            0.14,
            share(usable, lambda row: re.search(r"&#?\w+;", row["title"] + row["content"])),
            0.20,
        ),  # 17 %
        "edition note": (0.20, share(books, lambda row: "--This text refers to the" in row["content"]), 0.28),  # 24 %
        "repeated content": (0.06, repeated("content"), 0.12),  # 6 to 12 %
        "repeated title": (0.015, repeated("title"), 0.04),  # 1.9 % of titles, 2.9 % of usable rows
        "double space": (0.03, share(usable, lambda row: "  " in row["content"]), 0.20),
        "non-ASCII": (0.03, share(usable, lambda row: not (row["title"] + row["content"]).isascii()), 0.08),
    }
    assert {trait: found for trait, (low, found, high) in shares.items() if not low <= found <= high} == {}


def test_lengths_are_like_the_real_ones(usable):
    lengths = [len(row["content"]) for row in usable]
    assert 35 <= percentile(lengths, 0.05) <= 65  # 47 in the real file
    assert 300 <= percentile(lengths, 0.5) <= 450  # 398
    assert 1400 <= percentile(lengths, 0.95) <= 1900  # 1,728
    assert max(lengths) > 15_000
    assert 40 <= percentile([len(row["title"]) for row in usable], 0.5) <= 62  # 54


def test_there_are_several_kinds_of_product_and_varied_sentences(usable):
    phrases = load("phrases")
    assert len(phrases.KINDS) >= 12
    sentences = Counter(sentence for row in usable for sentence in re.split(r"(?<=[.!?]) +", row["content"]))
    assert len(sentences) > 2000


def test_the_base_model_fits_and_has_llama_3s_special_tokens(tokenizer):
    assert sum(path.stat().st_size for path in (DATA / "base_model").iterdir()) <= 8_000_000
    settings = json.loads((DATA / "base_model" / "config.json").read_text())
    assert settings["architectures"] == ["LlamaForCausalLM"]
    assert len(tokenizer) <= settings["vocab_size"]
    assert len(tokenizer.all_special_tokens) >= 3
    first = tokenizer.convert_tokens_to_ids("<|begin_of_text|>")
    names = ["<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{n}|>" for n in range(4))]
    names += ["<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>"]
    names += [f"<|reserved_special_token_{n}|>" for n in range(5, 251)]
    assert tokenizer.convert_tokens_to_ids(names) == list(range(first, first + 256))
    assert tokenizer("Mug").input_ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("text", ["Piñon — “soft” ™", "日本語 🙂", "a\tb\r\n  c", "### Response:\n"])
def test_the_tokenizer_gives_back_what_it_was_given(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_the_base_models_text_holds_no_title_and_nothing_of_the_prompt(rows):
    module = load("make_corpus")
    titles = module.load_titles()
    for row in rows:
        if row["title"].strip():
            assert {row["title"].strip(), clean_text(row["title"])} <= titles
    documents = list(islice(module.corpus(0), 4000))
    assert not module.titles_in_corpus(titles, documents)
    assert not [text for text in documents if module.FRAME.search(text)]


def test_the_check_for_titles_and_prompt_can_fail(rows):
    module = load("make_corpus")
    title = next(row["title"] for row in rows if len(row["title"]) > 30)
    assert module.titles_in_corpus({title}, [f"She asked for the {title} again."]) == {title}
    for text in ("### Input:", "Below is an instruction that", "The 'Mug' is blue"):
        assert module.FRAME.search(text)


def test_the_tiny_preset_uses_them():
    config: Settings = settings.get("tiny")
    assert Path(config.model.model_name) == DATA / "base_model"
    assert Path(config.data.fallback_source) == DATA / "trn.json"
