"""Notebook 03 from top to bottom: read and check the rows, load the model, train, save the adapter."""

import dataclasses
import gc
import time
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerState
from transformers.trainer_callback import PrinterCallback
from trl import SFTConfig, SFTTrainer

from tc3lib import model_loading
from tc3lib.checkpoints import run_record
from tc3lib.checkpoints.saver import Saver, stop_asked
from tc3lib.errors import Tc3Error
from tc3lib.files import alone, each_row, read_json, replacing_folder, write_json
from tc3lib.prompts import encode_rows, end_id, load_tokenizer, prompt_text, save_tokenizer
from tc3lib.runtime import processes
from tc3lib.settings import Settings, rows_per_step
from tc3lib.training import batches, check_rows, plan, token_cache, ways
from tc3lib.training.losses import LossGuard, LossLogger, mean_loss
from tc3lib.training.packed_trainer import PackedTrainer

if TYPE_CHECKING:
    from IPython.display import HTML


class Run:
    """What is about to be trained: the rows, their tokens, and how long it will take.

    Attributes:
        config, work: As given.
        tokenizer: The base model's own.
        train_rows, eval_rows: `input_ids` and `completion_mask` of each row, as `prompts.encode` returns them, read
            from the disk when they are used (`token_cache`).
        plan: Rows, steps, epochs and tokens.
        record: What identifies the run, and what merely describes it: `run.json`.

    Args:
        config: The settings.
        work: The work folder, with `train.jsonl` and `eval.jsonl`.

    Raises:
        Tc3Error: A row does not suit the tokenizer (see `check_rows.check`), or `work` holds another run (see
            `run_record.check_run`): better reported before the model is loaded than after.
    """

    def __init__(self, config: Settings, work: Path):
        self.config, self.work = config, work
        self.record = run_record.describe(config, work)
        if config.training.resume_from_checkpoint:
            run_record.check_run(work, self.record)
        self.tokenize(load_tokenizer(config.model.model_name))

    def tokenize(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Encode all rows and check them, as training and generation will use them."""
        # Encoding does this too, but rows may come from the cache; and the tokenizer is part of the run's identity.
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
        self.tokenizer, longest, template = tokenizer, self.config.model.max_seq_length, self.config.prompting
        self.record["prompt"] = prompt_text(tokenizer, "{title}", template)
        self.record["end"] = tokenizer.convert_ids_to_tokens(end_id(tokenizer, template))
        identity = [self.record["template"], self.record["prompt"]]
        train, held_out = (
            token_cache.load(tokenizer, self.work / name, [self.record["data"][name], *identity], longest, template)
            for name in ("train.jsonl", "eval.jsonl")
        )
        self.train_rows, self.eval_rows = train.rows, held_out.rows
        self.checked = check_rows.summary(tokenizer, len(train.rows), train.cut, train.dropped, longest, template)
        if held_out.dropped:
            self.checked += f"; {held_out.dropped:,} held-out rows were dropped for the same reason"
        self.plan = plan.plan(self.lengths(), self.config.training)

    def lengths(self) -> list[int]:
        """Return the tokens of each training row."""
        return token_cache.lengths(self.train_rows)

    def __str__(self) -> str:
        return f"{self.plan}\n{self.checked}"

    def show(self, rows: int = 3) -> "HTML":
        """Return the first rows as the model will meet them, with what it learns marked."""
        longest, template = self.config.model.max_seq_length, self.config.prompting
        texts = each_row(self.work / "train.jsonl")
        encoded = ((text, encode_rows(self.tokenizer, [text], longest, template)[0]) for text in texts)
        shown = islice(((text, tokens) for text, tokens in encoded if tokens), rows)
        return check_rows.show(self.tokenizer, *zip(*shown, strict=True), template)


def build_trainer(run: Run) -> SFTTrainer:
    """Load the base model, add LoRA, and return the trainer of the run.

    With `plan="recipe"` that is TRL's `SFTTrainer` itself, with padded micro-batches. With "auto" it is our
    `PackedTrainer` if packed rows are right for this model (`ways.choose`), else TRL's too. Either gets rows that are
    tokenised here, so that no library adds, drops or masks a token. Precision follows the loaded model: bf16 or fp16
    where it computes in that.
    """
    config = run.config
    model, tokenizer = model_loading.load_base_model(config.model)
    same = tokenizer.backend_tokenizer.to_str() == run.tokenizer.backend_tokenizer.to_str()
    if not same or prompt_text(tokenizer, "{title}", config.prompting) != run.record["prompt"]:
        run.tokenize(tokenizer)  # unsloth repairs some
    run.tokenizer = tokenizer
    free = plan.free_gib(config.planning.memory_gib)
    way = "recipe"
    if config.planning.plan == "auto":
        way = ways.choose(model, run.train_rows, run.lengths(), share_prefix=not config.lora.lora_dropout)
    fit = plan.fit(run.lengths(), config, model.config.get_text_config(), free, processes.count(), way)
    print(fit)
    model = model_loading.add_lora(model, fit.lora)
    arguments = _arguments(model, run, way, checkpointing=bool(fit.lora.use_gradient_checkpointing))
    common = {
        "model": model,
        "processing_class": tokenizer,
        "train_dataset": run.train_rows,
        "eval_dataset": run.eval_rows,
    }
    if way != "packed":
        trainer = SFTTrainer(args=SFTConfig(**arguments), **common)
    else:
        # A step's rows are one batch, which the trainer splits itself.
        arguments |= {"per_device_train_batch_size": rows_per_step(config.training), "gradient_accumulation_steps": 1}
        arguments |= {"remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}}
        trainer = PackedTrainer(
            args=SFTConfig(**arguments),
            data_collator=partial(batches.collate, share_prefix=not config.lora.lora_dropout),
            max_tokens=fit.max_tokens,
            **common,
        )
    processes.check(trainer.accelerator)
    trainer.remove_callback(PrinterCallback)
    trainer.model.train()  # the base model too: it is in evaluation mode, although a new adapter says it trains
    # TRL makes a new adapter bfloat16 on a 4-bit base, but a resumed one is read back as float32. Always float32, as
    # unsloth has it on a GPU: only then does a resumed run continue exactly.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32)
    run.record |= run_record.fingerprint(trainer) | {"base": model_loading.fingerprint(trainer.model)}
    run.record["plan"] = dataclasses.asdict(run.plan) | {
        "way": way,
        "max_tokens": fit.max_tokens,
        "gradient_checkpointing": trainer.args.gradient_checkpointing,
    }
    return trainer


def _arguments(model: PreTrainedModel, run: Run, way: ways.Way, checkpointing: bool) -> dict[str, Any]:
    """Return the arguments of `SFTConfig`: the training settings, and what follows from the model and the machine."""
    config, dtype = run.config, model.get_input_embeddings().weight.dtype
    arguments = dataclasses.asdict(config.training) | {
        "output_dir": str(run.work / config.training.output_dir),
        "save_total_limit": None,  # checkpoints.store removes old ones
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
        "gradient_checkpointing": checkpointing,
        "max_length": config.model.max_seq_length,
        "completion_only_loss": True,
        "disable_tqdm": True,  # LossLogger has the bar
        "logging_nan_inf_filter": False,
    }
    if way != "packed":
        size, passes = plan.micro_batches(config.training, processes.count())
        arguments |= {"per_device_train_batch_size": size, "gradient_accumulation_steps": passes}
    if way != "recipe":  # unsloth has its own list of models that cannot do without padding, which goes by None
        arguments["padding_free"] = False if way == "padded" else None
    if arguments["padding_free"] is None:
        del arguments["padding_free"]
    return arguments


def train(trainer: SFTTrainer, run: Run) -> None:
    """Train to the end of the plan, from the newest checkpoint in the work folder that is whole if there is one.

    Keeps `run.json` up to date: what the run is and its plan when it starts, its losses when it ends. The last line
    printed says which step is safe.

    Raises:
        Tc3Error: The work folder holds another run (see `run_record.open_run`), or checkpoints none of which is whole;
            another process trains there; or the run was stopped (SIGINT, SIGTERM, a notebook's stop button), after the
            step was saved.
    """
    config, work, main = run.config, run.work, trainer.is_world_process_zero()
    with alone(work) if main else nullcontext(), stop_asked() as stop:
        if main:
            again = "run" in run.record  # in this session: it is the run to continue, whatever is set
            resume = config.training.resume_from_checkpoint or again
            differences = run_record.open_run(work, run.record, resume=resume)
        processes.wait()
        record = read_json(work / "run.json")
        saver = Saver(trainer, work, record, config, stop)
        progress = LossLogger(work, run.plan.tokens_per_row * run.plan.rows_per_step, lambda: saver.safe_step)
        if main:
            saver.resume()
        processes.wait()
        last = saver.resumed()
        if last and main and differences:
            print(f"changed since it began, which is allowed: {', '.join(differences)}")
        start, error = time.monotonic(), None
        gc.freeze()  # several libraries collect garbage as training begins; what is imported need not be searched
        try:
            if last and saver.step >= run.plan.steps:  # Trainer would make one more step of a run that ended an epoch
                print("training is finished: loading its last checkpoint")
                trainer.model.load_adapter(str(last), "default", is_trainable=True)
                trainer.state = TrainerState.load_from_json(str(last / "trainer_state.json"))
                trainer.state.is_world_process_zero = main
                if main:
                    progress.begin(trainer.state)
                    progress.on_train_end(trainer.args, trainer.state, trainer.control)
            else:
                if not last:
                    _check_untrained(trainer.model, config)
                trainer.args.output_dir = str(saver.local)
                trainer.args.eval_on_start &= not last
                for callback in (saver, progress, LossGuard(trainer)):
                    trainer.remove_callback(type(callback))  # of an earlier call
                    trainer.add_callback(callback)
                trainer.train(resume_from_checkpoint=str(last) if last else None)
                saver.finish()
            processes.wait()
            result = _result(trainer.state, progress.rows)
            if main and result["train_loss"] is not None:
                held_out = "" if result["eval_loss"] is None else f", held-out {result['eval_loss']:.4f}"
                print(
                    f"loss of step {result['steps']} {result['train_loss']:.4f}, mean of all steps "
                    f"{result['mean_train_loss']:.4f}{held_out}"
                )
        except Tc3Error as raised:  # the loss is not a number, say: notebook 04 must know
            error, result = raised, _result(trainer.state, progress.rows) | {"error": str(raised)}
        finally:
            gc.unfreeze()
            progress.close()
            if main:
                saver.report()
        if main:
            record["result"] = result | {
                "seconds_of_last_call": round(time.monotonic() - start, 1),
                "memory": plan.peak_memory(),
            }
            try:
                run_record.check_work(work, record["run"])
                write_json(work / "run.json", record)
            except Tc3Error as unwritten:
                print(f"the result could not be noted in run.json: {unwritten}")
    if error:
        raise error
    if stop.signal and trainer.state.global_step < run.plan.steps:
        raise Tc3Error(
            f"stopped by {stop.signal} after step {trainer.state.global_step} of {run.plan.steps}: run it again."
        )


def _check_untrained(model: torch.nn.Module, config: Settings) -> None:
    """Raise Tc3Error if a start would begin from an adapter that an earlier call in this process has changed."""
    if config.lora.loftq_config is None and any(
        bool(weight.any()) for name, weight in model.named_parameters() if "lora_B" in name
    ):
        raise Tc3Error(
            "the adapter in memory has been trained already, and there is no checkpoint to continue from: restart the "
            "session (in Colab Runtime > Restart session) and run all cells."
        )


def _result(state: TrainerState, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a run's steps and losses, nats a token; the mean is over all of its steps, resumed or not."""
    train = [row["loss"] for row in rows if "loss" in row]
    held_out = [row["eval_loss"] for row in rows if "eval_loss" in row and row["step"]]
    return {
        "steps": state.global_step,
        "train_loss": train[-1] if train else None,
        "mean_train_loss": mean_loss(rows),
        "eval_loss": held_out[-1] if held_out else None,
    }


def save_adapter(trainer: SFTTrainer, run: Run) -> Path:
    """Save adapter, tokenizer and a copy of `run.json` to `lora_model` in the work folder, and return that folder.

    An adapter saved earlier stays until this one is whole. Of several processes the main one writes.

    Raises:
        Tc3Error: The folder cannot be written, or a weight of the adapter is not a number.
    """
    folder = run.work / "lora_model"
    weights = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    if not all(bool(weight.isfinite().all()) for weight in weights):
        raise Tc3Error(f"the adapter has weights that are not numbers: {folder} stays as it was. Train again.")
    if processes.is_main():
        _save(trainer.model, trainer.processing_class, folder, run)
    processes.wait()
    return folder


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, run: Run) -> None:
    try:
        with replacing_folder(folder) as new:
            model.save_pretrained(new, safe_serialization=True)
            save_tokenizer(tokenizer, new, run.config.prompting)
            write_json(new / "run.json", read_json(run.work / "run.json"))
    except (OSError, SafetensorError) as error:
        raise Tc3Error(
            f"cannot write {folder}: {error}. The adapter of the last saved step is in the checkpoints too: free or "
            "repair the folder and run 03_train again; it continues from there."
        ) from None
