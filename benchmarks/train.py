"""Train Llama-3-8B's shape in NF4 by several recipes on one GPU: tokens a second, memory, and the whole of 03_train.

    python benchmarks/train.py FOLDER [--recipes abcdef] [--steps 30] [--whole 60] [--output results.json]
    python benchmarks/train.py FOLDER --family qwen3 --recipes "" --preset qwen3_4b --gib 14.6 --dtype float16

FOLDER is a base model; where there is none it is made (`model.py`). Every recipe runs in a process of its own, one
after another. The rows are token ids with the lengths of
the real catalogue: 205 a row on average, of which the first 40 are the same in every row, as many as Llama-3's
tokenizer makes of the template up to the title. A second is counted between CUDA events at the ends of two steps; the
tables hold medians after the warm-up. Tokens are those of the rows: no padding, a shared prefix once for each row.

The whole of 03_train can be that of another preset, on a card held to fewer GiB, in another precision: the second line
is what a T4 has to hold, whose own speed it does not show.
"""

import argparse
import dataclasses
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from model import ensure_model

RECIPES = {
    "a": ("transformers + peft + bitsandbytes, padded 8x4, checkpointing", None),
    "b": ("the user's recipe in unsloth, padded 8x4, checkpointing 'unsloth'", None),
    "c": ("planned for the card", None),
    "d": ("planned for 22.2 GiB (L4)", 22.2),
    "e": ("planned for 14.6 GiB (T4)", 14.6),
    "f": ("planned for 39.5 GiB (A100)", 39.5),
}
ROWS, MEAN, SHARED, LONGEST = 32, 205, 40, 2048
STEPS = {"a": 8, "b": 14}
"""Fewer steps for what is slow; the rows, and so the losses of the first steps, are the same."""
GIB = 2**30


def token_rows(number: int, seed: int = 0) -> list[dict[str, list[int]]]:
    """Return rows of random ids, as `prompts.encode` returns them, whose lengths are those of the real catalogue."""
    head = [3500, *(random.Random(seed).randrange(3400) for _ in range(SHARED - 1))]
    scale = 1.0
    for _ in range(8):
        draw, rows = random.Random(seed + 1), []
        for _ in range(number):
            title = [draw.randrange(3400) for _ in range(min(500, 2 + int(draw.lognormvariate(2.56, 0.5))))]
            text = [draw.randrange(3400) for _ in range(3 + int(scale * draw.lognormvariate(4.55, 0.9)))]
            prompt = [*head, *title, 11, 12, 13, 14]
            ids = [*prompt, 15, 16, *title, 17, 18, *text, 3501][:LONGEST]
            rows.append({"input_ids": ids, "completion_mask": [0] * len(prompt) + [1] * (len(ids) - len(prompt))})
        mean = sum(len(row["input_ids"]) for row in rows) / number
        if abs(mean - MEAN) < 0.2:
            break
        scale *= 1 + (MEAN - mean) / (mean - 80)
    return rows


def text_rows(number: int) -> list[dict[str, str]]:
    """Return rows as `select` writes them, of words of the embedded catalogue, about as long as the real ones."""
    from tc3lib.prompts import format_record
    from tc3lib.settings import EMBEDDED

    draw = random.Random(0)
    products = [json.loads(line) for line in (EMBEDDED / "trn.json").read_text(encoding="utf-8").splitlines()]
    words = " ".join(product["content"] for product in products).split()
    rows = []
    for index in range(number):
        sizes = 2 + int(draw.lognormvariate(1.9, 0.5)), 3 + int(draw.lognormvariate(4.0, 0.9))
        title, text = (" ".join(words[at : at + size]) for size in sizes for at in [draw.randrange(len(words) - 2000)])
        rows.append({"uid": f"{index:010d}", "part": "train", **format_record(title, text)})
    return rows


def timed(trainer: object) -> dict[str, list[float]]:
    """Train and return seconds, tokens and losses of each step."""
    import torch
    from transformers import TrainerCallback

    events, losses, tokens = [], [], []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            events.append(torch.cuda.Event(enable_timing=True))
            events[-1].record()

    class Count:
        """Counts the tokens of the rows that a collator is given."""

        def __init__(self, collate):
            self.collate = collate

        def __getattr__(self, name):
            return getattr(self.collate, name)

        def __call__(self, rows):
            tokens.append(sum(len(row["input_ids"]) for row in rows))
            return self.collate(rows)

    make_step, passes = trainer.training_step, trainer.args.gradient_accumulation_steps

    def step(*arguments, **named):
        loss = make_step(*arguments, **named)
        losses.append(loss.detach().clone())
        return loss

    trainer.training_step, trainer.data_collator = step, Count(trainer.data_collator)
    trainer.add_callback(Clock())
    trainer.train()
    torch.cuda.synchronize()
    parts = [slice(first, first + passes) for first in range(0, len(losses), passes)]
    return {
        "seconds": [float("nan"), *(a.elapsed_time(b) / 1000 for a, b in itertools.pairwise(events))],
        "tokens": [sum(tokens[part]) for part in parts],
        "losses": [float(sum(losses[part])) for part in parts],
    }


def peft_trainer(folder: Path, config: object, rows: list, work: Path) -> object:
    """Return transformers' own Trainer on peft's model: no unsloth."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
    )

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map={"": 0})
    model = prepare_model_for_kbit_training(model)
    lora = config.lora
    settings = {name: getattr(lora, name) for name in ("r", "lora_alpha", "lora_dropout", "bias")}
    model = get_peft_model(
        model, LoraConfig(target_modules=list(lora.target_modules), task_type="CAUSAL_LM", **settings)
    )
    training = dataclasses.asdict(config.training)
    unwanted = ("resume_from_checkpoint", "output_dir", "padding_free")
    arguments = TrainingArguments(
        output_dir=str(work), bf16=True, gradient_checkpointing=True, remove_unused_columns=False,
        **{name: value for name, value in training.items() if name not in unwanted},
    )  # fmt: skip
    data = [
        {"input_ids": row["input_ids"], "attention_mask": [1] * len(row["input_ids"]), "labels": labels(row)}
        for row in rows
    ]
    collator = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(folder))
    return Trainer(model=model, args=arguments, train_dataset=Dataset.from_list(data), data_collator=collator)


def labels(row: dict[str, list[int]]) -> list[int]:
    """Return a row's labels."""
    return [token if on else -100 for token, on in zip(row["input_ids"], row["completion_mask"], strict=True)]


def token_run(config: object, rows: list, work: Path) -> object:
    """Return the run of rows that are ids already: they are neither read, nor tokenised, nor checked."""
    from unittest.mock import patch

    from datasets import Dataset

    from tc3lib import training
    from tc3lib.training import token_cache

    for name in ("train", "eval"):
        (work / f"{name}.jsonl").touch()
    found = (token_cache.Tokens(Dataset.from_list(part), 0, 0) for part in (rows, rows[:ROWS]))
    with patch.object(token_cache, "load", lambda *_: next(found)):
        return training.Run(config, work)


def hold_to(gib: float | None) -> None:
    """Let this process use no more than a smaller card has, the driver's own share of it taken off."""
    import torch

    free, total = torch.cuda.mem_get_info()
    if gib:
        torch.cuda.set_per_process_memory_fraction((gib * GIB - (total - free)) / total)


def measure(recipe: str, folder: Path, steps: int, rows: int) -> dict[str, object]:
    """Run one recipe in this process."""
    if recipe != "a":
        from tc3lib import training
    import torch

    from tc3lib import settings

    start = time.monotonic()
    memory = RECIPES[recipe][1]
    hold_to(memory)
    rows = token_rows(rows)
    config = settings.llama3_8b().change(
        model_name=str(folder), max_steps=steps, save_strategy="no", eval_strategy="no", eval_on_start=False,
        plan="recipe" if recipe in "ab" else "auto", memory_gib=memory, padding_free=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as work:
        if recipe == "a":
            trainer = peft_trainer(folder, config, rows, Path(work))
        else:
            trainer = training.build_trainer(token_run(config, rows, Path(work)))
        torch.cuda.reset_peak_memory_stats()
        found = timed(trainer)
    return {
        "recipe": recipe,
        "max_tokens": getattr(trainer, "max_tokens", None),
        "checkpointing": trainer.args.gradient_checkpointing,
        "peak_gib": torch.cuda.max_memory_reserved() / GIB,
        "device": torch.cuda.get_device_name(),
        "all": time.monotonic() - start,
        **found,
    }


def whole(folder: Path, steps: int, preset: str, gib: float | None, dtype: str | None) -> dict[str, object]:
    """Do what 03_train does from rows on the disk to a saved adapter, and time its parts."""
    begin = time.monotonic()
    from tc3lib import files, settings, training

    imported = time.monotonic()
    import torch
    from transformers import TrainerCallback

    marks = {"import": imported - begin}
    hold_to(gib)
    config = settings.get(preset).change(model_name=str(folder), max_steps=steps, memory_gib=gib, dtype=dtype)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        made = text_rows(ROWS * steps + 128)
        files.write_rows(work / "train.jsonl", made[:-128])
        files.write_rows(work / "eval.jsonl", made[-128:])
        clock = time.monotonic()

        def mark(part: str) -> None:
            nonlocal clock
            torch.cuda.synchronize()
            marks[part], clock = time.monotonic() - clock, time.monotonic()

        run = training.Run(config, work)
        print(run, flush=True)
        mark("rows read, tokenised, checked")
        trainer = training.build_trainer(run)
        mark("model loaded, adapter added, trainer built")

        class Marks(TrainerCallback):
            def on_step_begin(self, args, state, control, **_):
                if state.global_step == 0:
                    mark("first evaluation")

            def on_step_end(self, args, state, control, **_):
                if state.global_step == 1:
                    mark("first step")

        trainer.add_callback(Marks())
        training.train(trainer, run)
        mark(f"steps 2 to {steps}, with evaluations and checkpoints")
        training.save_adapter(trainer, run)
        mark("adapter saved")
    return {"marks": marks, "whole_gib": torch.cuda.max_memory_reserved() / GIB}


def report(results: dict[str, dict], steps: int) -> str:
    """Return the tables."""
    import statistics

    lines = [
        "| recipe | s a step | tokens/s | times (b) | GiB | loss of steps 1 to 3 |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    medians = {}
    for name, found in results.items():
        if "seconds" not in found:
            continue
        warm = max(3, len(found["tokens"]) // 3)
        pairs = list(zip(found["seconds"], found["tokens"], strict=True))[warm:]
        medians[name] = (
            statistics.median(tokens / seconds for seconds, tokens in pairs),
            statistics.median(s for s, _ in pairs),
        )
    for name, (speed, seconds) in medians.items():
        found = results[name]
        base = f"{speed / medians['b'][0]:.1f}" if "b" in medians else ""
        losses = ", ".join(f"{loss:.4f}" for loss in found["losses"][:3])
        cells = f"{seconds:.3f} | {speed:,.0f} | {base} | {found['peak_gib']:.1f} | {losses}"
        lines.append(f"| ({name}) {RECIPES[name][0]} | {cells} |")
    lines += [
        f"({name}): micro-batches of at most {found['max_tokens']} tokens, checkpointing {found['checkpointing']}"
        for name, found in results.items()
        if "max_tokens" in found
    ]
    if "whole" in results and "marks" in results["whole"]:
        found = results["whole"]
        lines += ["", f"| the whole of 03_train, {steps} steps | s |", "| --- | ---: |"]
        lines += [f"| {part} | {seconds:.1f} |" for part, seconds in found["marks"].items()]
        lines += [f"| all | {sum(found['marks'].values()):.1f} |"]
        lines += [f"Peak: {found['whole_gib']:.1f} GiB"]
    lines += [f"({name}) failed: {found['error']}" for name, found in results.items() if "error" in found]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipes", default="".join(RECIPES))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--whole", type=int, default=60, help="steps of the whole run; 0: none")
    parser.add_argument("--family", default="llama", help="the shape that is made where FOLDER has no model (model.py)")
    parser.add_argument("--preset", default="llama3_8b", help="of the whole run")
    parser.add_argument("--gib", type=float, help="memory that the whole run is held to")
    parser.add_argument("--dtype", help="of the whole run")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        name = arguments.only
        found = (
            whole(arguments.folder, arguments.whole, arguments.preset, arguments.gib, arguments.dtype)
            if name == "whole"
            else measure(
                name, arguments.folder, min(arguments.steps, STEPS.get(name, arguments.steps)), ROWS * arguments.steps
            )
        )
        print("RESULT " + json.dumps(found), flush=True)
        return
    ensure_model(arguments.folder, "--family", arguments.family)
    names = [*arguments.recipes, *(["whole"] if arguments.whole else [])]

    results = {}
    for name in names:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output = done.stdout.splitlines()
        last = [line for line in output if line.startswith("RESULT ")]
        results[name] = json.loads(last[0].removeprefix("RESULT ")) if last else {"error": done.stdout[-1500:]}
        print(
            f"{name} done",
            {k: v for k, v in results[name].items() if k in ("max_tokens", "peak_gib", "all")},
            flush=True,
        )
        if arguments.output:
            arguments.output.write_text(json.dumps(results, indent=1))
    print(report(results, arguments.whole))
    sys.exit(any("error" in found for found in results.values()))


if __name__ == "__main__":
    main()
