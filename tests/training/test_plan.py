import dataclasses
from types import SimpleNamespace

import pytest
import torch
from runs import prepared
from transformers import OPTConfig

from tc3lib import settings, training
from tc3lib.errors import Tc3Error
from tc3lib.prompts import format_record
from tc3lib.training import plan

LLAMA = SimpleNamespace(num_hidden_layers=32, hidden_size=4096, intermediate_size=14_336)
LENGTHS = [100] * 1500 + [400] * 400 + [1500] * 20


def test_the_recipe_sees_1920_rows_in_60_steps():
    recipe = settings.get("llama3_8b").training
    assert settings.rows_per_step(recipe) == 32
    assert settings.rows_needed(recipe) == 1920
    found = plan.plan([205] * 1920, recipe)
    assert found.tokens == 60 * 32 * 205
    assert str(found) == (
        "60 steps of 32 rows over 1,920 rows: 1.00 epochs, 393,600 tokens (205 a row). "
        "max_steps=60 decides; num_train_epochs=4 has no effect."
    )


def test_epochs_decide_when_max_steps_is_off():
    whole = settings.get("llama3_8b").change(max_steps=-1).training
    assert settings.rows_needed(whole) is None
    found = plan.plan([10] * 100, whole)
    assert (found.steps, found.epochs, found.limited_by) == (16, 4, "num_train_epochs")
    assert str(found).endswith("num_train_epochs=4 decides; max_steps is off.")


@pytest.mark.parametrize(("rows", "max_steps"), [(192, 60), (32 * 60, -1)])
def test_ten_epochs_have_a_warning_in_one_line(rows, max_steps):
    config = settings.get("llama3_8b").change(max_steps=max_steps, num_train_epochs=10).training
    lines = str(plan.plan([10] * rows, config)).splitlines()
    decides = "max_steps" if max_steps > 0 else "num_train_epochs"
    assert lines[1:] == [
        f"Warning: each row is seen 10 times, so the model will learn the rows by heart. Add rows, or lower {decides}."
    ]
    fewer = plan.plan([10] * (rows + 32), dataclasses.replace(config, num_train_epochs=9))
    assert "Warning" not in str(fewer)


@pytest.mark.parametrize(
    ("rows", "changes"),
    [(20, {"max_steps": 7}), (20, {"max_steps": -1}), (17, {"max_steps": -1, "num_train_epochs": 2.5})],
)
@pytest.mark.parametrize("kind", ["auto", "recipe"])
def test_the_plan_is_what_the_trainer_does(rows, changes, kind, tmp_path, config):
    """Steps and epochs as TRL's own trainer counts them, without a step being made."""
    config = config.change(gradient_accumulation_steps=2, plan=kind, **changes)
    records = [{"uid": str(n), "part": "train", **format_record(f"Mug {n}", "A mug.")} for n in range(rows)]
    run = prepared(config, records, tmp_path)
    trainer = training.build_trainer(run)
    loader = trainer.get_train_dataloader()
    assert run.plan.steps == trainer.set_initial_training_values(trainer.args, loader)[-1]


def fit(free_gib, lengths=LENGTHS, way="packed", **changes):
    return plan.fit(lengths, settings.get("llama3_8b").change(**changes), LLAMA, free_gib, way=way)


def test_much_memory_takes_a_step_in_one_pass_without_recomputing():
    found = fit(70)
    assert found.lora == dataclasses.replace(settings.get("llama3_8b").lora, use_gradient_checkpointing=False)
    assert found.max_tokens > 32 * sum(LENGTHS) / len(LENGTHS)
    assert "in one pass, without checkpointing: 70.0 GiB free" in str(found)


def test_less_memory_cuts_a_step_and_little_memory_recomputes():
    some, little = fit(12), fit(4)
    assert some.lora.use_gradient_checkpointing is False
    assert max(LENGTHS) <= some.max_tokens < 32 * sum(LENGTHS) / len(LENGTHS)
    assert f"in micro-batches of at most {some.max_tokens:,} tokens, without checkpointing" in str(some)
    assert little.lora.use_gradient_checkpointing == "unsloth"
    assert little.max_tokens >= max(LENGTHS)


@pytest.mark.parametrize("free", [3, 4, 6, 8, 12, 15, 20, 33, 70])
def test_a_planned_micro_batch_stays_within_the_memory(free):
    found = fit(free)
    need = found.max_tokens * plan.token_bytes(LLAMA, found.lora.use_gradient_checkpointing) / plan.GIB
    assert need + plan.RESERVE_GIB <= free
    assert "may not fit" not in str(found)


def test_a_model_that_names_its_mlp_otherwise_is_planned_too():
    assert plan.token_bytes(OPTConfig(), True) == plan.token_bytes(
        SimpleNamespace(num_hidden_layers=12, hidden_size=768, intermediate_size=4 * 768), True
    )


def test_a_row_that_may_not_fit_is_reported():
    found = fit(1.6)
    assert found.max_tokens == max(LENGTHS)
    assert str(found).endswith("The longest row (1,500 tokens) may not fit.")


def test_a_step_that_would_take_many_passes_is_recomputed_instead():
    """A pass is launched in the same time however small it is."""
    lengths = [200] * 1000
    assert fit(12, lengths).lora.use_gradient_checkpointing is False
    assert fit(8, lengths).lora.use_gradient_checkpointing == "unsloth"  # 4 passes


def test_a_long_row_alone_makes_it_recompute():
    assert fit(7, [100] * 1000).lora.use_gradient_checkpointing is False
    assert fit(7, [100] * 1000 + [2048]).lora.use_gradient_checkpointing == "unsloth"


def test_without_a_card_checkpointing_stays_as_it_is_set():
    for kind in (True, False, "unsloth"):
        found = fit(None, use_gradient_checkpointing=kind)
        assert found.lora.use_gradient_checkpointing == kind
        assert found.max_tokens <= 32 * max(LENGTHS)


def test_the_recipe_is_left_as_it_was_written():
    config = settings.get("llama3_8b")
    found = fit(70, way="recipe")
    assert (found.max_tokens, found.lora) == (None, config.lora)
    assert str(found) == "plan=recipe: 4 x 8 rows, checkpointing 'unsloth'"


def test_processes_divide_the_recipes_micro_batches():
    recipe = settings.get("llama3_8b").training
    found = [plan.micro_batches(recipe, processes) for processes in (1, 2, 4, 8, 16)]
    assert found == [(8, 4), (8, 2), (8, 1), (4, 1), (2, 1)]
    with pytest.raises(Tc3Error, match=r"the 32 rows of a step .* cannot be divided among 3 processes"):
        plan.micro_batches(recipe, 3)


def test_where_packed_rows_do_not_suit_the_model_trls_trainer_has_the_recipes_micro_batches():
    config = settings.get("llama3_8b")
    found = fit(70, way="padding-free")
    assert (found.max_tokens, found.lora) == (None, config.lora)
    assert str(found) == (
        "packed rows were not found right for this model, so TRL's own trainer takes them padding-free: 4 x 8 rows, "
        "checkpointing 'unsloth'"
    )


@pytest.mark.parametrize(
    ("tokens", "checkpointing", "gib"), [(7019, False, 23.7), (4053, False, 13.8), (6500, "unsloth", 1.4)]
)
def test_the_memory_of_a_token_is_about_what_an_h100_showed(tokens, checkpointing, gib):
    """Peaks above the loaded model: 29.6 and 19.6 GiB in one and in two passes, 7.3 GiB with checkpointing."""
    need = tokens * plan.token_bytes(LLAMA, checkpointing) / plan.GIB
    assert 0.9 * gib < need < 2 * gib


def test_without_a_card_there_is_no_memory_to_plan_with(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert plan.free_gib() is None
    assert plan.free_gib(16) is None
    assert list(plan.peak_memory()) == ["03_train: peak of the process"]


@pytest.mark.parametrize(("limit", "free"), [(None, 18), (16, 10), (40, 18)])
def test_what_torch_has_reserved_and_not_used_is_free_and_a_smaller_card_has_less(monkeypatch, limit, free):
    """A card of 24 GiB: 15 free, 5 reserved and 2 of them used, the rest of others."""
    for name, value in (
        ("is_available", True), ("mem_get_info", (15 * plan.GIB, 24 * plan.GIB)), ("memory_reserved", 5 * plan.GIB),
        ("memory_allocated", 2 * plan.GIB), ("max_memory_reserved", 7 * plan.GIB),
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert plan.free_gib(limit) == free
    assert plan.peak_memory() == {"03_train: peak of the card": 7.0}
