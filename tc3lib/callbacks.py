"""Keep the losses of a run, train and eval, each with its step."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


class LossLogger:
    """A trainer callback that appends each logged train and eval loss to a JSON Lines file.

    It answers every event of `transformers.TrainerCallback` without importing transformers. A run that starts at
    step 0 starts the file anew; one that resumes drops what was logged after the step it resumes from.

    Args:
        path: The file; each line is `{"step", "epoch", "loss", "learning_rate", "grad_norm"}` (training, the mean
            over the steps since the last line) or `{"step", "epoch", "eval_loss"}`. Losses are nats a token.
    """

    KEPT = ("loss", "learning_rate", "grad_norm", "eval_loss")

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            kept = [row for row in read_losses(self.path) if row["step"] <= state.global_step]
            if not state.global_step:
                kept = []
            self.path.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        row = {name: float(logs[name]) for name in self.KEPT if name in logs}
        if state.is_world_process_zero and ("loss" in row or "eval_loss" in row):
            with open(self.path, "a") as file:
                file.write(json.dumps({"step": state.global_step, "epoch": round(state.epoch or 0, 4), **row}) + "\n")

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("on_"):
            return lambda *args, **kwargs: None
        raise AttributeError(name)


def read_losses(path: Path | str) -> list[dict[str, float]]:
    """Return the rows of a loss file, an empty list if there is none; a last line cut short is left out."""
    rows = []
    for line in Path(path).read_text().splitlines() if Path(path).exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
