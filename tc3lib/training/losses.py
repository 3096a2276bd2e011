"""What happens while a run trains: losses are kept, drawn and shown, and a loss that stays NaN or infinite ends it.

Weights & Biases and other trackers need no callback of ours: they get what the trainer logs (the setting `report_to`).
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tc3lib import plotting
from tc3lib.errors import Tc3Error
from tc3lib.runtime import processes

DRAW_SECONDS = 30
"""Least time between two drawings, besides those after evaluations."""
MOST_NOT_FINITE = 3
"""Steps in a row with a loss that is NaN or infinite before the run is stopped."""


class LossLogger(TrainerCallback):
    """Append each train and eval loss to `loss.jsonl`, draw them, and show a progress bar.

    The losses are those of the trainer's `log_history`, which every checkpoint carries. The file is only appended to;
    `read_losses` leaves out what a later start did again. Neither a picture that cannot be drawn nor a file that cannot
    be written ends a run: lines are kept and tried again with the next.

    Args:
        work: The work folder. Each line of `loss.jsonl` is `{"step", "epoch", "loss", "learning_rate", "grad_norm",
            "tokens_per_second"}` (training), `{"step", "epoch", "eval_loss"}`, or `{"begin"}`: a start after that step.
            Losses are nats a token; null is what was NaN or infinite.
        tokens_per_step: For the speed, on average.
        safe_step: Returns the step of the last checkpoint that was committed, for the bar.
    """

    def __init__(self, work: Path, tokens_per_step: float, safe_step: Callable[[], int | None] = lambda: None):
        self.path, self.tokens_per_step, self.safe_step = work / "loss.jsonl", tokens_per_step, safe_step
        self.draw = plotting.live_loss(work / "loss.png")
        self.rows: list[dict[str, Any]] = []
        self.unwritten = b""
        self.bar: tqdm | None = None
        self.beside_bar: dict[str, str] = {}
        self.steps, self.seconds = 0, 0.0  # since the last line
        self.step_ended: float | None = None
        self.drawn = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.begin(state)
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

    def begin(self, state: TrainerState) -> None:
        """Note a start; if the file lacks lines that a checkpoint has, because a disk was lost, write them again."""
        self.rows = [row for row in map(_row, state.log_history) if row]
        before = read_losses(self.path)
        known = [row for row in before if row["step"] <= state.global_step] if state.global_step else []
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            self.unwritten = b"\n"  # a line that was cut short stays a line of its own
        if known != self.rows:
            self._append({"begin": 0}, *self.rows)
        elif before != known or not self.path.exists():
            self._append({"begin": state.global_step})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = time.monotonic()
        if self.step_ended is not None:  # from end to end, evaluations and saving left out
            self.steps += 1
            self.seconds += now - self.step_ended
        self.step_ended = now
        if self.bar is not None:
            self.bar.update()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self._keep(state, logs)

    def _keep(self, state: TrainerState, logs: dict[str, Any]) -> None:
        if "loss" in logs and self.seconds:
            state.log_history[-1]["tokens_per_second"] = round(self.steps * self.tokens_per_step / self.seconds)
            self.steps, self.seconds = 0, 0.0
        if row := _row(state.log_history[-1]):
            self.rows.append(row)
            self._append(row)
            self._show(row)
            if time.monotonic() - self.drawn > DRAW_SECONDS:
                self._draw(keep=False)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.step_ended = None
        if state.is_world_process_zero and state.global_step:  # one point is no curve
            self._draw(keep=True)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.step_ended = None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self._append()
            self._draw(keep=True)
        self._show({})
        self.close()

    def close(self) -> None:
        """Close the progress bar, also of a run that ended with an error."""
        if self.bar is not None:
            self.bar.close()

    def _show(self, row: dict[str, Any]) -> None:
        if row.get("loss") is not None:
            self.beside_bar["loss"] = f"{row['loss']:.4f}"
        if "tokens_per_second" in row:
            self.beside_bar["tokens/s"] = f"{row['tokens_per_second']:,}"
        if (safe := self.safe_step()) is not None:
            self.beside_bar["safe"] = f"step {safe}"
        if self.bar is not None:
            self.bar.set_postfix(self.beside_bar, refresh=False)

    def _append(self, *rows: dict[str, Any]) -> None:
        failed = bool(self.unwritten.strip())
        self.unwritten += "".join(json.dumps(row) + "\n" for row in rows).encode()
        try:
            with open(self.path, "ab", buffering=0) as file:
                while self.unwritten:
                    self.unwritten = self.unwritten[file.write(self.unwritten) :]
        except OSError as error:
            if not failed:
                tqdm.write(f"cannot write {self.path}: {error.strerror}. Training goes on, and tries again.")
        else:
            if failed:
                tqdm.write(f"{self.path} can be written again, and nothing is missing in it.")

    def _draw(self, *, keep: bool) -> None:
        try:
            self.draw(self.rows, keep=keep and not self.unwritten)
        except Exception as error:  # whatever a library raises: a picture is not worth a run
            tqdm.write(f"the loss curve could not be drawn: {type(error).__name__}: {error}")
        self.drawn = time.monotonic()


class LossGuard(TrainerCallback):
    """End a run whose loss stays NaN or infinite, and save no checkpoint after such a step.

    A single one may be an overflow in float16, whose step the gradient scaler skips. transformers sums the losses since
    the last log and resets the sum with `tr_loss -= tr_loss`, after which a NaN is still one. So each such step and the
    one after it are logged whatever `logging_steps` is, and the sum is set to 0 here.
    """

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.in_a_row = 0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        finite = all(processes.gather(bool(self.trainer._tr_loss.isfinite())))  # to log is to meet the others
        control.should_log |= not finite or self.in_a_row > 0

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **kwargs: Any
    ) -> None:
        if "loss" not in logs:
            return
        if math.isfinite(logs["loss"]):
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self.trainer._tr_loss.zero_()
        control.should_save = False  # so that the newest checkpoint is a good one
        if self.in_a_row == MOST_NOT_FINITE:
            raise Tc3Error(
                f"the loss is not a number since step {state.global_step - MOST_NOT_FINITE + 1}: nothing was saved "
                f"since, and an earlier lora_model is unchanged. Lower learning_rate (now {args.learning_rate:g}), or "
                "set dtype='bfloat16' or 'float32'; if it is so from the first step on, the base model is damaged."
            )

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_save &= not self.in_a_row  # the epoch's last step was logged already


def read_losses(path: Path | str) -> list[dict[str, Any]]:
    """Return the rows of a loss file in effect, an empty list if there is no file.

    What was logged after the step that a later start continued from is left out, and so are damaged lines.
    """
    rows: list[dict[str, Any]] = []
    for line in Path(path).read_text(errors="replace").splitlines() if Path(path).exists() else []:
        with suppress(ValueError, TypeError):
            row = json.loads(line)
            if "begin" in row:
                rows = [kept for kept in rows if row["begin"] and kept["step"] <= row["begin"]]
            elif "loss" in row or "eval_loss" in row:
                rows.append(row)
    return rows


def mean_loss(rows: Sequence[dict[str, Any]]) -> float | None:
    """Return the mean train loss over the steps of a run; a row has the mean over those since the row before it.

    Rows whose loss was NaN or infinite are left out.
    """
    train = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    before = [0, *(step for step, _ in train)]
    parts = [(loss, step - last) for (step, loss), last in zip(train, before, strict=False) if loss is not None]
    return sum(loss * steps for loss, steps in parts) / sum(steps for _, steps in parts) if parts else None


def _row(logged: dict[str, Any]) -> dict[str, Any] | None:
    """Return what is kept of an entry of `log_history`, None if it holds no loss."""
    names = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second")
    row = {name: logged[name] if math.isfinite(logged[name]) else None for name in names if name in logged}
    return row if row.keys() & {"loss", "eval_loss"} else None
