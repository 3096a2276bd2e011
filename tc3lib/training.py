"""Train the adapter on tokenised rows with TRL's SFTTrainer, evaluate it on held-out rows, save it."""

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tc3lib import batches, checkpoints, planning, plotting
from tc3lib.callbacks import LossLogger, read_losses
from tc3lib.config import Config
from tc3lib.files import write_json
from tc3lib.planning import Fit, Plan
from tc3lib.prompts import encode
from tc3lib.trainer import trainer_class


def plan_run(lengths: Sequence[int], config: Config, work: Path) -> Plan:
    """Return what training on rows of these lengths will be, after checking that `work` does not hold another run.

    Raises:
        Tc3Error: It does (see `checkpoints.open_run`): better told before the model is loaded than after.
    """
    if config.training.resume_from_checkpoint:
        checkpoints.check_run(work, checkpoints.manifest(config, work))
    return planning.plan([min(length, config.model.max_seq_length) for length in lengths], config.training)


def fit(model: Any, lengths: Sequence[int], config: Config) -> Fit:
    """Choose micro-batches and checkpointing for the memory that the loaded model leaves (see `planning.fit`)."""
    lengths = [min(length, config.model.max_seq_length) for length in lengths]
    dtype = model.get_input_embeddings().weight.dtype
    return planning.fit(lengths, config, model.config, *_card(config.planning.memory_gib, dtype))


def build_trainer(
    model: Any,
    tokenizer: Any,
    train_rows: Sequence[Mapping[str, str]],
    eval_rows: Sequence[Mapping[str, str]],
    config: Config,
    work: Path,
    fit: Fit | None = None,
) -> Any:
    """Return an `SFTTrainer` over rows that are tokenised here, so that no library adds, drops or masks a token.

    The losses go to `loss.jsonl` and `loss.png` in `work`, the checkpoints to `output_dir` below it. Precision follows
    the loaded model: bf16 or fp16 where it computes in that, else neither. `fit` None makes each step in one pass,
    or as the recipe has it.
    """
    import torch
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig

    rows = planning.rows_per_step(config.training)
    recipe = config.planning.plan == "recipe"
    dtype = model.get_input_embeddings().weight.dtype
    lora = fit.lora if fit else config.lora
    settings = dataclasses.asdict(config.training) | {
        "output_dir": str(work / config.training.output_dir),
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "gradient_checkpointing": bool(lora.use_gradient_checkpointing),
        "max_length": config.model.max_seq_length,
        "completion_only_loss": True,
        # LossLogger shows progress and logs, without making the card wait for the host.
        "disable_tqdm": True,
        "logging_strategy": "no",
        "logging_nan_inf_filter": False,
    }
    if settings["padding_free"] is None or not recipe:
        del settings["padding_free"]
    if not recipe:
        settings |= {
            "per_device_train_batch_size": rows,
            "gradient_accumulation_steps": 1,
            "remove_unused_columns": False,
            "dataset_kwargs": {"skip_prepare_dataset": True},
        }

    def collate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return batches.collate(rows, share_prefix=not lora.lora_dropout)

    trainer = trainer_class()(
        model=model,
        args=SFTConfig(**settings),
        train_dataset=_dataset(tokenizer, train_rows, config.model.max_seq_length, recipe),
        eval_dataset=_dataset(tokenizer, eval_rows, config.model.max_seq_length, recipe),
        processing_class=tokenizer,
        data_collator=None if recipe else collate,
    )
    if not recipe:
        trainer.max_tokens = fit.max_tokens if fit else rows * config.model.max_seq_length
    trainer.model.train()  # all of it: a new adapter says so while the base model below is still in evaluation mode
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(LossLogger(work / "loss.jsonl", trainer, plotting.live_loss(work / "loss.png")))
    # TRL makes a new adapter bfloat16 on a 4-bit base, but a resumed one is read back as float32. Always float32, as
    # unsloth has it on a GPU: only then does a resumed run continue exactly.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    return trainer


def train(trainer: Any, config: Config, work: Path) -> None:
    """Train to the end of the plan, from the newest complete checkpoint in `work` if there is one.

    Keeps `run.json` up to date: what the run is and its plan when it starts, its last losses when it ends.

    Raises:
        Tc3Error: The work folder holds another run (see `checkpoints.open_run`).
    """
    run = checkpoints.manifest(config, work)
    lengths = [len(row["input_ids"]) for row in trainer.train_dataset]
    size = planning.plan(lengths, config.training)
    run["plan"] = dataclasses.asdict(size) | {
        "max_tokens": trainer.max_tokens,
        "gradient_checkpointing": trainer.args.gradient_checkpointing,
    }
    last = checkpoints.open_run(work, run, resume=config.training.resume_from_checkpoint)
    start = time.monotonic()
    if last and checkpoints.step(last) >= size.steps:
        # Trainer would make one more step of a run that ended inside an epoch.
        print(f"training is finished: loading {last.name} from {last.parent}")
        trainer.model.load_adapter(str(last), "default", is_trainable=True)
        trainer.state.global_step = checkpoints.step(last)
    else:
        if last:
            print(f"continuing from {last.name}, the newest complete checkpoint in {last.parent}")
            trainer.args.eval_on_start = False
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    history = read_losses(work / "loss.jsonl")
    run["result"] = {
        "steps": trainer.state.global_step,
        "train_loss": next((row["loss"] for row in reversed(history) if "loss" in row), None),
        "eval_loss": next((row["eval_loss"] for row in reversed(history) if "eval_loss" in row), None),
        "seconds_of_last_call": round(time.monotonic() - start, 1),
    }
    write_json(work / "run.json", run)


def save_adapter(model: Any, tokenizer: Any, folder: Path | str) -> None:
    """Save adapter and tokenizer as safetensors and JSON; an adapter saved earlier stays until this one is whole."""
    folder = Path(folder)
    new, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():  # an earlier call was broken off between its two renames
        old.rename(folder)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    model.save_pretrained(new, safe_serialization=True)
    tokenizer.save_pretrained(new)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _dataset(tokenizer: Any, rows: Sequence[Mapping[str, str]], max_length: int, recipe: bool) -> Any:
    """Return rows of `input_ids` and `labels`, or of what TRL makes labels from itself."""
    from datasets import Dataset
    from tqdm.auto import tqdm

    encoded = [encode(tokenizer, row, max_length) for row in tqdm(rows, desc="tokenising")]
    if recipe:
        return Dataset.from_list(encoded)
    labelled = [
        {
            "input_ids": row["input_ids"],
            "labels": [
                token if learned else -100
                for token, learned in zip(row["input_ids"], row["completion_mask"], strict=True)
            ],
        }
        for row in encoded
    ]
    return Dataset.from_list(labelled).with_format("numpy")


def _card(told: float | None, dtype: Any) -> tuple[float | None, float | None]:
    """Return the memory, in GiB, that the loaded model leaves on the card, or on one of the size told, and its TFLOP/s.

    Without a card both are None. The speed is that of a matrix product in the model's precision, tried once.
    """
    import torch

    if not torch.cuda.is_available():
        return None, None
    size = 4096
    matrix = torch.randn(size, size, device="cuda").to(dtype)
    for _ in range(3):
        matrix @ matrix
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(5):
        matrix @ matrix
    end.record()
    torch.cuda.synchronize()
    tflops = 5 * 2 * size**3 / (start.elapsed_time(end) / 1000) / 1e12
    del matrix
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    here = (free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()) / planning.GIB
    return here if told is None else min(here, here + told - total / planning.GIB), tflops
