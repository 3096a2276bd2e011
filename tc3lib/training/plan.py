"""What a run will do, before it starts: rows, steps and epochs; and how a step's rows fit the card's memory."""

import dataclasses
import math
import resource
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from tc3lib.errors import Tc3Error
from tc3lib.settings import LoraSettings, Settings, TrainingSettings, rows_per_step
from tc3lib.training.ways import Way

GIB = 2**30
RESERVE_GIB = 1.5
"""Kept free for what does not grow with a micro-batch: gradients, optimiser, one dequantised weight, the loss."""
USABLE = 0.92
"""Share of the rest that is planned with; the allocator leaves gaps."""
MOST_PASSES = 3
"""Most micro-batches of a step without checkpointing; a pass takes the host the same time however small it is."""
MANY_EPOCHS = 10
"""From so many on a plan has a warning."""


@dataclass(frozen=True)
class Plan:
    """The size of a run."""

    rows: int
    tokens_per_row: float
    """Mean, after cutting at `max_seq_length`."""
    rows_per_step: int
    steps: int
    epochs: float
    limited_by: str
    """The setting that decides where training ends: `max_steps` or `num_train_epochs`."""
    remark: str = ""

    @property
    def tokens(self) -> int:
        """Tokens that the run reads."""
        return round(self.tokens_per_row * self.rows_per_step * self.steps)

    def __str__(self) -> str:
        return (
            f"{self.steps} steps of {self.rows_per_step} rows over {self.rows:,} rows: {self.epochs:.2f} epochs, "
            f"{self.tokens:,} tokens ({self.tokens_per_row:.0f} a row). {self.remark}"
        )


@dataclass(frozen=True)
class Fit:
    """How the rows of a step pass through the card."""

    max_tokens: int | None
    """Most tokens of a micro-batch. None: `per_device_train_batch_size` padded rows, as the recipe has it."""
    lora: LoraSettings
    """The run's, with the gradient checkpointing chosen."""
    reason: str

    def __str__(self) -> str:
        return self.reason


def plan(lengths: Sequence[int], config: TrainingSettings) -> Plan:
    """Return what training on rows of these lengths in tokens will be.

    As in TRL, a positive `max_steps` overrides `num_train_epochs`.
    """
    rows, batch = len(lengths), rows_per_step(config)
    mean = statistics.fmean(lengths)
    steps_per_epoch = math.ceil(rows / batch)
    if config.max_steps > 0:
        steps, epochs, limited_by = config.max_steps, config.max_steps / steps_per_epoch, "max_steps"
        remark = f"max_steps={steps} decides; num_train_epochs={config.num_train_epochs:g} has no effect."
    else:
        steps, epochs = math.ceil(steps_per_epoch * config.num_train_epochs), config.num_train_epochs
        limited_by, remark = "num_train_epochs", f"num_train_epochs={epochs:g} decides; max_steps is off."
    if epochs >= MANY_EPOCHS:
        remark += (
            f"\nWarning: each row is seen {epochs:.0f} times, so the model will learn the rows by heart. Add rows, or "
            f"lower {limited_by}."
        )
    return Plan(rows, mean, batch, steps, epochs, limited_by, remark)


def micro_batches(config: TrainingSettings, processes: int) -> tuple[int, int]:
    """Return the rows of a micro-batch of TRL's own trainer, and how many of these each process makes of a step.

    They are those that are set, or smaller ones where these cannot be divided among the processes.

    Raises:
        Tc3Error: Not even the rows of a step can be divided.
    """
    rows, rest = divmod(rows_per_step(config), processes)
    if rest:
        raise Tc3Error(
            f"the {rows_per_step(config)} rows of a step (per_device_train_batch_size x gradient_accumulation_steps) "
            f"cannot be divided among {processes} processes (--num_processes): choose a multiple, or plan='auto'."
        )
    size = next(size for size in range(min(rows, config.per_device_train_batch_size), 0, -1) if rows % size == 0)
    return size, rows // size


def token_bytes(shape: PreTrainedConfig, checkpointing: bool | str) -> float:
    """Return the memory of one token's activations in training, in bytes, for a Llama in 16 bit with LoRA.

    Without checkpointing a layer keeps two vectors of the MLP's width and about six of the model's. With it a token
    keeps one of the model's width a layer ("unsloth" moves even that to the host), and the layer that is being
    recomputed takes a few times its activations. Measured on an H100: `benchmarks/RESULTS.md`.
    """
    inner = getattr(shape, "intermediate_size", None) or 4 * shape.hidden_size  # older families name it otherwise
    layer = 2 * (2 * inner + 6 * shape.hidden_size)
    if not checkpointing:
        return shape.num_hidden_layers * layer
    kept = 0 if checkpointing == "unsloth" else 2 * shape.num_hidden_layers * shape.hidden_size
    return kept + 4 * layer


def fit(
    lengths: Sequence[int],
    config: Settings,
    shape: PreTrainedConfig,
    free_gib: float | None,
    processes: int = 1,
    way: Way = "packed",
) -> Fit:
    """Choose micro-batches and gradient checkpointing for the memory; a step keeps its rows.

    Without checkpointing nothing is computed twice: it is off where the longest row fits without it, and an average
    step in `MOST_PASSES` micro-batches.

    Args:
        lengths: The rows' lengths in tokens.
        config: The run.
        shape: The model's configuration.
        free_gib: Memory for activations and all else that training adds to the loaded model. None: there is no card,
            and checkpointing stays as it is set.
        processes: How many share a step's rows, each with a card of its own.
        way: How rows may pass through the model (`ways.choose`); TRL's own trainer has the recipe's micro-batches.
    """
    rows = math.ceil(rows_per_step(config.training) / processes)
    each = "" if processes == 1 else f" in each of {processes} processes"
    if way != "packed":
        size, passes = micro_batches(config.training, processes)
        own = f"packed rows were not found right for this model, so TRL's own trainer takes them {way}"
        how = "plan=recipe" if way == "recipe" else own
        return Fit(None, config.lora, f"{how}: {passes} x {size} rows{each}, {_describe(config.lora)}")
    longest, largest, mean = max(lengths), _largest_step(lengths, rows), rows * statistics.fmean(lengths)
    if free_gib is None:
        reason = f"the {rows} rows of a step{each} in one pass, {_describe(config.lora)}: there is no GPU to fit"
        return Fit(largest, config.lora, reason)
    room = max(0, free_gib - RESERVE_GIB) * GIB * USABLE
    tokens = int(room / token_bytes(shape, False))
    kind = False if tokens >= longest and mean <= MOST_PASSES * tokens else "unsloth"
    tokens = int(room / token_bytes(shape, kind))
    lora = dataclasses.replace(config.lora, use_gradient_checkpointing=kind)
    passes = "in one pass" if tokens >= largest else f"in micro-batches of at most {max(tokens, longest):,} tokens"
    reason = (
        f"the {rows} rows of a step{each} (up to {largest:,} tokens) {passes}, {_describe(lora)}: "
        f"{free_gib:.1f} GiB free, {token_bytes(shape, kind) / 2**20:.2f} MiB a token."
    )
    if tokens < longest:
        reason += f" The longest row ({longest:,} tokens) may not fit."
    return Fit(max(tokens, longest), lora, reason)


def free_gib(limit: float | None = None) -> float | None:
    """Return how much memory, in GiB, the loaded model leaves free on the card; None without a card.

    Args:
        limit: Plan for a card of this size in GiB, if it is smaller.
    """
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    here = (free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()) / GIB  # torch reuses what it reserved
    return here if limit is None else min(here, here + limit - total / GIB)


def peak_memory() -> dict[str, float]:
    """Return the most memory that training used, in GiB: of the card, or without one of this process."""
    if torch.cuda.is_available():
        return {"03_train: peak of the card": round(torch.cuda.max_memory_reserved() / GIB, 1)}
    return {"03_train: peak of the process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)}


def _largest_step(lengths: Sequence[int], rows: int) -> int:
    """Return the tokens of a step that is larger than almost every one: three standard deviations above the mean."""
    mean, deviation = statistics.fmean(lengths), statistics.pstdev(lengths)
    return round(min(rows * mean + 3 * deviation * math.sqrt(rows), rows * max(lengths)))


def _describe(lora: LoraSettings) -> str:
    kind = lora.use_gradient_checkpointing
    return f"checkpointing {kind!r}" if isinstance(kind, str) else f"{'with' if kind else 'without'} checkpointing"
