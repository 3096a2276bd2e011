"""Train a real model on a real catalogue, SmolLM2-135M-Instruct on what Debian's packages are, and say what came of it.

    python data/fetch_debian.py debian.json && python data/make_smollm2.py BASE
    python benchmarks/real.py run debian.json WORK --model BASE      # 600 steps of 128 rows: four minutes on a GPU
    python benchmarks/real.py answers runs/real                      # of a finished run, such as that of `make real`

Both print the scores and three answers that share no eight words in a row with any description of the catalogue: the
catalogue's own text is not passed on.
"""

import argparse
import os
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tc3lib import settings
from tc3lib.errors import show_alone
from tc3lib.files import read_json, read_rows
from tc3lib.settings import Settings

WORDS = 8
SHOWN = 3
MEASURES = ("loss", "rougeL", "chrf", "eos_rate", "copies", "copies_other")


def config(catalogue: Path, model: Path, steps: int) -> Settings:
    """Return the settings of the run; on a CPU in float32."""
    import torch

    return settings.get("smollm2").change(
        source=str(catalogue.absolute()), model_name=str(model.absolute()), max_steps=steps, max_seq_length=1024,
        dtype=None if torch.cuda.is_available() else "float32", r=64, lora_alpha=64, learning_rate=3e-3,
        gradient_accumulation_steps=16,
        eval_rows=256, question_rows=128, eval_steps=max(1, steps // 10), save_steps=steps,
    )  # fmt: skip


def run(chosen: Settings, work: Path) -> None:
    """Do what the four notebooks do."""
    from tc3lib import catalogue, model_loading, training
    from tc3lib.evaluation import comparison, questions, report

    catalogue.prepare(chosen, work)
    catalogue.select(chosen, work)
    model, tokenizer = model_loading.load_base_model(chosen.model)
    questions.answer(model, tokenizer, chosen, work, "pretest")
    del model
    trainer = training.build_trainer(made := training.Run(chosen, work))
    training.train(trainer, made)
    training.save_adapter(trainer, made)
    del trainer
    model, tokenizer = model_loading.load_adapter(work / "lora_model", chosen.model)
    questions.answer(model, tokenizer, chosen, work, "posttest")
    report.write(comparison.compare(work, chosen), work)


def own_words(rows: Sequence[dict[str, Any]], descriptions: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rows whose `answer` shares no eight words in a row with a description."""
    runs = [_runs(row["answer"]) for row in rows]
    asked, shared = set().union(*runs), set()
    for text in descriptions:
        shared |= asked & _runs(text)
    return [row for row, found in zip(rows, runs, strict=True) if not found & shared]


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return set(zip(*(words[start:] for start in range(WORDS)), strict=False))


def show(work: Path) -> None:
    """Print the scores of a finished run, and answers in its own words: to the demo titles first, then the best."""
    report = read_json(work / "report.json")
    print(report["verdict"]["sentence"], report["verdict"]["learned"], sep="\n")
    for name in MEASURES:
        found = report["metrics"][name]["parts"]["eval"]
        print(f"{name:<14}{found['before']:.4f} -> {found['after']:.4f}  {found['says']}")
    from tc3lib.evaluation.comparison import joined
    from tc3lib.prompts import description

    both = joined(*(read_rows(work / f"{name}.jsonl") for name in ("pretest", "posttest")))
    rows = [row | {"answer": row["after"]} for row in both if row["part"] in ("demo", "eval")]
    rows.sort(key=lambda row: (row["part"] != "demo", -(row["rougeL_after"] or 0)))
    catalogue = map(description, read_rows(work / "trn_output.json"))
    found = own_words(rows, catalogue)
    print(f"{len(found)} of {len(rows)} answers share no {WORDS} words in a row with a description of the catalogue:")
    for row in found[:SHOWN]:
        print(f"\n[{row['part']}, {row['uid']}] {row['title']}\n  before: {row['before']}\n  after:  {row['after']}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train SmolLM2-135M on Debian's descriptions; or show a finished run.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run")
    command.add_argument("catalogue", type=Path)
    command.add_argument("work", type=Path)
    command.add_argument("--model", type=Path, default=Path(settings.get("smollm2").model.model_name))
    command.add_argument("--steps", type=int, default=600)
    command.add_argument("--questions", type=int, help="held-out titles that are asked, and as many to evaluate on")
    commands.add_parser("answers").add_argument("work", type=Path)
    options = parser.parse_args()
    show_alone()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.command == "run":
        options.work.mkdir(parents=True)
        chosen, start = config(options.catalogue, options.model, options.steps), time.monotonic()
        if options.questions:
            chosen = chosen.change(question_rows=options.questions, eval_rows=options.questions)
        run(chosen, options.work)
        print(f"{time.monotonic() - start:.0f} s in all")
    show(options.work)


if __name__ == "__main__":
    main()
