"""Time the way from `train.jsonl` on the disk to a trainer that is ready to make its first step, without the model.

    python benchmarks/start.py [--rows 3235 2248619] [--folder /dev/shm/tc3lib]

For each size a catalogue is made up (`catalogue.py`), prepared and sampled as notebook 01 does with the default preset;
62 % of its lines are usable. Then the cells of notebook 03 are timed on the embedded base model, on the CPU: reading,
tokenising and checking the rows, and building the trainer.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

from catalogue import write_catalogue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[3_235, 2_248_619])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "tc3lib-start")
    arguments = parser.parse_args()
    import unsloth  # noqa: F401

    from tc3lib import files, models, prompts, settings
    from tc3lib.catalogue import prepare as data
    from tc3lib.catalogue import sampling
    from tc3lib.training import check_rows as labels
    from tc3lib.training import run as training

    config = settings.llama3_8b().change(model_name=settings.tiny().model.model_name, load_in_4bit=False)
    model, tokenizer = models.load_base_model(config.model)
    model = models.add_lora(model, config.lora)
    lines = [
        "| lines | usable | rows trained on | read, tokenised, checked, s | trainer built, s |",
        "| ---: " * 5 + "|",
    ]
    for rows in arguments.rows:
        work = arguments.folder / str(rows)
        work.mkdir(parents=True, exist_ok=True)
        write_catalogue(work / "trn.json", rows)
        report = data.prepare(work / "trn.json", work / "trn_output.json")
        needed = settings.rows_needed(config.training)
        sampling.select(work / "trn_output.json", work, config.data, train_rows=needed, demo_titles=())
        start = time.monotonic()
        train_rows, eval_rows = (files.read_rows(work / f"{part}.jsonl") for part in ("train", "eval"))
        lengths = prompts.token_lengths(tokenizer, train_rows)
        training.plan_run(lengths, config, work)
        labels.check(tokenizer, train_rows, config.model.max_seq_length)
        checked = time.monotonic()
        training.build_trainer(model, tokenizer, train_rows, eval_rows, config, work)
        built = time.monotonic()
        lines.append(
            f"| {rows:,} | {report.kept:,} | {len(train_rows):,} | {checked - start:.2f} | {built - checked:.2f} |"
        )
        shutil.rmtree(work)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
