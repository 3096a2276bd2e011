"""Which way rows may pass through a model, found by asking the model: a few of them together, and one by one."""

import gc
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Literal, get_args

import torch
from transformers import PreTrainedModel

from tc3lib.runtime import processes
from tc3lib.training.batches import Batch, Row, collate
from tc3lib.training.packed_attention import shared_prefix

Way = Literal["packed", "padding-free", "padded", "recipe"]
"""packed: our trainer. padding-free, padded: TRL's own, rows in one packed sequence or each padded to the longest.
recipe: TRL's own as `plan="recipe"` has it, with nothing chosen here."""
TOLERANCE = {torch.float32: 1e-3}
TOLERANCE_16_BIT = 0.05
"""Of the size of a row's logits. Rounding in 16 bit makes 0.004 of it, rows that see each other make 0.3."""

FEWEST = 64
"""Tokens to which a row is cut at most, where memory is short."""
POSITIONS = 128
"""Most tokens of a row whose logits are compared: in 32 bit those of 2,048 take 1 to 2 GB."""


def choose(model: PreTrainedModel, rows: Sequence[Row], lengths: Sequence[int], share_prefix: bool) -> Way:
    """Return the fastest way that is right for this model; never "recipe", which is not chosen.

    Three rows are tried, among them the longest: if any row is longer than the model's sliding window, that one is. If
    memory is short, rows are cut, but the longest never to the window or below.

    Args:
        model: The base model, in evaluation mode.
        rows: All rows of the run.
        lengths: Their tokens.
        share_prefix: Whether packed rows are to share their prefix.
    """
    by_length = sorted(range(len(lengths)), key=lengths.__getitem__)
    few = [rows[number] for number in (by_length[0], by_length[len(by_length) // 2], by_length[-1])]
    most = longest = lengths[by_length[-1]]
    window = getattr(model.config.get_text_config(), "sliding_window", None) or 0
    least = window + 1 if 0 < window < longest else min(FEWEST, longest)
    found = None
    while not found and most >= least:
        try:
            found = _fastest(model, [_cut(row, most) for row in few], share_prefix)
        except torch.OutOfMemoryError:
            most //= 2
        if not found:  # here the error no longer holds what was allocated
            gc.collect()
            torch.cuda.empty_cache()
    if not found:
        print("too little memory to find out whether packed rows are right for this model")
    return max(processes.gather(found or "padded"), key=get_args(Way).index)


def _fastest(model: PreTrainedModel, few: Sequence[Row], share_prefix: bool) -> Way:
    config = model.config.get_text_config()
    # Packed attention has no dropout, and a packed loss is divided by the labels of the whole step.
    known = not getattr(config, "attention_dropout", 0) and getattr(model, "accepts_loss_kwargs", True)
    if known and _is_right(model, few, collate(few, share_prefix), partial(shared_prefix, model)):
        return "packed"
    # On a CPU unsloth always pads.
    if torch.cuda.is_available() and _is_right(model, few, collate(few, False), lambda *_: nullcontext()):
        return "padding-free"
    return "padded"


def _is_right(
    model: PreTrainedModel,
    rows: Sequence[Row],
    line: Batch,
    attention: Callable[[Sequence[int], torch.device], AbstractContextManager],
) -> bool:
    """Return whether the rows in one line have the logits that each has alone, but for rounding.

    A model that cannot even be asked is no error: there is a slower way, and nothing has been trained yet.

    Raises:
        torch.OutOfMemoryError: It says nothing about the model.
    """
    tolerance = TOLERANCE.get(model.dtype, TOLERANCE_16_BIT)
    inputs = {name: line[name].to(model.device) for name in ("input_ids", "position_ids")}
    inputs["packed_seq_lengths"] = torch.tensor([length for length in line["lengths"] if length], dtype=torch.int32)
    try:
        with torch.no_grad():
            with attention(line["lengths"], model.device):
                prefix, *rests = model(**inputs, use_cache=False).logits[0].split(line["lengths"])
            for row, rest in zip(rows, rests, strict=True):
                ids = torch.tensor([row["input_ids"]], device=model.device)
                some = slice(None, None, math.ceil(ids.numel() / POSITIONS))
                alone = _centred(model(input_ids=ids, use_cache=False).logits[0, some])
                together = _centred(torch.cat([prefix, rest])[some])
                if not (together - alone).norm() <= tolerance * alone.norm():  # also where one is NaN
                    return False
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model's own code raises
        return False
    return True


def _centred(logits: torch.Tensor) -> torch.Tensor:
    """Return logits as a softmax sees them, which a constant added to all does not change."""
    return logits.float() - logits.float().mean(dim=-1, keepdim=True)


def _cut(row: Row, most: int) -> Row:
    """Return a row cut after `most` tokens, but not before its first label."""
    end = max(most, row["completion_mask"].index(1) + 1)
    return {name: row[name][:end] for name in ("input_ids", "completion_mask")}
