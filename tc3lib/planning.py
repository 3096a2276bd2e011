"""What a run will do, before it starts: rows, steps and epochs."""

from dataclasses import dataclass

from tc3lib.config import TrainingConfig


@dataclass(frozen=True)
class Plan:
    """The size of a run."""

    rows: int
    rows_per_step: int
    steps: int
    epochs: float
    limited_by: str
    """The setting that decides where training ends: `max_steps` or `num_train_epochs`."""

    def __str__(self) -> str:
        return (
            f"{self.steps} steps of {self.rows_per_step} rows over {self.rows:,} rows: {self.epochs:.2f} epochs "
            f"(ended by {self.limited_by})"
        )


def rows_per_step(config: TrainingConfig) -> int:
    """Return the rows that one optimiser step sees (the effective batch) on one device."""
    return config.per_device_train_batch_size * config.gradient_accumulation_steps


def rows_needed(config: TrainingConfig) -> int | None:
    """Return how many rows `max_steps` steps see at most; None if the run goes over all rows instead."""
    return config.max_steps * rows_per_step(config) if config.max_steps > 0 else None


def plan(rows: int, config: TrainingConfig) -> Plan:
    """Return what training on `rows` rows will be. As in TRL, a positive `max_steps` wins over `num_train_epochs`."""
    batch = rows_per_step(config)
    steps_per_epoch = -(-rows // batch)
    if config.max_steps > 0:
        return Plan(rows, batch, config.max_steps, config.max_steps / steps_per_epoch, "max_steps")
    steps = int(-(-steps_per_epoch * config.num_train_epochs // 1))
    return Plan(rows, batch, steps, config.num_train_epochs, "num_train_epochs")
