"""Keep and show the losses of a run while it trains."""

import json
import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any


class LossLogger:
    """A trainer callback that appends each train and eval loss to a JSON Lines file and shows them as they come.

    It answers every event of `transformers.TrainerCallback` without importing transformers. The file is only ever
    appended to; `read_losses` leaves out what a later start did again. A step's loss is fetched while the next one is
    under way, so that the card never waits for it.

    Args:
        path: The file; each line is `{"step", "epoch", "loss", "learning_rate", "grad_norm"}` (training, `loss` the
            mean over the steps since the last line, `grad_norm` null where it overflowed), `{"step", "epoch",
            "eval_loss"}`, or `{"begin"}`: a start after that step. Losses are nats a token.
        trainer: Of `trainer_class`: has `step_loss`, `step_grad_norm` and `step_tokens`.
        draw: Called now and then with the rows so far and `keep`, true after evaluations and at the end.
    """

    DRAW_SECONDS, DRAW_SHARE = 5, 0.05
    """Least time between two drawings, and the most of the run's time that they may take."""
    WARM_UP = 5
    """Steps after the first, which compiles kernels, until the time of a run is told."""

    def __init__(self, path: Path | str, trainer: Any, draw: Callable[..., None]):
        self.path, self.trainer, self.draw = Path(path), trainer, draw
        self.waiting: deque[tuple[dict[str, float], Any, Any]] = deque()
        self.losses: list[float] = []
        self.steps, self.tokens, self.seconds = 0, 0, 0.0
        self.draw_again = time.monotonic()
        self.step_ended: float | None = None
        self.learning_rate = 0.0
        self.bar: Any = None
        self.told = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        from tqdm.auto import tqdm

        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            with open(self.path, "a") as file:  # a line that was cut short stays a line of its own
                file.write("\n")
        self._append({"begin": state.global_step})
        self.draw_again = time.monotonic() + self.DRAW_SECONDS
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any, **kwargs: Any) -> None:
        """Note the learning rate that the step was made with, before the scheduler moves on."""
        self.learning_rate = optimizer.param_groups[0]["lr"]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        row = {"step": state.global_step, "epoch": round(state.epoch or 0, 4), "learning_rate": self.learning_rate}
        self.waiting.append((row, *_fetch(self.trainer.step_loss, self.trainer.step_grad_norm)))
        self.trainer.step_loss = None
        # From end to end, since the host may be ahead of the card within a step; not over evaluations and saving.
        if self.step_ended is not None:
            self.steps += 1
            self.tokens += self.trainer.step_tokens
            self.seconds += time.monotonic() - self.step_ended
        if self.bar is not None:
            self.bar.update()
            if self.steps == self.WARM_UP and not self.told and state.max_steps > state.global_step:
                self.told = True
                each = self.seconds / self.WARM_UP
                left = _duration(each * (state.max_steps - state.global_step))
                self.bar.write(f"{each:.2f} s a step: about {left} left, evaluations and saving not counted")
        self._write(args.logging_steps, wait=state.global_step >= state.max_steps)
        self.step_ended = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "eval_loss" in logs:
            self._write(args.logging_steps, wait=True)
            epoch = round(state.epoch or 0, 4)
            self._append({"step": state.global_step, "epoch": epoch, "eval_loss": float(logs["eval_loss"])})
            self._show(keep=True)
            self.step_ended = None

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(args.logging_steps, wait=True)
        self.step_ended = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write(args.logging_steps, wait=True)
        self._show(keep=True)
        if self.bar is not None:
            self.bar.close()

    def _write(self, every: int, *, wait: bool) -> None:
        """Append the losses that have arrived, all of them if `wait`."""
        while self.waiting and (wait or self.waiting[0][2] is None or self.waiting[0][2].query()):
            row, values, event = self.waiting.popleft()
            if event is not None:
                event.synchronize()
            loss, norm = values.tolist()
            self.losses.append(loss)
            if self.bar is not None:
                speed = {"tokens/s": f"{self.tokens / self.seconds:,.0f}"} if self.seconds else {}
                self.bar.set_postfix({"loss": f"{loss:.4f}"} | speed, refresh=False)
            if row["step"] % every == 0:
                self._append(
                    row
                    | {"loss": sum(self.losses) / len(self.losses), "grad_norm": norm if math.isfinite(norm) else None}
                )
                self.losses = []
        if time.monotonic() > self.draw_again:
            self._show(keep=False)

    def _append(self, row: dict[str, float]) -> None:
        if self.trainer.is_world_process_zero():
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")

    def _show(self, *, keep: bool) -> None:
        start = time.monotonic()
        if self.trainer.is_world_process_zero():
            self.draw(read_losses(self.path), keep=keep)
        seconds = time.monotonic() - start
        self.draw_again = start + max(self.DRAW_SECONDS, seconds / self.DRAW_SHARE)

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("on_"):
            return lambda *args, **kwargs: None
        raise AttributeError(name)


def read_losses(path: Path | str) -> list[dict[str, float]]:
    """Return the rows of a loss file in effect, an empty list if there is no file.

    What was logged after the step that a later start began after is left out, and so are lines cut short.
    """
    rows: list[dict[str, float]] = []
    for line in Path(path).read_text().splitlines() if Path(path).exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if "begin" in row:
            rows = [kept for kept in rows if row["begin"] and kept["step"] <= row["begin"]]
        else:
            rows.append(row)
    return rows


def _fetch(*tensors: Any) -> tuple[Any, Any]:
    """Start copying scalars to the host; return where they will be and the event after which they are there."""
    import torch

    values = torch.stack([torch.as_tensor(tensor, dtype=torch.float32).detach() for tensor in tensors])
    if not values.is_cuda:
        return values, None
    host = torch.empty(len(tensors), pin_memory=True)
    host.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
