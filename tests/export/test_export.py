"""An export of the tiny model for real: merged weights and Modelfiles, proved in fresh processes, and what fails."""

import json
import shutil
from importlib.metadata import version

import pytest
import torch
from runs import adapter, run
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tc3lib import export, prompts
from tc3lib.errors import Tc3Error
from tc3lib.export import card, merge, ollama, verify
from tc3lib.files import read_json, write_json, write_rows


@pytest.fixture(scope="module")
def exported(config, rows, tmp_path_factory):
    """A run that has learned to describe mugs and to stop, with its export."""
    work = tmp_path_factory.mktemp("exported")
    config = config.change(
        max_steps=40, per_device_train_batch_size=8, gradient_accumulation_steps=1, save_strategy="no",
        eval_strategy="no", eval_on_start=False, max_new_tokens=48,
    )  # fmt: skip
    run(config, rows, work)
    write_rows(work / "questions.jsonl", [{**row, "part": "eval"} for row in rows[:6]])
    write_rows(work / "posttest.jsonl", [posttest(row) for row in rows[:6]])
    report = {"run": read_json(work / "run.json")["run"], "steps": 40, "verdict": {"sentence": "Better."}}
    write_json(work / "report.json", report)
    (work / "lora_model" / "README.md").write_text("# Card of notebook 04\n\n## Limits\n\n- Facts are guessed.\n")
    return work, config, export.export(work, config)


def posttest(row):
    return {"part": "eval", "title": row["input_text"], "loss_sum": 3.0, "loss_tokens": 10, "eos": True}


def test_the_merged_weights_answer_as_the_adapter(exported):
    work, _, record = exported
    found = record["formats"]["merged"]
    assert found["failed"] == []
    assert (found["questions"], found["same_prompt"], found["ended"]) == (6, 1.0, 1.0)
    assert found["same_first_tokens"] >= 0.8
    assert abs(found["loss_difference"]) < 0.02
    assert record["adapter"]["program"].startswith("PEFT ")
    assert record["in_4bit"] == {"loss": pytest.approx(0.3), "ended": 1.0}
    assert json.loads((work / "export.json").read_text()) == json.loads(json.dumps(record))


def test_an_export_writes_these_files_and_no_others(exported):
    work = exported[0]
    found = {str(path.relative_to(work / "export")) for path in (work / "export").rglob("*") if path.is_file()}
    assert found == {
        "README.md", "Modelfile", "Modelfile.adapter", "adapter/adapter_config.json", "adapter/model.safetensors",
        *(f"merged/{name}" for name in (
            "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
            "tokenizer_config.json",
        )),
    }  # fmt: skip


def test_merged_is_base_plus_adapter_in_16_bit(exported):
    work, config, _ = exported
    merged = load_file(work / "export" / "merged" / "model.safetensors")
    base = AutoModelForCausalLM.from_pretrained(config.model.model_name).state_dict()
    lora = load_file(work / "lora_model" / "adapter_model.safetensors")
    name = "model.layers.1.mlp.up_proj"
    a, b = (lora[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    expected = base[f"{name}.weight"].float() + b @ a  # lora_alpha / r is 1
    assert merged[f"{name}.weight"].dtype == torch.bfloat16
    torch.testing.assert_close(merged[f"{name}.weight"].float(), expected, atol=2e-3, rtol=1e-2)
    assert not torch.equal(merged[f"{name}.weight"], base[f"{name}.weight"])


def test_what_is_written_is_for_transformers_4_too(exported):
    """Tried there by hand; the names are what it knows, and it would take 10,000 for a rotary base that it misses."""
    work = exported[0]
    for folder in (work / "lora_model", work / "export" / "merged"):
        tokens = json.loads((folder / "tokenizer_config.json").read_text())
        assert tokens["tokenizer_class"] == "PreTrainedTokenizerFast"
        tokenizer = AutoTokenizer.from_pretrained(folder)
        text = prompts.PROMPT.format(prompts.RECIPE.instruction, "Steel Mug")
        assert tokenizer(text).input_ids == prompts.encode_prompt(tokenizer, "Steel Mug")
    shape = json.loads((work / "export" / "merged" / "config.json").read_text())
    assert shape["rope_theta"] == shape["rope_parameters"]["rope_theta"] == 500000
    assert AutoConfig.from_pretrained(work / "export" / "merged").rope_parameters["rope_theta"] == 500000


def test_the_modelfiles_ask_and_stop_as_the_training_did(exported):
    work, config, _ = exported
    whole, on_base = ((work / "export" / name).read_text() for name in ("Modelfile", "Modelfile.adapter"))
    assert whole.startswith("FROM ./merged\n")
    assert on_base.startswith(f"FROM {config.model.model_name}\nADAPTER ./adapter\n")
    assert (work / "export" / "adapter" / "model.safetensors").read_bytes() == adapter(work)
    for text in (whole, on_base):
        template = text.split('"""')[1]
        assert template.replace("{{ .Prompt }}", "Mug") == prompts.PROMPT.format(prompts.RECIPE.instruction, "Mug")
        parameters = [line.removeprefix("PARAMETER ") for line in text.splitlines() if line.startswith("PARAMETER")]
        assert parameters == [
            'stop "<|end_of_text|>"', "temperature 0", "repeat_penalty 1", "num_predict 48", "num_ctx 512",
        ]  # fmt: skip


def test_a_base_model_of_the_hub_is_to_be_downloaded_beside_the_modelfile(exported, tmp_path, capsys):
    """Ollama refuses the links of the Hub's cache."""
    work, config = shutil.copytree(exported[0], tmp_path / "work"), exported[1]
    ollama.write(work, config, "me/base", ["merged", "q4_k_m", "f16"])
    assert f"for Ollama, in {work / 'export'}: ollama create describe -f Modelfile, then" in capsys.readouterr().out
    assert (work / "export" / "Modelfile").read_text().startswith("FROM ./gguf/model-Q4_K_M.gguf\n")
    assert (
        (work / "export" / "Modelfile.adapter")
        .read_text()
        .startswith("# hf download me/base --local-dir base\nFROM ./base\nADAPTER ./adapter\nTEMPLATE")
    )


def test_the_figures_stand_in_both_model_cards(exported):
    work, config, record = exported
    row = f"| merged | transformers {version('transformers')} | "
    for path in (work / "export" / "README.md", work / "lora_model" / "README.md"):
        text = path.read_text()
        assert text.count("## Exported, and asked again") == 1
        assert row in text
        assert f"{record['adapter']['loss']:.4f}" in text
        assert config.model.model_name not in text
    limits = "\n\n## Limits\n\n- Facts are guessed.\n\n## Exported"
    assert (work / "lora_model" / "README.md").read_text().startswith(f"# Card of notebook 04{limits}")
    merged = (work / "export" / "README.md").read_text()
    assert "library_name: transformers" in merged
    assert prompts.PROMPT.format(prompts.RECIPE.instruction, "{title}") in merged
    assert limits in merged
    assert 'from_pretrained(name, dtype="auto", device_map="auto")' in merged


def test_a_card_has_the_verdict_on_its_own_adapter_alone_and_says_where_it_was_in_4_bit(
    exported, tmp_path, monkeypatch
):
    work, config, record = shutil.copytree(exported[0], tmp_path / "work"), *exported[1:]

    def text(**settings):
        card.write(work, config.change(**settings), record)
        return (work / "export" / "README.md").read_text()

    assert "\nBetter.\n" in text(load_in_4bit=False)
    assert "\nBetter. These scores are those of the adapter on the base model in 4 bit.\n" in text(load_in_4bit=True)
    write_json(work / "run.json", read_json(work / "run.json") | {"run": "a later one"})
    assert "Better." not in text()
    assert "4 bit" not in text(load_in_4bit=True).partition("## Exported")[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "base").mkdir(parents=True)
    record = record | {"base": "models/base"}
    assert "models/base" not in text()
    assert "\nbase with a LoRA adapter" in text()


def test_three_quotes_in_the_instruction_do_not_end_a_modelfiles_template(exported):
    """Ollama's template is Go's, which knows the escape."""
    instruction = 'Say """this""" and {{that}}"""'
    text = ollama._rest(exported[0], exported[1].change(instruction=instruction)).split('"""')
    assert len(text) == 3
    template = text[1].replace('{{ "{{" }}', "{{").replace(r'{{ "\"\"\"" }}', '"""')
    assert template == prompts.PROMPT.format(instruction, "{{ .Prompt }}")


def test_a_wrong_stop_is_found_and_what_was_there_before_stays(exported, tmp_path, monkeypatch):
    """What people report most: answers without end."""
    work, config = shutil.copytree(exported[0], tmp_path / "work"), exported[1]
    before = (work / "export" / "merged" / "generation_config.json").read_bytes()
    right = merge._generation

    def wrong(tokenizer):
        decoding = right(tokenizer)
        decoding.eos_token_id = tokenizer.pad_token_id
        return decoding

    monkeypatch.setattr(merge, "_generation", wrong)
    with pytest.raises(Tc3Error, match=r"merged weights failed.* 0% of its answers end by themselves, 100% of the ada"):
        export.export(work, config)
    record = json.loads((work / "export.json").read_text())
    assert record["formats"]["merged"]["ended"] == 0
    assert "| failed, not offered |" in (work / "export" / "README.md").read_text()
    assert (work / "export" / "merged" / "generation_config.json").read_bytes() == before
    failed = json.loads((work / "export" / "failed" / "merged" / "generation_config.json").read_text())
    assert failed["eos_token_id"] == 3755
    assert adapter(work) == adapter(exported[0])


@pytest.mark.slow
def test_another_adapters_posttest_is_not_compared_and_what_is_not_made_again_is_named(
    exported, tmp_path, monkeypatch, capsys
):
    """03 ran again, 04 did not."""
    work, config = shutil.copytree(exported[0], tmp_path / "work"), exported[1].change(export_to=("merged",))
    asked = verify.questions(work, config)
    assert verify.in_4bit(work, asked)["ended"] == 1
    report = read_json(work / "report.json")
    write_json(work / "report.json", {name: report[name] for name in report.keys() - {"steps"}})  # as they were before
    assert verify.in_4bit(work, asked)["ended"] == 1
    write_json(work / "report.json", report | {"steps": 20})
    write_json(work / "export.json", read_json(work / "export.json") | {"adapter_sha256": "0"})
    (work / "export" / "gguf").mkdir()
    (work / "export" / "gguf" / "model-Q8_0.gguf").touch()
    capsys.readouterr()
    assert export.export(work, config)["in_4bit"] is None
    out = capsys.readouterr().out
    assert "04_posttest was not run with this adapter" in out
    assert "earlier adapter or base model: Modelfile, Modelfile.adapter, adapter, gguf/model-Q8_0.gguf in" in out


def test_formats_that_are_not_made_again_are_kept_if_they_were_proved_with_this_adapter_and_base(
    exported, tmp_path, monkeypatch, capsys
):
    work, config, record = shutil.copytree(exported[0], tmp_path / "work"), *exported[1:]
    asked = verify.questions(work, config)["questions"]
    answers = [{"prompt": verify.prompt(row), "ids": [1], "ended": True, "loss_sum": 1.0} for row in asked]
    monkeypatch.setattr(verify, "ask", lambda *_: {"program": "p", "answers": answers})
    monkeypatch.setattr(merge, "merge", lambda *_: None)
    not_a_number = {"failed": ["its loss differs by nan"], "loss": None}
    earlier = record["formats"] | {"q8_0": {"failed": []}, "q4_k_m": not_a_number}
    for change, kept in [({}, {"merged", "q8_0"}), ({"base": "b"}, {"merged"}), ({"adapter_sha256": "0"}, {"merged"})]:
        write_json(work / "export.json", record | {"formats": earlier} | change)
        made = export.export(work, config.change(export_to=("merged",)))
        assert made["formats"].keys() == kept
        assert {row["verdict"] for row in export.rows(made)} == {"the reference", "as trained", "proved"}
        assert ("out of date, from an earlier adapter or base model: Mod" in capsys.readouterr().out) == bool(change)


def test_a_title_that_is_too_long_is_not_asked(exported, tmp_path, rows, monkeypatch):
    work, config = shutil.copytree(exported[0], tmp_path / "work"), exported[1]
    long, *others = [{**row, "part": "eval"} for row in rows[:4]]
    long["input_text"] = "Steel Mug " * 600
    write_rows(work / "questions.jsonl", [long, *others])
    monkeypatch.setattr(verify, "QUESTIONS", 2)
    asked = verify.questions(work, config)
    assert asked["titles"] == [row["input_text"] for row in others[:2]]
    assert all(title in row["prompt"] for title, row in zip(asked["titles"], asked["questions"], strict=True))
    write_rows(work / "questions.jsonl", [long])
    with pytest.raises(Tc3Error, match=r"no held-out row to prove .*, or none whose title fits max_seq_length=512: "):
        verify.questions(work, config)


def test_a_model_that_cannot_be_opened_says_why(exported, tmp_path):
    work, config, _ = exported
    asked = verify.questions(work, config)
    broken = shutil.copytree(work / "export" / "merged", tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(Tc3Error, match=r"opening .*broken failed: .*cannot load the model in .*broken: "):
        verify.ask("merged", broken, asked)
