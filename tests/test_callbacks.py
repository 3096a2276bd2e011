import json
from types import SimpleNamespace

import pytest

from tc3lib.callbacks import LossLogger, read_losses


def state(step, main=True):
    return SimpleNamespace(global_step=step, epoch=step / 10, is_world_process_zero=main)


def log(logger, step, **logs):
    logger.on_log(None, state(step), None, logs=logs)


def test_train_and_eval_losses_are_kept_with_their_steps(tmp_path):
    logger = LossLogger(tmp_path / "loss.jsonl")
    logger.on_train_begin(None, state(0), None)
    log(logger, 0, eval_loss=3.0, eval_runtime=1.0)
    log(logger, 1, loss="2.5", learning_rate=1e-3, grad_norm=0.5, epoch=0.1)
    log(logger, 2, train_runtime=5.0)
    assert read_losses(tmp_path / "loss.jsonl") == [
        {"step": 0, "epoch": 0, "eval_loss": 3.0},
        {"step": 1, "epoch": 0.1, "loss": 2.5, "learning_rate": 1e-3, "grad_norm": 0.5},
    ]


def test_a_fresh_start_forgets_and_a_resume_keeps_what_it_continues(tmp_path):
    path = tmp_path / "loss.jsonl"
    path.write_text(
        "".join(json.dumps({"step": step, "loss": step}) + "\n" for step in range(1, 6)) + '{"step": 6, "lo'
    )
    LossLogger(path).on_train_begin(None, state(3), None)
    assert [row["step"] for row in read_losses(path)] == [1, 2, 3]
    LossLogger(path).on_train_begin(None, state(0), None)
    assert read_losses(path) == []


def test_only_the_main_process_writes(tmp_path):
    logger = LossLogger(tmp_path / "loss.jsonl")
    logger.on_train_begin(None, state(0, main=False), None)
    logger.on_log(None, state(1, main=False), None, logs={"loss": 1.0})
    assert not (tmp_path / "loss.jsonl").exists()


def test_it_answers_every_event_of_a_trainer_callback(tmp_path):
    from transformers import TrainerCallback

    logger = LossLogger(tmp_path / "loss.jsonl")
    events = [name for name in dir(TrainerCallback) if name.startswith("on_")]
    assert len(events) > 10
    for event in events:
        if event not in ("on_log", "on_train_begin"):
            assert getattr(logger, event)(None, state(1), None, model=None) is None
    with pytest.raises(AttributeError):
        _ = logger.unheard_of


def test_a_missing_file_has_no_losses(tmp_path):
    assert read_losses(tmp_path / "none.jsonl") == []
