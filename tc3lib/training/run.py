"""Train the adapter on tokenised rows with TRL's SFTTrainer, evaluate it on held-out rows, save it."""

import dataclasses
import gc
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tc3lib import plotting
from tc3lib.checkpoints import run_record as checkpoints
from tc3lib.checkpoints.saver import Saver, check_work, stop_asked
from tc3lib.errors import Tc3Error
from tc3lib.files import alone, read_json, write_json
from tc3lib.prompts import encode_rows
from tc3lib.runtime import processes
from tc3lib.settings import Settings, rows_per_step
from tc3lib.training import batches
from tc3lib.training import packed_attention as attention
from tc3lib.training import plan as planning
from tc3lib.training.graphs import Graphs
from tc3lib.training.plan import Fit, Plan
from tc3lib.training.progress import LossLogger
from tc3lib.training.trainer import trainer_class


def plan_run(lengths: Sequence[int], config: Settings, work: Path) -> Plan:
    """Return what training on rows of these lengths will be, after checking that `work` does not hold another run.

    Raises:
        Tc3Error: It does (see `checkpoints.open_run`), or the model is sharded and the plan has it whole: better
            told before the model is loaded than after.
    """
    processes.check_whole(recipe=config.planning.plan == "recipe")
    if config.training.resume_from_checkpoint:
        checkpoints.check_run(work, checkpoints.manifest(config, work))
    return planning.plan([min(length, config.model.max_seq_length) for length in lengths], config.training)


def fit(model: Any, lengths: Sequence[int], config: Settings) -> Fit:
    """Choose micro-batches and checkpointing for the memory that the loaded model leaves (see `planning.fit`)."""
    lengths = [min(length, config.model.max_seq_length) for length in lengths]
    weight = model.get_input_embeddings().weight
    card = planning.card(config.planning.memory_gib, weight.dtype)
    flash = attention.is_flash(weight.dtype, weight.device)
    return planning.fit(lengths, config, model.config, *card, processes.count(), flash)


def build_trainer(
    model: Any,
    tokenizer: Any,
    train_rows: Sequence[Mapping[str, str]],
    eval_rows: Sequence[Mapping[str, str]],
    config: Settings,
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

    rows = rows_per_step(config.training)
    recipe = config.planning.plan == "recipe"
    dtype = model.get_input_embeddings().weight.dtype
    lora = fit.lora if fit else config.lora
    settings = dataclasses.asdict(config.training) | {
        "output_dir": str(work / config.training.output_dir),
        "save_total_limit": None,  # `store` removes old checkpoints
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
    size, passes = planning.recipe_passes(config.training, processes.count()) if recipe else (rows, 1)
    settings |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": passes}
    if not recipe:
        settings |= {
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
    processes.check(trainer.accelerator)
    if not recipe:
        trainer.max_tokens = fit.max_tokens if fit else rows * config.model.max_seq_length
    trainer.model.train()  # all of it: a new adapter says so while the base model below is still in evaluation mode
    trainer.remove_callback(PrinterCallback)
    trainer.losses = LossLogger(work / "loss.jsonl", trainer, plotting.live_loss(work / "loss.png"))
    trainer.add_callback(trainer.losses)
    # TRL makes a new adapter bfloat16 on a 4-bit base, but a resumed one is read back as float32. Always float32, as
    # unsloth has it on a GPU: only then does a resumed run continue exactly.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    if fit and fit.graphs:
        trainer.graphs = Graphs(trainer.model, trainer.args.device)
    return trainer


def train(trainer: Any, config: Settings, work: Path) -> None:
    """Train to the end of the plan, from the newest checkpoint in `work` that is whole if there is one.

    Keeps `run.json` up to date: what the run is and its plan when it starts, its losses when it ends. The last line it
    prints tells which step is safe.

    Raises:
        Tc3Error: The work folder holds another run (see `checkpoints.open_run`), or checkpoints none of which is whole;
            another process trains there; or it was told to stop (SIGINT, SIGTERM, a notebook's stop button), after
            the step was saved.
    """
    main, accelerator = trainer.is_world_process_zero(), trainer.accelerator
    with alone(work) if main else nullcontext(), stop_asked() as stop:
        run = checkpoints.manifest(config, work) | checkpoints.fingerprint(trainer)
        lengths = [len(ids) for ids in trainer.train_dataset.with_format(None)["input_ids"]]
        size = planning.plan(lengths, config.training)
        run["plan"] = dataclasses.asdict(size) | {
            "max_tokens": trainer.max_tokens,
            "gradient_checkpointing": trainer.args.gradient_checkpointing,
        }
        if main:
            differences = checkpoints.open_run(work, run, resume=config.training.resume_from_checkpoint)
        accelerator.wait_for_everyone()
        run = read_json(work / "run.json")
        losses, settings = trainer.losses, config.training
        saver = Saver(
            trainer,
            losses,
            work,
            work / settings.output_dir,
            run,
            settings.save_total_limit,
            config.saving.save_minutes,
            stop,
        )
        try:
            if main:
                saver.resume()
        except OSError as error:
            raise Tc3Error(
                f"cannot read the checkpoints in {saver.outputs}: {error}. Mount or mend the folder and try again."
            ) from None
        accelerator.wait_for_everyone()
        last = saver.resumed()
        if last and main and differences:
            print(f"other than before, which may be: {', '.join(differences)}")
        start = time.monotonic()
        gc.freeze()  # several libraries collect garbage as training begins; what is imported need not be searched
        try:
            if last and saver.step >= size.steps:  # Trainer would make one more step of a run that ended in an epoch
                print("training is finished: loading its last checkpoint")
                if processes.is_sharded(trainer.model):
                    trainer._load_from_checkpoint(str(last))
                else:
                    trainer.model.load_adapter(str(last), "default", is_trainable=True)
                trainer.state.global_step = saver.step
                if main:
                    losses.begin(saver.step)
                    losses.on_train_end(trainer.args, trainer.state, trainer.control)  # the curve may not be kept yet
            else:
                if not last:
                    _check_untrained(trainer.model, config)
                trainer.args.output_dir = str(saver.local)
                trainer.args.eval_on_start &= not last
                trainer.add_callback(saver)
                trainer.train(resume_from_checkpoint=str(last) if last else None)
                saver.finish()
            accelerator.wait_for_everyone()
            result = _result(trainer, losses.rows)
            if main and result["train_loss"] is not None:
                print(
                    f"loss of step {result['steps']} {result['train_loss']:.4f}, mean of all steps "
                    f"{result['mean_train_loss']:.4f}, held-out {result['eval_loss'] or float('nan'):.4f}"
                )
        finally:
            gc.unfreeze()
            if main:
                saver.tell()
        if main:
            run["result"] = result | {
                "seconds_of_last_call": round(time.monotonic() - start, 1),
                "memory": planning.peak_memory(),
            }
            try:
                check_work(work, run["run"])
                write_json(work / "run.json", run)
            except Tc3Error as error:
                print(f"the result could not be noted in run.json: {error}")
    if stop.signal:
        raise Tc3Error(
            f"stopped by {stop.signal} after step {trainer.state.global_step} of {size.steps}: run it again."
        )


def _check_untrained(model: Any, config: Settings) -> None:
    """Raise Tc3Error if a start would begin from an adapter that an earlier call in this process has changed."""
    if config.lora.loftq_config is None and any(
        bool(weight.any()) for name, weight in model.named_parameters() if "lora_B" in name
    ):
        raise Tc3Error(
            "the adapter in memory has been trained already, and there is no checkpoint to continue from: restart the "
            "session (in Colab Runtime > Restart session) and run all cells."
        )


def _result(trainer: Any, losses: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return a run's steps and losses, nats a token; the mean is over all of its steps, whoever made them."""
    train = [row["loss"] for row in losses if "loss" in row]
    held_out = [row["eval_loss"] for row in losses if "eval_loss" in row]
    return {
        "steps": trainer.state.global_step,
        "train_loss": train[-1] if train else None,
        "mean_train_loss": statistics.fmean(train) if train else None,
        "eval_loss": held_out[-1] if held_out else None,
    }


def save_adapter(model: Any, tokenizer: Any, folder: Path | str) -> None:
    """Save adapter and tokenizer as safetensors and JSON; an adapter saved earlier stays until this one is whole.

    Of several processes the main one writes. Where each holds a part of the weights (FSDP2), it gets them from all.

    Raises:
        Tc3Error: The folder cannot be written.
    """
    folder = Path(folder)
    new = folder.with_name(f".{folder.name}.new")
    if processes.is_main():
        _save_adapter(model, tokenizer, folder, new)
    elif processes.is_sharded(model):
        model.save_pretrained(new, safe_serialization=True)
    processes.wait()


def _save_adapter(model: Any, tokenizer: Any, folder: Path, new: Path) -> None:
    from safetensors import SafetensorError

    old = folder.with_name(f".{folder.name}.old")
    try:
        if old.exists() and not folder.exists():  # an earlier call was broken off between its two renames
            old.rename(folder)
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        new.mkdir()  # not its parents: where Drive was lost they would be made on this machine
        model.save_pretrained(new, safe_serialization=True)
        tokenizer.save_pretrained(new)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except (OSError, SafetensorError) as error:
        raise Tc3Error(
            f"cannot write {folder}: {error}. The adapter of the last saved step is in the checkpoints too: mend the "
            "folder, and run 03_train again; it goes on from there."
        ) from None
    shutil.rmtree(old, ignore_errors=True)


def _dataset(tokenizer: Any, rows: Sequence[Mapping[str, str]], max_length: int, recipe: bool) -> Any:
    """Return rows of `input_ids` and `labels`, or of what TRL makes labels from itself."""
    from datasets import Dataset

    encoded = encode_rows(tokenizer, rows, max_length)
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
