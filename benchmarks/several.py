"""Measure training in one process and in several, and compare the adapters that they end with.

    python benchmarks/model.py FOLDER
    python benchmarks/several.py FOLDER --keep ONE
    accelerate launch --multi_gpu --num_processes 2 benchmarks/several.py FOLDER --against ONE

FOLDER holds a model of Llama-3-8B's shape (`model.py`). Prints a line of a table: seconds a step (median and mean of
the steps after the first third, and the mean of all but the first two, in which kernels are compiled), and the tokens/s
that the first mean makes, padding not counted. `--keep` leaves the losses, gradient norms and the adapter in a folder;
`--against` compares with them, and ends with 1 where they differ by more than is allowed. `--share-gpu` lets all
processes use the first GPU and talk through gloo: a way to compare on a machine with one GPU, where the speed means
nothing.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from equivalence import TOLERANCE
from resume import TOLERANCE as RESUMED
from resume import adapter_difference


def step_seconds(trainer: object) -> list[float]:
    """Return a list that gets the time between the ends of two steps as `trainer` trains."""
    from transformers import TrainerCallback

    seconds, ended = [], []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            ended.append(time.monotonic())
            if len(ended) > 1:
                seconds.append(ended[-1] - ended[-2])

    trainer.add_callback(Clock())
    return seconds


def kept(trainer: object, history: list) -> dict:
    """Return what a run is compared by, on the CPU: losses, gradient norms and adapter."""
    adapter = {name: weight.detach().cpu() for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    told = {name: [row[name] for row in history if "loss" in row] for name in TOLERANCE}
    return told | {"adapter": adapter}


def compare(found: dict, other: dict) -> bool:
    """Print how far a run is from another; tell whether it is within what is allowed."""
    import torch

    held = True
    for name, allowed in TOLERANCE.items():
        largest = max(abs(a / b - 1) for a, b in zip(found[name], other[name], strict=True))
        held &= largest <= allowed
        print(f"{name}: largest difference {largest:.1e} in {len(found[name])} steps, {allowed:.0e} allowed")
    # What lora_B has become: it begins at 0, while lora_A begins as it is drawn and hardly moves.
    one, two = (
        torch.cat([weight.double().flatten() for name, weight in sorted(run["adapter"].items()) if "lora_B" in name])
        for run in (found, other)
    )
    cosine = torch.nn.functional.cosine_similarity(one, two, dim=0).item()
    difference, allowed = adapter_difference(found["adapter"], other["adapter"]), RESUMED["adapter"]
    print(f"adapter: norm of the difference {difference:.1e} of its own, {allowed:.0e} allowed")
    held &= difference <= allowed
    print(f"lora_B: cosine {cosine:.5f}, length of the difference {(one - two).norm() / two.norm():.1%}")
    return held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--plan", default="auto", choices=("auto", "recipe"))
    parser.add_argument("--padded", action="store_true", help="with --plan recipe: pad, as the recipe did")
    parser.add_argument("--preset", default="llama3_8b", help="whose settings to take, but for the model")
    parser.add_argument("--memory-gib", type=float, help="plan for less memory than there is")
    parser.add_argument("--keep", type=Path, help="a folder for what a later run is compared with")
    parser.add_argument("--against", type=Path, help="what an earlier run has kept")
    parser.add_argument("--share-gpu", action="store_true", help="all processes on the first GPU, through gloo")
    arguments = parser.parse_args()
    if arguments.steps < 3:
        parser.error("--steps must be 3 or more: the first two are not counted")
    from tc3lib.runtime import processes

    processes.silence()
    import torch
    from train import GIB, text_rows

    from tc3lib import files, settings, training

    if arguments.share_gpu and processes.count() > 1:
        from accelerate import PartialState

        os.environ["LOCAL_RANK"] = "0"
        PartialState(backend="gloo")
    config = settings.get(arguments.preset).change(
        model_name=str(arguments.folder), max_steps=arguments.steps,
        save_strategy="no", eval_strategy="no", eval_on_start=False, memory_gib=arguments.memory_gib,
        plan=arguments.plan, padding_free=False if arguments.padded else None,
    )  # fmt: skip
    batch = settings.rows_per_step(config.training)
    rows = text_rows(arguments.steps * batch)
    work = Path(processes.gather(tempfile.mkdtemp())[0])  # the main process's, in all
    if processes.is_main():
        for name in ("train", "eval"):
            files.write_rows(work / f"{name}.jsonl", rows)
    processes.wait()
    run = training.Run(config, work)
    trainer = training.build_trainer(run)
    seconds = step_seconds(trainer)
    training.train(trainer, run)
    training.save_adapter(trainer, run)
    late = seconds[arguments.steps // 3 :]
    times = statistics.median(late), statistics.fmean(late), statistics.fmean(seconds[1:])
    trained = batch * run.plan.tokens_per_row / times[1]
    peak = torch.cuda.max_memory_reserved() / GIB if torch.cuda.is_available() else float("nan")
    print("| processes | s a step: median | mean | mean of all | training, tokens/s | GiB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    steps = " | ".join(f"{value:.3f}" for value in times)
    print(f"| {processes.count()} | {steps} | {trained:,.0f} | {peak:.1f} |")
    found, held = kept(trainer, trainer.state.log_history), True
    if arguments.keep and processes.is_main():
        arguments.keep.mkdir(parents=True, exist_ok=True)
        torch.save(found, arguments.keep / "run.pt")
    if arguments.against:
        held = compare(found, torch.load(arguments.against / "run.pt"))
    sys.exit(not held)


if __name__ == "__main__":
    main()
