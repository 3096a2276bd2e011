"""Train on rows given as lists, as notebook 03 does."""

import signal

import pytest
import torch
from transformers import TrainerCallback

from tc3lib import training
from tc3lib.errors import Tc3Error
from tc3lib.files import write_rows

HELD_OUT = 4
"""Rows that are held out besides, the first ones."""


def prepared(config, rows, work, held_out=HELD_OUT):
    """Return the run of these rows, which notebook 01 would have drawn."""
    work.mkdir(exist_ok=True)
    write_rows(work / "train.jsonl", rows)
    write_rows(work / "eval.jsonl", rows[:held_out])
    return training.Run(config, work)


def run(config, rows, work, stop_after=None):
    """Do what notebook 03 does and return the trainer; `stop_after` breaks off after that step's checkpoint."""
    made = prepared(config, rows, work)
    trainer = training.build_trainer(made)
    if stop_after:
        trainer.add_callback(at_step(stop_after, lambda: signal.raise_signal(signal.SIGINT)))
        with pytest.raises(Tc3Error, match=f"stopped by SIGINT after step {stop_after} of"):
            training.train(trainer, made)
        return trainer
    training.train(trainer, made)
    training.save_adapter(trainer, made)
    return trainer


def at_step(step, act):
    """Return a callback that acts when a step ends."""

    class At(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                act()

    return At()


def adapter(work):
    """Return the bytes of the saved adapter."""
    return (work / "lora_model" / "adapter_model.safetensors").read_bytes()


def losses(rows):
    """Return the rows of a loss file without the speed, which no two runs share."""
    return [{name: value for name, value in row.items() if name != "tokens_per_second"} for row in rows]


def randomise(model, std):
    """Give an adapter an effect, as training does: its B is zero at first."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
    return model
