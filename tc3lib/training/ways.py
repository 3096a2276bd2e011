"""Which way rows may pass through a model, found by asking the model: a few of them together, and one by one."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Literal

import numpy
import torch
from transformers import PreTrainedModel

from tc3lib.runtime import processes
from tc3lib.training.batches import Batch, Row, collate
from tc3lib.training.packed_attention import shared_prefix

Way = Literal["packed", "padding-free", "padded"]
"""packed: our trainer. padding-free, padded: TRL's own, with rows in one line or each in a line of its own."""
TOLERANCE = {torch.float32: 1e-3}
TOLERANCE_16_BIT = 0.05
"""Of the size of a row's logits. Rounding in 16 bit makes 0.004 of it, rows that see each other make 0.3."""


def choose(model: PreTrainedModel, rows: Sequence[Mapping[str, list[int]]], share_prefix: bool) -> Way:
    """Return the fastest way that is right for this model.

    The longest row is among those that are tried: it is longer than a sliding window, or no row is.

    Args:
        model: The base model, in evaluation mode.
        rows: `input_ids` and `completion_mask` of all rows of the run.
        share_prefix: Whether packed rows are to share their prefix.
    """
    few = sorted(rows, key=lambda row: len(row["input_ids"]))
    few = [_labelled(row) for row in (few[0], few[len(few) // 2], few[-1])]
    ways: dict[Way, Callable[[], bool]] = {
        "packed": lambda: (
            not getattr(model.config.get_text_config(), "attention_dropout", 0)  # which packed attention has not
            and _is_right(model, few, collate(few, share_prefix), partial(shared_prefix, model))
        ),
        "padding-free": lambda: (
            torch.cuda.is_available()  # without a GPU unsloth pads whatever it is told
            and _is_right(model, few, collate(few, False), lambda *_: nullcontext())
        ),
        "padded": lambda: True,
    }
    found = next(number for number, is_right in enumerate(ways.values()) if _no_error(is_right))
    return list(ways)[max(processes.gather(found))]


def _is_right(
    model: PreTrainedModel,
    rows: Sequence[Row],
    batch: Batch,
    attention: Callable[[Sequence[int], torch.device], AbstractContextManager],
) -> bool:
    """Return whether the rows in one line have the logits that each has alone, but for rounding."""
    tolerance = TOLERANCE.get(model.dtype, TOLERANCE_16_BIT)
    lengths = batch["lengths"]
    inputs = {name: batch[name].to(model.device) for name in ("input_ids", "position_ids")}
    inputs["packed_seq_lengths"] = torch.tensor([length for length in lengths if length], dtype=torch.int32)
    with torch.no_grad():
        with attention(lengths, model.device):
            prefix, *rests = model(**inputs, use_cache=False).logits[0].split(lengths)
        for row, rest in zip(rows, rests, strict=True):
            ids = torch.from_numpy(row["input_ids"])[None].to(model.device)
            alone = model(input_ids=ids, use_cache=False).logits[0].float()
            alone -= alone.mean(dim=-1, keepdim=True)  # which a softmax does not see
            together = torch.cat([prefix, rest]).float()
            together -= together.mean(dim=-1, keepdim=True)
            if not (together - alone).norm() <= tolerance * alone.norm():  # also where one is NaN
                return False
    return True


def _no_error(is_right: Callable[[], bool]) -> bool:
    """Return False where the model cannot even be asked: there is a slower way, and nothing has been trained yet."""
    try:
        return is_right()
    except Exception:  # whatever a model's own code raises
        return False


def _labelled(row: Mapping[str, list[int]]) -> Row:
    ids = numpy.asarray(row["input_ids"])
    return {"input_ids": ids, "labels": numpy.where(row["completion_mask"], ids, -100)}
