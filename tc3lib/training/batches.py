"""Rows to batches without padding, in which the prefix that all prompts share is computed once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch

Row = Mapping[str, Any]
"""`input_ids` and `completion_mask` (1 where a token is learned), of one length, as `prompts.encode` returns them."""
Batch = dict[str, Any]
"""What `collate` returns."""


def collate(rows: Sequence[Row], share_prefix: bool = True) -> Batch:
    """Pack rows into one sequence: first the prefix that their prompts share, then the rest of each row.

    A causal model gives a shared prefix the same states in every row, so it is computed once. The rows mean the same
    as one by one only to a model whose attention knows their boundaries (`packed_attention`).

    Args:
        rows: The rows.
        share_prefix: False repeats the prefix in every row. Dropout needs that: it is drawn for each token.

    Returns:
        `input_ids`, `labels` (-100 where nothing is learned) and `position_ids` (each row's own), int64 tensors of
        shape (1, tokens); `lengths`: the tokens of the prefix (0 if none), then those of each row's rest; `labelled`:
        the number of labels.
    """
    ids = [numpy.asarray(row["input_ids"]) for row in rows]
    labels = [numpy.where(row["completion_mask"], own, -100) for row, own in zip(rows, ids, strict=True)]
    prefix = _shared_prefix(ids, labels) if share_prefix else 0
    positions = [numpy.arange(prefix), *(numpy.arange(prefix, len(row)) for row in ids)]

    def packed(parts: Sequence[numpy.ndarray]) -> torch.Tensor:
        return torch.from_numpy(numpy.concatenate(parts).astype(numpy.int64))[None]

    return {
        "input_ids": packed([ids[0][:prefix], *(row[prefix:] for row in ids)]),
        "labels": packed([labels[0][:prefix], *(row[prefix:] for row in labels)]),
        "position_ids": packed(positions),
        "lengths": (prefix, *(len(row) - prefix for row in ids)),
        "labelled": _labels(rows),
    }


def split(batch: Batch, max_tokens: int) -> Iterator[Batch]:
    """Cut a batch between rows into micro-batches of at most `max_tokens` tokens, each with the prefix.

    A row that is longer than `max_tokens` has a micro-batch of its own. The rows keep their order.
    """
    prefix, *lengths = batch["lengths"]
    start, taken = prefix, []
    for number, length in enumerate(lengths, 1):
        taken.append(length)
        if number < len(lengths) and prefix + sum(taken) + lengths[number] <= max_tokens:
            continue
        stop = start + sum(taken)
        parts = {
            name: torch.cat([value[:, :prefix], value[:, start:stop]], dim=1)
            for name, value in batch.items()
            if torch.is_tensor(value)
        }
        yield {**parts, "lengths": (prefix, *taken)}
        start, taken = stop, []


def shard(collate: Callable[[Sequence[Row]], Batch], rows: Sequence[Row], index: int, count: int) -> Batch:
    """Collate the rows of a step that one of several processes takes; `labelled` stays that of all rows.

    The longest rows are dealt first, each to the process with the fewest tokens, so that all have about as much to
    do. A process without a row, in the last step of an epoch, gets one without labels: it takes part in the step and
    adds nothing to it.

    Args:
        collate: Makes a batch of rows.
        rows: All rows of the step.
        index: The process's number.
        count: How many processes there are.
    """
    parts: list[list[Row]] = [[] for _ in range(count)]
    tokens, most = [0] * count, -(-len(rows) // count)
    for row in sorted(rows, key=lambda row: len(row["input_ids"]), reverse=True):
        to = min((number for number in range(count) if len(parts[number]) < most), key=tokens.__getitem__)
        parts[to].append(row)
        tokens[to] += len(row["input_ids"])
    mine = parts[index]
    batch = {**collate(mine or rows[:1]), "labelled": _labels(rows)}
    return batch if mine else {**batch, "labels": torch.full_like(batch["labels"], -100)}


def _labels(rows: Sequence[Row]) -> int:
    return sum(int(numpy.sum(row["completion_mask"])) for row in rows)


def _shared_prefix(ids: Sequence[numpy.ndarray], labels: Sequence[numpy.ndarray]) -> int:
    """Return how many tokens all rows begin with; the last token of the shortest prompt is never among them.

    That token predicts the first label, so it stays with its row.
    """
    shortest = min(int(numpy.argmax(row != -100)) for row in labels) - 1
    first = ids[0][:shortest]
    same = numpy.logical_and.reduce([row[:shortest] == first for row in ids])
    return shortest if same.all() else int(numpy.argmin(same))
