"""Measure peak memory and seconds of whole epochs over a catalogue of the real one's size, in 01, 03 and 04.

    python benchmarks/epochs.py [--rows 485_300 2_248_619] [--folder DIR]

For each size a catalogue is made up (`catalogue.py`; 62 % of its lines are usable). Then, each in a process of its own
and with `max_steps=-1`: the cells of notebook 01; those of notebook 03, with three steps of the embedded base model on
a CPU; the latter again, with the tokens that are on the disk now; and what 04 does with all rows, with made-up answers:
it looks for copies among 512 and opens the catalogue to ask about.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = [485_300, 2_248_619]
"""Lines, of which 300,000 and 1.39 million are usable."""


def configured(work: Path):
    from tc3lib import settings

    model = settings.get("tiny").model.model_name
    return settings.get("llama3_8b").change(
        source=str(work / "trn.json"), model_name=model, load_in_4bit=False, max_steps=-1, num_train_epochs=1
    )


def prepare(work: Path) -> dict[str, float]:
    """Do what notebook 01 does."""
    from tc3lib import catalogue, files, plotting, prompts

    config, start = configured(work), time.monotonic()
    catalogue.prepare(config, work)
    plotting.table(catalogue.before_and_after(config, work), ["uid", "before", "after"])
    prepared = time.monotonic()
    selected = catalogue.select(config, work)
    drawn = time.monotonic()
    rows = files.read_rows(work / "train.jsonl", 10_000)
    plotting.plot_lengths(rows)
    plotting.plot_tokens(prompts.token_lengths(config.model.model_name, rows), config.model.max_seq_length)
    shown = time.monotonic()
    return {
        "rows": selected.train, "near twins": selected.near_twins,
        "prepare": prepared - start, "select": drawn - prepared, "the rest": shown - drawn,
    }  # fmt: skip


def train(work: Path) -> dict[str, float]:
    """Do what notebook 03 does before it trains, and train a few steps."""
    from transformers import TrainerCallback

    from tc3lib import training

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step >= TRAINED

    config, start = configured(work), time.monotonic()
    run = training.Run(config, work)
    print(run, file=sys.stderr)
    tokenised = time.monotonic()
    trainer = training.build_trainer(run)
    built = time.monotonic()
    trainer.add_callback(Stop())
    trainer.train()
    trained = time.monotonic()
    return {
        "rows": run.plan.rows,
        "tokens": tokenised - start, "trainer": built - tokenised, f"{TRAINED} steps": trained - built,
    }  # fmt: skip


def score(work: Path) -> dict[str, float]:
    """Do what notebook 04 does with all rows."""
    from tc3lib import files
    from tc3lib.catalogue.lookup import Catalogue
    from tc3lib.evaluation import copies

    rows = [row for row in files.read_rows(work / "questions.jsonl") if row["response"]]
    texts = [row["response"][at : at + 500] for at in (0, 40) for row in rows]
    answers = [{"title": "", "answer": texts[number % len(texts)][number // len(texts) :]} for number in range(512)]
    start = time.monotonic()
    copied = copies.copying(answers, work)
    scored = time.monotonic()
    opened = Catalogue(work)
    shown = time.monotonic()
    return {
        "rows": json.loads((work / "prepare_report.json").read_text())["selected"]["train"],
        f"look for copies ({len(copied)} found)": scored - start, f"open {len(opened):,} rows": shown - scored,
    }  # fmt: skip


TRAINED = 3
STEPS = {"01": prepare, "03": train, "04": score}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "tc3lib-epochs")
    parser.add_argument("--step", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        name, work = arguments.step
        found = STEPS[name](Path(work))
        own = int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
        largest = max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
        used = sum(os.times()[:4])
        print(json.dumps(found | {"peak": largest / 2**20, "all on the processor": used}))
        return
    from catalogue import write_catalogue

    print("| rows trained on | | peak of a process, GiB | seconds |\n| ---: | --- | ---: | --- |")
    for rows in arguments.rows:
        work = arguments.folder / str(rows)
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "trn.json").exists():
            write_catalogue(work / "trn.json", rows)
        tokens = work / "tokens"
        tokens.mkdir(exist_ok=True)
        for cached in tokens.rglob("*.arrow"):
            cached.unlink()
        for label, name in (("01", "01"), ("03", "03"), ("03 again", "03"), ("04", "04")):
            command = [sys.executable, __file__, "--step", name, str(work)]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tokens)})
            if done.returncode:
                raise SystemExit(f"{label}: {done.stderr[-2000:]}")
            found = json.loads(done.stdout.splitlines()[-1])
            count, peak = found.pop("rows"), found.pop("peak")
            parts = ", ".join(f"{part} {value:,.0f}" for part, value in found.items())
            print(f"| {count:,} | {label} | {peak:.2f} | {parts} |", flush=True)


if __name__ == "__main__":
    main()
