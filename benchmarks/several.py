"""Measure training and answering in one process and in several, each with a GPU of its own.

    python benchmarks/model.py FOLDER
    python benchmarks/several.py FOLDER
    accelerate launch --multi_gpu --num_processes 2 benchmarks/several.py FOLDER

FOLDER holds a model of Llama-3-8B's shape (`model.py`). Prints a line of a table: tokens/s of training, over the steps
after the first, and answers/s, each of as many tokens as are asked for. Not run yet on a machine with two GPUs.
"""

import argparse
import tempfile
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--titles", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=128, help="new tokens of each answer")
    parser.add_argument("--preset", default="llama3_8b", help="whose settings to take, but for the model")
    arguments = parser.parse_args()
    from tc3lib import processes

    processes.hush()
    import unsloth  # noqa: F401  # isort: skip
    from train import text_rows

    from tc3lib import files, generation, models, presets, prompts, training

    config = presets.get(arguments.preset).change(
        model_name=str(arguments.folder), max_new_tokens=arguments.tokens, max_steps=arguments.steps,
        save_strategy="no", eval_strategy="no", eval_on_start=False,
    )  # fmt: skip
    batch = config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps
    rows = text_rows(arguments.steps * batch)
    work = Path(processes.gather(tempfile.mkdtemp())[0])  # the main process's, in all
    for name in ("train", "eval"):
        files.write_rows(work / f"{name}.jsonl", rows)
    model, tokenizer = models.load_base_model(config.model)
    fit = training.fit(model, prompts.token_lengths(tokenizer, rows), config)
    print(fit)
    model = models.add_lora(model, fit.lora)
    trainer = training.build_trainer(model, tokenizer, rows, rows[:8], config, work, fit)
    training.train(trainer, config, work)
    trained = trainer.losses.tokens / trainer.losses.seconds
    titles = [row["input_text"] for row in text_rows(arguments.titles)]
    generation.generate(model, tokenizer, titles[:8], config.generation)  # kernels are compiled
    start = time.monotonic()
    generation.generate(model, tokenizer, titles, config.generation)
    answered = len(titles) / (time.monotonic() - start)
    print("| processes | training, tokens/s | answers/s |\n| ---: | ---: | ---: |")
    print(f"| {processes.count()} | {trained:,.0f} | {answered:.1f} |")


if __name__ == "__main__":
    main()
