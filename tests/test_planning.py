import pytest

from tc3lib import planning, presets


def test_the_recipe_sees_1920_rows_in_60_steps():
    training = presets.llama3_8b().training
    assert planning.rows_per_step(training) == 32
    assert planning.rows_needed(training) == 1920
    assert str(planning.plan(1920, training)) == "60 steps of 32 rows over 1,920 rows: 1.00 epochs (ended by max_steps)"


def test_epochs_decide_when_max_steps_is_off():
    training = presets.llama3_8b().change(max_steps=-1).training
    assert planning.rows_needed(training) is None
    plan = planning.plan(100, training)
    assert (plan.steps, plan.epochs, plan.limited_by) == (16, 4, "num_train_epochs")


@pytest.mark.parametrize(
    ("rows", "settings"),
    [(20, {"max_steps": 7}), (20, {"max_steps": -1}), (17, {"max_steps": -1, "num_train_epochs": 2.5})],
)
def test_the_plan_is_what_the_trainer_does(rows, settings, tmp_path, base, config):
    """Steps and epochs as TRL's own trainer counts them, without a step being made."""
    from tc3lib import models, training
    from tc3lib.prompts import format_record

    config = config.change(gradient_accumulation_steps=1, **settings)
    model, tokenizer = base
    records = [{"uid": str(n), "part": "train", **format_record(f"Mug {n}", "A mug.")} for n in range(rows)]
    trainer = training.build_trainer(models.add_lora(model, config.lora), tokenizer, records, records, config, tmp_path)
    loader = trainer.get_train_dataloader()
    steps = trainer.set_initial_training_values(trainer.args, loader)[-1]
    assert planning.plan(rows, config.training).steps == steps
