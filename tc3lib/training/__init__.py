"""Notebook 03: train the adapter."""

from tc3lib import model_loading  # noqa: F401  (first: unsloth patches transformers, trl and peft)
from tc3lib.training.run import Run, build_trainer, save_adapter, train

__all__ = ["Run", "build_trainer", "save_adapter", "train"]
