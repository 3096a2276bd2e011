import ast
import dataclasses
import importlib.util
import inspect
from pathlib import Path

import pytest

from tc3lib import settings
from tc3lib.errors import Tc3Error
from tc3lib.settings import Settings

# The user's recipe, copied from the challenge's notebook: (section, setting) -> value.
RECIPE = {
    ("model", "model_name"): "unsloth/llama-3-8b-bnb-4bit",
    ("model", "max_seq_length"): 2048,
    ("model", "dtype"): None,
    ("model", "load_in_4bit"): True,
    ("lora", "r"): 16,
    ("lora", "lora_alpha"): 16,
    ("lora", "lora_dropout"): 0,
    ("lora", "bias"): "none",
    ("lora", "target_modules"): ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    ("lora", "use_gradient_checkpointing"): "unsloth",
    ("lora", "random_state"): 3407,
    ("lora", "use_rslora"): False,
    ("lora", "loftq_config"): None,
    ("training", "per_device_train_batch_size"): 8,
    ("training", "gradient_accumulation_steps"): 4,
    ("training", "warmup_steps"): 0.2,  # the recipe's warmup_ratio
    ("training", "learning_rate"): 3e-5,
    ("training", "max_steps"): 60,
    ("training", "num_train_epochs"): 4,
    ("training", "logging_steps"): 1,
    ("training", "optim"): "adamw_8bit",
    ("training", "weight_decay"): 0.01,
    ("training", "lr_scheduler_type"): "linear",
    ("training", "seed"): 3407,
    ("training", "output_dir"): "outputs",
    ("training", "save_strategy"): "steps",
    ("training", "save_steps"): 10,
    ("data", "source"): "trn.json",
    ("generation", "demo_titles"): ("Nice for Mice", "On Happiness, U.S. Edition", "The book of revelation"),
    ("generation", "max_new_tokens"): 128,
}


@pytest.mark.parametrize(("section", "name"), RECIPE)
def test_llama3_8b_is_the_users_recipe(section, name):
    assert getattr(getattr(settings.llama3_8b(), section), name) == RECIPE[section, name]


def test_the_recipes_warm_up_is_a_fifth_of_its_steps():
    from transformers import TrainingArguments

    arguments = TrainingArguments(warmup_steps=settings.llama3_8b().training.warmup_steps, use_cpu=True)
    assert arguments.get_warmup_steps(60) == 12


def test_tiny_is_the_recipe_but_for_these_settings():
    changed = set()
    for section in ("model", "lora", "training", "data", "generation"):
        one, other = getattr(settings.llama3_8b(), section), getattr(settings.tiny(), section)
        changed |= {f.name for f in dataclasses.fields(one) if getattr(one, f.name) != getattr(other, f.name)}
    assert changed == {
        "model_name", "use_gradient_checkpointing", "learning_rate", "gradient_accumulation_steps", "max_steps",
        "max_seq_length", "save_steps", "eval_steps", "fallback_source", "eval_rows", "eval_share", "question_rows",
        "max_new_tokens", "generation_batch_size",
    }  # fmt: skip


def test_presets_come_by_name_and_a_misspelt_name_is_told():
    assert settings.get("tiny") == settings.tiny()
    with pytest.raises(Tc3Error, match=r"no preset 'llama3-8b' \(TC3_PRESET\)\. Did you mean 'llama3_8b'\?"):
        settings.get("llama3-8b")


@pytest.mark.parametrize("name", ["llama3_8b", "tiny"])
def test_training_settings_fit_the_real_sftconfig(name, tmp_path):
    from trl import SFTConfig

    values = dataclasses.asdict(settings.get(name).training)
    assert values.keys() <= inspect.signature(SFTConfig).parameters.keys()
    made = SFTConfig(**values | {"output_dir": str(tmp_path), "bf16": False, "use_cpu": True})
    untouched = values.keys() - {"output_dir", "optim", "report_to"}
    assert {n: getattr(made, n) for n in untouched} == {n: values[n] for n in untouched}


@pytest.mark.parametrize("name", ["llama3_8b", "tiny"])
def test_lora_settings_fit_the_real_loraconfig(name):
    from peft import LoraConfig

    values = dataclasses.asdict(settings.get(name).lora)
    for unsloths_own in ("use_gradient_checkpointing", "random_state"):
        values.pop(unsloths_own)
    assert values.keys() <= inspect.signature(LoraConfig).parameters.keys()
    made = LoraConfig(**values | {"loftq_config": values["loftq_config"] or {}})
    assert (made.r, made.lora_alpha, set(made.target_modules)) == (16, 16, set(values["target_modules"]))


@pytest.mark.parametrize(
    ("section", "module", "class_name", "function"),
    [
        ("model", "unsloth/models/loader.py", "FastLanguageModel", "from_pretrained"),
        ("lora", "unsloth/models/llama.py", "FastLlamaModel", "get_peft_model"),
        ("model", "unsloth_zoo/cpu/loader.py", "FastCPUModel", "from_pretrained"),
        ("lora", "unsloth_zoo/cpu/loader.py", "FastCPUModel", "get_peft_model"),
    ],
)
def test_model_and_lora_settings_fit_unsloths_own_signatures(section, module, class_name, function):
    """The GPU class cannot be imported without a GPU, so its signature is read from its source."""
    values = dataclasses.asdict(getattr(settings.llama3_8b(), section))
    assert values.keys() <= _named_parameters(module, class_name, function)


def _named_parameters(module, class_name, function):
    package = module.partition("/")[0]
    root = Path(importlib.util.find_spec(package).submodule_search_locations[0]).parent
    tree = ast.parse((root / module).read_text())
    owner = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    found = next(node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return {argument.arg for argument in found.args.args + found.args.kwonlyargs}


def test_change_reaches_every_section_and_leaves_the_original_alone():
    old = settings.llama3_8b()
    new = old.change(max_steps=5, lora_alpha=32, eval_rows=7, load_in_4bit=False, demo_titles=("a",))
    assert (new.training.max_steps, new.lora.lora_alpha, new.data.eval_rows) == (5, 32, 7)
    assert (new.model.load_in_4bit, new.generation.demo_titles) == (False, ("a",))
    assert old == settings.llama3_8b()
    assert dataclasses.replace(new.training, max_steps=60) == old.training


def test_setting_names_are_unique_over_all_sections():
    sections = [field.type for field in dataclasses.fields(Settings) if dataclasses.is_dataclass(field.type)]
    names = [field.name for section in sections for field in dataclasses.fields(section)]
    assert len(names) == len(set(names)) == len(settings.setting_names())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_step": 5}, r"there is no setting 'max_step'\. Did you mean 'max_steps'\?"),
        ({"learnin_rate": 1e-3}, r"Did you mean 'learning_rate'\?"),
        ({"zzz": 1}, r"there is no setting 'zzz'\. There are: bias, "),
        ({"max_steps": "60"}, r"Expected `int`, got `str` - at `max_steps`"),
        ({"r": 0}, r"Expected `int` >= 1 - at `r`"),
        ({"eval_share": 1.0}, r"Expected `float` < 1.0 - at `eval_share`"),
        ({"max_steps": -5}, r"Expected `int` >= -1 - at `max_steps`"),
        ({"output_dir": "a/b"}, r"Expected `str` matching regex .* - at `output_dir`"),
        ({"output_dir": ".."}, r"at `output_dir`"),
        ({"bias": "some"}, r"Invalid enum value 'some' - at `bias`"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(changes, message):
    with pytest.raises(Tc3Error, match=message):
        settings.llama3_8b().change(**changes)
