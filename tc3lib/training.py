"""Train the adapter on tokenised rows with TRL's SFTTrainer, evaluate it on held-out rows, save it."""

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tc3lib import checkpoints
from tc3lib.callbacks import LossLogger, read_losses
from tc3lib.config import Config
from tc3lib.files import write_json
from tc3lib.planning import Plan, plan
from tc3lib.prompts import encode


def plan_run(rows: int, config: Config, work: Path) -> Plan:
    """Return what training on `rows` rows will be, after checking that `work` does not hold another run.

    Raises:
        Tc3Error: It does (see `checkpoints.open_run`): better told before the model is loaded than after.
    """
    if config.training.resume_from_checkpoint:
        checkpoints.check_run(work, checkpoints.manifest(config, work))
    return plan(rows, config.training)


def build_trainer(
    model: Any,
    tokenizer: Any,
    train_rows: Sequence[Mapping[str, str]],
    eval_rows: Sequence[Mapping[str, str]],
    config: Config,
    work: Path,
) -> Any:
    """Return an `SFTTrainer` over rows that are tokenised here, so that no library adds, drops or masks a token.

    The losses go to `loss.jsonl` in `work`, the checkpoints to `output_dir` below it. Precision follows the loaded
    model: bf16 or fp16 where it computes in that, else neither.
    """
    import torch
    from trl import SFTConfig, SFTTrainer

    dtype = model.get_input_embeddings().weight.dtype
    settings = dataclasses.asdict(config.training) | {
        "output_dir": str(work / config.training.output_dir),
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "gradient_checkpointing": bool(config.lora.use_gradient_checkpointing),
        "max_length": config.model.max_seq_length,
        "completion_only_loss": True,
    }
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**settings),
        train_dataset=_dataset(tokenizer, train_rows, config.model.max_seq_length),
        eval_dataset=_dataset(tokenizer, eval_rows, config.model.max_seq_length),
        processing_class=tokenizer,
        callbacks=[LossLogger(work / "loss.jsonl")],
    )
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
    run["plan"] = dataclasses.asdict(plan(len(trainer.train_dataset), config.training))
    last = checkpoints.open_run(work, run, resume=config.training.resume_from_checkpoint)
    start = time.monotonic()
    if last and checkpoints.step(last) >= run["plan"]["steps"]:
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


def _dataset(tokenizer: Any, rows: Sequence[Mapping[str, str]], max_length: int) -> Any:
    from datasets import Dataset
    from tqdm.auto import tqdm

    return Dataset.from_list([encode(tokenizer, row, max_length) for row in tqdm(rows, desc="tokenising")])
