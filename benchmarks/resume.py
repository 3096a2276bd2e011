"""Show on a GPU, with the 8B shape in NF4, that a run broken off and continued is the uninterrupted one.

    python benchmarks/resume.py FOLDER [--steps 8]

FOLDER is a base model; where there is none it is made (`model.py`). A run with LoRA dropout, `adamw_8bit` and 2 epochs
trains to its end; another is stopped in the middle and continued. Losses, gradient norms and adapters are compared; an
uninterrupted run repeated shows the noise of the card itself: some kernels add in an order that changes from run to
run. The same without dropout, continued in micro-batches of another size.
"""

import argparse
import gc
import signal
import sys
import tempfile
import time
from pathlib import Path

from model import ensure_model
from train import ROWS, text_rows

TOLERANCE = {"loss": 2e-3, "grad_norm": 5e-2, "adapter": 5e-2}
"""Relative. Adam divides by the size of the gradient, so that noise in small gradients moves weights as far as large
gradients do: the adapter's tolerance is on the norm of the difference, and is to be read beside the fourth run's."""


def run(
    folder: Path,
    work: Path,
    steps: int,
    stop_after: int | None = None,
    max_tokens: int | None = None,
    dropout: float = 0.1,
) -> dict:
    """Do what 03_train does; return losses, gradient norms and adapter, and what saving and resuming took."""
    import torch
    from transformers import TrainerCallback

    from tc3lib import files, settings, training
    from tc3lib.errors import Tc3Error

    config = settings.get("llama3_8b").change(
        model_name=str(folder), max_steps=steps, save_steps=100, lora_dropout=dropout, eval_steps=100,
    )  # fmt: skip
    work.mkdir(exist_ok=True)
    rows = text_rows(ROWS * steps // 2)  # two epochs
    for name, part in (("train", rows), ("eval", rows[:8])):
        files.write_rows(work / f"{name}.jsonl", part)
    made = training.Run(config, work)
    trainer = training.build_trainer(made)
    trainer.max_tokens = max_tokens or trainer.max_tokens

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == stop_after:
                signal.raise_signal(signal.SIGINT)

    trainer.add_callback(Stop())
    begin = time.monotonic()
    try:
        training.train(trainer, made)
    except Tc3Error as error:
        print(error)
    history = [row for row in trainer.state.log_history if "loss" in row]
    weights = {name: weight.detach().cpu() for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    found = {"history": history, "adapter": weights, "seconds": time.monotonic() - begin, "tokens": trainer.max_tokens}
    del trainer
    gc.collect()
    torch.cuda.empty_cache()
    return found


def adapter_difference(found: dict, whole: dict) -> float:
    """Return the norm of the difference of two adapters, tensors by name, over the norm of the second."""
    square = sum(float((found[name] - weight).double().square().sum()) for name, weight in whole.items())
    return (square / sum(float(weight.double().square().sum()) for weight in whole.values())) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    ensure_model(arguments.folder)
    import torch

    from tc3lib import model_loading  # noqa: F401  (first: it imports unsloth)

    folder, steps, middle = arguments.folder, arguments.steps, arguments.steps // 2 + 1
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        whole = run(folder, work / "whole", steps)
        results = {"uninterrupted, once more": (run(folder, work / "again", steps), whole)}
        stopped = run(folder, work / "stopped", steps, stop_after=middle)
        results[f"stopped after step {middle}, continued"] = run(folder, work / "stopped", steps), whole
        other = run(folder, work / "other", steps, dropout=0)
        smaller = min(other["tokens"] // 2, 4000)
        run(folder, work / "smaller", steps, stop_after=middle, dropout=0)
        results[f"without dropout, continued in micro-batches of at most {smaller:,} tokens"] = (
            run(folder, work / "smaller", steps, max_tokens=smaller, dropout=0), other,
        )  # fmt: skip
        size = sum(path.stat().st_size for path in (work / "stopped" / "outputs").glob(f"checkpoint-{steps}-*/*"))
    held = len(stopped["history"]) == middle
    print("| run | steps | loss | gradient norm | adapter |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, (found, whole) in results.items():
        differences = {
            what: max(abs(a[what] / b[what] - 1) for a, b in zip(found["history"], whole["history"], strict=True))
            for what in ("loss", "grad_norm")
        }
        differences["adapter"] = adapter_difference(found["adapter"], whole["adapter"])
        held &= all(differences[what] <= TOLERANCE[what] for what in TOLERANCE)
        print(
            f"| {name} | {len(found['history'])} | "
            + " | ".join(f"{value:.1e}" for value in differences.values())
            + " |"
        )
    print(f"a checkpoint: {size / 2**20:.0f} MiB; losses {[round(row['loss'], 4) for row in whole['history']]}")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"tolerance {TOLERANCE}: {'held' if held else 'NOT HELD'}; {device}")
    sys.exit(not held)


if __name__ == "__main__":
    main()
