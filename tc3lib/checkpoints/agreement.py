"""What the processes of a run tell one another as a step ends: whether to save, whether to stop."""

import time
from typing import Any

from tc3lib.runtime import processes
from tc3lib.training.progress import Fetched

SLOW_SECONDS = 1.0
"""Where steps take longer than it, processes wait for each other's word."""


class Agreement:
    """Lets all processes save and stop after the same step. Alone, a process agrees with itself.

    What one says at the end of a step all hear at the end of the next: by then it has come without the card having
    waited for the host. Where steps are slow, and after the last one, they wait for it.

    Args:
        trainer: Of `trainer_class`: it has an accelerator.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.said: Fetched | None = None
        self.saved = self.slow = False
        self.said_at = time.monotonic()

    def reach(self, due: bool, told: str | None, last: bool) -> tuple[bool, str | None]:
        """Return whether to save and the signal to stop for, the same in every process.

        Args:
            due: Whether this process finds that it is time to save.
            told: The signal by which it was told to stop.
            last: Whether this was the last step.
        """
        if processes.count() == 1:
            return due or bool(told), told
        if not self._heard():
            self._say(due, bool(told))
            if not ((last or self.slow) and self._heard()):
                return False, None
        self.said = None
        return True, next(filter(None, processes.gather(told)), None)

    def on_save(self) -> None:
        """Note that all have saved: who has found it time before that needs no other save."""
        self.saved = True

    def _say(self, *yes: bool) -> None:
        import torch

        now, accelerator = time.monotonic(), self.trainer.accelerator
        said = [torch.full((), float(value), device=accelerator.device) for value in (*yes, now - self.said_at)]
        self.said, self.saved, self.said_at = Fetched(*accelerator.reduce(torch.stack(said), "mean")), False, now

    def _heard(self) -> bool:
        if self.said is None:
            return False
        due, told, seconds = self.said.values()
        self.slow = seconds > SLOW_SECONDS
        return bool(told or (due and not self.saved))
