"""Time the way from `train.jsonl` on the disk to a trainer that is ready to make its first step, without the model.

    python benchmarks/start.py [--rows 3235 2248619] [--folder /dev/shm/tc3lib]

For each size a catalogue is made up (`catalogue.py`), prepared and sampled as notebook 01 does with the default preset;
62 % of its lines are usable. Then the cells of notebook 03 are timed on the embedded base model, on the CPU: reading,
tokenising and checking the rows, then loading the model and building the trainer.
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
    from tc3lib import catalogue, settings, training

    config = settings.get("llama3_8b").change(model_name=settings.get("tiny").model.model_name, load_in_4bit=False)
    lines = [
        "| lines | usable | rows trained on | read, tokenised, checked, s | model loaded, trainer built, s |",
        "| ---: " * 5 + "|",
    ]
    for rows in arguments.rows:
        work = arguments.folder / str(rows)
        work.mkdir(parents=True, exist_ok=True)
        write_catalogue(work / "trn.json", rows)
        report = catalogue.prepare(config, work)
        catalogue.select(config, work)
        start = time.monotonic()
        run = training.Run(config, work)
        checked = time.monotonic()
        training.build_trainer(run)
        built = time.monotonic()
        lines.append(
            f"| {rows:,} | {report.kept:,} | {len(run.train_rows):,} | {checked - start:.2f} | {built - checked:.2f} |"
        )
        shutil.rmtree(work)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
