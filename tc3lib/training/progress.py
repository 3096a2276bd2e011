"""Keep and show the losses of a run while it trains."""

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tc3lib.errors import Tc3Error


class LossLogger:
    """A trainer callback that appends each train and eval loss to a JSON Lines file and shows them as they come.

    It answers every event of `transformers.TrainerCallback` without importing transformers. The file is only ever
    appended to; `read_losses` leaves out what a later start did again. A step's loss is fetched while the next one is
    under way, so that the card never waits for it.

    Attributes:
        rows: The losses so far, as `read_losses` would return them.
        losses: Of the steps since the last line; `snapshot` and `restore` carry both over to another process.

    Args:
        path: The file; each line is `{"step", "epoch", "loss", "learning_rate", "grad_norm"}` (training, `loss` the
            mean over the steps since the last line, `grad_norm` null where it overflowed), `{"step", "epoch",
            "eval_loss"}`, `{"begin"}`: a start after that step, or `{"saved", "folder"}`: the step that a committed
            checkpoint was saved after. Losses are nats a token. What cannot be written is kept and tried again.
        trainer: Of `trainer_class`: has `step_loss`, `step_grad_norm` and `step_tokens`.
        draw: Called now and then with the rows so far and `keep`, true after evaluations and at the end.
    """

    DRAW_SECONDS, DRAW_SHARE = 5, 0.05
    """Least time between two drawings, and the most of the run's time that they may take."""
    WARM_UP = 5
    """Steps after the first, which compiles kernels, until the time of a run is told."""

    def __init__(self, path: Path | str, trainer: Any, draw: Callable[..., None]):
        self.path, self.trainer, self.draw = Path(path), trainer, draw
        self.waiting: deque[tuple[dict[str, float], Fetched]] = deque()
        self.rows: list[dict[str, float]] = []
        self.losses: list[float] = []
        self.restored = self.begun = False
        self.unwritten = ""
        self.safe, self.beside_bar = "", {}
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

        self.begin(state.global_step)
        self.draw_again = time.monotonic() + self.DRAW_SECONDS
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step")

    def begin(self, step: int) -> None:
        """Note a start after a step, and mend the file: of restored losses lines may have been lost, or never come."""
        before = read_losses(self.path)
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            self.unwritten = "\n"  # a line that was cut short stays a line of its own
        if self.restored and before == self.rows:
            return
        kept = [row for row in before if step and row["step"] <= step]
        if self.restored and kept != self.rows:
            kept = self.rows
            self._append({"begin": 0}, *kept)
        self.rows = kept
        self._append({"begin": step})

    def on_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any, **kwargs: Any) -> None:
        """Note the learning rate that the step was made with, before the scheduler moves on."""
        self.learning_rate = optimizer.param_groups[0]["lr"]

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        row = {"step": state.global_step, "epoch": round(state.epoch or 0, 4), "learning_rate": self.learning_rate}
        self.waiting.append((row, Fetched(self.trainer.step_loss, self.trainer.step_grad_norm)))
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
            self._log({"step": state.global_step, "epoch": epoch, "eval_loss": float(logs["eval_loss"])})
            if state.global_step:  # one point is no curve, and the first drawing takes seconds
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

    def snapshot(self) -> dict[str, list]:
        """Return what `restore` needs to go on from here; call it after `on_save`."""
        return {"rows": self.rows, "losses": self.losses}

    def restore(self, snapshot: dict[str, list]) -> None:
        """Go on, at the next `on_train_begin`, from where `snapshot` was taken."""
        self.rows, self.losses, self.restored = snapshot["rows"], snapshot["losses"], True

    def saved(self, step: int, folder: str) -> None:
        """Note that the checkpoint of a step is committed in `folder`."""
        self.safe = f"step {step}"
        self._append({"saved": step, "folder": folder})
        if self.bar is not None:
            self._say_safe(refresh=True)

    def _say_safe(self, *, refresh: bool) -> None:
        self.bar.set_postfix(self.beside_bar | ({"safe": self.safe} if self.safe else {}), refresh=refresh)

    def _write(self, every: int, *, wait: bool) -> None:
        """Append the losses that have arrived, all of them if `wait`."""
        while self.waiting and (wait or self.waiting[0][1].there()):
            row, fetched = self.waiting.popleft()
            loss, norm = fetched.values()
            self.losses.append(loss)
            if self.bar is not None:
                speed = {"tokens/s": f"{self.tokens / self.seconds:,.0f}"} if self.seconds else {}
                self.beside_bar = {"loss": f"{loss:.4f}"} | speed
                self._say_safe(refresh=False)
            if row["step"] % every == 0:
                mean = sum(self.losses) / len(self.losses)
                self._log(row | {"loss": mean, "grad_norm": norm if math.isfinite(norm) else None})
                self.losses = []
        if time.monotonic() > self.draw_again:
            self._show(keep=False)

    def _log(self, row: dict[str, float]) -> None:
        self.rows.append(row)
        self._append(row)

    def _append(self, *rows: dict[str, Any]) -> None:
        if not self.trainer.is_world_process_zero():
            return
        failed = bool(self.unwritten.strip())
        self.unwritten += "".join(json.dumps(row) + "\n" for row in rows)
        try:
            # The file is made once: in a folder that took the place of a lost one there is none.
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | (0 if self.begun else os.O_CREAT), 0o666)
            self.begun = True
            try:
                while self.unwritten:
                    written = os.write(handle, self.unwritten.encode())
                    self.unwritten = self.unwritten[written:]
            finally:
                os.close(handle)
        except OSError as error:
            if not failed:
                say(f"cannot write {self.path}: {error.strerror}. Training goes on; they are kept and tried again.")
        else:
            if failed:
                say(f"{self.path} can be written again, and nothing is missing in it.")

    def _show(self, *, keep: bool) -> None:
        start = time.monotonic()
        if self.trainer.is_world_process_zero():
            try:
                self.draw(self.rows, keep=keep and not self.unwritten.strip())  # the folder may be lost
            except (OSError, Tc3Error) as error:
                say(f"the loss curve could not be kept: {error}")
        seconds = time.monotonic() - start
        self.draw_again = start + max(self.DRAW_SECONDS, seconds / self.DRAW_SHARE)

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("on_"):
            return lambda *args, **kwargs: None
        raise AttributeError(name)


class Fetched:
    """Scalars on their way to the host, where the card is not waited for before they are needed."""

    def __init__(self, *tensors: Any):
        import torch

        self._values = torch.stack([torch.as_tensor(tensor, dtype=torch.float32).detach() for tensor in tensors])
        self._event = None
        if self._values.is_cuda:
            host = torch.empty(len(tensors), pin_memory=True)
            self._values, self._event = host.copy_(self._values, non_blocking=True), torch.cuda.Event()
            self._event.record()

    def there(self) -> bool:
        """Tell whether they have arrived."""
        return self._event is None or self._event.query()

    def values(self) -> list[float]:
        """Return them, and wait until they are there."""
        if self._event is not None:
            self._event.synchronize()
        return self._values.tolist()


def read_losses(path: Path | str) -> list[dict[str, float]]:
    """Return the rows of a loss file in effect, an empty list if there is no file.

    What was logged after the step that a later start began after is left out, and so are lines that are damaged.
    """
    rows: list[dict[str, float]] = []
    for row in _lines(path):
        if "saved" in row:
            continue
        if "begin" in row:
            rows = [kept for kept in rows if row["begin"] and kept["step"] <= row["begin"]]
        else:
            rows.append(row)
    return rows


def saved_folders(path: Path | str) -> list[str]:
    """Return the names of the checkpoints that a loss file says were committed, removed ones among them."""
    return [row["folder"] for row in _lines(path) if "saved" in row]


def _lines(path: Path | str) -> Iterator[dict[str, Any]]:
    for line in Path(path).read_text(errors="replace").splitlines() if Path(path).exists() else []:
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and row.keys() & {"begin", "saved", "loss", "eval_loss"}:
                yield row


def say(text: str) -> None:
    """Print a line without breaking the progress bar."""
    from tqdm.auto import tqdm

    tqdm.write(text)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
