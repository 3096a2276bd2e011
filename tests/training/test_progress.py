import json
from types import SimpleNamespace

import pytest

from tc3lib.training.progress import LossLogger, read_losses


class Trainer:
    """What a LossLogger asks of a trainer."""

    def __init__(self, main=True):
        self.main, self.step_loss, self.step_grad_norm, self.step_tokens = main, None, None, 100

    def is_world_process_zero(self):
        return self.main


def state(step, main=True, last=100):
    return SimpleNamespace(global_step=step, epoch=step / 10, is_world_process_zero=main, max_steps=last)


def logger_for(path, drawn=None, main=True):
    def draw(history, *, keep):
        if drawn is not None:
            drawn.append((len(history), keep))

    return LossLogger(path, Trainer(main), draw)


def make_step(logger, step, loss, every=1, rate=1e-3):
    args = SimpleNamespace(logging_steps=every)
    logger.trainer.step_loss, logger.trainer.step_grad_norm = loss, 0.5
    logger.on_optimizer_step(args, state(step - 1), None, SimpleNamespace(param_groups=[{"lr": rate}]))
    logger.on_step_end(args, state(step), None)


def evaluated(logger, step, loss):
    logger.on_log(SimpleNamespace(logging_steps=1), state(step), None, logs={"eval_loss": loss, "eval_runtime": 1.0})


def test_train_and_eval_losses_are_kept_with_their_steps(tmp_path):
    logger = logger_for(tmp_path / "loss.jsonl")
    logger.on_train_begin(None, state(0), None)
    evaluated(logger, 0, 3.0)
    make_step(logger, 1, 2.5)
    logger.on_log(None, state(2), None, logs={"train_runtime": 5.0})
    assert read_losses(tmp_path / "loss.jsonl") == [
        {"step": 0, "epoch": 0, "eval_loss": 3.0},
        {"step": 1, "epoch": 0.1, "loss": 2.5, "learning_rate": 1e-3, "grad_norm": 0.5},
    ]


def test_a_line_of_several_steps_has_their_mean_loss(tmp_path):
    logger = logger_for(tmp_path / "loss.jsonl")
    logger.on_train_begin(None, state(0), None)
    for step, loss in enumerate((4.0, 2.0, 1.0, 3.0), 1):
        make_step(logger, step, loss, every=2)
    assert [(row["step"], row["loss"]) for row in read_losses(tmp_path / "loss.jsonl")] == [(2, 3.0), (4, 2.0)]


def test_the_file_only_grows_and_a_later_start_hides_what_it_does_again(tmp_path):
    path = tmp_path / "loss.jsonl"
    for begin, steps in ((0, (1, 2, 3)), (2, (3, 4)), (0, (1,))):
        before = path.read_bytes() if path.exists() else b""
        logger = logger_for(path)
        logger.on_train_begin(None, state(begin), None)
        for step in steps:
            make_step(logger, step, 10.0 * begin + step)
        assert path.read_bytes().startswith(before)
        losses = [(row["step"], row["loss"]) for row in read_losses(path)]
        expected = {(0, 3): [(1, 1), (2, 2), (3, 3)], (2, 2): [(1, 1), (2, 2), (3, 23), (4, 24)], (0, 1): [(1, 1)]}
        assert losses == expected[begin, len(steps)]


def test_a_line_cut_short_by_a_kill_costs_that_line_alone(tmp_path):
    path = tmp_path / "loss.jsonl"
    rows = [{"begin": 0}, *({"step": step, "loss": step} for step in range(1, 6))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 6, "lo')
    assert [row["step"] for row in read_losses(path)] == [1, 2, 3, 4, 5]
    logger = logger_for(path)
    logger.on_train_begin(None, state(4), None)
    make_step(logger, 5, 50.0)
    assert [(row["step"], row["loss"]) for row in read_losses(path)] == [(1, 1), (2, 2), (3, 3), (4, 4), (5, 50)]


def test_a_cut_line_costs_no_other_where_a_restored_run_has_nothing_to_mend(tmp_path):
    path = tmp_path / "loss.jsonl"
    rows = [{"step": step, "loss": float(step)} for step in (1, 2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "lo')
    logger = logger_for(path)
    logger.restore({"rows": list(rows), "losses": []})
    logger.on_train_begin(None, state(2), None)
    make_step(logger, 3, 30.0)
    assert [(row["step"], row["loss"]) for row in read_losses(path)] == [(1, 1), (2, 2), (3, 30)]


def test_only_the_main_process_writes_and_draws(tmp_path):
    drawn = []
    logger = logger_for(tmp_path / "loss.jsonl", drawn, main=False)
    logger.on_train_begin(None, state(0, main=False), None)
    make_step(logger, 1, 1.0)
    evaluated(logger, 1, 1.0)
    logger.on_train_end(SimpleNamespace(logging_steps=1), state(1), None)
    assert not (tmp_path / "loss.jsonl").exists()
    assert drawn == []


def test_the_curve_is_kept_after_evaluations_and_drawn_between_them_at_most_now_and_then(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tc3lib.training.progress.time.monotonic", lambda: now[0])
    drawn = []
    logger = logger_for(tmp_path / "loss.jsonl", drawn)
    logger.on_train_begin(None, state(0), None)
    for step in range(1, 9):
        now[0] += 2
        make_step(logger, step, 1.0)
    assert drawn == [(3, False), (6, False)]
    evaluated(logger, 8, 1.0)
    assert drawn[-1] == (9, True)


def test_drawing_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tc3lib.training.progress.time.monotonic", lambda: now[0])
    drawn = []

    def slow(history, *, keep):
        drawn.append(now[0])
        now[0] += 3

    logger = LossLogger(tmp_path / "loss.jsonl", Trainer(), slow)
    logger.on_train_begin(None, state(0), None)
    for step in range(1, 200):
        now[0] += 1
        make_step(logger, step, 1.0)
    assert 3 * len(drawn) / now[0] <= 0.06


def test_the_time_left_is_told_once_after_the_first_steps(tmp_path, capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tc3lib.training.progress.time.monotonic", lambda: now[0])
    logger = logger_for(tmp_path / "loss.jsonl")
    logger.on_train_begin(None, state(0), None)
    for step in range(1, 20):
        now[0] += 60 if step == 1 else 2  # the first step compiles
        make_step(logger, step, 1.0)
        if step == 3:
            now[0] += 30
            evaluated(logger, step, 1.0)
    output = capsys.readouterr()
    told = [line for line in (output.out + output.err).splitlines() if "left, evaluations" in line]
    assert len(told) == 1
    assert told[0].endswith("2.00 s a step: about 3 min 6 s left, evaluations and saving not counted")
    assert "tokens/s=50" in output.err


def test_it_answers_every_event_of_a_trainer_callback(tmp_path):
    from transformers import TrainerCallback

    logger = logger_for(tmp_path / "loss.jsonl")
    events = [name for name in dir(TrainerCallback) if name.startswith("on_")]
    assert len(events) > 10
    args = SimpleNamespace(logging_steps=1)
    for event in events:
        if event not in ("on_log", "on_train_begin", "on_step_end", "on_optimizer_step"):
            assert getattr(logger, event)(args, state(1), None, model=None) is None
    with pytest.raises(AttributeError):
        _ = logger.unheard_of


def test_a_missing_file_has_no_losses(tmp_path):
    assert read_losses(tmp_path / "none.jsonl") == []


def test_an_overflowed_gradient_norm_leaves_readable_json(tmp_path):
    logger = logger_for(tmp_path / "loss.jsonl")
    logger.on_train_begin(None, state(0), None)
    args = SimpleNamespace(logging_steps=1)
    logger.trainer.step_loss, logger.trainer.step_grad_norm = 1.0, float("inf")
    logger.on_step_end(args, state(1), None)
    assert read_losses(tmp_path / "loss.jsonl")[0]["grad_norm"] is None
    assert "Infinity" not in (tmp_path / "loss.jsonl").read_text()


def test_the_bar_ends_with_the_last_step_that_is_safe(tmp_path, capsys):
    logger = logger_for(tmp_path / "loss.jsonl")
    logger.on_train_begin(None, state(0, last=2), None)
    for step in (1, 2):
        make_step(logger, step, 2.0)
        logger.on_save(SimpleNamespace(logging_steps=1), state(step), None)
        logger.saved(step, f"checkpoint-{step}")
    logger.on_train_end(SimpleNamespace(logging_steps=1), state(2), None)
    last = capsys.readouterr().err.rstrip().rpartition("\r")[2]
    assert "2/2" in last
    assert "loss=2.0000" in last
    assert "safe=step 2" in last
