import json
import math
import re
import shutil
import signal
import statistics
import tempfile
from pathlib import Path

import pytest
import torch
from runs import adapter, at_step, losses, prepared, run
from transformers import TrainerCallback

from tc3lib import model_loading, prompts, training
from tc3lib.checkpoints import run_record
from tc3lib.errors import Tc3Error
from tc3lib.runtime import workspace
from tc3lib.training.losses import read_losses


def test_the_settings_arrive_in_the_trainer(config, rows, tmp_path):
    trainer = training.build_trainer(prepared(config, rows, tmp_path))
    arguments = trainer.args
    assert (arguments.max_steps, arguments.learning_rate) == (4, 3e-3)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (8, 1)
    assert arguments.output_dir == str(tmp_path / "outputs")
    assert (arguments.completion_only_loss, arguments.packing, arguments.report_to) == (True, False, [])
    assert arguments.max_length == config.model.max_seq_length == 512


@pytest.fixture(scope="module")
def uninterrupted(config, rows, tmp_path_factory):
    work = tmp_path_factory.mktemp("uninterrupted")
    run(config, rows, work)
    return work


def test_a_run_writes_these_files_and_no_others(uninterrupted):
    found = {str(path.relative_to(uninterrupted)) for path in uninterrupted.rglob("*") if path.is_file()}
    identity = json.loads((uninterrupted / "run.json").read_text())["run"]
    checkpoint = {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "rng_state.pth",
        "scheduler.pt", "tokenizer.json", "tokenizer_config.json", "trainer_state.json", "manifest.json", "run.json",
    }  # fmt: skip
    adapter_files = {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "run.json",
    }  # fmt: skip
    assert found == {
        "train.jsonl", "eval.jsonl", "loss.jsonl", "loss.png", "run.json", "outputs/committed.jsonl",
        *(f"outputs/checkpoint-{step}-{identity}/{name}" for step in (2, 4) for name in checkpoint),
        *(f"lora_model/{name}" for name in adapter_files),
    }  # fmt: skip


def test_losses_are_logged_every_step_and_evaluated_from_the_start(uninterrupted):
    history = read_losses(uninterrupted / "loss.jsonl")
    assert [row["step"] for row in history if "loss" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in history if "eval_loss" in row] == [0, 2, 4]
    result = json.loads((uninterrupted / "run.json").read_text())["result"]
    assert result["steps"] == 4
    assert result["train_loss"] == history[-2]["loss"] < history[1]["loss"]
    assert result["eval_loss"] == history[-1]["eval_loss"] < history[0]["eval_loss"]


def test_the_held_out_loss_is_measured_at_the_end_too(config, rows, tmp_path):
    run(config.change(eval_steps=3), rows, tmp_path)
    history = read_losses(tmp_path / "loss.jsonl")
    assert [row["step"] for row in history if "eval_loss" in row] == [0, 3, 4]
    run(config.change(eval_steps=3), rows, tmp_path)
    assert read_losses(tmp_path / "loss.jsonl") == history


@pytest.mark.parametrize(
    ("dtype", "bf16", "fp16"), [("bfloat16", True, False), ("float16", False, True), ("float32", False, False)]
)
def test_precision_follows_the_model(base, config, rows, tmp_path, monkeypatch, dtype, bf16, fp16):
    """A T4 has no bfloat16, so unsloth loads the model in float16 there."""

    class Settings(Exception):
        pass

    def stop(**settings):
        raise Settings(settings)

    model, tokenizer = base
    model.get_input_embeddings().to(getattr(torch, dtype))
    monkeypatch.setattr(model_loading, "load_base_model", lambda config: (model, tokenizer))
    monkeypatch.setattr("tc3lib.training.run.SFTConfig", stop)
    with pytest.raises(Settings) as raised:
        training.build_trainer(prepared(config, rows, tmp_path))
    assert (raised.value.args[0]["bf16"], raised.value.args[0]["fp16"]) == (bf16, fp16)


def test_another_seed_is_another_run(config, rows, tmp_path, uninterrupted):
    run(config.change(seed=1), rows, tmp_path)
    assert adapter(tmp_path) != adapter(uninterrupted)


def test_an_interrupted_run_continues_to_the_same_adapter(config, rows, tmp_path, uninterrupted, capsys):
    run(config, rows, tmp_path, stop_after=2)
    run(config, rows, tmp_path)
    assert re.search(r"continuing after step 2: .*/checkpoint-2-\w{8} is the newest", capsys.readouterr().out)
    assert adapter(tmp_path) == adapter(uninterrupted)
    assert losses(read_losses(tmp_path / "loss.jsonl")) == losses(read_losses(uninterrupted / "loss.jsonl"))


def test_a_run_that_was_stopped_continues_in_its_session_even_if_it_was_to_start_anew(
    config, rows, tmp_path, uninterrupted
):
    made = prepared(config.change(resume_from_checkpoint=False), rows, tmp_path)
    trainer = training.build_trainer(made)
    trainer.add_callback(at_step(2, lambda: signal.raise_signal(signal.SIGINT)))
    with pytest.raises(Tc3Error, match="stopped by SIGINT after step 2 of 4: run it again"):
        training.train(trainer, made)
    training.train(trainer, made)
    training.save_adapter(trainer, made)
    assert adapter(tmp_path) == adapter(uninterrupted)
    assert not (tmp_path / "run-1").exists()


def test_a_run_that_is_stopped_during_its_last_step_is_finished(config, rows, tmp_path, capsys):
    made = prepared(config, rows, tmp_path)
    trainer = training.build_trainer(made)
    trainer.add_callback(at_step(4, lambda: signal.raise_signal(signal.SIGINT)))
    training.train(trainer, made)
    assert "safe to disconnect: step 4" in capsys.readouterr().out


def test_a_tokenizer_that_cuts_and_pads_continues_its_run_and_cuts_nothing(config, rows, tmp_path, monkeypatch):
    """Many tokenizer.json have the settings of their last use; first rows are encoded, later they come from a cache."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "local"))
    base = shutil.copytree(config.model.model_name, tmp_path / "base")
    content = json.loads((base / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 20, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {
        "strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "!",
    }  # fmt: skip
    (base / "tokenizer.json").write_text(json.dumps(content))
    config = config.change(model_name=str(base))
    run(config, rows, tmp_path / "work", stop_after=2)
    run(config, rows, tmp_path / "work")
    assert training.Run(config, tmp_path / "work").plan.tokens_per_row > 20


@pytest.mark.parametrize("number", [32, 14])
def test_a_finished_run_called_again_changes_nothing(config, rows, tmp_path, number, capsys):
    """With 32 rows the steps end with an epoch, with 14 inside one."""
    config = config.change(lr_scheduler_type="constant")

    def state():
        result = json.loads((tmp_path / "run.json").read_text())["result"]
        return adapter(tmp_path), read_losses(tmp_path / "loss.jsonl"), result["steps"], result["eval_loss"]

    run(config, rows[:number], tmp_path)
    before = state()
    run(config, rows[:number], tmp_path)
    assert "training is finished: loading its last checkpoint" in capsys.readouterr().out
    assert state() == before
    found = sorted(path.name[:-9] for path in (tmp_path / "outputs").glob("checkpoint-*"))
    assert found == ["checkpoint-2", "checkpoint-4"]


@pytest.fixture
def trained(config, rows, tmp_path):
    """A trainer and its run, in a folder of its own; nothing is trained."""
    made = prepared(config, rows, tmp_path / "work")
    return training.build_trainer(made), made


def test_an_old_adapter_stays_until_the_new_one_is_whole(trained, monkeypatch):
    trainer, made = trained
    training.save_adapter(trainer, made)
    before = adapter(made.work)

    def failing(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(type(trainer.processing_class), "save_pretrained", failing)
        with pytest.raises(
            Tc3Error, match=r"cannot write .*/lora_model: disk full\. The adapter of the last saved step"
        ):
            training.save_adapter(trainer, made)
    assert adapter(made.work) == before
    training.save_adapter(trainer, made)
    assert [path.name for path in made.work.iterdir() if "lora" in path.name] == ["lora_model"]
    made.work = made.work / "lost"
    with pytest.raises(Tc3Error, match=r"cannot write .*lost/lora_model: "):
        training.save_adapter(trainer, made)
    assert not made.work.exists()


def test_an_adapter_survives_a_break_between_the_two_renames(trained, monkeypatch):
    trainer, made = trained
    training.save_adapter(trainer, made)
    before = adapter(made.work)
    rename = Path.rename

    def breaks(path, target):
        if path.name == ".lora_model.new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", breaks)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            training.save_adapter(trainer, made)
        assert (made.work / ".lora_model.old" / "adapter_model.safetensors").read_bytes() == before
    monkeypatch.undo()
    training.save_adapter(trainer, made)
    assert [path.name for path in made.work.iterdir() if "lora" in path.name] == ["lora_model"]


def test_other_settings_do_not_continue_an_old_run_and_are_reported_before_the_model_is_loaded(config, rows, tmp_path):
    run(config, rows, tmp_path)
    before, changed = adapter(tmp_path), config.change(learning_rate=1e-3)
    assert training.Run(config, tmp_path).plan.steps == 4
    with pytest.raises(Tc3Error, match=r"another run: learning_rate was 0\.003 and is now 0\.001\. To start anew"):
        training.Run(changed, tmp_path)
    run(changed.change(resume_from_checkpoint=False), rows, tmp_path)
    assert adapter(tmp_path / "run-1") == before != adapter(tmp_path)


def test_a_mean_over_steps_that_were_not_saved_is_logged_before_each_checkpoint(config, rows, tmp_path):
    """Else the steps between the last line and the checkpoint would be lost to a resumed run's losses."""
    run(config.change(logging_steps=3), rows, tmp_path)
    history = read_losses(tmp_path / "loss.jsonl")
    assert [row["step"] for row in history if "loss" in row] == [2, 3, 4]


def test_held_out_losses_are_not_claimed_where_none_was_measured(config, rows, tmp_path, capsys):
    run(config.change(eval_strategy="no"), rows, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text())["result"]["eval_loss"] is None
    assert "held-out" not in capsys.readouterr().out.splitlines()[-2]


def test_rows_are_encoded_again_where_the_loaded_tokenizer_differs(config, rows, tmp_path, monkeypatch):
    """unsloth repairs some tokenizers as it loads a model; generation will use the repaired one."""
    from tokenizers.normalizers import Replace

    load = model_loading.load_base_model

    def load_repaired(config):
        model, tokenizer = load(config)
        tokenizer.backend_tokenizer.normalizer = Replace("MUG", "SAUCEPAN")
        return model, tokenizer

    rows = [prompts.format_record(row["input_text"], prompts.description(row).upper()) for row in rows]
    made = prepared(config, rows, tmp_path)
    monkeypatch.setattr(model_loading, "load_base_model", load_repaired)
    learned, tokens = [made.train_rows[0]["input_ids"]], made.plan.tokens
    training.build_trainer(made)
    learned.append(made.train_rows[0]["input_ids"])
    before, after = map(made.tokenizer.decode, learned)
    assert before.replace("A MUG", "A SAUCEPAN") == after != before
    assert tokens != made.plan.tokens == round(statistics.fmean(made.lengths()) * 8 * 4)


@pytest.mark.parametrize("plan", ["auto", "recipe"])
def test_a_tracker_gets_the_train_and_the_held_out_losses(config, rows, tmp_path, plan):
    """As Weights & Biases and others do, which are callbacks of transformers (`report_to`)."""
    logged = []

    class Tracker(TrainerCallback):
        def on_log(self, args, state, control, logs, **kwargs):
            logged.extend((state.global_step, name) for name in ("loss", "eval_loss") if name in logs)

    made = prepared(config.change(plan=plan), rows, tmp_path)
    trainer = training.build_trainer(made)
    trainer.add_callback(Tracker())
    training.train(trainer, made)
    assert [step for step, name in logged if name == "loss"] == [1, 2, 3, 4]
    assert [step for step, name in logged if name == "eval_loss"] == [0, 2, 4]


def test_a_run_whose_loss_is_not_a_number_replaces_nothing(config, rows, tmp_path):
    """A base model with one weight that is not a number; what an earlier run left stays the result."""
    run(config, rows, tmp_path)
    before = adapter(tmp_path)
    made = prepared(config.change(resume_from_checkpoint=False, max_steps=8), rows, tmp_path)
    shutil.copytree(tmp_path / "lora_model", tmp_path / "kept")
    trainer = training.build_trainer(made)
    with torch.no_grad():
        trainer.model.get_base_model().model.norm.weight[0] = float("nan")
    with pytest.raises(Tc3Error, match=r"the loss is not a number since step 1: .* Lower learning_rate \(now 0\.003\)"):
        training.train(trainer, made)
    assert not list((tmp_path / "outputs").glob("checkpoint-*"))
    with pytest.raises(
        Tc3Error, match=r"needs lora_model/.*It ended without it: the loss is not a number since step 1"
    ):
        workspace.check_inputs(tmp_path, "04_posttest")
    shutil.move(tmp_path / "kept", tmp_path / "lora_model")
    with pytest.raises(Tc3Error, match=r"weights that are not numbers: .*lora_model stays as it was"):
        training.save_adapter(trainer, made)
    assert adapter(tmp_path) == before == adapter(tmp_path / "run-1")
    with pytest.raises(Tc3Error, match=r"lora_model is not the result of the last run.*the loss is not a number"):
        run_record.check_adapter(tmp_path)


@pytest.mark.parametrize("plan", ["auto", "recipe"])
def test_a_loss_that_is_not_a_number_is_forgiven_unless_three_follow_each_other(config, rows, tmp_path, plan):
    """As one that overflows in float16: transformers alone would log NaN from there on."""
    config = config.change(plan=plan, max_steps=12, logging_steps=10, eval_strategy="no", eval_on_start=False)
    made = prepared(config, rows, tmp_path)
    trainer = training.build_trainer(made)
    bad, true = {2: math.inf, 4: math.nan, 5: math.nan, 9: math.nan, 10: math.inf, 11: -math.inf}, {}
    step = trainer.training_step

    def reported(*given):
        loss, number = step(*given), trainer.state.global_step + 1
        true[number] = true.get(number, 0) + float(loss)
        return loss * bad.get(number, 1)

    trainer.training_step = reported  # the gradients are as ever
    with pytest.raises(Tc3Error, match=r"the loss is not a number since step 9: nothing was saved since"):
        training.train(trainer, made)
    found = {row["step"]: row["loss"] for row in read_losses(tmp_path / "loss.jsonl")}
    assert found == dict.fromkeys(bad) | {
        3: pytest.approx(true[3]),
        6: pytest.approx(true[6]),
        8: pytest.approx((true[7] + true[8]) / 2),
    }
    assert sorted(path.name[:12] for path in (tmp_path / "outputs").glob("check*")) == ["checkpoint-6", "checkpoint-8"]
