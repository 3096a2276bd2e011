"""Train a few small runs, in as many processes as a launcher starts; each writes what it saw.

    python tests/helpers/process_runs.py FOLDER RUN ...
    accelerate launch --multi_gpu --num_processes 2 tests/helpers/process_runs.py FOLDER RUN ...

The runs are those of `RUNS`; each has a work folder in FOLDER. `<run>.<process>.json` there has its losses, gradient
norms and held-out losses, the rows that the process saw at each step, and the adapter's hash.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import runs
import unsloth  # noqa: F401  (before transformers, trl and peft, which it patches)
from steps import ROWS, changed, memory_for, train

from tc3lib.checkpoints.saver import Saver
from tc3lib.errors import Tc3Error, show_alone
from tc3lib.files import write_rows
from tc3lib.runtime import processes

FOLDER = Path(sys.argv[1])
LAST = processes.index() == processes.count() - 1
# An epoch has 8, 8, 8 and 1 rows: for its last step there are fewer rows than processes.
CONFIG = changed(
    gradient_accumulation_steps=1, max_steps=-1, num_train_epochs=2, optim="sgd", learning_rate=1e-2,
    eval_strategy="steps", eval_steps=4, eval_on_start=True, save_strategy="steps", save_steps=3,
)  # fmt: skip


# What TRL and accelerate share out by themselves: without that last step, for which they would repeat rows.
RECIPE = CONFIG.change(plan="recipe", per_device_train_batch_size=4, gradient_accumulation_steps=2)


def write_once(path, rows):
    """Write the rows of a run, which in a notebook are there, in the main process alone."""
    if processes.is_main():
        write_rows(path, rows)
    processes.wait()


def run(name, config=CONFIG, max_tokens=None, prepare=None, work=None, rows=25):
    found = train(config, ROWS[:rows], FOLDER / (work or name), max_tokens, prepare)
    digest = hashlib.sha256(b"".join(weights.numpy().tobytes() for _, weights in sorted(found.adapter.items())))
    seen = {step: [row for row in rows if any(label != -100 for label in row[1])] for step, rows in found.seen.items()}
    result = {
        "losses": found.losses.tolist(), "norms": found.norms.tolist(), "eval_losses": found.eval_losses.tolist(),
        "seen": seen, "adapter": digest.hexdigest(), "refused": getattr(found.trainer, "refused", []),
        "processes": found.trainer.args.world_size,
    }  # fmt: skip
    write(name, result)


def write(name, result):
    (FOLDER / f"{name}.{processes.index()}.json").write_text(json.dumps(result))


def stop_at(step, patch):
    """Send the last process alone a signal, a moment before a step ends."""
    end = Saver.on_step_end

    def then_end(saver, args, state, control, **named):
        if LAST and state.global_step == step:
            signal.raise_signal(signal.SIGTERM)
        return end(saver, args, state, control, **named)

    patch.setattr(Saver, "on_step_end", then_end)


def stop_and_resume():
    config = CONFIG.change(optim="adamw_torch", learning_rate=1e-3, save_total_limit=None)
    run("undisturbed", config)
    messages = {}
    for name, step in (("stopped", 4), ("stopped at the end", 8)):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(step, patch)
            try:
                run(name, config)
            except Tc3Error as error:
                messages[name] = str(error)
    write("stopped", messages)
    run("resumed", config, work="stopped")


def fail(trainer):
    def act():
        raise Tc3Error("there is something wrong here.")

    if LAST:
        trainer.add_callback(runs.at_step(2, act))


RUNS = {
    "whole": lambda: run("whole"),
    "cut": lambda: run("cut", max_tokens=100 if LAST else None),
    "memory": lambda: run("memory", prepare=memory_for(150, "backward") if LAST else None),
    "recipe": lambda: run("recipe", RECIPE, rows=24),
    "resumed": stop_and_resume,
    # One of them finds that it is time to save, at every step.
    "minutes": lambda: run("minutes", CONFIG.change(save_minutes=1e-9 if LAST else None, save_total_limit=None)),
    "failed": lambda: run("failed", prepare=fail),
}
runs.write_rows = write_once
show_alone()
for name in sys.argv[2:]:
    RUNS[name]()
