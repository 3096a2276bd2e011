"""A chat on a base model that there is in 4 bit alone: trained, exported for real, and tested before and after."""

import json

import pytest
from runs import run
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from tc3lib import export, model_loading, prompts
from tc3lib.evaluation import generation
from tc3lib.files import write_rows

TEMPLATE = (
    "{% for turn in messages %}{{ '<|begin_of_text|>' if loop.first }}"
    "{{ turn.role + ': ' + turn.content + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("chat")


@pytest.fixture(scope="module")
def config(config, work):
    """With a base model whose generation config names the end of a turn alone, not the tokenizer's eos."""
    base, embedded = work / "base-bnb-4bit", config.model.model_name
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    tokenizer = AutoTokenizer.from_pretrained(embedded)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(embedded, quantization_config=nf4)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|eot_id|>")
    model.save_pretrained(base)
    return config.change(
        model_name=str(base), prompt="chat", max_steps=40, per_device_train_batch_size=8, max_new_tokens=48,
        gradient_accumulation_steps=1, save_strategy="no", eval_strategy="no", eval_on_start=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def before(config):
    """What the pretest is made by."""
    return generation.made_by(*model_loading.load_base_model(config.model), config)


@pytest.fixture(scope="module")
def exported(config, rows, work, before):
    run(config, rows, work)
    write_rows(work / "questions.jsonl", [{**row, "part": "eval"} for row in rows[:6]])
    return export.export(work, config)


@pytest.mark.slow
def test_the_posttest_is_asked_as_the_pretest_was(config, work, before, exported):
    """The tokenizer that is saved with the adapter has another eos than the base model's."""
    model, tokenizer = model_loading.load_adapter(work / "lora_model", config.model)
    assert tokenizer.eos_token == "<|eot_id|>"
    assert generation.made_by(model, tokenizer, config) == before


@pytest.mark.slow
def test_the_merged_weights_are_the_dequantised_base_and_answer_as_the_adapter(work, exported):
    found = exported["formats"]["merged"]
    assert (found["failed"], found["same_prompt"], found["ended"]) == ([], 1.0, 1.0)
    assert exported["base"] == str(work / "base-bnb-4bit")
    shape = json.loads((work / "export" / "merged" / "config.json").read_text())
    assert "quantization_config" not in shape
    assert shape["dtype"] == "bfloat16"


@pytest.mark.slow
def test_the_modelfiles_hold_the_chat_template_and_stop_at_the_end_of_the_turn(work, exported):
    for name in ("Modelfile", "Modelfile.adapter"):
        text = (work / "export" / name).read_text()
        asked = f"user: {prompts.RECIPE.instruction}\n\n{{{{ .Prompt }}}}<|eot_id|>assistant: "
        assert text.split('"""')[1] == f"<|begin_of_text|>{asked}"
        assert 'PARAMETER stop "<|eot_id|>"\n' in text
