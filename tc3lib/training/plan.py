"""What a run will do, before it starts: rows, steps and epochs, and how a step's rows fit the memory at hand."""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tc3lib.settings import GenerationSettings, LoraSettings, Settings, TrainingSettings, rows_per_step

GIB = 2**30
RESERVE_GIB = 1.5
"""Kept free for what does not grow with a micro-batch: gradients, optimiser, one dequantised weight, the loss."""
USED = 0.92
"""Share of the rest that is planned with; the allocator leaves gaps."""
LAUNCH_SECONDS = 0.01
"""What the host takes to launch one layer's forward and backward pass, whatever the micro-batch's size."""
EFFICIENCY = 0.55
"""Share of a large matrix product's speed that a training step reaches where the card, not the host, is the limit."""

GRAPH_STEPS = 20
"""Length of a run, in steps, from which on CUDA graphs are used: recording had paid for itself after 13 steps on two
H100s (`benchmarks/RESULTS.md`)."""

MOST_ANSWERS = 256
"""Titles answered at once at most: more are hardly faster, and an interruption would cost more."""
CACHE_AHEAD = 512
"""Tokens by which unsloth's cache of keys and values is longer than the prompt."""


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
    """Most tokens of a micro-batch; None: as the recipe has it, `per_device_train_batch_size` padded rows."""
    lora: LoraSettings
    """The run's, with the gradient checkpointing chosen."""
    reason: str
    graphs: bool = False
    """Whether the layers are launched as CUDA graphs (`graphs.py`)."""

    def __str__(self) -> str:
        return self.reason


def recipe_passes(config: TrainingSettings, processes: int) -> tuple[int, int]:
    """Return the rows of a micro-batch, over all processes, and the micro-batches of a step, with plan="recipe".

    Where the recipe's can be shared out whole, each process makes its part of them, at the recipe's size.
    """
    size, passes = config.per_device_train_batch_size, config.gradient_accumulation_steps
    return (size, passes) if passes % processes else (size * processes, passes // processes)


def plan(lengths: Sequence[int], config: TrainingSettings) -> Plan:
    """Return what training on rows of these lengths in tokens will be.

    As in TRL, a positive `max_steps` wins over `num_train_epochs`.
    """
    rows, batch = len(lengths), rows_per_step(config)
    mean = statistics.fmean(lengths)
    steps_per_epoch = math.ceil(rows / batch)
    if config.max_steps > 0:
        remark = f"max_steps={config.max_steps} decides; num_train_epochs={config.num_train_epochs:g} has no effect."
        return Plan(rows, mean, batch, config.max_steps, config.max_steps / steps_per_epoch, "max_steps", remark)
    steps = math.ceil(steps_per_epoch * config.num_train_epochs)
    remark = f"num_train_epochs={config.num_train_epochs:g} decides; max_steps is off."
    return Plan(rows, mean, batch, steps, config.num_train_epochs, "num_train_epochs", remark)


def token_bytes(shape: Any, checkpointing: bool | str) -> float:
    """Return the memory of one token's activations in training, in bytes, for a Llama in 16 bit with LoRA.

    Without checkpointing a layer keeps two vectors of the MLP's width and about six of the model's; with it a token
    keeps one of the model's width a layer (`unsloth` moves even that to the host) and the layer that is being
    recomputed costs a few times its activations. Measured on an H100: `benchmarks/RESULTS.md`.

    Args:
        shape: A model's configuration: `num_hidden_layers`, `hidden_size`, `intermediate_size`.
        checkpointing: `use_gradient_checkpointing`.
    """
    layer = 2 * (2 * shape.intermediate_size + 6 * shape.hidden_size)
    if not checkpointing:
        return shape.num_hidden_layers * layer
    kept = 0 if checkpointing == "unsloth" else 2 * shape.num_hidden_layers * shape.hidden_size
    return kept + 4 * layer


def arithmetic_seconds(tokens: float, checkpointing: bool | str, shape: Any, tflops: float) -> float:
    """Return about how long the arithmetic of a step takes.

    A token costs two operations for each weight forward and two backward (the weights themselves are frozen), and two
    more if its activations are computed again. The constants are fitted to `benchmarks/RESULTS.md`.

    Args:
        tokens: Of the step.
        checkpointing: `use_gradient_checkpointing`.
        shape: As for `token_bytes`, with `vocab_size`, `num_attention_heads` and `num_key_value_heads`.
        tflops: The card's speed in a large matrix product, 10^12 operations a second.
    """
    again = 1.5 if checkpointing else 1.0
    keys = shape.hidden_size * shape.num_key_value_heads / shape.num_attention_heads
    layer = 2 * shape.hidden_size * (shape.hidden_size + keys) + 3 * shape.hidden_size * shape.intermediate_size
    weights = shape.num_hidden_layers * layer + shape.vocab_size * shape.hidden_size
    return 4 * again * weights * tokens / (tflops * 1e12 * EFFICIENCY)


def launch_seconds(passes: int, checkpointing: bool | str, shape: Any) -> float:
    """Return about how long the host takes to launch a step of so many micro-batches."""
    return passes * (1.5 if checkpointing else 1.0) * LAUNCH_SECONDS * shape.num_hidden_layers


def step_seconds(tokens: float, passes: int, checkpointing: bool | str, shape: Any, tflops: float) -> float:
    """Return about how long a step takes: as long as its arithmetic, or as its launching, whichever is longer."""
    arithmetic = arithmetic_seconds(tokens, checkpointing, shape, tflops)
    return max(arithmetic, launch_seconds(passes, checkpointing, shape))


def fit(
    lengths: Sequence[int],
    config: Settings,
    shape: Any,
    free_gib: float | None,
    tflops: float | None,
    processes: int = 1,
    flash: bool = True,
) -> Fit:
    """Choose micro-batches and checkpointing for the highest speed that fits; a step keeps its rows.

    Args:
        lengths: The rows' lengths in tokens.
        config: The run.
        shape: As for `token_bytes` and `step_seconds`.
        free_gib: Memory for activations and all else that training adds to the loaded model. None: not limited, and
            checkpointing stays as it is set.
        tflops: As for `step_seconds`; needed with `free_gib`.
        processes: How many share a step's rows, each with a card of its own.
        flash: Whether attention can be in a CUDA graph (`attention.is_flash`).
    """
    rows = math.ceil(rows_per_step(config.training) / processes)
    whose = f"{rows} rows of a step" if processes == 1 else f"{rows} rows of a step in each of {processes} processes"
    if config.planning.plan == "recipe":
        size, passes = recipe_passes(config.training, processes)
        reason = f"plan=recipe: {passes} micro-batches of {size} rows, {_describe(config.lora)}"
        if processes > 1:
            reason += f", each shared by {processes} processes"
        return Fit(None, config.lora, reason)
    longest, largest, mean = max(lengths), _largest_step(lengths, rows), rows * statistics.fmean(lengths)
    if free_gib is None:
        reason = f"the {whose} in one pass, {_describe(config.lora)}: there is no GPU to fit"
        return Fit(largest, config.lora, reason)
    room = max(0, free_gib - RESERVE_GIB) * GIB * USED
    choices = []
    for kind in (False, "unsloth"):
        tokens = int(room / token_bytes(shape, kind))
        passes = math.ceil(mean / max(tokens, longest))
        choices.append((tokens < longest, step_seconds(mean, passes, kind, shape, tflops), kind, tokens))
    too_small, _, kind, tokens = min(choices, key=lambda choice: choice[:2])
    lora = dataclasses.replace(config.lora, use_gradient_checkpointing=kind)
    passes = "in one pass" if tokens >= largest else f"in micro-batches of at most {max(tokens, longest):,} tokens"
    reason = (
        f"the {whose} (up to {largest:,} tokens) {passes}, {_describe(lora)}: {free_gib:.1f} GiB free, "
        f"{token_bytes(shape, kind) / 2**20:.2f} MiB a token, {tflops:.0f} TFLOP/s."
    )
    graphs = (
        flash
        and not kind
        and not lora.lora_dropout
        and 2 * largest * token_bytes(shape, kind) <= room  # graphs keep their memory beside that of other passes
        and arithmetic_seconds(mean, kind, shape, tflops) < launch_seconds(1, kind, shape)
        and plan(lengths, config.training).steps >= GRAPH_STEPS
    )
    if graphs:
        reason += " Layers as CUDA graphs: launching them would take longer than their arithmetic."
    if too_small:
        reason += f" The longest row ({longest:,} tokens) may not fit."
    return Fit(max(tokens, longest), lora, reason, graphs)


def _largest_step(lengths: Sequence[int], rows: int) -> int:
    """Return the tokens of a step that is larger than almost every one: three standard deviations above the mean."""
    mean, deviation = statistics.fmean(lengths), statistics.pstdev(lengths)
    return round(min(rows * mean + 3 * deviation * math.sqrt(rows), rows * max(lengths)))


def _describe(lora: LoraSettings) -> str:
    kind = lora.use_gradient_checkpointing
    return f"checkpointing {kind!r}" if isinstance(kind, str) else f"{'with' if kind else 'without'} checkpointing"


def answers_at_once(widths: Sequence[int], config: GenerationSettings, shape: Any, free_bytes: float | None) -> int:
    """Return how many of the next prompts can be answered together.

    Args:
        widths: Their lengths in tokens, the shortest first; no more than `MOST_ANSWERS` are looked at.
        config: `max_new_tokens` is used.
        shape: As for `token_bytes`, with `num_attention_heads`, `num_key_value_heads` and `vocab_size`.
        free_bytes: Of the card's memory. None: there is no card, and 32 it is.
    """
    if free_bytes is None:
        return 32
    room = max(0.0, free_bytes - RESERVE_GIB * GIB) * USED
    heads = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    token = 2 * 2 * shape.num_hidden_layers * shape.num_key_value_heads * heads  # a key and a value in 16 bit

    def needed(width: int) -> float:
        """What one of a batch needs: its cache, which is made once more when the answer begins, and its logits."""
        cache = token * (width + max(config.max_new_tokens, CACHE_AHEAD) + width)
        return cache + 3 * 4 * shape.vocab_size + 2 * width * (4 * shape.hidden_size + 3 * shape.intermediate_size)

    fitting = [count for count, width in enumerate(widths[:MOST_ANSWERS], 1) if count * needed(width) <= room]
    return max(fitting, default=1)


def card(told: float | None, dtype: Any) -> tuple[float | None, float | None]:
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
    here = (free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()) / GIB
    return here if told is None else min(here, here + told - total / GIB), tflops


def peak_memory() -> dict[str, float]:
    """Return the most memory that training held, in GiB: of the card, or without one of this process."""
    import resource

    import torch

    if torch.cuda.is_available():
        return {"03_train: peak of the card": round(torch.cuda.max_memory_reserved() / GIB, 1)}
    return {"03_train: peak of the process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1)}
