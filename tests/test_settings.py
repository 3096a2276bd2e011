import ast
import dataclasses
import importlib.util
import inspect
import json
from pathlib import Path
from typing import get_args

import pytest

from tc3lib import presets, settings
from tc3lib.errors import Tc3Error
from tc3lib.runtime import preflight
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
    assert getattr(getattr(settings.get("llama3_8b"), section), name) == RECIPE[section, name]


def test_the_recipes_warm_up_is_a_fifth_of_its_steps():
    from transformers import TrainingArguments

    arguments = TrainingArguments(warmup_steps=settings.get("llama3_8b").training.warmup_steps, use_cpu=True)
    assert arguments.get_warmup_steps(60) == 12


def test_tiny_is_the_recipe_but_for_these_settings():
    changed = set()
    for section in ("model", "lora", "training", "data", "generation"):
        one, other = getattr(settings.get("llama3_8b"), section), getattr(settings.get("tiny"), section)
        changed |= {f.name for f in dataclasses.fields(one) if getattr(one, f.name) != getattr(other, f.name)}
    assert changed == {
        "model_name", "use_gradient_checkpointing", "learning_rate", "gradient_accumulation_steps", "max_steps",
        "max_seq_length", "save_steps", "eval_steps", "fallback_source", "eval_rows", "eval_share", "question_rows",
        "max_new_tokens", "generation_batch_size",
    }  # fmt: skip


PRESETS = ["llama3_8b", "llama3_2_1b", "qwen3_4b", "smollm2", "tiny"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_come_by_name(name):
    preset = settings.get(name)
    assert preset == getattr(presets, name)()
    assert preset.preset == name
    assert preset.changes() == {}
    assert preset.requires_gpu == (name not in ("smollm2", "tiny"))


def test_a_misspelt_preset_is_reported():
    with pytest.raises(Tc3Error, match=r"no preset 'llama3-8b'\. Did you mean 'llama3_8b'\?"):
        settings.get("llama3-8b")


@pytest.mark.parametrize("name", ["llama3_2_1b", "qwen3_4b"])
def test_a_preset_for_a_free_t4_is_one_of_unsloths_own_4_bit_models_without_a_licence_to_accept(name):
    config = settings.get(name)
    root = Path(importlib.util.find_spec("unsloth").submodule_search_locations[0])
    assert f'"{config.model.model_name}"' in (root / "models" / "mapper.py").read_text()
    assert not config.model.model_name.startswith(preflight.GATED)
    assert (config.model.load_in_4bit, config.model.dtype) == (True, None)  # float16 on a T4
    assert settings.rows_per_step(config.training) == 32


def test_smollm2_is_the_folder_that_its_script_makes():
    assert settings.get("smollm2").model.model_name == str(settings.runs() / "smollm2-model")


@pytest.mark.parametrize("name", PRESETS)
def test_training_settings_fit_the_real_sftconfig(name, tmp_path):
    from trl import SFTConfig

    values = dataclasses.asdict(settings.get(name).training)
    assert values.keys() <= inspect.signature(SFTConfig).parameters.keys()
    made = SFTConfig(**values | {"output_dir": str(tmp_path), "bf16": False, "use_cpu": True})
    untouched = values.keys() - {"output_dir", "optim", "report_to"}
    assert {n: getattr(made, n) for n in untouched} == {n: values[n] for n in untouched}


@pytest.mark.parametrize("name", PRESETS)
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
    values = dataclasses.asdict(getattr(settings.get("llama3_8b"), section))
    assert values.keys() <= _named_parameters(module, class_name, function)


def _named_parameters(module, class_name, function):
    package = module.partition("/")[0]
    root = Path(importlib.util.find_spec(package).submodule_search_locations[0]).parent
    tree = ast.parse((root / module).read_text())
    owner = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    found = next(node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return {argument.arg for argument in found.args.args + found.args.kwonlyargs}


def test_change_reaches_every_section_and_leaves_the_original_alone():
    old = settings.get("llama3_8b")
    new = old.change(max_steps=5, lora_alpha=32, eval_rows=7, load_in_4bit=False, demo_titles=("a",))
    assert (new.training.max_steps, new.lora.lora_alpha, new.data.eval_rows) == (5, 32, 7)
    assert (new.model.load_in_4bit, new.generation.demo_titles) == (False, ("a",))
    assert old == settings.get("llama3_8b")
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
        ({"moments": 1}, r"there is no setting 'moments'\. There are: bias, "),
        ({"Max_Steps": 1}, r"there is no setting 'Max_Steps'\. It is 'max_steps' here\."),
        ({"temperature": 0.7}, r"there is no setting 'temperature'\. Decoding is greedy"),
        ({"warmup_ratio": 0.1}, r"It is 'warmup_steps' here: below 1 a share of all steps\."),
        ({"preset": "tiny"}, r"there is no setting 'preset'\. Choose it in the first cell of 01_prepare"),
        ({"max_steps": "60"}, r"Expected `int`, got `str` - at `max_steps`"),
        ({"r": 0}, r"Expected `int` >= 1 - at `r`"),
        ({"eval_share": 1.0}, r"Expected `float` < 1.0 - at `eval_share`"),
        ({"max_steps": -5}, r"Expected `int` >= -1 - at `max_steps`"),
        ({"output_dir": "a/b"}, r"Expected `str` matching regex .* - at `output_dir`"),
        ({"output_dir": ".."}, r"at `output_dir`"),
        ({"bias": "some"}, r"a setting does not fit: bias has no 'some'\. There are: all, lora_only, none\."),
        ({"dtype": "bf16"}, r"dtype has no 'bf16'\. There are: bfloat16, float16, float32\."),
        ({"optim": "adamw_8bits"}, r"optim has no 'adamw_8bits'\. Did you mean 'adamw_8bit'\?"),
        ({"lr_scheduler_type": "cosin"}, r"lr_scheduler_type has no 'cosin'\. Did you mean 'cosine'\?"),
        ({"report_to": "wandbb"}, r"report_to has no 'wandbb'\. Did you mean 'wandb'\?"),
        ({"report_to": ("wandb", "x")}, r"report_to has no 'x'\. There are: all, azure_ml, "),
        ({"lr_scheduler_kwargs": {"a": 1}}, r"the scheduler 'linear' has no 'a'\. It takes none: set lr_scheduler_k"),
        (
            {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycle": 1}},
            r"the scheduler 'cosine' has no 'num_cycle'\. Did you mean 'num_cycles'\?",
        ),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, r"needs min_lr or min_lr_rate, such as \{'min_lr': \.\.\.\}\."),
        ({"lr_scheduler_type": "greedy", "eval_strategy": "no"}, r"follows the held-out loss: eval_strategy cannot be"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(changes, message):
    with pytest.raises(Tc3Error, match=message):
        settings.get("llama3_8b").change(**changes)


@pytest.mark.parametrize(
    ("usual", "name"),
    [
        ("lr", "learning_rate"), ("batch_size", "per_device_train_batch_size"), ("epochs", "num_train_epochs"),
        ("num_epochs", "num_train_epochs"), ("lora_r", "r"), ("rank", "r"), ("alpha", "lora_alpha"),
        ("max_length", "max_seq_length"), ("optimizer", "optim"), ("test_size", "eval_share"), ("model", "model_name"),
    ],
)  # fmt: skip
def test_a_usual_name_leads_to_the_setting(usual, name):
    with pytest.raises(Tc3Error, match=rf"there is no setting '{usual}'\. It is '{name}' here\."):
        settings.get("tiny").change(**{usual: 1})


def test_every_usual_name_is_no_setting_itself_and_leads_to_one():
    usual = [other for others in settings._OTHER_NAMES.values() for other in others.split()]
    known = settings.setting_names().keys()
    assert settings._OTHER_NAMES.keys() <= known
    assert known.isdisjoint({*usual, *settings._NO_SETTING})
    assert len({*usual, *settings._NO_SETTING}) == len(usual) + len(settings._NO_SETTING)


def test_the_words_of_optimiser_scheduler_and_tracker_are_those_of_the_pinned_transformers():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    left_out = {
        "galore_adamw", "galore_adamw_8bit", "galore_adafactor", "galore_adamw_layerwise",
        "galore_adamw_8bit_layerwise", "galore_adafactor_layerwise", "apollo_adamw", "apollo_adamw_layerwise",
        "lomo", "adalomo", "schedule_free_radam", "schedule_free_adamw", "schedule_free_sgd",
    }  # fmt: skip
    assert sorted([*get_args(settings.Optimiser), *left_out]) == sorted(kind.value for kind in OptimizerNames)
    assert set(get_args(settings.Scheduler)) == {kind.value for kind in SchedulerType}
    assert set(get_args(settings.Tracker)) == {"none", "all", *INTEGRATION_TO_CALLBACK}


def test_what_a_scheduler_takes_is_what_the_pinned_transformers_gives_it():
    from torch.optim.lr_scheduler import ReduceLROnPlateau
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION, GreedyLR

    given = {"self", "optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    classes = {"reduce_lr_on_plateau": ReduceLROnPlateau, "greedy": GreedyLR}
    for kind, function in TYPE_TO_SCHEDULER_FUNCTION.items():
        parameters = inspect.signature(classes.get(kind.value, function)).parameters
        assert settings.SCHEDULER_KWARGS.get(kind.value, set()) == parameters.keys() - given, kind
        needed = settings.NEEDED_KWARGS.get(kind.value, set())
        without = {name for name in parameters if parameters[name].default is inspect.Parameter.empty} - given
        assert without <= needed <= settings.SCHEDULER_KWARGS.get(kind.value, set())


@pytest.mark.parametrize("several", [("tensorboard", "wandb"), ["tensorboard"], "none"])
def test_trackers_and_what_a_scheduler_takes_reach_the_trainers_arguments(several, tmp_path):
    from trl import SFTConfig

    config = settings.get("tiny").change(
        report_to=several, lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr_rate": 0.1}
    )
    values = dataclasses.asdict(config.training) | {"output_dir": str(tmp_path), "bf16": False, "use_cpu": True}
    made = SFTConfig(**values)
    assert made.report_to == ([] if several == "none" else list(several))
    assert made.lr_scheduler_kwargs == {"min_lr_rate": 0.1}


def test_what_differs_from_the_preset_gives_the_same_settings_again():
    config = settings.get("qwen3_4b").change(max_steps=40, demo_titles=("a",), lora_dropout=0.1, memory_gib=12)
    changes = config.changes()
    assert changes == {"max_steps": 40, "demo_titles": ("a",), "lora_dropout": 0.1, "memory_gib": 12}
    assert settings.get("qwen3_4b").change(**json.loads(json.dumps(changes))) == config
    assert config.change(max_steps=60, demo_titles=settings.get("qwen3_4b").generation.demo_titles).changes() == {
        "lora_dropout": 0.1, "memory_gib": 12,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "rows"), [({}, 2400), ({"max_steps": -1}, None), ({"max_steps": -1, "train_rows": 9}, 9)]
)
def test_01_uses_the_data_settings_the_demo_titles_and_how_many_rows_the_steps_need(changes, rows):
    used = settings.used_by_01(settings.get("tiny").change(workers=3, **changes))
    assert used["train_rows"] == rows
    assert used["demo_titles"] == list(settings.get("tiny").generation.demo_titles)
    assert {"source", "clean", "sample_seed", "eval_share"} <= used.keys()
    assert used.keys().isdisjoint({"workers", "max_damaged", "fallback_source", "learning_rate"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response": "{title}"}, r"response is '{title}'; expected {content} once and no braces but {title}"),
        ({"response": "{content} {x}"}, "response is "),
        ({"response": "{content} {"}, "response is "),
        ({"response": "{content}{content}"}, "response is "),
        ({"instruction": "Descreva {title}"}, "the title follows it, {title} has no place in it"),
        ({"prompt": "chatml"}, "prompt has no 'chatml'. Did you mean 'chat'"),
        ({"output_dir": "lora_model"}, "output_dir is 'lora_model', which the notebooks write: choose another name"),
        ({"output_dir": "export"}, "output_dir is 'export'"),
        ({"output_dir": "loss.jsonl"}, "output_dir is 'loss.jsonl'"),
    ],
)
def test_a_value_that_cannot_be_is_reported_by_its_setting(change, message):
    with pytest.raises(Tc3Error, match=f"^a setting does not fit: .*{message}"):
        settings.get("tiny").change(**change)
    assert settings.get("tiny").change(response="{content}").prompting.response == "{content}"
