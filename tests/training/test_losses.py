import json
import math
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from tc3lib.training import losses
from tc3lib.training.losses import LossLogger, mean_loss, read_losses

STARTED = []


@pytest.fixture(autouse=True)
def closed_bars():
    yield
    while STARTED:
        STARTED.pop().logger.close()


class Training:
    """A trainer's side of the callback: it keeps a `log_history` and calls the events in the trainer's order."""

    def __init__(self, work, history=(), last=100, main=True, **arguments):
        self.path = work / "loss.jsonl"
        step = history[-1]["step"] if history else 0
        self.state = TrainerState(
            global_step=step, max_steps=last, log_history=list(history), is_world_process_zero=main
        )
        self.logger = LossLogger(work, 100, **arguments)
        self.args, self.control = SimpleNamespace(learning_rate=1e-3), TrainerControl()
        self.drawn = []
        self.logger.draw = lambda rows, keep: self.drawn.append((len(rows), keep))
        STARTED.append(self)
        self.event("on_train_begin")

    def event(self, name, **named):
        getattr(self.logger, name)(self.args, self.state, self.control, **named)

    def log(self, **logs):
        self.state.log_history.append({**logs, "epoch": 0.1, "step": self.state.global_step})
        self.event("on_log", logs=logs)

    def step(self, loss, norm=0.5):
        self.state.global_step += 1
        self.event("on_step_end")
        self.log(loss=loss, grad_norm=norm, learning_rate=1e-3)

    def evaluate(self, loss):
        self.log(eval_loss=loss, eval_runtime=1.0)
        self.event("on_evaluate")

    def rows(self):
        return read_losses(self.path)


def values(rows):
    return [(row["step"], row.get("loss", row.get("eval_loss"))) for row in rows]


def test_train_and_eval_losses_are_kept_with_their_steps(tmp_path):
    run = Training(tmp_path)
    run.evaluate(3.0)
    run.step(2.5)
    run.log(train_runtime=5.0, train_loss=2.5)
    assert run.rows() == [
        {"step": 0, "epoch": 0.1, "eval_loss": 3.0},
        {"step": 1, "epoch": 0.1, "loss": 2.5, "learning_rate": 1e-3, "grad_norm": 0.5},
    ]


def test_the_speed_is_that_between_steps_without_evaluations_and_saving(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(losses.time, "monotonic", lambda: now[0])
    run = Training(tmp_path)
    for _ in range(4):
        now[0] += 2
        run.step(1.0)
        now[0] += 30
        run.evaluate(1.0)
        run.event("on_save")
        now[0] += 1
        run.step(1.0)
        now[0] += 2
        run.step(1.0)
    found = [row.get("tokens_per_second") for row in run.rows() if "loss" in row]
    assert found[:3] == [None, None, 50]
    assert set(found[3:]) == {50, None}


def test_the_file_only_grows_and_a_later_start_hides_what_it_does_again(tmp_path):
    first = Training(tmp_path)
    for loss in (1.0, 2.0, 3.0):
        first.step(loss)
    before = first.path.read_bytes()
    again = Training(tmp_path, first.state.log_history[:2])
    again.step(23.0)
    assert again.path.read_bytes().startswith(before)
    assert values(again.rows()) == [(1, 1.0), (2, 2.0), (3, 23.0)]
    anew = Training(tmp_path)
    anew.step(5.0)
    assert values(anew.rows()) == [(1, 5.0)]


def test_what_was_lost_with_a_disk_comes_back_from_the_checkpoint(tmp_path):
    first = Training(tmp_path)
    for loss in (1.0, 2.0, 3.0):
        first.step(loss)
    whole = first.rows()
    lines = first.path.read_text().splitlines(keepends=True)
    first.path.write_text("".join(lines[:2]))
    again = Training(tmp_path, first.state.log_history)
    assert again.rows() == whole == again.logger.rows


def test_a_line_cut_short_by_a_kill_costs_that_line_alone(tmp_path):
    first = Training(tmp_path)
    first.step(1.0)
    first.step(2.0)
    with open(first.path, "a") as file:
        file.write('{"step": 3, "lo')
    again = Training(tmp_path, first.state.log_history)
    again.step(30.0)
    assert values(again.rows()) == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_what_cannot_be_written_is_kept_and_written_once(tmp_path, capsys):
    run = Training(tmp_path)
    run.step(1.0)
    kept = tmp_path / "kept"
    run.path.rename(kept)
    run.path.mkdir()
    for loss in (2.0, 3.0):
        run.step(loss)
    run.evaluate(1.0)
    assert run.drawn[-1] == (4, False)  # the folder may be lost
    run.path.rmdir()
    kept.rename(run.path)
    run.step(4.0)
    assert values(run.rows()) == [(1, 1.0), (2, 2.0), (3, 3.0), (3, 1.0), (4, 4.0)]
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in said] == ["cannot", str(run.path)]


def test_a_short_write_leaves_no_line_twice(tmp_path, monkeypatch):
    """What a full disk took of a line is not written again."""
    run = Training(tmp_path)

    class Full:
        def __init__(self, file):
            self.file, self.calls = file, 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content):
            self.calls += 1
            if self.calls > 1:
                raise OSError(28, "No space left on device")
            return self.file.write(content[:7])

    with monkeypatch.context() as patch:
        patch.setattr(losses, "open", lambda *given, **named: Full(open(*given, **named)), raising=False)  # noqa: SIM115
        run.step(1.0)
    run.step(2.0)
    assert values(run.rows()) == [(1, 1.0), (2, 2.0)]
    assert len(run.path.read_text().splitlines()) == 3


def test_only_the_main_process_writes_and_draws(tmp_path):
    run = Training(tmp_path, main=False)
    run.step(1.0)
    run.evaluate(1.0)
    run.event("on_train_end")
    assert not run.path.exists()
    assert run.drawn == []


def test_the_curve_is_kept_after_evaluations_and_drawn_between_them_now_and_then(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(losses.time, "monotonic", lambda: now[0])
    run = Training(tmp_path)
    run.evaluate(1.0)
    assert run.drawn == []  # one point is no curve
    for _ in range(7):
        now[0] += 10
        run.step(1.0)
    assert run.drawn == [(5, False)]
    run.evaluate(1.0)
    assert run.drawn[-1] == (9, True)
    run.event("on_train_end")
    assert run.drawn[-1] == (9, True)


@pytest.mark.parametrize("error", [MemoryError("no memory"), ValueError("a defect of matplotlib"), OSError("disk")])
def test_a_picture_that_cannot_be_drawn_never_ends_a_run(tmp_path, error, capsys):
    run = Training(tmp_path)

    def fail(rows, keep):
        raise error

    run.logger.draw = fail
    run.step(1.0)
    run.evaluate(1.0)
    run.event("on_train_end")
    assert f"the loss curve could not be drawn: {type(error).__name__}: {error}" in capsys.readouterr().out


def test_a_missing_file_has_no_losses(tmp_path):
    assert read_losses(tmp_path / "none.jsonl") == []


def test_an_overflowed_gradient_norm_leaves_readable_json(tmp_path):
    run = Training(tmp_path)
    run.step(1.0, norm=float("inf"))
    assert run.rows()[0]["grad_norm"] is None
    assert all(json.loads(line, parse_constant=pytest.fail) for line in run.path.read_text().splitlines())


def test_the_bar_ends_with_the_last_step_that_is_safe(tmp_path, capsys):
    safe = [None]
    run = Training(tmp_path, last=2, safe_step=lambda: safe[0])
    for step in (1, 2):
        run.step(2.0)
        run.event("on_save")
        safe[0] = step
    run.event("on_train_end")
    last = capsys.readouterr().err.rstrip().rpartition("\r")[2]
    assert "2/2" in last
    assert "loss=2.0000" in last
    assert "safe=step 2" in last


def test_the_mean_loss_weighs_each_line_by_its_steps():
    assert mean_loss([]) is None
    assert mean_loss([{"step": 2, "loss": 4.0}, {"step": 2, "eval_loss": 9.0}, {"step": 3, "loss": 1.0}]) == 3.0


def test_a_loss_that_was_not_a_number_is_null_and_left_out_of_the_mean(tmp_path):
    run = Training(tmp_path)
    for loss in (4.0, math.nan, math.inf, 1.0):
        run.step(loss)
    assert values(run.rows()) == [(1, 4.0), (2, None), (3, None), (4, 1.0)]
    assert mean_loss(run.rows()) == 2.5
    assert mean_loss(run.rows()[1:3]) is None
    before = run.path.read_bytes()
    assert Training(tmp_path, run.state.log_history).rows() == run.rows()
    assert run.path.read_bytes() == before
